"""Splits, metrics and the protocol: arrays in, numbers out."""

from headwater.evaluate.metrics import Task, count_folds, infer_task, log_loss_many, score, summarise
from headwater.evaluate.outcome import Fold, Outcome, OutOfFold, joined
from headwater.evaluate.protocol import cross_validate
from headwater.evaluate.search import TPE, Grid, Searches, Trial
from headwater.evaluate.splits import Split, inner_splits, make_splits

__all__ = [
    "TPE",
    "Fold",
    "Grid",
    "OutOfFold",
    "Outcome",
    "Searches",
    "Split",
    "Task",
    "Trial",
    "count_folds",
    "cross_validate",
    "infer_task",
    "inner_splits",
    "joined",
    "log_loss_many",
    "make_splits",
    "score",
    "summarise",
]
