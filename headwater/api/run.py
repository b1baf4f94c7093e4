"""Run directories: one head, its settings, its metrics, its predictions."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.api._controls import control_lines
from headwater.api._frozen import against_frozen
from headwater.api._lines import counted
from headwater.api._numbers import indented, json_safe, numbered, over, over_folds, repeats, summary
from headwater.api._report import by_levels, by_outputs, lines_of, means_of_repeats, output_lines
from headwater.api._tested import names_key, output_ends
from headwater.api._zero_shot_lines import ablation_lines, together_lines
from headwater.errors import HeadError, InputError
from headwater.evaluate import Outcome
from headwater.heads import load_head, save_head
from headwater.store import Data, Store

if TYPE_CHECKING:
    from headwater.embed.adapter import Adapter

ENCODER = "encoder"  # a folder for each encoder that was trained, as `headwater.embed.adapter` keeps it
COMMANDS = ("fit-head", "zero-shot", "evaluate", "fine-tune")  # whose runs they are
HEAD_FILES = ("head.json", "head.safetensors")
RUN_FILES = ("config.json", *HEAD_FILES, "predictions.parquet", "metrics.json")
DECISION = "decision.json"  # where a run has one
TRIALS = "trials.parquet"  # where settings were tried
INSTANCES = "instances.parquet"  # of runs on bags
CURVES = "curves.parquet"  # where an encoder was trained
FIGURES = "figures"  # a folder, where a run was drawn
MAIN_METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
    "multiclass": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
    "multilabel": ("auc_macro", "auc_micro", "f1_macro", "f1_micro", "hamming"),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
}
N_TOP = 3
TOP_METRICS = ("top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3")  # for so many labels


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
        A row for each tested sample: ``id``, ``fold``, ``label``, ``predicted``, ``group`` where there are groups,
        ``set`` where there are prediction sets, and ``score_<class>``; with several seeds or draws a row for each of
        them, and their numbers as ``seed`` and ``draw``. Of regressions no scores; of several outputs a
        ``label_<output>`` and ``predicted_<output>`` for each.
    head
        The head fitted on all samples.
    decision
        What ``decision.json`` holds: the calibrator, the threshold and the rule of prediction sets that go with the
        head's scores; empty where none was asked for.
    trials
        A row for each setting that was tried on inner folds: ``fold`` (null for those of the saved head; ``seed`` and
        ``draw`` where there are several), ``trial``, ``params`` as JSON, ``loss`` and whether it was ``selected``. None
        where nothing was tried.
    instances
        Of a run on bags, a row for each instance of each tested bag: ``id``, ``bag``, ``fold`` and its ``weight``, by
        the head that tested the bag.
    curves
        Of a run that trained an encoder, a row for each epoch of each fold (null for what is saved): ``fold``,
        ``epoch`` (0 before training), ``train_loss``, ``stop_loss``, ``stop_metric``, ``lr``, ``seconds``.
    adapters
        What was trained of each encoder, while the run is new; it is kept in ``encoder/``.
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

    def lines(self) -> list[str]:
        """Say in a few lines what came out."""
        n_folds = len(self.metrics["folds"])
        folds = f"mean ± standard deviation over {over(self.metrics['folds'])}" if n_folds > 1 else "one test set"
        out = [f"{self.metrics['task']}, {counted(self.metrics['n_samples'], 'sample')}, {folds}"]
        main = MAIN_METRICS[self.metrics["task"]]
        if self.metrics.get("labels_per_sample") == {"least": N_TOP, "most": N_TOP}:
            main += TOP_METRICS
        names = [name for name in main if self.mean.get(name) is not None]
        out += indented([[name, over_folds(self.metrics, name, n_folds)] for name in names])
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
            out += ["", *_against_internal(self.metrics["external"])]
        if "frozen" in self.metrics:
            out += ["", *against_frozen(self.metrics)]
        out += lines_of(self.metrics, n_folds, main)
        if "controls" in self.metrics:
            out += ["", *control_lines(self.metrics)]
        if "ablation" in self.metrics:
            out += ["", *ablation_lines(self.metrics["ablation"])]
        if "transduction" in self.metrics:
            out += ["", *together_lines(self.metrics["transduction"], self.mean, names)]
        out += [f"left out: {counted(n, 'sample')} ({why})" for why, n in self.metrics["left_out"].items()]
        out.append(f"run in {self.path}" if self.path else "nothing was written; --out RUN keeps head and predictions")
        return out

    def _undefined(self, names: Sequence[str]) -> str:
        """Say why metrics are not among those that came out."""
        kinds = {"multilabel": "with and without every label", "regression": "of different labels and predictions"}
        every = kinds.get(self.metrics["task"], "of every class")
        why = "no fold has them" if len(self.metrics["folds"]) > 1 else "they are not all there"
        if absent := self.metrics.get("classes_without_samples"):
            why = f"there are none of {', '.join(map(repr, absent))}"
        return f"not defined: {', '.join(names)} (needing tested samples {every}, and {why})"


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises
    ------
    HeadError
        When there is no run at ``path``.
    """
    path = Path(path)
    found = read_results(path)
    instances, curves = (
        pl.read_parquet(path / name) if (path / name).exists() else None for name in (INSTANCES, CURVES)
    )
    head = load_head(path)
    return Run(
        path, found.config, found.metrics, found.predictions, head, found.decision, found.trials, instances, curves
    )


@dataclass(frozen=True)
class Results:
    """What a run directory holds besides its head; see `Run`."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    predictions: pl.DataFrame
    decision: Mapping[str, Any]
    trials: pl.DataFrame | None


def read_results(path: Path) -> Results:
    """Read a run directory without its head, which may be large."""
    try:
        return Results(
            config=json.loads((path / "config.json").read_text()),
            metrics=json.loads((path / "metrics.json").read_text()),
            predictions=pl.read_parquet(path / "predictions.parquet"),
            decision=json.loads((path / DECISION).read_text()) if (path / DECISION).exists() else {},
            trials=pl.read_parquet(path / TRIALS) if (path / TRIALS).exists() else None,
        )
    except FileNotFoundError as error:
        raise HeadError(f"{path}: no run here. Run: headwater fit-head … --out {path}") from error


# Making one


def run_folder(out: str | Path | None) -> Path | None:
    """Return where a run is to be written, unless something else is there."""
    if out is None:
        return None
    path = Path(out)
    if path.is_dir():
        taken = any(path.iterdir()) and not _is_run(path)
    else:
        taken = path.exists()
    if taken:
        raise InputError(f"--out {path} holds something that is not a run. Give another path.")
    return path


def _is_run(path: Path) -> bool:
    """Whether a directory holds a run, or what is left of one whose writing was cut short."""
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("command") in COMMANDS


def predictions_of(
    ids: NDArray[np.str_],
    y: NDArray[Any],
    outcome: Outcome,
    names: Sequence[str],
    groups: NDArray[Any] | None = None,
    sets: Sequence[NDArray[np.bool_]] | None = None,
) -> pl.DataFrame:
    """Return a row for each tested sample; several labels, and prediction sets, stand as lists of their names.

    ``names`` are those of the classes, labels or outputs.
    """
    regression = outcome.task == "regression"
    parts = []
    for f, fold in enumerate(outcome.folds):
        test = fold.split.test
        columns: dict[str, Any] = {"id": ids[test]}
        columns |= {name: np.full(len(test), number) for name, number in numbered(fold, outcome).items()}
        if regression:
            truth = outcome.truth(y)[test]
            for c, end in enumerate(output_ends(names)):
                columns[f"label{end}"], columns[f"predicted{end}"] = truth[:, c], fold.scores[:, c]
        elif y.ndim == 1:
            columns["label"] = y[test]
            columns["predicted"] = outcome.classes[fold.scores.argmax(1)]
        else:
            columns["label"] = _named(y[test] == 1, names)
            columns["predicted"] = _named(fold.scores > 0.5, names)
        if groups is not None:
            columns["group"] = pl.Series(groups[test]).cast(pl.String)
        if sets is not None:
            columns["set"] = _named(sets[f], names)
        for c, name in enumerate(() if regression else names):
            columns[f"score_{name}"] = fold.scores[:, c]
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def _named(chosen: NDArray[np.bool_], names: Sequence[str]) -> pl.Series:
    return pl.Series([[names[i] for i in np.flatnonzero(row).tolist()] for row in chosen], dtype=pl.List(pl.String))


def trials_of(outcome: Outcome, fixed: Mapping[str, Any]) -> pl.DataFrame | None:
    """Return a row for each setting that was tried, folds first and the saved head last; None where none was."""
    last: dict[str, Any] = dict.fromkeys(("fold", *repeats(outcome)))
    parts = [(numbered(fold, outcome), fold.trials, fold.params) for fold in outcome.folds]
    rows = []
    for numbers, tried, selected in [*parts, (last, outcome.trials, outcome.params)]:
        for number, trial in enumerate(tried):
            params = json.dumps({**fixed, **trial.params}, default=str)
            chosen = trial.params is selected
            rows.append({**numbers, "trial": number, "params": params, "loss": trial.loss, "selected": chosen})
    return pl.DataFrame(rows, infer_schema_length=None) if rows else None


def metrics_of(
    outcome: Outcome,
    data: Data,
    y: NDArray[Any],
    *,
    classes: Sequence[Any],
    params: Mapping[str, Any] | None = None,
    by: tuple[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """Return what ``metrics.json`` holds.

    Parameters
    ----------
    outcome, data, y
        What was found, on which samples, with which labels.
    classes
        What the columns of scores are called: classes, labels or outputs.
    params
        Parameters that were given rather than selected.
    by
        A column and its value for each sample.
    """
    out: dict[str, Any] = {
        "task": outcome.task,
        names_key(outcome.task): list(classes),
        "n_samples": len(y),
        "left_out": dict(Counter(map(kind_of, data.left_out["reason"])).most_common()),
        "selection": dict(outcome.selection),
        "folds": [
            {
                **numbered(fold, outcome),
                "n_train": len(fold.split.train),
                "n_test": len(fold.split.test),
                "params": {**(params or {}), **fold.params},
                **json_safe(fold.metrics),
            }
            for fold in outcome.folds
        ],
        **summary([fold.metrics for fold in outcome.folds]),
        **means_of_repeats(outcome),
    }
    if outcome.task == "regression":
        if len(classes) > 1:
            out["by_output"] = by_outputs(outcome, y, classes)
    elif y.ndim == 2:
        out["labels_per_sample"] = {"least": int(y.sum(1).min()), "most": int(y.sum(1).max())}
    if outcome.task != "regression" and (absent := _without_samples(y, classes)):
        out["classes_without_samples"] = absent
    if by is not None:
        out["by"] = {"column": by[0], "levels": by_levels(outcome, by[1], y)}
    return out


def kind_of(reason: str) -> str:
    """Return what is common to the reasons of many samples: no path, no size.

    Examples
    --------
    >>> kind_of("truncated image (812 bytes): scans/7.png")
    'truncated image'
    """
    return reason.split(": ")[0].split(" (")[0]


def _without_samples(y: NDArray[Any], classes: Sequence[Any]) -> list[Any]:
    """Return the classes, or the labels where there are several, that no sample has."""
    present = set(y.tolist()) if y.ndim == 1 else {classes[i] for i in np.flatnonzero(y.any(0)).tolist()}
    return [c for c in classes if c not in present]


def write_run(target: Path | None, run: Run, kind: str, *, head_of: Path | None = None) -> Run:
    """Write a run, whole: its files are made beside their place, and moved there one after the other.

    The head is written as it is, or copied from the run ``head_of``.
    """
    if target is None:
        return run
    optional: dict[str, bytes] = {}
    if run.decision:
        optional[DECISION] = to_json(run.decision).encode()
    if run.trials is not None:
        optional[TRIALS] = parquet(run.trials)
    if run.instances is not None:
        optional[INSTANCES] = parquet(run.instances)
    if run.curves is not None:
        optional[CURVES] = parquet(run.curves)
    predictions = parquet(run.predictions)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as folder:
        (folder / "config.json").write_text(to_json(run.config))
        (folder / "predictions.parquet").write_bytes(predictions)
        if head_of is None:
            save_head(run.head, kind, folder)
        else:
            for name in HEAD_FILES:
                shutil.copyfile(head_of / name, folder / name)
        for name, content in optional.items():
            (folder / name).write_bytes(content)
        for number, adapter in enumerate(run.adapters):
            (folder / ENCODER / str(number)).mkdir(parents=True)
            adapter.write(folder / ENCODER / str(number))
        (folder / "metrics.json").write_text(to_json(run.metrics))
        target.mkdir(exist_ok=True)
        (target / "metrics.json").unlink(missing_ok=True)  # a directory without it is not a run
        shutil.rmtree(target / ENCODER, ignore_errors=True)
        if run.adapters:
            (folder / ENCODER).replace(target / ENCODER)
        for name in {DECISION, TRIALS, INSTANCES, CURVES} - set(optional):
            (target / name).unlink(missing_ok=True)  # an earlier run's says nothing of this head
        shutil.rmtree(target / FIGURES, ignore_errors=True)
        for name in (*optional, *RUN_FILES):
            (folder / name).replace(target / name)
    return run


def parquet(table: pl.DataFrame) -> bytes:
    """Return a table as the bytes of a Parquet file.

    Writing these says that a disk is full in a way that can be told from other errors; polars would not.
    """
    data = io.BytesIO()
    table.write_parquet(data)
    return data.getvalue()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``, and take it away in the end."""
    target = target.resolve()  # "." has no name to put anything beside
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def described(store: Store, names: Sequence[str]) -> dict[str, Any]:
    """Return what identifies features: their spec, and a word that changes when any stored value does."""
    found = {name: store.features(name) for name in names}
    return {name: {**f.spec.to_dict(), "fingerprint": f.fingerprint} for name, f in found.items()}


def environment() -> dict[str, str]:
    packages = ("headwater", "numpy", "scikit-learn", "polars")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _against_internal(external: Mapping[str, Any]) -> list[str]:
    """Write a table of what a head reached on other data beside the estimate within its own."""
    drawn = " and ".join(dict.fromkeys(f"{unit}s" for unit in external["drawn"].values()))
    rows = [["", "within its own data", "here", "drop"]]
    for name, found in external["metrics"].items():
        cells = [
            "–" if found[part]["value"] is None else _with_interval(found[part], "+" if part == "drop" else "")
            for part in ("internal", "external", "drop")
        ]
        rows.append([name, *cells])
    title = f"against {external['run']}, with {external['level']:.0%} intervals by drawing {drawn} again"
    return [title, *indented(rows)]


def _with_interval(found: Mapping[str, float | None], sign: str) -> str:
    low, high = ("–" if v is None else f"{v:{sign}.3f}" for v in (found["low"], found["high"]))
    return f"{found['value']:{sign}.3f} [{low}, {high}]"
