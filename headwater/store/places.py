"""Paths stored in a store or a run: relative to its folder, so that files and folder can be moved together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.store.remote import is_url, remote_of


def seen_from(folder: Path, place: str) -> str:
    """Return an absolute path relative to ``folder``; URLs, and all paths in a store at a URL, stay unchanged."""
    if not place or is_url(place) or not Path(place).is_absolute() or remote_of(folder):
        return place
    return os.path.relpath(place, folder.resolve())


def found_from(folder: Path, place: str) -> str:
    """Return the absolute path for one that `seen_from` wrote; earlier versions wrote absolute paths."""
    if not place or is_url(place) or remote_of(folder):
        return place
    return os.path.normpath(folder.resolve() / place)


def files_seen_from(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Apply `seen_from` to all paths of an environment, such as ``weights_file``."""
    return {name: _changed(name, value, folder, seen_from, files_seen_from) for name, value in values.items()}


def files_found_from(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Apply `found_from` to all paths of an environment; undoes `files_seen_from`."""
    return {name: _changed(name, value, folder, found_from, files_found_from) for name, value in values.items()}


def _changed(name: str, value: Any, folder: Path, place: Any, places: Any) -> Any:
    if isinstance(value, Mapping):
        return places(folder, value)
    return place(folder, value) if isinstance(value, str) and name.endswith("_file") else value
