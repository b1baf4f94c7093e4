"""Tests and intervals agree with independent implementations, and hold what they promise on simulated data."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import InputError
from headwater.evaluate import score
from headwater.evaluate.bootstrap import FoldScores, bootstrap, interval, p_of_difference
from headwater.evaluate.measured import METRICS
from headwater.evaluate.statistics import (
    benjamini_hochberg,
    compare_aucs,
    corrected_t,
    delong,
    friedman,
    holm,
    mcnemar,
    wilcoxon,
)

# DeLong


def brute_force_delong(truth, scores):
    """The formulas of the paper, pair by pair."""
    x, y = scores[:, truth], scores[:, ~truth]
    psi = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    m, n = x.shape[1], y.shape[1]
    return psi.mean((1, 2)), np.cov(psi.mean(2)) / m + np.cov(psi.mean(1)) / n


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 30), st.booleans())
def test_delong_is_its_formula(seed, m, n, ties):
    """AUCs and covariance of several models are the paper's, with and without ties."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat([True, False], [m, n]))
    scores = rng.integers(0, 4, (3, m + n)).astype(float) if ties else rng.standard_normal((3, m + n))
    found = delong(truth, scores)
    auc, covariance = brute_force_delong(truth, scores)
    assert found.auc == pytest.approx(auc)
    assert found.covariance == pytest.approx(covariance, abs=1e-12)


def test_delong_with_groups_counts_patients():
    """Rows repeated within patients add nothing: the variance is that of the patients alone."""
    rng = np.random.default_rng(0)
    truth = rng.random(60) > 0.4
    scores = rng.standard_normal((2, 60)) + truth
    once = delong(truth, scores)
    repeated = delong(np.repeat(truth, 5), np.repeat(scores, 5, axis=1), np.repeat(np.arange(60), 5))
    assert repeated.auc == pytest.approx(once.auc)
    assert repeated.covariance == pytest.approx(once.covariance)
    ignored = delong(np.repeat(truth, 5), np.repeat(scores, 5, axis=1))
    assert (np.diag(ignored.covariance) < 0.3 * np.diag(once.covariance)).all()


@pytest.mark.parametrize("clustered", [False, True])
def test_delong_has_its_size(clustered):
    """Where two models are equally good, about one test in twenty finds a difference at 0.05."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(600):
        per_patient = 4 if clustered else 1
        patients = np.repeat(np.arange(60), per_patient)
        truth = (rng.random(60) > 0.5)[patients]
        shared = rng.standard_normal(60)[patients]
        noise = rng.standard_normal((2, 60))[:, patients] + 0.5 * rng.standard_normal((2, len(patients)))
        scores = truth + shared + noise
        found.append(compare_aucs(delong(truth, scores, patients)).p < 0.05)
    assert 0.02 < np.mean(found) < 0.085


SHIFTS = {
    "moved": lambda score, fold: score + 3 * fold,
    "moved back": lambda score, fold: score - 2.5 * fold**2,
    "stretched": lambda score, fold: score * (1 + fold),
    "squashed": lambda score, fold: 1 / (1 + np.exp(-score - fold)),
    "cubed": lambda score, fold: score**3 + 10 * (fold == 2),
}


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize("clustered", [False, True])
def test_scores_of_two_folds_are_not_compared(shift, clustered):
    """What each fold's fit does to its own scores, keeping their order, changes neither AUC nor covariance."""
    rng = np.random.default_rng(3)
    n = 100
    fold, truth = np.arange(n) % 4, rng.random(n) > 0.5
    groups = (np.arange(n) // 8) * 4 + fold if clustered else None
    scores = rng.standard_normal(n) + truth
    found = delong(truth, [scores, shift(scores, fold)], groups, fold)
    of_each = [
        delong(truth[fold == f], scores[fold == f], None if groups is None else groups[fold == f]).auc[0]
        for f in range(4)
    ]
    assert found.auc == pytest.approx(np.mean(of_each))
    assert found.covariance == pytest.approx(found.covariance[0, 0])
    assert compare_aucs(found).p == 1
    pooled = delong(truth, [scores, shift(scores, fold)], groups)
    assert abs(pooled.auc[0] - pooled.auc[1]) > 1e-3  # which pooling does change


def test_the_variance_over_folds_is_that_of_their_mean():
    """With independent rows: the sum of each fold's covariance, over the number of folds squared."""
    rng = np.random.default_rng(4)
    fold, truth = np.arange(90) % 3, rng.random(90) > 0.4
    scores = rng.standard_normal((2, 90)) + truth
    found = delong(truth, scores, folds=fold)
    of_folds = [brute_force_delong(truth[fold == f], scores[:, fold == f]) for f in range(3)]
    assert found.auc == pytest.approx(np.mean([auc for auc, _ in of_folds], axis=0))
    assert found.covariance == pytest.approx(sum(covariance for _, covariance in of_folds) / 9)


def test_folds_without_both_classes_are_left_out():
    """They are counted; a fold with one positive has an AUC, and as much variance as the others'."""
    rng = np.random.default_rng(5)
    truth = np.tile([True, False], 30)
    fold = np.arange(60) // 20
    scores = rng.standard_normal((2, 60)) + truth
    one_class = truth & (fold < 2)
    found = delong(one_class, scores, folds=fold)
    kept = fold < 2
    assert found.left_out.tolist() == [1, 1]
    assert found.auc == pytest.approx(delong(truth[kept], scores[:, kept], folds=fold[kept]).auc)
    rare = truth & ((fold < 2) | (np.arange(60) == 40))
    wider = delong(rare, scores, folds=fold)
    assert wider.left_out.tolist() == [0, 0]
    assert (np.diag(wider.covariance) > np.diag(found.covariance)).all()
    with pytest.raises(InputError, match="of one fold, but there are 1 with positives"):
        delong([True, False, False, True, False, False], np.zeros((1, 6)), folds=[0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("own_folds", [False, True])
def test_delong_over_folds_has_its_size(own_folds):
    """Where each fold's fit has its own scale, and models may have folds of their own, size is kept."""
    rng = np.random.default_rng(6)
    found = []
    for _ in range(400):
        truth = rng.random(80) > 0.5
        folds = np.stack([rng.permutation(80) % 4 for _ in range(2)])
        folds = folds if own_folds else folds[0]
        shared, offset = rng.standard_normal(80), 4 * rng.standard_normal((2, 4))
        scores = truth + shared + rng.standard_normal((2, 80))
        scores += np.take_along_axis(offset, np.broadcast_to(folds, (2, 80)), axis=1)
        found.append(compare_aucs(delong(truth, scores, folds=folds)).p < 0.05)
    assert 0.02 < np.mean(found) < 0.09


def test_a_difference_that_does_not_vary_is_not_certain():
    """Three pairs that are all right for one model and all wrong for the other are three coin tosses."""
    found = compare_aucs(delong([0, 1, 0, 1, 0, 1], [[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]]))
    assert found.p == found.least_p == 0.25
    assert corrected_t([0.9] * 5, [0.8] * 5, 0.25).p == 0.0625


def test_delong_wants_both_classes():
    with pytest.raises(InputError, match="at least two groups of each class, but there are 1 with positives"):
        delong([True, True, False, False], np.zeros((1, 4)), [0, 0, 1, 2])
    with pytest.raises(InputError, match="NaN"):
        delong([True, False, True, False], [[0.1, np.nan, 0.2, 0.3]])


def test_equal_models_do_not_differ():
    found = delong([0, 1, 0, 1], [[0.1, 0.4, 0.2, 0.3]] * 2)
    assert compare_aucs(found).p == 1
    assert mcnemar([True, False], [True, False]).p == 1
    assert wilcoxon([0.5, 0.6], [0.5, 0.6]).p == 1
    assert corrected_t([0.5, 0.6], [0.5, 0.6], 0.25).p == 1


# Others


def test_mcnemar_is_exact():
    """The rows in which two models differ are coin tosses."""
    first = np.repeat([True, True, False, False], [40, 9, 2, 10])
    second = np.repeat([True, False, True, False], [40, 9, 2, 10])
    found = mcnemar(first, second)
    assert found.statistic == 7
    assert found.p == pytest.approx(2 * scipy.stats.binom.cdf(2, 11, 0.5))
    assert found.least_p == pytest.approx(2**-10)


def test_wilcoxon_over_five_folds_is_never_below_its_least():
    """The least p of five folds is 0.0625, and is said."""
    found = wilcoxon([0.9, 0.91, 0.92, 0.93, 0.95], [0.8, 0.805, 0.8, 0.79, 0.7])
    assert found.p == found.least_p == 0.0625
    assert found.p == scipy.stats.wilcoxon([0.1, 0.105, 0.12, 0.14, 0.25]).pvalue


def every_sign(difference):
    """The exact two-sided p of the signed ranks: all ways to give the nonzero differences signs, one by one."""
    difference = np.round(difference, 12)
    difference = difference[difference != 0]
    ranks = scipy.stats.rankdata(np.abs(difference))
    signs = np.array(np.meshgrid(*[[0, 1]] * len(ranks))).reshape(len(ranks), -1)
    sums = ranks @ signs
    own = ranks[difference > 0].sum()
    return min(1.0, 2 * min((sums <= own + 1e-9).mean(), (sums >= own - 1e-9).mean()))


TIES = {
    "all equal": [0.1] * 5,
    "two sizes": [0.1, 0.1, 0.2, 0.2, 0.2],
    "zeros": [0.0, 0.1, 0.1, 0.0, 0.3],
    "opposite": [0.1, -0.1, 0.1, 0.2, 0.2, 0.3],
    "ten equal": [0.02] * 9 + [-0.02],
    "none": [0.11, -0.03, 0.2, 0.07, 0.05, -0.01, 0.3],
}


@pytest.mark.parametrize("difference", TIES.values(), ids=TIES)
def test_wilcoxon_is_exact_with_ties_and_zeros(difference):
    """p is the share of all signs, and never below the least that these folds can give."""
    found = wilcoxon(0.5 + np.array(difference), np.full(len(difference), 0.5))
    assert found.p == pytest.approx(every_sign(np.array(difference)))
    assert found.p >= found.least_p == 2.0 ** (1 - np.count_nonzero(difference))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_wilcoxon_counts_every_sign(steps):
    found = wilcoxon(np.array(steps) / 10, np.zeros(len(steps)))
    assert found.p == pytest.approx(every_sign(np.array(steps) / 10) if any(steps) else 1)
    assert found.p >= found.least_p


def test_wilcoxon_of_many_folds_goes_on_as_it_was():
    """Beyond what is counted, p is the normal one, next to the exact one where both can be had."""
    rng = np.random.default_rng(0)
    difference = rng.standard_normal(300) + 0.12
    exact = wilcoxon(difference, np.zeros(300)).p
    assert exact == pytest.approx(scipy.stats.wilcoxon(difference, method="exact").pvalue)
    more = np.append(difference, 1e-6)
    assert wilcoxon(more, np.zeros(301)).p == pytest.approx(exact, rel=0.05)


def test_corrected_t_is_wider_than_the_plain_one():
    """Nadeau and Bengio's variance: (1 / n + test / train) times that of the differences."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 10)) + np.array([[0.8], [0]])
    found, plain = corrected_t(a, b, 1 / 9), scipy.stats.ttest_rel(a, b)
    assert found.statistic == pytest.approx(plain.statistic * ((1 / 10) / (1 / 10 + 1 / 9)) ** 0.5)
    assert found.p > plain.pvalue
    assert corrected_t(a, b, 0).p == pytest.approx(plain.pvalue)


def test_friedman_and_nemenyi():
    """Friedman's statistic is scipy's; Nemenyi's critical difference is Demšar's table."""
    rng = np.random.default_rng(0)
    values = rng.random((14, 4))
    found = friedman(values)
    known = scipy.stats.friedmanchisquare(*values.T)
    assert found.test.statistic == pytest.approx(known.statistic)
    assert found.test.p == pytest.approx(known.pvalue, abs=0.02)
    assert found.mean_rank == pytest.approx(scipy.stats.rankdata(-values, axis=1).mean(0))
    critical = 2.569 * (4 * 5 / (6 * 14)) ** 0.5  # q at 0.05 for four models: Demšar 2006, table 5(a)
    distance = np.abs(found.mean_rank[:, None] - found.mean_rank)
    assert ((found.p < 0.05) == (distance > critical)).all()
    assert friedman(np.ones((5, 3))).test.p == 1
    with pytest.raises(InputError, match="at least three models"):
        friedman(np.ones((5, 2)))


@pytest.mark.parametrize(
    "values",
    [
        [[3, 2, 1], [3, 2, 1]],
        [[3, 2, 1], [3, 2, 1], [3, 1, 2], [3, 2, 1], [3, 2, 1]],
        [[1, 1, 0], [2, 2, 1], [3, 3, 3]],
        [[4, 3, 2, 1], [4, 3, 1, 2], [4, 2, 3, 1]],
        [[1, 1, 1, 0], [0, 0, 1, 0]],
    ],
)
def test_friedman_is_exact_for_few_folds(values):
    """p is the share of all orders of the models within folds, with ties too, and never below the least."""
    ranks = scipy.stats.rankdata(-np.array(values, float), axis=1)
    orders = list(itertools.permutations(range(ranks.shape[1])))
    spread = [
        (sum(row[list(order)] for row, order in zip(ranks, chosen, strict=True)) ** 2).sum()
        for chosen in itertools.product(orders, repeat=len(ranks))
    ]
    found = friedman(values).test
    assert found.p == pytest.approx(np.mean(np.array(spread) >= (ranks.sum(0) ** 2).sum() - 1e-9))
    assert found.p >= found.least_p == pytest.approx(np.mean(np.array(spread) >= max(spread) - 1e-9))


def test_tests_that_could_not_be_made_are_not_counted():
    """A p that is NaN stays so, and the others are adjusted as if it were not there."""
    for adjust in (holm, benjamini_hochberg):
        found = adjust([0.01, np.nan, 0.04, 0.03])
        assert found[[0, 2, 3]] == pytest.approx(adjust([0.01, 0.04, 0.03]))
        assert np.isnan(found[1])
        assert np.isnan(adjust([np.nan])).all()
    with pytest.raises(InputError, match="from 0 to 1"):
        holm([0.5, 1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values(p):
    """Holm's and Benjamini-Hochberg's adjustments, against their definitions and scipy."""
    assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p))
    expected = [max(min(1, sum(q >= r for q in p) * r) for r in p if r <= own) for own in p]
    assert holm(p) == pytest.approx(expected)
    assert (holm(p) >= benjamini_hochberg(p) - 1e-12).all()


@pytest.mark.parametrize("test", [wilcoxon, lambda a, b: corrected_t(a, b, 0.25)])
def test_folds_without_a_number_are_refused(test):
    with pytest.raises(InputError, match="undefined in some fold"):
        test([0.5, np.nan, 0.7], [0.4, 0.5, 0.6])
    with pytest.raises(InputError, match="shapes"):
        test([0.5], [0.4, 0.5])


# Bootstrap


def fold_of(task, rng, n=60, quality=1.0):
    if task == "regression":
        truth = rng.standard_normal((n, 2)).round(1)
        return FoldScores(truth, quality * truth + rng.standard_normal((n, 2)).round(1), np.arange(n) // 3)
    k = {"binary": 2, "multiclass": 3, "multilabel": 4, "ordinal": 4}[task]
    if task == "multilabel":
        truth = (rng.random((n, k)) > 0.6).astype(int)
        scores = 1 / (1 + np.exp(-(quality * (truth - 0.5) + rng.standard_normal((n, k)))))
    else:
        truth = rng.integers(0, k, n)
        raw = np.exp(quality * np.eye(k)[truth] + rng.standard_normal((n, k)))
        scores = raw / raw.sum(1, keepdims=True)
    return FoldScores(truth, scores.round(1 if rng.random() > 0.5 and task == "multilabel" else 6), np.arange(n) // 3)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_a_draw_is_the_metric_of_the_rows_drawn(task):
    """Every weighted metric equals the plain metric of the rows repeated as often as they were drawn."""
    rng = np.random.default_rng(0)
    fold = fold_of(task, rng)
    values = bootstrap(task, [[fold]], n_draws=20, seed=3)
    draws = np.random.default_rng(3).multinomial(19, [1 / 20] * 20, 20)
    classes = None if task == "multilabel" else np.arange(fold.scores.shape[1])
    plain = score(task, fold.truth, fold.scores, classes=classes)
    for name in METRICS[task]:
        assert values[name][0, 0] == pytest.approx(plain[name]), name
    for i, draw in enumerate(draws):
        rows = np.concatenate([np.flatnonzero(fold.groups == g) for g, n in enumerate(draw) for _ in range(n)])
        expected = score(task, fold.truth[rows], fold.scores[rows], classes=classes)
        for name in METRICS[task]:
            if not name.startswith("calibration_"):  # of one step, tested below
                assert values[name][0, i + 1] == pytest.approx(expected[name], nan_ok=True), name


def test_a_draw_of_the_calibration_is_close_to_that_of_the_rows_drawn():
    """One Newton step from the solution of all rows: off by a fraction of the standard error."""
    rng = np.random.default_rng(0)
    logit = 2 * rng.standard_normal(400)
    truth = (rng.random(400) < 1 / (1 + np.exp(-0.7 * logit - 0.3))).astype(int)
    p = 1 / (1 + np.exp(-logit))
    scores = np.column_stack([1 - p, p])
    names = ("calibration_slope", "calibration_intercept", "calibration_in_the_large")
    values = bootstrap("binary", [[FoldScores(truth, scores, np.arange(400))]], metrics=names, n_draws=40, seed=3)
    draws = np.random.default_rng(3).multinomial(399, [1 / 400] * 400, 40)
    exact = [score("binary", np.repeat(truth, d), np.repeat(scores, d, axis=0), classes=[0, 1]) for d in draws]
    for name in names:
        of_rows = np.array([found[name] for found in exact])
        assert np.abs(values[name][0, 1:] - of_rows).mean() < 0.15 * of_rows.std(), name
        assert values[name][0, 1:].std() == pytest.approx(of_rows.std(), rel=0.1), name


def test_folds_are_averaged_as_they_are_reported():
    """Several folds: the mean over those in which the metric is defined."""
    rng = np.random.default_rng(0)
    folds = [fold_of("binary", rng, n) for n in (30, 60, 90)]
    one_class = FoldScores(np.zeros(9, int), np.full((9, 2), 0.5), np.arange(9))
    values = bootstrap("binary", [[*folds, one_class]], n_draws=5)
    aucs = [score("binary", f.truth, f.scores, classes=[0, 1])["auc"] for f in folds]
    assert values["auc"][0, 0] == pytest.approx(np.mean(aucs))


def test_models_with_folds_of_their_own_are_measured_on_the_same_draws():
    """Folds that differ between models: each has the mean over its own, and equal scores no difference in any draw."""
    rng = np.random.default_rng(0)
    whole = fold_of("binary", rng, 120)
    groups = np.arange(120) // 3

    def folds(of_group):
        rows = [np.flatnonzero(of_group[groups] == f) for f in range(4)]
        return [FoldScores(whole.truth[r], whole.scores[r], groups[r]) for r in rows]

    first, other = (folds(rng.permutation(40) % 4) for _ in range(2))
    values = bootstrap("binary", [first, other, first], n_draws=50, within_folds=False)
    for m, model in enumerate((first, other)):
        aucs = [score("binary", f.truth, f.scores, classes=[0, 1])["auc"] for f in model]
        assert values["auc"][m, 0] == pytest.approx(np.mean(aucs))
    assert (values["auc"][0] == values["auc"][2]).all()
    assert np.corrcoef(values["accuracy"][:2, 1:])[0, 1] > 0.5


def test_memory_does_not_change_draws(monkeypatch):
    """Draws made in several parts are those made at once."""
    fold = fold_of("binary", np.random.default_rng(0))
    whole = bootstrap("binary", [[fold]], n_draws=50)
    monkeypatch.setattr("headwater.evaluate.bootstrap.ROWS_AT_ONCE", 400)
    parts = bootstrap("binary", [[fold]], n_draws=50)
    assert all(parts[name] == pytest.approx(whole[name]) for name in whole)


def test_patients_widen_the_interval():
    """Rows that repeat each other within patients are no more information."""
    rng = np.random.default_rng(0)
    fold = fold_of("binary", rng, 80)
    repeat = np.repeat(np.arange(80), 6)
    by_patient = FoldScores(fold.truth[repeat], fold.scores[repeat], repeat)
    by_row = FoldScores(fold.truth[repeat], fold.scores[repeat], np.arange(480))
    once = FoldScores(fold.truth, fold.scores, np.arange(80))
    width = {}
    for name, one in (("patient", by_patient), ("row", by_row), ("once", once)):
        low, high = interval(bootstrap("binary", [[one]], n_draws=1000)["auc"][0, 1:])
        width[name] = high - low
    assert width["patient"] == pytest.approx(width["once"], rel=0.15)
    assert width["row"] < 0.6 * width["patient"]


def test_the_interval_covers():
    """Ninety-five in a hundred intervals of the accuracy hold the truth, give or take."""
    rng = np.random.default_rng(0)
    held = []
    for seed in range(150):
        right = rng.random(80) < 0.7
        scores = np.where(right[:, None], [[0.2, 0.8]], [[0.8, 0.2]])
        found = bootstrap("binary", [[FoldScores(np.ones(80, int), scores, np.arange(80))]], n_draws=400, seed=seed)
        low, high = interval(found["accuracy"][0, 1:])
        held.append(low <= 0.7 <= high)
    assert 0.88 < np.mean(held) < 0.99


def test_p_of_a_difference():
    """Draws on both sides of 0 make a large p, draws on one side the least that so many can make."""
    assert p_of_difference(np.linspace(-1, 1, 999)) == pytest.approx(1, abs=0.01)
    assert p_of_difference(np.linspace(0.1, 1, 999)) == pytest.approx(0.002)
    assert np.isnan(p_of_difference(np.array([np.nan])))
    with pytest.raises(InputError, match="between 0 and 1"):
        interval(np.zeros(3), 95)
