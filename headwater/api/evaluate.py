"""evaluate: test a fitted head, unchanged, on another data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import require_names
from headwater._devices import Device, require_device
from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater._words import counted
from headwater.errors import InputError, SplitError, nearest
from headwater.evaluate import Fold, Outcome, Split, Task, score
from headwater.evaluate import bootstrap as draw
from headwater.evaluate.aggregate import Aggregation, UnitScores
from headwater.evaluate.bootstrap import N_DRAWS, require_draws
from headwater.evaluate.class_order import columns_of
from headwater.evaluate.decisions import decisions_of
from headwater.evaluate.estimates import Ends, Resampling, ends_of
from headwater.evaluate.fold_means import json_safe, summary
from headwater.evaluate.intervals import LEVEL, Interval, independent_difference, mean_share_interval
from headwater.evaluate.measured import NEAREST_IS_BEST, WITHOUT_CLASSES, sign_of
from headwater.evaluate.options import Protocol
from headwater.evaluate.paired import Paired
from headwater.evaluate.positive import Positive
from headwater.evaluate.risk_groups import of_outcome
from headwater.evaluate.thresholds import at_threshold
from headwater.experiment.apply import SavedHead, name_of
from headwater.experiment.fit import counts_of, flow_in
from headwater.experiment.leakage import require_reason
from headwater.experiment.prompts import SEES
from headwater.experiment.template_texts import other_template
from headwater.experiment.trained_on import shared_with
from headwater.heads.base import on_device
from headwater.runs.foreign import reads_runs
from headwater.runs.metrics import metrics_of
from headwater.runs.positive import positive_in_run, positive_section
from headwater.runs.predictions import (
    RowColumns,
    at_units,
    codes_of,
    folds_of,
    names_key,
    names_of,
    predictions_of,
    scores_of,
    truth_of,
)
from headwater.runs.run import Run, open_run
from headwater.runs.write import described, environment, run_folder, write_run
from headwater.samples.columns import Columns, keep_samples, require_column
from headwater.samples.groups import group_column
from headwater.samples.inputs import read_inputs, samples_behind
from headwater.samples.label_names import mapping_of, refuse_unknown
from headwater.samples.label_sql import defined_labels
from headwater.samples.labels import Labels, with_labels, with_numbers
from headwater.samples.missing import MissingFound
from headwater.samples.selection import WITHOUT_FIT, Selection
from headwater.samples.survival import with_times
from headwater.store import Data, Store, open_store

# Reports written from templates are identical at different sites. Above this share, the data set is taken as the same.
SAME_TEXTS = 0.5


@reads_runs
def evaluate(
    run: str | Path | Run,
    store: str | Path | Store,
    *,
    label: str | Sequence[str] | None = None,
    time: str | None = None,
    event: str | None = None,
    features: str | Sequence[str] | None = None,
    mapping: Mapping[str, str | None] | str | Path | None = None,
    level: float = LEVEL,
    n_draws: int = N_DRAWS,
    device: Device = "auto",
    allow_leakage: str | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Run:
    """Test a saved head on another data set; nothing is fitted, scaled, selected or calibrated again.

    Parameters
    ----------
    run
        A run of `fit_head` or `zero_shot`, or its path. Its head was fitted on all of its samples.
    store
        The other data set: a store, or its path.
    label
        The column that holds the true class; for several labels as for `fit_head`.
    time, event
        For a survival run: the columns that hold times and events, in place of ``label``.
    features
        The feature sets of the other store, in the run's order, if they have other names. Their specs must be the
        same, field by field.
    mapping
        The run's class for labels of the other data set: ``{"normal": "benign"}``, or a file with such a mapping; see
        ``merge`` of `headwater.Selection`. None or ``""`` leaves out samples with that label (with several labels per
        sample, only that label). Labels that the run merged and that are not named here are merged as in the run.
    level, n_draws
        Confidence level of the intervals, and the number of bootstrap resamples.
    device
        Where the head predicts: ``cpu``, ``cuda``, or ``auto``; see `headwater.heads`.
    allow_leakage
        Reason to accept samples on which the head was fitted (otherwise refused). ``metrics.json`` records it.
    out
        The run directory to write; by default none is written. The head's files are copied.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        ``groups`` (the column to resample for intervals), ``by``, ``per`` and ``aggregate``, ``seed``, ``positive``
        (the run's own by default; a threshold that the run chose is for its positive class), ``where``,
        ``label_separator`` and ``missing_values``; see `headwater.Protocol` and `headwater.Selection`.

    Returns
    -------
    Run
        Its ``metrics["external"]`` holds, for each metric, the value on the run's own data, the value on the other
        data set, and the drop, positive if the latter is worse, each with its interval. If the run kept the heads of
        its folds, ``metrics["external"]["folds"]`` holds the mean and standard deviation over them, each head on all
        samples of the other data set.

    Raises
    ------
    InputError, SpecMismatch, SplitError, HeadError, StoreError
        Each with one line that says what, where and what to do.

    Notes
    -----
    The internal estimate is the run's own: the mean over its folds, each scored by a head fitted without the fold.
    Groups are resampled within each fold of the run and, independently, within the other data set.
    """
    say = progress_to(progress)
    protocol, selection = with_options("evaluate", options, Protocol(), Selection(), only=WITHOUT_FIT)
    named, sql = (None, {}) if label is None else defined_labels(require_names("--label", label))
    require_device(device)  # refuses a GPU that is not there, before anything is read
    fitted = run if isinstance(run, Run) else open_run(run)
    fitted = replace(fitted, head=on_device(fitted.head, device))
    target = _target(out, fitted)
    _refuse(fitted, level, n_draws, protocol.seed)
    labels = _labels(fitted, named, time, event)
    require_reason(allow_leakage)
    means = mapping_of(mapping, "--map")
    opened = (store if isinstance(store, Store) else open_store(store)).defining(sql)
    saved = SavedHead.on(fitted, opened, features)
    task: Task = fitted.metrics["task"]
    protocol = replace(
        protocol,
        task="regression" if task == "regression" else "survival" if task == "survival" else "auto",
        groups=group_column(opened, protocol.groups),
    )
    rows = _read(saved, opened, labels, means, protocol, selection)
    say(f"{counted(len(rows.y), 'sample')} with {' and '.join(saved.names)}; nothing is fitted")
    samples, _ = samples_behind(opened, saved.what, selection.where, rows.data)
    shared = shared_with(fitted, samples, opened, rows.columns.groups, protocol.groups, say)
    _refuse_shared(shared, len(rows.y), fitted, allow_leakage, say)
    outcome, truth, classes, which = _predicted(saved, rows, protocol.positive)
    by = None if protocol.by is None or rows.columns.levels is None else (protocol.by, rows.columns.levels)
    resampling = Resampling.of(len(truth), rows.columns.whole, level)
    metrics = metrics_of(outcome, rows.data, truth, classes=classes, resampling=resampling, by=by)
    words = [str(c) for c in classes]
    several = words if task == "multilabel" else None
    decisions = decisions_of(
        outcome, truth, protocol.without_fit, units=rows.columns.units, names=several, resampling=resampling
    )
    metrics |= decisions.metrics
    if task == "survival" and "risk_groups" in fitted.decision:
        at = np.array(fitted.decision["risk_groups"]["thresholds"], np.float64)
        found = of_outcome(outcome, truth, resampling.groups, [at], level)
        metrics["kaplan_meier"] = {"chosen_on": "out-of-fold risks of the samples that the head was fitted on", **found}
    metrics |= counts_of(truth, classes, rows.columns, protocol, rows.missing, "--map", len(labels), say)
    for line in (others := other_template(fitted.metrics, opened)):
        say(f"warning: {line}")
    metrics["warnings"] += others
    metrics |= positive_section(which)
    flow = replace(selection, bags=fitted.config.get("bags"))
    metrics["flow"] = flow_in(opened, rows.data, flow, protocol.groups or protocol.per)
    draws = draw.Draws(level, n_draws, protocol.seed)
    group = rows.columns.whole
    metrics["external"] = {
        "run": name_of(fitted),
        "level": level,
        "n_draws": n_draws,
        "drawn": {
            "internal": "group" if "group" in fitted.predictions.columns else "sample",
            "external": "sample" if group is None else "group",
        },
        **_external(fitted, outcome, truth, group, names_of(metrics), draws),
        "shared": shared,
        "allowed": allow_leakage,
    }
    if decisions.per is not None and "unit" in fitted.predictions.columns:
        metrics["external"]["per"] = _external_units(fitted, decisions.per, group, names_of(metrics), draws)
    if fitted.fold_heads:
        metrics["external"]["folds"] = _of_fold_heads(saved, rows, which)
    _use_intervals(metrics, metrics["external"])
    if fitted.head.transductive:
        metrics["transduction"] = {"sees": SEES}
    config = {
        "command": "evaluate",
        "run": name_of(fitted),
        "store": opened.full_location,
        "features": described(opened, saved.names),
        "label": list(labels),
        **({"label_sql": sql} if sql else {}),
        "map": means,
        names_key(task): classes,
        "head": fitted.config["head"],
        **{name: value for name, value in {**selection.to_dict(), **protocol.to_dict()}.items() if name in WITHOUT_FIT},
        "level": level,
        "n_draws": n_draws,
        "device": device,
        "allow_leakage": allow_leakage,
        "environment": environment(),
    }
    predictions = predictions_of(
        rows.data.ids, truth, outcome, words, RowColumns(group, rows.columns.levels, per=decisions.per)
    )
    made = Run(target, config, metrics, predictions, fitted.head, fitted.decision)
    return write_run(target, made, fitted.config["head"], head_of=fitted.path)


def _refuse(run: Run, level: float, n_draws: int, seed: int) -> None:
    """Refuse a run that is itself an evaluation, and invalid numbers."""
    if run.config["command"] == "evaluate":
        raise InputError(
            f"{name_of(run)} is itself an evaluation. Pass the run that it evaluates: {run.config['run']}."
        )
    require_draws(n_draws)
    if not 0 < level < 1:
        raise InputError(f"--level must be between 0 and 1, such as 0.95, but is {level}.")
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")


# Input


def _labels(run: Run, label: tuple[str, ...] | None, time: str | None, event: str | None) -> tuple[str, ...]:
    """Return the columns that hold the truth; refuse those of another task."""
    if run.metrics["task"] != "survival":
        for option, given in (("--time", time), ("--event", event)):
            if given is not None:
                raise InputError(f"{option} is for survival runs, but {name_of(run)} is a {run.metrics['task']} run.")
        if label is None:
            raise InputError("--label COL, the column that holds the true label, is missing.")
        return label
    if label is not None:
        raise InputError(f"--label: {name_of(run)} is a survival run. Pass --time COL and --event COL.")
    if time is None or event is None:
        missing = "--time COL" if time is None else "--event COL"
        raise InputError(f"{name_of(run)} is a survival run: pass --time COL and --event COL; {missing} is missing.")
    return time, event


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of the other data set: samples, labels in the run's order, columns, missing values."""

    data: Data
    y: NDArray[Any]
    columns: Columns
    missing: MissingFound


def _read(
    saved: SavedHead,
    store: Store,
    labels: Sequence[str],
    means: dict[str, str | None],
    protocol: Protocol,
    selection: Selection,
) -> _Rows:
    """Read features and labels in the form the run's head takes."""
    run, what = saved.run, saved.what
    of_run = (("--bags of the run", what.bags), ("--views of the run", what.views))
    asked = [
        *(zip(("--time", "--event"), labels, strict=True) if protocol.survival else (("--label", c) for c in labels)),
        ("--groups", protocol.groups),
        ("--by", protocol.by),
        ("--per", protocol.per),
        *of_run,
    ]
    for option, name in asked:
        if name is not None:
            require_column(store, name, option)
    rule = selection.rule(labels, protocol, store.roles.id)
    missing = rule.found(store.select(selection.where))
    used = [*labels, *(name for name in (protocol.groups, protocol.by, protocol.per) if name is not None)]
    read = read_inputs(store, what, selection.where, used, rule)
    task, separator = run.metrics["task"], selection.label_separator
    classes = run.metrics[names_key(task)]
    y: NDArray[Any]
    if task == "regression":
        data, y = _measured(read, labels, classes, separator, means)
    elif task == "survival":
        _refuse_of_classes(separator, means, "risks")
        data, of_times = with_times(read, labels, no_event=True)
        y = of_times.y
    else:
        data, found = with_labels(read, labels, separator, constant=True)
        data, y = _mapped(data, found, classes, task, means, run.config.get("merge") or {})
    return _Rows(data, y, Columns.read(data, protocol, missing), missing)


def _predicted(
    saved: SavedHead, rows: _Rows, positive: str | None, *, head: Any = None, calibrated: bool = True
) -> tuple[Outcome, NDArray[Any], list[Any], Positive | None]:
    """Return scores of the rows, their labels, and the run's classes; a positive class comes last.

    The scores are those of the saved head, or of another ``head`` of the run.
    """
    run, task, classes = saved.run, saved.task, saved.classes
    scores = saved.scores(rows.data, head, calibrated=calibrated)
    head = run.head if head is None else head
    which = _positive(run, positive)
    y = rows.y
    if which is not None and which.name != classes[-1]:
        classes, y, scores = classes[::-1], 1 - y, scores[:, ::-1]
    of_columns = task in ("multilabel", *WITHOUT_CLASSES)
    known = np.arange(len(classes)) if of_columns else np.asarray(head.classes_)[columns_of(head, classes)]
    truth = y if of_columns else known[y]
    fold = Fold(Split(0, np.arange(0), np.arange(len(y))), {}, scores, score(task, truth, scores, classes=known))
    selection = {"by": None, "rows": None, "note": "nothing was fitted: every sample is a test sample"}
    return Outcome(task, known, [fold], head, {}, selection), truth, classes, which


def _target(out: str | Path | None, run: Run) -> Path | None:
    target = run_folder(out)
    if target is not None and run.path is not None and target.resolve() == run.path.resolve():
        raise InputError(f"--out {out} is the run that is evaluated, which must stay as it is. Give another path.")
    return target


def _positive(run: Run, asked: str | None) -> Positive | None:
    """Return the positive class: the run's, or the one asked for; refuse another one if the run has a threshold."""
    own, which = positive_in_run(run.metrics), positive_in_run(run.metrics, asked)
    if own is not None and which is not None and which.name != own.name and "threshold" in run.decision:
        raise InputError(
            f"--positive {which.name}: the run's threshold is for {own.name} and does not apply to {which.name}. Leave "
            f"--positive out, or fit the head again with --positive {which.name}."
        )
    return which


def _mapped(
    data: Data,
    found: Labels,
    classes: Sequence[Any],
    task: Task,
    mapping: dict[str, str | None],
    merge: Mapping[str, str | None],
) -> tuple[Data, NDArray[np.int64]]:
    """Return the kept samples, and class numbers ``(n,)`` or 0/1 ``(n, n_labels)`` in the run's order.

    ``merge`` holds the labels that the run itself merged or left out.
    """
    if (found.names is not None) != (task == "multilabel"):
        several, one = ("several labels", "one label")
        had, has = (several, one) if task == "multilabel" else (one, several)
        raise InputError(f"the run has {had} per sample, but --label gives {has}: pass --label as for the run.")
    words = [str(c) for c in classes]
    there = found.names if found.names is not None else sorted({str(v) for v in found.y.tolist()})
    refuse_unknown(mapping, there, "--map")
    for name, target in mapping.items():
        if target and target not in words:
            raise InputError(
                f"--map {name}={target}: the run has no class {target!r}.{nearest(target, words)} It has: "
                f"{', '.join(words)}."
            )
    as_in_run = {name: merge[name] for name in there if name in merge and name not in words and name not in mapping}
    mapping = {**as_in_run, **mapping}
    number = {name: words.index(str(mapping.get(name, name))) for name in there if mapping.get(name, name) in words}
    dropped = {name for name in mapping if not mapping[name]}
    unknown = [name for name in there if name not in number and name not in dropped]
    if unknown:
        raise InputError(
            f"label {unknown[0]!r} is not one of the run's classes ({', '.join(words)}): pass --map "
            f"'{unknown[0]}=CLASS', or --map '{unknown[0]}=' to leave it out."
        )
    if found.names is not None:
        return data, _several(found, number, words)
    values = np.array([number.get(str(v), -1) for v in found.y.tolist()])
    keep = values >= 0
    if not keep.any():
        raise InputError("--map and the run's --merge leave out all samples: none is left to test.")
    how = "left out by the run's --merge" if as_in_run else "left out by --map"
    return (data, values) if keep.all() else (keep_samples(data, keep, how), values[keep])


def _measured(
    read: Data,
    labels: Sequence[str],
    outputs: Sequence[str],
    separator: str | None,
    mapping: Mapping[str, str | None] | None,
) -> tuple[Data, NDArray[np.float64]]:
    """Return the samples that have numbers, and the numbers, of shape ``(n, n_outputs)``."""
    _refuse_of_classes(separator, mapping, "numbers")
    if len(labels) != len(outputs):
        raise InputError(
            f"the run predicts {', '.join(outputs)}, but --label names {counted(len(labels), 'column')}: pass one "
            "--label for each, in that order."
        )
    data, found = with_numbers(read, labels, constant=True)
    return data, found.y.reshape(len(found.y), -1)


def _refuse_of_classes(separator: str | None, mapping: Mapping[str, str | None] | None, what: str) -> None:
    for option, given in (("--map", mapping), ("--label-separator", separator)):
        if given:
            raise InputError(f"{option} is for classes, but the run predicts {what}: leave it out.")


def _several(found: Labels, number: Mapping[str, int], words: Sequence[str]) -> NDArray[np.int64]:
    """Return 0/1 in the order of the run's labels; labels that do not occur here are 0."""
    y = np.zeros((len(found.y), len(words)), np.int64)
    for column, name in enumerate(found.names or ()):
        if name in number:
            y[:, number[name]] |= found.y[:, column].astype(np.int64)
    return y


def _refuse_shared(shared: Mapping[str, int] | None, n: int, run: Run, allowed: str | None, say: Progress) -> None:
    """Refuse samples that the head was fitted on; if only texts are shared, refuse only if most of them are."""
    there = {kind: count for kind, count in (shared or {}).items() if count}
    if not there:
        return
    of = {"image": "samples whose image the head was fitted on", "text": "samples whose text the head was fitted on"}
    of["groups"] = f"{run.config.get('groups')} values that the head was fitted on"
    words = " and ".join(f"{count:,} {of[kind]}" for kind, count in there.items())
    texts_only = set(there) == {"text"}
    if allowed is None and not (texts_only and there["text"] <= SAME_TEXTS * n):
        raise SplitError(
            f"this is not an external data set for the head: among {counted(n, 'sample')} there are {words}. Leave "
            "them out with --where, or pass --allow-leakage REASON."
        )
    say(f"{'' if allowed is None else f'allowed ({allowed}): '}{words}, of {counted(n, 'sample')}")


# Output


def _external(
    run: Run,
    outcome: Outcome,
    truth: NDArray[Any],
    group: NDArray[Any] | None,
    classes: Sequence[str],
    draws: draw.Draws,
) -> dict[str, Any]:
    """Return each metric, internal and external, with its drop, and the results at the run's threshold."""
    task, scores = outcome.task, outcome.folds[0].scores
    inside = _within(run, task, classes, draws.n_draws, draws.seed)
    codes = np.arange(len(truth)) if group is None else codes_of(pl.Series(group))
    y = outcome.truth(truth)
    outside = Paired.of(task, [[draw.FoldScores(y, scores, codes)]], n_draws=draws.n_draws, seed=draws.seed + 1)
    found: dict[str, Any] = {"metrics": {name: _beside(name, inside, outside, draws.level) for name in outside.drawn}}
    if "threshold" in run.decision:
        chosen = run.decision["threshold"]
        at = float(chosen["threshold"])
        given = at_threshold(y == 1, scores[:, 1], at)
        intervals = _of_threshold(y == 1, scores[:, 1] >= at, codes, draws.level)
        found["threshold"] = {**chosen, **json_safe(given), "intervals": intervals}
    return found


def _use_intervals(metrics: dict[str, Any], external: Mapping[str, Any]) -> None:
    """Give each metric the interval that stands beside its drop, so that one number has one interval."""
    for section, found in ((metrics, external), (metrics.get("per"), external.get("per"))):
        if section is not None and found is not None:
            for name, of_metric in found["metrics"].items():
                low, high = of_metric["external"]["low"], of_metric["external"]["high"]
                section["intervals"][name] = None if low is None or high is None else [low, high]


def _external_units(
    run: Run, per: UnitScores, group: NDArray[Any] | None, classes: Sequence[str], draws: draw.Draws
) -> dict[str, Any]:
    """Return each metric at the level of units, internal and external, with its drop."""
    how: Aggregation = run.config.get("aggregate") or "mean"
    inside = replace(run, predictions=at_units(run.predictions, run.metrics, "unit", run.config["per"], how))
    of_unit = None if group is None else group[np.unique(per.units.codes, return_index=True)[1]]
    found = _external(replace(inside, decision={}), per.outcome, per.labels, of_unit, classes, draws)
    return {"column": per.units.column, "of_run": run.config["per"], **found}


def _of_fold_heads(saved: SavedHead, rows: _Rows, positive: Positive | None) -> dict[str, Any]:
    """Return the metrics of the head of each fold on all samples, uncalibrated, with mean and standard deviation."""
    asked = None if positive is None else str(positive.name)
    found = []
    for head in saved.run.fold_heads:
        outcome, *_ = _predicted(saved, rows, asked, head=head, calibrated=False)
        found.append(outcome.folds[0].metrics)
    return {"each": [json_safe(metrics) for metrics in found], **summary(found)}


def _within(run: Run, task: Task, classes: Sequence[str], n_draws: int, seed: int) -> Paired:
    """Return a run's own predictions, scored fold by fold."""
    table = run.predictions
    truth, scores = truth_of(table, classes, task), scores_of(table, classes, task)
    groups = codes_of(table["group" if "group" in table.columns else "id"])
    folds = [draw.FoldScores(truth[rows], scores[rows], groups[rows]) for rows in folds_of(table)]
    once = not table["id"].is_duplicated().any()  # with several seeds or draws, folds share samples
    return Paired.of(task, [folds], n_draws=n_draws, seed=seed, same_folds=once)


def _of_threshold(
    positive: NDArray[np.bool_], called: NDArray[np.bool_], groups: NDArray[np.int64], level: float
) -> dict[str, Ends]:
    """Return the intervals of sensitivity and specificity at the run's threshold."""
    rows = [np.arange(len(positive))]
    shares = {"sensitivity": (called, positive), "specificity": (~called, ~positive)}
    return {name: ends_of(mean_share_interval(*share, groups, rows, level)) for name, share in shares.items()}


def _beside(metric: str, internal: Paired, external: Paired, level: float) -> dict[str, dict[str, float | None]]:
    """Return a metric, internal and external, and its drop, each with its interval; a drop above 0 is worse."""
    sign = sign_of(metric)
    inside, outside = internal.drawn[metric][0], external.drawn[metric][0]
    of_inside, of_outside = (one.interval(metric, 0, level) for one in (internal, external))
    if metric in external.evidence[0]:
        drop = independent_difference(float(inside[0]), of_inside, float(outside[0]), of_outside)
    else:
        drop = Interval(*draw.interval((inside - outside)[1:], level))
    drop = drop if sign > 0 else Interval(-drop.high, -drop.low)
    values = {"internal": inside[0], "external": outside[0], "drop": sign * (inside[0] - outside[0])}
    if metric in NEAREST_IS_BEST:  # a drop is a larger distance from the best value
        farther = np.abs(outside - NEAREST_IS_BEST[metric]) - np.abs(inside - NEAREST_IS_BEST[metric])
        values["drop"], drop = farther[0], Interval(*draw.interval(farther[1:], level))
    intervals = {"internal": of_inside, "external": of_outside, "drop": drop}
    return {part: json_safe({"value": values[part], **intervals[part]._asdict()}) for part in values}
