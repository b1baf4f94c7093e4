"""Exact nearest neighbours by cosine, block by block, in memory that does not grow with the number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._backend import Array, Backend, computed, to_numpy
from headwater._devices import Device
from headwater.retrieve.asked import Asked, Exclude, check
from headwater.retrieve.cosine import Features, Rows, Scores, blocks, cosines, merge, unit_on
from headwater.retrieve.searcher import Searcher

_QUERIES_AT_ONCE = 512  # so that the similarities of a block take 16 MiB


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

    Blocks of `X` are read one after the other; only the best `k` rows so far are kept. To search the same rows several
    times, keep a `Searcher`, which computes their lengths once.

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

    def searched(backend: Backend) -> tuple[Scores, Rows]:
        return Searcher(X, keep=False).found(asked, k) if backend.is_numpy else _on_device(X, asked, k, backend)

    return computed(searched, device, work=work, what="search", X=X)


def _on_device(X: Any, asked: Asked, k: int, backend: Backend) -> tuple[Scores, Rows]:
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
        vectors, usable = unit_on(backend, values)
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
            better = cosines(backend, exact[some], values, query, place)
            merge(scores[some], found[some], to_numpy(query), better, to_numpy(place) + span.start)
    return scores, found


def _candidates(backend: Backend, similar: Array, worst: Array, k: int, dim: int) -> tuple[Array, Array]:
    """Return (query, place) of every entry that may be among the best `k`, given the worst score found so far."""
    # The error of a float32 product of unit vectors is at most dim * eps / 2 (the classic bound); both sides of the
    # comparison may have it.
    slack = float(dim * np.finfo(np.float32).eps)
    least = worst
    if similar.shape[1] > k:
        kth = similar.topk(k, dim=1).values[:, -1]  # torch's; the array API has no such function
        least = backend.xp.maximum(least, kth)
    found = backend.xp.nonzero((similar >= (least - slack)[:, None]) & (similar > -np.inf))
    return found[0], found[1]
