"""Contrastive training of image and text encoders on pairs, from options to a run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import one_of, refuse_idle, require_whole
from headwater._progress import Progress, counting, silent
from headwater._shown import Shown
from headwater._words import aligned, counted
from headwater.embed import unique_texts
from headwater.embed.adapter import Adapter
from headwater.embed.joined import Joint
from headwater.embed.tunable import Tunable
from headwater.errors import InputError, SplitError
from headwater.evaluate import Split, make_splits, score
from headwater.evaluate.options import Protocol
from headwater.evaluate.positive import Positive, positive_of
from headwater.experiment.leakage import Leakage, check_leakage, require_reason
from headwater.experiment.prompts import ClassPrompts
from headwater.finetune.adapt import Adapted, TrainMode
from headwater.finetune.augment import parse_augmentation
from headwater.finetune.checkpoint import Progressed
from headwater.finetune.contrastive import ContrastiveLoss, Pairing, Pairs, Pairwise, embed_pairs, retrieval
from headwater.finetune.data import InputSource, Rows
from headwater.finetune.features import make
from headwater.finetune.loop import LoopSettings, Tuned, train_model
from headwater.finetune.options import Training, beside, curve_table, hashed, memory_advice, peak_memory, progress_of
from headwater.finetune.reading import TunedEncoders, TunedInput, load_encoders, members_of, read_contents, read_samples
from headwater.finetune.team import Team
from headwater.heads import Prompts, ZeroShot, mean_prompt, read_prompts
from headwater.heads._stopping import rows_to_stop_by
from headwater.runs.positive import positive_section
from headwater.runs.printed import class_lines, positive_lines
from headwater.runs.run import CURVES
from headwater.runs.write import environment, parquet, write_adapters, write_whole
from headwater.samples.classes import class_counts
from headwater.samples.columns import full_column, require_column
from headwater.samples.groups import group_column
from headwater.samples.selection import Selection
from headwater.sources import Manifest
from headwater.store import Data, Modality

DIM = 256  # default length of joint vectors
HOLDOUT = 0.2  # default share of test pairs
FIRST_SCALE = 1 / 0.07  # initial logit scale of CLIP
SHOWN = ("image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5", "zero_shot_auc")


@dataclass(frozen=True, eq=False, repr=False)
class Contrasted(Shown):
    """The result of contrastive training: an encoder, and its image-text retrieval on test pairs.

    Attributes
    ----------
    path
        The run directory; None when not written.
    config, metrics
        Contents of ``config.json`` and ``metrics.json``.
    curves
        One row per epoch.
    adapters
        Trained weights of each encoder.
    joint
        Projections that join two encoders; None for one dual encoder.
    """

    path: Path | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    curves: pl.DataFrame
    adapters: Sequence[Adapter]
    joint: Joint | None = None

    def write(self, target: Path) -> None:
        """Write a run directory."""

        def write_more(folder: Path) -> None:
            write_adapters(folder, self.adapters)
            if self.joint is not None:
                self.joint.write(folder)

        write_whole(target, self.config, self.metrics, {CURVES: parquet(self.curves)}, write_more)

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        m = self.metrics
        rows = [["", "before", "after"]]
        for name, value in m["test"].items():
            if name in SHOWN:
                rows.append([name, f"{m['before'][name]:.3f}", f"{value:.3f}"])
        title = f"contrastive, {counted(m['n_train'], 'training pair')}; on {counted(m['n_test'], 'test pair')}:"
        out = [title, *(f"  {line}" for line in aligned(rows))]
        out.append(f"  ({m['n_test_texts']:,} distinct texts and {m['n_test_images']:,} distinct images)")
        seen = [(m[f"n_test_{what}_in_training"], what) for what in ("images", "texts")]
        out += [f"  {n:,} of these {what} are also in the training pairs" for n, what in seen if n]
        if "class_counts" in m:
            out += ["", *class_lines(m["class_counts"])]
        out += positive_lines(Positive(**m["positive"]) if "positive" in m else None)
        if self.path is None:
            return [*out, "nothing written; --out RUN keeps the encoder"]
        how = f"--adapter {self.path}" if self.joint is None else f"--encoder joined:{self.path}"
        return [*out, f"run in {self.path}; embed with it: headwater embed … {how}"]


@dataclass(frozen=True)
class ContrastPlan:
    """Options of one contrastive training; see `headwater.api.contrast`."""

    manifest: Path
    encoders: TunedEncoders
    loss: ContrastiveLoss
    dim: int | None
    protocol: Protocol
    selection: Selection
    training: Training
    allow_leakage: str | None
    prompts: str | None
    label: str | None
    label_sql: Mapping[str, str] = field(default_factory=dict)

    def refuse(self) -> None:
        """Raise `InputError` for invalid options, before any file is read."""
        one_of("--loss", self.loss, get_args(ContrastiveLoss))
        if (self.prompts is None) != (self.label is None):
            raise InputError("--prompts and --label go together: the prompts describe the values of the label column.")
        if self.training.batch_size < 2:
            raise InputError(
                f"--batch-size must be at least 2, but is {self.training.batch_size}: the contrastive loss needs at "
                "least two pairs per step."
            )
        if self.dim is not None:
            refuse_idle({"--dim": len(self.encoders.encoders) == 1}, "goes with two encoders, which it joins.")
            require_whole("--dim", self.dim, 1)
        require_reason(self.allow_leakage)
        self.protocol.refuse()
        self.training.refuse()

    @property
    def joint_dim(self) -> int:
        """The length of the vectors that two encoders are projected to."""
        return DIM if self.dim is None else self.dim

    @property
    def holdout(self) -> float | None:
        """The share of test pairs; None if a column defines the split."""
        if self.protocol.split is not None:
            return None
        return HOLDOUT if self.protocol.holdout is None else self.protocol.holdout

    @property
    def settings(self) -> LoopSettings:
        """The settings of the training loop."""
        kinds = sorted({mode.kind for mode in self.training.modes.values()} - {"none"})
        return self.training.settings(self.protocol.seed, kinds)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration for ``config.json``, to which the features are added."""
        training = self.training.config(self.protocol.seed)
        selection = self.selection.to_dict()
        return {
            "command": "contrast",
            **self.encoders.to_dict(),
            "loss": self.loss,
            "dim": self.joint_dim,
            **{name: value for name, value in training.items() if name not in ("start", "refit")},
            "lr": self.settings.lr,
            "manifest": str(self.manifest.absolute()),
            "groups": self.protocol.groups or "none",
            "holdout": self.holdout,
            "split": self.protocol.split,
            **{name: selection[name] for name in ("where", "missing_values")},
            "allow_leakage": self.allow_leakage,
            "prompts": self.prompts,
            "label": self.label,
            **({"label_sql": dict(self.label_sql)} if self.label_sql else {}),
        }

    def run(self, target: Path | None, say: Progress) -> Contrasted:
        """Read, train, test and write."""
        team = Team(self.training.device)
        if not team.leads:
            say = silent
        ready = self._read(say)
        leakage = self._leakage(ready, say)
        say(
            f"{counted(len(ready.rows), 'training pair')}, {len(ready.stop):,} for early stopping, "
            f"{len(ready.test):,} test pairs"
        )
        adapted, also = self._adapted(ready)
        image, text = self._sources(ready, team)
        model = self._pairing(ready, adapted, also, image, text, team)
        began = time.monotonic()
        before = self._tested(model, ready, team)
        tuned = self._trained(model, ready, progress_of(target, self._identity(ready), team), team, say)
        for name, parameter in also.items():
            parameter.data.copy_(model.own[name].detach())
        after = self._tested(model, ready, team)
        trained, every = (sum(numbers) for numbers in zip(*(part.n_parameters for part in adapted), strict=True))
        metrics = {
            "task": "retrieval",
            **ready.counts,
            "leakage": leakage,
            "before": before,
            "test": after,
            "epochs": tuned.n_epochs,
            "selection": {"epochs_by": "loss on pairs held out of the training pairs" if len(ready.stop) else None},
            "training": {
                "of_the_encoder": trained,
                "encoder_parameters": every,
                "seconds": time.monotonic() - began,
                "peak_memory_bytes": peak_memory(team),
                "processes": team.size,
            },
            **ready.classes,
        }
        config = self.config | {
            "groups": ready.group_column or "none",
            "features": {one.name: one.spec.to_dict() for one in ready.inputs},
            "trained_parameters": {part.encoder.name: part.trained for part in adapted},
            "environment": environment(),
        }
        adapters = [part.adapter() for part in adapted]
        joint = self._joint(ready, adapted, model)
        done = Contrasted(target, config, metrics, curve_table(vars(tuned.curve), 0), adapters, joint)
        if team.leads and target is not None:
            done.write(target)
            shutil.rmtree(beside(target), ignore_errors=True)
        team.wait()
        return done

    def _identity(self, ready: PairData) -> dict[str, Any]:
        """Return everything that must be unchanged for a stopped run to be continued."""
        identity = {k: v for k, v in self.config.items() if k not in ("workers", "accumulate", "device")}
        identity["samples"] = hashed([ready.data.ids, ready.pairs.image, ready.pairs.text, ready.rows, ready.stop])
        identity["contents"] = [hashed([c.key for c in one.contents]) for one in ready.inputs]
        tuned_before = [getattr(one.encoder.tuned, "digest", None) for one in ready.inputs]
        identity["encoders"] = [[one.encoder.weights for one in ready.inputs], tuned_before]
        return identity

    def _trained(
        self, model: Pairing, ready: PairData, progressed: Progressed | None, team: Team, say: Progress
    ) -> Tuned:
        """Train on the pairs, and leave the model in the state with the lowest stopping loss."""
        total = self.training.epochs * len(ready.rows)
        with counting(say, "tune", total, unit="pairs") as update, memory_advice(self.training):
            return train_model(
                model,
                Pairwise(model, ready.pairs, self.loss, self.settings, team),
                ready.rows,
                ready.stop,
                self.settings,
                checkpoint=None if progressed is None else progressed.checkpoint("pairs"),
                team=team,
                progress=update,
            )

    def _leakage(self, ready: PairData, say: Progress) -> Leakage:
        """Refuse identical images and divided groups across train and test, as `fit_head` does."""
        split = Split(0, np.concatenate([ready.rows, ready.stop]), ready.test)
        return check_leakage(
            replace(ready.data, inputs={}),
            [split],
            groups=ready.groups,
            group_column=ready.group_column,
            allowed=self.allow_leakage,
            kinds=("image", "text"),
            say=say,
        )

    def _adapted(self, ready: PairData) -> tuple[list[Adapted], dict[str, Any]]:
        """Return the encoders to train, and the encoder's own logit scale and bias, if it has them."""
        how = self.training.modes
        of_encoder: dict[int, tuple[Tunable[Any], dict[Modality, TrainMode]]] = {}
        for one in ready.inputs:
            of_encoder.setdefault(id(one.encoder), (one.encoder, {}))[1][one.modality] = how[one.modality]
        also: dict[str, Any] = {}
        adapted = []
        for encoder, ways in of_encoder.values():
            trained = {modality: way for modality, way in ways.items() if way.kind != "none"}
            if not trained:
                continue
            if self.training.checkpoint_gradients and not encoder.checkpoint_gradients():
                raise InputError(
                    f"{encoder.name} does not support gradient checkpointing: leave --checkpoint-gradients out."
                )
            if ready.is_dual:
                own = dict(encoder.module.named_parameters())
                also = {name: own[name] for name in ("logit_scale", "logit_bias") if name in own}
            adapted.append(
                Adapted(encoder, trained, self.training.lora, self.training.batch_norm, self.protocol.seed, list(also))
            )
        return adapted, also

    def _pairing(
        self,
        ready: PairData,
        adapted: Sequence[Adapted],
        also: Mapping[str, Any],
        image: InputSource,
        text: InputSource,
        team: Team,
    ) -> Pairing:
        specs = [one.encoder.spec(one.modality, "float32") for one in (image, text)]
        first_bias = -10.0 if self.loss == "siglip" else 0.0
        return Pairing(
            adapted,
            image,
            text,
            joined=None if ready.is_dual else (specs[0].dim, specs[1].dim, self.joint_dim),
            logit_scale=(specs[0].logit_scale if ready.is_dual else None) or FIRST_SCALE,
            logit_bias=float(also["logit_bias"].detach()) if "logit_bias" in also else first_bias,
            device=team.device,
            seed=self.protocol.seed,
        )

    def _joint(self, ready: PairData, adapted: Sequence[Adapted], model: Pairing) -> Joint | None:
        if ready.is_dual:
            return None
        number = {id(part.encoder): i for i, part in enumerate(adapted)}
        parts: dict[str, dict[str, Any]] = {
            one.modality: {
                "encoder": one.encoder.name,
                "weights": one.encoder.environment().get("weights_file"),
                "adapter": number.get(id(one.encoder)),
                "steps": [] if one.encoder.steps is None else list(one.encoder.steps.names),
                "image_size": None if one.encoder.image_size is None else list(one.encoder.image_size),
            }
            for one in ready.inputs
        }
        own = {name: model.own[f"project_{name}"].detach().cpu().numpy() for name in ("image", "text")}
        return Joint(parts, own, math.exp(float(model.own["logit_scale"].detach())))

    def _read(self, say: Progress) -> PairData:
        """Read the prompts and the manifest, load the encoders, and split the pairs."""
        prompts = None if self.prompts is None else read_prompts(self.prompts)
        table, samples = read_samples(self.manifest, self.encoders.columns, self.selection.where, self.label_sql)
        if table.text is None or table.image is None:
            raise InputError(
                "contrastive training needs an image and a text for each sample: name columns with --image and --text."
            )
        group, split = group_column(samples, self.protocol.groups), self.protocol.split
        for option, column in (("--groups", group), ("--split", split), ("--label", self.label)):
            if column is not None:
                require_column(samples, column, option)
        inputs, data = self._contents(table, say)
        place = {one.modality: np.concatenate(members_of(data)[one.name]) for one in inputs}
        labels = () if self.label is None else (self.label,)
        rule = self.selection.rule(labels, Protocol(groups=group), table.id)
        missing = rule.found(data.table)
        data = rule.applied(data)
        unit = None if group is None else full_column(data, group, "--groups", missing)
        given = None if split is None else full_column(data, split, "--split")
        seed = self.protocol.seed
        splits = make_splits(
            np.resize([0, 1], len(data.ids)),  # no classes to stratify by
            groups=unit,
            split=given,
            holdout=self.holdout,
            seed=seed,
        )
        if len(splits) > 1:
            raise SplitError(
                f"--split {split} numbers {len(splits)} folds, but contrast trains once: name a column with train and "
                "test, or pass --holdout."
            )
        tested = splits[0]
        stop = np.zeros(0, np.int64)
        if self.training.patience is not None:
            of_rows = None if unit is None else unit[tested.train]
            classes, share = np.zeros(len(tested.train), int), self.training.stop_share
            stop = tested.train[rows_to_stop_by(classes, of_rows, share, seed)]
        truth = None if self.label is None else full_column(data, self.label, "--label", missing).astype(str)
        if prompts is not None and truth is not None:
            ClassPrompts(prompts, {}, 1.0).require(truth.tolist(), str(self.prompts))
        pairs = Pairs(place["image"], place["text"])
        rows = np.setdiff1d(tested.train, stop)
        return PairData(inputs, data, pairs, rows, stop, tested.test, truth, prompts, group, unit)

    def _contents(self, table: Manifest, say: Progress) -> tuple[list[TunedInput], Data]:
        """Load the encoders, and read every image and text to compute its key."""
        named = replace(self.encoders, columns=replace(self.encoders.columns, text=table.text))
        encoders = load_encoders(named, table, self.training, tokens=False)
        if set(encoders) != {"image", "text"}:
            raise InputError(
                "contrastive training needs a dual encoder for images and texts, such as open_clip:… or hf:…, or two "
                "encoders."
            )
        modes = self.training.modes
        if encoders["image"] is not encoders["text"]:
            for modality, encoder in encoders.items():
                if encoder.tuned is not None and modes[modality].kind == "none":
                    raise InputError(
                        f"--train {modality}=none with --adapter {self.encoders.choice.adapter}: two joined encoders "
                        "cannot keep an adapter that is not trained. Train it too, or leave --adapter out."
                    )
        return read_contents(table, encoders, modes, self.training.workers, say)

    def _sources(self, ready: PairData, team: Team) -> list[InputSource]:
        """Return the input of each tower; a frozen tower encodes its contents once."""
        found = {}
        for one in ready.inputs:
            stored = None
            if one.how.kind == "none":
                size, workers = self.training.batch_size, self.training.workers
                made = make(
                    one.encoder, one.modality, one.contents, tokens=False, batch_size=size, workers=workers, team=team
                )
                if made.failed:
                    number, why = next(iter(made.failed.items()))
                    raise InputError(
                        f"{counted(len(made.failed), one.modality)} cannot be read, such as "
                        f"{one.contents[number].source} ({why}): leave them out with --where."
                    )
                stored = made.stored()
            numbers = ready.pairs.image if one.modality == "image" else ready.pairs.text
            found[one.modality] = InputSource(
                one.name,
                one.encoder,
                one.modality,
                one.contents,
                list(numbers[:, None]),
                False,
                parse_augmentation(self.training.augment) if one.modality == "image" else None,
                stored,
            )
        return [found["image"], found["text"]]

    def _tested(self, model: Pairing, ready: PairData, team: Team) -> dict[str, float]:
        """Return retrieval metrics on the test pairs, and zero-shot metrics on the test images if there are prompts."""
        images, texts = embed_pairs(model, ready.test, self.settings, team)
        found = retrieval(images, texts, ready.pairs, ready.test)
        if ready.prompts is not None and ready.truth is not None:
            scale = math.exp(float(model.own["logit_scale"].detach()))
            project = model.own["project_text"].detach().cpu().numpy() if not ready.is_dual else None
            reader = next(one.encoder for one in ready.inputs if one.modality == "text")
            found |= _zero_shot(reader, project, ready.prompts, images, ready.truth[ready.test], scale)
        return found


@dataclass(frozen=True, eq=False)
class PairData:
    """The data for training, and the split of its rows."""

    inputs: Sequence[TunedInput]
    data: Data
    pairs: Pairs
    rows: Rows
    stop: Rows
    test: Rows
    truth: NDArray[np.str_] | None
    prompts: Prompts | None
    group_column: str | None
    groups: NDArray[Any] | None

    def _shared(self, numbers: NDArray[np.int64]) -> int:
        """Return how many distinct contents of test pairs are also in the training or stopping pairs."""
        seen = np.concatenate([self.rows, self.stop])
        return len(np.intersect1d(numbers[self.test], numbers[seen]))

    @property
    def is_dual(self) -> bool:
        """Whether one encoder encodes both images and texts."""
        return self.inputs[0].encoder is self.inputs[1].encoder

    @property
    def classes(self) -> dict[str, Any]:
        """The section of ``metrics.json`` on the label's classes; empty without a label."""
        if self.truth is None:
            return {}
        classes = sorted(set(self.truth.tolist()))
        positive = positive_of(classes) if len(classes) == 2 else None
        return {"class_counts": class_counts(self.truth, classes, self.groups), **positive_section(positive)}

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of training, stopping and test pairs, and of distinct test images and texts."""
        return {
            "n_samples": len(self.data.ids),
            "n_train": len(self.rows),
            "n_stop": len(self.stop),
            "n_test": len(self.test),
            "n_test_images": len(np.unique(self.pairs.image[self.test])),
            "n_test_texts": len(np.unique(self.pairs.text[self.test])),
            "n_test_images_in_training": self._shared(self.pairs.image),
            "n_test_texts_in_training": self._shared(self.pairs.text),
        }


def _zero_shot(
    encoder: Any,
    project: NDArray[np.float32] | None,
    prompts: Prompts,
    images: NDArray[np.float32],
    truth: NDArray[Any],
    scale: float,
) -> dict[str, float]:
    """Return the accuracy and AUC of zero-shot classification of images by prompts."""
    contents, _ = unique_texts(prompts.texts)
    vectors = encoder.encode("text", [encoder.prepare("text", content) for content in contents]).pooled
    vectors = vectors if project is None else vectors @ project.T
    of_text = {str(content.source): v for content, v in zip(contents, vectors, strict=True)}
    classes = sorted(prompts.classes)
    means = np.stack([mean_prompt(np.stack([of_text[t] for t in prompts.texts_of(name)])) for name in classes])
    scores = ZeroShot(means, classes, scale).predict_proba(images)
    task = "binary" if len(classes) == 2 else "multiclass"
    found = score(task, truth, scores, classes=np.array(classes))  # type: ignore[arg-type]
    return {"zero_shot_accuracy": found["accuracy"], "zero_shot_auc": found["auc"]}
