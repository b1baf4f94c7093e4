"""The training loop of networks over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.errors import HeadError
from headwater.heads._attention import Params, Tokens, TokenShape, folded, forward, initial
from headwater.heads._objective import losses
from headwater.heads._training import Schedule, TrainedNetwork, factor
from headwater.heads.tokens import read_tokens, token_width

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch import dtype as TorchType

Rows = NDArray[np.int64]
CLIP = 1.0  # the largest norm of a step's gradient
SCALED_BY = 4096  # most training rows used for means and standard deviations
CHECKED_ROWS = 256  # rows validated at once
HALF_EXPONENT = np.uint16(0x7C00)  # exponent bits, all set in non-finite float16


@dataclass(frozen=True)
class TokenSettings:
    """Settings of one network; see `headwater.heads.TokenHead`."""

    lr: float
    weight_decay: float
    dropout: float
    smoothing: float
    seed: int


class Reader:
    """Moves rows of each input to the device as ``(values, mask)``, in their stored type; refuses non-finite rows.

    Parameters
    ----------
    inputs
        Token features, or pooled ones; see `headwater.heads.tokens`.
    may_miss
        Whether an item may lack one of the inputs.
    """

    def __init__(self, inputs: Sequence[Any], device: str, *, may_miss: bool) -> None:
        self.inputs = inputs
        self.device = device
        self.may_miss = may_miss
        self._checked = np.zeros(len(inputs[0]), bool)

    def __call__(self, rows: Rows) -> list[Tokens]:
        torch = need("torch", "encoders")
        read = [self._read(X, rows) for X in self.inputs]
        if not self._checked[rows].all():
            _refuse(rows[self._wrong(read)])
            self._checked[rows] = True
        there = np.stack([mask.any(1) for _, mask in read])
        if not (there.any(0) if self.may_miss else there.all(0)).all():
            bad = rows[~(there.any(0) if self.may_miss else there.all(0))]
            raise HeadError(f"{len(bad)} rows have no tokens, the first being {bad[:5].tolist()}: leave them out.")
        on = self.device
        return [(torch.from_numpy(x).to(on), torch.from_numpy(mask).to(on)) for x, mask in read]

    def check(self, rows: Rows) -> None:
        """Read rows to find all non-finite ones, and refuse them together."""
        parts = np.array_split(rows, math.ceil(len(rows) / CHECKED_ROWS))
        _refuse(np.concatenate([part[self._wrong([self._read(X, part) for X in self.inputs])] for part in parts]))
        self._checked[rows] = True

    def _read(self, X: Any, rows: Rows) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        values, mask = read_tokens(X, rows)
        if mask is None:
            return np.ascontiguousarray(values), np.ones(values.shape[:2], bool)
        if not mask.shape[1]:  # no item has a token: one empty place
            return np.zeros((len(rows), 1, values.shape[2]), values.dtype), np.zeros((len(rows), 1), bool)
        values[~mask] = 0  # padding may hold any values
        return np.ascontiguousarray(values), mask

    def _wrong(self, read: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]) -> NDArray[np.bool_]:
        """Return which rows are not finite in some input, of shape ``(n_rows,)``."""
        return np.asarray(np.stack([_not_finite(values) for values, _ in read]).any(axis=0))


def _not_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows hold NaN or infinity, of shape ``(n_rows,)``."""
    flat = values.reshape(len(values), -1)
    if flat.dtype == np.float16:  # by the exponent bits, several times faster than isfinite for float16
        bad: NDArray[np.bool_] = (flat.view(np.uint16) & HALF_EXPONENT).max(1, initial=0) == HALF_EXPONENT
        return bad
    other: NDArray[np.bool_] = ~np.isfinite(flat).all(1)
    return other


def _refuse(rows: Rows) -> None:
    if len(rows):
        numbers = np.unique(rows)
        raise HeadError(f"features are not finite in {len(numbers)} rows, the first being {numbers[:5].tolist()}.")


def ahead(read: Callable[[Rows], list[Tokens]], batches: Sequence[Rows]) -> Iterator[tuple[Rows, list[Tokens]]]:
    """Yield batches with their tokens; the next batch is read in the background."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, batches[0]) if batches else None
        for i, rows in enumerate(batches):
            tokens = coming.result() if coming is not None else []
            coming = pool.submit(read, batches[i + 1]) if i + 1 < len(batches) else None
            yield rows, tokens


class Diverged(HeadError):
    """The loss or the parameters of a network are no longer finite."""


def train(
    shape: TokenShape,
    schedule: Schedule,
    settings: TokenSettings,
    rows: Rows,
    stop: Rows,
    read: Reader,
    targets: Tensor,
    class_weight: NDArray[np.float32],
    dtype: TorchType,
) -> TrainedNetwork:
    """Train one network to the end; see `TokenNetwork`."""
    network = TokenNetwork(shape, schedule, settings, rows, stop, read, targets, class_weight, dtype)
    network.advance(schedule.epochs)
    return network.trained()


class TokenNetwork:
    """A network over tokens in training, which can be paused after any epoch.

    Parameters
    ----------
    rows, stop
        Training rows, and rows for early stopping (may be empty).
    targets
        Of all rows: class numbers, int64, of shape ``(n,)`` (``softmax``), else 0/1, float32, ``(n, n_outputs)``.
    class_weight
        From `headwater.heads._objective.class_weights`.
    dtype
        Type of matrix products; parameters and losses are float32.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, 2019 (biases and norms are not decayed), and SGDR,
    2017 (cosine schedule).
    """

    def __init__(
        self,
        shape: TokenShape,
        schedule: Schedule,
        settings: TokenSettings,
        rows: Rows,
        stop: Rows,
        read: Reader,
        targets: Tensor,
        class_weight: NDArray[np.float32],
        dtype: TorchType,
    ) -> None:
        torch = need("torch", "encoders")
        self._shape, self._schedule, self._settings = shape, schedule, settings
        self._rows, self._stop, self._read, self._targets, self._dtype = rows, stop, read, targets, dtype
        device = targets.device
        self._order = torch.Generator().manual_seed(2 * settings.seed)
        self._drop = _dropout(settings.dropout, torch.Generator(device).manual_seed(2 * settings.seed + 1))
        self._params = {name: p.to(device).requires_grad_() for name, p in initial(shape, self._order).items()}
        read.check(np.sort(np.concatenate([rows, stop]))[:SCALED_BY])  # the others are checked when read
        self._scaling = _Scaling(read, rows)
        self._weights = torch.as_tensor(class_weight, device=device)[None]
        matrices = [p for name, p in self._params.items() if name.endswith("weight") and p.ndim == 2]
        others = [p for name, p in self._params.items() if not (name.endswith("weight") and p.ndim == 2)]
        self._optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.lr,
            fused=True,
        )
        self._patience = schedule.patience if len(stop) else None
        self._best, self._best_loss, self._n_epochs = _copied(self._params), math.inf, 0
        self._curve: list[float] = []
        self._epoch, self._stopped = 0, False

    def advance(self, epoch: int) -> None:
        """Train up to an epoch of the schedule.

        Raises
        ------
        Diverged
            When the loss or the parameters are not finite.
        """
        while self._epoch < epoch and not self._stopped:
            self._train_epoch()
            self._epoch += 1
            if self._patience is not None:
                self._stop_early(self._patience)
        if self._patience is None:
            self._best, self._n_epochs = _copied(self._params), self._epoch
        if not all(bool(p.isfinite().all()) for p in self._best.values()):
            raise Diverged(f"parameters are not finite after training: lower lr (now {self._settings.lr:g}).")

    def trained(self) -> TrainedNetwork:
        """Return the network with the best parameters so far."""
        return TrainedNetwork(self._scaling.fold_in(self._best), self._n_epochs, np.array(self._curve, np.float32))

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Return logits of some rows, float32, of shape ``(n, n_outputs)``, by the best parameters so far."""
        torch = need("torch", "encoders")
        out = [np.zeros((0, self._shape.objective.n_outputs), np.float32)]
        parts = [rows[start : start + CHECKED_ROWS] for start in range(0, len(rows), CHECKED_ROWS)]
        with torch.no_grad():
            for _, tokens in ahead(self._read, parts):
                out.append(forward(self._shape, self._best, self._scaling(tokens))[0].cpu().numpy())
        return np.concatenate(out)

    def _train_epoch(self) -> None:
        torch = need("torch", "encoders")
        shuffled = self._rows[torch.randperm(len(self._rows), generator=self._order).numpy()]
        n_steps = math.ceil(len(self._rows) / self._schedule.batch_size)
        for step, (some, tokens) in enumerate(ahead(self._read, np.array_split(shuffled, n_steps))):
            for group in self._optimiser.param_groups:
                group["lr"] = self._settings.lr * factor(self._epoch + (step + 1) / n_steps, self._schedule)
            with torch.enable_grad():
                total, weight = self._loss_of(some, tokens, self._drop, self._settings.smoothing)
                torch.autograd.backward(total / weight)
            torch.nn.utils.clip_grad_norm_(self._params.values(), CLIP)
            self._optimiser.step()
            self._optimiser.zero_grad()

    def _stop_early(self, patience: int) -> None:
        """Keep parameters that are the best so far, and end training that has not improved for long."""
        with need("torch", "encoders").no_grad():
            parts = np.array_split(self._stop, math.ceil(len(self._stop) / self._schedule.batch_size))
            sums = [self._loss_of(some, tokens, lambda x: x, 0.0) for some, tokens in ahead(self._read, parts)]
        loss = float(sum(total for total, _ in sums) / sum(weight for _, weight in sums))
        self._curve.append(loss)
        if not math.isfinite(loss):
            raise Diverged(f"the loss is not finite after epoch {self._epoch}: lower lr (now {self._settings.lr:g}).")
        if loss < self._best_loss:
            self._best, self._best_loss, self._n_epochs = _copied(self._params), loss, self._epoch
        elif self._epoch - self._n_epochs >= patience:
            self._stopped = True

    def _loss_of(self, some: Rows, tokens: list[Tokens], drop: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        torch = need("torch", "encoders")
        device = self._targets.device
        with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            logits, _ = forward(self._shape, self._params, self._scaling(tokens), drop)
        one = torch.ones(1, 1, device=device)
        there = torch.ones(1, len(some), dtype=torch.bool, device=device)
        truth = self._targets[torch.from_numpy(some).to(device)][None]
        total, weight = losses(self._shape.objective, logits[None, None], truth, self._weights, smoothing * one, there)
        return total[0, 0], weight[0, 0]


def _copied(params: Params) -> Params:
    return {name: p.detach().clone() for name, p in params.items()}


def _dropout(rate: float, generator: Generator) -> Callable[[Tensor], Tensor]:
    """Return a dropout function."""
    torch = need("torch", "encoders")

    def drop(x: Tensor) -> Tensor:
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
        out: Tensor = x * (kept / (1 - rate)).to(x.dtype)
        return out

    return drop if rate else lambda x: x


class _Scaling:
    """Standardisation of each input: columns of training tokens get mean 0 and standard deviation 1."""

    def __init__(self, read: Reader, rows: Rows) -> None:
        torch = need("torch", "encoders")
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), SCALED_BY)).astype(np.int64)]
        d = [token_width(X) for X in read.inputs]
        n = [0] * len(d)
        first = [torch.zeros(k, dtype=torch.float64, device=read.device) for k in d]
        second = [torch.zeros(k, dtype=torch.float64, device=read.device) for k in d]
        shift: list[Any] = [None] * len(d)
        for _, inputs in ahead(read, np.array_split(some, math.ceil(len(some) / CHECKED_ROWS))):
            for i, (values, mask) in enumerate(inputs):
                tokens = values[mask].float()
                if len(tokens) and shift[i] is None:
                    shift[i] = tokens.mean(0).double()  # near the mean, for precise squares
                if len(tokens):
                    apart = tokens - shift[i].float()
                    first[i] += apart.sum(0, dtype=torch.float64)
                    second[i] += (apart * apart).sum(0, dtype=torch.float64)
                    n[i] += len(tokens)
        self.mean, self.std = [], []
        for i, count in enumerate(n):
            offset = first[i] / max(count, 1)
            variance = (second[i] / max(count, 1) - offset * offset).clamp(min=0)
            mean = offset if shift[i] is None else offset + shift[i].float().double()
            constant = variance <= 1e-12 * mean * mean
            self.mean.append(mean)
            self.std.append(torch.where(constant | (variance == 0), 1.0, variance.sqrt()))

    def __call__(self, inputs: list[Tokens]) -> list[Tokens]:
        """Scale tokens, to float32."""
        scales = zip(inputs, self.mean, self.std, strict=True)
        return [((values - mean.float()).div_(std.float()), mask) for (values, mask), mean, std in scales]

    def fold_in(self, params: Params) -> dict[str, NDArray[np.float32]]:
        """Return parameters for unstandardised tokens, and the means ``mean0``, … of the training tokens."""
        own = folded({name: p.double() for name, p in params.items()}, list(zip(self.mean, self.std, strict=True)))
        return {name: p.float().cpu().numpy() for name, p in own.items()}
