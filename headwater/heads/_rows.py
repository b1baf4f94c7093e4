"""Training rows for many fits at once: one working matrix, its moments in each fit, and the order to walk it in.

All fits share one float32 matrix of standardised rows. A fit's own centring and scaling is folded into its weights,
so nothing is copied for a fold. Rows are ordered by the fits that they belong to, so that a chunk of rows is
multiplied only with the fits that use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from headwater.errors import HeadError
from headwater.heads.base import blocks

Array = Any
T = TypeVar("T")

CHUNK_ROWS = 1024
MIN_CHUNK_ROWS = 256


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
        Which row is in which of ``sets``, of shape ``(r, s)`` and the type of ``X``; None when all are in all.
    """

    X: Array
    rows: NDArray[np.int64]
    sets: NDArray[np.int64]
    inside: Array | None


class TrainingRows:
    """The rows that any of several row sets uses.

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
        self.source = X
        foreign = not isinstance(X, np.ndarray) and not hasattr(X, "blocks")
        self.xp = array_namespace(X) if foreign else array_namespace(np.empty(0))
        self._place = {"device": device(X)} if foreign else {}
        self.n_threads = 1 if foreign else n_threads
        self.inside = np.zeros((X.shape[0], len(row_sets)), bool)
        for s, rows in enumerate(row_sets):
            self.inside[rows, s] = True
        self.n_features = int(X.shape[1])
        self.used = np.flatnonzero(self.inside.any(1))
        self.order = self.used[np.lexsort(self.inside[self.used].T[::-1])]
        self._scale = scale
        in_memory = len(self.order) * self.n_features * 4 <= max_bytes
        matrix = self._load() if in_memory else None
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite shows in the moments
            self.center, self.width = self._moments_of_all(matrix)
        self._require_finite()
        self._chunks: list[Chunk] | None = None
        if matrix is not None:
            matrix -= self.center
            matrix /= self.width
            self._chunks = list(self._cut(matrix))
        self.mean, self.std = self._moments_of_sets()

    @property
    def float(self) -> Any:
        """The working type."""
        return self.xp.float32

    def put(self, values: Any, dtype: Any = None) -> Array:
        """Return ``values`` as an array of the library and on the device that X lives in."""
        return self.xp.asarray(values, dtype=dtype or self.float, **self._place)

    # Walking over the rows

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

    def map(self, function: Callable[[Chunk], T]) -> Iterator[T]:
        """Yield ``function(chunk)`` in order, chunks being worked on by several threads, few in flight."""
        if self.n_threads == 1:
            yield from map(function, self.chunks())
            return
        with ThreadPoolExecutor(self.n_threads) as pool:
            waiting: list[Future[T]] = []
            for chunk in self.chunks():
                waiting.append(pool.submit(function, chunk))
                if len(waiting) > 2 * self.n_threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

    def _load(self) -> Array:
        """Return the used rows in walking order, as they are, in the working type."""
        if not hasattr(self.source, "blocks"):
            index = self.order if isinstance(self.source, np.ndarray) else self.put(self.order, self.xp.int64)
            return self.xp.astype(self.source[index], self.float)
        out = np.empty((len(self.order), self.n_features), np.float32)
        place = np.empty(len(self.inside), np.int64)
        place[self.order] = np.arange(len(self.order))
        for rows, values in blocks(self.source):
            chosen = self._used(rows)
            out[place[chosen]] = values[chosen - rows.start]
        return out

    def _used(self, rows: slice) -> NDArray[np.int64]:
        """Return the row numbers within a span of rows that any set uses."""
        numbers: NDArray[np.int64] = rows.start + np.flatnonzero(self.inside[rows].any(1))
        return numbers

    def _require_finite(self) -> None:
        if bool(self.xp.all(self.xp.isfinite(self.center) & self.xp.isfinite(self.width))):
            return
        bad = [
            int(row)
            for rows, values in blocks(self.source)
            for row in self._used(rows)
            if not bool(self.xp.all(self.xp.isfinite(values[row - rows.start])))
        ]
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5]}.")

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
        return Chunk(X, rows, sets, None if inside.all() else self.put(inside))

    # Moments

    def _moments_of_all(self, matrix: Array | None) -> tuple[Array, Array]:
        """Return mean and standard deviation of each column over the used rows, each of shape ``(d,)``."""
        xp, n = self.xp, len(self.used)
        shift: Array = None
        total: Array = 0.0
        square: Array = 0.0
        for rows, values in blocks(self.source if matrix is None else matrix):
            picked = values if matrix is not None else values[self._used(rows) - rows.start]
            if not picked.shape[0]:
                continue
            part = xp.astype(picked, xp.float64)
            shift = part[0] if shift is None else shift  # a value of the column's own size, against cancellation
            total = total + xp.sum(part - shift, axis=0)
            square = square + xp.sum((part - shift) ** 2, axis=0)
        mean = total / n
        std = _positive_std(xp, square / n - mean * mean, mean)
        center = xp.astype(mean + shift, self.float)
        return center, xp.astype(std, self.float) if self._scale else xp.ones_like(center)

    def _moments_of_sets(self) -> tuple[Array, Array]:
        """Return each set's mean and standard deviation in working units, of shape ``(n_sets, d)``."""
        xp = self.xp
        shape = (self.inside.shape[1], self.n_features)
        total, square = self.put(np.zeros(shape), xp.float64), self.put(np.zeros(shape), xp.float64)
        for sets, part, squares in self.map(self._chunk_moments):
            total[sets] += part
            square[sets] += squares
        n = self.put(self.inside.sum(0)[:, None], xp.float64)
        mean = total / n
        std = _positive_std(xp, square / n - mean * mean, mean) if self._scale else xp.ones_like(mean)
        return xp.astype(mean, self.float), xp.astype(std, self.float)

    def _chunk_moments(self, chunk: Chunk) -> tuple[Array, Array, Array]:
        xp = self.xp
        X = xp.astype(chunk.X, xp.float64)
        if chunk.inside is None:
            return chunk.sets, xp.sum(X, axis=0), xp.sum(X * X, axis=0)
        inside = xp.astype(chunk.inside, xp.float64).T
        return chunk.sets, inside @ X, inside @ (X * X)


def _positive_std(xp: Any, variance: Array, mean: Array) -> Array:
    """Return standard deviations, 1 for a column that is constant but for rounding."""
    constant = variance <= 1e-12 * (1 + mean * mean)
    return xp.where(constant, xp.ones_like(variance), xp.sqrt(xp.where(constant, xp.ones_like(variance), variance)))
