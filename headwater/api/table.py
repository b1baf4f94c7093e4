"""table: finished runs side by side, as a paper prints them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from headwater._checks import require_names
from headwater._reading import open_regular, read_json
from headwater._shown import Shown
from headwater._words import aligned, size
from headwater.api.compare import Compared, compare
from headwater.api.fit import FAMILY
from headwater.errors import HeadError, HeadwaterError, InputError, nearest
from headwater.evaluate.fold_means import natural
from headwater.evaluate.measured import METRICS
from headwater.runs.foreign import reads_runs
from headwater.runs.printed import interval_words, number_words, p_words
from headwater.runs.run import Results, read_results

Format = Literal["md", "csv", "latex", "json"]
FORMATS = get_args(Format)
OF_PAPERS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "precision", "recall", "f1", "auc"),
    "multiclass": ("accuracy", "precision", "recall", "f1_macro", "auc"),
    "multilabel": ("auc_micro", "top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3"),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
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
    """A comparison of two systems by one metric, at one level: see `headwater.api.compare.Difference`."""

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

            return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        if form == "csv":
            return self._csv()
        tables = [self._cells(), *([self._pair_cells()] if self.pairs else [])]
        write = _markdown if form == "md" else _latex
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
        out = [[*head, "p corrected t", "p Wilcoxon"]]
        for pair in self.pairs:
            cells = [pair.metric, *([pair.level] if self.level_name else []), f"{pair.first} - {pair.second}"]
            cells += [number_words(pair.difference, "+"), interval_words(pair.low, pair.high, "+")]
            out.append([*cells, p_words(pair.corrected_t), p_words(pair.wilcoxon, pair.least_wilcoxon)])
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
            writer.writerow([_plain(row.system), _plain(row.level), row.n, *values, *(row.costs[c] for c in costs)])
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
    families = {path: _family(Path(path)) for path in map(str, runs)}
    called = _names([Path(path) for path in families], names)
    found = [
        (name, level, path, read_results(path))
        for name, family in zip(called, families.values(), strict=True)
        for level, path in family.items()
    ]
    tasks = {results.metrics["task"] for *_, results in found}
    if len(tasks) > 1:
        raise InputError(f"the runs have different tasks ({', '.join(sorted(tasks))}): make a table of each.")
    task = tasks.pop()
    shown = OF_PAPERS[task] if metrics is None else require_names("--metric", metrics)
    for metric in shown:
        if metric not in METRICS[task]:
            known = METRICS[task]
            raise InputError(f"--metric {metric!r}.{nearest(metric, known)} {task} runs report: {', '.join(known)}.")
    rows = [row for one in found for row in _rows(*one, shown, by=by, per=per)]
    compared, notes = _pairs(found, called, shown, per=per) if pairs else ([], [])
    of_families = any(level for _, level, *_ in found)
    divided = [column for path in families if (column := _divided_by(Path(path))) is not None]
    level_name = _level_name([results for *_, results in found], divided, of_families, by)
    return Table(shown, rows, compared, notes, level_name, intervals, costs)


def require_format(form: str) -> None:
    """Refuse an unknown format."""
    if form not in FORMATS:
        raise InputError(f"--format {form!r}: must be one of {', '.join(FORMATS)}.{nearest(form, FORMATS)}")


def _family(path: Path) -> dict[str, Path]:
    """Return the runs of a directory by level: the run itself, or each run within it."""
    if (path / "config.json").is_file():
        return {"": path}
    within = path / "runs" if (path / "runs").is_dir() else path
    found = (
        {
            one.name: one
            for one in sorted(within.iterdir(), key=lambda one: natural(one.name))
            if (one / "config.json").is_file()
        }
        if path.is_dir()
        else {}
    )
    if not found:
        raise HeadError(f"{path}: no run here, and none in it.")
    return found


def _divided_by(path: Path) -> str | None:
    """Return the column by which a family of runs is divided; None if it does not say."""
    try:
        found = read_json(path / FAMILY)
    except (OSError, ValueError):
        return None
    return str(found["separately"]) if isinstance(found, dict) and "separately" in found else None


def _names(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(paths) or len(set(names)) < len(names):
            raise InputError(f"--name: {len(paths)} runs need as many different names.")
        return list(names)
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        found = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(found)) == len(found):
            break
    return found


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
        found[name] = {"mean": section["mean"].get(name), "std": section["std"].get(name), "low": low, "high": high}
    return found


def _costs(path: Path, results: Results) -> dict[str, float | None]:
    """Return the trained parameters of a run, with those of its encoder, its seconds and its peak memory."""
    training = results.metrics.get("training") or results.metrics.get("fitting") or {}
    parameters = _head_parameters(path, results)
    if parameters is not None and isinstance(of_encoder := training.get("of_the_encoder"), int):
        parameters += of_encoder
    return {
        "parameters": parameters,
        "seconds": training.get("seconds"),
        "peak_memory_bytes": training.get("peak_memory_bytes"),
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
    except (OSError, ValueError):
        return None
    total = 0
    for key, entry in header.items():
        if key != "__metadata__":
            n = 1
            for side in entry["shape"]:
                n *= side
            total += n
    return total


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
    return pairs, notes


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


def _plain(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]) + "\n"


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "±": "$\\pm$",
    "–": "--",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
}


def _latex(cells: Sequence[Sequence[str]]) -> str:
    def escaped(cell: str) -> str:
        return "".join(_LATEX.get(c, c) for c in cell.replace("\\", "/"))

    rows = [f"{' & '.join(map(escaped, row))} \\\\" for row in cells]
    body = "\n".join(rows[1:])
    columns = "l" * 2 + "r" * (len(cells[0]) - 2)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{rows[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
