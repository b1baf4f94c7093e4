"""How often the nearest neighbours of a row have its label: votes, recall, average precision, and their chance levels.

Queries are resampled by group for intervals. Neighbours are those of other groups, so a row is never found by another
of its own patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate.bootstrap import Draws, drawn_groups, interval
from headwater.evaluate.intervals import mean_share_interval

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Bools = NDArray[np.bool_]
VOTES = (1, 3, 5)
"""Numbers of neighbours that vote."""
RECALLS = (3, 5, 10)
"""Numbers of neighbours among which one with the label counts."""
N_NEIGHBOURS = 10
CHANCE_DRAWS = 20  # random neighbours drawn for each query, several times


class Measured(NamedTuple):
    """A number with its confidence interval, NaN where there is none, and its expected value for random neighbours."""

    value: float
    low: float
    high: float
    by_chance: float


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The labels of each query and of its neighbours, best first.

    Attributes
    ----------
    truth : int64 array of shape (n_queries,)
        Class numbers.
    near : int64 array of shape (n_queries, k)
        Class numbers of the neighbours; -1 where there is none.
    groups : int64 array of shape (n_queries,)
        Group numbers of the queries, from 0.
    precision : float64 array of shape (n_queries,)
        Average precision of each query; NaN where it was not computed, or where no other group has the label.
    """

    truth: Codes
    near: Codes
    groups: Codes
    precision: Floats

    def at(self, rows: Bools | Codes) -> Neighbours:
        """Return some queries."""
        groups = np.unique(self.groups[rows], return_inverse=True)[1]
        return Neighbours(self.truth[rows], self.near[rows], groups, self.precision[rows])


def voted(near: Codes, n_votes: int, n_classes: int) -> Codes:
    """Return the class that most of the nearest neighbours have, of shape ``(n,)``; -1 without neighbours.

    Among equally frequent classes, the one of the nearest neighbour wins.

    Parameters
    ----------
    near : int64 array of shape (n, k)
        Classes of the neighbours, best first; -1 for none.

    Examples
    --------
    >>> voted(np.array([[2, 0, 0], [1, 0, 2], [1, -1, -1], [-1, -1, -1]]), 3, 3).tolist()
    [0, 1, 1, -1]
    """
    votes = near[:, :n_votes]
    score = np.zeros((len(near), n_classes))
    for rank in range(votes.shape[1] - 1, -1, -1):
        there = np.flatnonzero(votes[:, rank] >= 0)
        # A vote counts 1, and a nearer one so much more that it decides among equals only.
        score[there, votes[there, rank]] += 1 + 2.0 ** -(rank + 2) / (votes.shape[1] + 1)
    return np.where(score.any(1), score.argmax(1), -1)


def f1_macro(truth: Codes, guess: Codes, n_classes: int) -> float:
    """Return the mean over the classes that occur of the F1 score; a query without a guess is a miss."""
    return float(_f1_macro(*_confusions(truth, guess, np.zeros(len(truth), np.int64), n_classes), np.ones((1, 1)))[0])


def _confusions(truth: Codes, guess: Codes, groups: Codes, n_classes: int) -> tuple[Floats, Floats, Floats]:
    """Return hits, guesses and queries of each class in each group, each of shape ``(n_groups, n_classes)``."""
    n_groups = int(groups.max()) + 1

    def counts(rows: Bools, classes: Codes) -> Floats:
        cells = np.bincount(groups[rows] * n_classes + classes[rows], minlength=n_groups * n_classes)
        return cells.reshape(n_groups, n_classes).astype(np.float64)

    return counts(truth == guess, truth), counts(guess >= 0, guess), counts(truth >= 0, truth)


def _f1_macro(hits: Floats, guesses: Floats, queries: Floats, weights: Floats) -> Floats:
    """Return the macro F1 for each weighting of groups, of shape ``(n_weightings,)``."""
    hit, guessed, asked = (weights @ part for part in (hits, guesses, queries))
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(asked > 0, 2 * hit / (guessed + asked), np.nan)
    present = ~np.isnan(each)
    return np.where(present.any(1), np.where(present, each, 0).sum(1) / np.maximum(present.sum(1), 1), np.nan)


def measures(
    found: Neighbours, random: Sequence[Neighbours], n_classes: int, chance_precision: float, draws: Draws
) -> dict[str, Measured]:
    """Compute every number about some queries.

    Parameters
    ----------
    found
        Their neighbours.
    random
        Neighbours of the same queries that were drawn at random, several times.
    chance_precision
        The mean expected average precision of a random order.
    draws
        Level of the intervals, and the resamples of groups for those of macro F1 and average precision.

    Returns
    -------
    dict
        ``top_1``, ``majority_3``, ``majority_5``, the macro F1 of each (``f1_top_1`` …), ``recall_at_3`` …, and
        ``map``.

    References
    ----------
    Top 1, majority of the top 3 and of the top 5, macro F1 and leaving one patient out are usual for retrieval in
    histopathology: arXiv 2605.00902.
    """
    rng = np.random.default_rng(draws.seed)
    weights = drawn_groups(rng, int(found.groups.max()) + 1, draws.n_draws)
    out = {}
    names = {n: "top_1" if n == 1 else f"majority_{n}" for n in VOTES}
    for n, name in names.items():
        out[name] = _share(found, lambda one, n=n: voted(one.near, n, n_classes) == one.truth, random, draws.level)
    for n, name in names.items():
        values = _f1_macro(*_confusions(found.truth, voted(found.near, n, n_classes), found.groups, n_classes), weights)
        chance = np.mean([f1_macro(one.truth, voted(one.near, n, n_classes), n_classes) for one in random])
        out[f"f1_{name}"] = Measured(float(values[0]), *interval(values[1:], draws.level), float(chance))
    for k in RECALLS:
        out[f"recall_at_{k}"] = _share(
            found, lambda one, k=k: (one.near[:, :k] == one.truth[:, None]).any(1), random, draws.level
        )
    there = ~np.isnan(found.precision)
    sums = np.bincount(found.groups[there], weights=found.precision[there], minlength=weights.shape[1])
    counts = np.bincount(found.groups[there], minlength=weights.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ sums) / (weights @ counts)
    out["map"] = Measured(float(means[0]), *interval(means[1:], draws.level), chance_precision)
    return out


def _share(found: Neighbours, right_of, random: Sequence[Neighbours], level: float) -> Measured:  # type: ignore[no-untyped-def]
    right = right_of(found)
    chance = float(np.mean([right_of(one).mean() for one in random]))
    return share_of(right, found.groups, chance, level)


def share_of(right: Bools, groups: Codes, by_chance: float, level: float) -> Measured:
    """Return a share of queries with its interval by groups."""
    ends = mean_share_interval(right, np.ones(len(right), np.bool_), groups, [np.arange(len(right))], level)
    return Measured(float(right.mean()), *ends, by_chance)


def average_precision(similar: NDArray[np.float32], relevant: Bools, rng: np.random.Generator) -> float:
    """Return the average precision of one query; NaN if no row is relevant.

    Equally similar rows are in random order.

    Parameters
    ----------
    similar : float32 array of shape (n,)
    relevant : bool array of shape (n,)

    Examples
    --------
    >>> similar = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    >>> round(average_precision(similar, np.array([True, False, True, False]), np.random.default_rng(0)), 4)
    0.8333
    """
    if not relevant.any():
        return float("nan")
    bits = np.ascontiguousarray(similar + np.float32(0)).view(np.int32)  # -0 becomes 0
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFF_FFFF), bits).astype(np.int64)  # as the numbers are
    packed = (ordered << 32) | (rng.integers(0, 1 << 31, len(bits), np.int64) << 1) | relevant
    packed.sort()  # of numbers, which is much faster than of an index
    hits = np.flatnonzero(packed[::-1] & 1)
    return float((np.arange(1, len(hits) + 1) / (hits + 1)).mean())


def expected_precision(n: int, n_relevant: int) -> float:
    """Return the expected average precision of a random order of ``n`` rows; NaN if none is relevant.

    References
    ----------
    Bestgen, Exact expected average precision of the random baseline for system evaluation, 2015.

    Examples
    --------
    >>> expected_precision(2, 1), expected_precision(5, 5)
    (0.75, 1.0)
    """
    if not n_relevant:
        return float("nan")
    if n == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, n + 1)).sum()) if n < 1000 else float(np.log(n) + np.euler_gamma + 1 / (2 * n))
    return ((n_relevant - 1) / (n - 1) * (n - harmonic) + harmonic) / n


@dataclass(frozen=True)
class Crowding:
    """How often neighbours share the query's value of a column, such as its site.

    Attributes
    ----------
    column
        The column.
    k
        Number of neighbours of each query.
    share, low, high
        Share of neighbours with the query's value, and its confidence interval.
    by_chance
        The share that neighbours drawn at random from the same rows would have.
    by_chance_in_class
        The share that neighbours drawn at random from the rows with the query's label would have: what is explained by
        labels and values that go together.
    """

    column: str
    k: int
    share: float
    low: float
    high: float
    by_chance: float
    by_chance_in_class: float


def crowding(
    column: str, same: Bools, there: Bools, groups: Codes, chance: Floats, chance_in_class: Floats, draws: Draws
) -> Crowding:
    """Compute how often neighbours share the query's value.

    Parameters
    ----------
    same, there : bool arrays of shape (n_queries, k)
        Whether a neighbour has the query's value; whether there is one.
    groups : int64 array of shape (n_queries,)
    chance, chance_in_class : float64 arrays of shape (n_queries,)
        The share of rows with the query's value among those that may be found, and among those of its label; NaN
        without such rows.
    """
    rng = np.random.default_rng(draws.seed)
    weights = drawn_groups(rng, int(groups.max()) + 1, draws.n_draws)
    hits, counts = (np.bincount(groups, weights=part.sum(1), minlength=weights.shape[1]) for part in (same, there))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (weights @ hits) / (weights @ counts)
    low, high = interval(shares[1:], draws.level)
    means = (float(np.nanmean(one)) if not np.isnan(one).all() else float("nan") for one in (chance, chance_in_class))
    return Crowding(column, same.shape[1], float(shares[0]), low, high, *means)


def as_rows(found: Mapping[str, Measured]) -> list[dict[str, float | str]]:
    """Return measures as plain rows."""
    return [{"measure": name, **one._asdict()} for name, one in found.items()]
