"""Calibration of probabilities: temperature scaling, isotonic regression, and calibration error.

Truth is class numbers of shape (n,), with scores (n, n_classes) that sum to 1; or, for several labels, 0/1 of shape
(n, n_labels), with a probability for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError, nearest
from headwater.evaluate._bins import ece_places
from headwater.evaluate.metrics import Task

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Method = Literal["temperature", "isotonic"]
METHODS = ("temperature", "isotonic")

_LEAST = float(np.finfo(np.float64).eps)  # as in the log loss
_COLDEST, _HOTTEST = 0.05, 20.0


class Calibrator(ABC):
    """A function that calibrates scores, row by row."""

    @abstractmethod
    def __call__(self, scores: Floats) -> Floats:
        """Return calibrated probabilities of the same shape."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, from which `calibrator_from_dict` restores the calibrator."""


@dataclass(frozen=True)
class Temperature(Calibrator):
    """Logits divided by a temperature: above 1 scores become less confident, below 1 more; their order stays.

    Attributes
    ----------
    task
        For "multilabel", each label is a binary problem with its own temperature.
    temperatures
        One temperature, or one per label.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017, section 4.2.
    """

    task: Task
    temperatures: tuple[float, ...]

    def __call__(self, scores: Floats) -> Floats:
        if self.task == "multilabel":
            return _sharpened_labels(scores, 1 / np.array(self.temperatures))
        return _sharpened(scores, 1 / self.temperatures[0])

    def to_dict(self) -> dict[str, Any]:
        return {"method": "temperature", "task": self.task, "temperatures": list(self.temperatures)}


class Steps(NamedTuple):
    """A non-decreasing function: linear between points, constant beyond the first and the last."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Isotonic(Calibrator):
    """Scores mapped by non-decreasing functions, one per class (one against the rest, then normalised to sum to 1).

    Attributes
    ----------
    task
        For "binary" one function, for the second class; else one per class or label.
    steps
        The functions; None leaves the scores of a class unchanged.

    References
    ----------
    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    task: Task
    steps: tuple[Steps | None, ...]

    def __call__(self, scores: Floats) -> Floats:
        if self.task == "binary":
            positive = _stepped(scores[:, 1], self.steps[0])
            return np.column_stack([1 - positive, positive])
        mapped = np.column_stack([_stepped(scores[:, c], steps) for c, steps in enumerate(self.steps)])
        if self.task == "multilabel":
            return mapped
        total = mapped.sum(1, keepdims=True)
        # if all classes are mapped to 0, they get equal probabilities
        return np.where(total > 0, mapped / np.where(total > 0, total, 1), 1 / mapped.shape[1])

    def to_dict(self) -> dict[str, Any]:
        steps = [None if s is None else {"x": list(s.x), "y": list(s.y)} for s in self.steps]
        return {"method": "isotonic", "task": self.task, "steps": steps}


def calibrator_from_dict(values: Mapping[str, Any]) -> Calibrator:
    """Rebuild a calibrator from its `to_dict`."""
    require_method(values["method"])
    if values["method"] == "temperature":
        return Temperature(values["task"], tuple(map(float, values["temperatures"])))
    steps = [None if s is None else Steps(tuple(s["x"]), tuple(s["y"])) for s in values["steps"]]
    return Isotonic(values["task"], tuple(steps))


def fit_calibrator(method: Method, task: Task, truth: Integers, scores: Floats) -> Calibrator:
    """Fit a calibrator to out-of-fold scores.

    **temperature** minimises the log loss over one number between 0.05 and 20; if all predictions are correct, the
    unbounded optimum would be 0. **isotonic** minimises the squared error. A class or label that all rows have, or
    none, is left unchanged.

    Parameters
    ----------
    method
        "temperature" or "isotonic".
    truth : int64 array of shape (n_samples,) or (n_samples, n_labels)
        Class numbers, or 0/1.
    scores : float64 array of shape (n_samples, n_classes) or (n_samples, n_labels)
        Probabilities.

    Examples
    --------
    >>> sure = np.array([[0.01, 0.99], [0.01, 0.99], [0.01, 0.99], [0.99, 0.01]])
    >>> fitted = fit_calibrator("temperature", "binary", np.array([1, 1, 0, 0]), sure)
    >>> fitted(sure).round(2)[0].tolist()  # three of four were right
    [0.25, 0.75]
    """
    require_method(method)
    if method == "temperature" and task == "multilabel":
        pairs = (np.column_stack([1 - p, p]) for p in scores.T)
        return Temperature(task, tuple(_temperature(t, p) for t, p in zip(truth.T, pairs, strict=True)))
    if method == "temperature":
        return Temperature(task, (_temperature(truth, scores),))
    if task == "binary":
        return Isotonic(task, (_steps(truth == 1, scores[:, 1]),))
    is_class = truth == 1 if task == "multilabel" else truth[:, None] == np.arange(scores.shape[1])
    return Isotonic(task, tuple(_steps(t, p) for t, p in zip(is_class.T, scores.T, strict=True)))


def cross_calibrated(method: Method, task: Task, truth: Integers, scores: Floats, fold: Integers) -> Floats:
    """Calibrate each fold's rows with a calibrator fitted on the other folds.

    Parameters
    ----------
    method, task, truth, scores
        As for `fit_calibrator`.
    fold : int64 array of shape (n_samples,)
        At least two folds; with one, scores are returned unchanged.
    """
    require_method(method)
    out = scores.copy()
    for number in np.unique(fold):
        here = fold == number
        if not here.all():
            out[here] = fit_calibrator(method, task, truth[~here], scores[~here])(scores[here])
    return out


def require_method(method: str) -> None:
    """Refuse an unknown calibration method."""
    if method not in METHODS:
        raise InputError(f"--calibrate {method!r}: must be {' or '.join(METHODS)}.{nearest(method, METHODS)}")


# Calibration error


def calibration_error(task: Task, truth: Integers, scores: Floats) -> dict[str, float]:
    """Compute the losses that calibration should lower, in the same way for every task.

    Returns
    -------
    dict of str to float
        ``log_loss``: mean over rows, or over rows and labels. ``ece``: from `reliability`. ``brier``: the squared error
        of the second class's probability (binary), the sum over classes (multiclass, Brier's original form), or the
        mean over labels.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.
    """
    ece = ece_of(reliability(task, truth, scores))
    if task == "multilabel":
        of_truth = np.where(truth == 1, scores, 1 - scores)
        brier = float(np.mean((scores - truth) ** 2))
    else:
        of_truth = scores[np.arange(len(truth)), truth]
        squared = (scores - np.eye(scores.shape[1])[truth]) ** 2
        brier = float(squared.sum(1).mean()) / (2 if task == "binary" else 1)
    return {"log_loss": float(-np.log(np.clip(of_truth, _LEAST, 1)).mean()), "ece": ece, "brier": brier}


def ece_of(bins: Mapping[str, Sequence[Any]]) -> float:
    """Return the expected calibration error of the bins of `reliability`."""
    n = np.array(bins["count"])
    gap = [abs(a - c) for a, c in zip(bins["accuracy"], bins["confidence"], strict=True) if a is not None]
    return float(np.dot(n[n > 0], gap) / n.sum())


def reliability(task: Task, truth: Integers, scores: Floats) -> dict[str, list[Any]]:
    """Compute a reliability diagram: the accuracy of predictions in bins of confidence.

    With one label per row, confidence is the probability of the predicted class. With several, it is the probability of
    each label, and accuracy is the share of rows that have it.

    Returns
    -------
    dict of str to list
        15 bins of equal width that include their upper edge: ``edge`` (the upper one), ``confidence`` and ``accuracy``
        (means, None in an empty bin) and ``count``.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017, section 2.

    Examples
    --------
    >>> found = reliability("binary", np.array([1, 0]), np.array([[0.1, 0.9], [0.1, 0.9]]))
    >>> found["count"][13], found["confidence"][13], found["accuracy"][13]
    (2, 0.9, 0.5)
    """
    if task == "multilabel":
        confidence, right = scores.ravel(), truth.ravel() == 1
    else:
        confidence, right = scores.max(1), scores.argmax(1) == truth
    place, n_bins = ece_places(confidence)
    count = np.bincount(place, minlength=n_bins)
    means = [np.bincount(place, weights=v, minlength=n_bins) / np.maximum(count, 1) for v in (confidence, right)]
    return {
        "edge": [(i + 1) / n_bins for i in range(n_bins)],
        "confidence": [float(v) if n else None for v, n in zip(means[0], count, strict=True)],
        "accuracy": [float(v) if n else None for v, n in zip(means[1], count, strict=True)],
        "count": count.tolist(),
    }


# The arithmetic


def _sharpened(scores: Floats, sharpness: float) -> Floats:
    """Return ``softmax(sharpness * log(scores))``."""
    logits = sharpness * np.log(np.clip(scores, _LEAST, 1))
    exps = np.exp(logits - logits.max(1, keepdims=True))
    sharpened: Floats = exps / exps.sum(1, keepdims=True)
    return sharpened


def _sharpened_labels(scores: Floats, sharpness: Floats) -> Floats:
    logits = np.log(np.clip(scores, _LEAST, 1)) - np.log(np.clip(1 - scores, _LEAST, 1))
    out: Floats = np.exp(-np.logaddexp(0, -sharpness * logits))
    return out


def _temperature(truth: Integers, scores: Floats) -> float:
    """Return the temperature with the lowest log loss; 1 if all rows have the same class."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if (truth == truth[0]).all():
        return 1.0
    logits = np.log(np.clip(scores, _LEAST, 1))
    of_truth = logits[np.arange(len(truth)), truth]

    def loss(log_sharpness: float) -> float:
        sharpness = np.exp(log_sharpness)
        return float(np.mean(logsumexp(sharpness * logits, axis=1) - sharpness * of_truth))

    # The loss is convex in the sharpness 1 / T, so it has one minimum along its logarithm too.
    bounds = (-np.log(_HOTTEST), -np.log(_COLDEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(-found.x))


def _steps(truth: NDArray[np.bool_], scores: Floats) -> Steps | None:
    from sklearn.isotonic import IsotonicRegression  # imported here because it is slow

    if truth.all() or not truth.any():
        return None
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, truth.astype(np.float64))
    return Steps(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def _stepped(scores: Floats, steps: Steps | None) -> Floats:
    if steps is None:
        return scores
    mapped: Floats = np.interp(scores, steps.x, steps.y)
    return mapped
