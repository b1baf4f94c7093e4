"""What embedding a manifest would do: which items are new, what they take, and what stands in the way.

A plan reads the manifest, the files and the store, and writes nothing into the store.
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

from headwater._progress import Progress, silent
from headwater._shown import Shown
from headwater._words import counted, size
from headwater.embed import Content, Encoder, Shard, keys_of
from headwater.embed.choice import EncoderChoice, Execution, one_of
from headwater.embed.encoder import default_name
from headwater.embed.items import Items, failed_items, items_of, refuse_failed
from headwater.embed.load import load_encoder
from headwater.embed.sample_table import SamplesPlan, plan_samples, refuse_own_keys
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
        """Read a manifest by these columns."""
        return read_manifest(manifest, id=self.id, image=self.image, text=self.text)


@dataclass(frozen=True)
class Storage:
    """How features are stored.

    Attributes
    ----------
    name
        What the features are called; made from the encoder, and from the run it was trained in, when left out.
    dtype
        Storage type of pooled features: ``float16`` or ``float32``.
    tokens_dtype
        Storage type of tokens: ``float16``, ``float32``, ``bfloat16`` (the range of ``float32`` in the space of
        ``float16``) or ``int8`` with a scale a token (half of that); that of the pooled features when left out.
    """

    name: str | None = None
    dtype: str = "float16"
    tokens_dtype: str | None = None

    def refuse(self, tokens: str) -> None:
        """Raise `InputError` for types that there are not."""
        one_of("--dtype", self.dtype, ("float16", "float32"))
        if self.tokens_dtype is not None:
            one_of("--tokens-dtype", self.tokens_dtype, ("int8", "float16", "bfloat16", "float32"))
            if tokens == "none":
                raise InputError("--tokens-dtype is about tokens, and none are stored: pass --tokens all or a number.")

    def base(self, encoder: EncoderChoice) -> str:
        """Return what comes before ``/image`` and ``/text`` in the features' names."""
        if self.name is not None:
            return self.name
        return default_name(encoder.spec) + (f"-{_run_name(encoder.adapter)}" if encoder.adapter else "")


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """What is to be done for one feature set.

    Attributes
    ----------
    name, spec
        Of the feature set.
    items
        What is distinct in the manifest's images or texts.
    n_stored, n_failed_before
        Number of items that the store has, and of those that failed in an earlier run and are not tried again.
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
        """Bytes that the items to embed take; ragged tokens, not counted yet, as one token each."""
        return len(self.blocks) * self.spec.item_bytes

    def line(self, part: Shard | None) -> str:
        """Say what is to be embedded, and how much space it takes."""
        spec, n = self.spec, len(self.blocks)
        stored = f"{size(self.n_bytes)} to store ({size(spec.item_bytes)} each)"
        if spec.ragged:
            stored = f"to store {size(spec.item_bytes - spec.token_bytes)} each and {size(spec.token_bytes)} a token"
        share = "" if part is None else f"; {part.has(self.blocks).sum():,} of them by this shard"
        return f"{self.name}: {counted(n, 'item')} to embed, {stored}{share}"


@dataclass(frozen=True, eq=False, repr=False)
class EmbedPlan(Shown):
    """What `headwater.api.embed` would do; made without writing anything into the store.

    Attributes
    ----------
    location
        Where the store is, or is to be.
    exists
        Whether it is there.
    table
        The manifest.
    encoder
        The encoder, loaded.
    features
        The plan of each feature set, by modality.
    samples
        The samples table that the store is to have.
    not_encoded
        Columns that are named but that the encoder has no use for, by modality.
    index
        What is known of the files that were read.
    part
        The share of the blocks that this process makes; None for all.
    refusals
        Why the run would be refused; empty where nothing stands in the way.
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

    @property
    def items(self) -> dict[Modality, Items]:
        """The items of each modality."""
        return {modality: plan.items for modality, plan in self.features.items()}

    def lines(self) -> list[str]:
        """Say in a few lines what would be done."""
        out = []
        for plan in self.features.values():
            out.append(plan.line(self.part))
            there = [
                (plan.n_stored, "stored already"),
                (plan.n_failed_before, "failed in an earlier run (--retry-failed tries them again)"),
                (len(plan.items.unreadable), "of samples cannot be read"),
            ]
            out += [f"  {n:,} {what}" for n, what in there if n]
            spec = plan.spec
            tokens = "" if not spec.has_tokens else f", tokens {spec.n_tokens or 'of any number'} x {spec.token_dim}"
            out.append(f"  {spec.encoder}, {spec.dim} values in {spec.dtype}{tokens}")
        out += [f"column {column!r} would be left alone" for column in self.not_encoded.values()]
        changes = self.samples.changes
        out += [] if changes is None else changes.lines()
        what = "" if self.exists else ", which would be made"
        out.append(f"{counted(self.table.n_samples, 'sample')}, in {self.location}{what}")
        return [*out, *(f"refused: {error}" for error in self.refusals), "nothing was written (--dry-run)"]

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
) -> EmbedPlan:
    """Read a manifest and what a store has of it, and plan what is left to do.

    Parameters
    ----------
    manifest, store
        Where both are; the store need not be there.
    encoder, storage, columns, execution
        What is embedded, by what, and how.
    progress
        Where events go.
    collect
        Keep refusals in the plan instead of raising the first, and take no lock.

    Raises
    ------
    ManifestError, EncoderError, StoreError, ImageError, DiskError, InputError
        For what cannot be planned; unless ``collect``, also for what stands in the way.
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
        batch_size=execution.batch_size,
        probing="unkept" if collect else "once",
    )
    if encoder.image_size is not None and not model.sees_images:
        raise EncoderError(f"{encoder.spec} sees no images: leave --image-size out.")
    wanted, not_encoded = _modalities(table, model, columns)
    names = {modality: f"{storage.base(encoder)}/{modality}" for modality in wanted}
    specs = {m: model.spec(m, storage.dtype).with_tokens_as(storage.tokens_dtype) for m in wanted}
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
    plans = {m: _feature_plan(there, names[m], specs[m], items[m], execution.retry_failed) for m in wanted}
    if not is_url(store):  # in a cache, old blocks make room
        needed = sum(plan.n_without_space * plan.spec.item_bytes for plan in plans.values())
        require(partial(_require_space, Path(store), needed))
    samples = plan_samples(there, table, items)
    location = str(store) if there is None else there.location
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
    )


def _items(
    table: Manifest,
    modality: Modality,
    execution: Execution,
    index: FileIndex | None,
    progress: Progress,
    refusals: list[HeadwaterError] | None,
) -> Items:
    """Return the items of a modality; where refusals are collected, also when the first unreadable one is refused."""
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
    rows[new] = features.n_items + np.arange(new.sum())  # as they will be given out
    status = np.concatenate([features.status, np.full(new.sum(), TO_DO)])[rows]
    to_embed = (status == TO_DO) | ((status == FAILED) & retry_failed)
    blocks = rows[to_embed] // features.block_rows
    there = [block for block, line in features.state.blocks.items() if line.stored]
    n_failed = 0 if retry_failed else len(failed_items(features, contents))
    n_stored = len(contents) - len(blocks) - n_failed
    return FeaturePlan(name, spec, items, n_stored, n_failed, blocks, int((~np.isin(blocks, there)).sum()))


def _require_space(path: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for; of ragged tokens, not counted yet, it takes one."""
    there = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DiskError(
            f"{path}: {size(needed)} of features are to be stored, and the disk has {size(free)} left. Free some "
            "space, or store fewer tokens (--tokens N), or smaller ones (--tokens-dtype int8)."
        )


def _run_name(adapter: str | Path) -> str:
    """Return the last part of a run's path, as it may stand in a name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in Path(adapter).resolve().name)
    return kept.strip("-._") or "tuned"


def _modalities(
    table: Manifest, model: Encoder[Any], named: ManifestColumns
) -> tuple[list[Modality], dict[Modality, str]]:
    """Return what is to be embedded, and the columns that were named, or need another pooling, and are left alone.

    Naming one is no mistake: it is how a manifest is read in which several columns could hold the texts.
    """
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    asked: dict[Modality, str | None] = {"image": named.image, "text": named.text}
    if "pooling" in model.choices:  # which may be one that only the other side has
        asked = columns
    if "pair" in model.modalities:
        if None in columns.values():
            raise ManifestError(
                f"{model.name} reads an image and its text together, but the manifest lacks one of both columns. Name "
                "them with --image COLUMN and --text COLUMN."
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
