"""Splits, metrics and the protocol: arrays in, numbers out.

Submodules are imported when a name is first used, so that ``import headwater`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.evaluate.metrics import Task, count_folds, infer_task, log_loss_many, score, summarise
    from headwater.evaluate.outcome import Fold, Outcome, OutOfFold
    from headwater.evaluate.protocol import Repeat, cross_validate, cross_validate_repeats
    from headwater.evaluate.search import TPE, Grid, Refined, Searches, Trial
    from headwater.evaluate.splits import Split, inner_splits, make_splits

__all__ = [
    "TPE",
    "Fold",
    "Grid",
    "OutOfFold",
    "Outcome",
    "Refined",
    "Repeat",
    "Searches",
    "Split",
    "Task",
    "Trial",
    "count_folds",
    "cross_validate",
    "cross_validate_repeats",
    "infer_task",
    "inner_splits",
    "log_loss_many",
    "make_splits",
    "score",
    "summarise",
]

_PLACES = {
    **dict.fromkeys(("Task", "count_folds", "infer_task", "log_loss_many", "score", "summarise"), "metrics"),
    **dict.fromkeys(("Fold", "OutOfFold", "Outcome"), "outcome"),
    **dict.fromkeys(("Repeat", "cross_validate", "cross_validate_repeats"), "protocol"),
    **dict.fromkeys(("TPE", "Grid", "Refined", "Searches", "Trial"), "search"),
    **dict.fromkeys(("Split", "inner_splits", "make_splits"), "splits"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'headwater.evaluate' has no attribute {name!r}")
    return getattr(import_module(f"headwater.evaluate.{_PLACES[name]}"), name)
