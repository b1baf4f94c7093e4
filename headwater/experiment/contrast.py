"""Image and text encoders trained on pairs to find each other's, from their options to a run."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._progress import progress_bar
from headwater._shown import Shown
from headwater._words import aligned, counted
from headwater.embed import unique_texts
from headwater.embed.adapter import FOLDER, Adapter
from headwater.embed.joined import Joint
from headwater.embed.tunable import Tunable
from headwater.errors import InputError, SplitError, nearest
from headwater.evaluate import make_splits, score
from headwater.evaluate.positive import Positive, positive_of
from headwater.finetune.adapt import Adapted, BatchNorm, How, LoraSettings
from headwater.finetune.augment import parse_augmentation
from headwater.finetune.checkpoint import Progressed
from headwater.finetune.contrastive import ContrastiveLoss, Pairing, Pairs, Pairwise, embed_pairs, retrieval
from headwater.finetune.data import Rows, Source
from headwater.finetune.features import make
from headwater.finetune.loop import Settings, train_model
from headwater.finetune.options import beside, curve_table, hashed, memory_advice, peak_memory, refuse_settings
from headwater.finetune.reading import Asked, Input, load_encoders, members_of, read_contents, read_samples
from headwater.finetune.team import Team
from headwater.heads import Prompts, ZeroShot, mean_prompt, read_prompts
from headwater.heads._stopping import rows_to_stop_by
from headwater.runs.places import seen_from
from headwater.runs.positive import positive_section
from headwater.runs.run import CURVES, HEAD_FILES
from headwater.runs.words import class_lines, positive_lines
from headwater.runs.write import environment, parquet, to_json
from headwater.samples.classes import class_counts
from headwater.samples.columns import full_column, require_column
from headwater.samples.groups import group_column
from headwater.samples.missing import MissingRule
from headwater.store import Data, Modality

FIRST_SCALE = 1 / 0.07  # of cosines, as CLIP's training begins
SHOWN = ("image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5", "zero_shot_auc")


@dataclass(frozen=True, eq=False, repr=False)
class Contrasted(Shown):
    """What contrastive training gave: an encoder, and how well images and texts find each other by it.

    Attributes
    ----------
    path
        The directory that was written; None when none was.
    config, metrics
        What ``config.json`` and ``metrics.json`` hold.
    curves
        A row for each epoch.
    adapters
        What was trained of each encoder.
    joint
        What joins two encoders; None where one makes both.
    """

    path: Path | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    curves: pl.DataFrame
    adapters: Sequence[Adapter]
    joint: Joint | None = None

    def lines(self) -> list[str]:
        """Say in a few lines what came out."""
        m = self.metrics
        rows = [["", "before", "after"]]
        for name, value in m["test"].items():
            if name in SHOWN:
                rows.append([name, f"{m['before'][name]:.3f}", f"{value:.3f}"])
        title = f"contrastive, {counted(m['n_train'], 'pair')}; on {counted(m['n_test'], 'pair')} that were held out:"
        out = [title, *(f"  {line}" for line in aligned(rows))]
        out.append(f"  (of {m['n_test_texts']:,} distinct texts and {m['n_test_images']:,} images)")
        seen = [(m[f"n_test_{what}_in_training"], what) for what in ("images", "texts")]
        out += [f"  {n:,} of these {what} are among those to train on, too" for n, what in seen if n]
        if "class_counts" in m:
            out += ["", *class_lines(m["class_counts"])]
        out += positive_lines(Positive(**m["positive"]) if "positive" in m else None)
        if self.path is None:
            return [*out, "nothing was written; --out RUN keeps the encoder"]
        how = f"--adapter {self.path}" if self.joint is None else f"--encoder joined:{self.path}"
        return [*out, f"run in {self.path}; embed with it: headwater embed … {how}"]


@dataclass(frozen=True)
class Contrasting:
    """What was asked of one contrastive training; see `contrast`."""

    manifest: Path
    asked: Asked
    loss: ContrastiveLoss
    dim: int
    settings: Settings
    groups: str | None
    holdout: float
    split: str | None
    where: str | None
    allow_leakage: str | None
    prompts: str | None
    label: str | None
    missing_values: tuple[str, ...]
    augment: tuple[str, ...]
    batch_norm: BatchNorm
    lora: LoraSettings
    stop_share: float
    checkpoint_gradients: bool
    device: str

    def refuse(self) -> None:
        """Raise `InputError` for what needs no file to be refused."""
        if self.loss not in get_args(ContrastiveLoss):
            raise InputError(
                f"--loss {self.loss!r}.{nearest(self.loss, get_args(ContrastiveLoss))} There are: clip, siglip."
            )
        if (self.prompts is None) != (self.label is None):
            raise InputError("--prompts and --label go together: what describes each value of a column.")
        if self.settings.batch_size < 2:
            raise InputError(
                f"--batch-size must be at least 2, but is {self.settings.batch_size}: a step tells pairs apart."
            )
        if self.allow_leakage is not None and not self.allow_leakage.strip():
            raise InputError("--allow-leakage needs a reason in words: it is kept in metrics.json.")
        if all(h.kind == "none" for h in self.asked.how().values()):
            raise InputError("--train none leaves nothing to tune.")
        refuse_settings(self.settings, None, self.batch_norm)
        if not self.settings.lr > 0:
            raise InputError(f"--lr must be above 0, but is {self.settings.lr}.")
        self.lora.refuse()
        parse_augmentation(self.augment)

    @property
    def config(self) -> dict[str, Any]:
        """What the run is made of, as ``config.json`` has it; its features join it there."""
        own = {name: value for name, value in vars(self).items() if name not in ("asked", "settings", "lora")}
        return {
            "command": "fine-tune",
            "objective": "contrastive",
            **{name: list(v) if isinstance(v, tuple) else v for name, v in {**own, **vars(self.asked)}.items()},
            **asdict(self.settings),
            "manifest": str(self.manifest.absolute()),
            "groups": self.groups or "none",
            "holdout": None if self.split is not None else self.holdout,
            "lora": asdict(self.lora),
        }

    def run(self, target: Path | None, say: Callable[[str], None], *, bar: bool) -> Contrasted:
        """Read, train, test and write."""
        team = Team(self.device)
        if not team.leads:
            say, bar = (lambda line: None), False
        ready = self._read(bar)
        self._refuse_leakage(ready, say)
        say(
            f"{counted(len(ready.rows), 'pair')} to train on, {len(ready.stop):,} to stop by, "
            f"{len(ready.test):,} to test"
        )
        adapted, also = self._adapted(ready)
        image, text = self._sources(ready, team)
        model = self._pairing(ready, adapted, also, image, text, team)
        began = time.monotonic()
        before = self._tested(model, ready, team)
        checkpoint = None
        if target is not None:
            identity = {k: v for k, v in self.config.items() if k not in ("workers", "accumulate", "device")}
            identity["samples"] = hashed([ready.data.ids, ready.pairs.image, ready.pairs.text, ready.rows, ready.stop])
            identity["contents"] = [hashed([c.key for c in one.contents]) for one in ready.inputs]
            tuned_before = [getattr(one.encoder.tuned, "digest", None) for one in ready.inputs]
            identity["encoders"] = [[one.encoder.weights for one in ready.inputs], tuned_before]
            if team.leads:
                Progressed(beside(target), identity)
            team.wait()
            checkpoint = Progressed(beside(target), identity).checkpoint("pairs")
        total = self.settings.epochs * len(ready.rows)
        with progress_bar("tune", total, unit="pairs", show=bar) as update, memory_advice(self.settings):
            tuned = train_model(
                model,
                Pairwise(model, ready.pairs, self.loss, self.settings, team),
                ready.rows,
                ready.stop,
                self.settings,
                checkpoint=checkpoint,
                team=team,
                progress=update,
            )
        for name, parameter in also.items():
            parameter.data.copy_(model.own[name].detach())
        after = self._tested(model, ready, team)
        trained, every = (sum(numbers) for numbers in zip(*(part.n_parameters for part in adapted), strict=True))
        metrics = {
            "task": "retrieval",
            **ready.counts,
            "leakage": {"allowed": self.allow_leakage},
            "before": before,
            "test": after,
            "epochs": tuned.n_epochs,
            "selection": {"epochs_by": "loss on pairs held out of those to train on" if len(ready.stop) else None},
            "training": {
                "of_the_encoder": trained,
                "encoder_parameters": every,
                "seconds": time.monotonic() - began,
                "peak_memory_bytes": peak_memory(team),
                "processes": team.size,
            },
        }
        if ready.truth is not None:
            unit = None if ready.group_column is None else ready.data.table[ready.group_column].to_numpy()
            classes = sorted(set(ready.truth.tolist()))
            metrics["class_counts"] = class_counts(ready.truth, classes, unit)
            metrics |= positive_section(positive_of(classes) if len(classes) == 2 else None)
        config = self.config | {
            "groups": ready.group_column or "none",
            "features": {one.name: one.encoder.spec(one.modality, "float32").to_dict() for one in ready.inputs},
            "trained_parameters": {part.encoder.name: part.trained for part in adapted},
            "environment": environment(),
        }
        adapters = [part.adapter() for part in adapted]
        joint = self._joint(ready, adapted, model)
        done = Contrasted(target, config, metrics, curve_table(vars(tuned.curve), 0), adapters, joint)
        if team.leads and target is not None:
            _write(target, done)
            shutil.rmtree(beside(target), ignore_errors=True)
        team.wait()
        return done

    def _refuse_leakage(self, ready: Ready, say: Callable[[str], None]) -> None:
        """Refuse images that are tested and trained on, unless they are allowed; groups were kept whole before."""
        n = ready.counts["n_test_images_in_training"]
        if not n:
            return
        leak = f"{counted(n, 'identical image')} on both sides"
        if self.allow_leakage is None:
            raise SplitError(
                f"the split leaks: {leak} ({ready.named_shared()}). Pass --groups COL that keeps copies together "
                "(headwater audit lists them), or --allow-leakage REASON."
            )
        say(f"allowed ({self.allow_leakage}): {leak}")

    def _adapted(self, ready: Ready) -> tuple[list[Adapted], dict[str, Any]]:
        """Return the encoders that are trained, and the scale and bias of cosines where an encoder has its own."""
        how = self.asked.how()
        of_encoder: dict[int, tuple[Tunable[Any], dict[Modality, How]]] = {}
        for one in ready.inputs:
            of_encoder.setdefault(id(one.encoder), (one.encoder, {}))[1][one.modality] = how[one.modality]
        also: dict[str, Any] = {}
        adapted = []
        for encoder, ways in of_encoder.values():
            trained = {modality: way for modality, way in ways.items() if way.kind != "none"}
            if not trained:
                continue
            if self.checkpoint_gradients and not encoder.checkpoint_gradients():
                raise InputError(f"{encoder.name} cannot compute gradients in parts: leave --checkpoint-gradients out.")
            if ready.is_dual:
                own = dict(encoder.module.named_parameters())
                also = {name: own[name] for name in ("logit_scale", "logit_bias") if name in own}
            adapted.append(Adapted(encoder, trained, self.lora, self.batch_norm, self.settings.seed, list(also)))
        return adapted, also

    def _pairing(
        self,
        ready: Ready,
        adapted: Sequence[Adapted],
        also: Mapping[str, Any],
        image: Source,
        text: Source,
        team: Team,
    ) -> Pairing:
        specs = [one.encoder.spec(one.modality, "float32") for one in (image, text)]
        first_bias = -10.0 if self.loss == "siglip" else 0.0
        return Pairing(
            adapted,
            image,
            text,
            joined=None if ready.is_dual else (specs[0].dim, specs[1].dim, self.dim),
            logit_scale=(specs[0].logit_scale if ready.is_dual else None) or FIRST_SCALE,
            logit_bias=float(also["logit_bias"].detach()) if "logit_bias" in also else first_bias,
            device=team.device,
            seed=self.settings.seed,
        )

    def _joint(self, ready: Ready, adapted: Sequence[Adapted], model: Pairing) -> Joint | None:
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

    def _read(self, bar: bool) -> Ready:
        """Read the manifest, load the encoder, and divide the pairs."""
        table, samples = read_samples(self.manifest, self.asked, self.where)
        if table.text is None or table.image is None:
            raise InputError(
                "contrastive training needs an image and a text of each sample: name columns with --image and --text."
            )
        group = group_column(samples, self.groups)
        for option, column in (("--groups", group), ("--split", self.split), ("--label", self.label)):
            if column is not None:
                require_column(samples, column, option)
        encoders = load_encoders(replace(self.asked, text=table.text), table, tokens=False, device=self.device)
        if set(encoders) != {"image", "text"}:
            raise InputError(
                "contrastive training needs a dual encoder, which reads images and texts, such as open_clip:… or "
                "hf:…, or two encoders."
            )
        how = self.asked.how()
        if encoders["image"] is not encoders["text"]:
            for modality, encoder in encoders.items():
                if encoder.tuned is not None and how[modality].kind == "none":
                    raise InputError(
                        f"--train {modality}=none keeps what --adapter {self.asked.adapter} brought, which two joined "
                        "encoders cannot hold: train it too, or leave --adapter out."
                    )
        inputs, data = read_contents(table, encoders, how, self.settings.workers, bar)
        place = {one.modality: np.concatenate(members_of(data)[one.name]) for one in inputs}
        labels = () if self.label is None else (self.label,)
        rule = MissingRule(self.missing_values, labels, (group,), ids=table.id)
        missing = rule.found(data.table)
        data = rule.applied(data)
        unit = None if group is None else full_column(data, group, "--groups", missing)
        given = None if self.split is None else full_column(data, self.split, "--split")
        seed = self.settings.seed
        tested = make_splits(
            np.resize([0, 1], len(data.ids)),  # there is no class to keep in proportion
            groups=unit,
            split=given,
            holdout=self.holdout if given is None else None,
            seed=seed,
        )[0]
        stop = np.zeros(0, np.int64)
        if self.settings.patience is not None:
            of_rows = None if unit is None else unit[tested.train]
            stop = tested.train[rows_to_stop_by(np.zeros(len(tested.train), int), of_rows, self.stop_share, seed)]
        truth = None if self.label is None else full_column(data, self.label, "--label", missing).astype(str)
        pairs = Pairs(place["image"], place["text"])
        rows = np.setdiff1d(tested.train, stop)
        return Ready(inputs, data, pairs, rows, stop, tested.test, truth, group)

    def _sources(self, ready: Ready, team: Team) -> list[Source]:
        """Return what each tower reads; one that is locked is run once."""
        found = {}
        for one in ready.inputs:
            stored = None
            if one.how.kind == "none":
                size, workers = self.settings.batch_size, self.settings.workers
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
            found[one.modality] = Source(
                one.name,
                one.encoder,
                one.modality,
                one.contents,
                list(numbers[:, None]),
                False,
                parse_augmentation(self.augment) if one.modality == "image" else None,
                stored,
            )
        return [found["image"], found["text"]]

    def _tested(self, model: Pairing, ready: Ready, team: Team) -> dict[str, float]:
        """Return how well the test pairs are found, and the test images classified by prompts."""
        images, texts = embed_pairs(model, ready.test, self.settings, team)
        found = retrieval(images, texts, ready.pairs, ready.test)
        if self.prompts is not None and ready.truth is not None:
            scale = math.exp(float(model.own["logit_scale"].detach()))
            project = model.own["project_text"].detach().cpu().numpy() if not ready.is_dual else None
            reader = next(one.encoder for one in ready.inputs if one.modality == "text")
            wording, truth = read_prompts(self.prompts), ready.truth[ready.test]
            found |= _zero_shot(reader, project, wording, images, truth, scale)
        return found


@dataclass(frozen=True, eq=False)
class Ready:
    """All that training reads, and how its rows are divided."""

    inputs: Sequence[Input]
    data: Data
    pairs: Pairs
    rows: Rows
    stop: Rows
    test: Rows
    truth: NDArray[np.str_] | None
    group_column: str | None

    def _shared(self, numbers: NDArray[np.int64]) -> int:
        """Return how many distinct contents of test pairs are among those to train on, or to stop by."""
        seen = np.concatenate([self.rows, self.stop])
        return len(np.intersect1d(numbers[self.test], numbers[seen]))

    def named_shared(self) -> str:
        """Name a sample to test by whose image is among those to train on, and one that has it there."""
        seen = np.concatenate([self.rows, self.stop])
        image = self.pairs.image
        tested = next(row for row in self.test if image[row] in image[seen])
        trained = next(row for row in seen if image[row] == image[tested])
        return f"{str(self.data.ids[tested])!r} and {str(self.data.ids[trained])!r}"

    @property
    def is_dual(self) -> bool:
        """Whether one encoder makes both."""
        return self.inputs[0].encoder is self.inputs[1].encoder

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs there are of each kind, and how many distinct images and texts are tested."""
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
    """Return the accuracy and AUC of images classified by their prompts."""
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


def _write(target: Path, done: Contrasted) -> None:
    """Write the run, its metrics last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (*HEAD_FILES, "predictions.parquet", "metrics.json"):  # of another run that was here
        (target / name).unlink(missing_ok=True)
    (target / "config.json").write_text(to_json(seen_from(target, done.config)))
    shutil.rmtree(target / FOLDER, ignore_errors=True)
    for number, adapter in enumerate(done.adapters):
        (target / FOLDER / str(number)).mkdir(parents=True)
        adapter.write(target / FOLDER / str(number))
    if done.joint is not None:
        done.joint.write(target)
    (target / CURVES).write_bytes(parquet(done.curves))
    (target / "metrics.json").write_text(json.dumps(done.metrics, indent=2) + "\n")
