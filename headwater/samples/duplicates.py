"""Duplicates in one feature set, and those that cross groups, splits or labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._backend import Backend, computed
from headwater._devices import Device
from headwater._progress import Progress, counting
from headwater.evaluate.leakage import Sides, Values
from headwater.evaluate.splits import Split
from headwater.retrieve.duplicates import DIM, NO_ANGLE, Tail, Whitening, components, pairs_above
from headwater.retrieve.near import LEAST_ROWS, NearPairs
from headwater.samples.contents import SharedContents, contents_of, modality_of
from headwater.store import Data, SelectedRows

WHITENED_ROWS = 16_384  # most rows, drawn at random, to fit the whitening on
TAIL_ROWS = 4096  # most rows, drawn at random, to estimate the similarity of unrelated pairs
MOST_PAIRS = 1_000_000  # pairs kept for output, the most similar ones; all are counted
WORST = 20  # clusters kept for printing

Rows = NDArray[np.int64]
Similarities = NDArray[np.float32]


@dataclass(frozen=True)
class NearDuplicates:
    """When two contents count as near duplicates, and how they are searched for.

    Attributes
    ----------
    false_alarms
        The share of unrelated pairs that may count as near duplicates.
    threshold
        A whitened cosine similarity to use instead.
    exact
        Compare all pairs, however many contents there are; by default those of 50,000 contents or more are found by an
        approximate search, whose recall is measured.
    groups_out
        A column to write into the samples of the store, for ``groups``: samples in one cluster of duplicates, or of one
        group, have the same value.
    """

    false_alarms: float = 1e-5
    threshold: float | None = None
    exact: bool = False
    groups_out: str | None = None


@dataclass(frozen=True)
class NearSearch:
    """How near duplicates were searched for without comparing all pairs, and what a sample says was found.

    Attributes
    ----------
    n_tables
        Number of tables of random directions; see `headwater.retrieve.near`.
    certain
        Similarity that less than one unrelated pair is expected to reach by chance.
    n_certain, n_certain_found
        Of the sampled pairs: number of those that reach it, and of those that the search finds.
    n_sampled, n_sampled_found
        The same for all sampled pairs above the threshold, most of which are there by chance in a large store.
    """

    n_tables: int
    certain: float
    n_certain: int
    n_certain_found: int
    n_sampled: int
    n_sampled_found: int

    @property
    def recall(self) -> float | None:
        """The measured recall of copies; None if no pair of the sample reaches ``certain``."""
        return self.n_certain_found / self.n_certain if self.n_certain else None


@dataclass(frozen=True, eq=False)
class AuditColumns:
    """Labels, groups and sides of samples, each of shape ``(n_samples,)`` as strings, and the splits of their rows."""

    label: NDArray[Any] | None
    group: NDArray[Any] | None
    side: NDArray[Any] | None
    splits: Sequence[Split]


@dataclass(frozen=True)
class Counts:
    """Number of duplicates, and of those that cross groups, splits or labels; None without such a column.

    Attributes
    ----------
    n
        Number of contents that occur in several samples, of pairs of near duplicates, or of clusters.
    samples
        Number of samples in them.
    across_groups, across_split
        Number of those in several groups, and of those on both sides of a split.
    labels_differ
        Number of those whose labels differ.
    """

    n: int
    samples: int
    across_groups: int | None = None
    across_split: int | None = None
    labels_differ: int | None = None


@dataclass(frozen=True)
class Cluster:
    """Samples linked by exact or near duplicates.

    Attributes
    ----------
    ids, groups, labels, sides
        Values of its samples, the worst pair first; ``sides`` are values of the split's column, or folds.
    similarity
        Similarity of the worst pair, the first two samples. Pairs across a split are worst, then pairs across groups,
        then pairs with different labels; ties are decided by similarity.
    """

    ids: Sequence[str]
    similarity: float
    groups: Sequence[str] | None
    labels: Sequence[str] | None
    sides: Sequence[str] | None


@dataclass(frozen=True)
class Duplicates:
    """The duplicates found in one feature set.

    Attributes
    ----------
    n_contents
        Number of distinct contents.
    identical, near, clusters
        Contents in several samples (for pair features, images in several samples); pairs of near duplicates; and
        clusters of both.
    n_components
        Number of components after whitening.
    threshold
        Whitened cosine similarity above which contents count as near duplicates; None if it cannot be estimated.
    false_alarms
        The share of unrelated pairs above it, as estimated from the tail of their similarities.
    expected_pairs
        The expected number of unrelated pairs above it.
    across_groups_rate
        The share of pairs from different groups found above it: at most the true false-alarm rate, if no group holds
        copies of another's contents. None without groups, or if not all pairs were compared.
    worst
        Clusters, the worst first.
    search
        How near duplicates were searched for; None if all pairs were compared.
    """

    features: str
    n_contents: int
    identical: Counts
    near: Counts
    clusters: Counts
    n_components: int
    threshold: float | None
    false_alarms: float
    expected_pairs: float
    across_groups_rate: float | None
    worst: Sequence[Cluster]
    search: NearSearch | None = None


def find_duplicates(
    data: Data,
    name: str,
    columns: AuditColumns,
    *,
    near: NearDuplicates,
    device: Device = "auto",
    progress: Progress,
) -> tuple[Duplicates, pl.DataFrame, Rows]:
    """Find the duplicates of one feature set; see `headwater.api.audit`.

    Return them with a table of pairs, and the number of each sample's cluster, -1 for none.
    """
    modality = modality_of(name)
    where = contents_of(data, modality)
    same = contents_of(data, "image") if modality == "pair" else where
    n = len(where.first)
    X = data.inputs[name]
    assert isinstance(X, SelectedRows)
    distinct = SelectedRows(X.array, X.index[where.first])
    order = np.random.default_rng(0).permutation(n)
    fitted = distinct[np.sort(order[:WHITENED_ROWS])]
    image_of = same.of_sample[where.first]
    asked, false_alarms = near.threshold, near.false_alarms

    def searched(backend: Backend) -> tuple[_Search, Tail | None, float | None, int, NearSearch | None]:
        how: NearSearch | None = None
        tail, units, least = None, np.zeros((n, 0), np.float32), asked
        if np.isfinite(fitted).all(1).sum() > 1:
            units = Whitening.fit(fitted, backend=backend).transform(distinct, backend)
            apart = order[np.sort(np.unique(image_of[order], return_index=True)[1])]  # one pair per image
            some = apart[:TAIL_ROWS]
            of_group = None if columns.group is None else columns.group[where.first[some]]
            tail = Tail.fit(units[some], groups=of_group, n_rows=len(apart))
        if least is None and tail is not None:
            least = tail.threshold(false_alarms)
        if least is not None and (not units.shape[1] or not 0 < least < NO_ANGLE):
            least = None
        search = _Search(where, same, columns)
        if least is not None:
            with counting(progress, f"audit {name}", n) as update:
                found_by = _approximate(units, least, tail) if backend.is_numpy and not near.exact else None
                if found_by is None:
                    pairs = pairs_above(units, least, progress=lambda done: update(done, 0), backend=backend)
                else:
                    pairs = found_by.pairs(lambda done: update(done, 0))
                for found in pairs:
                    search.add(*found)
                how = None if found_by is None else _how(found_by)
        return search, tail, least, units.shape[1], how

    work = 1.0 * n * DIM * (n + 2 * X.shape[1])
    search, tail, threshold, n_components, how = computed(searched, device, work=work, what="duplicates")
    rate = false_alarms if asked is None or threshold is None or tail is None else tail.rate(threshold)
    near_counts, found = search.near()
    cluster_of = search.clusters()
    links = _Links.of(where, same, *found)
    n_pairs = n * (n - 1) // 2 - sum(k * (k - 1) // 2 for k in np.unique(image_of, return_counts=True)[1].tolist())
    result = Duplicates(
        features=name,
        n_contents=n,
        identical=search.identical(),
        near=near_counts,
        clusters=_count_clusters(cluster_of, columns),
        n_components=n_components,
        threshold=threshold,
        false_alarms=rate,
        expected_pairs=rate * n_pairs,
        across_groups_rate=None if threshold is None or how is not None else search.rate_across_groups(),
        worst=_worst(data, columns, cluster_of, links),
        search=how,
    )
    return result, _table(data, columns, name, cluster_of, links), cluster_of


def _approximate(units: NDArray[np.float32], threshold: float, tail: Tail | None) -> NearPairs | None:
    """Return an approximate search; None where comparing all pairs is as fast, or its recall cannot be measured."""
    n = len(units)
    if n < LEAST_ROWS or tail is None:
        return None
    certain = min(tail.threshold(2 / (n * (n - 1))), NO_ANGLE)
    return NearPairs(units, threshold, max(certain, threshold))


def _how(search: NearPairs) -> NearSearch | None:
    if search.complete:
        return None
    numbers = (search.n_certain, search.n_found, search.n_sampled, search.n_sampled_found)
    return NearSearch(search.n_tables, search.certain, *numbers)


class _Search:
    """Running totals of a search for near duplicates: counts, links between contents, and the most similar pairs.

    ``same`` defines identical samples: by content, or by image for pairs. Identical samples are linked from the start.
    """

    def __init__(self, where: SharedContents, same: SharedContents, columns: AuditColumns) -> None:
        self.where, self.same, self.columns = where, same, columns
        n = len(where.first)
        self.groups = None if columns.group is None else Values.of(where.of_sample, columns.group)
        self.labels = None if columns.label is None else Values.of(where.of_sample, columns.label)
        self.sides = Sides.of(where.of_sample, columns.splits) if columns.splits else None
        self._same = same.of_sample[where.first]
        self._link = self._same  # contents with the same number are linked
        self._in_pair = np.zeros(n, np.bool_)
        self._n = self._across_groups = self._across_split = self._labels_differ = 0
        self._kept: list[tuple[Rows, Rows, Similarities]] = []
        self._n_kept = 0

    def add(self, i: Rows, j: Rows, similar: Similarities) -> None:
        near = self._same[i] != self._same[j]
        i, j, similar = i[near], j[near], similar[near]
        self._n += len(i)
        self._in_pair[i] = self._in_pair[j] = True
        if self.groups is not None:
            self._across_groups += int(self.groups.between(i, j).sum())
        if self.labels is not None:
            self._labels_differ += int(self.labels.between(i, j).sum())
        if self.sides is not None:
            self._across_split += int(self.sides.between(i, j).sum())
        self._link = components(len(self._link), self._link[i], self._link[j])[self._link]
        self._kept.append((i, j, similar))
        self._n_kept += len(i)
        if self._n_kept > 2 * MOST_PAIRS:
            self._keep_most_similar()

    def _keep_most_similar(self) -> None:
        i, j, similar = (np.concatenate(part) for part in zip(*self._kept))
        best = np.lexsort((j, i, -similar))[:MOST_PAIRS]
        self._kept = [(i[best], j[best], similar[best])]
        self._n_kept = len(best)

    def near(self) -> tuple[Counts, tuple[Rows, Rows, Similarities]]:
        """Return the counts, and the most similar pairs, the most similar first."""
        samples = int(self._in_pair[self.where.of_sample].sum())
        counts = Counts(
            self._n,
            samples,
            None if self.groups is None else self._across_groups,
            None if self.sides is None else self._across_split,
            None if self.labels is None else self._labels_differ,
        )
        if not self._kept:
            none = np.arange(0)
            return counts, (none, none, np.zeros(0, np.float32))
        self._keep_most_similar()
        return counts, self._kept[0]

    def identical(self) -> Counts:
        of, counts = self.same.of_sample, self.same.counts
        several = counts > 1
        group, label, splits = self.columns.group, self.columns.label, self.columns.splits
        return Counts(
            int(several.sum()),
            int(counts[several].sum()),
            None if group is None else int(Values.of(of, group).differ().sum()),
            int(Sides.of(of, splits).straddling().sum()) if splits else None,
            None if label is None else int(Values.of(of, label).differ().sum()),
        )

    def rate_across_groups(self) -> float | None:
        """Return the share of pairs from different groups that were found."""
        if self.groups is None:
            return None
        n = len(self._link)
        one_group = self.groups.least[~self.groups.differ()]
        sizes = np.unique(one_group, return_counts=True)[1]
        n_pairs = n * (n - 1) / 2 - float((sizes * (sizes - 1) / 2).sum())
        return self._across_groups / n_pairs if n_pairs else None

    def clusters(self) -> Rows:
        """Return each sample's cluster number, -1 for none; larger clusters first."""
        link = self._link[self.where.of_sample]
        sizes = np.bincount(link)
        order = np.argsort(-sizes, kind="stable")
        number = np.full(len(sizes), -1)
        large = order[sizes[order] > 1]
        number[large] = np.arange(len(large))
        return number[link]


def _count_clusters(cluster_of: Rows, columns: AuditColumns) -> Counts:
    inside = np.flatnonzero(cluster_of >= 0)
    if not len(inside):
        nothing = (None if part is None else 0 for part in (columns.group, columns.side, columns.label))
        return Counts(0, 0, *nothing)
    codes = cluster_of[inside]
    straddling = (
        None if part is None else int(Values.of(codes, part[inside]).differ().sum())
        for part in (columns.group, columns.side, columns.label)
    )
    return Counts(int(codes.max()) + 1, len(inside), *straddling)


@dataclass(frozen=True, eq=False)
class _Links:
    """Pairs of samples, ``a`` before ``b``: each repeat of a content with its first sample, and near duplicates."""

    a: Rows
    b: Rows
    similarity: Similarities
    identical: NDArray[np.bool_]

    @classmethod
    def of(cls, where: SharedContents, same: SharedContents, i: Rows, j: Rows, similar: Similarities) -> _Links:
        further = np.setdiff1d(np.arange(len(same.of_sample)), same.first)
        return cls(
            np.concatenate([same.first[same.of_sample[further]], where.first[i]]),
            np.concatenate([further, where.first[j]]),
            np.concatenate([np.ones(len(further), np.float32), similar.clip(max=1)]),
            np.arange(len(further) + len(i)) < len(further),
        )


def _worst(data: Data, columns: AuditColumns, cluster_of: Rows, links: _Links) -> list[Cluster]:
    """Return clusters by their worst pair: across a split, then across groups, then with different labels."""
    parts = (columns.side, columns.group, columns.label)
    differs = [np.zeros(len(links.a), np.bool_) if v is None else v[links.a] != v[links.b] for v in parts]
    order = np.lexsort((-links.similarity, ~differs[2], ~differs[1], ~differs[0]))
    of_pair = cluster_of[links.a[order]]
    first = np.sort(np.unique(of_pair, return_index=True)[1])[:WORST]
    clusters = []
    for pair in order[first].tolist():
        a, b = int(links.a[pair]), int(links.b[pair])
        others = np.setdiff1d(np.flatnonzero(cluster_of == cluster_of[a]), [a, b])
        rows = np.concatenate([[a, b], others])
        ids = data.ids[rows].tolist()
        told = (None if v is None else v[rows].tolist() for v in (columns.group, columns.label, columns.side))
        clusters.append(Cluster(ids, float(links.similarity[pair]), *told))
    return clusters


def _table(data: Data, columns: AuditColumns, name: str, cluster_of: Rows, links: _Links) -> pl.DataFrame:
    table: dict[str, Any] = {
        "features": [name] * len(links.a),
        "kind": np.where(links.identical, "identical", "near"),
        "cluster": cluster_of[links.a],
        "similarity": links.similarity,
        "id_a": data.ids[links.a],
        "id_b": data.ids[links.b],
    }
    for what, values in (("group", columns.group), ("label", columns.label), ("side", columns.side)):
        if values is not None:
            table |= {f"{what}_a": values[links.a], f"{what}_b": values[links.b]}
    numbers = {"cluster": pl.Int64, "similarity": pl.Float32}
    return pl.DataFrame(table, schema_overrides={c: numbers.get(c, pl.String) for c in table})
