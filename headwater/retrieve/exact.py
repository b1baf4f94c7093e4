"""Exact nearest neighbours by cosine, block by block, in memory that does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import InputError

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Exclude = tuple[ArrayLike, ArrayLike]

_BLOCK_ROWS = 8192  # of a plain array: 32 MiB of float32 at 1,024 dimensions
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
    X: Features | NDArray[Any],
    queries: NDArray[Any],
    k: int,
    *,
    rows: ArrayLike | None = None,
    exclude: Exclude | None = None,
) -> tuple[Scores, Rows]:
    """Find the `k` rows most similar to each query.

    Blocks of `X` are read one after the other; only the best `k` rows so far are kept.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
        Rows of any length; similarity is the cosine. Rows with NaN or infinity (failed items) and rows of zeros are
        never found.
    queries : float array of shape (n_queries, dim)
        Finite, and not zero.
    k
        Number of rows to find for each query, at least 1.
    rows : bool array of shape (n_rows,) or int array of shape (n_allowed,), optional
        The rows that may be found; by default all.
    exclude : (int array of shape (n_rows,), int array of shape (n_queries,)), optional
        The group of each row and of each query. Rows in the query's own group are not found. Pass patients, for
        example, to find only other patients.

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

    Notes
    -----
    Matrix products select candidates. The similarity of each candidate is then computed again, separately, in float64.
    So the result does not depend on the size of the blocks, nor on the other queries.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> scores, rows = search(X, np.array([[0.0, 1.0]]), k=2)
    >>> rows
    array([[1, 2]])
    >>> scores.round(2)
    array([[1.  , 0.71]], dtype=float32)
    """
    wanted, allowed, groups = check(X.shape, queries, k, rows, exclude)
    scores = np.full((len(wanted), k), -np.inf, dtype=np.float32)
    found = np.full((len(wanted), k), -1, dtype=np.int64)
    for span, block in blocks(X):
        if allowed is not None and not allowed[span].any():
            continue
        vectors, usable = unit(block)
        if allowed is not None:
            usable &= allowed[span]
        for first in range(0, len(wanted), _QUERIES_AT_ONCE):
            some = slice(first, first + _QUERIES_AT_ONCE)
            similar = wanted[some] @ vectors.T  # (n_some, n_block)
            similar[:, ~usable] = -np.inf
            if groups is not None:
                similar[groups[1][some, None] == groups[0][span]] = -np.inf
            query, place = _candidates(similar, scores[some, -1], k, X.shape[1])
            better = _dot(wanted[some], vectors, query, place)
            _merge(scores[some], found[some], query, better, place + span.start)
    return scores, found


def blocks(X: Features | NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield ``(slice, rows)`` for consecutive rows of `X`; a NumPy array in slices of 8,192 rows."""
    if not isinstance(X, np.ndarray):
        yield from X.blocks()
        return
    for start in range(0, len(X), _BLOCK_ROWS):
        span = slice(start, min(start + _BLOCK_ROWS, len(X)))
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


def check(
    shape: tuple[int, ...],
    queries: NDArray[Any],
    k: int,
    rows: ArrayLike | None,
    exclude: Exclude | None,
) -> tuple[Scores, Mask | None, tuple[Rows, Rows] | None]:
    """Validate arguments; return unit queries, a mask of the allowed rows, and the groups of rows and queries."""
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
    if exclude is None:
        return wanted, _allowed(rows, n_rows), None
    of_rows, of_queries = (np.asarray(groups) for groups in exclude)
    if of_rows.shape != (n_rows,) or of_queries.shape != (len(queries),):
        raise InputError(
            f"exclude must hold groups of shape ({n_rows},) for the rows and ({len(queries)},) for the queries, but "
            f"holds {of_rows.shape} and {of_queries.shape}."
        )
    return wanted, _allowed(rows, n_rows), (of_rows, of_queries)


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


def _candidates(similar: Scores, worst: Scores, k: int, dim: int) -> tuple[Rows, Rows]:
    """Return (query, place) of every entry that may be among the best `k`, given the worst score found so far."""
    # The error of a float32 product of unit vectors is at most dim * eps / 2 (the classic bound); both sides of the
    # comparison may have it.
    slack = np.float32(dim * np.finfo(np.float32).eps)
    least = worst
    if similar.shape[1] > k:
        least = np.maximum(least, np.partition(similar, -k, axis=1)[:, -k])
    query, place = np.nonzero((similar >= (least - slack)[:, None]) & (similar > -np.inf))
    return query, place


def _dot(queries: Scores, vectors: Scores, query: Rows, place: Rows) -> Scores:
    """Compute the similarity of each pair separately, in float64, so that it does not depend on the other pairs."""
    similar = np.empty(len(query), dtype=np.float32)
    for first in range(0, len(query), _PAIRS_AT_ONCE):
        some = slice(first, first + _PAIRS_AT_ONCE)
        pairs = queries[query[some]].astype(np.float64), vectors[place[some]]
        similar[some] = np.einsum("ij,ij->i", *pairs)
    return similar.clip(-1, 1)


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
