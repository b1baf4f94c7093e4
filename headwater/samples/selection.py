"""Options that select samples and say how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater._missing import MISSING, words_of
from headwater._options import as_tuple
from headwater.errors import InputError
from headwater.evaluate.options import Protocol
from headwater.samples.inputs import Missing
from headwater.samples.missing import MissingRule

WITHOUT_FIT = ("groups", "by", "per", "aggregate", "seed", "positive", "where", "label_separator", "missing_values")
"""Options of `headwater.Protocol` and `Selection` for evaluate and zero-shot, which fit nothing."""
OF_PAIRS = ("groups", "split", "holdout", "seed", "where", "missing_values")
"""Those for contrast, which trains on pairs."""


@dataclass(frozen=True)
class Selection:
    """The samples to use, how they form rows, and how their labels are read.

    Attributes
    ----------
    where
        A boolean SQL expression over the columns of the samples: only these samples are used.
    bags
        For multiple-instance learning: the column, such as the slide, whose values define bags of samples. A row is
        then a bag, and each bag has one label. With `views`, the column that defines a case, such as the exam.
    views
        The column with each sample's view, or magnification. A row is then a case, the samples that share a value of
        `bags`, and each view of its images is a separate input, ``VIEW:NAME/image``. A case has one image per view and
        one text; a case that lacks a view is left out or kept, depending on `missing`.
    missing
        ``"drop"`` leaves out samples that lack one of the features; ``"keep"`` keeps them, for heads over the tokens
        of several inputs.
    samples_with
        Feature sets that a sample must have too, so that runs on different features use the same samples.
    merge
        Labels that mean the same, mapped to one name: ``{"adenoca.": "adenocarcinoma"}``, or a file with such a
        mapping: a table with the columns ``from`` and ``to``, or TOML. None or ``""`` leaves out samples with that
        label (with several labels per sample, only that label). The label ``"*"`` stands for all that are not named.
    label_separator
        Splits the text of the label column into several labels, such as ``";"``.
    missing_values
        Words that are missing values in labels, groups, ``by`` and ``per``, case-insensitive: a list, or one text with
        commas. ``NA``, ``N/A``, ``NaN`` and ``null`` by default; with an empty list only empty cells are missing. In a
        column of ids, sites or countries the words do not count, unless it is the label. A sample without a label is
        left out and counted.
    """

    where: str | None = None
    bags: str | None = None
    views: str | None = None
    missing: Missing = "drop"
    samples_with: Sequence[str] = ()
    merge: Mapping[str, str | None] | str | Path | None = field(default_factory=dict)
    label_separator: str | None = None
    missing_values: Sequence[str] | str | None = MISSING

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples_with", as_tuple(self.samples_with))
        if self.label_separator == "":
            raise InputError("--label-separator is empty: give the text between two labels, such as ';'.")
        object.__setattr__(self, "missing_values", words_of(self.missing_values))

    @property
    def unit(self) -> str:
        """The word for a row: sample, bag or case."""
        return "sample" if self.bags is None else "bag" if self.views is None else "case"

    @property
    def in_bags(self) -> bool:
        """Whether rows are bags of instances."""
        return self.bags is not None and self.views is None

    def rule(self, labels: Sequence[str], protocol: Protocol, ids: str | None) -> MissingRule:
        """Return the rule for missing values in the used columns, except the split's column."""
        others = (protocol.groups, protocol.by, protocol.per)
        return MissingRule(tuple(self.missing_values or ()), tuple(labels), others, self.label_separator, ids)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values, with ``merge`` as the mapping once it is read."""
        return {
            **vars(self),
            "samples_with": list(self.samples_with),
            "missing_values": list(self.missing_values or ()),
            "merge": dict(self.merge) if isinstance(self.merge, Mapping) else self.merge,
        }
