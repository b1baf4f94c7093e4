"""embed: from a manifest to stored features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from headwater.api._items import SHOWN, SKIP, failed_items, items_of, refuse_failed
from headwater.api._lines import counted
from headwater.api._listing import refuse_own_keys, write_samples
from headwater.api._progress import progress_bar
from headwater.embed import (
    EmbedResult,
    Encoder,
    Precision,
    fill,
    load_encoder,
)
from headwater.errors import ImageError, InputError, ManifestError, nearest
from headwater.sources import Manifest, read_manifest
from headwater.store import (
    Modality,
    Store,
    check_name,
    create_store,
    find_store,
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
    n_unlisted
        Samples of an earlier manifest that this one, which took its place, does not list.
    """

    def __init__(self, path: Path, n_samples: int) -> None:
        super().__init__(path)
        self.n_samples = n_samples
        self.results: dict[str, EmbedResult] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.n_failed_before: dict[str, int] = {}
        self.not_encoded: dict[Modality, str] = {}
        self.n_unlisted = 0

    @property
    def n_failed(self) -> int:
        """Samples without features because they could not be read or encoded."""
        return len({id for failed in self.failed.values() for id in failed})

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
        counts = {"n_samples": self.n_samples, "n_unlisted": self.n_unlisted}
        return {"store": str(self.path), **counts, "features": features}

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
            if result.cut:
                out.append(f"  {counted(result.cut, 'text')} cut short, being longer than the encoder reads")
            if before:
                out.append(f"  {counted(before, 'item')} failed in an earlier run: --retry-failed tries again")
        out += [
            f"column {column!r} was left alone: its {m}s need another encoder" for m, column in self.not_encoded.items()
        ]
        if self.n_unlisted:
            are = "is" if self.n_unlisted == 1 else "are"
            out.append(
                f"{counted(self.n_unlisted, 'earlier sample')} {are} no longer listed: this manifest took the place of "
                "the one before (what was embedded is kept)"
            )
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
    layer: str | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    dtype: str = "float16",
    precision: Precision = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
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
    layer, pooling, prompt
        What of the encoder is stored, where it leaves a choice; see `headwater.embed.load_encoder`.
    dtype
        Stored type, ``float16`` or ``float32``.
    trust_remote_code
        Let transformers run code that comes with a model; it runs with all rights of the user's.
    precision, device, batch_size, workers
        How to compute; without influence on what the features mean.
    on_error
        ``skip`` records an item that cannot be read as failed and goes on; ``stop`` raises, also for one that failed
        in an earlier run and is not tried again.
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
    model = load_encoder(
        encoder,
        weights=weights,
        tokens=tokens,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        device=device,
        precision=precision,
        trust_remote_code=trust_remote_code,
    )
    wanted, not_encoded = _modalities(table, model, image, text)
    base = default_name(encoder) if name is None else name
    specs = {modality: model.spec(modality, dtype) for modality in wanted}
    for modality, spec in specs.items():
        check_name(f"{base}/{modality}")
        if found is not None:
            found.check_features(f"{base}/{modality}", spec)
    refuse_own_keys(table, manifest, found)
    items = {modality: items_of(table, modality, workers, on_error, progress) for modality in wanted}
    if on_error == "stop" and found is not None and not retry_failed:
        for modality in wanted:
            if (full_name := f"{base}/{modality}") in found.feature_names():
                refuse_failed(found.features(full_name), items[modality], table, "failed in an earlier run")
    # Only now, when nothing that can be foreseen stands in the way, is anything written.
    target = Embedded(create_store(store).path, table.n_samples)
    target.not_encoded = not_encoded
    with target.changing():
        target.n_unlisted = write_samples(target, table, items)
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
                raise type(error)(f"{error}. {SKIP}") from error
        target.results[full_name] = result
        features = features.refresh()
        if on_error == "stop":  # an item that could be read, but not be stored
            refuse_failed(features, items[modality], table, "failed")
        failed = failed_items(features, contents)
        target.n_failed_before[full_name] = len(failed) - len(result.failed)
        target.failed[full_name] = items[modality].failed_samples(table.ids, failed)
    return target


def default_name(encoder: str) -> str:
    """Return a name for an encoder's features.

    Examples
    --------
    >>> default_name("timm:resnet34.a1_in1k"), default_name("open_clip:ViT-B-32/laion2b_s34b_b79k")
    ('resnet34.a1_in1k', 'ViT-B-32-laion2b_s34b_b79k')
    """
    backend, _, model = encoder.partition(":")
    model = model.rpartition(":")[2] if backend == "python" else model
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
