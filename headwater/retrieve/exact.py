"""Exact nearest neighbours by cosine, block by block, with memory that does not grow with the number of rows."""

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
    """What is searched: a plain array is one, and so is any array-like that hands out blocks of consecutive rows."""

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

    Blocks of `X` are read one after the other, and only the best `k` so far are kept.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
        Of any length each; similarity is the cosine. Rows that hold NaN or infinity (items that failed) and rows of
        zeros are never found.
    queries : float array of shape (n_queries, dim)
        Finite, and not zero.
    k
        How many rows to find for each query, at least 1.
    rows : bool array of shape (n_rows,) or int array of shape (n_allowed,), optional
        The rows that may be found; all of them when left out.
    exclude : (int array of shape (n_rows,), int array of shape (n_queries,)), optional
        The group of each row and of each query. A row of the query's own group is not found for it: pass the patients,
        say, so that a patient is not found with himself.

    Returns
    -------
    scores : float32 array of shape (n_queries, k)
        Cosine similarities, from -1 to 1, highest first; -inf where fewer than `k` rows could be found.
    rows : int64 array of shape (n_queries, k)
        Row numbers of `X`; of rows that are equally similar the first comes first. -1 beside -inf.

    Raises
    ------
    InputError
        When shapes do not fit, a query is zero or not finite, or `k` is not positive.

    Notes
    -----
    Matrix products choose candidates; their similarities are then computed once more, each by itself, in float64. So
    the result depends neither on the size of the blocks nor on which queries are asked together.

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
    """Yield consecutive rows of `X` with the slice they are, in order; a plain array in slices of 8,192 rows."""
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
    # By the largest entry first, so that no square overflows or vanishes. float64 input may not fit into float32.
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
    """Return queries of length 1, a mask of the allowed rows, and the groups of rows and queries, or refuse them."""
    if len(shape) != 2:
        raise InputError(f"features of shape {shape} cannot be searched: (n_rows, dim) is needed, so pooled ones.")
    n_rows, dim = shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(f"queries have shape {queries.shape}, but (n_queries, {dim}) is needed.")
    if k < 1:
        raise InputError(f"k is {k}: at least 1 is needed.")
    wanted, usable = unit(queries)
    if not usable.all():
        raise InputError(f"query {int(usable.argmin())} is zero or not finite: it has no direction to search in.")
    if exclude is None:
        return wanted, _allowed(rows, n_rows), None
    of_rows, of_queries = (np.asarray(groups) for groups in exclude)
    if of_rows.shape != (n_rows,) or of_queries.shape != (len(queries),):
        raise InputError(
            f"exclude has groups of shape {of_rows.shape} and {of_queries.shape}, but ({n_rows},) for the rows and "
            f"({len(queries)},) for the queries are needed."
        )
    return wanted, _allowed(rows, n_rows), (of_rows, of_queries)


def _allowed(rows: ArrayLike | None, n_rows: int) -> Mask | None:
    if rows is None:
        return None
    chosen = np.asarray(rows)
    if chosen.dtype == np.bool_:
        if chosen.shape != (n_rows,):
            raise InputError(f"rows is a mask of shape {chosen.shape}, but ({n_rows},) is needed.")
        return chosen
    if chosen.size and (chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= n_rows):
        raise InputError(f"rows must be a mask, or row numbers from 0 to {n_rows - 1}.")
    mask = np.zeros(n_rows, dtype=np.bool_)
    mask[chosen.astype(np.int64)] = True
    return mask


def _candidates(similar: Scores, worst: Scores, k: int, dim: int) -> tuple[Rows, Rows]:
    """Return (query, place) of every entry that can be among the best `k`, given the worst of the best so far."""
    # A float32 product of unit vectors is within dim * eps / 2 of the truth (the classic bound); both sides of the
    # comparison may be off.
    slack = np.float32(dim * np.finfo(np.float32).eps)
    least = worst
    if similar.shape[1] > k:
        least = np.maximum(least, np.partition(similar, -k, axis=1)[:, -k])
    query, place = np.nonzero((similar >= (least - slack)[:, None]) & (similar > -np.inf))
    return query, place


def _dot(queries: Scores, vectors: Scores, query: Rows, place: Rows) -> Scores:
    """Compute the similarity of each pair by itself, in float64, so that it does not depend on the other pairs."""
    similar = np.empty(len(query), dtype=np.float32)
    for first in range(0, len(query), _PAIRS_AT_ONCE):
        some = slice(first, first + _PAIRS_AT_ONCE)
        pairs = queries[query[some]].astype(np.float64), vectors[place[some]]
        similar[some] = np.einsum("ij,ij->i", *pairs)
    return similar.clip(-1, 1)


def _merge(scores: Scores, rows: Rows, query: Rows, new_scores: Scores, new_rows: Rows) -> None:
    """Put new finds, a flat list, among the best of each query, in place: of equal ones the lower row is the better."""
    n_queries, k = scores.shape
    query = np.concatenate([np.repeat(np.arange(n_queries), k), query])
    new_scores = np.concatenate([scores.ravel(), new_scores])
    new_rows = np.concatenate([rows.ravel(), new_rows])
    order = np.lexsort((new_rows, -new_scores, query))
    start = np.searchsorted(query[order], np.arange(n_queries))
    best = order[start[:, None] + np.arange(k)]  # each query has at least the k it had
    scores[...], rows[...] = new_scores[best], new_rows[best]
