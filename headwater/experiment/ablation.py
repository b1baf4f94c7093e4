"""Effect of each prompt wording: prompts alone, left out, and combined in other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError, nearest
from headwater.evaluate import Task, score
from headwater.evaluate import bootstrap as draw
from headwater.evaluate._labels import codes_in
from headwater.evaluate.fold_means import json_safe
from headwater.evaluate.intervals import LEVEL
from headwater.evaluate.measured import METRICS, sign_of
from headwater.evaluate.statistics import holm
from headwater.experiment.prompts import ClassPrompts
from headwater.heads import ZeroShot, mean_prompt

Floats = NDArray[np.float64]
WARNING = (
    "choosing the best wording here is selection on the test labels, so its result is optimistic. Choose on other "
    "samples. The p values after Holm correct for the number of wordings, but not for the choice."
)
SHOWN = {"binary": ("auc", "accuracy"), "multiclass": ("auc", "accuracy"), "multilabel": ("auc_micro",)}


@dataclass(frozen=True, eq=False)
class Wording:
    """A subset or combination of the prompts, and its scores.

    Attributes
    ----------
    kind
        ``ensemble``, ``probabilities``, ``template``, ``only`` or ``without``.
    template, label, descriptor
        The part used alone or left out; None for the others.
    scores
        Float64, of shape ``(n_samples, n_classes)``, columns by sorted class.
    """

    kind: str
    scores: Floats
    template: str | None = None
    label: str | None = None
    descriptor: str | None = None

    @property
    def name(self) -> str:
        """The printed name."""
        return {
            "ensemble": "all prompts, mean vector",
            "probabilities": "all prompts, mean probability",
            "template": f"template {self.template!r} alone",
            "only": f"{self.label}: {self.descriptor!r} alone",
            "without": f"{self.label}: without {self.descriptor!r}",
        }[self.kind]


def wordings(found: ClassPrompts, X: Any) -> Iterator[Wording]:
    """Yield the ensemble, then every other wording.

    Prompts are averaged as vectors, except for ``probabilities``: there the softmax is over single prompts, and a class
    gets the mean probability of its own prompts, normalised to sum to 1 over the classes.
    """
    prompts, scale = found.prompts, found.logit_scale
    labels, templates = list(prompts.classes), prompts.templates
    whole: dict[str, NDArray[np.float64]] = {
        c: found.vectors[c].reshape(len(templates), len(prompts.classes[c]), -1) for c in labels
    }  # each of shape (n_templates, n_descriptors, d)

    def scores(changed: Mapping[str, NDArray[np.float64]]) -> Floats:
        means = [mean_prompt(changed.get(c, whole[c]).reshape(-1, whole[c].shape[-1])) for c in labels]
        return ZeroShot(np.stack(means), labels, scale).predict_proba(X)

    yield Wording("ensemble", scores({}))
    if any(part.shape[:2] != (1, 1) for part in whole.values()):
        yield Wording("probabilities", _mixture(found, X))
    if len(templates) > 1:
        for t, template in enumerate(templates):
            yield Wording("template", scores({c: whole[c][t] for c in labels}), template)
    for c in labels:
        words = prompts.classes[c]
        if len(words) > 1:
            for w, word in enumerate(words):
                yield Wording("only", scores({c: whole[c][:, w]}), None, c, word)
        if len(words) > 2:  # leaving out one of two is the same as the other alone
            for w, word in enumerate(words):
                yield Wording("without", scores({c: np.delete(whole[c], w, axis=1)}), None, c, word)


def _mixture(found: ClassPrompts, X: Any) -> Floats:
    """Return each class's mean prompt probability among all prompts, normalised to sum to 1 over the classes."""
    each = np.concatenate(list(found.vectors.values()))
    names = [f"{i:09d}" for i in range(len(each))]  # sorted as they are
    p = ZeroShot(each, names, found.logit_scale).predict_proba(X)
    ends = np.cumsum([len(part) for part in found.vectors.values()])[:-1]
    means = np.stack([part.mean(1) for part in np.split(p, ends, axis=1)], axis=1)
    means = means[:, np.argsort(list(found.vectors), kind="stable")]
    out: Floats = means / means.sum(1, keepdims=True)
    return out


def require_metric(task: Task, metric: str | None) -> None:
    """Raise `InputError` unless a metric can be resampled for intervals."""
    known = METRICS[task]
    if metric is not None and metric not in known:
        raise InputError(f"--metric {metric!r}.{nearest(metric, known)} For {task} there are: {', '.join(known)}.")


def ablate(
    found: ClassPrompts,
    X: Any,
    y: NDArray[Any],
    task: Task,
    classes: Sequence[str],
    *,
    groups: NDArray[np.int64] | None,
    metric: str | None,
    n_draws: int,
    seed: int,
    level: float = LEVEL,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate every wording, and its difference from all prompts, on the same resamples of samples or groups.

    Parameters
    ----------
    y
        Classes as strings, of shape ``(n,)``, or 0/1 of shape ``(n, n_labels)``, a column for each of `classes`.
    classes
        In the order of the run; the last of two is the positive one.
    groups
        Groups to resample, as integer codes; None to resample samples.
    metric
        Metric to sort by. Default: the AUC (micro, for several labels), or the accuracy if the AUC is undefined.
    """
    order = np.argsort(np.argsort(np.asarray(classes), kind="stable"), kind="stable")  # columns are by sorted class
    truth = y.astype(np.int64) if task == "multilabel" else codes_in(y, np.asarray(classes))
    drawn = np.arange(len(y)) if groups is None else groups
    every: list[dict[str, Any]] = []
    values: list[dict[str, Floats]] = []
    for wording in wordings(found, X):
        scores = wording.scores[:, order]
        every.append(
            {
                "kind": wording.kind,
                "name": wording.name,
                "template": wording.template,
                "class": wording.label,
                "descriptor": wording.descriptor,
                "metrics": json_safe(score(task, y, scores, classes=classes)),
            }
        )
        # the same seed gives every wording the same resamples
        values.append(draw.bootstrap(task, [[draw.FoldScores(truth, scores, drawn)]], n_draws=n_draws, seed=seed))
        if len(values) == 1:
            say(f"evaluating each wording on {n_draws:,} resamples of {'samples' if groups is None else 'groups'}")
    for name in METRICS[task]:
        changes = [v[name][0] - values[0][name][0] for v in values]
        p = [draw.p_of_difference(change[1:]) for change in changes[1:]]
        if np.isnan([change[0] for change in changes]).any() or np.isnan(p).any():
            continue
        for entry, change, raw, adjusted in zip(every[1:], changes[1:], p, holm(p), strict=True):
            low, high = draw.interval(change[1:], level)
            numbers = {"difference": float(change[0]), "low": low, "high": high, "p": raw, "p_holm": float(adjusted)}
            entry.setdefault("differences", {})[name] = numbers
    shown = metric or next((m for m in SHOWN[task] if every[0]["metrics"][m] is not None), "accuracy")
    sign = -sign_of(shown)
    every.sort(key=lambda entry: np.inf if entry["metrics"][shown] is None else sign * entry["metrics"][shown])
    return {
        "metric": shown,
        "level": level,
        "n_draws": n_draws,
        "seed": seed,
        "drawn": "sample" if groups is None else "group",
        "n_comparisons": len(every) - 1,
        "warning": WARNING,
        "wordings": every,
    }
