"""A limit that a value of a new patient is at or above, as often as it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def limit_for_new(values: Floats, share: float, groups: NDArray[Any] | None = None) -> float:
    """Return the highest limit that a new value is at or above with a probability of at least ``share``.

    That holds on average over data sets in which the new value's group and these groups are exchangeable. Each group
    counts alike, however many values it has, and the new one counts as below the limit.

    Parameters
    ----------
    values : float64 array of shape (n,)
        Of which the limit is one.
    share
        Between 0 and 1.
    groups : array of shape (n,), optional
        What values are alike within, such as the patient; each by itself when left out.

    Returns
    -------
    float
        ``-inf`` where there are too few groups to rule anything out.

    References
    ----------
    Lee, Barber and Willett, Distribution-free inference with hierarchical data, 2023, section 3. With one value a group
    it is the quantile of split conformal prediction.

    Examples
    --------
    >>> limit_for_new(np.arange(9.0), 0.8), limit_for_new(np.arange(9.0), 0.95)
    (1.0, -inf)
    >>> limit_for_new(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, np.array([0, 0, 0, 1]))
    2.0
    """
    if not len(values):
        return float("-inf")
    of = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(of)
    order = np.argsort(-values, kind="stable")
    above = np.cumsum(1 / sizes[of[order]]) / (len(sizes) + 1)
    first = int(np.searchsorted(above, share - 1e-9))
    return float(values[order[first]]) if first < len(values) else float("-inf")
