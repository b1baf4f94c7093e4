"""The metrics of each task by name: which a run reports, and their values under many weightings of its rows.

What a run reports can be resampled and compared, since both go through `measured`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError, nearest
from headwater.evaluate import ordinal, regression, survival
from headwater.evaluate._weightings import Weightings
from headwater.evaluate.classification import ClassRows, LabelRows

Task = Literal["binary", "multiclass", "multilabel", "regression", "survival", "ordinal"]
Floats = NDArray[np.float64]

METRICS: Mapping[Task, tuple[str, ...]] = {
    "binary": (
        *("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "f1_macro", "f1_weighted"),
        *("kappa", "auc", "average_precision", "auc_above_90_specificity"),
        *("sensitivity_at_90_specificity", "specificity_at_90_sensitivity"),
        *("log_loss", "brier", "ece", "calibration_slope", "calibration_intercept", "calibration_in_the_large"),
    ),
    "multiclass": (
        *("accuracy", "balanced_accuracy", "precision", "recall", "f1_macro", "f1_micro", "f1_weighted"),
        *("kappa", "kappa_quadratic", "auc", "auc_macro", "auc_micro", "average_precision"),
        *("log_loss", "brier", "ece"),
        *("balanced_accuracy_present", "f1_macro_present", "auc_present", "average_precision_present"),
    ),
    "multilabel": (
        *("auc_micro", "auc_macro", "average_precision", "f1_micro", "f1_macro", "hamming"),
        *("top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3"),
        *("auc_macro_present", "average_precision_present", "f1_macro_present", "top3_f1_macro_present"),
    ),
    "regression": regression.METRICS,
    "ordinal": ordinal.METRICS,
    "survival": survival.METRICS,
}
"""The metrics that a run reports, by task. All can be compared; so can those that `is_metric` accepts."""
COUNTS: Mapping[Task, tuple[str, ...]] = {
    "binary": (),
    "multiclass": ("classes_present",),
    "multilabel": ("labels_present",),
    "regression": (),
    "ordinal": ("classes_present",),
    "survival": (),
}
"""Numbers that belong to the metrics of a run, and are none."""
WITHOUT_CLASSES = ("regression", "survival")
"""Tasks whose scores are numbers rather than probabilities of classes."""
LOWER_IS_BETTER = (
    *("log_loss", "brier", "hamming", "top3_hamming", "ece", "mae", "rmse"),
    *("mae_grades", "off_by_two", "rps"),
)
NEAREST_IS_BEST: Mapping[str, float] = {
    "calibration_slope": 1.0,
    "calibration_intercept": 0.0,
    "calibration_in_the_large": 0.0,
}
"""Metrics that are best at a value between their extremes."""
OF_EACH_CLASS = ("precision", "recall", "f1", "auc")
"""The metrics of each class or label against the rest."""
_AT = re.compile(
    r"(?P<what>sensitivity|specificity|auc)_(?:at|above)_(?P<percent>\d{1,2}(?:\.\d+)?)_(?P<given>sensitivity|specificity)"
)


def is_metric(task: Task, name: str) -> bool:
    """Whether a task has a metric, including those at any sensitivity or specificity.

    Examples
    --------
    >>> is_metric("binary", "sensitivity_at_97.5_specificity"), is_metric("multiclass", "sensitivity_at_90_specificity")
    (True, False)
    """
    return name in METRICS[task] or (task == "binary" and _operating_point(name) is not None)


def require_metric(task: Task, name: str) -> None:
    """Refuse a metric that a task does not have."""
    if not is_metric(task, name):
        known = METRICS[task]
        raise InputError(
            f"--metric {name!r}.{nearest(name, known)} For {task} runs there are: {', '.join(known)}"
            + ("; and sensitivity_at_N_specificity for any N, such as 80." if task == "binary" else ".")
        )


def measured(
    task: Task, truth: NDArray[Any], scores: Floats, weights: Weightings | None, names: Iterable[str]
) -> dict[str, Floats]:
    """Compute metrics under many weightings of the rows.

    Parameters
    ----------
    truth
        Class numbers, int64, of shape ``(n,)``; 0/1 of shape ``(n, n_labels)``; or numbers ``(n, n_outputs)``; or
        times and events ``(n, 2)``.
    scores : float64 array of shape (n, n_classes), (n, n_labels), (n, n_outputs) or (n, 1)
        Probabilities, predicted numbers, or risks.
    weights
        The weightings. Without any, each row counts once.
    names
        Metrics of the task; see `METRICS` and `is_metric`.

    Returns
    -------
    dict of str to float64 array of shape (draws,)
        NaN where undefined.
    """
    weights = Weightings.once(len(truth)) if weights is None else weights
    if task == "regression":
        return _of_numbers(truth, scores, weights, names)
    if task == "survival":
        return survival.weighted(truth, scores[:, 0], weights, tuple(names))
    rows = rows_of(task, truth, scores, weights)
    return {name: _value(rows, name) for name in names}


def rows_of(
    task: Task, truth: NDArray[Any], scores: Floats, weights: Weightings | None = None
) -> ClassRows | LabelRows:
    """Return the rows of a classification, for metrics of each class."""
    if task == "ordinal":
        return ordinal.GradeRows(truth, scores, weights)
    return LabelRows(truth, scores, weights) if task == "multilabel" else ClassRows(truth, scores, weights)


def each_class(
    task: Task, truth: NDArray[Any], scores: Floats, weights: Weightings | None = None
) -> Iterator[Mapping[str, Floats]]:
    """Yield the metrics of each class or label: precision, recall, f1, auc and support, each ``(draws,)``."""
    return rows_of(task, truth, scores, weights).of_each_class()


def sign_of(metric: str) -> int:
    """Return 1 if higher values of a metric are better, else -1."""
    return -1 if metric in LOWER_IS_BETTER else 1


def _operating_point(name: str) -> tuple[str, float] | None:
    """Return the method and the share of a metric at a sensitivity or specificity; None for other names."""
    found = _AT.fullmatch(name)
    if found is None or found["what"] == found["given"] or float(found["percent"]) == 0:
        return None
    if found["what"] == "auc":
        return None if "_at_" in name or found["given"] != "specificity" else ("partial_auc", _share(found["percent"]))
    return None if "_above_" in name else (f"{found['what']}_at", _share(found["percent"]))


def _share(percent: str) -> float:
    return float(percent) / 100


def _value(rows: ClassRows | LabelRows, name: str) -> Floats:
    if (point := _operating_point(name)) is not None:
        method, share = point
        return cast(Floats, getattr(rows, method)(share))
    return cast(Floats, getattr(rows, name))


def _of_numbers(truth: Floats, predicted: Floats, weights: Weightings, names: Iterable[str]) -> dict[str, Floats]:
    of_rows = weights.rows(np.arange(len(truth)))
    each: Sequence[dict[str, Floats]] = [
        regression.weighted(t, p, of_rows) for t, p in zip(truth.T, predicted.T, strict=True)
    ]
    return {name: np.mean([of_output[name] for of_output in each], axis=0) for name in names}
