"""Write the sentences of a template for the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import polars as pl

from headwater._missing import is_missing
from headwater._tables import plain_cell
from headwater._words import counted, printable
from headwater.errors import InputError, nearest
from headwater.sources.template import Covariate, Field, Sentence, Template, one_line

MOST_CELL = 1_000
"""Most characters of a value in a sentence: a longer one is a report, not a covariate."""
MOST_TEXT = 20_000
"""Most characters of a text."""
MOST_ALL = 1 << 30
"""Most characters of all texts of a table."""
_WORDS: Mapping[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "capital": lambda word: word[:1].upper() + word[1:],
}
Written = list[str | None]


def write_texts(
    template: Template, table: pl.DataFrame, ids: Sequence[str], *, without: str | None = None
) -> list[str | None]:
    """Return the text of each row; None for a row of which every sentence is left out.

    A row's text depends on its own values and its id (or, in place of the id, its value of the template's ``vary_by``)
    alone: rows can be added, removed or reordered.

    Parameters
    ----------
    template
        The sentences.
    table
        The values, with every column of the template that is not optional.
    ids
        The sample ids, of length ``n_rows``.
    without
        A column whose values are withheld: each is written as if it were missing, in every row alike, and a sentence
        with no other field is left out if its missing values are. The phrasings and the order of a row stay the same.
        A row whose sentences are then all left out has the word for missing as its text.

    Raises
    ------
    InputError
        When a column is absent, holds a value that the template has no word for, or texts are too long.
    """
    require_columns(template, table.columns)
    table = _completed(template, table)
    fields = dict.fromkeys(
        part for s in template.sentences for phrasing in s.phrasings for part in phrasing if isinstance(part, Field)
    )
    words = {one: _words_of(table[one.column], one, template.covariate(one.column)) for one in fields}
    absent = {one: template.covariate(one.column).missing or template.missing for one in fields}
    fixed = range(len(template.sentences))
    out: list[str | None] = []
    total = 0
    varied = _varied(template, table, ids)
    for row, (id, by) in enumerate(zip(ids, varied, strict=True)):
        order = _order(len(template.sentences), template.seed, by) if template.shuffled else fixed
        said: list[str] = []
        has_text = False  # before a column is withheld
        for number in order:
            sentence = template.sentences[number]
            parts = _phrasing(sentence, template.seed, by, number)
            values = {part: words[part][row] for part in parts if isinstance(part, Field)}
            has_text |= _is_said(sentence, values, None)
            if _is_said(sentence, values, without):
                shown = {p: absent[p] if w is None or p.column == without else w for p, w in values.items()}
                said.append("".join(part if isinstance(part, str) else shown[part] for part in parts))
        text = " ".join(" ".join(said).split())
        if len(text) > MOST_TEXT:
            raise InputError(
                f"the text of {id!r} has {len(text):,} characters, but at most {MOST_TEXT:,} are allowed. Shorten the "
                "template."
            )
        total += len(text)
        if total > MOST_ALL:
            raise InputError(
                f"the texts have more than {MOST_ALL:,} characters after {counted(row + 1, 'row')}. Shorten the "
                "template, or divide the table."
            )
        if without is not None:
            text = (text or template.missing) if has_text else ""
        out.append(plain_cell(text) if text else None)  # no spreadsheet takes it for a formula
    return out


def missing_in(template: Template, table: pl.DataFrame) -> dict[str, pl.Series]:
    """Return, for each column of the template, whether each value is missing."""
    require_columns(template, table.columns)
    table = _completed(template, table)
    return {
        column: pl.Series(
            column,
            [word is None for word in _words_of(table[column], Field(column), template.covariate(column))],
            dtype=pl.Boolean,
        )
        for column in template.columns
    }


def require_columns(template: Template, columns: Sequence[str]) -> None:
    """Raise `InputError` unless a table has every column that a template names and that is not optional."""
    named = {name: f"sentences have a field {{{name}}}" for name in template.columns}
    named |= {name: f"vary_by names {name!r}" for name in template.reads[len(template.columns) :] if name not in named}
    named |= {name: f"outcomes name {name!r}" for name in template.outcomes}
    for name, what in named.items():
        if name not in columns and name not in template.optional:
            shown = ", ".join(columns[:40]) + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
            raise InputError(
                one_line(
                    f"the template's {what}, but there is no such column.{nearest(name, columns)} There are: {shown}."
                )
            )


def _completed(template: Template, table: pl.DataFrame) -> pl.DataFrame:
    """Return a table with the optional columns that it lacks, all of whose values are missing."""
    lacks = [name for name in template.reads if name in template.optional and name not in table.columns]
    return table.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in dict.fromkeys(lacks))


def _is_said(sentence: Sentence, values: Mapping[Field, str | None], without: str | None) -> bool:
    """Return whether a sentence is part of a text, given its values, if those of a column are withheld."""
    if not sentence.leaves_out:
        return True
    others = [word for one, word in values.items() if one.column != without]
    return None not in others and (bool(others) or without not in sentence.columns)


def _varied(template: Template, table: pl.DataFrame, ids: Sequence[str]) -> list[str]:
    """Return what a row's wording depends on: its id, or its value of the column ``vary_by`` if it has one."""
    if template.vary_by is None:
        return list(ids)
    values = _cells(table[template.vary_by]).to_list()
    return [id if value is None or not value.strip() else value for id, value in zip(ids, values, strict=True)]


def _phrasing(sentence: Sentence, seed: int, id: str, number: int) -> Sequence[str | Field]:
    several = sentence.phrasings
    return several[0] if len(several) == 1 else several[_drawn(seed, id, "phrasing", number) % len(several)]


def _order(n_sentences: int, seed: int, id: str) -> list[int]:
    return sorted(range(n_sentences), key=lambda number: _drawn(seed, id, "order", number))


def _drawn(seed: int, id: str, what: str, number: int) -> int:
    """Return a pseudo-random number of 64 bits that depends on these values alone."""
    words = f"{seed}\0{what}\0{number}\0{id}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(words, digest_size=8).digest(), "little")


def _words_of(values: pl.Series, field: Field, how: Covariate) -> Written:
    """Return the words for each value of a column; None for a missing one."""
    cells = _cells(values)
    each = {cell: _word(cell, field, how) for cell in cells.unique().to_list()}
    wrong = [cell for cell, word in each.items() if isinstance(word, _Refused)]
    if wrong:
        first = min(wrong, key=lambda cell: (len(cell or ""), cell or ""))
        n = counted(int(cells.is_in(wrong).sum()), "row")
        refused = each[first]
        assert isinstance(refused, _Refused)
        raise InputError(one_line(f"column {values.name!r} holds {first!r:.80} ({n} so): {refused.why}"))
    found: Mapping[str | None, str | None] = {cell: w for cell, w in each.items() if not isinstance(w, _Refused)}
    return [found[cell] for cell in cells.to_list()]


class _Refused:
    """Why a value cannot be written."""

    def __init__(self, why: str) -> None:
        self.why = why


def _cells(values: pl.Series) -> pl.Series:
    """Return values as strings, each number in one spelling; null for a missing one."""
    dtype = values.dtype
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested():
        return values.cast(pl.List(pl.String)).list.join("; ")  # as in a CSV file that a verb writes
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise InputError(f"column {values.name!r} holds {dtype}, which cannot be written in a sentence.")
    if dtype.is_float():
        written = {v: _plain_number(v) for v in values.drop_nulls().unique().to_list()}
        cells = [None if v is None or math.isnan(v) else written[v] for v in values.to_list()]
        return pl.Series(values.name, cells, dtype=pl.String)
    return values.cast(pl.String)


def _plain_number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)


def _word(cell: str | None, field: Field, how: Covariate) -> str | _Refused | None:
    """Return the words for a value; None if it is missing."""
    cell = None if cell is None else " ".join(printable(cell).replace("\ufffd", " ").split())
    if cell is None or not cell or cell.lower() in how.missing_values:
        return None
    if how.map is not None and cell in how.map:
        return _formed(how.map[cell], field)
    if is_missing(cell):
        return None
    if len(cell) > MOST_CELL:
        return _Refused(f"it has {len(cell):,} characters, but at most {MOST_CELL:,} can stand in a sentence.")
    if how.map is not None:
        if how.other is not None:
            return _formed(how.other, field)
        return _Refused(
            f"the map of [columns.{field.column}] has no word for it.{nearest(cell, how.map)} Add one, or other = WORD."
        )
    if how.bins:
        number = _number(cell)
        if number is None:
            return _Refused(f"[columns.{field.column}] has bins, which are for numbers. Add it to missing_values.")
        word = next((word for below, word in how.bins if number < below), None)
        if word is None:
            return _Refused(f"it is above all bins of [columns.{field.column}]. Leave below out of the last bin.")
        return _formed(word, field)
    if field.form is not None and field.form not in _WORDS:
        number = _number(cell)
        if number is None or math.isinf(number):
            return _Refused(f"{{{field.column}:{field.form}}} is for numbers. Write {{{field.column}}}.")
        cell = f"{number:{'.0f' if field.form == 'd' else field.form}}"
        cell = cell.removeprefix("-") if not float(cell) else cell  # no minus zero
    elif cell in ("true", "false"):
        cell = "yes" if cell == "true" else "no"
    word = _formed(cell, field)
    return word if how.unit is None else f"{word} {how.unit[0] if word == '1' else how.unit[1]}"


def _formed(word: str, field: Field) -> str:
    return _WORDS[field.form](word) if field.form is not None and field.form in _WORDS else word


def _number(cell: str) -> float | None:
    try:
        number = float(cell) if "_" not in cell else math.nan
    except ValueError:
        return None
    return None if math.isnan(number) else number
