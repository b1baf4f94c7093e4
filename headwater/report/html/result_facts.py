"""What a run's files say of its results, for the items of a checklist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater._words import counted
from headwater.evaluate.bootstrap import default_metric
from headwater.report.html.about import place_name
from headwater.report.html.facts import FEW, Fact, main
from headwater.report.html.material import Material
from headwater.report.html.mistakes import worst
from headwater.report.html.numbers import confusion_counts
from headwater.report.html.words import (
    HEADLINE,
    TILES,
    ends,
    groups_words,
    listed,
    metric_inside,
    metric_name,
    number,
    p_value,
    percent,
    span,
)


def measures(material: Material) -> list[Fact]:
    """Return the measures of performance that are reported."""
    one = main(material)
    names = [n for n in HEADLINE[one.task] if one.metrics["mean"].get(n) is not None]
    out = [Fact(f"Reported: {listed([metric_inside(n) for n in names])}", "metrics.json: mean")]
    for key in ("decision_curve", "calibration_pooled", "kaplan_meier"):
        if key in one.metrics:
            out.append(Fact(f"Also: {key.replace('_', ' ')}", f"metrics.json: {key}"))
    return out


def uncertainty(material: Material) -> list[Fact]:
    """Return how uncertainty was measured, and which tests were made."""
    one = main(material)
    out = []
    if one.metrics.get("intervals"):
        unit = groups_words(2, one.group).removeprefix("2 ") if one.group else "test rows"
        out.append(
            Fact(
                f"{percent(one.metrics)} intervals, by resampling {unit}",
                "metrics.json: level, intervals",
            )
        )
    for found in material.comparisons:
        for pair in found.found["differences"]:
            p = p_value(pair["p"].get(pair["test"]), pair["least_p"].get(pair["test"]))
            words = f"{pair['first']} − {pair['second']}: {number(pair['difference'], '+')} "
            words += f"({span(pair['low'], pair['high'], '+')}), p {p} by {pair['test'].replace('_', ' ')}"
            words += "" if pair["p_holm"] is None else f", corrected p {p_value(pair['p_holm'])}"
            out.append(Fact(words, "compare: differences"))
    return out


def robustness(material: Material) -> list[Fact]:
    """Return subgroups, controls and repetitions."""
    one = main(material)
    out = subgroups(material)
    metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
    for name, part in (one.metrics.get("controls") or {}).items():
        if "not_made" not in part:
            words = f"Control, {name}: {metric_inside(metric)} {number(part['mean'].get(metric))}"
            out.append(Fact(words, f"metrics.json: controls.{name}.mean.{metric}"))
    if (one.config.get("seeds") or 1) > 1:
        out.append(Fact(f"Repeated with {one.config['seeds']} seeds", "config.json: seeds"))
    return out


def subgroups(material: Material) -> list[Fact]:
    """Return the main metric of each subgroup."""
    one = main(material)
    found = one.metrics.get("by")
    if not found:
        return []
    metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
    out = []
    for level, part in list(found["levels"].items())[:FEW]:
        low, high = ends(part, metric)
        words = (
            f"{found['column']} {level}: {metric_inside(metric)} {number(part['mean'].get(metric))} ({span(low, high)})"
        )
        out.append(Fact(words, f"metrics.json: by.levels.{level}.mean.{metric}"))
    return out


def external(material: Material) -> list[Fact]:
    """Return the results of tests on other data."""
    out = []
    for one in material.external:
        found = one.metrics["external"]
        metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
        if metric in found["metrics"]:
            parts = found["metrics"][metric]
            inside, outside, drop = (parts[k] for k in ("internal", "external", "drop"))
            words = (
                f"{counted(one.metrics['n_samples'], one.unit)} of {place_name(one.config.get('store'))}: "
                f"{metric_inside(metric)} {number(outside['value'])} ({span(outside['low'], outside['high'])}), own "
                f"data {number(inside['value'])}, drop {number(drop['value'], '+')} "
                f"({span(drop['low'], drop['high'], '+')})"
            )
            out.append(Fact(words, f"metrics.json: external.metrics.{metric}", one.name))
        shared = found.get("shared")
        words = (
            "not checked" if shared is None else ", ".join(f"{n:,} by {kind}" for kind, n in shared.items()) or "none"
        )
        out.append(Fact(f"Samples shared with the training data: {words}", "metrics.json: external.shared", one.name))
    return out


def flow(material: Material) -> list[Fact]:
    """Return the flow of participants."""
    one = main(material)
    found = one.metrics.get("flow")
    if found is None:
        return [Fact(f"Used: {counted(one.metrics['n_samples'], one.unit)}", "metrics.json: n_samples")]
    out = []
    for key, title in (("listed", "Listed"), ("selected", "Selected")):
        out.append(Fact(f"{title}: {_counts(found[key], found['group'])}", f"metrics.json: flow.{key}"))
    for part in found["left_out"]:
        out.append(
            Fact(
                f"Left out, {part['reason']}: {_counts(part, found['group'])}",
                "metrics.json: flow.left_out",
            )
        )
    out.append(Fact(f"Used: {_counts(found['used'], found['group'])}", "metrics.json: flow.used"))
    return out


def _counts(found: Mapping[str, Any], group: str | None) -> str:
    words = counted(found["samples"], "sample")
    return words if found["groups"] is None else f"{words}, {groups_words(found['groups'], group or 'group')}"


def demographics(material: Material) -> list[Fact]:
    """Return the table of the cohort, if columns were named."""
    if material.cohort is None:
        return []
    head, rows = material.cohort
    place = 1  # all samples
    words = "; ".join(f"{row[0].strip()} {row[place]}" for row in rows if row[place])
    return [Fact(f"{head[place]}: {words}", f"cohort: {listed(list(material.columns))}")]


def performance(material: Material) -> list[Fact]:
    """Return the main metrics of each run."""
    out = []
    for one in material.subjects:
        for name in TILES[one.task]:
            if (value := one.metrics["mean"].get(name)) is not None:
                std = one.metrics["std"].get(name)
                words = f"{metric_name(name)} {number(value)}" + ("" if std is None else f" ± {number(std)} over folds")
                out.append(Fact(words, f"metrics.json: mean.{name}", one.name))
    return out


def precision(material: Material) -> list[Fact]:
    """Return estimates with their intervals."""
    out = []
    for one in material.subjects:
        for name in HEADLINE[one.task]:
            low, high = ends(one.metrics, name)
            if (value := one.metrics["mean"].get(name)) is not None and low is not None:
                words = f"{metric_name(name)} {number(value)}, {percent(one.metrics)} interval {span(low, high)}"
                out.append(Fact(words, f"metrics.json: intervals.{name}", one.name))
    return out


def failures(material: Material) -> list[Fact]:
    """Return how many test rows are wrong, and the surest mistakes."""
    one = main(material)
    found, n = worst(one, 3)
    if not found:
        return []
    words = "; ".join(f"{mistake.true}, {mistake.called}" for mistake in found)
    count = (
        f"{n:,} of {len(one.results.predictions):,} test rows are wrong. "
        if one.task in ("binary", "multiclass", "ordinal")
        else ""
    )
    return [
        Fact(
            f"{count}The surest mistakes: {words}",
            "predictions.parquet: label, predicted, scores",
        )
    ]


def imbalance(material: Material) -> list[Fact]:
    """Return the size of the classes."""
    one = main(material)
    counts = one.metrics.get("class_counts")
    if not counts:
        return []
    words = ", ".join(f"{c['name']} {c['n_samples']:,}" for c in counts[:FEW])
    return [
        Fact(
            f"Samples of each class: {words}. Rows are not weighted or resampled for it unless a parameter says so",
            "metrics.json: class_counts",
        )
    ]


def events(material: Material) -> list[Fact]:
    """Return the number of samples and events."""
    one = main(material)
    out = [Fact(f"Rows: {one.metrics['n_samples']:,}", "metrics.json: n_samples")]
    if of := one.metrics.get("followed"):
        out.append(Fact(f"Events: {of['events']:,}", "metrics.json: followed.events"))
    elif counts := one.metrics.get("class_counts"):
        words = ", ".join(f"{c['name']} {c['n_samples']:,}" for c in counts[:FEW])
        out.append(Fact(f"Of each class: {words}", "metrics.json: class_counts"))
    return out


def cross_table(material: Material) -> list[Fact]:
    """Return the counts of true against predicted classes."""
    one = main(material)
    if one.task not in ("binary", "multiclass", "ordinal") or len(one.names) > FEW:
        return []
    counts = confusion_counts(one)
    words = "; ".join(
        f"true {true}: " + ", ".join(f"{int(counts[i, j]):,} called {called}" for j, called in enumerate(one.names))
        for i, true in enumerate(one.names)
    )
    return [Fact(words, "predictions.parquet: label, predicted")]
