"""embed: from a manifest to stored features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
from headwater.errors import ImageError, InputError, ManifestError
from headwater.sources import Manifest, read_manifest
from headwater.store import KEY_COLUMNS, Modality, Roles, Store, create_store, hex_from_keys


class Embedded(Store):
    """A store, and what the run that filled it did.

    Attributes
    ----------
    n_samples
        Rows of the manifest.
    results
        For each feature set, what its run did.
    unreadable
        Samples whose file could not be read at all, and why.
    """

    def __init__(self, path: Path, n_samples: int) -> None:
        super().__init__(path)
        self.n_samples = n_samples
        self.results: dict[str, EmbedResult] = {}
        self.unreadable: list[tuple[str, str]] = []

    @property
    def n_failed(self) -> int:
        """Items that have no features because they could not be read or encoded."""
        return len(self.unreadable) + sum(len(result.failed) for result in self.results.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "store": str(self.path),
            "n_samples": self.n_samples,
            "features": {
                name: {"embedded": r.embedded, "kept": r.kept, "failed": {str(c.source): why for c, why in r.failed}}
                for name, r in self.results.items()
            },
            "unreadable": dict(self.unreadable),
        }

    def lines(self) -> list[str]:
        """Say in a few lines what was done, what was skipped and where the result is."""
        out = []
        for name, result in self.results.items():
            kept = f", {result.kept:,} there already" if result.kept else ""
            failed = f", {len(result.failed):,} failed" if result.failed else ""
            out.append(f"{name}: {result.embedded:,} items embedded{kept}{failed}")
        problems = self.unreadable + [
            (str(content.source), why) for result in self.results.values() for content, why in result.failed
        ]
        out += [f"  failed: {why if where in why else f'{where}: {why}'}" for where, why in problems[:5]]
        if len(problems) > 5:
            out.append(f"  … and {len(problems) - 5:,} more: headwater info {self.path} --failed")
        out.append(f"{self.n_samples:,} samples in {self.path}")
        return out


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
    if on_error not in ("skip", "stop"):
        raise InputError(f"--on-error must be skip or stop, but is {on_error!r}.")
    if dtype not in ("float16", "float32"):
        raise InputError(f"--dtype must be float16 or float32, but is {dtype!r}.")
    table = read_manifest(manifest, id=id, image=image, text=text)
    model = load_encoder(encoder, weights=weights, tokens=tokens, device=device, precision=precision)
    wanted = _modalities(table, model, image, text)
    target = Embedded(create_store(store).path, table.n_samples)
    contents, keys = {}, {}
    for modality in wanted:
        contents[modality], keys[modality], unreadable = _contents(table, modality, workers, on_error, progress)
        target.unreadable += unreadable
    _write_samples(target, table, keys)
    for modality in wanted:
        full_name = f"{name or default_name(encoder)}/{modality}"
        features = target.require_features(full_name, model.spec(modality, dtype), len(contents[modality]))
        with progress_bar(f"embed {full_name}", len(contents[modality]), show=progress) as update:
            target.results[full_name] = fill(
                features,
                model,
                contents[modality],
                batch_size=batch_size,
                workers=workers,
                stop_on_error=on_error == "stop",
                retry_failed=retry_failed,
                progress=update,
            )
    return target


def default_name(encoder: str) -> str:
    """Return a name for an encoder's features.

    Examples
    --------
    >>> default_name("timm:resnet34.a1_in1k"), default_name("open_clip:ViT-B-32/laion2b_s34b_b79k")
    ('resnet34.a1_in1k', 'ViT-B-32-laion2b_s34b_b79k')
    """
    _, _, model = encoder.partition(":")
    model = Path(model).name if model.startswith((".", "/", "~", "local-dir:")) else model
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in model).strip("-._")
    return kept if not encoder.startswith("stub:") else f"stub-{kept}"


def _modalities(table: Manifest, model: Encoder[object], image: str | None, text: str | None) -> list[Modality]:
    """Return what is to be embedded: what the manifest has and the encoder can, in a fixed order."""
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    asked: dict[Modality, str | None] = {"image": image, "text": text}
    for modality, column in asked.items():
        if column is not None and modality not in model.modalities:
            raise InputError(f"{model.name} cannot encode {modality}s: leave --{modality} {column} out.")
    wanted: list[Modality] = [m for m, c in columns.items() if c is not None and m in model.modalities]
    if not wanted:
        can = " and ".join(f"{m}s" for m in sorted(model.modalities))
        raise ManifestError(
            f"{model.name} encodes {can}, but the manifest has no such column. "
            f"Name it with {' or '.join(f'--{m} COLUMN' for m in sorted(model.modalities))}."
        )
    return wanted


def _contents(
    table: Manifest, modality: Modality, workers: int | None, on_error: str, progress: bool
) -> tuple[list[Content], pl.Series, list[tuple[str, str]]]:
    """Return the distinct items, each row's key as hex or null, and the rows whose file could not be read."""
    if modality == "text":
        contents, place = unique_texts(table.texts())
        return contents, _key_column(contents, place, modality), []
    paths, ids = table.image_paths(), table.ids
    keys: list[bytes | None] = []
    unreadable: list[tuple[str, str]] = []
    distinct = sorted({path for path in paths if path is not None})
    with (
        ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        progress_bar("read files", len(distinct), unit="files", show=progress) as update,
    ):
        key_of: dict[Path, bytes | ImageError] = {}
        for file, key in zip(distinct, pool.map(_key_or_error, distinct), strict=True):
            key_of[file] = key
            if len(key_of) % 256 == 0 or len(key_of) == len(distinct):
                update(len(key_of), 0)
    for row, path in enumerate(paths):
        found = None if path is None else key_of[path]
        if isinstance(found, ImageError):
            error = f"manifest row {row + 1} ({ids[row]!r}): {found}"
            if on_error == "stop":
                raise type(found)(f"{error}. Pass --on-error skip to leave such rows out.")
            unreadable.append((ids[row], error))
            found = None
        keys.append(found)
    contents, place = unique_images(paths, keys)
    return contents, _key_column(contents, place, modality), unreadable


def _key_or_error(path: Path) -> bytes | ImageError:
    try:
        return key_of_file(path)
    except ImageError as error:
        return error


def _key_column(contents: Sequence[Content], place: NDArray[np.int64], modality: Modality) -> pl.Series:
    keys = np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)
    names = np.array([*hex_from_keys(keys), None], object)  # place -1 is the last: none
    return pl.Series(KEY_COLUMNS[modality], names[place], dtype=pl.String)


def _write_samples(store: Store, table: Manifest, keys: dict[Modality, pl.Series]) -> None:
    """Replace the samples; a key of a modality that this run did not look at is kept where its cell is the same."""
    samples = table.table.drop([c for c in KEY_COLUMNS.values() if c in table.table.columns])
    roles = Roles(id=table.id, image=table.image, text=table.text, root=str(table.root))
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    for modality, column in columns.items():
        key_column = KEY_COLUMNS[modality]
        found = keys[modality] if modality in keys else _earlier_keys(store, table, column, key_column)
        samples = samples.with_columns(found.alias(key_column))
    store.write_samples(samples, roles)


def _earlier_keys(store: Store, table: Manifest, column: str | None, key_column: str) -> pl.Series:
    nothing = pl.Series(key_column, [None] * table.n_samples, dtype=pl.String)
    if column is None or not store.has_samples():
        return nothing
    old = store.samples
    if column not in old.columns or store.roles.id not in old.columns:
        return nothing
    known = old.select(pl.col(store.roles.id).cast(pl.String).alias("_id"), pl.col(column).alias("_cell"), key_column)
    rows = pl.DataFrame({"_id": table.ids, "_cell": table.table[column]})
    return rows.join(known, on=["_id", "_cell"], how="left", maintain_order="left")[key_column]
