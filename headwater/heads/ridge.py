"""Ridge regression on frozen features, for all penalties and outputs from one eigendecomposition per set of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._backend import NUMPY, Array, Backend, computed, product, to_numpy
from headwater._devices import Device
from headwater.errors import HeadError
from headwater.heads._regressor import Floats, Regressor, as_targets
from headwater.heads._rows.base import positive_std
from headwater.heads._settings import require_above_0, require_one_of, weights_of_rows
from headwater.heads._weighted import TakesWeights
from headwater.heads.base import Fit, SearchSpace, State, blocks

Rows = NDArray[np.int64]
EIGEN = 20  # operations of an eigendecomposition, in units of the cube of its size
ROWS_AT_ONCE = 2048  # rows in float64 at once, if there are more rows than columns
ROWS_ON_DEVICE = 32768  # the same on a GPU, which needs large products to be busy


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
    device
        ``auto``, ``cpu`` or ``cuda``; see `headwater.heads`.

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

    def __init__(self, alpha: float = 1.0, *, standardize: bool = True, device: Device = "auto") -> None:
        self.alpha = alpha
        self.standardize = standardize
        self.device = device

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
            require_one_of(head, device=Device)
            sharing.setdefault((id(rows), bool(head.standardize)), []).append(i)
        for (_, scale), members in sharing.items():
            rows = fits[members[0]][0]
            alphas = np.array([heads[i].alpha for i in members], np.float64)
            solved = _solved(
                X,
                rows,
                targets[rows],
                None if weights is None else weights[rows],
                alphas,
                scale=scale,
                device=heads[members[0]].device,
            )
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
            coef = np.concatenate([heads[i].coef_ for i in members])
            products = product(X[rows[members[0]]], coef.T, heads[members[0]].device)
            sizes = np.cumsum([len(heads[i].intercept_) for i in members])
            for i, found in zip(members, np.split(products, sizes[:-1], axis=1), strict=True):
                values = found + heads[i].intercept_
                out[i] = values if heads[i].several_ else values[:, 0]
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


def _solved(
    X: Any, rows: Rows, y: Floats, weights: Floats | None, alphas: Floats, *, scale: bool, device: Device
) -> Solution:
    """Solve as `solve` does, where `computed` says."""
    d = X.shape[1]
    least = min(len(rows), d)
    work = 2.0 * len(rows) * d * least + EIGEN * least**3

    def solved(backend: Backend) -> Solution:
        return solve(X, rows, y, weights, alphas, backend, scale=scale)

    return computed(solved, device, work=work, what="ridge heads", X=X)


def solve(
    X: Any, rows: Rows, y: Floats, weights: Floats | None, alphas: Floats, backend: Backend = NUMPY, *, scale: bool
) -> Solution:
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
    backend
        Where to compute, in float64.
    scale
        Whether columns are divided by their standard deviations.
    """
    read = _Reader(X, rows, backend)
    mean, std = _moments(read, scale)
    counts = np.ones(len(rows)) if weights is None else weights
    total = counts.sum()
    if not total > 0:
        raise HeadError("sample_weight is 0 in all training rows, so there is nothing to fit.")
    y_mean = counts @ y / total
    Y = read.put(np.sqrt(counts)[:, None] * (y - y_mean))
    counts, root = read.put(counts), read.put(np.sqrt(counts)[:, None])
    if len(rows) < len(mean):
        Z = (read(slice(None)) - mean) / std
        centre = counts @ Z / total
        Z = root * (Z - centre)
        values, vectors = _decomposed(backend.xp, Z @ Z.T)
        rotated = vectors.T @ Y
        shrunk = [Z.T @ (vectors @ (rotated / (values + alpha)[:, None])) for alpha in alphas.tolist()]
    else:
        gram, cross, centre = 0.0, 0.0, 0.0
        for some in read.spans():
            Z = (read(some) - mean) / std
            centre = centre + counts[some] @ Z
            Z *= root[some]
            gram = gram + Z.T @ Z
            cross = cross + Z.T @ Y[some]
        centre = centre / total
        gram = gram - total * centre[:, None] * centre  # 0 without weights: columns were centred without them
        values, vectors = _decomposed(backend.xp, gram)
        rotated = vectors.T @ cross  # Y is centred, so centring Z has no effect here
        shrunk = [vectors @ (rotated / (values + alpha)[:, None]) for alpha in alphas.tolist()]
    coef = (to_numpy(backend.xp.stack(shrunk)) / to_numpy(std)[:, None]).transpose(0, 2, 1)
    return Solution(coef, y_mean - coef @ to_numpy(mean + std * centre))


class _Reader:
    """Reads training rows as float64 arrays of a backend."""

    def __init__(self, X: Any, rows: Rows, backend: Backend) -> None:
        self.X, self.rows, self.backend = X, rows, backend

    def __call__(self, some: slice) -> Array:
        part = self.X[self.rows[some]]
        return self.backend.xp.astype(self.backend.put(part), self.backend.xp.float64)

    def put(self, values: Floats) -> Array:
        return self.backend.put(values, self.backend.xp.float64)

    def spans(self) -> Iterator[slice]:
        step = ROWS_AT_ONCE if self.backend.is_numpy else ROWS_ON_DEVICE
        for start in range(0, len(self.rows), step):
            yield slice(start, start + step)


def _moments(read: _Reader, scale: bool) -> tuple[Array, Array]:
    """Return means and standard deviations (1 if constant) of columns; refuse non-finite rows."""
    xp = read.backend.xp
    total: Any = 0.0
    for some in read.spans():
        part = xp.sum(read(some), axis=0)
        if not bool(xp.isfinite(xp.sum(part))):
            _refuse_not_finite(read)
        total = total + part
    mean = total / len(read.rows)
    if not scale:
        return mean, xp.ones_like(mean)
    squares: Any = 0.0
    for some in read.spans():
        squares = squares + xp.sum((read(some) - mean) ** 2, axis=0)
    return mean, positive_std(xp, squares / len(read.rows), mean)


def _refuse_not_finite(read: _Reader) -> None:
    found = [read.rows[some][~np.isfinite(to_numpy(read(some))).all(1)] for some in read.spans()]
    bad = np.concatenate(found)
    if len(bad):
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5].tolist()}.")


def _decomposed(xp: Any, symmetric: Array) -> tuple[Array, Array]:
    """Return eigenvalues, none below 0, and eigenvectors."""
    values, vectors = xp.linalg.eigh(symmetric)
    return xp.maximum(values, xp.zeros_like(values)), vectors
