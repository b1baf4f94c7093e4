"""Searches for settings on inner folds: a grid, or proposals of Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headwater._extras import need
from headwater.errors import InputError

Params = Mapping[str, Any]
Range = tuple[Any, ...]
Space = Mapping[str, Range]
AT_ONCE = 8  # proposals per round, so that a head can fit them together
KINDS = ("log", "uniform", "int", "log-int", "choice")


@dataclass(frozen=True)
class Trial:
    """A setting, and its loss over the inner folds: log loss, squared error, or for survival a partial likelihood.

    Attributes
    ----------
    dropped_at_epoch
        The epoch at which the setting was dropped, with the loss at that time; None if it was trained to the end.
    """

    params: Params
    loss: float
    dropped_at_epoch: int | None = None


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of lowest loss among those trained to the end, the earlier of two; None without any."""
    return min((trial for trial in trials if trial.dropped_at_epoch is None), key=lambda t: t.loss, default=None)


class Search(Protocol):
    """Proposes settings for one set of training rows, and receives their losses."""

    def ask(self) -> Sequence[Params]:
        """Return the settings to try next; empty when done."""
        ...

    def tell(self, losses: Sequence[float]) -> None:
        """Receive the losses of the last settings, infinite for one that failed."""
        ...


class Searches(Protocol):
    """A source of searches, one for each set of training rows; searches do not share losses."""

    @property
    def n_trials(self) -> int:
        """Number of settings that each search tries."""
        ...

    def start(self, number: int) -> Search:
        """Start the search of an outer split, by its number."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Describe the search as plain JSON values."""
        ...


@dataclass(frozen=True)
class Grid:
    """The same settings for all training rows.

    Examples
    --------
    >>> search = Grid([{"C": 0.1}, {"C": 1.0}]).start(0)
    >>> search.ask(), search.ask()
    ([{'C': 0.1}, {'C': 1.0}], [])
    """

    settings: Sequence[Params]

    @property
    def n_trials(self) -> int:
        """Number of settings."""
        return len(self.settings)

    def start(self, number: int) -> Search:
        """Start a search that tries all settings."""
        return _Once(list(self.settings))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"grid": [dict(params) for params in self.settings]}


class _Once:
    def __init__(self, settings: list[Params]) -> None:
        self._left = settings

    def ask(self) -> Sequence[Params]:
        asked, self._left = self._left, []
        return asked

    def tell(self, losses: Sequence[float]) -> None:
        """Ignore losses."""


@dataclass(frozen=True)
class Refined:
    """A grid of one parameter, then more values between the neighbours of the best.

    Parameters
    ----------
    name
        The parameter, above 0.
    values
        Values of the grid.
    others
        Parameters that are the same in all settings.
    n_fine
        Number of additional values, evenly spaced on a log scale.

    Examples
    --------
    >>> search = Refined("C", [0.01, 1.0, 100.0], n_fine=3).start(0)
    >>> search.ask()
    [{'C': 0.01}, {'C': 1.0}, {'C': 100.0}]
    >>> search.tell([0.5, 0.3, 0.2])
    >>> [round(params["C"], 2) for params in search.ask()], search.ask()
    ([3.16, 10.0, 31.62], [])

    References
    ----------
    Radford et al., Learning transferable visual models from natural language supervision, 2021, appendix A.3, whose
    linear probes search 96 penalties by halving the steps around the best.
    """

    name: str
    values: Sequence[float]
    others: Params = field(default_factory=dict)
    n_fine: int = 12

    @property
    def n_trials(self) -> int:
        """Most settings that each search tries."""
        return len(self.values) + self.n_fine

    def start(self, number: int) -> Search:
        """Start with the grid."""
        return _TwoRounds(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the grid, and its refinement."""
        grid = [{**self.others, self.name: value} for value in self.values]
        return {"grid": grid, "refined": {"parameter": self.name, "values_around_the_best": self.n_fine}}


class _TwoRounds:
    def __init__(self, asked: Refined) -> None:
        self._asked = asked
        self._next = self._grid = sorted(asked.values)
        self._refined = False

    def ask(self) -> Sequence[Params]:
        values, self._next = self._next, []
        return [{**self._asked.others, self._asked.name: float(value)} for value in values]

    def tell(self, losses: Sequence[float]) -> None:
        if self._refined:
            return
        self._refined = True
        best = int(np.argmin(losses))
        low, high = self._grid[max(best - 1, 0)], self._grid[min(best + 1, len(self._grid) - 1)]
        fine = np.geomspace(low, high, self._asked.n_fine + 2)[1:-1].tolist()
        self._next = [value for value in fine if not np.isclose(value, self._grid[best])]


@dataclass(frozen=True)
class TPE:
    """Settings proposed by Optuna's tree-structured Parzen estimator, with a study for each set of training rows.

    Parameters
    ----------
    space
        The range of each parameter: ``("log", low, high)``, ``("uniform", low, high)``, ``("int", low, high)``,
        ``("log-int", low, high)``, ends included, or ``("choice", (value, ...))``.
    n_trials
        Number of settings per study.
    seed
        Seed of the proposals. Each study derives its own seed from it.

    References
    ----------
    Bergstra et al., Algorithms for hyper-parameter optimization, 2011.
    """

    space: Space
    n_trials: int
    seed: int = 0

    def start(self, number: int) -> Search:
        """Start a study."""
        if self.n_trials < 1:
            raise InputError(f"--trials must be at least 1, but is {self.n_trials}.")
        return _Study(self, number)

    def to_dict(self) -> dict[str, Any]:
        """Describe the search as plain JSON values."""
        space = {name: list(where) for name, where in self.space.items()}
        return {"search": {"sampler": "Optuna TPE", "trials": self.n_trials, "seed": self.seed, "space": space}}


class _Study:
    def __init__(self, asked: TPE, number: int) -> None:
        optuna = need("optuna", "sweep")
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line for each of hundreds of studies
        seed = int(np.random.SeedSequence([asked.seed, number]).generate_state(1)[0])
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._where = {name: _distribution(optuna, name, where) for name, where in asked.space.items()}
        self._choices = {name: where[1] for name, where in asked.space.items() if where[0] == "choice"}
        self._left = asked.n_trials
        self._failed = optuna.trial.TrialState.FAIL
        self._asked: list[Any] = []

    def ask(self) -> Sequence[Params]:
        n = min(AT_ONCE, self._left)
        self._left -= n
        self._asked = [self._study.ask(self._where) for _ in range(n)]
        return [
            {name: self._choices[name][value] if name in self._choices else value for name, value in t.params.items()}
            for t in self._asked
        ]

    def tell(self, losses: Sequence[float]) -> None:
        for trial, loss in zip(self._asked, losses, strict=True):
            if np.isfinite(loss):
                self._study.tell(trial, float(loss))
            else:
                self._study.tell(trial, state=self._failed)


def _distribution(optuna: Any, name: str, where: Range) -> Any:
    kind, *ends = where
    if kind == "choice":  # by index, since Optuna does not accept lists as values
        return optuna.distributions.CategoricalDistribution(tuple(range(len(ends[0]))))
    if kind in ("int", "log-int"):
        return optuna.distributions.IntDistribution(*ends, log=kind == "log-int")
    if kind in ("log", "uniform"):
        return optuna.distributions.FloatDistribution(*ends, log=kind == "log")
    raise InputError(f"search space of {name}: {kind!r} must be one of {', '.join(KINDS)}.")
