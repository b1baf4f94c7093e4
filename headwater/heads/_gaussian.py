"""Linear discriminants of Gaussian classes with one covariance: all shrinkages of a row set from one decomposition.

Moments of nested row sets, such as folds and their inner folds, are made from each other: a set's product matrix is
that of a set that contains it, minus that of the rows it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater._backend import Array, Backend, to_numpy
from headwater.errors import HeadError
from headwater.heads._rows.base import positive_std
from headwater.heads.neighbours import unit_rows

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Shrinkage = float | Literal["ks"]
Scaling = Literal["unit", "standardize"]
ROWS_AT_ONCE = 2048  # rows in float64 at once
ROWS_ON_DEVICE = 32768  # the same on a GPU, which needs large products to be busy
ALL = -1  # the number of the set of all rows that are used
ROUNDING = 1e-13  # a variance below this share of the squared size of rows is rounding
LEAST_LEFT = 1e-6  # least share of squares that a difference may leave; with less, rounding would show
TINY = 1e-20  # a mean whose square is below this share of what was subtracted is rounding
LEAST_DENOMINATOR = 1e-14  # of a rank-one update, which rounding may bring to 0


class Discriminants(NamedTuple):
    """Linear discriminants of one row set for several shrinkages, without the logarithms of priors.

    Attributes
    ----------
    coef
        Weights for rows as they are (``standardize``) or scaled to length 1 (``unit``), float64, of shape
        ``(n_shrinkages, n_outputs, d)``: one output for two classes, else one per class, or one per label.
    offset
        Of shape ``(n_shrinkages, n_outputs)``.
    """

    coef: Floats
    offset: Floats


@dataclass(frozen=True, eq=False)
class Truth:
    """Classes or labels of all rows.

    Attributes
    ----------
    codes
        Class numbers, of shape ``(n,)``, or 0/1, of shape ``(n, n_labels)``.
    n_classes
        Number of classes or labels.
    """

    codes: NDArray[Any]
    n_classes: int

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.codes.ndim == 2

    def of(self, rows: Rows) -> Floats:
        """Return which class or labels rows have, 0/1, of shape ``(n_rows, n_classes)``."""
        if self.several:
            return np.asarray(self.codes[rows] > 0, np.float64)
        return np.asarray(self.codes[rows][:, None] == np.arange(self.n_classes), np.float64)


@dataclass(frozen=True, eq=False)
class Step:
    """How the moments of a row set are made.

    Attributes
    ----------
    number
        The set; `ALL` for the rows of all sets, which no fit needs.
    parent
        The set whose moments it is made from, by leaving out ``rows``; None if they are made from ``rows`` alone.
    rows
        The rows to read.
    """

    number: int
    parent: int | None
    rows: Rows


def families(row_sets: Sequence[Rows]) -> list[Step]:
    """Return the steps that make the moments of all sets with few rows read; a set's parent is a step before it.

    Between a parent and its child stand descendants of the parent only, so that few moments are kept at once.
    """
    used = np.unique(np.concatenate(row_sets))
    inside = np.zeros((len(row_sets) + 1, len(used)), bool)
    inside[-1] = True
    distinct = []
    for s, rows in enumerate(row_sets):
        places = np.searchsorted(used, rows)
        inside[s, places] = True
        distinct.append(int(inside[s].sum()) == len(rows))
    sizes = [len(rows) for rows in row_sets]
    packed = np.packbits(inside, axis=1)

    def parent_of(s: int, others: Sequence[int]) -> int | None:
        """Return the smallest of larger sets that contain a set, if what it lacks is smaller than the set."""
        fitting = [p for p in others if size(p) - size(s) < size(s) and not (packed[s] & ~packed[p]).any()]
        return min(fitting, key=size) if fitting and distinct[s] else None

    def size(s: int) -> int:
        return len(used) if s == ALL else sizes[s]

    order = sorted(range(len(row_sets)), key=lambda s: -sizes[s])
    plans = []
    for first in ([], [ALL]):
        parents = {
            s: parent_of(s, [*first, *(p for p in order[:place] if distinct[p])]) for place, s in enumerate(order)
        }
        read = sum(size(s) if p is None else size(p) - size(s) for s, p in parents.items())
        plans.append((read + len(first) * len(used), parents))
    (without, parents), (with_all, others) = plans
    roots: list[Step] = []
    if with_all < without:
        parents = others
        roots = [Step(ALL, None, used)]
    roots += [Step(s, None, row_sets[s]) for s, p in parents.items() if p is None]
    steps: list[Step] = []
    left = roots[::-1]
    while left:
        step = left.pop()
        steps.append(step)
        for s, p in parents.items():
            if p == step.number:
                left.append(Step(s, p, used[inside[p] & ~inside[s]]))
    return steps


def discriminants(
    X: Any,
    row_sets: Sequence[Rows],
    truth: Truth,
    shrinkages: Sequence[Sequence[Shrinkage]],
    backend: Backend,
    *,
    scaling: Scaling,
) -> list[Discriminants]:
    """Return the discriminants of each row set for its shrinkages.

    With S the covariance within classes (divided by the number of rows), a class with mean ``m`` has weights ``P m``
    and offset ``-m P m / 2``. A shrinkage is a number λ, ``P = ((1 - λ) S + λ tr(S) / d I)⁻¹``; or ``ks``,
    ``P = d ((n - 1) Ŝ + tr(Ŝ) I)⁻¹`` with ``Ŝ = n S / (n - 1)``. A label has the classes of rows with and without it.
    If S is zero, ``P = (tr(T) / d)⁻¹ I`` with T the covariance of all rows; if T is zero too, weights are 0.

    Parameters
    ----------
    X
        Features of shape ``(n_samples, d)``, an array-like.
    row_sets
        Rows of each set.
    truth
        Classes or labels of the rows of X.
    shrinkages
        For each set, the shrinkages.
    backend
        Where to compute, in float64.
    scaling
        Whether rows are scaled to length 1, or columns to standard deviation 1 on the rows of the set.

    Raises
    ------
    HeadError
        When rows are not finite; the message names them.

    References
    ----------
    Wang et al., A hard-to-beat baseline for training-free CLIP-based adaptation, ICLR 2024, equations 4 to 6. Kubokawa
    and Srivastava, Estimation of the precision matrix of a singular Wishart distribution, 2008 (``ks``). Sherman and
    Morrison, 1950: a label's covariance within classes is that of all rows minus a matrix of rank one, so that all
    labels share a decomposition.
    """
    read = _Reader(X, row_sets, backend, unit=scaling == "unit")
    out: list[Any] = [None] * len(row_sets)
    d = int(X.shape[1])
    large = [s for s, rows in enumerate(row_sets) if len(rows) >= d]
    standardize = scaling == "standardize"
    for s, rows in enumerate(row_sets):
        if len(rows) < d:
            out[s] = _Space.of_rows(read, rows, truth, standardize=standardize).solved(shrinkages[s])
    if large:
        for number, moments in _moments(read, [row_sets[s] for s in large], truth):
            s = large[number]
            out[s] = _Space.of_moments(moments, truth, backend, standardize=standardize).solved(shrinkages[s])
    return out


class _Reader:
    """Reads rows as float64 arrays of a backend, scaled to length 1 if wanted."""

    def __init__(self, X: Any, row_sets: Sequence[Rows], backend: Backend, *, unit: bool) -> None:
        self.X, self.row_sets, self.backend, self.unit = X, row_sets, backend, unit

    def __call__(self, rows: Rows) -> Array:
        xp = self.backend.xp
        values = self._read(rows)
        if not bool(xp.all(xp.isfinite(values))):
            self._refuse()
        return unit_rows(values, xp) if self.unit else values

    def spans(self, rows: Rows) -> Iterator[Rows]:
        """Divide rows into parts to read at once."""
        step = ROWS_AT_ONCE if self.backend.is_numpy else ROWS_ON_DEVICE
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def _read(self, rows: Rows) -> Array:
        return self.backend.xp.astype(self.backend.put(self.X[rows]), self.backend.xp.float64)

    def _refuse(self) -> None:
        every = np.unique(np.concatenate(self.row_sets))
        found = [part[~np.isfinite(to_numpy(self._read(part))).all(1)] for part in self.spans(every)]
        bad = np.concatenate(found)
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5].tolist()}.")


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over some rows, of which a shift was subtracted.

    Attributes
    ----------
    shift
        Of shape ``(d,)``.
    n, counts
        Number of rows, and of those of each class, ``(n_classes,)``.
    total, sums, gram
        Sum of rows ``(d,)``, of those of each class ``(n_classes, d)``, and of products of columns ``(d, d)``.
    """

    shift: Array
    n: int
    counts: Floats
    total: Array
    sums: Array
    gram: Array

    def without(self, other: _Moments) -> _Moments:
        """Return the moments of the rows that are not in another set."""
        return _Moments(
            self.shift,
            self.n - other.n,
            self.counts - other.counts,
            self.total - other.total,
            self.sums - other.sums,
            self.gram - other.gram,
        )


def _moments(read: _Reader, row_sets: Sequence[Rows], truth: Truth) -> Iterator[tuple[int, _Moments]]:
    """Yield the number of each set with its moments.

    Where a few rows are larger than all others by orders of magnitude, moments are summed anew, since the difference of
    large sums would leave a set that lacks these rows with rounding.
    """
    xp = read.backend.xp
    first = next(read.spans(row_sets[0]))
    shift = xp.mean(read(first), axis=0)  # near the mean, for precise products
    known: list[tuple[int, _Moments]] = []
    for step in families(row_sets):
        while known and known[-1][0] != step.parent:
            known.pop()
        found = _summed(read, step.rows, truth, shift)
        if step.parent is not None:
            parent = known[-1][1]
            found = parent.without(found)
            if bool(xp.any(xp.linalg.diagonal(found.gram) < LEAST_LEFT * xp.linalg.diagonal(parent.gram))):
                found = _summed(read, row_sets[step.number], truth, shift)
        known.append((step.number, found))
        if step.number != ALL:
            of_mean = found.total**2 / found.n
            apart = xp.linalg.diagonal(found.gram) - of_mean < LEAST_LEFT * of_mean
            if bool(xp.any(apart & (of_mean > TINY * found.n * shift**2))):
                found = _summed(read, row_sets[step.number], truth, shift + found.total / found.n)
            yield step.number, found


def _summed(read: _Reader, rows: Rows, truth: Truth, shift: Array) -> _Moments:
    backend = read.backend
    xp, d = backend.xp, len(shift)
    total, gram = backend.zeros(d, xp.float64), backend.zeros((d, d), xp.float64)
    sums = backend.zeros((truth.n_classes, d), xp.float64)
    counts = np.zeros(truth.n_classes)
    for part in read.spans(rows):
        Z = read(part) - shift
        here = truth.of(part)
        total += xp.sum(Z, axis=0)
        sums += backend.put(here).T @ Z
        gram += Z.T @ Z
        counts += here.sum(0)
    return _Moments(shift, len(rows), counts, total, sums, gram)


@dataclass(frozen=True, eq=False)
class _Space:
    """A row set in the space where its discriminants are computed: its columns, or, if it has fewer rows, their span.

    Attributes
    ----------
    backend
        Where to compute.
    several
        Whether a row may have several labels.
    n, counts
        Number of rows, and of those of each class, ``(n_classes,)``.
    scatter
        Covariance of all rows, ``(m, m)``.
    means
        Mean of each class, relative to that of all rows, ``(n_classes, m)``; 0 for a class without rows.
    mean, std
        Mean and divisor of columns, ``(d,)``.
    basis
        Directions of the space in the columns, ``(d, m)``; None if they are the columns.
    rounding
        A trace up to this is rounding.
    """

    backend: Backend
    several: bool
    n: int
    counts: Floats
    scatter: Array
    means: Array
    mean: Array
    std: Array
    basis: Array | None
    rounding: float

    @classmethod
    def of_moments(cls, moments: _Moments, truth: Truth, backend: Backend, *, standardize: bool) -> _Space:
        """Return the space of the columns."""
        xp, n = backend.xp, moments.n
        middle = moments.total / n
        scatter = moments.gram / n - middle[:, None] * middle
        mean = middle + moments.shift
        std = xp.ones_like(mean)
        if standardize:
            std = positive_std(xp, xp.linalg.diagonal(scatter), mean)
            scatter = scatter / std / std[:, None]
        some = backend.put(np.maximum(moments.counts, 1))
        there = backend.put((moments.counts > 0).astype(np.float64))
        means = (moments.sums / some[:, None] - middle) * there[:, None] / std
        size = _trace(xp, scatter) + float(xp.sum((middle / std) ** 2))
        return cls(backend, truth.several, n, moments.counts, scatter, means, mean, std, None, rounding=ROUNDING * size)

    @classmethod
    def of_rows(cls, read: _Reader, rows: Rows, truth: Truth, *, standardize: bool) -> _Space:
        """Return the space that rows span, by a QR decomposition: ``Zᵀ = basis R``, and the rows become ``Rᵀ``."""
        backend = read.backend
        xp, n = backend.xp, len(rows)
        Z = read(rows)
        mean = xp.mean(Z, axis=0)
        Z = Z - mean
        std = positive_std(xp, xp.mean(Z * Z, axis=0), mean) if standardize else xp.ones_like(mean)
        basis, R = xp.linalg.qr((Z / std).T)
        here = truth.of(rows)
        counts = here.sum(0)
        means = R @ backend.put(here / np.maximum(counts, 1))
        scatter = R @ R.T / n
        size = _trace(xp, scatter) + ROUNDING * float(xp.sum((mean / std) ** 2))
        return cls(backend, truth.several, n, counts, scatter, means.T, mean, std, basis, rounding=ROUNDING * size)

    def solved(self, shrinkages: Sequence[Shrinkage]) -> Discriminants:
        """Return the discriminants for some shrinkages."""
        weights, offset = (self._of_labels if self.several else self._of_classes)(shrinkages)
        xp = self.backend.xp
        flat = xp.reshape(weights, (-1, weights.shape[2]))
        if self.basis is not None:
            flat = flat @ self.basis.T
        coef = to_numpy(flat / self.std).reshape(*weights.shape[:2], -1)
        return Discriminants(coef, to_numpy(offset) - coef @ to_numpy(self.mean))

    def _of_classes(self, shrinkages: Sequence[Shrinkage]) -> tuple[Array, Array]:
        """Return weights ``(n_shrinkages, n_outputs, m)`` and offsets, for rows from which the mean was subtracted."""
        backend = self.backend
        xp = backend.xp
        seen = np.flatnonzero(self.counts)
        means = self.means[backend.put(seen)] if not backend.is_numpy else self.means[seen]
        share = backend.put(self.counts[seen] / self.n)
        within = self.scatter - means.T @ (share[:, None] * means)
        trace, total = _trace(xp, within), _trace(xp, self.scatter)
        if trace <= self.rounding:
            variance = total / self._d if total > self.rounding else np.inf
            each = means / variance
            weights = xp.stack([each] * len(shrinkages))
            along = xp.stack([xp.sum(each * means, axis=1)] * len(shrinkages))
        else:
            values, vectors = _decomposed(xp, within)
            turned = means @ vectors
            scales = [_regularised(shrinkage, trace / self._d, self.n, self._d) for shrinkage in shrinkages]
            inverse = xp.stack([turned / (scale * values + ridge) for scale, ridge in scales])
            along = xp.sum(inverse * turned, axis=2)
            if len(seen) == 2:
                inverse = inverse[:, 1:] - inverse[:, :1]
            weights = xp.reshape(xp.reshape(inverse, (-1, len(values))) @ vectors.T, inverse.shape)
        if len(seen) == 2:
            along = along[:, 1:] - along[:, :1]
            weights = weights if weights.shape[1] == 1 else weights[:, 1:] - weights[:, :1]
        return weights, -along / 2

    def _of_labels(self, shrinkages: Sequence[Shrinkage]) -> tuple[Array, Array]:
        """Return the same for labels; a label that is constant has weights 0."""
        backend = self.backend
        xp = backend.xp
        positive = self.counts / self.n
        varied = (positive > 0) & (positive < 1)
        ratio = backend.put(np.where(varied, positive / np.maximum(1 - positive, 0.5 / self.n), 0.0))
        others = -ratio[:, None] * self.means  # means of the rows without each label
        apart = (self.means - others) * backend.put(varied.astype(np.float64))[:, None]
        between = backend.put(positive * (1 - positive))
        total = _trace(xp, self.scatter)
        traces = total - between * xp.sum(apart * apart, axis=1)
        flat = traces <= self.rounding
        variance = (
            xp.where(flat, xp.full_like(traces, max(total, self.rounding, np.finfo(float).tiny)), traces) / self._d
        )
        values, vectors = _decomposed(xp, self.scatter)
        turned = apart @ vectors
        weights, offsets = [], []
        middle = (self.means + others) / 2
        for shrinkage in shrinkages:
            scale, ridge = _regularised(shrinkage, variance, self.n, self._d)
            regular = xp.where(
                flat[:, None], xp.zeros_like(turned) + variance[:, None], scale * values + ridge[:, None]
            )
            each = turned / regular
            share = xp.where(flat, xp.zeros_like(between), scale * between) * xp.sum(turned * each, axis=1)
            each = each / xp.clip(1 - share, LEAST_DENOMINATOR, None)[:, None]
            weights.append(each @ vectors.T)
            offsets.append(-xp.sum(middle * weights[-1], axis=1))
        return xp.stack(weights), xp.stack(offsets)

    @property
    def _d(self) -> int:
        return len(self.mean)


def _regularised(shrinkage: Shrinkage, variance: Any, n: int, d: int) -> tuple[float, Any]:
    """Return the scale of S, and what is added to its diagonal, for S of this mean variance."""
    if shrinkage == "ks":
        return n / d, n / (n - 1) * variance
    return 1 - float(shrinkage), float(shrinkage) * variance


def _trace(xp: Any, matrix: Array) -> float:
    return float(xp.sum(xp.linalg.diagonal(matrix)))


def _decomposed(xp: Any, symmetric: Array) -> tuple[Array, Array]:
    """Return eigenvalues, none below 0, and eigenvectors."""
    values, vectors = xp.linalg.eigh(symmetric)
    return xp.maximum(values, xp.zeros_like(values)), vectors
