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
    """Train one network.

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
    torch = need("torch", "encoders")
    device = targets.device
    order = torch.Generator().manual_seed(2 * settings.seed)
    drop = _dropout(settings.dropout, torch.Generator(device).manual_seed(2 * settings.seed + 1))
    params = {name: p.to(device).requires_grad_() for name, p in initial(shape, order).items()}
    read.check(np.sort(np.concatenate([rows, stop]))[:SCALED_BY])  # the others are checked when read
    scaling = _Scaling(read, rows)
    weights = torch.as_tensor(class_weight, device=device)[None]
    matrices = [p for name, p in params.items() if name.endswith("weight") and p.ndim == 2]
    others = [p for name, p in params.items() if not (name.endswith("weight") and p.ndim == 2)]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.lr,
        fused=True,
    )

    def loss_of(some: Rows, tokens: list[Tokens], drop: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits, _ = forward(shape, params, scaling(tokens), drop)
        one = torch.ones(1, 1, device=device)
        there = torch.ones(1, len(some), dtype=torch.bool, device=device)
        truth = targets[torch.from_numpy(some).to(device)][None]
        total, weight = losses(shape.objective, logits[None, None], truth, weights, smoothing * one, there)
        return total[0, 0], weight[0, 0]

    patience = schedule.patience if len(stop) else None
    n_steps = math.ceil(len(rows) / schedule.batch_size)
    best, best_loss, n_epochs = _copied(params), math.inf, 0
    curve: list[float] = []
    for epoch in range(schedule.epochs):
        shuffled = rows[torch.randperm(len(rows), generator=order).numpy()]
        for step, (some, tokens) in enumerate(ahead(read, np.array_split(shuffled, n_steps))):
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * factor(epoch + (step + 1) / n_steps, schedule)
            with torch.enable_grad():
                total, weight = loss_of(some, tokens, drop, settings.smoothing)
                torch.autograd.backward(total / weight)
            torch.nn.utils.clip_grad_norm_(params.values(), CLIP)
            optimiser.step()
            optimiser.zero_grad()
        if patience is None:
            continue
        with torch.no_grad():
            parts = np.array_split(stop, math.ceil(len(stop) / schedule.batch_size))
            sums = [loss_of(some, tokens, lambda x: x, 0.0) for some, tokens in ahead(read, parts)]
        curve.append(float(sum(total for total, _ in sums) / sum(weight for _, weight in sums)))
        if not math.isfinite(curve[-1]):
            raise HeadError(f"the loss is not finite after epoch {epoch + 1}: lower lr (now {settings.lr:g}).")
        if curve[-1] < best_loss:
            best, best_loss, n_epochs = _copied(params), curve[-1], epoch + 1
        elif epoch + 1 - n_epochs >= patience:
            break
    if patience is None:
        best, n_epochs = _copied(params), schedule.epochs
    if not all(bool(p.isfinite().all()) for p in best.values()):
        raise HeadError(f"parameters are not finite after training: lower lr (now {settings.lr:g}).")
    return TrainedNetwork(scaling.fold_in(best), n_epochs, np.array(curve, np.float32))


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
