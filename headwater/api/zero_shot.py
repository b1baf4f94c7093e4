"""zero-shot: score images by their similarity to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import refuse_idle, require_names
from headwater._devices import require_device
from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater._words import counted
from headwater.errors import InputError
from headwater.evaluate import Fold, Outcome, Split, score
from headwater.evaluate.bootstrap import N_DRAWS, require_draws
from headwater.evaluate.class_order import in_order_of
from headwater.evaluate.decisions import decisions_of
from headwater.evaluate.estimates import Resampling
from headwater.evaluate.fold_means import json_safe
from headwater.evaluate.metrics import Task
from headwater.evaluate.options import Protocol
from headwater.evaluate.positive import Positive, negative_first
from headwater.experiment.ablation import ablate as ablated
from headwater.experiment.ablation import require_metric
from headwater.experiment.fit import counts_of, flow_in
from headwater.experiment.prompts import SEES, ClassPrompts, describe, dual
from headwater.heads import TransductiveZeroShot, ZeroShot
from headwater.runs.metrics import metrics_of
from headwater.runs.positive import positive_section
from headwater.runs.predictions import RowColumns, codes_of, predictions_of
from headwater.runs.run import Run
from headwater.runs.write import described, environment, run_folder, write_run
from headwater.samples.columns import Columns, require_column
from headwater.samples.groups import group_column
from headwater.samples.label_names import merged_by, naming_others, with_merge
from headwater.samples.label_sql import defined_labels
from headwater.samples.labels import Labels, with_labels
from headwater.samples.selection import WITHOUT_FIT, Selection
from headwater.store import Store, open_store

USED = (*WITHOUT_FIT, "merge")
"""Options of `headwater.Protocol` and `headwater.Selection` that it uses."""


def zero_shot(
    store: str | Path | Store,
    *,
    features: str,
    prompts: str | Path,
    label: str | Sequence[str],
    transductive: bool = False,
    ablate: bool = False,
    metric: str | None = None,
    n_draws: int = N_DRAWS,
    weights: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Run:
    """Score images by their similarity to each class's prompts, in the stored features of a dual encoder.

    Prompts that ``NAME/text`` already holds are not embedded again; the others are embedded and stored there.

    Parameters
    ----------
    store
        A store, or its path.
    features
        The encoder's name in the store: ``NAME`` of ``NAME/image`` and ``NAME/text``.
    prompts
        A TOML file; see `headwater.heads.read_prompts`.
    label
        The column that holds the true class; several columns of 0 and 1, or one column of lists, for several labels per
        sample. Scores of labels are a softmax over all labels, as for classes: they rank labels, but a threshold of 0.5
        has no meaning.
    transductive
        Classify all test samples together (`headwater.heads.TransductiveZeroShot`): their features are used, their
        labels are not.
    ablate
        Compare each template alone, and each descriptor of a class alone and left out, with all prompts.
    metric, n_draws
        With ``ablate``: metric to sort these by, and number of bootstrap resamples.
    weights, device, trust_remote_code
        For loading the encoder, if prompts must be embedded.
    out
        The run directory to write; by default none is written.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        ``groups`` (the column to resample for intervals, such as the patient; ``"none"`` for samples), ``by``,
        ``seed`` (of the resamples, with ``ablate``), ``positive``, ``where``, ``label_separator``, ``merge`` and
        ``missing_values``; see `headwater.Protocol` and `headwater.Selection`.

    Returns
    -------
    Run
        ``metrics["ablation"]`` holds the effect of each wording, ``metrics["transduction"]`` the effect of classifying
        samples together.

    Raises
    ------
    InputError, HeadError, StoreError, EncoderError
        Each with one line that says what, where and what to do.
    """
    say = progress_to(progress)
    target = run_folder(out)
    protocol, selection = with_options("zero_shot", options, Protocol(), Selection(), only=USED)
    labels, sql = defined_labels(require_names("--label", label))
    require_device(device)  # refuses a GPU that is not there, before anything is read
    _refuse(transductive, ablate, metric, n_draws, protocol.seed)
    opened = (store if isinstance(store, Store) else open_store(store)).defining(sql)
    image, text = dual(features)
    column = group_column(opened, protocol.groups) if ablate else None if protocol.groups == "none" else protocol.groups
    protocol = replace(protocol, groups=column)
    for option, name in [
        *(("--label", name) for name in labels),
        ("--by", protocol.by),
        ("--per", protocol.per),
        ("--groups", column),
    ]:
        if name is not None:
            require_column(opened, name, option)
    rule = selection.rule(labels, protocol, opened.roles.id)
    missing = rule.found(opened.select(selection.where))
    read = rule.applied(opened.read(image, where=selection.where))
    data, found = with_labels(read, labels, selection.label_separator)
    selection = naming_others(with_merge(selection), labels, opened.samples, rule)
    data, found = merged_by(selection, data, found, labels, opened.samples, rule)
    say(f"{counted(len(found.y), 'sample')} with {image}")
    named = found.names if found.names is not None else found.y.astype(str).tolist()
    known = describe(opened, image, prompts, named, weights=weights, device=device, trust_remote_code=trust_remote_code)
    task, classes, which = _classes(found, known, protocol, transductive=transductive)
    require_metric(task, metric)
    y = _truth(found, classes)
    rows = Columns.read(data, protocol, missing)
    say(f"{counted(len(set(known.prompts.texts)), 'prompt')} of {len(classes)} classes")
    head: Any = ZeroShot(known.texts.features, list(known.texts.classes), known.texts.logit_scale)
    scores = in_order_of(head, classes, head.predict_proba(data.X))
    more: dict[str, Any] = {}
    note = "nothing was fitted: every sample is a test sample"
    if transductive:
        head, scores, more["transduction"] = _transduced(TransductiveZeroShot(known.texts), data.X, y, scores, classes)
        note = "no labels were used; the features of all test samples were used together"
    if ablate:
        codes = None if rows.groups is None else codes_of(pl.Series(rows.groups))
        more["ablation"] = ablated(
            known, data.X, y, task, classes, groups=codes, metric=metric, n_draws=n_draws, seed=protocol.seed, say=say
        )
    if task == "multilabel":
        more["scores"] = "softmax over labels: they rank labels, but a threshold of 0.5 has no meaning"
    outcome = _outcome(task, classes, y, scores, head, note)
    kind = "zero-shot-transductive" if transductive else "zero-shot"
    config = {
        "command": "zero-shot",
        "store": opened.full_location,
        "features": described(opened, [image, text]),
        "label": list(labels),
        **({"label_sql": sql} if sql else {}),
        "classes": classes,
        "head": kind,
        "prompts": known.to_dict(),
        "logit_scale": known.logit_scale,
        **{name: value for name, value in {**selection.to_dict(), **protocol.to_dict()}.items() if name in USED},
        "transductive": transductive,
        "ablate": ablate,
        "environment": environment(),
    }
    of_levels = None if protocol.by is None or rows.levels is None else (protocol.by, rows.levels)
    resampling = Resampling.of(len(y), rows.whole)
    metrics = metrics_of(outcome, data, y, classes=classes, resampling=resampling, by=of_levels)
    several = classes if task == "multilabel" else None
    decisions = decisions_of(outcome, y, protocol.without_fit, units=rows.units, names=several, resampling=resampling)
    metrics |= decisions.metrics | more | positive_section(which)
    metrics |= counts_of(y, classes, rows, protocol, missing, "--merge", len(labels), say)
    metrics["flow"] = flow_in(opened, data, selection, protocol.groups or protocol.per)
    predictions = predictions_of(data.ids, y, outcome, classes, RowColumns(rows.whole, rows.levels, per=decisions.per))
    return write_run(target, Run(target, config, metrics, predictions, head), kind)


def _classes(
    found: Labels, known: ClassPrompts, protocol: Protocol, *, transductive: bool
) -> tuple[Task, list[str], Positive | None]:
    """Return the task, the classes with a positive one last, and the positive class."""
    classes = sorted(known.prompts.classes)
    task: Task = "multilabel" if found.names is not None else "binary" if len(classes) == 2 else "multiclass"
    if task == "multilabel" and transductive:
        raise InputError("--transductive needs one class per sample, but there are several labels.")
    which = protocol.positive_in(task, classes)
    return task, classes if which is None else negative_first(classes, which.name), which


def _outcome(
    task: Task, classes: Sequence[str], y: NDArray[Any], scores: NDArray[np.float64], head: Any, note: str
) -> Outcome:
    """Return the scores of all samples as the outcome of one test set."""
    columns = np.arange(len(classes)) if task == "multilabel" else np.asarray(classes)
    everything = Split(0, np.arange(0), np.arange(len(y)))
    fold = Fold(everything, {}, scores, score(task, y, scores, classes=columns))
    return Outcome(task, columns, [fold], head, {}, {"by": None, "rows": None, "note": note})


def _refuse(transductive: bool, ablate: bool, metric: str | None, n_draws: int, seed: int) -> None:
    """Refuse options that do not go together, and invalid numbers."""
    if transductive and ablate:
        raise InputError("--ablate goes without --transductive: the ablation scores each sample by itself.")
    if not ablate:
        idle = {"--metric": metric is not None, "--draws": n_draws != N_DRAWS, "--seed": seed != 0}
        refuse_idle(idle, "goes with --ablate, which compares the wordings.")
    require_draws(n_draws)
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")


def _truth(found: Labels, classes: Sequence[str]) -> NDArray[Any]:
    """Return classes as strings; or 0/1 by class, with 0 for a label that no sample has."""
    if found.names is None:
        return found.y.astype(str)
    y = np.zeros((len(found.y), len(classes)), np.int64)
    y[:, [classes.index(name) for name in found.names]] = found.y
    return y


def _transduced(
    head: TransductiveZeroShot, X: Any, y: NDArray[Any], before: NDArray[np.float64], classes: Sequence[str]
) -> tuple[TransductiveZeroShot, NDArray[np.float64], dict[str, Any]]:
    """Return the head, the scores of samples classified together, and the change from one by one."""
    found = head.transduce(X)
    scores = in_order_of(head, classes, found.probabilities)
    changed = float(np.mean(scores.argmax(1) != before.argmax(1)))
    section = {
        "sees": SEES,
        "changed": changed,
        "zero_shot": json_safe(score("binary" if len(classes) == 2 else "multiclass", y, before, classes=classes)),
        "rounds": (len(found.objective) - 1) // 2,
        "converged": found.converged,
        "objective": {"start": found.objective[0], "end": found.objective[-1]},
        "settings": {name: value for name, value in head.get_params().items() if name != "texts"},
    }
    return head, scores, section
