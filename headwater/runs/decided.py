"""Validate what turns scores into decisions, which somebody else may have written: wrong values decide wrongly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from headwater._schema import Finite, Word, read_as
from headwater.evaluate.conformal import NEVER
from headwater.evaluate.risk_groups import NAMES


def require_decisions(decision: Mapping[str, Any], task: str, names: Sequence[Any]) -> None:
    """Raise unless calibrator, threshold, prediction sets and risk groups are of a task with these classes.

    Raises
    ------
    ValueError
        The message names the part.
    """
    words = [str(name) for name in names]
    if len(set(words)) != len(words) or any(isinstance(name, float) and not math.isfinite(name) for name in names):
        raise ValueError("names of classes must be distinct")
    parts = {"threshold": _threshold, "conformal": _sets, "calibrator": _calibrator, "risk_groups": _risk_groups}
    for part, check in parts.items():
        if part not in decision:
            continue
        try:
            check(read_as(dict[str, Any], decision[part]), task, words)
        except (ValueError, KeyError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"decision.{part}: {why}") from error


def _threshold(values: Mapping[str, Any], task: str, words: Sequence[str]) -> None:
    if task not in ("binary", "ordinal") or len(words) != 2:
        raise ValueError(f"a {task} task of {len(words)} classes has no threshold")
    threshold = read_as(Finite, values["threshold"])
    if not 0 <= threshold <= math.nextafter(1, 2):
        raise ValueError(f"it must be from 0 to 1, but is {threshold}")
    read_as(Finite, values["at"])
    read_as(Word, values["target"])
    if str(values["positive"]) != words[-1]:
        raise ValueError(f"its class must be {words[-1]!r}, which is the positive one")


def _sets(values: Mapping[str, Any], task: str, words: Sequence[str]) -> None:
    least = read_as(list[Finite | None], values["least"])
    if len(least) != len(words):
        raise ValueError(f"it has {len(least)} values for {len(words)} classes")
    if not all(value is None or 0 <= value <= NEVER for value in least):
        raise ValueError("values must be probabilities")
    read_as(Finite, values["alpha"])


def _calibrator(values: Mapping[str, Any], task: str, words: Sequence[str]) -> None:
    if values["task"] != task:
        raise ValueError(f"it is of a {values['task']} task, but the run is {task}")
    if values["method"] == "temperature":
        temperatures = read_as(list[Finite], values["temperatures"])
        if len(temperatures) != (len(words) if task == "multilabel" else 1) or min(temperatures) <= 0:
            raise ValueError("temperatures must be positive, one for each label")
        return
    steps = read_as(list[dict[str, list[Finite]] | None], values["steps"])
    if len(steps) != (1 if task == "binary" else len(words)):
        raise ValueError(f"it has {len(steps)} functions for {len(words)} classes")
    for step in steps:
        if step is None:
            continue
        x, y = step["x"], step["y"]
        if not x or len(x) != len(y) or sorted(x) != x or sorted(y) != y or y[0] < 0 or y[-1] > 1:
            raise ValueError("its functions must ascend, from 0 to 1")


def _risk_groups(values: Mapping[str, Any], task: str, words: Sequence[str]) -> None:
    at = read_as(list[Finite], values["thresholds"])
    if task != "survival" or len(at) + 1 not in NAMES or sorted(at) != at:
        raise ValueError("thresholds must ascend, one or two")
