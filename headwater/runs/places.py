"""Where a run's store, manifest or other run is, as its files say it: seen from the run, so that all may move together.

In memory these are absolute paths, or URLs. A path that a user typed, such as that of weights, stays as it was typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.store import places

PLACES = ("store", "manifest", "run")


def seen_from(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it is written into a run's folder."""
    return {n: places.seen_from(folder, v) if n in PLACES and isinstance(v, str) else v for n, v in config.items()}


def found_from(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that was read from a run's folder; earlier versions wrote absolute paths."""
    return {n: places.found_from(folder, v) if n in PLACES and isinstance(v, str) else v for n, v in config.items()}
