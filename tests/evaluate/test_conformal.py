"""Prediction sets: as often right as promised, on exchangeable rows, whatever the head."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import betabinom

from headwater.errors import InputError
from headwater.evaluate.conformal import PredictionSets, coverage, fit_label_sets, fit_sets, label_coverage


def rows(rng, n, k=4, imbalance=1.0):
    """Class numbers and scores that know something of them, but are far too sure."""
    weights = float(imbalance) ** -np.arange(k)
    truth = rng.choice(k, n, p=weights / weights.sum())
    return truth, softmax(3 * (rng.standard_normal((n, k)) + np.eye(k)[truth]) + np.log(weights), axis=1)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("n", [37, 400])
def test_coverage_is_what_was_promised(n, alpha):
    """Over many draws mean coverage is at least 1 - alpha and at most 1 / (n + 1) more, to the binomial error."""
    rng = np.random.default_rng(0)
    n_draws, covered = 400, 0
    for _ in range(n_draws):
        sets = fit_sets(*rows(rng, n), alpha)
        truth, scores = rows(rng, 10)
        covered += coverage(truth, sets(scores))["coverage"] * 10
    kept = np.ceil((n + 1) * (1 - alpha) - 1e-9)
    expected = kept / (n + 1)
    # How many of the ten rows of a draw are covered is beta-binomial (Vovk 2012): they share one rule.
    spread = betabinom.std(10, kept, n + 1 - kept) / 10 / n_draws**0.5
    assert abs(covered / (10 * n_draws) - expected) < 4 * spread
    assert 1 - alpha <= expected + 1e-9 <= 1 - alpha + 1 / (n + 1) + 2e-9


def test_coverage_of_each_class():
    """With one class in a thousand rows, sets of all classes alike may miss it; sets by class do not."""
    rng = np.random.default_rng(1)
    n_draws, found = 60, {True: [], False: []}
    for _ in range(n_draws):
        some, new = rows(rng, 5000, k=2, imbalance=1000), rows(rng, 20_000, k=2, imbalance=1000)
        rare = new[0] == 1
        for per_class in (True, False):
            sets = fit_sets(*some, 0.2, per_class=per_class)(new[1])
            found[per_class] += sets[rare, 1].tolist()
    # some five rare rows make each rule, so that its coverage varies by about 0.15 between draws
    assert np.mean(found[True]) > 0.8 - 3 * 0.15 / n_draws**0.5
    assert np.mean(found[False]) < 0.7


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rule_is_that_of_its_definition(seed, alpha, per_class):
    """A class is in the set when its score is not among the worst of those of true classes; ties are kept."""
    rng = np.random.default_rng(seed)
    truth, scores = rows(rng, 30, k=3)
    scores = scores.round(1)  # ties
    found = fit_sets(truth, scores, alpha, per_class=per_class)(scores)
    for c in range(3):
        own = truth == c if per_class else np.ones(30, bool)
        worst = np.sort(1 - scores[own, truth[own]])
        place = int(np.ceil((len(worst) + 1) * (1 - alpha) - 1e-9))
        limit = worst[place - 1] if place <= len(worst) else np.inf
        assert (found[:, c] == (1 - scores[:, c] <= limit + 1e-12)).all()


def test_too_few_rows_rule_nothing_out():
    """With fewer rows than 1 / alpha - 1, and for a class that has none, the class is in every set."""
    truth, scores = np.zeros(8, int), np.tile([0.9, 0.1], (8, 1))
    assert fit_sets(truth, scores, 0.1).least == (-np.inf, -np.inf)
    by_class = fit_sets(truth, scores, 0.2, per_class=True)
    assert by_class(np.array([[0.0, 1.0], [1.0, 0.0]])).tolist() == [[False, True], [True, True]]
    assert by_class.to_dict() == {"least": [0.9, None]}


def test_sets_counted_by_hand():
    """Coverage, mean size, empty sets and sets of one class are counted over rows; of no rows they are NaN."""
    sets = PredictionSets((0.5, 0.5, 0.5))(np.array([[0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3]]))
    found = coverage(np.array([0, 2, 1]), sets)
    assert found == {
        "coverage": pytest.approx(1 / 3),
        "mean_size": 1.0,
        "empty": pytest.approx(1 / 3),
        "single": pytest.approx(1 / 3),
    }
    assert all(np.isnan(v) for v in coverage(np.zeros(0, int), np.zeros((0, 3), bool)).values())


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan")])
def test_shares_that_are_none(alpha):
    """What sets may leave out is a share between 0 and 1."""
    with pytest.raises(InputError, match="--conformal"):
        fit_sets(np.array([0, 1]), np.eye(2), alpha)


def test_rows_without_labels_may_leave_all_sets_empty():
    """Where most rows have no label, missing every label is within the risk: the saved rule says so too."""
    truth = np.zeros((100, 3), int)
    truth[:3, 0] = 1
    rule = fit_label_sets(truth, np.random.default_rng(0).random((100, 3)), 0.1)
    assert not rule(np.ones((5, 3))).any()
    assert all(least is not None and least > 1 for least in rule.to_dict()["least"])


def test_label_sets_miss_what_they_may():
    """On average over data sets, new patients miss at most the share asked for."""
    missed = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(60), 3)
        truth = (rng.random((60, 4)) < 0.4)[patient].astype(int)
        scores = 1 / (
            1 + np.exp(-2 * (truth - 0.5) - rng.standard_normal((60, 4))[patient] - rng.standard_normal((180, 4)))
        )
        old = patient < 30
        rule = fit_label_sets(truth[old], scores[old], 0.2, patient[old])
        missed.append(label_coverage(truth[~old], rule(scores[~old]))["missed"])
    assert 0.15 < np.mean(missed) <= 0.2 + 2 * np.std(missed) / 200**0.5
