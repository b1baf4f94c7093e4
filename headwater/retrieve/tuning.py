"""The recall of an index, measured against exact search, and how widely to search for a recall that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._devices import Device
from headwater.errors import InputError
from headwater.retrieve.cosine import Features, Rows
from headwater.retrieve.exact import search
from headwater.retrieve.index import VectorIndex
from headwater.retrieve.searcher import Searcher

N_QUERIES = 256
K = 10
MOST_BREADTH = 16_384
"""Most candidates of an "hnsw" search; with more of them, exact search is as fast."""


def recall_at_10(
    index: VectorIndex,
    X: Features | NDArray[Any] | Searcher,
    *,
    n_queries: int = N_QUERIES,
    seed: int = 0,
    device: Device = "auto",
) -> float:
    """Measure the share of the true ten nearest neighbours that an index finds.

    Parameters
    ----------
    index
        The index, built over `X`.
    X : float array or array-like of shape (n_rows, dim), or a searcher of it
        The features; an exact search of them gives the true neighbours.
    n_queries
        Number of rows of `X` drawn at random as queries; a row is not its own neighbour.
    seed
        Seed of the draw.
    device
        Where the exact search runs, as in `headwater.retrieve.search`. The index is searched on the CPU.

    Returns
    -------
    float
        Recall, from 0 to 1.

    Raises
    ------
    InputError
        When the index was built over an array of another shape, or has fewer than two vectors.
    """
    searcher = X if isinstance(X, Searcher) else Searcher(X)
    if searcher.shape != (index.n_rows, index.dim):
        raise InputError(
            f"the index was built over features of shape {(index.n_rows, index.dim)}, not {searcher.shape}. Build it "
            "again: headwater index"
        )
    if index.n_vectors < 2:
        raise InputError("the index has one vector, so its recall cannot be measured.")
    return _Held.of(searcher, n_queries, seed, device).recall(index)


@dataclass(frozen=True, eq=False)
class _Held:
    """Rows as queries, and the true neighbours of each, without itself."""

    rows: Rows
    queries: NDArray[Any]
    true: Rows

    @classmethod
    def of(cls, searcher: Searcher, n_queries: int, seed: int, device: Device) -> _Held:
        inside = np.flatnonzero(searcher.lengths() > 0)
        drawn = np.random.default_rng(seed).choice(inside, min(n_queries, len(inside)), replace=False)
        itself = (np.arange(searcher.shape[0]), drawn)
        queries = np.asarray(searcher.X[drawn])
        _, true = search(searcher.X, queries, K, exclude=itself, device=device)
        return cls(drawn, queries, true)

    def halves(self) -> tuple[_Held, _Held]:
        """Return two parts; the rows are in random order."""
        half = len(self.rows) // 2
        first, second = slice(0, half), slice(half, None)
        return (
            _Held(self.rows[first], self.queries[first], self.true[first]),
            _Held(self.rows[second], self.queries[second], self.true[second]),
        )

    def recall(self, index: VectorIndex) -> float:
        """Return the share of the true neighbours that an index finds."""
        _, found = index.search(self.queries, K + 1, device="cpu")
        found = np.where(found == self.rows[:, None], -1, found)
        kept = np.argsort(found < 0, axis=1, kind="stable")[:, :K]
        found = np.take_along_axis(found, kept, axis=1)
        there = self.true >= 0
        hits = (self.true[:, :, None] == found[:, None, :]) & there[:, :, None]
        return float(hits.sum() / there.sum())


def tuned(
    index: VectorIndex,
    X: Features | NDArray[Any] | Searcher,
    target: float,
    *,
    n_queries: int = N_QUERIES,
    seed: int = 0,
    device: Device = "auto",
) -> tuple[VectorIndex, float]:
    """Return an index that searches just widely enough for a recall among the ten nearest, and the recall measured.

    Rows of `X` are drawn as queries. The breadth is chosen on half of them, as the least at which the recall is
    reached, and the recall is measured on the other half; if it is lower there, the breadth grows until it is not.

    Parameters
    ----------
    index
        The index, built over `X`.
    X : float array or array-like of shape (n_rows, dim), or a searcher of it
    target
        Recall to reach, above 0 and at most 1.
    n_queries
        Number of queries for each half.
    seed, device
        As in `recall_at_10`.

    Raises
    ------
    InputError
        When no breadth reaches the recall; the message gives the highest one measured.
    """
    if not 0 < target <= 1:
        raise InputError(f"--recall must be above 0 and at most 1, but is {target}.")
    searcher = X if isinstance(X, Searcher) else Searcher(X)
    held = _Held.of(searcher, 2 * n_queries, seed, device)
    if index.kind == "flat":
        return index, held.halves()[1].recall(index)
    chosen_on, measured_on = held.halves()
    low, high = 0, 1
    most = MOST_BREADTH if index.kind == "hnsw" else index.n_lists
    while chosen_on.recall(replace(index, breadth=high)) < target and high < most:
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        enough = chosen_on.recall(replace(index, breadth=middle)) >= target
        low, high = (low, middle) if enough else (middle, high)
    while True:
        found = replace(index, breadth=high)
        recall = measured_on.recall(found)
        if recall >= target:
            return found, recall
        if high >= most:
            break
        high = min(max(high + 1, high * 5 // 4), most)
    why = "its vectors are compressed" if index.kind == "ivfpq" else "its graph leads no further"
    raise InputError(
        f"--recall {target:g}: an index of kind {index.kind} reaches {recall:.3f} here, since {why}. Use "
        f"{'ivf, hnsw or ' if index.kind == 'ivfpq' else 'ivf or '}flat, or a lower recall."
    )
