"""table: finished runs side by side, as a paper prints them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from headwater._checks import require_names
from headwater._reading import open_regular
from headwater._shown import Shown, without_nan
from headwater._tables import Format, latex, markdown, plain_cell, require_format
from headwater._words import aligned, size
from headwater.api.compare import Compared, compare
from headwater.errors import HeadwaterError, InputError, nearest
from headwater.evaluate.measured import METRICS
from headwater.evaluate.statistics import holm
from headwater.runs.families import divided_by, family_of, names_of_systems
from headwater.runs.foreign import reads_runs
from headwater.runs.predictions import names_of
from headwater.runs.printed import interval_words, number_words, p_words
from headwater.runs.run import Results, read_results

OF_PAPERS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "precision", "recall", "f1", "auc"),
    "multiclass": ("accuracy", "precision", "recall", "f1_macro", "auc"),
    "multilabel": ("auc_micro", "top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3"),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
    "survival": ("c_index", "c_index_uno"),
    "ordinal": ("accuracy", "mae_grades", "kappa_quadratic", "spearman", "auc_cuts"),
}
"""The columns of a table by default."""
WITHOUT_PARAMETERS = ("knn", "xgboost", "zero-shot", "zero-shot-transductive", "tip-adapter")
"""Heads whose files hold samples, trees or prompts rather than trained parameters."""
COSTS = ("parameters", "seconds", "peak memory")


@dataclass(frozen=True)
class Row:
    """A row of the table: one run, or one level of it.

    Attributes
    ----------
    system
        The name of the run, or of its family.
    level
        The level: a subgroup, the run's folder within its family, or ``""``.
    n
        Number of samples, or of units.
    values
        For each metric ``mean``, ``std``, ``low`` and ``high``; None where undefined.
    costs
        ``parameters`` (trained), ``seconds`` and ``peak_memory_bytes`` of the run; None where unknown.
    """

    system: str
    level: str
    n: int
    values: Mapping[str, Mapping[str, float | None]]
    costs: Mapping[str, float | None]


@dataclass(frozen=True)
class Pair:
    """A comparison of two systems by one metric, at one level: see `headwater.api.compare.Difference`.

    ``p_holm`` is the p of the corrected t, corrected for all rows of the table of pairs.
    """

    metric: str
    level: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    corrected_t: float | None
    wilcoxon: float | None
    least_wilcoxon: float | None
    p_holm: float | None = None


@dataclass(frozen=True, repr=False)
class Table(Shown):
    """Runs side by side.

    Attributes
    ----------
    metrics
        The columns.
    rows
        In the order of the runs.
    pairs
        Comparisons of all pairs of systems, if they were asked for.
    notes
        Pairs that could not be compared, and why.
    level_name
        What the levels are; ``""`` without levels.
    intervals, costs
        Whether to show confidence intervals, and what the runs took.
    """

    metrics: Sequence[str]
    rows: Sequence[Row]
    pairs: Sequence[Pair] = ()
    notes: Sequence[str] = ()
    level_name: str = ""
    intervals: bool = False
    costs: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "metrics": list(self.metrics),
            "rows": [vars(row) for row in self.rows],
            "pairs": [vars(pair) for pair in self.pairs],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the table for a terminal."""
        out = aligned(self._cells())
        if self.pairs:
            out += ["", *aligned(self._pair_cells())]
        return [*out, *self.notes]

    def text(self, form: Format) -> str:
        """Return the table as Markdown, CSV, LaTeX or JSON.

        CSV has one column for each number; the others have one for each metric.
        """
        require_format(form)
        if form == "json":
            import json

            return json.dumps(without_nan(self.to_dict()), indent=2, ensure_ascii=False) + "\n"
        if form == "csv":
            return self._csv()
        tables = [self._cells(), *([self._pair_cells()] if self.pairs else [])]
        write = markdown if form == "md" else latex
        return "\n".join(write(cells) for cells in tables)

    def _cells(self) -> list[list[str]]:
        head = ["system", *([self.level_name] if self.level_name else []), "n", *self.metrics]
        out = [[*head, *(COSTS if self.costs else ())]]
        for row in self.rows:
            cells = [row.system, *([row.level] if self.level_name else []), f"{row.n:,}"]
            cells += [self._value(row.values[metric]) for metric in self.metrics]
            out.append([*cells, *(_cost_words(row.costs) if self.costs else ())])
        return out

    def _value(self, found: Mapping[str, float | None]) -> str:
        words = number_words(found["mean"])
        if found["std"] is not None:
            words += f" ± {found['std']:.3f}"
        return f"{words} {interval_words(found['low'], found['high'])}" if self.intervals else words

    def _pair_cells(self) -> list[list[str]]:
        head = ["metric", *([self.level_name] if self.level_name else []), "difference", "", "95 %"]
        out = [[*head, "p corrected t", "p Holm", "p Wilcoxon"]]
        for pair in self.pairs:
            cells = [pair.metric, *([pair.level] if self.level_name else []), f"{pair.first} - {pair.second}"]
            cells += [number_words(pair.difference, "+"), interval_words(pair.low, pair.high, "+")]
            wilcoxon = p_words(pair.wilcoxon, pair.least_wilcoxon)
            out.append([*cells, p_words(pair.corrected_t), p_words(pair.p_holm), wilcoxon])
        return out

    def _csv(self) -> str:
        out = io.StringIO()
        parts = ("mean", "std", "low", "high")
        writer = csv.writer(out, lineterminator="\n")
        costs = ("parameters", "seconds", "peak_memory_bytes")
        names = [name if part == "mean" else f"{name}_{part}" for name in self.metrics for part in parts]
        writer.writerow(["system", "level", "n", *names, *costs])
        for row in self.rows:
            values = [row.values[name][part] for name in self.metrics for part in parts]
            writer.writerow(
                [plain_cell(row.system), plain_cell(row.level), row.n, *values, *(row.costs[c] for c in costs)]
            )
        return out.getvalue()


@reads_runs
def table(
    runs: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    by: bool = False,
    per: bool = False,
    pairs: bool = False,
    intervals: bool = False,
    costs: bool = False,
) -> Table:
    """Put finished runs side by side: mean and standard deviation over folds of each metric.

    Parameters
    ----------
    runs
        Directories of runs, or of families of runs, such as those of ``fit_head(separately=…)`` or of a sweep: each run
        in a family is a level.
    names
        What to call the systems, in order. Default: the shortest unique ends of their paths.
    metrics
        The columns: metrics that the runs report. Default: those that papers report for the task.
    by
        A row for each subgroup of the runs' ``by`` column.
    per
        Results by unit, such as the patient, in place of samples.
    pairs
        Compare all pairs of systems that tested the same samples, by each metric: difference with interval, p of the
        corrected t and of Wilcoxon's test over folds, with the least attainable one.
    intervals
        Show confidence intervals too.
    costs
        Show trained parameters, seconds and peak memory of each run.

    Returns
    -------
    Table

    Raises
    ------
    InputError, HeadError
        When a run is not there, or reports other metrics.
    """
    if not runs:
        raise InputError("name at least one run.")
    families = {path: family_of(Path(path)) for path in map(str, runs)}
    called = names_of_systems([Path(path) for path in families], names)
    found = [
        (name, level, path, read_results(path))
        for name, family in zip(called, families.values(), strict=True)
        for level, path in family.items()
    ]
    tasks = {results.metrics["task"] for *_, results in found}
    if len(tasks) > 1:
        raise InputError(f"the runs have different tasks ({', '.join(sorted(tasks))}): make a table of each.")
    task = tasks.pop()
    classes = {tuple(map(str, names_of(results.metrics))) for *_, results in found}
    if task == "binary" and len(classes) > 1:
        raise InputError(
            "the runs have different classes or another positive class ("
            + "; ".join(sorted(", ".join(one) for one in classes))
            + ", the positive one last): fit them with the same --positive."
        )
    shown = OF_PAPERS[task] if metrics is None else require_names("--metric", metrics)
    for metric in shown:
        if metric not in METRICS[task]:
            known = METRICS[task]
            raise InputError(f"--metric {metric!r}.{nearest(metric, known)} {task} runs report: {', '.join(known)}.")
    rows = [row for one in found for row in _rows(*one, shown, by=by, per=per)]
    compared, notes = _pairs(found, called, shown, per=per) if pairs else ([], [])
    of_families = any(level for _, level, *_ in found)
    divided = [column for path in families if (column := divided_by(Path(path))) is not None]
    level_name = _level_name([results for *_, results in found], divided, of_families, by)
    return Table(shown, rows, compared, notes, level_name, intervals, costs)


def _level_name(found: Sequence[Results], families: Sequence[str], of_families: bool, by: bool) -> str:
    if by:
        columns = {results.metrics["by"]["column"] for results in found if "by" in results.metrics}
        return " / ".join(sorted(map(str, columns))) or "subgroup"
    if of_families:
        return " / ".join(sorted(set(families))) or "run"
    return ""


def _rows(
    name: str, level: str, path: Path, results: Results, metrics: Sequence[str], *, by: bool, per: bool
) -> Iterator[Row]:
    """Yield the rows of a run: one, or one for each subgroup."""
    costs = _costs(path, results)
    section = results.metrics
    if per:
        if "per" not in section:
            raise InputError(f"{path} has no results by unit: fit it with --per.")
        section = section["per"]
    if not by:
        yield Row(name, level, section.get("n_units", results.metrics["n_samples"]), _values(section, metrics), costs)
        return
    if per or "by" not in section:
        why = "has no results by subgroup and unit at once" if per else "has no results by subgroup: fit it with --by"
        raise InputError(f"{path} {why}.")
    for value, part in section["by"]["levels"].items():
        yield Row(name, f"{level}/{value}" if level else value, part["n_samples"], _values(part, metrics), costs)


def _values(section: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, dict[str, float | None]]:
    found = {}
    for name in metrics:
        low, high = section.get("intervals", {}).get(name) or (None, None)
        values = {"mean": section["mean"].get(name), "std": section["std"].get(name), "low": low, "high": high}
        found[name] = {part: _number(value) for part, value in values.items()}
    return found


def _number(value: Any) -> float | None:
    """Return a number of a run's file; refuse anything else, while the run can be named."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def _costs(path: Path, results: Results) -> dict[str, float | None]:
    """Return the trained parameters of a run, with those of its encoder, its seconds and its peak memory."""
    training = results.metrics.get("training") or results.cost
    parameters = _head_parameters(path, results)
    if parameters is not None and isinstance(of_encoder := training.get("of_the_encoder"), int):
        parameters += of_encoder
    return {
        "parameters": parameters,
        "seconds": _number(training.get("seconds")),
        "peak_memory_bytes": _number(training.get("peak_memory_bytes") or results.cost.get("peak_memory_bytes")),
    }


def _head_parameters(path: Path, results: Results) -> int | None:
    """Count the numbers in the head's file, without reading them; None for heads without trained parameters."""
    import json

    if results.config.get("head") in WITHOUT_PARAMETERS:
        return None
    try:
        with open_regular(path / "head.safetensors") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 10_000_000)))
        shapes = [entry["shape"] for key, entry in header.items() if key != "__metadata__"]
        return sum(_product(shape) for shape in shapes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # damaged
        return None


def _product(shape: Any) -> int:
    n = 1
    for side in shape:
        if not isinstance(side, int) or isinstance(side, bool) or not 0 <= side < 2**40 or n > 2**60:
            raise ValueError("not the shape of an array")
        n *= side
    return n


def _pairs(
    found: Sequence[tuple[str, str, Path, Results]], names: Sequence[str], metrics: Sequence[str], *, per: bool
) -> tuple[list[Pair], list[str]]:
    """Compare all pairs of systems at each level."""
    pairs, notes = [], []
    levels = list(dict.fromkeys(level for _, level, *_ in found))
    for level in levels:
        there = {name: (path, results) for name, of, path, results in found if of == level}
        for first, second in combinations([name for name in names if name in there], 2):
            (one, results), (other, _) = there[first], there[second]
            unit = results.config.get("per") if per else None
            for metric in metrics:
                try:
                    pairs.append(_pair(compare([one, other], metric=metric, per=unit), metric, level, first, second))
                except HeadwaterError as error:
                    notes.append(f"{first} and {second} are not compared: {error}")
                    break
    of_pairs = [np.nan if pair.corrected_t is None else pair.corrected_t for pair in pairs]
    adjusted = holm(of_pairs).tolist() if pairs else []
    corrected = [replace(pair, p_holm=float(p)) for pair, p in zip(pairs, adjusted, strict=True)]
    return corrected, notes


def _pair(found: Compared, metric: str, level: str, first: str, second: str) -> Pair:
    (d,) = found.differences
    p = d.p.get("corrected_t"), d.p.get("wilcoxon"), d.least_p.get("wilcoxon")
    return Pair(metric, level, first, second, d.difference, d.low, d.high, *p)


def _cost_words(costs: Mapping[str, float | None]) -> list[str]:
    n, seconds, memory = costs["parameters"], costs["seconds"], costs["peak_memory_bytes"]
    return [
        "–" if n is None else f"{int(n):,}",
        "–" if seconds is None else f"{seconds:,.1f}",
        "–" if memory is None else size(int(memory)),
    ]
