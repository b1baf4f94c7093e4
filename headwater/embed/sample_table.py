"""The samples table of a store: a manifest's rows with the keys of what they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from headwater.embed import unique_texts
from headwater.embed.items import Items, key_or_error
from headwater.errors import ManifestError, StoreError
from headwater.sources import Manifest
from headwater.store import KEY_COLUMNS, Modality, Roles, Store

LOOKED_AT = 32  # rows whose contents are read to see who wrote a column of keys


def refuse_own_keys(table: Manifest, path: str | Path, store: Store | None) -> None:
    """Refuse a column of the manifest's own under the name of one that headwater writes.

    A manifest that was exported from a store has such columns as well: some key there is of the content beside it, or
    known to the store.
    """
    before = None if store is None else _samples_before(store)
    modality: Modality
    for modality in ("image", "text"):
        column = KEY_COLUMNS[modality]
        if column not in table.table.columns:
            continue
        values = table.table[column]
        rows = values.is_not_null().arg_true()[:LOOKED_AT].to_list()
        known = set() if before is None else set(before[0][column].drop_nulls())
        if rows and not any((key := str(values[row])) in known or key == _key_of(table, modality, row) for row in rows):
            raise ManifestError(
                f"{path}: column {column!r} is the manifest's own, but headwater keeps digests of {modality}s under "
                "this name. Rename the column, or take it out."
            )


def _key_of(table: Manifest, modality: Modality, row: int) -> str | None:
    """Return the key of one row's content as hex, None where there is none that can be read."""
    one = replace(table, table=table.table[row : row + 1])
    if modality == "text":
        contents, _ = unique_texts(one.texts())
        return contents[0].key.hex() if contents else None
    (image,) = one.image_paths()
    found = None if image is None else key_or_error(image)
    return found.hex() if isinstance(found, bytes) else None


def _samples_before(store: Store) -> tuple[pl.DataFrame, Roles] | None:
    """Return the samples of the last run and their roles, if there are any that can be read."""
    if not store.has_samples():
        return None
    try:
        return store.samples, store.roles
    except StoreError:  # whose advice is to embed the manifest again, as is being done
        return None


@dataclass(frozen=True)
class Changes:
    """How a manifest differs from the one before, by the ids of its samples.

    Attributes
    ----------
    new, unlisted
        Samples that were not listed before, and those that no longer are.
    changed
        Samples that hold another image or text than before.
    moved
        Samples whose image is the same, but lies elsewhere.
    """

    new: int
    changed: int
    moved: int
    unlisted: int

    def lines(self) -> list[str]:
        """Say it in a line, or in none where nothing differs."""
        parts = [
            f"{sign}{n:,} {word}"
            for n, sign, word in (
                (self.new, "+", "new"),
                (self.changed, "", "changed"),
                (self.moved, "", "moved"),
                (self.unlisted, "-", "no longer listed (what was embedded is kept)"),
            )
            if n
        ]
        return [f"samples: {', '.join(parts)}"] if parts else []


@dataclass(frozen=True, eq=False)
class SamplesPlan:
    """The samples that a store is to have.

    Attributes
    ----------
    samples
        The manifest's columns, and the keys of what its rows hold.
    roles
        Which of the columns hold what.
    unreadable
        Why images cannot be read, by sample id.
    changes
        How the samples differ from those the store has; None where it has none.
    """

    samples: pl.DataFrame
    roles: Roles
    unreadable: Mapping[str, str]
    changes: Changes | None


def plan_samples(store: Store | None, table: Manifest, items: Mapping[Modality, Items]) -> SamplesPlan:
    """Plan the samples table; for images or texts that this run does not read, what is known of a row is kept."""
    parts = (one.parts or {modality: one} for modality, one in items.items())
    items = {part: of for each in parts for part, of in each.items()}
    samples = table.table.drop([c for c in KEY_COLUMNS.values() if c in table.table.columns])
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    before = None if store is None else _samples_before(store)
    unreadable: Mapping[str, str] = {}
    keys = []
    for modality in columns:
        if modality in items:
            keys.append(items[modality].keys)
            unreadable = items[modality].unreadable if modality == "image" else unreadable
            continue
        known = None if before is None else _known_before(*before, table, modality)
        if known is None:
            keys.append(pl.Series(KEY_COLUMNS[modality], [None] * table.n_samples, dtype=pl.String))
            continue
        columns[modality], same = known
        keys.append(same[KEY_COLUMNS[modality]])
        if modality == "image":
            still = set(same.filter(pl.col("_known"))["_id"])
            unreadable = {} if store is None else {id: why for id, why in store.unreadable.items() if id in still}
    roles = Roles(id=table.id, image=columns["image"], text=columns["text"], root=str(table.root))
    samples = samples.with_columns(keys)
    return SamplesPlan(samples, roles, unreadable, None if before is None else _changes(*before, samples, roles))


def _changes(old: pl.DataFrame, old_roles: Roles, new: pl.DataFrame, roles: Roles) -> Changes:
    keys = list(KEY_COLUMNS.values())

    def plain(table: pl.DataFrame, of: Roles) -> pl.DataFrame:
        place = pl.lit(None, pl.String)
        if of.image is not None and of.image in table.columns:
            place = pl.concat_str(pl.lit(of.root + "/"), pl.col(of.image).cast(pl.String))
        return table.select(pl.col(of.id).cast(pl.String).alias("_id"), *keys, place.alias("_place"))

    if not Path(old_roles.root).is_dir():  # the store was moved, not the images
        old_roles = replace(old_roles, root=roles.root)
    both = plain(new, roles).join(plain(old, old_roles), on="_id", how="inner", suffix="_then")
    # a key that was not looked for before is no change
    differs = [(pl.col(k) != pl.col(f"{k}_then")).fill_null(False) for k in keys]
    changed = both.select(pl.any_horizontal(differs).sum()).item()
    same = both.filter(~pl.any_horizontal(differs) & pl.col("image_key").is_not_null())
    moved = same.select((pl.col("_place") != pl.col("_place_then")).fill_null(False).sum()).item()
    return Changes(new=len(new) - len(both), changed=int(changed), moved=int(moved), unlisted=len(old) - len(both))


def _known_before(
    old: pl.DataFrame, roles: Roles, table: Manifest, modality: Modality
) -> tuple[str | None, pl.DataFrame] | None:
    """Return the column that holds a modality by the last run that looked at it, and what it found out.

    Rows are known again by their id and an unchanged cell, of images by the same place: ``_id``, ``_known`` and the key
    column, a row for each of ``table``. None when nothing is known: no such column in either.
    Keys without a column are of imported vectors, and are known by the id alone.
    """
    column = roles.image if modality == "image" else roles.text
    key = old[KEY_COLUMNS[modality]]
    if column is None and key.null_count() < len(key):
        imported = pl.DataFrame({"_id": old[roles.id].cast(pl.String), key.name: key, "_known": True})
        rows = pl.DataFrame({"_id": table.ids}).join(imported, on="_id", how="left", maintain_order="left")
        return None, rows.with_columns(pl.col("_known").fill_null(False))
    if column is None or column not in table.table.columns:
        return None
    then, now = old[column].cast(pl.String), table.table[column].cast(pl.String)
    if modality == "image" and roles.root != str(table.root) and Path(roles.root).is_dir():  # else the store was moved
        then, now = _places(roles.root, then), _places(str(table.root), now)
    ids = old[roles.id].cast(pl.String)
    known = pl.DataFrame({"_id": ids, "_cell": then, KEY_COLUMNS[modality]: old[KEY_COLUMNS[modality]], "_known": True})
    rows = pl.DataFrame({"_id": table.ids, "_cell": now})
    same = rows.join(known, on=["_id", "_cell"], how="left", maintain_order="left")
    return column, same.with_columns(pl.col("_known").fill_null(False))


def _places(root: str, cells: pl.Series) -> pl.Series:
    """Return where image files are, the same for each way to write a folder; of which there are few."""
    folders: dict[Path, Path] = {}
    places = []
    for cell in cells:
        path = None if cell is None else Path(root, cell)
        if path is not None and path.parent not in folders:
            folders[path.parent] = Path(os.path.realpath(path.parent))
        places.append(None if path is None else str(folders[path.parent] / path.name))
    return pl.Series(places, dtype=pl.String)
