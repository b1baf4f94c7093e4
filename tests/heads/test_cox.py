"""The Cox head: the optimum of its objective, by other implementations, from derivatives, and from known hazards."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.exceptions import ConvergenceWarning
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.util import Surv

from headwater._survival import RiskSets, concordance, log_partial_likelihood
from headwater.errors import HeadError, InputError
from headwater.heads import Cox
from headwater.heads._partial import _sums


def made(n=300, d=8, ties=False, seed=0, effect=0.5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * rng.uniform(0.5, 3, d) + 2
    time, until = rng.exponential(np.exp(-effect * (X[:, 0] - 2))), rng.exponential(1.5, n)
    seen = np.minimum(time, until) + 0.001
    return X, np.column_stack([np.ceil(seen * 6) if ties else seen, time <= until])


def standardised(X):
    X = X.astype(np.float64)
    return (X - X.mean(0)) / X.std(0)


def structured(y):
    return Surv.from_arrays(y[:, 1] > 0, y[:, 0])


def objective(head, X, y, weights):
    """The objective of the head's parameters at some weights for standardised columns."""
    likelihood = log_partial_likelihood(y, (standardised(X) @ weights)[None])[0]
    penalty = (1 - head.l1_ratio) / 2 * weights @ weights + head.l1_ratio * np.abs(weights).sum()
    return -head.C * likelihood + penalty


def plain_log_likelihood(y, risk):
    """Efron's partial likelihood, written as in the paper: a loop over times and tied events."""
    total = 0.0
    for time in np.unique(y[y[:, 1] > 0, 0]):
        died = (y[:, 0] == time) & (y[:, 1] > 0)
        at_risk, of_died = np.exp(risk[y[:, 0] >= time]).sum(), np.exp(risk[died]).sum()
        total += risk[died].sum()
        total -= sum(np.log(at_risk - r / died.sum() * of_died) for r in range(died.sum()))
    return total


@pytest.mark.parametrize("ties", [False, True])
def test_the_partial_likelihood_is_efrons(ties):
    """With and without ties, the partial likelihood is that of a loop over times."""
    _, y = made(ties=ties)
    risks = np.random.default_rng(1).standard_normal((3, len(y))) * [[0], [1], [5]]
    assert log_partial_likelihood(y, risks) == pytest.approx([plain_log_likelihood(y, one) for one in risks])
    assert log_partial_likelihood(y, risks + 300) == pytest.approx(log_partial_likelihood(y, risks))


def test_risks_that_are_far_apart_or_not_finite():
    """Sums over risk sets do not underflow; a model with risks that are not finite has no likelihood."""
    y = np.array([[1.0, 1], [2, 1], [3, 1], [4, 0]])
    risks = np.array([[2000.0, 1000, 0, -1000], [0, np.nan, 0, 0], [0, np.inf, 0, 0]])
    assert log_partial_likelihood(y, risks) == pytest.approx([0, -np.inf, -np.inf])
    assert log_partial_likelihood(np.array([[1.0, 0], [2, 0]]), np.zeros((1, 2))) == pytest.approx([0])


@pytest.mark.parametrize("ties", [False, True])
def test_the_derivative_is_that_of_the_value(ties):
    """The derivative by each row's risk is the finite difference of the loss."""
    _, y = made(n=40, ties=ties)
    sets = RiskSets.of(y)
    risk = np.random.default_rng(0).standard_normal(40)

    def loss(of_rows):
        return _sums(sets, of_rows[None])[0][0]

    _, pull, spread = _sums(sets, risk[None])
    assert pull[0] == pytest.approx(approx_fprime(risk, loss, 1e-6), abs=1e-4)
    assert abs(pull.sum()) < 1e-9
    assert 0 < spread[0] < y[:, 1].sum()


@pytest.mark.parametrize(("n", "d", "ties"), [(300, 8, False), (300, 8, True), (60, 200, True), (60, 200, False)])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_weights_are_those_of_scikit_survival(n, d, ties, C):
    """With more rows than columns and fewer, with and without ties, weights are scikit-survival's."""
    X, y = made(n, d, ties)
    head = Cox(C=C, tol=1e-9).fit(X, y)
    theirs = CoxPHSurvivalAnalysis(alpha=1 / C, ties="efron", tol=1e-12, n_iter=200)
    theirs.fit(standardised(X), structured(y))
    assert head.coef_ * X.std(0) == pytest.approx(theirs.coef_, abs=5e-4 * np.abs(theirs.coef_).max())
    assert head.objective_ == pytest.approx(objective(head, X, y, theirs.coef_), rel=1e-6)
    assert head.predict(X).mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("C", [0.02, 0.1, 1.0])
def test_elastic_net_is_that_of_coxnet(l1_ratio, C):
    """The elastic net reaches an objective at least as low as scikit-survival's, with the same columns left out."""
    X, y = made(300, 20)
    head = Cox(C=C, l1_ratio=l1_ratio, tol=1e-8).fit(X, y)
    theirs = CoxnetSurvivalAnalysis(alphas=[1 / (C * len(y))], l1_ratio=l1_ratio, tol=1e-12, max_iter=10**6)
    weights = theirs.fit(standardised(X), structured(y)).coef_[:, 0]
    assert head.objective_ <= objective(head, X, y, weights) * (1 + 1e-6)
    assert head.objective_ == pytest.approx(objective(head, X, y, head.coef_ * X.std(0)), rel=1e-6)
    assert head.coef_ * X.std(0) == pytest.approx(weights, abs=5e-3)
    large = np.abs(weights) > 5e-3
    assert (head.coef_[large] != 0).all()
    if C == 0.02:
        assert 0 < (head.coef_ != 0).sum() < 20


def test_more_columns_than_rows_with_an_l1_penalty():
    """A lasso of few rows keeps few columns, at an objective that no small change of a weight lowers."""
    X, y = made(60, 200)
    head = Cox(C=0.1, l1_ratio=1.0, tol=1e-8).fit(X, y)
    weights = head.coef_ * X.std(0)
    assert 0 < (weights != 0).sum() < 60
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = weights + 0.01 * rng.standard_normal(200) * (rng.random(200) < 0.1)
        assert objective(head, X, y, other) >= head.objective_ * (1 - 1e-5)


def test_survival_is_that_of_scikit_survival():
    """The baseline hazard gives scikit-survival's probabilities, and Nelson and Aalen's without any effect."""
    X, y = made()
    head = Cox(C=1.0, tol=1e-9).fit(X, y)
    theirs = CoxPHSurvivalAnalysis(alpha=1.0, ties="efron", tol=1e-12).fit(standardised(X), structured(y))
    times = np.array([0.1, 0.3, 0.5])
    expected = np.array([function(times) for function in theirs.predict_survival_function(standardised(X)[:20])])
    assert head.predict_survival(X[:20], times) == pytest.approx(expected, abs=1e-4)
    flat = Cox(C=1e-9).fit(X, y)
    at_risk = (y[:, 0] >= flat.times_[:, None]).sum(1)
    assert flat.hazard_ == pytest.approx(np.cumsum(1 / at_risk), rel=1e-4)


def test_survival_at_the_ends():
    """Survival is 1 at time 0, falls, and is unknown beyond the longest follow-up; other times are refused."""
    X, y = made(ties=True)
    head = Cox().fit(X, y)
    found = head.predict_survival(X, [0, 1, 2, y[:, 0].max(), y[:, 0].max() + 1])
    assert (found[:, 0] == 1).all()
    assert (np.diff(found[:, :4], axis=1) <= 0).all()
    assert np.isnan(found[:, 4]).all()
    for bad in ([-1.0], [np.nan], [[1.0]]):
        with pytest.raises(InputError, match="times must be numbers of at least 0"):
            head.predict_survival(X, bad)


def test_a_known_hazard_ratio_is_recovered():
    """Over 60 data sets, the mean estimate is the true log hazard ratio, with and without censoring and ties."""
    for ties in (False, True):
        found = []
        for seed in range(60):
            X, y = made(400, 3, seed=seed, effect=0.0)
            X = X - 2
            rng = np.random.default_rng([seed, 1])
            time, until = rng.exponential(np.exp(-0.7 * X[:, 0])), rng.exponential(1.5, 400)
            seen = np.minimum(time, until) + 1e-9
            y = np.column_stack([np.ceil(seen * 20) if ties else seen, time <= until])
            found.append(Cox(C=1e6).fit(X, y).coef_)
        error = np.std(found, axis=0) / np.sqrt(60)
        assert np.abs(np.mean(found, axis=0) - [0.7, 0, 0]).max() < (0.02 if ties else 3.5 * error.max())


def test_noise_has_no_concordance():
    """The risks of a head fitted on noise order new rows no better than chance, over 40 data sets."""
    found = []
    for seed in range(40):
        X, y = made(200, 20, seed=seed, effect=0.0)
        found.append(Cox(C=0.1).fit(X[:100], y[:100]).score(X[100:], y[100:]))
    assert abs(np.mean(found) - 0.5) < 3.5 * np.std(found) / np.sqrt(40)


def test_large_float16_features_and_constant_and_repeated_columns():
    """Stored float16 of large magnitude is standardised; a constant column has no weight; twins share theirs."""
    X, y = made()
    large = np.column_stack([X * 3000, np.full(len(X), 7.0), X[:, 0] * 3000]).astype(np.float16)
    head = Cox(C=0.1, tol=1e-8).fit(large, y)
    theirs = CoxPHSurvivalAnalysis(alpha=10, ties="efron", tol=1e-12)
    Z = standardised(np.delete(large, 8, axis=1))
    theirs.fit(Z, structured(y))
    kept = np.delete(head.coef_ * large.astype(np.float64).std(0), 8)
    assert kept == pytest.approx(theirs.coef_, abs=2e-3 * np.abs(theirs.coef_).max())
    assert head.coef_[8] == 0 or abs(head.coef_[8]) < 1e-6
    assert head.coef_[0] == pytest.approx(head.coef_[9], rel=1e-3)


def test_one_event_repeated_rows_and_perfect_order():
    """One event, rows that occur twice, and rows in perfect order have a penalised solution."""
    X, y = made(30, 3)
    one = y.copy()
    one[:, 1] = np.arange(30) == np.argmin(y[:, 0])
    assert np.isfinite(Cox(C=0.1).fit(X, one).coef_).all()
    twice = Cox(C=0.1, tol=1e-8).fit(np.repeat(X, 2, axis=0), np.repeat(y, 2, axis=0))
    once = Cox(C=0.2, tol=1e-8).fit(X, y)
    assert np.corrcoef(twice.coef_, once.coef_)[0, 1] > 0.99
    ordered = np.column_stack([np.argsort(np.argsort(-X[:, 0])) + 1, np.ones(30)])
    head = Cox(C=1e3).fit(X, ordered)
    assert head.score(X, ordered) == 1.0
    assert head.coef_[0] > 0


def test_structured_arrays_and_censoring_by_hand():
    """scikit-survival's arrays are taken; concordance counts the comparable pairs."""
    X, y = made()
    assert np.array_equal(Cox().fit(X, structured(y)).coef_, Cox().fit(X, y).coef_)
    times = np.array([[1.0, 1], [2, 0], [2, 1], [3, 1]])
    assert concordance(times, np.array([4.0, 1, 3, 2])) == 1.0
    assert concordance(times, np.array([0.0, 0, 0, 0])) == 0.5
    assert np.isnan(concordance(times[1:2], np.zeros(1)))


def test_settings_are_validated():
    """Invalid settings are refused; too few iterations are warned of."""
    X, y = made()
    for settings, words in (({"C": 0.0}, "C must be above 0"), ({"l1_ratio": 1.5}, "l1_ratio must be from 0")):
        with pytest.raises(HeadError, match=words):
            Cox(**settings).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="1 of 1 fits did not reach"):
        Cox(C=1e3, max_iter=1, tol=1e-12).fit(X, y)


def test_streamed_rows_give_the_same():
    """Rows that do not fit into memory are streamed, with the same result."""
    X, y = made()
    whole, streamed = (Cox(max_bytes=most).fit(X, y) for most in (4 << 30, 100))
    assert streamed.coef_ == pytest.approx(whole.coef_, rel=1e-4, abs=1e-5)


def test_a_tensor_gives_what_an_array_gives():
    """A tensor of torch is computed with on the CPU, as its array is."""
    torch = pytest.importorskip("torch")
    X, y = made()
    whole, other = (Cox().fit(data, y) for data in (X.astype(np.float32), torch.from_numpy(X.astype(np.float32))))
    assert other.coef_ == pytest.approx(whole.coef_, rel=1e-6)
    assert other.predict(torch.from_numpy(X.astype(np.float32))) == pytest.approx(whole.predict(X.astype(np.float32)))
