"""Exact nearest neighbours by cosine, block by block, in memory that does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._backend import NUMPY, Array, Backend, computed, to_numpy
from headwater._devices import Device
from headwater.errors import InputError

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Exclude = tuple[ArrayLike, ArrayLike]

_BLOCK_ROWS = 8192  # of a plain array: 32 MiB of float32 at 1,024 dimensions
_DEVICE_ROWS = 65_536  # of an array on a GPU, which needs large products to be busy
_QUERIES_AT_ONCE = 512  # so that the similarities of a block take 16 MiB
_PAIRS_AT_ONCE = 4096


class Features(Protocol):
    """An array-like that can be searched: a NumPy array, or any array-like that yields blocks of consecutive rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: Any, /) -> NDArray[Any]: ...

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]: ...


def search(
    X: Features | NDArray[Any] | Array,
    queries: NDArray[Any] | Array,
    k: int,
    *,
    rows: ArrayLike | None = None,
    exclude: Exclude | None = None,
    device: Device = "auto",
) -> tuple[Scores, Rows]:
    """Find the `k` rows most similar to each query.

    Blocks of `X` are read one after the other; only the best `k` rows so far are kept.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
        Rows of any length; similarity is the cosine. Rows with NaN or infinity (failed items) and rows of zeros are
        never found. An array of another library, such as a tensor on a GPU, is searched where it is.
    queries : float array of shape (n_queries, dim)
        Finite, and not zero.
    k
        Number of rows to find for each query, at least 1.
    rows : bool array of shape (n_rows,) or int array of shape (n_allowed,), optional
        The rows that may be found; by default all.
    exclude : (int array of shape (n_rows,), int array of shape (n_queries,)), optional
        The group of each row and of each query. Rows in the query's own group are not found. Pass patients, for
        example, to find only other patients.
    device
        Where rows are compared: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one and the work is worthwhile.

    Returns
    -------
    scores : float32 array of shape (n_queries, k)
        Cosine similarities, from -1 to 1, highest first; -inf where fewer than `k` rows could be found.
    rows : int64 array of shape (n_queries, k)
        Row numbers of `X`, in ascending order among equally similar rows; -1 where the score is -inf.

    Raises
    ------
    InputError
        When shapes do not fit, a query is zero or not finite, or `k` is not positive.
    DeviceMemory
        When a GPU that was requested runs out of memory.

    Notes
    -----
    Matrix products in float32 select candidates. The similarity of each candidate is then computed again, separately,
    in float64. So the result does not depend on the size of the blocks, on the other queries, or on the device.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> scores, rows = search(X, np.array([[0.0, 1.0]]), k=2)
    >>> rows
    array([[1, 2]])
    >>> scores.round(2)
    array([[1.  , 0.71]], dtype=float32)
    """
    asked = check(X.shape, to_numpy(queries), k, rows, exclude)
    work = 2.0 * X.shape[0] * X.shape[1] * len(asked.queries)
    return computed(lambda backend: _searched(X, asked, k, backend), device, work=work, what="search", X=X)


def _searched(X: Any, asked: Asked, k: int, backend: Backend) -> tuple[Scores, Rows]:
    n = len(asked.queries)
    scores = np.full((n, k), -np.inf, dtype=np.float32)
    found = np.full((n, k), -1, dtype=np.int64)
    queries, exact = backend.put(asked.queries), backend.put(asked.exact)
    own = None if asked.group is None else backend.put(asked.group)
    for span, block in blocks(X):
        allowed = None if asked.allowed is None else asked.allowed[span]
        if allowed is not None and not allowed.any():
            continue
        values = backend.put(block)
        vectors, usable = unit(values) if backend.is_numpy else unit_on(backend, values)
        if allowed is not None:
            usable &= backend.put(allowed)
        group = None if asked.of_rows is None else backend.put(asked.of_rows[span])
        for first in range(0, n, _QUERIES_AT_ONCE):
            some = slice(first, first + _QUERIES_AT_ONCE)
            similar = queries[some] @ vectors.T  # (n_some, n_block)
            similar[:, ~usable] = -np.inf
            if group is not None and own is not None:
                similar[own[some, None] == group] = -np.inf
            query, place = _candidates(backend, similar, backend.put(scores[some, -1]), k, X.shape[1])
            better = _cosines(backend, exact[some], values, query, place)
            _merge(scores[some], found[some], to_numpy(query), better, to_numpy(place) + span.start)
    return scores, found


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


@dataclass(frozen=True, eq=False)
class Asked:
    """What is searched for, validated.

    Attributes
    ----------
    queries : float32 array of shape (n_queries, dim)
        Unit vectors.
    exact : float64 array of shape (n_queries, dim)
        The same, in float64.
    allowed : bool array of shape (n_rows,), or None
        The rows that may be found.
    of_rows, group : int64 arrays of shapes (n_rows,) and (n_queries,), or None
        Numbers of the groups of rows and of queries.
    """

    queries: Scores
    exact: NDArray[np.float64]
    allowed: Mask | None
    of_rows: Rows | None = None
    group: Rows | None = None


def check(
    shape: tuple[int, ...], queries: NDArray[Any], k: int, rows: ArrayLike | None, exclude: Exclude | None
) -> Asked:
    """Validate the arguments of a search."""
    if len(shape) != 2:
        raise InputError(f"features of shape {shape} cannot be searched. Give pooled ones, of shape (n_rows, dim).")
    n_rows, dim = shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(f"queries must have shape (n_queries, {dim}), but have {queries.shape}.")
    if k < 1:
        raise InputError(f"k must be at least 1, but is {k}.")
    wanted, usable = unit(queries)
    if not usable.all():
        raise InputError(f"query {int(usable.argmin())} is zero or not finite, so its cosines are undefined.")
    exact = _unit64(NUMPY, queries)
    if exclude is None:
        return Asked(wanted, exact, _allowed(rows, n_rows))
    of_rows, of_queries = (np.asarray(groups) for groups in exclude)
    if of_rows.shape != (n_rows,) or of_queries.shape != (len(queries),):
        raise InputError(
            f"exclude must hold groups of shape ({n_rows},) for the rows and ({len(queries)},) for the queries, but "
            f"holds {of_rows.shape} and {of_queries.shape}."
        )
    _, numbers = np.unique(np.concatenate([of_rows, of_queries]), return_inverse=True)
    return Asked(wanted, exact, _allowed(rows, n_rows), numbers[:n_rows], numbers[n_rows:])


def _allowed(rows: ArrayLike | None, n_rows: int) -> Mask | None:
    if rows is None:
        return None
    chosen = np.asarray(rows)
    if chosen.dtype == np.bool_:
        if chosen.shape != (n_rows,):
            raise InputError(f"a mask of rows must have shape ({n_rows},), but has {chosen.shape}.")
        return chosen
    if chosen.size and (chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= n_rows):
        raise InputError(f"rows must be a mask, or row numbers from 0 to {n_rows - 1}.")
    mask = np.zeros(n_rows, dtype=np.bool_)
    mask[chosen.astype(np.int64)] = True
    return mask


def _candidates(backend: Backend, similar: Array, worst: Array, k: int, dim: int) -> tuple[Array, Array]:
    """Return (query, place) of every entry that may be among the best `k`, given the worst score found so far."""
    # The error of a float32 product of unit vectors is at most dim * eps / 2 (the classic bound); both sides of the
    # comparison may have it.
    slack = float(dim * np.finfo(np.float32).eps)
    least = worst
    if similar.shape[1] > k:
        least = backend.xp.maximum(least, _kth_largest(backend, similar, k))
    found = backend.xp.nonzero((similar >= (least - slack)[:, None]) & (similar > -np.inf))
    return found[0], found[1]


def _kth_largest(backend: Backend, values: Array, k: int) -> Array:
    """Return the k-th largest value of each row."""
    if backend.is_numpy:
        return np.partition(values, -k, axis=1)[:, -k]
    return values.topk(k, dim=1).values[:, -1]  # torch's; the array API has no such function


def _cosines(backend: Backend, queries: Array, values: Array, query: Array, place: Array) -> Scores:
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
        similar = backend.xp.vecdot(queries[query[some]], _unit64(backend, values[place[some]]))
        out[some] = to_numpy(similar)
    return out.clip(-1, 1)


def _unit64(backend: Backend, values: Array) -> Array:
    """Scale finite, nonzero vectors to length 1 in float64; dividing by the largest entry first avoids overflow."""
    xp = backend.xp
    values = xp.astype(values, xp.float64)
    values = values / xp.max(xp.abs(values), axis=1, keepdims=True)
    return values / xp.linalg.vector_norm(values, axis=1, keepdims=True)


def _merge(scores: Scores, rows: Rows, query: Rows, new_scores: Scores, new_rows: Rows) -> None:
    """Merge a flat list of new finds into the best of each query, in place; among equal scores the lower row wins."""
    n_queries, k = scores.shape
    query = np.concatenate([np.repeat(np.arange(n_queries), k), query])
    new_scores = np.concatenate([scores.ravel(), new_scores])
    new_rows = np.concatenate([rows.ravel(), new_rows])
    order = np.lexsort((new_rows, -new_scores, query))
    start = np.searchsorted(query[order], np.arange(n_queries))
    best = order[start[:, None] + np.arange(k)]  # each query has at least its previous k
    scores[...], rows[...] = new_scores[best], new_rows[best]
