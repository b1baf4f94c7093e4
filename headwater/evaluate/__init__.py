"""Splits, metrics and the protocol: arrays in, numbers out."""

from headwater.evaluate.metrics import Task, count_folds, infer_task, log_loss_many, score, summarise
from headwater.evaluate.protocol import Fold, Outcome, cross_validate
from headwater.evaluate.splits import Split, inner_splits, make_splits

__all__ = [
    "Fold",
    "Outcome",
    "Split",
    "Task",
    "count_folds",
    "cross_validate",
    "infer_task",
    "inner_splits",
    "log_loss_many",
    "make_splits",
    "score",
    "summarise",
]
