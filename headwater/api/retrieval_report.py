"""retrieval_report: how well similar cases are found in a store, and whether neighbours crowd on sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from headwater._devices import Device, require_device
from headwater._missing import words_of
from headwater._options import as_tuple
from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._words import counted, indented
from headwater.api._table_files import table_file, write_table
from headwater.errors import InputError
from headwater.evaluate.bootstrap import N_DRAWS, Draws, require_draws
from headwater.evaluate.intervals import LEVEL, require_level
from headwater.evaluate.retrieval import RECALLS, VOTES, Crowding, Measured
from headwater.experiment.retrieval import retrieval
from headwater.runs.printed import interval_words, number_words
from headwater.samples.columns import full_column, levels, require_column
from headwater.samples.groups import group_column
from headwater.samples.label_sql import defined_labels
from headwater.samples.labels import with_labels
from headwater.samples.missing import MissingRule
from headwater.store import SelectedRows, Store, open_store

MOST_CLASSES = 200
MOST_SITES = 1000
WORDS = {"top_1": "top 1", **{f"majority_{n}": f"majority of {n}" for n in VOTES if n > 1}}
WORDS |= {f"f1_{name}": f"macro F1, {words}" for name, words in WORDS.items()}
WORDS |= {f"recall_at_{k}": f"recall@{k}" for k in RECALLS} | {"map": "mean average precision"}
OF_PARTS = ("top_1", "majority_3", "majority_5", "recall_at_5", "map")
"""The measures that are printed by class and by site."""


@dataclass(frozen=True, repr=False)
class RetrievalReport(Shown):
    """How well the neighbours of a sample from other groups tell its label.

    Attributes
    ----------
    path, features, label, groups, by
        The store, the features and the columns; ``groups`` is None if each item is its own group.
    n_samples, n_queries, n_ranked, n_groups, n_alone
        Numbers of samples that can be found, of queries, of queries whose average precision was computed, of groups of
        queries, and of queries whose label no other group has.
    largest_class, largest_share
        The most frequent label of the queries, and its share: the accuracy of always guessing it.
    level
        Confidence level of the intervals, which are by resampling groups.
    measures
        Each number with its interval, and its expected value for random neighbours: ``top_1``, ``majority_3``,
        ``majority_5`` (shares of queries whose nearest neighbours vote for their label), ``f1_…`` (macro F1 of these),
        ``recall_at_3`` … (shares of queries with some neighbour of their label), ``map`` (mean average precision).
    by_class, by_site
        The same for the queries of each label, and of each value of the first ``by`` column.
    crowding
        For each ``by`` column, and for the groups, how often neighbours share the query's value.
    queries
        One row for each query: id, label, the class that 1, 3 and 5 neighbours vote for, and its average precision.
    """

    path: str
    features: str
    label: str
    groups: str | None
    by: tuple[str, ...]
    n_samples: int
    n_queries: int
    n_ranked: int
    n_groups: int
    n_alone: int
    largest_class: str
    largest_share: float
    level: float
    measures: Mapping[str, Measured]
    by_class: Mapping[str, tuple[int, Mapping[str, Measured]]]
    by_site: Mapping[str, tuple[int, Mapping[str, Measured]]]
    crowding: Sequence[Crowding]
    queries: pl.DataFrame = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the table of queries."""
        own = {name: value for name, value in vars(self).items() if name != "queries"}

        def parts(found: Mapping[str, tuple[int, Mapping[str, Measured]]]) -> dict[str, Any]:
            return {name: {"n": n, **_plain(values)} for name, (n, values) in found.items()}

        return {
            **own,
            "by": list(self.by),
            "measures": _plain(self.measures),
            "by_class": parts(self.by_class),
            "by_site": parts(self.by_site),
            "crowding": [asdict(one) for one in self.crowding],
        }

    def lines(self) -> list[str]:
        """Return the results as tables."""
        others = f"neighbours from other groups of {self.groups}" if self.groups else "neighbours with other contents"
        out = [
            f"{self.features}: {self.n_queries:,} {'query' if self.n_queries == 1 else 'queries'} among "
            f"{counted(self.n_samples, 'sample')}, {others}",
            f"always guessing {self.largest_class!r}, the largest class: accuracy {self.largest_share:.3f}",
        ]
        if self.n_alone:
            out.append(f"{self.n_alone:,} of the queries have a label that no other group has, so they count as wrong")
        if self.n_ranked < self.n_queries:
            out.append(f"mean average precision of {self.n_ranked:,} of the queries, drawn at random")
        table = [["", "value", f"{self.level:.0%} interval", "random neighbours"]]
        for name, one in self.measures.items():
            table.append(
                [WORDS[name], number_words(one.value), interval_words(one.low, one.high), _or_dash(one.by_chance)]
            )
        out += ["", *indented(table)]
        for column, parts in ((self.label, self.by_class), (self.by[0] if self.by else "", self.by_site)):
            if parts:
                out += ["", f"by {column}", *indented(_table(column, parts))]
        if self.crowding:
            out += ["", "neighbours that share the query's value", *indented(self._crowds())]
        return out

    def _crowds(self) -> list[list[str]]:
        rows = [["", "neighbours", "share", f"{self.level:.0%} interval", "by chance", "by chance within the label"]]
        for one in self.crowding:
            what = one.column if one.column != self.groups or one.column in self.by else f"{one.column} (not left out)"
            words = interval_words(one.low, one.high)
            chances = [_or_dash(one.by_chance), _or_dash(one.by_chance_in_class)]
            rows.append([what, str(one.k), number_words(one.share), words, *chances])
        return rows


def _plain(found: Mapping[str, Measured]) -> dict[str, Any]:
    return {name: one._asdict() for name, one in found.items()}


def _or_dash(value: float) -> str:
    return number_words(None if np.isnan(value) else value)


def _table(column: str, parts: Mapping[str, tuple[int, Mapping[str, Measured]]]) -> list[list[str]]:
    rows = [[column, "queries", *(word for name in OF_PARTS for word in (WORDS[name], ""))]]
    for value, (n, found) in parts.items():
        cells = []
        for name in OF_PARTS:
            one = found[name]
            cells += [_or_dash(one.value), interval_words(one.low, one.high)]
        rows.append([value, f"{n:,}", *cells])
    return rows


def retrieval_report(
    store: str | Path | Store,
    *,
    features: str,
    label: str,
    groups: str | None = None,
    by: str | Sequence[str] | None = None,
    where: str | None = None,
    missing_values: str | Sequence[str] | None = None,
    level: float = LEVEL,
    draws: int = N_DRAWS,
    seed: int = 0,
    device: Device = "auto",
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> RetrievalReport:
    """Measure how well similar cases are found: how often neighbours from other patients have a sample's label.

    Each sample is a query, and all samples of other groups may be found. Of more than 5,000 samples, 5,000 queries are
    drawn at random.

    Parameters
    ----------
    store
        A store, or its path.
    features
        The features to search in, ``NAME/MODALITY``.
    label
        The column of labels. Samples without one are left out.
    groups
        The column whose values must not be found for each other, such as the patient; ``"none"`` for independent
        samples: then only samples with the same content are left out.
    by
        Columns such as the site, the scanner or the slide: how often neighbours share the query's value. Results are
        given for each value of the first.
    where
        A boolean SQL expression over the manifest's columns: only these samples are queries, and may be found.
    missing_values
        Words that are missing values; see `fit_head`.
    level, draws, seed
        Confidence level, number of resamples of groups, and the seed of everything that is drawn.
    device
        Where features are compared: ``cpu``, ``cuda`` or ``auto``.
    out
        A file for the table of queries, ``.csv`` or ``.parquet``.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Raises
    ------
    InputError, StoreError
        Each with one line that says what, where and what to do.

    References
    ----------
    arXiv 2605.00902 for the measures: top 1, majority of the top 3 and 5, macro F1, leaving one patient out.
    """
    target = None if out is None else table_file(out)
    require_device(device)  # refuses a GPU that is not there, before anything is read
    require_level(level)
    require_draws(draws)
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")
    (label,), sql = defined_labels([label])
    opened = (store if isinstance(store, Store) else open_store(store)).defining(sql)
    column, columns = group_column(opened, groups), as_tuple(by)
    for option, name in (("--label", label), ("--groups", column), *(("--by", one) for one in columns)):
        if name is not None:
            require_column(opened, name, option)
    rule = MissingRule(words_of(missing_values), (label,), (column,), ids=opened.roles.id)
    missing = rule.found(opened.select(where))
    data, found = with_labels(rule.applied(opened.read(features, where=where)), [label], None)
    if found.y.ndim != 1:
        raise InputError(f"--label {label} holds several labels in a cell, but a report needs one for each sample.")
    y = found.y.astype(str)
    n_classes = len(np.unique(y))
    if n_classes > MOST_CLASSES:
        raise InputError(f"--label {label} has {n_classes:,} values, but a report has at most {MOST_CLASSES} classes.")
    X = data.inputs[features]
    assert isinstance(X, SelectedRows)
    sites = {name: levels(data, name) for name in columns}
    for name, values in sites.items():
        n = len(np.unique(values.astype(str)))
        if n < 2 or (name == columns[0] and n > MOST_SITES):
            raise InputError(
                f"--by {name} has {counted(n, 'value')}, but needs 2 to {MOST_SITES:,}, such as hospitals."
            )
    group = X.index if column is None else full_column(data, column, "--groups", missing)
    measured = retrieval(
        X,
        data.ids,
        y,
        np.asarray(group),
        column,
        {name: values.astype(str) for name, values in sites.items()},
        draws=Draws(level, draws, seed),
        device=device,
        say=progress_to(progress),
    )
    if target is not None:
        write_table(measured.queries, target)
    names, counts = np.unique(measured.queries["label"].to_numpy().astype(str), return_counts=True)
    return RetrievalReport(
        path=opened.location,
        features=features,
        label=label,
        groups=column,
        by=columns,
        n_samples=len(data.ids),
        n_queries=measured.n_queries,
        n_ranked=measured.n_ranked,
        n_groups=measured.n_groups,
        n_alone=measured.n_alone,
        largest_class=str(names[counts.argmax()]),
        largest_share=float(counts.max() / counts.sum()),
        level=level,
        measures=measured.measures,
        by_class=measured.by_class,
        by_site=measured.by_site,
        crowding=measured.crowding,
        queries=measured.queries,
    )
