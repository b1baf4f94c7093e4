"""Which of two classes is the positive one: that of sensitivity, precision, recall and average precision."""

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
    "b": "m",  # as data sets of mammograms shorten it
    "negative": "positive",
    "neg": "pos",
    "-": "+",
    "control": "case",
    "controls": "cases",
    "absent": "present",
}
_NOT = re.compile(r"(?:no|not|non|without)[\s_-]+(?:of[\s_-]+)?(?P<what>.+)")


class Positive(NamedTuple):
    """The positive class of two.

    Attributes
    ----------
    name
        As it stands among the labels.
    by
        How it was chosen: ``"option"``, the user named it; ``"names"``, the two names say it, as benign and malignant
        do; ``"order"``, it is merely the one that sorts last.
    """

    name: Any
    by: ChosenBy


def class_word(name: Any) -> str:
    """Return a class as one writes it: ``1`` for 1, 1.0 and NumPy's 1.

    Examples
    --------
    >>> class_word(1.0), class_word(True), class_word(" cancer ")
    ('1', 'True', 'cancer')
    """
    plain = name.item() if hasattr(name, "item") else name
    return str(int(plain)) if isinstance(plain, float) and plain.is_integer() else str(plain).strip()


def positive_of(classes: Sequence[Any], asked: Any = None) -> Positive:
    """Return the positive class of two.

    Parameters
    ----------
    classes
        Two classes, sorted.
    asked
        The one that the user named, as it is or as text; None leaves it to the names.

    Raises
    ------
    InputError
        When the class that was named is neither.

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
    """Return two classes, the positive one last.

    Examples
    --------
    >>> negative_first(["cancer", "healthy"], "cancer")
    ['healthy', 'cancer']
    """
    return [*(name for name in classes if name != positive), positive]


def _is_negative_of(name: str, other: str) -> bool:
    """Whether a name says that it is the absence of what another names."""
    if name == "normal":
        return other not in _PAIRS
    without = _NOT.fullmatch(name)
    return _PAIRS.get(name) == other or (without is not None and without["what"] == other)


def _folded(name: Any) -> str:
    return str(name).strip().casefold()


def positive_in(
    task: str, classes: Sequence[Any], positive: str | None = None, target: str | None = None
) -> Positive | None:
    """Return the positive class of a task of two classes; None for any other task.

    Parameters
    ----------
    task, classes
        Kind of task, and its classes, sorted.
    positive
        The class that the user named, as text.
    target
        ``"sensitivity"`` or ``"specificity"``, where a threshold has to reach one: it must then be certain to which
        class it refers.

    Raises
    ------
    InputError
        When the named class is not among them, there are not two, or neither the user nor the names decide.
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
            f"--{target} is about the positive class, and the names {first} and {last} do not say which of them "
            f"that is: add --positive {first!r} or --positive {last!r}."
        )
    return found
