"""Files of a model: in a folder that the user names, or on the hub at one revision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater._extras import need
from headwater.embed.known import known_of, short_name
from headwater.embed.model_spec import ModelSpec
from headwater.embed.weights import first_line
from headwater.errors import EncoderError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights that a model of timm or transformers has on the hub, in the order in which they are tried."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
CONFIGS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
"""Files of a model that are no weights."""


def weights_in(path: str | Path) -> Path:
    """Return a file of weights: the path itself, or the only such file in a folder.

    Raises
    ------
    EncoderError
        When a folder has none, or several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:4])
        what = f"has several files of weights ({names})" if found else "has no file of weights"
        raise EncoderError(f"--weights {path}: the folder {what}. Name the file.")
    return found[0]


def weights_on_hub(model: ModelSpec) -> Path:
    """Return the file of weights of a model on the hub, from the cache or downloaded.

    Raises
    ------
    EncoderError
        When it is not in the cache and cannot be downloaded; the message says how to get it.
    """
    repository, revision = _on_hub(model)
    hub = need("huggingface_hub", "encoders")
    missing = need("huggingface_hub.errors", "encoders").EntryNotFoundError
    named = model.arguments.get("file")
    names = WEIGHTS if named is None else (str(named),)

    def fetch() -> Path:
        for name in names[:-1]:
            try:
                return Path(hub.hf_hub_download(repository, name, revision=revision))
            except missing:  # offline, a file that the cache lacks
                continue
        return Path(hub.hf_hub_download(repository, names[-1], revision=revision))

    return Path(_fetched(fetch, model))


def folder_on_hub(model: ModelSpec) -> Path:
    """Return the folder of a model on the hub at its revision, with configuration and weights.

    Raises
    ------
    EncoderError
        When it is not in the cache and cannot be downloaded; the message says how to get it.
    """
    repository, revision = _on_hub(model)
    hub = need("huggingface_hub", "encoders")

    def fetch() -> Path:
        for pattern in ("*.safetensors", "*.bin"):
            folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=[*CONFIGS, pattern]))
            if any(folder.glob(pattern)):
                break
        return folder

    folder = Path(_fetched(fetch, model))
    if not any(file.suffix in SUFFIXES for file in folder.iterdir()):
        raise unreachable(model, "the hub's cache has its configuration without its weights")
    return folder


def unreachable(model: ModelSpec, why: str) -> EncoderError:
    """Return the error for a model whose files are not here, with what to do: log in, or copy the files."""
    known, repository = known_of(str(model)), model.repository
    place, revision = repository or (model.name, None)
    pin = "" if revision is None else f" --revision {revision}"
    gate = ""
    if known is not None and known.gated:
        gate = f"It is gated: accept its terms at {known.source}, then run hf auth login. "
    folder = place.rpartition("/")[2]
    return EncoderError(
        f"{short_name(str(model))}: cannot be fetched from the hub ({why}). {gate}Without a network, copy its files "
        f"(hf download {place}{pin} --local-dir {folder}), and pass --weights {folder}."
    )


def _on_hub(model: ModelSpec) -> tuple[str, str | None]:
    if model.repository is None:
        raise EncoderError(f"{model.plain}: names no model on the hub. Write ORG/NAME@REVISION.")
    return model.repository


def _fetched(fetch: Callable[[], Any], model: ModelSpec) -> Any:
    try:
        return fetch()
    except Exception as error:  # the library raises many kinds: offline, no access, no such revision
        raise unreachable(model, first_line(error)) from error
