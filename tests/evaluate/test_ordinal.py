"""Metrics of grades against independent implementations, their intervals, and grades of units."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from headwater.errors import InputError
from headwater.evaluate import Outcome, Split, score
from headwater.evaluate.aggregate import aggregate, aggregated, labels_of_units, units_of
from headwater.evaluate.estimates import Estimates, Resampling
from headwater.evaluate.intervals import evidence_for, evidence_of
from headwater.evaluate.measured import METRICS, sign_of
from headwater.evaluate.ordinal import exceedance, from_exceedance
from headwater.evaluate.outcome import Fold
from headwater.evaluate.search import Trial

K = 4


def drawn(seed, n, k=K, quality=1.0, coarse=False):
    """Grades, and probabilities that know them dimly; all grades are there."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[np.arange(k), rng.integers(0, k, n - k)])
    raw = np.exp(-quality * np.abs(y[:, None] - np.arange(k)) + rng.standard_normal((n, k)))
    raw = np.ceil(4 * raw) if coarse else raw
    return y, raw / raw.sum(1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.integers(3, 5), st.booleans())
def test_metrics_agree_with_independent_ones(seed, n, k, coarse):
    y, p = drawn(seed, n, k, coarse=coarse)
    called, cuts = p.argmax(1), range(1, k)
    beyond = [p[:, c:].sum(1) for c in cuts]
    once = len(set(called)) == 1
    expected = {
        "accuracy": reference.accuracy_score(y, called),
        "balanced_accuracy": reference.recall_score(y, called, average="macro", labels=range(k)),
        "mae_grades": reference.mean_absolute_error(y, called),
        "off_by_two": np.mean(np.abs(y - called) > 1),
        "kappa": reference.cohen_kappa_score(y, called),
        "kappa_quadratic": 0.0 if once else reference.cohen_kappa_score(y, called, weights="quadratic"),
        "spearman": spearmanr(y, p @ np.arange(k))[0],
        "auc_cuts": np.mean([reference.roc_auc_score(y >= c, s) for c, s in zip(cuts, beyond, strict=True)]),
        "log_loss": reference.log_loss(y, p, labels=range(k)),
        "rps": np.mean([reference.brier_score_loss(y >= c, s.clip(0, 1)) for c, s in zip(cuts, beyond, strict=True)]),
        "brier": ((p - np.eye(k)[y]) ** 2).sum(1).mean(),
        "classes_present": k,
    }
    found = score("ordinal", y, p)
    if coarse:  # rounding may break the ties of sums
        expected["auc_cuts"], expected["spearman"] = found["auc_cuts"], found["spearman"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["auc_cuts_present"] == found["auc_cuts"]
    assert set(found) == {*METRICS["ordinal"], "classes_present"}


def test_the_order_of_classes_is_the_order_of_grades():
    """With classes in another order, a wrong grade is off by another number."""
    y = np.array(["low", "high", "middle"])
    p = np.eye(3)[[1, 1, 2]]  # of low, high, middle: low and high are called high, middle is middle
    assert score("ordinal", y, p[:, [0, 2, 1]], classes=["low", "middle", "high"])["mae_grades"] == pytest.approx(2 / 3)
    assert score("ordinal", y, p, classes=["low", "high", "middle"])["mae_grades"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("absent", range(K))
def test_a_grade_that_test_rows_lack(absent):
    """Cuts with rows on both sides keep their AUC; only an extreme grade leaves a cut without."""
    y, p = drawn(0, 80)
    rows = y != absent
    found = score("ordinal", y[rows], p[rows], classes=range(K))
    assert np.isnan(found["balanced_accuracy"])
    assert np.isnan(found["auc_cuts"]) == (absent in (0, K - 1))
    for name in ("kappa_quadratic", "mae_grades", "spearman", "auc_cuts_present", "rps", "log_loss"):
        assert np.isfinite(found[name]), name
    assert found["classes_present"] == K - 1


def test_one_grade_alone():
    """With rows of one grade, errors are numbers, and rankings are undefined."""
    _, p = drawn(0, 20)
    found = score("ordinal", np.ones(20, int), p, classes=range(K))
    assert np.isnan([found[name] for name in ("spearman", "auc_cuts", "auc_cuts_present")][:1]).all()
    assert np.isfinite(found["mae_grades"])
    assert np.isfinite(found["rps"])


def test_perfect_and_chance():
    y, _ = drawn(0, 400)
    found = score("ordinal", y, np.eye(K)[y])
    perfect = {"kappa_quadratic": 1, "mae_grades": 0, "off_by_two": 0, "spearman": 1, "auc_cuts": 1, "rps": 0}
    assert {name: found[name] for name in perfect} == pytest.approx(perfect)
    y, p = drawn(1, 40_000, quality=0.0)
    found = score("ordinal", y, p)
    chance = {"kappa_quadratic": 0, "spearman": 0, "auc_cuts": 0.5, "accuracy": 1 / K}
    assert {name: found[name] for name in chance} == pytest.approx(chance, abs=0.02)


def test_better_is_marked():
    assert [sign_of(name) for name in ("mae_grades", "off_by_two", "rps", "kappa_quadratic", "auc_cuts")] == [
        *(-1, -1, -1),
        *(1, 1),
    ]


def outcome_of(y, p, n_folds=2):
    rows = np.array_split(np.arange(len(y)), n_folds)
    folds = [
        Fold(Split(f, np.setdiff1d(np.arange(len(y)), test), test), {}, p[test], {}, trials=[Trial({}, 1.0)])
        for f, test in enumerate(rows)
    ]
    return Outcome("multiclass", np.arange(p.shape[1]), folds, None, {}, {})


def test_an_outcome_of_grades():
    """Columns are put in the order of the grades, and metrics are those of an ordinal task."""
    y, p = drawn(0, 80)
    words = np.array(["a", "b", "c", "d"])
    grades = ["c", "a", "d", "b"]  # c is the lowest
    found = Outcome("multiclass", words, outcome_of(y, p).folds, None, {}, {}).as_grades(grades, words[y])
    assert (found.task, found.classes.tolist()) == ("ordinal", grades)
    rank = np.array([1, 3, 0, 2])  # of a, b, c, d
    for fold in found.folds:
        test = fold.split.test
        assert np.array_equal(fold.scores, p[test][:, [2, 0, 3, 1]])
        assert fold.metrics["mae_grades"] == np.abs(rank[y[test]] - rank[p[test].argmax(1)]).mean()


def test_every_metric_has_an_interval_that_holds_its_value():
    y, p = drawn(0, 120)
    outcome = outcome_of(y, p).as_grades(range(K), y)
    estimates = Estimates(outcome, y, Resampling.of(len(y)))
    values, intervals = estimates.values(METRICS["ordinal"]), estimates.metrics()
    evidence = evidence_of("ordinal", y, np.arange(120), [f.split.test for f in outcome.folds])
    for name in METRICS["ordinal"]:
        assert evidence_for(name, evidence) is not None, name
        low, high = intervals[name]
        assert low < high, name
        assert name == "ece" or low <= values[name] <= high, name
    cuts = estimates.cuts(["A", "B", "C", "D"])
    assert list(cuts) == ["B", "C", "D"]
    assert [cut["support"] for cut in cuts.values()] == [int((y >= c).sum()) for c in (1, 2, 3)]
    assert np.mean([cut["mean"]["auc"] for cut in cuts.values()]) == pytest.approx(values["auc_cuts"])
    for cut in cuts.values():
        assert cut["intervals"]["auc"][0] < cut["mean"]["auc"] < cut["intervals"]["auc"][1]


def test_intervals_cover():
    """In simulated data sets, 95 % intervals hold the truth about as often as they say."""
    truth = score("ordinal", *drawn(7, 200_000))
    names = ("kappa_quadratic", "mae_grades", "auc_cuts", "rps", "off_by_two")
    hits = dict.fromkeys(names, 0)
    for seed in range(60):
        y, p = drawn(100 + seed, 100)
        outcome = outcome_of(y, p, 1).as_grades(range(K), y)
        found = Estimates(outcome, y, Resampling(np.arange(100), n_draws=200)).metrics(names)
        for name in names:
            hits[name] += found[name][0] <= truth[name] <= found[name][1]
    assert min(hits.values()) >= 50  # fewer have a probability below 1 % at 95 %


def test_exceedance_and_back():
    _, p = drawn(0, 50)
    beyond = exceedance(p)
    assert beyond[:, 0] == pytest.approx(1 - p[:, 0])
    assert from_exceedance(beyond) == pytest.approx(p)


def test_a_unit_has_the_highest_grade_of_its_rows():
    units = units_of(np.array(["u", "u", "v", "w"]), "exam")
    grades = np.array(["low", "middle", "high"])
    found = labels_of_units(units, "ordinal", np.array(["low", "high", "middle", "low"]), grades)
    assert found.tolist() == ["high", "middle", "low"]


def test_scores_of_units():
    """max and noisy-or act on the probability of reaching each cut; noisy-or is that of the highest of some draws."""
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]])
    units = np.array([0, 0, 1])
    assert aggregate(p, units, "ordinal", "mean")[1][0] == pytest.approx([0.35, 0.5, 0.15])
    assert aggregate(p, units, "ordinal", "max")[1][0] == pytest.approx([0.2, 0.6, 0.2])
    rng = np.random.default_rng(0)
    highest = np.maximum(*(rng.choice(3, 200_000, p=row) for row in p[:2]))
    found = aggregate(p, units, "ordinal", "noisy-or")[1]
    assert found[0] == pytest.approx(np.bincount(highest) / 200_000, abs=0.005)
    assert found[1] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("how", ["mean", "max", "noisy-or"])
def test_aggregated_grades_are_probabilities(how):
    y, p = drawn(0, 80)
    units = units_of(np.arange(80) // 4, "exam")
    found, labels = aggregated(outcome_of(y, p).as_grades(range(K), y), y, units, how)
    assert labels.tolist() == y.reshape(-1, 4).max(1).tolist()
    for fold in found.folds:
        assert (fold.scores >= 0).all()
        assert fold.scores.sum(1) == pytest.approx(np.ones(len(fold.scores)))


def test_scores_of_another_shape_are_refused():
    with pytest.raises(InputError, match="need \\(4, 4\\)"):
        score("ordinal", [0, 1, 2, 3], np.eye(4)[:, :3])
