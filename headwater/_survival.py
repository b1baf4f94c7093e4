"""Right-censored times: their arrays, and the partial likelihood of Cox, for heads and for their evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._words import counted
from headwater.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Followed(NamedTuple):
    """How long each row was followed, and whether that ended with the event.

    Attributes
    ----------
    time : float64 of shape (n,)
        Above 0.
    event : bool of shape (n,)
        False for a censored row: the event had not happened by then.
    """

    time: Floats
    event: Bools


def as_survival(y: ArrayLike) -> Floats:
    """Return times and events as float64 of shape ``(n, 2)``, the event as 0 or 1.

    Parameters
    ----------
    y
        Of shape ``(n, 2)``: time, and event as 0/1; or a structured array with one boolean and one number field, as
        scikit-survival has it.

    Raises
    ------
    InputError
        When the shape is another, a time is not above 0 or not finite, or an event is not 0 or 1; the message names
        rows.

    Examples
    --------
    >>> as_survival([[12, 1], [30.5, 0]])
    array([[12. ,  1. ],
           [30.5,  0. ]])
    >>> as_survival(np.array([(True, 12.0)], dtype=[("died", bool), ("months", float)]))
    array([[12.,  1.]])
    """
    values = np.asarray(y)
    if values.dtype.names is not None:
        values = _of_fields(values)
    if values.ndim != 2 or values.shape[1] != 2 or len(values) == 0:
        raise InputError(
            f"survival needs y of shape (n_samples, 2), time and event, but y has shape {values.shape}: "
            "np.column_stack([time, event])."
        )
    try:
        found: Floats = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"survival needs numbers: {error}.") from error
    refuse_rows(np.asarray(~np.isfinite(found).all(1)), "survival times or events are not finite")
    refuse_rows(found[:, 0] <= 0, "survival times must be above 0, but are not")
    refuse_rows(~np.isin(found[:, 1], (0, 1)), "events must be 0 (censored) or 1, but are not")
    return found


def _of_fields(values: NDArray[Any]) -> NDArray[Any]:
    names = values.dtype.names or ()
    events = [name for name in names if values.dtype[name].kind == "b"]
    times = [name for name in names if values.dtype[name].kind in "fiu"]
    if len(names) != 2 or len(events) != 1 or len(times) != 1:
        raise InputError(f"y has the fields {', '.join(names)}, but survival needs a boolean event and a time.")
    return np.column_stack([values[times[0]].astype(np.float64), values[events[0]]])


def refuse_rows(bad: Bools, what: str) -> None:
    """Raise `InputError` that names the first rows that are bad, if there are any."""
    rows = np.flatnonzero(bad)
    if len(rows):
        raise InputError(f"{what} in {counted(len(rows), 'row')}, the first being {rows[:5].tolist()}.")


def followed(y: Floats) -> Followed:
    """Return the parts of `as_survival`."""
    return Followed(y[:, 0], y[:, 1] > 0)


@dataclass(frozen=True, eq=False)
class RiskSets:
    """The rows at risk at each event, for sums over them by cumulative sums.

    Rows are in ascending order of time. Tied events are treated as Efron does: the r-th of d events at one time (r from
    0) has the risk set's sum minus r / d of the sum over the d events.

    Attributes
    ----------
    order : int64 of shape (n,)
        Rows by ascending time.
    first : int64 of shape (n_events,)
        For each event, the place in the order of the first row that is at risk at its time.
    events : int64 of shape (n_events,)
        The place of each event in the order.
    tied : int64 of shape (n_events,)
        For each event, the number of its time among the distinct times of events.
    share : float64 of shape (n_events,)
        r / d.
    times : float64 of shape (n_times,)
        Distinct times of events, ascending.
    before : int64 of shape (n,)
        For each place in the order, the number of events at its time or earlier.
    """

    order: Rows
    first: Rows
    events: Rows
    tied: Rows
    share: Floats
    times: Floats
    before: Rows

    def totals(self, weight: Floats) -> Floats:
        """Return each event's sum over its risk set, ``(p, n_events)``, of weights in the order of time, ``(p, n)``."""
        total: Floats = np.cumsum(weight[:, ::-1], axis=1)[:, ::-1][:, self.first]
        if self.share.any():
            total = total - self.share * self.tie_sums(weight[:, self.events])
        return total

    def tie_sums(self, of_events: Floats) -> Floats:
        """Return for each event the sum over the events at its time, ``(p, n_events)``."""
        starts = np.searchsorted(self.tied, np.arange(len(self.times)))
        found: Floats = np.add.reduceat(of_events, starts, axis=1)[:, self.tied]
        return found

    @classmethod
    def of(cls, y: Floats) -> RiskSets:
        """Return the risk sets of times and events, ``(n, 2)`` as `as_survival` returns them."""
        order = np.argsort(y[:, 0], kind="stable")
        time, event = y[order, 0], y[order, 1] > 0
        events = np.flatnonzero(event)
        times, tied, d = np.unique(time[events], return_inverse=True, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(d)])[:-1]
        number = np.arange(len(events)) - starts[tied]
        return cls(
            order,
            np.searchsorted(time, time[events], side="left"),
            events,
            tied.astype(np.int64),
            number / d[tied],
            times,
            np.searchsorted(time[events], time, side="right"),
        )


def log_partial_likelihood(y: Floats, risks: NDArray[np.floating[Any]]) -> Floats:
    """Compute Cox's log partial likelihood of many models on the same rows, with Efron's treatment of ties.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        As `as_survival` returns it.
    risks : of shape (n_models, n)
        Log hazards, up to a constant for each model.

    Returns
    -------
    float64 of shape (n_models,)
        At most 0; -inf for a model whose risks are not finite. 0 without events.

    References
    ----------
    Efron, The efficiency of Cox's likelihood function for censored data, JASA 72, 1977.

    Examples
    --------
    >>> log_partial_likelihood(np.array([[1.0, 1], [2, 1], [3, 0]]), np.zeros((1, 3))).round(3)
    array([-1.792])
    """
    sets = RiskSets.of(y)
    found = np.full(len(risks), -np.inf)
    usable = np.isfinite(risks).all(1)
    if not len(sets.events):
        return np.where(usable, 0.0, -np.inf)
    risk = risks[usable][:, sets.order].astype(np.float64)
    risk -= risk.max(1, keepdims=True)
    found[usable] = risk[:, sets.events].sum(1) - _log_totals(sets, risk).sum(1)
    return found


def _log_totals(sets: RiskSets, risk: Floats) -> Floats:
    """Return the log of each event's denominator, ``(n_models, n_events)``, of risks in the order of time.

    Sums are of numbers up to 1; where a risk set holds numbers so small that all are 0, they are summed on a log scale.
    """
    total = sets.totals(np.exp(risk))
    with np.errstate(divide="ignore"):
        out: Floats = np.log(total)
    if (total < 1e-290).any():
        exact = np.logaddexp.accumulate(risk[:, ::-1], axis=1)[:, ::-1][:, sets.first]
        out = np.where(total < 1e-290, exact, out)
    return out


def concordance(y: Floats, risk: NDArray[np.floating[Any]]) -> float:
    """Compute Harrell's C: the share of comparable pairs in which the row with the earlier event has the higher risk.

    A pair is comparable if one row had the event and the other was still followed then: longer, or as long and
    censored. Equal risks count half. NaN without comparable pairs.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        As `as_survival` returns it.
    risk : of shape (n,)

    References
    ----------
    Harrell, Lee and Mark, Multivariable prognostic models, Statistics in Medicine 15, 1996.

    Examples
    --------
    >>> concordance(np.array([[1.0, 1], [2, 1], [3, 0]]), np.array([0.5, 0.9, 0.1])).__round__(3)
    0.667
    """
    time, event = followed(y)
    right = pairs = 0.0
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        pairs += later.sum()
        right += (risk[later] < risk[i]).sum() + (risk[later] == risk[i]).sum() / 2
    return float(right / pairs) if pairs else float("nan")
