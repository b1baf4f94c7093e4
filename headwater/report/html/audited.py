"""What `audit` found in a store: duplicates, and how far features show the site. Its JSON may be somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from headwater._schema import Count, Word, read_as
from headwater._words import counted
from headwater.report.html.markup import Cell, Html, Section, join, paragraphs, table, tag
from headwater.report.html.words import number, span

FILE = "audit: "
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Ends = tuple[Share, Share] | None


@dataclass(frozen=True)
class Counted:
    """Number of duplicates, their samples, and how many cross groups, splits or labels."""

    n: Count
    samples: Count
    across_groups: Count | None = None
    across_split: Count | None = None
    labels_differ: Count | None = None


@dataclass(frozen=True)
class Found:
    """The duplicates of one feature set."""

    features: Word
    n_contents: Count
    identical: Counted
    near: Counted
    clusters: Counted
    threshold: float | None = None


@dataclass(frozen=True)
class SiteProbe:
    """A linear probe that predicts the site, and what a guess reaches."""

    balanced_accuracy: Share
    chance: Share
    intervals: dict[str, Ends]


@dataclass(frozen=True)
class Site:
    """What one feature set shows of the site."""

    features: Word
    k: Count
    robustness: Share | None
    interval: Ends
    by_chance: Share | None
    same_site: Share
    same_label: Share
    n_references: Count
    probe: SiteProbe | None = None
    why_no_probe: Word = ""


@dataclass(frozen=True)
class SiteLabels:
    """The number of samples of each label at one site."""

    site: Word
    labels: dict[str, Count]


@dataclass(frozen=True)
class Audited:
    """The result of `headwater.api.audit`, as far as a report prints it."""

    path: Word
    n_samples: Count
    label: Word | None
    groups: Word | None
    split: Word | None
    found: Sequence[Found]
    groups_across_split: Count | None = None
    by: Word | None = None
    sites: Sequence[Site] = ()
    site_labels: Sequence[SiteLabels] = ()


def audited_of(value: Any) -> Audited:
    """Read the JSON of an audit; raise ValueError with the field that is missing or wrong."""
    return read_as(Audited, value)


def audit_section(one: Audited) -> Section:
    """Return the section of the data's audit."""
    parts = [
        tag("p", f"headwater audit looked at {counted(one.n_samples, 'sample')} of {Path(one.path).name}."),
        tag("section", tag("h3", "Duplicates"), _duplicates(one)),
    ]
    if one.by is not None and one.sites:
        parts.append(tag("section", tag("h3", f"Do the features show the {one.by}?"), _sites(one, one.by)))
    return Section("Audit of the data", join(parts), id="audit")


def _duplicates(one: Audited) -> Html:
    crossing = [
        (name, words)
        for name, words in (
            ("across_groups", f"in several values of {one.groups}"),
            ("across_split", f"on both sides of {one.split}"),
            ("labels_differ", f"with different {one.label}"),
        )
        if any(getattr(of.clusters, name) is not None for of in one.found)
    ]
    rows = []
    for place, of in enumerate(one.found):
        for kind, words in (
            ("identical", "identical"),
            ("near", "nearly identical"),
            ("clusters", "both, in clusters"),
        ):
            counts = getattr(of, kind)
            key = f"{FILE}found[{place}].{kind}."
            unknown = kind == "near" and of.threshold is None
            row: list[Any] = [Cell(of.features), Cell(words)]
            for name in ("n", "samples", *(name for name, _ in crossing)):
                value = None if unknown else getattr(counts, name)
                row.append(Cell("–" if value is None else f"{value:,}", value, key + name, numeric=True))
            rows.append(row)
    made = table(["features", "contents", "number", "samples", *(words for _, words in crossing)], rows, sortable=False)
    lines = []
    if one.groups_across_split is not None:
        lines.append(f"Values of {one.groups} on both sides of {one.split}: {one.groups_across_split:,}.")
    if any(of.threshold is None for of in one.found):
        lines.append("Near duplicates are unknown (–) where there are too few contents to say what is alike by chance.")
    return join([made, paragraphs(lines, "hint")])


def _sites(one: Audited, by: str) -> Html:
    rows = []
    for place, site in enumerate(one.sites):
        key = f"{FILE}sites[{place}]."
        low, high = site.interval or (None, None)
        row: list[Any] = [
            Cell(site.features),
            Cell(number(site.robustness), site.robustness, f"{key}robustness", _interval(low, high), numeric=True),
            Cell(number(site.by_chance), site.by_chance, f"{key}by_chance", numeric=True),
            Cell(number(site.same_site), site.same_site, f"{key}same_site"),
            Cell(number(site.same_label), site.same_label, f"{key}same_label"),
        ]
        if site.probe is None:
            row += [Cell("–", numeric=True), Cell("–", numeric=True)]
        else:
            low, high = site.probe.intervals.get("balanced_accuracy") or (None, None)
            reached, chance = site.probe.balanced_accuracy, site.probe.chance
            row.append(Cell(number(reached), reached, f"{key}probe.balanced_accuracy", _interval(low, high)))
            row.append(Cell(number(chance), chance, f"{key}probe.chance"))
        rows.append(row)
    head = [
        "features",
        "robustness index",
        "by chance",
        f"neighbours of the same {by}",
        f"neighbours with the same {one.label}",
        f"a probe finds the {by}, balanced accuracy",
        "by chance",
    ]
    lines = [sentence for site in one.sites for sentence in _sentences(site, by, str(one.label))]
    what = (
        f"The robustness index looks at each sample's nearest samples of other groups: it is 1 if they share the "
        f"{one.label} rather than the {by}, and 0 if they share the {by} rather than the {one.label}. Below a value "
        "stands its 95 % interval."
    )
    parts = [paragraphs(lines), table(head, rows), tag("p", what, class_="hint")]
    if one.site_labels:
        labels = list(one.site_labels[0].labels)
        counts = [
            [
                Cell(of.site),
                *(
                    Cell(f"{of.labels.get(n, 0):,}", of.labels.get(n, 0), f"{FILE}site_labels[{i}].labels.{n}")
                    for n in labels
                ),
            ]
            for i, of in enumerate(one.site_labels)
        ]
        parts.append(table([f"samples by {by}", *labels], counts))
    return join(parts)


def _interval(low: float | None, high: float | None) -> str | None:
    return None if low is None else span(low, high)


def _sentences(site: Site, by: str, label: str) -> list[str]:
    """Say in words which of the two decides, where the interval leaves no doubt."""
    out = []
    if site.interval is not None and site.by_chance is not None:
        low, high = site.interval
        if high < site.by_chance:
            out.append(
                f"In {site.features}, samples lie near others of the same {by} more than near others with the same "
                f"{label}: results may depend on the {by}."
            )
        elif low > site.by_chance:
            out.append(f"In {site.features}, the {label} decides more than the {by} which samples are alike.")
        else:
            out.append(f"In {site.features}, neither the {label} nor the {by} clearly decides which samples are alike.")
    if site.probe is not None and (ends := site.probe.intervals.get("balanced_accuracy")) is not None:
        if ends[0] > site.probe.chance:
            out.append(
                f"A linear probe reads the {by} from {site.features} better than chance. Test on a {by} that the head "
                "was not trained on."
            )
        else:
            out.append(f"A linear probe does not read the {by} from {site.features} better than chance.")
    elif site.why_no_probe:
        out.append(f"No linear probe for the {by} could be made from {site.features}: {site.why_no_probe}")
    return out
