"""Items of a manifest: what is distinct in its images and texts, and why some rows have none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.api._lines import counted
from headwater.api._progress import progress_bar
from headwater.embed import Content, key_of_file, unique_images, unique_texts
from headwater.errors import EncoderError, ImageError
from headwater.sources import Manifest
from headwater.store import KEY_COLUMNS, Features, FileIndex, Modality, hex_from_keys, stat_of

SHOWN = 5  # failures that are named one by one
SKIP = "Pass --on-error skip to leave such rows out."


@dataclass(frozen=True)
class Items:
    """The items of one modality: what is distinct, each row's key as hex or null, and why rows have none, by id."""

    contents: list[Content]
    keys: pl.Series
    unreadable: dict[str, str]

    def failed_samples(self, ids: Sequence[str], failed: Mapping[str, str]) -> dict[str, str]:
        """Say why samples have no features, by id, given why items failed, by key."""
        if not failed:
            return dict(self.unreadable)
        found = ((id, failed.get(key) or self.unreadable.get(id)) for id, key in zip(ids, self.keys, strict=True))
        return {id: why for id, why in found if why is not None}


def items_of(
    table: Manifest,
    modality: Modality,
    workers: int | None,
    on_error: str,
    progress: bool,
    index: FileIndex | None = None,
) -> Items:
    """Read every file or text once, for its key, but those files that ``index`` knows and that have not changed."""
    if modality == "text":
        contents, place = unique_texts(table.texts())
        return Items(contents, _key_column(contents, place, modality), {})
    paths, ids = table.image_paths(), table.ids
    keys: list[bytes | None] = []
    unreadable: dict[str, str] = {}
    files = sorted({path for path in paths if path is not None}, key=str)  # far quicker than part by part
    key_of = keys_of_files(files, workers, progress, index)
    for row, path in enumerate(paths):
        found = None if path is None else key_of[path]
        if isinstance(found, ImageError):
            if on_error == "stop":
                raise type(found)(f"manifest row {row + 1} ({ids[row]!r}): {found}. {SKIP}")
            unreadable[ids[row]] = str(found)
            found = None
        keys.append(found)
    contents, place = unique_images(paths, keys)
    return Items(contents, _key_column(contents, place, modality), unreadable)


def keys_of_files(
    paths: Sequence[Path], workers: int | None, progress: bool, index: FileIndex | None
) -> dict[Path, bytes | ImageError]:
    """Return the key of each image file, or why it cannot be read; those that ``index`` knows are not read."""
    found: dict[Path, bytes | ImageError] = {}
    n_failed = n_read = 0
    if index is not None:
        known = index.keys_of([_place(path) for path in paths])
        found = {path: key for path, key in zip(paths, known, strict=True) if key is not None}
        paths = [path for path in paths if path not in found]
    before: dict[str, tuple[int, int, int]] = {}

    def read(path: Path) -> bytes | ImageError:
        if index is not None:
            before[_place(path)] = stat_of(_place(path))  # what changes while it is read is read again next time
        return key_or_error(path)

    with (
        ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        progress_bar("read files", len(paths), unit="files", show=progress) as update,
    ):
        for path, key in zip(paths, pool.map(read, paths), strict=True):
            found[path] = key
            n_failed += isinstance(key, ImageError)
            n_read += 1
            if n_read % 256 == 0 or n_read == len(paths):
                update(n_read, n_failed)
    if index is not None:
        keys = {_place(path): found[path] for path in paths}
        index.remember({place: key for place, key in keys.items() if isinstance(key, bytes)}, before)
    return found


def _place(path: Path) -> str:
    """Return where a path leads, without asking the disk."""
    text = str(path)
    return text if text[0] == "/" and "/.." not in text else os.path.abspath(text)  # noqa: PTH100


def key_or_error(path: Path) -> bytes | ImageError:
    """Return the key of an image file, or why it cannot be read."""
    try:
        return key_of_file(path)
    except ImageError as error:
        return error


def _key_column(contents: Sequence[Content], place: NDArray[np.int64], modality: Modality) -> pl.Series:
    keys = pl.Series(KEY_COLUMNS[modality], [c.key for c in contents], dtype=pl.Binary).bin.encode("hex")
    return keys.gather(pl.Series(place, dtype=pl.Int64).set(pl.Series(place < 0), None))


def _keys(contents: Sequence[Content]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)


def failed_items(features: Features, contents: Sequence[Content]) -> dict[str, str]:
    """Return why items of this manifest failed, by key as hex."""
    keys = _keys(contents)
    rows = features.rows_of(keys)
    failed = np.isin(rows, np.fromiter(features.failed, np.int64))
    return {
        key: features.failed[row] for key, row in zip(hex_from_keys(keys[failed]), rows[failed].tolist(), strict=True)
    }


def refuse_failed(features: Features, items: Items, table: Manifest, what: str) -> None:
    """Raise for samples of this manifest whose items failed and are not tried again."""
    if not features.failed:
        return
    failed = items.failed_samples(table.ids, failed_items(features, items.contents))
    if not failed:
        return
    named = ", ".join(f"{id!r} ({why})" for id, why in list(failed.items())[:SHOWN])
    more = f" and {len(failed) - SHOWN:,} more" if len(failed) > SHOWN else ""
    kind = ImageError if features.spec.modality == "image" else EncoderError
    raise kind(
        f"{features.name}: {counted(len(failed), 'sample')} {what}: {named}{more}. Pass --retry-failed to try again, "
        "or --on-error skip to leave such rows out."
    )
