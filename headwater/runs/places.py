"""Paths from a run to its store, manifest or other run: relative in its files, so that all can be moved together.

In memory these are absolute paths, or URLs. Other paths that the user gave, such as weights, stay as given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.store import places

PLACES = ("store", "manifest", "run")


def seen_from(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration to write into a run's folder, with relative paths."""
    return {n: places.seen_from(folder, v) if n in PLACES and isinstance(v, str) else v for n, v in config.items()}


def found_from(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration read from a run's folder, with absolute paths; earlier versions wrote absolute paths."""
    return {n: places.found_from(folder, v) if n in PLACES and isinstance(v, str) else v for n, v in config.items()}
