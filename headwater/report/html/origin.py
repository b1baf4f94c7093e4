"""The samples behind a run's test rows: their pictures, columns and features, read from the store or the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._missing import is_missing
from headwater.errors import HeadwaterError
from headwater.report.html.about import place_name
from headwater.report.html.material import Subject
from headwater.samples.cases import Cases
from headwater.samples.label_sql import label_sql_of
from headwater.samples.pictures import picture_of_file, picture_of_sample
from headwater.samples.vectors import unit_rows
from headwater.sources import plain
from headwater.store import KEY_COLUMNS, open_store

if TYPE_CHECKING:
    from PIL import Image

WORKERS = 4  # threads that read images


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a run's samples came from.

    Attributes
    ----------
    note
        Why pictures, columns or features are missing; ``""`` if they are there.
    table
        The samples' table; None where it cannot be read.
    rows
        For each id of a test row, its rows in the table: one, or those of its bag.
    cases
        The samples by a feature set; None for the manifest of a run that trained its encoder.
    files
        For such a run, the image file of each row.
    features
        For each feature set of the run, the same samples by it.
    changed
        Feature sets whose stored values are no longer those that the run read.
    """

    note: str = ""
    table: pl.DataFrame | None = None
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    cases: Cases | None = None
    files: Sequence[Path | None] = ()
    features: Mapping[str, Cases] = field(default_factory=dict)
    changed: Sequence[str] = ()

    def pictures(self, ids: Sequence[str]) -> list[Image.Image | None]:
        """Return the picture of each test row: of its first sample that has one."""
        with ThreadPoolExecutor(WORKERS) as team:
            return list(team.map(self._picture, ids))

    def _picture(self, id: str) -> Image.Image | None:
        for row in list(self.rows.get(id, ()))[:3]:
            found = None
            if self.cases is not None:
                found = picture_of_sample(self.cases, row)
            elif self.files and (path := self.files[row]) is not None:
                found = picture_of_file(path)
            if found is not None:
                return found
        return None

    def values(self, column: str, ids: Sequence[str]) -> list[str]:
        """Return a column's value of each test row as text; ``""`` where it has none or several."""
        if self.table is None or column not in self.table.columns:
            return [""] * len(ids)
        values = plain(self.table[column]).to_list()
        out = []
        for id in ids:
            here = {"" if values[row] is None else str(values[row]).strip() for row in self.rows.get(id, ())}
            word = here.pop() if len(here) == 1 else ""
            out.append("" if is_missing(word) else word)
        return out

    def numbers(self, column: str, ids: Sequence[str]) -> NDArray[np.float64] | None:
        """Return a numeric column's value of each test row, NaN where it has none; None if it is not numeric."""
        if self.table is None or column not in self.table.columns or not self.table[column].dtype.is_numeric():
            return None
        return np.array([float(word) if word else np.nan for word in self.values(column, ids)])

    def image_keys(self, ids: Sequence[str]) -> list[str | None]:
        """Return the key of each test row's image; None without one."""
        if self.table is None or KEY_COLUMNS["image"] not in self.table.columns:
            return [None] * len(ids)
        keys = self.table[KEY_COLUMNS["image"]].to_list()
        return [keys[rows[0]] if (rows := self.rows.get(id)) else None for id in ids]

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the joined features of test rows, each scaled to length 1, ``(n, dim)``; None if there are none."""
        parts = [unit_rows(self.raw(name, ids)) for name in self.features]
        return np.concatenate(parts, axis=1) if parts else None

    def raw(self, name: str, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return a feature set's vectors of test rows, the mean over a bag's; zeros where a row has none."""
        cases = self.features[name]
        every = [self.rows.get(id, ()) for id in ids]
        flat = np.array([row for rows in every for row in rows], np.int64)
        of_row = np.repeat(np.arange(len(every)), [len(rows) for rows in every])
        out = np.zeros((len(every), cases.features.spec.dim), np.float32)
        items = cases.items[flat]
        there = items >= 0
        if there.any():
            distinct, back = np.unique(items[there], return_inverse=True)
            values = np.asarray(cases.features.pooled[distinct], np.float32)[back]
            np.add.at(out, of_row[there], values)
            out /= np.maximum(np.bincount(of_row[there], minlength=len(every)), 1)[:, None]
        return out


def origin_of(one: Subject) -> Origin:
    """Find a run's samples; where they cannot be read, say so."""
    place = one.config.get("store") or one.config.get("manifest")
    gone = f"{place_name(place)} cannot be read where the run expects it: pictures, columns and the map are missing."
    try:
        return _of_manifest(one) if one.config["command"] == "fine-tune" else _of_store(one)
    except (HeadwaterError, OSError):
        return Origin(gone)


def _of_store(one: Subject) -> Origin:
    store = open_store(one.config["store"]).defining(label_sql_of(one.config))
    there = store.feature_names()
    wanted = list(one.features)[:1] if one.config["command"] == "zero-shot" else one.features
    features = {name: Cases(store, name) for name in wanted if name in there}
    named = next((n for n in [*wanted, *there] if n in there and n.endswith("/image")), next(iter(features), None))
    if named is None:
        return Origin(f"{place_name(one.config['store'])} no longer holds the run's features: the map is missing.")
    cases = features.get(named) or Cases(store, named)
    specs = one.config["features"]
    changed = [n for n, c in features.items() if specs[n].get("fingerprint") not in (None, c.features.fingerprint)]
    gone = [name for name in wanted if name not in there]
    note = f"The store no longer holds {', '.join(gone)}: the map is missing." if gone else ""
    rows = _rows(cases.table, cases.roles.id, one)
    return Origin(note, cases.table, rows, cases, (), {} if gone else features, changed)


def _of_manifest(one: Subject) -> Origin:
    """Read the manifest of a run that trained its encoder; its features were not stored."""
    from headwater.embed.plan import ManifestColumns

    config = one.config
    found = ManifestColumns(config["image"], config["text"], config["id"]).read(config["manifest"])
    note = "This run trained its encoder, whose features are not stored: there is no map of them."
    return Origin(note, found.table, _rows(found.table, found.id, one), None, found.image_paths())


def _rows(table: pl.DataFrame, ids: str, one: Subject) -> dict[str, list[int]]:
    column = one.config.get("bags") or ids
    out: dict[str, list[int]] = {}
    for row, value in enumerate(table[column].cast(pl.String).to_list()):
        if value is not None:
            out.setdefault(value.strip() if column != ids else value, []).append(row)
    return out
