"""Training rows for many fits at once: what the solver walks over, and how its weights become weights for X.

`SharedRows`: all fits share one float32 matrix of standardised rows. A fit's own centring and scaling is folded into
its weights, so nothing is copied for a fold. Rows are ordered by the fits that they belong to, so that a chunk of rows
is multiplied only with the fits that use it.

`RotatedRows`: where a fit has fewer rows than columns, its weights lie in the space that its rows span. Each row set
is rotated into that space, which is smaller, and in which the scatter is diagonal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from headwater.errors import HeadError
from headwater.heads.base import blocks

Array = Any
T = TypeVar("T")

CHUNK_ROWS = 1024
MIN_CHUNK_ROWS = 256
MOMENT_ROWS = 256  # in float64 at once, to stay in the cache
ROTATE_BELOW = 0.75  # rows a column
ROTATE_ROWS = 1024  # more rows are a decomposition too dear


@dataclass(frozen=True)
class Chunk:
    """Some rows of the working matrix.

    Attributes
    ----------
    X
        Standardised features, of shape ``(r, d)``.
    rows
        Their row numbers in the caller's arrays, int64, of shape ``(r,)``.
    sets
        The row sets that at least one of them is in, int64, of shape ``(s,)``.
    inside
        Which row is in which of ``sets``, of shape ``(s, r)`` and the type of ``X``; None when all are in all.
    """

    X: Array
    rows: NDArray[np.int64]
    sets: NDArray[np.int64]
    inside: Array | None


class TrainingRows(ABC):
    """The rows that any of several row sets uses, as the solver sees them.

    The solver's weights for a set are about rows that are centred, scaled and rotated so that their scatter is
    diagonal, or nearly so. Chunks hold rows as they are kept; `to_coef` and `to_weights` go between the two.

    Attributes
    ----------
    xp
        The namespace of the arrays.
    inside
        Which row of X is in which set, bool, of shape ``(n_samples, n_sets)``.
    n_weights
        Weights that the solver has for each output.
    eigenvalues
        Of the mean scatter of each set, or of all alike, of shape ``(n_sets, n_weights)`` or ``(1, n_weights)``. Held
        above a floor at which rounding no longer tells them from 0: a step along such a direction would be noise
        divided by the penalty.
    """

    xp: Any
    inside: NDArray[np.bool_]
    n_weights: int
    eigenvalues: Array

    def __init__(self, X: Any, row_sets: Sequence[NDArray[np.int64]], n_threads: int) -> None:
        self.source = X
        foreign = not isinstance(X, np.ndarray) and not hasattr(X, "blocks")
        self.xp = array_namespace(X) if foreign else array_namespace(np.empty(0))
        self._place = {"device": device(X)} if foreign else {}
        self._pool = None if foreign or n_threads == 1 else ThreadPoolExecutor(n_threads)
        self._n_threads = n_threads
        self.inside = np.zeros((X.shape[0], len(row_sets)), bool)
        for s, rows in enumerate(row_sets):
            self.inside[rows, s] = True

    @property
    def float(self) -> Any:
        """The working type."""
        return self.xp.float32

    def put(self, values: Any, dtype: Any = None) -> Array:
        """Return ``values`` as an array of the library and on the device that X lives in."""
        return self.xp.asarray(values, dtype=dtype or self.float, **self._place)

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield all used rows, a chunk at a time."""

    @abstractmethod
    def to_coef(self, weights: Array, sets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Turn weights ``(p, k, n_weights)`` into weights ``(p, k, columns)`` and offsets ``(p, k)`` for chunks' X."""

    @abstractmethod
    def to_weights(self, coef: Array, offset: Array, sets: NDArray[np.int64]) -> Array:
        """Turn a gradient by what `to_coef` returns into one by what it takes: its transpose."""

    @abstractmethod
    def to_features(
        self, theta: NDArray[np.float64], set_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn the solver's parameters ``(P, k, n_weights + 1)`` into weights ``(P, k, d)`` and intercepts for X."""

    def map(self, function: Callable[[Chunk], T], sets: NDArray[np.int64] | None = None) -> Iterator[T]:
        """Yield ``function(chunk)`` for each chunk that has rows of any of ``sets`` (all sets when left out).

        In order; several threads work on chunks, few of which are in flight.
        """
        wanted = np.ones(self.inside.shape[1], bool)
        if sets is not None:
            wanted[:] = False
            wanted[sets] = True
        chunks = (chunk for chunk in self.chunks() if wanted[chunk.sets].any())
        if self._pool is None:
            yield from map(function, chunks)
            return
        waiting: deque[Future[T]] = deque()
        for chunk in chunks:
            waiting.append(self._pool.submit(function, chunk))
            if len(waiting) > 2 * self._n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _share(self, function: Callable[[slice], None], n: int) -> None:
        """Call ``function`` with spans that make up ``range(n)``, one a thread."""
        if self._pool is None or n == 1:
            function(slice(0, n))
            return
        ends = np.linspace(0, n, self._n_threads + 1).astype(int).tolist()
        for _ in self._pool.map(function, map(slice, ends, ends[1:])):
            pass

    def _used(self, rows: slice) -> NDArray[np.int64]:
        """Return the row numbers within a span of rows that any set uses."""
        numbers: NDArray[np.int64] = rows.start + np.flatnonzero(self.inside[rows].any(1))
        return numbers

    def _load(self, order: NDArray[np.int64]) -> Array:
        """Return rows of X, as they are, in the working type."""
        if not hasattr(self.source, "blocks"):
            index = order if isinstance(self.source, np.ndarray) else self.put(order, self.xp.int64)
            return self.xp.astype(self.source[index], self.float)
        if len(order) < 64:
            return np.asarray(self.source[order], np.float32)
        out = np.empty((len(order), self.source.shape[1]), np.float32)
        place = np.empty(len(self.inside), np.int64)
        place[order] = np.arange(len(order))
        for rows, values in blocks(self.source):
            chosen = self._used(rows)
            out[place[chosen]] = values[chosen - rows.start]
        return out

    def _require_finite(self, moments: Array) -> None:
        if bool(self.xp.all(self.xp.isfinite(moments))):
            return
        bad = [
            int(row)
            for rows, values in blocks(self.source)
            for row in self._used(rows)
            if not bool(self.xp.all(self.xp.isfinite(values[row - rows.start])))
        ]
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5]}.")


class SharedRows(TrainingRows):
    """One working matrix for all row sets.

    Parameters
    ----------
    X
        Features of shape ``(n_samples, d)``: an array of NumPy or of another array-API library, or an array-like
        with ``blocks()``.
    row_sets
        Row numbers, one array a set.
    scale
        Whether columns are divided by their standard deviations besides being centred.
    max_bytes
        When the working matrix would be larger, rows are streamed from ``X`` again in each pass.
    n_threads
        Threads that work on chunks (NumPy only; other libraries bring their own).
    """

    def __init__(
        self, X: Any, row_sets: Sequence[NDArray[np.int64]], *, scale: bool, max_bytes: int, n_threads: int
    ) -> None:
        super().__init__(X, row_sets, n_threads)
        self.n_weights = int(X.shape[1])
        self.used = np.flatnonzero(self.inside.any(1))
        self.order = self.used[np.lexsort(self.inside[self.used].T[::-1])]
        self._scaled = scale
        in_memory = len(self.order) * self.n_weights * 4 <= max_bytes
        self._chunks = list(self._cut(self._load(self.order))) if in_memory else None
        self._measure()
        if self._chunks is not None:
            for _ in self.map(self._standardise):
                pass
        values, self._vectors = self._decompose()
        self.eigenvalues = _floored(self.xp, values[None])

    def chunks(self) -> Iterator[Chunk]:
        """Yield all used rows, a chunk at a time."""
        if self._chunks is not None:
            yield from self._chunks
            return
        for rows, values in blocks(self.source):
            chosen = self._used(rows)
            for start in range(0, len(chosen), CHUNK_ROWS):
                part = chosen[start : start + CHUNK_ROWS]
                picked = self.xp.astype(values[part - rows.start], self.float)
                yield self._chunk((picked - self.center) / self.width, part)

    def _standardise(self, chunk: Chunk) -> None:
        X = chunk.X
        X -= self.center
        X /= self.width

    def to_coef(self, weights: Array, sets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Rotate back, and fold each set's centring and scaling in."""
        xp, dtype = self.xp, weights.dtype
        vectors = xp.astype(self._vectors, dtype, copy=False)
        coef, offset = xp.empty_like(weights), xp.zeros_like(weights[:, :, 0])

        def turn(some: slice) -> None:
            W = (weights[some].reshape(-1, weights.shape[2]) @ vectors.T).reshape(weights[some].shape)
            scale, shift = self._fold(sets[some], dtype)
            coef[some] = W * scale
            offset[some] = xp.sum(W * shift, axis=2)

        self._share(turn, len(sets))
        return coef, offset

    def to_weights(self, coef: Array, offset: Array, sets: NDArray[np.int64]) -> Array:
        """Transpose of `to_coef`."""
        xp, dtype = self.xp, coef.dtype
        vectors = xp.astype(self._vectors, dtype, copy=False)
        weights = xp.empty_like(coef)

        def turn(some: slice) -> None:
            scale, shift = self._fold(sets[some], dtype)
            W = coef[some] * scale + offset[some][:, :, None] * shift
            weights[some] = (W.reshape(-1, coef.shape[2]) @ vectors).reshape(W.shape)

        self._share(turn, len(sets))
        return weights

    def _fold(self, sets: NDArray[np.int64], dtype: Any) -> tuple[Array, Array]:
        """Return what each set's weights are multiplied by for the shared rows, and its centre there."""
        scale, shift = (self.xp.astype(part[sets][:, None], dtype, copy=False) for part in (self._scale, self._shift))
        return scale, shift

    def to_features(
        self, theta: NDArray[np.float64], set_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Undo the rotation, each set's scaling and the shared one."""
        scale, shift = (to_numpy(part).astype(np.float64)[set_of][:, None] for part in (self._scale, self._shift))
        center, width = (to_numpy(part).astype(np.float64) for part in (self.center, self.width))
        weights = theta[:, :, :-1] @ to_numpy(self._vectors).astype(np.float64).T
        coef = weights * scale / width
        return coef, theta[:, :, -1] + (weights * shift).sum(2) - (coef * center).sum(2)

    def _decompose(self) -> tuple[Array, Array]:
        """Decompose the scatter of all used rows, which that of each set is near to."""
        d = self.n_weights
        scatter = self.put(np.zeros((d, d)))
        for part in self.map(lambda chunk: chunk.X.T @ chunk.X):
            scatter += part
        values, vectors = self.xp.linalg.eigh(scatter / len(self.order))
        return values, vectors

    def _cut(self, X: Array) -> Iterator[Chunk]:
        """Cut the working matrix, where the row sets change if there is such a place not too soon."""
        inside = self.inside[self.order]
        changes = np.flatnonzero((inside[1:] != inside[:-1]).any(1)) + 1
        start = 0
        while start < len(inside):
            stop = min(start + CHUNK_ROWS, len(inside))
            good = changes[(changes >= start + MIN_CHUNK_ROWS) & (changes < stop)]
            stop = int(good[-1]) if len(good) else stop
            yield self._chunk(X[start:stop], self.order[start:stop])
            start = stop

    def _chunk(self, X: Array, rows: NDArray[np.int64]) -> Chunk:
        inside = self.inside[rows]
        sets = np.flatnonzero(inside.any(0))
        inside = inside[:, sets]
        return Chunk(X, rows, sets, None if inside.all() else self.put(inside.T))

    # Moments

    def _measure(self) -> None:
        """Find the mean and standard deviation of each column over all used rows, and over each set's, in one pass."""
        xp = self.xp
        shape = (self.inside.shape[1] + 1, self.n_weights)  # the last is of all used rows
        total, square = self.put(np.zeros(shape), xp.float64), self.put(np.zeros(shape), xp.float64)
        zero = self.put(np.zeros(self.n_weights))
        self.center, self.width = zero, zero + 1  # as chunks are so far
        # a row's values are of each column's own size: taking them off first keeps differences from cancelling
        shift = xp.astype(self._load(self.used[:1])[0], xp.float64)

        def moments(chunk: Chunk) -> tuple[NDArray[np.int64], Array, Array]:
            every = xp.ones((1, len(chunk.rows)), dtype=xp.float64, device=device(chunk.X))
            inside = every if chunk.inside is None else xp.concat([xp.astype(chunk.inside, xp.float64), every])
            sums = squares = 0.0
            for start in range(0, len(chunk.rows), MOMENT_ROWS):
                some = slice(start, start + MOMENT_ROWS)
                X = xp.astype(chunk.X[some], xp.float64) - shift
                sums = sums + inside[:, some] @ X
                X *= X
                squares = squares + inside[:, some] @ X
            return chunk.sets, sums, squares

        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite shows in the moments
            for sets, part, squares in self.map(moments):
                which = np.append(sets, len(total) - 1)
                total[which] += part
                square[which] += squares
            n = self.put(np.append(self.inside.sum(0), len(self.used))[:, None], xp.float64)
            mean = total / n
            std = _positive_std(xp, square / n - mean * mean, mean)
        self._require_finite(mean[-1] + std[-1])
        if not self._scaled:
            std = xp.ones_like(std)
        self.center = xp.astype(mean[-1] + shift, self.float)
        self.width = xp.astype(std[-1], self.float)
        self._scale = xp.astype(std[-1] / std[:-1], self.float)
        self._shift = xp.astype((mean[-1] - mean[:-1]) / std[:-1], self.float)


class RotatedRows(TrainingRows):
    """A matrix of its own for each row set, in the space that its rows span.

    With Z the standardised rows of a set, ``Z Zᵀ = U Λ Uᵀ``; its matrix is ``Y = U Λ^½``, and weights w for Y are
    weights ``Zᵀ Y Λ⁻¹ w`` of the same length for Z. Parameters are as for `SharedRows`.
    """

    def __init__(self, X: Any, row_sets: Sequence[NDArray[np.int64]], *, scale: bool, n_threads: int) -> None:
        super().__init__(X, row_sets, n_threads)
        xp = self.xp
        self.row_sets = [np.sort(rows) for rows in row_sets]
        self.n_weights = max(len(rows) for rows in row_sets)
        used = np.flatnonzero(self.inside.any(1))
        self._place_of = np.empty(len(self.inside), np.int64)
        self._place_of[used] = np.arange(len(used))
        self._matrix = self._load(used)
        self._scaled = scale
        with np.errstate(invalid="ignore", over="ignore"):
            self._require_finite(xp.sum(xp.astype(self._matrix, xp.float64), axis=0))
        self._values = self.put(np.zeros((len(row_sets), self.n_weights)), xp.float64)
        self._chunks = [self._rotate(s) for s in range(len(row_sets))]
        n = self.put([[len(rows)] for rows in row_sets])
        self.eigenvalues = _floored(xp, self._values / n)

    def chunks(self) -> Iterator[Chunk]:
        """Yield a chunk a row set."""
        yield from self._chunks

    @property
    def float(self) -> Any:
        """The working type: so few numbers are as well kept exactly."""
        return self.xp.float64

    def to_coef(self, weights: Array, sets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return the weights as they are: chunks hold rotated rows."""
        return weights, self.xp.zeros_like(weights[:, :, 0])

    def to_weights(self, coef: Array, offset: Array, sets: NDArray[np.int64]) -> Array:
        """Transpose of `to_coef`."""
        return coef

    def to_features(
        self, theta: NDArray[np.float64], set_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotate weights back, and undo each set's scaling."""
        p, k, _ = theta.shape
        coef, intercept = np.empty((p, k, self._matrix.shape[1])), theta[:, :, -1].copy()
        for s in np.unique(set_of):
            mine = np.flatnonzero(set_of == s)
            Z, mean, std = (to_numpy(part) for part in self._standardised(int(s)))
            Y, values = to_numpy(self._chunks[s].X).astype(np.float64), to_numpy(self._values[s])
            inverse = np.where(values > 0, 1 / np.where(values > 0, values, 1), 0)
            weights = (theta[mine, :, :-1] * inverse).reshape(-1, len(values)) @ Y.T @ Z
            coef[mine] = (weights / std).reshape(len(mine), k, -1)
            intercept[mine] -= coef[mine] @ mean
        return coef, intercept

    def _standardised(self, s: int) -> tuple[Array, Array, Array]:
        """Return a set's rows in float64, centred and scaled, and their means and standard deviations."""
        xp = self.xp
        index = self.put(self._place_of[self.row_sets[s]], xp.int64)
        Z = xp.astype(self._matrix[index], xp.float64)
        mean = xp.mean(Z, axis=0)
        Z = Z - mean
        variance = xp.mean(Z * Z, axis=0)
        std = _positive_std(xp, variance, mean) if self._scaled else xp.ones_like(mean)
        return Z / std, mean, std

    def _rotate(self, s: int) -> Chunk:
        xp = self.xp
        Z, _, _ = self._standardised(s)
        values, vectors = xp.linalg.eigh(Z @ Z.T)
        values = xp.where(values > 1e-12 * values[-1], values, xp.zeros_like(values))
        Y = self.put(np.zeros((Z.shape[0], self.n_weights)))
        Y[:, : Z.shape[0]] = xp.astype(vectors * xp.sqrt(values), self.float)
        self._values[s, : Z.shape[0]] = values
        return Chunk(Y, self.row_sets[s], np.array([s]), None)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep NumPy's matrix products to the thread that asks for them, while rows are in use.

    Each thread of ours is a core's worth of work; those of the BLAS library would wait for theirs by spinning.
    """
    with _threads().limit(limits=1, user_api="blas"):
        yield


def training_rows(
    X: Any, row_sets: Sequence[NDArray[np.int64]], *, scale: bool, max_bytes: int, n_threads: int
) -> TrainingRows:
    """Return the rows in the form that is solved fastest; parameters as for `SharedRows`."""
    most = max(len(rows) for rows in row_sets)
    if most <= min(ROTATE_BELOW * X.shape[1], ROTATE_ROWS) and 8 * most * most * len(row_sets) <= max_bytes:
        return RotatedRows(X, row_sets, scale=scale, n_threads=n_threads)
    return SharedRows(X, row_sets, scale=scale, max_bytes=max_bytes, n_threads=n_threads)


@cache
def _threads() -> ThreadpoolController:
    """Return the handle on the BLAS libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController()


def _floored(xp: Any, values: Array) -> Array:
    """Hold eigenvalues ``(n_sets, rank)`` above the level of rounding."""
    floor = 10 * float(xp.finfo(values.dtype).eps) * xp.max(values, axis=1, keepdims=True)
    return xp.maximum(values, floor + xp.zeros_like(values))


def to_numpy(array: Array) -> NDArray[Any]:
    """Return an array of any library as NumPy's."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def _positive_std(xp: Any, variance: Array, mean: Array) -> Array:
    """Return standard deviations, 1 for a column that is constant but for rounding."""
    constant = variance <= 1e-12 * (1 + mean * mean)
    return xp.where(constant, xp.ones_like(variance), xp.sqrt(xp.where(constant, xp.ones_like(variance), variance)))
