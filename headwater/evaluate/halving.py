"""Successive halving: at set points of training, the worse settings are dropped, by inner loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RUNGS = ((1 / 32, 2 / 3), (1 / 16, 1 / 2), (1 / 8, 1 / 2), (1 / 4, 1 / 2), (1 / 2, 1 / 2))
"""Shares of the schedule after warm-up, and which part of the settings goes on from each."""
DECIDED = 4  # rungs after which one setting is left, if there are not too many
ALWAYS = 2  # as many settings are all trained to the end
AHEAD = 0.5  # how much of the last improvement counts as the next one; see `ahead`


class Scored(Protocol):
    """How a fit in progress scores its test rows; see `headwater.heads.base.Raced`."""

    @property
    def scores(self) -> NDArray[np.floating[Any]]: ...

    @property
    def classes_(self) -> NDArray[Any]: ...

    @property
    def epoch(self) -> int: ...

    @property
    def dropped(self) -> bool: ...


@dataclass(frozen=True)
class Rung:
    """A point of training, as a share of the schedule after warm-up, and how many settings go on from there."""

    share: float
    kept: int


def rungs(n_settings: int) -> list[Rung]:
    """Return the points at which settings are dropped; none for too few settings.

    Fewer settings are compared later: of up to 12, one is left at a quarter of the schedule.

    Examples
    --------
    >>> [(rung.share, rung.kept) for rung in rungs(12)]
    [(0.03125, 8), (0.0625, 4), (0.125, 2), (0.25, 1)]
    >>> [(rung.share, rung.kept) for rung in rungs(4)]
    [(0.125, 2), (0.25, 1)]
    >>> rungs(2)
    []
    """
    if n_settings <= ALWAYS:
        return []
    late_enough = (_from(n_settings, RUNGS[first:DECIDED]) for first in reversed(range(DECIDED)))
    every = _from(n_settings, RUNGS)
    return next((found for found in late_enough if found[-1].kept == 1), every)


def _from(n_settings: int, points: Sequence[tuple[float, float]]) -> list[Rung]:
    found, kept = [], n_settings
    for share, part in points:
        if kept > 1:
            kept = math.ceil(round(kept * part, 6))
            found.append(Rung(share, kept))
    return found


def ahead(losses: NDArray[np.float64], before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return what losses promise: less half of their improvement since half the epochs ago, if they improved.

    Losses fall about as much from each doubling of the epochs to the next, and less towards the end. Settings with a
    low learning rate start slowly, and would be dropped for it.

    Examples
    --------
    >>> ahead(np.array([0.5, 0.6, 0.7]), np.array([0.5, 0.9, 0.6])).round(2)
    array([0.5 , 0.45, 0.7 ])
    """
    promised = losses.copy()
    if before is not None:
        fell = np.isfinite(before) & (before > losses)
        promised[fell] -= AHEAD * (before[fell] - losses[fell])
    return promised


def survivors(losses: NDArray[np.float64], kept: int) -> list[int]:
    """Return the places of the lowest losses, ascending by place; the earlier of two equal ones.

    Of settings whose loss is not finite none is kept, unless there is no other.

    Examples
    --------
    >>> survivors(np.array([0.4, np.inf, 0.2, 0.4, np.nan]), 3)
    [0, 2, 3]
    >>> survivors(np.array([0.4, np.inf, np.nan, np.inf]), 2)
    [0]
    """
    finite = int(np.isfinite(losses).sum())
    ranked = np.argsort(np.where(np.isfinite(losses), losses, np.inf), kind="stable")
    return sorted(ranked[: min(kept, finite) if finite else kept].tolist())


@dataclass(frozen=True)
class Halving:
    """Drops the settings of several searches, each by its own losses.

    Attributes
    ----------
    rungs
        Where settings are dropped.
    places
        For each fit, the number of its search, of its inner fold, and of its setting.
    loss_of
        Returns the loss of each setting of a search, of shape ``(n_settings,)``, from the scores of each of its inner
        folds, a list of folds of lists of settings.
    """

    rungs: Sequence[Rung]
    places: Sequence[tuple[int, int, int]]
    loss_of: Callable[[int, list[list[Scored]]], NDArray[np.float64]]

    @property
    def shares(self) -> list[float]:
        """Where settings are dropped, as shares of the schedule after warm-up."""
        return [rung.share for rung in self.rungs]

    def __call__(self, now: Mapping[int, Scored], before: Mapping[int, Scored]) -> list[int]:
        """Return the fits that go on: all folds of the settings of each search that do.

        ``before`` holds how the fits scored at the rung before; it is empty at the first.
        """
        stay = []
        searches: dict[int, dict[int, dict[int, int]]] = {}  # search, fold, setting: number of the fit
        for number in now:
            search, fold, setting = self.places[number]
            searches.setdefault(search, {}).setdefault(fold, {})[setting] = number
        for search, folds in searches.items():
            numbers = [[fits[setting] for setting in sorted(fits)] for fits in folds.values()]
            losses = [
                self.loss_of(search, [[at[number] for number in fits] for fits in numbers])
                for at in (now, before)
                if at
            ]
            kept = next((rung.kept for rung in self.rungs if rung.kept < len(losses[0])), len(losses[0]))
            chosen = survivors(ahead(*losses), kept)
            stay += [fits[place] for fits in numbers for place in chosen]
        return stay
