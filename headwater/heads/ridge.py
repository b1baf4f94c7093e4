"""Ridge regression on frozen features, for all penalties and outputs from one eigendecomposition per set of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater.errors import HeadError
from headwater.heads._regressor import Floats, Regressor, as_targets
from headwater.heads._rows import to_numpy
from headwater.heads._rows.base import positive_std
from headwater.heads._settings import require_above_0, weights_of_rows
from headwater.heads._weighted import TakesWeights
from headwater.heads.base import Fit, SearchSpace, State, blocks

Rows = NDArray[np.int64]
ROWS_AT_ONCE = 2048  # rows in float64 at once, if there are more rows than columns


class Ridge(TakesWeights, Regressor):
    """L2-penalised least squares on frozen features, for one number or several.

    Minimises ``sum of squared errors + alpha * ‖W‖²`` with an unpenalised intercept: the objective of scikit-learn's
    ``Ridge``, after standardising each column on the training rows as ``make_pipeline(StandardScaler(), Ridge(alpha))``
    does.

    Parameters
    ----------
    alpha
        Strength of the penalty, above 0; the same for all outputs.
    standardize
        Whether columns are scaled by their standard deviation on the training rows. (Centring has no effect, since the
        intercept is unpenalised.)

    Attributes
    ----------
    coef_ : float64, of shape (n_outputs, d)
        Weights for unstandardised X.
    intercept_ : float64, of shape (n_outputs,)
    several_, n_features_in_
        Whether targets have two dimensions; number of columns of X.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5)); y = 3 * X[:, 0] + 0.1 * rng.standard_normal(200)
    >>> round(Ridge(alpha=0.1).fit(X[:150], y[:150]).score(X[150:], y[150:]), 2)
    1.0

    References
    ----------
    Hoerl and Kennard, Ridge regression: biased estimation for nonorthogonal problems, 1970. Saunders, Gammerman and
    Vovk, Ridge regression learning algorithm in dual variables, 1998, for fewer rows than columns.
    """

    search_space: ClassVar[SearchSpace] = {"alpha": ("log", 1e-3, 1e7)}

    def __init__(self, alpha: float = 1.0, *, standardize: bool = True) -> None:
        self.alpha = alpha
        self.standardize = standardize

    def default_grid(self) -> list[dict[str, Any]]:
        """Return 17 penalties, evenly spaced on a log scale from 1e-2 to 1e6."""
        return [{"alpha": float(alpha)} for alpha in np.logspace(-2, 6, 17)]

    def fit_many(
        self,
        X: Any,
        y: NDArray[Any],
        fits: Sequence[Fit],
        *,
        groups: NDArray[Any] | None = None,
        sample_weight: NDArray[np.floating[Any]] | None = None,
    ) -> list[Self]:
        """Fit many; see `Head.fit_many`. Each set of rows is decomposed once, for all of its penalties and outputs.

        ``sample_weight`` holds the weight of each row of X, of shape ``(n_samples,)``; standardisation ignores it, as
        in ``make_pipeline(StandardScaler(), Ridge())``.
        """
        targets, several = as_targets(y)
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        weights = None if sample_weight is None else weights_of_rows(sample_weight, len(targets))
        sharing: dict[tuple[int, bool], list[int]] = {}
        for i, ((rows, _), head) in enumerate(zip(fits, heads, strict=True)):
            require_above_0(head, "alpha")
            sharing.setdefault((id(rows), bool(head.standardize)), []).append(i)
        for (_, scale), members in sharing.items():
            rows = fits[members[0]][0]
            alphas = np.array([heads[i].alpha for i in members], np.float64)
            solved = solve(X, rows, targets[rows], None if weights is None else weights[rows], alphas, scale=scale)
            for i, coef, intercept in zip(members, solved.coef, solved.intercept, strict=True):
                head = heads[i]
                head.coef_, head.intercept_, head.several_ = coef, intercept, several
                head.n_features_in_ = coef.shape[1]
        return heads

    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""
        check_is_fitted(self)
        values = {"params": self.get_params(), "several": self.several_}
        return values, {"coef": self.coef_, "intercept": self.intercept_}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""
        head = cls(**values["params"])
        head.coef_, head.intercept_, head.several_ = arrays["coef"], arrays["intercept"], values["several"]
        head.n_features_in_ = head.coef_.shape[1]
        return head

    @classmethod
    def predict_many(cls, heads: Sequence[Self], X: Any, rows: Sequence[Rows]) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict(X[rows])`` for each head; rows that heads share are read once."""
        out: list[Any] = [None] * len(heads)
        sharing: dict[int, list[int]] = {}
        for i, part in enumerate(rows):
            sharing.setdefault(id(part), []).append(i)
        for members in sharing.values():
            values = _read(X, rows[members[0]])
            for i in members:
                found = values @ heads[i].coef_.T + heads[i].intercept_
                out[i] = found if heads[i].several_ else found[:, 0]
        return out

    def _outputs(self, X: Any) -> Floats:
        out = np.empty((X.shape[0], len(self.intercept_)))
        for rows, values in blocks(X):
            out[rows] = to_numpy(values).astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        return out


class Solution(NamedTuple):
    """Weights for unstandardised X, ``(n_alphas, n_outputs, d)``, and intercepts ``(n_alphas, n_outputs)``."""

    coef: Floats
    intercept: Floats


def solve(X: Any, rows: Rows, y: Floats, weights: Floats | None, alphas: Floats, *, scale: bool) -> Solution:
    """Solve ridge regression on some rows for many penalties and outputs, exactly.

    With Z the standardised rows, weighted and centred, ``W = (ZᵀZ + alpha I)⁻¹ ZᵀY``: from the eigenvectors of ``ZᵀZ``,
    or, if there are fewer rows than columns, from those of ``ZZᵀ`` as ``W = Zᵀ (ZZᵀ + alpha I)⁻¹ Y``.

    Parameters
    ----------
    X
        Features of shape ``(n_samples, d)``, an array-like.
    rows
        Training rows.
    y : float64, of shape (n_rows, n_outputs)
        Their targets.
    weights : float64, of shape (n_rows,), or None
        Weight of the squared error of each.
    alphas : float64, of shape (n_alphas,)
        Penalties.
    scale
        Whether columns are divided by their standard deviations.
    """
    mean, std = _moments(X, rows, scale)
    counts = np.ones(len(rows)) if weights is None else weights
    total = counts.sum()
    if not total > 0:
        raise HeadError("sample_weight is 0 in all training rows, so there is nothing to fit.")
    root = np.sqrt(counts)[:, None]
    y_mean = counts @ y / total
    Y = root * (y - y_mean)
    d = len(mean)
    shrunk = np.empty((len(alphas), d, y.shape[1]))
    if len(rows) < d:
        Z = (_read(X, rows) - mean) / std
        centre = counts @ Z / total
        Z = root * (Z - centre)
        values, vectors = _decomposed(Z @ Z.T)
        rotated = vectors.T @ Y
        for a, alpha in enumerate(alphas):
            shrunk[a] = Z.T @ (vectors @ (rotated / (values + alpha)[:, None]))
    else:
        gram, cross, centre = np.zeros((d, d)), np.zeros((d, y.shape[1])), np.zeros(d)
        for some, part in _spans(rows):
            Z = (_read(X, part) - mean) / std
            centre += counts[some] @ Z
            Z *= root[some]
            gram += Z.T @ Z
            cross += Z.T @ Y[some]
        centre /= total
        gram -= total * np.outer(centre, centre)  # 0 without weights: columns were centred without them
        values, vectors = _decomposed(gram)
        rotated = vectors.T @ cross  # Y is centred, so centring Z has no effect here
        for a, alpha in enumerate(alphas):
            shrunk[a] = vectors @ (rotated / (values + alpha)[:, None])
    coef = (shrunk / std[:, None]).transpose(0, 2, 1)
    return Solution(coef, y_mean - coef @ (mean + std * centre))


def _moments(X: Any, rows: Rows, scale: bool) -> tuple[Floats, Floats]:
    """Return means and standard deviations (1 if constant) of columns; refuse non-finite rows."""
    total: Any = 0.0
    for _, part in _spans(rows):
        values = _read(X, part)
        if not np.isfinite(values.sum()):
            _refuse_not_finite(X, rows)
        total = total + values.sum(0)
    mean = total / len(rows)
    if not scale:
        return mean, np.ones_like(mean)
    squares: Any = 0.0
    for _, part in _spans(rows):
        squares = squares + ((_read(X, part) - mean) ** 2).sum(0)
    return mean, np.asarray(positive_std(np, squares / len(rows), mean), np.float64)


def _refuse_not_finite(X: Any, rows: Rows) -> None:
    found = [part[~np.isfinite(_read(X, part)).all(1)] for _, part in _spans(rows)]
    bad = np.concatenate(found)
    if len(bad):
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5].tolist()}.")


def _decomposed(symmetric: Floats) -> tuple[Floats, Floats]:
    """Return eigenvalues, none below 0, and eigenvectors."""
    values, vectors = np.linalg.eigh(symmetric)
    return np.maximum(values, 0), vectors


def _spans(rows: Rows) -> Iterator[tuple[slice, Rows]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        yield some, rows[some]


def _read(X: Any, rows: Rows) -> Floats:
    return np.asarray(to_numpy(X[rows]), np.float64)
