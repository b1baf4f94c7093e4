"""Inputs of a fine-tuning: the samples of a manifest, and trainable encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._about import About
from headwater._checks import require_names
from headwater._progress import Progress
from headwater.embed import Content, load_encoder
from headwater.embed.adapter import tuned_encoders
from headwater.embed.choice import EncoderChoice
from headwater.embed.encoder import default_name
from headwater.embed.items import items_of
from headwater.embed.plan import ManifestColumns
from headwater.embed.tunable import Tunable
from headwater.errors import EncoderError, InputError, ManifestError
from headwater.finetune.adapt import TrainMode
from headwater.finetune.data import Rows
from headwater.finetune.options import Training
from headwater.heads import Bags
from headwater.samples.bags import bagged, names_of, those_in
from headwater.samples.views import viewed
from headwater.sources import Manifest
from headwater.sources.steps import BY_TORCH, parse_steps
from headwater.store import MODALITIES, PARTS, Data, InMemory, Modality, SelectedRows, select_samples, with_defined


@dataclass(frozen=True, eq=False)
class TunedInput:
    """One input of the head: its encoder and contents.

    Attributes
    ----------
    name
        Name that ``embed`` would give the features: ``NAME/MODALITY``.
    encoder, modality, how
        The encoder, the modality, and how it is trained.
    contents
        Distinct images, texts or pairs.
    """

    name: str
    encoder: Tunable[Any]
    modality: Modality
    how: TrainMode
    contents: Sequence[Content]


@dataclass(frozen=True, eq=False)
class Table:
    """The samples of a manifest.

    Attributes
    ----------
    samples
        Their columns, and the keys of their contents.
    about
        What is known of the columns.
    """

    samples: pl.DataFrame
    about: About = field(default_factory=About)


@dataclass(frozen=True, eq=False)
class TunedEncoders:
    """Encoders to train, and the columns that they read.

    Attributes
    ----------
    encoders
        Specs: one for all inputs, or one for each.
    weights
        Local state dicts, as many as encoders, or none.
    choice
        Options of all encoders: adapter, layer, pooling, prompt, image size, steps.
    columns
        Columns of the manifest. Default: found by name.
    """

    encoders: tuple[str, ...]
    weights: tuple[str, ...]
    choice: EncoderChoice
    columns: ManifestColumns

    @classmethod
    def of(
        cls,
        encoder: str | Sequence[str] | EncoderChoice,
        weights: str | Path | Sequence[str | Path],
        choice: EncoderChoice,
        columns: ManifestColumns,
    ) -> TunedEncoders:
        """Build it from the arguments of the verbs."""
        files = [weights] if isinstance(weights, str | Path) else list(weights)
        own = [] if choice.weights is None else [choice.weights]
        if files and own and [str(path) for path in files] != [str(path) for path in own]:
            raise InputError(f"weights are given twice: {own[0]} in the EncoderChoice, and {files[0]}. Give them once.")
        specs = (encoder.spec,) if isinstance(encoder, EncoderChoice) else require_names("--encoder", encoder)
        return cls(specs, tuple(str(path) for path in files or own), choice, columns)

    def to_dict(self) -> dict[str, Any]:
        """Return the options for ``config.json``."""
        choice = self.choice
        return {
            "encoders": list(self.encoders),
            "weights": list(self.weights),
            "adapter": None if choice.adapter is None else str(choice.adapter),
            **vars(self.columns),
            "steps": list(choice.steps),
            **{name: getattr(choice, name) for name in ("image_size", "layer", "pooling", "prompt")},
        }


def first_choice(encoder: str | Sequence[str] | EncoderChoice) -> EncoderChoice:
    """Return the choice of the only encoder, or of the first of several, whose options all of them share."""
    return encoder if isinstance(encoder, EncoderChoice) else EncoderChoice(require_names("--encoder", encoder)[0])


def read_samples(
    manifest: str | Path, columns: ManifestColumns, where: str | None, label_sql: Mapping[str, str] | None = None
) -> tuple[Manifest, Table]:
    """Read a manifest, add the labels that expressions define, and select its samples."""
    table = columns.read(manifest)
    chosen = select_samples(with_defined(table.table, label_sql or {}), where)
    return replace(table, table=chosen), Table(chosen, table.about.of(chosen.columns))


def load_encoders(
    asked: TunedEncoders, table: Manifest, training: Training, *, tokens: bool
) -> dict[Modality, Tunable[Any]]:
    """Load the encoder of each input of the head, in fp32.

    A single encoder encodes images. It encodes texts too if their column was named, if ``--train`` says how they are
    trained, or if it encodes no images. With several encoders, each encodes the first modality that it can and that no
    earlier one encodes.

    Raises
    ------
    InputError, ManifestError, EncoderError
        When an encoder cannot be trained, or encodes none of the manifest's columns.
    """
    if len(asked.weights) > 1 and len(asked.weights) != len(asked.encoders):
        raise InputError(f"--weights is given {len(asked.weights)} times for {len(asked.encoders)} encoders.")
    loaded = _loaded(asked, training.device, tokens=tokens)
    columns = {"image": table.image, "text": table.text}
    there = [m for m in MODALITIES if all(columns[part] is not None for part in PARTS[m])]
    said = {word.rpartition("=")[0] for word in training.train if not word.endswith("=none")}
    reads = asked.columns.text is not None or "text" in said
    found: dict[Modality, Tunable[Any]] = {}
    if len(loaded) == 1:
        able = [m for m in there if m in loaded[0].modalities]
        chosen = able if reads else able[:1]
        found = dict.fromkeys(chosen, loaded[0])
    else:
        for encoder in loaded:
            free = [m for m in there if m in encoder.modalities and m not in found]
            if not free:
                raise ManifestError(f"the manifest has no column left for {encoder.name} to encode.")
            found[free[0]] = encoder
    if not found:
        can = " and ".join(f"{m}s" for m in sorted(loaded[0].modalities))
        raise ManifestError(f"{loaded[0].name} encodes {can}, but the manifest has no such column.")
    return {m: found[m] for m in MODALITIES if m in found}


def _loaded(asked: TunedEncoders, device: str, *, tokens: bool) -> list[Tunable[Any]]:
    """Load each encoder, in fp32; refuse those that cannot be trained."""
    loaded: list[Tunable[Any]] = []
    for number, (spec, adapter) in enumerate(zip(asked.encoders, _adapters(asked), strict=True)):
        weights = asked.weights[number] if number < len(asked.weights) and asked.weights[number] else None
        own = replace(
            asked.choice, spec=spec, weights=weights, adapter=adapter, tokens="all" if tokens else "none", steps=()
        )
        encoder = load_encoder(own, device=device, precision="fp32")
        if not isinstance(encoder, Tunable):
            raise EncoderError(f"{spec} cannot be trained: it has no trainable weights.")
        if encoder.tuned is not None and encoder.tuned.peft is not None:
            raise EncoderError(
                f"--adapter {adapter}: training can continue from a run of fine-tune, but not from a peft adapter. "
                "Merge it into the model with peft: model.merge_and_unload().save_pretrained(DIRECTORY)."
            )
        if encoder.sees_images:
            steps = parse_steps(asked.choice.steps)
            if steps is not None and steps.jpeg_by_torch:
                raise InputError(f"--step {BY_TORCH} is for embed: training reads images as usual. Leave it out.")
            encoder.steps = steps if encoder.tuned is None else encoder.tuned.steps_with(steps)
        loaded.append(encoder)
    if asked.choice.image_size is not None and not any(encoder.sees_images for encoder in loaded):
        raise EncoderError(f"{' and '.join(asked.encoders)} encode no images: leave --image-size out.")
    return loaded


def _adapters(asked: TunedEncoders) -> list[str | Path | None]:
    """Return the adapter of each encoder; with several encoders, None for those that the run did not tune."""
    if asked.choice.adapter is None or len(asked.encoders) == 1:
        return [asked.choice.adapter] * len(asked.encoders)
    tuned = tuned_encoders(asked.choice.adapter)
    if left := [spec for spec in tuned if spec not in asked.encoders]:
        raise EncoderError(
            f"--adapter {asked.choice.adapter}: has adapters for {' and '.join(left)}, but the encoders are "
            f"{' and '.join(asked.encoders)}. Name the encoders of that run."
        )
    return [asked.choice.adapter if spec in tuned else None for spec in asked.encoders]


def read_contents(
    table: Manifest,
    encoders: Mapping[Modality, Tunable[Any]],
    how: Mapping[Modality, TrainMode],
    workers: int | None,
    progress: Progress,
) -> tuple[list[TunedInput], Data]:
    """Read every file and text once to compute its key; return the inputs, and the samples that have all of them.

    The inputs of the returned samples are the indices of their contents.
    """
    samples = table.table
    ids = np.array(table.ids, np.str_)
    reason = np.full(len(ids), "", object)
    inputs, numbers = [], {}
    for modality, encoder in encoders.items():
        items = items_of(table, modality, workers, "skip", progress)
        place = {content.key.hex(): i for i, content in enumerate(items.contents)}
        found = np.array([-1 if key is None else place[key] for key in items.keys], np.int64)
        reason = np.where(reason == "", np.array(items.why_none(table.ids, modality), object), reason)
        samples = samples.with_columns(part.keys for part in (items.parts or {modality: items}).values())
        name = f"{default_name(encoder.name)}/{modality}"
        inputs.append(TunedInput(name, encoder, modality, how[modality], items.contents))
        numbers[name] = found
    keep = np.flatnonzero(reason == "")
    if not len(keep):
        raise ManifestError(f"no sample has all of {', '.join(i.modality for i in inputs)}, such as: {reason[0]}.")
    left_out = pl.DataFrame({"id": ids[reason != ""], "reason": reason[reason != ""].astype(str)})
    chosen = {name: SelectedRows(InMemory(found[:, None]), keep) for name, found in numbers.items()}
    return inputs, Data(chosen, samples[keep], ids[keep], left_out)


def members_of(data: Data) -> dict[str, list[Rows]]:
    """Return the indices of the contents of each row: one, or those of its bag."""
    found: dict[str, list[Rows]] = {}
    for name, X in data.inputs.items():
        if isinstance(X, Bags):
            found[name] = [np.asarray(X.instances[rows])[:, 0] for rows in X.members]
        elif isinstance(X, SelectedRows):
            found[name] = list(X[:])
    return found


def in_bags(data: Data, column: str | None, views: str | None, used: Sequence[str]) -> Data:
    """Return samples, or their bags by a column, or cases with an input for each view."""
    if column is None:
        return data
    return bagged(data, column, used) if views is None else viewed(data, column, views, used, partial=False)


def of_views(inputs: Sequence[TunedInput], data: Data) -> list[TunedInput]:
    """Return the inputs of rows; with views, one for each view, by the same encoder."""
    plain = {one.name: one for one in inputs}
    return [replace(plain[name.rpartition(":")[2]], name=name) for name in data.inputs]


def samples_of(data: Data, rows: Data, column: str | None) -> tuple[Data, NDArray[np.int64]]:
    """Return the samples in rows, and the row of each: its bag, or itself."""
    if column is None:
        return rows, np.arange(len(rows.ids))
    return those_in(data, names_of(data, column), rows.ids)
