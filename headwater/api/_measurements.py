"""Numbers to predict: what a regression takes from the samples table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from headwater._words import counted
from headwater.api._samples import Labels, keep_samples
from headwater.errors import InputError
from headwater.store import Data

SHOWN = 3  # samples that are named


def with_numbers(data: Data, columns: Sequence[str], *, constant: bool = False) -> tuple[Data, Labels]:
    """Return the samples that have a number in every column, and the numbers; the others join those left out.

    Numbers are float64, of shape ``(n,)``, or ``(n, n_outputs)`` of several columns. A column of one number is refused
    unless it may be ``constant``: nothing can be learned from it.

    Raises
    ------
    InputError
        When a column holds no numbers, or a number that is not finite: the message names samples.
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
    """Return samples whose column of text is one of numbers, where all of it is written as such: 1e-5 is one."""
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
        raise InputError(f"label column {name!r} holds {column.dtype}: --task regression needs numbers.")
    words = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
    row = int(words.arg_true()[0]) if words.any() else int(column.is_not_null().arg_true()[0])
    raise InputError(
        f"label column {name!r} holds words such as {column[row]!r} (sample {str(data.ids[row])!r}): --task regression "
        "needs numbers, and empty cells where there are none."
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
