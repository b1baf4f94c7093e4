"""fine-tune: encoder and head trained together, on the splits and by the metrics of fit-head."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._extras import need
from headwater.api._chosen import Chosen
from headwater.api._fitting import Columns, splits_of
from headwater.api._frozen import frozen_of
from headwater.api._inputs import given_to
from headwater.api._leakage import check_leakage
from headwater.api._lines import counted
from headwater.api._progress import progress_bar
from headwater.api._protocol import Protocol
from headwater.api._report import reported
from headwater.api._results import metrics_of, predictions_of
from headwater.api._samples import group_column, keep_samples, require_column, with_labels
from headwater.api._tuning import (
    Asked,
    Input,
    in_bags,
    load_encoders,
    members_of,
    read_contents,
    read_samples,
    samples_of,
)
from headwater.api._writing import environment, run_folder, write_run
from headwater.api.run import Run
from headwater.errors import HeadError, InputError, nearest
from headwater.evaluate import Fold, Outcome, Split, cross_validate, infer_task, score
from headwater.evaluate.aggregate import How as Aggregation
from headwater.evaluate.protocol import align
from headwater.finetune.adapt import Adapted, BatchNorm, LoraSettings
from headwater.finetune.augment import parse_augmentation
from headwater.finetune.checkpoint import Progressed
from headwater.finetune.data import Rows, Source
from headwater.finetune.features import Made, make
from headwater.finetune.loop import LossOf, Precision, Settings, predict, tune
from headwater.finetune.model import Model
from headwater.finetune.team import Team
from headwater.heads._classifier import encode_labels, probabilities
from headwater.heads._objective import class_weights, targets_of
from headwater.heads._stopping import rows_to_stop_by
from headwater.heads.differentiable import network_of
from headwater.store import Data, InMemory, Modality, SelectedRows

Start = Literal["probe", "random"]
LEARNING_RATES = {"lora": 2e-4, "last": 2e-5, "full": 1e-5, "none": 1e-5}
HEAD_LR = 1e-4
SAVED = "trained on all samples but those it stopped by; no reported number is its"


def fine_tune(
    manifest: str | Path,
    *,
    encoder: str | Sequence[str],
    label: str | Sequence[str],
    train: str | Sequence[str] = "lora",
    head: str = "linear",
    params: Mapping[str, Any] | None = None,
    weights: str | Path | Sequence[str | Path] = (),
    adapter: str | Path | None = None,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    groups: str | None = None,
    folds: int | None = None,
    split: str | None = None,
    holdout: float | None = None,
    where: str | None = None,
    by: str | None = None,
    bags: str | None = None,
    per: str | None = None,
    aggregate: Aggregation | None = None,
    label_separator: str | None = None,
    allow_leakage: str | None = None,
    seed: int = 0,
    start: Start = "probe",
    steps: Sequence[str] = (),
    augment: Sequence[str] = (),
    batch_norm: BatchNorm = "keep",
    lora: LoraSettings | None = None,
    lr: float | None = None,
    head_lr: float = HEAD_LR,
    weight_decay: float = 1e-4,
    epochs: int = 30,
    warmup: float = 1.0,
    batch_size: int = 32,
    accumulate: int = 1,
    patience: int | None = 5,
    stop_share: float = 0.15,
    clip: float = 1.0,
    checkpoint_gradients: bool = False,
    precision: Precision = "auto",
    device: str = "auto",
    workers: int | None = None,
    refit: bool = True,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    bar: bool = False,
) -> Run:
    """Train an encoder, or a part of it, together with a head, and evaluate both on rows that training never saw.

    In each fold the head is first selected and fitted on the features of the encoder as it is, just as `fit_head` does
    it; then all is trained from there, so that what training adds can be told: the same head on frozen features is
    evaluated on the same rows. Training stops early by training rows that are held out, whole groups of them.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder with one subfolder a class.
    encoder
        What reads the samples; two, for images and for texts. See `headwater.embed.load_encoder`.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task.
    train
        ``lora``, ``last-N``, ``full`` or ``none``, for all inputs; or ``image=lora`` and ``text=none``, for each.
        What is ``none`` is encoded once.
    head, params
        Kind of head, of those that are trained by gradients, and its parameters, as `fit_head` takes them.
    weights
        Local state dicts to use in place of the encoders' named weights.
    adapter
        A run of ``fine_tune`` to go on from.
    image, text, id
        Columns of the manifest. With one encoder of both, naming ``text`` makes it an input beside the image.
    groups, folds, split, holdout, where, by, per, aggregate, label_separator, allow_leakage, seed
        As in `fit_head`.
    bags
        For multiple-instance learning: the column whose values make one bag of the samples that share them.
    start
        ``probe`` starts from the head that was fitted on frozen features; ``random`` draws a new one.
    steps
        What is done to an image before all else; see `headwater.sources.steps.parse_steps`.
    augment
        Families of random changes of images in training; see `headwater.finetune.augment.Augmentation`.
    batch_norm
        ``keep`` leaves the statistics of batch norms as they came; ``update`` goes by each batch's.
    lora
        Of low-rank adapters.
    lr, head_lr
        Highest learning rates; of the encoder 2e-4 for LoRA, 2e-5 for last blocks and 1e-5 for all, when left out.
    weight_decay, epochs, warmup, batch_size, accumulate, patience, clip, precision, workers
        See `headwater.finetune.loop.Settings`.
    stop_share
        Share of the training rows that are held out to stop by.
    checkpoint_gradients
        Compute activations again in the backward pass instead of keeping them: less memory, more time.
    device
        ``auto``, ``cpu`` or ``cuda``.
    refit
        Whether to train once more on all rows, for the encoder and head that the run keeps; without, it keeps those of
        the first fold.
    out
        The run directory to write. A run that was stopped goes on with the same command, to the same result.
    progress
        Called with a line about each step.
    bar
        Show progress bars on standard error.

    Returns
    -------
    Run

    Raises
    ------
    InputError, ManifestError, EncoderError, HeadError, SplitError, ImageError
        Each with one line that says what, where and what to do.

    References
    ----------
    Kumar et al., Fine-tuning can distort pretrained features and underperform out-of-distribution, 2022, for
    starting from the fitted head.
    """
    tuning = Tuning(
        manifest=Path(manifest),
        asked=Asked(
            encoders=several(encoder),
            weights=tuple(str(path) for path in ([weights] if isinstance(weights, str | Path) else weights)),
            adapter=None if adapter is None else str(adapter),
            train=several(train),
            image=image,
            text=text,
            id=id,
            steps=tuple(steps),
        ),
        labels=several(label),
        label_separator=label_separator,
        chosen=Chosen.of(head, params or {}),
        params=dict(params or {}),
        protocol=Protocol(
            groups=groups, folds=folds, split=split, holdout=holdout, by=by, seed=seed, per=per, aggregate=aggregate
        ),
        where=where,
        bags=bags,
        allow_leakage=allow_leakage,
        start=start,
        augment=tuple(augment),
        batch_norm=batch_norm,
        lora=lora or LoraSettings(),
        lr=lr,
        settings=Settings(
            lr=0.0,
            head_lr=head_lr,
            weight_decay=weight_decay,
            epochs=epochs,
            warmup=min(warmup, epochs / 2),
            batch_size=batch_size,
            accumulate=accumulate,
            patience=patience,
            clip=clip,
            precision=precision,
            seed=seed,
            workers=workers,
        ),
        stop_share=stop_share,
        checkpoint_gradients=checkpoint_gradients,
        device=device,
        refit=refit,
    )
    tuning.refuse()
    return tuning.run(run_folder(out), progress or (lambda line: None), bar=bar)


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


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
        if self.bags is not None and self.chosen.kind != "mil":
            raise InputError(f"--bags {self.bags} goes with --head mil, not with {self.chosen.kind}.")

    @property
    def config(self) -> dict[str, Any]:
        """What the run is made of, as ``config.json`` has it; what its inputs and classes are joins it there."""
        return {
            "command": "fine-tune",
            "manifest": str(self.manifest.resolve()),
            **{name: list(v) if isinstance(v, tuple) else v for name, v in vars(self.asked).items()},
            "label": list(self.labels),
            "label_separator": self.label_separator,
            "head": self.chosen.kind,
            "params": dict(self.params),
            "where": self.where,
            "bags": self.bags,
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
        run = self._reported(ready, frozen, trained, target)
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
        tokens = head.takes_tokens and self.bags is None
        pooled = str(head.get_params().get("tokenizer", "")).startswith("pooled")
        manifest, table = read_samples(self.manifest, self.asked, self.where)
        for column in self.labels:
            require_column(table, column, "--label")
        protocol = replace(self.protocol, groups=group_column(table, self.protocol.groups, self.bags))
        for option, name in {**protocol.columns, **({} if self.bags is None else {"--bags": self.bags})}.items():
            require_column(table, name, option)
        encoders = load_encoders(self.asked, manifest, tokens=tokens and not pooled, device=self.device)
        inputs, samples = read_contents(manifest, encoders, self.asked.how(), self.settings.workers, bar)
        if len(inputs) < head.least_inputs:
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
        data, found = with_labels(in_bags(samples, self.bags, used), self.labels, self.label_separator)
        y = found.y
        protocol.refuse_for(infer_task(y))
        rows = Columns.read(data, protocol)
        splits = splits_of(y, rows, protocol)[0]
        behind, row_of = samples_of(samples, data)
        leakage = self._leakage(behind, row_of, made, splits, rows.groups, protocol, say)
        members = members_of(data)
        say(
            f"{counted(len(y), 'sample' if self.bags is None else 'bag')} with "
            f"{' and '.join(f'{i.name} ({i.how})' for i in inputs)}"
        )
        return Ready(
            protocol, inputs, data, y, found.names, rows, splits, leakage, made, members, tokens and not pooled
        )

    def _leakage(
        self,
        samples: Data,
        row_of: NDArray[np.int64],
        made: Mapping[str, Made],
        splits: Sequence[Split],
        groups: NDArray[Any] | None,
        protocol: Protocol,
        say: Callable[[str], None],
    ) -> dict[str, Any]:
        """Look for what is on both sides of a split, as `fit_head` does."""
        inputs: dict[str, Any] = {}
        for name, X in samples.inputs.items():
            values = made[name].values
            if values.ndim == 3:
                values = values.mean(1, dtype=np.float32)
            inputs[name] = SelectedRows(InMemory(values), np.asarray(X[:])[:, 0])  # type: ignore[index]
        by_sample = [
            replace(
                split,
                train=np.flatnonzero(np.isin(row_of, split.train)),
                test=np.flatnonzero(np.isin(row_of, split.test)),
            )
            for split in splits
        ]
        return check_leakage(
            replace(samples, inputs=inputs),
            by_sample,
            groups=None if groups is None else groups[row_of],
            group_column=protocol.groups,
            allowed=self.allow_leakage,
            say=say,
        )

    def _identity(self, ready: Ready) -> dict[str, Any]:
        """Return all that a run that goes on must have in common with the one that began."""
        left_out = ("device", "workers", "accumulate")
        config = {name: value for name, value in self.config.items() if name not in left_out}
        rows = ready.rows
        held = [
            hashed([ready.data.ids, ready.y, rows.groups, *(np.r_[s.train, -1, s.test] for s in ready.splits)]),
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
            groups=ready.rows.groups,
            n_inner_folds=self.protocol.inner_folds,
            seed=self.protocol.seed,
        )

    def _reported(self, ready: Ready, frozen: Outcome, trained: Trained, target: Path | None) -> Run:
        y, rows, protocol = ready.y, ready.rows, ready.protocol
        outcome = Outcome(
            frozen.task, frozen.classes, trained.folds, trained.head, frozen.params, self._selection(frozen, trained)
        )
        report = reported(outcome, y, protocol, levels=rows.levels, units=rows.units)
        classes = outcome.classes.tolist() if ready.names is None else ready.names
        by = None if protocol.by is None or rows.levels is None else (protocol.by, rows.levels)
        metrics = metrics_of(outcome, ready.data, y, classes=classes, params=self.chosen.fixed, by=by) | report.metrics
        metrics["leakage"] = ready.leakage
        metrics["frozen"] = frozen_of(frozen, outcome, y, rows.groups)
        metrics["training"] = trained.described
        predictions = predictions_of(ready.data.ids, y, outcome, [str(c) for c in classes], rows.groups)
        features = {one.name: one.encoder.spec(one.modality, "float32").to_dict() for one in ready.inputs}
        config = {**self.config, **protocol.to_dict(), "features": features, "classes": classes}
        config |= {"trained_parameters": trained.names, "environment": environment()}
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


@dataclass(frozen=True, eq=False)
class Ready:
    """All that training reads."""

    protocol: Protocol
    inputs: Sequence[Input]
    data: Data
    y: NDArray[Any]
    names: list[str] | None
    rows: Columns
    splits: Sequence[Split]
    leakage: dict[str, Any]
    made: Mapping[str, Made]
    members: Mapping[str, list[Rows]]
    tokens: bool

    def X(self, tuning: Tuning) -> Any:
        """Return features of the encoders as they are, as the head takes them."""
        bagged = tuning.bags is not None
        parts = {name: made.of(self.members[name], bagged=bagged) for name, made in self.made.items()}
        return given_to(tuning.chosen.head(), parts)


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave, fold by fold, and what the run keeps."""

    folds: list[Fold]
    head: Any
    adapters: list[Any]
    curves: pl.DataFrame
    described: dict[str, Any]
    names: dict[str, list[str]]


class Training:
    """Every fold trained, one after the other, each from the encoders as they were loaded."""

    def __init__(
        self,
        tuning: Tuning,
        ready: Ready,
        frozen: Outcome,
        team: Team,
        progressed: Progressed | None,
        say: Callable[[str], None],
        bar: bool,
    ) -> None:
        self.tuning, self.ready, self.frozen, self.team = tuning, ready, frozen, team
        self.progressed, self.say, self.bar = progressed, say, bar
        self.X = ready.X(tuning)
        augmentation = parse_augmentation(tuning.augment)
        tuned: dict[int, dict[Modality, Any]] = {}
        encoders: dict[int, Any] = {}
        for one in ready.inputs:
            if one.how.kind != "none":
                tuned.setdefault(id(one.encoder), {})[one.modality] = one.how
                encoders[id(one.encoder)] = one.encoder
        if not tuned:
            raise InputError("--train trains none of the inputs: run headwater embed, then headwater fit-head.")
        self.adapted = [
            Adapted(encoders[key], how, tuning.lora, tuning.batch_norm, tuning.settings.seed)
            for key, how in tuned.items()
        ]
        if tuning.checkpoint_gradients:
            for encoder in encoders.values():
                if not encoder.checkpoint_gradients():
                    raise InputError(f"{encoder.name} cannot compute gradients in parts: leave --checkpoint-gradients.")
        self.initial = [part.state() for part in self.adapted]
        self.sources = [
            Source(
                one.name,
                one.encoder,
                one.modality,
                one.contents,
                ready.members[one.name],
                ready.tokens,
                augmentation if one.modality == "image" else None,
                ready.made[one.name].stored() if one.how.kind == "none" else None,
            )
            for one in ready.inputs
        ]
        kinds = {one.how.kind for one in ready.inputs if one.how.kind != "none"}
        lr = tuning.lr if tuning.lr is not None else min(LEARNING_RATES[kind] for kind in kinds)
        self.settings = replace(tuning.settings, lr=lr)
        self.codes, self.classes, self.multilabel = encode_labels(ready.y)
        self.task = infer_task(ready.y)

    def all_folds(self) -> Trained:
        """Train on the training rows of each split, and on all rows."""
        began = time.monotonic()
        folds, curves, kept = [], [], None
        epochs = []
        for split, frozen in zip(self.ready.splits, self.frozen.folds, strict=True):
            what = f"fold {split.fold + 1} of {len(self.ready.splits)}"
            done = self._one(f"fold-{split.fold}", what, split.train, split.test, frozen.params)
            scores = np.asarray(done["scores"], np.float64)
            metrics = score(self.task, self.ready.y[split.test], scores, classes=self.frozen.classes)
            folds.append(Fold(split, frozen.params, scores, metrics, head=None))
            curves.append(curve_table(done["curve"], split.fold))
            epochs.append(int(done["n_epochs"]))
            kept = kept or done
        if self.tuning.refit:
            every = np.arange(len(self.ready.y))
            kept = self._one("final", "all samples", every, np.zeros(0, np.int64), self.frozen.params)
            curves.append(curve_table(kept["curve"], None))
        assert kept is not None  # there is at least one split
        network = self._network(kept["train"].numpy(), kept["params"])
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
            "lr": self.settings.lr,
            "head_lr": self.settings.head_lr,
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": peak_memory(self.team),
            "processes": self.team.size,
        }
        names = {part.encoder.name: part.trained for part in self.adapted}
        adapters = [part.adapter() for part in self.adapted]
        return Trained(folds, head, adapters, pl.concat(curves, how="vertical_relaxed"), described, names)

    def _one(self, name: str, what: str, train: Rows, test: Rows, params: Mapping[str, Any]) -> dict[str, Any]:
        """Train on some rows and score others; or read what was done before."""
        if self.progressed is not None and (found := self.progressed.finished(name)) is not None:
            self.say(f"{what}: done before")
            return found
        torch = need("torch", "encoders")
        stop = np.zeros(0, np.int64)
        groups = self.ready.rows.groups
        if self.settings.patience is not None:
            of_rows = None if groups is None else groups[train]
            stop = train[rows_to_stop_by(self.codes[train], of_rows, self.tuning.stop_share, self.settings.seed)]
        rows = np.setdiff1d(train, stop)
        network = self._network(rows, params)
        if self.tuning.start == "probe":
            head = self.tuning.chosen.head(self.settings.seed)
            (fitted,) = head.fit_many(self.X, self.ready.y, [(rows, params)], groups=groups)
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
            return float(score(self.task, self.ready.y[some], found, classes=self.frozen.classes)[main])

        total = self.settings.epochs * len(rows)
        with (
            progress_bar(f"tune, {what}", total, unit="samples", show=self.bar) as update,
            memory_advice(self.settings),
        ):
            tuned = tune(
                model,
                rows,
                stop,
                targets,
                loss_of,
                self.settings,
                measure=measured,
                checkpoint=checkpoint,
                team=self.team,
                progress=update,
            )
            scores = self._scores(predict(model, test, self.settings, self.team), seen)
        best = tuned.curve.stop_loss[tuned.n_epochs]
        self.say(f"{what}: {counted(tuned.n_epochs, 'epoch')}" + ("" if best is None else f", stop loss {best:.4f}"))
        done = {
            "state": {n: t.cpu() for n, t in tuned.state.items()},
            "train": torch.from_numpy(rows),
            "params": dict(params),
            "scores": torch.from_numpy(scores),
            "curve": vars(tuned.curve),
            "n_epochs": tuned.n_epochs,
        }
        self.team.wait()
        if self.progressed is not None and self.team.leads:
            self.progressed.finish(name, done)
        return done

    def _network(self, rows: Rows, params: Mapping[str, Any]) -> Any:
        """Return a new head for some training rows."""
        torch = need("torch", "encoders")
        bagged = self.tuning.bags is not None
        inputs = [self.ready.made[s.name].described(s.name, s.members, rows, bagged=bagged) for s in self.sources]
        classes = self.classes if self.multilabel else self.classes[np.unique(self.codes[rows])]
        head = self.tuning.chosen.head(self.settings.seed).set_params(**params)
        generator = torch.Generator().manual_seed(self.settings.seed)
        return network_of(head, inputs, classes, self.multilabel, generator)

    def _scores(self, logits: NDArray[np.float32], seen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return probabilities of all classes."""
        found = probabilities(logits.astype(np.float64), self.multilabel)
        known = self.classes if self.multilabel else self.classes[seen]
        return np.asarray(align(found, known, self.frozen.classes), np.float64)


def curve_table(columns: Mapping[str, Sequence[Any]], fold: int | None) -> pl.DataFrame:
    types = dict.fromkeys(("train_loss", "stop_loss", "stop_metric", "lr", "seconds"), pl.Float64)
    table = pl.DataFrame(dict(columns), schema_overrides={"epoch": pl.Int64, **types}, strict=False)
    return table.select(pl.lit(fold, dtype=pl.Int64).alias("fold"), pl.all())


def refuse_settings(settings: Settings, lr: float | None, batch_norm: BatchNorm) -> None:
    """Raise `InputError` for settings of training that cannot be."""
    s = settings
    numbers = {"--epochs": s.epochs, "--batch-size": s.batch_size, "--accumulate": s.accumulate}
    for option, number in {**numbers, "--patience": s.patience}.items():
        if number is not None and number < 1:
            raise InputError(f"{option} must be at least 1, but is {number}.")
    for option, value in {"--lr": lr, "--head-lr": s.head_lr, "--clip": s.clip}.items():
        if value is not None and not value > 0:
            raise InputError(f"{option} must be above 0, but is {value}.")
    if s.weight_decay < 0:
        raise InputError(f"--weight-decay must be at least 0, but is {s.weight_decay}.")
    if s.precision not in get_args(Precision):
        raise InputError(f"--precision {s.precision!r}. There are: {', '.join(get_args(Precision))}.")
    if batch_norm not in get_args(BatchNorm):
        raise InputError(f"--batch-norm {batch_norm!r}. There are: {', '.join(get_args(BatchNorm))}.")
    if batch_norm == "update" and s.accumulate > 1:
        raise InputError("--batch-norm update goes without --accumulate: each part of a step would have its own.")


def hashed(parts: Sequence[Any]) -> str:
    """Return a word that changes when any of some values does."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(np.asarray(part).tolist()).encode())
        digest.update(b"|")
    return digest.hexdigest()


def beside(target: Path) -> Path:
    """Return where what is done of a run is kept until it is whole."""
    target = target.resolve()
    return target.with_name(f".{target.name}.progress")


def peak_memory(team: Team) -> int | None:
    """Return the most bytes that tensors took on the GPU; None on a CPU."""
    return int(need("torch", "encoders").cuda.max_memory_allocated()) if team.device == "cuda" else None


@contextmanager
def memory_advice(settings: Settings) -> Iterator[None]:
    """Say what to lower when memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, need("torch", "encoders").OutOfMemoryError) or "allocate memory" in str(error):
            raise HeadError(
                f"out of memory: raise --accumulate (now {settings.accumulate}) to work on a step in more parts, pass "
                f"--checkpoint-gradients, or lower --batch-size (now {settings.batch_size})."
            ) from error
        raise
