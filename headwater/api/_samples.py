"""Labels, groups and levels: what a run takes from the samples table."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._missing import missing_words
from headwater._words import counted
from headwater.api._missing import Found
from headwater.errors import InputError, nearest
from headwater.sources import plain, typed
from headwater.store import Data

# Names of columns of whatever several samples can be of, in small letters and digits alone.
PATIENT_COLUMNS = {
    *("patient", "patients", "patientid", "patientno", "patientnr", "pid", "mrn"),
    *("subject", "subjectid", "participant", "participantid", "donor", "donorid"),
    *("case", "caseid", "exam", "examid", "studyid", "slide", "slideid"),
}


@dataclass(frozen=True)
class Labels:
    """What is to be predicted.

    Attributes
    ----------
    y
        Classes, of shape ``(n,)``, or 0/1 of shape ``(n, n_labels)``; or numbers.
    names
        What the columns of ``y`` are called; None where each sample has one class.
    """

    y: NDArray[Any]
    names: list[str] | None


class Samples(Protocol):
    """What has a table of samples: a store, or a manifest that is read for one run."""

    @property
    def samples(self) -> pl.DataFrame: ...


def require_column(store: Samples, column: str, option: str) -> str:
    """Return ``column``, or say which columns there are."""
    columns = store.samples.columns
    if column not in columns:
        there = ", ".join(columns)
        raise InputError(f"{option}: no column {column!r}.{nearest(column, columns)} Columns: {there}.")
    return column


def full_column(data: Data, column: str, option: str, found: Found | None = None) -> NDArray[Any]:
    """Return a column that has a value for every sample; blanks at the ends of words are none of theirs.

    ``found`` says what missing values stand for, so that the message can name them.
    """
    values = plain(data.table[column])
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise InputError(f"{option} {column} holds {values.dtype}: words or whole numbers are needed.")
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
    """Return a column in which words have no white space at their ends, and are null where they are nothing else."""
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return values
    words = values.cast(pl.String).str.strip_chars()
    return words.set(words == "", None)


def levels(data: Data, column: str) -> NDArray[Any]:
    """Return a column as words, "(empty)" where it is."""
    values = plain(data.table[column])
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise InputError(f"--by {column} holds {values.dtype}: words or whole numbers are needed.")
    return without_blanks(values).cast(pl.String).fill_null("(empty)").to_numpy()


def with_labels(
    data: Data, columns: Sequence[str], separator: str | None, *, constant: bool = False
) -> tuple[Data, Labels]:
    """Return the samples that have a label, and their labels; the others join those left out, with the reason.

    A column of one label is refused unless it may be ``constant``: nothing can be learned from it.
    """
    if separator is not None and len(columns) > 1:
        raise InputError(f"--label-separator goes with one --label, but there are {len(columns)}.")
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


def labels_there(table: pl.DataFrame, columns: Sequence[str], separator: str | None) -> list[str]:
    """Return every label that a row of a table has, as words: those of `with_labels`, of whichever samples."""
    if len(columns) > 1:
        return list(columns)
    column = _cleaned(table[columns[0]]).drop_nulls()
    if separator is not None:
        column = column.cast(pl.String).str.split(separator)
    if column.dtype == pl.List:
        return _several_labels(column).names or []
    return sorted({str(value) for value in column.to_list()})


def of_no_label(separator: str) -> str:
    """Say how a sample without any of the labels is written, as against one of which they are not known."""
    return f"an empty cell means that the labels are not known: write {separator!r} alone for none of them"


def _with_values(data: Data, name: str, separator: str | None) -> Data:
    """Leave out the samples for which a column is empty."""
    present = _cleaned(data.table[name]).is_not_null()
    if present.all():
        return data
    if not present.any():
        hint = f" ({of_no_label(separator)})" if separator else ""
        raise InputError(f"label column {name!r} is empty in all {counted(len(present), 'sample')}{hint}.")
    return keep_samples(data, present.to_numpy(), f"no {name}")


def keep_samples(data: Data, keep: NDArray[np.bool_], reason: str) -> Data:
    """Leave out the samples that are not to be kept, for a reason."""
    rows = np.flatnonzero(keep)
    inputs = {feature: X.select(rows) for feature, X in data.inputs.items()}
    there = {feature: part[rows] for feature, part in data.present.items()}
    dropped = pl.DataFrame({"id": data.ids[~keep], "reason": [reason] * int((~keep).sum())})
    left_out = pl.concat([part.cast(pl.String) for part in (data.left_out, dropped)])
    return Data(inputs, data.table.filter(pl.Series(keep)), data.ids[keep], left_out, there)


def _cleaned(column: pl.Series) -> pl.Series:
    """Return a label column as classes or lists, null where there is none: blanks and NaN are none, 1.0 is 1.

    Words for missing values are null already; see `headwater.api._missing`.
    """
    column = plain(column)  # a store of an older headwater may hold other types
    dtype = column.dtype
    if dtype == pl.Null or dtype.is_integer() or dtype in (pl.Boolean, pl.List):
        return column
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return without_blanks(column)
    if not dtype.is_float():
        raise InputError(f"label column {column.name!r} holds {dtype}: words, whole numbers or lists are needed.")
    numbers = column.fill_nan(None)
    if (numbers.drop_nulls() % 1 != 0).any():
        raise InputError(
            f"label column {column.name!r} holds measurements such as {numbers.drop_nulls()[0]}, not classes: "
            "put them into classes, or predict the numbers themselves with fit-head --task regression."
        )
    return numbers.cast(pl.Int64)


def _several_columns(table: pl.DataFrame) -> Labels:
    y = pl.DataFrame([typed(c) if c.dtype == pl.String else c for c in table.get_columns()]).to_numpy()
    for name, column in zip(table.columns, y.T, strict=True):
        if not np.isin(column, (0, 1)).all():
            raise InputError(f"label column {name!r} must hold 0 and 1 only, since there are several.")
    return Labels(y.astype(np.int64), list(table.columns))


def _several_labels(column: pl.Series) -> Labels:
    values = [{word for v in row if v is not None and (word := str(v).strip())} for row in column.to_list()]
    names = sorted(set().union(*values))
    if len(names) < 2:
        raise InputError(f"label column {column.name!r} holds {counted(len(names), 'label')}: at least two are needed.")
    return Labels(np.array([[name in row for name in names] for row in values], np.int64), names)


def group_column(store: Samples, groups: str | None, *whole: str | None) -> str | None:
    """Return the column of groups; refuse to pass over an obvious one in silence.

    Columns that are kept whole anyway, those of ``--bags`` and ``--per``, are not asked about.
    """
    if groups == "none":
        return None
    if groups is not None:
        return groups
    for column in store.samples.columns:
        if column not in whole and _letters(column) in PATIENT_COLUMNS and _repeats(store.samples[column]):
            raise InputError(
                f"the manifest has a column {column!r}: pass --groups {_shell(column)} to keep each whole in every "
                "split, or --groups none if rows are independent."
            )
    return None


def _letters(column: str) -> str:
    """Return the small letters and digits of a column's name: ``Patient.ID`` is ``patientid``."""
    return re.sub(r"[\W_]+", "", column.lower())


def _repeats(values: pl.Series) -> bool:
    """Whether some value stands in several rows; an empty cell is no value, nor is NA or another such word."""
    there = values if values.dtype.is_nested() else without_blanks(values).drop_nulls()
    there = there.filter(~missing_words(there)) if there.dtype == pl.String else there
    return bool(there.n_unique() < len(there))


def _shell(word: str) -> str:
    return word if re.fullmatch(r"[\w.-]+", word) else f"{word!r}"
