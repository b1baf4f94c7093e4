"""Ridge regression: scikit-learn's own, for every shape of rows, columns, outputs and weights."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference
from sklearn.preprocessing import StandardScaler

from headwater.errors import HeadError
from headwater.heads import Ridge

ALPHAS = [1e-3, 0.1, 10.0, 1e4]


def made(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * rng.uniform(0.01, 50, d) + rng.uniform(-9, 9, d)
    y = X @ rng.standard_normal((d, k)) + 5 * rng.standard_normal((n, k)) + 100
    return X, y, rng.uniform(0, 3, n)


def reference(X, y, alpha, weights=None, scale=True):
    """scikit-learn's pipeline: columns scaled by all rows alike, then ridge regression with the weights."""
    scaler = StandardScaler(with_std=scale)
    model = Reference(alpha=alpha, solver="svd", tol=1e-12).fit(scaler.fit_transform(X), y, weights)
    return lambda new: model.predict(scaler.transform(new))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(120, 8, 1), (120, 8, 3), (20, 60, 1), (20, 60, 3), (30, 30, 2)])
def test_scikit_learn_agrees(n, d, k, weighted):
    """Every penalty on every set of rows gives scikit-learn's predictions, with fewer rows than columns or more."""
    X, y, weights = made(n, d, k)
    weights = weights if weighted else None
    rows = [np.arange(0, n - 5), np.arange(5, n)]
    fits = [(part, {"alpha": alpha}) for part in rows for alpha in ALPHAS]
    for (part, params), head in zip(fits, Ridge().fit_many(X, y, fits, sample_weight=weights), strict=True):
        own = None if weights is None else weights[part]
        expected = reference(X[part], y[part], params["alpha"], own)(X).reshape(n, k)
        assert head.predict(X) == pytest.approx(expected, rel=1e-7, abs=1e-7 * np.abs(y).max())


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("n", [90, 10])
def test_constant_columns_say_nothing(n, scale):
    """A constant column, a column that is another's copy, and one that is constant in some rows alone: no harm done."""
    X, y, _ = made(n, 20, 1)
    X[:, 3], X[:, 4], X[: n - 2, 5] = 7.0, X[:, 6], 0.1
    rows = np.arange(n - 2)
    (head,) = Ridge(0.5, standardize=scale).fit_many(X, y[:, 0], [(rows, {})])
    assert head.predict(X[rows]) == pytest.approx(reference(X[rows], y[rows, 0], 0.5, scale=scale)(X[rows]), rel=1e-7)
    assert np.isfinite(head.coef_).all()


def test_a_weight_of_two_is_a_row_twice():
    """With columns as they are, weights count as repetition does, and a row of no weight is not there."""
    X, y, _ = made(60, 6, 2)
    weights = np.random.default_rng(1).integers(0, 3, 60)
    rows = np.arange(60)
    (weighted,) = Ridge(2.0, standardize=False).fit_many(X, y, [(rows, {})], sample_weight=weights)
    (repeated,) = Ridge(2.0, standardize=False).fit_many(X, y, [(np.repeat(rows, weights), {})])
    assert weighted.coef_ == pytest.approx(repeated.coef_, rel=1e-9)
    assert weighted.intercept_ == pytest.approx(repeated.intercept_, rel=1e-9)


def test_large_columns_lose_no_digits():
    """Columns far from 0, whose squares would drown their spread, are solved as if they were centred."""
    X, y, _ = made(4000, 5, 1)
    rows = np.arange(4000)
    near, far = (Ridge(1.0).fit_many(part, y[:, 0], [(rows, {})])[0] for part in (X, X + 1e6))
    assert far.predict(X + 1e6) == pytest.approx(near.predict(X), rel=1e-6)


def test_stored_rows_are_read_as_arrays_are():
    """An array-like that is read in blocks gives what an array gives."""
    X, y, _ = made(50, 4, 1)

    class Blocks:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            return X[rows]

        def blocks(self):
            yield slice(0, 30), X[:30]
            yield slice(30, 50), X[30:]

    (head,) = Ridge().fit_many(Blocks(), y, [(np.arange(40), {})])
    (plain,) = Ridge().fit_many(X, y, [(np.arange(40), {})])
    assert np.array_equal(head.predict(Blocks()), plain.predict(X))


def test_what_cannot_be_fitted_is_refused():
    """A penalty of nothing, weights that are none, and rows of no weight are refused in a line."""
    X, y, _ = made(20, 3, 1)
    rows = [(np.arange(20), {})]
    with pytest.raises(HeadError, match="alpha must be above 0"):
        Ridge(0).fit_many(X, y, rows)
    with pytest.raises(HeadError, match="sample_weight must be 20 numbers"):
        Ridge().fit_many(X, y, rows, sample_weight=-np.ones(20))
    with pytest.raises(HeadError, match=r"zero for all rows|0 in all training rows"):
        Ridge().fit_many(X, y, rows, sample_weight=np.zeros(20))
