"""embed: from a manifest to stored features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.api._lines import counted
from headwater.api._progress import progress_bar
from headwater.embed import (
    Content,
    EmbedResult,
    Encoder,
    Precision,
    fill,
    key_of_file,
    load_encoder,
    unique_images,
    unique_texts,
)
from headwater.errors import ImageError, InputError, ManifestError, nearest
from headwater.sources import Manifest, read_manifest
from headwater.store import (
    KEY_COLUMNS,
    Features,
    Modality,
    Roles,
    Store,
    check_name,
    create_store,
    find_store,
    hex_from_keys,
)

SHOWN = 5  # failures that a report lists


class Embedded(Store):
    """A store, and what the run that filled it did.

    Attributes
    ----------
    n_samples
        Rows of the manifest.
    results
        For each feature set, what its run did.
    failed
        For each feature set, why samples of the manifest have no features, by sample id; those that failed in an
        earlier run, and were not tried again, are among them.
    n_failed_before
        For each feature set, how many items failed in an earlier run.
    not_encoded
        Columns that were named but that the encoder has no use for, by modality.
    """

    def __init__(self, path: Path, n_samples: int) -> None:
        super().__init__(path)
        self.n_samples = n_samples
        self.results: dict[str, EmbedResult] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.n_failed_before: dict[str, int] = {}
        self.not_encoded: dict[Modality, str] = {}

    @property
    def n_failed(self) -> int:
        """Samples without features because they could not be read or encoded."""
        return len({id for failed in self.failed.values() for id in failed})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        features = {
            name: {"embedded": r.embedded, "kept": r.kept - self.n_failed_before[name], "failed": self.failed[name]}
            for name, r in self.results.items()
        }
        return {"store": str(self.path), "n_samples": self.n_samples, "features": features}

    def lines(self) -> list[str]:
        """Say in a few lines what was done, what was skipped and where the result is."""
        out = []
        for name, result in self.results.items():
            failed, before = self.failed[name], self.n_failed_before[name]
            parts = [f"{counted(result.embedded, 'item')} embedded"]
            parts += [f"{result.kept - before:,} there already"] if result.kept > before else []
            parts += [f"{counted(len(failed), 'sample')} failed"] if failed else []
            out.append(f"{name}: {', '.join(parts)}")
            out += [f"  {id}: {why}" for id, why in list(failed.items())[:SHOWN]]
            if len(failed) > SHOWN:
                out.append(f"  … and {len(failed) - SHOWN:,} more: headwater info {self.path} --failed")
            if before:
                out.append(f"  {counted(before, 'item')} failed in an earlier run: --retry-failed tries again")
        out += [
            f"column {column!r} was left alone: its {m}s need another encoder" for m, column in self.not_encoded.items()
        ]
        without = f", {self.n_failed:,} of them without features" if self.n_failed else ""
        return [*out, f"{counted(self.n_samples, 'sample')}{without}, in {self.path}"]


def embed(
    manifest: str | Path,
    store: str | Path,
    *,
    encoder: str,
    weights: str | Path | None = None,
    name: str | None = None,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    tokens: str = "none",
    dtype: str = "float16",
    precision: Precision = "auto",
    device: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    on_error: str = "skip",
    retry_failed: bool = False,
    progress: bool = False,
) -> Embedded:
    """Run an encoder once over the images and texts of a manifest, and store what it makes of them.

    Run again, it does what is left. Nothing is embedded twice: an item is known by its content.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder with one subfolder a class.
    store
        Where the store is or is to be.
    encoder
        See `headwater.embed.load_encoder`.
    weights
        A local state dict to use in place of the named weights.
    name
        What to call the features; made from the encoder when left out.
    image, text, id
        Columns of the manifest; found by name when left out.
    tokens
        ``none``, ``all``, or a number to pool tokens to.
    dtype
        Stored type, ``float16`` or ``float32``.
    precision, device, batch_size, workers
        How to compute; without influence on what the features mean.
    on_error
        ``skip`` records an item that cannot be read as failed and goes on; ``stop`` raises.
    retry_failed
        Try items again that failed before.
    progress
        Show a progress bar on standard error.

    Raises
    ------
    ManifestError, EncoderError, StoreError, ImageError, DiskError
        Each with one line that says what, where and what to do.
    """
    _one_of("--on-error", on_error, ("skip", "stop"))
    _one_of("--dtype", dtype, ("float16", "float32"))
    _one_of("--device", device, ("auto", "cpu", "cuda"))
    _one_of("--precision", precision, get_args(Precision))
    for option, number in (("--batch-size", batch_size), ("--workers", workers)):
        if number is not None and number < 1:
            raise InputError(f"{option} must be at least 1, but is {number}.")
    found = find_store(store)
    table = read_manifest(manifest, id=id, image=image, text=text)
    model = load_encoder(encoder, weights=weights, tokens=tokens, device=device, precision=precision)
    wanted, not_encoded = _modalities(table, model, image, text)
    base = default_name(encoder) if name is None else name
    specs = {modality: model.spec(modality, dtype) for modality in wanted}
    for modality, spec in specs.items():
        check_name(f"{base}/{modality}")
        if found is not None:
            found.check_features(f"{base}/{modality}", spec)
    items = {modality: _items(table, modality, workers, on_error, progress) for modality in wanted}
    # Only now, when nothing that can be foreseen stands in the way, is anything written.
    target = Embedded(create_store(store).path, table.n_samples)
    target.not_encoded = not_encoded
    _write_samples(target, table, items)
    for modality in wanted:
        full_name, contents = f"{base}/{modality}", items[modality].contents
        features = target.require_features(full_name, specs[modality], len(contents))
        with progress_bar(f"embed {full_name}", len(contents), show=progress) as update:
            try:
                result = fill(
                    features,
                    model,
                    contents,
                    batch_size=batch_size,
                    workers=workers,
                    stop_on_error=on_error == "stop",
                    retry_failed=retry_failed,
                    progress=update,
                )
            except ImageError as error:
                raise type(error)(f"{error}. {_SKIP}") from error
        target.results[full_name] = result
        failed = _failed_items(features.refresh(), contents)
        target.n_failed_before[full_name] = len(failed) - len(result.failed)
        target.failed[full_name] = items[modality].failed_samples(table.ids, failed)
    return target


_SKIP = "Pass --on-error skip to leave such rows out."


def default_name(encoder: str) -> str:
    """Return a name for an encoder's features.

    Examples
    --------
    >>> default_name("timm:resnet34.a1_in1k"), default_name("open_clip:ViT-B-32/laion2b_s34b_b79k")
    ('resnet34.a1_in1k', 'ViT-B-32-laion2b_s34b_b79k')
    """
    _, _, model = encoder.partition(":")
    model = Path(model).name if model.startswith((".", "/", "~", "local-dir:")) else model
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in model).strip("-._")
    return kept if not encoder.startswith("stub:") else f"stub-{kept}"


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value!r}.{nearest(value, allowed)} There are: {', '.join(allowed)}.")


def _modalities(
    table: Manifest, model: Encoder[object], image: str | None, text: str | None
) -> tuple[list[Modality], dict[Modality, str]]:
    """Return what is to be embedded, and the columns that were named but that the encoder has no use for.

    Naming one is no mistake: it is how a manifest is read in which several columns could hold the texts.
    """
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    asked: dict[Modality, str | None] = {"image": image, "text": text}
    wanted: list[Modality] = [m for m, c in columns.items() if c is not None and m in model.modalities]
    if not wanted:
        can = " and ".join(f"{m}s" for m in sorted(model.modalities))
        raise ManifestError(
            f"{model.name} encodes {can}, but the manifest has no such column. "
            f"Name it with {' or '.join(f'--{m} COLUMN' for m in sorted(model.modalities))}."
        )
    return wanted, {m: c for m, c in asked.items() if c is not None and m not in model.modalities}


@dataclass(frozen=True)
class _Items:
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


def _items(table: Manifest, modality: Modality, workers: int | None, on_error: str, progress: bool) -> _Items:
    """Read every file or text once, for its key."""
    if modality == "text":
        contents, place = unique_texts(table.texts())
        return _Items(contents, _key_column(contents, place, modality), {})
    paths, ids = table.image_paths(), table.ids
    keys: list[bytes | None] = []
    unreadable: dict[str, str] = {}
    key_of = _keys_of_files(sorted({path for path in paths if path is not None}), workers, progress)
    for row, path in enumerate(paths):
        found = None if path is None else key_of[path]
        if isinstance(found, ImageError):
            if on_error == "stop":
                raise type(found)(f"manifest row {row + 1} ({ids[row]!r}): {found}. {_SKIP}")
            unreadable[ids[row]] = str(found)
            found = None
        keys.append(found)
    contents, place = unique_images(paths, keys)
    return _Items(contents, _key_column(contents, place, modality), unreadable)


def _keys_of_files(paths: Sequence[Path], workers: int | None, progress: bool) -> dict[Path, bytes | ImageError]:
    found: dict[Path, bytes | ImageError] = {}
    n_failed = 0
    with (
        ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        progress_bar("read files", len(paths), unit="files", show=progress) as update,
    ):
        for path, key in zip(paths, pool.map(_key_or_error, paths), strict=True):
            found[path] = key
            n_failed += isinstance(key, ImageError)
            if len(found) % 256 == 0 or len(found) == len(paths):
                update(len(found), n_failed)
    return found


def _key_or_error(path: Path) -> bytes | ImageError:
    try:
        return key_of_file(path)
    except ImageError as error:
        return error


def _key_column(contents: Sequence[Content], place: NDArray[np.int64], modality: Modality) -> pl.Series:
    keys = pl.Series(KEY_COLUMNS[modality], [c.key for c in contents], dtype=pl.Binary).bin.encode("hex")
    return keys.gather(pl.Series(place, dtype=pl.Int64).set(pl.Series(place < 0), None))


def _keys(contents: Sequence[Content]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)


def _failed_items(features: Features, contents: Sequence[Content]) -> dict[str, str]:
    """Return why items of this manifest failed, by key as hex."""
    keys = _keys(contents)
    rows = features.rows_of(keys)
    failed = np.isin(rows, np.fromiter(features.failed, np.int64))
    return {
        key: features.failed[row] for key, row in zip(hex_from_keys(keys[failed]), rows[failed].tolist(), strict=True)
    }


def _write_samples(store: Store, table: Manifest, items: Mapping[Modality, _Items]) -> None:
    """Replace the samples; of a modality that this run does not look at, what was known of a row is kept."""
    samples = table.table.drop([c for c in KEY_COLUMNS.values() if c in table.table.columns])
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    unreadable: Mapping[str, str] = {}
    keys = []
    for modality in columns:
        if modality in items:
            keys.append(items[modality].keys)
            unreadable = items[modality].unreadable if modality == "image" else unreadable
            continue
        known = _known_before(store, table, modality)
        if known is None:
            keys.append(pl.Series(KEY_COLUMNS[modality], [None] * table.n_samples, dtype=pl.String))
            continue
        columns[modality], same = known
        keys.append(same[KEY_COLUMNS[modality]])
        if modality == "image":
            still = set(same.filter(pl.col("_known"))["_id"])
            unreadable = {id: why for id, why in store.unreadable.items() if id in still}
    roles = Roles(id=table.id, image=columns["image"], text=columns["text"], root=str(table.root))
    store.write_samples(samples.with_columns(keys), roles, unreadable)


def _known_before(store: Store, table: Manifest, modality: Modality) -> tuple[str, pl.DataFrame] | None:
    """Return the column that holds a modality by the last run that looked at it, and what it found out.

    Rows are known again by their id and an unchanged cell: ``_id``, ``_known`` and the key column, a row for each of
    ``table``. None when nothing is known: no earlier run, another folder that paths start from, or no such column.
    """
    if not store.has_samples():
        return None
    old, roles = store.samples, store.roles
    column = roles.image if modality == "image" else roles.text
    if column is None or column not in table.table.columns or (modality == "image" and roles.root != str(table.root)):
        return None
    id, cell = pl.col(roles.id).cast(pl.String).alias("_id"), pl.col(column).cast(pl.String).alias("_cell")
    known = old.select(id, cell, KEY_COLUMNS[modality], pl.lit(True).alias("_known"))
    rows = pl.DataFrame({"_id": table.ids, "_cell": table.table[column].cast(pl.String)})
    same = rows.join(known, on=["_id", "_cell"], how="left", maintain_order="left")
    return column, same.with_columns(pl.col("_known").fill_null(False))
