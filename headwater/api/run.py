"""Run directories: one head, its settings, its metrics, its predictions."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import HeadError, InputError
from headwater.evaluate import Outcome, score, summarise
from headwater.heads import load_head, save_head
from headwater.store import Data

MAIN_METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "auc", "auc_micro", "f1_micro", "hamming", "log_loss")


@dataclass(frozen=True)
class Run:
    """A run directory: one head, its settings, metrics and predictions.

    Attributes
    ----------
    path
        The directory; None when nothing was written.
    config, metrics
        What ``config.json`` and ``metrics.json`` hold.
    predictions
        A row for each tested sample: ``id``, ``fold``, ``label``, ``predicted`` and ``score_<class>``.
    head
        The head fitted on all samples.
    """

    path: Path | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    predictions: pl.DataFrame
    head: Any

    @property
    def mean(self) -> Mapping[str, float | None]:
        """Mean of each metric over folds."""
        mean: Mapping[str, float | None] = self.metrics["mean"]
        return mean

    @property
    def std(self) -> Mapping[str, float | None]:
        """Standard deviation of each metric over folds."""
        std: Mapping[str, float | None] = self.metrics["std"]
        return std

    def lines(self) -> list[str]:
        """Say in a few lines what came out."""
        names = [name for name in MAIN_METRICS if self.mean.get(name) is not None]
        n_folds = len(self.metrics["folds"])
        folds = f"mean ± standard deviation over {n_folds} folds" if n_folds > 1 else "one test set"
        out = [f"{self.metrics['task']}, {self.metrics['n_samples']:,} samples, {folds}"]
        out += [f"  {name:<18} {_plus_minus(self.mean[name], self.std.get(name))}" for name in names]
        for level, part in self.metrics.get("by", {}).get("levels", {}).items():
            shown = "  ".join(f"{n} {_plus_minus(part['mean'].get(n), part['std'].get(n))}" for n in names[:3])
            out.append(f"  {self.metrics['by']['column']} = {level} ({part['n_samples']:,}): {shown}")
        out += [f"  left out: {n:,} samples ({reason})" for reason, n in self.metrics["left_out"].items()]
        if self.path is not None:
            out.append(f"run in {self.path}")
        return out


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises
    ------
    HeadError
        When there is no run at ``path``.
    """
    path = Path(path)
    try:
        config = json.loads((path / "config.json").read_text())
        metrics = json.loads((path / "metrics.json").read_text())
        predictions = pl.read_parquet(path / "predictions.parquet")
    except FileNotFoundError as error:
        raise HeadError(f"{path}: no run here. Run: headwater fit-head … --out {path}") from error
    return Run(path, config, metrics, predictions, load_head(path))


# Making one


def run_folder(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    path = Path(out)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "metrics.json").exists()):
        raise InputError(f"--out {path} holds something that is not a run. Give another path.")
    return path


def predictions_of(
    ids: NDArray[np.str_], y: NDArray[Any], outcome: Outcome, label_names: Sequence[str] | None
) -> pl.DataFrame:
    parts = []
    for fold in outcome.folds:
        test = fold.split.test
        columns: dict[str, Any] = {"id": ids[test], "fold": np.full(len(test), fold.split.fold)}
        if y.ndim == 1:
            columns["label"] = y[test]
            columns["predicted"] = outcome.classes[fold.scores.argmax(1)]
        else:
            columns["label"] = [np.flatnonzero(row).tolist() for row in y[test]]
            columns["predicted"] = [np.flatnonzero(row).tolist() for row in fold.scores > 0.5]
        for c, name in enumerate(label_names or outcome.classes.tolist()):
            columns[f"score_{name}"] = fold.scores[:, c]
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def metrics_of(
    outcome: Outcome, data: Data, by: str | None, by_values: NDArray[Any] | None, y: NDArray[Any]
) -> dict[str, Any]:
    reasons = data.left_out["reason"].value_counts(sort=True) if len(data.left_out) else None
    out: dict[str, Any] = {
        "task": outcome.task,
        "classes": outcome.classes.tolist(),
        "n_samples": len(y),
        "left_out": {} if reasons is None else dict(reasons.iter_rows()),
        "selection": dict(outcome.selection),
        "folds": [
            {
                "fold": fold.split.fold,
                "n_train": len(fold.split.train),
                "n_test": len(fold.split.test),
                "params": dict(fold.params),
                **_json_safe(fold.metrics),
            }
            for fold in outcome.folds
        ],
        "mean": dict(outcome.mean),
        "std": dict(outcome.std),
    }
    if by is not None and by_values is not None:
        out["by"] = {"column": by, "levels": _levels(outcome, by_values, y)}
    return out


def _levels(outcome: Outcome, values: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    """Score each level's test rows by themselves, in each fold that has any."""
    levels: dict[str, Any] = {}
    for level in sorted(set(values.tolist()), key=str):
        found, n = [], 0
        for fold in outcome.folds:
            here = values[fold.split.test] == level
            if here.any():
                n += int(here.sum())
                rows = fold.split.test[here]
                found.append(score(outcome.task, y[rows], fold.scores[here], classes=outcome.classes))
        mean, std = summarise(found)
        levels[str(level)] = {"n_samples": n, "folds": len(found), "mean": mean, "std": std}
    return levels


def write_run(target: Path | None, run: Run, kind: str) -> Run:
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        (target / "config.json").write_text(json.dumps(run.config, indent=2, ensure_ascii=False, default=str) + "\n")
        run.predictions.write_parquet(target / "predictions.parquet")
        save_head(run.head, kind, target)
        text = json.dumps(run.metrics, indent=2, ensure_ascii=False, default=str) + "\n"
        (target / "metrics.json").write_text(text)  # last: a directory without it is not a run
    return run


def environment() -> dict[str, str]:
    packages = ("headwater", "numpy", "scikit-learn", "polars")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _json_safe(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in metrics.items()}


def _plus_minus(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
