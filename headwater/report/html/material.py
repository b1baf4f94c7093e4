"""What a report is made of: runs as they stand in their files, and what `compare` and `table` returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.report.html.audited import Audited
from headwater.runs.predictions import names_of
from headwater.runs.run import Results

LARGEST = 6  # runs whose mistakes and map are shown; more would make a file that no mail takes


@dataclass(frozen=True, eq=False)
class Subject:
    """A run of the report.

    Attributes
    ----------
    name
        What the report calls it: the system, and its level in a family of runs.
    path
        Its directory.
    results
        The contents of its files.
    """

    name: str
    path: Path
    results: Results

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of ``config.json``."""
        return self.results.config

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Contents of ``metrics.json``."""
        return self.results.metrics

    @property
    def task(self) -> str:
        """Its task."""
        return str(self.metrics["task"])

    @property
    def names(self) -> list[str]:
        """Its classes, labels or outputs."""
        return names_of(self.metrics)

    @property
    def is_external(self) -> bool:
        """Whether it tested the head of another run on other data."""
        return bool(self.config["command"] == "evaluate")

    @property
    def group(self) -> str | None:
        """The column of independent groups, such as the patient; None without one."""
        found = self.config.get("groups")
        return None if found in (None, "none") else str(found)

    @property
    def unit(self) -> str:
        """The word for a tested row."""
        if self.config.get("views"):
            return "case"
        return "bag" if self.config.get("bags") else "sample"

    @property
    def labels(self) -> list[str]:
        """The columns that it predicts; none for survival, whose columns are times and events."""
        if self.task == "survival":
            return []
        label = self.config.get("label")
        return [] if label is None else [str(label)] if isinstance(label, str) else [str(one) for one in label]

    @property
    def features(self) -> list[str]:
        """The feature sets that its head reads; for zero-shot, those of images and prompts."""
        return list(self.config.get("features") or ())


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returned for runs at one level.

    Attributes
    ----------
    level
        The level, ``""`` without levels.
    found
        `headwater.api.Compared` as plain values.
    sentences
        A conclusion in words for each pair, each a title and a line of numbers.
    """

    level: str
    found: Mapping[str, Any]
    sentences: Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that a report prints.

    Attributes
    ----------
    title
        Its title.
    subjects
        Runs that were fitted or classified by prompts, then those of other data sets.
    table
        `headwater.api.Table` of all runs as plain values, with ``level_name``.
    comparisons, not_compared
        Comparisons by level; pairs that could not be compared, and why.
    checklist
        Name of the checklist to fill; None for none.
    study
        What the authors wrote, by item of the checklist; also ``title``, ``authors`` and ``summary``.
    columns, by
        Columns of the samples that are shown with mistakes and colour the map; and a column that divides the cohort.
    cohort
        Head and rows of the table of the cohort; None without columns.
    audited
        What `headwater.api.audit` found in the store; None without one.
    pictures, ids
        Whether to show pictures, and ids.
    """

    title: str
    subjects: Sequence[Subject]
    table: Mapping[str, Any]
    comparisons: Sequence[Comparison] = ()
    not_compared: Sequence[str] = ()
    checklist: str | None = None
    study: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    by: str | None = None
    cohort: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    audited: Audited | None = None
    pictures: bool = True
    ids: bool = False

    @property
    def inner(self) -> list[Subject]:
        """Runs that are not tests on other data."""
        return [one for one in self.subjects if not one.is_external]

    @property
    def external(self) -> list[Subject]:
        """Tests of a saved head on other data."""
        return [one for one in self.subjects if one.is_external]
