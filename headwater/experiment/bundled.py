"""What goes into a bundle: a run's head with what new cases need, without training cases unless they are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from headwater._links import leads_out
from headwater._reading import SMALL, open_regular, parse_json, read_json
from headwater._tensors import as_safetensors
from headwater.embed import content_key
from headwater.embed.adapter import read_adapter
from headwater.embed.fetched import weights_in
from headwater.embed.gate import file_on_hub
from headwater.embed.load import load_encoder
from headwater.embed.model_spec import ModelSpec
from headwater.embed.weights import load_state
from headwater.errors import EncoderError, InputError
from headwater.experiment.apply import IMPORTED, is_tuned, name_of, specs_of
from headwater.experiment.encoders import RunEncoder
from headwater.experiment.predict import Past
from headwater.heads.persist import head_class
from headwater.runs.bundle import CASE_NAMES, CASES, WEIGHTS, Description
from headwater.runs.predictions import names_key
from headwater.runs.run import HEAD_FILES, REFERENCE, Run
from headwater.store import FeatureSpec

ADAPTERS = "adapters"
OF_MODELS = re.compile(
    r"(adapter|config|modules|[\w.-]*_config|tokenizer|added_tokens|special_tokens_map|vocab|processor|chat_template|"
    r"[\w.-]*\.safetensors\.index)\.json|(vocab|merges)\.txt|[\w.-]+\.(safetensors|model)",
    re.IGNORECASE,
)
"""Names of the files that loaders of models, tokenizers and adapters read."""
NOTED, FORMATS = "__metadata__", ("pt", "tf", "flax", "np")
MEANS_OF_CLASSES = ("prototypes", "gda")


def require_shareable(run: Run, with_cases: bool) -> None:
    """Refuse a run whose head holds training rows, unless these were asked for.

    Raises
    ------
    InputError
        The message says what the head holds.
    """
    kind, task = run.config["head"], run.metrics["task"]
    if with_cases:
        return
    of_kind = head_class(kind, regression=task == "regression", survival=task == "survival")
    if getattr(of_kind, "holds_rows", False):
        raise InputError(
            f"a {kind} head is made of the training rows themselves, which would be in the bundle. Pass --with-cases "
            "if they may be shared, or fit another head, such as linear."
        )
    counts = [of["n_samples"] for of in run.metrics.get("class_counts", ())]
    if kind in MEANS_OF_CLASSES and counts and min(counts) < 2:
        raise InputError(
            f"a {kind} head holds the mean of each class, and one class has a single row: its mean is that row. Pass "
            "--with-cases if it may be shared, or merge the class with another (--merge)."
        )


def described(run: Run, placed: Mapping[str, str], adapters: Mapping[str, str], with_cases: bool) -> Description:
    """Return what ``bundle.json`` says of a run."""
    config, metrics, task = run.config, run.metrics, run.metrics["task"]
    counts = [of.get("n_groups") for of in metrics.get("class_counts", ())]
    performance = {
        name: metrics[name] for name in ("n_samples", "mean", "std", "intervals", "n_folds") if name in metrics
    }
    groups = None if config.get("groups") == "none" else config.get("groups")
    return Description(
        headwater=version("headwater"),
        command=config["command"],
        head=config["head"],
        task=task,
        names=list(metrics[names_key(task)]),
        features={name: _spec_of(name, spec, placed) for name, spec in specs_of(run).items()},
        tokens=sorted(config.get("tokens") or ()),
        missing=config.get("missing") or "drop",
        bags=config.get("bags"),
        views=config.get("views"),
        view_levels=list(config.get("view_levels") or ()),
        groups=groups,
        decision=dict(run.decision),
        positive=metrics.get("positive"),
        performance={**performance, "grouped": groups is not None and None not in counts},
        encoders=dict(placed),
        adapters=dict(adapters),
        cases=with_cases,
    )


def _spec_of(name: str, spec: FeatureSpec, placed: Mapping[str, str]) -> dict[str, Any]:
    """Return a spec without the path of a model on this machine.

    Raises
    ------
    InputError
        When the model is in a folder of this machine, and is not in the bundle.
    """
    values = spec.to_dict()
    if spec.encoder.startswith(IMPORTED):  # names of files are for here
        values["preprocessing"] = {key: v for key, v in spec.preprocessing.items() if key not in ("source", "vectors")}
    if (plain := _unplaced(spec.encoder)) != spec.encoder:
        if spec.encoder.startswith(("python:", "joined:")):
            what = "your own code" if spec.encoder.startswith("python:") else "a run of two encoders"
            raise InputError(f"the encoder {spec.encoder} is {what}, which a bundle neither holds nor names.")
        if name.rpartition("/")[0] not in placed:
            raise InputError(
                f"the encoder {spec.encoder} is in a folder of this machine, which a bundle must not name. Pass "
                "--with-weights to put the model into the bundle."
            )
        values["encoder"] = plain
    return values


def head_files(run: Run) -> dict[str, bytes | Path]:
    """Return the files of a run's head, and its distances of left-out rows."""
    if run.path is None:
        raise InputError("the run was not written. Pass --out to the command that makes it.")
    files: dict[str, bytes | Path] = {name: run.path / name for name in HEAD_FILES}
    reference = run.reference or (None if is_tuned(run) else Past.of(run).reference)
    if reference is not None:
        files[REFERENCE] = as_safetensors(reference.to_arrays())
    return files


def case_files(run: Run) -> dict[str, bytes]:
    """Return the training cases for a bundle: vectors, labels and keys of contents, in the order of the keys.

    No id, path or group is among them.

    Raises
    ------
    InputError
        When they are out of reach.
    """
    past = Past.of(run)
    if past.vectors is None or past.trained is None or past.labels is None or past.trained.rows is None:
        why = "; ".join(past.why_unknown) or "they are unknown"
        raise InputError(f"--with-cases: {why}. Leave it out, or restore the run's store.")
    vectors = past.vectors.astype(np.float16)
    # an order that tells no id: not that of the manifest, nor of digests of ids, which are easily guessed
    order = sorted(range(len(vectors)), key=lambda row: content_key(vectors[row].tobytes()))
    names = {
        "labels": [past.labels[row] for row in order],
        "keys": {kind: sorted(set(keys.drop_nulls().to_list())) for kind, keys in past.trained.keys.items()},
    }
    told = json.dumps(names, ensure_ascii=False).encode()
    return {CASES: as_safetensors({"vectors": vectors[order]}), CASE_NAMES: told}


# Encoders


def encoder_files(
    encoders: Sequence[RunEncoder], run: Run, *, weights: bool
) -> tuple[dict[str, bytes | Path], dict[str, str], dict[str, str]]:
    """Return the files of encoders and adapters, and where each is in the bundle, by the name of the features.

    Adapters are part of what was trained, and are always included; the weights of encoders only if asked for.

    Raises
    ------
    InputError, EncoderError
        When an encoder's weights cannot be put into a bundle.
    """
    files: dict[str, bytes | Path] = {}
    placed: dict[str, str] = {}
    adapters: dict[str, str] = {}
    for encoder in encoders:
        base = encoder.base
        if encoder.choice.adapter is not None:
            adapters[base] = f"{ADAPTERS}/{base}"
            files |= _adapter_of(encoder, adapters[base])
        if weights:
            found, place = _weights_of(encoder, f"the run {name_of(run)}")
            files |= found
            if place is not None:
                placed[base] = place
    return files, placed, adapters


def _adapter_of(encoder: RunEncoder, place: str) -> dict[str, bytes | Path]:
    """Return the files of an encoder's adapter, without the path of the model that it was trained on."""
    source = read_adapter(str(encoder.choice.adapter), encoder.choice.spec).path
    if source is None:
        raise EncoderError(f"{encoder.choice.adapter}: the adapter has no files.")
    return _folder(source, place)


def _weights_of(encoder: RunEncoder, named_by: str) -> tuple[dict[str, bytes | Path], str | None]:
    """Return the files of an encoder's weights, and where they are in the bundle; None if it has none."""
    choice, base = encoder.choice, encoder.base
    model = ModelSpec.parse(choice.spec)
    backend, name = model.backend, model.name
    if backend in ("builtin", "stub"):
        return {}, None
    if backend in ("python", "joined"):
        raise InputError(
            f"--with-weights: {choice.spec} is {'code' if backend == 'python' else 'a run of two encoders'}, which a "
            "bundle does not hold. Leave --with-weights out."
        )
    given = Path(choice.weights) if choice.weights is not None and Path(choice.weights).is_dir() else None
    if backend == "hf" or name.startswith("local-dir:") or (backend == "open_clip" and given is not None):
        folder = given or Path(name.removeprefix("local-dir:"))
        if not folder.is_dir():
            config = file_on_hub(name, "config.json")
            if config is None:
                raise EncoderError(
                    f"--with-weights: {choice.spec} is not in the cache of this machine. Embed with it first."
                )
            folder = Path(config).parent
        place = f"{WEIGHTS}/{base}/{Path(name.removeprefix('local-dir:')).name.partition('@')[0]}"
        files = _folder(folder, place)
        if not any(member.endswith(".safetensors") for member in files):
            raise EncoderError(
                f"--with-weights: {choice.spec} has no weights in safetensors files, and a bundle holds no other. "
                "Convert them, for example with model.save_pretrained(FOLDER)."
            )
        return files, place
    place = f"{WEIGHTS}/{base}.safetensors"
    if choice.weights is not None:
        source = weights_in(choice.weights)
        if source.suffix == ".safetensors":
            return {place: _shareable(source)}, place
        return {place: _tensors(load_state(source))}, place
    plain = load_encoder(_without_adapter(choice), device="cpu", precision="fp32", named_by=named_by, probing="never")
    return {place: _tensors(plain._frozen.module.state_dict())}, place  # type: ignore[attr-defined]


def _without_adapter(choice: Any) -> Any:
    return replace(choice, adapter=None)


def _tensors(state: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    found: bytes = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
    return found


def _folder(source: Path, place: str) -> dict[str, bytes | Path]:
    """Return the files of a model's folder that loaders read; code, pickles and paths of this machine stay behind.

    So do logs, cards and lists that training may have left there, and links that lead out of the folder.
    """
    files: dict[str, bytes | Path] = {}
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not path.is_file() or not OF_MODELS.fullmatch(path.name) or leads_out(path, source):
            continue
        plain = path.suffix == ".json" and path.stat().st_size <= SMALL
        files[f"{place}/{inside.as_posix()}"] = _without_paths(path) if plain else _shareable(path)
    return files


def _shareable(path: Path) -> bytes | Path:
    """Return a file of tensors without what their writer noted in its header, such as folders of training data."""
    if path.suffix != ".safetensors":
        return path
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(size)) if size <= SMALL else {}
        noted = header.get(NOTED, {}) if isinstance(header, dict) else {}
        kept = {key: value for key, value in noted.items() if key == "format" and value in FORMATS}
        if kept == noted:
            return path
        words = json.dumps({**header, NOTED: kept} if kept else {k: v for k, v in header.items() if k != NOTED})
        words += " " * (-len(words) % 8)  # tensors stay aligned
        return len(words).to_bytes(8, "little") + words.encode() + file.read()


def _without_paths(path: Path) -> bytes | Path:
    """Return a JSON file without the paths that libraries write into it; the file itself if it has none."""
    try:
        told = read_json(path)
    except (OSError, ValueError):
        return path
    kept = _plain(told)
    return path if kept == told else json.dumps(kept, indent=2, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _plain(part) for key, part in value.items() if key.strip("_") != "name_or_path"}
    if isinstance(encoder := kept.get("encoder"), str):  # of an adapter
        kept["encoder"] = _unplaced(encoder)
    return kept


def _unplaced(encoder: str) -> str:
    """Return an encoder's spec with the last part of a path only."""
    backend, _, place = encoder.partition(":")
    place = place.removeprefix("local-dir:")
    return f"{backend}:{Path(place).name}" if Path(place).is_absolute() or Path(place).is_dir() else encoder
