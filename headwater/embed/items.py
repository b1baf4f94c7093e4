"""Items of a manifest: its distinct images and texts, and the reasons why some rows have none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from headwater._progress import Progress, counting
from headwater._words import counted
from headwater.embed import Content, Contents, content_key, distinct, key_of_file, keys_of
from headwater.embed.contents import SlideSeen
from headwater.errors import EncoderError, ImageError
from headwater.sources import Manifest
from headwater.sources.slides import open_slide, state_of, tile_at, tile_key
from headwater.sources.slides.digest import combined, file_digest, files_of, remember
from headwater.store import KEY_COLUMNS, PARTS, Features, FileIndex, Modality, hex_from_keys, sample_keys, stat_of

SHOWN = 5  # most failures that a message lists
_KNOWN = {"source": pl.String, "key": pl.Binary}
SKIP = "Pass --on-error skip to leave such rows out."


@dataclass(frozen=True)
class Items:
    """The items of one modality: the distinct contents, each row's key in hex or null, and reasons for null, by id.

    For pairs, ``parts`` holds the items of images and texts.
    """

    contents: Contents
    keys: pl.Series
    unreadable: dict[str, str]
    parts: Mapping[Modality, Items] = field(default_factory=dict)

    def failed_samples(self, ids: Sequence[str], failed: Mapping[str, str]) -> dict[str, str]:
        """Return the reason why samples have no features, by id, given the reasons of failed items, by key."""
        if not failed:
            return dict(self.unreadable)
        found = ((id, failed.get(key) or self.unreadable.get(id)) for id, key in zip(ids, self.keys, strict=True))
        return {id: why for id, why in found if why is not None}

    def why_none(self, ids: Sequence[str], modality: Modality) -> list[str]:
        """Return for each row the reason why it has no item (unreadable or missing); empty if it has one."""
        why = [""] * len(ids)
        for part, items in (self.parts or {modality: self}).items():
            for row in items.keys.is_null().arg_true().to_list():
                why[row] = why[row] or items.unreadable.get(ids[row], f"no {part}")
        return why


def items_of(
    table: Manifest,
    modality: Modality,
    workers: int | None,
    on_error: str,
    progress: Progress,
    index: FileIndex | None = None,
) -> Items:
    """Read every file or text once to compute its key; files that are unchanged since ``index`` are not read."""
    if modality == "pair":
        return _pairs_of(
            table, {part: items_of(table, part, workers, on_error, progress, index) for part in PARTS["pair"]}
        )
    if modality == "text":
        texts = pl.Series(table.texts(), dtype=pl.String)
        words = texts.unique().drop_nulls()
        known = pl.DataFrame({"source": words, "key": [content_key(text.encode()) for text in words]}, _KNOWN)
        rows = texts.alias("source").to_frame().join(known, on="source", how="left", maintain_order="left")
        return Items(distinct(rows["key"], texts, "text"), _key_column(rows["key"], modality), {})
    places = table.image_places().alias("source")
    files = places.drop_nulls().unique().sort()
    slides: dict[str, SlideSeen] = {}
    found, why = keys_of_files(files, workers, progress, index, slides)
    unreadable: dict[str, str] = {}
    if why:
        ids = table.ids
        for row, place in enumerate(places):
            if place not in why:
                continue
            if on_error == "stop":
                error = why[place]
                raise type(error)(f"manifest row {row + 1} ({ids[row]!r}): {error}. {SKIP}")
            unreadable[ids[row]] = str(why[place])
    known = pl.DataFrame({"source": files, "key": found}, _KNOWN)
    rows = places.to_frame().join(known, on="source", how="left", maintain_order="left")
    contents = distinct(rows["key"], places, "image", slides=slides)
    return Items(contents, _key_column(rows["key"], modality), unreadable)


def _pairs_of(table: Manifest, parts: Mapping[Modality, Items]) -> Items:
    """Return the items of rows with both an image and a text, given the items of each modality."""
    texts = pl.Series("words", table.texts(), dtype=pl.String)
    keys = sample_keys(pl.DataFrame([items.keys for items in parts.values()]), "pair")
    slides = parts["image"].contents.slides
    contents = distinct(keys.str.decode("hex"), table.image_places(), "pair", texts, slides)
    without = set(table.require(table.id).filter(texts.is_null()))
    unreadable = {id: why for id, why in parts["image"].unreadable.items() if id not in without}
    return Items(contents, keys, unreadable, parts)


def keys_of_files(
    files: pl.Series,
    workers: int | None,
    progress: Progress,
    index: FileIndex | None,
    slides: dict[str, SlideSeen] | None = None,
) -> tuple[pl.Series, dict[str, ImageError]]:
    """Return the key of each image file, null if it cannot be read, and the errors; files in ``index`` are not read.

    Files are distinct paths, as strings. Of tiles, their slides are read, and added to ``slides``.
    """
    tiled = files.str.contains("#tile=", literal=True)
    if not tiled.any():
        return _keys_of_whole_files(files, workers, progress, index)
    of_tiles = [tile_at(file) for file in files.to_list()]
    tiled = pl.Series([tile is not None for tile in of_tiles], dtype=pl.Boolean)
    whole = files.filter(~tiled)
    plain, why = _keys_of_whole_files(whole, workers, progress, index)
    plain_keys = dict(zip(whole.to_list(), plain.to_list(), strict=True))
    seen, errors = slides_seen(list(dict.fromkeys(str(t.slide) for t in of_tiles if t)), workers, progress, index)
    if slides is not None:
        slides |= seen
    keys: list[bytes | None] = []
    for file, tile in zip(files.to_list(), of_tiles, strict=True):
        if tile is None:
            keys.append(plain_keys[file])
        elif (slide := seen.get(str(tile.slide))) is not None:
            keys.append(tile_key(slide.digest, tile.region))
        else:
            keys.append(None)
            why[file] = errors[str(tile.slide)]
    return pl.Series("key", keys, dtype=pl.Binary), why


def slides_seen(
    slides: Sequence[str], workers: int | None, progress: Progress, index: FileIndex | None
) -> tuple[dict[str, SlideSeen], dict[str, ImageError]]:
    """Return the digest of each slide, and why others cannot be read; unchanged files in ``index`` are not read."""
    states = {slide: state_of(Path(slide)) for slide in slides}  # one that changes while it is read is seen to change
    files: dict[str, list[Path]] = {}
    errors: dict[str, ImageError] = {}
    for slide in slides:
        try:
            open_slide(slide)
            files[slide] = files_of(Path(slide))
        except (ImageError, OSError) as error:
            errors[slide] = slide_error(error, slide)
    every = pl.Series("source", sorted({str(file) for slide in files if slide not in errors for file in files[slide]}))
    found, why = _keys_of_whole_files(every.cast(pl.String), workers, progress, index, of_slides=True)
    digests = dict(zip(every.to_list(), found.to_list(), strict=True))
    seen = {}
    for slide, parts in files.items():
        if slide in errors:
            continue
        bad = next((str(file) for file in parts if digests[str(file)] is None), None)
        if bad is not None:
            errors[slide] = why[bad]
            continue
        digest = combined(parts, [digests[str(file)] for file in parts])
        remember(Path(slide), digest, parts)
        seen[slide] = SlideSeen(digest, states[slide])
    return seen, errors


def slide_error(error: ImageError | OSError, slide: str) -> ImageError:
    """Return an error in the reading of a slide as one of an image."""
    return error if isinstance(error, ImageError) else ImageError(f"cannot read slide ({error.strerror}): {slide}")


def _keys_of_whole_files(
    files: pl.Series,
    workers: int | None,
    progress: Progress,
    index: FileIndex | None,
    *,
    of_slides: bool = False,
) -> tuple[pl.Series, dict[str, ImageError]]:
    """Return the key of each file, null if it cannot be read, and the errors; files in ``index`` are not read."""
    why: dict[str, ImageError] = {}
    found = pl.Series("key", [None] * len(files), dtype=pl.Binary)
    places = files
    if index is not None:
        places = absolute(files)
        found = index.keys_of(places)
    unknown = found.is_null()
    to_read = files.filter(unknown).to_list()
    place_of = dict(zip(to_read, places.filter(unknown).to_list(), strict=True))
    before: dict[str, tuple[int, int, int]] = {}

    def read(path: str) -> bytes | ImageError:
        if index is not None:
            before[place_of[path]] = stat_of(
                place_of[path]
            )  # a file that changes while it is read is read again next time
        return digest_or_error(Path(path)) if of_slides else key_or_error(Path(path))

    keys: dict[str, bytes] = {}
    with (
        ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        counting(progress, "read slides" if of_slides else "read files", len(to_read), unit="files") as update,
    ):
        for n_read, (path, key) in enumerate(zip(to_read, pool.map(read, to_read), strict=True), start=1):
            if isinstance(key, ImageError):
                why[path] = key
            else:
                keys[path] = key
            if n_read % 256 == 0 or n_read == len(to_read):
                update(n_read, len(why))
    if index is not None:
        index.remember({place_of[path]: key for path, key in keys.items()}, before)
    if to_read:
        found = found.scatter(unknown.arg_true(), pl.Series([keys.get(path) for path in to_read], dtype=pl.Binary))
    return found, why


def absolute(files: pl.Series) -> pl.Series:
    """Return absolute paths, without reading the disk."""
    odd = ~files.str.starts_with("/") | files.str.contains("/..", literal=True)
    if not odd.any():
        return files
    return pl.Series(files.name, [os.path.abspath(file) for file in files], dtype=pl.String)  # noqa: PTH100


def key_or_error(path: Path) -> bytes | ImageError:
    """Return the key of an image file, or the error if it cannot be read."""
    try:
        return key_of_file(path)
    except ImageError as error:
        return error


def digest_or_error(path: Path) -> bytes | ImageError:
    """Return the digest of a file of a slide, or the error if it cannot be read."""
    try:
        return file_digest(path)
    except ImageError as error:
        return error


def _key_column(keys: pl.Series, modality: Modality) -> pl.Series:
    return keys.bin.encode("hex").alias(KEY_COLUMNS[modality])


def failed_items(features: Features, contents: Sequence[Content]) -> dict[str, str]:
    """Return the reasons of this manifest's failed items, by key in hex."""
    keys = keys_of(contents)
    rows = features.rows_of(keys)
    failed = np.isin(rows, np.fromiter(features.failed, np.int64))
    return {
        key: features.failed[row] for key, row in zip(hex_from_keys(keys[failed]), rows[failed].tolist(), strict=True)
    }


def refuse_failed(features: Features, items: Items, table: Manifest, what: str) -> None:
    """Raise if items of this manifest failed and are not retried."""
    if not features.failed:
        return
    failed = items.failed_samples(table.ids, failed_items(features, items.contents))
    if not failed:
        return
    named = ", ".join(f"{id!r} ({why})" for id, why in list(failed.items())[:SHOWN])
    more = f" and {len(failed) - SHOWN:,} more" if len(failed) > SHOWN else ""
    kind = EncoderError if features.spec.modality == "text" else ImageError
    raise kind(
        f"{features.name}: {counted(len(failed), 'sample')} {what}: {named}{more}. Pass --retry-failed to retry them, "
        "or --on-error skip to leave such rows out."
    )
