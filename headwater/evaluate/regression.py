"""Metrics of regression, also under many weightings of the rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import InputError
from headwater.evaluate._labels import counted

Floats = NDArray[np.float64]
METRICS = ("r2", "mae", "rmse", "pearson", "spearman")


def as_outputs(y: ArrayLike) -> Floats:
    """Return true or predicted numbers as float64 of shape ``(n_samples, n_outputs)``.

    Raises
    ------
    InputError
        When they are not numbers, or not finite.

    Examples
    --------
    >>> as_outputs([1, 2]).shape
    (2, 1)
    """
    try:
        values = np.asarray(y, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"regression needs numbers: {error}.") from error
    if values.ndim not in (1, 2) or 0 in values.shape:
        raise InputError(f"y has shape {values.shape}, but needs (n_samples,) or (n_samples, n_outputs).")
    if n_bad := int((~np.isfinite(values)).sum()):
        raise InputError(f"numbers are not finite in {counted(n_bad, 'place')}: leave those rows out.")
    return values.reshape(len(values), -1)


def of_each_output(y_true: ArrayLike, predicted: ArrayLike) -> dict[str, Floats]:
    """Compute every metric of regression for each output.

    Parameters
    ----------
    y_true, predicted : float arrays of shape (n_samples,) or (n_samples, n_outputs)

    Returns
    -------
    dict of str to float64 array of shape (n_outputs,)
        r2, mae, rmse, pearson and spearman (ties share their mean rank). r2 is NaN if the truth is constant, and a
        correlation if truth or predictions are constant.

    Examples
    --------
    >>> of_each_output([1, 2, 3], [1, 2, 4])["mae"].round(3)
    array([0.333])
    """
    truth, found = as_outputs(y_true), as_outputs(predicted)
    if truth.shape != found.shape:
        raise InputError(f"predictions have shape {found.shape}, but need {truth.shape}, a column for each output.")
    once = np.ones((1, len(truth)))
    each = [weighted(t, p, once) for t, p in zip(truth.T, found.T, strict=True)]
    return {name: np.concatenate([of_output[name] for of_output in each]) for name in METRICS}


def mean_over_outputs(y_true: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Compute the mean of every metric over the outputs; NaN if it is undefined for any of them."""
    return {name: float(values.mean()) for name, values in of_each_output(y_true, predicted).items()}


def weighted(truth: Floats, predicted: Floats, weights: Floats) -> dict[str, Floats]:
    """Compute every metric of one output under many weightings of its rows.

    Parameters
    ----------
    truth, predicted : float64 arrays of shape (n,)
    weights : float64 array of shape (draws, n)
        How often each row counts, as integers.

    Returns
    -------
    dict of str to float64 array of shape (draws,)
    """
    total = weights.sum(1)
    error = predicted - truth
    squared = weights @ error**2
    spread = _squares(_from_mean(truth, weights), truth, weights)
    r2 = 1 - squared / spread
    return {
        "r2": r2,
        "mae": weights @ np.abs(error) / total,
        "rmse": np.sqrt(squared / total),
        "pearson": _correlation(truth, predicted, weights),
        "spearman": rank_correlation(truth, predicted, weights),
    }


def rank_correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Compute Spearman's correlation under many weightings, as in `weighted`; NaN if either is constant."""
    return _correlation(_ranks(a, weights), _ranks(b, weights), weights)


def squared_errors(truth: Floats, predicted: NDArray[np.floating[Any]], variance: Floats) -> Floats:
    """Compute the mean squared error of many models on the same rows, to select among them.

    Parameters
    ----------
    truth : float64 array of shape (n_samples, n_outputs)
    predicted : float array of shape (n_models, n_samples, n_outputs)
    variance : float64 array of shape (n_outputs,)
        With several outputs, the error of each is divided by this, so that results do not depend on units.

    Returns
    -------
    float64 array of shape (n_models,)
        Infinite for a model with non-finite predictions, so that it is never the best.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        each = ((predicted.astype(np.float64) - truth) ** 2).mean(1)
    if truth.shape[1] > 1:
        each = each / np.where(variance > 0, variance, 1)
    losses: Floats = each.mean(1)
    return np.where(np.isfinite(losses), losses, np.inf)


def _from_mean(values: Floats, weights: Floats) -> Floats:
    """Return deviations of ``(n,)`` or ``(draws, n)`` from their mean under each weighting, of shape ``(draws, n)``."""
    mean: Floats = (weights * values).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    return values - mean


def _squares(from_mean: Floats, values: Floats, weights: Floats) -> Floats:
    """Return the weighted sum of squares; NaN if the values are constant up to rounding."""
    squares = (weights * from_mean**2).sum(1)
    rounding = weights.sum(1) * (8 * np.finfo(np.float64).eps * np.abs(values).max()) ** 2
    return np.where(squares <= rounding, np.nan, squares)


def _correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Return the correlation of ``(n,)`` or ``(draws, n)`` under each weighting; NaN if either is constant."""
    first, second = _from_mean(a, weights), _from_mean(b, weights)
    together = (weights * first * second).sum(1)
    found = together / np.sqrt(_squares(first, a, weights) * _squares(second, b, weights))
    out: Floats = np.clip(found, -1, 1)
    return out


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Return each row's rank under each weighting, as if rows were repeated, of shape ``(draws, n)``."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    of_value = np.add.reduceat(weights[:, order], starts, axis=1)  # (draws, distinct)
    return (np.cumsum(of_value, axis=1) - (of_value - 1) / 2)[:, place]
