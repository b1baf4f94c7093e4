"""Fits that are trained side by side, some of which are dropped before the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.heads._classifier import probabilities
from headwater.heads.base import Judge, Raced

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pausable(ABC):
    """Fits in progress, known by their numbers, that can pause after any epoch of their schedule."""

    @abstractmethod
    def advance(self, share: float) -> None:
        """Train up to a share of the schedule, from 0 to 1."""

    @abstractmethod
    def scores(self) -> Mapping[int, Raced]:
        """Return how each fit scores its test rows, with the best parameters so far."""

    @abstractmethod
    def drop(self, numbers: frozenset[int]) -> None:
        """Forget the fits with these numbers; others' numbers are ignored."""


def scored(logits: NDArray[np.float32], multilabel: bool) -> NDArray[np.floating[Any]]:
    """Return probabilities from logits; logits that are not finite give NaN and no warning."""
    with np.errstate(invalid="ignore", over="ignore"):
        return probabilities(logits, multilabel)


def side_by_side(run: Callable[[Item], Result], items: Sequence[Item], device: str) -> list[Result]:
    """Call a function that computes with torch for each item, on a CPU with as many at once as it has threads.

    Threads that share an operation wait for each other at the end of each; threads with an item each do not.
    """
    torch = need("torch", "encoders")
    n_threads = torch.get_num_threads()
    if device != "cpu" or min(n_threads, len(items)) < 2:
        return [run(item) for item in items]
    try:
        with ThreadPoolExecutor(n_threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(run, items))
    finally:
        torch.set_num_threads(n_threads)  # for threads that start later


def raced(parts: Sequence[Pausable], judge: Judge, device: str) -> list[Raced]:
    """Train fits from one share of the schedule to the next, and drop those that the judge drops.

    Parameters
    ----------
    parts
        All fits, numbered from 0 across the parts.

    Returns
    -------
    list
        How each fit scores its test rows, at the end or when it was dropped.
    """
    now: dict[int, Raced] = {}
    dropped: dict[int, Raced] = {}
    for number, share in enumerate((*judge.shares, 1.0)):
        before, now = now, {}

        def advanced(part: Pausable, until: float = share) -> Mapping[int, Raced]:
            part.advance(until)
            return part.scores()

        for found in side_by_side(advanced, parts, device):
            now.update(found)
        if number < len(judge.shares):
            gone = frozenset(now) - frozenset(judge(share, now, before))
            dropped |= {i: replace(now[i], dropped=True) for i in gone}
            for part in parts:
                part.drop(gone)
    every = dropped | now
    return [every[i] for i in range(len(every))]
