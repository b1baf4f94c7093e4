"""A fit, from its options to a run: samples, splits, leaks, heads and decisions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater._checks import require_names
from headwater._memory import peak_memory
from headwater._progress import Progress, silent
from headwater._words import counted
from headwater.embed.constant_features import warnings_of_inputs
from headwater.errors import InputError
from headwater.evaluate import Outcome, Repeat, Split, Task, cross_validate_repeats, infer_task, make_splits
from headwater.evaluate.aggregate import refuse_straddling
from headwater.evaluate.class_order import ordered
from headwater.evaluate.decisions import Decisions, decisions_of
from headwater.evaluate.edges import at_edges
from headwater.evaluate.estimates import Resampling
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.evaluate.novelty import Reference, fit_reference
from headwater.evaluate.options import Protocol
from headwater.evaluate.positive import Positive
from headwater.evaluate.shots import few_shots
from headwater.experiment.controls import Control, controls_of, run_controls
from headwater.experiment.head import HeadChoice
from headwater.experiment.leakage import Leakage, check_leakage, require_reason, shared_images
from headwater.experiment.prompts import SEES, texts_for
from headwater.experiment.template_texts import TemplateTexts
from headwater.runs.metrics import kind_of, metrics_of, trials_of
from headwater.runs.positive import positive_section
from headwater.runs.predictions import RowColumns, names_key, predictions_of
from headwater.runs.run import Run
from headwater.runs.write import described, environment, write_run
from headwater.samples.classes import alike_labels, alike_values, class_counts, names_in
from headwater.samples.columns import Columns
from headwater.samples.flow import flow_of
from headwater.samples.grades import grades_of
from headwater.samples.groups import require_columns
from headwater.samples.inputs import Wanted, given_to, instances_of, parts_of, read_inputs, samples_behind, wanted
from headwater.samples.label_names import merged_by, naming_others
from headwater.samples.label_sql import defined_labels
from headwater.samples.labels import with_labels, with_numbers
from headwater.samples.missing import MissingFound
from headwater.samples.selection import Selection
from headwater.samples.stated import READ, texts_that_state
from headwater.samples.survival import with_times
from headwater.samples.vectors import vectors_of
from headwater.samples.views import views_of
from headwater.store import Data, Store

Controls = bool | Literal["ablation"] | None
"""Which controls are made: all or none; ``"ablation"`` for all, and one without each covariate of the texts; None for
inputs alone and shuffled pairs, where texts from a template are fused with other inputs."""


@dataclass(frozen=True)
class FitOptions:
    """Options of one fit; see `headwater.api.fit_head`."""

    features: tuple[str, ...]
    labels: tuple[str, ...]
    head: HeadChoice
    params: Mapping[str, Any]
    protocol: Protocol
    selection: Selection
    controls: Controls = False
    keep_folds: bool = False
    allow_leakage: str | None = None
    prompts: str | Path | None = None

    def refuse(self) -> None:
        """Raise `InputError` for invalid options, before the store is read."""
        self.protocol.refuse()
        require_reason(self.allow_leakage)
        if not isinstance(self.controls, bool | None) and self.controls != "ablation":
            raise InputError(f"controls must be True, False, None or 'ablation', but is {self.controls!r}.")
        for option, given in (("--label-separator", self.selection.label_separator), ("--merge", self.selection.merge)):
            if self.protocol.task in WITHOUT_CLASSES and given:
                what = "numbers" if self.protocol.regression else "risks"
                raise InputError(
                    f"{option} is for classes, but --task {self.protocol.task} predicts {what}: leave it out."
                )
        _refuse_same_repeats(self.protocol, self.head)

    def on(self, store: Store) -> FitPlan:
        """Return the plan for a store; refuse columns and features that the store lacks."""
        selection = self.selection
        labels, sql = (self.labels, {}) if self.protocol.survival else defined_labels(self.labels)
        store = store.defining(sql)
        protocol = require_columns(store, labels, self.protocol, selection)
        what = wanted(
            store,
            self.features,
            self.head.kind,
            self.head.head(),
            missing=selection.missing,
            bags=selection.bags,
            also=selection.samples_with,
            views=selection.views,
        )
        rule = selection.rule(labels, protocol, store.roles.id)
        selection = naming_others(selection, labels, store.samples, rule)  # a run names every label that it merged
        texts = TemplateTexts.behind(store, what.names)
        if texts is not None:
            texts.refuse_label(labels, sql, self.allow_leakage)
        elif self.controls == "ablation":
            raise InputError(
                "--text-ablation needs texts that a template made among --features (headwater text, then embed --text)."
            )
        controls = False if self.controls is None and texts is None else self.controls
        asked = replace(self, labels=labels, protocol=protocol, selection=selection, controls=controls)
        return FitPlan(store, asked, what, texts)


@dataclass(frozen=True)
class FitPlan:
    """A fit whose options have been validated against the store."""

    store: Store
    asked: FitOptions
    what: Wanted
    texts: TemplateTexts | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The configuration for ``config.json``, to which classes and environment are added."""
        asked = self.asked
        return {
            "command": "fit-head",
            "store": self.store.full_location,
            "features": described(self.store, self.what.names),
            "label": list(asked.labels),
            **({"label_sql": dict(self.store.defined)} if self.store.defined else {}),
            "head": asked.head.kind,
            "params": dict(asked.params),
            "trials": asked.head.trials,
            "fine": asked.head.fine,
            "halving": asked.protocol.halving,
            "tokens": sorted(self.what.tokens),
            "device": asked.head.device,
            "controls": asked.controls,
            "keep_folds": asked.keep_folds,
            "allow_leakage": asked.allow_leakage,
            **asked.selection.to_dict(),
            **asked.protocol.to_dict(),
        }

    @property
    def used(self) -> list[str]:
        """The distinct columns that are used."""
        return list(dict.fromkeys([*self.asked.labels, *self.asked.protocol.columns.values()]))

    def task(self) -> Task:
        """Read the labels, and return the task that they make."""
        if self.asked.protocol.survival:
            return "survival"
        if self.asked.protocol.ordinal:
            return "ordinal"
        return "regression" if self.asked.protocol.regression else infer_task(self._rows(silent).y)

    def run(self, target: Path | None, say: Progress, *, inner_always: bool = False, for_new_cases: bool = True) -> Run:
        """Select, fit, report and write.

        Parameters
        ----------
        target
            The run directory to write, or None.
        say
            Called with a line about each step.
        inner_always
            Fit on inner folds even if there is nothing to select, so that heads can be compared by inner loss.
        for_new_cases
            Keep, in a run that is written, the distances that tell how unlike the training data a new case is.
        """
        began = time.monotonic()
        if self.asked.head.ignores_gpu:
            say(f"a {self.asked.head.kind} head is fitted on the CPU")
        rows = self._rows(say)
        splits = splits_of(rows.y, rows.columns, self.asked.protocol)
        leakage = _checked_leakage(self, rows, splits, say)
        rows = self._with_template(rows, say)
        fitted = self._fitted(rows, splits, inner_always, say)
        run = self._reported(target, rows, fitted, leakage, say)
        if for_new_cases and target is not None:
            run = replace(run, reference=self._reference(rows))
        run = replace(run, cost={"seconds": time.monotonic() - began, "peak_memory_bytes": peak_memory()})
        return write_run(target, run, self.asked.head.kind)

    def _with_template(self, rows: LabelledRows, say: Progress) -> LabelledRows:
        """Say what the texts of a template are made from, and warn if their missing values alone predict something."""
        if self.texts is None:
            return rows
        samples, row = samples_behind(self.store, self.what, self.asked.selection.where, rows.data)
        y = rows.y[:, 1] if self.asked.protocol.survival else rows.y
        whole, label = rows.columns.whole, self.asked.labels[-1]
        groups = None if whole is None else whole[row]
        section, warnings = self.texts.section(samples.table, label, y[row], groups, self.asked.protocol.by, say)
        return replace(rows, template=section, warnings=[*rows.warnings, *warnings])

    def _controls(self, chosen: HeadChoice, rows: LabelledRows, say: Progress) -> dict[str, Control]:
        """Return the controls of the run, by name."""
        asked, parts, of = self.asked.controls, parts_of(rows.data), ("alone", "shuffled")
        if asked is False or (asked is None and (self.texts is None or len(parts) < 2)):
            return {}
        found = controls_of(chosen, parts, self.asked.protocol.seed)
        if asked is None:
            return {name: control for name, control in found.items() if control.kind in of}
        if asked == "ablation" and self.texts is not None:
            for column, store in self.texts.without_each(self.store, say).items():
                data = replace(self, store=store)._rows(silent).data
                if data.ids.tolist() != rows.data.ids.tolist():
                    raise InputError(f"--text-ablation: without {column}, other samples have texts. Report this.")
                found[f"without {column}"] = Control("without", chosen, parts_of(data), column)
        return found

    def _reference(self, rows: LabelledRows) -> Reference | None:
        """Return the distances of left-out rows; None for too few."""
        vectors = vectors_of(self.store, self.what, self.asked.selection.where, rows.data)
        return fit_reference(vectors, rows.columns.whole, seed=self.asked.protocol.seed)

    def _rows(self, say: Progress) -> LabelledRows:
        """Read features and labels, and warn of anomalies in them."""
        asked, protocol, selection = self.asked, self.asked.protocol, self.asked.selection
        rule = selection.rule(asked.labels, protocol, self.store.roles.id)
        missing = rule.found(self.store.select(selection.where))
        read = read_inputs(self.store, self.what, selection.where, self.used, rule)
        grades = None
        if protocol.regression:
            data, labels = with_numbers(read, asked.labels)
        elif protocol.survival:
            data, labels = with_times(read, asked.labels)
        else:
            data, labels = with_labels(read, asked.labels, selection.label_separator)
            data, labels = merged_by(selection, data, labels, asked.labels, self.store.samples, rule)
            if protocol.ordinal:
                grades = grades_of(labels, asked.labels[0], protocol.order)
            else:
                protocol.refuse_for(infer_task(labels.y))
        y = labels.y
        say(f"{counted(len(y), selection.unit)} with {' and '.join(data.inputs)}")
        columns = Columns.read(data, protocol, missing)
        positive = (
            None if protocol.task in WITHOUT_CLASSES else protocol.positive_in(infer_task(y), np.unique(y).tolist())
        )
        warnings = warnings_of_inputs(data)
        for line in warnings:
            say(f"warning: {line}")
        return LabelledRows(data, y, labels.names, columns, missing, positive, warnings, grades)

    def _fitted(
        self, rows: LabelledRows, splits: Sequence[Sequence[Split]], inner_always: bool, say: Progress
    ) -> Fitted:
        """Select and fit the head on each split, and the controls if requested."""
        asked, protocol, columns = self.asked, self.asked.protocol, rows.columns

        def evaluated(head: HeadChoice, X: Any) -> Outcome:
            found = _cross_validated(head, X, rows.y, splits, columns.whole, protocol, inner_always, say)
            return ordered(found, rows.y, rows.positive, rows.grades)

        def of_control(head: HeadChoice, X: Any) -> Outcome:
            return decisions_of(evaluated(head, X), rows.y, protocol, units=columns.units).outcome

        parts = parts_of(rows.data)
        head, kind = asked.head.head(), asked.head.kind
        texts, described_as = texts_for(self.store, self.what.names, kind, head, asked.prompts, rows.y, say)
        order = {"order": rows.grades} if rows.grades is not None and "order" in head.get_params() else {}
        chosen = replace(asked.head, fixed={**asked.head.fixed, **texts, **order})
        X = given_to(head, parts)
        outcome = evaluated(chosen, X)
        decisions = decisions_of(
            outcome,
            rows.y,
            protocol,
            levels=columns.levels,
            units=columns.units,
            names=rows.names,
            resampling=rows.resampling,
        )
        asked_for = self._controls(chosen, rows, say)
        found = run_controls(asked_for, decisions.outcome, rows.y, columns.whole, of_control, say)
        return Fitted(X, outcome, decisions, described_as, found or None)

    def _reported(
        self, target: Path | None, rows: LabelledRows, fitted: Fitted, leakage: Leakage, say: Progress
    ) -> Run:
        """Assemble the results of a fit as a run."""
        asked, protocol, columns, y = self.asked, self.asked.protocol, rows.columns, rows.y
        outcome, decisions, head = fitted.outcome, fitted.decisions, asked.head.head()
        classes = outcome.classes.tolist() if rows.names is None else rows.names
        by = None if protocol.by is None or columns.levels is None else (protocol.by, columns.levels)
        fixed = asked.head.fixed
        metrics = metrics_of(
            decisions.outcome, rows.data, y, classes=classes, resampling=rows.resampling, params=fixed, by=by
        )
        metrics |= decisions.metrics
        metrics |= counts_of(y, classes, columns, protocol, rows.missing, "--merge", len(asked.labels), say)
        metrics |= positive_section(rows.positive)
        metrics["flow"] = flow_in(self.store, rows.data, asked.selection, protocol.groups or protocol.per)
        if asked.head.trials is None:
            metrics["selection"]["at_edge"] = [asdict(edge) for edge in at_edges(outcome, head.search_space)]
        metrics["warnings"] += rows.warnings
        metrics["leakage"] = leakage
        if head.transductive:
            metrics["transduction"] = {"sees": SEES}
        if rows.template is not None:
            metrics["text_template"] = rows.template
        if fitted.controls is not None:
            metrics["controls"] = fitted.controls
        words = [str(c) for c in classes]
        predictions = predictions_of(
            rows.data.ids,
            y,
            decisions.outcome,
            words,
            RowColumns(columns.whole, columns.levels, decisions.sets, decisions.per),
        )
        config = {
            **self.config,
            "view_levels": views_of(rows.data.inputs),
            names_key(outcome.task): classes,
            **fitted.described_as,
            "environment": environment(),
        }
        return Run(
            target,
            config,
            metrics,
            predictions,
            outcome.head,
            decision={"classes": classes, **decisions.decision} if decisions.decision else {},
            trials=trials_of(outcome, fixed),
            fold_heads=[fold.head for fold in outcome.folds] if asked.keep_folds else (),
            instances=instances_of(outcome, fitted.X, rows.data),
        )


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The rows of a fit with their labels.

    Attributes
    ----------
    data
        Features and samples; a row is a sample, a bag or a case.
    y
        Classes, of shape ``(n,)``; 0/1 of shape ``(n, n_labels)``; or numbers.
    names
        Names of the columns of ``y``; None if each row has one class.
    columns
        Groups, units and levels of the rows.
    missing
        Missing values by column.
    positive
        The positive class of a binary task.
    warnings
        Anomalies in the features.
    grades
        For an ordinal task: the classes from the lowest to the highest.
    template
        What is known of the template that made the texts, for ``metrics.json``; None if none did.
    """

    data: Data
    y: NDArray[Any]
    names: list[str] | None
    columns: Columns
    missing: MissingFound
    positive: Positive | None
    warnings: list[str]
    grades: list[Any] | None = None
    template: dict[str, Any] | None = None

    @property
    def class_names(self) -> list[Any]:
        """Classes, labels or outputs, in the order of `numpy.unique` or of columns."""
        return np.unique(self.y).tolist() if self.names is None else self.names

    @property
    def resampling(self) -> Resampling:
        """How intervals are made: by the groups that splits keep whole, if there are any."""
        return Resampling.of(len(self.y), self.columns.whole)


@dataclass(frozen=True, eq=False)
class Fitted:
    """The result of fitting: inputs of the head, outcome, decisions from its scores, texts, and controls."""

    X: Any
    outcome: Outcome
    decisions: Decisions
    described_as: Mapping[str, Any]
    controls: dict[str, Any] | None


def counts_of(
    y: NDArray[Any],
    classes: Sequence[Any],
    rows: Columns,
    protocol: Protocol,
    missing: MissingFound,
    option: str | None,
    n_columns: int,
    say: Progress,
) -> dict[str, Any]:
    """Count classes and missing values, and warn of names that seem to mean the same; for ``metrics.json``.

    ``option`` is the command's option to merge labels, if it has one.
    """
    out: dict[str, Any] = {"missing_values": {column: dict(of) for column, of in missing.items()}}
    warnings = []
    if protocol.task not in WITHOUT_CLASSES:
        out["class_counts"] = class_counts(y, classes, rows.groups)
        if n_columns == 1:
            warnings += alike_labels(names_in(y, classes), option)
    for name, values, column in (("--groups", rows.groups, protocol.groups), ("--by", rows.levels, protocol.by)):
        if values is not None and column is not None:
            warnings += alike_values(np.unique(values.astype(str)).tolist(), name, column)
    for line in warnings:
        say(f"warning: {line}")
    return out | {"warnings": warnings}


def flow_in(store: Store, data: Data, selection: Selection, groups: str | None) -> dict[str, Any]:
    """Count the samples of a store, and their groups, from its table to the rows that are used."""
    selected = store.samples if selection.where is None else store.select(selection.where)
    return flow_of(
        store.samples,
        selected,
        data,
        ids=store.roles.id,
        groups=groups,
        bags=selection.bags,
        kind=kind_of,
    )


def _checked_leakage(plan: FitPlan, rows: LabelledRows, splits: Sequence[Sequence[Split]], say: Progress) -> Leakage:
    """Look for leaks in the splits of every seed, at sample level if rows are bags; return those of the first seed."""
    asked, columns = plan.asked, rows.columns
    samples, row = samples_behind(plan.store, plan.what, asked.selection.where, rows.data)
    of_samples, whole = (None if values is None else values[row] for values in (columns.groups, columns.whole))
    found: list[Leakage] = []
    for of_seed in splits:
        by_sample = of_samples_behind(of_seed, row)
        stated = None
        if not found and any(name.endswith(READ) for name in plan.what.names):
            text = plan.store.roles.text
            y, names = rows.y, rows.class_names
            if asked.protocol.survival:  # do texts say whether the event happened?
                y, names = y[:, 1].astype(np.int64), [f"no {names[1]}", names[1]]
            stated = texts_that_state(samples, text, y[row], names, by_sample, whole)
        report = check_leakage(
            samples,
            by_sample,
            groups=of_samples,
            group_column=asked.protocol.groups,
            allowed=asked.allow_leakage,
            # samples that lack a feature may still share an image with others
            shared=shared_images(rows.data, of_seed) if plan.what.partial and plan.what.bags is None else 0,
            stated=stated,
            say=say if not found else silent,
        )
        found.append(report)
    return found[0]


def of_samples_behind(splits: Sequence[Split], row: NDArray[np.int64]) -> list[Split]:
    """Turn splits of rows into splits of samples; ``row`` is the row of each sample, of shape ``(n_samples,)``."""
    return [
        replace(s, train=np.flatnonzero(np.isin(row, s.train)), test=np.flatnonzero(np.isin(row, s.test)))
        for s in splits
    ]


def labels_of(label: str | Sequence[str] | None, protocol: Protocol) -> tuple[str, ...]:
    """Return the columns to predict: the labels, or for survival the columns of times and events.

    Raises
    ------
    InputError
        When there is no label, or one beside times.
    """
    if protocol.time is None or protocol.event is None:
        if label is None:
            raise InputError(
                "--label COL, the column to predict, is missing (or --task survival with --time and --event)."
            )
        return require_names("--label", label)
    if label is not None:
        raise InputError("--label: --task survival predicts --time and --event. Leave --label out.")
    return protocol.time, protocol.event


def splits_of(y: NDArray[Any], rows: Columns, protocol: Protocol) -> list[list[Split]]:
    """Return the splits of each seed."""
    found = [
        make_splits(
            y,
            # A given split may divide groups if leakage is allowed; the leak check refuses or counts that later.
            groups=rows.whole if rows.split is None else None,
            n_folds=protocol.n_folds,
            split=rows.split,
            holdout=protocol.holdout,
            seed=seed,
            regression=protocol.regression,
            survival=protocol.survival,
        )
        for seed in protocol.every_seed
    ]
    if rows.units is not None:
        for splits in found:
            refuse_straddling(rows.units, splits)
    return found


def _cross_validated(
    chosen: HeadChoice,
    X: Any,
    y: NDArray[Any],
    splits: Sequence[Sequence[Split]],
    groups: NDArray[Any] | None,
    protocol: Protocol,
    inner_always: bool,
    say: Progress,
) -> Outcome:
    """Cross-validate all seeds together, and return all folds as one outcome."""
    drawn, repeats, final = "seed" in chosen.head().get_params() and "seed" not in chosen.given, [], None
    for seed, of_seed in zip(protocol.every_seed, splits, strict=True):
        if protocol.shots is not None:
            if final is None:
                everything = Split(len(of_seed), np.arange(len(y)), np.arange(0), seed)
                final = few_shots([everything], y, groups, shots=protocol.shots)[0].train
            of_seed = few_shots(of_seed, y, groups, shots=protocol.shots, n_draws=protocol.n_draws)
        repeats.append(Repeat(of_seed, chosen.searches(seed), seed, {"seed": seed} if drawn else {}))
    if protocol.seeds > 1:
        say(f"{protocol.seeds} seeds, starting at {protocol.seed}")
    return cross_validate_repeats(
        chosen.head(protocol.seed),
        X,
        y,
        repeats,
        groups=groups,
        n_inner_folds=protocol.inner_folds,
        final=final,
        out_of_fold=protocol.needs_out_of_fold or inner_always,
        regression=protocol.regression,
        halving=protocol.halving,
        survival=protocol.survival,
        progress=say,
    )


def _refuse_same_repeats(protocol: Protocol, chosen: HeadChoice) -> None:
    """Refuse repetitions that would be identical, or whose seed the head would ignore."""
    if protocol.seeds == 1:
        return
    if "seed" in chosen.given:
        raise InputError("--set seed=… goes without --seeds, which sets the head's seed in each repetition.")
    drawn = "seed" in chosen.head().get_params() or chosen.trials is not None
    if protocol.split is not None and protocol.shots is None and not drawn:
        raise InputError(
            f"--seeds {protocol.seeds} with --split {protocol.split}: the split is fixed and a {chosen.kind} head is "
            "deterministic, so all repetitions would be identical. Leave --seeds out."
        )
