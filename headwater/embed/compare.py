"""What the files of a model say against the spec that it is loaded with.

A configuration on the hub may hold defaults of a library that nobody changed, so the spec's value is used; each
disagreement is named, with the reason if it is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater._reading import open_regular, read_json
from headwater.embed.choice import EncoderChoice
from headwater.embed.fetched import weights_in
from headwater.embed.gate import file_on_hub
from headwater.embed.known import known_of
from headwater.embed.model_spec import ModelSpec, Transform, shown

CONFIG = {"timm": "config.json", "hf": "preprocessor_config.json", "open_clip": "open_clip_config.json"}
"""The file of a model that says how images are prepared."""
RESAMPLE = {2: "bilinear", 3: "bicubic"}
CHUNK = 1 << 22


@dataclass(frozen=True)
class Disagreement:
    """A setting for which a model's own file has another value than its spec.

    Attributes
    ----------
    setting
        Such as ``mean``.
    theirs, ours
        The value in the file, and the value that is used.
    file
        Name of the file.
    why
        Why the value of the spec is used.
    """

    setting: str
    theirs: str
    ours: str
    file: str
    why: str

    def line(self) -> str:
        """Return it as one line."""
        return f"{self.setting}: {self.theirs} in {self.file}, but {self.ours} is used: {self.why}"


def findings_of(choice: EncoderChoice) -> Iterator[str]:
    """Yield a line for each setting on which a model's files and its spec disagree, and one about its weights.

    Parameters
    ----------
    choice
        An encoder that was loaded, so that its files are here.
    """
    model = ModelSpec.parse(choice.spec)
    folder, file = _files(model, choice.weights)
    if folder is not None:
        yield from (one.line() for one in disagreements(model, folder))
    if file is not None and file.is_file() and (line := checksum_line(model, file)) is not None:
        yield line


def _files(model: ModelSpec, weights: str | Path | None) -> tuple[Path | None, Path | None]:
    """Return the folder with a model's configuration, and its file of weights, where they are known."""
    if weights is not None:
        return (Path(weights), weights_in(weights)) if Path(weights).is_dir() else (Path(weights).parent, Path(weights))
    if model.repository is None or model.backend not in CONFIG:
        return None, None
    repository, revision = model.repository
    place = repository if revision is None else f"{repository}@{revision}"
    config = file_on_hub(place, CONFIG[model.backend])
    known = known_of(str(model))
    named = None if known is None or known.weights_file is None else file_on_hub(place, known.weights_file)
    return (None if config is None else Path(config).parent), (None if named is None else Path(named))


def disagreements(model: ModelSpec, folder: Path) -> list[Disagreement]:
    """Compare a spec with the configuration in a model's folder.

    Parameters
    ----------
    model
        The spec in its long form.
    folder
        The folder with the model's files, which may come from anybody.

    Returns
    -------
    One entry for each setting that both have and that differs; empty if the folder has no configuration.
    """
    file = CONFIG.get(model.backend)
    if file is None:
        return []
    try:
        values = read_json(folder / file)
    except (OSError, ValueError):
        return []
    if not isinstance(values, Mapping):
        return []
    ours = {**model.arguments, **_settings(model.transform)}
    known = known_of(str(model))
    reasons = {} if known is None else {one.setting: f"{one.why} ({one.source})" for one in known.differences}
    usual = "it is what the spec says" if known is None else f"it is what its authors state ({known.source})"
    return [
        Disagreement(key, shown(theirs)[:100], shown(ours[key]), file, reasons.get(key, usual))
        for key, theirs in _read(model.backend, values)
        if key in ours and not _equal(theirs, ours[key])
    ]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 checksum of a file, which is read in parts."""
    digest = hashlib.sha256()
    with open_regular(file) as opened:
        while part := opened.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def checksum_line(model: ModelSpec, file: Path) -> str | None:
    """Say whether a file of weights is the one that is known; None if its checksum is not known.

    A file of another name or format may hold the same tensors, so a difference is no error.
    """
    known = known_of(str(model))
    if known is None or known.sha256 is None or known.weights_file is None:
        return None
    if file.suffix != Path(known.weights_file).suffix:
        return f"weights: {file.name} cannot be compared with the published {known.weights_file}, another format"
    found = sha256_of(file)
    if found == known.sha256:
        return f"weights: {file.name} is the published file (sha256 {found[:12]}…)"
    return (
        f"weights: {file.name} is not the published {known.weights_file} (sha256 {found[:12]}… instead of "
        f"{known.sha256[:12]}…): another version, or another model of the same shape"
    )


def _settings(transform: Transform | None) -> dict[str, Any]:
    if transform is None:
        return {}
    height, width = transform.size
    settings = {key: value for key, value in transform.settings().items() if key != "crop"}
    return {**settings, "size": [height, width]}


def _read(backend: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a configuration by the names that a spec has for them."""
    if backend == "timm":
        yield from _of_timm(values)
    elif backend == "open_clip":
        yield from _of_open_clip(_part(values, "preprocess_cfg"))
    else:
        yield from _of_processor(values)


def _of_timm(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(architecture := values.get("architecture"), str):
        yield "architecture", architecture
    for key, value in _part(values, "model_args").items():
        if isinstance(value, bool | int | float | str):
            yield str(key), value
    config = _part(values, "pretrained_cfg") or values
    yield from _colours(config, "mean", "std")
    if isinstance(interpolation := config.get("interpolation"), str):
        yield "interpolation", interpolation
    sides = _numbers(config.get("input_size"), 3)
    share = config.get("crop_pct")
    if sides is not None:
        yield "size", sides[1:]
        if isinstance(share, int | float) and 0.1 <= share <= 1:
            yield "resize", [int(sides[1] / share)]


def _of_open_clip(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from _colours(config, "mean", "std")
    if isinstance(interpolation := config.get("interpolation"), str):
        yield "interpolation", interpolation
    size = config.get("size")
    sides = [size, size] if isinstance(size, int) else _numbers(size, 2)
    if sides is not None:
        yield "size", sides


def _of_processor(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name.removeprefix("image_"), numbers) for name, numbers in _colours(config, "image_mean", "image_std"))
    resample = config.get("resample")
    if isinstance(resample, int) and resample in RESAMPLE:
        yield "interpolation", RESAMPLE[resample]
    size, crop = config.get("size"), config.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if isinstance(edge, int):
        yield "resize", [edge]
    cropped = config.get("do_center_crop", crop is not None)
    seen = crop if cropped and crop is not None else size
    if isinstance(seen, int):
        yield "size", [seen, seen]
    elif isinstance(seen, Mapping) and isinstance(seen.get("height"), int) and isinstance(seen.get("width"), int):
        yield "size", [seen["height"], seen["width"]]


def _colours(config: Mapping[str, Any], *names: str) -> Iterator[tuple[str, Any]]:
    for name in names:
        if (numbers := _numbers(config.get(name), 3)) is not None:
            yield name, numbers


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = values.get(name)
    return part if isinstance(part, Mapping) else {}


def _numbers(value: Any, n: int) -> list[Any] | None:
    """Return a list of n numbers, or None for anything else."""
    if not isinstance(value, list) or len(value) != n:
        return None
    return value if all(isinstance(one, int | float) and not isinstance(one, bool) for one in value) else None


def _equal(theirs: Any, ours: Any) -> bool:
    """Whether two settings are equal; numbers may be rounded."""
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(_equal(*pair) for pair in zip(theirs, ours, strict=True))
    if isinstance(theirs, int | float) and isinstance(ours, int | float) and not isinstance(ours, bool):
        return abs(theirs - ours) <= 1e-3 * max(abs(ours), 1e-5)
    return bool(theirs == ours)
