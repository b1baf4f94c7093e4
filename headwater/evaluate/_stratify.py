"""Stratification: divide rows, or whole groups, into parts with the same share of every label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def count_labels(targets: Integers, units: Integers | None) -> tuple[Integers, Integers]:
    """Count the rows of each label in each unit, and all rows of each unit.

    Parameters
    ----------
    targets : int64 array of shape (n_samples,) or (n_samples, n_labels)
        Class codes from 0, or 0/1 indicators.
    units : int64 array of shape (n_samples,), optional
        Codes from 0 of units that must not be divided. By default each row is a unit.

    Returns
    -------
    counts : int64 array of shape (n_units, n_labels)
    sizes : int64 array of shape (n_units,)

    Examples
    --------
    >>> count_labels(np.array([0, 1, 1]), np.array([0, 0, 1]))
    (array([[1, 1],
           [0, 1]]), array([2, 1]))
    """
    if units is None:
        units = np.arange(len(targets))
    sizes = np.bincount(units)
    if targets.ndim == 1:
        n_labels = int(targets.max()) + 1
        counts = np.bincount(units * n_labels + targets, minlength=len(sizes) * n_labels)
        return counts.reshape(len(sizes), n_labels), sizes
    counts = np.zeros((len(sizes), targets.shape[1]), dtype=np.int64)
    np.add.at(counts, units, targets)
    return counts, sizes


def spread(counts: Integers, sizes: Integers, shares: NDArray[np.float64], seed: int) -> Integers:
    """Assign each unit to a part, so that each part gets its share of every label and of the rows.

    Units with the rarest labels are assigned first, and larger units before smaller ones. Each unit goes to the part
    that it brings nearest to its share, by the chi-squared distance: the sum over the labels, and over all rows as an
    additional label, of ``(rows - expected rows)**2 / expected rows``. The order is that of iterative stratification
    [1]_; the distance extends it to units of many rows.

    Parameters
    ----------
    counts : int64 array of shape (n_units, n_labels)
        Rows of each label in each unit.
    sizes : int64 array of shape (n_units,)
        Rows of each unit, at least 1.
    shares : float64 array of shape (n_parts,)
        Share of each part; they sum to 1. There are at least as many units as parts.
    seed
        Seed for the order of equal units.

    Returns
    -------
    int64 array of shape (n_units,)
        The part of each unit. No part is empty.

    References
    ----------
    .. [1] Sechidis, K., Tsoumakas, G., Vlahavas, I. (2011). On the stratification of multi-label data. ECML PKDD.
    """
    total = counts.sum(axis=0)
    rarest = np.where(counts > 0, total, sizes.sum()).min(axis=1)  # of the labels of each unit
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    order = shuffled[np.lexsort((-sizes[shuffled], rarest[shuffled]))]

    held = np.column_stack([counts, sizes]).astype(np.float64)
    expected = shares[:, None] * np.maximum(held.sum(axis=0), 1)  # (n_parts, n_labels + 1)
    surplus = -expected
    part = np.empty(len(counts), dtype=np.int64)
    for unit in order:
        # Increase of each part's distance if it got the unit: (s + h)**2 - s**2, divided by the expected rows.
        farther = (held[unit] * (2 * surplus + held[unit]) / expected).sum(axis=1)
        part[unit] = farther.argmin()
        surplus[part[unit]] += held[unit]

    for empty in set(range(len(shares))) - set(part.tolist()):
        # A part is empty only if its share is small and units are large: give it the smallest unit.
        members = np.flatnonzero(part == np.bincount(part).argmax())
        part[members[sizes[members].argmin()]] = empty
    return part
