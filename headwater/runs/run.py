"""Run directories: a head with its settings, metrics and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

import polars as pl

from headwater._reading import TABLE, parse_parquet, read_json, read_regular
from headwater._schema import Count, Word, read_as
from headwater._shown import Shown
from headwater._tensors import read_arrays
from headwater.errors import HeadError, InputError, how_to_make
from headwater.evaluate.novelty import Reference
from headwater.evaluate.positive import ChosenBy
from headwater.heads import load_head
from headwater.runs.decided import require_decisions
from headwater.runs.foreign import run_errors
from headwater.runs.places import found_from
from headwater.runs.predictions import names_key
from headwater.runs.printed import run_lines

if TYPE_CHECKING:
    from headwater.embed.adapter import Adapter

ENCODER = "encoder"  # a folder for each trained encoder, as `headwater.embed.adapter` writes it
HEAD_FILES = ("head.json", "head.safetensors")
RUN_FILES = ("config.json", *HEAD_FILES, "predictions.parquet", "metrics.json")
DECISION = "decision.json"  # of runs with calibration, a threshold or prediction sets
TRIALS = "trials.parquet"  # of runs that selected settings
INSTANCES = "instances.parquet"  # of runs on bags
CURVES = "curves.parquet"  # of runs that trained an encoder
COST = "cost.json"  # seconds and memory, which differ between equal runs
FOLDS = "folds"  # a folder for the head of each fold, if these were kept
REFERENCE = "reference.safetensors"  # distances that tell how unlike the training data a new case is
FIGURES = "figures"  # the folder that `plot` writes


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
        ``label_<output>`` and a ``predicted_<output>`` for each. Survival runs have ``time``, ``event`` and
        ``risk``, the log hazard relative to a mean training sample.
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
        ``fold`` (and ``seed`` with several seeds), ``epoch`` (0 before training), ``train_loss``, ``stop_loss``,
        ``stop_metric``, ``lr``, ``seconds``.
    adapters
        Trained weights of each encoder, in a new run only; the run directory holds them in ``encoder/``.
    fold_heads
        The head of each fold, in order, if ``fit-head --keep-folds`` kept them in ``folds/``.
    cost
        Contents of ``cost.json``: the ``seconds`` that the run took, and the ``peak_memory_bytes`` of the process.
    reference
        Distances of left-out training rows, which tell how unlike these a new case is; None if they were not kept.
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
    fold_heads: Sequence[Any] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None

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

    def predict(self, cases: Any = None, **options: Any) -> Any:
        """Predict new cases: a manifest, a folder, image files or a store; see `headwater.predict`."""
        return import_module("headwater").predict(self, cases, **options)  # the only method that is a verb

    def __repr__(self) -> str:
        mean: Mapping[str, Any] = self.metrics.get("mean") or {}
        name = next(
            (
                n
                for n in ("auc", "auc_macro", "r2", "c_index", "kappa_quadratic", "accuracy")
                if isinstance(mean.get(n), float)
            ),
            None,
        )
        number = "" if name is None else f", {name} {mean[name]:.3f}"
        where = "not written" if self.path is None else str(self.path)
        what = f"{self.config.get('head')}, {self.metrics.get('task')}, {self.metrics.get('n_samples')} samples"
        return f"<Run {where}: {what}{number}>"

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        with run_errors(self.path):
            lines = run_lines(self.metrics, self.config.get("label_separator"))
        return [*lines, f"run in {self.path}" if self.path else "nothing written; --out RUN keeps head and predictions"]


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises
    ------
    HeadError
        When there is no run at ``path``.
    """
    path = Path(path)
    found = read_results(path)
    try:
        task = found.metrics["task"]
        require_decisions(found.decision, task, found.metrics.get(names_key(task), ()))
    except ValueError as error:
        raise HeadError(f"{path / DECISION}: cannot be used ({error}). Make the run again.") from error
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
        fold_heads=_fold_heads(path, len(found.metrics.get("folds", ()))),
        cost=found.cost,
        reference=_reference(path),
    )


def _reference(path: Path) -> Reference | None:
    """Return the distances of left-out training rows; None if they were not kept."""
    try:
        return Reference.from_arrays(read_arrays(path / REFERENCE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, InputError) as error:
        raise HeadError(f"{path / REFERENCE}: cannot be read ({error}). Make the run again.") from error


def _fold_heads(path: Path, n_folds: int) -> list[Any]:
    """Return the heads of the folds; none if they were not kept."""
    if not (path / FOLDS).is_dir():
        return []
    return [load_head(path / FOLDS / str(fold)) for fold in range(n_folds)]


@dataclass(frozen=True)
class Results:
    """Contents of a run directory except its head; see `Run`."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    predictions: pl.DataFrame
    decision: Mapping[str, Any]
    trials: pl.DataFrame | None
    curves: pl.DataFrame | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)


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
            cost=_json(path / COST, _Cost) if (path / COST).exists() else {},
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
    label_sql: dict[str, Word]
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


class _Cost(TypedDict, total=False):
    """Contents of ``cost.json``."""

    seconds: float
    peak_memory_bytes: int | None


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

    task: Required[Literal["binary", "multiclass", "multilabel", "regression", "survival", "ordinal", "retrieval"]]
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
