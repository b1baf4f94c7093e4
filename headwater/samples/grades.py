"""Grades of samples: classes with an order, for ``--task ordinal``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater._grades import LEAST, ordered_grades, refuse_unknown_grades
from headwater.errors import InputError
from headwater.samples.labels import Labels


def grades_of(labels: Labels, column: str, order: Sequence[str] | None) -> list[Any]:
    """Return the grades that samples have, from the lowest to the highest.

    Raises
    ------
    InputError
        When a sample may have several labels, there are fewer than three grades, or their order is neither given nor
        plain from their names.
    """
    if labels.names is not None:
        raise InputError("--task ordinal needs one grade per sample, but --label gives several labels.")
    names = np.unique(labels.y).tolist()
    if len(names) < LEAST:
        raise InputError(
            f"label column {column!r} has two grades, {names[0]!s} and {names[1]!s}, and two classes need no order: "
            "leave --task ordinal out."
        )
    if order is not None:
        refuse_unknown_grades(order, names)
    return ordered_grades(names, order)
