"""Every number of a run has an interval that holds the truth, and follows patients rather than rows."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.evaluate import Fold, Outcome, Split, score
from headwater.evaluate.estimates import Estimates, Resampling
from headwater.evaluate.measured import METRICS
from headwater.evaluate.statistics import delong


def outcome_of(truth, scores, task, fold_of=None):
    fold_of = np.zeros(len(truth), int) if fold_of is None else fold_of
    classes = np.arange(scores.shape[1])
    folds = []
    for f in np.unique(fold_of):
        test, train = np.flatnonzero(fold_of == f), np.flatnonzero(fold_of != f)
        named = {} if task in ("regression", "multilabel", "survival") else {"classes": classes}
        folds.append(
            Fold(Split(int(f), train, test), {}, scores[test], score(task, truth[test], scores[test], **named))
        )
    return Outcome(task, classes, folds, None, {}, {})


def made(task, rng, n=240):
    """Draw rows of three per patient with moderately good scores."""
    patient = np.repeat(np.arange(n // 3), 3)
    if task == "regression":
        truth = rng.standard_normal((n, 2))
        return truth, truth + rng.standard_normal((n, 2)), patient
    if task == "survival":
        risk = rng.standard_normal(n // 3)[patient]
        time = rng.exponential(np.exp(-1.5 * risk[::3]))[patient]
        until = rng.exponential(2.0, n // 3)[patient]
        return np.column_stack([np.minimum(time, until), time <= until]), risk[:, None], patient
    if task == "multilabel":
        truth = (rng.random((n, 3)) < 0.4).astype(int)
        return truth, 1 / (1 + np.exp(-2 * (truth - 0.5) - rng.standard_normal((n, 3)))), patient
    k = 2 if task == "binary" else 3
    truth = rng.integers(0, k, n // 3)[patient]
    raw = np.exp(1.5 * np.eye(k)[truth] + rng.standard_normal((n, k)))
    return truth, raw / raw.sum(1, keepdims=True), patient


@pytest.mark.parametrize("task", METRICS)
@pytest.mark.parametrize("n_folds", [1, 3])
def test_every_metric_has_an_interval_around_it(task, n_folds):
    rng = np.random.default_rng(0)
    truth, scores, patient = made(task, rng)
    outcome = outcome_of(truth, scores, task, patient % n_folds)
    found = Estimates(outcome, truth, Resampling.of(len(truth), patient)).metrics()
    assert set(found) == set(METRICS[task])
    for name, (low, high) in found.items():
        value = outcome.mean[name]
        margin = 0.05 if name == "ece" else 1e-9  # its interval removes a bias, and may not hold the estimate
        assert low - margin <= value <= high + margin, name
        assert 0.001 < high - low < 1.5 or name.startswith("calibration"), name


@pytest.mark.parametrize("task", METRICS)
def test_rows_that_repeat_a_patient_add_no_information(task):
    """With each patient's rows three times, the intervals are those of the patients once."""
    rng = np.random.default_rng(1)
    truth, scores, patient = made(task, rng, 120)
    once = Estimates(outcome_of(truth, scores, task), truth, Resampling.of(len(truth), patient)).metrics()
    rows = np.tile(np.arange(len(truth)), 3)
    thrice = Estimates(
        outcome_of(truth[rows], scores[rows], task), truth[rows], Resampling.of(len(rows), patient[rows])
    ).metrics()
    as_rows = Estimates(outcome_of(truth[rows], scores[rows], task), truth[rows], Resampling.of(len(rows))).metrics()
    for name, ends in once.items():
        assert thrice[name] == pytest.approx(ends, abs=1e-6), name
    widths = {name: np.subtract(*ends[::-1]) for name, ends in as_rows.items()}
    assert sum(widths[name] < np.subtract(*once[name][::-1]) for name in widths) > 0.8 * len(widths)


def test_the_auc_has_delongs_interval():
    rng = np.random.default_rng(2)
    truth, scores, patient = made("binary", rng)
    fold = patient % 4
    found = Estimates(outcome_of(truth, scores, "binary", fold), truth, Resampling.of(len(truth), patient)).metrics()
    assert found["auc"] == pytest.approx(delong(truth == 1, scores[:, 1], patient, fold).interval())


def test_seeds_that_test_a_patient_again_are_resampled_together():
    """The same folds twice carry the information of one: the interval must not shrink."""
    rng = np.random.default_rng(3)
    truth, scores, patient = made("binary", rng)
    one = outcome_of(truth, scores, "binary", patient % 3)
    two = Outcome("binary", one.classes, [*one.folds, *one.folds], None, {}, {})
    how = Resampling.of(len(truth), patient)
    for name in ("accuracy", "auc", "log_loss"):
        first, second = (Estimates(o, truth, how).metrics()[name] for o in (one, two))
        assert np.subtract(*second) == pytest.approx(np.subtract(*first), rel=0.15), name


def test_each_class_has_its_own_numbers():
    rng = np.random.default_rng(4)
    truth, scores, patient = made("multiclass", rng)
    found = Estimates(outcome_of(truth, scores, "multiclass"), truth, Resampling.of(len(truth), patient)).classes("abc")
    assert list(found) == ["a", "b", "c"]
    called = scores.argmax(1)
    for c, part in enumerate(found.values()):
        assert part["support"] == (truth == c).sum()
        assert part["mean"]["recall"] == pytest.approx((called == c)[truth == c].mean())
        assert part["mean"]["precision"] == pytest.approx((truth == c)[called == c].mean())
        for name, (low, high) in part["intervals"].items():
            assert low < part["mean"][name] < high, name


def test_a_subgroup_that_is_scored_worse_has_a_gap():
    """Noise in one of two sites: its gap excludes 0, and the gap of the other is its mirror image."""
    rng = np.random.default_rng(5)
    truth, scores, patient = made("binary", rng, 600)
    site = np.where(patient % 2 == 0, "a", "b")
    scores[site == "b"] = 0.5 + 0.001 * rng.standard_normal((int((site == "b").sum()), 2))
    scores /= scores.sum(1, keepdims=True)
    found = Estimates(outcome_of(truth, scores, "binary"), truth, Resampling.of(len(truth), patient)).levels(site)
    gap = found["b"]["gap"]["auc"]
    assert gap["value"] < -0.2
    assert gap["high"] < 0
    assert found["a"]["gap"]["auc"]["value"] == pytest.approx(-gap["value"])
    low, high = found["b"]["intervals"]["auc"]
    assert low < 0.5 < high


def test_gaps_of_equal_subgroups_include_zero_as_often_as_they_should():
    held = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth, scores, patient = made("binary", rng, 240)
        site = rng.integers(0, 2, 80)[patient]
        how = Resampling(patient, n_draws=200, seed=seed)
        gap = Estimates(outcome_of(truth, scores, "binary"), truth, how).levels(site)["0"]["gap"]["accuracy"]
        held.append(gap["low"] <= 0 <= gap["high"])
    assert np.mean(held) > 0.86


def test_many_rows_have_fewer_resamples_and_labels_of_any_kind():
    assert Resampling.of(100).n_draws == 2000
    assert Resampling.of(100_000).n_draws == 400
    assert Resampling.of(10_000_000).n_draws == 200
    assert Resampling.of(3, np.array(["p", "q", "p"])).groups.tolist() == [0, 1, 0]
    assert Resampling.of(3, np.array([2.5, 1, 2.5])).groups.tolist() == [1, 0, 1]


def test_one_patient_gives_no_interval_or_a_wide_one():
    truth, scores = np.array([0, 1, 0, 1]), np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.7, 0.3]])
    found = Estimates(outcome_of(truth, scores, "binary"), truth, Resampling.of(4, np.zeros(4))).metrics()
    for name, ends in found.items():
        assert ends is None or ends[1] - ends[0] > 0.9, name


@pytest.mark.parametrize("n_folds", [1, 5, 10, 20])
def test_few_groups_in_a_fold_make_no_interval_too_narrow(n_folds):
    """Twenty patients in up to twenty folds: the interval of the accuracy holds the truth in nearly all data sets."""
    held, widths = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(20), 4)
        ease = (rng.random(20) < 0.8)[patient]
        right = np.where(rng.random(80) < 0.5, ease, rng.random(80) < 0.8)
        truth = np.arange(80) % 2
        scores = np.eye(2)[np.where(right, truth, 1 - truth)] * 0.8 + 0.1
        outcome = outcome_of(truth, scores, "binary", patient % n_folds)
        low, high = Estimates(outcome, truth, Resampling(patient, n_draws=300, seed=seed)).metrics(["accuracy"])[
            "accuracy"
        ]
        held.append(low <= 0.8 <= high)
        widths.append(high - low)
    assert np.mean(held) > 0.91
    assert min(widths) > 0.02


def test_a_level_without_test_rows_has_no_numbers():
    rng = np.random.default_rng(6)
    truth, scores, patient = made("binary", rng)
    site = np.where(patient % 2 == 0, "a", "b")
    tested = np.flatnonzero(site == "b")
    fold = Fold(Split(0, np.flatnonzero(site == "a"), tested), {}, scores[tested], {})
    outcome = Outcome("binary", np.arange(2), [fold], None, {}, {})
    found = Estimates(outcome, truth, Resampling.of(len(truth), patient)).levels(site)
    assert all(ends is None for ends in found["a"]["intervals"].values())
    assert found["b"]["intervals"]["auc"] is not None
    assert found["b"]["gap"]["auc"]["value"] is None
