"""Intervals of shares: what they are near 0 and 1, and that they hold the truth of simulated data."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import InputError
from headwater.evaluate.bootstrap import FoldScores, bootstrap, metric_interval
from headwater.evaluate.intervals import (
    Evidence,
    Interval,
    evidence_for,
    evidence_of,
    independent_difference,
    mean_share_interval,
    scaled_interval,
    share_interval,
)
from headwater.evaluate.measured import METRICS
from headwater.evaluate.paired import Paired
from headwater.evaluate.statistics import delong


def benchmark(name):
    """A script of the benchmarks, whose simulations are repeated here at a smaller size."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = benchmark("coverage")


@given(st.floats(0, 1), st.floats(0, 0.3), st.integers(1, 200), st.integers(1, 200))
def test_an_interval_is_of_shares_and_holds_its_value(value, error, m, n):
    """It lies within 0 and 1 about the value, and that of the complement is its mirror."""
    evidence = Evidence((m, n), (min(m, n),))
    low, high = share_interval(value, error, evidence)
    assert 0 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1
    mirrored = share_interval(1 - value, error, evidence)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-6)
    wider = share_interval(value, error, evidence, 0.99)
    assert wider.low <= low + 1e-12
    assert wider.high >= high - 1e-12


@pytest.mark.parametrize("n", [1, 3, 10, 40, 400])
def test_where_all_are_right_it_is_that_of_clopper_and_pearson(n):
    low, high = share_interval(1.0, 0.0, Evidence((n,), (n,)))
    exact = scipy.stats.binomtest(n, n).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, 1))
    assert share_interval(0.0, 0.0, Evidence((n,), (n,))) == pytest.approx((0, 1 - exact.low))


def test_away_from_the_edges_it_is_the_usual_one():
    """Of many groups about the middle: value plus and minus 1.96 standard errors."""
    found = share_interval(0.5, 0.01, Evidence((5000,), (5000,)))
    assert found == pytest.approx((0.5 - 0.0196, 0.5 + 0.0196), abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "groups", "chances"),
    [
        ("accuracy", (20,), (20,)),
        ("balanced_accuracy", (14, 6), (14, 6)),
        ("f1_macro", (14, 6), (14, 6)),
        ("auc", (6, 14), (6,)),
        ("brier", (20,), (20,)),
    ],
)
def test_evidence_is_counted_in_groups(metric, groups, chances):
    """Three rows a patient are one patient."""
    truth = np.repeat(np.arange(20) < 6, 3).astype(int)
    patient = np.repeat(np.arange(20), 3)
    found = evidence_of("binary", truth, patient, [np.arange(60)])[metric]
    assert (found.groups, found.chances) == (groups, chances)


def test_pairs_are_of_one_fold():
    """A positive and a negative patient of different folds are never compared."""
    truth = np.array([1, 0, 1, 1, 0, 0, 0, 0])
    folds = [np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7])]
    assert evidence_of("binary", truth, np.arange(8), folds)["auc"].chances == (1,)
    for task, y in (("regression", truth), ("multiclass", np.arange(8) % 3), ("binary", truth)):
        found = evidence_of(task, y, np.arange(8), folds)
        assert all(evidence_for(name, found) is not None for name in METRICS[task])
    labels = evidence_of("multilabel", np.eye(4, dtype=int)[np.arange(8) % 3], np.arange(8), folds)
    assert all(evidence_for(name, labels) is not None for name in METRICS["multilabel"])
    assert len(labels["f1_macro"].groups) == 3  # nobody has the fourth


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_what_is_told_apart_without_an_error_is_not_certain(task):
    """Every share of 1, and every share of errors of 0, has an interval that is no point."""
    n, k = 24, {"binary": 2, "multiclass": 3, "multilabel": 4}[task]
    truth = np.arange(n) % k
    scores = 0.9 * np.eye(k)[truth] + 0.1 / k
    truth = np.eye(k, dtype=int)[truth] if task == "multilabel" else truth
    found = Paired.of(task, [[FoldScores(truth, scores, np.arange(n))]], n_draws=50)
    certain = [name for name in METRICS[task] if evidence_for(name, found.evidence[0])]
    certain = [name for name in certain if found.drawn[name][0, 0] in (0, 1) or name == "brier"]
    assert len(certain) > 5
    for metric in certain:
        low, high = found.interval(metric, 0)
        value = found.drawn[metric][0, 0]
        assert high - low > 0 if metric == "brier" else high - low > 0.05, metric
        assert low <= value <= high


def test_delong_and_the_bootstrap_have_nearly_the_same_interval():
    rng = np.random.default_rng(0)
    truth = np.arange(80) % 2
    p = 1 / (1 + np.exp(-1.5 * truth - rng.standard_normal(80)))
    fold = FoldScores(truth, np.column_stack([1 - p, p]), np.arange(80))
    drawn = bootstrap("binary", [[fold]], n_draws=4000)["auc"][0]
    found = metric_interval(drawn, evidence_of("binary", truth, np.arange(80), [np.arange(80)])["auc"])
    assert found == pytest.approx(delong(truth, [p]).interval(), abs=0.005)


SHARES = [(0.9, 1, 1), (0.9, 4, 5), (0.5, 4, 5), (0.97, 1, 5), (0.8, 1, 4)]


@pytest.mark.parametrize(("share", "n_images", "n_folds"), SHARES)
def test_the_interval_of_a_sensitivity_holds_the_truth(share, n_images, n_folds):
    """Of 300 data sets of 40 positive patients, whose images go right together half of the time."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), n_images)
    folds = [np.flatnonzero(patient % n_folds == f) for f in range(n_folds)]
    held = 0
    for _ in range(300):
        own, shared = rng.random(len(patient)) < share, (rng.random(40) < share)[patient]
        right = np.where(rng.random(len(patient)) < 0.5, own, shared) if n_images > 1 else own
        low, high = mean_share_interval(right, np.ones(len(patient), bool), patient, folds)
        held += low <= share <= high
    assert held / 300 > 0.91


def test_a_sensitivity_counts_positive_rows_alone():
    """Rows that are not chosen change nothing, and a fold without any is left out."""
    rng = np.random.default_rng(0)
    right, groups = rng.random(60) < 0.8, np.arange(60) // 2
    chosen = np.arange(60) < 40
    folds = [np.arange(0, 20), np.arange(20, 50), np.arange(50, 60)]
    alone = mean_share_interval(right[:40], chosen[:40], groups[:40], [np.arange(0, 20), np.arange(20, 40)])
    assert mean_share_interval(right, chosen, groups, folds) == pytest.approx(alone)
    assert np.isnan(mean_share_interval(right, chosen & False, groups, folds)).all()
    assert mean_share_interval(chosen, chosen, groups, folds) == pytest.approx((0.025 ** (1 / 20), 1))


def test_the_difference_of_independent_shares():
    """Near the edge it stays within what the two intervals allow; of equal ones it is symmetric."""
    one = Interval(0.9, 1.0)
    low, high = independent_difference(1.0, one, 1.0, one)
    assert (low, high) == pytest.approx((-0.1, 0.1))
    low, high = independent_difference(0.95, Interval(0.85, 0.99), 0.6, Interval(0.5, 0.7))
    assert 0.85 - 0.7 < low < 0.35 < high < 0.99 - 0.5


def test_a_level_is_a_share():
    with pytest.raises(InputError, match="between 0 and 1"):
        share_interval(0.5, 0.1, Evidence((9,), (9,)), 95)


SMALL = [(0.6, 40, 0.5, 1), (0.85, 40, 0.25, 5), (0.98, 40, 0.5, 5), (0.98, 82, 0.25, 1), (0.98, 40, 0.5, 1, 4)]


@pytest.mark.parametrize("design", SMALL)
def test_intervals_hold_the_truth(design):
    """Of 120 data sets nearly all, where percentiles, and DeLong's normal interval, do not near 1."""
    found = coverage.covered(coverage.Design(*design), 120)
    for method in ("auc", "DeLong", "accuracy", "balanced accuracy"):
        assert found[method] > 0.88, method
    if design[0] == 0.98:
        assert min(found["percentile"], found["DeLong, normal"]) < 0.88


@pytest.mark.slow
@pytest.mark.parametrize("auc", coverage.AUCS)
@pytest.mark.parametrize("n_patients", coverage.PATIENTS)
@pytest.mark.parametrize("positive", coverage.POSITIVE)
@pytest.mark.parametrize("n_folds", coverage.FOLDS)
def test_coverage_is_what_the_docs_say(auc, n_patients, positive, n_folds):
    """At least 0.93, give or take two standard errors of 1,000 data sets."""
    found = coverage.covered(coverage.Design(auc, n_patients, positive, n_folds), 1000, seed=1)
    for method in ("auc", "DeLong", "accuracy", "balanced accuracy"):
        assert found[method] > 0.93 - 0.016, method


@pytest.mark.parametrize("scale", ["share", "signed", "positive", "below one", "any", "biased"])
@pytest.mark.parametrize("value", [-2.0, -1.0, 0.0, 1e-12, 0.3, 1.0, 5.0, float("nan")])
@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.1, 50.0])
def test_no_value_or_spread_breaks_an_interval(scale, value, spread):
    """Whatever comes in, an interval has finite ends in order, or none at all."""
    if scale in ("share", "biased") and not 0 <= value <= 1 and value == value:
        return
    rng = np.random.default_rng(0)
    drawn = np.concatenate([[value], value + spread * rng.standard_normal(99)])
    for groups in ((1,), (2,), (30,), ()):
        low, high = scaled_interval(drawn, Evidence(groups, groups, scale))
        assert np.isnan(low) == np.isnan(high)
        assert np.isnan(low) or (np.isfinite([low, high]).all() and low <= high)
