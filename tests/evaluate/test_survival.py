"""Survival: concordances, curves and tests against other implementations, and against simulations of a known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, logrank
from sksurv.compare import compare_survival
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from headwater._survival import as_survival, concordance, log_partial_likelihood
from headwater.errors import InputError, SplitError
from headwater.evaluate import Fold, Outcome, OutOfFold, Split, cross_validate, inner_splits, make_splits, score
from headwater.evaluate._weightings import Weightings
from headwater.evaluate.bootstrap import DEFAULT_METRIC
from headwater.evaluate.estimates import Estimates, Resampling
from headwater.evaluate.intervals import evidence_of
from headwater.evaluate.risk_groups import cuts, grouped, hazard_ratio, kaplan_meier, log_rank
from headwater.evaluate.survival import cross_validated_losses, events_by, truncation, uncensored, weighted
from headwater.evaluate.survival import score as concordances
from headwater.heads import Cox


def made(n=200, seed=0, ties=False, effect=1.0, groups=None):
    """Times and risks; with groups, rows of a group share hazard and follow-up."""
    rng = np.random.default_rng(seed)
    of = np.arange(n) if groups is None else groups
    hazard = rng.standard_normal(of.max() + 1)[of]
    time = rng.exponential(1.0, of.max() + 1)[of] * np.exp(-effect * hazard) + 0.01
    until = rng.exponential(1.5, of.max() + 1)[of] + 0.01
    risk = hazard + 0.5 * rng.standard_normal(n)
    seen = np.minimum(time, until)
    if ties:
        seen, risk = np.ceil(seen * 8), np.round(risk, 1)
    return np.column_stack([seen, time <= until]), risk


def structured(y):
    return Surv.from_arrays(y[:, 1] > 0, y[:, 0])


# Concordance


@pytest.mark.parametrize("ties", [False, True])
def test_harrells_c_is_that_of_scikit_survival(ties):
    """With and without ties of times and of risks, once and under weightings, C is scikit-survival's."""
    y, risk = made(ties=ties)
    drawn = np.random.default_rng(1).multinomial(200, [1 / 200] * 200, 4).astype(float)
    found = weighted(y, risk, Weightings.of_rows(np.concatenate([np.ones((1, 200)), drawn])))["c_index"]
    rows = [np.arange(200), *(np.repeat(np.arange(200), one.astype(int)) for one in drawn)]
    expected = [concordance_index_censored(y[r, 1] > 0, y[r, 0], risk[r])[0] for r in rows]
    assert found == pytest.approx(expected, abs=1e-12)
    assert concordance(y, risk) == pytest.approx(expected[0], abs=1e-12)


def test_unos_c_is_that_of_scikit_survival():
    """Uno's C is scikit-survival's with the censoring of the same rows, once and under weightings."""
    y, risk = made()
    tau = truncation(y[:, 0])
    drawn = np.random.default_rng(1).multinomial(200, [1 / 200] * 200, 4).astype(float)
    found = weighted(y, risk, Weightings.of_rows(np.concatenate([np.ones((1, 200)), drawn])), tau=tau)["c_index_uno"]
    rows = [np.arange(200), *(np.repeat(np.arange(200), one.astype(int)) for one in drawn)]
    expected = [concordance_index_ipcw(structured(y[r]), structured(y[r]), risk[r], tau=tau)[0] for r in rows]
    assert found == pytest.approx(expected, abs=1e-9)
    assert score("survival", y, risk)["c_index_uno"] == pytest.approx(found[0])


def plain_uno(y, risk, tau):
    """Uno's C with tied times, pair by pair: at one time, events come before censored rows."""
    time, event = y[:, 0], y[:, 1] > 0
    right = total = 0.0
    for i in np.flatnonzero(event & (time < tau)):
        still = 1.0
        for t in np.unique(time[~event & (time < time[i])]):
            left = (time >= t).sum() - (event & (time == t)).sum()
            still *= 1 - (~event & (time == t)).sum() / left
        later = (time > time[i]) | ((time == time[i]) & ~event)
        total += later.sum() / still**2
        right += ((risk[later] < risk[i]) + 0.5 * (risk[later] == risk[i])).sum() / still**2
    return right / total


def test_unos_c_with_tied_times():
    """With ties, Uno's C is that of a loop over pairs."""
    y, risk = made(ties=True)
    assert concordances(y, risk)["c_index_uno"] == pytest.approx(plain_uno(y, risk, truncation(y[:, 0])))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 6))
def test_groups_share_their_weight(seed, n, n_groups):
    """Weights of groups give what the same weights of rows give; reversed risks have the complementary C."""
    rng = np.random.default_rng(seed)
    y = np.column_stack([rng.integers(1, 6, n), rng.random(n) < 0.6]).astype(float)
    risk, groups = rng.integers(0, 4, n).astype(float), rng.integers(0, n_groups, n)
    weights = rng.integers(0, 4, (3, n_groups)).astype(float)
    by_group = weighted(y, risk, Weightings(weights, groups))
    by_row = weighted(y, risk, Weightings.of_rows(weights[:, groups]))
    for name, values in by_group.items():
        assert values == pytest.approx(by_row[name], nan_ok=True)
        assert weighted(y, -risk, Weightings(weights, groups))[name] == pytest.approx(1 - values, nan_ok=True)


def test_what_has_no_comparable_pairs_is_not_defined():
    """Without events, or without rows followed for longer, concordances are NaN."""
    assert np.isnan(list(concordances([[1, 0], [2, 0]], [1.0, 2.0]).values())).all()
    assert np.isnan(concordances([[1, 1]], [1.0])["c_index"])
    assert np.isnan(concordances([[1, 1], [1, 1]], [1.0, 2.0])["c_index"])
    assert concordances([[1, 1], [1, 0]], [2.0, 1.0])["c_index"] == 1.0
    with pytest.raises(InputError, match=r"risks have shape \(3,\), but need \(2,\)"):
        concordances([[1, 1], [2, 1]], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="scores are NaN in 1 place"):
        score("survival", [[1, 1], [2, 1]], [1.0, np.nan])


def test_times_are_validated():
    """Times and events of the wrong shape or value are refused, with the rows."""
    for bad, words in (
        ([1.0, 2.0], "of shape"),
        ([[1, 2, 3]], "of shape"),
        ([["a", 1]], "needs numbers"),
        ([[np.nan, 1]], "not finite in 1 row"),
        ([[1, 1], [0, 1]], r"above 0.*\[1\]"),
        ([[1, 0.5]], "0 .censored. or 1"),
    ):
        with pytest.raises(InputError, match=words):
            as_survival(bad)
    with pytest.raises(InputError, match="needs a boolean event and a time"):
        as_survival(np.array([(1.0, 2.0)], dtype=[("a", float), ("b", float)]))


def test_follow_up():
    """The median follow-up is that of the Kaplan-Meier estimate with events and censored rows exchanged."""
    y, _ = made()
    times, survival = kaplan_meier_estimator(y[:, 1] == 0, y[:, 0])
    assert events_by(y)["median_follow_up"] == times[survival <= 0.5][0]
    assert events_by(np.array([[2.0, 1], [3, 1]])) == {"events": 2, "longest": 3.0, "median_follow_up": None}
    times, still = kaplan_meier_estimator(y[:, 1] > 0, y[:, 0], reverse=True)
    found = uncensored(y, np.ones((1, len(y))), np.append(times[1:], np.inf))[0]
    assert found == pytest.approx(still)


# Intervals


def outcome_of(y, risk, fold):
    folds = []
    for f in np.unique(fold):
        test = np.flatnonzero(fold == f)
        metrics = score("survival", y[test], risk[test])
        folds.append(Fold(Split(int(f), np.flatnonzero(fold != f), test), {}, risk[test][:, None], metrics))
    return Outcome("survival", np.arange(1), folds, None, {}, {})


def test_intervals_hold_the_truth():
    """Intervals of both concordances, by patient, hold the true value in about 95 % of 300 data sets."""
    patient = np.repeat(np.arange(60), 2)
    large = np.repeat(np.arange(2500), 2)
    y, risk = made(5000, seed=10**6, groups=large)
    truth = score("survival", y, risk)
    held = dict.fromkeys(truth, 0)
    for seed in range(300):
        y, risk = made(120, seed=seed, groups=patient)
        found = Estimates(
            outcome_of(y, risk, np.zeros(120, int)), y, Resampling(patient, n_draws=200, seed=seed)
        ).metrics()
        for name, (low, high) in found.items():
            held[name] += low <= truth[name] <= high
    for name, n in held.items():
        assert 0.91 <= n / 300 <= 0.985, (name, n)


def test_noise_is_rarely_taken_for_signal():
    """Risks without any relation to time have an interval that excludes 0.5 in about 5 % of 300 data sets."""
    wrong = 0
    for seed in range(300):
        y, _ = made(80, seed=seed)
        risk = np.random.default_rng([seed, 1]).standard_normal(80)
        low, high = Estimates(
            outcome_of(y, risk, np.zeros(80, int)), y, Resampling(np.arange(80), n_draws=200, seed=seed)
        ).metrics()["c_index"]
        wrong += not low <= 0.5 <= high
    assert wrong / 300 <= 0.085


def test_perfect_order_has_a_bound():
    """A concordance of 1 has a lower bound below 1 that rises with the groups with events."""
    widths = []
    for n in (20, 80):
        y = np.column_stack([np.arange(1, n + 1), np.ones(n)]).astype(float)
        low, high = Estimates(outcome_of(y, -y[:, 0], np.zeros(n, int)), y, Resampling(np.arange(n))).metrics()[
            "c_index"
        ]
        assert high == 1.0
        widths.append(1 - low)
    assert 0.01 < widths[1] < widths[0] < 0.4


def test_evidence_is_of_groups_with_events():
    """The evidence of a concordance counts groups with an event, and their disjoint pairs within folds."""
    y = np.column_stack([np.arange(1, 13), np.arange(12) < 6]).astype(float)
    groups = np.arange(12) // 2
    found = evidence_of("survival", y, groups, [np.arange(12)])
    assert set(found) == {"c_index", "c_index_uno"}
    assert (found["c_index"].groups, found["c_index"].chances, found["c_index"].scale) == ((3,), (3,), "share")
    y[:, 1] = 0
    assert evidence_of("survival", y, groups, [np.arange(12)])["c_index"].groups == ()
    assert DEFAULT_METRIC["survival"] == "c_index"


# Selection and splits


def test_the_selection_loss_is_verweij_and_van_houwelingens():
    """An inner fold's loss is what its test rows add to the partial likelihood at the training rows' weights."""
    y, risk = made(60)
    risks = np.stack([risk, 0 * risk, np.full(60, np.nan)])
    train, test = np.arange(40), np.arange(40, 60)
    found = cross_validated_losses(y, risks, train, test)
    for number in (0, 1):
        gained = log_partial_likelihood(y, risks[[number]])[0] - log_partial_likelihood(
            y[train], risks[[number]][:, train]
        )
        assert found[number] == pytest.approx(-gained[0] / 20)
    assert found[2] == np.inf
    assert found[0] < found[1]


def test_selection_finds_the_strength_of_the_signal():
    """Strong shrinkage is selected for noise, and little for a strong signal of few columns; test rows stay unseen."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 30))
    noise, _ = made(300, seed=3, effect=0.0)
    time = rng.exponential(np.exp(-2 * X[:, 0]))
    signal = np.column_stack([time, np.ones(300)])
    grid = [{"C": C} for C in (1e-6, 1e-3, 1.0)]
    chosen = {}
    for name, y in (("noise", noise), ("signal", signal)):
        splits = make_splits(y, n_folds=3, survival=True)
        found = cross_validate(Cox(tol=1e-8, n_threads=1), X, y, splits, grid=grid, survival=True)
        chosen[name] = [fold.params["C"] for fold in found.folds]
        assert found.selection["by"].startswith("minus the cross-validated log partial likelihood")
        assert all(len(fold.inside.rows) == len(fold.split.train) for fold in found.folds)
        changed = y.copy()
        changed[splits[0].test, 0] *= rng.uniform(0.1, 10, len(splits[0].test))
        again = cross_validate(
            Cox(tol=1e-8, n_threads=1), X, changed, splits[:1], grid=grid, survival=True, final=splits[0].train
        )
        assert again.folds[0].params == found.folds[0].params
        assert again.folds[0].scores == pytest.approx(found.folds[0].scores, abs=1e-3)
    assert max(chosen["noise"]) < 1.0
    assert min(chosen["signal"]) >= 1e-3


def test_splits_are_even_in_events_and_keep_groups_whole():
    """Folds have nearly the same share of events; groups are whole; training rows always have an event."""
    y, _ = made(200, seed=4)
    groups = np.arange(200) // 2
    for split in make_splits(y, groups=groups, n_folds=5, survival=True):
        assert not set(groups[split.train]) & set(groups[split.test])
        assert abs(y[split.test, 1].mean() - y[:, 1].mean()) < 0.08
    few = y.copy()
    few[:, 1] = np.isin(np.arange(200), [10, 50])
    for split in inner_splits(few, groups, 4, 0, survival=True):
        assert few[split.train, 1].any()
    one = y.copy()
    one[:, 1] = np.arange(200) == 10
    with pytest.raises(SplitError, match="only one training group has an event, but two are needed"):
        inner_splits(one, groups, 4, 0, survival=True)
    with pytest.raises(SplitError, match=r"fold \d has no training rows with an event"):
        make_splits(one, n_folds=5, survival=True)
    with pytest.raises(SplitError, match="no row has an event"):
        make_splits(y * [1, 0], survival=True)
    every = make_splits(np.column_stack([y[:, 0], np.ones(200)]), n_folds=5, survival=True)
    assert sum(len(split.test) for split in every) == 200
    assert len(make_splits(y, holdout=0.2, survival=True)[0].test) == 40


# Groups by risk


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_survival(ties):
    """Survival and its log-log interval are scikit-survival's; the median and its interval are read off them."""
    y, _ = made(ties=ties)
    found = kaplan_meier(y)
    times, survival, (low, high) = kaplan_meier_estimator(y[:, 1] > 0, y[:, 0], conf_type="log-log")
    assert found.times == pytest.approx(times)
    assert found.survival == pytest.approx(survival)
    there = ~np.isnan(found.low)
    assert found.low[there] == pytest.approx(low[there])
    assert found.high[there] == pytest.approx(high[there])
    assert found.median == times[survival <= 0.5][0]
    assert found.median_interval[0] <= found.median
    assert found.at_risk[0] == len(y)


def test_the_interval_of_a_curve_holds_the_truth():
    """The interval of survival at one time holds the truth in about 95 % of 400 data sets."""
    held = 0
    for seed in range(400):
        y, _ = made(80, seed=seed, effect=0.0)
        curve = kaplan_meier(y)
        place = np.searchsorted(curve.times, 0.51, side="right") - 1
        held += curve.low[place] <= np.exp(-0.5) <= curve.high[place]
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_log_rank_is_that_of_others(ties, k):
    """The log-rank test of two and three groups is scikit-survival's, and of two SciPy's."""
    y, _ = made(ties=ties)
    groups = np.random.default_rng(0).integers(0, k, 200)
    found = log_rank(y, groups)
    statistic, p = compare_survival(structured(y), groups)
    assert (found.statistic, found.p) == pytest.approx((statistic, p))
    if k == 2:
        of = [
            CensoredData(uncensored=part[part[:, 1] > 0, 0], right=part[part[:, 1] == 0, 0])
            for part in (y[groups == 0], y[groups == 1])
        ]
        assert found.p == pytest.approx(logrank(*of).pvalue)


def test_the_hazard_ratio_is_that_of_a_cox_model_with_a_valid_interval():
    """It is the exponential of Cox's weight; its interval holds the truth in about 95 % of 300 data sets of pairs."""
    y, risk = made(ties=True)
    high = risk > np.median(risk)
    plain = Cox(C=1e8, standardize=False, tol=1e-12).fit(high[:, None].astype(float), y)
    assert hazard_ratio(y, high, np.arange(200)).value == pytest.approx(np.exp(plain.coef_[0]), rel=1e-4)
    held, cluster = 0, np.repeat(np.arange(60), 2)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        high = (np.arange(60) % 2 == 1)[cluster]
        time = rng.exponential(1, 60)[cluster] / np.where(high, 2.0, 1.0)  # both rows of a patient die together
        until = rng.exponential(2, 60)[cluster]
        low, top = hazard_ratio(np.column_stack([np.minimum(time, until), time <= until]), high, cluster).interval
        held += low <= 2.0 <= top
    assert 0.90 <= held / 300 <= 0.985


def test_hazard_ratios_without_an_estimate():
    """Without events in a group, or in perfect order, there is no finite ratio."""
    y = np.column_stack([np.arange(1, 21), np.ones(20)]).astype(float)
    high = np.arange(20) < 10
    assert np.isnan(hazard_ratio(y, high, np.arange(20)).value)
    y[high, 1] = 0
    assert np.isnan(hazard_ratio(y, high, np.arange(20)).value)
    assert np.isnan(log_rank(y, np.zeros(20, int)).p)


def test_cuts_divide_training_risks_evenly():
    """Cuts are quantiles of out-of-fold risks; a risk equal to a cut is in the lower group."""
    inside = OutOfFold(np.arange(9), np.zeros(9, int), np.arange(9.0)[:, None])
    assert cuts(inside, 2).tolist() == [4.0]
    assert np.bincount(grouped(np.arange(9.0), cuts(inside, 3))).tolist() == [3, 3, 3]
    assert grouped(np.array([4.0, 4.1]), np.array([4.0])).tolist() == [0, 1]
