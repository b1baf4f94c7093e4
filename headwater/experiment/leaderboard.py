"""The leaderboard of a sweep: ranked cells, differences from the best, and the result of selection by inner folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._words import counted, indented
from headwater.errors import InputError
from headwater.evaluate import score, statistics
from headwater.evaluate.bootstrap import N_DRAWS, FoldScores
from headwater.evaluate.fold_means import json_safe, summary
from headwater.evaluate.intervals import LEVEL
from headwater.evaluate.measured import sign_of
from headwater.evaluate.paired import Paired
from headwater.evaluate.positive import Positive
from headwater.runs.predictions import codes_of, label_columns, names_of, rows_trained, scores_of, truth_of
from headwater.runs.printed import edge_lines, interval_words, over, p_words, plus_minus, positive_lines, sample_lines
from headwater.runs.run import Results

REPEATS = ("seed", "fold")
_LOSS = {"regression": "squared error", "survival": "loss by the partial likelihood"}


@dataclass(frozen=True)
class Cell:
    """One combination of inputs and head, evaluated.

    Attributes
    ----------
    name
        Name of its run directory.
    features
        Its inputs.
    head
        Kind of head.
    results
        Contents of its run.
    """

    name: str
    features: tuple[str, ...]
    head: str
    results: Results

    @property
    def tried(self) -> pl.DataFrame:
        """One row per setting tried on inner folds; see `headwater.api.Run`."""
        if self.results.trials is None:
            raise InputError(f"{self.name}: the run has no trials.parquet. Remove its directory and sweep again.")
        tried = self.results.trials
        if "dropped_at_epoch" in tried.columns:
            return tried
        dropped = pl.lit(None, pl.Int64).alias("dropped_at_epoch")  # written by an older version
        return tried.select(pl.exclude("selected"), dropped, "selected")


def ranked(cells: Sequence[Cell], metric: str, seed: int) -> dict[str, Any]:
    """Rank cells by a metric, best first, and evaluate selection among them by inner losses alone.

    Parameters
    ----------
    cells
        In order of preference for ties.
    metric
        One of the metrics of `headwater.evaluate.bootstrap`.
    seed
        Seed of the bootstrap.

    Returns
    -------
    dict
        Contents of ``sweep.json``: ``leaderboard`` with one row per cell, and ``picked``.
    """
    first = cells[0].results
    task, classes = first.metrics["task"], names_of(first.metrics)
    keys = [name for name in REPEATS if name in first.predictions.columns]
    shared = [*keys, "id", *label_columns(classes, task)]
    known = first.predictions.select(shared)
    for cell in cells:
        if not cell.results.predictions.select(shared).equals(known):
            raise InputError(f"{cells[0].name} and {cell.name} tested different samples: sweep into another folder.")
    folds = known.select(keys).unique(maintain_order=True)
    truth = truth_of(known, classes, task)
    grouped = "group" in first.predictions.columns
    groups = codes_of(first.predictions["group"]) if grouped else codes_of(known["id"])
    scores = np.stack([scores_of(cell.results.predictions, classes, task) for cell in cells])
    losses = np.array([_inner_losses(cell, folds) for cell in cells])  # (cells, folds)
    choice = losses.argmin(0)
    fold_of = _numbered(known.select(keys), folds)
    honest = scores[choice[fold_of], np.arange(len(known))]

    parts = [np.flatnonzero(fold_of == fold) for fold in range(len(folds))]
    once = parts if "seed" not in keys else [p for p, s in zip(parts, folds["seed"], strict=True) if s == folds[0, 0]]
    trained = [rows_trained(cell.results.metrics, known, once) for cell in cells]
    models = [
        [FoldScores(truth[r], values[r], groups[r], n) for r, n in zip(once, of_folds, strict=True)]
        for values, of_folds in zip((*scores, honest), [*trained, trained[0]], strict=True)
    ]
    paired = Paired.of(task, models, metrics=[metric], n_draws=N_DRAWS, seed=seed)
    means = [cell.results.metrics["mean"].get(metric) for cell in cells]
    sign = -sign_of(metric)
    order = sorted(range(len(cells)), key=lambda i: np.inf if means[i] is None else sign * means[i])
    rows = [
        _row(rank, cells[i], paired, metric, (i, order[0]), float(losses[i].mean())) for rank, i in enumerate(order, 1)
    ]
    rivals = [row for row in rows[1:] if row["p"] is not None]
    for row, p in zip(rivals, statistics.holm([row["p"] for row in rivals]) if rivals else [], strict=True):
        row["p_holm"] = float(p)
    found = [
        score(task, truth[part], honest[part], classes=np.arange(len(classes))) for part in parts
    ]  # class numbers sort as classes do
    numbers = folds.to_dicts()
    names = [cells[i].name for i in choice]
    low, high = paired.interval(metric, len(cells), LEVEL)
    return {
        "task": task,
        "metric": metric,
        "n_samples": first.metrics["n_samples"],
        "level": LEVEL,
        "drawn": "group" if grouped else "sample",
        "test": "corrected_t" if paired.folds(metric).shape[1] > 1 else "bootstrap",
        "intervals_of_seed": int(folds[0, 0]) if "seed" in keys else None,
        "leaderboard": rows,
        "at_edge": {
            cell.name: {"head": cell.head, "at_edge": edges}
            for cell in cells
            if (edges := cell.results.metrics.get("selection", {}).get("at_edge"))
        },
        "picked": {
            "by": f"{_LOSS.get(task, 'log loss')} on inner folds of each fold's own training rows, among all cells",
            **summary(found),
            **json_safe({"low": low, "high": high}),
            "cells": dict(Counter(names).most_common()),
            "folds": [
                {**number, "cell": name, "inner_loss": float(losses[i, f]), **json_safe(metrics)}
                for f, (number, name, i, metrics) in enumerate(zip(numbers, names, choice, found, strict=True))
            ],
        },
    }


def _inner_losses(cell: Cell, folds: pl.DataFrame) -> NDArray[np.float64]:
    """Return the inner loss of the selected setting, for each fold."""
    selected = cell.tried.filter(pl.col("selected") & pl.col("fold").is_not_null())
    return folds.join(selected, on=folds.columns, how="left", maintain_order="left")["loss"].to_numpy()


def _numbered(rows: pl.DataFrame, folds: pl.DataFrame) -> NDArray[np.int64]:
    """Return each row's index in a table of folds."""
    return rows.join(folds.with_row_index("place"), on=folds.columns, how="left", maintain_order="left")[
        "place"
    ].to_numpy()


def _row(
    rank: int, cell: Cell, paired: Paired, metric: str, cell_and_best: tuple[int, int], inner_loss: float
) -> dict[str, Any]:
    """Return a row of the leaderboard; the first row, the best cell, has no comparison."""
    metrics = cell.results.metrics
    low, high = paired.interval(metric, cell_and_best[0], LEVEL)
    change = paired.difference(metric, *cell_and_best, LEVEL)
    from_best = {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
    nothing: dict[str, None] = dict.fromkeys((*from_best, "p"))
    return {
        "rank": rank,
        "cell": cell.name,
        "features": "+".join(cell.features),
        "head": cell.head,
        **json_safe({"low": low, "high": high}),
        **(json_safe({**from_best, "p": change.p}) if rank > 1 else nothing),
        "p_holm": None,
        "inner_loss": inner_loss,
        "settings": int(cell.tried["trial"].max()) + 1,  # type: ignore[arg-type]
        **{name: value for m in metrics["mean"] for name, value in _mean_and_std(metrics, m)},
    }


def _mean_and_std(metrics: Mapping[str, Any], name: str) -> list[tuple[str, float | None]]:
    return [(name, metrics["mean"][name]), (f"{name}_std", metrics["std"][name])]


# In words


def leaderboard_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the results of a sweep in lines.

    Parameters
    ----------
    found
        Contents of ``sweep.json``.
    """
    rows, metric, picked = found["leaderboard"], found["metric"], found["picked"]
    share, what = f"{100 * found['level']:g} %", f"{found['drawn']}s"
    out = [
        f"{found['task']}, {counted(found['n_samples'], 'sample')}, {counted(len(rows), 'cell')}, mean ± standard "
        f"deviation over {over(picked['folds'])}; {share} intervals by resampling {what}"
    ]
    if found.get("test") == "corrected_t":
        out[0] += "; differences and p by the corrected t-test over folds"
    out += positive_lines(Positive(**found["positive"]) if found.get("positive") else None)
    table = [["", "features", "head", metric, share, "minus the best", share, "p Holm"]]
    for row in rows:
        cells = [str(row["rank"]), row["features"], row["head"], _mean(row, metric)]
        cells += [interval_words(row["low"], row["high"])]
        if row["difference"] is not None:
            cells += [f"{row['difference']:+.3f}", interval_words(row["difference_low"], row["difference_high"], "+")]
            cells += [p_words(row["p_holm"])]
        table.append(cells + [""] * (len(table[0]) - len(cells)))
    out += indented(table)
    if found["intervals_of_seed"] is not None:
        out.append(f"intervals and differences are for seed {found['intervals_of_seed']}")
    if len(rows) > 1:
        out.append(
            f"The best of {len(rows)} is optimistic: it was chosen on the test rows it is reported on. For the same "
            "reason, p values against it are too small."
        )
    of_folds = [f"{name} in {n}" for name, n in picked["cells"].items()]
    out.append(
        f"selected by inner folds: {metric} {plus_minus(picked['mean'], picked['std'], metric)} "
        f"{interval_words(picked['low'], picked['high'])} ({', '.join(of_folds)} of {len(picked['folds'])} folds)"
    )
    for name, part in found.get("at_edge", {}).items():
        out += [f"{name}: {line}" for line in edge_lines(part, f"--set {part['head']}.")]
    out += sample_lines(found)
    return [*out, *(f"skipped: {part['features']} with {part['head']} ({part['why']})" for part in found["skipped"])]


def _mean(row: Mapping[str, Any], metric: str) -> str:
    return plus_minus({metric: row[metric]}, {metric: row[f"{metric}_std"]}, metric)
