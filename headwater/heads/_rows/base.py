"""Training rows for many fits at once: what the solver walks over, and how its weights become weights for X."""

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


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep NumPy's matrix products to the thread that asks for them, while rows are in use.

    Each thread of ours is a core's worth of work; those of the BLAS library would wait for theirs by spinning.
    """
    with _threads().limit(limits=1, user_api="blas"):
        yield


@cache
def _threads() -> ThreadpoolController:
    """Return the handle on the BLAS libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController()


def floored(xp: Any, values: Array) -> Array:
    """Hold eigenvalues ``(n_sets, rank)`` above the level of rounding."""
    floor = 10 * float(xp.finfo(values.dtype).eps) * xp.max(values, axis=1, keepdims=True)
    return xp.maximum(values, floor + xp.zeros_like(values))


def to_numpy(array: Array) -> NDArray[Any]:
    """Return an array of any library as NumPy's."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def positive_std(xp: Any, variance: Array, mean: Array) -> Array:
    """Return standard deviations, 1 for a column that is constant but for rounding."""
    constant = variance <= 1e-12 * mean * mean
    return xp.where(constant, xp.ones_like(variance), xp.sqrt(xp.where(constant, xp.ones_like(variance), variance)))
