"""Tables of one run's numbers, each as it stands in metrics.json, with its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headwater._words import counted
from headwater.evaluate.bootstrap import default_metric
from headwater.report.html.markup import Cell, Content, Html, join, paragraphs, table, tag
from headwater.report.html.material import Subject
from headwater.report.html.words import (
    HEADLINE,
    MEANINGS,
    TILES,
    ends,
    groups_words,
    metric_inside,
    metric_name,
    number,
    p_value,
    percent,
    span,
)
from headwater.runs.printed import over

MANY = 60  # rows of a table of classes
SHARE = "share"  # the variable of the page's style that colours a cell of a confusion matrix
FEW = 12  # classes of a confusion matrix in cells
FILE = "metrics.json: "
OF_CLASS = ("precision", "recall", "f1", "auc")


def tiles(one: Subject) -> Html:
    """Return the main results, large, each with its interval."""
    section = one.metrics
    names = [n for n in TILES[one.task] if section["mean"].get(n) is not None]
    if not names:
        names = [n for n in [default_metric(one.task, [section["mean"]])] if section["mean"].get(n) is not None]  # type: ignore[arg-type]
    made = []
    chosen: Mapping[str, Any] = section.get("threshold") or {}
    if chosen:  # results at 0.5 would not be those of the model as it is used
        names = [n for n in names if n not in ("recall", "specificity")]
    for name in names:
        low, high = ends(section, name)
        interval = None if low is None else tag("small", f"{percent(section)} interval {span(low, high)}")
        value = tag("strong", number(section["mean"][name]))
        made.append(tag("div", tag("span", metric_name(name)), value, interval, title=f"{FILE}mean.{name}"))
    for name in ("sensitivity", "specificity") if chosen else ():
        low, high = ends(chosen, name)
        interval = None if low is None else tag("small", f"{percent(section)} interval {span(low, high)}")
        words = f"{metric_name(name)} at the chosen threshold"
        value = tag("strong", number(chosen["mean"].get(name)))
        made.append(tag("div", tag("span", words), value, interval, title=f"{FILE}threshold.mean.{name}"))
    return tag("div", *made, class_="tiles") if made else Html("")


def headline(one: Subject) -> Html:
    """Return the table of the main metrics."""
    out = [_metrics(one.task, one.metrics, "", percent(one.metrics))]
    undefined = [n for n in HEADLINE[one.task] if n in one.metrics["mean"] and one.metrics["mean"][n] is None]
    if undefined:
        names = ", ".join(map(metric_inside, undefined))
        out.append(tag("p", f"Not defined on these test rows: {names}.", class_="hint"))
    return join(out)


def _metrics(task: str, section: Mapping[str, Any], key: str, level: str) -> Html:
    n = len(section["folds"])
    rows = []
    names = [name for name in HEADLINE[task] if section["mean"].get(name) is not None]
    names += [
        f"{m}_present"
        for m in HEADLINE[task]
        if section["mean"].get(m) is None and section["mean"].get(f"{m}_present") is not None
    ]
    for name in names:
        low, high = ends(section, name)
        std = section["std"].get(name)
        k = (section.get("n_folds") or {}).get(name, n)
        note = MEANINGS.get(name)
        part = f" ({k} of {n} folds)" if k < n else ""
        rows.append(
            [
                Cell(metric_name(name), note=note),
                Cell(number(section["mean"][name]) + part, section["mean"][name], f"{FILE}{key}mean.{name}"),
                *(
                    [Cell("–" if std is None else f"±\u00a0{number(std)}", std, f"{FILE}{key}std.{name}", numeric=True)]
                    if n > 1
                    else []
                ),
                Cell(span(low, high), low, f"{FILE}{key}intervals.{name}", numeric=True),
            ]
        )
    mean = f"mean of {over(section['folds'])}" if n > 1 else "value"
    return table(["", mean, *(["SD"] if n > 1 else []), f"{level} interval"], rows, class_="headline")


def by_unit(one: Subject) -> Html | None:
    """Return the results by unit, such as the patient; None without them."""
    if "per" not in one.metrics:
        return None
    found = one.metrics["per"]
    line = f"{groups_words(found['n_units'], found['column'])}, each with the {found['aggregate']} of its scores."
    return join([tag("p", line), _metrics(one.task, found, "per.", percent(one.metrics)), threshold(found, "per.")])


def classes(one: Subject) -> Html | None:
    """Return the metrics of each class; None for tasks without classes."""
    found = one.metrics.get("per_class")
    if not found:
        return None
    counts = {str(c["name"]): c for c in one.metrics.get("class_counts", ())}
    grouped = any(c["n_groups"] is not None for c in counts.values())
    rows = []
    for name, of_class in list(found.items())[:MANY]:
        count = counts.get(name, {})
        row: list[Any] = [
            Cell(name),
            Cell(f"{of_class['support']:,}", of_class["support"], f"{FILE}per_class.{name}.support"),
        ]
        if grouped:
            n = count.get("n_groups")
            row.append(Cell("–" if n is None else f"{n:,}", n, f"{FILE}class_counts", numeric=True))
        for metric in OF_CLASS:
            value, (low, high) = of_class["mean"].get(metric), ends(of_class, metric)
            note = None if low is None else span(low, high)
            row.append(Cell(number(value), value, f"{FILE}per_class.{name}.mean.{metric}", note, numeric=True))
        rows.append(row)
    group = [groups_words(2, one.group or "group").removeprefix("2 ")] if grouped else []
    head = ["class", "samples", *group, *(f"{metric_name(m)}" for m in OF_CLASS)]
    more = len(found) - MANY
    note = f" {more} more classes are in metrics.json." if more > 0 else ""
    hint = tag(
        "p", f"Each class against the rest; below each value its {percent(one.metrics)} interval.{note}", class_="hint"
    )
    return join([table(head, rows), hint, _cuts(one)])


def _cuts(one: Subject) -> Html:
    found = one.metrics.get("cuts")
    if not found:
        return Html("")
    rows = []
    for name, part in found.items():
        low, high = ends(part, "auc")
        value = part["mean"].get("auc")
        rows.append(
            [
                Cell(f"{name} or higher"),
                Cell(f"{part['support']:,}", part["support"], f"{FILE}cuts.{name}.support"),
                Cell(number(value), value, f"{FILE}cuts.{name}.mean.auc", numeric=True),
                Cell(span(low, high), low, f"{FILE}cuts.{name}.intervals.auc", numeric=True),
            ]
        )
    return table(["cut between grades", "samples at or above", "AUC", f"{percent(one.metrics)} interval"], rows)


def outputs(one: Subject) -> Html | None:
    """Return the metrics of each output of a regression; None for one output."""
    found = one.metrics.get("by_output")
    if not found:
        return None
    rows = []
    for name, part in found.items():
        row: list[Any] = [Cell(name)]
        for metric in HEADLINE["regression"]:
            value, (low, high) = part["mean"].get(metric), ends(part, metric)
            note = None if low is None else span(low, high)
            row.append(Cell(number(value), value, f"{FILE}by_output.{name}.mean.{metric}", note, numeric=True))
        rows.append(row)
    return table(["output", *map(metric_name, HEADLINE["regression"])], rows)


def confusion(one: Subject) -> Html | None:
    """Return the confusion matrix as a table, counted from predictions.parquet; None for many or no classes."""
    if one.task in ("regression", "survival", "multilabel") or not 2 <= len(one.names) <= FEW:
        return None
    counts = confusion_counts(one)
    total = counts.sum(1)
    head = [
        tag("th", "true \\ predicted", scope="col"),
        *(tag("th", name, scope="col", class_="n") for name in one.names),
    ]
    rows = []
    for i, name in enumerate(one.names):
        cells = [tag("th", name, scope="row")]
        for j in range(len(one.names)):
            n, share = int(counts[i, j]), counts[i, j] / max(total[i], 1)
            words = tag("small", f"{100 * share:.0f} %") if total[i] else None
            style = f"--{SHARE}:{round(100 * float(share))}%"
            cells.append(tag("td", f"{n:,}", words, class_="hit" if i == j else "miss", style=style))
        rows.append(tag("tr", *cells))
    made = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="confusion")
    times = " Each sample counts once for each seed or draw." if repeated(one) else ""
    hint = f"Counts from predictions.parquet, with the share of the true class. All folds together.{times}"
    return join([tag("div", made, class_="wide"), tag("p", hint, class_="hint")])


def confusion_counts(one: Subject) -> Any:
    """Return counts by true and predicted class, int64, of shape ``(n_classes, n_classes)``."""
    place = {name: i for i, name in enumerate(one.names)}
    counts = np.zeros((len(place), len(place)), np.int64)
    table_ = one.results.predictions
    for true, predicted in zip(table_["label"].to_list(), table_["predicted"].to_list(), strict=True):
        counts[place[str(true)], place[str(predicted)]] += 1
    return counts


def repeated(one: Subject) -> bool:
    """Whether samples were tested several times, with several seeds or draws."""
    return bool({"seed", "draw"} & set(one.results.predictions.columns))


def survival(one: Subject) -> Html | None:
    """Return events, follow-up, and the groups by risk of a survival run."""
    if (of := one.metrics.get("followed")) is None:
        return None
    follow = "not reached" if of["median_follow_up"] is None else f"{of['median_follow_up']:.4g}"
    lines: list[Content] = [
        f"{counted(of['events'], 'event')}; median follow-up {follow}, longest {of['longest']:.4g} ({FILE}followed)."
    ]
    if (found := one.metrics.get("kaplan_meier")) is None:
        return paragraphs(lines)
    rows = []
    for group in found["groups"]:
        middle = "not reached" if group["median"] is None else f"{group['median']:.4g}"
        low, high = ("–" if end is None else f"{end:.4g}" for end in group["median_interval"])
        rows.append(
            [
                Cell(f"{group['name']} risk"),
                Cell(f"{group['n']:,}", group["n"], f"{FILE}kaplan_meier.groups"),
                Cell(f"{group['events']:,}", group["events"], f"{FILE}kaplan_meier.groups"),
                Cell(middle, group["median"], f"{FILE}kaplan_meier.groups", numeric=True),
                Cell(f"{low} to {high}", numeric=True),
            ]
        )
    ratio = found["hazard_ratio"]
    lines.append(
        f"Hazard ratio, {ratio['of']}: {number(ratio['value'])}, {100 * found['level']:g} % interval "
        f"{span(ratio['low'], ratio['high'])}; log-rank p {p_value(found['log_rank']['p'])}."
    )
    if not found["rows_independent"]:
        lines.append("Curves and log-rank p treat rows as independent, but these belong to groups.")
    head = [
        f"groups by risk, cut at the {found['cut_at']}",
        "samples",
        "events",
        "median survival",
        f"{100 * found['level']:g} % interval",
    ]
    return join([table(head, rows), paragraphs(lines)])


def external(one: Subject) -> Html | None:
    """Return the results of a saved head on other data beside those on its own; None for other runs."""
    found = one.metrics.get("external")
    if not found:
        return None
    rows = []
    names = [n for n in (*HEADLINE[one.task], *(f"{m}_present" for m in HEADLINE[one.task])) if n in found["metrics"]]
    for name in names:
        parts = found["metrics"][name]
        if all(parts[part]["value"] is None for part in ("internal", "external")):
            continue
        row: list[Any] = [Cell(metric_name(name))]
        for part in ("internal", "external", "drop"):
            sign = "+" if part == "drop" else ""
            of = parts[part]
            note = None if of["low"] is None else span(of["low"], of["high"], sign)
            row.append(
                Cell(
                    number(of["value"], sign), of["value"], f"{FILE}external.metrics.{name}.{part}", note, numeric=True
                )
            )
        rows.append(row)
    hint = f"Below each value its {100 * found['level']:g} % interval. A drop above 0 is worse on the other data."
    out = [table(["", "own data", "other data", "drop"], rows), tag("p", hint, class_="hint")]
    if "threshold" in found:
        at = found["threshold"]
        words = ", ".join(
            f"{metric_inside(n)} {number(at[n])}"
            for n in ("sensitivity", "specificity", "ppv", "npv")
            if at.get(n) is not None
        )
        out.append(
            tag(
                "p",
                f"At the run's own threshold, chosen for a {at['target']} of {at['at']:g}: {words}.",
                title=f"{FILE}external.threshold",
            )
        )
    return join(out)


def tuned(one: Subject) -> Html | None:
    """Return what training the encoder added to frozen features; None for other runs."""
    found = one.metrics.get("frozen")
    if not found:
        return None
    rows = []
    for name, added in found["added_by_tuning"].items():
        rows.append(
            [
                Cell(metric_name(name)),
                Cell(
                    number(found["mean"].get(name)), found["mean"].get(name), f"{FILE}frozen.mean.{name}", numeric=True
                ),
                Cell(
                    number(one.metrics["mean"].get(name)),
                    one.metrics["mean"].get(name),
                    f"{FILE}mean.{name}",
                    numeric=True,
                ),
                Cell(number(added["value"], "+"), added["value"], f"{FILE}frozen.added_by_tuning.{name}", numeric=True),
                Cell(
                    span(added["low"], added["high"], "+"),
                    added["low"],
                    f"{FILE}frozen.added_by_tuning.{name}",
                    numeric=True,
                ),
            ]
        )
    return table(["", "frozen encoder", "trained encoder", "added", f"{100 * found['level']:g} % interval"], rows)


def threshold(metrics: Mapping[str, Any], key: str) -> Html:
    if "threshold" not in metrics:
        return Html("")
    found = metrics["threshold"]
    title = f"At the threshold for a {found['target']} of {found['at']:g}, chosen on training rows"
    at = at_prevalence(found.get("at_prevalence"), f"{key}threshold.at_prevalence.", "at these thresholds")
    return join([tag("h4", title), small(found, f"{key}threshold.", percent(metrics)), at])


def small(found: Mapping[str, Any], key: str, level: str) -> Html:
    rows = []
    for name, mean in found["mean"].items():
        low, high = ends(found, name)
        std = found["std"].get(name)
        rows.append(
            [
                Cell(metric_name(name)),
                Cell(number(mean), mean, f"{FILE}{key}mean.{name}", numeric=True),
                Cell("–" if std is None else f"±\u00a0{number(std)}", std, f"{FILE}{key}std.{name}", numeric=True),
                Cell(span(low, high), low, f"{FILE}{key}intervals.{name}", numeric=True),
            ]
        )
    return table(["", "mean", "SD", f"{level} interval"], rows)


def at_prevalence(found: Mapping[str, Any] | None, key: str, called: str) -> Html:
    if not found:
        return Html("")
    rows = []
    for name, low_high in found["intervals"].items():
        low, high = low_high or (None, None)
        rows.append(
            [
                Cell(metric_name(name)),
                Cell(number(found[name]), found[name], f"{FILE}{key}{name}", numeric=True),
                Cell(span(low, high), low, f"{FILE}{key}intervals.{name}", numeric=True),
            ]
        )
    title = tag("h4", f"At a prevalence of {found['prevalence']:g}, {called}")
    return join([title, table(["", "value", "interval"], rows)])


def results_of(one: Subject) -> list[tuple[str, Html | None]]:
    """Return the tables that stand before the figures with their titles; None where a run has none."""
    unit = (one.metrics.get("per") or {}).get("column")
    return [
        ("Compared with its own data", external(one)),
        ("Training the encoder", tuned(one)),
        (f"Results by {unit}", by_unit(one)),
        ("Each class", classes(one)),
        ("Each output", outputs(one)),
        ("Confusion matrix", confusion(one)),
        ("Survival", survival(one)),
    ]
