"""headwater: a feature store with lightweight heads.

Encoders run once and fill a store. Heads are then fitted on the stored features, in seconds, as often as you like.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.api import embed as embed
    from headwater.api import evaluate as evaluate
    from headwater.api import report as report
    from headwater.api import samples as samples
    from headwater.serve.server import serve as serve

__version__ = "0.1.0"

if sys.platform == "win32":  # before the import of any module that Windows lacks
    from headwater.errors import NotSupported

    raise NotSupported(
        "headwater does not run on Windows, which has no fcntl to lock stores with. Use Linux, such as WSL "
        "(https://learn.microsoft.com/windows/wsl)."
    )


class _Verb(ModuleType):
    """A package that can also be called: both ``headwater.embed(...)`` and ``import headwater.embed.run`` work."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        verb = self.__name__.removeprefix("headwater.")
        return getattr(import_module(_VERBS[verb]), verb)(*args, **kwargs)


_VERBS = {
    **dict.fromkeys(("embed", "evaluate", "report", "samples"), "headwater.api"),
    "serve": "headwater.serve.server",
}

for _name in _VERBS:
    import_module(f"headwater.{_name}").__class__ = _Verb

_LAZY = {
    "CaseFilter": "headwater.samples.cases",
    "EncoderChoice": "headwater.embed.choice",
    "Event": "headwater._progress",
    "Execution": "headwater.embed.choice",
    "NearDuplicates": "headwater.samples.duplicates",
    "LoraSettings": "headwater.finetune.adapt",
    "ManifestColumns": "headwater.embed.plan",
    "Protocol": "headwater.evaluate.options",
    "Selection": "headwater.samples.selection",
    "Storage": "headwater.embed.plan",
    "Training": "headwater.finetune.options",
    "audit": "headwater.api",
    "bundle": "headwater.api",
    "cohort": "headwater.api",
    "compare": "headwater.api",
    "contrast": "headwater.api",
    "demo": "headwater.api",
    "docs": "headwater.api",
    "doctor": "headwater.api",
    "encode": "headwater.api",
    "encoders": "headwater.api",
    "explain": "headwater.api",
    "export_features": "headwater.api",
    "fine_tune": "headwater.api",
    "fit_head": "headwater.api",
    "fit_separately": "headwater.api",
    "gc": "headwater.api",
    "import_features": "headwater.api",
    "index": "headwater.api",
    "info": "headwater.api",
    "manifest": "headwater.api",
    "open_run": "headwater.api",
    "plot": "headwater.report",
    "plot_systems": "headwater.report",
    "predict": "headwater.api",
    "repair": "headwater.api",
    "retrieval_report": "headwater.api",
    "similar": "headwater.api",
    "sweep": "headwater.api",
    "table": "headwater.api",
    "text": "headwater.api",
    "tiles": "headwater.api",
    "torch_dataset": "headwater.api",
    "verify": "headwater.api",
    "verify_bundle": "headwater.api",
    "wheelhouse": "headwater.api",
    "zero_shot": "headwater.api",
    "open_store": "headwater.store",
    "heads": "headwater",
}


def __getattr__(name: str) -> Any:
    """Import each name when it is first used, so that ``import headwater`` stays fast."""
    if name not in _LAZY:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}")
    if _LAZY[name] == "headwater":
        return import_module(f"headwater.{name}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
