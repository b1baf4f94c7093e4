"""Thresholds that reach a sensitivity or specificity, and their results on other rows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.evaluate._limits import limit_for_new

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Target = Literal["sensitivity", "specificity"]


def choose_threshold(
    truth: Bools, scores: Floats, *, target: Target, at: float, groups: NDArray[Any] | None = None
) -> float:
    """Choose the threshold that reaches a sensitivity at the best specificity, or the reverse.

    A row counts as positive when its score is at the threshold or above.

    Parameters
    ----------
    truth : bool array of shape (n_samples,)
        Which rows are positive.
    scores : float64 array of shape (n_samples,)
        Their scores, by heads that did not see them; otherwise the threshold is optimistic.
    target
        The measure to reach.
    at
        The least share, above 0 and at most 1.
    groups : array of shape (n_samples,), optional
        Groups of dependent rows, such as patients. The share then holds for rows of new groups, on average over data
        sets; see `headwater.evaluate._limits.limit_for_new`. With too few groups to guarantee that, all of these rows
        reach the threshold. Without groups, the share holds for these rows.

    Returns
    -------
    float
        For a sensitivity the highest such threshold, the score of a positive row. For a specificity the lowest, just
        above the score of a negative row.

    Raises
    ------
    InputError
        When the share is invalid, or no row has the class it refers to.

    Examples
    --------
    >>> truth, scores = np.array([False, False, True, True]), np.array([0.1, 0.6, 0.4, 0.9])
    >>> choose_threshold(truth, scores, target="sensitivity", at=0.95)
    0.4
    """
    require_share(at, f"--{target}")
    of_class = np.sort(scores[truth] if target == "sensitivity" else scores[~truth])
    if len(of_class) == 0:
        kind = "positive" if target == "sensitivity" else "negative"
        raise InputError(f"a threshold for a {target} needs {kind} rows, but there are none to choose it on.")
    if groups is not None:
        return _for_new_groups(truth, scores, target, at, groups)
    n_needed = int(np.ceil(at * len(of_class) - 1e-9))  # 0.95 of 20 is 19 despite rounding
    if target == "sensitivity":
        return float(of_class[-n_needed])
    return float(np.nextafter(of_class[n_needed - 1], np.inf))


def needed_groups(at: float) -> int:
    """Return how many groups of the class a threshold must be chosen on, so that it can reach a share for new groups.

    Examples
    --------
    >>> needed_groups(0.95), needed_groups(0.9)
    (19, 9)
    """
    return int(np.ceil(at / (1 - at) - 1e-9)) if at < 1 else np.iinfo(np.int64).max


def _for_new_groups(truth: Bools, scores: Floats, target: Target, at: float, groups: NDArray[Any]) -> float:
    rows, sign = (truth, 1) if target == "sensitivity" else (~truth, -1)
    values = sign * scores[rows]
    limit = sign * max(limit_for_new(values, at, groups[rows]), float(values.min()))
    return limit if target == "sensitivity" else float(np.nextafter(limit, np.inf))


def at_threshold(truth: Bools, scores: Floats, threshold: float) -> dict[str, float]:
    """Compute sensitivity, specificity and predictive values at a threshold; rows at or above it are positive.

    Returns
    -------
    dict of str to float
        ``sensitivity``, ``specificity``, ``ppv``, ``npv``, ``recall_rate`` (the share of all rows that are called
        positive) and ``detection_rate`` (the share of all rows that are positive and called so); NaN if the denominator
        is 0.

    Examples
    --------
    >>> at_threshold(  # doctest: +NORMALIZE_WHITESPACE
    ...     np.array([False, False, True, True]), np.array([0.1, 0.6, 0.4, 0.9]), 0.4
    ... )
    {'sensitivity': 1.0, 'specificity': 0.5, 'ppv': 0.6666666666666666, 'npv': 1.0, 'recall_rate': 0.75,
    'detection_rate': 0.5}
    """
    called = scores >= threshold
    return {
        "sensitivity": _share(called[truth]),
        "specificity": _share(~called[~truth]),
        "ppv": _share(truth[called]),
        "npv": _share(~truth[~called]),
        "recall_rate": _share(called),
        "detection_rate": _share(called & truth),
    }


def require_share(share: float, option: str) -> None:
    """Refuse a share that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise InputError(f"{option} {share:g}: must be above 0 and at most 1, such as 0.95.")


def _share(right: Bools) -> float:
    return float(right.mean()) if len(right) else float("nan")
