"""``--where``: select the rows of a table for which a boolean SQL expression is true.

polars evaluates the expression. Some expressions crash the process (a cast to ``DECIMAL(99, 200)``, padding to 1e11
characters, ten thousand brackets). Each expression is therefore checked first, word by word. It may compare, calculate
and call `FUNCTIONS`, whose results are at most about as large as their inputs. Its length and depth are limited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._missing import missing_words
from headwater.errors import InputError, nearest

LONGEST = 1 << 20
"""Most characters; a list of ids may be long."""
MOST_NUMBERS = 4
"""Most text columns that are read as numbers at the same time."""
DEEPEST = 30
"""Most levels of nested brackets and CASEs."""
MOST_ARGUMENTS = 20
"""Most texts that one expression may concatenate, by ``||``, CONCAT and CONCAT_WS."""
MOST_REPEATS = 200
"""Largest product of the repetition counts in a regular expression."""
MOST_OPERATORS = 300
"""Most operators, such as AND, OR, NOT and +."""


_COUNTED = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_IDENTIFIER = r"^[+-]?0\d|^[+-]?\d{16,}"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = _words(
    """
    LENGTH LEN CHAR_LENGTH CHARACTER_LENGTH OCTET_LENGTH LOWER UPPER INITCAP TRIM LTRIM RTRIM BTRIM LEFT RIGHT SUBSTR
    SUBSTRING STARTS_WITH ENDS_WITH STRPOS POSITION REGEXP_LIKE CONCAT CONCAT_WS
    ABS CEIL CEILING FLOOR ROUND SIGN SQRT CBRT POW POWER EXP LN LOG LOG2 LOG10 MOD DIV
    DATE EXTRACT DATE_PART
    CAST TRY_CAST COALESCE NULLIF IFNULL IF GREATEST LEAST
    AVG MIN MAX SUM COUNT MEDIAN STDDEV VARIANCE
    """
)
TYPES = _words(
    "TINYINT SMALLINT INT INTEGER BIGINT FLOAT REAL DOUBLE BOOLEAN BOOL VARCHAR CHAR TEXT STRING DATE TIMESTAMP "
    "DATETIME TIME"
)
"""Types that an expression may cast to, without a length or a precision."""
_JOINING = _words("AND OR NOT XOR LIKE ILIKE RLIKE REGEXP IS BETWEEN IN WHEN THEN ELSE + - * / % || ~ !")
_BEFORE_BRACKETS = _JOINING | {"CASE", "AS"}
_REFUSED = _words("SELECT OVER WITH UNION INTERVAL ARRAY STRUCT MAP UNNEST EXISTS ANY ALL SOME LATERAL")
_TOKEN = re.compile(
    r"""(?P<blank>\s+)|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
    |(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|==|::|\|\||!~|~\*|[-+*/%<>=(),.~!])""",
    re.VERBOSE,
)
_POINTED = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|(?<![\w.])(\d+\.\d*|\.\d+)(?![\w.])"""  # quoted parts match, unchanged
)


def select_samples(table: pl.DataFrame, where: str | None) -> pl.DataFrame:
    """Return the rows of a table for which the boolean SQL expression ``where`` is true; for None, all rows.

    Raises
    ------
    InputError
        When the expression cannot be used; the message says why, and lists the columns.
    """
    if where is None:
        return table
    chosen = _chosen(table, where, table.columns)
    if chosen.is_empty():
        raise InputError(f"--where {_shortened(where)} is true for none of the {len(table)} samples.")
    return chosen


def rows_where(table: pl.DataFrame, where: str) -> NDArray[np.int64]:
    """Return the numbers of the rows for which ``where`` is true; errors are those of `select_samples`."""
    number = "row"
    while number in table.columns:
        number += "_"
    chosen = _chosen(table.with_row_index(number), where, table.columns)
    if chosen.is_empty():
        raise InputError(f"--where {_shortened(where)} is true for none of the {len(table)} samples.")
    return chosen[number].to_numpy().astype(np.int64)


def with_defined(table: pl.DataFrame, sql: Mapping[str, str], option: str = "--label") -> pl.DataFrame:
    """Return a table with a column for each SQL expression over its columns; true and false become 1 and 0.

    An expression gives text, numbers or truth values, one for each row; it is checked as `select_samples` checks one.

    Raises
    ------
    InputError
        When an expression cannot be used, or there is a column of its name.
    """
    return table.with_columns(_defined(table, name, words, option) for name, words in sql.items())


def _defined(table: pl.DataFrame, name: str, words: str, option: str) -> pl.Series:
    asked = f"{option} {_shortened(f'{name} = {words}')}"
    if name in table.columns:
        raise InputError(f"{asked}: there is a column {name!r} already. Give the label another name.")
    if refused := refusal(words):
        raise InputError(f"{asked} cannot be used: {refused}. Columns: {', '.join(table.columns)}.")
    try:
        expression = pl.sql_expr(_with_floats(words))
        if expression.meta.has_multiple_outputs():
            raise InputError(f"{asked} gives several columns. Write an expression that gives one.")
        if not expression.meta.root_names():
            raise InputError(
                f"{asked} names no column. Columns: {', '.join(table.columns)}; write texts in single quotes."
            )
        found = table.select(expression.alias(name))[name]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{asked} cannot be used ({_why(error, table.columns)}") from error
    if len(found) != table.height:
        raise InputError(f"{asked} gives {len(found):,} values for {table.height:,} samples. Give one for each sample.")
    return found.cast(pl.Int64) if found.dtype == pl.Boolean else found


def _chosen(table: pl.DataFrame, where: str, columns: list[str]) -> pl.DataFrame:
    """Return the rows for which an expression is true; ``columns`` are those that a message lists."""
    if refused := refusal(where):
        raise InputError(f"--where {_shortened(where)} cannot be used: {refused}. Columns: {', '.join(columns)}.")
    try:
        return _filtered(table, pl.sql_expr(_with_floats(where)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"--where {_shortened(where)} cannot be used ({_why(error, columns)}") from error


def _filtered(table: pl.DataFrame, expression: pl.Expr) -> pl.DataFrame:
    """Return the rows for which an expression is true.

    A text column that is compared with a number is read as numbers if all its cells are numbers or missing. Such a
    column is text because it holds, for example, ``1e-5`` or ``NA`` among its numbers.
    """
    try:
        return table.filter(expression)
    except pl.exceptions.PolarsError:
        asked = [c for c in expression.meta.root_names() if table.schema.get(c) == pl.String]
        numbers = [number for column in asked if (number := _numbers(table[column])) is not None]
        for n in range(1, min(len(numbers), MOST_NUMBERS) + 1):
            for some in combinations(numbers, n):  # the others may be compared with words, and stay text
                with suppress(pl.exceptions.PolarsError):
                    return table.filter(table.with_columns(some).select(expression.alias("_")).to_series())
        raise


def _with_floats(where: str) -> str:
    """Write ``2.5`` as ``2.5e-0``: polars compares text with 2.5 as text, but raises an error for 2.5e-0."""
    return _POINTED.sub(lambda found: f"{found[0]}e-0" if found[1] else found[0], where)


def _numbers(text: pl.Series) -> pl.Series | None:
    """Return a text column as numbers, null where they are missing; None if it has other cells.

    Numbers that begin with a zero, or have more digits than a float64 keeps, are identifiers: ``001`` is not 1.
    """
    cells = text.str.strip_chars()
    if cells.str.contains(_IDENTIFIER).any():
        return None
    numbers = cells.cast(pl.Float64, strict=False).fill_nan(None)
    words = cells.is_not_null() & (cells != "") & numbers.is_null() & ~missing_words(cells)
    return None if words.any() or numbers.null_count() == len(numbers) else numbers


def refusal(where: str) -> str | None:
    """Say why an expression is not allowed; None if it is.

    Examples
    --------
    >>> refusal("age > 50 AND (site = 'x' OR LOWER(name) LIKE 'a%')")
    >>> refusal("LPAD(site, 100000000000, 'x') = 'a'")
    'the function LPAD is not allowed'
    """
    if len(where) > LONGEST:
        return f"it has {len(where):,} characters, but at most {LONGEST:,} are allowed"
    depth = n_operators = place = 0
    joins, n_joined, n_commas = "CONCAT" in where.upper(), where.count("||"), where.count(",")
    if n_joined > MOST_ARGUMENTS or (joins and n_joined + n_commas > MOST_ARGUMENTS):
        return f"it concatenates more than {MOST_ARGUMENTS} texts"
    before, blank = "", True
    while place < len(where):
        found = _TOKEN.match(where, place)
        if found is None:
            return f"{where[place]!r} is not allowed"
        token, place = found[0], found.end()
        if found.lastgroup == "blank":
            blank = True
            continue
        word = token.upper()
        if found.lastgroup == "text" and ("\\'" in token or '\\"' in token or (before.isidentifier() and not blank)):
            return f"the text {_shortened(token)} is ambiguous"
        if found.lastgroup == "text" and token[0] == "'" and _repeats(token) > MOST_REPEATS:
            return f"the pattern {_shortened(token)} repeats more than {MOST_REPEATS} times"
        if found.lastgroup == "number" and len(token) > 40:
            return "a number has more than 40 digits"
        if not blank and before + token in ("--", "/*", "*/"):
            return "comments are not allowed"
        if found.lastgroup == "word" and word in _REFUSED and where[place : place + 1] != ".":
            return f"{word} is not allowed"
        if before in ("AS", "::") and word not in TYPES:
            return f"a cast to {token} is not allowed, only to {', '.join(sorted(TYPES))}"
        if token == "(" and before.isidentifier() and before not in _BEFORE_BRACKETS:
            if before in TYPES - FUNCTIONS:
                return f"{before} must not have a length or precision"
            if before not in FUNCTIONS:
                return f"the function {before} is not allowed"
        if token == ")" and before == "(":
            return "a pair of brackets is empty"
        depth += (token == "(" or word == "CASE") - (token == ")" or word == "END")
        n_operators += word in _JOINING
        if depth > DEEPEST or n_operators > MOST_OPERATORS:
            return f"it has more than {DEEPEST} nested brackets, or more than {MOST_OPERATORS} operators"
        before, blank = word if found.lastgroup != "text" else "", False
    return None


def _repeats(text: str) -> int:
    """Return the product of the repetition counts in a regular expression: 72 for ``(a{9}){8}``."""
    return math.prod(int(count) for counts in _COUNTED.findall(text) for count in [max(counts, key=len) or "1"])


def _why(error: BaseException, columns: list[str]) -> str:
    """Say why an SQL expression cannot be used, and list the columns."""
    line = str(error).strip().split("\n")[0].split("; valid columns")[0]
    if "string" in line.lower() and ("compare" in line or "is_in" in line):
        line = f"{line}; write text in quotes, as in patient = '001', and numbers without, as in age = 3"
    if "Python" in line or "python" in line:  # polars advises users of its Python interface
        line = "it compares values of different types. Write a date as DATE '2020-01-31'"
    unknown = re.search(r'unable to find column "(.+)"', line)
    if unknown is None:
        return f"{line[:300]}). Columns: {', '.join(columns)}."
    return f"{line}).{nearest(unknown[1], columns)} Columns: {', '.join(columns)}; write texts in single quotes."


def _shortened(words: str) -> str:
    return repr(words if len(words) <= 200 else f"{words[:200]}…")
