"""embed: from a manifest to stored features."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from headwater._devices import Precision, resolve_device
from headwater._extras import need
from headwater._progress import note, progress_bar
from headwater._words import counted, size
from headwater.embed import Content, EmbedResult, Encoder, Shard, fill, keys_of, load_encoder
from headwater.embed.constant_features import warn_of_alike
from headwater.embed.encoder import default_name
from headwater.embed.items import SHOWN, SKIP, failed_items, items_of, refuse_failed
from headwater.embed.sample_table import Changes, refuse_own_keys, write_samples
from headwater.errors import DiskError, EncoderError, ImageError, InputError, ManifestError, nearest
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
    create_store,
    find_store,
    is_url,
    store_folder,
)


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
    alike
        For each feature set whose items are nearly the same, a warning that says so.
    changes
        How this manifest differs from the one before, which it took the place of; None where there was none.
    """

    def __init__(self, path: Path, n_samples: int) -> None:
        super().__init__(path)
        self.n_samples = n_samples
        self.results: dict[str, EmbedResult] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.n_failed_before: dict[str, int] = {}
        self.not_encoded: dict[Modality, str] = {}
        self.alike: dict[str, str] = {}
        self.changes: Changes | None = None

    @property
    def n_failed(self) -> int:
        """Samples without features because they could not be read or encoded."""
        return len({id for failed in self.failed.values() for id in failed})

    @property
    def failed_whole(self) -> list[str]:
        """Feature sets that hold nothing of this manifest, since all that was to be read or encoded failed."""
        return [
            name
            for name, r in self.results.items()
            if self.failed[name] and not (r.embedded or r.left or r.kept > self.n_failed_before[name])
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        features = {
            name: {
                "embedded": r.embedded,
                "kept": r.kept - self.n_failed_before[name],
                "cut": r.cut,
                "failed": self.failed[name],
            }
            for name, r in self.results.items()
        }
        changes = None if self.changes is None else asdict(self.changes)
        counts = {"n_samples": self.n_samples, "changes": changes}
        return {"store": self.location, **counts, "features": features, "warnings": list(self.alike.values())}

    def lines(self) -> list[str]:
        """Say in a few lines what was done, what was skipped and where the result is."""
        out = []
        for name, result in self.results.items():
            failed, before = self.failed[name], self.n_failed_before[name]
            parts = [f"{counted(result.embedded, 'item')} embedded"]
            parts += [f"{result.kept - before:,} there already"] if result.kept > before else []
            parts += [f"{counted(len(failed), 'sample')} failed"] if failed else []
            parts += [f"{result.left:,} left to other shards"] if result.left else []
            out.append(f"{name}: {', '.join(parts)}")
            out += [f"  {id}: {why}" for id, why in list(failed.items())[:SHOWN]]
            if len(failed) > SHOWN:
                out.append(f"  … and {len(failed) - SHOWN:,} more: headwater info {self.location} --failed")
            if result.cut:
                out.append(f"  {counted(result.cut, 'text')} cut short, being longer than the encoder reads")
            if before:
                out.append(f"  {counted(before, 'item')} failed in an earlier run: --retry-failed tries again")
        out += [f"warning: {line}" for line in self.alike.values()]
        out += [
            f"column {column!r} was left alone: its {m}s need another encoder or pooling"
            for m, column in self.not_encoded.items()
        ]
        if self.changes is not None:
            out += self.changes.lines()
        without = f", {self.n_failed:,} of them without features" if self.n_failed else ""
        return [*out, f"{counted(self.n_samples, 'sample')}{without}, in {self.location}"]


def embed(
    manifest: str | Path,
    store: str | Path,
    *,
    encoder: str,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    name: str | None = None,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    tokens: str = "none",
    layer: str | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    image_size: str | None = None,
    dtype: str = "float16",
    tokens_dtype: str | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    batch_size: int = 32,
    workers: int | None = None,
    on_error: str = "skip",
    retry_failed: bool = False,
    rehash: bool = False,
    steps: Sequence[str] = (),
    shard: str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: bool = False,
) -> Embedded:
    """Run an encoder once over the images and texts of a manifest, and store what it makes of them.

    Run again, it does what is left. Nothing is embedded twice: an item is known by its content.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder with one subfolder a class.
    store
        Where the store is or is to be, a folder or a URL such as ``s3://bucket/lung.hw``.
    encoder
        See `headwater.embed.load_encoder`.
    weights
        A local state dict to use in place of the named weights.
    adapter
        A run of `fine_tune`: what it trained is put on top of the weights.
    name
        What to call the features; made from the encoder when left out, and from the run where there is one.
    image, text, id
        Columns of the manifest; found by name when left out.
    tokens
        ``none``, ``all``, or a number to pool tokens to.
    layer, pooling, prompt, image_size
        What of the encoder is stored, and of images of which size, where it leaves a choice; see
        `headwater.embed.load_encoder`.
    dtype
        Stored type, ``float16`` or ``float32``.
    tokens_dtype
        Stored type of tokens: ``float16``, ``float32``, ``bfloat16``, which has the range of ``float32`` in the space
        of ``float16``, or ``int8`` with a scale a token, which takes half of that; that of the pooled features when
        left out.
    trust_remote_code
        Let transformers run code that comes with a model; it runs with all rights of the user's.
    precision, device, batch_size, workers
        How to compute; without influence on what the features mean.
    on_error
        ``skip`` records an item that cannot be read as failed and goes on; ``stop`` raises, also for one that failed
        in an earlier run and is not tried again.
    retry_failed
        Try items again that failed before.
    rehash
        Read files again whose size, time of change and inode are those of the last time.
    steps
        What is done to an image before the encoder's own preprocessing, in that order; see
        `headwater.sources.steps.parse_steps`.
    shard
        ``I/N``: make the part ``I`` (from 0) of ``N`` of the blocks, beside other processes that make the others.
    engine
        ``local``, or ``ray`` for the workers of a Ray cluster, ``workers`` of them.
    ray_address
        Of a running cluster; without it one is started on this machine.
    progress
        Show a progress bar on standard error.

    Raises
    ------
    ManifestError, EncoderError, StoreError, ImageError, DiskError
        Each with one line that says what, where and what to do.
    """
    _one_of("--on-error", on_error, ("skip", "stop"))
    _one_of("--dtype", dtype, ("float16", "float32"))
    if tokens_dtype is not None:
        _one_of("--tokens-dtype", tokens_dtype, ("int8", "float16", "bfloat16", "float32"))
        if tokens == "none":
            raise InputError("--tokens-dtype is about tokens, and none are stored: pass --tokens all or a number.")
    _one_of("--device", device, ("auto", "cpu", "cuda"))
    _one_of("--precision", precision, get_args(Precision))
    _one_of("--engine", engine, ("local", "ray"))
    part = None if shard is None else _parse_shard(shard)
    if engine == "ray":
        need("ray", "ray")
        if part is not None:
            raise InputError("--shard goes without --engine ray, which divides blocks itself.")
    for option, number in (("--batch-size", batch_size), ("--workers", workers)):
        if number is not None and number < 1:
            raise InputError(f"{option} must be at least 1, but is {number}.")
    found = find_store(store)
    table = read_manifest(manifest, id=id, image=image, text=text)
    model = load_encoder(
        encoder,
        weights=weights,
        adapter=adapter,
        tokens=tokens,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        image_size=image_size,
        device=device,
        precision=precision,
        trust_remote_code=trust_remote_code,
        steps=steps,
        batch_size=batch_size,
    )
    if image_size is not None and not model.sees_images:
        raise EncoderError(f"{encoder} sees no images: leave --image-size out.")
    wanted, not_encoded = _modalities(table, model, image, text)
    base = name if name is not None else default_name(encoder) + (f"-{_run_name(adapter)}" if adapter else "")
    specs = {modality: model.spec(modality, dtype).with_tokens_as(tokens_dtype) for modality in wanted}
    for modality, spec in specs.items():
        check_name(f"{base}/{modality}")
        if found is not None:
            found.check_features(f"{base}/{modality}", spec, alone=part is None)
    refuse_own_keys(table, manifest, found)
    index = FileIndex(store_folder(store))
    known = None if rehash else index
    items = {modality: items_of(table, modality, workers, on_error, progress, known) for modality in wanted}
    if "pair" in items and not (len(items["pair"].contents) or items["pair"].unreadable):
        raise ManifestError(f"{manifest}: no row has both an image and a text, which {model.name} reads together.")
    if on_error == "stop" and found is not None and not retry_failed:
        for modality in wanted:
            if (stored := found.find_features(f"{base}/{modality}")) is not None:
                refuse_failed(stored, items[modality], table, "failed in an earlier run")
    to_do = {m: _to_do(found, f"{base}/{m}", specs[m], items[m].contents, retry_failed) for m in wanted}
    if not is_url(store):  # of the cache, old blocks make room
        _require_space(Path(store), sum(to_do[m].n_without_space * specs[m].item_bytes for m in wanted))
    for modality in wanted:
        told = _estimate(f"{base}/{modality}", specs[modality], to_do[modality].blocks, part)
        note(told, show=progress and len(to_do[modality].blocks) > 0)
    # Only now, when nothing that can be foreseen stands in the way, is anything written.
    target = Embedded(create_store(store).path, table.n_samples)
    target.not_encoded = not_encoded
    with target.changing():
        target.changes = write_samples(target, table, items)
        index.save()
    by_ray = None
    if engine == "ray":
        from headwater.embed.by_ray import RayEngine, Recipe

        state, tuned = (None if file is None else str(Path(file).resolve()) for file in (weights, adapter))
        where = resolve_device(device) if "torch" in model.environment() else "cpu"
        chosen = (layer, pooling, prompt, image_size, trust_remote_code, tuple(steps))
        recipe = Recipe(encoder, state, tuned, tokens, where, precision, *chosen)
        by_ray = RayEngine(recipe, ray_address, workers, batch_size)
    for modality in wanted:
        full_name, contents = f"{base}/{modality}", items[modality].contents
        features = target.require_features(full_name, specs[modality], len(contents), alone=part is None)
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
                    shard=part,
                    engine=by_ray,
                    progress=update,
                )
            except ImageError as error:
                raise type(error)(f"{error}. {SKIP}") from error
        target.results[full_name] = result
        features = features.refresh()
        if on_error == "stop":  # an item that could be read, but not be stored
            refuse_failed(features, items[modality], table, "failed")
        failed = failed_items(features, contents)
        target.n_failed_before[full_name] = len(failed) - len(result.failed)
        target.failed[full_name] = items[modality].failed_samples(table.ids, failed)
        if result.embedded and (line := warn_of_alike(features, model, contents)) is not None:
            target.alike[full_name] = line
    return target


@dataclass(frozen=True, eq=False)
class _ToDo:
    """What is still to be embedded, by this process or another.

    Attributes
    ----------
    blocks
        The block of each item, int64, of shape ``(n,)``.
    n_without_space
        Items whose blocks are not on the disk yet.
    """

    blocks: NDArray[np.int64]
    n_without_space: int


def _to_do(store: Store | None, name: str, spec: FeatureSpec, contents: Sequence[Content], retry_failed: bool) -> _ToDo:
    features = None if store is None else store.find_features(name)
    if features is None:
        return _ToDo(np.arange(len(contents)) // block_rows(spec, len(contents)), len(contents))
    rows = features.rows_of(keys_of(contents))
    new = rows < 0
    rows[new] = features.n_items + np.arange(new.sum())  # as they will be given out
    status = np.concatenate([features.status, np.full(new.sum(), TO_DO)])[rows]
    blocks = rows[(status == TO_DO) | ((status == FAILED) & retry_failed)] // features.block_rows
    there = [block for block, line in features.state.blocks.items() if line.stored]
    return _ToDo(blocks, int((~np.isin(blocks, there)).sum()))


def _estimate(name: str, spec: FeatureSpec, blocks: NDArray[np.int64], part: Shard | None = None) -> str:
    """Say what the items to be embedded, by the block of each, will take in a store."""
    stored = f"{size(len(blocks) * spec.item_bytes)} to store ({size(spec.item_bytes)} each)"
    if spec.ragged:
        stored = f"to store {size(spec.item_bytes - spec.token_bytes)} each and {size(spec.token_bytes)} a token"
    share = "" if part is None else f"; {part.has(blocks).sum():,} of them by this shard"
    return f"{name}: {counted(len(blocks), 'item')} to embed, {stored}{share}"


def _require_space(path: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for; of ragged tokens, not counted yet, it takes one."""
    there = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DiskError(
            f"{path}: {size(needed)} of features are to be stored, and the disk has {size(free)} left. Free some "
            "space, or store fewer tokens (--tokens N), or smaller ones (--tokens-dtype int8)."
        )


def _parse_shard(text: str) -> Shard:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise InputError(f"--shard {text!r}: write I/N, with I from 0 to N - 1, such as 0/8.")
    return Shard(int(index), int(count))


def _run_name(adapter: str | Path) -> str:
    """Return the last part of a run's path, as it may stand in a name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in Path(adapter).resolve().name)
    return kept.strip("-._") or "tuned"


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value!r}.{nearest(value, allowed)} There are: {', '.join(allowed)}.")


def _modalities(
    table: Manifest, model: Encoder[object], image: str | None, text: str | None
) -> tuple[list[Modality], dict[Modality, str]]:
    """Return what is to be embedded, and the columns that were named, or need another pooling, and are left alone.

    Naming one is no mistake: it is how a manifest is read in which several columns could hold the texts.
    """
    columns: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    asked: dict[Modality, str | None] = {"image": image, "text": text}
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
