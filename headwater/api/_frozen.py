"""What training an encoder brought, against the same head on its features as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.api._numbers import indented, json_safe, summary
from headwater.evaluate import Outcome
from headwater.evaluate import bootstrap as draw
from headwater.evaluate.paired import Paired

LEVEL = 0.95
N_DRAWS = 2000
SHOWN: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "f1_macro", "auc"),
    "multiclass": ("accuracy", "balanced_accuracy", "f1_macro", "auc"),
    "multilabel": ("auc_macro", "auc_micro", "f1_macro", "f1_micro"),
}


def frozen_of(frozen: Outcome, tuned: Outcome, y: NDArray[Any], groups: NDArray[Any] | None) -> dict[str, Any]:
    """Return what ``metrics.json`` holds of the frozen features: their metrics, and what tuning added to each.

    Both were tested on the same rows; intervals of differences are by the corrected t over folds, or by drawing groups
    (or rows) again where there is one test set.
    """
    truth = tuned.truth(y)
    unit = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    models = [
        [draw.FoldScores(truth[f.split.test], f.scores, unit[f.split.test], len(f.split.train)) for f in outcome.folds]
        for outcome in (frozen, tuned)
    ]
    paired = Paired.of(tuned.task, models, n_draws=N_DRAWS)
    added: dict[str, Any] = {}
    for metric in SHOWN[tuned.task]:
        if metric not in paired.drawn or not np.isfinite(paired.drawn[metric][:, 0]).all():
            continue
        change = paired.difference(metric, 1, 0, LEVEL)
        added[metric] = json_safe({"value": change.value, "low": change.low, "high": change.high})
    return {
        "folds": [{"params": dict(fold.params), **json_safe(fold.metrics)} for fold in frozen.folds],
        **summary([fold.metrics for fold in frozen.folds]),
        "added_by_tuning": added,
        "level": LEVEL,
        "drawn": "rows" if groups is None else "groups",
        "test": "corrected_t" if len(tuned.folds) > 1 else "bootstrap",
    }


def against_frozen(metrics: Mapping[str, Any]) -> list[str]:
    """Write a table of frozen beside tuned, and say in one line whether tuning was worth it."""
    found = metrics["frozen"]
    rows = [["", "frozen", "tuned", "added"]]
    for name, added in found["added_by_tuning"].items():
        rows.append([name, f"{found['mean'][name]:.3f}", f"{metrics['mean'][name]:.3f}", _signed(added)])
    by = f"drawing {found['drawn']} again" if found.get("test") != "corrected_t" else "the corrected t over folds"
    title = f"against the same head on frozen features, with {found['level']:.0%} intervals by {by}"
    if not any(metrics["training"]["epochs_taken"]):
        kept = "no epoch lowered the loss of the rows held out: in every fold the encoder was kept as it came, and what"
        return [title, *indented(rows), f"{kept} differs is a head that was fitted without these rows"]
    return [title, *indented(rows), worth(found["added_by_tuning"])]


def worth(added: Mapping[str, Mapping[str, float | None]]) -> str:
    """Say whether tuning was worth it, by the AUC where there is one.

    Examples
    --------
    >>> worth({"auc": {"value": 0.021, "low": -0.004, "high": 0.05}})
    'whether tuning was worth it is not shown: auc +0.021 [-0.004, +0.050] holds 0'
    """
    name = next((name for name in ("auc", "auc_macro") if name in added), next(iter(added), None))
    if name is None or added[name]["low"] is None or added[name]["high"] is None:
        return "whether tuning was worth it cannot be said: no metric is defined on every fold"
    low, high = added[name]["low"] or 0.0, added[name]["high"] or 0.0
    if low > 0:
        return f"tuning was worth it: {name} {_signed(added[name])}"
    if high < 0:
        return f"tuning did harm: {name} {_signed(added[name])}"
    return f"whether tuning was worth it is not shown: {name} {_signed(added[name])} holds 0"


def _signed(found: Mapping[str, float | None]) -> str:
    words = ["–" if v is None else f"{v:+.3f}" for v in (found["value"], found["low"], found["high"])]
    return f"{words[0]} [{words[1]}, {words[2]}]"
