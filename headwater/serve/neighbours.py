"""What neighbours tell: their labels beside the base rate, how right their vote is, and when not to trust them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.serve.batches import Ended
from headwater.serve.gallery import Asked, Gallery

QUERIES = 400  # samples that are asked with, to measure the vote
AT_ONCE = 8
UNUSUAL = 5  # percentile of the similarity to the nearest case, below which nothing in the store resembles the query
CROWD = 0.6  # share of neighbours with one site, from which it is said, if it is that much above the site's share
ABOVE = 0.3


@dataclass(frozen=True)
class Vote:
    """How right the vote of neighbours is, measured by leaving out each query's patient.

    Attributes
    ----------
    k
        Number of neighbours that vote.
    n
        Samples that were asked with.
    accuracy
        Share of them whose label most neighbours have.
    base
        Share of the most frequent label.
    nearest
        Similarity of each to its nearest neighbour, ascending.
    """

    k: int
    n: int
    accuracy: float | None
    base: float | None
    nearest: Sequence[float]


class Neighbours:
    """Describes neighbours; the vote is measured in the background, once for each feature set.

    Parameters
    ----------
    gallery
        The samples.
    label, by
        The columns of labels and of sites; None for none.
    k
        Neighbours that vote.
    """

    def __init__(self, gallery: Gallery, label: str | None, by: str | None, k: int) -> None:
        self._gallery, self._k = gallery, k
        self.label, self.by = label, by
        self._labels = _column(gallery.table, label)
        self._sites = _column(gallery.table, by)
        self._votes: dict[str, Vote] = {}

    def measure(self) -> threading.Thread:
        """Start to measure the vote in each feature set."""
        thread = threading.Thread(target=self._measure, daemon=True, name="votes")
        thread.start()
        return thread

    def _measure(self) -> None:
        with suppress(Ended):
            for name in self._gallery.cases:
                self._votes[name] = self._vote(name)

    def vote(self, name: str) -> Vote | None:
        """Return how right the vote is; None while it is measured."""
        return self._votes.get(name)

    def labels(self, name: str, rows: NDArray[np.int64]) -> dict[str, Any] | None:
        """Return the labels of neighbours beside their base rates, and how right their vote is."""
        if self._labels is None:
            return None
        counts = Counter(label for label in (self._labels[row] for row in rows.tolist()) if label is not None)
        known = [label for label in self._labels if label is not None]
        base = Counter(known)
        vote = self.vote(name)
        measured = None
        if vote is not None and vote.accuracy is not None:
            measured = {"k": vote.k, "n": vote.n, "accuracy": vote.accuracy, "base": vote.base}
        listed = sorted(base, key=lambda label: (-counts[label], -base[label], label))
        shown = [{"label": label, "n": counts[label], "base": base[label] / len(known)} for label in listed[:12]]
        return {"column": self.label, "of": sum(counts.values()), "labels": shown, "vote": measured}

    def notes(self, name: str, rows: NDArray[np.int64], scores: NDArray[Any], *, alike: bool) -> list[str]:
        """Return lines that warn: nothing resembles the query, or neighbours crowd on one site.

        Parameters
        ----------
        rows, scores
            The neighbours, and the similarities of all that were found.
        alike
            Whether the query was compared as stored cases are with each other: it is an image among images, and all
            cases could be found.
        """
        out = []
        vote = self.vote(name)
        if alike and vote is not None and len(scores) and len(vote.nearest) >= 20:
            below = 100 * np.searchsorted(np.asarray(vote.nearest), float(scores[0])) / len(vote.nearest)
            if below < UNUSUAL:
                without = "its own patient" if self._gallery.patient is not None else "itself"
                out.append(
                    "Nothing in this store resembles the query: its most similar case is less similar than that of "
                    f"{100 - round(float(below))} % of the stored cases, each without {without}."
                )
        if self._sites is not None and len(rows) >= 5:
            counts = Counter(self._sites[row] for row in rows.tolist() if self._sites[row] is not None)
            known = [site for site in self._sites if site is not None]
            if counts and known:
                site, n = counts.most_common(1)[0]
                share, base = n / len(rows), known.count(site) / len(known)
                if share >= CROWD and share >= base + ABOVE:
                    out.append(
                        f"{n} of {len(rows)} cases have {self.by} {site}, as have {100 * base:.0f} % of the store: "
                        "they may be similar by where they were made rather than by what they show."
                    )
        return out

    def _neighbours(self, name: str, row: int) -> tuple[list[int], NDArray[Any]]:
        """Return the neighbours of a sample among other patients, as the page finds them."""
        found = self._gallery.find(name, Asked(self._gallery.vector(name, row), self._k, {}, own=row, background=True))
        return found.rows.tolist(), found.scores

    def _vote(self, name: str) -> Vote:
        """Ask with some samples, each without its own patient, and count how often most neighbours have its label."""
        cases = self._gallery.cases[name]
        rows = np.flatnonzero(cases.items >= 0)
        if self._labels is not None:
            rows = rows[[self._labels[row] is not None for row in rows.tolist()]]
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:QUERIES])
        nearest, right = [], []
        with ThreadPoolExecutor(AT_ONCE) as pool:  # so that a few are searched together
            found = list(pool.map(lambda row: self._neighbours(name, row), rows.tolist()))
        for row, (others, scores) in zip(rows.tolist(), found, strict=True):
            if not others:
                continue
            nearest.append(float(scores[0]))
            if self._labels is not None:
                voted = Counter(self._labels[other] for other in others if self._labels[other] is not None)
                right.append(bool(voted) and voted.most_common(1)[0][0] == self._labels[row])
        base = None
        if self._labels is not None and right:
            known = Counter(label for label in self._labels if label is not None)
            base = known.most_common(1)[0][1] / sum(known.values())
        accuracy = float(np.mean(right)) if right else None
        return Vote(self._k, len(nearest), accuracy, base, sorted(nearest))


def _column(table: pl.DataFrame, name: str | None) -> list[str | None] | None:
    """Return a column as words, None for missing ones; lists are joined."""
    if name is None:
        return None
    values = table[name]
    if values.dtype == pl.List:
        values = values.list.eval(pl.element().cast(pl.String)).list.join("; ")
    words: list[str | None] = values.cast(pl.String).to_list()
    return [None if word is None or not word.strip() else word.strip() for word in words]
