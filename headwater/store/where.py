"""``--where``: rows of a table for which a boolean SQL expression holds.

polars evaluates it. A few expressions end the process instead (a cast to ``DECIMAL(99, 200)``, padding to 1e11
characters, ten thousand brackets). So an expression is first looked through, word by word: it may compare, calculate
and call the functions of `FUNCTIONS`, which make of a cell no more than a cell, and be as long and as deep as people
write.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from itertools import combinations

import polars as pl

from headwater._missing import missing_words
from headwater.errors import InputError, nearest

LONGEST = 1 << 20
"""Characters: a list of ids may be long."""
MOST_NUMBERS = 4
"""Columns of text that an expression may take for numbers together."""
DEEPEST = 30
"""Brackets and CASEs within each other."""
MOST_ARGUMENTS = 20
"""Texts that one expression may put together, by ``||``, CONCAT and CONCAT_WS."""
MOST_REPEATS = 200
"""The largest count of repetitions in a regular expression; and the most that they may be multiplied to."""
MOST_OPERATORS = 300
"""Signs and words that join or turn expressions: AND, OR, NOT, + and the like."""


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
"""What may be cast to, without a length or a precision."""
_JOINING = _words("AND OR NOT XOR LIKE ILIKE RLIKE REGEXP IS BETWEEN IN WHEN THEN ELSE + - * / % || ~ !")
_BEFORE_BRACKETS = _JOINING | {"CASE", "AS"}
_REFUSED = _words("SELECT OVER WITH UNION INTERVAL ARRAY STRUCT MAP UNNEST EXISTS ANY ALL SOME LATERAL")
_TOKEN = re.compile(
    r"""(?P<blank>\s+)|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
    |(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|==|::|\|\||!~|~\*|[-+*/%<>=(),.~!])""",
    re.VERBOSE,
)
_POINTED = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|(?<![\w.])(\d+\.\d*|\.\d+)(?![\w.])"""  # and what stands in quotes
)


def select_samples(table: pl.DataFrame, where: str | None) -> pl.DataFrame:
    """Return the rows of a table for which the boolean SQL expression ``where`` holds; all where there is none.

    Raises
    ------
    InputError
        When the expression cannot be used; the message says why, and lists the columns.
    """
    if where is None:
        return table
    if refused := refusal(where):
        raise InputError(f"--where {_shortened(where)} cannot be used: {refused}. Columns: {', '.join(table.columns)}.")
    try:
        chosen = _filtered(table, pl.sql_expr(_with_floats(where)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"--where {_shortened(where)} cannot be used ({_why(error, table.columns)}") from error
    if chosen.is_empty():
        raise InputError(f"--where {_shortened(where)} holds for none of the {len(table)} samples.")
    return chosen


def _filtered(table: pl.DataFrame, expression: pl.Expr) -> pl.DataFrame:
    """Return the rows for which an expression holds.

    A column of text that is compared with a number is taken for numbers, where all of its cells are such or missing:
    one that holds ``1e-5``, or ``NA`` among its numbers, is text.
    """
    try:
        return table.filter(expression)
    except pl.exceptions.PolarsError:
        asked = [c for c in expression.meta.root_names() if table.schema.get(c) == pl.String]
        numbers = [number for column in asked if (number := _numbers(table[column])) is not None]
        for n in range(1, min(len(numbers), MOST_NUMBERS) + 1):
            for some in combinations(numbers, n):  # others among them are compared with words, and stay text
                with suppress(pl.exceptions.PolarsError):
                    return table.filter(table.with_columns(some).select(expression.alias("_")).to_series())
        raise


def _with_floats(where: str) -> str:
    """Write ``2.5`` as ``2.5e-0``: polars compares text with the one as text, in silence, and refuses the other."""
    return _POINTED.sub(lambda found: f"{found[0]}e-0" if found[1] else found[0], where)


def _numbers(text: pl.Series) -> pl.Series | None:
    """Return a column of text as numbers, null where they are missing; None where anything else stands in it.

    Numbers that begin with a zero, or have more digits than a float64 keeps, are names: ``001`` is not 1.
    """
    cells = text.str.strip_chars()
    if cells.str.contains(_IDENTIFIER).any():
        return None
    numbers = cells.cast(pl.Float64, strict=False).fill_nan(None)
    words = cells.is_not_null() & (cells != "") & numbers.is_null() & ~missing_words(cells)
    return None if words.any() or numbers.null_count() == len(numbers) else numbers


def refusal(where: str) -> str | None:
    """Say why an expression is not evaluated at all; None where it may be.

    Examples
    --------
    >>> refusal("age > 50 AND (site = 'x' OR LOWER(name) LIKE 'a%')")
    >>> refusal("LPAD(site, 100000000000, 'x') = 'a'")
    'LPAD is no function that it may call'
    """
    if len(where) > LONGEST:
        return f"it has {len(where):,} characters, and may have {LONGEST:,}"
    depth = n_operators = place = 0
    joins, n_joined, n_commas = "CONCAT" in where.upper(), where.count("||"), where.count(",")
    if n_joined > MOST_ARGUMENTS or (joins and n_joined + n_commas > MOST_ARGUMENTS):
        return f"it puts more than {MOST_ARGUMENTS} texts together"
    before, blank = "", True
    while place < len(where):
        found = _TOKEN.match(where, place)
        if found is None:
            return f"{where[place]!r} has no meaning in it"
        token, place = found[0], found.end()
        if found.lastgroup == "blank":
            blank = True
            continue
        word = token.upper()
        if found.lastgroup == "text" and ("\\'" in token or '\\"' in token or (before.isidentifier() and not blank)):
            return f"the text {_shortened(token)} is written in a way that can be read in two ways"
        if found.lastgroup == "text" and token[0] == "'" and _repeats(token) > MOST_REPEATS:
            return f"the pattern {_shortened(token)} repeats more than {MOST_REPEATS} times"
        if found.lastgroup == "number" and len(token) > 40:
            return "a number has more than 40 digits"
        if not blank and before + token in ("--", "/*", "*/"):
            return "comments are not read"
        if found.lastgroup == "word" and word in _REFUSED and where[place : place + 1] != ".":
            return f"{word} cannot be part of it"
        if before in ("AS", "::") and word not in TYPES:
            return f"{token} is no type that it may cast to: {', '.join(sorted(TYPES))}"
        if token == "(" and before.isidentifier() and before not in _BEFORE_BRACKETS:
            if before in TYPES - FUNCTIONS:
                return f"{before} takes no length or precision in it"
            if before not in FUNCTIONS:
                return f"{before} is no function that it may call"
        if token == ")" and before == "(":
            return "there is nothing between two brackets"
        depth += (token == "(" or word == "CASE") - (token == ")" or word == "END")
        n_operators += word in _JOINING
        if depth > DEEPEST or n_operators > MOST_OPERATORS:
            return f"it is more than {DEEPEST} brackets deep, or has more than {MOST_OPERATORS} operators"
        before, blank = word if found.lastgroup != "text" else "", False
    return None


def _repeats(text: str) -> int:
    """Return how often a text would repeat something, were it a regular expression: ``(a{9}){8}`` 72 times."""
    return math.prod(int(count) for counts in _COUNTED.findall(text) for count in [max(counts, key=len) or "1"])


def _why(error: BaseException, columns: list[str]) -> str:
    """Say why an SQL expression cannot be used, and what it could speak of."""
    line = str(error).strip().split("\n")[0].split("; valid columns")[0]
    if "string" in line.lower() and ("compare" in line or "is_in" in line):
        line = f"{line}; text is compared with words in quotes, as in patient = '001', and numbers without: age = 3"
    if "Python" in line or "python" in line:  # advice for another interface
        line = "values of different kinds are compared. Write a date as DATE '2020-01-31'"
    unknown = re.search(r'unable to find column "(.+)"', line)
    if unknown is None:
        return f"{line[:300]}). Columns: {', '.join(columns)}."
    return f"{line}).{nearest(unknown[1], columns)} Columns: {', '.join(columns)}; words stand in single quotes."


def _shortened(words: str) -> str:
    return repr(words if len(words) <= 200 else f"{words[:200]}…")
