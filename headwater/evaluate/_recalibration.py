"""Calibration slope and intercept, under many weightings of the rows at once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate._weightings import Weightings

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
_LEAST = float(np.finfo(np.float64).eps)
_STEPS, _CONVERGED, _STEEPEST = 50, 1e-9, 1e3


class Recalibration:
    """A logistic regression of the outcome on the logit of the predicted probability.

    The coefficients of the rows themselves are exact. Those of a weighting are one Newton step from there, which needs
    sums over the rows only; the error is of second order. All have shape ``(draws,)``, and are NaN if the classes are
    separated, so that the regression has no finite solution, or if the logits are constant.

    References
    ----------
    Cox, Two further applications of a model for binary regression, Biometrika 45, 1958. Van Calster et al.,
    Calibration: the Achilles heel of predictive analytics, BMC Medicine 17, 2019. Shao and Tu, The jackknife and
    bootstrap, 1995, section 5.4.7 (one-step bootstrap).
    """

    def __init__(self, positive: Bools, probability: Floats, weights: Weightings) -> None:
        clipped = np.clip(probability, _LEAST, 1 - _LEAST)
        self._y = positive.astype(np.float64)
        self._logit = np.log(clipped) - np.log1p(-clipped)
        self._weights = weights

    @property
    def slope(self) -> Floats:
        """1 if predictions are as extreme as they should be, below 1 if they are too extreme."""
        return self._line[:, 1]

    @property
    def intercept(self) -> Floats:
        """The intercept beside the slope."""
        return self._line[:, 0]

    @cached_property
    def _line(self) -> Floats:
        """Intercept and slope, of shape ``(draws, 2)``."""
        n = len(self._weights)
        z = self._logit
        start = np.zeros(2)
        start[1] = 1
        solution = self._solved(start)
        if solution is None:
            return np.full((n, 2), np.nan)
        p = _expit(solution[0] + solution[1] * z)
        off, spread = self._y - p, p * (1 - p)
        found = self._weights.sums(np.column_stack([off, off * z, spread, spread * z, spread * z**2]))
        a, b, c = found[:, 2], found[:, 3], found[:, 4]
        with np.errstate(divide="ignore", invalid="ignore"):
            determinant = a * c - b**2
            step = np.column_stack([c * found[:, 0] - b * found[:, 1], a * found[:, 1] - b * found[:, 0]])
            moved: Floats = solution + step / determinant[:, None]
        singular = determinant <= 1e-12 * np.maximum(a * c, 1e-300)
        moved[singular] = np.nan
        return moved

    def _solved(self, start: Floats) -> Floats | None:
        """Return the coefficients with the highest likelihood of the unweighted rows; None if there are none."""
        z, y, at = self._logit, self._y, start
        if y.all() or not y.any() or np.ptp(z) < 1e-9 or _separated(z, y > 0):
            return None
        columns = np.column_stack([np.ones_like(z), z])
        loss = _loss(at, z, y)
        for _ in range(_STEPS):
            p = _expit(at[0] + at[1] * z)
            gradient = columns.T @ (y - p)
            information = (columns * (p * (1 - p))[:, None]).T @ columns
            try:
                step = np.linalg.solve(information, gradient)
            except np.linalg.LinAlgError:
                return None
            size = 1.0
            while (new := _loss(at + size * step, z, y)) > loss + 1e-12 and size > 1e-6:
                size /= 2
            at, loss = at + size * step, new
            if np.abs(size * step).max() < _CONVERGED * max(1.0, float(np.abs(at).max())):
                return at if np.abs(at).max() < _STEEPEST else None
        return None

    @cached_property
    def in_the_large(self) -> Floats:
        """The intercept with a slope of 1: above 0 if the predicted probabilities are too low on average."""
        z, y = self._logit, self._y
        if y.all() or not y.any():
            return np.full(len(self._weights), np.nan)
        low, high = -float(z.max()) - 50, -float(z.min()) + 50
        for _ in range(200):  # bisection: the sum of the predicted probabilities rises with the intercept
            at = (low + high) / 2
            low, high = (at, high) if _expit(at + z).sum() < y.sum() else (low, at)
        p = _expit(at + z)
        off, spread = self._weights.sums(np.column_stack([y - p, p * (1 - p)])).T
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(spread > 0, at + off / spread, np.nan)
        return found


def _expit(x: Floats) -> Floats:
    found: Floats = np.exp(-np.logaddexp(0, -x))
    return found


def _loss(at: Floats, z: Floats, y: Floats) -> float:
    line = at[0] + at[1] * z
    return float((np.logaddexp(0, line) - y * line).mean())


def _separated(z: Floats, positive: Bools) -> bool:
    """Whether a threshold separates the classes, up to rows that lie on it."""
    above, below = z[positive], z[~positive]
    return bool(above.min() >= below.max() or above.max() <= below.min())
