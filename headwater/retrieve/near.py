"""Most pairs of similar rows without comparing all pairs: rows are compared only if they look in the same direction.

A table has random directions, and each row belongs to the nearest of them. A row is compared with the rows of all
directions that are near to it, about one in a hundred. Similar rows have similar directions: the more similar a pair
is, the less likely a table misses it. Tables are independent, so a few are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headwater.retrieve.duplicates import pairs_above

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
LEAST_ROWS = 50_000
"""Fewest rows for which this is worthwhile; fewer are compared in all pairs."""
SHARE = 0.01  # of the directions that a row looks in
LEAST_TABLES, MOST_TABLES = 3, 12  # with more, comparing all pairs is as fast
SAMPLE = 2048  # rows that are compared with all rows, to measure the recall
RECALL = 0.999
LEAST_PAIRS = 30
"""Fewest sampled pairs for a recall."""
_ROWS_AT_ONCE = 4096
_ROUNDING = 1e-5  # of similarities that are computed twice


@dataclass
class NearPairs:
    """A search for the pairs of rows whose similarity is at least a threshold, and the recall that was measured.

    Rows drawn at random are first compared with all rows. Tables are added until at least 99.9 % of the pairs found so,
    of those that are too similar to be so by chance, are found by the tables as well.

    Parameters
    ----------
    units : float32 array of shape (n, dim)
        Rows of length 1; rows of zeros are never found.
    threshold
        Smallest similarity, above 0.
    certain
        Similarity of pairs that are not by chance: the recall is measured among pairs that reach it.
    seed
        Of the directions and the sample.

    Attributes
    ----------
    n_tables
        Number of tables that were used.
    n_certain, n_found
        Number of sampled pairs that reach ``certain``, and of those among them that the tables find.
    n_sampled, n_sampled_found
        The same for all sampled pairs above the threshold.
    complete
        Whether all pairs were compared in the end, since the tables missed too many.

    References
    ----------
    Charikar, Similarity estimation techniques from rounding algorithms, 2002; Andoni et al., Practical and optimal LSH
    for angular distance, 2015 (random directions); Lv et al., Multi-probe LSH, 2007.
    """

    units: Floats
    threshold: float
    certain: float
    seed: int = 0
    n_tables: int = 0
    n_certain: int = 0
    n_found: int = 0
    n_sampled: int = 0
    n_sampled_found: int = 0
    complete: bool = False
    _tables: list[_Table] = field(default_factory=list, repr=False)

    @property
    def recall(self) -> float | None:
        """The measured recall among certain pairs; None if too few were sampled."""
        return self.n_found / self.n_certain if self.n_certain >= LEAST_PAIRS else None

    def pairs(self, progress: Callable[[int], None] | None = None) -> Iterator[tuple[Rows, Rows, Floats]]:
        """Yield pairs, each once, as `headwater.retrieve.duplicates.pairs_above` does.

        If the tables find too few of the sampled pairs, all pairs are compared instead, before any is yielded.

        Parameters
        ----------
        progress
            Called with about the number of rows whose pairs are done.
        """
        self._prepare()
        if self.complete:
            yield from pairs_above(self.units, self.threshold, progress=progress)
            return
        n = len(self.units)
        for number, table in enumerate(self._tables):
            for done, (i, j, similar) in table.pairs(self.units, self.threshold):
                for earlier in self._tables[:number]:
                    if not len(i):
                        break
                    new = ~earlier.finds(self.units, i, j, -_ROUNDING)
                    i, j, similar = i[new], j[new], similar[new]
                if len(i):
                    yield i, j, similar
                if progress is not None:
                    progress(int(n * (number + done) / len(self._tables)))
        if progress is not None:
            progress(n)

    def _prepare(self) -> None:
        """Make as many tables as the sampled pairs need."""
        rng = np.random.default_rng(self.seed)
        n = len(self.units)
        sample = np.sort(rng.choice(n, min(SAMPLE, n), replace=False))
        found = list(pairs_above(self.units, self.threshold, queries=sample))
        i = np.concatenate([part[0] for part in found]) if found else np.arange(0)
        j = np.concatenate([part[1] for part in found]) if found else np.arange(0)
        sure = (np.concatenate([part[2] for part in found]) if found else np.zeros(0)) >= self.certain
        self.n_sampled, self.n_certain = len(i), int(sure.sum())
        hit = np.zeros(len(i), np.bool_)
        while True:
            if self.n_tables == MOST_TABLES:
                self.complete, self._tables, self.n_tables = True, [], 0
                self.n_found, self.n_sampled_found = self.n_certain, self.n_sampled
                return
            table = _Table.make(self.units, rng)
            self._tables.append(table)
            hit |= table.finds(self.units, i, j, 0.0)
            self.n_tables += 1
            self.n_found, self.n_sampled_found = int((hit & sure).sum()), int(hit.sum())
            if self.n_tables >= LEAST_TABLES and self.n_found >= RECALL * self.n_certain:
                return


@dataclass(frozen=True, eq=False)
class _Table:
    """Random directions, the one that each row belongs to, and those that it looks in.

    Attributes
    ----------
    directions : float32 array of shape (n_directions, dim)
    own : int64 array of shape (n,)
        The nearest direction of each row.
    least
        Similarity of a direction that a row looks in.
    rows, starts
        Rows that look in each direction, int32, one direction after the other, and where each begins.
    """

    directions: Floats
    own: Rows
    least: float
    rows: NDArray[np.int32]
    starts: Rows

    @classmethod
    def make(cls, units: Floats, rng: np.random.Generator) -> _Table:
        n, dim = units.shape
        n_directions = 1 << max(4, round(math.log2(4.5 * math.sqrt(n))))
        directions = rng.standard_normal((n_directions, dim), np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        some = units[np.sort(rng.choice(n, min(n, 1024), replace=False))] @ directions.T
        least = float(np.quantile(some, 1 - SHARE))
        own = np.empty(n, np.int64)
        looking, cells = [], []
        for start in range(0, n, _ROWS_AT_ONCE):
            near = units[start : start + _ROWS_AT_ONCE] @ directions.T
            own[start : start + len(near)] = near.argmax(1)
            flat = np.flatnonzero(near >= least)
            looking.append((flat // n_directions + start).astype(np.int32))
            cells.append((flat % n_directions).astype(np.int32))
        cell = np.concatenate(cells)
        order = np.argsort(cell, kind="stable")
        starts = np.searchsorted(cell[order], np.arange(n_directions + 1))
        return cls(directions, own, least, np.concatenate(looking)[order], starts)

    def pairs(self, units: Floats, threshold: float) -> Iterator[tuple[float, tuple[Rows, Rows, Floats]]]:
        """Yield pairs that are compared and similar enough, each once, and the share of the work that is done."""
        members = np.argsort(self.own, kind="stable")
        ends = np.searchsorted(self.own[members], np.arange(len(self.directions) + 1))
        for cell in range(len(self.directions)):
            here = members[ends[cell] : ends[cell + 1]]
            there = self.rows[self.starts[cell] : self.starts[cell + 1]]
            for first in range(0, len(there) if len(here) else 0, _ROWS_AT_ONCE):
                some = there[first : first + _ROWS_AT_ONCE]
                similar = (units[some] @ units[here].T).reshape(-1)
                flat = np.flatnonzero(similar >= threshold)
                i, j = some[flat // len(here)].astype(np.int64), here[flat % len(here)]
                similar = similar[flat]
                kept = i != j
                i, j, similar = i[kept], j[kept], similar[kept]
                second = i > j  # found from the other side too, if the lower row looks in the direction of the higher
                if second.any():
                    again = np.zeros(len(i), np.bool_)
                    again[second] = self._looks(units, j[second], i[second], -_ROUNDING)
                    i, j, similar = np.minimum(i, j)[~again], np.maximum(i, j)[~again], similar[~again]
                yield (cell + 1) / len(self.directions), (i, j, similar)

    def _looks(self, units: Floats, i: Rows, j: Rows, slack: float) -> NDArray[np.bool_]:
        """Return whether rows i look in the directions of rows j."""
        out = np.empty(len(i), np.bool_)
        for first in range(0, len(i), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            near = np.einsum("ij,ij->i", units[i[some]], self.directions[self.own[j[some]]])
            out[some] = near >= self.least + slack
        return out

    def finds(self, units: Floats, i: Rows, j: Rows, slack: float) -> NDArray[np.bool_]:
        """Return whether pairs are compared."""
        return self._looks(units, i, j, slack) | self._looks(units, j, i, slack)
