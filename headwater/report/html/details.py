"""Tables of calibration, thresholds, subgroups and controls of one run, as they stand in metrics.json."""

from __future__ import annotations

from typing import Any

from headwater.evaluate.bootstrap import default_metric
from headwater.evaluate.measured import NEAREST_IS_BEST, WITHOUT_CLASSES
from headwater.heads.controls import LONE
from headwater.report.html.markup import Cell, Html, bullets, join, table, tag
from headwater.report.html.material import Subject
from headwater.report.html.numbers import FILE, MANY, at_prevalence, small, threshold
from headwater.report.html.words import (
    TILES,
    ends,
    metric_name,
    number,
    p_value,
    percent,
    span,
)


def calibration(one: Subject) -> Html | None:
    """Return slope, intercept and Brier score; None for tasks without probabilities."""
    if one.task in WITHOUT_CLASSES:
        return None
    metrics, level = one.metrics, percent(one.metrics)
    rows: list[list[Cell]] = []
    pooled = metrics.get("calibration_pooled")
    if pooled and pooled.get("calibration_slope") is not None:
        for name in ("calibration_slope", "calibration_intercept", "calibration_in_the_large"):
            low, high = ends(pooled, name)
            best = f"{NEAREST_IS_BEST[name]:g}"
            rows.append(
                _row(
                    metric_name(name),
                    pooled[name],
                    low,
                    high,
                    best,
                    (f"calibration_pooled.{name}", f"calibration_pooled.intervals.{name}"),
                )
            )
    for name in ("brier", "log_loss", "ece"):
        if (value := metrics["mean"].get(name)) is not None:
            low, high = ends(metrics, name)
            rows.append(
                _row(
                    f"{metric_name(name)}, mean over folds",
                    value,
                    low,
                    high,
                    "0",
                    (f"mean.{name}", f"intervals.{name}"),
                )
            )
    if metrics.get("ece_pooled") is not None and len(metrics["folds"]) > 1:
        rows.append(
            _row(
                "Calibration error (ECE), all folds together",
                metrics["ece_pooled"],
                None,
                None,
                "0",
                ("ece_pooled", "ece_pooled"),
            )
        )
    if not rows:
        return None
    out = [table(["", "value", f"{level} interval", "ideal"], rows)]
    value, high = metrics["mean"].get("ece"), ends(metrics, "ece")[1]
    if value is not None and high is not None and value > high:
        hint = "ECE is too high in small folds. Its interval is corrected for this, so the value may lie above it."
        out.append(tag("p", hint, class_="hint"))
    if "calibration" in metrics:
        found = metrics["calibration"]
        before = [
            [
                Cell(metric_name(name)),
                *(
                    Cell(
                        number(found[part]["mean"][name]),
                        found[part]["mean"][name],
                        f"{FILE}calibration.{part}.mean.{name}",
                    )
                    for part in ("uncalibrated", "calibrated")
                ),
            ]
            for name in found["calibrated"]["mean"]
        ]
        out.append(table([f"calibrated by {found['method']}", "before", "after"], before))
    return join(out)


def _row(name: str, value: Any, low: Any, high: Any, best: str, keys: tuple[str, str]) -> list[Cell]:
    return [
        Cell(name),
        Cell(number(value), value, FILE + keys[0]),
        Cell(span(low, high), low, FILE + keys[1], numeric=True),
        Cell(best, numeric=True),
    ]


def decisions(one: Subject) -> Html | None:
    """Return results at the threshold, at a stated prevalence, and of prediction sets; None without them."""
    metrics = one.metrics
    parts = [
        threshold(metrics, ""),
        at_prevalence(metrics.get("prevalence"), "prevalence.", "where its probability is above 0.5"),
    ]
    if "conformal" in metrics:
        found = metrics["conformal"]
        parts.append(tag("h4", f"Prediction sets that may miss the true class in {100 * found['alpha']:g} % of cases"))
        parts.append(small(found, "conformal.", percent(metrics)))
        by = found.get("by") or {}
        if by:
            names = list(found["mean"])
            rows = [
                [
                    Cell(level),
                    *(
                        Cell(
                            number(p["mean"].get(n)),
                            p["mean"].get(n),
                            f"{FILE}conformal.by.{level}.mean.{n}",
                            numeric=True,
                        )
                        for n in names
                    ),
                ]
                for level, p in by.items()
            ]
            parts.append(table(["", *map(metric_name, names)], rows))
    return join(parts) if any(parts) else None


def subgroups(one: Subject) -> Html | None:
    """Return the main metrics of each subgroup, with the difference from all others; None without subgroups."""
    found = one.metrics.get("by")
    if not found:
        return None
    metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
    names = [metric, *(n for n in TILES[one.task] if n != metric)]
    names = [n for n in names if any(p["mean"].get(n) is not None for p in found["levels"].values())]
    rows = []
    for level, part in found["levels"].items():
        key = f"by.levels.{level}."
        row: list[Any] = [Cell(level), Cell(f"{part['n_samples']:,}", part["n_samples"], f"{FILE}{key}n_samples")]
        for name in names:
            low, high = ends(part, name)
            note = None if low is None else span(low, high)
            value = part["mean"].get(name)
            row.append(Cell(number(value), value, f"{FILE}{key}mean.{name}", note, numeric=True))
        gap = (part.get("gap") or {}).get(metric)
        value = None if gap is None else gap["value"]
        note = None if gap is None or gap["low"] is None else span(gap["low"], gap["high"], "+")
        row.append(Cell(number(value, "+"), value, f"{FILE}{key}gap.{metric}", note, numeric=True))
        rows.append(row)
    head = [found["column"], "samples", *map(metric_name, names), f"{metric_name(metric)} minus the rest"]
    hint = (
        f"Below each value its {percent(one.metrics)} interval. A difference whose interval includes 0 may be chance."
    )
    return join([table(head, rows), tag("p", hint, class_="hint")])


def controls(one: Subject) -> Html | None:
    """Return the controls: the same head on inputs without information, or on one input alone."""
    found = one.metrics.get("controls")
    if not found:
        return None
    metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
    mean = one.metrics["mean"].get(metric)
    rows = [[Cell("this run"), Cell(number(mean), mean, f"{FILE}mean.{metric}", numeric=True), Cell(""), Cell("")]]
    notes = []
    for name, part in found.items():
        if "not_made" in part:
            notes.append(f"{name} was not made: {part['not_made']}.")
            continue
        words = name if part["head"] != LONE or part["kind"] != "alone" else f"{name} ({LONE})"
        change = part["difference"][metric]
        key = f"controls.{name}."
        rows.append(
            [
                Cell(words),
                Cell(
                    number(part["mean"].get(metric)),
                    part["mean"].get(metric),
                    f"{FILE}{key}mean.{metric}",
                    numeric=True,
                ),
                Cell(number(change["value"], "+"), change["value"], f"{FILE}{key}difference.{metric}", numeric=True),
                Cell(
                    span(change["low"], change["high"], "+"),
                    change["low"],
                    f"{FILE}{key}difference.{metric}",
                    numeric=True,
                ),
            ]
        )
    line = (
        "The same model with shuffled or random inputs should do no better than chance, and with each input alone "
        "shows what the others add."
    )
    head = ["control", metric_name(metric), "this run minus control", "95 % interval"]
    return join([tag("p", line), table(head, rows), bullets(notes)])


def wordings(one: Subject) -> Html | None:
    """Return the effect of each wording of prompts; None without an ablation."""
    found = one.metrics.get("ablation")
    if not found:
        return None
    metric = found["metric"]
    rows = []
    for place, entry in enumerate(found["wordings"][:MANY]):
        value, change = entry["metrics"][metric], (entry.get("differences") or {}).get(metric)
        key = f"{FILE}ablation.wordings.{place}"
        cells = [Cell(entry["name"]), Cell(number(value), value, key, numeric=True)]
        if change is None:
            cells += [Cell("", numeric=True)] * 3
        else:
            cells += [
                Cell(number(change["difference"], "+"), change["difference"], key),
                Cell(span(change["low"], change["high"], "+"), change["low"], key, numeric=True),
                Cell(p_value(change["p_holm"]), change["p_holm"], key, numeric=True),
            ]
        rows.append(cells)
    head = [
        "wording",
        metric_name(metric),
        "difference from all prompts",
        f"{100 * found['level']:g} % interval",
        "p, corrected",
    ]
    return join([table(head, rows), tag("p", found["warning"], class_="hint")])


def details_of(one: Subject) -> list[tuple[str, Html | None]]:
    """Return the tables that stand after the figures with their titles; None where a run has none."""
    column = (one.metrics.get("by") or {}).get("column")
    return [
        ("Calibration", calibration(one)),
        ("Thresholds and prediction sets", decisions(one)),
        (f"Subgroups by {column}", subgroups(one)),
        ("Controls", controls(one)),
        ("Wording of the prompts", wordings(one)),
    ]
