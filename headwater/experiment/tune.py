"""Encoder and head trained together on the splits of a protocol, from their options to a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headwater._progress import progress_bar
from headwater._words import counted
from headwater.embed.adapter import Adapter
from headwater.errors import InputError, nearest
from headwater.evaluate import Outcome, Split, cross_validate, infer_task
from headwater.evaluate import bootstrap as draw
from headwater.evaluate.decisions import reported
from headwater.evaluate.edges import at_edges
from headwater.evaluate.labelling import ordered
from headwater.evaluate.options import Protocol
from headwater.evaluate.paired import Paired
from headwater.evaluate.stated import Stated
from headwater.evaluate.summary import json_safe, summary
from headwater.experiment.fit import counts_of, of_samples_behind, splits_of
from headwater.experiment.head import Chosen
from headwater.experiment.leakage import check_leakage
from headwater.experiment.tune_folds import Ready, Trained, Training
from headwater.finetune.adapt import BatchNorm, LoraSettings
from headwater.finetune.augment import parse_augmentation
from headwater.finetune.checkpoint import Progressed
from headwater.finetune.features import Made, make
from headwater.finetune.loop import Settings
from headwater.finetune.options import beside, hashed, memory_advice, refuse_settings
from headwater.finetune.reading import (
    Asked,
    in_bags,
    load_encoders,
    members_of,
    of_views,
    read_contents,
    read_samples,
    samples_of,
)
from headwater.finetune.team import Team
from headwater.runs.metrics import metrics_of
from headwater.runs.positive import positive_section
from headwater.runs.predictions import predictions_of
from headwater.runs.run import Run
from headwater.runs.write import environment, write_run
from headwater.samples.columns import Columns, keep_samples, require_column
from headwater.samples.groups import group_column
from headwater.samples.inputs import refuse_bags
from headwater.samples.labels import with_labels
from headwater.samples.missing import missing_rule
from headwater.samples.stated import texts_that_state
from headwater.samples.views import views_of
from headwater.store import Data, FeatureSpec, InMemory, SelectedRows

Start = Literal["probe", "random"]
HEAD_LR = 1e-4
SAVED = "trained on all samples but those it stopped by; no reported number is its"


@dataclass(frozen=True)
class Tuning:
    """What was asked of one fine-tuning; see `fine_tune`."""

    manifest: Path
    asked: Asked
    labels: tuple[str, ...]
    label_separator: str | None
    chosen: Chosen
    params: Mapping[str, Any]
    protocol: Protocol
    where: str | None
    bags: str | None
    views: str | None
    allow_leakage: str | None
    start: Start
    augment: tuple[str, ...]
    batch_norm: BatchNorm
    lora: LoraSettings
    lr: float | None
    settings: Settings
    stop_share: float
    checkpoint_gradients: bool
    device: str
    refit: bool

    def refuse(self) -> None:
        """Raise `InputError` for what needs no file to be refused."""
        self.protocol.refuse()
        self.lora.refuse()
        parse_augmentation(self.augment)
        how = self.asked.how()
        if all(h.kind == "none" for h in how.values()):
            raise InputError("--train none leaves nothing to tune: run headwater embed, then headwater fit-head.")
        if self.start not in get_args(Start):
            raise InputError(f"--start {self.start!r}.{nearest(self.start, get_args(Start))} There are: probe, random.")
        refuse_settings(self.settings, self.lr, self.batch_norm)
        refuse_bags(self.chosen.kind, self.bags, self.views)

    @property
    def in_bags(self) -> bool:
        """Whether rows are bags of instances."""
        return self.bags is not None and self.views is None

    @property
    def config(self) -> dict[str, Any]:
        """What the run is made of, as ``config.json`` has it; what its inputs and classes are joins it there."""
        return {
            "command": "fine-tune",
            "manifest": str(self.manifest.absolute()),
            **{name: list(v) if isinstance(v, tuple) else v for name, v in vars(self.asked).items()},
            "label": list(self.labels),
            "label_separator": self.label_separator,
            "head": self.chosen.kind,
            "params": dict(self.params),
            "where": self.where,
            "bags": self.bags,
            "views": self.views,
            "allow_leakage": self.allow_leakage,
            "start": self.start,
            "augment": list(self.augment),
            "batch_norm": self.batch_norm,
            "lora": asdict(self.lora),
            **asdict(self.settings),
            "lr": self.lr,
            "stop_share": self.stop_share,
            "checkpoint_gradients": self.checkpoint_gradients,
            "device": self.device,
            "refit": self.refit,
            **self.protocol.to_dict(),
        }

    def run(self, target: Path | None, say: Callable[[str], None], *, bar: bool) -> Run:
        """Read, train fold by fold, report and write."""
        team = Team(self.device)
        if not team.leads:
            say, bar = (lambda line: None), False
        ready = self._read(team, say, bar)
        progressed = None
        if target is not None:
            if team.leads:
                Progressed(beside(target), self._identity(ready))
            team.wait()
            progressed = Progressed(beside(target), self._identity(ready))
        frozen = self._frozen(ready, say)
        trained = Training(self, ready, frozen, team, progressed, say, bar).all_folds()
        run = self._reported(ready, frozen, trained, target, say)
        if team.leads:
            run = write_run(target, run, self.chosen.kind)
            if target is not None:
                shutil.rmtree(beside(target), ignore_errors=True)
        team.wait()
        return run

    # Steps

    def _read(self, team: Team, say: Callable[[str], None], bar: bool) -> Ready:
        """Read the manifest, load the encoders, make features of all contents once, and split."""
        head = self.chosen.head()
        tokens = head.takes_tokens and not self.in_bags
        pooled = str(head.get_params().get("tokenizer", "")).startswith("pooled")
        manifest, table = read_samples(self.manifest, self.asked, self.where)
        for column in self.labels:
            require_column(table, column, "--label")
        protocol = replace(
            self.protocol, groups=group_column(table, self.protocol.groups, self.bags, self.protocol.per)
        )
        for option, name in {**protocol.columns, "--bags": self.bags, "--views": self.views}.items():
            if name is not None:
                require_column(table, name, option)
        encoders = load_encoders(self.asked, manifest, tokens=tokens and not pooled, device=self.device)
        inputs, samples = read_contents(manifest, encoders, self.asked.how(), self.settings.workers, bar)
        if len(inputs) < head.least_inputs and self.views is None:
            raise InputError(
                f"--head {self.chosen.kind} needs two inputs, such as image and text: name a column with --text."
            )
        made: dict[str, Made] = {}
        for one in inputs:
            what = f"encode {one.name}"
            with progress_bar(what, len(one.contents), show=bar) as update, memory_advice(self.settings):
                made[one.name] = make(
                    one.encoder,
                    one.modality,
                    one.contents,
                    tokens=tokens and not pooled,
                    batch_size=self.settings.batch_size,
                    workers=self.settings.workers,
                    team=team,
                    progress=update,
                )
            if failed := made[one.name].failed:
                numbers = np.asarray(samples.inputs[one.name][:])[:, 0]  # type: ignore[index]
                samples = keep_samples(samples, ~np.isin(numbers, list(failed)), f"unreadable {one.modality}")
                for number, why in list(failed.items())[:3]:
                    say(f"left out: {one.contents[number].source} ({why})")
        used = list(dict.fromkeys([*self.labels, *protocol.columns.values()]))
        rule = missing_rule(protocol, self.labels, self.label_separator, manifest.id)
        missing = rule.found(samples.table)
        samples = rule.applied(samples)
        data, found = with_labels(in_bags(samples, self.bags, self.views, used), self.labels, self.label_separator)
        y = found.y
        task = infer_task(y)
        protocol.refuse_for(task)
        positive = protocol.positive_in(task, np.unique(y).tolist())
        rows = Columns.read(data, protocol, missing)
        splits = splits_of(y, rows, protocol)[0]
        behind, row_of = samples_of(samples, data, self.bags)
        names = np.unique(y).tolist() if found.names is None else found.names
        by_sample = of_samples_behind(splits, row_of)
        reads = any(one.modality != "image" for one in inputs)
        of = None if rows.whole is None else rows.whole[row_of]
        stated = texts_that_state(behind, manifest.text if reads else None, y[row_of], names, by_sample, of)
        leakage = self._leakage(behind, row_of, made, by_sample, rows.groups, protocol, stated, say)
        members = members_of(data)
        inputs = of_views(inputs, data)
        made = {one.name: made[one.name.rpartition(":")[2]] for one in inputs}
        unit = "bag" if self.in_bags else "sample" if self.views is None else "case"
        say(f"{counted(len(y), unit)} with {' and '.join(f'{i.name} ({i.how})' for i in inputs)}")
        return Ready(
            protocol,
            inputs,
            data,
            y,
            found.names,
            positive,
            rows,
            splits,
            leakage,
            made,
            members,
            tokens and not pooled,
            missing,
        )

    def _leakage(
        self,
        samples: Data,
        row_of: NDArray[np.int64],
        made: Mapping[str, Made],
        splits: Sequence[Split],
        groups: NDArray[Any] | None,
        protocol: Protocol,
        stated: Stated | None,
        say: Callable[[str], None],
    ) -> dict[str, Any]:
        """Look for what is on both sides of a split, as `fit_head` does."""
        inputs: dict[str, Any] = {}
        for name, X in samples.inputs.items():
            values = made[name].values
            if values.ndim == 3:
                values = values.mean(1, dtype=np.float32)
            inputs[name] = SelectedRows(InMemory(values), np.asarray(X[:])[:, 0])  # type: ignore[index]
        return check_leakage(
            replace(samples, inputs=inputs),
            splits,
            groups=None if groups is None else groups[row_of],
            group_column=protocol.groups,
            allowed=self.allow_leakage,
            stated=stated,
            say=say,
        )

    def _identity(self, ready: Ready) -> dict[str, Any]:
        """Return all that a run that goes on must have in common with the one that began."""
        left_out = ("device", "workers", "accumulate")
        config = {name: value for name, value in self.config.items() if name not in left_out}
        if config["positive"] is None:
            del config["positive"]  # an older headwater, whose run may be gone on with, did not ask
        rows = ready.rows
        held = [
            hashed([ready.data.ids, ready.y, rows.whole, *(np.r_[s.train, -1, s.test] for s in ready.splits)]),
            *(hashed([c.key for c in one.contents]) for one in ready.inputs),
            *(hashed(ready.members[one.name]) for one in ready.inputs),
        ]
        encoders = [[one.encoder.weights, getattr(one.encoder.tuned, "digest", None)] for one in ready.inputs]
        return {**config, "encoders": encoders, "samples": held}

    def _frozen(self, ready: Ready, say: Callable[[str], None]) -> Outcome:
        """Select and fit the head on features of the encoders as they are."""
        say(f"the {self.chosen.kind} head on frozen features")
        return cross_validate(
            self.chosen.head(self.protocol.seed),
            ready.X(self),
            ready.y,
            ready.splits,
            grid=self.chosen.searches(self.protocol.seed),
            groups=ready.rows.whole,
            n_inner_folds=self.protocol.inner_folds,
            seed=self.protocol.seed,
        )

    def _reported(
        self, ready: Ready, frozen: Outcome, trained: Trained, target: Path | None, say: Callable[[str], None]
    ) -> Run:
        y, rows, protocol = ready.y, ready.rows, ready.protocol
        outcome = Outcome(
            frozen.task, frozen.classes, trained.folds, trained.head, frozen.params, self._selection(frozen, trained)
        )
        frozen, outcome = (ordered(found, y, ready.positive) for found in (frozen, outcome))
        report = reported(outcome, y, protocol, levels=rows.levels, units=rows.units, groups=rows.whole)
        classes = outcome.classes.tolist() if ready.names is None else ready.names
        by = None if protocol.by is None or rows.levels is None else (protocol.by, rows.levels)
        metrics = metrics_of(outcome, ready.data, y, classes=classes, params=self.chosen.fixed, by=by) | report.metrics
        metrics |= counts_of(y, classes, rows, protocol, ready.missing, None, len(self.labels), say)
        metrics |= positive_section(ready.positive)
        space = self.chosen.head().search_space
        metrics["selection"]["at_edge"] = [asdict(edge) for edge in at_edges(frozen, space)]
        metrics["leakage"] = ready.leakage
        metrics["frozen"] = frozen_of(frozen, outcome, y, rows.whole)
        metrics["training"] = trained.described
        predictions = predictions_of(ready.data.ids, y, outcome, [str(c) for c in classes], rows.whole)
        features = {name: spec.to_dict() for name, spec in _tuned_specs(ready, trained.adapters).items()}
        config = {**self.config, **protocol.to_dict(), "features": features, "classes": classes}
        config["tokens"] = list(features) if ready.tokens else []
        view_levels = views_of(one.name for one in ready.inputs)
        config |= {"view_levels": view_levels, "trained_parameters": trained.names, "environment": environment()}
        return Run(target, config, metrics, predictions, trained.head, curves=trained.curves, adapters=trained.adapters)

    def _selection(self, frozen: Outcome, trained: Trained) -> dict[str, Any]:
        stops = not trained.curves["stop_loss"].is_null().all()  # too few rows or patients leave none to stop by
        return {
            **frozen.selection,
            "head": "parameters selected, and fitted, on frozen features of the training rows"
            if self.start == "probe"
            else "parameters selected on frozen features of the training rows; drawn at random to begin with",
            "epochs_by": "loss on rows held out of each fold's own training rows" if stops else None,
            "stop_share": self.stop_share if stops else None,
            "saved_head": SAVED if self.refit else "that of fold 0",
        }


def _tuned_specs(ready: Ready, adapters: Sequence[Adapter]) -> dict[str, FeatureSpec]:
    """Return what defines each feature set: features of the encoders with what they were given by training."""
    encoders = dict.fromkeys(id(one.encoder) for one in ready.inputs if one.how.kind != "none")
    digests = dict(zip(encoders, (adapter.digest for adapter in adapters), strict=True))
    found = {}
    for one in ready.inputs:
        spec = one.encoder.spec(one.modality, "float32")
        found[one.name.rpartition(":")[2]] = replace(spec, adapter=digests.get(id(one.encoder), spec.adapter))
    return found


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
