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
SHRINKS = 0.75  # a batch gets smaller when at most this share of its places is needed
TILE = 32  # rows of a bf16 matrix product are padded to a multiple of this, which makes it about twice as fast
STOP_TILE = 16  # the same for stopping rows, which are few
APART = 1 << 14  # least parameters of a network that is updated by itself
KEPT_BYTES = 256 << 20  # most bytes of standardised rows that are kept, rather than standardised in each step
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

    def epoch_at(self, share: float) -> int:
        """Return the epoch at a share of the schedule after warm-up, rounded up.

        Examples
        --------
        >>> [Schedule(100, 256, 1.0, 10).epoch_at(share) for share in (1 / 16, 1 / 4, 1.0)]
        [8, 26, 100]
        """
        return math.ceil(round(self.warmup + share * (self.epochs - self.warmup), 6))


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
    """Train the networks of some groups to the end, and return those of each group; see `Networks`."""
    networks = Networks(shape, schedule, groups, gather, targets, dtype)
    networks.advance(schedule.epochs)
    return networks.trained()


class Networks:
    """Networks of some groups as one batched model, which can be paused after any epoch.

    Networks that have stopped early, or are dropped, leave the batch; the others are trained as if they were alone,
    up to rounding.

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

    def __init__(
        self,
        shape: Shape,
        schedule: Schedule,
        groups: Sequence[Group],
        gather: Gather,
        targets: Tensor,
        dtype: TorchType,
    ) -> None:
        torch = need("torch", "encoders")
        self._shape, self._schedule, self._groups = shape, schedule, groups
        self._gather, self._targets, self._dtype = gather, targets, dtype
        device = targets.device
        self._order, self._noise_of = (
            [torch.Generator().manual_seed(2 * group.seed + i) for group in groups] for i in (0, 1)
        )
        (self._n_steps,) = {schedule.steps(len(group.train)) for group in groups}
        (stops,) = {len(group.stop) > 0 for group in groups}
        self._patience = schedule.patience if stops else None
        g, m = len(groups), len(groups[0].lr)
        self._epoch = self._step = 0
        self._tile = 1 if dtype == torch.float32 else TILE
        self._best: list[list[Params | None]] = [[None] * m for _ in groups]
        self._best_loss, self._n_epochs = np.full((g, m), np.inf, np.float32), np.zeros((g, m), np.int64)
        self._curve: list[list[list[float]]] = [[[] for _ in range(m)] for _ in groups]
        self._scaling = _Scaling(groups, gather, dtype, device)
        params = {name: p.to(device) for name, p in initial(shape, m, self._order).items()}
        first, second = ({name: torch.zeros_like(p) for name, p in params.items()} for _ in range(2))
        self._state = _State(params, first, second, m)
        self._place(np.arange(g), np.tile(np.arange(m), (g, 1)), np.ones((g, m), bool))

    def advance(self, epoch: int) -> None:
        """Train up to an epoch of the schedule."""
        for number in range(self._epoch, epoch):
            if not self._alive.any():
                break
            self._train_epoch(number)
            if self._patience is not None:
                self._stop_early(number, self._patience)
        self._epoch = max(self._epoch, epoch)

    def drop(self, dropped: Sequence[tuple[int, int]]) -> None:
        """Forget some networks, by the numbers of their group and within it."""
        gone = set(dropped)
        for i, j in dropped:
            self._best[i][j] = None
        live = [[(int(i), j) not in gone for j in row] for i, row in zip(self._rows, self._who.tolist(), strict=True)]
        self._alive &= np.array(live, bool).reshape(self._alive.shape)
        self._shrink()

    def logits(self, i: int, j: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits of some rows, float32, of shape ``(n, n_outputs)``, by the best parameters so far."""
        torch = need("torch", "encoders")
        one, device = self._parameters(i, j), self._targets.device
        none = torch.zeros(1, 1, device=device)
        out = [np.zeros((0, self._shape.objective.n_outputs), np.float32)]
        with torch.no_grad():
            for part in torch.as_tensor(rows, device=device).split(STOP_ROWS):
                inputs = self._scaling.scaled(self._gather(part[None]), i)
                out.append(forward(self._shape, one, inputs, none, None)[0, 0].cpu().numpy())
        return np.concatenate(out)

    def trained(self) -> list[list[TrainedNetwork]]:
        """Return the networks of each group, with the best parameters so far; none may have been dropped."""
        g, m = self._n_epochs.shape
        return [[self._trained(i, j) for j in range(m)] for i in range(g)]

    def _trained(self, i: int, j: int) -> TrainedNetwork:
        n_epochs = self._epoch if self._patience is None else int(self._n_epochs[i, j])
        params = self._scaling.fold_in(one_network(self._parameters(i, j), 0, 0, 1), i)
        return TrainedNetwork(params, n_epochs, np.array(self._curve[i][j], np.float32))

    def _parameters(self, i: int, j: int) -> Params:
        """Return the best parameters of a network so far, or its last ones if none had a finite loss."""
        best = self._best[i][j]
        if best is not None:
            return best
        ((row, column),) = np.argwhere((self._rows[:, None] == i) & (self._who == j))[:1]
        return self._state.network(int(row), int(column))

    def _train_epoch(self, epoch: int) -> None:
        torch = need("torch", "encoders")
        schedule, device, dropout = self._schedule, self._targets.device, self._settings["dropout"]
        order, noise_of = ([every[i] for i in self._rows] for every in (self._order, self._noise_of))
        groups = [self._groups[i] for i in self._rows]
        own_rows = [math.ceil(len(group.train) / self._n_steps) for group in groups]  # per batch
        drops = bool(dropout.any())
        rows, present = _shuffled([group.train for group in groups], order, self._n_steps, self._tile)
        batches = zip(rows.to(device).chunk(self._n_steps, 1), present.to(device).chunk(self._n_steps, 1), strict=True)
        for step, (batch, there) in enumerate(batches):
            noise = _noise(self._shape, batch.shape[1], own_rows, noise_of, device) if drops else None
            leaves = {name: p.detach().requires_grad_() for name, p in self._cast.items()}
            inputs = self._scaling.rows(batch, self._rows)
            with torch.enable_grad():
                logits = forward(self._shape, leaves, inputs, dropout, noise)
                smoothing = self._settings["smoothing"]
                loss, weight = losses(
                    self._shape.objective, logits, self._targets[batch], self._class_weight, smoothing, there
                )
                gradients = torch.autograd.grad((loss / weight).sum(), list(leaves.values()))
            self._step += 1
            share = factor(epoch + (step + 1) / self._n_steps, schedule)
            self._optimiser.step(dict(zip(leaves, gradients, strict=True)), self._step, share)

    def _stop_early(self, epoch: int, patience: int) -> None:
        """Keep parameters that are the best so far, and end networks that have not improved for long."""
        found = self._stop_loss().cpu().numpy()
        for row, column in np.argwhere(self._alive).tolist():
            i, j, loss = int(self._rows[row]), int(self._who[row, column]), found[row, column]
            self._curve[i][j].append(loss)
            if loss < self._best_loss[i, j]:
                self._best_loss[i, j], self._n_epochs[i, j] = loss, epoch + 1
                self._best[i][j] = self._state.network(row, column, self._best[i][j])
            elif epoch + 1 - self._n_epochs[i, j] >= patience and self._best[i][j] is not None:
                self._alive[row, column] = False
            elif epoch + 1 >= patience and self._best[i][j] is None:  # never a finite loss
                self._best[i][j] = self._state.network(row, column)
                self._alive[row, column] = False
        self._shrink()

    def _stop_loss(self) -> Tensor:
        """Return each network's mean loss on its group's stopping rows, of shape ``(g, m)``."""
        torch = need("torch", "encoders")
        none = torch.zeros_like(self._settings["lr"])
        total, weight = none, none
        step = max(STOP_ROWS // len(self._rows), LEAST_STOP)
        with torch.no_grad():
            for part, counted in zip(*(of.split(step, 1) for of in self._stopping), strict=True):
                logits = forward(self._shape, self._cast, self._scaling.rows(part, self._rows), none, None)
                more = losses(self._shape.objective, logits, self._targets[part], self._class_weight, none, counted)
                total, weight = total + more[0], weight + more[1]
        out: Tensor = total / weight
        return out

    def _shrink(self) -> None:
        """Leave out networks that need no more training, where that saves enough."""
        rows = np.flatnonzero(self._alive.any(1))
        m = int(self._alive.sum(1).max(initial=0))
        if not len(rows) or len(rows) * m > SHRINKS * self._alive.size:
            return
        # live networks first; a group with fewer of them than others keeps some of its dead ones
        columns = np.argsort(~self._alive[rows], axis=1, kind="stable")[:, :m]
        who, alive = self._who[rows[:, None], columns], self._alive[rows[:, None], columns]
        self._state = self._state.taken(rows, columns)
        self._place(self._rows[rows], who, alive)

    def _place(self, rows: NDArray[np.int64], who: NDArray[np.int64], alive: NDArray[np.bool_]) -> None:
        """Set which networks are in the batch: the group of each row, and the network of each column."""
        torch = need("torch", "encoders")
        self._rows, self._who, self._alive = rows, who, alive
        device, groups = self._targets.device, [self._groups[i] for i in rows]
        self._settings = {
            name: torch.as_tensor(
                np.stack([getattr(group, name)[of] for group, of in zip(groups, who, strict=True)]), device=device
            )
            for name in ("lr", "weight_decay", "dropout", "smoothing")
        }
        self._class_weight = torch.as_tensor(np.stack([group.class_weight for group in groups]), device=device)
        self._stopping = [
            torch.as_tensor(of, device=device) for of in _padded([g.stop for g in groups], min(self._tile, STOP_TILE))
        ]
        params = self._state.params
        self._cast = params if self._dtype == torch.float32 else {n: p.to(self._dtype) for n, p in params.items()}
        size = sum(p.numel() for p in params.values()) // who.size
        apart = device.type == "cpu" and size >= APART
        lr, decay = self._settings["lr"], self._settings["weight_decay"]
        self._optimiser: _Together | _Apart = (
            _Apart(self._state, self._cast, lr, decay, alive)
            if apart
            else _Together(self._state, self._cast, lr, decay)
        )


class _State:
    """The parameters of networks, and the moments of their gradients, in the layout of `headwater.heads._network`."""

    def __init__(self, params: Params, first: Params, second: Params, m: int) -> None:
        self.params, self.first, self.second = params, first, second
        self.m = m  # networks of each group

    def network(self, row: int, column: int, into: Params | None = None) -> Params:
        """Return a copy of one network's parameters, as a batch of one; or overwrite an earlier copy."""
        own = {name: _apart(p, self.m)[row : row + 1, column : column + 1] for name, p in self.params.items()}
        if into is None:
            return {name: p.clone() if self.params[name].ndim == 4 else p[:, 0].clone() for name, p in own.items()}
        for name, p in into.items():
            p.copy_(own[name].view(p.shape))
        return into

    def taken(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> _State:
        """Return the state of some networks: of each row's columns."""
        taken: list[Params] = []
        for of in (self.params, self.first, self.second):
            part: Params = {}
            for name, p in of.items():
                some = _apart(p, self.m)[rows[:, None], columns]
                part[name] = some if p.ndim == 4 else some.flatten(1, 2)
            taken.append(part)
        params, first, second = taken
        return _State(params, first, second, columns.shape[1])


def _apart(p: Tensor, m: int) -> Tensor:
    """Return a parameter with an axis of its own for the networks of a group."""
    return p if p.ndim == 4 else p.view(p.shape[0], m, -1, p.shape[2])


_ADAM = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "maximize": False}


class _Together:
    """AdamW over all networks at once, with a learning rate and a weight decay for each.

    PyTorch's Adam takes one of each. It is applied to a zero tensor for each parameter, which then holds the step.
    """

    def __init__(self, state: _State, cast: Params, lr: Tensor, weight_decay: Tensor) -> None:
        torch = need("torch", "encoders")
        self.state, self.cast = state, cast
        self.scratch = {name: torch.zeros_like(p) for name, p in state.params.items()}
        self.lr = {name: spread(lr, p) for name, p in state.params.items()}
        self.decay = {name: spread(lr * weight_decay * name.endswith("weight"), p) for name, p in state.params.items()}

    def step(self, gradients: Params, number: int, factor: float) -> None:
        """Update all parameters, with learning rates times ``factor``; ``number`` counts steps from 1."""
        torch = need("torch", "encoders")
        torch._fused_adam_(
            list(self.scratch.values()),
            [gradients[name].float().contiguous() for name in self.scratch],  # the fused step ignores strides
            [self.state.first[name] for name in self.scratch],
            [self.state.second[name] for name in self.scratch],
            [],
            [torch.full((), float(number), device=p.device) for p in self.scratch.values()],
            lr=1.0,
            weight_decay=0.0,
            **_ADAM,
        )
        for name, p in self.state.params.items():
            p.mul_(1 - factor * self.decay[name]).addcmul_(self.scratch[name], self.lr[name], value=factor)
            self.scratch[name].zero_()
            if self.cast[name] is not p:
                self.cast[name].copy_(p)


class _Apart:
    """AdamW over one network after the other, so that all of a network's passes over memory happen in the cache.

    Networks that need no more training are left out.
    """

    def __init__(self, state: _State, cast: Params, lr: Tensor, weight_decay: Tensor, alive: NDArray[np.bool_]) -> None:
        self.m, self.alive = state.m, alive
        self.lr, self.decay = lr.tolist(), weight_decay.tolist()
        self.of = {
            name: [_apart(of[name], state.m) for of in (state.params, state.first, state.second, cast)]
            for name in state.params
        }
        self.casts = any(cast[name] is not p for name, p in state.params.items())
        self.scratch = {name: of[0][0, 0].clone() for name, of in self.of.items()}

    def step(self, gradients: Params, number: int, factor: float) -> None:
        """Update the parameters of live networks, with learning rates times ``factor``; see `_Together`."""
        torch = need("torch", "encoders")
        every = {name: _apart(gradient.contiguous(), self.m) for name, gradient in gradients.items()}
        counts = [torch.full((), float(number)) for _ in every]
        kinds = [[name for name in every if name.endswith("weight") is decays] for decays in (True, False)]
        for i, j in np.argwhere(self.alive).tolist():
            for decay, names in zip((self.decay[i][j], 0.0), kinds, strict=True):
                own = [[of[i, j] for of in self.of[name]] for name in names]
                params, first, second, casts = (list(of) for of in zip(*own, strict=True))
                torch._fused_adamw_(
                    params,
                    [self.scratch[name].copy_(every[name][i, j]) for name in names],
                    first,
                    second,
                    [],
                    counts[: len(names)],
                    lr=factor * self.lr[i][j],
                    weight_decay=decay,
                    **_ADAM,
                )
                if self.casts:
                    for cast, p in zip(casts, params, strict=True):
                        cast.copy_(p)


def factor(epoch: float, schedule: Schedule) -> float:
    """Return the factor for learning rates: linear warm-up, then a half cosine."""
    if epoch <= schedule.warmup:
        return epoch / schedule.warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - schedule.warmup) / (schedule.epochs - schedule.warmup)))


def _shuffled(
    rows: Sequence[NDArray[np.int64]], generators: Sequence[Generator], n_steps: int, tile: int
) -> tuple[Tensor, Tensor]:
    """Return each group's rows in random order, of shape ``(g, n)``, and which of them are not padding.

    Each of the ``n_steps`` batches has a multiple of ``tile`` rows.
    """
    torch = need("torch", "encoders")
    length = math.ceil(max(map(len, rows)) / n_steps / tile) * tile * n_steps
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


def _padded(rows: Sequence[NDArray[np.int64]], tile: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return row numbers of shape ``(g, n)``, n a multiple of ``tile``, and which of them are not padding."""
    most = math.ceil(max(map(len, rows)) / tile) * tile
    numbers, present = np.zeros((len(rows), most), np.int64), np.zeros((len(rows), most), bool)
    for i, mine in enumerate(rows):
        numbers[i, : len(mine)] = mine
        present[i, : len(mine)] = True
    return numbers, present


class _Scaling:
    """Standardisation of each group: columns of its training rows get mean 0 and standard deviation 1.

    Standardised rows are kept if they are few.
    """

    def __init__(self, groups: Sequence[Group], gather: Gather, dtype: TorchType, device: Any) -> None:
        torch = need("torch", "encoders")
        self._gather, self._dtype = gather, dtype
        found = [_moments(gather, torch.as_tensor(group.train, device=device)[None]) for group in groups]
        # one array of shape (g, 1, d) per input
        self.mean = [torch.cat(means)[:, None] for means in zip(*([mean for mean, _ in f] for f in found), strict=True)]
        self.std = [torch.cat(stds)[:, None] for stds in zip(*([std for _, std in f] for f in found), strict=True)]
        self._scale = [(mean.float(), std.float()) for mean, std in zip(self.mean, self.std, strict=True)]
        self._kept: list[Tensor] | None = None
        used = [np.concatenate([group.train, group.stop]) for group in groups]
        columns = sum(mean.shape[2] for mean in self.mean)
        if dtype.itemsize * columns * sum(map(len, used)) <= KEPT_BYTES:
            scaled = [self._scaled(torch.as_tensor(own, device=device)[None], [i]) for i, own in enumerate(used)]
            self._kept = [torch.cat([x[0] for x in of_input]) for of_input in zip(*scaled, strict=True)]
            place, first = np.zeros((len(used), 1 + max(int(own.max()) for own in used)), np.int64), 0
            for i, own in enumerate(used):
                place[i, own] = first + np.arange(len(own))
                first += len(own)
            self._place = torch.as_tensor(place, device=device)

    def rows(self, rows: Tensor, groups: NDArray[np.int64]) -> list[Tensor]:
        """Return each input's rows ``(g, b, d)`` of the groups with these numbers, in the type of matrix products.

        Rows that are not the group's own are padding, and may hold anything finite.
        """
        if self._kept is None:
            return self._scaled(rows, groups)
        place = self._place[groups].gather(1, rows)
        return [kept[place] for kept in self._kept]

    def _scaled(self, rows: Tensor, groups: Sequence[int] | NDArray[np.int64]) -> list[Tensor]:
        scales = zip(self._gather(rows), self._scale, strict=True)
        return [((x - mean[groups]) / std[groups]).to(self._dtype) for x, (mean, std) in scales]

    def scaled(self, inputs: list[Tensor], group: int) -> list[Tensor]:
        """Scale inputs of shape ``(1, b, d)`` of one group, in float32."""
        return [(x - mean[group]) / std[group] for x, (mean, std) in zip(inputs, self._scale, strict=True)]

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
