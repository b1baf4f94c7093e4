"""The positive class of a binary run, in ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.errors import InputError
from headwater.evaluate.positive import Positive, positive_of


def positive_section(positive: Positive | None) -> dict[str, Any]:
    """Return the section of ``metrics.json`` on the positive class; empty if there is none."""
    return {} if positive is None else {"positive": positive._asdict()}


def positive_in_run(metrics: Mapping[str, Any], asked: str | None = None) -> Positive | None:
    """Return the positive class of a binary run: the class asked for, or else the run's own, which is its last class.

    Older runs do not record how it was chosen; their classes are sorted.

    Raises
    ------
    InputError
        When the run does not have the class asked for.
    """
    if metrics["task"] != "binary" or len(metrics.get("classes", ())) != 2:
        if asked is not None:
            raise InputError(f"--positive {asked} names one of two classes, but this is a {metrics['task']} run.")
        return None
    if asked is not None:
        return positive_of(metrics["classes"], asked)
    return Positive(metrics["classes"][-1], metrics.get("positive", {"by": "order"})["by"])
