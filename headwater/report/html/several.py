"""Several runs side by side: conclusions in words, the table of systems, box plots, and all pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater._words import size
from headwater.evaluate.bootstrap import default_metric
from headwater.report.html.drawn import systems
from headwater.report.html.markup import Cell, Html, bullets, join, paragraphs, table, tag
from headwater.report.html.material import Comparison, Material
from headwater.report.html.words import metric_inside, metric_name, number, p_value, sentence, span
from headwater.runs.run import Results

P = {
    "corrected_t": "corrected t",
    "bootstrap": "bootstrap",
    "delong": "DeLong",
    "mcnemar": "McNemar",
    "wilcoxon": "Wilcoxon",
}
TESTS = {
    "corrected_t": "corrected t-test over folds: two procedures that are trained anew in each fold",
    "bootstrap": "resampling of the test cases: two fixed models",
}


def conclusions(material: Material) -> Html:
    """Return a conclusion in words for each pair of runs."""
    out = []
    for one in material.comparisons:
        items = []
        for (title, numbers), pair in zip(one.sentences, one.found["differences"], strict=True):
            low, high = pair["low"], pair["high"]
            clear = (
                low is not None
                and high is not None
                and (low > 0 or high < 0)
                and (pair["p_holm"] is None or pair["p_holm"] < 0.05)
            )
            items.append(tag("li", tag("b", title), tag("span", numbers), class_="clear" if clear else None))
        if one.level:
            out.append(tag("h4", one.level))
        out.append(tag("ul", *items, class_="conclusions"))
    if material.not_compared:
        out.append(bullets([f"Not compared: {why}" for why in material.not_compared]))
    return join(out)


def systems_table(material: Material) -> Html:
    """Return the table of systems by level, as `table` returned it."""
    found = material.table
    metrics, level_name = found["metrics"], found["level_name"]
    levels = [level_name] if level_name else []
    rows, costs = [], []
    for row in found["rows"]:
        name = [Cell(row["system"]), *([Cell(row["level"])] if level_name else [])]
        cells: list[Any] = [*name, Cell(f"{row['n']:,}", row["n"], "metrics.json: n_samples")]
        for metric in metrics:
            of = row["values"][metric]
            words = number(of["mean"]) + ("" if of["std"] is None else f" ± {number(of['std'])}")
            note = None if of["low"] is None else span(of["low"], of["high"])
            cells.append(Cell(words, of["mean"], f"metrics.json: mean.{metric}", note, numeric=True))
        rows.append(cells)
        n, seconds, memory = (row["costs"][k] for k in ("parameters", "seconds", "peak_memory_bytes"))
        if any(value is not None for value in (n, seconds, memory)):
            costs.append(
                [
                    *name,
                    Cell("–" if n is None else f"{int(n):,}", n, "head.safetensors", numeric=True),
                    Cell("–" if seconds is None else f"{seconds:,.1f}", seconds, "cost.json: seconds", numeric=True),
                    Cell(
                        "–" if memory is None else size(int(memory)),
                        memory,
                        "cost.json: peak_memory_bytes",
                        numeric=True,
                    ),
                ]
            )
    hint = "Mean ± standard deviation over folds; below it the 95 % interval."
    out = [table(["system", *levels, "n", *map(metric_name, metrics)], rows), tag("p", hint, class_="hint")]
    if costs:
        out.append(table(["what it took", *levels, "trained parameters", "seconds", "peak memory"], costs))
    return join(out)


def figures(material: Material, results: Mapping[str, Mapping[str, Results]]) -> Html:
    """Return bars and box plots of the systems."""
    every = [one for levels in results.values() for one in levels.values()]
    task = every[0].metrics["task"]
    metric = default_metric(task, [one.metrics["mean"] for one in every])
    return systems(results, metric, material.table["level_name"] or None)


def pairs(one: Comparison) -> Html:
    """Return the table of all pairs with every test that was made."""
    differences = one.found["differences"]
    if not differences:
        return Html("")
    tests = list(dict.fromkeys(name for pair in differences for name in pair["p"]))
    several = len(differences) > 1
    metric = one.found["metric"]
    rows = []
    for pair in differences:
        row: list[Any] = [
            Cell(f"{pair['first']} − {pair['second']}"),
            Cell(number(pair["difference"], "+"), pair["difference"], "compare: differences.difference"),
            Cell(span(pair["low"], pair["high"], "+"), pair["low"], "compare: differences.low, high", numeric=True),
        ]
        for name in tests:
            p, least = pair["p"].get(name), pair["least_p"].get(name)
            note = f"least possible {least:.2g}" if least is not None and least > 0.01 else None
            row.append(Cell(p_value(p).replace("below", "<"), p, f"compare: differences.p.{name}", note, numeric=True))
        if several:
            row.append(
                Cell(
                    p_value(pair["p_holm"]).replace("below", "<"),
                    pair["p_holm"],
                    "compare: differences.p_holm",
                    numeric=True,
                )
            )
        rows.append(row)
    share = f"{100 * one.found['level']:g} %"
    head = [f"difference in {metric_inside(metric)}", "", f"{share} interval", *(P[name] for name in tests)]
    head += ["Holm"] if several else []
    made = list(dict.fromkeys(pair["test"] for pair in differences))
    lines = ["The columns from the right of the interval are p values, by the name of their test."]
    lines += [f"Interval{' and corrected p' if several else ''} by {TESTS.get(name, name)}." for name in made]
    if (p := one.found["friedman_p"]) is not None:
        lines.append(
            f"Friedman's test by ranks over folds, that no run differs: p {p_value(p, one.found['friedman_least_p'])}."
        )
    lines += [note if note.startswith("p ") else sentence(note) for note in one.found["notes"]]
    return join([table(head, rows), paragraphs(lines, "hint")])
