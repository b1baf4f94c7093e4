"""text: write sentences from the columns of a manifest, as a column of texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._about import MOST, About, MadeText, refuse_outcomes
from headwater._shown import Shown
from headwater._words import counted, indented
from headwater.api._table_files import manifest_file, placed, write_manifest
from headwater.errors import InputError
from headwater.experiment.missingness import MissingProbe, count_line, known_rows, probe_missing, site_column
from headwater.samples.columns import require_column
from headwater.samples.groups import group_column
from headwater.sources.manifest import Manifest, read_rows
from headwater.sources.sentences import missing_in, write_texts
from headwater.sources.template import Template, read_template

COLUMN = "report"


@dataclass(frozen=True, repr=False)
class WrittenTexts(Shown):
    """Texts that a template made.

    Attributes
    ----------
    manifest
        The manifest that was read.
    column
        The column of texts.
    table
        The manifest with this column; paths of images are relative to the folder of the new file, or absolute.
    made
        The template, and the columns that it used.
    missing
        By column of the template, the number of rows in which its value is missing.
    absent
        Columns of the template that are optional and that the manifest lacks.
    probes
        How well missing values alone predict the label and the site, where this was measured.
    about
        What is known of the columns of the new manifest.
    path
        The file that was written; None if there is none.
    """

    manifest: str
    column: str
    table: pl.DataFrame = field(repr=False)
    made: MadeText
    missing: Mapping[str, int]
    probes: Sequence[MissingProbe]
    about: About
    path: Path | None = None
    absent: Sequence[str] = ()

    @property
    def n_samples(self) -> int:
        """Rows of the manifest."""
        return self.table.height

    @property
    def n_texts(self) -> int:
        """Distinct texts."""
        return self.table[self.column].drop_nulls().n_unique()

    @property
    def warnings(self) -> list[str]:
        """What a user of the texts should know."""
        n_empty = self.table[self.column].null_count()
        empty = [f"{counted(n_empty, 'sample')} without a text: all sentences are left out"] if n_empty else []
        return [*empty, *(probe.line() for probe in self.probes if probe.predicts)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the rows."""
        return {
            "manifest": self.manifest,
            "written": None if self.path is None else str(self.path),
            "column": self.column,
            "n_samples": self.n_samples,
            "n_texts": self.n_texts,
            "digest": self.made.digest,
            "columns": list(self.made.columns),
            "missing": dict(self.missing),
            "absent": list(self.absent),
            "outcomes": list(self.about.outcomes),
            "probes": [probe.to_dict() for probe in self.probes],
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """Return what was written in a few lines."""
        n = self.n_samples
        out = [
            f"{counted(n, 'sample')}, {counted(self.n_texts, 'distinct text')} in column {self.column!r}",
            *indented(
                [
                    [name, "no such column: missing in each row" if name in self.absent else count_line(missing, n)]
                    for name, missing in self.missing.items()
                ]
            ),
        ]
        first = next((text for text in self.table[self.column].to_list() if text), None)
        out += [] if first is None else [f"such as: {first}"]
        out += [f"warning: {line}" for line in self.warnings]
        if self.path is None:
            return out
        return [*out, f"manifest in {self.path}. Embed it with --text {self.column}"]


def text(
    manifest: str | Path,
    *,
    template: str | Path,
    out: str | Path | None = None,
    column: str = COLUMN,
    id: str | None = None,
    label: str | None = None,
    groups: str | None = None,
    site: str | None = None,
) -> WrittenTexts:
    r"""Write sentences from the columns of a manifest, as a new column in a copy of it.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file; its rows need neither image nor text.
    template
        A TOML file with the sentences; see `headwater.sources.template.parse_template`.
    out
        The manifest to write, ``.csv`` or ``.parquet``. The template is kept with it: in a Parquet file itself, or in
        ``FILE.about.json`` beside a CSV file.
    column
        Name of the new column. An existing column is refused, unless a template made it.
    id
        The column of sample ids, on which the choice among phrasings depends. Default: found by name.
    label
        The column to predict: it is refused in the template, and it is measured whether missing values alone predict
        it.
    groups
        The column that keeps rows together in this measurement, such as the patient; ``"none"`` if rows are
        independent. Default: that of the known data set.
    site
        The column of hospitals or scanners, for the same measurement. Default: found by name, such as ``site``.

    Returns
    -------
    WrittenTexts

    Raises
    ------
    InputError
        When the template cannot be used, names absent columns, or outcomes.
    ManifestNotFound, ManifestError
        When the manifest cannot be read.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "exams.csv").write_text("id,age,density\nE1,61,C\nE2,,B\n")
    >>> _ = (folder / "t.toml").write_text('sentences = ["Age {age}, density {density:lower}."]')
    >>> text(folder / "exams.csv", template=folder / "t.toml").table["report"].to_list()
    ['Age 61, density c.', 'Age unknown, density b.']
    """
    target = None if out is None else manifest_file(out)
    found = read_template(template)
    rows = read_rows(manifest, id)
    if target is not None and target.exists() and target.samefile(manifest):
        raise InputError(f"--out {out} is the manifest itself. Give another file.")
    for option, name in (("--label", label), ("--groups", None if groups == "none" else groups), ("--site", site)):
        if name is not None:
            require_column(_Rows(rows.table, rows.about), name, option)
    if column in rows.table.columns and column not in rows.about.texts:
        raise InputError(f"--column {column}: the manifest has this column already. Give the new one another name.")
    if column in found.columns:
        raise InputError(f"--column {column}: the template has a field of this name. Give the new column another name.")
    texts = _written(found, rows, template, label)
    table = _copied(rows, target).with_columns(pl.Series(column, texts, dtype=pl.String))
    absent = found.absent(rows.table.columns)
    made = MadeText(tuple(name for name in found.columns if name not in absent), found.source)
    outcomes = dict.fromkeys((*rows.about.outcomes, *found.outcomes))
    about = replace(rows.about, outcomes=tuple(outcomes), texts={**rows.about.texts, column: made}).of(table.columns)
    if len(about.to_json()) > MOST:
        raise InputError(f"--template {template}: what is known of the table is too large with it. Shorten it.")
    missing = {name: int(values.sum()) for name, values in missing_in(found, rows.table).items()}
    probes = _probes(found, rows, label, groups, site)
    done = WrittenTexts(str(manifest), column, table, made, missing, probes, about, target, absent)
    if target is not None:
        write_manifest(table, about, target)
    return done


@dataclass(frozen=True)
class _Rows:
    """A table as functions of stores take it."""

    samples: pl.DataFrame
    about: About


def _written(found: Template, rows: Manifest, path: str | Path, label: str | None) -> list[str | None]:
    """Write the texts; refuse the label and outcomes."""
    if label is not None and label in found.columns:
        raise InputError(
            f"--template {path}: the sentences have a field {{{label}}}, which is the --label to predict. Remove it."
        )
    if label is not None and label == found.vary_by:
        raise InputError(f"--template {path}: vary_by is the --label to predict: the wording would tell it. Change it.")
    refuse_outcomes(rows.about, found.columns, f"--template {path}: field")
    refuse_outcomes(rows.about, found.reads, f"--template {path}: vary_by")
    try:
        return write_texts(found, rows.table, rows.ids)
    except InputError as error:
        raise InputError(f"--template {path}: {error}") from error


def _copied(rows: Manifest, target: Path | None) -> pl.DataFrame:
    """Return the table with paths of images and masks as they are written in the new file."""
    if target is None:
        return rows.table
    base, root = (Path(os.path.abspath(p)) for p in (target.parent, rows.root))  # noqa: PTH100  (links stay)
    if base == root:
        return rows.table
    files = [c for c in dict.fromkeys((rows.image, "mask")) if c is not None and rows.table.schema.get(c) == pl.String]
    return rows.table.with_columns(placed(rows.table[name], root, base) for name in files)


def _probes(
    found: Template, rows: Manifest, label: str | None, groups: str | None, site: str | None
) -> list[MissingProbe]:
    """Measure how well missing values predict the label and the site."""
    site = site or site_column(rows.table.columns, (label, *found.columns))
    targets = list(dict.fromkeys(name for name in (label, site) if name is not None))
    if not targets:
        return []
    whole = groups or next(iter(rows.about.groups), None)
    whole = (
        group_column(_Rows(rows.table, rows.about), whole)
        if label is not None or whole is not None
        else _patients(rows)
    )
    probes = []
    for target in targets:
        there = known_rows(rows.table, target)
        if whole is not None:
            there &= known_rows(rows.table, whole)
        part = rows.table.filter(pl.Series(there))
        if part.is_empty():
            continue
        of_group: NDArray[Any] | None = None if whole is None else part[whole].cast(pl.String).to_numpy()
        y = part[target].to_numpy() if part[target].dtype.is_numeric() else part[target].cast(pl.String).to_numpy()
        probe = probe_missing(found, part, target, np.asarray(y), of_group)
        probes += [] if probe is None else [probe]
    return probes


def _patients(rows: Manifest) -> str | None:
    """Return the column of patients; None if there is none."""
    try:
        return group_column(_Rows(rows.table, rows.about), None)
    except InputError:
        return next((c for c in rows.table.columns if c.strip().lower() in ("patient", "patient_id", "exam")), None)
