"""Metrics of predictions, as a dictionary for each kind of task.

A metric is NaN if the test rows lack a class, or both values of a label, that it needs. A mean over only the classes or
labels that are present has its own name, which ends in ``_present``, and comes with their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import InputError, nearest
from headwater.evaluate import regression, survival
from headwater.evaluate._labels import count_nulls, counted, encode
from headwater.evaluate.classification import LEAST
from headwater.evaluate.measured import COUNTS, METRICS, measured
from headwater.evaluate.measured import Task as Task

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def infer_task(y: ArrayLike) -> Task:
    """Infer the kind of task from labels.

    Parameters
    ----------
    y : array of shape (n_samples,) or (n_samples, n_labels)
        Classes (strings, integers, booleans), or 0/1 indicators of several labels.

    Returns
    -------
    {"binary", "multiclass", "multilabel"}
        For two distinct classes, for more, and for two dimensions. Never "regression": numbers may stand for classes.

    Raises
    ------
    InputError
        When there is one class only, a label is null, or the labels are measurements rather than classes.

    Examples
    --------
    >>> infer_task(["benign", "malignant", "benign"])
    'binary'
    >>> infer_task([[0, 1], [1, 1]])
    'multilabel'
    """
    labels = np.asarray(y)
    if labels.ndim == 2:
        _indicators(labels)
        return "multilabel"
    if labels.ndim != 1 or len(labels) == 0:
        raise InputError(f"y has shape {labels.shape}, but needs (n_samples,) or (n_samples, n_labels).")
    _refuse_nulls(labels)
    classes, _ = encode(labels, "y")
    if classes.dtype.kind == "f" and not np.equal(np.mod(classes, 1), 0).all():
        raise InputError(f"y holds measurements such as {classes[0]}, not classes: convert them to classes first.")
    if len(classes) == 1:
        raise InputError(f"y is {classes[0]!s} in every row, but at least two classes are needed.")
    return "binary" if len(classes) == 2 else "multiclass"


def score(task: Task, y_true: ArrayLike, scores: ArrayLike, *, classes: ArrayLike | None = None) -> dict[str, float]:
    """Compute every metric of a task.

    Parameters
    ----------
    task
        "binary", "multiclass", "multilabel", "regression", "survival" or "ordinal".
    y_true : array of shape (n_samples,), or (n_samples, n_labels) for "multilabel"
        True classes, or 0/1 indicators; numbers for "regression", of shape (n_samples,) or (n_samples, n_outputs);
        times and events for "survival", of shape (n_samples, 2).
    scores : float array of shape (n_samples, n_classes) or (n_samples, n_labels)
        Probabilities of the classes, in the order of `classes`, that sum to 1; or a probability for each label. For
        "binary" also of shape (n_samples,): the probability of ``classes[1]``. For "regression" predicted numbers, in
        the shape of `y_true`. For "survival" risks, of shape (n_samples,) or (n_samples, 1).
    classes : array of shape (n_classes,), optional
        All classes, in the order of the columns of scores. Default: those of `y_true`, sorted. The last of two classes
        is the positive one; for "ordinal" they go from the lowest grade to the highest. Without effect for "multilabel"
        and "regression".

    Returns
    -------
    dict of str to float
        **binary**: of ``classes[1]``, predicted where its probability is above 0.5: precision, recall (the
        sensitivity), specificity, f1. Over both classes: accuracy, balanced_accuracy, f1_macro, f1_weighted (by the
        classes' shares), kappa (Cohen's). Of the ranking: auc, average_precision, auc_above_90_specificity (scaled so
        that chance is 0.5), sensitivity_at_90_specificity and specificity_at_90_sensitivity (at the threshold that
        reaches the 90 % on these rows). Of the probabilities: log_loss, brier, ece, calibration_slope,
        calibration_intercept (beside the slope) and calibration_in_the_large (the intercept with a slope of 1).

        **multiclass**: accuracy, balanced_accuracy, precision and recall (means over the classes), f1_macro,
        f1_micro, f1_weighted, kappa, kappa_quadratic (for classes that are grades, in their order), auc and
        average_precision (means over the classes of one against the rest), auc_macro (the same as auc), auc_micro,
        log_loss, brier (summed over the classes), ece. Over the classes that occur: balanced_accuracy_present,
        f1_macro_present, auc_present and average_precision_present, and their number, classes_present.

        **multilabel**: auc_micro, auc_macro, average_precision (the mean over the labels), and, from labels predicted
        where their probability is above 0.5, f1_micro, f1_macro, hamming (the share of wrong entries). From the three
        labels with the highest scores of each sample, without a threshold: top3_f1_micro, top3_f1_macro, top3_hamming,
        and top3_1, top3_2, top3_3, the share of samples with at least 1, 2, 3 true labels among them. Over the labels
        that some rows have and some have not: auc_macro_present, average_precision_present, f1_macro_present and
        top3_f1_macro_present, and their number, labels_present.

        **ordinal**, of the likeliest grade: accuracy, balanced_accuracy, mae_grades (mean error in grades), off_by_two
        (share of errors of two grades or more), kappa, kappa_quadratic. Of the probabilities: spearman (of true and
        expected grade), auc_cuts (mean over the cuts between grades, each as two classes), log_loss, rps (ranked
        probability score, the mean over cuts of the squared error), brier, ece. Over the grades that occur:
        balanced_accuracy_present, auc_cuts_present, and their number, classes_present.

        **regression**: r2, mae, rmse, pearson, spearman, each the mean over the outputs; see
        `headwater.evaluate.regression.of_each_output` for those of each.

        **survival**: c_index (Harrell's) and c_index_uno; see `headwater.evaluate.survival.weighted`.

    Raises
    ------
    InputError
        When scores are NaN, or class scores are not between 0 and 1 or do not sum to 1; when a label is null or not in
        `classes`; or when shapes do not match.

    Notes
    -----
    A metric that needs a class that no row of `y_true` has is NaN; with several labels, so is a mean over labels one of
    which no row has (for AUC: or every row has). Metrics that need no class, such as accuracy, log_loss and brier, are
    always numbers. Calibration slope and intercept are NaN if the scores separate the classes.

    Precision is 0 if nothing is predicted. `log_loss` clips probabilities to at least 2.2e-16. `ece` is the expected
    calibration error [1]_ of the predicted class, in 15 bins of equal width. For ties, the earlier column counts as
    higher.

    References
    ----------
    .. [1] Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017). On calibration of modern neural networks. ICML,
       equation 3.

    Examples
    --------
    >>> metrics = score("binary", ["no", "no", "yes", "yes"], [0.1, 0.6, 0.4, 0.9])
    >>> metrics["accuracy"], metrics["auc"], metrics["recall"]
    (0.5, 0.75, 0.5)
    """
    if task not in get_args(Task):
        raise InputError(f"task {task!r}: must be one of {', '.join(get_args(Task))}.{nearest(task, get_args(Task))}")
    labels, probabilities = np.asarray(y_true), np.asarray(scores, dtype=np.float64)
    if len(labels) == 0:
        raise InputError("there are no rows to score.")
    _refuse_nulls(labels)
    if n_nan := int(np.isnan(probabilities).sum()):
        raise InputError(f"scores are NaN in {counted(n_nan, 'place')}: the head did not converge.")
    if task == "regression":
        return regression.mean_over_outputs(labels, probabilities)
    if task == "survival":
        return survival.score(labels, probabilities)
    if (probabilities < -1e-6).any() or (probabilities > 1 + 1e-6).any():
        low, high = probabilities.min(), probabilities.max()
        raise InputError(f"scores range from {low:.3g} to {high:.3g}, but must be probabilities from 0 to 1.")
    probabilities = probabilities.clip(0, 1)
    if task == "multilabel":
        truth = _indicators(labels)
        _refuse_shape(probabilities, truth.shape)
        return _once(task, truth, probabilities)
    codes, n_classes = _class_codes(labels, classes)
    if task == "binary" and n_classes != 2:
        raise InputError(f"a binary task has two classes, but there {'is' if n_classes == 1 else 'are'} {n_classes}.")
    if task == "binary" and probabilities.ndim == 1:
        probabilities = np.column_stack([1 - probabilities, probabilities])
    _refuse_shape(probabilities, (len(codes), n_classes))
    off = np.abs(probabilities.sum(axis=1) - 1)
    if off.max() > 1e-3:  # slightly above the rounding error of float16
        row = int(off.argmax())
        raise InputError(f"the scores of row {row} sum to {probabilities[row].sum():.3g}, but must sum to 1.")
    return _once(task, codes, probabilities)


def summarise(
    fold_metrics: Sequence[Mapping[str, float | None]],
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Compute the mean and the standard deviation over folds of every metric.

    Parameters
    ----------
    fold_metrics
        The metrics of each fold. Folds in which a metric is NaN, None or absent are ignored for it; see `count_folds`
        for the number of folds used.

    Returns
    -------
    mean, std
        The standard deviation has divisor n - 1. A mean without folds, and a standard deviation of one fold, are None
        rather than NaN, since JSON has no NaN.

    Examples
    --------
    >>> summarise([{"auc": 0.5, "f1": 1.0}, {"auc": 1.0, "f1": float("nan")}])
    ({'auc': 0.75, 'f1': 1.0}, {'auc': 0.3535533905932738, 'f1': None})
    """
    mean: dict[str, float | None] = {}
    std: dict[str, float | None] = {}
    for name, values in _by_metric(fold_metrics).items():
        mean[name] = float(np.mean(values)) if values else None
        std[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return mean, std


def count_folds(fold_metrics: Sequence[Mapping[str, float | None]]) -> dict[str, int]:
    """Count the folds that have a number for each metric, which `summarise` averages.

    Examples
    --------
    >>> count_folds([{"auc": 0.5, "f1": 1.0}, {"auc": 1.0, "f1": float("nan")}])
    {'auc': 2, 'f1': 1}
    """
    return {name: len(values) for name, values in _by_metric(fold_metrics).items()}


def log_loss_many(y_codes: ArrayLike, probabilities: NDArray[Any]) -> Floats:
    """Compute the log loss of many models on the same samples, to select among them.

    Parameters
    ----------
    y_codes : int array of shape (n_samples,)
        The true class of each sample, as a column of `probabilities`.
    probabilities : float array of shape (n_models, n_samples, n_classes)
        Only the entries of the true classes are read.

    Returns
    -------
    float64 array of shape (n_models,)
        Natural logarithm, mean over the samples, with probabilities clipped to at least 2.2e-16. Infinite for a model
        with NaN among the entries read, so that it is never the best.

    Raises
    ------
    InputError
        When shapes do not match, or a code is not a column.

    Examples
    --------
    >>> even, sure = np.full((2, 2), 0.5), np.eye(2)
    >>> log_loss_many([0, 1], np.stack([even, sure])).round(3)
    array([0.693, 0.   ])
    """
    codes = np.asarray(y_codes)
    if probabilities.ndim != 3 or codes.shape != probabilities.shape[1:2] or len(codes) == 0:
        raise InputError(
            f"probabilities must have shape (n_models, {len(codes)}, n_classes), but have {probabilities.shape}."
        )
    if codes.min() < 0 or codes.max() >= probabilities.shape[2]:
        raise InputError(
            f"codes run from {codes.min()} to {codes.max()}, but there are {probabilities.shape[2]} columns."
        )
    of_truth = probabilities[:, np.arange(len(codes)), codes].astype(np.float64)  # (n_models, n_samples)
    losses = np.log(1 / np.clip(of_truth, LEAST, 1)).mean(axis=1)
    return cast(Floats, np.where(np.isnan(losses), np.inf, losses))


# Validation and helpers


def _once(task: Task, truth: NDArray[Any], scores: Floats) -> dict[str, float]:
    """Return every metric with each row counted once."""
    found = measured(task, truth, scores, None, (*METRICS[task], *COUNTS[task]))
    return {name: float(value) for name, (value,) in found.items()}


def _by_metric(fold_metrics: Sequence[Mapping[str, float | None]]) -> dict[str, list[float]]:
    """Collect the defined numbers of each metric, metrics in order of first occurrence."""
    names = dict.fromkeys(name for metrics in fold_metrics for name in metrics)
    every = {name: [metrics.get(name) for metrics in fold_metrics] for name in names}
    return {name: [v for v in values if v is not None and v == v] for name, values in every.items()}


def _refuse_nulls(labels: NDArray[Any]) -> None:
    if n_null := count_nulls(labels):
        raise InputError(f"the label is null in {counted(n_null, 'row')}: leave those rows out.")


def _refuse_shape(scores: Floats, shape: tuple[int, ...]) -> None:
    if scores.shape != shape:
        raise InputError(f"scores have shape {scores.shape}, but need {shape}, a column for each class.")


def _indicators(labels: NDArray[Any]) -> NDArray[np.bool_]:
    if labels.ndim != 2 or 0 in labels.shape:
        raise InputError(f"y has shape {labels.shape}, but several labels need (n_samples, n_labels).")
    if not np.isin(labels, (0, 1)).all():
        raise InputError("y has two dimensions, so it must hold only 0 and 1, a column for each label.")
    return labels.astype(np.bool_)


def _class_codes(labels: NDArray[Any], classes: ArrayLike | None) -> tuple[Codes, int]:
    """Return the index of each label in `classes`, and the number of classes."""
    if labels.ndim != 1:
        raise InputError(f"y has shape {labels.shape}, but needs (n_samples,).")
    present, codes = encode(labels, "y")
    if classes is None:
        return codes, len(present)
    known = np.asarray(classes).tolist()
    place = {name: number for number, name in enumerate(known)}
    if len(place) < len(known):
        raise InputError("classes must be distinct, in the order of the columns of scores.")
    unknown = [name for name in present.tolist() if name not in place]
    if unknown:
        raise InputError(f"y holds {unknown[0]!r}, which is not one of the classes ({', '.join(map(str, place))}).")
    return np.array([place[name] for name in present.tolist()])[codes], len(known)
