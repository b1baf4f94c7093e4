"""What settings are tried on the inner folds of some training rows: a grid, or what Optuna proposes."""

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
AT_ONCE = 8  # proposals before their losses are told, so that a head can fit them together
KINDS = ("log", "uniform", "int", "log-int", "choice")


@dataclass(frozen=True)
class Trial:
    """A setting that was tried, and its log loss (for regression, squared error) over the inner folds."""

    params: Params
    loss: float


class Search(Protocol):
    """Proposes settings for one set of training rows, and is told how they did."""

    def ask(self) -> Sequence[Params]:
        """Return the settings to try next, none when it is done."""
        ...

    def tell(self, losses: Sequence[float]) -> None:
        """Take the losses of the settings that were asked last, infinite for one that cannot be used."""
        ...


class Searches(Protocol):
    """Where searches come from: one for each set of training rows, none of which hears of another's losses."""

    @property
    def n_trials(self) -> int:
        """How many settings each tries."""
        ...

    def start(self, number: int) -> Search:
        """Begin the search of an outer split, by its number."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Say what is searched, as plain JSON values."""
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
        """How many settings there are."""
        return len(self.settings)

    def start(self, number: int) -> Search:
        """Begin to go through them."""
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
        """Learn nothing from it."""


@dataclass(frozen=True)
class Refined:
    """A grid of one parameter, then more values of it between the neighbours of the best.

    Parameters
    ----------
    name
        The parameter, above 0.
    values
        Of the grid.
    others
        Settings that all have alike.
    n_fine
        How many more values, evenly spaced in their logarithm.

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
        """How many settings each tries, at most."""
        return len(self.values) + self.n_fine

    def start(self, number: int) -> Search:
        """Begin with the grid."""
        return _TwoRounds(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the grid, and what follows it."""
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
        For each parameter where to look: ``("log", low, high)``, ``("uniform", low, high)``, ``("int", low, high)``,
        ``("log-int", low, high)``, ends included, or ``("choice", (value, ...))``.
    n_trials
        How many settings are tried in each study.
    seed
        Of the proposals. Each study draws with a seed of its own.

    References
    ----------
    Bergstra et al., Algorithms for hyper-parameter optimization, 2011.
    """

    space: Space
    n_trials: int
    seed: int = 0

    def start(self, number: int) -> Search:
        """Begin a study."""
        if self.n_trials < 1:
            raise InputError(f"--trials must be at least 1, but is {self.n_trials}.")
        return _Study(self, number)

    def to_dict(self) -> dict[str, Any]:
        """Return what is searched, and how."""
        space = {name: list(where) for name, where in self.space.items()}
        return {"search": {"sampler": "Optuna TPE", "trials": self.n_trials, "seed": self.seed, "space": space}}


class _Study:
    def __init__(self, asked: TPE, number: int) -> None:
        optuna = need("optuna", "sweep")
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line for each of hundreds of studies
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
    if kind == "choice":  # by place, since a value may be a list, which Optuna takes none of
        return optuna.distributions.CategoricalDistribution(tuple(range(len(ends[0]))))
    if kind in ("int", "log-int"):
        return optuna.distributions.IntDistribution(*ends, log=kind == "log-int")
    if kind in ("log", "uniform"):
        return optuna.distributions.FloatDistribution(*ends, log=kind == "log")
    raise InputError(f"search space of {name}: {kind!r} is none of {', '.join(KINDS)}.")
