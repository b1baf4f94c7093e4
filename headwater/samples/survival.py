"""Right-censored times of samples: a column of times, and one that says whether the event happened then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._words import counted
from headwater.errors import InputError
from headwater.samples.columns import keep_samples, without_blanks
from headwater.samples.labels import SHOWN, Labels
from headwater.sources import plain
from headwater.store import Data

WORDS = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1.0": 1.0, "0.0": 0.0}
"""Words for an event and for none. Others, such as dead, are refused: a wrong guess would reverse them."""


def with_times(data: Data, columns: Sequence[str], *, no_event: bool = False) -> tuple[Data, Labels]:
    """Return the samples that have a time and an event, and these, float64, of shape ``(n, 2)``.

    Samples without them are listed as left out.

    Parameters
    ----------
    columns
        The columns of times and of events.
    no_event
        Accept samples none of which has the event.

    Raises
    ------
    InputError
        When a time is no number, or not above 0, or not finite; when an event is no 0/1, true/false or yes/no; when an
        event has no time; or when no sample has an event. The message names samples.
    """
    time_column, event_column = columns
    times, events = _times(data, time_column), _events(data, event_column)
    no_time, unknown = np.isnan(times), np.isnan(events)
    lost = no_time & (events == 1)
    if lost.any():
        raise InputError(
            f"--time {time_column} is empty in {counted(int(lost.sum()), 'sample')} with an event, such as "
            f"{_named(data, lost)}: fill it in, or empty --event {event_column} there to leave them out."
        )
    if (no_time | unknown).all():
        empty = time_column if no_time.all() else event_column
        option = "--time" if no_time.all() else "--event"
        raise InputError(f"{option} {empty} leaves no sample: none has both a time and an event.")
    for gone, column in ((no_time, time_column), (unknown & ~no_time, event_column)):
        if gone.any():
            kept = ~gone[~no_time] if column == event_column else ~gone
            data = keep_samples(data, kept, f"no {column}")
    there = ~(no_time | unknown)
    y = np.column_stack([times[there], events[there]])
    if not no_event and not y[:, 1].any():
        raise InputError(
            f"--event {event_column} is 0 in all {counted(len(y), 'sample')}: no event was seen, so there is nothing "
            "to learn."
        )
    return data, Labels(y, list(columns))


def _times(data: Data, name: str) -> NDArray[np.float64]:
    """Return a column of times; NaN where a cell is empty."""
    column = without_blanks(plain(data.table[name]))
    if column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        words = (column.is_not_null() & numbers.is_null()).to_numpy()
        if words.any():
            raise InputError(
                f"--time {name} holds text such as {column[int(words.argmax())]!r} (sample {_named(data, words)}), but "
                "needs numbers, such as days or months."
            )
        column = numbers
    if not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise InputError(f"--time {name} holds {column.dtype}, but needs numbers, such as days or months.")
    empty = column.is_null().to_numpy()
    times = column.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
    for bad, what in ((~empty & ~np.isfinite(times), "not finite"), (times <= 0, "not above 0")):
        if bad.any():
            raise InputError(
                f"--time {name} is {what} in {counted(int(bad.sum()), 'sample')}, such as {_named(data, bad)} "
                f"({times[int(bad.argmax())]:g}): correct it, or leave such samples out with --where '\"{name}\" > 0'."
            )
    return times


def _events(data: Data, name: str) -> NDArray[np.float64]:
    """Return a column of events as 0 and 1; NaN where a cell is empty."""
    column = without_blanks(plain(data.table[name]))
    if column.dtype == pl.Boolean or column.dtype.is_numeric() or column.dtype == pl.Null:
        events = column.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
        bad = ~np.isnan(events) & ~np.isin(events, (0, 1))
        word = f"{events[int(bad.argmax())]:g}"
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String).to_list()
        found = [np.nan if cell is None else WORDS.get(cell.lower(), -1.0) for cell in text]
        events = np.array(found, np.float64)
        bad = events == -1
        word = repr(text[int(bad.argmax())])
    else:
        raise InputError(f"--event {name} holds {column.dtype}, but needs 0 and 1, true and false, or yes and no.")
    if bad.any():
        raise InputError(
            f"--event {name} holds {word} (sample {_named(data, bad)}), but needs 1, true or yes for the event, and 0, "
            "false or no for a censored sample: write a column of 0 and 1."
        )
    return events


def _named(data: Data, which: NDArray[np.bool_]) -> str:
    rows = np.flatnonzero(which)[:SHOWN]
    return ", ".join(repr(str(data.ids[row])) for row in rows)
