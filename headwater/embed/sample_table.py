"""The samples table of a store: a manifest's rows with the keys of their images and texts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from headwater._about import About
from headwater.embed import unique_texts
from headwater.embed.items import Items, key_or_error
from headwater.errors import ManifestError, StoreError
from headwater.sources import Manifest
from headwater.store import KEY_COLUMNS, Modality, Roles, Store

LOOKED_AT = 32  # most rows whose contents are read to find out who wrote a column of keys


def refuse_own_keys(table: Manifest, path: str | Path, store: Store | None) -> None:
    """Raise if the manifest has a column of its own with the name of one that headwater writes.

    A manifest exported from a store has such columns too. They are accepted if some key matches the content of its row,
    or is known to the store.
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
                f"{path}: headwater stores the digests of {modality}s in a column {column!r}, but the manifest has "
                "other values in a column of this name. Rename the column, or remove it."
            )


def _key_of(table: Manifest, modality: Modality, row: int) -> str | None:
    """Return the key of one row's content in hex; None if it is missing or cannot be read."""
    one = replace(table, table=table.table[row : row + 1])
    if modality == "text":
        contents, _ = unique_texts(one.texts())
        return contents[0].key.hex() if contents else None
    (image,) = one.image_paths()
    found = None if image is None else key_or_error(image)
    return found.hex() if isinstance(found, bytes) else None


def _samples_before(store: Store) -> tuple[pl.DataFrame, Roles] | None:
    """Return the samples of the last run and their roles; None if there are none or they cannot be read."""
    if not store.has_samples():
        return None
    try:
        return store.samples, store.roles
    except StoreError:  # its advice is to embed the manifest again, which is being done
        return None


@dataclass(frozen=True)
class Changes:
    """Numbers of samples that differ from the last manifest, compared by id.

    Attributes
    ----------
    new, unlisted
        Samples that were not listed before, and samples that are no longer listed.
    changed
        Samples with another image or text than before.
    moved
        Samples whose image is the same but has another path.
    """

    new: int
    changed: int
    moved: int
    unlisted: int

    def lines(self) -> list[str]:
        """Return the changes in one line; no line if there are none."""
        parts = [
            f"{sign}{n:,} {word}"
            for n, sign, word in (
                (self.new, "+", "new"),
                (self.changed, "", "changed"),
                (self.moved, "", "moved"),
                (self.unlisted, "-", "no longer listed (their features are kept)"),
            )
            if n
        ]
        return [f"samples: {', '.join(parts)}"] if parts else []


@dataclass(frozen=True, eq=False)
class SamplesPlan:
    """The plan of a store's samples table.

    Attributes
    ----------
    samples
        The manifest's columns, and the keys of images and texts.
    roles
        The columns of ids, images and texts.
    unreadable
        By sample id, the reason why an image cannot be read.
    changes
        How the samples differ from those in the store; None if it has none.
    about
        What is known of the manifest's columns.
    """

    samples: pl.DataFrame
    roles: Roles
    unreadable: Mapping[str, str]
    changes: Changes | None
    about: About = field(default_factory=About)


def plan_samples(store: Store | None, table: Manifest, items: Mapping[Modality, Items]) -> SamplesPlan:
    """Plan the samples table; for images or texts that this run does not read, known keys are kept."""
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
    changes = None if before is None else _changes(*before, samples, roles)
    return SamplesPlan(samples, roles, unreadable, changes, table.about.of(samples.columns))


def _changes(old: pl.DataFrame, old_roles: Roles, new: pl.DataFrame, roles: Roles) -> Changes:
    keys = list(KEY_COLUMNS.values())

    def plain(table: pl.DataFrame, of: Roles) -> pl.DataFrame:
        place = pl.lit(None, pl.String)
        if of.image is not None and of.image in table.columns:
            place = pl.concat_str(pl.lit(of.root + "/"), pl.col(of.image).cast(pl.String))
        return table.select(pl.col(of.id).cast(pl.String).alias("_id"), *keys, place.alias("_place"))

    if not Path(old_roles.root).is_dir():  # the store was moved: compare old relative paths under the new root
        old_roles = replace(old_roles, root=roles.root)
    both = plain(new, roles).join(plain(old, old_roles), on="_id", how="inner", suffix="_then")
    # a key that was not computed before is not a change
    differs = [(pl.col(k) != pl.col(f"{k}_then")).fill_null(False) for k in keys]
    changed = both.select(pl.any_horizontal(differs).sum()).item()
    same = both.filter(~pl.any_horizontal(differs) & pl.col("image_key").is_not_null())
    moved = same.select((pl.col("_place") != pl.col("_place_then")).fill_null(False).sum()).item()
    return Changes(new=len(new) - len(both), changed=int(changed), moved=int(moved), unlisted=len(old) - len(both))


def _known_before(
    old: pl.DataFrame, roles: Roles, table: Manifest, modality: Modality
) -> tuple[str | None, pl.DataFrame] | None:
    """Return the column of a modality in the last run that read it, and its known keys.

    The keys are a table with one row per row of ``table``, with columns ``_id``, ``_known`` and the key. A row is known
    if its id and its cell (for images, its path) are unchanged. Keys without a column belong to imported vectors; their
    rows are known by the id alone. Return None if there is no such column in either table.
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
    if (
        modality == "image" and roles.root != str(table.root) and Path(roles.root).is_dir()
    ):  # otherwise the store was moved
        then, now = _places(roles.root, then), _places(str(table.root), now)
    ids = old[roles.id].cast(pl.String)
    known = pl.DataFrame({"_id": ids, "_cell": then, KEY_COLUMNS[modality]: old[KEY_COLUMNS[modality]], "_known": True})
    rows = pl.DataFrame({"_id": table.ids, "_cell": now})
    same = rows.join(known, on=["_id", "_cell"], how="left", maintain_order="left")
    return column, same.with_columns(pl.col("_known").fill_null(False))


def _places(root: str, cells: pl.Series) -> pl.Series:
    """Return the paths of image files with resolved folders, so that different spellings of a folder are equal."""
    folders: dict[Path, Path] = {}
    places = []
    for cell in cells:
        path = None if cell is None else Path(root, cell)
        if path is not None and path.parent not in folders:
            folders[path.parent] = Path(os.path.realpath(path.parent))
        places.append(None if path is None else str(folders[path.parent] / path.name))
    return pl.Series(places, dtype=pl.String)
