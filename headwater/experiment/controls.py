"""Controls of a run, on the same splits: each input alone, shuffled, random, or without one of a text's covariates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate import Outcome
from headwater.evaluate.bootstrap import FoldScores
from headwater.evaluate.fold_means import json_safe, repeats, summary
from headwater.evaluate.paired import Paired
from headwater.experiment.head import HeadChoice
from headwater.heads import noise_like, shuffled
from headwater.heads.controls import LONE
from headwater.heads.tokens import Ragged
from headwater.samples.inputs import given_to

Evaluate = Callable[[HeadChoice, Any], Outcome]


@dataclass(frozen=True)
class Control:
    """A control: its kind, head and inputs.

    Attributes
    ----------
    kind
        ``alone``, ``shuffled``, ``random`` or ``without``.
    chosen
        The head.
    parts
        Its inputs.
    column
        For ``without``: the column that the texts do not say.
    """

    kind: str
    chosen: HeadChoice
    parts: Mapping[str, Any]
    column: str | None = None


def run_controls(
    controls: Mapping[str, Control],
    outcome: Outcome,
    y: NDArray[Any],
    groups: NDArray[Any] | None,
    evaluate: Evaluate,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate each control as the run was, and return its section of ``metrics.json``, by name.

    Parameters
    ----------
    controls
        By name.
    outcome, y, groups
        The outcome of the run, its labels, and the groups to resample for intervals; None to resample samples.
    evaluate
        Evaluates a head on inputs, on the splits of the run.
    say
        Called with a line about each step.
    """
    found: dict[str, Any] = {}
    for name, control in controls.items():
        lacking = [n for n, X in control.parts.items() if control.kind == "alone" and _lacks_some(X)]
        what = {"kind": control.kind, "head": control.chosen.kind, "inputs": list(control.parts)}
        what |= {} if control.column is None else {"column": control.column}
        if lacking:
            found[name] = {**what, "not_made": f"some samples have no {lacking[0]}"}
            continue
        say(f"control: {name}")
        of_control = evaluate(control.chosen, given_to(control.chosen.head(), control.parts))
        found[name] = {
            **what,
            **summary([fold.metrics for fold in of_control.folds]),
            "difference": _differences(outcome, of_control, y, groups),
            "drawn": "sample" if groups is None else "group",
            **{f"difference_of_{name}": getattr(outcome.folds[0].split, name) for name in repeats(outcome)},
        }
    return found


def controls_of(chosen: HeadChoice, parts: Mapping[str, Any], seed: int) -> dict[str, Control]:
    """Return the controls of a run by name: each input alone, if there are several; shuffled inputs; random features.

    Parameters
    ----------
    chosen, parts
        The head of the run, and its inputs by name.
    seed
        Seed for shuffling and for random features.
    """
    several = len(parts) > 1
    of_one = chosen.instead(LONE) if chosen.head().least_inputs > 1 else chosen
    out: dict[str, Control] = {}
    if several:
        out = {f"{name} alone": Control("alone", of_one, {name: X}) for name, X in parts.items()}
    first = next(iter(parts)) if several else None
    mixed = {n: X if n == first else shuffled(X, _seed(seed, i)) for i, (n, X) in enumerate(parts.items())}
    out["shuffled pairs" if several else "shuffled"] = Control("shuffled", chosen, mixed)
    noise = {n: noise_like(X, _seed(seed, i)) for i, (n, X) in enumerate(parts.items())}
    out["random features"] = Control("random", chosen, noise)
    return out


def _seed(seed: int, number: int) -> int:
    """Return a separate seed for each input, so that inputs are shuffled or drawn independently."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _lacks_some(X: Any) -> bool:
    return isinstance(X, Ragged) and bool((X.lengths == 0).any())


def _differences(
    outcome: Outcome, control: Outcome, y: NDArray[Any], groups: NDArray[Any] | None
) -> dict[str, dict[str, Any]]:
    """Return the run's difference from a control, by metric, on the folds of the first seed and draw."""
    codes = np.arange(len(y)) if groups is None else np.unique(groups.astype(np.str_), return_inverse=True)[1]
    truth = outcome.truth(y)
    first = outcome.folds[0].split
    models = [
        [
            FoldScores(truth[fold.split.test], fold.scores, codes[fold.split.test], len(fold.split.train))
            for fold in found.folds
            if (fold.split.seed, fold.split.draw) == (first.seed, first.draw)
        ]
        for found in (outcome, control)
    ]
    paired = Paired.of(outcome.task, models)
    every = {metric: paired.difference(metric, 0, 1) for metric in paired.drawn}
    return {
        metric: {**json_safe({"value": d.value, "low": d.low, "high": d.high, "p": d.p}), "test": d.test}
        for metric, d in every.items()
    }


# In words
