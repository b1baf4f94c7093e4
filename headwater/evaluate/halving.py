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
DECIDED = 4  # rungs after which one setting is left, if there are not too many and none is close
ALWAYS = 2  # as many settings are all trained to the end
AHEAD = 0.5  # how much of the last improvement counts as the next one; see `ahead`
CLOSE = 2.0  # a setting is close to the best within this many standard errors
CLOSE_PART = 2 / 3  # part of the settings that goes on if as many are close


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
    """A point of training, as a share of the schedule after warm-up, and which part of the settings goes on from there.

    Attributes
    ----------
    kept
        How many settings that is, if none but these is close to the best.
    """

    share: float
    part: float
    kept: int


def rungs(n_settings: int) -> list[Rung]:
    """Return the points at which settings are dropped; none for too few settings.

    Fewer settings are compared later: of up to 12, one is left at a quarter of the schedule, if none is close to it.

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
            kept = _part_of(kept, part)
            found.append(Rung(share, part, kept))
    return found


def _part_of(n: int, part: float) -> int:
    return math.ceil(round(n * part, 6))


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


def n_close(losses: NDArray[np.float64], promised: NDArray[np.float64]) -> int:
    """Return how many settings promise as much as the best one, itself included, within the error over inner folds.

    Parameters
    ----------
    losses
        Of each inner fold and setting, of shape ``(n_folds, n_settings)``.
    promised
        From `ahead`, of shape ``(n_settings,)``.

    Examples
    --------
    >>> n_close(np.array([[0.4, 0.3, 0.9], [0.4, 0.6, 0.8]]), np.array([0.4, 0.45, 0.85]))
    2
    """
    best = int(np.argmin(np.where(np.isfinite(promised), promised, np.inf)))
    if len(losses) < 2 or not np.isfinite(promised[best]):
        return 1
    with np.errstate(invalid="ignore"):  # of losses that are not finite, which are not close
        error = np.std(losses - losses[:, [best]], axis=0, ddof=1) / len(losses) ** 0.5
        return int((promised - promised[best] <= CLOSE * error).sum())


@dataclass(frozen=True)
class Halving:
    """Drops the settings of several searches, each by its own losses.

    Attributes
    ----------
    rungs
        Where settings are dropped.
    places
        For each fit, the number of its search, of its inner fold, and of its setting.
    losses_of
        Returns the loss of each inner fold and setting of a search, of shape ``(n_folds, n_settings)``, from their
        scores, a list of folds of lists of settings.
    n_tested
        For each search, the number of test rows of its inner folds.
    """

    rungs: Sequence[Rung]
    places: Sequence[tuple[int, int, int]]
    losses_of: Callable[[int, list[list[Scored]]], NDArray[np.float64]]
    n_tested: Sequence[Sequence[int]]

    @property
    def shares(self) -> list[float]:
        """Where settings are dropped, as shares of the schedule after warm-up."""
        return [rung.share for rung in self.rungs]

    def __call__(self, share: float, now: Mapping[int, Scored], before: Mapping[int, Scored]) -> list[int]:
        """Return the fits that go on: all folds of the settings of each search that do.

        ``before`` holds how the fits scored at the rung before; it is empty at the first. At all rungs but the last,
        more settings go on if they are close to the best.
        """
        rung = self.rungs[self.shares.index(share)]
        stay = []
        searches: dict[int, dict[int, dict[int, int]]] = {}  # search, fold, setting: number of the fit
        for number in now:
            search, fold, setting = self.places[number]
            searches.setdefault(search, {}).setdefault(fold, {})[setting] = number
        for search, folds in searches.items():
            numbers = [[fits[setting] for setting in sorted(fits)] for fits in folds.values()]
            losses = [
                self.losses_of(search, [[at[number] for number in fits] for fits in numbers])
                for at in (now, before)
                if at
            ]
            promised = ahead(*(np.average(of, axis=0, weights=self.n_tested[search]) for of in losses))
            kept = _part_of(len(promised), rung.part)
            if rung is not self.rungs[-1]:
                kept = max(kept, min(n_close(losses[0], promised), _part_of(len(promised), CLOSE_PART)))
            chosen = survivors(promised, kept)
            stay += [fits[place] for fits in numbers for place in chosen]
        return stay
