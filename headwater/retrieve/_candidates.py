"""The rows that may be among the best for some queries, while rows are compared with them in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._backend import NUMPY
from headwater.retrieve.asked import Asked
from headwater.retrieve.cosine import Rows, Scores, cosines, merge

Part = tuple[Rows, Rows, Scores]
"""Numbers of queries, numbers of rows, and approximate similarities."""
_PAIRS_AT_ONCE = 4096
_MOST_PENDING = 65_536  # candidates more than those that are wanted, before their cosines are computed
_MOST_PARTS = 16
_LOWEST = np.finfo(np.float32).min


class Candidates:
    """The candidates of some queries; `best` computes their exact cosines and returns the best of them.

    Parameters
    ----------
    asked
        All queries, validated.
    k
        Number of rows to find for each.
    some
        Which of the queries these candidates are of.
    dim
        Length of rows.
    """

    def __init__(self, asked: Asked, k: int, some: slice, dim: int) -> None:
        self._exact = asked.exact[some]
        self._own = None if asked.group is None else asked.group[some]
        self._of_rows = asked.of_rows
        self._k = k
        # The error of a float32 product of unit vectors is at most dim * eps / 2 (the classic bound); both sides of a
        # comparison may have it, and lengths and queries are rounded too.
        self._slack = np.float32((dim + 16) * np.finfo(np.float32).eps)
        n = len(self._exact)
        self._near = np.full((n, k), -np.inf, np.float32)  # the largest approximate similarities so far
        self._least = self._near[:, -1]
        self._open = True  # whether some query has fewer than k candidates
        self._floor = np.full((n, 1), _LOWEST)  # what a candidate's similarity must reach
        self._new: list[Part] = []  # not yet among `_near`
        self._n_new = 0
        self._pending: list[Part] = []
        self._scores = np.full((n, k), -np.inf, np.float32)
        self._rows = np.full((n, k), -1, np.int64)

    def add(self, similar: Scores, rows: Rows | slice) -> None:
        """Add what may be among the best.

        Parameters
        ----------
        similar : float32 array of shape (n_queries, n)
            Approximate similarities, which may be changed; -inf for a row that must not be found.
        rows
            Numbers of the rows.
        """
        k, n = self._k, similar.shape[1]
        own = None
        if self._own is not None and self._of_rows is not None:
            own = self._of_rows[rows]
        floor = self._floor
        if self._open and n > k:  # a threshold, rather than all rows
            which = np.flatnonzero(np.isneginf(self._least))
            few = similar[which]
            if own is not None and self._own is not None:
                few[self._own[which, None] == own] = -np.inf
            floor = floor.copy()
            floor[which, 0] = np.maximum(np.partition(few, -k, axis=1)[:, -k] - self._slack, _LOWEST)
        hit = np.flatnonzero(similar >= floor)
        if not len(hit):
            return
        query, place = np.divmod(hit, n)
        near = similar[query, place]
        if own is not None and self._own is not None:
            kept = own[place] != self._own[query]
            query, place, near = query[kept], place[kept], near[kept]
        row = place + rows.start if isinstance(rows, slice) else rows[place]
        self._new.append((query, row, near))
        self._n_new += len(query)
        if self._n_new > len(self._near) * k // 4:
            self._tighten()

    def take_in(self, other: Candidates) -> None:
        """Add the candidates of the same queries among other rows."""
        other._tighten()
        merge(self._scores, self._rows, *_flat(other._scores, other._rows))
        self._new += other._pending
        self._tighten()

    def best(self, X: Any) -> tuple[Scores, Rows]:
        """Return the scores and numbers of the best rows of each query, of shape ``(n_queries, k)``."""
        self._tighten()
        self._settle(X)
        return self._scores, self._rows

    def too_many(self) -> bool:
        """Whether so many candidates wait, as equal rows may cause, that `settle` should be called."""
        return sum(len(part[0]) for part in self._pending) > 4 * self._near.size + _MOST_PENDING

    def settle(self, X: Any) -> None:
        """Compute the exact cosines of the candidates so far, and keep the best."""
        self._tighten()
        if self.too_many():
            self._settle(X)

    def _tighten(self) -> None:
        """Raise the thresholds by the new candidates, and drop those that are below."""
        if not self._new:
            return
        n, k = self._near.shape
        query, row, near = _joined(self._new)
        self._new, self._n_new = [], 0
        of = np.concatenate([np.repeat(np.arange(n), k), query])
        values = np.concatenate([self._near.ravel(), near])
        order = np.lexsort((-values, of))
        start = np.searchsorted(of[order], np.arange(n))
        self._near = values[order[start[:, None] + np.arange(k)]]
        self._least = self._near[:, -1]
        self._open = bool(np.isneginf(self._least).any())
        self._floor = np.maximum(self._least - self._slack, _LOWEST)[:, None]
        parts = [_those(part, part[2] >= self._floor[part[0], 0]) for part in (*self._pending, (query, row, near))]
        self._pending = parts if len(parts) <= _MOST_PARTS else [_joined(parts)]

    def _settle(self, X: Any) -> None:
        for query, row, _ in self._pending:
            for first in range(0, len(query), _PAIRS_AT_ONCE):
                some = slice(first, first + _PAIRS_AT_ONCE)
                values = np.asarray(X[row[some]])
                exact = cosines(NUMPY, self._exact, values, query[some], np.arange(len(values)))
                merge(self._scores, self._rows, query[some], exact, row[some])
        self._pending = []


def _flat(scores: Scores, rows: Rows) -> tuple[Rows, Scores, Rows]:
    query, place = np.nonzero(rows >= 0)
    return query, scores[query, place], rows[query, place]


def _joined(parts: list[Part]) -> Part:
    queries, rows, near = zip(*parts, strict=True)
    return np.concatenate(queries), np.concatenate(rows), np.concatenate(near)


def _those(part: Part, keep: NDArray[np.bool_]) -> Part:
    return part[0][keep], part[1][keep], part[2][keep]
