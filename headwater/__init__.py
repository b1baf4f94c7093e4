"""headwater: a feature store with lightweight heads.

Encoders run once and fill a store; heads are fitted on what is stored, in seconds, as often as one likes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.api import embed as embed
    from headwater.api import evaluate as evaluate

__version__ = "0.1.0"

if sys.platform == "win32":  # before anything is imported that Windows lacks
    from headwater.errors import NotSupported

    raise NotSupported(
        "headwater does not run on Windows, which has no fcntl to lock stores with. Use Linux, such as WSL "
        "(https://learn.microsoft.com/windows/wsl)."
    )


class _Verb(ModuleType):
    """A package that is also the verb of its name: ``headwater.embed(...)`` beside ``import headwater.embed.run``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        verb = self.__name__.removeprefix("headwater.")
        return getattr(import_module("headwater.api"), verb)(*args, **kwargs)


for _name in ("embed", "evaluate"):
    import_module(f"headwater.{_name}").__class__ = _Verb

_LAZY = {
    "EncoderChoice": "headwater.embed.choice",
    "Event": "headwater._progress",
    "Execution": "headwater.embed.choice",
    "LoraSettings": "headwater.finetune.adapt",
    "ManifestColumns": "headwater.embed.plan",
    "Protocol": "headwater.evaluate.options",
    "Selection": "headwater.samples.selection",
    "Storage": "headwater.embed.plan",
    "Training": "headwater.finetune.options",
    "audit": "headwater.api",
    "compare": "headwater.api",
    "contrast": "headwater.api",
    "demo": "headwater.api",
    "doctor": "headwater.api",
    "encode": "headwater.api",
    "explain": "headwater.api",
    "export_features": "headwater.api",
    "fine_tune": "headwater.api",
    "fit_head": "headwater.api",
    "gc": "headwater.api",
    "import_features": "headwater.api",
    "index": "headwater.api",
    "info": "headwater.api",
    "open_run": "headwater.api",
    "plot": "headwater.report",
    "repair": "headwater.api",
    "similar": "headwater.api",
    "sweep": "headwater.api",
    "torch_dataset": "headwater.api",
    "verify": "headwater.api",
    "zero_shot": "headwater.api",
    "open_store": "headwater.store",
    "heads": "headwater",
}


def __getattr__(name: str) -> Any:
    """Import the verbs when they are first used, so that ``import headwater`` costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}")
    if _LAZY[name] == "headwater":
        return import_module(f"headwater.{name}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
