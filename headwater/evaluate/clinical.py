"""Numbers that depend on how common the disease is, and on what is done about a positive result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.evaluate.intervals import LEVEL, Interval

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
        ``q s + (1 - q)(1 - c)``, and the detection rate (share of all that are found positive) is ``q s``. Standard
        errors are those of sums over groups (linearised), and intervals are on the logit scale.

        References
        ----------
        Bayes' rule; Pepe, The Statistical Evaluation of Medical Tests, 2003, section 2.3.
        """
        weight = _restated(self.positive, self.prevalence)
        a, b = self.positive & self.called, ~self.positive & self.called
        c, d = self.positive & ~self.called, ~self.positive & ~self.called
        every = np.ones(len(self.positive), bool)
        shares = {"ppv": (a, a | b), "npv": (d, c | d), "recall_rate": (a | b, every), "detection_rate": (a, every)}
        found = {name: self._share(*share, weight, level) for name, share in shares.items()}
        if self.prevalence is not None:  # the prevalence itself is certain
            q = self.prevalence
            sensitivity, (low, high) = replace(self, prevalence=None)._share(a, self.positive, np.ones(len(a)), level)
            found["detection_rate"] = q * sensitivity, Interval(q * low, q * high)
        return found

    def _share(self, right: Bools, chosen: Bools, weight: Floats, level: float) -> tuple[float, Interval]:
        """Return a weighted share with its interval; weights restate the two classes to the prevalence."""
        from scipy.special import expit, logit, stdtrit

        nothing = Interval(float("nan"), float("nan"))
        total = float(weight @ chosen)
        if total == 0:
            return float("nan"), nothing
        share = float(weight @ right) / total
        influence = weight * chosen * (right - share) / total
        if self.prevalence is not None:  # the weights depend on the rows' own shares of the classes
            for side in (self.positive, ~self.positive):
                influence[side] -= influence[side].mean()
        n = max(2, min(len(np.unique(self.groups[side])) for side in (chosen, self.positive) if side.any()))
        error = _error(influence, self.groups)
        if share in (0.0, 1.0) or error == 0:
            bound = ((1 - level) / 2) ** (1 / len(np.unique(self.groups[chosen])))
            ends = (bound, 1.0) if share > 0.5 else (0.0, 1 - bound)
            return share, Interval(*ends) if self.prevalence is None else nothing
        half = stdtrit(n - 1, (1 + level) / 2) * n / (n - 1) * error / (share * (1 - share))
        return share, Interval(float(expit(logit(share) - half)), float(expit(logit(share) + half)))


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
