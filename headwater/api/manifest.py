"""manifest: write a known data set, or a folder of images, as a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from headwater._about import About
from headwater._alike import alike_line
from headwater._shown import Shown
from headwater._words import counted
from headwater.api._table_files import manifest_file, placed, write_manifest
from headwater.errors import InputError
from headwater.sources._types import is_identifier
from headwater.sources.known import KINDS, Asked, Count, read_known
from headwater.sources.known._found import Part

SHOWN = 5  # files that a message names
_NAMED = re.compile(r"\(\?P?<([^\W\d]\w*)>")


@dataclass(frozen=True, repr=False)
class MadeManifest(Shown):
    """A data set as a manifest.

    Attributes
    ----------
    kind, folder
        The data set, and the folder that was read.
    table
        One row per sample: ``id``, ``image`` and the columns of the set. Paths of images are relative to the folder of
        the manifest if they lie below it, else absolute.
    counts
        What was counted, with the published numbers.
    about
        The outcome columns, the columns that keep rows together, and warnings.
    path
        The file that was written; None if there is none.
    """

    kind: str
    folder: str
    table: pl.DataFrame = field(repr=False)
    counts: Sequence[Count]
    about: About
    path: Path | None = None

    @property
    def n_samples(self) -> int:
        """Rows of the manifest."""
        return self.table.height

    @property
    def warnings(self) -> Sequence[str]:
        """What a user of the manifest should know."""
        return self.about.warnings

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the rows."""
        return {
            "kind": self.kind,
            "folder": self.folder,
            "manifest": None if self.path is None else str(self.path),
            "n_samples": self.n_samples,
            "columns": self.table.columns,
            "outcomes": list(self.about.outcomes),
            "groups": list(self.about.groups),
            "counts": [{"what": c.what, "found": c.found, "published": c.published} for c in self.counts],
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """Return what was found in a few lines."""
        title = KINDS[self.kind].title
        out = [f"{title}: {counted(self.n_samples, 'sample')}"]
        differ = [one for one in self.counts if one.published is not None and one.found != one.published]
        shown = [one for one in self.counts if one.published is None or one in differ]
        out += [f"  {one.line()}" for one in (shown if differ else self.counts)]
        if self.about.outcomes:
            out.append(f"outcomes, never inputs: {', '.join(self.about.outcomes)}")
        if self.about.groups:
            out.append(f"keep together: --groups {self.about.groups[0]}")
        out += [f"warning: {line}" for line in self.warnings]
        return [*out, f"manifest in {self.path}"] if self.path is not None else out


def manifest(
    kind: str,
    folder: str | Path,
    *,
    out: str | Path | None = None,
    columns_from: str | None = None,
    groups_file: str | Path | None = None,
    part: Part = "full",
    salt: str | Path | None = None,
) -> MadeManifest:
    """Write a known data set, or a folder of images, as a manifest.

    Parameters
    ----------
    kind
        The data set: one of `headwater.sources.known.KINDS`, such as ``breakhis``, ``dicom`` for a folder
        of DICOM files, or ``folder`` for a folder of images that is none of these.
    folder
        The folder of the unpacked archive, one above it, or one inside it. A partial download is accepted.
    out
        The manifest to write, ``.csv`` or ``.parquet``. Beside a CSV file, ``FILE.about.json`` says which columns are
        outcomes; a Parquet file holds this itself.
    columns_from
        A regular expression, as of Rust's ``regex``, that is searched in each image's path relative to ``folder``. Its
        named groups become columns: ``(?P<patient>[^_/]+)_(?P<side>[LR])``.
    groups_file
        Which images belong together, for sets that do not say it themselves: the table of patients of BACH, ``.xlsx``
        or ``.csv``; the clusters of LC25000, a ``.csv`` file or a folder of such.
    part
        For CBIS-DDSM: ``full`` mammograms, or the ``crop`` around each abnormality.
    salt
        For ``dicom``: a file with the secret that patients, exams and series are hashed with, which is made if there is
        none. Keep it, and do not pass it on. Default: ``~/.config/headwater/salt``.

    Returns
    -------
    MadeManifest

    Raises
    ------
    InputError
        When an option cannot be used.
    ManifestNotFound, ManifestError
        When the folder does not hold this data set, or a table in it cannot be read.
    """
    target = None if out is None else manifest_file(out)
    asked = Asked(
        None if groups_file is None else Path(groups_file), part, None if salt is None else Path(salt).expanduser()
    )
    found = read_known(kind, folder, asked)
    table, about = found.table, found.about
    if columns_from is not None:
        table = with_columns_from(table, columns_from)
        about = _with_groups(about, table, found.table.columns)
    about = about.of(table.columns)
    root = Path(os.path.abspath(folder))  # noqa: PTH100  (links stay as they were named)
    base = None if target is None else Path(os.path.abspath(target)).parent  # noqa: PTH100
    files = [name for name in ("image", "mask") if name in table.columns]
    table = table.with_columns(placed(table[name], root, base) for name in files)
    made = MadeManifest(kind, str(folder), table, found.counts, about, target)
    if target is not None:
        write_manifest(table, about, target)
    return made


def with_columns_from(table: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Return a table with a column for each named group of a pattern that is searched in the paths of images.

    Raises
    ------
    InputError
        When the pattern has no named groups, cannot be read, names an existing column, or does not match every path.
    """
    names = _NAMED.findall(pattern)
    option = f"--columns-from {pattern!r}"
    if not names:
        raise InputError(f"{option} has no named group: write (?P<NAME>…) around each part that becomes a column.")
    if twice := [name for name in names if name in table.columns]:
        raise InputError(f"{option}: there is a column {twice[0]!r} already. Give the group another name.")
    try:
        parts = table["image"].str.extract_groups(pattern).struct.unnest()
        matched = table["image"].str.contains(pattern)
    except pl.exceptions.PolarsError as error:
        why = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{option} cannot be used ({why}). Look-ahead, look-behind and back-references are not allowed."
        ) from error
    if not matched.all():
        n, some = int((~matched).sum()), table["image"].filter(~matched).head(SHOWN).to_list()
        raise InputError(f"{option} does not match {counted(n, 'path')}, such as {', '.join(map(repr, some))}.")
    return table.with_columns(parts.select(names).get_columns())


def _never(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """Warn of columns that were read from paths and are empty in some rows."""
    n_of = {name: table[name].null_count() for name in columns}
    return [f"--columns-from: {name} is empty in {counted(n, 'row')}" for name, n in n_of.items() if n]


def _with_groups(about: About, table: pl.DataFrame, known: Sequence[str]) -> About:
    """Add the columns that were read from paths and name patients or slides to the groups, and warn of spellings."""
    new = [name for name in table.columns if name not in known and is_identifier(name)]
    said = [line for line in about.warnings if not new or "--columns-from" not in line]
    said += _never(table, [name for name in table.columns if name not in known])
    said += [line for name in new for line in alike_line(table[name], name)]
    return replace(about, groups=(*about.groups, *new), warnings=tuple(said))
