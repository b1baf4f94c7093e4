"""Folders of runs: those of one protocol run separately for each value of a column, and those of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headwater._reading import read_json
from headwater.errors import HeadError, InputError
from headwater.evaluate.fold_means import natural

METRICS = "metrics.json"  # a folder without it is no finished run
FAMILY = "family.json"
"""The file in a folder of runs that says what their levels are."""


def family_of(path: Path) -> dict[str, Path]:
    """Return the runs of a directory by level: the run itself, or each run within it."""
    if (path / METRICS).is_file():
        return {"": path}
    if (listed := _listed(path)) is not None:
        return listed
    within = path / "runs" if (path / "runs").is_dir() else path
    found = (
        {
            one.name: one
            for one in sorted(within.iterdir(), key=lambda one: natural(one.name))
            if (one / METRICS).is_file()
        }
        if path.is_dir()
        else {}
    )
    if not found:
        raise HeadError(f"{path}: no run here, and none in it.")
    return found


def _listed(path: Path) -> dict[str, Path] | None:
    """Return the runs that a family's own file lists, by value; None without such a file."""
    try:
        found = read_json(path / FAMILY)
    except (OSError, ValueError):
        return None
    names = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        return None
    for name in names.values():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise HeadError(f"{path / FAMILY}: {name!r} is not the name of a folder. Fit the family again.")
    return {str(value): path / name for value, name in names.items()}


def divided_by(path: Path) -> str | None:
    """Return the column by which a family of runs is divided; None if it does not say."""
    try:
        found = read_json(path / FAMILY)
    except (OSError, ValueError):
        return None
    return str(found["separately"]) if isinstance(found, dict) and "separately" in found else None


def names_of_systems(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """Return what to call systems: the names given, or the shortest unique ends of their paths."""
    if names is not None:
        if len(names) != len(paths) or len(set(names)) < len(names):
            raise InputError(f"--name: {len(paths)} runs need as many different names.")
        return list(names)
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        found = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(found)) == len(found):
            break
    return found
