"""Missing values in the columns that a run uses: which words count as missing, and how often they occur."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from headwater._missing import MISSING, missing_words
from headwater.sources import plain, typed
from headwater.store import Data

MissingFound = Mapping[str, Mapping[str, int]]
"""By column, how often each word for a missing value occurs; an empty cell is the empty string."""

_WORDS = (pl.String, pl.Categorical, pl.Enum)
# In these columns NA may be a name: of a sample, or of Namibia.
_IDS = {"id", "ids", "sampleid", "imageid", "uid", "uuid"}
_PLACES = {"site", "sites", "centre", "center", "hospital", "clinic", "institution", "country", "countries", "nation"}


@dataclass(frozen=True)
class MissingRule:
    """The words that are missing values, and the columns in which they count.

    Attributes
    ----------
    words
        Case-insensitive words; empty cells are always missing.
    labels
        Columns to predict.
    others
        Columns of groups and units. The words count here too, except in a column of ids, sites or countries.
    separator
        Text that separates several labels in one cell.
    ids
        The column of sample ids.
    """

    words: tuple[str, ...] = MISSING
    labels: tuple[str, ...] = ()
    others: tuple[str | None, ...] = ()
    separator: str | None = None
    ids: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns to which the rule applies."""
        return list(dict.fromkeys(name for name in (*self.labels, *self.others) if name is not None))

    def words_in(self, column: str) -> tuple[str, ...]:
        """Return the words that are missing values in a column."""
        return self.words if column in self.labels or not (column == self.ids or _names_a_place(column)) else ()

    def tidied(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return a table with missing values as null, and with stripped text."""
        here = [column for column in self.columns if column in table.columns]
        return table.with_columns(self._tidied(plain(table[column])) for column in here)

    def applied(self, data: Data) -> Data:
        """Return samples with a tidied table."""
        return replace(data, table=self.tidied(data.table))

    def found(self, table: pl.DataFrame) -> dict[str, dict[str, int]]:
        """Count the missing values of each column that has any, by the text in the cell."""
        out = {}
        for column in self.columns:
            values = plain(table[column])
            missing = values.filter(self._tidied(values).is_null())
            if len(missing):
                cells = Counter(_written(value) for value in missing.to_list())
                out[column] = dict(cells.most_common())
        return out

    def _tidied(self, column: pl.Series) -> pl.Series:
        words, label = self.words_in(column.name), column.name in self.labels
        if column.dtype.is_float():
            return column.fill_nan(None) if "nan" in (word.lower() for word in words) else column
        if isinstance(column.dtype, pl.List) and column.dtype.inner in _WORDS:
            return _tidied_lists(column, words) if label else column
        if column.dtype not in _WORDS:
            return column
        text = column.cast(pl.String)
        if label and self.separator and text.str.contains(self.separator, literal=True).any():
            return _joined(_tidied_lists(text.str.split(self.separator), words), self.separator)
        text = text.str.strip_chars()
        missing = missing_words(text, words)
        text = text.set(missing | (text == "").fill_null(False), None)
        # a column of 0, 1 and NA holds the numbers 0 and 1
        return typed(text) if label and missing.any() else text


def _tidied_lists(column: pl.Series, words: Sequence[str]) -> pl.Series:
    """Return lists of words without missing ones; null if a list has only missing words."""
    rows = pl.DataFrame({"row": range(len(column)), "word": column.cast(pl.List(pl.String))})
    each = rows.filter(pl.col("word").list.len() > 0).explode("word")
    each = each.with_columns(pl.col("word").str.strip_chars())
    each = each.with_columns(gone=missing_words(each["word"], words))
    of_row = each.group_by("row").agg(
        word=pl.col("word").filter(~pl.col("gone")).drop_nulls(),
        gone=pl.col("gone").any() & (pl.col("gone") | (pl.col("word") == "").fill_null(True)).all(),
    )
    found = rows.select("row").join(of_row, on="row", how="left", maintain_order="left")
    kept = found["word"].fill_null(pl.Series([[]], dtype=pl.List(pl.String)))
    return kept.set(found["gone"].fill_null(False) | column.is_null(), None).alias(column.name)


def _joined(lists: pl.Series, separator: str) -> pl.Series:
    """Join lists to text; a list of empty words becomes the separator alone, not an empty cell."""
    text = lists.list.join(separator)
    none = (text == "").fill_null(False)
    return text.set(none & (lists.list.len() > 1), separator).set(none & (lists.list.len() < 2), None)


def _names_a_place(column: str) -> bool:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)
    lower = [word.lower() for word in words]
    return "".join(lower) in _IDS or bool(_PLACES & set(lower))


def _written(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).strip()
