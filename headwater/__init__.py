"""headwater: a feature store with lightweight heads.

Encoders run once and fill a store; heads are fitted on what is stored, in seconds, as often as one likes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# A package once loaded stays where its import put it, in the way of the verb of the same name. So the package is loaded
# first and that name given back: `headwater.embed(...)` is the verb, `from headwater.embed import ...` the package.
import_module("headwater.embed")
del globals()["embed"]

_LAZY = {
    "demo": "headwater.api",
    "embed": "headwater.api",
    "fit_head": "headwater.api",
    "index": "headwater.api",
    "info": "headwater.api",
    "open_run": "headwater.api",
    "similar": "headwater.api",
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
