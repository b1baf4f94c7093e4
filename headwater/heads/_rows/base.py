"""Training rows for many fits at once, and the transformation of the solver's weights to weights for X."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from headwater._backend import Backend, to_numpy
from headwater.errors import HeadError
from headwater.heads.base import blocks

Array = Any
T = TypeVar("T")


class Sizes(NamedTuple):
    """How many rows are computed together.

    Attributes
    ----------
    chunk
        Most rows of a chunk.
    least
        Fewest rows of a chunk that ends where the row sets change.
    moments
        Rows in float64 at once.
    """

    chunk: int
    least: int
    moments: int


IN_CACHE = Sizes(1024, 256, 256)
"""On the CPU, where what a thread computes with should stay in its cache."""
ON_DEVICE = Sizes(16384, 4096, 8192)
"""On a GPU, which needs large products to be busy."""


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
        The row sets that contain at least one of them, int64, of shape ``(s,)``.
    inside
        Which row is in which of ``sets``, of shape ``(s, r)`` and the type of ``X``; None if all rows are in all sets.
    """

    X: Array
    rows: NDArray[np.int64]
    sets: NDArray[np.int64]
    inside: Array | None


class TrainingRows(ABC):
    """The rows used by several row sets, in the solver's form.

    The solver's weights for a set apply to rows that are centred, scaled and rotated so that their scatter is (nearly)
    diagonal. Chunks hold rows in their stored form; `to_coef` and `to_weights` convert between the two.

    Attributes
    ----------
    backend
        Where the rows are computed with; X may be elsewhere.
    inside
        Which row of X is in which set, bool, of shape ``(n_samples, n_sets)``.
    n_weights
        Number of the solver's weights for each output.
    eigenvalues
        Eigenvalues of the mean scatter of each set, or of all sets, of shape ``(n_sets, n_weights)`` or
        ``(1, n_weights)``. They are kept above the level of rounding, since a step along a direction with a smaller
        eigenvalue would be noise divided by the penalty.
    """

    backend: Backend
    inside: NDArray[np.bool_]
    n_weights: int
    eigenvalues: Array

    def __init__(self, X: Any, row_sets: Sequence[NDArray[np.int64]], backend: Backend, n_threads: int) -> None:
        self.source = X
        self.backend, self.xp = backend, backend.xp
        self.sizes = IN_CACHE if backend.is_numpy else ON_DEVICE
        self._pool = ThreadPoolExecutor(n_threads) if backend.is_numpy and n_threads > 1 else None
        self._n_threads = n_threads
        self.inside = np.zeros((X.shape[0], len(row_sets)), bool)
        for s, rows in enumerate(row_sets):
            self.inside[rows, s] = True

    @property
    def float(self) -> Any:
        """The working type."""
        return self.xp.float32

    def put(self, values: Any, dtype: Any = None) -> Array:
        """Return ``values`` as an array of the backend, of the working type unless another is given."""
        return self.backend.put(values, dtype or self.float)

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield all used rows, a chunk at a time."""

    @abstractmethod
    def to_coef(self, weights: Array, sets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Convert weights ``(p, k, n_weights)`` to weights ``(p, k, columns)`` and offsets ``(p, k)`` for chunks."""

    @abstractmethod
    def to_weights(self, coef: Array, offset: Array, sets: NDArray[np.int64]) -> Array:
        """Convert a gradient in the output of `to_coef` to one in its input: the transpose of `to_coef`."""

    @abstractmethod
    def to_features(
        self, theta: NDArray[np.float64], set_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert the solver's parameters ``(P, k, n_weights + 1)`` to weights ``(P, k, d)`` and intercepts for X."""

    def map(self, function: Callable[[Chunk], T], sets: NDArray[np.int64] | None = None) -> Iterator[T]:
        """Yield ``function(chunk)`` for each chunk with rows of any of ``sets`` (default: all sets), in order.

        Several threads process chunks, with a limited number of chunks in memory.
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
        """Divide ``range(n)`` into one span per thread, and call ``function`` with each."""
        if self._pool is None or n == 1:
            function(slice(0, n))
            return
        ends = np.linspace(0, n, self._n_threads + 1).astype(int).tolist()
        for _ in self._pool.map(function, map(slice, ends, ends[1:])):
            pass

    def _used(self, rows: slice) -> NDArray[np.int64]:
        """Return the row numbers within a span that any set uses."""
        numbers: NDArray[np.int64] = rows.start + np.flatnonzero(self.inside[rows].any(1))
        return numbers

    def _load(self, order: NDArray[np.int64]) -> Array:
        """Return rows of X in the working type, without scaling."""
        if Backend.of(self.source) is not None:
            return self.xp.astype(self.source[self.put(order, self.xp.int64)], self.float)
        if self.backend.is_numpy and not hasattr(self.source, "blocks"):
            return self.source[order].astype(np.float32)
        if len(order) < 64:
            return self.put(np.asarray(self.source[order], np.float32))
        out = self.xp.empty_like(self.backend.zeros((len(order), self.source.shape[1]), self.float))
        place = np.empty(len(self.inside), np.int64)
        place[order] = np.arange(len(order))
        for rows, values in blocks(self.source):
            chosen = self._used(rows)
            out[place[chosen]] = self.put(np.asarray(values[chosen - rows.start], np.float32))
        return out

    def _require_finite(self, moments: Array) -> None:
        if bool(self.xp.all(self.xp.isfinite(moments))):
            return
        bad = [
            int(row)
            for rows, values in blocks(self.source)
            for row in self._used(rows)
            if not np.isfinite(to_numpy(values[row - rows.start])).all()
        ]
        raise HeadError(f"features are not finite in {len(bad)} rows, the first being {bad[:5]}.")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit NumPy's matrix products to one BLAS thread while rows are in use.

    Each of our threads uses a full core; additional BLAS threads would only wait by spinning.
    """
    with _threads().limit(limits=1, user_api="blas"):
        yield


@cache
def _threads() -> ThreadpoolController:
    """Return the controller of the loaded BLAS libraries; finding them takes milliseconds."""
    return ThreadpoolController()


def floored(xp: Any, values: Array) -> Array:
    """Clip eigenvalues ``(n_sets, rank)`` to the level of rounding."""
    floor = 10 * float(xp.finfo(values.dtype).eps) * xp.max(values, axis=1, keepdims=True)
    return xp.maximum(values, floor + xp.zeros_like(values))


def positive_std(xp: Any, variance: Array, mean: Array) -> Array:
    """Return standard deviations, 1 for a column that is constant up to rounding."""
    constant = variance <= 1e-12 * mean * mean
    return xp.where(constant, xp.ones_like(variance), xp.sqrt(xp.where(constant, xp.ones_like(variance), variance)))
