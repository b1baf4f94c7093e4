"""What both ways of training share: settings that cannot be, where work in progress lies, memory, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from headwater._devices import Precision
from headwater._extras import need
from headwater.errors import HeadError, InputError
from headwater.finetune.adapt import BatchNorm
from headwater.finetune.loop import Settings
from headwater.finetune.team import Team

LEARNING_RATES = {"lora": 2e-4, "last": 2e-5, "full": 1e-5, "none": 1e-5}
"""Of the encoder, by how it is trained."""


def curve_table(columns: Mapping[str, Sequence[Any]], fold: int | None) -> pl.DataFrame:
    """Return a `headwater.finetune.loop.Curve` as a table with the columns ``fold`` and its own, a row an epoch."""
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
