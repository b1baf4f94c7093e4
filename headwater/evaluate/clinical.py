"""Numbers that depend on how common the disease is, and on what is done about a positive result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.evaluate.intervals import LEVEL, Interval, mean_share_interval

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
THRESHOLDS = np.concatenate([np.arange(1, 10) / 1000, np.arange(1, 100) / 100])
"""The threshold probabilities of a decision curve: in steps of 0.001 up to 0.01, then of 0.01."""


def require_prevalence(prevalence: float) -> None:
    """Refuse a prevalence that is not between 0 and 1."""
    if not 0 < prevalence < 1:
        raise InputError(f"--prevalence {prevalence:g}: must be between 0 and 1, such as 0.006 for 6 in 1,000.")


@dataclass(frozen=True, eq=False)
class Called:
    """Test rows of a binary task, which of them are positive, and which are called positive.

    Attributes
    ----------
    positive, called : bool arrays of shape (n,)
    groups : int64 array of shape (n,)
        Independent groups.
    prevalence
        The prevalence to restate numbers for; None for that of the rows.
    """

    positive: Bools
    called: Bools
    groups: Integers
    prevalence: float | None = None

    def rates(self, level: float = LEVEL) -> dict[str, tuple[float, Interval]]:
        """Return predictive values, recall rate and detection rate at the prevalence, with intervals.

        With sensitivity s, specificity c and prevalence q: ppv is ``q s / (q s + (1 - q)(1 - c))``, npv is
        ``(1 - q) c / ((1 - q) c + q (1 - s))``, the recall rate (share of all called positive) is
        ``q s + (1 - q)(1 - c)``, and the detection rate (share of all that are found positive) is ``q s``. Their
        intervals combine those of s and c, which never shrink to a point.

        References
        ----------
        Bayes' rule; Pepe, The Statistical Evaluation of Medical Tests, 2003, section 2.3.
        """
        if self.prevalence is not None:
            return self._restated_rates(self.prevalence, level)
        a, b = self.positive & self.called, ~self.positive & self.called
        c, d = self.positive & ~self.called, ~self.positive & ~self.called
        every = np.ones(len(self.positive), bool)
        shares = {"ppv": (a, a | b), "npv": (d, c | d), "recall_rate": (a | b, every), "detection_rate": (a, every)}
        return {name: self._share(*share, level) for name, share in shares.items()}

    def _share(self, right: Bools, chosen: Bools, level: float) -> tuple[float, Interval]:
        """Return a share of the chosen rows, with its interval by groups."""
        if not chosen.any():
            return float("nan"), Interval(float("nan"), float("nan"))
        rows = np.arange(len(right))
        return float(right[chosen].mean()), mean_share_interval(right, chosen, self.groups, [rows], level)

    def _restated_rates(self, q: float, level: float) -> dict[str, tuple[float, Interval]]:
        """Return the rates at a prevalence from sensitivity and false-positive rate, whose intervals are combined."""
        (s, of_s), (f, of_f) = (self._share(self.called, rows, level) for rows in (self.positive, ~self.positive))
        ppv = _combined(s, of_s, f, of_f, lambda s, f: q * s / (q * s + (1 - q) * f) if s + f > 0 else float("nan"))
        npv = _combined(
            s,
            of_s,
            f,
            of_f,
            lambda s, f: (1 - q) * (1 - f) / ((1 - q) * (1 - f) + q * (1 - s)) if s * f < 1 else float("nan"),
        )
        low = np.hypot(q * (s - of_s.low), (1 - q) * (f - of_f.low))
        high = np.hypot(q * (of_s.high - s), (1 - q) * (of_f.high - f))
        recalled = q * s + (1 - q) * f
        return {
            "ppv": ppv,
            "npv": npv,
            "recall_rate": (recalled, Interval(max(recalled - float(low), 0.0), recalled + float(high))),
            "detection_rate": (q * s, Interval(q * of_s.low, q * of_s.high)),
        }


def _combined(
    s: float, of_s: Interval, f: float, of_f: Interval, value: Callable[[float, float], float]
) -> tuple[float, Interval]:
    """Return a predictive value with its interval: rises with s and falls with f, whose intervals are independent.

    On the logit scale, the distances that s and f alone make to each end are added as squares.

    References
    ----------
    Zou and Donner, Statistics in Medicine 27, 2008 (recovery of variance estimates).
    """
    from scipy.special import expit, logit

    at = value(s, f)
    ends = (of_s.low, of_s.high, of_f.low, of_f.high)
    if np.isnan([at, *ends]).any():
        return at, Interval(float("nan"), float("nan"))
    if at in (0.0, 1.0):
        worst, best = value(of_s.low, of_f.high), value(of_s.high, of_f.low)
        return at, Interval(worst, 1.0) if at == 1.0 else Interval(0.0, best)
    with np.errstate(divide="ignore"):
        middle = logit(at)
        down = np.hypot(middle - logit(value(of_s.low, f)), middle - logit(value(s, of_f.high)))
        up = np.hypot(logit(value(of_s.high, f)) - middle, logit(value(s, of_f.low)) - middle)
    return at, Interval(float(expit(middle - down)), float(expit(middle + up)))


def decision_curve(
    positive: Bools, probability: Floats, groups: Integers, prevalence: float | None = None, level: float = LEVEL
) -> dict[str, Any]:
    """Compute the net benefit of acting on predicted probabilities, at each threshold probability.

    At the threshold t, rows with a probability of at least t are treated, and a false positive costs ``t / (1 - t)``
    times what a true positive gains. The net benefit is in true positives per row: treating nobody has 0.

    Parameters
    ----------
    positive : bool array of shape (n,)
        Which rows have the disease.
    probability : float64 array of shape (n,)
        Its predicted probability.
    groups : int64 array of shape (n,)
        Independent groups.
    prevalence
        The prevalence to restate the benefit for. Default: that of the rows. Probabilities should then be calibrated
        for it; see `prior_shift`.
    level
        Confidence level.

    Returns
    -------
    dict of str to list
        ``threshold``, ``net_benefit`` with ``low`` and ``high``, and ``treat_all``.

    References
    ----------
    Vickers and Elkin, Decision curve analysis, Medical Decision Making 26, 2006.

    Examples
    --------
    >>> found = decision_curve(np.array([False, False, True, True]), np.array([0.1, 0.6, 0.4, 0.9]), np.arange(4))
    >>> found["threshold"][58], round(found["net_benefit"][58], 3), round(found["treat_all"][58], 3)
    (0.5, 0.0, 0.0)
    """
    from scipy.special import stdtrit

    weight = _restated(positive, prevalence)
    n_groups = max(2, len(np.unique(groups)))
    factor = float(stdtrit(n_groups - 1, (1 + level) / 2)) * n_groups / (n_groups - 1)
    out: dict[str, list[float]] = {name: [] for name in ("threshold", "net_benefit", "low", "high", "treat_all")}
    for t in THRESHOLDS.tolist():
        gain = weight * np.where(positive, 1.0, -t / (1 - t))
        each = gain * (probability >= t)
        benefit = float(each.mean())
        influence = (each - benefit) / len(each)
        if prevalence is not None:
            for side in (positive, ~positive):
                influence[side] -= influence[side].mean()
        half = factor * _error(influence, groups)
        found = (t, benefit, benefit - half, benefit + half, float(gain.mean()))
        for name, value in zip(out, found, strict=True):
            out[name].append(value)
    return out


def prior_shift(trained: float, stated: float) -> float:
    """Return what to add to the logit of a probability that was learned at one prevalence, for use at another.

    References
    ----------
    Saerens, Latinne and Decaestecker, Neural Computation 14, 2002, equation 2.4, for two classes.

    Examples
    --------
    >>> round(prior_shift(0.5, 0.006), 3)
    -5.11
    """
    return float(np.log(stated / (1 - stated)) - np.log(trained / (1 - trained)))


def _restated(positive: Bools, prevalence: float | None) -> Floats:
    """Return weights with mean 1, under which the positive rows have a prevalence; NaN if a class is absent."""
    if prevalence is None:
        return np.ones(len(positive))
    share = float(positive.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(positive, np.float64(prevalence) / share, np.float64(1 - prevalence) / (1 - share))


def _error(influence: Floats, groups: Integers) -> float:
    """Return the standard error of a sum of influences that depend on each other within groups."""
    return float((np.bincount(groups, weights=influence) ** 2).sum() ** 0.5)
