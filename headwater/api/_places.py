"""Where a run's store, manifest or other run is, as its files say it: seen from the run, so that all may move together.

In memory these are absolute paths, or URLs. A path that a user typed, such as that of weights, stays as it was typed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.store import is_url

PLACES = ("store", "manifest", "run")


def seen_from(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it is written into a run's folder."""
    return {name: _relative(value, folder) if name in PLACES else value for name, value in config.items()}


def found_from(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that was read from a run's folder; earlier versions wrote absolute paths."""
    return {name: _absolute(value, folder) if name in PLACES else value for name, value in config.items()}


def _relative(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or is_url(value) or not Path(value).is_absolute():
        return value
    return os.path.relpath(value, folder.resolve())


def _absolute(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or is_url(value):
        return value
    return os.path.normpath(folder.resolve() / value)
