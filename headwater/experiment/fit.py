"""A fit from what was asked of it to a run: samples, splits, leaks, heads and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._words import counted
from headwater.embed.constant_features import warnings_of_inputs
from headwater.errors import InputError
from headwater.evaluate import Outcome, Repeat, Split, cross_validate_repeats, infer_task, make_splits
from headwater.evaluate.aggregate import refuse_straddling
from headwater.evaluate.decisions import reported
from headwater.evaluate.edges import at_edges
from headwater.evaluate.labelling import ordered
from headwater.evaluate.options import Protocol
from headwater.evaluate.shots import few_shots
from headwater.experiment.controls import run_controls
from headwater.experiment.head import Chosen
from headwater.experiment.leakage import Report, check_leakage, shared_images
from headwater.experiment.prompts import SEES, texts_for
from headwater.runs.metrics import metrics_of, trials_of
from headwater.runs.positive import positive_section
from headwater.runs.predictions import names_key, predictions_of
from headwater.runs.run import Run
from headwater.runs.write import described, environment, write_run
from headwater.samples.classes import alike_labels, alike_values, class_counts, names_in
from headwater.samples.columns import Columns, require_column
from headwater.samples.groups import group_column
from headwater.samples.inputs import (
    Missing,
    Wanted,
    given_to,
    instances_of,
    parts_of,
    read_inputs,
    samples_behind,
    wanted,
)
from headwater.samples.label_names import merged
from headwater.samples.labels import labels_there, with_labels, with_numbers
from headwater.samples.missing import Found, missing_rule
from headwater.samples.stated import READ, texts_that_state
from headwater.samples.views import views_of
from headwater.store import Data, Store

DEFAULT_HEAD = {False: "linear", True: "ridge"}  # for regression or not


@dataclass(frozen=True)
class Fitting:
    """What was asked of one fit; see `fit_head`."""

    features: tuple[str, ...]
    labels: tuple[str, ...]
    label_separator: str | None
    merge: Mapping[str, str | None]
    params: Mapping[str, Any]
    chosen: Chosen
    protocol: Protocol
    where: str | None
    bags: str | None
    views: str | None
    missing: Missing
    samples_with: tuple[str, ...]
    controls: bool
    allow_leakage: str | None
    prompts: str | Path | None

    @property
    def unit(self) -> str:
        """What a row is called."""
        return "sample" if self.bags is None else "bag" if self.views is None else "case"

    def refuse(self) -> None:
        """Raise `InputError` for what needs no store to be refused."""
        self.protocol.refuse()
        for option, given in (("--label-separator", self.label_separator), ("--merge", self.merge)):
            if self.protocol.regression and given:
                raise InputError(f"{option} is about classes, and --task regression predicts numbers: leave it out.")
        _refuse_same_repeats(self.protocol, self.chosen)

    def on(self, store: Store) -> Planned:
        """Return it with a store, refusing what the store lacks."""
        for column in self.labels:
            require_column(store, column, "--label")
        protocol = replace(
            self.protocol, groups=group_column(store, self.protocol.groups, self.bags, self.protocol.per)
        )
        for option, name in {**protocol.columns, "--bags": self.bags, "--views": self.views}.items():
            if name is not None:
                require_column(store, name, option)
        what = wanted(
            store,
            self.features,
            self.chosen.kind,
            self.chosen.head(),
            missing=self.missing,
            bags=self.bags,
            also=self.samples_with,
            views=self.views,
        )
        return Planned(store, replace(self, protocol=protocol), what)


@dataclass(frozen=True)
class Planned:
    """A fit that nothing is known to be in the way of."""

    store: Store
    asked: Fitting
    what: Wanted

    @property
    def config(self) -> dict[str, Any]:
        """What the fit is made of, as ``config.json`` has it; the classes and the environment join it there."""
        asked = self.asked
        return {
            "command": "fit-head",
            "store": self.store.full_location,
            "features": described(self.store, self.what.names),
            "label": list(asked.labels),
            "label_separator": asked.label_separator,
            "merge": dict(asked.merge),
            "head": asked.chosen.kind,
            "params": dict(asked.params),
            "trials": asked.chosen.trials,
            "fine": asked.chosen.fine,
            "where": asked.where,
            "samples_with": list(asked.samples_with),
            "tokens": sorted(self.what.tokens),
            "bags": asked.bags,
            "views": asked.views,
            "missing": asked.missing,
            "controls": asked.controls,
            "allow_leakage": asked.allow_leakage,
            **asked.protocol.to_dict(),
        }

    @property
    def used(self) -> list[str]:
        """The columns that are used, each once."""
        return list(dict.fromkeys([*self.asked.labels, *self.asked.protocol.columns.values()]))

    def run(self, target: Path | None, say: Callable[[str], None], *, inner_always: bool = False) -> Run:
        """Select, fit, report and write.

        Parameters
        ----------
        target
            The run directory to write, or None.
        say
            Called with a line about each step.
        inner_always
            Fit on inner folds even where there is nothing to select, so that heads can be chosen by their inner losses.
        """
        asked, protocol = self.asked, self.asked.protocol
        rule = missing_rule(protocol, asked.labels, asked.label_separator, self.store.roles.id)
        missing = rule.found(self.store.select(asked.where))
        read = read_inputs(self.store, self.what, asked.where, self.used, rule)
        if protocol.regression:
            data, found = with_numbers(read, asked.labels)
        else:
            data, found = with_labels(read, asked.labels, asked.label_separator)
            if asked.merge:
                known = labels_there(rule.tidied(self.store.samples), asked.labels, asked.label_separator)
                data, found = merged(data, found, asked.merge, known)
            protocol.refuse_for(infer_task(found.y))
        y = found.y
        say(f"{counted(len(y), asked.unit)} with {' and '.join(data.inputs)}")
        rows = Columns.read(data, protocol, missing)
        positive = None if protocol.regression else protocol.positive_in(infer_task(y), np.unique(y).tolist())
        alike = warnings_of_inputs(data)
        for line in alike:
            say(f"warning: {line}")
        splits = splits_of(y, rows, protocol)
        names = np.unique(y).tolist() if found.names is None else found.names
        leakage = _checked_leakage(self, data, y, names, splits, rows, say)

        def evaluated(chosen: Chosen, X: Any) -> Outcome:
            found = _cross_validated(chosen, X, y, splits, rows.whole, protocol, inner_always, say)
            return ordered(found, y, positive)

        parts = parts_of(data)
        head = asked.chosen.head()
        texts, described_as = texts_for(self.store, self.what.names, asked.chosen.kind, head, asked.prompts, y, say)
        chosen = replace(asked.chosen, fixed={**asked.chosen.fixed, **texts})
        X = given_to(head, parts)
        outcome = evaluated(chosen, X)
        report = reported(outcome, y, protocol, levels=rows.levels, units=rows.units, groups=rows.whole)
        classes = outcome.classes.tolist() if found.names is None else found.names
        levels_by = None if protocol.by is None or rows.levels is None else (protocol.by, rows.levels)
        fixed = asked.chosen.fixed
        metrics = metrics_of(report.outcome, data, y, classes=classes, params=fixed, by=levels_by) | report.metrics
        metrics |= counts_of(y, classes, rows, protocol, missing, "--merge", len(asked.labels), say)
        metrics |= positive_section(positive)
        if asked.chosen.trials is None:
            metrics["selection"]["at_edge"] = [asdict(edge) for edge in at_edges(outcome, head.search_space)]
        metrics["warnings"] += alike
        metrics["leakage"] = leakage
        if head.transductive:
            metrics["transduction"] = {"sees": SEES}
        if asked.controls:

            def of_control(chosen: Chosen, X: Any) -> Outcome:
                return reported(evaluated(chosen, X), y, protocol, units=rows.units).outcome

            metrics["controls"] = run_controls(
                chosen, parts, report.outcome, y, rows.whole, protocol.seed, of_control, say
            )
        words = [str(c) for c in classes]
        predictions = predictions_of(data.ids, y, report.outcome, words, rows.whole, report.sets)
        decision = {"classes": classes, **report.decision} if report.decision else {}
        config = {
            **self.config,
            "view_levels": views_of(data.inputs),
            names_key(outcome.task): classes,
            **described_as,
            "environment": environment(),
        }
        tried = trials_of(outcome, fixed)
        weights = instances_of(outcome, X, data)
        run = Run(target, config, metrics, predictions, outcome.head, decision, tried, weights)
        return write_run(target, run, asked.chosen.kind)


def counts_of(
    y: NDArray[Any],
    classes: Sequence[Any],
    rows: Columns,
    protocol: Protocol,
    missing: Found,
    option: str | None,
    n_columns: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Count classes and missing values, and warn of names that seem to mean the same; for ``metrics.json``.

    ``option`` is what brings labels to one name, where there is such an option.
    """
    out: dict[str, Any] = {"missing_values": {column: dict(of) for column, of in missing.items()}}
    warnings = []
    if not protocol.regression:
        out["class_counts"] = class_counts(y, classes, rows.groups)
        if n_columns == 1:
            warnings += alike_labels(names_in(y, classes), option)
    for name, values, column in (("--groups", rows.groups, protocol.groups), ("--by", rows.levels, protocol.by)):
        if values is not None and column is not None:
            warnings += alike_values(np.unique(values.astype(str)).tolist(), name, column)
    for line in warnings:
        say(f"warning: {line}")
    return out | {"warnings": warnings}


def _checked_leakage(
    plan: Planned,
    data: Data,
    y: NDArray[Any],
    names: Sequence[Any],
    splits: Sequence[Sequence[Split]],
    rows: Columns,
    say: Callable[[str], None],
) -> Report:
    """Look for leaks in the splits of every seed, sample by sample where rows are bags; return what the first has."""
    asked = plan.asked
    samples, row = samples_behind(plan.store, plan.what, asked.where, data)
    of_samples, whole = (None if values is None else values[row] for values in (rows.groups, rows.whole))
    found: list[Report] = []
    for of_seed in splits:
        by_sample = of_samples_behind(of_seed, row)
        quiet = say if not found else lambda line: None
        stated = None
        if not found and any(name.endswith(READ) for name in plan.what.names):
            stated = texts_that_state(samples, plan.store.roles.text, y[row], names, by_sample, whole)
        report = check_leakage(
            samples,
            by_sample,
            groups=of_samples,
            group_column=asked.protocol.groups,
            allowed=asked.allow_leakage,
            # samples may lack features that others have, and share an image all the same
            shared=shared_images(data, of_seed) if plan.what.partial and plan.what.bags is None else 0,
            stated=stated,
            say=quiet,
        )
        found.append(report)
    return found[0]


def of_samples_behind(splits: Sequence[Split], row: NDArray[np.int64]) -> list[Split]:
    """Return splits of rows as splits of the samples behind them, whose rows are ``row``, of shape ``(n_samples,)``."""
    return [
        replace(s, train=np.flatnonzero(np.isin(row, s.train)), test=np.flatnonzero(np.isin(row, s.test)))
        for s in splits
    ]


def splits_of(y: NDArray[Any], rows: Columns, protocol: Protocol) -> list[list[Split]]:
    """Return the splits of each seed."""
    found = [
        make_splits(
            y,
            # A split that is given may divide groups when that is allowed, and is refused or counted later.
            groups=rows.whole if rows.split is None else None,
            n_folds=protocol.n_folds,
            split=rows.split,
            holdout=protocol.holdout,
            seed=seed,
            regression=protocol.regression,
        )
        for seed in protocol.every_seed
    ]
    if rows.units is not None:
        for splits in found:
            refuse_straddling(rows.units, splits)
    return found


def _cross_validated(
    chosen: Chosen,
    X: Any,
    y: NDArray[Any],
    splits: Sequence[Sequence[Split]],
    groups: NDArray[Any] | None,
    protocol: Protocol,
    inner_always: bool,
    say: Callable[[str], None],
) -> Outcome:
    """Cross-validate with each seed, all together, and return all folds as one outcome."""
    drawn, repeats, final = "seed" in chosen.head().get_params() and "seed" not in chosen.given, [], None
    for seed, of_seed in zip(protocol.every_seed, splits, strict=True):
        if protocol.shots is not None:
            if final is None:
                everything = Split(len(of_seed), np.arange(len(y)), np.arange(0), seed)
                final = few_shots([everything], y, groups, shots=protocol.shots)[0].train
            of_seed = few_shots(of_seed, y, groups, shots=protocol.shots, n_draws=protocol.n_draws)
        repeats.append(Repeat(of_seed, chosen.searches(seed), seed, {"seed": seed} if drawn else {}))
    if protocol.seeds > 1:
        say(f"{protocol.seeds} seeds, from {protocol.seed} on")
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
        progress=say,
    )


def _refuse_same_repeats(protocol: Protocol, chosen: Chosen) -> None:
    """Refuse repetitions that would all be the same, or of which the head is to know nothing."""
    if protocol.seeds == 1:
        return
    if "seed" in chosen.given:
        raise InputError("--set seed=… goes without --seeds, which give the head theirs.")
    drawn = "seed" in chosen.head().get_params() or chosen.trials is not None
    if protocol.split is not None and protocol.shots is None and not drawn:
        raise InputError(
            f"--seeds {protocol.seeds} with --split {protocol.split}: the split stays and a {chosen.kind} head draws "
            "nothing, so that each repetition would be the same. Leave --seeds out."
        )


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
