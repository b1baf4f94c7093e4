"""Run directories: a head with its settings, metrics and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

import polars as pl

from headwater._reading import TABLE, parse_parquet, read_json, read_regular
from headwater._schema import Count, Word, read_as
from headwater._shown import Shown
from headwater._words import counted, indented
from headwater.errors import HeadError, how_to_make
from headwater.evaluate.positive import ChosenBy
from headwater.heads import load_head
from headwater.runs.foreign import run_errors
from headwater.runs.places import found_from
from headwater.runs.positive import positive_in_run
from headwater.runs.printed import (
    ablation_lines,
    against_frozen,
    against_internal,
    at_threshold_lines,
    control_lines,
    edge_lines,
    lines_of,
    lines_of_texts,
    output_lines,
    over,
    over_folds,
    positive_lines,
    sample_lines,
    together_lines,
)

if TYPE_CHECKING:
    from headwater.embed.adapter import Adapter

ENCODER = "encoder"  # a folder for each trained encoder, as `headwater.embed.adapter` writes it
HEAD_FILES = ("head.json", "head.safetensors")
RUN_FILES = ("config.json", *HEAD_FILES, "predictions.parquet", "metrics.json")
DECISION = "decision.json"  # of runs with calibration, a threshold or prediction sets
TRIALS = "trials.parquet"  # of runs that selected settings
INSTANCES = "instances.parquet"  # of runs on bags
CURVES = "curves.parquet"  # of runs that trained an encoder
FIGURES = "figures"  # the folder that `plot` writes
MAIN_METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
    "multiclass": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
    "multilabel": ("auc_macro", "auc_micro", "f1_macro", "f1_micro", "hamming"),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
}
N_TOP = 3
TOP_METRICS = ("top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3")  # for N_TOP labels each


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A run directory: a head with its settings, metrics and predictions.

    Attributes
    ----------
    path
        The directory; None when nothing was written.
    config, metrics
        Contents of ``config.json`` and ``metrics.json``.
    predictions
        One row per test sample: ``id``, ``fold``, ``label``, ``predicted``, ``group`` where there are groups, ``set``
        where there are prediction sets, and ``score_<class>``. With several seeds or draws, one row for each of them,
        numbered in ``seed`` and ``draw``. Regressions have no scores; with several outputs they have a
        ``label_<output>`` and a ``predicted_<output>`` for each.
    head
        The head fitted on all samples.
    decision
        Contents of ``decision.json``: the calibrator, the threshold and the rule for prediction sets that belong to
        the head's scores; empty if none was requested.
    trials
        One row per setting tried on inner folds: ``fold`` (null for those of the saved head; with ``seed`` and
        ``draw`` where there are several), ``trial``, ``params`` as JSON, ``loss``, and whether it was ``selected``.
        None if nothing was selected.
    instances
        For runs on bags, one row per instance of each test bag: ``id``, ``bag``, ``fold`` and its ``weight`` in the
        head that tested the bag.
    curves
        For runs that trained an encoder, one row per epoch of each fold (``fold`` is null for the saved encoder):
        ``fold``, ``epoch`` (0 before training), ``train_loss``, ``stop_loss``, ``stop_metric``, ``lr``, ``seconds``.
    adapters
        Trained weights of each encoder, in a new run only; the run directory holds them in ``encoder/``.
    """

    path: Path | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    predictions: pl.DataFrame
    head: Any
    decision: Mapping[str, Any] = field(default_factory=dict)
    trials: pl.DataFrame | None = None
    instances: pl.DataFrame | None = None
    curves: pl.DataFrame | None = None
    adapters: Sequence[Adapter] = ()

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

    def __repr__(self) -> str:
        mean: Mapping[str, Any] = self.metrics.get("mean") or {}
        name = next((n for n in ("auc", "auc_macro", "r2", "accuracy") if isinstance(mean.get(n), float)), None)
        number = "" if name is None else f", {name} {mean[name]:.3f}"
        where = "not written" if self.path is None else str(self.path)
        what = f"{self.config.get('head')}, {self.metrics.get('task')}, {self.metrics.get('n_samples')} samples"
        return f"<Run {where}: {what}{number}>"

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        with run_errors(self.path):
            return self._lines()

    def _lines(self) -> list[str]:
        n_folds = len(self.metrics["folds"])
        folds = f"mean ± standard deviation over {over(self.metrics['folds'])}" if n_folds > 1 else "one test set"
        out = [f"{self.metrics['task']}, {counted(self.metrics['n_samples'], 'sample')}, {folds}"]
        out += positive_lines(positive_in_run(self.metrics))
        main = MAIN_METRICS[self.metrics["task"]]
        if self.metrics.get("labels_per_sample") == {"least": N_TOP, "most": N_TOP}:
            main += TOP_METRICS
        names = [name for name in main if self.mean.get(name) is not None]
        out += indented([[name, over_folds(self.metrics, name, n_folds)] for name in names])
        out += self._over_present(main, n_folds)
        if len(names) < len(main):
            out.append(self._undefined([name for name in main if name not in names]))
        if "by_output" in self.metrics:
            out += ["", *output_lines(self.metrics["by_output"], main, n_folds)]
        if "by" in self.metrics:
            levels = self.metrics["by"]["levels"]
            table = [[self.metrics["by"]["column"], "samples", *names[:4]]]
            table += [
                [level, f"{part['n_samples']:,}", *(over_folds(part, n, n_folds) for n in names[:4])]
                for level, part in levels.items()
            ]
            out += ["", *indented(table)]
        if "external" in self.metrics:
            out += ["", *against_internal(self.metrics["external"])]
            out += at_threshold_lines(self.metrics["external"])
        if "frozen" in self.metrics:
            out += ["", *against_frozen(self.metrics)]
        out += lines_of(self.metrics, n_folds, main)
        out += edge_lines(self.metrics.get("selection") or {})
        out += lines_of_texts((self.metrics.get("leakage") or {}).get("texts"))
        if "controls" in self.metrics:
            out += ["", *control_lines(self.metrics)]
        if "ablation" in self.metrics:
            out += ["", *ablation_lines(self.metrics["ablation"])]
        if "transduction" in self.metrics:
            out += ["", *together_lines(self.metrics["transduction"], self.mean, names)]
        out += sample_lines(self.metrics, self.config.get("label_separator"))
        out.append(f"run in {self.path}" if self.path else "nothing written; --out RUN keeps head and predictions")
        return out

    def _over_present(self, main: Sequence[str], n_folds: int) -> list[str]:
        """Report means over the classes or labels present in the test rows, if some fold lacks one."""
        partly = [name for name in main if self.metrics.get("n_folds", {}).get(name, n_folds) < n_folds]
        names = [f"{name}_present" for name in partly if self.mean.get(f"{name}_present") is not None]
        if not names:
            return []
        what = "labels" if self.metrics["task"] == "multilabel" else "classes"
        n_present, n = self.mean[f"{what}_present"], len(self.metrics["classes"])
        of_folds = " in a fold, on average" if n_folds > 1 else ""
        title = f"over the {what} present in the test rows ({n_present:g} of {n}{of_folds})"
        return [title, *indented([[name, over_folds(self.metrics, name, n_folds)] for name in names])]

    def _undefined(self, names: Sequence[str]) -> str:
        """Say why metrics are undefined."""
        kinds = {"multilabel": "with and without every label", "regression": "of different labels and predictions"}
        every = kinds.get(self.metrics["task"], "of every class")
        why = "no fold has them" if len(self.metrics["folds"]) > 1 else "some are absent"
        if absent := self.metrics.get("classes_without_samples"):
            why = f"there are none of {', '.join(map(repr, absent))}"
        return f"not defined: {', '.join(names)} (they need test samples {every}, but {why})"


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises
    ------
    HeadError
        When there is no run at ``path``.
    """
    path = Path(path)
    found = read_results(path)
    instances = _table(path / INSTANCES) if (path / INSTANCES).exists() else None
    head = load_head(path)
    return Run(
        path,
        found.config,
        found.metrics,
        found.predictions,
        head,
        found.decision,
        found.trials,
        instances,
        found.curves,
    )


@dataclass(frozen=True)
class Results:
    """Contents of a run directory except its head; see `Run`."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    predictions: pl.DataFrame
    decision: Mapping[str, Any]
    trials: pl.DataFrame | None
    curves: pl.DataFrame | None = None


def read_results(path: Path) -> Results:
    """Read a run directory without its head, which may be large.

    Raises
    ------
    HeadError
        When there is no run at ``path``, or one of its files is not in headwater's format.
    """
    try:
        found = Results(
            config=found_from(path, _json(path / "config.json", _Config)),
            metrics=_json(path / "metrics.json", _Metrics),
            predictions=_table(path / "predictions.parquet"),
            decision=_json(path / DECISION, dict[str, Any]) if (path / DECISION).exists() else {},
            trials=_table(path / TRIALS) if (path / TRIALS).exists() else None,
            curves=_table(path / CURVES) if (path / CURVES).exists() else None,
        )
    except FileNotFoundError as error:
        raise HeadError(f"{path}: no run here. {how_to_make(path, 'headwater fit-head …')}") from error
    if "external" in found.metrics and isinstance(found.metrics["external"], dict):
        found.metrics["external"] = found_from(path, found.metrics["external"])  # type: ignore[index]
    return found


class _Config(TypedDict, total=False):
    """The part of ``config.json`` that every verb reads; each command has more."""

    command: Required[Word]
    features: dict[str, dict[str, Any]]
    label: Word | list[Word] | None
    label_separator: Word | None
    merge: dict[str, Word | None] | None
    head: Word
    params: dict[str, Any]
    where: str | None
    groups: Word | None
    missing_values: list[Word]
    split: Word | None
    by: Word | None
    per: Word | None
    bags: Word | None
    views: Word | None
    missing: Word
    task: Word
    store: Word
    manifest: Word
    run: Word


class _ClassCount(TypedDict):
    """The entry for one class in ``metrics.json``."""

    name: str
    n_samples: Count
    n_groups: Count | None


class _Positive(TypedDict):
    """The positive class of a binary task, and how it was chosen."""

    name: Word | int | float | bool
    by: ChosenBy


class _Metrics(TypedDict, total=False):
    """The part of ``metrics.json`` that every verb reads."""

    task: Required[Literal["binary", "multiclass", "multilabel", "regression", "retrieval"]]
    n_samples: Required[Count]
    folds: list[dict[str, Any]]
    mean: dict[str, float | None]
    std: dict[str, float | None]
    left_out: dict[str, Count]
    classes: list[Word | int | float | bool]
    class_counts: list[_ClassCount]
    positive: _Positive
    missing_values: dict[str, dict[str, Count]]
    warnings: list[str]


def _json(path: Path, kind: Any) -> dict[str, Any]:
    """Read a JSON file of a run and validate its types."""
    try:
        value = read_json(path)
        read_as(kind, value)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise HeadError(f"{path}: cannot be read ({error}). Make the run again, or restore the file.") from error
    found: dict[str, Any] = value
    return found


def _table(path: Path) -> pl.DataFrame:
    try:
        return parse_parquet(read_regular(path, most=TABLE))[0]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise HeadError(f"{path}: cannot be read ({error}). Make the run again, or restore the file.") from error
