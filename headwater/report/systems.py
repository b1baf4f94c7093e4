"""Figures of several runs side by side: bars by level with intervals, and box plots over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headwater._extras import need
from headwater._writable import require_writable
from headwater.errors import InputError, nearest
from headwater.evaluate.bootstrap import default_metric
from headwater.evaluate.measured import LOWER_IS_BETTER, METRICS
from headwater.report._style import COLOURS, COLUMN, GREY, new_figure, save, style
from headwater.report.figures import SUFFIXES, Drawn, require_formats
from headwater.runs.families import divided_by, family_of, names_of_systems
from headwater.runs.foreign import reads_runs
from headwater.runs.run import Results, read_results

Systems = Mapping[str, Mapping[str, Results]]
"""Results by system and level."""


@reads_runs
def plot_systems(
    runs: Sequence[str | Path],
    *,
    out: str | Path,
    names: Sequence[str] | None = None,
    metric: str | None = None,
    formats: Sequence[str] = SUFFIXES,
    dpi: int = 300,
) -> Drawn:
    """Draw several runs, or families of runs, side by side.

    ``systems``: a metric of each system with its confidence interval, at each level of a family or of the runs' ``by``
    column. ``folds``: a box plot of the metric over the folds of each system. ``training``: the mean losses of systems
    that trained an encoder. ``classes``: how many samples each class has.

    Parameters
    ----------
    runs
        Directories of runs, or of families of runs.
    out
        The folder to write.
    names
        What to call the systems, in order.
    metric
        What to draw. Default: the AUC, or r2 for regression.
    formats, dpi
        As for `headwater.report.plot`.

    Returns
    -------
    Drawn

    Raises
    ------
    HeadError, InputError, MissingExtra
        When there is no run, runs have different tasks, a format is unknown, or matplotlib is not installed.
    """
    require_formats(formats, dpi)
    paths = [Path(run) for run in runs]
    called = names_of_systems(paths, names)
    systems = {
        name: {level: read_results(one) for level, one in family_of(path).items()}
        for name, path in zip(called, paths, strict=True)
    }
    every = [results for levels in systems.values() for results in levels.values()]
    tasks = {results.metrics["task"] for results in every}
    if len(tasks) > 1:
        raise InputError(f"the runs have different tasks ({', '.join(sorted(tasks))}): draw each by itself.")
    task = tasks.pop()
    metric = metric or default_metric(task, [results.metrics["mean"] for results in every])
    if metric not in METRICS[task]:
        raise InputError(
            f"--metric {metric!r}.{nearest(metric, METRICS[task])} {task} runs report: {', '.join(METRICS[task])}."
        )
    column = next((found for path in paths if (found := divided_by(path)) is not None), None)
    need("matplotlib", "plots")
    folder = require_writable(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file. Give a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with style():
        files += save(bars(systems, metric, column), folder, "systems", formats, dpi)
        files += save(boxes(systems, metric), folder, "folds", formats, dpi)
        if any(results.curves is not None for results in every):
            files += save(losses(systems), folder, "training", formats, dpi)
        if every[0].metrics.get("class_counts"):
            files += save(_classes(every[0]), folder, "classes", formats, dpi)
    return Drawn(folder, files)


def _points(levels: Mapping[str, Results], metric: str) -> dict[str, tuple[float, float, float]]:
    """Return value and interval of a metric by level: of each run of a family, or of each subgroup of a run."""
    sections: dict[str, Mapping[str, Any]] = {}
    for level, results in levels.items():
        sections[level] = results.metrics
        if not level and "by" in results.metrics:
            sections = {"all": results.metrics, **results.metrics["by"]["levels"]}
    out = {}
    for level, section in sections.items():
        value = section["mean"].get(metric)
        low, high = section.get("intervals", {}).get(metric) or (None, None)
        if value is not None:
            out[level] = (value, value if low is None else low, value if high is None else high)
    return out


def bars(systems: Systems, metric: str, column: str | None) -> Any:
    points = {name: _points(levels, metric) for name, levels in systems.items()}
    levels = list(dict.fromkeys(level for found in points.values() for level in found))
    several = len(levels) > 1
    figure = new_figure(max(COLUMN, 0.45 * len(levels) * len(points)), 0.8 * COLUMN)
    axes = figure.add_subplot()
    width = 0.8 / len(points)
    for number, (name, found) in enumerate(points.items()):
        place = np.array([levels.index(level) for level in found]) + (number - (len(points) - 1) / 2) * width
        value, low, high = np.array(list(found.values())).T if found else np.zeros((3, 0))
        error = np.maximum(np.stack([value - low, high - value]), 0)
        colour = COLOURS[number % len(COLOURS)]
        axes.bar(place, value, 0.9 * width, color=colour, label=name, yerr=error, ecolor=GREY, capsize=1.5)
    axes.set_xticks(range(len(levels)), levels if several else [""] * len(levels))
    axes.set(ylabel=metric, xlabel=(column or "") if several else "")
    figure.legend(loc="outside upper center", ncols=min(3, len(points)))
    return figure


def boxes(systems: Systems, metric: str) -> Any:
    values = {
        f"{name}{f', {level}' if level else ''}": [
            v for fold in r.metrics["folds"] if (v := fold.get(metric)) is not None
        ]
        for name, levels in systems.items()
        for level, r in levels.items()
    }
    figure = new_figure(max(COLUMN, 0.4 * len(values)), 0.9 * COLUMN)
    axes = figure.add_subplot()
    parts = axes.boxplot(list(values.values()), widths=0.5, patch_artist=True, showfliers=False)
    colours = [COLOURS[s % len(COLOURS)] for s, levels in enumerate(systems.values()) for _ in levels]
    for box, colour in zip(parts["boxes"], colours, strict=True):
        box.set(facecolor=colour, alpha=0.3)
    for place, each in enumerate(values.values(), 1):
        axes.plot(np.full(len(each), place), each, ".", color=GREY, markersize=4)
    axes.set_xticks(range(1, len(values) + 1), list(values), rotation=30, ha="right")
    axes.set_ylabel(f"{metric} of each fold" + (" (lower is better)" if metric in LOWER_IS_BETTER else ""))
    return figure


def losses(systems: Systems) -> Any:
    import polars as pl

    figure = new_figure(COLUMN, 0.8 * COLUMN)
    axes = figure.add_subplot()
    number = 0
    for name, levels in systems.items():
        for level, results in levels.items():
            if results.curves is None:
                continue
            table = results.curves.filter(pl.col("fold").is_not_null())
            mean = (
                table.group_by("epoch", maintain_order=True).agg(pl.col("train_loss", "stop_loss").mean()).sort("epoch")
            )
            colour, called = COLOURS[number % len(COLOURS)], f"{name}{f', {level}' if level else ''}"
            axes.plot(mean["epoch"], mean["train_loss"].to_numpy(), color=colour, label=called)
            if not mean["stop_loss"].is_null().all():
                axes.plot(mean["epoch"], mean["stop_loss"].to_numpy(), color=colour, linestyle="--")
            number += 1
    axes.set(xlabel="epoch", ylabel="loss (dashed: held-out rows)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=min(3, number))
    return figure


def _classes(results: Results) -> Any:
    counts = results.metrics["class_counts"]
    figure = new_figure(COLUMN, max(0.5 * COLUMN, 0.16 * len(counts)))
    axes = figure.add_subplot()
    names = [part["name"] for part in counts][::-1]
    axes.barh(names, [part["n_samples"] for part in counts][::-1], color=COLOURS[0])
    axes.set_xlabel("samples")
    return figure
