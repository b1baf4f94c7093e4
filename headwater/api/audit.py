"""audit: exact and near duplicates in a store, and those that cross groups, splits or labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import refuse_idle
from headwater._devices import Device, require_device
from headwater._missing import words_of
from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._words import aligned, counted, cut
from headwater.api._table_files import table_file, write_table
from headwater.errors import InputError, SplitError
from headwater.evaluate import Split, make_splits
from headwater.evaluate.leakage import Sides
from headwater.evaluate.stated import Stated
from headwater.experiment.sites import SiteEffect, counts_by_site, require_sites, site_effect, site_table
from headwater.runs.printed import lines_of_texts
from headwater.samples.columns import full_column, require_column, without_blanks
from headwater.samples.duplicates import (
    AuditColumns,
    Cluster,
    Counts,
    Duplicates,
    NearDuplicates,
    NearSearch,
    find_duplicates,
)
from headwater.samples.groups import group_column
from headwater.samples.label_sql import defined_labels
from headwater.samples.labels import with_labels
from headwater.samples.linked import linked
from headwater.samples.missing import MissingRule
from headwater.samples.stated import texts_that_state
from headwater.sources import plain
from headwater.store import Data, Store, open_store

LARGE = 0.5  # share of samples in one group, from which a warning is given
MOST_SIDES = 100  # values of a split's column
SHOWN = 5  # printed clusters
FOLDS = 5  # to choose and evaluate words that predict the label
SHOWN_IDS = 4  # printed ids of a cluster
MOST = 24  # printed characters of a cell


@dataclass(frozen=True)
class GroupsOut:
    """A column of groups that an audit wrote into the samples of a store.

    Attributes
    ----------
    column
        Its name.
    n_groups, largest, n_samples
        Number of groups, of samples in the largest, and of all samples.
    """

    column: str
    n_groups: int
    largest: int
    n_samples: int

    def lines(self) -> list[str]:
        """Say what was written, and warn of a group that holds most samples."""
        out = [
            f"groups in column {self.column}: {self.n_groups:,} of {counted(self.n_samples, 'sample')}, the largest of "
            f"{self.largest:,}: pass --groups {self.column}"
        ]
        if self.largest > LARGE * self.n_samples and self.largest > 2:
            out.append(
                f"warning: one group holds {self.largest / self.n_samples:.0%} of the samples: near duplicates link "
                "cases that are only similar. Lower --false-alarms, or raise --threshold"
            )
        return out


@dataclass(frozen=True, repr=False)
class Audit(Shown):
    """The result of an audit of a store.

    Attributes
    ----------
    path, n_samples, n_left_out
        The store, the number of samples audited, and of those without features or a label.
    label, groups, split
        Columns; ``split`` is "5 folds" if folds were made.
    groups_across_split
        Number of groups on both sides of a split; None without groups or split.
    found
        Duplicates in each feature set.
    pairs
        One row per pair: ``features``, ``kind`` (identical or near), ``cluster``, ``similarity``, ``id_a``, ``id_b``,
        and, if present, ``group``, ``label`` and ``side`` of both.
    texts
        How far texts state the label; None without texts or a label.
    by, sites, site_labels
        The column of sites; what each feature set shows of them; and the number of samples of each label at each site.
        Empty without ``by``.
    groups_out
        The column of groups that was written into the store; None if none was.
    """

    path: str
    n_samples: int
    n_left_out: int
    label: str | None
    groups: str | None
    split: str | None
    groups_across_split: int | None
    found: Sequence[Duplicates]
    pairs: pl.DataFrame = field(repr=False)
    texts: Stated | None = None
    by: str | None = None
    sites: Sequence[SiteEffect] = ()
    site_labels: Sequence[dict[str, Any]] = ()
    groups_out: GroupsOut | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the pairs."""
        texts = None if self.texts is None else asdict(self.texts)
        own = {k: v for k, v in vars(self).items() if k != "pairs"}
        sites = [asdict(one) for one in self.sites]
        made = None if self.groups_out is None else asdict(self.groups_out)
        found = [asdict(one) for one in self.found]
        return {**own, "found": found, "texts": texts, "sites": sites, "groups_out": made}

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        out = [f"{self.path}: {counted(self.n_samples, 'sample')}"]
        if self.n_left_out:
            out.append(f"left out: {counted(self.n_left_out, 'sample')} without features or label")
        if self.groups_across_split is not None:
            out.append(f"groups of {self.groups} on both sides of {self.split}: {self.groups_across_split:,}")
        if self.texts is not None:
            out += lines_of_texts(asdict(self.texts))
            if self.texts.strong is not None:
                out.append("  the texts state the label: fit-head refuses them without --allow-leakage REASON")
        for one in self.found:
            out += ["", *self._of(one)]
        if self.by is not None and self.label is not None:
            out += ["", f"{self.label} by {self.by}", *site_table(self.site_labels, self.by)]
            for effect in self.sites:
                out += ["", *effect.lines(self.by, self.label)]
        return out if self.groups_out is None else [*out, "", *self.groups_out.lines()]

    def _of(self, one: Duplicates) -> list[str]:
        out = [f"{one.features}: {counted(one.n_contents, 'distinct content')}"]
        out.append(f"  identical: {self._counts(one.identical, 'content')}")
        if one.threshold is None:
            out.append("  near duplicates unknown: too few distinct contents, or contents too similar")
        else:
            out += [
                f"  near duplicates: {self._counts(one.near, 'pair')}",
                f"    whitened cosine above {one.threshold:.3f} ({one.n_components} components), as in an estimated "
                f"{one.false_alarms:.2g} of unrelated pairs ({one.expected_pairs:,.1f} pairs here)",
            ]
            if one.search is not None:
                out += _lines_of_search(one.search)
            if one.across_groups_rate is not None:
                out.append(f"    measured in pairs of different {self.groups}: {one.across_groups_rate:.2g}")
        if not one.clusters.n:
            rate = f" at a false-alarm rate of {one.false_alarms:.2g}" if one.threshold is not None else ""
            return [*out, f"  no duplicates found{rate}"]
        out.append(f"  together: {self._counts(one.clusters, 'cluster')}")
        return out + [f"    {line}" for line in aligned(self._table(one.worst[:SHOWN]))]

    def _counts(self, counts: Counts, noun: str) -> str:
        """Format a count with its samples, and how many cross groups, splits or labels."""
        if not counts.n:
            return "none"
        words = [f"{counted(counts.samples, 'sample')} in {counted(counts.n, noun)}"]
        for n, what in (
            (counts.across_groups, f"in several {self.groups}"),
            (counts.across_split, f"on both sides of {self.split}"),
            (counts.labels_differ, f"with different {self.label}"),
        ):
            if n is not None:
                words.append(f"{n:,} {what}")
        return ", ".join(words)

    def _table(self, clusters: Sequence[Cluster]) -> list[list[str]]:
        named = (("groups", self.groups), ("labels", self.label), ("sides", self.split))
        columns = [(part, name) for part, name in named if name is not None]
        rows = [["similarity", "samples", "ids", *(name for _, name in columns)]]
        for one in clusters:
            more = ", …" if len(one.ids) > SHOWN_IDS else ""
            cells = [f"{one.similarity:.3f}", f"{len(one.ids):,}", ", ".join(one.ids[:SHOWN_IDS]) + more]
            for part, _ in columns:
                cells.append(cut(", ".join(dict.fromkeys(getattr(one, part))), MOST))
            rows.append(cells)
        return rows


def _lines_of_search(search: NearSearch) -> list[str]:
    """Say that not all pairs were compared, and what share of them a sample says was found."""
    line = "    approximate search: not all pairs were compared (--exact does)"
    if not search.n_certain:
        return [f"{line}; no sampled pair was above {search.certain:.3f}, so its recall is not known"]
    certain = f"{search.n_certain_found:,} of {counted(search.n_certain, 'sampled pair')} above {search.certain:.3f}"
    out = [line, f"    it finds {certain}, which unrelated pairs do not reach: recall of copies {search.recall:.4f}"]
    below, found = search.n_sampled - search.n_certain, search.n_sampled_found - search.n_certain_found
    return [*out, f"    and {found:,} of {below:,} below that, where many pairs are by chance"] if below else out


def audit(
    store: str | Path | Store,
    *,
    features: str | Sequence[str] | None = None,
    label: str | None = None,
    groups: str | None = None,
    split: str | None = None,
    folds: int | None = None,
    seed: int = 0,
    by: str | None = None,
    where: str | None = None,
    missing_values: str | Sequence[str] | None = None,
    near: NearDuplicates | None = None,
    device: Device = "auto",
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Audit:
    """Find exact and near duplicates, and report those that cross groups, splits or labels.

    Exact duplicates are contents that occur in several samples. Near duplicates are different contents whose whitened
    features are more similar than those of unrelated contents. The similarity of unrelated contents is estimated from
    the data, without labels.

    Parameters
    ----------
    store
        A store, or its path.
    features
        One or more feature sets, ``NAME/MODALITY``, each audited separately. Default: the only one.
    label
        A column: duplicates whose values differ are counted. Samples without a value are left out.
    groups
        The column whose values must not be divided, such as the patient; ``"none"`` for independent rows. Pairs within
        a group do not count as unrelated.
    split
        A column that defines a split: its values are the sides.
    folds, seed
        Audit the folds that `fit_head` would make, instead of a column.
    by
        The column of the site, such as the hospital or the scanner: how far each feature set shows it, by the
        robustness index and by a linear probe that predicts it. Needs ``label``.
    where
        A boolean SQL expression over the manifest's columns: only these samples are audited.
    missing_values
        Words that are missing values; see `fit_head`.
    near
        When contents count as near duplicates, and whether all pairs are compared.
    device
        Where features are compared: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one and it is worthwhile.
    out
        A file for the pairs, ``.csv`` or ``.parquet``.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.NearDuplicates` by its name: ``false_alarms``, ``threshold``, ``exact``,
        ``groups_out``.

    Returns
    -------
    Audit

    Raises
    ------
    InputError, SplitError, StoreError
        Each with one line that says what, where and what to do.
    """
    target = None if out is None else table_file(out)
    near = with_options("audit", options, near or NearDuplicates())
    false_alarms, threshold = near.false_alarms, near.threshold
    require_device(device)  # refuses a GPU that is not there, before anything is read
    if not 0 < false_alarms <= 1e-2:
        raise InputError(f"--false-alarms must be above 0 and at most 0.01, but is {false_alarms}.")
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"--threshold must be between 0 and 1, but is {threshold}.")
    if split is not None and folds is not None:
        raise InputError("--folds goes without --split: pass one of them.")
    if folds is not None and label is None:
        raise InputError("--folds needs --label: folds are balanced by it. Pass the one that fit-head would get.")
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")
    refuse_idle({"--seed": seed != 0 and folds is None and by is None}, "goes with --folds or --by, which draw by it.")
    if by is not None and label is None:
        raise InputError("--by needs --label: it asks whether the site or the label decides which samples are alike.")
    opened = store if isinstance(store, Store) else open_store(store)
    if label is not None:
        (label,), sql = defined_labels([label])
        opened = opened.defining(sql)
    if near.groups_out is not None:
        opened.require_own()
        _refuse_groups_out(opened, near.groups_out)
    names = _names(opened, features)
    column = group_column(opened, groups)
    for option, name in (("--label", label), ("--groups", column), ("--split", split), ("--by", by)):
        if name is not None:
            require_column(opened, name, option)
    labels = () if label is None else (label,)
    rule = MissingRule(words_of(missing_values), labels, (column,), ids=opened.roles.id)
    missing = rule.found(opened.select(where))
    data = rule.applied(opened.read(*names, where=where))
    y = None
    if label is not None:
        data, found = with_labels(data, [label], None)
        y = found.y
    group = None if column is None else full_column(data, column, "--groups", missing)
    columns = _columns_of(data, y, group, split, folds, seed)
    parts = [
        find_duplicates(
            data,
            name,
            columns,
            near=near,
            device=device,
            progress=progress_to(progress),
        )
        for name in names
    ]
    across = None
    if group is not None and columns.splits:
        codes = np.unique(group, return_inverse=True)[1]
        across = int(Sides.of(codes, columns.splits).straddling().sum())
    sites: list[SiteEffect] = []
    site_labels: list[dict[str, Any]] = []
    if by is not None and y is not None:
        site = _words(full_column(data, by, "--by", missing))
        require_sites(site, by)
        say = progress_to(progress)
        sites = [
            site_effect(n, data.inputs[n], site, _words(y), group, seed=seed, device=device, say=say) for n in names
        ]
        site_labels = counts_by_site(site, _words(y))
    pairs = pl.concat([table for _, table, _ in parts])
    if target is not None:
        write_table(pairs, target)
    made = None
    if near.groups_out is not None:
        made = _write_groups(opened, near.groups_out, data.ids, [cluster for _, _, cluster in parts], column)
    return Audit(
        path=opened.location,
        n_samples=len(data.ids),
        n_left_out=len(data.left_out),
        label=label,
        groups=column,
        split=split if folds is None else counted(folds, "fold"),
        groups_across_split=across,
        found=[one for one, _, _ in parts],
        pairs=pairs,
        texts=None if y is None else _stated(data, opened.roles.text, y, group, columns.splits, seed),
        by=by,
        sites=sites,
        site_labels=site_labels,
        groups_out=made,
    )


def _refuse_groups_out(store: Store, name: str) -> None:
    """Refuse the name of a column that holds something else."""
    if not name.strip():
        raise InputError("--groups-out is empty: give the name of a column to write.")
    if name in store.samples.columns and name not in store.about.made:
        raise InputError(f"--groups-out {name}: the samples have a column {name!r} already. Give another name.")


def _write_groups(
    store: Store, name: str, ids: NDArray[Any], clusters: Sequence[NDArray[Any]], groups: str | None
) -> GroupsOut:
    """Write a column of groups into the samples: those with the same value of ``groups``, or in one cluster.

    Samples that were not audited are linked by ``groups`` alone.
    """
    with store.changing():
        own = Store(store.path)  # without the columns that this call defines
        table, roles = own.samples, own.roles
        every = table[roles.id].cast(pl.String)
        links = [] if groups is None else [without_blanks(plain(table[groups]).cast(pl.String))]
        for cluster in clusters:
            of_id = pl.DataFrame({"id": ids, "cluster": cluster}, schema={"id": pl.String, "cluster": pl.Int64})
            of_id = of_id.filter(pl.col("cluster") >= 0)
            links.append(
                every.alias("id").to_frame().join(of_id, on="id", how="left", maintain_order="left")["cluster"]
            )
        column = linked(every, links).alias(name)
        about = own.about
        made = replace(about, made={**about.made, name: "audit"}, groups=tuple(dict.fromkeys((*about.groups, name))))
        own.write_samples(table.with_columns(column), roles, own.unreadable, made)
    sizes = column.value_counts()["count"]
    return GroupsOut(name, len(sizes), int(sizes.max()), len(every))  # type: ignore[arg-type]


def _stated(
    data: Data, column: str | None, y: NDArray[Any], group: NDArray[Any] | None, splits: Sequence[Split], seed: int
) -> Stated | None:
    """Measure how far texts state the label, on the audited split, or else on folds made here."""
    if column is None:
        return None
    try:
        parts = splits or make_splits(y, groups=group, n_folds=FOLDS, seed=seed)
    except SplitError:  # too few samples of some class
        return None
    return texts_that_state(data, column, y, np.unique(y).tolist(), parts, group)


def _names(store: Store, features: str | Sequence[str] | None) -> list[str]:
    if features:
        return [features] if isinstance(features, str) else list(dict.fromkeys(features))
    names = store.feature_names()
    if len(names) != 1:
        there = ", ".join(names) or "none yet"
        raise InputError(f"{store.location}: say which features to audit with --features. There are: {there}.")
    return names


def _columns_of(
    data: Data,
    y: NDArray[Any] | None,
    group: NDArray[Any] | None,
    split: str | None,
    folds: int | None,
    seed: int,
) -> AuditColumns:
    """Gather labels, groups and sides; each value of a split's column is tested against all others."""
    labels = None if y is None else _words(y)
    groups = None if group is None else _words(group)
    if folds is not None:
        splits: Sequence[Split] = make_splits(y if y is not None else [], groups=group, n_folds=folds, seed=seed)
        side = np.empty(len(data.ids), object)
        for one in splits:
            side[one.test] = f"fold {one.fold}"
        return AuditColumns(labels, groups, side.astype(str), splits)
    if split is None:
        return AuditColumns(labels, groups, None, [])
    side = _words(full_column(data, split, "--split"))
    values = np.unique(side)
    if not 2 <= len(values) <= MOST_SIDES:
        n = counted(len(values), "value")
        raise InputError(f"--split {split} has {n}, but needs 2 to {MOST_SIDES}, such as train and test.")
    splits = [Split(n, np.flatnonzero(side != v), np.flatnonzero(side == v)) for n, v in enumerate(values.tolist())]
    return AuditColumns(labels, groups, side, splits)


def _words(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as strings; rows of 0 and 1 as the numbers of the labels that are 1."""
    if values.ndim == 2:
        return np.array([" ".join(map(str, np.flatnonzero(row).tolist())) for row in values])
    return values.astype(str)
