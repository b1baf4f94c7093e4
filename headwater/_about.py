"""What is known of a table beside its cells: the data set, which columns are outcomes, which keep rows together.

A Parquet file holds it in its key-value metadata, under `KEY`; a table of any other kind in a file beside it, which
`about_file` names. A store keeps it with its samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from headwater._reading import parse_json, read_regular
from headwater.errors import InputError, ManifestError

__all__ = ["KEY", "MOST", "About", "MadeText", "NotAbout", "about_file", "read_about", "refuse_outcomes"]

KEY = "headwater-about"
MOST = 1 << 20
"""Most bytes of such a description."""
MOST_COLUMNS = 10_000
"""Most columns that one list may name."""


class NotAbout(ValueError):
    """A text is not a description of a table."""


@dataclass(frozen=True)
class MadeText:
    """The template that a column of texts was made from.

    Attributes
    ----------
    columns
        The columns whose values stand in the texts.
    template
        The template, as TOML text; see `headwater.sources.template`.
    """

    columns: tuple[str, ...]
    template: str

    @property
    def digest(self) -> str:
        """The BLAKE2b-128 digest of the template, in hex."""
        return blake2b(self.template.encode(), digest_size=16).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"digest": self.digest, "columns": list(self.columns), "template": self.template}


@dataclass(frozen=True)
class About:
    """What is known of a table.

    Attributes
    ----------
    kind
        The data set, such as ``breakhis``; None if it is not a known one.
    outcomes
        Columns that hold what is to be predicted, or what became known only with it, such as a biopsy. They may be
        labels, but never inputs.
    groups
        Columns whose values must not be divided between training and test, the most careful first.
    made
        Columns that headwater computed from features, by the name of the command.
    texts
        Columns of texts that were made from a template.
    counts
        By what is counted, the number found and the published one, null where none was published.
    warnings
        What a user of the table should know.
    """

    kind: str | None = None
    outcomes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, MadeText] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != About()

    def to_json(self) -> str:
        """Return the description as JSON text."""
        texts = {name: one.to_dict() for name, one in self.texts.items()}
        value = {**vars(self), "texts": texts, "counts": {name: list(pair) for name, pair in self.counts.items()}}
        return json.dumps(value, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> About:
        """Read a description; fields of later versions are ignored.

        Raises
        ------
        NotAbout
            When it is not such a description.
        """
        if len(text) > MOST:
            raise NotAbout(f"it has {len(text):,} bytes, but at most {MOST:,} are read")
        try:
            value = parse_json(text)
        except ValueError as error:
            raise NotAbout(f"what is known of the table is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise NotAbout("it is not an object in braces")
        kind = value.get("kind")
        if kind is not None and not isinstance(kind, str):
            raise NotAbout("kind is not a text")
        return cls(
            kind=kind,
            outcomes=_texts(value, "outcomes"),
            groups=_texts(value, "groups"),
            made=_texts_by_name(value),
            texts=_made_texts(value),
            counts=_counts(value),
            warnings=_texts(value, "warnings"),
        )

    def joined(self, other: About) -> About:
        """Return what holds for a table that has the columns of two."""
        return replace(
            self,
            kind=self.kind or other.kind,
            outcomes=tuple(dict.fromkeys((*self.outcomes, *other.outcomes))),
            groups=tuple(dict.fromkeys((*self.groups, *other.groups))),
            made={**other.made, **self.made},
            texts={**other.texts, **self.texts},
            counts={**other.counts, **self.counts},
            warnings=tuple(dict.fromkeys((*self.warnings, *other.warnings))),
        )

    def of(self, columns: Iterable[str]) -> About:
        """Return what holds for these columns alone."""
        there = set(columns)
        return replace(
            self,
            outcomes=tuple(name for name in self.outcomes if name in there),
            groups=tuple(name for name in self.groups if name in there),
            made={name: by for name, by in self.made.items() if name in there},
            texts={name: one for name, one in self.texts.items() if name in there},
        )


def refuse_outcomes(about: About, columns: Iterable[str], option: str) -> None:
    """Raise `InputError` if one of the columns is an outcome, which an input would give away.

    Parameters
    ----------
    about
        What is known of the table.
    columns
        The columns that would be inputs.
    option
        The option that names them, for the message.
    """
    for name in columns:
        if name in about.outcomes:
            of = f" of {about.kind}" if about.kind else ""
            raise InputError(
                f"{option} {name}: this column is an outcome{of}: it holds what is to be predicted, or became known "
                "with it. It may be a --label, but no input."
            )


def about_file(table: Path) -> Path:
    """Return the file that describes a table: ``scans.csv.about.json`` for ``scans.csv``."""
    return table.with_name(f"{table.name}.about.json")


def read_about(table: Path) -> About:
    """Read what is known of a table from the file beside it; an empty description if there is none.

    Raises
    ------
    ManifestError
        When there is such a file, but it cannot be read.
    """
    path = about_file(table)
    if not os.path.lexists(path):
        return About()
    try:
        return About.from_json(read_regular(path, most=MOST))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ManifestError(
            f"{path}: cannot be read ({why}). Make the manifest again, or remove this file: outcomes would then not be "
            "known as such."
        ) from error


def _texts(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name, [])
    if not isinstance(found, list) or len(found) > MOST_COLUMNS or not all(isinstance(word, str) for word in found):
        raise NotAbout(f"{name} is not a list of texts")
    return tuple(dict.fromkeys(found))


def _texts_by_name(value: Mapping[str, Any]) -> dict[str, str]:
    found = value.get("made", {})
    if not isinstance(found, dict) or not all(isinstance(word, str) for word in found.values()):
        raise NotAbout("made is not an object of texts")
    return found


def _made_texts(value: Mapping[str, Any]) -> dict[str, MadeText]:
    found = value.get("texts", {})
    if not isinstance(found, dict) or len(found) > MOST_COLUMNS:
        raise NotAbout("texts is not an object")
    out = {}
    for name, one in found.items():
        if not isinstance(one, dict) or not isinstance(one.get("template"), str):
            raise NotAbout(f"texts: {name!r:.60} has no template")
        out[name] = MadeText(_texts(one, "columns"), one["template"])
    return out


def _counts(value: Mapping[str, Any]) -> dict[str, tuple[int, int | None]]:
    found = value.get("counts", {})
    if not isinstance(found, dict):
        raise NotAbout("counts is not an object")
    for pair in found.values():
        if not isinstance(pair, list) or len(pair) != 2 or not all(n is None or type(n) is int for n in pair):
            raise NotAbout("counts are not pairs of numbers")
    return {name: (pair[0] or 0, pair[1]) for name, pair in found.items()}
