"""How a head is to be evaluated: the options, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from headwater.errors import InputError, nearest
from headwater.evaluate import Task
from headwater.evaluate.aggregate import How, require_aggregation
from headwater.evaluate.calibration import Method, require_method
from headwater.evaluate.conformal import require_alpha
from headwater.evaluate.labelling import Labelling
from headwater.evaluate.positive import Positive
from headwater.evaluate.thresholds import Target, require_share

FOLDS = 5
Asked = Literal["auto", "regression"]


@dataclass(frozen=True)
class Protocol:
    """What was asked for; see `headwater.api.fit_head` for each."""

    task: Asked = "auto"
    groups: str | None = None
    folds: int | None = None
    split: str | None = None
    holdout: float | None = None
    by: str | None = None
    seed: int = 0
    seeds: int = 1
    inner_folds: int = 4
    shots: int | None = None
    draws: int | None = None
    calibrate: Method | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    conformal: float | None = None
    conformal_per_class: bool = False
    per: str | None = None
    aggregate: How | None = None
    labelling: Labelling = field(default_factory=Labelling)

    @property
    def regression(self) -> bool:
        """Whether labels are numbers to predict; else they say by themselves which task they make."""
        return self.task == "regression"

    @property
    def n_folds(self) -> int:
        """Number of folds, where there is neither a given split nor a holdout."""
        return FOLDS if self.folds is None else self.folds

    @property
    def every_seed(self) -> range:
        """The seeds of all repetitions."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def n_draws(self) -> int:
        """How often the training rows of a fold are drawn, where they are."""
        return 1 if self.draws is None else self.draws

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are needed, by option."""
        every = {"--groups": self.groups, "--split": self.split, "--by": self.by, "--per": self.per}
        return {option: name for option, name in every.items() if name is not None}

    @property
    def target(self) -> tuple[Target, float] | None:
        """What a threshold has to reach."""
        if self.sensitivity is not None:
            return "sensitivity", self.sensitivity
        return None if self.specificity is None else ("specificity", self.specificity)

    @property
    def how(self) -> How:
        """How scores are aggregated, where they are."""
        return self.aggregate or "mean"

    @property
    def needs_out_of_fold(self) -> bool:
        """Whether something is fitted to scores of training rows."""
        return self.calibrate is not None or self.target is not None or self.conformal is not None

    def to_dict(self) -> dict[str, Any]:
        """Return what is needed to repeat it, as plain JSON values."""
        divided = self.split is not None or self.holdout is not None
        own = {"groups": self.groups or "none", "folds": None if divided else self.n_folds}
        flat = {name: value for name, value in asdict(self).items() if name != "labelling"}
        return {**flat, **own, **self.labelling.to_dict()}

    def positive_in(self, task: Task, classes: Sequence[Any]) -> Positive | None:
        """Return the positive class of two, of which a threshold may have to be certain; None of any other task."""
        return self.labelling.positive_in(task, classes, None if self.target is None else self.target[0])

    def refuse(self) -> None:
        """Raise `InputError` for what cannot be, and for options that contradict each other."""
        if self.task not in get_args(Asked):
            known = get_args(Asked)
            raise InputError(f"--task {self.task!r}: {' or '.join(known)}.{nearest(self.task, known)}")
        least_of = (("--seed", self.seed, 0), ("--seeds", self.seeds, 1), ("--inner-folds", self.inner_folds, 2))
        for option, value, least in least_of:
            if value < least:
                raise InputError(f"{option} must be at least {least}, but is {value}.")
        for option, why in self._contradictions():
            raise InputError(f"{option} {why}")
        if self.calibrate is not None:
            require_method(self.calibrate)
        if self.target is not None:
            require_share(self.target[1], f"--{self.target[0]}")
        if self.conformal is not None:
            require_alpha(self.conformal)
        if self.per is not None:
            require_aggregation(self.how, "binary")  # of the task, when it is known
        if self.regression:
            self.refuse_for("regression")

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.folds is not None and (self.split is not None or self.holdout is not None):
            other = "--split" if self.split is not None else "--holdout"
            yield "--folds", f"goes without {other}: pass one of them."
        if self.sensitivity is not None and self.specificity is not None:
            yield "--sensitivity", "goes without --specificity: a threshold has one target."
        if self.draws is not None and self.shots is None:
            yield "--draws", "goes with --shots, the rows of each class to draw."
        if self.conformal_per_class and self.conformal is None:
            yield "--conformal-per-class", "goes with --conformal, the share of sets that may be wrong."
        if self.conformal is not None and self.shots is not None and not self.conformal_per_class:
            why = "as many rows of each class are drawn, and those tested are not so even."
            yield "--conformal", f"with --shots goes with --conformal-per-class: {why}"
        if self.aggregate is not None and self.per is None:
            yield "--aggregate", "goes with --per, the column of what images belong to."

    def refuse_for(self, task: Task) -> None:
        """Raise `InputError` for options that a task has no use for."""
        if task == "regression":
            for option, value in (
                ("--calibrate", self.calibrate),
                ("--positive", self.labelling.positive),
                ("--sensitivity", self.sensitivity),
                ("--specificity", self.specificity),
                ("--conformal", self.conformal),
                ("--shots", self.shots),
            ):
                if value is not None:
                    raise InputError(
                        f"{option} is about classes, and --task regression predicts numbers: leave it out."
                    )
        if self.target is not None and task != "binary":
            raise InputError(f"--{self.target[0]} needs two classes, but this is a {task} task.")
        if task == "multilabel":
            for option, value in (("--conformal", self.conformal), ("--shots", self.shots)):
                if value is not None:
                    raise InputError(f"{option} needs one class a sample, but this is a multilabel task.")
        if self.per is not None:
            require_aggregation(self.how, task)
