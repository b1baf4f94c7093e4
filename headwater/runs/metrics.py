"""The metrics and trials that a run writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate import Outcome
from headwater.evaluate.decisions import by_levels, by_outputs, means_of_repeats
from headwater.evaluate.estimates import Estimates, Resampling
from headwater.evaluate.fold_means import json_safe, numbered, repeats, summary
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.evaluate.survival import events_by
from headwater.runs.predictions import names_key
from headwater.store import Data


def trials_of(outcome: Outcome, fixed: Mapping[str, Any]) -> pl.DataFrame | None:
    """Return one row per setting tried, folds first and the saved head last; None if none was tried."""
    last: dict[str, Any] = dict.fromkeys(("fold", *repeats(outcome)))
    parts = [(numbered(fold, outcome), fold.trials, fold.params) for fold in outcome.folds]
    rows = []
    for numbers, tried, selected in [*parts, (last, outcome.trials, outcome.params)]:
        for number, trial in enumerate(tried):
            params = json.dumps({**fixed, **trial.params}, default=str)
            chosen = trial.params is selected
            found = {"loss": trial.loss, "dropped_at_epoch": trial.dropped_at_epoch, "selected": chosen}
            rows.append({**numbers, "trial": number, "params": params, **found})
    if not rows:
        return None
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides={"dropped_at_epoch": pl.Int64})


def metrics_of(
    outcome: Outcome,
    data: Data,
    y: NDArray[Any],
    *,
    classes: Sequence[Any],
    resampling: Resampling,
    params: Mapping[str, Any] | None = None,
    by: tuple[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """Return the contents of ``metrics.json`` that every evaluated run has.

    `headwater.evaluate.decisions` adds calibration, threshold, prediction sets and units; `headwater.experiment` adds
    leakage, controls, transduction, class counts, and, of tuned encoders, the frozen one's results and the training.

    Parameters
    ----------
    outcome, data, y
        The results, the samples, and their labels.
    classes
        Names of the score columns: classes, labels or outputs.
    resampling
        How intervals are made.
    params
        Parameters given by the user rather than selected.
    by
        The name of a column, and its value for each sample.
    """
    estimates = Estimates(outcome, y, resampling)
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
        "intervals": estimates.metrics(),
        "level": resampling.level,
        **means_of_repeats(outcome),
    }
    if outcome.task == "regression":
        if len(classes) > 1:
            out["by_output"] = by_outputs(outcome, y, classes, resampling)
    elif outcome.task == "survival":
        out["followed"] = events_by(outcome.truth(y))
    elif y.ndim == 2:
        out["labels_per_sample"] = {"least": int(y.sum(1).min()), "most": int(y.sum(1).max())}
    if outcome.task not in WITHOUT_CLASSES:
        out["per_class"] = estimates.classes(classes)
    if outcome.task == "ordinal":
        out["cuts"] = estimates.cuts(classes)
    if outcome.task not in WITHOUT_CLASSES and (absent := _without_samples(y, classes)):
        out["classes_without_samples"] = absent
    if by is not None:
        out["by"] = {"column": by[0], "levels": by_levels(outcome, by[1], y, resampling)}
    return out


def kind_of(reason: str) -> str:
    """Return the kind of a reason, without the path and size of one sample.

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
