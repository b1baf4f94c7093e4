"""How labels are read: which words are missing values, and which of two classes is the positive one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._missing import MISSING, words_of
from headwater.errors import InputError
from headwater.evaluate import Outcome
from headwater.evaluate.metrics import Task
from headwater.evaluate.positive import Positive, class_word, negative_first, positive_of


@dataclass(frozen=True)
class Labelling:
    """What was asked about the labels' words; see `headwater.api.fit_head`.

    Attributes
    ----------
    missing_values
        Words that are missing values, besides empty cells.
    positive
        The positive class of two, as text; None leaves it to the classes' names.
    """

    missing_values: tuple[str, ...] = MISSING
    positive: str | None = None

    @classmethod
    def of(cls, missing_values: str | Sequence[str] | None, positive: Any) -> Labelling:
        """Return it as the verbs take it."""
        return cls(words_of(missing_values), None if positive is None else class_word(positive))

    def to_dict(self) -> dict[str, Any]:
        """Return what is needed to repeat it, as plain JSON values."""
        return {"missing_values": list(self.missing_values), "positive": self.positive}

    def positive_in(self, task: Task, classes: Sequence[Any], target: str | None = None) -> Positive | None:
        """Return the positive class of a task of two classes; None of any other task.

        Parameters
        ----------
        task, classes
            Kind of task, and its classes, sorted.
        target
            ``"sensitivity"`` or ``"specificity"``, where a threshold has to reach one: it must then be certain which
            class it is of.

        Raises
        ------
        InputError
            When the named class is none of them, there are not two, or neither the user nor the names say which it is.
        """
        if task != "binary":
            if self.positive is not None:
                raise InputError(
                    f"--positive {self.positive} names one of two classes, but this is a {task} task: leave it out."
                )
            return None
        found = positive_of(classes, self.positive)
        if target is not None and found.by == "order":
            first, last = map(str, classes)
            raise InputError(
                f"--{target} is about the positive class, and the names {first} and {last} do not say which of them "
                f"that is: add --positive {first!r} or --positive {last!r}."
            )
        return found


def ordered(outcome: Outcome, y: Any, positive: Positive | None) -> Outcome:
    """Return an outcome whose last class of two is the positive one."""
    if positive is None:
        return outcome
    return outcome.in_order(negative_first(outcome.classes.tolist(), positive.name), y)


def columns_of(head: Any, classes: Sequence[Any]) -> list[int]:
    """Return the column of a head's scores that belongs to each class of a run.

    A head keeps its classes sorted; a run has the positive one of two last. Several labels have one order everywhere.
    """
    own = [str(name) for name in np.asarray(head.classes_).tolist()]
    words = [str(name) for name in classes]
    return [own.index(word) for word in words] if sorted(own) == sorted(words) else list(range(len(words)))


def in_order_of(head: Any, classes: Sequence[Any], scores: NDArray[Any]) -> NDArray[Any]:
    """Return a head's scores, of shape ``(n, n_classes)``, with columns in the order of a run's classes."""
    return scores[:, columns_of(head, classes)]
