"""Columns of the table of samples, and selection of samples."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._about import About
from headwater._words import counted
from headwater.errors import InputError, nearest
from headwater.evaluate.aggregate import Units, kept_whole, units_of
from headwater.evaluate.options import Protocol
from headwater.samples.missing import MissingFound
from headwater.sources import plain
from headwater.store import Data


class Samples(typing.Protocol):
    """An object with a table of samples: a store, or a manifest read for one run."""

    @property
    def samples(self) -> pl.DataFrame: ...

    @property
    def about(self) -> About: ...


def require_column(store: Samples, column: str, option: str) -> str:
    """Return ``column``; raise an error that lists the columns if it does not exist."""
    columns = store.samples.columns
    if column not in columns:
        there = ", ".join(columns)
        raise InputError(f"{option}: no column {column!r}.{nearest(column, columns)} Columns: {there}.")
    return column


def full_column(data: Data, column: str, option: str, found: MissingFound | None = None) -> NDArray[Any]:
    """Return a column without leading and trailing blanks; refuse it if a sample has no value.

    ``found`` holds the words for missing values, so that the message can name them.
    """
    values = plain(data.table[column])
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise InputError(f"{option} {column} holds {values.dtype}, but needs text or whole numbers.")
    full = without_blanks(values)
    empty = full.is_null().to_numpy()
    if empty.any():
        words = [word for word in (found or {}).get(column, {}) if word]
        blank = full.dtype == pl.String and (column in (found or {}) or empty.sum() > values.null_count())
        missing = f" ({', '.join(words)}: missing, unless --missing-values says otherwise)" if words else ""
        raise InputError(
            f"{option} {column} is empty in {counted(int(empty.sum()), 'sample')}{missing}, such as "
            f"{str(data.ids[empty][0])!r}: fill it in, or leave them out with --where {_but_for(column, words, blank)}."
        )
    return full.to_numpy()


def _but_for(column: str, words: Sequence[str], blank: bool) -> str:
    """Return an SQL expression, quoted for a shell, for the samples that have a value."""
    name = column if re.fullmatch(r"[A-Za-z_]\w*", column) else '"' + column.replace('"', '""') + '"'
    if words:
        listed = ", ".join("'" + word.replace("'", "''") + "'" for word in ["", *words])
        where = f"TRIM({name}) NOT IN ({listed})"
        return f'"{where}"' if name == column and not re.search(r'["$`\\!]', where) else shlex.quote(where)
    where = f'"{column}" IS NOT NULL'
    return f"'{where} AND LENGTH(TRIM(\"{column}\")) > 0'" if blank else f"'{where}'"


def without_blanks(values: pl.Series) -> pl.Series:
    """Return a column with white space stripped from text; empty text becomes null."""
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return values
    words = values.cast(pl.String).str.strip_chars()
    return words.set(words == "", None)


def levels(data: Data, column: str) -> NDArray[Any]:
    """Return a column as strings, "(empty)" for missing values."""
    values = plain(data.table[column])
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise InputError(f"--by {column} holds {values.dtype}, but needs text or whole numbers.")
    return without_blanks(values).cast(pl.String).fill_null("(empty)").to_numpy()


def keep_samples(data: Data, keep: NDArray[np.bool_], reason: str) -> Data:
    """Keep some samples, and list the others as left out with a reason."""
    rows = np.flatnonzero(keep)
    inputs = {feature: X.select(rows) for feature, X in data.inputs.items()}
    there = {feature: part[rows] for feature, part in data.present.items()}
    dropped = pl.DataFrame({"id": data.ids[~keep], "reason": [reason] * int((~keep).sum())})
    left_out = pl.concat([part.cast(pl.String) for part in (data.left_out, dropped)])
    return Data(inputs, data.table.filter(pl.Series(keep)), data.ids[keep], left_out, there)


@dataclass(frozen=True, eq=False)
class Columns:
    """The values of the protocol's columns for each sample.

    Attributes
    ----------
    groups, split, levels, units
        Values of ``--groups``, ``--split``, ``--by`` and ``--per``.
    whole
        Groups and units combined: the blocks that folds and early stopping never divide, and that are resampled for
        intervals. None without groups and units.
    """

    groups: NDArray[Any] | None
    split: NDArray[Any] | None
    levels: NDArray[Any] | None
    units: Units | None
    whole: NDArray[Any] | None

    @classmethod
    def read(cls, data: Data, protocol: Protocol, missing: MissingFound) -> Columns:
        column, split, by, per = protocol.groups, protocol.split, protocol.by, protocol.per
        groups = None if column is None else full_column(data, column, "--groups", missing)
        units = None if per is None else units_of(full_column(data, per, "--per", missing), per)
        return cls(
            groups=groups,
            split=None if split is None else full_column(data, split, "--split"),
            levels=None if by is None else levels(data, by),
            units=units,
            whole=kept_whole(groups, units),
        )
