"""Options for the evaluation of a head, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from headwater._checks import require_number, require_whole
from headwater._options import option_of
from headwater.errors import InputError, nearest
from headwater.evaluate import Task
from headwater.evaluate.aggregate import Aggregation, require_aggregation
from headwater.evaluate.calibration import Method, require_method
from headwater.evaluate.clinical import require_prevalence
from headwater.evaluate.conformal import require_alpha
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.evaluate.positive import Positive, class_word, positive_in
from headwater.evaluate.thresholds import Target, require_share

FOLDS = 5
TaskChoice = Literal["auto", "regression", "survival", "ordinal"]
NOT_IN_CONFIG = ("trials", "fine", "halving")
"""Options of the search, which a configuration stores with the head."""


@dataclass(frozen=True)
class Protocol:
    """How a head is evaluated: splits, the search for parameters, repetitions, and what is reported.

    Attributes
    ----------
    task
        ``"auto"`` treats labels as classes; ``"regression"`` predicts numbers; ``"survival"`` predicts
        the risk of an event from right-censored times, in the columns `time` and `event`;
        ``"ordinal"`` treats labels as grades, classes with an order.
    time, event
        For survival: the column of times, numbers above 0; and the column that says whether the time ended with the
        event: 1, true or yes, or 0, false or no for a censored sample.
    risk_groups
        For survival: 2 or 3 groups of equal size by risk, for Kaplan-Meier curves. Default: 2.
    order
        For ordinal: the grades from the lowest to the highest, as a sequence or joined by commas. By default their
        names must show the order: numbers, letters without a gap, or Roman numerals.
    groups
        The column whose values are never divided between training and test, such as the patient; ``"none"`` states
        that rows are independent.
    folds, split, holdout
        How to split, one of them: the number of folds; a column; or the share of test rows. Five folds by default.
    by
        A column: results are also given for each of its values.
    seed
        Seed of the splits, of few-shot draws, and of random heads.
    seeds
        Number of repetitions, with consecutive seeds from `seed`. The saved head is that of the first.
    inner_folds
        Number of inner folds, used to select parameters on the training rows.
    trials
        Select among this many settings that Optuna proposes in the head's search space, instead of a grid.
    fine
        After the head's grid of penalties, try 12 more around the best: for heads with one penalty, such as ``linear``.
    halving
        Drop the worse half of the settings of a grid at set epochs, by their loss on inner folds until then, for heads
        that are trained in epochs (``mlp``, heads over tokens). ``False`` trains every setting to the end.
    shots
        Train on this many rows of each class, drawn from the training rows of each fold and from as many groups as
        possible. The saved head is fitted on one such draw from all rows.
    draws
        How often to draw them.
    calibrate
        Calibrate scores by ``"temperature"`` or ``"isotonic"``, fitted to out-of-fold scores of the training rows.
    sensitivity, specificity
        One of them: report the performance at a threshold chosen to reach it on out-of-fold scores of the training
        rows. The positive class must be clear, from `positive` or from the names of the classes.
    conformal
        Make prediction sets that miss the true class in at most this share of the samples, such as 0.1. With several
        labels per sample, sets that miss on average at most this share of a sample's labels.
    conformal_per_class
        Whether that holds for each class separately.
    prevalence
        For two classes: the share of positive cases where the head will be used, such as 0.006 in screening. Predictive
        values, recall rate, detection rate and the decision curve are restated for it, and the saved head's
        ``decision.json`` holds the shift of the logit that corrects its probabilities.
    per, aggregate
        A column of units, such as the exam, and how their samples' scores are combined: ``"mean"`` (the default),
        ``"max"`` or ``"noisy-or"``. All results are also reported for units.
    positive
        The positive class of a binary task, for sensitivity, precision and recall. By default the names decide (1 of 0
        and 1, yes, true, positive, malignant, case, the class that is not normal), or else the class that sorts last is
        used, and a line says so.
    """

    task: TaskChoice = "auto"
    order: Sequence[str] | None = None
    time: str | None = None
    event: str | None = None
    risk_groups: int | None = None
    groups: str | None = None
    folds: int | None = None
    split: str | None = None
    holdout: float | None = None
    by: str | None = None
    seed: int = 0
    seeds: int = 1
    inner_folds: int = 4
    trials: int | None = None
    fine: bool = False
    halving: bool = True
    shots: int | None = None
    draws: int | None = None
    calibrate: Method | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    conformal: float | None = None
    conformal_per_class: bool = False
    prevalence: float | None = None
    per: str | None = None
    aggregate: Aggregation | None = None
    positive: str | None = None

    def __post_init__(self) -> None:
        if self.positive is not None:  # may be given as a number or a boolean
            object.__setattr__(self, "positive", class_word(self.positive))
        if self.order is not None:
            words = self.order.split(",") if isinstance(self.order, str) else map(class_word, self.order)
            object.__setattr__(self, "order", tuple(word.strip() for word in words))

    @property
    def regression(self) -> bool:
        """Whether labels are numbers to predict; otherwise the task is inferred from the labels."""
        return self.task == "regression"

    @property
    def ordinal(self) -> bool:
        """Whether labels are grades."""
        return self.task == "ordinal"

    @property
    def survival(self) -> bool:
        """Whether the risk of an event is predicted from right-censored times."""
        return self.task == "survival"

    @property
    def n_risk_groups(self) -> int:
        """Number of groups by risk."""
        return 2 if self.risk_groups is None else self.risk_groups

    @property
    def n_folds(self) -> int:
        """Number of folds, without a given split or a holdout."""
        return FOLDS if self.folds is None else self.folds

    @property
    def every_seed(self) -> range:
        """The seeds of all repetitions."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def n_draws(self) -> int:
        """Number of few-shot draws in each fold."""
        return 1 if self.draws is None else self.draws

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are needed, by option."""
        every = {"--groups": self.groups, "--split": self.split, "--by": self.by, "--per": self.per}
        return {option: name for option, name in every.items() if name is not None}

    @property
    def target(self) -> tuple[Target, float] | None:
        """The target of the threshold, and the least value to reach."""
        if self.sensitivity is not None:
            return "sensitivity", self.sensitivity
        return None if self.specificity is None else ("specificity", self.specificity)

    @property
    def how(self) -> Aggregation:
        """How scores are aggregated to units."""
        return self.aggregate or "mean"

    @property
    def needs_out_of_fold(self) -> bool:
        """Whether something is fitted on out-of-fold scores of training rows."""
        decides = self.calibrate is not None or self.target is not None or self.conformal is not None
        return decides or self.survival  # risk groups

    @property
    def without_fit(self) -> Protocol:
        """What is reported without fitting anything, of scores that are given."""
        return Protocol(task=self.task, per=self.per, aggregate=self.aggregate, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        divided = self.split is not None or self.holdout is not None
        own = {"groups": self.groups or "none", "folds": None if divided else self.n_folds}
        return {**{name: value for name, value in asdict(self).items() if name not in NOT_IN_CONFIG}, **own}

    def positive_in(self, task: Task, classes: Sequence[Any]) -> Positive | None:
        """Return the positive class of a binary task, None for other tasks; a threshold needs it to be clear."""
        return positive_in(task, classes, self.positive, None if self.target is None else self.target[0])

    def refuse(self) -> None:
        """Raise `InputError` for invalid values, and for options that contradict each other."""
        if self.task not in get_args(TaskChoice):
            known = get_args(TaskChoice)
            raise InputError(f"--task {self.task!r}: must be one of {', '.join(known)}.{nearest(self.task, known)}")
        least_of = {"seed": 0, "seeds": 1, "folds": 2, "inner_folds": 2, "trials": 1, "shots": 1, "draws": 1}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None or name in ("seed", "seeds", "inner_folds"):
                require_whole(option_of(name), value, least)
        if self.holdout is not None:
            require_number("--holdout", self.holdout, above=0)
            if self.holdout >= 1:
                raise InputError(f"--holdout must be between 0 and 1, such as 0.2, but is {self.holdout}.")
        for option, why in self._contradictions():
            raise InputError(f"{option} {why}")
        if self.calibrate is not None:
            require_method(self.calibrate)
        if self.target is not None:
            require_share(self.target[1], f"--{self.target[0]}")
        if self.prevalence is not None:
            require_prevalence(self.prevalence)
        if self.conformal is not None:
            require_alpha(self.conformal)
        if self.per is not None:
            require_aggregation(self.how, "binary")  # again when the task is known
        if self.regression:
            self.refuse_for("regression")
        if self.ordinal:
            self.refuse_for("ordinal")
        if self.survival:
            self.refuse_for("survival")

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.split is not None and self.holdout is not None:
            yield "--split", "goes without --holdout: pass one of them."
        if self.folds is not None and (self.split is not None or self.holdout is not None):
            other = "--split" if self.split is not None else "--holdout"
            yield "--folds", f"goes without {other}: pass one of them."
        if self.sensitivity is not None and self.specificity is not None:
            yield "--sensitivity", "goes without --specificity, since a threshold has one target."
        if self.draws is not None and self.shots is None:
            yield "--draws", "goes with --shots, the number of rows to draw from each class."
        if self.conformal_per_class and self.conformal is None:
            yield "--conformal-per-class", "goes with --conformal, the share of sets that may miss the true class."
        if self.conformal is not None and self.shots is not None and not self.conformal_per_class:
            why = "few-shot training is class-balanced, but the test rows are not."
            yield "--conformal", f"with --shots goes with --conformal-per-class: {why}"
        if self.order is not None and not self.ordinal:
            yield "--order", "goes with --task ordinal."
        if self.aggregate is not None and self.per is None:
            yield "--aggregate", "goes with --per, the column of units to aggregate to."
        for option, value in (("--time", self.time), ("--event", self.event), ("--risk-groups", self.risk_groups)):
            if value is not None and not self.survival:
                yield option, "goes with --task survival."
        if self.survival and (self.time is None or self.event is None):
            missing = "--time COL" if self.time is None else "--event COL"
            yield "--task survival", f"needs --time COL and --event COL: pass {missing} too."
        if self.survival and self.time == self.event:
            yield "--time", f"and --event name the same column, {self.time!r}: pass two columns."
        if self.risk_groups is not None and self.risk_groups not in (2, 3):
            yield "--risk-groups", f"must be 2 (at the median) or 3 (at the terciles), but is {self.risk_groups!r}."

    def refuse_for(self, task: Task) -> None:
        """Raise `InputError` for options that do not apply to a task."""
        if task in WITHOUT_CLASSES:
            what = "predicts numbers" if task == "regression" else "predicts risks"
            for option, value in (
                ("--calibrate", self.calibrate),
                ("--positive", self.positive),
                ("--sensitivity", self.sensitivity),
                ("--specificity", self.specificity),
                ("--conformal", self.conformal),
                ("--prevalence", self.prevalence),
                ("--shots", self.shots),
            ):
                if value is not None:
                    raise InputError(f"{option} is for classes, but --task {task} {what}: leave it out.")
        if task == "ordinal" and self.positive is not None:
            raise InputError("--positive names one of two classes, but --task ordinal has more: leave it out.")
        if self.target is not None and task != "binary":
            raise InputError(f"--{self.target[0]} needs two classes, but this is {_a(task)} task.")
        if self.prevalence is not None and task != "binary":
            raise InputError(f"--prevalence needs two classes, but this is {_a(task)} task.")
        if task == "multilabel":
            for option, given in (
                ("--conformal-per-class", self.conformal_per_class),
                ("--shots", self.shots is not None),
            ):
                if given:
                    raise InputError(f"{option} needs one class per sample, but this is a multilabel task.")
        if self.per is not None:
            require_aggregation(self.how, task)


def _a(task: Task) -> str:
    return f"an {task}" if task == "ordinal" else f"a {task}"
