"""cohort: the patients and samples of a study, as its first table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headwater._checks import require_names
from headwater._missing import words_of
from headwater._shown import Shown, without_nan
from headwater._tables import Format, latex, markdown, plain_cell, require_format
from headwater._words import aligned
from headwater.errors import InputError
from headwater.evaluate.fold_means import natural
from headwater.samples.columns import require_column
from headwater.samples.groups import group_column
from headwater.samples.missing import MissingRule
from headwater.store import Store, open_store

MOST_LEVELS, MOST_VALUES = 20, 30
OVERALL = "all"


@dataclass(frozen=True, repr=False)
class Cohort(Shown):
    """A table of a study's samples.

    Attributes
    ----------
    columns
        What the samples are divided by: ``"all"``, then the levels of ``by``.
    rows
        For each row its ``name``, ``value`` (of a category; else ``""``), and the text of each column.
    """

    columns: Sequence[str]
    rows: Sequence[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"columns": list(self.columns), "rows": list(self.rows)}

    def lines(self) -> list[str]:
        """Return the table for a terminal."""
        return aligned(self.cells())

    def text(self, form: Format) -> str:
        """Return the table as Markdown, CSV, LaTeX or JSON."""
        require_format(form)
        if form == "json":
            return json.dumps(without_nan(self.to_dict()), indent=2, ensure_ascii=False) + "\n"
        cells = self.cells()
        if form == "csv":
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows([plain_cell(c.strip()) for c in row] for row in cells)
            return out.getvalue()
        return markdown(cells) if form == "md" else latex(cells)

    def cells(self) -> list[list[str]]:
        """Return the rows of the table as text, the head first; values of a category are indented."""
        rows = [["", *self.columns]]
        for row in self.rows:
            name = f"  {row['value']}" if row["value"] else row["name"]
            rows.append([name, *(row["cells"][column] for column in self.columns)])
        return rows


def cohort(
    store: str | Path | Store,
    columns: str | Sequence[str],
    *,
    by: str | None = None,
    groups: str | None = None,
    where: str | None = None,
    missing_values: str | Sequence[str] | None = None,
) -> Cohort:
    """Describe the samples of a store, overall and by the levels of a column: the first table of a paper.

    Numbers are described by median, quartiles and range; other columns by the count and share of each value. Missing
    values are counted in a row of their own.

    Parameters
    ----------
    store
        A store, or its path.
    columns
        The columns to describe, such as label, age and site.
    by
        A column, such as the split, the label or the site, whose levels become columns of the table.
    groups
        The column of independent groups, such as the patient: they are counted beside samples. ``"none"`` for none.
    where
        A boolean SQL expression over the manifest's columns: only these samples are described.
    missing_values
        Words that are missing values; see `fit_head`.

    Returns
    -------
    Cohort

    Raises
    ------
    InputError
        When a column does not exist, or ``by`` has too many levels.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    names = require_names("--column", columns)
    column = group_column(opened, groups)
    for option, name in [*(("--column", n) for n in names), ("--by", by), ("--groups", column)]:
        if name is not None:
            require_column(opened, name, option)
    rule = MissingRule(words_of(missing_values), names, (column,), ids=opened.roles.id)
    table = rule.tidied(opened.select(where))
    parts = {OVERALL: table}
    if by is not None:
        levels = table[by].cast(pl.String).fill_null("missing")
        values = sorted(set(levels.to_list()), key=natural)
        if len(values) > MOST_LEVELS:
            raise InputError(f"--by {by} has {len(values)} values, but a table has room for {MOST_LEVELS}.")
        parts |= {f"{by} {value}": table.filter(levels == value) for value in values}
    rows = [_row("samples", "", {name: f"{part.height:,}" for name, part in parts.items()})]
    if column is not None:
        rows.append(
            _row(
                f"{column}, distinct", "", {n: f"{part[column].drop_nulls().n_unique():,}" for n, part in parts.items()}
            )
        )
    for name in names:
        rows += _described(name, parts)
    return Cohort(list(parts), rows)


def _row(name: str, value: str, cells: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "value": value, "cells": cells}


def _described(name: str, parts: dict[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """Return the rows of a column: one for numbers with many values, else one for each value."""
    whole = parts[OVERALL][name]
    numeric = whole.dtype.is_numeric() and whole.n_unique() > 10
    n_missing = {n: part[name].null_count() for n, part in parts.items()}
    rows = []
    if numeric:
        rows.append(
            _row(f"{name}, median (quartiles; range)", "", {n: _spread(part[name]) for n, part in parts.items()})
        )
    else:
        values = sorted(set(whole.drop_nulls().cast(pl.String).to_list()), key=natural)
        rows.append(_row(f"{name}, n (%)", "", dict.fromkeys(parts, "")))
        for value in values[:MOST_VALUES]:
            counts = {n: int((part[name].cast(pl.String) == value).sum()) for n, part in parts.items()}
            rows.append(_row(name, value, {n: _share(counts[n], parts[n].height) for n in parts}))
        if len(values) > MOST_VALUES:
            kept = values[:MOST_VALUES]
            others = {n: int((~part[name].drop_nulls().cast(pl.String).is_in(kept)).sum()) for n, part in parts.items()}
            more = f"{len(values) - MOST_VALUES} other values"
            rows.append(_row(name, more, {n: _share(others[n], parts[n].height) for n in parts}))
    if n_missing[OVERALL]:
        rows.append(_row(name, "missing", {n: _share(n_missing[n], parts[n].height) for n in parts}))
    return rows


def _share(n: int, of: int) -> str:
    return f"{n:,} ({100 * n / of:.1f})" if of else "0"


def _spread(values: pl.Series) -> str:
    kept = values.drop_nulls().drop_nans() if values.dtype.is_float() else values.drop_nulls()
    if kept.is_empty():
        return "–"
    points = [kept.min(), *(kept.quantile(q, "linear") for q in (0.25, 0.5, 0.75)), kept.max()]
    least, low, middle, high, most = (f"{float(v):.4g}" for v in points)  # type: ignore[arg-type]
    return f"{middle} ({low}, {high}; {least} to {most})"
