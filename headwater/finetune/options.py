"""Options for training an encoder, and helpers shared by fine-tuning and contrastive training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from headwater._checks import one_of, refuse_idle, require_number, require_whole
from headwater._devices import Device, Precision
from headwater._extras import need
from headwater._options import as_tuple, fields_given, option_of
from headwater.errors import HeadError, InputError
from headwater.finetune.adapt import BatchNorm, LoraSettings, TrainMode, parse_train_mode
from headwater.finetune.augment import parse_augmentation
from headwater.finetune.checkpoint import Progressed
from headwater.finetune.loop import LoopSettings
from headwater.finetune.team import Team
from headwater.store import MODALITIES, Modality

LEARNING_RATES = {"lora": 2e-4, "last": 2e-5, "full": 1e-5, "none": 1e-5}
"""Default learning rates of the encoder, by how it is trained."""
MOST_STOP_SHARE = 0.5
Start = Literal["probe", "random"]


@dataclass(frozen=True)
class Training:
    """The part of an encoder that is trained, and how.

    Attributes
    ----------
    train
        ``lora``, ``last-N``, ``full`` or ``none``, for all inputs; or ``image=lora`` and ``text=none``, for each.
        Inputs with ``none`` are encoded once.
    start
        ``probe`` starts from the head fitted on frozen features; ``random`` from a randomly initialised head.
    lora
        Rank, scale, dropout and layers of low-rank adapters.
    lr, head_lr
        Peak learning rates: of the encoder (default 2e-4 for LoRA, 2e-5 for last blocks and 1e-5 for full), and of the
        head. In contrastive training the latter is for the logit scale and the projections.
    weight_decay
        Weight decay of matrices; biases, norms and other vectors are not decayed.
    epochs, warmup
        Most epochs, and epochs of linear warm-up; then the learning rates follow a half cosine.
    batch_size, accumulate
        Rows (or pairs) per step, and the number of parts in which a step is computed to save memory, with the same
        result.
    patience
        Stop after this many epochs without a lower loss on the held-out rows, and keep the state with the lowest loss.
        None holds out nothing and trains for all epochs.
    stop_share
        Share of the training rows to hold out for early stopping, at most 0.5, in whole groups.
    clip
        The largest norm of a step's gradient.
    augment
        Families of random augmentation; see `headwater.finetune.augment.Augmentation`.
    batch_norm
        ``keep`` leaves the statistics of batch norms unchanged; ``update`` uses those of each batch.
    checkpoint_gradients
        Compute activations again in the backward pass instead of storing them: less memory, more time.
    precision, device, workers
        How to compute: ``auto``, ``fp32``, ``bf16`` or ``fp16``; ``auto``, ``cpu`` or ``cuda``; threads that read
        images, None for one per core.
    refit
        Whether to train once more on all rows, for the encoder and head that the run saves; otherwise it saves those of
        the first fold.
    """

    train: Sequence[str] = ("lora",)
    start: Start = "probe"
    lora: LoraSettings = field(default_factory=LoraSettings)
    lr: float | None = None
    head_lr: float = 1e-4
    weight_decay: float = 1e-4
    epochs: int = 30
    warmup: float = 1.0
    batch_size: int = 32
    accumulate: int = 1
    patience: int | None = 5
    stop_share: float = 0.15
    clip: float = 1.0
    augment: Sequence[str] = ()
    batch_norm: BatchNorm = "keep"
    checkpoint_gradients: bool = False
    precision: Precision = "auto"
    device: str = "auto"
    workers: int | None = None
    refit: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", as_tuple(self.train))
        object.__setattr__(self, "augment", (self.augment,) if isinstance(self.augment, str) else tuple(self.augment))

    @property
    def modes(self) -> dict[Modality, TrainMode]:
        """How each modality is trained.

        Raises
        ------
        InputError
            When a modality is set twice, or in an unknown way.
        """
        found: dict[Modality, TrainMode] = {}
        general: TrainMode | None = None
        for word in self.train:
            modality, _, way = word.rpartition("=")
            if not modality:
                if general is not None:
                    raise InputError("--train is given twice: use --train image=… and --train text=….")
                general = parse_train_mode(way)
                continue
            if modality not in MODALITIES:
                raise InputError(f"--train {word!r}: {modality!r} is neither image nor text nor pair.")
            found[modality] = parse_train_mode(way)
        return {m: found.get(m, general or TrainMode("none" if found else "lora")) for m in MODALITIES}

    def settings(self, seed: int, kinds: Sequence[str]) -> LoopSettings:
        """Return the settings of the training loop, given how the inputs are trained."""
        lr = min((LEARNING_RATES[kind] for kind in kinds), default=1.0) if self.lr is None else self.lr
        return LoopSettings(
            lr=lr,
            head_lr=self.head_lr,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            warmup=min(self.warmup, self.epochs / 2),
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            patience=self.patience,
            clip=self.clip,
            precision=self.precision,
            seed=seed,
            workers=self.workers,
        )

    def config(self, seed: int) -> dict[str, Any]:
        """Return the options for ``config.json``."""
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()},
            "lora": vars(self.lora),
            "warmup": min(self.warmup, self.epochs / 2),
            "seed": seed,
        }

    def refuse(self) -> None:
        """Raise `InputError` for invalid settings."""
        self.lora.refuse()
        parse_augmentation(self.augment)
        kinds = {mode.kind for mode in self.modes.values()}
        if kinds == {"none"}:
            raise InputError("--train none leaves nothing to tune: run headwater embed, then headwater fit-head.")
        if "lora" not in kinds:
            idle = {option_of(f"lora_{name}"): True for name in fields_given(self.lora)}
            refuse_idle(idle, f"goes with --train lora, but --train is {' and '.join(self.train)}.")
        one_of("--start", self.start, get_args(Start))
        one_of("--precision", self.precision, get_args(Precision))
        one_of("--device", self.device, get_args(Device))
        one_of("--batch-norm", self.batch_norm, get_args(BatchNorm))
        for name in ("epochs", "batch_size", "accumulate", "patience", "workers"):
            if (number := getattr(self, name)) is not None or name not in ("patience", "workers"):
                require_whole(option_of(name), number, 1)
        for name in ("head_lr", "clip") if self.lr is None else ("lr", "head_lr", "clip"):
            require_number(option_of(name), getattr(self, name), above=0)
        for name in ("weight_decay", "warmup"):
            require_number(option_of(name), getattr(self, name))
        require_number("stop_share", self.stop_share, above=0)
        if self.stop_share > MOST_STOP_SHARE:
            raise InputError(f"stop_share must be at most {MOST_STOP_SHARE}, but is {self.stop_share}.")
        if self.batch_norm == "update" and self.accumulate > 1:
            raise InputError(
                "--batch-norm update goes without --accumulate, since each part of a step has its own statistics."
            )


CONTRAST = Training(train=("full",), head_lr=1e-3, batch_size=64)
"""The defaults of contrastive training."""


def curve_table(columns: Mapping[str, Sequence[Any]], fold: int | None) -> pl.DataFrame:
    """Return a `headwater.finetune.loop.Curve` as a table with one row per epoch, and a column ``fold``."""
    types = dict.fromkeys(("train_loss", "stop_loss", "stop_metric", "lr", "seconds"), pl.Float64)
    table = pl.DataFrame(dict(columns), schema_overrides={"epoch": pl.Int64, **types}, strict=False)
    return table.select(pl.lit(fold, dtype=pl.Int64).alias("fold"), pl.all())


def hashed(parts: Sequence[Any]) -> str:
    """Return a digest of some values."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(np.asarray(part).tolist()).encode())
        digest.update(b"|")
    return digest.hexdigest()


def beside(target: Path) -> Path:
    """Return the folder for the progress of an unfinished run."""
    target = target.resolve()
    return target.with_name(f".{target.name}.progress")


def peak_memory(team: Team) -> int | None:
    """Return the peak bytes of tensors on the GPU; None on a CPU."""
    return int(need("torch", "encoders").cuda.max_memory_allocated()) if team.device == "cuda" else None


@contextmanager
def memory_advice(training: Training) -> Iterator[None]:
    """Turn out-of-memory errors into a `HeadError` that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, need("torch", "encoders").OutOfMemoryError) or "allocate memory" in str(error):
            raise HeadError(
                f"out of memory: raise --accumulate (now {training.accumulate}) to compute a step in more parts, pass "
                f"--checkpoint-gradients, or lower --batch-size (now {training.batch_size})."
            ) from error
        raise


def progress_of(target: Path | None, identity: Mapping[str, Any], team: Team) -> Progressed | None:
    """Return the progress of an unfinished run with the same identity; None if no run is written."""
    if target is None:
        return None
    if team.leads:
        Progressed(beside(target), dict(identity))
    team.wait()
    return Progressed(beside(target), dict(identity))
