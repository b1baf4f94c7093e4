"""Metrics of survival: concordance of risks with times, under many weightings of the rows at once.

A pair of rows is comparable if one had the event and the other was still followed then: longer, or as long and
censored. It is concordant if the row with the earlier event has the higher risk; equal risks count half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._survival import as_survival, log_partial_likelihood
from headwater.errors import InputError
from headwater.evaluate._weightings import Weightings

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]
METRICS = ("c_index", "c_index_uno")
STILL_FOLLOWED = 0.1
"""Uno's C counts events up to the latest time at which at least this share of the rows is still followed."""
PAIRS_AT_ONCE = 1 << 24


def truncation(time: Floats) -> float:
    """Return the time up to which Uno's C counts events: the latest at which a tenth of the rows is still followed.

    It depends on how long rows were followed alone, so models on the same rows share it.

    Examples
    --------
    >>> truncation(np.arange(1.0, 101.0))
    91.0
    """
    n = max(1, int(np.ceil(STILL_FOLLOWED * len(time))))
    return float(np.sort(time)[-n])


def uncensored(y: Floats, weights: Floats, at: Floats) -> Floats:
    """Estimate the probability of not being censored before some times, by Kaplan and Meier, under each weighting.

    At a time with events and censored rows, events come first.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        Times and events.
    weights : float64 of shape (draws, n)
        How often each row counts.
    at : float64 of shape (k,)

    Returns
    -------
    float64 of shape (draws, k)
    """
    order = np.argsort(y[:, 0], kind="stable")
    time, censored = y[order, 0], y[order, 1] == 0
    counts = weights[:, order]
    times, starts = np.unique(time, return_index=True)
    gone = np.add.reduceat(counts * censored, starts, axis=1)
    events = np.add.reduceat(counts * ~censored, starts, axis=1)
    left = np.cumsum((gone + events)[:, ::-1], axis=1)[:, ::-1] - events
    with np.errstate(divide="ignore", invalid="ignore"):
        stays = np.where(gone > 0, 1 - gone / left, 1.0)
    until = np.concatenate([np.ones((len(counts), 1)), np.cumprod(stays, axis=1)], axis=1)
    return until[:, np.searchsorted(times, at, side="left")]


def weighted(
    y: Floats, risk: Floats, weights: Weightings, names: Sequence[str] = METRICS, tau: float | None = None
) -> dict[str, Floats]:
    """Compute concordances under many weightings of the rows.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        Times and events.
    risk : float64 of shape (n,)
        Higher for an earlier event.
    weights
        How often each row counts, as whole numbers. Pairs of copies of one row are not comparable.
    names
        Among ``c_index`` (Harrell's) and ``c_index_uno``.
    tau
        Uno's C counts events before this time. Default: `truncation`.

    Returns
    -------
    dict of str to float64 array of shape (draws,)
        NaN for a weighting without comparable pairs.

    References
    ----------
    Harrell, Lee and Mark, Multivariable prognostic models, Statistics in Medicine 15, 1996. Uno, Cai, Pencina,
    D'Agostino and Wei, On the C-statistics for evaluating overall adequacy of risk prediction procedures with censored
    survival data, Statistics in Medicine 30, 2011: pairs are weighted by the inverse square of the probability that a
    row is not censored before the event, estimated from the same rows.
    """
    every = weights.rows(np.arange(len(y)))
    events = np.flatnonzero(y[:, 1] > 0)
    of_events = every[:, events]
    right, pairs = _concordant(y, risk, weights, every, events)
    found = {}
    for name in names:
        if name == "c_index":
            counted = of_events
        else:
            limit = truncation(y[:, 0]) if tau is None else tau
            before = y[events, 0] < limit
            with np.errstate(divide="ignore", invalid="ignore"):
                counted = np.where(of_events > 0, of_events / uncensored(y, every, y[events, 0]) ** 2, 0) * before
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.einsum("ij,ij->i", counted, pairs)
            share = np.einsum("ij,ij->i", counted, right) / total
        found[name] = np.where(total > 0, np.minimum(share, 1.0), np.nan)
    return found


def _concordant(y: Floats, risk: Floats, weights: Weightings, every: Floats, events: Rows) -> tuple[Floats, Floats]:
    """Return the weight of rows concordant with, and comparable to, each event: ``(draws, n_events)`` each."""
    time, event = y[:, 0], y[:, 1] > 0
    order = np.lexsort((~event, time))  # events come first at a time
    after = np.cumsum(every[:, order[::-1]], axis=1)[:, ::-1]
    after = np.concatenate([after, np.zeros((len(every), 1))], axis=1)
    first = np.searchsorted(time[order], time[events], side="left")
    at_time = np.searchsorted(np.sort(time[events]), time[events], side="right")
    at_time -= np.searchsorted(np.sort(time[events]), time[events], side="left")
    pairs = after[:, first + at_time]
    of_groups = weights.of_groups.astype(np.float32)
    n_groups = of_groups.shape[1]
    right = np.empty_like(pairs)
    step = max(1, PAIRS_AT_ONCE // max(len(y), 1))
    for start in range(0, len(events), step):
        some = events[start : start + step]
        later = (time > time[some, None]) | ((time == time[some, None]) & ~event)
        lower = (risk < risk[some, None]).astype(np.float32)
        np.add(lower, 0.5, out=lower, where=risk == risk[some, None])
        lower *= later
        # sums of whole and half numbers below 2^23 are exact in float32
        right[:, start : start + step] = of_groups @ _by_group(lower, weights.groups, n_groups).T
    return right, pairs


def _by_group(values: NDArray[np.float32], groups: Rows, n_groups: int) -> NDArray[np.float32]:
    """Return sums of the columns of each group, float32, of shape ``(len(values), n_groups)``."""
    if n_groups == len(groups) and (groups == np.arange(n_groups)).all():
        return values
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    out = np.zeros((len(values), n_groups), np.float32)
    out[:, present] = np.add.reduceat(values[:, order], starts, axis=1)
    return out


def score(y: ArrayLike, risk: ArrayLike) -> dict[str, float]:
    """Compute every metric of survival.

    Parameters
    ----------
    y
        As `headwater._survival.as_survival` takes it.
    risk : of shape (n,) or (n, 1)
        Predicted risks, higher for an earlier event.

    Examples
    --------
    >>> score([[1, 1], [2, 1], [3, 0]], [3.0, 2.0, 1.0])
    {'c_index': 1.0, 'c_index_uno': 1.0}
    """
    truth, risks = as_survival(y), np.asarray(risk, np.float64)
    if risks.shape not in ((len(truth),), (len(truth), 1)):
        raise InputError(f"risks have shape {risks.shape}, but need {(len(truth),)}, one for each row.")
    found = weighted(truth, risks.reshape(-1), Weightings.once(len(truth)))
    return {name: float(value[0]) for name, value in found.items()}


def cross_validated_losses(y: Floats, risks: Floats, train: Rows, test: Rows) -> Floats:
    """Compute the loss of many models by the cross-validated partial likelihood, per test row.

    It is what the test rows add to the log partial likelihood of all rows: minus that of all rows, plus that of the
    training rows, each at the weights fitted on the training rows alone. Unlike the partial likelihood of the test rows
    by themselves, it uses the order of test rows among training rows, so a few test rows suffice.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        Times and events of all rows.
    risks : of shape (n_models, n)
        Log hazards by models fitted on the rows ``train``.
    train, test
        Numbers of the training and the test rows of an inner fold; together all rows.

    Returns
    -------
    float64 of shape (n_models,)
        Infinite for a model with risks that are not finite.

    References
    ----------
    Verweij and van Houwelingen, Cross-validation in survival analysis, Statistics in Medicine 12, 1993, equation 3.
    """
    whole = log_partial_likelihood(y, risks)
    part = log_partial_likelihood(y[train], risks[:, train])
    with np.errstate(invalid="ignore"):
        losses: Floats = (part - whole) / len(test)
    return np.where(np.isfinite(losses), losses, np.inf)


def events_by(y: Floats) -> Mapping[str, float | int | None]:
    """Return the number of events, the longest time, and the median follow-up.

    The median follow-up is that of Kaplan and Meier with events and censored rows exchanged; None if it is not reached.

    References
    ----------
    Schemper and Smith, A note on quantifying follow-up in studies of failure time, Controlled Clinical Trials 17, 1996.
    """
    at = np.unique(y[:, 0])
    once = np.ones((1, len(y)))
    left = uncensored(y, once, np.append(at[1:], np.inf))[0]  # just after each time
    below = np.flatnonzero(left <= 0.5)
    return {
        "events": int((y[:, 1] > 0).sum()),
        "longest": float(at[-1]),
        "median_follow_up": float(at[below[0]]) if len(below) else None,
    }
