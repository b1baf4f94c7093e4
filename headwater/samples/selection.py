"""Which samples are used, and how they are read: options as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater._missing import MISSING, words_of
from headwater._options import as_tuple
from headwater.evaluate.options import Protocol
from headwater.samples.inputs import Missing
from headwater.samples.missing import MissingRule


@dataclass(frozen=True)
class Selection:
    """Which samples are used, what makes a row of them, and how their labels are read.

    Attributes
    ----------
    where
        A boolean SQL expression over the columns of the samples: only these samples are used.
    bags
        For multiple-instance learning: the column whose values make one bag of the samples that share them, such as
        the slide. A row is then a bag, and each bag has one label. With `views`, what the views are of, such as the
        exam.
    views
        The column that says which view, or magnification, a sample is: a row is then a case, the samples that share a
        value of `bags`, and each view of its images is an input of its own, ``VIEW:NAME/image``. A case has one image
        a view and one text; one that lacks a view is left out, or kept as `missing` says.
    missing
        ``"drop"`` leaves out samples that lack one of the features; ``"keep"`` keeps them, for heads over the tokens
        of several inputs.
    samples_with
        Feature sets that a sample must have too, so that runs on other features are about the same samples.
    merge
        Labels that mean the same, mapped to one name: ``{"adenoca.": "adenocarcinoma"}``, or a file of such, a table
        with the columns ``from`` and ``to``, or TOML. None or ``""`` leaves samples with that label out (of several
        labels, that label).
    label_separator
        Splits the text of the label column into several labels, such as ``";"``.
    missing_values
        Words that are missing values, in any case of letters, in labels, groups, ``by`` and ``per``: a list, or one
        text with commas. ``NA``, ``N/A``, ``NaN`` and ``null`` by default; with an empty list only empty cells are
        missing. In a column of ids, sites or countries the words do not count, unless it is the label. A sample
        without a label is left out and counted.
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
        object.__setattr__(self, "missing_values", words_of(self.missing_values))

    @property
    def unit(self) -> str:
        """What a row is called."""
        return "sample" if self.bags is None else "bag" if self.views is None else "case"

    @property
    def in_bags(self) -> bool:
        """Whether rows are bags of instances."""
        return self.bags is not None and self.views is None

    def rule(self, labels: Sequence[str], protocol: Protocol, ids: str | None) -> MissingRule:
        """Return which words are missing values, and in which columns: those that are used, but for the split's."""
        others = (protocol.groups, protocol.by, protocol.per)
        return MissingRule(tuple(self.missing_values or ()), tuple(labels), others, self.label_separator, ids)

    def to_dict(self) -> dict[str, Any]:
        """Return what is needed to repeat it, as plain JSON values; of ``merge`` the mapping, once it is read."""
        return {
            **vars(self),
            "samples_with": list(self.samples_with),
            "missing_values": list(self.missing_values or ()),
            "merge": dict(self.merge) if isinstance(self.merge, Mapping) else self.merge,
        }
