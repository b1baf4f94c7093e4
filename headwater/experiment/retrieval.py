"""How well similar cases are found: neighbours from other patients, their labels, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._devices import Device
from headwater._progress import Progress
from headwater._words import counted
from headwater.errors import InputError
from headwater.evaluate.bootstrap import Draws
from headwater.evaluate.retrieval import (
    CHANCE_DRAWS,
    N_NEIGHBOURS,
    VOTES,
    Crowding,
    Measured,
    Neighbours,
    average_precision,
    crowding,
    expected_precision,
    measures,
    voted,
)
from headwater.retrieve.cosine import Features, blocks, unit
from headwater.retrieve.exact import search
from headwater.retrieve.searcher import Searcher

Codes = NDArray[np.int64]
MOST_QUERIES = 5000
"""Most queries; of more samples, so many are drawn at random. All samples may be found."""
MOST_COMPARED = 200_000_000  # similarities that are sorted for average precisions
AT_ONCE = 32_000_000  # similarities in memory


@dataclass(frozen=True, eq=False)
class Retrieved:
    """The results of `retrieval`.

    Attributes
    ----------
    n_queries, n_ranked
        Number of queries, and of those whose average precision was computed.
    n_groups
        Number of groups of the queries.
    n_alone
        Number of queries whose label no other group has: their neighbours cannot have it.
    measures
        Every number by its name, over all queries.
    by_class, by_site
        The same for the queries of each class, and of each value of the first site column.
    crowding
        How often neighbours share the query's value of each column; for the groups, among all other rows.
    queries
        A row for each query.
    """

    n_queries: int
    n_ranked: int
    n_groups: int
    n_alone: int
    measures: Mapping[str, Measured]
    by_class: Mapping[str, tuple[int, Mapping[str, Measured]]]
    by_site: Mapping[str, tuple[int, Mapping[str, Measured]]]
    crowding: list[Crowding]
    queries: pl.DataFrame


def retrieval(
    X: Features,
    ids: NDArray[Any],
    label: NDArray[Any],
    groups: NDArray[Any],
    group_name: str | None,
    sites: Mapping[str, NDArray[Any]],
    *,
    draws: Draws,
    device: Device = "auto",
    say: Progress,
) -> Retrieved:
    """Measure how well the neighbours of rows tell their label; see `headwater.api.retrieval_report`.

    Parameters
    ----------
    X : float array-like of shape (n, dim)
        Features, usable or not; rows without a direction are left out.
    ids, label, groups : arrays of shape (n,)
        Neighbours of a row's own group are not found.
    group_name
        Name of the groups; None if each item is its own group.
    sites
        Columns by name, as strings of shape ``(n,)``, whose values neighbours may share.
    """
    classes, truth = np.unique(label.astype(str), return_inverse=True)
    group = np.unique(groups.astype(str), return_inverse=True)[1]
    searcher = Searcher(X)
    usable = np.flatnonzero(searcher.lengths() > 0)
    if len(np.unique(group[usable])) < 2:
        raise InputError("all samples belong to one group, so none has a neighbour from another group.")
    rng = np.random.default_rng(draws.seed)
    queries = usable
    if len(usable) > MOST_QUERIES:
        queries = np.sort(rng.choice(usable, MOST_QUERIES, replace=False))
    say(f"neighbours of {counted(len(queries), 'sample')}")
    k = min(N_NEIGHBOURS, len(usable) - 1)
    vectors = np.asarray(X[queries])
    _, rows = search(X, vectors, k, rows=usable, exclude=(group, group[queries]), device=device)
    own = np.unique(group[queries], return_inverse=True)[1]
    pool = _Pool(truth, group, usable)
    n_ranked = min(len(queries), max(MOST_COMPARED // len(usable), 100))
    ranked = np.sort(rng.choice(len(queries), n_ranked, replace=False))
    precision = np.full(len(queries), np.nan)
    precision[ranked] = _precisions(X, queries[ranked], vectors[ranked], truth, group, usable, rng)
    found = Neighbours(truth[queries], _taken(truth, rows), own, precision)
    random = [
        Neighbours(found.truth, _taken(truth, pool.drawn(group[queries], k, rng)), own, precision)
        for _ in range(CHANCE_DRAWS)
    ]
    expected = pool.expected(queries)

    def some(chosen: NDArray[np.bool_]) -> tuple[int, Mapping[str, Measured]]:
        there = chosen & ~np.isnan(precision)
        chance = float(np.nanmean(expected[there])) if there.any() and not np.isnan(expected[there]).all() else np.nan
        parts = [one.at(chosen) for one in random]
        return int(chosen.sum()), measures(found.at(chosen), parts, len(classes), chance, draws)

    first = next(iter(sites.values()), None)
    chosen = {name: found.truth == number for number, name in enumerate(classes.tolist())}
    of_class = {name: some(rows_of) for name, rows_of in chosen.items() if rows_of.any()}
    of_site = {} if first is None else {v: some(first[queries] == v) for v in np.unique(first[queries]).tolist()}
    crowds = [
        _crowd(column, values, rows, queries, truth, group, usable, own, draws) for column, values in sites.items()
    ]
    if group_name is not None:
        _, free = search(X, vectors, k, rows=usable, exclude=(np.arange(len(group)), queries), device=device)
        alone = np.arange(len(group))
        crowds.append(_crowd(group_name, groups.astype(str), free, queries, truth, alone, usable, own, draws))
    guesses = {"top_1" if n == 1 else f"majority_{n}": voted(found.near, n, len(classes)) for n in VOTES}
    table = pl.DataFrame(
        {"id": ids[queries], "label": classes[found.truth]}
        | {name: _names(classes, guess) for name, guess in guesses.items()}
        | {"average_precision": pl.Series(precision, dtype=pl.Float64).fill_nan(None)}
    )
    return Retrieved(
        len(queries),
        n_ranked,
        int(own.max()) + 1,
        int((pool.others_of_class(queries) == 0).sum()),
        some(np.ones(len(queries), np.bool_))[1],
        of_class,
        of_site,
        crowds,
        table,
    )


def _taken(values: Codes, rows: Codes) -> Codes:
    """Return the values of rows, -1 where there is none."""
    return np.where(rows >= 0, values[np.maximum(rows, 0)], -1)


def _names(classes: NDArray[Any], codes: Codes) -> NDArray[Any]:
    return np.where(codes >= 0, classes[np.maximum(codes, 0)], "")


class _Pool:
    """The rows that may be found, and how many of them each query may find."""

    def __init__(self, truth: Codes, group: Codes, usable: Codes) -> None:
        self._truth, self._group, self._usable = truth, group, usable
        n_classes = int(truth.max()) + 1
        self._of_class = np.bincount(truth[usable], minlength=n_classes)
        cell = group[usable] * n_classes + truth[usable]
        self._cells, self._counts = np.unique(cell, return_counts=True)
        self._n_classes = n_classes
        self._of_group = np.bincount(group[usable], minlength=int(group.max()) + 1)

    def others(self, queries: Codes) -> Codes:
        """Return the number of rows from other groups."""
        return len(self._usable) - self._of_group[self._group[queries]]

    def others_of_class(self, queries: Codes) -> Codes:
        """Return the number of those with the query's label."""
        cell = self._group[queries] * self._n_classes + self._truth[queries]
        own = self._counts[np.searchsorted(self._cells, cell)]
        counts: Codes = self._of_class[self._truth[queries]] - own
        return counts

    def expected(self, queries: Codes) -> NDArray[np.float64]:
        """Return the average precision that a random order would have on average."""
        pairs = zip(self.others(queries).tolist(), self.others_of_class(queries).tolist(), strict=True)
        known: dict[tuple[int, int], float] = {}
        return np.array([known.setdefault(pair, expected_precision(*pair)) for pair in pairs])

    def drawn(self, groups: Codes, k: int, rng: np.random.Generator) -> Codes:
        """Return random rows from other groups, with replacement, of shape ``(n, k)``."""
        rows = self._usable[rng.integers(0, len(self._usable), (len(groups), k))]
        for _ in range(1000):
            wrong = self._group[rows] == groups[:, None]
            if not wrong.any():
                return rows
            rows[wrong] = self._usable[rng.integers(0, len(self._usable), int(wrong.sum()))]
        return np.where(self._group[rows] == groups[:, None], -1, rows)  # almost all rows are of one group


def _precisions(
    X: Features,
    queries: Codes,
    vectors: NDArray[Any],
    truth: Codes,
    group: Codes,
    usable: Codes,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the average precision of each query among the rows of other groups."""
    n = len(group)
    out = np.empty(len(queries))
    wanted, _ = unit(vectors)
    step = max(1, AT_ONCE // n)
    for first in range(0, len(queries), step):
        some = slice(first, first + step)
        similar = np.empty((len(wanted[some]), n), np.float32)
        for span, block in blocks(X):
            similar[:, span] = wanted[some] @ unit(block)[0].T
        for number, query in enumerate(queries[some].tolist()):
            others = usable[group[usable] != group[query]]
            out[first + number] = average_precision(similar[number, others], truth[others] == truth[query], rng)
    return out


def _crowd(
    column: str,
    values: NDArray[Any],
    rows: Codes,
    queries: Codes,
    truth: Codes,
    group: Codes,
    usable: Codes,
    own: Codes,
    draws: Draws,
) -> Crowding:
    """Compare the share of neighbours with the query's value with what is expected by chance."""
    value = np.unique(values.astype(str), return_inverse=True)[1]
    n_values, n_classes = int(value.max()) + 1, int(truth.max()) + 1
    of_value = np.bincount(value[usable], minlength=n_values)
    both = value * n_classes + truth
    of_both = np.bincount(both[usable], minlength=n_values * n_classes)
    of_class = np.bincount(truth[usable], minlength=n_classes)
    chance, in_class = np.empty(len(queries)), np.empty(len(queries))
    sorted_rows = usable[np.argsort(group[usable], kind="stable")]
    first, stop = (np.searchsorted(group[sorted_rows], group[queries], side) for side in ("left", "right"))
    for number, query in enumerate(queries.tolist()):
        mine = sorted_rows[first[number] : stop[number]]
        same_value, same_class = value[mine] == value[query], truth[mine] == truth[query]
        n_all, n_class = len(usable) - len(mine), of_class[truth[query]] - int(same_class.sum())
        chance[number] = (of_value[value[query]] - int(same_value.sum())) / n_all if n_all else np.nan
        n_both = of_both[both[query]] - int((same_value & same_class).sum())
        in_class[number] = n_both / n_class if n_class else np.nan
    there = rows >= 0
    same = (value[np.maximum(rows, 0)] == value[queries][:, None]) & there
    return crowding(column, same, there, own, chance, in_class, draws)
