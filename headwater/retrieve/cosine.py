"""Rows of features as unit vectors, their exact cosines, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater._backend import Array, Backend, to_numpy

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_BLOCK_ROWS = 8192  # of a plain array: 32 MiB of float32 at 1,024 dimensions
_DEVICE_ROWS = 65_536  # of an array on a GPU, which needs large products to be busy
_PAIRS_AT_ONCE = 4096


class Features(Protocol):
    """An array-like that can be searched: a NumPy array, or any array-like that yields blocks of consecutive rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: Any, /) -> NDArray[Any]: ...

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]: ...


def blocks(X: Any) -> Iterator[tuple[slice, Any]]:
    """Yield ``(slice, rows)`` for consecutive rows of `X`; arrays in slices of a fixed number of rows."""
    if hasattr(X, "blocks"):
        yield from X.blocks()
        return
    step = _BLOCK_ROWS if isinstance(X, np.ndarray) else _DEVICE_ROWS
    for start in range(0, len(X), step):
        span = slice(start, min(start + step, len(X)))
        yield span, X[span]


def unit(vectors: NDArray[Any]) -> tuple[Scores, Mask]:
    """Scale vectors to length 1.

    Parameters
    ----------
    vectors : float array of shape (n, dim)

    Returns
    -------
    units : float32 array of shape (n, dim)
        Zeros where a vector is zero or not finite.
    usable : bool array of shape (n,)
        Whether a vector is finite and not zero.
    """
    # Divide by the largest entry first, so that no square overflows or underflows; float64 may not fit into float32.
    vectors = vectors if vectors.dtype == np.float64 else vectors.astype(np.float32)
    largest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    usable = np.isfinite(largest) & (largest > 0)
    units = np.zeros(vectors.shape, dtype=np.float32)
    np.divide(vectors, largest[:, None], out=units, where=usable[:, None], casting="same_kind")
    length = np.sqrt(np.einsum("ij,ij->i", units, units))
    np.divide(units, length[:, None], out=units, where=usable[:, None])
    return units, usable


def unit_on(backend: Backend, values: Array) -> tuple[Array, Array]:
    """Scale vectors to length 1 as `unit` does, on any backend."""
    xp = backend.xp
    values = values if values.dtype == xp.float64 else xp.astype(values, xp.float32)
    largest = xp.max(xp.abs(values), axis=1)
    usable = xp.isfinite(largest) & (largest > 0)
    units = xp.astype(values / xp.where(usable, largest, xp.ones_like(largest))[:, None], xp.float32)
    units = xp.where(usable[:, None], units, xp.zeros_like(units))
    length = xp.linalg.vector_norm(units, axis=1)
    return units / xp.where(usable, length, xp.ones_like(length))[:, None], usable


def cosines(backend: Backend, queries: Array, values: Array, query: Array, place: Array) -> Scores:
    """Compute the cosine of each pair in float64, from the rows as they are, so that nothing else affects it.

    Parameters
    ----------
    queries : float64, of shape (n_queries, dim)
        Unit vectors.
    values : of shape (n, dim)
        Rows of any length, finite and not zero.
    query, place : int64, of shape (n_pairs,)
    """
    out = np.empty(query.shape[0], dtype=np.float32)
    for first in range(0, len(out), _PAIRS_AT_ONCE):
        some = slice(first, first + _PAIRS_AT_ONCE)
        similar = backend.xp.vecdot(queries[query[some]], unit64(backend, values[place[some]]))
        out[some] = to_numpy(similar)
    return out.clip(-1, 1)


def unit64(backend: Backend, values: Array) -> Array:
    """Scale finite, nonzero vectors to length 1 in float64; dividing by the largest entry first avoids overflow."""
    xp = backend.xp
    values = xp.astype(values, xp.float64)
    values = values / xp.max(xp.abs(values), axis=1, keepdims=True)
    return values / xp.linalg.vector_norm(values, axis=1, keepdims=True)


def merge(scores: Scores, rows: Rows, query: Rows, new_scores: Scores, new_rows: Rows) -> None:
    """Merge a flat list of new finds into the best of each query, in place; among equal scores the lower row wins."""
    n_queries, k = scores.shape
    query = np.concatenate([np.repeat(np.arange(n_queries), k), query])
    new_scores = np.concatenate([scores.ravel(), new_scores])
    new_rows = np.concatenate([rows.ravel(), new_rows])
    order = np.lexsort((new_rows, -new_scores, query))
    start = np.searchsorted(query[order], np.arange(n_queries))
    best = order[start[:, None] + np.arange(k)]  # each query has at least its previous k
    scores[...], rows[...] = new_scores[best], new_rows[best]
