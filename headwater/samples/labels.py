"""Labels of samples: classes, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._missing import of_no_label
from headwater._words import counted
from headwater.errors import InputError
from headwater.samples.columns import keep_samples, without_blanks
from headwater.sources import plain, typed
from headwater.store import Data


@dataclass(frozen=True)
class Labels:
    """Labels to predict.

    Attributes
    ----------
    y
        Classes, of shape ``(n,)``, or 0/1 of shape ``(n, n_labels)``; or numbers.
    names
        Names of the columns of ``y``; None if each sample has one class.
    """

    y: NDArray[Any]
    names: list[str] | None


def with_labels(
    data: Data, columns: Sequence[str], separator: str | None, *, constant: bool = False
) -> tuple[Data, Labels]:
    """Return the samples that have a label, and their labels; the others are listed as left out, with the reason.

    A column with a single label is refused, since nothing can be learned from it, unless ``constant`` is set.
    """
    refuse_separator(columns, separator)
    for name in columns:
        data = _with_values(data, name, separator)
    if len(columns) > 1:
        return data, _several_columns(data.table.select(columns))
    column = _cleaned(data.table[columns[0]])
    if separator is not None:
        column = column.cast(pl.String).str.split(separator)
    if column.dtype == pl.List:
        return data, _several_labels(column)
    if column.n_unique() == 1 and not constant:
        n = counted(len(column), "sample")
        raise InputError(f"label column {columns[0]!r} is {column[0]!r} in all {n}: there is nothing to learn.")
    return data, Labels(column.to_numpy(), None)


def refuse_separator(columns: Sequence[str], separator: str | None) -> None:
    """Raise `InputError` if several columns of labels have a separator."""
    if separator is not None and len(columns) > 1:
        raise InputError(f"--label-separator goes with one --label, but there are {len(columns)}.")


def labels_there(table: pl.DataFrame, columns: Sequence[str], separator: str | None) -> list[str]:
    """Return all labels in a table as strings, as `with_labels` reads them."""
    if len(columns) > 1:
        return list(columns)
    column = _cleaned(table[columns[0]]).drop_nulls()
    if separator is not None:
        column = column.cast(pl.String).str.split(separator)
    if column.dtype == pl.List:
        return _several_labels(column).names or []
    return sorted({str(value) for value in column.to_list()})


def _with_values(data: Data, name: str, separator: str | None) -> Data:
    """Leave out samples with an empty cell in a column."""
    present = _cleaned(data.table[name]).is_not_null()
    if present.all():
        return data
    if not present.any():
        hint = f" ({of_no_label(separator)})" if separator else ""
        raise InputError(f"label column {name!r} is empty in all {counted(len(present), 'sample')}{hint}.")
    return keep_samples(data, present.to_numpy(), f"no {name}")


def _cleaned(column: pl.Series) -> pl.Series:
    """Return a label column as classes or lists: blanks and NaN become null, 1.0 becomes 1.

    Words for missing values are already null; see `headwater.samples.missing`.
    """
    column = plain(column)  # stores of older versions may hold other types
    dtype = column.dtype
    if dtype == pl.Null or dtype.is_integer() or dtype in (pl.Boolean, pl.List):
        return column
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return without_blanks(column)
    if not dtype.is_float():
        raise InputError(f"label column {column.name!r} holds {dtype}, but needs text, whole numbers or lists.")
    numbers = column.fill_nan(None)
    if (numbers.drop_nulls() % 1 != 0).any():
        raise InputError(
            f"label column {column.name!r} holds measurements such as {numbers.drop_nulls()[0]}, not classes. Convert "
            "them to classes, or predict the numbers with fit-head --task regression."
        )
    return numbers.cast(pl.Int64)


def _several_columns(table: pl.DataFrame) -> Labels:
    y = pl.DataFrame([typed(c) if c.dtype == pl.String else c for c in table.get_columns()]).to_numpy()
    for name, column in zip(table.columns, y.T, strict=True):
        if not np.isin(column, (0, 1)).all():
            raise InputError(f"label column {name!r} must hold only 0 and 1, since there are several label columns.")
    return Labels(y.astype(np.int64), list(table.columns))


def _several_labels(column: pl.Series) -> Labels:
    values = [{word for v in row if v is not None and (word := str(v).strip())} for row in column.to_list()]
    names = sorted(set().union(*values))
    if len(names) < 2:
        raise InputError(
            f"label column {column.name!r} holds {counted(len(names), 'label')}, but at least two are needed."
        )
    return Labels(np.array([[name in row for name in names] for row in values], np.int64), names)


SHOWN = 3  # samples that a message names


def with_numbers(data: Data, columns: Sequence[str], *, constant: bool = False) -> tuple[Data, Labels]:
    """Return the samples that have a number in every column, and the numbers; the others are listed as left out.

    Numbers are float64, of shape ``(n,)``, or ``(n, n_outputs)`` for several columns. A constant column is refused,
    since nothing can be learned from it, unless ``constant`` is set.

    Raises
    ------
    InputError
        When a column holds text, or a number that is not finite; the message names samples.
    """
    for name in columns:
        data = _as_numbers(data, name)
        _refuse_words(data, name)
        _refuse_not_finite(data, name)
        present = data.table[name].is_not_null()
        if not present.any():
            raise InputError(f"label column {name!r} is empty in all {counted(len(present), 'sample')}.")
        if not present.all():
            data = keep_samples(data, present.to_numpy(), f"no {name}")
    y = data.table.select(pl.col(columns).cast(pl.Float64)).to_numpy()
    for name, numbers in zip(columns, y.T, strict=True):
        if not constant and (numbers == numbers[0]).all():
            n = counted(len(numbers), "sample")
            raise InputError(f"label column {name!r} is {numbers[0]:g} in all {n}: there is nothing to learn.")
    return data, Labels(y if len(columns) > 1 else y[:, 0], list(columns))


def _as_numbers(data: Data, name: str) -> Data:
    """Convert a text column to numbers if every cell can be parsed, such as 1e-5."""
    column = data.table[name]
    if column.dtype != pl.String:
        return data
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() > column.null_count():
        return data
    return replace(data, table=data.table.with_columns(numbers))


def _refuse_words(data: Data, name: str) -> None:
    column = data.table[name]
    if column.dtype.is_numeric() or column.dtype == pl.Null:
        return
    if column.dtype != pl.String:
        raise InputError(f"label column {name!r} holds {column.dtype}, but --task regression needs numbers.")
    words = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
    row = int(words.arg_true()[0]) if words.any() else int(column.is_not_null().arg_true()[0])
    raise InputError(
        f"label column {name!r} holds text such as {column[row]!r} (sample {str(data.ids[row])!r}), but --task "
        "regression needs numbers, or empty cells for missing ones."
    )


def _refuse_not_finite(data: Data, name: str) -> None:
    values = data.table[name].cast(pl.Float64)
    bad = np.flatnonzero((values.is_nan() | values.is_infinite()).fill_null(False).to_numpy())
    if len(bad):
        named = ", ".join(f"{str(data.ids[i])!r} ({values[int(i)]})" for i in bad[:SHOWN])
        more = f" and {counted(len(bad) - SHOWN, 'other')}" if len(bad) > SHOWN else ""
        raise InputError(
            f"label column {name!r} is not finite in {counted(len(bad), 'sample')}: {named}{more}. Correct them, or "
            "leave the cells empty."
        )
