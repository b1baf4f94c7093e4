"""plot: figures of a finished run, for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater._shown import Shown
from headwater._writable import require_writable
from headwater.errors import InputError
from headwater.evaluate.calibration import reliability
from headwater.evaluate.ordinal import exceedance
from headwater.evaluate.positive import Positive, negative_first
from headwater.report import _pictures as pictures
from headwater.report._curves import Kind, Spread, spread
from headwater.report._style import COLOURS, save, style
from headwater.runs.foreign import reads_runs
from headwater.runs.positive import positive_in_run
from headwater.runs.predictions import folds_of, names_of, scores_of, truth_of
from headwater.runs.printed import positive_lines
from headwater.runs.run import FIGURES, Results, read_results

SUFFIXES = ("png", "svg")


@dataclass(frozen=True, repr=False)
class Drawn(Shown):
    """The written figures.

    Attributes
    ----------
    folder
        Their folder.
    files
        Each figure in each format.
    positive
        The positive class of a binary task; else None.
    """

    folder: Path
    files: Sequence[Path]
    positive: Positive | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        named = None if self.positive is None else self.positive.name
        return {"folder": str(self.folder), "files": [path.name for path in self.files], "positive": named}

    def lines(self) -> list[str]:
        """Return the figures and their folder in a few lines."""
        names = dict.fromkeys(path.stem for path in self.files)
        suffixes = dict.fromkeys(path.suffix[1:] for path in self.files)
        return [*positive_lines(self.positive), f"{', '.join(names)} ({', '.join(suffixes)}) in {self.folder}"]


@reads_runs
def plot(
    run: str | Path,
    *,
    out: str | Path | None = None,
    positive: str | None = None,
    formats: Sequence[str] = SUFFIXES,
    dpi: int = 300,
) -> Drawn:
    """Draw a run: reliability, ROC and precision-recall curves and confusion; or predicted numbers and residuals.

    A survival run gets Kaplan-Meier curves of its groups by risk, with the numbers at risk.

    For a run that trained an encoder, the losses of each fold are drawn too.

    Curves show each fold's test rows, and their mean and standard deviation over folds (and seeds, if there are
    several). Reliability, confusion and predicted numbers use all test rows.

    Parameters
    ----------
    run
        The directory of a run of `fit_head`, `zero_shot` or `evaluate`.
    out
        The folder to write. Default: ``figures`` in the run's directory.
    positive
        The positive class of a binary task, whose curves are drawn. Default: the run's.
    formats
        ``"png"``, ``"svg"`` or ``"pdf"``.
    dpi
        Resolution of PNG files, in dots per inch.

    Returns
    -------
    Drawn

    Raises
    ------
    HeadError, InputError, MissingExtra
        When there is no run, a format is unknown, or matplotlib is not installed.
    """
    require_formats(formats, dpi)
    found = read_results(Path(run))
    which = positive_in_run(found.metrics, positive)
    need("matplotlib", "plots")
    folder = require_writable(Path(run) / FIGURES if out is None else out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file. Give a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with style():
        for name, figure in figures_of(found, which):
            files += save(figure, folder, name, formats, dpi)
    return Drawn(folder, files, which)


def require_formats(formats: Sequence[str], dpi: int) -> None:
    """Refuse unknown formats and resolutions."""
    for suffix in formats:
        if suffix not in (*SUFFIXES, "pdf"):
            raise InputError(f"formats: {suffix!r} must be one of png, svg, pdf.")
    if dpi < 1:
        raise InputError(f"--dpi must be at least 1, but is {dpi}.")


def figures_of(found: Results, positive: Positive | None) -> Iterator[tuple[str, Any]]:
    """Yield each figure of a run with its name."""
    if found.curves is not None:
        yield "training", pictures.training(found.curves)
    task, names, table = found.metrics["task"], names_of(found.metrics), found.predictions
    if positive is not None:
        names = negative_first(names, str(positive.name))
    truth, scores = truth_of(table, names, task), scores_of(table, names, task)
    if task == "survival":
        if "kaplan_meier" in found.metrics:
            time_column = found.metrics["outputs"][0]
            yield "kaplan_meier", pictures.kaplan_meier(found.metrics["kaplan_meier"], time_column)
        return
    if task == "regression":
        yield "predicted", pictures.predicted_and_true(truth, scores, names, _words(found))
        yield "residuals", pictures.residuals(truth, scores, names)
        return
    bins = reliability(task, truth, scores)
    if "calibration" in found.metrics:
        part = found.metrics["calibration"]
        parts = {"uncalibrated": part["uncalibrated"]["reliability"], part["method"]: bins}
    else:
        parts = {"": bins}
    whose = "probability of a label" if task == "multilabel" else "probability of the predicted class"
    rows = folds_of(table)
    error = "ECE" if len(rows) == 1 else "ECE, all folds pooled"
    yield "reliability", pictures.reliability(parts, whose, error)
    for kind, name in (("roc", "roc"), ("precision-recall", "precision_recall")):
        spreads = _spreads(kind, task, names, truth, scores, rows)  # type: ignore[arg-type]
        if spreads:
            prevalence = float(np.mean(truth == 1)) if task == "binary" else None
            yield name, pictures.curves(kind, spreads, prevalence)  # type: ignore[arg-type]
    if "decision_curve" in found.metrics:
        yield "decision_curve", pictures.decision_curve(found.metrics["decision_curve"])
    if task != "multilabel":
        number = {name: i for i, name in enumerate(names)}
        predicted = np.array([number[str(value)] for value in table["predicted"].to_list()])
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (truth, predicted), 1)
        yield "confusion", pictures.confusion(counts, names)


def _spreads(
    kind: Kind,
    task: str,
    names: Sequence[str],
    truth: NDArray[Any],
    scores: NDArray[np.float64],
    rows: Sequence[NDArray[np.int64]],
) -> dict[str, Spread]:
    """Return the curves to draw: the positive class (binary), each of a few classes or cuts, or many pooled."""
    every = truth == 1 if task == "multilabel" else truth[:, None] == np.arange(len(names))
    if task == "ordinal":  # each cut, of grades at or above it
        every, scores = truth[:, None] > np.arange(len(names) - 1), exceedance(scores)
        names = [f"{name} or higher" for name in names[1:]]
    if task == "binary":
        found = {names[1]: spread(kind, [every[r, 1] for r in rows], [scores[r, 1] for r in rows])}
    elif len(names) <= len(COLOURS):
        found = {
            name: spread(kind, [every[r, c] for r in rows], [scores[r, c] for r in rows])
            for c, name in enumerate(names)
        }
    else:
        flat = [every[r].ravel() for r in rows], [scores[r].ravel() for r in rows]
        found = {f"{len(names)} {'labels' if task == 'multilabel' else 'classes'}, micro": spread(kind, *flat)}
    return {name: curve for name, curve in found.items() if curve is not None}


def _words(found: Results) -> list[str]:
    """Return the text of each output's panel: the run's metrics, as means over its folds."""
    names = names_of(found.metrics)
    parts = found.metrics.get("by_output") or {names[0]: found.metrics}
    out = []
    for name in names:
        lines = []
        for metric, word in (("r2", "R²"), ("mae", "MAE"), ("pearson", "r")):
            mean, std = parts[name]["mean"].get(metric), parts[name]["std"].get(metric)
            value = "–" if mean is None else f"{mean:.3g}"
            lines.append(f"{word} {value}" + ("" if std is None else f" ± {std:.2g}"))
        out.append("\n".join(lines))
    return out
