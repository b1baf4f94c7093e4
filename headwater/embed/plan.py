"""Plan an embedding run: which items are new, how much space they take, and which errors would stop the run.

Planning reads the manifest, the files and the store, and writes nothing into the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._about import refuse_outcomes
from headwater._checks import one_of
from headwater._progress import Progress, silent
from headwater._shown import Shown
from headwater._words import counted, size
from headwater.embed import Content, Encoder, Shard, keys_of
from headwater.embed.choice import EncoderChoice, Execution
from headwater.embed.encoder import default_name
from headwater.embed.items import SHOWN, Items, failed_items, items_of, refuse_failed
from headwater.embed.known import short_name, warn_of_plain
from headwater.embed.load import load_encoder
from headwater.embed.sample_table import SamplesPlan, plan_samples, refuse_own_keys
from headwater.embed.scale import warn_of_scale
from headwater.errors import DiskError, EncoderError, HeadwaterError, ImageError, InputError, ManifestError
from headwater.sources import Manifest, read_manifest
from headwater.store import (
    FAILED,
    TO_DO,
    FeatureSpec,
    FileIndex,
    Modality,
    Store,
    block_rows,
    check_name,
    find_store,
    is_url,
    store_folder,
)


@dataclass(frozen=True)
class ManifestColumns:
    """The columns of a manifest that hold images, texts and sample ids; None for those that are found by name."""

    image: str | None = None
    text: str | None = None
    id: str | None = None

    def read(self, manifest: str | Path) -> Manifest:
        """Read a manifest by these columns; refuse texts that are outcomes."""
        table = read_manifest(manifest, id=self.id, image=self.image, text=self.text)
        refuse_outcomes(table.about, [] if table.text is None else [table.text], "--text")
        return table


@dataclass(frozen=True)
class Storage:
    """How features are stored.

    Attributes
    ----------
    name
        Name of the features; by default made from the encoder, and from the run in which it was trained.
    dtype
        Storage type of pooled features: ``float16`` or ``float32``.
    tokens_dtype
        Storage type of tokens: ``float16``, ``float32``, ``bfloat16`` (the range of ``float32`` in the space of
        ``float16``) or ``int8`` with one scale per token (half the space); by default that of pooled features.
    """

    name: str | None = None
    dtype: str = "float16"
    tokens_dtype: str | None = None

    def refuse(self, tokens: str) -> None:
        """Raise `InputError` for invalid types."""
        one_of("--dtype", self.dtype, ("float16", "float32"))
        if self.tokens_dtype is not None:
            one_of("--tokens-dtype", self.tokens_dtype, ("int8", "float16", "bfloat16", "float32"))
            if tokens == "none":
                raise InputError("--tokens-dtype needs stored tokens. Pass --tokens all or a number too.")

    def base(self, encoder: EncoderChoice) -> str:
        """Return the part of the features' names before ``/image`` and ``/text``."""
        if self.name is not None:
            return self.name
        return default_name(encoder.spec) + (f"-{_run_name(encoder.adapter)}" if encoder.adapter else "")


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """The plan for one feature set.

    Attributes
    ----------
    name, spec
        Name and spec of the feature set.
    items
        The distinct items of the manifest.
    n_stored, n_failed_before
        Number of items that the store has, and of items that failed in an earlier run and are not retried.
    blocks
        The block of each item to embed, by this process or another, int64, of shape ``(n_to_embed,)``.
    n_without_space
        Number of items to embed whose blocks are not on the disk yet.
    """

    name: str
    spec: FeatureSpec
    items: Items
    n_stored: int
    n_failed_before: int
    blocks: NDArray[np.int64]
    n_without_space: int

    @property
    def n_bytes(self) -> int:
        """Bytes that the items to embed take; ragged tokens, whose number is not known yet, count as one per item."""
        return len(self.blocks) * self.spec.item_bytes

    def line(self, part: Shard | None) -> str:
        """Say how many items are to be embedded, and how much space they take."""
        spec, n = self.spec, len(self.blocks)
        stored = f"{size(self.n_bytes)} to store ({size(spec.item_bytes)} each)"
        if spec.ragged:
            stored = (
                f"{size(spec.item_bytes - spec.token_bytes)} to store for each and {size(spec.token_bytes)} per token"
            )
        share = "" if part is None else f"; {part.has(self.blocks).sum():,} of them in this shard"
        return f"{self.name}: {counted(n, 'item')} to embed, {stored}{share}"


@dataclass(frozen=True, eq=False, repr=False)
class EmbedPlan(Shown):
    """The plan of `headwater.api.embed`, made without writing anything into the store.

    Attributes
    ----------
    location
        Path or URL of the store, whether or not it exists.
    exists
        Whether the store exists.
    table
        The manifest.
    encoder
        The loaded encoder.
    features
        The plan of each feature set, by modality.
    samples
        The plan of the samples table.
    not_encoded
        Named columns that the encoder does not encode, by modality.
    index
        The index of the files that were read.
    part
        The shard of blocks that this process embeds; None for all blocks.
    refusals
        Errors that would stop the run; empty if there are none.
    warnings
        What does not stop the run but may spoil its features, such as images of another scale.
    """

    location: str
    exists: bool
    table: Manifest
    encoder: Encoder[Any]
    features: Mapping[Modality, FeaturePlan]
    samples: SamplesPlan
    not_encoded: Mapping[Modality, str]
    index: FileIndex
    part: Shard | None
    refusals: Sequence[HeadwaterError] = field(default_factory=tuple)
    warnings: Sequence[str] = ()

    @property
    def items(self) -> dict[Modality, Items]:
        """The items of each modality."""
        return {modality: plan.items for modality, plan in self.features.items()}

    def lines(self) -> list[str]:
        """Return the plan in a few lines."""
        out = []
        for plan in self.features.values():
            out.append(plan.line(self.part))
            there = [
                (plan.n_stored, "already stored"),
                (plan.n_failed_before, "failed in an earlier run (--retry-failed retries them)"),
                (len(plan.items.unreadable), "cannot be read"),
            ]
            out += [f"  {n:,} {what}" for n, what in there if n]
            out += [f"    {id}: {why}" for id, why in list(plan.items.unreadable.items())[:SHOWN]]
            spec = plan.spec
            tokens = "" if not spec.has_tokens else f", tokens {spec.n_tokens or 'any number'} x {spec.token_dim}"
            out.append(f"  {short_name(spec.encoder)}, {spec.dim} values in {spec.dtype}{tokens}")
        out += [f"column {column!r} would not be embedded" for column in self.not_encoded.values()]
        changes = self.samples.changes
        out += [] if changes is None else changes.lines()
        what = "" if self.exists else ", which would be created"
        out.append(f"{counted(self.table.n_samples, 'sample')}, in {self.location}{what}")
        out += [f"warning: {line}" for line in self.warnings]
        return [*out, *(f"error: {error}" for error in self.refusals), "nothing was written (--dry-run)"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        changes = self.samples.changes
        return {
            "store": self.location,
            "exists": self.exists,
            "n_samples": self.table.n_samples,
            "changes": None if changes is None else asdict(changes),
            "features": {
                plan.name: {
                    "spec": plan.spec.to_dict(),
                    "n_items": len(plan.items.contents),
                    "n_to_embed": len(plan.blocks),
                    "n_stored": plan.n_stored,
                    "n_failed_before": plan.n_failed_before,
                    "n_bytes": plan.n_bytes,
                    "unreadable": plan.items.unreadable,
                }
                for plan in self.features.values()
            },
            "not_encoded": dict(self.not_encoded),
            "refusals": [str(error) for error in self.refusals],
            "warnings": list(self.warnings),
        }


def plan_embedding(
    manifest: str | Path,
    store: str | Path,
    encoder: EncoderChoice,
    storage: Storage,
    columns: ManifestColumns,
    execution: Execution,
    *,
    progress: Progress = silent,
    collect: bool = False,
    named_by: str | None = None,
) -> EmbedPlan:
    """Compare a manifest with a store, and plan which items to embed.

    Parameters
    ----------
    manifest, store
        Paths of both; the store need not exist.
    encoder, storage, columns, execution
        The options of the run.
    progress
        Receives events.
    collect
        Collect errors that would stop the run in the plan instead of raising the first, and take no lock.
    named_by
        The run that names the encoder, which may come from somebody else; None if the user names it.

    Raises
    ------
    ManifestError, EncoderError, StoreError, ImageError, DiskError, InputError
        When no plan can be made; unless ``collect``, also for errors that would stop the run.
    """
    refusals: list[HeadwaterError] = []

    def require(check: Callable[[], object]) -> None:
        try:
            check()
        except HeadwaterError as error:
            if not collect:
                raise
            refusals.append(error)

    storage.refuse(encoder.tokens)
    execution.refuse()
    there = find_store(store)
    table = columns.read(manifest)
    model = load_encoder(
        encoder,
        device=execution.device,
        precision=execution.precision,
        named_by=named_by,
        batch_size=execution.batch_size,
        probing="unkept" if collect else "once",
    )
    if encoder.image_size is not None and not model.sees_images:
        raise EncoderError(f"{encoder.spec} reads no images. Leave --image-size out.")
    wanted, not_encoded = _modalities(table, model, columns)
    names = {modality: f"{storage.base(encoder)}/{modality}" for modality in wanted}
    geometry = table.tile_geometry() if model.sees_images else None
    tiles = None if geometry is None else geometry.to_dict()
    specs = {m: model.spec(m, storage.dtype).with_tokens_as(storage.tokens_dtype).with_tiles(tiles) for m in wanted}
    alone = execution.part is None and not collect
    for modality, name in names.items():
        check_name(name)
        if there is not None:
            require(partial(there.check_features, name, specs[modality], alone=alone))
    require(partial(refuse_own_keys, table, manifest, there))
    index = FileIndex(store_folder(store))
    known = None if execution.rehash else index
    items = {m: _items(table, m, execution, known, progress, refusals if collect else None) for m in wanted}
    if "pair" in items and not (len(items["pair"].contents) or items["pair"].unreadable):
        raise ManifestError(f"{manifest}: no row has both an image and a text, which {model.name} reads together.")
    if execution.on_error == "stop" and there is not None and not execution.retry_failed:
        for modality, name in names.items():
            if (features := there.find_features(name)) is not None:
                require(partial(refuse_failed, features, items[modality], table, "failed in an earlier run"))
    for modality in wanted:
        require(partial(_require_readable, names[modality], items[modality], collect))
    plans = {m: _feature_plan(there, names[m], specs[m], items[m], execution.retry_failed) for m in wanted}
    if not is_url(store):  # in a cache, old blocks make room
        needed = sum(plan.n_without_space * plan.spec.item_bytes for plan in plans.values())
        require(partial(_require_space, Path(store), needed))
    samples = plan_samples(there, table, items)
    location = str(store) if there is None else there.location
    said = [warn_of_plain(encoder.spec), warn_of_scale(table, encoder.spec) if "image" in wanted else None]
    return EmbedPlan(
        location,
        there is not None,
        table,
        model,
        plans,
        samples,
        not_encoded,
        index,
        execution.part,
        tuple(refusals),
        tuple(filter(None, said)),
    )


def _items(
    table: Manifest,
    modality: Modality,
    execution: Execution,
    index: FileIndex | None,
    progress: Progress,
    refusals: list[HeadwaterError] | None,
) -> Items:
    """Return the items of a modality; if errors are collected, go on after the first unreadable item."""
    try:
        return items_of(table, modality, execution.workers, execution.on_error, progress, index)
    except ImageError as error:
        if refusals is None:
            raise
        refusals.append(error)
        return items_of(table, modality, execution.workers, "skip", progress, index)


def _feature_plan(store: Store | None, name: str, spec: FeatureSpec, items: Items, retry_failed: bool) -> FeaturePlan:
    contents: Sequence[Content] = items.contents
    features = None if store is None else store.find_features(name)
    if features is None:
        blocks = np.arange(len(contents)) // block_rows(spec, len(contents))
        return FeaturePlan(name, spec, items, 0, 0, blocks, len(contents))
    rows = features.rows_of(keys_of(contents))
    new = rows < 0
    rows[new] = features.n_items + np.arange(new.sum())  # as they will be assigned
    status = np.concatenate([features.status, np.full(new.sum(), TO_DO)])[rows]
    to_embed = (status == TO_DO) | ((status == FAILED) & retry_failed)
    blocks = rows[to_embed] // features.block_rows
    there = [block for block, line in features.state.blocks.items() if line.stored]
    n_failed = 0 if retry_failed else len(failed_items(features, contents))
    n_stored = len(contents) - len(blocks) - n_failed
    return FeaturePlan(name, spec, items, n_stored, n_failed, blocks, int((~np.isin(blocks, there)).sum()))


def _require_readable(name: str, items: Items, planning: bool) -> None:
    """Raise in a dry run if no item can be read; a run itself reports this at its end, as it does all failures."""
    if planning and items.unreadable and not len(items.contents):
        id, why = next(iter(items.unreadable.items()))
        raise ImageError(
            f"{name}: none of {counted(len(items.unreadable), 'sample')} can be read, such as {id}: {why}."
        )


def _require_space(path: Path, needed: int) -> None:
    """Raise if the disk is too small; ragged tokens, whose number is not known yet, count as one per item."""
    there = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DiskError(
            f"{path}: the features need {size(needed)}, but the disk has only {size(free)} left. Free some space, or "
            "store fewer tokens (--tokens N), or smaller ones (--tokens-dtype int8)."
        )


def _run_name(adapter: str | Path) -> str:
    """Return the last part of a run's path, with only characters that are allowed in a name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in Path(adapter).resolve().name)
    return kept.strip("-._") or "tuned"


def _modalities(
    table: Manifest, model: Encoder[Any], named: ManifestColumns
) -> tuple[list[Modality], dict[Modality, str]]:
    """Return the modalities to embed, and the columns that are named, or need another pooling, but are not embedded.

    Naming such a column is not an error: it is needed to read a manifest in which several columns could hold the texts.
    """
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    asked: dict[Modality, str | None] = {"image": named.image, "text": named.text}
    if "pooling" in model.choices:  # the pooling may exist only for the other modality
        asked = columns
    if "pair" in model.modalities:
        if None in columns.values():
            raise ManifestError(
                f"{model.name} reads an image and its text together, but the manifest lacks one of the two columns. "
                "Name them with --image COLUMN and --text COLUMN."
            )
        return ["pair"], {}
    wanted: list[Modality] = [m for m, c in columns.items() if c is not None and m in model.modalities]
    if not wanted:
        can = " and ".join(f"{m}s" for m in sorted(model.modalities))
        raise ManifestError(
            f"{model.name} encodes {can}, but the manifest has no such column. "
            f"Name it with {' or '.join(f'--{m} COLUMN' for m in sorted(model.modalities))}."
        )
    return wanted, {m: c for m, c in asked.items() if c is not None and m not in model.modalities}
