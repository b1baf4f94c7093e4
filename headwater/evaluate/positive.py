"""The positive class of a binary task, for sensitivity, precision, recall and average precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from headwater.errors import InputError, nearest

ChosenBy = Literal["option", "names", "order"]

_PAIRS = {  # negative, and its positive
    "0": "1",
    "-1": "1",
    "no": "yes",
    "n": "y",
    "false": "true",
    "benign": "malignant",
    "b": "m",  # abbreviations in mammography data sets
    "negative": "positive",
    "neg": "pos",
    "-": "+",
    "control": "case",
    "controls": "cases",
    "absent": "present",
}
_NOT = re.compile(r"(?:no|not|non|without)[\s_-]+(?:of[\s_-]+)?(?P<what>.+)")


class Positive(NamedTuple):
    """The positive class of a binary task.

    Attributes
    ----------
    name
        Its label.
    by
        How it was chosen: ``"option"``, the user named it; ``"names"``, the names decide, such as benign and malignant;
        ``"order"``, it sorts last.
    """

    name: Any
    by: ChosenBy


def class_word(name: Any) -> str:
    """Return a class as text: ``1`` for 1, 1.0 and NumPy's 1.

    Examples
    --------
    >>> class_word(1.0), class_word(True), class_word(" cancer ")
    ('1', 'True', 'cancer')
    """
    plain = name.item() if hasattr(name, "item") else name
    return str(int(plain)) if isinstance(plain, float) and plain.is_integer() else str(plain).strip()


def positive_of(classes: Sequence[Any], asked: Any = None) -> Positive:
    """Return the positive class of two classes.

    Parameters
    ----------
    classes
        Two classes, sorted.
    asked
        The class that the user named, as a label or as text; None to decide by the names.

    Raises
    ------
    InputError
        When the named class is neither of them.

    Examples
    --------
    >>> positive_of(["benign", "malignant"])
    Positive(name='malignant', by='names')
    >>> positive_of(["normal", "tumour"]).name, positive_of(["cancer", "no cancer"]).name
    ('tumour', 'cancer')
    >>> positive_of(["cancer", "healthy"]), positive_of(["cancer", "healthy"], "cancer")
    (Positive(name='healthy', by='order'), Positive(name='cancer', by='option'))
    """
    first, last = classes
    words = [class_word(name) for name in classes]
    if asked is not None:
        word = class_word(asked)
        if word not in words:
            raise InputError(
                f"--positive {word}: no such class.{nearest(word, words)} The classes are {' and '.join(words)}."
            )
        return Positive(classes[words.index(word)], "option")
    for negative, positive in ((first, last), (last, first)):
        if _is_negative_of(_folded(negative), _folded(positive)):
            return Positive(positive, "names")
    return Positive(last, "order")


def negative_first(classes: Sequence[Any], positive: Any) -> list[Any]:
    """Return two classes with the positive one last.

    Examples
    --------
    >>> negative_first(["cancer", "healthy"], "cancer")
    ['healthy', 'cancer']
    """
    return [*(name for name in classes if name != positive), positive]


def _is_negative_of(name: str, other: str) -> bool:
    """Whether a name means the absence of what the other names."""
    if name == "normal":
        return other not in _PAIRS
    without = _NOT.fullmatch(name)
    return _PAIRS.get(name) == other or (without is not None and without["what"] == other)


def _folded(name: Any) -> str:
    return str(name).strip().casefold()


def positive_in(
    task: str, classes: Sequence[Any], positive: str | None = None, target: str | None = None
) -> Positive | None:
    """Return the positive class of a binary task; None for other tasks.

    Parameters
    ----------
    task, classes
        Kind of task, and its classes, sorted.
    positive
        The class that the user named, as text.
    target
        ``"sensitivity"`` or ``"specificity"``, if a threshold has to reach one: the positive class must then be clear.

    Raises
    ------
    InputError
        When the named class does not exist, the task is not binary, or neither the user nor the names decide.
    """
    if task != "binary":
        if positive is not None:
            raise InputError(
                f"--positive {positive} names one of two classes, but this is a {task} task: leave it out."
            )
        return None
    found = positive_of(classes, positive)
    if target is not None and found.by == "order":
        first, last = map(str, classes)
        raise InputError(
            f"--{target} needs to know the positive class, but the names {first} and {last} do not tell. Add "
            f"--positive {first!r} or --positive {last!r}."
        )
    return found
