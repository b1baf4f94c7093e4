"""Figures and reports of finished runs.

The functions are imported when they are first used, so that importing the package loads no arrays.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.report.figures import plot
    from headwater.report.systems import plot_systems

__all__ = ["plot", "plot_systems"]

_PLACES = {"plot": "headwater.report.figures", "plot_systems": "headwater.report.systems"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'headwater.report' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
