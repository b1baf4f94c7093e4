"""The flow diagram: samples from the table to the fit, and by patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater._words import counted
from headwater.report.html.markup import Html, join, paragraphs, tag
from headwater.report.html.material import Subject
from headwater.report.html.words import groups_words

NOT_RECORDED = (
    "This run was made by an earlier version, which did not record its samples by patient. Make it again for a diagram "
    "with both."
)


def flow(one: Subject) -> Html:
    """Return the diagram."""
    found = one.metrics.get("flow")
    if found is None:
        left = one.metrics.get("left_out") or {}
        used, n = one.metrics["n_samples"], sum(left.values())
        boxes = [
            _box("In the selection", counted(used + n, "sample"), None, "metrics.json: n_samples, left_out"),
            *(
                _aside(f"Left out: {why}", counted(count, "sample"), None, f"metrics.json: left_out.{why}")
                for why, count in left.items()
            ),
            _box("Used", counted(used, one.unit), None, "metrics.json: n_samples"),
        ]
        return join([tag("ol", *boxes, class_="flow"), paragraphs([NOT_RECORDED], "hint")])
    group = found["group"]
    boxes = [_box("Listed in the table", *_both(found["listed"], group), "metrics.json: flow.listed")]
    out, there = found["selected"], found["listed"]
    if one.config.get("where"):
        gone = there["samples"] - out["samples"]
        lost = None
        if group is not None:
            lost = f"{groups_words(there['groups'] - out['groups'], group)} with nothing left"
        boxes.append(
            _aside(
                f"Not selected ({one.config['where']})", counted(gone, "sample"), lost, "metrics.json: flow.selected"
            )
        )
        boxes.append(_box("Selected", *_both(out, group), "metrics.json: flow.selected"))
    for part in found["left_out"]:
        samples, groups = _both(part, group)
        if groups is not None and part["whole_groups"] is not None:
            groups += f", {part['whole_groups']:,} of them with nothing left" if part["groups"] else ""
        boxes.append(_aside(f"Left out: {part['reason']}", samples, groups, "metrics.json: flow.left_out"))
    samples, groups = _both(found["used"], group)
    if found["used"]["rows"] != found["used"]["samples"]:
        samples += f", as {counted(found['used']['rows'], one.unit)}"
    boxes.append(_box("Used", samples, groups, "metrics.json: flow.used"))
    return tag("ol", *boxes, class_="flow")


def _both(found: Mapping[str, Any], group: str | None) -> tuple[str, str | None]:
    samples = counted(found["samples"], "sample")
    return samples, None if found["groups"] is None else groups_words(found["groups"], group or "group")


def _box(title: str, samples: str, groups: str | None, source: str) -> Html:
    return tag("li", tag("b", title), tag("span", samples), *_lines(groups), title=source)


def _aside(why: str, samples: str, groups: str | None, source: str) -> Html:
    return tag("li", tag("b", why), tag("span", samples), *_lines(groups), class_="out", title=source)


def _lines(groups: str | None) -> list[Html]:
    return [] if groups is None else [tag("span", groups)]
