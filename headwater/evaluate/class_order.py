"""The order of classes: in a run, a positive class is last, and grades ascend; a head keeps its own sorted order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate import Outcome
from headwater.evaluate.positive import Positive, negative_first


def ordered(outcome: Outcome, y: Any, positive: Positive | None, grades: Sequence[Any] | None = None) -> Outcome:
    """Return an outcome with the positive class last; of grades, as an ordinal one, from the lowest to the highest."""
    if grades is not None:
        return outcome.as_grades(grades, y)
    if positive is None:
        return outcome
    return outcome.in_order(negative_first(outcome.classes.tolist(), positive.name), y)


def columns_of(head: Any, classes: Sequence[Any]) -> list[int]:
    """Return the column of a head's scores that belongs to each class of a run.

    A head keeps its classes sorted; a binary run has the positive class last. Several labels always have one order.
    """
    own = [str(name) for name in np.asarray(head.classes_).tolist()]
    words = [str(name) for name in classes]
    return [own.index(word) for word in words] if sorted(own) == sorted(words) else list(range(len(words)))


def in_order_of(head: Any, classes: Sequence[Any], scores: NDArray[Any]) -> NDArray[Any]:
    """Return a head's scores, of shape ``(n, n_classes)``, with columns in the order of a run's classes."""
    return scores[:, columns_of(head, classes)]
