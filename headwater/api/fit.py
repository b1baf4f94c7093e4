"""fit-head: from stored features to a run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from headwater.api._inputs import Missing, Wanted, inputs_of, read_inputs, samples_behind, wanted
from headwater.api._leakage import Report, check_leakage
from headwater.api._lines import counted
from headwater.api._prompts import SEES, texts_for
from headwater.api._protocol import Protocol
from headwater.api._report import reported
from headwater.api._samples import full_column, group_column, levels, require_column, with_labels
from headwater.api.run import Run, described, environment, metrics_of, predictions_of, run_folder, write_run
from headwater.errors import InputError
from headwater.evaluate import Outcome, Split, cross_validate, infer_task, joined, make_splits
from headwater.evaluate.aggregate import How, Units, refuse_straddling, units_of
from headwater.evaluate.calibration import Method
from headwater.evaluate.shots import few_shots
from headwater.heads import ClassTexts, Head, make_head
from headwater.store import Data, Store, open_store


def fit_head(
    store: str | Path | Store,
    *,
    features: str | Sequence[str],
    label: str | Sequence[str],
    head: str = "linear",
    params: Mapping[str, Any] | None = None,
    prompts: str | Path | None = None,
    groups: str | None = None,
    folds: int | None = None,
    split: str | None = None,
    holdout: float | None = None,
    where: str | None = None,
    by: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    inner_folds: int = 4,
    bags: str | None = None,
    missing: Missing = "drop",
    shots: int | None = None,
    draws: int | None = None,
    calibrate: Method | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    conformal: float | None = None,
    conformal_per_class: bool = False,
    per: str | None = None,
    aggregate: How | None = None,
    label_separator: str | None = None,
    allow_leakage: str | None = None,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Fit a head on stored features and evaluate it, parameters being selected inside the training rows of each fold.

    Parameters
    ----------
    store
        A store, or where it is.
    features
        One or more feature sets, ``NAME/MODALITY``; several are put side by side, or fused as the head does it. Heads
        over tokens read tokens, and the pooled feature as one token of ``NAME/MODALITY:pooled``.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task.
    head
        Kind of head.
    params
        Parameters of the head. The head's own grid is searched unless a parameter of it is given here.
    prompts
        A TOML file of what describes each class, for heads that weigh images against texts, such as ``tip-adapter``;
        see `headwater.heads.read_prompts`. Prompts that the store lacks are embedded, and stay there.
    groups
        The column whose values must not be divided between training and test, such as the patient; ``"none"`` to
        say that rows are independent.
    folds, split, holdout
        How to split, one of them: that many folds; by a column; or one share of the rows. Five folds by default.
    where
        A boolean SQL expression over the manifest's columns: only these samples are used.
    by
        A column: results are also given for each of its values.
    seed
        Of the splits, of draws, and of a head that draws itself.
    seeds
        How often all of it is repeated, with seeds from `seed` on. The head is that of the first.
    inner_folds
        Folds of the training rows in which parameters are selected.
    bags
        For multiple-instance learning: the column whose values make one bag of the samples that share them, such as the
        slide. A row is then a bag, and each bag has one label.
    missing
        ``"drop"`` leaves out samples that lack one of the features; ``"keep"`` keeps them, for heads over the tokens of
        several inputs.
    shots
        Train on that many rows of each class alone, drawn from the training rows of each fold, from as many groups as
        there are. The head that is saved is fitted on one such draw of all rows.
    draws
        How often to draw them.
    calibrate
        Calibrate scores by ``"temperature"`` or ``"isotonic"``, fitted to out-of-fold scores of the training rows.
    sensitivity, specificity
        One of them: report what a threshold gives that was chosen to reach it on out-of-fold scores of the training
        rows. The positive class is the one that sorts last.
    conformal
        Make prediction sets that miss the true class at most in this share of the samples, such as 0.1.
    conformal_per_class
        Whether that is to hold for each class by itself.
    per, aggregate
        A column of what samples belong to, such as the exam, and how their scores make one of it: ``"mean"`` (the
        default), ``"max"`` or ``"noisy-or"``. Everything is reported at that level too.
    label_separator
        Splits the label column's text into several labels, such as ``";"``.
    allow_leakage
        Why it is no matter that the same images, near duplicates of them, or samples of one group are on both sides of
        a split, which is refused otherwise. Kept in ``metrics.json``.
    out
        The run directory to write; none is written when left out.
    progress
        Called with a line about each step.

    Returns
    -------
    Run

    Raises
    ------
    InputError, SplitError, HeadError, StoreError
        Each with one line that says what, where and what to do.
    """
    say = progress or (lambda line: None)
    target = run_folder(out)
    given = dict(params or {})
    model = _head(head, given)
    protocol = Protocol(
        groups=groups,
        folds=folds,
        split=split,
        holdout=holdout,
        by=by,
        seed=seed,
        seeds=seeds,
        inner_folds=inner_folds,
        shots=shots,
        draws=draws,
        calibrate=calibrate,
        sensitivity=sensitivity,
        specificity=specificity,
        conformal=conformal,
        conformal_per_class=conformal_per_class,
        per=per,
        aggregate=aggregate,
    )
    protocol.refuse()
    _refuse_same_repeats(protocol, head, model, given)
    opened = store if isinstance(store, Store) else open_store(store)
    names = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    labels = [label] if isinstance(label, str) else list(dict.fromkeys(label))
    for column in labels:
        require_column(opened, column, "--label")
    protocol = replace(protocol, groups=group_column(opened, groups, bags))
    for option, name in {**protocol.columns, **({} if bags is None else {"--bags": bags})}.items():
        require_column(opened, name, option)
    what = wanted(opened, names, head, model, missing=missing, bags=bags)
    read = read_inputs(opened, what, where, used=[*labels, *protocol.columns.values()])
    data, found = with_labels(read, labels, label_separator)
    y = found.y
    protocol.refuse_for(infer_task(y))
    say(f"{counted(len(y), 'sample' if bags is None else 'bag')} with {' and '.join(names)}")
    texts, described_as = texts_for(opened, what.names, head, model, prompts, y, say)
    rows = _Columns.read(data, protocol)
    splits = _splits(y, rows, protocol)
    leakage = _checked_leakage(opened, what, where, data, splits, rows.groups, protocol.groups, allow_leakage, say)
    outcome = _cross_validated(head, given | texts, inputs_of(model, data), y, splits, rows.groups, protocol, say)
    report = reported(outcome, y, protocol, levels=rows.levels, units=rows.units)
    classes = outcome.classes.tolist() if found.names is None else found.names
    config = {
        "command": "fit-head",
        "store": str(opened.path.resolve()),
        "features": described(opened, what.names),
        "label": labels,
        "label_separator": label_separator,
        "classes": classes,
        "head": head,
        "params": given,
        "where": where,
        "tokens": sorted(what.tokens),
        "bags": bags,
        "missing": missing,
        "allow_leakage": allow_leakage,
        **described_as,
        **protocol.to_dict(),
        "environment": environment(),
    }
    levels_by = None if by is None or rows.levels is None else (by, rows.levels)
    metrics = metrics_of(report.outcome, data, y, classes=classes, params=given, by=levels_by) | report.metrics
    metrics["leakage"] = leakage
    if model.transductive:
        metrics["transduction"] = {"sees": SEES}
    words = [str(c) for c in classes]
    predictions = predictions_of(data.ids, y, report.outcome, words, rows.groups, report.sets)
    decision = {"classes": classes, **report.decision} if report.decision else {}
    return write_run(target, Run(target, config, metrics, predictions, outcome.head, decision), head)


@dataclass(frozen=True, eq=False)
class _Columns:
    """What the protocol's columns hold for each sample."""

    groups: NDArray[Any] | None
    split: NDArray[Any] | None
    levels: NDArray[Any] | None
    units: Units | None

    @classmethod
    def read(cls, data: Data, protocol: Protocol) -> _Columns:
        groups, split, by, per = protocol.groups, protocol.split, protocol.by, protocol.per
        return cls(
            groups=None if groups is None else full_column(data, groups, "--groups"),
            split=None if split is None else full_column(data, split, "--split"),
            levels=None if by is None else levels(data, by),
            units=None if per is None else units_of(full_column(data, per, "--per"), per),
        )


def _checked_leakage(
    store: Store,
    what: Wanted,
    where: str | None,
    data: Data,
    splits: Sequence[Sequence[Split]],
    groups: NDArray[Any] | None,
    group_column: str | None,
    allowed: str | None,
    say: Callable[[str], None],
) -> Report:
    """Look for leaks in the splits of every seed, sample by sample where rows are bags; return what the first has."""
    samples, row = samples_behind(store, what, where, data)
    of_samples = None if groups is None else groups[row]
    found: list[Report] = []
    for of_seed in splits:
        by_sample = [
            replace(
                split,
                train=np.flatnonzero(np.isin(row, split.train)),
                test=np.flatnonzero(np.isin(row, split.test)),
            )
            for split in of_seed
        ]
        quiet = say if not found else lambda line: None
        report = check_leakage(
            samples, by_sample, groups=of_samples, group_column=group_column, allowed=allowed, say=quiet
        )
        found.append(report)
    return found[0]


def _splits(y: NDArray[Any], rows: _Columns, protocol: Protocol) -> list[list[Split]]:
    """Return the splits of each seed."""
    found = [
        make_splits(
            y,
            # A split that is given may divide groups when that is allowed, and is refused or counted later.
            groups=rows.groups if rows.split is None else None,
            n_folds=protocol.n_folds,
            split=rows.split,
            holdout=protocol.holdout,
            seed=seed,
        )
        for seed in protocol.every_seed
    ]
    if rows.units is not None:
        for splits in found:
            refuse_straddling(rows.units, splits)
    return found


def _cross_validated(
    kind: str,
    given: dict[str, Any],
    X: Any,
    y: NDArray[Any],
    splits: Sequence[Sequence[Split]],
    groups: NDArray[Any] | None,
    protocol: Protocol,
    say: Callable[[str], None],
) -> Outcome:
    """Cross-validate with each seed, and return all folds as one outcome."""
    outcomes = []
    for seed, of_seed in zip(protocol.every_seed, splits, strict=True):
        if protocol.seeds > 1:
            say(f"seed {seed}")
        model = _seeded(kind, given, seed)
        final = None
        if protocol.shots is not None:
            everything = Split(len(of_seed), np.arange(len(y)), np.arange(0), seed)
            final = few_shots([everything], y, groups, shots=protocol.shots)[0].train
            of_seed = few_shots(of_seed, y, groups, shots=protocol.shots, n_draws=protocol.n_draws)
        outcome = cross_validate(
            model,
            X,
            y,
            of_seed,
            grid=[p for p in model.default_grid() if not set(p) & set(given)] or [{}],
            groups=groups,
            n_inner_folds=protocol.inner_folds,
            seed=seed,
            final=final,
            out_of_fold=protocol.needs_out_of_fold,
            progress=say,
        )
        outcomes.append(outcome)
    return joined(outcomes)


def _seeded(kind: str, given: dict[str, Any], seed: int) -> Head:
    """Build an unfitted head; one that draws at random draws with the seed, unless it was given its own."""
    model = make_head(kind, given)
    return make_head(kind, {"seed": seed, **given}) if "seed" in model.get_params() else model


def _refuse_same_repeats(protocol: Protocol, kind: str, model: Head, given: Mapping[str, Any]) -> None:
    """Refuse repetitions that would all be the same, or of which the head is to know nothing."""
    if protocol.seeds == 1:
        return
    if "seed" in given:
        raise InputError("--set seed=… goes without --seeds, which give the head theirs.")
    if protocol.split is not None and protocol.shots is None and "seed" not in model.get_params():
        raise InputError(
            f"--seeds {protocol.seeds} with --split {protocol.split}: the split stays and a {kind} head draws nothing, "
            "so that each repetition would be the same. Leave --seeds out."
        )


def _head(kind: str, params: dict[str, Any]) -> Head:
    """Build an unfitted head; refuse a parameter of the wrong type."""
    if kind == "zero-shot":
        raise InputError("--head zero-shot has nothing to fit: run headwater zero-shot.")
    head = make_head(kind, params)
    hints = get_type_hints(type(head).__init__)
    for name, value in params.items():
        if name in hints and not _is_a(value, hints[name]):
            raise InputError(f"--set {name}={value}: {name} must be {_worded(hints[name])}.")
    return head


def _worded(hint: Any) -> str:
    """Say what type is needed, as one writes it in JSON."""
    if get_origin(hint) in (Union, UnionType, Literal):
        parts = get_args(hint)
        return " or ".join(map(_worded if get_origin(hint) is not Literal else str, parts))
    return _WORDS.get(hint, str(hint))


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    type(None): "null",
    ClassTexts: "given by --prompts FILE.toml",
}


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value that was read as JSON is of a type; a whole number is a float too, a truth value is not."""
    if get_origin(hint) in (Union, UnionType):
        return any(_is_a(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return not isinstance(hint, type) or isinstance(value, (int, float) if hint is float else hint)
