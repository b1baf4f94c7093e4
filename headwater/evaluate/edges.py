"""Parameters selected at an end of their grid, beyond which there may be a better value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headwater.evaluate.outcome import Outcome
from headwater.evaluate.search import Space

N_MORE = 4  # values to propose beyond the end
LEAST_VALUES = 3  # least size of a grid whose ends are reported


@dataclass(frozen=True)
class Edge:
    """A parameter whose best value is the first or last of its grid.

    Attributes
    ----------
    param, value
        The parameter, and the value at the end.
    end
        ``"lowest"`` or ``"highest"`` of the grid.
    grid
        The other end.
    n_folds, of
        In how many folds it was selected, of how many.
    beyond
        Values to try: the end itself and some beyond it at the grid's spacing, in ascending order.
    """

    param: str
    value: float
    end: Literal["lowest", "highest"]
    grid: float
    n_folds: int
    of: int
    beyond: Sequence[float]


def at_edges(outcome: Outcome, space: Space) -> list[Edge]:
    """Return the parameters selected at an end of their grid in more than half of the folds.

    Parameters
    ----------
    outcome
        Outcome of a grid search.
    space
        The head's search space: its ends limit uniform parameters, and its lower end limits integers.

    Examples
    --------
    >>> beyond([0.01, 0.1, 1.0], "highest", (0, np.inf))
    [1.0, 10.0, 100.0, 1000.0, 10000.0]
    """
    found = []
    folds = [fold for fold in outcome.folds if fold.trials]
    for name in sorted({name for fold in folds for trial in fold.trials for name in trial.params}):
        grid = sorted({trial.params[name] for fold in folds for trial in fold.trials if _is_number(trial.params, name)})
        chosen = [fold.params[name] for fold in folds if _is_number(fold.params, name)]
        if len(grid) < LEAST_VALUES or len(chosen) < len(folds):
            continue
        ends: tuple[tuple[Literal["lowest", "highest"], int], ...] = (("lowest", 0), ("highest", -1))
        for end, place in ends:
            n = sum(value == grid[place] for value in chosen)
            more = beyond(grid, end, _limits(name, grid, space))
            if 2 * n > len(folds) and len(more) > 1:
                found.append(Edge(name, grid[place], end, grid[-1 - place], n, len(folds), more))
    return found


def beyond(grid: Sequence[float], end: Literal["lowest", "highest"], limits: tuple[float, float]) -> list[float]:
    """Return the end of an ascending grid, and values beyond it with the grid's last ratio or step."""
    own, neighbour = (grid[0], grid[1]) if end == "lowest" else (grid[-1], grid[-2])
    steps = np.arange(1, N_MORE + 1)
    even = np.allclose(np.diff(grid), grid[1] - grid[0], rtol=1e-6)
    values = own + (own - neighbour) * steps if even or grid[0] <= 0 else own * (own / neighbour) ** steps
    low, high = limits
    whole = isinstance(own, int) and low >= 1
    more = {round(value) if whole else float(f"{value:.3g}") for value in values.tolist() if low <= value <= high}
    return sorted({own, *more})


def _limits(name: str, grid: Sequence[float], space: Space) -> tuple[float, float]:
    """Return the least and greatest value to try; integers are limited by the search space."""
    kind, *ends = space.get(name, ("log",))
    if kind in ("int", "log-int"):
        return ends[0], max(ends[1], grid[-1])
    if kind == "uniform":
        return ends[0], ends[1]
    return (0.0 if grid[0] == 0 else np.finfo(np.float64).tiny), np.inf


def _is_number(params: Mapping[str, Any], name: str) -> bool:
    return isinstance(params.get(name), int | float) and not isinstance(params[name], bool)
