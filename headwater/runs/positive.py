"""The positive class of a run of two classes, as ``metrics.json`` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.errors import InputError
from headwater.evaluate.positive import Positive, positive_of


def positive_section(positive: Positive | None) -> dict[str, Any]:
    """Return what ``metrics.json`` says of the positive class; nothing where there is none."""
    return {} if positive is None else {"positive": positive._asdict()}


def positive_in_run(metrics: Mapping[str, Any], asked: str | None = None) -> Positive | None:
    """Return the positive class of a run of two classes: the one that is asked for, or else the run's, its last.

    Runs that do not say how it was chosen have their classes sorted.

    Raises
    ------
    InputError
        When a class is asked for that the run does not have.
    """
    if metrics["task"] != "binary" or len(metrics.get("classes", ())) != 2:
        if asked is not None:
            raise InputError(f"--positive {asked} names one of two classes, but this is a {metrics['task']} run.")
        return None
    if asked is not None:
        return positive_of(metrics["classes"], asked)
    return Positive(metrics["classes"][-1], metrics.get("positive", {"by": "order"})["by"])
