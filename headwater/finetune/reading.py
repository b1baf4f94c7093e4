"""What a fine-tuning reads: the samples of a manifest, and encoders that can be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.embed import Content, load_encoder
from headwater.embed.adapter import tuned_encoders
from headwater.embed.encoder import default_name
from headwater.embed.items import items_of
from headwater.embed.tunable import Tunable
from headwater.errors import EncoderError, InputError, ManifestError
from headwater.finetune.adapt import How, parse_how
from headwater.finetune.data import Rows
from headwater.heads import Bags
from headwater.samples.bags import bagged, names_of, those_in
from headwater.samples.views import viewed
from headwater.sources import Manifest, read_manifest
from headwater.sources.steps import parse_steps
from headwater.store import PARTS, Data, InMemory, Modality, SelectedRows, select_samples

MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True, eq=False)
class Input:
    """One input of the head: what makes it, and of which contents.

    Attributes
    ----------
    name
        What ``embed`` would call the features: ``NAME/MODALITY``.
    encoder, modality, how
        What reads it, and how that is trained.
    contents
        Distinct images, texts or pairs.
    """

    name: str
    encoder: Tunable[Any]
    modality: Modality
    how: How
    contents: Sequence[Content]


@dataclass(frozen=True, eq=False)
class Table:
    """The samples of a manifest.

    Attributes
    ----------
    samples
        Their columns, and the keys of their contents.
    """

    samples: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Asked:
    """Encoders and how they are to be trained, as they were asked for.

    Attributes
    ----------
    encoders
        Specs: one that makes all inputs, or one for each.
    weights
        Local state dicts, as many as encoders, or none.
    train
        ``HOW`` for all inputs, or ``MODALITY=HOW`` for one.
    image, text, id
        Columns of the manifest; found by name when left out.
    image_size
        Of what encoders see; see `headwater.embed.load_encoder`.
    layer, pooling, prompt
        Where in an encoder features are taken, and what a decoder reads; see there.
    """

    encoders: tuple[str, ...]
    weights: tuple[str, ...]
    adapter: str | None
    train: tuple[str, ...]
    image: str | None
    text: str | None
    id: str | None
    steps: tuple[str, ...] = ()
    image_size: str | None = None
    layer: str | None = None
    pooling: str | None = None
    prompt: str | None = None

    def how(self) -> dict[Modality, How]:
        """Return how each modality is trained.

        Raises
        ------
        InputError
            When something is said twice, or in a way that there is not.
        """
        found: dict[Modality, How] = {}
        general: How | None = None
        for word in self.train:
            modality, _, way = word.rpartition("=")
            if not modality:
                if general is not None:
                    raise InputError("--train is given twice: write --train image=… and --train text=….")
                general = parse_how(way)
                continue
            if modality not in MODALITIES:
                raise InputError(f"--train {word!r}: {modality!r} is neither image nor text nor pair.")
            found[modality] = parse_how(way)
        return {m: found.get(m, general or How("none" if found else "lora")) for m in MODALITIES}


def read_samples(manifest: str | Path, asked: Asked, where: str | None) -> tuple[Manifest, Table]:
    """Read a manifest, and the samples of it that are used."""
    table = read_manifest(manifest, id=asked.id, image=asked.image, text=asked.text)
    if where is None:
        return table, Table(table.table)
    chosen = select_samples(table.table, where)
    return Manifest(chosen, table.id, table.image, table.text, table.root), Table(chosen)


def load_encoders(asked: Asked, table: Manifest, *, tokens: bool, device: str) -> dict[Modality, Tunable[Any]]:
    """Load what makes each input of the head, in fp32.

    One encoder makes images, and texts too where their column was named or ``--train`` says how they are trained, or
    where it makes no images. Of several, each makes what the one before cannot.

    Raises
    ------
    InputError, ManifestError, EncoderError
        When an encoder cannot be trained, or makes none of the manifest's columns.
    """
    if len(asked.weights) > 1 and len(asked.weights) != len(asked.encoders):
        raise InputError(f"--weights is given {len(asked.weights)} times for {len(asked.encoders)} encoders.")
    loaded: list[Tunable[Any]] = []
    adapters = _adapters(asked)
    for number, spec in enumerate(asked.encoders):
        weights = asked.weights[number] if number < len(asked.weights) and asked.weights[number] else None
        encoder = load_encoder(
            spec,
            weights=weights,
            adapter=adapters[number],
            tokens="all" if tokens else "none",
            image_size=asked.image_size,
            layer=asked.layer,
            pooling=asked.pooling,
            prompt=asked.prompt,
            device=device,
            precision="fp32",
        )
        if not isinstance(encoder, Tunable):
            raise EncoderError(f"{spec} cannot be trained: it has no weights that gradients reach.")
        if encoder.tuned is not None and encoder.tuned.peft is not None:
            raise EncoderError(
                f"--adapter {adapters[number]}: training goes on from runs of fine-tune, not from an adapter of peft. "
                "Merge it into the model with peft: model.merge_and_unload().save_pretrained(DIRECTORY)."
            )
        if encoder.sees_images:
            steps = parse_steps(asked.steps)
            encoder.steps = steps if encoder.tuned is None else encoder.tuned.steps_with(steps)
        loaded.append(encoder)
    if asked.image_size is not None and not any(encoder.sees_images for encoder in loaded):
        raise EncoderError(f"{' and '.join(asked.encoders)} see no images: leave --image-size out.")
    columns = {"image": table.image, "text": table.text}
    there = [m for m in MODALITIES if all(columns[part] is not None for part in PARTS[m])]
    said = {word.rpartition("=")[0] for word in asked.train if not word.endswith("=none")}
    reads = asked.text is not None or "text" in said
    found: dict[Modality, Tunable[Any]] = {}
    if len(loaded) == 1:
        able = [m for m in there if m in loaded[0].modalities]
        chosen = able if reads else able[:1]
        found = dict.fromkeys(chosen, loaded[0])
    else:
        for encoder in loaded:
            free = [m for m in there if m in encoder.modalities and m not in found]
            if not free:
                raise ManifestError(f"{encoder.name} is left without a column of the manifest to encode.")
            found[free[0]] = encoder
    if not found:
        can = " and ".join(f"{m}s" for m in sorted(loaded[0].modalities))
        raise ManifestError(f"{loaded[0].name} encodes {can}, but the manifest has no such column.")
    return {m: found[m] for m in MODALITIES if m in found}


def _adapters(asked: Asked) -> list[str | None]:
    """Return the adapter of each encoder; of several encoders, those that the run tuned have it."""
    if asked.adapter is None or len(asked.encoders) == 1:
        return [asked.adapter] * len(asked.encoders)
    tuned = tuned_encoders(asked.adapter)
    if left := [spec for spec in tuned if spec not in asked.encoders]:
        raise EncoderError(
            f"--adapter {asked.adapter}: holds {' and '.join(left)} tuned, none of {' and '.join(asked.encoders)}. "
            "Name encoders as the run had them."
        )
    return [asked.adapter if spec in tuned else None for spec in asked.encoders]


def read_contents(
    table: Manifest,
    encoders: Mapping[Modality, Tunable[Any]],
    how: Mapping[Modality, How],
    workers: int | None,
    progress: bool,
) -> tuple[list[Input], Data]:
    """Read every file and text once, for its key; return the inputs, and samples that have all of them.

    The inputs of the samples are, for now, the numbers of their contents.
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
        inputs.append(Input(name, encoder, modality, how[modality], items.contents))
        numbers[name] = found
    keep = np.flatnonzero(reason == "")
    if not len(keep):
        raise ManifestError(f"no sample has all of {', '.join(i.modality for i in inputs)}, such as: {reason[0]}.")
    left_out = pl.DataFrame({"id": ids[reason != ""], "reason": reason[reason != ""].astype(str)})
    chosen = {name: SelectedRows(InMemory(found[:, None]), keep) for name, found in numbers.items()}
    return inputs, Data(chosen, samples[keep], ids[keep], left_out)


def members_of(data: Data) -> dict[str, list[Rows]]:
    """Return the numbers of the contents that each row holds: one, or those of its bag."""
    found: dict[str, list[Rows]] = {}
    for name, X in data.inputs.items():
        if isinstance(X, Bags):
            found[name] = [np.asarray(X.instances[rows])[:, 0] for rows in X.members]
        elif isinstance(X, SelectedRows):
            found[name] = list(X[:])
    return found


def in_bags(data: Data, column: str | None, views: str | None, used: Sequence[str]) -> Data:
    """Return samples, or the bags of them that a column makes, or these with an input for each view."""
    if column is None:
        return data
    return bagged(data, column, used) if views is None else viewed(data, column, views, used, partial=False)


def of_views(inputs: Sequence[Input], data: Data) -> list[Input]:
    """Return the inputs that rows have: where there are views, one for each of them, by the same encoder."""
    plain = {one.name: one for one in inputs}
    return [replace(plain[name.rpartition(":")[2]], name=name) for name in data.inputs]


def samples_of(data: Data, rows: Data, column: str | None) -> tuple[Data, NDArray[np.int64]]:
    """Return the samples that are in rows, and the row of each: the bag it is in, or its own."""
    if column is None:
        return rows, np.arange(len(rows.ids))
    return those_in(data, names_of(data, column), rows.ids)
