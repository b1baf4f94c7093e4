"""Templates: sentences with fields for the columns of a table, read from a TOML file.

A template may come from somebody else. It is data: a field names a column, and nothing else can stand in it; no
attribute is looked up, no expression evaluated and no file opened. Sizes are limited before anything is written.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headwater._reading import read_regular
from headwater._words import printable
from headwater.errors import InputError, nearest

MOST_BYTES = 64 << 10
"""Most bytes of a template."""
MOST_SENTENCES, MOST_PHRASINGS, MOST_FIELDS, MOST_COLUMNS = 100, 50, 20, 200
"""Most sentences of a template, phrasings of a sentence, fields of a phrasing, and columns of a template."""
MOST_CHARACTERS = 2_000
"""Most characters of a phrasing, or of a word that a template gives to a value."""
UNKNOWN = "unknown"
FORMS = ("d", *(f".{n}f" for n in range(7)), "lower", "upper", "capital")
"""What may follow a column's name in a field, after a colon."""
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_KEYS = ("sentences", "columns", "missing", "if_missing", "order", "seed", "vary_by", "outcomes", "optional")
_OF_SENTENCE = ("text", "if_missing")
_OF_COLUMN = ("unit", "map", "other", "bins", "missing", "missing_values")
_OF_BIN = ("below", "word")
SAY, LEAVE_OUT = "say", "leave out"


@dataclass(frozen=True)
class Field:
    """A place in a sentence for a value: its column, and its form, one of `FORMS`, or None for the value as it is."""

    column: str
    form: str | None = None


@dataclass(frozen=True)
class Sentence:
    """A sentence of a template.

    Attributes
    ----------
    phrasings
        Ways to say it, each a sequence of words and fields. All have the same columns.
    leaves_out
        Whether it is left out of a sample's text if one of its values is missing; else the word for missing is said.
    """

    phrasings: tuple[tuple[str | Field, ...], ...]
    leaves_out: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its fields, in their order."""
        return tuple(dict.fromkeys(part.column for part in self.phrasings[0] if isinstance(part, Field)))


@dataclass(frozen=True)
class Covariate:
    """How the values of a column are written.

    Attributes
    ----------
    unit
        Words after a value, such as a number: for one, and for any other.
    map
        Words for values.
    other
        The word for a value that ``map`` lacks; None to refuse it.
    bins
        Upper limits, exclusive and ascending, and the word for each bin; the limit of the last may be infinite.
    missing
        The word for a missing value; None for that of the template.
    missing_values
        Values that count as missing, in lower case, besides empty cells and NA, N/A, NaN and null.
    """

    unit: tuple[str, str] | None = None
    map: Mapping[str, str] | None = None
    other: str | None = None
    bins: tuple[tuple[float, str], ...] = ()
    missing: str | None = None
    missing_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """Sentences, and how the values in them are written; `read_template` makes one.

    Attributes
    ----------
    source
        The text of the file.
    sentences, covariates
        The sentences in their order, and how the values of each column are written, by column.
    missing
        The word for a missing value.
    shuffled
        Whether each sample has its own order of sentences.
    seed
        Of orders and of the choice among phrasings, which also depend on the sample's id, and on nothing else.
    vary_by
        The column whose values take the place of the id, such as the exam, so that its samples have one wording.
    outcomes
        Columns that must not be in the sentences, because they are to be predicted.
    optional
        Columns that a table may lack: their values are then missing in each row.
    """

    source: str
    sentences: tuple[Sentence, ...]
    covariates: Mapping[str, Covariate]
    missing: str = UNKNOWN
    shuffled: bool = False
    seed: int = 0
    vary_by: str | None = None
    outcomes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns on which texts depend: those in the sentences, and ``vary_by``."""
        return (*self.columns, *([] if self.vary_by is None else [self.vary_by]))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that the sentences use, in the order of their first use."""
        return tuple(dict.fromkeys(column for sentence in self.sentences for column in sentence.columns))

    def absent(self, columns: Collection[str]) -> tuple[str, ...]:
        """Return the columns of the sentences that are optional and that a table lacks, given its columns."""
        return tuple(name for name in self.columns if name in self.optional and name not in columns)

    def covariate(self, column: str) -> Covariate:
        """Return how the values of a column are written."""
        return self.covariates.get(column, Covariate())


def one_line(words: str) -> str:
    """Return words of a message on one line, without the control characters that a name may bring in."""
    return " ".join(printable(words).split())


def read_template(path: str | Path) -> Template:
    """Read a template from a TOML file; see `parse_template`."""
    where = f"--template {path}"
    try:
        source = read_regular(path, most=MOST_BYTES).decode()
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file.") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not in UTF-8. Save it as UTF-8.") from error
    return parse_template(source, where)


def parse_template(source: str, where: str = "template") -> Template:
    """Read a template from TOML text.

    Parameters
    ----------
    source
        The text, at most `MOST_BYTES` bytes: ``sentences``, a list of sentences or of tables with ``text`` (one
        phrasing or several) and ``if_missing``; and optionally ``columns``, ``missing``, ``if_missing``, ``order``,
        ``seed``, ``vary_by``, ``outcomes`` and ``optional``.
    where
        What a message begins with.

    Raises
    ------
    InputError
        When it is not such a template; one line that says what is wrong.

    Examples
    --------
    >>> parse_template('sentences = ["Age {age:d}.", ["Density {density}.", "Of density {density}."]]').columns
    ('age', 'density')
    """
    if len(source.encode(errors="replace")) > MOST_BYTES:
        raise InputError(f"{where}: longer than {MOST_BYTES:,} bytes. Shorten it.")
    try:
        values = tomllib.loads(source.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{where}: not TOML ({why}).") from error
    return _Reader(where).template(source, values)


@dataclass(frozen=True)
class _Reader:
    """Turns the values of a TOML file into a template; ``where`` begins each message."""

    where: str

    def template(self, source: str, values: Mapping[str, Any]) -> Template:
        self._known(values, _KEYS, "")
        listed = values.get("sentences")
        if not isinstance(listed, list) or not listed:
            raise self._wrong('sentences must be a list, such as sentences = ["The patient is {age} old."]')
        if len(listed) > MOST_SENTENCES:
            raise self._wrong(f"it has {len(listed):,} sentences, but at most {MOST_SENTENCES} are allowed")
        leaves_out = self._if_missing(values, False, "")
        sentences = tuple(self._sentence(one, leaves_out, number) for number, one in enumerate(listed, 1))
        used = list(dict.fromkeys(column for sentence in sentences for column in sentence.columns))
        if not used:
            raise self._wrong("no sentence has a field. Write a column's name in braces, such as {age}")
        if len(used) > MOST_COLUMNS:
            raise self._wrong(f"it uses {len(used):,} columns, but at most {MOST_COLUMNS} are allowed")
        tables = self._table(values.get("columns", {}), "columns")
        for name in tables:
            if name not in used:
                raise self._wrong(f"[columns.{name}]: no sentence has a field {{{name}}}.{nearest(name, used)}", "")
        covariates = {name: self._covariate(name, self._table(of, f"columns.{name}")) for name, of in tables.items()}
        order = values.get("order", "fixed")
        if order not in ("fixed", "shuffled"):
            raise self._wrong(f"order must be 'fixed' or 'shuffled', but is {order!r:.60}")
        seed = values.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 1 << 63:
            raise self._wrong(f"seed must be a whole number of at least 0, but is {seed!r:.60}")
        vary_by = self._word(values["vary_by"], "vary_by") if "vary_by" in values else None
        outcomes = tuple(self._words(values.get("outcomes", []), "outcomes"))
        for name in outcomes:
            if name in used:
                raise self._wrong(
                    f"the sentences have a field {{{name}}}, which is among its outcomes: it is to be predicted. "
                    "Remove the field"
                )
        if vary_by in outcomes:
            raise self._wrong(f"vary_by is {vary_by!r}, which is among its outcomes: the wording would tell it")
        optional = tuple(self._words(values.get("optional", []), "optional"))
        for name in optional:
            if name not in (*used, *outcomes, vary_by):
                raise self._wrong(f"optional names {name!r}, which the template does not use.{nearest(name, used)}", "")
        missing = self._word(values.get("missing", UNKNOWN), "missing")
        return Template(source, sentences, covariates, missing, order == "shuffled", seed, vary_by, outcomes, optional)

    def _sentence(self, value: Any, leaves_out: bool, number: int) -> Sentence:
        name = f"sentence {number}"
        if isinstance(value, Mapping):
            self._known(value, _OF_SENTENCE, f"{name}: ")
            leaves_out = self._if_missing(value, leaves_out, f"{name}: ")
            value = value.get("text")
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or len(texts) > MOST_PHRASINGS:
            raise self._wrong(f"{name} must be a text, a list of 1 to {MOST_PHRASINGS} phrasings, or a table with text")
        phrasings = tuple(self._phrasing(self._word(text, name), name) for text in texts)
        sentence = Sentence(phrasings, leaves_out)
        for phrasing in phrasings[1:]:
            if set(Sentence((phrasing,)).columns) != set(sentence.columns):
                raise self._wrong(
                    f"the phrasings of {name} have different fields. Give each the same, or make two sentences of them"
                )
        return sentence

    def _phrasing(self, text: str, name: str) -> tuple[str | Field, ...]:
        parts: list[str | Field] = []
        words, at = "", 0
        for found in _FIELD.finditer(text):
            words += text[at : found.start()]
            at = found.end()
            if found[0] in ("{{", "}}"):
                words += found[0][0]
                continue
            if found[1] is None:
                raise self._wrong(
                    f"{name} has a single {found[0]!r}. Write a column's name in braces, {{age}}, or {found[0] * 2}"
                )
            parts += [words, self._field(found[1], name)]
            words = ""
        parts.append(words + text[at:])
        if sum(isinstance(part, Field) for part in parts) > MOST_FIELDS:
            raise self._wrong(f"{name} has more than {MOST_FIELDS} fields. Make several sentences of it")
        return tuple(part for part in parts if part != "")

    def _field(self, inside: str, name: str) -> Field:
        column, colon, form = inside.partition(":")
        column = column.strip()
        if not column:
            raise self._wrong(f"{name} has a field without a name: {{{inside}}}")
        if colon and form.strip() not in FORMS:
            raise self._wrong(
                f"{name}: the form of {{{inside}}} is not known.{nearest(form.strip(), FORMS)} There are: "
                f"{', '.join(FORMS)}"
            )
        return Field(column, form.strip() if colon else None)

    def _covariate(self, name: str, value: Mapping[str, Any]) -> Covariate:
        here = f"[columns.{name}]: "
        self._known(value, _OF_COLUMN, here)
        unit = value.get("unit")
        if unit is not None:
            both = [unit, unit] if isinstance(unit, str) else unit
            if not isinstance(both, list) or len(both) != 2:
                raise self._wrong(f'{here}unit must be a word, or two, such as ["year", "years"]')
            unit = (self._word(both[0], f"{here}unit"), self._word(both[1], f"{here}unit"))
        words = value.get("map")
        if words is not None:
            words = {str(key): self._word(word, f"{here}map") for key, word in self._table(words, f"{here}map").items()}
        bins = self._bins(value.get("bins", []), f"{here}bins")
        if words is not None and bins:
            raise self._wrong(f"{here}has both map and bins. Keep one")
        if unit is not None and (words is not None or bins):
            raise self._wrong(f"{here}unit goes with numbers, but there is a map or bins. Write it in their words")
        if "other" in value and words is None:
            raise self._wrong(f"{here}other goes with map")
        return Covariate(
            unit,
            words,
            self._word(value["other"], f"{here}other") if "other" in value else None,
            bins,
            self._word(value["missing"], f"{here}missing") if "missing" in value else None,
            tuple(word.lower() for word in self._words(value.get("missing_values", []), f"{here}missing_values")),
        )

    def _bins(self, value: Any, name: str) -> tuple[tuple[float, str], ...]:
        form = "such as [{ below = 50, word = 'under 50' }, { word = '50 or older' }]"
        if not isinstance(value, list) or len(value) > MOST_PHRASINGS:
            raise self._wrong(f"{name} must be a list of at most {MOST_PHRASINGS} tables, {form}")
        bins: list[tuple[float, str]] = []
        for place, one in enumerate(value):
            if not isinstance(one, Mapping) or "word" not in one:
                raise self._wrong(f"{name} must be tables with below and word, {form}")
            self._known(one, _OF_BIN, f"{name}: ")
            last = place == len(value) - 1
            below = one.get("below", math.inf if last else None)
            if type(below) not in (int, float) or math.isnan(below):
                raise self._wrong(f"{name}: below must be a number; only the last bin may lack it")
            if bins and below <= bins[-1][0]:
                raise self._wrong(f"{name}: the limits must ascend, but {below:g} follows {bins[-1][0]:g}")
            bins.append((float(below), self._word(one["word"], name)))
        return tuple(bins)

    def _if_missing(self, value: Mapping[str, Any], default: bool, name: str) -> bool:
        found = value.get("if_missing", LEAVE_OUT if default else SAY)
        if found not in (SAY, LEAVE_OUT):
            raise self._wrong(f"{name}if_missing must be {SAY!r} or {LEAVE_OUT!r}, but is {found!r:.60}")
        return bool(found == LEAVE_OUT)

    def _words(self, value: Any, name: str) -> list[str]:
        if not isinstance(value, list) or len(value) > MOST_COLUMNS:
            raise self._wrong(f"{name} must be a list of at most {MOST_COLUMNS} names in quotes")
        return [self._word(word, name) for word in value]

    def _word(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(f"{name} must be words in quotes, but is {value!r:.60}")
        if len(value) > MOST_CHARACTERS:
            raise self._wrong(f"{name} has {len(value):,} characters, but at most {MOST_CHARACTERS:,} are allowed")
        if printable(value) != value:
            raise self._wrong(f"{name} holds control characters. Remove them")
        return value.strip()

    def _table(self, value: Any, name: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping) or len(value) > MOST_COLUMNS * 10:
            raise self._wrong(f"{name} must be a table of at most {MOST_COLUMNS * 10:,} entries")
        return value

    def _known(self, value: Mapping[str, Any], keys: Sequence[str], name: str) -> None:
        for key in value:
            if key not in keys:
                raise self._wrong(f"{name}unknown key {key!r}.{nearest(key, keys)} There are: {', '.join(keys)}")

    def _wrong(self, what: str, end: str = ".") -> InputError:
        return InputError(f"{self.where}: {one_line(what)}{end}")
