"""embed: encode the samples of a manifest, and store the features."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, overload

from headwater._devices import resolve_device
from headwater._options import with_options
from headwater._progress import Progress, counting, progress_to
from headwater._words import counted
from headwater.embed import EmbedResult, Encoder, fill
from headwater.embed.choice import EncoderChoice, Execution, encoder_choice
from headwater.embed.constant_features import warn_of_alike
from headwater.embed.feed import require_feed
from headwater.embed.items import SHOWN, SKIP, failed_items, refuse_failed
from headwater.embed.large_images import warn_of_large
from headwater.embed.plan import EmbedPlan, FeaturePlan, ManifestColumns, Storage, plan_embedding
from headwater.embed.run import Engine
from headwater.embed.sample_table import Changes, plan_samples
from headwater.errors import ImageError
from headwater.store import Modality, Store, create_store

LONG = 5.0  # seconds of a run, from which it says where they went


class Embedded(Store):
    """A store, and the result of the run that filled it.

    Attributes
    ----------
    n_samples
        Rows of the manifest.
    results
        The result for each feature set.
    failed
        For each feature set, why samples of the manifest have no features, by sample id; includes samples that failed
        in an earlier run and were not retried.
    n_failed_before
        For each feature set, how many items failed in an earlier run.
    not_encoded
        Columns that were named but that the encoder does not read, by modality.
    alike
        A warning for each feature set whose vectors are nearly all the same.
    warnings
        What may spoil the features of this manifest, such as images of another scale.
    large
        A warning for each feature set of images that are far larger than what the encoder sees.
    changes
        How this manifest differs from the previous one, which it replaces; None if there was none.
    """

    def __init__(self, path: Path, n_samples: int) -> None:
        super().__init__(path)
        self.n_samples = n_samples
        self.results: dict[str, EmbedResult] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.n_failed_before: dict[str, int] = {}
        self.not_encoded: dict[Modality, str] = {}
        self.alike: dict[str, str] = {}
        self.warnings: list[str] = []
        self.large: dict[str, str] = {}
        self.changes: Changes | None = None

    @property
    def n_failed(self) -> int:
        """Samples without features because they could not be read or encoded."""
        return len({id for failed in self.failed.values() for id in failed})

    @property
    def failed_whole(self) -> list[str]:
        """Feature sets that hold nothing for this manifest, since every item failed."""
        return [
            name
            for name, r in self.results.items()
            if self.failed[name] and not (r.embedded or r.left or r.kept > self.n_failed_before[name])
        ]

    @property
    def _warnings(self) -> list[str]:
        return [*self.warnings, *self.large.values(), *self.alike.values()]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        features = {
            name: {
                "embedded": r.embedded,
                "kept": r.kept - self.n_failed_before[name],
                "cut": r.cut,
                "failed": self.failed[name],
                "seconds": None if r.spent is None else r.spent.seconds,
            }
            for name, r in self.results.items()
        }
        changes = None if self.changes is None else asdict(self.changes)
        counts = {"n_samples": self.n_samples, "changes": changes}
        return {"store": self.location, **counts, "features": features, "warnings": self._warnings}

    def lines(self) -> list[str]:
        """Return in a few lines what was done and what was skipped, and the store's location."""
        out = []
        for name, result in self.results.items():
            failed, before = self.failed[name], self.n_failed_before[name]
            parts = [f"{counted(result.embedded, 'item')} embedded"]
            parts += [f"{result.kept - before:,} already stored"] if result.kept > before else []
            parts += [f"{counted(len(failed), 'sample')} failed"] if failed else []
            parts += [f"{result.left:,} left to other shards"] if result.left else []
            out.append(f"{name}: {', '.join(parts)}")
            if result.spent is not None and result.spent.total >= LONG:
                out.append(f"  time: {result.spent.line()}")
            out += [f"  {id}: {why}" for id, why in list(failed.items())[:SHOWN]]
            if len(failed) > SHOWN:
                out.append(f"  … and {len(failed) - SHOWN:,} more: headwater info {self.location} --failed")
            if result.cut:
                out.append(f"  {counted(result.cut, 'text')} truncated to the length that the encoder reads")
            if before:
                out.append(f"  {counted(before, 'item')} failed in an earlier run: --retry-failed retries them")
        out += [f"warning: {line}" for line in self._warnings]
        out += [
            f"column {column!r} was not encoded: its {m}s need another encoder or pooling"
            for m, column in self.not_encoded.items()
        ]
        if self.changes is not None:
            out += self.changes.lines()
        without = f", {self.n_failed:,} of them without features" if self.n_failed else ""
        return [*out, f"{counted(self.n_samples, 'sample')}{without}, in {self.location}"]


@overload
def embed(
    manifest: str | Path,
    store: str | Path,
    *,
    encoder: str | EncoderChoice,
    dry_run: Literal[False] = False,
    storage: Storage | None = None,
    columns: ManifestColumns | None = None,
    execution: Execution | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Embedded: ...


@overload
def embed(
    manifest: str | Path,
    store: str | Path,
    *,
    encoder: str | EncoderChoice,
    dry_run: bool,
    storage: Storage | None = None,
    columns: ManifestColumns | None = None,
    execution: Execution | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Embedded | EmbedPlan: ...


def embed(
    manifest: str | Path,
    store: str | Path,
    *,
    encoder: str | EncoderChoice,
    dry_run: bool = False,
    storage: Storage | None = None,
    columns: ManifestColumns | None = None,
    execution: Execution | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Embedded | EmbedPlan:
    """Run an encoder once over the images and texts of a manifest, and store the features.

    The same call continues a stopped run. Items are identified by content, so nothing is embedded twice.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder with one subfolder per class.
    store
        Path of the store, which need not exist yet: a folder, or a URL such as ``s3://bucket/lung.hw``.
    encoder
        An encoder spec such as ``timm:resnet34.a1_in1k``, or an `headwater.EncoderChoice`.
    dry_run
        Return the plan instead of carrying it out; nothing is written into the store.
    storage, columns, execution
        How features are stored, the roles of the manifest's columns, and how the encoder is run. Default: the defaults
        of these classes.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.EncoderChoice`, `headwater.Storage`, `headwater.ManifestColumns` or
        `headwater.Execution` by its name, such as ``tokens="all"``, ``name="vit"``, ``image="path"`` or
        ``device="cuda"``.

    Raises
    ------
    ManifestError, EncoderError, StoreError, ImageError, DiskError, InputError
        Each with one line that says what, where and what to do.
    """
    choice, storage, columns, execution = with_options(
        "embed",
        options,
        encoder_choice(encoder),
        storage or Storage(),
        columns or ManifestColumns(),
        execution or Execution(),
    )
    report = progress_to(progress)
    plan = plan_embedding(manifest, store, choice, storage, columns, execution, progress=report, collect=dry_run)
    return plan if dry_run else fill_as_planned(plan, store, choice, execution, report)


def fill_as_planned(
    plan: EmbedPlan,
    store: str | Path,
    choice: EncoderChoice,
    execution: Execution,
    progress: Progress,
    kept: bool = True,
) -> Embedded:
    """Carry out a plan: write the samples, then fill each feature set; speak of space if it is ``kept``."""
    require_feed(execution.feed, plan.encoder, [of.spec.modality for of in plan.features.values()])
    for features in plan.features.values():
        if kept and len(features.blocks):
            progress(features.line(plan.part))
    target = Embedded(create_store(store).path, plan.table.n_samples)
    target.not_encoded = dict(plan.not_encoded)
    target.warnings = list(plan.warnings)
    with target.changing():
        planned = plan_samples(target, plan.table, plan.items)  # again: another process may have written since
        target.write_samples(planned.samples, planned.roles, planned.unreadable, planned.about)
        target.changes = planned.changes
        plan.index.save()
    engine = None if execution.engine == "local" else _ray_engine(choice, execution, plan.encoder)
    for of_modality in plan.features.values():
        _fill(target, of_modality, plan, execution, engine, progress)
    return target


def _fill(
    target: Embedded,
    plan: FeaturePlan,
    whole: EmbedPlan,
    execution: Execution,
    engine: Engine | None,
    progress: Progress,
) -> None:
    """Fill one feature set, and record the result."""
    name, items, contents = plan.name, plan.items, plan.items.contents
    features = target.require_features(name, plan.spec, len(contents), alone=whole.part is None)
    with counting(progress, f"embed {name}", len(contents)) as update:
        try:
            result = fill(
                features,
                whole.encoder,
                contents,
                batch_size=execution.batch_size,
                workers=execution.workers,
                stop_on_error=execution.on_error == "stop",
                retry_failed=execution.retry_failed,
                shard=whole.part,
                engine=engine,
                feed=execution.feed,
                progress=update,
            )
        except ImageError as error:
            raise type(error)(f"{error}. {SKIP}") from error
    target.results[name] = result
    features = features.refresh()
    if execution.on_error == "stop":  # items that could be read, but not stored
        refuse_failed(features, items, whole.table, "failed")
    failed = failed_items(features, contents)
    target.n_failed_before[name] = len(failed) - len(result.failed)
    target.failed[name] = items.failed_samples(whole.table.ids, failed)
    if result.embedded and (line := warn_of_large(plan.spec, whole.encoder, contents)) is not None:
        target.large[name] = f"{name}: {line}"
    if result.embedded and (line := warn_of_alike(features, whole.encoder, contents)) is not None:
        target.alike[name] = line


def _ray_engine(choice: EncoderChoice, execution: Execution, encoder: Encoder[Any]) -> Engine:
    """Return an engine of Ray workers, each of which builds the encoder."""
    from headwater.embed.by_ray import RayEngine, Recipe

    weights, adapter = (None if f is None else str(Path(f).resolve()) for f in (choice.weights, choice.adapter))
    device = resolve_device(execution.device) if "torch" in encoder.environment() else "cpu"
    recipe = Recipe(replace(choice, weights=weights, adapter=adapter), device, execution.precision)
    return RayEngine(recipe, execution.ray_address, execution.workers, execution.batch_size)
