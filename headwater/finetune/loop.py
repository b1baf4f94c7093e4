"""The training loop for encoder and head."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater._devices import Precision
from headwater._extras import need
from headwater.errors import HeadError
from headwater.finetune.checkpoint import Checkpoint
from headwater.finetune.data import InputSource, Part, Rows, batches
from headwater.finetune.model import Model, State
from headwater.finetune.team import Team
from headwater.heads.differentiable import Regularised

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECK_EVERY = 16  # steps between checks that losses are finite
Measure = Callable[[NDArray[np.float32], Rows], float]
"""Computes a metric from logits of some rows, to report in the curve."""


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the training loop.

    Attributes
    ----------
    lr, head_lr
        Peak learning rates of AdamW, for the encoder and for the head.
    weight_decay
        Weight decay of matrices; biases, norms and other vectors are not decayed.
    epochs, warmup
        Most epochs, and epochs of linear warm-up; then the learning rates follow a half cosine.
    batch_size, accumulate
        Rows per step, and the number of parts in which a step is computed to save memory, with the same result.
    patience
        Stop after this many epochs without a lower loss on the held-out rows, and keep the state with the lowest loss,
        which may be the initial one; None to hold out nothing and train for all epochs.
    clip
        The largest norm of a step's gradient.
    precision
        Precision of activations and matrix products: ``fp32``, ``bf16``, ``fp16``, or ``auto`` (``bf16`` on a GPU that
        supports it).
    seed
        Seed for the order of rows, augmentation and dropout.
    workers
        Threads that read and augment images; None for one per core.
    """

    lr: float
    head_lr: float
    weight_decay: float = 1e-4
    epochs: int = 30
    warmup: float = 1.0
    batch_size: int = 32
    accumulate: int = 1
    patience: int | None = 5
    clip: float = 1.0
    precision: Precision = "auto"
    seed: int = 0
    workers: int | None = None


@dataclass
class Curve:
    """Columns of the training curve, as lists, with one entry per epoch; the first is before training."""

    epoch: list[int] = field(default_factory=list)
    train_loss: list[float | None] = field(default_factory=list)
    stop_loss: list[float | None] = field(default_factory=list)
    stop_metric: list[float | None] = field(default_factory=list)
    lr: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, train_loss: float | None, stop: tuple[float, float] | None, lr: float | None, seconds: float) -> None:
        """Add an epoch."""
        self.epoch.append(len(self.epoch))
        self.train_loss.append(train_loss)
        self.stop_loss.append(None if stop is None else stop[0])
        self.stop_metric.append(None if stop is None else stop[1])
        self.lr.append(lr)
        self.seconds.append(seconds)


@dataclass(frozen=True, eq=False)
class Tuned:
    """The result of training: the best state, its number of epochs, and the training curve."""

    state: State
    n_epochs: int
    curve: Curve


class Trainable(Protocol):
    """Encoders with a head, such as `headwater.finetune.model.Model`."""

    sources: list[InputSource]

    @property
    def encoder_parameters(self) -> dict[str, nn.Parameter]: ...
    @property
    def head(self) -> dict[str, nn.Parameter]: ...
    def training(self, on: bool) -> None: ...
    def state(self) -> State: ...
    def load(self, state: Mapping[str, Tensor]) -> None: ...


class TrainingTask(Protocol):
    """The objective of training: gradients of a step, and the loss on held-out rows.

    Attributes
    ----------
    least_rows
        Least number of rows in a step.
    """

    least_rows: int

    def backward(self, step: Rows, parts: Iterator[tuple[Rows, list[Part]]], scaler: Any) -> Tensor:
        """Accumulate the gradients of one step's scaled loss; return the loss, a mean over processes.

        ``step`` are the rows of the whole step; ``parts`` are those of this process with their tensors, which are made
        lazily, so that only one part needs to be in memory.
        """

    def after_step(self) -> None:
        """Clamp parameters to their allowed range."""

    def evaluate(self, rows: Rows) -> tuple[float, float]:
        """Return the loss of some rows, and a metric for the curve, without gradients, dropout or augmentation."""


def train_model(
    model: Trainable,
    task: TrainingTask,
    rows: Rows,
    stop: Rows,
    settings: LoopSettings,
    *,
    checkpoint: Checkpoint | None = None,
    team: Team,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> Tuned:
    """Train a model on some rows, and leave it in its best state.

    Parameters
    ----------
    rows, stop
        Training rows, and held-out rows for early stopping (ignored if too few for the task).
    checkpoint
        File to save the state to after each epoch, and to continue from.
    team
        The processes that train together.
    progress
        Called with the number of training rows seen so far, and 0.

    Raises
    ------
    HeadError
        When the loss is not finite, or a step cannot be divided; the message says what to lower or raise.
    """
    torch = need("torch", "encoders")
    optimiser = _optimiser(model, settings)
    scaler = torch.amp.GradScaler(team.device, enabled=team.dtype(settings.precision) == torch.float16)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    n_steps = math.ceil(len(rows) / settings.batch_size)
    n_parts = team.size * settings.accumulate
    if len(rows) // n_steps < max(n_parts, task.least_rows):
        raise HeadError(
            f"steps of {len(rows) // n_steps} rows cannot be divided into {n_parts} parts: raise --batch-size (now "
            f"{settings.batch_size}) or lower --accumulate (now {settings.accumulate})."
        )
    judged = len(stop) >= task.least_rows and settings.patience is not None

    curve = Curve()
    best, best_loss, best_epoch, start = model.state(), math.inf, 0, 0
    if checkpoint is not None and (found := checkpoint.read()) is not None:
        model.load(found.now)
        optimiser.load_state_dict(found.optimiser)
        scaler.load_state_dict(found.scaler)
        curve, best, best_loss, best_epoch = Curve(**found.curve), found.best, found.best_loss, found.best_epoch
        start = len(curve.epoch) - 1
    else:
        began = time.monotonic()
        first = task.evaluate(stop) if judged else None
        curve.add(None, first, None, time.monotonic() - began)
        best_loss = math.inf if first is None else first[0]

    for epoch in range(start, settings.epochs):
        if judged and settings.patience is not None and epoch - best_epoch >= settings.patience:
            break
        began = time.monotonic()
        random = np.random.default_rng([settings.seed, epoch])
        torch.manual_seed(int(random.integers(2**31)) + team.rank)  # of dropout, so that any epoch can be resumed
        steps = np.array_split(random.permutation(rows), n_steps)
        mine = [part for step in steps for part in np.array_split(step, n_parts)[team.rank :: team.size]]
        coming = batches(model.sources, mine, seed=(settings.seed, epoch), workers=settings.workers)
        model.training(True)
        step_losses = torch.zeros(n_steps, device=team.device)
        for number, step in enumerate(steps):
            lr_factor = factor(epoch + (number + 1) / n_steps, settings)
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * lr_factor
            step_losses[number] = task.backward(step, islice(coming, settings.accumulate), scaler)
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(trained, settings.clip)
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            task.after_step()
            if number % CHECK_EVERY == CHECK_EVERY - 1 or number == n_steps - 1:  # a check waits for the device
                _require_numbers(step_losses, epoch, settings)
            progress(epoch * len(rows) + sum(map(len, steps[: number + 1])), 0)
        model.training(False)
        now = task.evaluate(stop) if judged else None
        train_loss = float(team.mean(step_losses.mean()))
        curve.add(train_loss, now, settings.lr * lr_factor, time.monotonic() - began)
        if now is None or now[0] < best_loss:
            best, best_epoch = model.state(), epoch + 1
            best_loss = math.inf if now is None else now[0]
        if checkpoint is not None and team.leads:
            checkpoint.write(model.state(), best, best_loss, best_epoch, optimiser, scaler, curve)
    model.load(best)
    return Tuned(best, best_epoch, curve)


class Predicting:
    """Training of a model to predict targets.

    Parameters
    ----------
    targets
        Targets of all rows, in the form `LossOf` takes.
    measure
        A metric of held-out rows, for the curve only.
    """

    least_rows = 1

    def __init__(
        self,
        model: Model,
        targets: Tensor,
        loss_of: LossOf,
        settings: LoopSettings,
        team: Team,
        measure: Measure | None,
    ) -> None:
        self.model, self.targets, self.loss_of = model, targets, loss_of
        self.settings, self.team, self.measure = settings, team, measure
        self.whole = team.wrapped(model.module)

    def backward(self, step: Rows, parts: Iterator[tuple[Rows, list[Part]]], scaler: Any) -> Tensor:
        """Compute the parts one after the other; losses are divided by the weight of the whole step."""
        _, weight = self.loss_of(None, self.targets[step])
        value = 0 * weight
        for number, (some, tensors) in enumerate(parts):
            with nullcontext() if number == self.settings.accumulate - 1 else self.team.apart(self.whole):
                with self.team.computing(self.settings.precision):
                    logits = self.whole(tensors)
                total, _ = self.loss_of(logits.float(), self.targets[some])
                share = total / weight * self.team.size  # gradients are averaged over processes
                scaler.scale(share).backward()
            value = value + share.detach()
        return value

    def after_step(self) -> None:
        """Do nothing."""

    def evaluate(self, rows: Rows) -> tuple[float, float]:
        """Return the loss of some rows, without label smoothing, and their `measure`."""
        logits = predict(self.model, rows, self.settings, self.team)
        device = self.targets.device
        found = need("torch", "encoders").from_numpy(logits).to(device)
        total, weight = self.loss_of(found, self.targets[rows], smooth=False)
        return float(total / weight), float("nan") if self.measure is None else self.measure(logits, rows)


def predict(model: Model, rows: Rows, settings: LoopSettings, team: Team) -> NDArray[np.float32]:
    """Return logits ``(n_rows, n_outputs)``, float32, in evaluation mode and without gradients."""
    torch = need("torch", "encoders")
    model.training(False)
    mine = rows[team.rank :: team.size]
    found = []
    for _, tensors in batches(model.sources, parts_of(mine, settings, team), workers=settings.workers):
        with torch.no_grad(), team.computing(settings.precision):
            found.append(model.module(tensors).float().cpu().numpy())
    n_outputs = model.network.objective.n_outputs
    own = np.concatenate(found) if found else np.zeros((0, n_outputs), np.float32)
    out = np.empty((len(rows), n_outputs), np.float32)
    for rank, logits in enumerate(team.gathered(own)):
        out[rank :: team.size] = logits
    return out


def parts_of(rows: Rows, settings: LoopSettings, team: Team) -> list[Rows]:
    """Divide rows into parts of the size that a process computes at once."""
    size = max(1, settings.batch_size // (team.size * settings.accumulate))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class LossOf:
    """Computes the sum of weighted losses, and the sum of weights, over the rows of a batch.

    Parameters
    ----------
    objective
        The task of the logits.
    class_weight
        From `headwater.heads._objective.class_weights`.
    regularised
        The head's label smoothing.
    """

    def __init__(self, objective: Any, class_weight: Tensor, regularised: Regularised) -> None:
        self.objective = objective
        self.class_weight = class_weight
        self.smoothing = regularised.label_smoothing

    def __call__(self, logits: Tensor | None, targets: Tensor, *, smooth: bool = True) -> tuple[Tensor, Tensor]:
        """Return the sum of losses (0 without logits), and the sum of weights."""
        from headwater.heads._objective import losses

        torch = need("torch", "encoders")
        device = self.class_weight.device
        if logits is None:
            logits = torch.zeros(len(targets), self.objective.n_outputs, device=device)
        smoothing = torch.full((1, 1), self.smoothing if smooth else 0.0, device=device)
        present = torch.ones(1, len(targets), dtype=torch.bool, device=device)
        total, weight = losses(
            self.objective, logits[None, None], targets[None], self.class_weight[None], smoothing, present
        )
        return total[0, 0], weight[0, 0]


def factor(epoch: float, settings: LoopSettings) -> float:
    """Return the factor for learning rates: linear warm-up, then a half cosine.

    References
    ----------
    Loshchilov and Hutter, SGDR, 2017, eq. 5, with a linear warm-up.
    """
    if epoch <= settings.warmup:
        return epoch / settings.warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - settings.warmup) / (settings.epochs - settings.warmup)))


def _optimiser(model: Trainable, settings: LoopSettings) -> Any:
    """Return AdamW with a group for each learning rate, with and without weight decay."""
    torch = need("torch", "encoders")
    parts = ((list(model.encoder_parameters.values()), settings.lr), (list(model.head.values()), settings.head_lr))
    groups = []
    for parameters, lr in parts:
        for decays in (True, False):
            chosen = [p for p in parameters if (p.squeeze().ndim >= 2) is decays]
            decay = settings.weight_decay if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": lr, "highest": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=True)


def _require_numbers(losses: Tensor, epoch: int, settings: LoopSettings) -> None:
    """Raise `HeadError` if a step's loss is not finite, naming the step."""
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        raise HeadError(
            f"the loss is not finite at step {int(wrong[0]) + 1} of epoch {epoch + 1}: lower lr (now {settings.lr:g}) "
            f"or --head-lr (now {settings.head_lr:g})"
            + (", or use --precision bf16." if settings.precision == "fp16" else ".")
        )
