"""Training of every fold of a fine-tuning, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._extras import need
from headwater._progress import Progress, counting
from headwater._words import counted
from headwater.errors import InputError
from headwater.evaluate import Fold, Outcome, OutOfFold, Split, infer_task, score
from headwater.evaluate.options import Protocol
from headwater.evaluate.protocol import align
from headwater.experiment.fit import LabelledRows
from headwater.experiment.head import HeadChoice
from headwater.experiment.leakage import Leakage
from headwater.finetune.adapt import Adapted
from headwater.finetune.augment import parse_augmentation
from headwater.finetune.checkpoint import Progressed
from headwater.finetune.data import InputSource, Rows
from headwater.finetune.features import EncodedInput
from headwater.finetune.loop import LoopSettings, LossOf, Predicting, predict, train_model
from headwater.finetune.model import Model
from headwater.finetune.options import Training, curve_table, memory_advice, peak_memory
from headwater.finetune.reading import TunedInput
from headwater.finetune.team import Team
from headwater.heads._classifier import encode_labels, probabilities
from headwater.heads._objective import class_weights, targets_of
from headwater.heads._stopping import rows_to_stop_by
from headwater.heads.differentiable import network_of
from headwater.samples.inputs import given_to
from headwater.store import Modality


@dataclass(frozen=True)
class FoldPlan:
    """The options that training uses: the head, how the encoder is trained, whether rows are bags, and the seed."""

    head: HeadChoice
    training: Training
    in_bags: bool
    seed: int


@dataclass(frozen=True, eq=False)
class TuningData:
    """The data that training uses."""

    protocol: Protocol
    inputs: Sequence[TunedInput]
    rows: LabelledRows
    splits: Sequence[Split]
    leakage: Leakage
    flow: Mapping[str, Any]
    made: Mapping[str, EncodedInput]
    members: Mapping[str, list[Rows]]
    tokens: bool

    def X(self, head: Any, *, in_bags: bool) -> Any:
        """Return features of the frozen encoders, in the form the head takes."""
        parts = {name: made.of(self.members[name], bagged=in_bags) for name, made in self.made.items()}
        return given_to(head, parts)


@dataclass(frozen=True, eq=False)
class TunedFolds:
    """The results of training for each fold, and what the run saves."""

    folds: list[Fold]
    head: Any
    adapters: list[Any]
    curves: pl.DataFrame
    described: dict[str, Any]
    names: dict[str, list[str]]
    inside: OutOfFold | None = None


HELD_OUT_PARTS = 4  # of the rows held out to stop by, for cross-fitting calibrators


class FoldTraining:
    """Trains every fold, one after the other, each starting from the encoders as loaded."""

    def __init__(
        self,
        plan: FoldPlan,
        ready: TuningData,
        frozen: Outcome,
        team: Team,
        progressed: Progressed | None,
        say: Progress,
    ) -> None:
        self.plan, self.ready, self.frozen, self.team = plan, ready, frozen, team
        self.progressed, self.say = progressed, say
        self.X = ready.X(plan.head.head(), in_bags=plan.in_bags)
        training = plan.training
        augmentation = parse_augmentation(training.augment)
        tuned: dict[int, dict[Modality, Any]] = {}
        encoders: dict[int, Any] = {}
        for one in ready.inputs:
            if one.how.kind != "none":
                tuned.setdefault(id(one.encoder), {})[one.modality] = one.how
                encoders[id(one.encoder)] = one.encoder
        if not tuned:
            raise InputError(
                "--train trains none of the inputs. For frozen encoders, run headwater embed, then headwater fit-head."
            )
        self.adapted = [
            Adapted(encoders[key], how, training.lora, training.batch_norm, plan.seed) for key, how in tuned.items()
        ]
        if training.checkpoint_gradients:
            for encoder in encoders.values():
                if not encoder.checkpoint_gradients():
                    raise InputError(
                        f"{encoder.name} does not support gradient checkpointing: leave --checkpoint-gradients out."
                    )
        self.initial = [part.state() for part in self.adapted]
        self.sources = [
            InputSource(
                one.name,
                one.encoder,
                one.modality,
                one.contents,
                ready.members[one.name],
                ready.tokens,
                None if one.modality == "text" else augmentation,
                ready.made[one.name].stored() if one.how.kind == "none" else None,
            )
            for one in ready.inputs
        ]
        kinds = {one.how.kind for one in ready.inputs if one.how.kind != "none"}
        self.kinds = sorted(kinds)
        self.codes, self.classes, self.multilabel = encode_labels(ready.rows.y)
        self.task = infer_task(ready.rows.y)

    def all_folds(self) -> TunedFolds:
        """Train on the training rows of each split, and on all rows."""
        began = time.monotonic()
        several = len({split.seed for split in self.ready.splits}) > 1
        folds, curves, kept = [], [], None
        epochs = []
        for split, frozen in zip(self.ready.splits, self.frozen.folds, strict=True):
            n_folds = sum(other.seed == split.seed for other in self.ready.splits)
            of_seed = f"seed {split.seed}, " if several else ""
            what = f"{of_seed}fold {split.fold + 1} of {n_folds}"
            name = f"fold-{split.fold}" if split.seed == self.plan.seed else f"seed-{split.seed}-fold-{split.fold}"
            done = self._one(name, what, split, frozen.params)
            scores = np.asarray(done["scores"], np.float64)
            metrics = score(self.task, self.ready.rows.y[split.test], scores, classes=self.frozen.classes)
            folds.append(Fold(split, frozen.params, scores, metrics, self._held_out(done)))
            curve = curve_table(done["curve"], split.fold)
            curves.append(curve.insert_column(0, pl.lit(split.seed).alias("seed")) if several else curve)
            epochs.append(int(done["n_epochs"]))
            kept = kept or done
        if self.plan.training.refit:
            every = Split(0, np.arange(len(self.ready.rows.y)), np.zeros(0, np.int64), self.plan.seed)
            kept = self._one("final", "all samples", every, self.frozen.params)
            curves.append(curve_table(kept["curve"], None))
        assert kept is not None  # there is at least one split
        network = self._network(kept["train"].numpy(), kept["params"], self.plan.seed)
        head = network.fitted({n.removeprefix("head."): t for n, t in kept["state"].items() if n.startswith("head.")})
        for i, part in enumerate(self.adapted):
            own = {n.removeprefix(f"{i}."): t for n, t in kept["state"].items() if n.startswith(f"{i}.")}
            part.load(own)
        trained, every_one = zip(*(part.n_parameters for part in self.adapted), strict=True)
        described = {
            "trained_parameters": sum(trained) + sum(p.numel() for p in network.params.values()),
            "of_the_encoder": sum(trained),
            "encoder_parameters": sum(every_one),
            "epochs_taken": epochs,
            "lr": self._settings(self.plan.seed).lr,
            "head_lr": self._settings(self.plan.seed).head_lr,
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": peak_memory(self.team),
            "processes": self.team.size,
        }
        names = {part.encoder.name: part.trained for part in self.adapted}
        adapters = [part.adapter() for part in self.adapted]
        table = pl.concat(curves, how="diagonal_relaxed" if several else "vertical_relaxed")
        return TunedFolds(folds, head, adapters, table, described, names, self._held_out(kept))

    def _held_out(self, done: Mapping[str, Any]) -> OutOfFold | None:
        """Return the scores of the rows that were held out to stop by, in parts that keep groups whole; None if none.

        No weight was trained on these rows, but the epoch was chosen by their loss.
        """
        if "stop" not in done or not len(done["stop"]):
            return None
        rows = np.asarray(done["stop"], np.int64)
        groups = self.ready.rows.columns.whole
        codes = np.arange(len(rows)) if groups is None else np.unique(groups[rows], return_inverse=True)[1]
        return OutOfFold(rows, codes % HELD_OUT_PARTS, np.asarray(done["stop_scores"], np.float64))

    def _settings(self, seed: int) -> LoopSettings:
        return self.plan.training.settings(seed, self.kinds)

    def _one(self, name: str, what: str, split: Split, params: Mapping[str, Any]) -> dict[str, Any]:
        """Train on the training rows and score the others; or read the result if an earlier call finished it."""
        if self.progressed is not None and (found := self.progressed.finished(name)) is not None:
            self.say(f"{what}: already done")
            return found
        torch = need("torch", "encoders")
        train, test, settings = split.train, split.test, self._settings(split.seed)
        stop = np.zeros(0, np.int64)
        groups = self.ready.rows.columns.whole
        if settings.patience is not None:
            of_rows = None if groups is None else groups[train]
            stop = train[rows_to_stop_by(self.codes[train], of_rows, self.plan.training.stop_share, settings.seed)]
        rows = np.setdiff1d(train, stop)
        network = self._network(rows, params, split.seed)
        if self.plan.training.start == "probe":
            head = self.plan.head.head(settings.seed)
            (fitted,) = head.fit_many(self.X, self.ready.rows.y, [(rows, params)], groups=groups)
            network.start_from(fitted)
        for part, state in zip(self.adapted, self.initial, strict=True):
            part.load(state)
        model = Model(self.adapted, self.sources, network, self.team.device)
        seen = np.arange(len(self.classes)) if self.multilabel else np.unique(self.codes[rows])
        targets = targets_of(self.codes, seen, network.objective, np.arange(len(self.codes)), self.team.device)
        known = np.array([0, 1]) if self.multilabel else self.classes[seen]
        weight = class_weights(self.codes[rows], seen, known, network.objective, network.regularised.class_weight)
        loss_of = LossOf(network.objective, torch.as_tensor(weight, device=self.team.device), network.regularised)
        checkpoint = None if self.progressed is None else self.progressed.checkpoint(name)

        def measured(logits: NDArray[np.float32], some: Rows) -> float:
            found = self._scores(logits, seen)
            main = "auc_macro" if self.multilabel else "auc"
            return float(score(self.task, self.ready.rows.y[some], found, classes=self.frozen.classes)[main])

        total = settings.epochs * len(rows)
        with (
            counting(self.say, f"tune, {what}", total, unit="samples") as update,
            memory_advice(self.plan.training),
        ):
            tuned = train_model(
                model,
                Predicting(model, targets, loss_of, settings, self.team, measured),
                rows,
                stop,
                settings,
                checkpoint=checkpoint,
                team=self.team,
                progress=update,
            )
            scores, stop_scores = (
                self._scores(predict(model, some, settings, self.team), seen) for some in (test, stop)
            )
        best = tuned.curve.stop_loss[tuned.n_epochs]
        self.say(f"{what}: {counted(tuned.n_epochs, 'epoch')}" + ("" if best is None else f", stop loss {best:.4f}"))
        done = {
            "state": {n: t.cpu() for n, t in tuned.state.items()},
            "train": torch.from_numpy(rows),
            "params": dict(params),
            "scores": torch.from_numpy(scores),
            "stop": torch.from_numpy(stop),
            "stop_scores": torch.from_numpy(stop_scores),
            "curve": vars(tuned.curve),
            "n_epochs": tuned.n_epochs,
        }
        self.team.wait()
        if self.progressed is not None and self.team.leads:
            self.progressed.finish(name, done)
        return done

    def _network(self, rows: Rows, params: Mapping[str, Any], seed: int) -> Any:
        """Return a new head for some training rows."""
        torch = need("torch", "encoders")
        bagged = self.plan.in_bags
        inputs = [self.ready.made[s.name].described(s.name, s.members, rows, bagged=bagged) for s in self.sources]
        classes = self.classes if self.multilabel else self.classes[np.unique(self.codes[rows])]
        head = self.plan.head.head(seed).set_params(**params)
        generator = torch.Generator().manual_seed(seed)
        return network_of(head, inputs, classes, self.multilabel, generator)

    def _scores(self, logits: NDArray[np.float32], seen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return probabilities of all classes."""
        found = probabilities(logits.astype(np.float64), self.multilabel)
        known = self.classes if self.multilabel else self.classes[seen]
        return np.asarray(align(found, known, self.frozen.classes), np.float64)
