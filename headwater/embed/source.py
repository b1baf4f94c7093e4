"""Find out where an encoder's files come from: a directory, a file, the hub's local cache, or the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from headwater._extras import need
from headwater.embed.model_spec import ModelSpec

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Source:
    """Location of weights, tokenizer and preprocessing.

    Attributes
    ----------
    kind
        ``built in``; a named ``file`` or ``directory``; the ``cache`` of the hub or of torch; or the ``network``.
    place
        The path; for the network, the future path in the cache.
    """

    kind: Literal["built in", "file", "directory", "cache", "network"]
    place: str = ""


def source_of(encoder: str, weights: str | Path | None = None) -> Source:
    """Return where an encoder's files are now, without fetching any."""
    model = ModelSpec.parse(encoder)
    backend, name = model.backend, model.name
    if weights is not None:
        return Source("directory" if Path(weights).is_dir() else "file", str(Path(weights).resolve()))
    if backend == "python":
        file, colon, _ = name.rpartition(":")
        return Source("file", str(Path(file).resolve())) if colon else Source("built in", name)
    if backend == "torchvision":
        from headwater.embed.from_torchvision import cached_file, named_weights

        cached = cached_file(named_weights(name, encoder))
        return Source("cache" if cached.exists() else "network", str(cached))
    if backend not in ("timm", "open_clip", "hf"):
        return Source("built in")
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") or (backend == "hf" and folder.is_dir()):
        return Source("directory", str(folder.resolve()))
    repository = _repository(backend, name)
    if repository is None:
        return Source("network")
    cache = Path(need("huggingface_hub.constants", "encoders").HF_HUB_CACHE)
    name_of = need("huggingface_hub.file_download", "encoders").repo_folder_name
    stored = cache / name_of(repo_id=repository, repo_type="model")
    there = any(file.suffix in WEIGHTS for file in stored.glob("snapshots/*/**/*"))
    return Source("cache" if there else "network", str(stored))


def _repository(backend: str, name: str) -> str | None:
    """Return ``ORG/NAME`` on the hub; None if there is none, or the name is unknown."""
    found: str | None
    if backend == "hf" or name.startswith("hf-hub:"):
        found = name.removeprefix("hf-hub:")
    elif backend == "timm":
        config = need("timm", "encoders").models.get_pretrained_cfg(name)
        found = None if config is None else config.hf_hub_id
    else:
        model, _, tag = name.partition("/")
        found = need("open_clip", "encoders").get_pretrained_cfg(model, tag).get("hf_hub")
    repository = re.match(r"\w[\w.-]*/[\w.-]+", found or "")
    return repository[0] if repository else None


@contextmanager
def no_network(offline: bool) -> Iterator[None]:
    """If ``offline``, keep the hub's library from using the network while the body runs."""
    if not offline or find_spec("huggingface_hub") is None:
        yield
        return
    constants = need("huggingface_hub.constants", "encoders")
    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
