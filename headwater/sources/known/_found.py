"""What a reader of a data set is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from headwater._about import About
from headwater._words import counted

Part = Literal["full", "crop"]


@dataclass(frozen=True)
class Asked:
    """Options of a reader.

    Attributes
    ----------
    groups_file
        A file, or a folder of files, that says which images belong together, where the data set has none.
    part
        For CBIS-DDSM: full mammograms, or the crop around each abnormality.
    salt
        For DICOM: the file of the secret that patients are hashed with; None for the user's own.
    """

    groups_file: Path | None = None
    part: Part = "full"
    salt: Path | None = None


@dataclass(frozen=True)
class Count:
    """How many of something were found, and how many were published; None where no number was published."""

    what: str
    found: int
    published: int | None = None

    def line(self) -> str:
        """Say what was found, and what is missing or surplus.

        Examples
        --------
        >>> Count("images", 7909, 7909).line(), Count("40X", 12, 1995).line(), Count("slides", 83, 82).line()
        ('images: 7,909, as published', '40X: 12 of 1,995, 1,983 missing', 'slides: 83, 1 more than the published 82')
        """
        if self.published is None:
            return f"{self.what}: {self.found:,}"
        if self.found == self.published:
            return f"{self.what}: {self.found:,}, as published"
        if self.found < self.published:
            return f"{self.what}: {self.found:,} of {self.published:,}, {self.published - self.found:,} missing"
        return (
            f"{self.what}: {self.found:,}, {self.found - self.published:,} more than the published {self.published:,}"
        )


@dataclass(frozen=True, eq=False)
class Known:
    """A data set as a table.

    Attributes
    ----------
    kind
        The data set's name in the registry.
    table
        One row per sample: ``id``, unique; ``image``, paths relative to the folder that was read; and the columns of
        the set. ``split`` holds ``train`` and ``test`` where a split was published.
    counts
        What was counted, with the published numbers.
    outcomes
        Columns that must not be inputs.
    groups
        Columns whose values must not be divided, the most careful first; empty if the set has none.
    warnings
        What a user of the table should know, each in a sentence.
    """

    kind: str
    table: pl.DataFrame
    counts: Sequence[Count]
    outcomes: Sequence[str] = ()
    groups: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def about(self) -> About:
        """What is kept with the table."""
        return About(
            kind=self.kind,
            outcomes=tuple(self.outcomes),
            groups=tuple(self.groups),
            counts={one.what: (one.found, one.published) for one in self.counts},
            warnings=tuple(self.warnings),
        )


def once(found: pl.DataFrame, by: str = "id") -> tuple[pl.DataFrame, list[str]]:
    """Keep the first of files that have the name of another, and say how many were left out."""
    table = found.unique(by, keep="first", maintain_order=True)
    n = found.height - table.height
    if not n:
        return table, []
    twice = found.filter(pl.col(by).is_duplicated())[by][0]
    return table, [f"{counted(n, 'file')} left out that have the name of another, such as {twice}: the first is listed"]


def misplaced(table: pl.DataFrame, full: pl.Series, folders: dict[str, str], label: str = "label") -> list[str]:
    """Warn of files that lie in the folder of another class than their names say.

    Parameters
    ----------
    full
        The path of the file of each row.
    folders
        The class that each name of a folder stands for.
    """
    words = "|".join(folders)
    of_folder = full.str.extract(rf"^.*/({words})/", 1).replace_strict(folders, default=None, return_dtype=pl.String)
    differ = table.filter(of_folder.ne_missing(table[label]) & of_folder.is_not_null())
    if differ.is_empty():
        return []
    return [
        f"{counted(differ.height, 'file')} in the folder of another {label}, such as {differ['image'][0]}: the name is "
        "taken, not the folder"
    ]


def by_value(table: pl.DataFrame, column: str, published: dict[str, int], end: str = "") -> list[Count]:
    """Count the rows of each value of a column; values that were not published are counted too."""
    found = {str(value): n for value, n in table[column].drop_nulls().value_counts().iter_rows()}
    names = [*published, *sorted(set(found) - set(published))]
    return [Count(f"{name}{end}", found.get(name, 0), published.get(name, 0)) for name in names]


def images_of(n: int) -> str:
    """Write a number of images.

    Examples
    --------
    >>> images_of(1), images_of(1200)
    ('1 image', '1,200 images')
    """
    return counted(n, "image")


def nothing(kind: str) -> Known:
    """Return what a reader returns that found none of its files."""
    return Known(kind, pl.DataFrame(schema={"id": pl.String, "image": pl.String}), ())
