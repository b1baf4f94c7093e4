"""Training of many small networks at once by AdamW, with separate early stopping.

The order of rows and dropout depend only on a seed and on a network's own rows, so that its result does not depend on
the other networks, except for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater._memory import keep_freed_memory
from headwater.heads._network import Params, Shape, folded, forward, initial, one_network, spread
from headwater.heads._objective import losses

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch import dtype as TorchType

STOP_ROWS = 4096  # stopping rows evaluated at once, over all groups
LEAST_STOP = 256  # least number of them per group
Gather = Callable[["Tensor"], list["Tensor"]]
"""Maps row numbers, int64, of shape ``(g, b)``, to each input's rows, float32, ``(g, b, d)``."""


@dataclass(frozen=True)
class Schedule:
    """The training schedule of networks; ``warmup`` is in epochs."""

    epochs: int
    batch_size: int
    warmup: float
    patience: int | None

    def steps(self, n_rows: int) -> int:
        """Return the number of steps in an epoch over some rows."""
        return math.ceil(n_rows / self.batch_size)


@dataclass(frozen=True)
class Group:
    """Networks that share their training rows.

    Attributes
    ----------
    train, stop
        Training rows, and rows for early stopping (may be empty), int64.
    class_weight
        Float32, of shape ``(n_outputs,)`` for mutually exclusive classes, else ``(2, n_outputs)``, for each label's
        negatives and positives.
    seed
        Seed of the initial weights, the order of rows, and dropout.
    lr, weight_decay, dropout, smoothing
        Settings of each network, float32, of shape ``(m,)``.
    """

    train: NDArray[np.int64]
    stop: NDArray[np.int64]
    class_weight: NDArray[np.float32]
    seed: int
    lr: NDArray[np.float32]
    weight_decay: NDArray[np.float32]
    dropout: NDArray[np.float32]
    smoothing: NDArray[np.float32]


@dataclass(frozen=True)
class TrainedNetwork:
    """One trained network.

    Attributes
    ----------
    params
        Weights ``(fan_in, units)`` and biases ``(units,)``, float32, for unstandardised inputs.
    n_epochs
        The number of epochs of these parameters.
    curve
        Loss on the stopping rows after each epoch, float32; empty without such rows.
    """

    params: dict[str, NDArray[np.float32]]
    n_epochs: int
    curve: NDArray[np.float32]


@keep_freed_memory()  # casts and gradients as large as all weights are freed in every step
def train(
    shape: Shape,
    schedule: Schedule,
    groups: Sequence[Group],
    gather: Gather,
    targets: Tensor,
    dtype: TorchType,
) -> list[list[TrainedNetwork]]:
    """Train the networks of some groups as one batched model; return the networks of each group.

    Parameters
    ----------
    groups
        Groups with the same number of networks and of steps per epoch, and either all or none with stopping rows.
    targets
        Class numbers, int64, of shape ``(n,)`` (``softmax``), else 0/1, float32, of shape ``(n, n_outputs)``.
    dtype
        Type of matrix products; parameters, losses and everything else are float32.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, 2019 (AdamW; biases are not decayed), and SGDR, 2017
    (cosine schedule).
    """
    torch = need("torch", "encoders")
    device = targets.device
    order, noise_of = ([torch.Generator().manual_seed(2 * group.seed + i) for group in groups] for i in (0, 1))
    lr, weight_decay, dropout, smoothing = (
        torch.as_tensor(np.stack([getattr(group, name) for group in groups]), device=device)
        for name in ("lr", "weight_decay", "dropout", "smoothing")
    )
    class_weight = torch.as_tensor(np.stack([group.class_weight for group in groups]), device=device)
    params = {name: p.to(device) for name, p in initial(shape, lr.shape[1], order).items()}
    optimiser = _AdamW(params, lr, weight_decay)
    scaling = _Scaling(groups, gather, dtype, device)
    (n_steps,) = {schedule.steps(len(group.train)) for group in groups}
    own_rows = [math.ceil(len(group.train) / n_steps) for group in groups]  # per batch
    drops = bool(dropout.any())

    (stops,) = {len(group.stop) > 0 for group in groups}
    patience = schedule.patience if stops else None
    best = {name: p.clone() for name, p in params.items()} if patience else params
    best_loss = torch.full(lr.shape, torch.inf, device=device)
    n_epochs = torch.zeros(lr.shape, dtype=torch.int64, device=device)
    curve = []
    for epoch in range(schedule.epochs):
        rows, present = _shuffled([group.train for group in groups], order, n_steps)
        batches = zip(rows.to(device).chunk(n_steps, 1), present.to(device).chunk(n_steps, 1), strict=True)
        for step, (batch, there) in enumerate(batches):
            noise = _noise(shape, batch.shape[1], own_rows, noise_of, device) if drops else None
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            with torch.enable_grad():
                logits = forward(shape, leaves, scaling(gather(batch)), dropout, noise)
                loss, weight = losses(shape.objective, logits, targets[batch], class_weight, smoothing, there)
                gradients = torch.autograd.grad((loss / weight).sum(), list(leaves.values()))
            optimiser.step(dict(zip(params, gradients, strict=True)), factor(epoch + (step + 1) / n_steps, schedule))
        if patience is None:
            continue
        now = _stop_loss(shape, params, groups, lambda rows: scaling(gather(rows)), targets, class_weight, 0 * lr)
        curve.append(now)
        better = (now < best_loss) & (epoch - n_epochs < patience)  # stopped networks stay stopped
        best_loss = torch.where(better, now, best_loss)
        n_epochs = torch.where(better, epoch + 1, n_epochs)
        best = {name: torch.where(spread(better, p), p, best[name]) for name, p in params.items()}
        if bool((epoch + 1 - n_epochs >= patience).all()):
            break
    if patience is None:
        best, n_epochs = params, n_epochs + schedule.epochs
    g, m = lr.shape
    curves = torch.stack(curve, -1).cpu().numpy() if curve else np.zeros((g, m, 0), np.float32)

    def trained(i: int, j: int) -> TrainedNetwork:
        n = int(n_epochs[i, j])
        own = curves[i, j] if patience is None else curves[i, j, : n + patience]  # others may have run longer
        return TrainedNetwork(scaling.fold_in(one_network(best, i, j, m), i), n, own)

    return [[trained(i, j) for j in range(m)] for i in range(g)]


class _AdamW:
    """AdamW with a learning rate and a weight decay for each network.

    PyTorch's AdamW takes one of each. It is applied to a zero tensor for each parameter, which then holds the step.
    """

    def __init__(self, params: Params, lr: Tensor, weight_decay: Tensor) -> None:
        torch = need("torch", "encoders")
        self.params = params
        self.scratch = {name: torch.zeros_like(p) for name, p in params.items()}
        self.adam = torch.optim.Adam(list(self.scratch.values()), lr=1.0, fused=True)
        self.lr = {name: spread(lr, p) for name, p in params.items()}
        self.decay = {name: spread(lr * weight_decay * name.endswith("weight"), p) for name, p in params.items()}

    def step(self, gradients: Params, factor: float) -> None:
        """Update all parameters, with learning rates times ``factor``."""
        for name, gradient in gradients.items():
            self.scratch[name].grad = gradient.contiguous()  # the fused step ignores strides
        self.adam.step()
        for name, p in self.params.items():
            p.mul_(1 - factor * self.decay[name]).addcmul_(self.scratch[name], self.lr[name], value=factor)
            self.scratch[name].zero_()


def factor(epoch: float, schedule: Schedule) -> float:
    """Return the factor for learning rates: linear warm-up, then a half cosine."""
    if epoch <= schedule.warmup:
        return epoch / schedule.warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - schedule.warmup) / (schedule.epochs - schedule.warmup)))


def _shuffled(
    rows: Sequence[NDArray[np.int64]], generators: Sequence[Generator], n_steps: int
) -> tuple[Tensor, Tensor]:
    """Return each group's rows in random order, of shape ``(g, n)``, and which of them are not padding."""
    torch = need("torch", "encoders")
    length = math.ceil(max(map(len, rows)) / n_steps) * n_steps
    numbers = torch.zeros((len(rows), length), dtype=torch.int64)
    present = torch.zeros((len(rows), length), dtype=torch.bool)
    # padding is spread over all batches, so that none is short
    places = torch.arange(length).view(n_steps, -1).T.reshape(-1)
    for i, (mine, generator) in enumerate(zip(rows, generators, strict=True)):
        there = places[: len(mine)]
        numbers[i, there] = torch.from_numpy(mine)[torch.randperm(len(mine), generator=generator)]
        present[i, there] = True
    return numbers, present


def _noise(shape: Shape, b: int, own: Sequence[int], generators: Sequence[Generator], device: Any) -> list[Tensor]:
    """Return uniform numbers ``(g, units, b)`` for each hidden layer: each group's own rows, then padding."""
    torch = need("torch", "encoders")
    noise = [torch.zeros(len(own), h, b) for h in shape.hidden]
    for of_layer in noise:
        for mine, n, generator in zip(of_layer, own, generators, strict=True):
            mine[:, :n] = torch.rand(len(mine), n, generator=generator)
    return [of_layer.to(device) for of_layer in noise]


def _stop_loss(
    shape: Shape,
    params: Params,
    groups: Sequence[Group],
    inputs: Callable[[Tensor], list[Tensor]],
    targets: Tensor,
    class_weight: Tensor,
    none: Tensor,
) -> Tensor:
    """Return each network's mean loss on its group's stopping rows, of shape ``(g, m)``."""
    torch = need("torch", "encoders")
    most = max(len(group.stop) for group in groups)
    numbers, present = np.zeros((len(groups), most), np.int64), np.zeros((len(groups), most), bool)
    for i, group in enumerate(groups):
        numbers[i, : len(group.stop)] = group.stop
        present[i, : len(group.stop)] = True
    rows, there = torch.as_tensor(numbers, device=none.device), torch.as_tensor(present, device=none.device)
    total, weight = none, none
    step = max(STOP_ROWS // len(groups), LEAST_STOP)
    with torch.no_grad():
        for part, counted in zip(rows.split(step, 1), there.split(step, 1), strict=True):
            logits = forward(shape, params, inputs(part), none, None)
            more = losses(shape.objective, logits, targets[part], class_weight, none, counted)
            total, weight = total + more[0], weight + more[1]
    out: Tensor = total / weight
    return out


class _Scaling:
    """Standardisation of each group: columns of its training rows get mean 0 and standard deviation 1."""

    def __init__(self, groups: Sequence[Group], gather: Gather, dtype: TorchType, device: Any) -> None:
        torch = need("torch", "encoders")
        self._dtype = dtype
        found = [_moments(gather, torch.as_tensor(group.train, device=device)[None]) for group in groups]
        # one array of shape (g, 1, d) per input
        self.mean = [torch.cat(means)[:, None] for means in zip(*([mean for mean, _ in f] for f in found), strict=True)]
        self.std = [torch.cat(stds)[:, None] for stds in zip(*([std for _, std in f] for f in found), strict=True)]
        self._scale = [(mean.float(), std.float()) for mean, std in zip(self.mean, self.std, strict=True)]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Scale inputs of shape ``(g, b, d)``."""
        return [((x - mean) / std).to(self._dtype) for x, (mean, std) in zip(inputs, self._scale, strict=True)]

    def fold_in(self, params: Params, group: int) -> dict[str, NDArray[np.float32]]:
        """Return a network's parameters for unstandardised inputs; weights shared by inputs are duplicated."""
        scales = [(mean[group, 0], std[group, 0]) for mean, std in zip(self.mean, self.std, strict=True)]
        own = folded({name: p.double() for name, p in params.items()}, scales)
        return {name: p.float().cpu().numpy() for name, p in own.items()}


def _moments(gather: Gather, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each input's column means and standard deviations (1 where constant), float64, of shape ``(1, d)``."""
    torch = need("torch", "encoders")
    shift = [x.double() for x in gather(rows[:, :1])]
    first, second = [torch.zeros_like(s[:, 0]) for s in shift], [torch.zeros_like(s[:, 0]) for s in shift]
    for part in torch.split(rows, STOP_ROWS, 1):
        for i, x in enumerate(gather(part)):
            values = x.double() - shift[i]
            first[i] += values.sum(1)
            second[i] += (values * values).sum(1)
    out = []
    for one, two, start in zip(first, second, shift, strict=True):
        mean = one / rows.shape[1]
        variance = two / rows.shape[1] - mean * mean
        std = torch.where(variance <= 1e-12 * mean * mean, 1.0, variance.clamp(min=0).sqrt())
        out.append((mean + start[:, 0], std))
    return out
