"""Every regressor keeps scikit-learn's contract, and is the same alone or in company, before and after a disk."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from headwater.errors import HeadError
from headwater.evaluate.search import KINDS
from headwater.heads import (
    REGRESSORS,
    KNNRegressor,
    Ridge,
    XGBoostRegressor,
    head_class,
    load_head,
    make_head,
    save_head,
)

MEMBERS = {
    "ridge": (Ridge(), {"alpha": 100.0}),
    "knn": (KNNRegressor(k=5), {"k": 30}),
    "xgboost": (XGBoostRegressor(n_rounds=20, n_threads=1), {"max_depth": 2}),
}
EQUIVALENCE = "check_sample_weight_equivalence_on_dense_data"
EXPECTED = {
    "Ridge": {EQUIVALENCE: "standardisation counts rows alike"},
    "XGBoostRegressor": {EQUIVALENCE: "some rows are held out to stop by, and targets are standardised"},
}
every_head = pytest.mark.parametrize("kind", MEMBERS)
each_task = pytest.mark.parametrize(("kind", "outputs"), [(k, n) for k in MEMBERS for n in (None, 1, 3)])
CHECKS = [
    pytest.param(estimator, check, id=f"{type(estimator).__name__}-{getattr(check, 'func', check).__name__}")
    for head, _ in MEMBERS.values()
    for estimator, check in estimator_checks_generator(
        head, mark="skip", expected_failed_checks=EXPECTED.get(type(head).__name__, {})
    )
]


@pytest.mark.filterwarnings("default")  # scikit-learn's checks warn on purpose
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_contract(estimator, check):
    """scikit-learn's own suite of checks."""
    check(estimator)


def test_every_regressor_is_here():
    """A new regressor joins this suite."""
    assert set(MEMBERS) == set(REGRESSORS)


@every_head
def test_what_is_searched_are_parameters(kind):
    """A regressor's own grid and its search space are of its own parameters, in ranges that are known."""
    cls = head_class(kind, regression=True)
    known = set(cls().get_params())
    assert set(cls.search_space) <= known
    assert {where[0] for where in cls.search_space.values()} <= set(KINDS)
    assert len(cls().default_grid()) > 1
    assert all(set(params) <= known for params in cls().default_grid())


def test_a_head_of_the_other_kind_is_refused():
    """A head of classes asked for numbers, and the reverse, is refused with those that there are."""
    with pytest.raises(
        HeadError, match=r"'linear' predicts classes, not numbers\. For regression there are: ridge, knn"
    ):
        make_head("linear", {}, regression=True)
    with pytest.raises(
        HeadError, match=r"'ridge' predicts numbers, not classes\. Pass --task regression, or there are"
    ):
        make_head("ridge", {})
    with pytest.raises(HeadError, match=r"unknown head 'rigde'\. Did you mean 'ridge'\?"):
        head_class("rigde", regression=True)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 12)).astype(np.float32) * rng.uniform(0.1, 5, 12).astype(np.float32) + 3
    Z = (X - X.mean(0)) / X.std(0)
    y = np.column_stack([Z[:, 0] + 2, 1000 * Z[:, 1] * Z[:, 2], 0.01 * Z[:, 3]]) + 0.1 * rng.standard_normal((300, 3))
    return X, {None: y[:, 0], 1: y[:, :1], 3: y}


@each_task
def test_company_changes_nothing(data, kind, outputs):
    """A head fitted among others, with other settings and rows, is the head fitted alone, and in its targets' shape."""
    X, y = data[0], data[1][outputs]
    head, other = MEMBERS[kind]
    rows = [np.arange(0, 200), np.arange(100, 300)]
    fits = [(part, params) for part in rows for params in ({}, other)]
    for (part, params), fitted in zip(fits, head.fit_many(X, y, fits), strict=True):
        alone = type(head)(**{**head.get_params(), **params}).fit(X[part], y[part])
        assert fitted.predict(X).shape == y.shape
        assert fitted.predict(X) == pytest.approx(alone.predict(X), rel=1e-5, abs=1e-5)


@each_task
def test_a_saved_head_predicts_the_same(data, kind, outputs, tmp_path):
    """What a head says is what it says after it was written and read."""
    X, y = data[0], data[1][outputs]
    head = MEMBERS[kind][0].fit(X, y)
    save_head(head, kind, tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict(X), head.predict(X))
    assert loaded.get_params() == head.get_params()


@each_task
def test_many_predictions_are_each_heads_own(data, kind, outputs):
    """Predicting with several heads at once gives what each gives."""
    X, y = data[0], data[1][outputs]
    head, other = MEMBERS[kind]
    rows = [np.arange(0, 200), np.arange(100, 300)]
    heads = head.fit_many(X, y, [(rows[0], {}), (rows[0], other), (rows[1], {})])
    tests = [rows[1], rows[1], rows[0]]
    for fitted, part, found in zip(heads, tests, type(head).predict_many(heads, X, tests), strict=True):
        assert found == pytest.approx(fitted.predict(X[part]), rel=1e-6)


@every_head
def test_outputs_are_predicted_in_their_own_units(data, kind):
    """An output measured in a thousandth of the unit is predicted a thousand times as large, whatever is beside it."""
    X, y = data[0], data[1][3]
    head = MEMBERS[kind][0]
    (plain,) = head.fit_many(X, y, [(np.arange(200), {})])
    (scaled,) = head.fit_many(X, y * [1, 1e-3, 1e3] + [0, 5, 0], [(np.arange(200), {})])
    assert scaled.predict(X) == pytest.approx(plain.predict(X) * [1, 1e-3, 1e3] + [0, 5, 0], rel=1e-3, abs=1e-3)


@every_head
def test_rows_that_are_not_numbers_are_named(data, kind):
    """Features, and targets, that are not finite are refused by the numbers of their rows."""
    X, y = data[0].copy(), data[1][None]
    X[[7, 31], 3] = np.nan, np.inf
    with pytest.raises(HeadError, match=r"not finite in 2 rows.*\[7, 31\]"):
        MEMBERS[kind][0].fit_many(X, y, [(np.arange(300), {})])
    with pytest.raises(HeadError, match=r"targets are not finite in 1 rows.*\[5\]"):
        MEMBERS[kind][0].fit_many(data[0], np.where(np.arange(300) == 5, np.inf, y), [(np.arange(300), {})])
