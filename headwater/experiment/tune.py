"""Fine-tuning of encoder and head on the splits of a protocol, from options to a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._memory import peak_memory
from headwater._progress import Progress, counting, silent
from headwater._words import counted
from headwater.embed.adapter import Adapter
from headwater.errors import InputError
from headwater.evaluate import Outcome, Repeat, Split, cross_validate_repeats, infer_task
from headwater.evaluate import bootstrap as draw
from headwater.evaluate.class_order import ordered
from headwater.evaluate.decisions import Decisions, decisions_of
from headwater.evaluate.edges import at_edges
from headwater.evaluate.fold_means import json_safe, summary
from headwater.evaluate.intervals import LEVEL
from headwater.evaluate.novelty import Reference, fit_reference
from headwater.evaluate.options import Protocol
from headwater.evaluate.paired import Paired
from headwater.experiment.fit import LabelledRows, counts_of, of_samples_behind, splits_of
from headwater.experiment.head import HeadChoice
from headwater.experiment.leakage import Leakage, check_leakage, require_reason
from headwater.experiment.template_texts import refuse_said
from headwater.experiment.tune_folds import FoldPlan, FoldTraining, TunedFolds, TuningData
from headwater.finetune.features import EncodedInput, make
from headwater.finetune.options import Training, beside, hashed, memory_advice, progress_of
from headwater.finetune.reading import (
    TunedEncoders,
    TunedInput,
    in_bags,
    load_encoders,
    members_of,
    of_views,
    read_contents,
    read_samples,
    samples_of,
)
from headwater.finetune.team import Team
from headwater.runs.metrics import kind_of, metrics_of
from headwater.runs.positive import positive_section
from headwater.runs.predictions import RowColumns, predictions_of
from headwater.runs.run import Run
from headwater.runs.write import environment, write_run
from headwater.samples.columns import Columns, keep_samples
from headwater.samples.flow import flow_of
from headwater.samples.groups import require_columns
from headwater.samples.inputs import refuse_bags
from headwater.samples.label_names import OTHERS, merged_by, naming_others
from headwater.samples.labels import refuse_separator, with_labels
from headwater.samples.selection import Selection
from headwater.samples.stated import texts_that_state
from headwater.samples.vectors import joined
from headwater.samples.views import views_of
from headwater.sources.template import parse_template
from headwater.store import Data, FeatureSpec, InMemory, SelectedRows, with_defined

KEPT = ("label_separator", "merge", "where", "bags", "views", "missing_values")
"""Options of the selection in ``config.json``."""
SAVED = "trained on all samples except those held out for early stopping; no reported metric is for this head"

HELD_OUT = "scores of the rows held out of each fold's training rows to stop by; no weight was trained on them"
NEEDS_HELD_OUT = (
    "--calibrate, --sensitivity, --specificity and --conformal are fitted on the rows held out to stop by, but there "
    "are none: pass --patience, and enough groups in the training rows, or leave these options out."
)


@dataclass(frozen=True)
class TunePlan:
    """Options of one fine-tuning; see `headwater.api.fine_tune`."""

    manifest: Path
    encoders: TunedEncoders
    labels: tuple[str, ...]
    head: HeadChoice
    params: Mapping[str, Any]
    protocol: Protocol
    selection: Selection
    training: Training
    allow_leakage: str | None
    label_sql: Mapping[str, str] = field(default_factory=dict)

    def refuse(self) -> None:
        """Raise `InputError` for invalid options, before any file is read."""
        self.protocol.refuse()
        self.training.refuse()
        require_reason(self.allow_leakage)
        refuse_separator(self.labels, self.selection.label_separator)
        refuse_bags(self.head.kind, self.selection.bags, self.selection.views)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration for ``config.json``, to which inputs and classes are added."""
        selection = self.selection.to_dict()
        return {
            "command": "fine-tune",
            "manifest": str(self.manifest.absolute()),
            **self.encoders.to_dict(),
            "label": list(self.labels),
            **({"label_sql": dict(self.label_sql)} if self.label_sql else {}),
            "head": self.head.kind,
            "params": dict(self.params),
            **{name: selection[name] for name in KEPT},
            "allow_leakage": self.allow_leakage,
            **self.training.config(self.protocol.seed),
            **self.protocol.to_dict(),
        }

    def run(self, target: Path | None, say: Progress) -> Run:
        """Read, train fold by fold, report and write."""
        if isinstance(self.selection.merge, Mapping) and OTHERS in self.selection.merge:
            rule = self.selection.rule(self.labels, self.protocol, None)
            named = naming_others(self.selection, self.labels, self._listed(), rule)
            return replace(self, selection=named).run(target, say)
        began = time.monotonic()
        if self.protocol.needs_out_of_fold and self.training.patience is None:
            raise InputError(NEEDS_HELD_OUT)
        team = Team(self.training.device)
        if not team.leads:
            say = silent
        ready = self._read(team, say)
        progressed = progress_of(target, self._identity(ready), team)
        frozen = self._frozen(ready, say)
        fold_plan = FoldPlan(self.head, self.training, self.selection.in_bags, self.protocol.seed)
        trained = FoldTraining(fold_plan, ready, frozen, team, progressed, say).all_folds()
        run = self._reported(ready, frozen, trained, target, say)
        run = replace(run, cost={"seconds": time.monotonic() - began, "peak_memory_bytes": peak_memory()})
        if team.leads:
            run = write_run(target, run, self.head.kind)
            if target is not None:
                shutil.rmtree(beside(target), ignore_errors=True)
        team.wait()
        return run

    # Steps

    def _listed(self) -> pl.DataFrame:
        """Read all samples of the manifest, also those that ``--where`` leaves out."""
        return with_defined(self.encoders.columns.read(self.manifest).table, self.label_sql)

    def _read(self, team: Team, say: Progress) -> TuningData:
        """Read the manifest, load the encoders, encode all contents once, and split."""
        head, selection = self.head.head(), self.selection
        pooled = str(head.get_params().get("tokenizer", "")).startswith("pooled")
        tokens = head.takes_tokens and not selection.in_bags and not pooled
        manifest, table = read_samples(self.manifest, self.encoders.columns, selection.where, self.label_sql)
        protocol = require_columns(table, self.labels, self.protocol, selection)
        if manifest.text is not None and manifest.text in manifest.about.texts:
            said = parse_template(manifest.about.texts[manifest.text].template, f"{self.manifest}").reads
            refuse_said(manifest.text, said, self.labels, self.label_sql, self.allow_leakage)
        encoders = load_encoders(self.encoders, manifest, self.training, tokens=tokens)
        inputs, samples = read_contents(manifest, encoders, self.training.modes, self.training.workers, say)
        if len(inputs) < head.least_inputs and selection.views is None:
            raise InputError(
                f"--head {self.head.kind} needs two inputs, such as image and text: name a column with --text."
            )
        made, samples = self._encoded(inputs, samples, team, say, tokens=tokens)
        used = list(dict.fromkeys([*self.labels, *protocol.columns.values()]))
        rule = selection.rule(self.labels, protocol, manifest.id)
        missing = rule.found(samples.table)
        samples = rule.applied(samples)
        of_rows = in_bags(samples, selection.bags, selection.views, used)
        data, labels = with_labels(of_rows, self.labels, selection.label_separator)
        listed = manifest.table if selection.where is None else self._listed()
        data, labels = merged_by(selection, data, labels, self.labels, listed, rule)
        task = infer_task(labels.y)
        protocol.refuse_for(task)
        positive = protocol.positive_in(task, np.unique(labels.y).tolist())
        columns = Columns.read(data, protocol, missing)
        rows = LabelledRows(data, labels.y, labels.names, columns, missing, positive, [])
        every = splits_of(rows.y, columns, protocol)
        splits = [split for of_seed in every for split in of_seed]
        text = manifest.text if any(one.modality != "image" for one in inputs) else None
        leakage = self._leakage(samples, rows, made, every[0], protocol, text, say)
        members = members_of(data)
        inputs = of_views(inputs, data)
        made = {one.name: made[one.name.rpartition(":")[2]] for one in inputs}
        say(f"{counted(len(rows.y), selection.unit)} with {' and '.join(f'{i.name} ({i.how})' for i in inputs)}")
        flow = flow_of(
            listed,
            manifest.table,
            data,
            ids=manifest.id,
            groups=protocol.groups or protocol.per,
            bags=selection.bags,
            kind=kind_of,
        )
        return TuningData(protocol, inputs, rows, splits, leakage, flow, made, members, tokens)

    def _encoded(
        self, inputs: Sequence[TunedInput], samples: Data, team: Team, say: Progress, *, tokens: bool
    ) -> tuple[dict[str, EncodedInput], Data]:
        """Encode all contents once with the frozen encoders; return the samples without unreadable ones."""
        made: dict[str, EncodedInput] = {}
        for one in inputs:
            with (
                counting(say, f"encode {one.name}", len(one.contents)) as update,
                memory_advice(self.training),
            ):
                made[one.name] = make(
                    one.encoder,
                    one.modality,
                    one.contents,
                    tokens=tokens,
                    batch_size=self.training.batch_size,
                    workers=self.training.workers,
                    team=team,
                    progress=update,
                )
            if failed := made[one.name].failed:
                numbers = np.asarray(samples.inputs[one.name][:])[:, 0]  # type: ignore[index]
                samples = keep_samples(samples, ~np.isin(numbers, list(failed)), f"unreadable {one.modality}")
                for number, why in list(failed.items())[:3]:
                    say(f"left out: {one.contents[number].source} ({why})")
        return made, samples

    def _leakage(
        self,
        samples: Data,
        rows: LabelledRows,
        made: Mapping[str, EncodedInput],
        splits: Sequence[Split],
        protocol: Protocol,
        text: str | None,
        say: Progress,
    ) -> Leakage:
        """Look for leaks as `fit_head` does; ``text`` is the column of texts that the encoders read."""
        behind, row_of = samples_of(samples, rows.data, self.selection.bags)
        by_sample = of_samples_behind(splits, row_of)
        whole, groups = (None if of is None else of[row_of] for of in (rows.columns.whole, rows.columns.groups))
        stated = texts_that_state(behind, text, rows.y[row_of], rows.class_names, by_sample, whole)
        inputs: dict[str, Any] = {}
        for name, X in behind.inputs.items():
            values = made[name].values
            if values.ndim == 3:
                values = values.mean(1, dtype=np.float32)
            inputs[name] = SelectedRows(InMemory(values), np.asarray(X[:])[:, 0])  # type: ignore[index]
        return check_leakage(
            replace(behind, inputs=inputs),
            by_sample,
            groups=groups,
            group_column=protocol.groups,
            allowed=self.allow_leakage,
            stated=stated,
            say=say,
        )

    def _identity(self, ready: TuningData) -> dict[str, Any]:
        """Return everything that must be unchanged for a stopped run to be continued."""
        left_out = ("device", "workers", "accumulate")
        config = {name: value for name, value in self.config.items() if name not in left_out}
        for name in ("positive", "prevalence", "time", "event", "risk_groups", "order", "merge"):
            if not config.get(name):  # older versions, whose runs may be continued, had no such option
                config.pop(name, None)
        rows = ready.rows
        sides = (np.r_[s.train, -1, s.test] for s in ready.splits)
        held = [
            hashed([rows.data.ids, rows.y, rows.columns.whole, *sides]),
            *(hashed([c.key for c in one.contents]) for one in ready.inputs),
            *(hashed(ready.members[one.name]) for one in ready.inputs),
        ]
        encoders = [[one.encoder.weights, getattr(one.encoder.tuned, "digest", None)] for one in ready.inputs]
        return {**config, "encoders": encoders, "samples": held}

    def _frozen(self, ready: TuningData, say: Progress) -> Outcome:
        """Select and fit the head on features of the frozen encoders."""
        say(f"the {self.head.kind} head on frozen features")
        drawn = "seed" in self.head.head().get_params() and "seed" not in self.head.given
        repeats = [
            Repeat(
                [split for split in ready.splits if split.seed == seed],
                self.head.searches(seed),
                seed,
                {"seed": seed} if drawn else {},
            )
            for seed in self.protocol.every_seed
        ]
        return cross_validate_repeats(
            self.head.head(self.protocol.seed),
            ready.X(self.head.head(), in_bags=self.selection.in_bags),
            ready.rows.y,
            repeats,
            groups=ready.rows.columns.whole,
            out_of_fold=self.protocol.needs_out_of_fold,
            n_inner_folds=self.protocol.inner_folds,
        )

    def _reported(
        self, ready: TuningData, frozen: Outcome, trained: TunedFolds, target: Path | None, say: Progress
    ) -> Run:
        rows, columns, y, protocol = ready.rows, ready.rows.columns, ready.rows.y, ready.protocol
        outcome = Outcome(
            frozen.task,
            frozen.classes,
            trained.folds,
            trained.head,
            frozen.params,
            self._selection(frozen, trained),
            trained.inside,
        )
        frozen, outcome = (ordered(found, y, rows.positive) for found in (frozen, outcome))
        if protocol.needs_out_of_fold and (
            outcome.inside is None or any(fold.inside is None for fold in outcome.folds)
        ):
            raise InputError(NEEDS_HELD_OUT)
        reported: dict[str, Any] = {
            "levels": columns.levels,
            "units": columns.units,
            "names": rows.names,
            "resampling": rows.resampling,
        }
        decisions = decisions_of(outcome, y, protocol, **reported, fitted_to=HELD_OUT)
        of_frozen = decisions_of(frozen, y, protocol, **reported) if protocol.needs_out_of_fold else Decisions(frozen)
        classes = outcome.classes.tolist() if rows.names is None else rows.names
        by = None if protocol.by is None or columns.levels is None else (protocol.by, columns.levels)
        metrics = metrics_of(
            decisions.outcome, rows.data, y, classes=classes, resampling=rows.resampling, params=self.head.fixed, by=by
        )
        metrics |= decisions.metrics
        metrics |= counts_of(y, classes, columns, protocol, rows.missing, "--merge", len(self.labels), say)
        metrics |= positive_section(rows.positive)
        space = self.head.head().search_space
        metrics["selection"]["at_edge"] = [asdict(edge) for edge in at_edges(frozen, space)]
        metrics["leakage"] = ready.leakage
        metrics["flow"] = ready.flow
        metrics["frozen"] = frozen_of(of_frozen.outcome, decisions.outcome, y, columns.whole)
        alike = ("calibration", "threshold", "conformal")
        metrics["frozen"] |= {name: of_frozen.metrics[name] for name in alike if name in of_frozen.metrics}
        metrics["training"] = trained.described
        more = RowColumns(columns.whole, columns.levels, decisions.sets, decisions.per)
        predictions = predictions_of(rows.data.ids, y, decisions.outcome, [str(c) for c in classes], more)
        features = {name: spec.to_dict() for name, spec in _tuned_specs(ready, trained.adapters).items()}
        config = {**self.config, **protocol.to_dict(), "features": features, "classes": classes}
        config["tokens"] = list(features) if ready.tokens else []
        view_levels = views_of(one.name for one in ready.inputs)
        config |= {"view_levels": view_levels, "trained_parameters": trained.names, "environment": environment()}
        return Run(
            target,
            config,
            metrics,
            predictions,
            trained.head,
            decision={"classes": classes, **decisions.decision} if decisions.decision else {},
            curves=trained.curves,
            adapters=trained.adapters,
            reference=self._reference(ready),
        )

    def _reference(self, ready: TuningData) -> Reference | None:
        """Return the distances of left-out rows in the features of the encoders as they were before training.

        Trained encoders have seen these rows, and would make them alike. None if training went on from an adapter.
        """
        if self.encoders.choice.adapter is not None:
            return None
        parts = {n: made.of(ready.members[n], bagged=self.selection.in_bags) for n, made in ready.made.items()}
        return fit_reference(joined(parts, {}), ready.rows.columns.whole, seed=self.protocol.seed)

    def _selection(self, frozen: Outcome, trained: TunedFolds) -> dict[str, Any]:
        stops = not trained.curves["stop_loss"].is_null().all()  # null if too few rows or groups to hold some out
        return {
            **frozen.selection,
            "head": "parameters selected, and fitted, on frozen features of the training rows"
            if self.training.start == "probe"
            else "parameters selected on frozen features of the training rows; random initial weights",
            "epochs_by": "loss on rows held out of each fold's own training rows" if stops else None,
            "stop_share": self.training.stop_share if stops else None,
            "saved_head": SAVED if self.training.refit else "that of fold 0",
        }


def _tuned_specs(ready: TuningData, adapters: Sequence[Adapter]) -> dict[str, FeatureSpec]:
    """Return the spec of each feature set of the tuned encoders."""
    encoders = dict.fromkeys(id(one.encoder) for one in ready.inputs if one.how.kind != "none")
    digests = dict(zip(encoders, (adapter.digest for adapter in adapters), strict=True))
    found = {}
    for one in ready.inputs:
        spec = one.spec
        found[one.name.rpartition(":")[2]] = replace(spec, adapter=digests.get(id(one.encoder), spec.adapter))
    return found


SHOWN: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "f1_macro", "auc"),
    "multiclass": ("accuracy", "balanced_accuracy", "f1_macro", "auc"),
    "multilabel": ("auc_macro", "auc_micro", "f1_macro", "f1_micro"),
}


def frozen_of(frozen: Outcome, tuned: Outcome, y: NDArray[Any], groups: NDArray[Any] | None) -> dict[str, Any]:
    """Return the ``metrics.json`` section on frozen features: their metrics, and the difference made by tuning.

    Both were tested on the same rows. Intervals of differences are by the corrected t-test over folds, or by
    resampling groups (or rows) if there is one test set.
    """
    truth = tuned.truth(y)
    unit = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    models = [
        [draw.FoldScores(truth[f.split.test], f.scores, unit[f.split.test], len(f.split.train)) for f in outcome.folds]
        for outcome in (frozen, tuned)
    ]
    paired = Paired.of(tuned.task, models, n_draws=draw.N_DRAWS)
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
