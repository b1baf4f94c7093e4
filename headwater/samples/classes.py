"""The classes of a run: numbers of samples and groups, and names that seem to mean the same."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._alike import alike_line

NAMED = 3  # names that a warning lists
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?")


def class_counts(y: NDArray[Any], classes: Sequence[Any], groups: NDArray[Any] | None) -> list[dict[str, Any]]:
    """Count the samples and the groups of each class.

    Parameters
    ----------
    y
        Classes, of shape ``(n,)``, or 0/1 of shape ``(n, n_classes)``.
    classes
        Their names, in the order of the columns of ``y``.
    groups
        The group of each sample; None without groups.
    """
    words = None if y.ndim == 2 else np.array([str(value) for value in y.tolist()])
    out = []
    for number, name in enumerate(classes):
        has = np.asarray(y[:, number] == 1) if words is None else words == str(name)
        n_groups = None if groups is None else len(np.unique(groups[has].astype(str)))
        out.append({"name": str(name), "n_samples": int(has.sum()), "n_groups": n_groups})
    return out


def names_in(y: NDArray[Any], classes: Sequence[Any]) -> list[str]:
    """Return the name of each sample's class, or of each label of each sample.

    Examples
    --------
    >>> names_in(np.array([[1, 0], [1, 1]]), ["mass", "scar"])
    ['mass', 'mass', 'scar']
    """
    if y.ndim == 1:
        return [str(value) for value in y.tolist()]
    return [str(name) for name, n in zip(classes, (y == 1).sum(0).tolist(), strict=True) for _ in range(n)]


def alike(values: Iterable[Any]) -> list[list[str]]:
    """Return names that differ only in case, blanks, number format or Unicode form, the most frequent first.

    Examples
    --------
    >>> alike(["benign", "benign", "Benign", "malignant"])
    [['benign', 'Benign']]
    """
    n_of = Counter(str(value) for value in values)
    folded: dict[str, list[str]] = {}
    for name, _ in n_of.most_common():
        folded.setdefault(_folded(name), []).append(name)
    return [names for names in folded.values() if len(names) > 1]


def _folded(name: str) -> str:
    word = "".join(unicodedata.normalize("NFC", name).casefold().split())
    return repr(float(word)) if _NUMBER.fullmatch(word) else word


def alike_labels(values: Iterable[Any], option: str | None) -> list[str]:
    """Warn of labels that seem to mean the same, with the ``option`` to merge them, ``--merge`` or ``--map``."""
    out = []
    for first, *others in alike(values):
        names = " and ".join(repr(name) for name in (first, *others[:NAMED]))
        mend = " ".join(f"{option} '{other}={first}'" for other in others) if option else "use one spelling"
        out.append(f"labels {names} differ only in case, blanks or spelling. To merge them: {mend}")
    return out


def alike_values(values: Iterable[Any], option: str, column: str) -> list[str]:
    """Warn of groups or levels that seem to be the same."""
    return alike_line(pl.Series([str(value) for value in values], dtype=pl.String), f"{option} {column}")
