"""Every head of survival keeps scikit-learn's contract, and is the same alone or in company, and after a disk."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from headwater.errors import HeadError, InputError
from headwater.evaluate.search import KINDS
from headwater.heads import SURVIVAL, Cox, head_class, load_head, make_head, save_head

MEMBERS = {"cox": (Cox(tol=1e-8, n_threads=1), {"C": 0.01})}
every_head = pytest.mark.parametrize("kind", MEMBERS)


class CoxOfNumbers(Cox):
    """Cox whose targets are one number per row: scikit-learn's checks have no censored times."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags

    def fit(self, X, y):
        """Fit with an event in each row."""
        return super().fit(X, None if y is None else times_of(y))

    def score(self, X, y):
        """Return the concordance."""
        return super().score(X, times_of(y))


def times_of(y):
    """Numbers moved above 0 as times, with an event at each; what is not finite stays so."""
    values = np.asarray(y)
    values = values.reshape(len(values), -1)[:, 0].astype(np.float64)
    finite = np.isfinite(values)
    return np.column_stack([values - values[finite].min(initial=0) + 1, np.where(finite, 1.0, values)])


CHECKS = [
    pytest.param(estimator, check, id=getattr(check, "func", check).__name__)
    for estimator, check in estimator_checks_generator(
        CoxOfNumbers(n_threads=1),
        mark="skip",
        expected_failed_checks={
            "check_regressors_train": "the score is a concordance, not r2",
            "check_supervised_y_2d": "two dimensions are time and event",
        },
    )
]


@pytest.mark.filterwarnings("default")  # scikit-learn's checks warn on purpose
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_contract(estimator, check):
    """scikit-learn's own suite of checks."""
    check(estimator)


def test_every_head_is_here():
    """A new head of survival joins this suite."""
    assert set(MEMBERS) == set(SURVIVAL)


@every_head
def test_what_is_searched_are_parameters(kind):
    """A head's own grid and its search space are of its own parameters, in ranges that are known."""
    cls = head_class(kind, survival=True)
    known = set(cls().get_params())
    assert set(cls.search_space) <= known
    assert {where[0] for where in cls.search_space.values()} <= set(KINDS)
    assert len(cls().default_grid()) > 1
    assert all(set(params) <= known for params in cls().default_grid())


def test_a_head_of_another_kind_is_refused():
    """A head of classes or numbers asked for survival, and the reverse, is refused with those that there are."""
    with pytest.raises(HeadError, match=r"'linear' does not take censored times\. For --task survival there are: cox"):
        make_head("linear", {}, survival=True)
    with pytest.raises(HeadError, match=r"'cox' predicts survival\. Pass --task survival, or there are: linear"):
        make_head("cox", {})
    with pytest.raises(HeadError, match=r"'cox' predicts survival"):
        make_head("cox", {}, regression=True)
    with pytest.raises(HeadError, match=r"unknown head 'coks'\. There are: cox\."):
        head_class("coks", survival=True)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 12)).astype(np.float32) * rng.uniform(0.1, 5, 12).astype(np.float32) + 3
    Z = (X - X.mean(0)) / X.std(0)
    time = rng.exponential(np.exp(-Z[:, 0])) + 0.01
    until = rng.exponential(1.5, 300) + 0.01
    return X, np.column_stack([np.minimum(time, until), time <= until])


@every_head
def test_company_changes_nothing(data, kind):
    """A head fitted among others, with other settings and rows, is the head fitted alone."""
    X, y = data
    head, other = MEMBERS[kind]
    rows = [np.arange(0, 200), np.arange(100, 300)]
    fits = [(part, params) for part in rows for params in ({}, other)]
    for (part, params), fitted in zip(fits, head.fit_many(X, y, fits), strict=True):
        alone = type(head)(**{**head.get_params(), **params}).fit(X[part], y[part])
        assert fitted.predict(X).shape == (300,)
        assert fitted.predict(X) == pytest.approx(alone.predict(X), rel=1e-3, abs=1e-3)
        assert fitted.predict_survival(X, [0.5]) == pytest.approx(alone.predict_survival(X, [0.5]), abs=1e-3)


@every_head
def test_a_saved_head_predicts_the_same(data, kind, tmp_path):
    """What a head says is what it says after it was written and read."""
    X, y = data
    head = MEMBERS[kind][0].fit(X, y)
    save_head(head, kind, tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict(X), head.predict(X))
    assert np.array_equal(loaded.predict_survival(X, [0.1, 1]), head.predict_survival(X, [0.1, 1]))
    assert loaded.get_params() == head.get_params()


@every_head
def test_many_predictions_are_each_heads_own(data, kind):
    """Predicting with several heads at once gives what each gives."""
    X, y = data
    head, other = MEMBERS[kind]
    rows = [np.arange(0, 200), np.arange(100, 300)]
    heads = head.fit_many(X, y, [(rows[0], {}), (rows[0], other), (rows[1], {})])
    tests = [rows[1], rows[1], rows[0]]
    for fitted, part, found in zip(heads, tests, type(head).predict_many(heads, X, tests), strict=True):
        assert found == pytest.approx(fitted.predict(X[part]), rel=1e-6, abs=1e-9)


@every_head
def test_rows_that_are_invalid_are_named(data, kind):
    """Features, times and events that are not valid are refused by the numbers of their rows."""
    X, y = data[0].copy(), data[1]
    X[[7, 31], 3] = np.nan, np.inf
    head = MEMBERS[kind][0]
    with pytest.raises(HeadError, match=r"not finite in 2 rows.*\[7, 31\]"):
        head.fit_many(X, y, [(np.arange(300), {})])
    for place, value, words in (
        ((5, 0), np.inf, r"not finite in 1 row, the first being \[5\]"),
        ((5, 0), 0, r"must be above 0, but are not in 1 row, the first being \[5\]"),
        ((5, 0), -2, "must be above 0"),
        ((5, 1), 2, r"events must be 0 \(censored\) or 1, but are not in 1 row, the first being \[5\]"),
    ):
        bad = y.copy()
        bad[place] = value
        with pytest.raises(InputError, match=words):
            head.fit_many(data[0], bad, [(np.arange(300), {})])
    with pytest.raises(InputError, match=r"y of shape \(n_samples, 2\), time and event, but y has shape \(300,\)"):
        head.fit(data[0], y[:, 0])


@every_head
def test_no_event_is_refused(data, kind):
    """Training rows without an event are refused."""
    X, y = data
    censored = np.flatnonzero(y[:, 1] == 0)
    with pytest.raises(HeadError, match=f"no event among {len(censored)} training rows"):
        MEMBERS[kind][0].fit_many(X, y, [(censored, {})])
