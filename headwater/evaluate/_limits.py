"""A lower limit for values of new patients, with guaranteed coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def limit_for_new(
    values: Floats, share: float, groups: NDArray[Any] | None = None, weights: Floats | None = None
) -> float:
    """Return the highest limit that a new value reaches with a probability of at least ``share``.

    The coverage holds on average over data sets in which the new value's group and these groups are exchangeable. Each
    group has the same weight, however many values it has, and the new group counts as below the limit.

    Parameters
    ----------
    values : float64 array of shape (n,)
        Observed values; the limit is one of them.
    share
        Between 0 and 1.
    groups : array of shape (n,), optional
        Groups of dependent values, such as patients. By default each value is independent.
    weights : float64 array of shape (n,), optional
        Weights of the values within their group, such as one over the number of labels of a row. By default 1.

    Returns
    -------
    float
        ``-inf`` if there are too few groups for any limit.

    References
    ----------
    Lee, Barber and Willett, Distribution-free inference with hierarchical data, 2023, section 3. With one value per
    group it is the quantile of split conformal prediction. For the share of values that lie below the limit it is
    conformal risk control: Angelopoulos, Bates, Fisch, Lei and Schuster, Conformal risk control, ICLR 2024, theorem 1,
    with a group's mean as the loss.

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
    weight = np.ones(len(values)) if weights is None else weights
    sizes = np.bincount(of, weights=weight)
    order = np.argsort(-values, kind="stable")
    above = np.cumsum(weight[order] / sizes[of[order]]) / (len(sizes) + 1)
    first = int(np.searchsorted(above, share - 1e-9))
    return float(values[order[first]]) if first < len(values) else float("-inf")
