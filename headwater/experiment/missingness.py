"""Whether missing values alone predict the label or the site.

A text says "unknown" where a value is missing. If values are missing more often for one class, or at one hospital, a
head learns this instead of what the values mean, and fails where others fill in the form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._words import counted
from headwater.errors import InputError, SplitError
from headwater.evaluate import cross_validate, infer_task, make_splits
from headwater.evaluate.estimates import Estimates, Resampling
from headwater.heads import LinearProbe
from headwater.sources.sentences import missing_in
from headwater.sources.template import Template

FOLDS = 5
LEVEL = 0.98
"""Confidence level. On noise 95 % intervals lay above 0.5 in 4 to 5 % of 750 simulated tables, too often for a warning:
folds share training rows, which resampling the test rows does not show."""
MOST_CLASSES = 20
"""Most classes of a label; numbers with more distinct values are divided at their median."""
SITES = ("site", "hospital", "centre", "center", "clinic", "institution", "laboratory")
"""Names of columns that say where a sample comes from."""


@dataclass(frozen=True)
class MissingProbe:
    """How well missing values alone predict a column.

    Attributes
    ----------
    target
        The column, such as the label or the site.
    auc
        AUC of a linear probe on which values are missing, cross-validated by group: the mean over folds; with more than
        two classes the mean over classes.
    interval
        Its confidence interval, of `LEVEL`.
    columns
        By column with missing values, the share of rows in which it is missing.
    """

    target: str
    auc: float
    interval: tuple[float, float]
    columns: Mapping[str, float]

    @property
    def predicts(self) -> bool:
        """Whether the interval lies above 0.5."""
        return self.interval[0] > 0.5

    def line(self) -> str:
        """Return the warning."""
        low, high = self.interval
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(self.columns.items())[:3])
        return (
            f"missing values alone predict {self.target} (AUC {self.auc:.2f}, {LEVEL:.0%} interval {low:.2f} to "
            f"{high:.2f}; missing most often: {most}): a head on these texts may learn who filled in the form. Leave "
            "such columns out of the template"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "target": self.target,
            "auc": self.auc,
            "interval": list(self.interval),
            "level": LEVEL,
            "missing": dict(self.columns),
            "predicts": self.predicts,
        }


def probe_missing(
    template: Template,
    table: pl.DataFrame,
    target: str,
    y: NDArray[Any],
    groups: NDArray[Any] | None = None,
    *,
    seed: int = 0,
) -> MissingProbe | None:
    """Predict a column from which values of a template's columns are missing.

    A logistic regression (C = 1) on one 0/1 column for each distinct pattern of a column, in five folds that keep
    groups whole.

    Parameters
    ----------
    template
        The template, whose columns are looked at.
    table
        The rows, with these columns.
    target
        The name of what is predicted.
    y
        It, of shape ``(n,)``: classes, or numbers, which are divided at their median.
    groups
        Groups that folds keep whole and that are resampled for the interval, of shape ``(n,)``.
    seed
        Of the folds.

    Returns
    -------
    MissingProbe or None
        None if nothing is missing, or the rows are too few to be divided.
    """
    there = {name: values.to_numpy().astype(np.float64) for name, values in missing_in(template, table).items()}
    shares = {name: float(values.mean()) for name, values in there.items()}
    some = {name: values for name, values in there.items() if 0 < shares[name] < 1 and name != target}
    if not some:
        return None
    X = np.unique(np.column_stack(list(some.values())), axis=1)
    classes = _classes(y)
    try:
        if len(np.unique(classes)) < 2 or infer_task(classes) not in ("binary", "multiclass"):
            return None
        splits = make_splits(classes, groups=groups, n_folds=FOLDS, seed=seed)
        outcome = cross_validate(LinearProbe(C=1.0), X, classes, splits, groups=groups, seed=seed)
    except (InputError, SplitError):
        return None  # too few rows or groups of a class
    metric = "auc" if outcome.mean["auc"] is not None else "auc_present"
    auc, ends = (
        outcome.mean.get(metric),
        Estimates(outcome, classes, Resampling.of(len(y), groups, LEVEL)).metrics([metric]),
    )
    interval = ends[metric]
    if auc is None or interval is None:
        return None
    shown = dict(sorted(((name, shares[name]) for name in some), key=lambda one: -one[1]))
    return MissingProbe(target, float(auc), (interval[0], interval[1]), shown)


def site_column(columns: list[str], but: tuple[str | None, ...] = ()) -> str | None:
    """Return the column whose name says that it holds the site; None if there is none."""
    return next((c for c in columns if c.strip().lower() in SITES and c not in but), None)


def _classes(y: NDArray[Any]) -> NDArray[Any]:
    """Return classes; numbers with many values are divided at their median."""
    numbers = y.dtype.kind in "fiu"
    if numbers and len(np.unique(y)) > (2 if y.dtype.kind == "f" else MOST_CLASSES):
        halves: NDArray[np.int64] = (y > np.median(y)).astype(np.int64)
        return halves
    codes: NDArray[np.int64] = np.unique(y.astype(str), return_inverse=True)[1]
    return codes


def count_line(n_missing: int, n: int) -> str:
    """Return how many of the rows lack a value.

    Examples
    --------
    >>> count_line(3, 60)
    '3 missing (5 %)'
    """
    return f"{n_missing:,} missing ({100 * n_missing / max(n, 1):.0f} %)"


def known_rows(table: pl.DataFrame, column: str) -> NDArray[np.bool_]:
    """Return which rows have a value in a column that is not blank, of shape ``(n,)``."""
    values = table[column]
    there = values.is_not_null()
    if values.dtype == pl.String:
        there &= values.fill_null("").str.strip_chars() != ""
    if values.dtype.is_float():
        there &= values.is_not_nan().fill_null(False)
    if values.dtype.is_nested():
        raise InputError(f"column {column!r} holds {values.dtype}, but needs {counted(1, 'value')} for each row.")
    return there.to_numpy()
