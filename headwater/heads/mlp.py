"""Multi-layer perceptrons on frozen features of one input or several, many trained at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from headwater._backend import free_bytes, on_device
from headwater._devices import Device, HeadPrecision, fast_at_bf16
from headwater._extras import need
from headwater._memory import keep_freed_memory
from headwater.errors import HeadError
from headwater.heads._classifier import Classifier, encode_labels, require_two
from headwater.heads._network import Fusion, Shape
from headwater.heads._objective import ClassWeight, Loss, Objective, class_weights, objective_of, targets_of
from headwater.heads._race import Pausable, raced, scored, side_by_side
from headwater.heads._settings import plain_class_weight, require_one_of, require_training
from headwater.heads._stopping import rows_to_stop_by
from headwater.heads.base import Fit, Input, Judge, Raced, SearchSpace, State, is_several, n_rows

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as TorchType

    from headwater.heads._training import Gather, Group, Networks, Schedule

PREDICTED_ROWS = 8192
TOGETHER_ON_CPU = 512 << 20  # most bytes of networks of several folds trained together
NETWORK_SETTINGS = ("lr", "weight_decay", "dropout", "label_smoothing")
"""Settings in which networks trained together may differ, besides their rows and seed."""


class MLP(Classifier):
    """A multi-layer perceptron on frozen features, of any depth and width; with several inputs, a fusion head.

    Inputs are standardised on the training rows. Hidden layers are followed by ReLU and dropout. Training uses AdamW
    with linear warm-up and a cosine schedule, and early stopping on held-out training rows, in whole groups if groups
    are given. `fit_many` trains networks of the same shape (settings, folds and seeds of a sweep) as one batched model,
    as many at once as memory allows.

    Parameters
    ----------
    hidden
        Units of each hidden layer; ``()`` is a linear model.
    dropout
        Dropout rate of hidden units, from 0 to below 1.
    lr, weight_decay
        Peak learning rate and weight decay of AdamW.
    epochs, batch_size, warmup
        Most epochs, rows per step, and epochs of warm-up.
    patience
        Stop after this many epochs without a lower loss on the held-out rows, and keep the parameters with the lowest
        loss; None to hold out nothing and train for all epochs.
    stop_share
        Share of the training rows to hold out for early stopping.
    loss
        ``cross-entropy`` (the logistic loss for two classes and for labels), or ``focal``, which multiplies it by
        ``(1 - p) ** gamma``, where p is the probability of the true class.
    label_smoothing
        Share of each target that is spread evenly over the classes.
    class_weight
        ``balanced`` weights each class by the inverse of its frequency in the training rows; or a dict of weights by
        class (for labels: by 0 and 1), with 1 for missing ones.
    fusion
        How to combine a dict of inputs. ``concat``: by column. ``sum``: added after standardising, for inputs of equal
        width. ``gated``: each through a tanh layer of the first hidden width, times a sigmoid gate on all inputs, then
        added.
    seed
        Random seed.
    precision
        Precision of matrix products in training: ``fp32``, ``bf16``, or ``auto``, which is bf16 if that is faster.
    device
        ``auto``, ``cpu`` or ``cuda``.
    max_bytes
        Features that take more than this in float32 are read batch by batch instead of being kept on the device.

    Attributes
    ----------
    classes_, multilabel_, n_features_in_
        See `LinearProbe`.
    params_ : dict of str to float32 array
        Weights ``(fan_in, units)`` and biases ``(units,)``, for unstandardised inputs.
    inputs_ : dict of str to int, or None
        Columns of each input by name; None if X is one array.
    n_epochs_ : int
        Number of epochs of the parameters.
    curve_ : float32, of shape (n_epochs,)
        Loss on the held-out rows after each epoch.

    References
    ----------
    Arevalo et al., Gated multimodal units for information fusion, 2017, for ``gated``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((400, 2)).astype("float32"); y = X[:, 0] * X[:, 1] > 0
    >>> bool(MLP(hidden=(32,), lr=0.01).fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9)
    True
    """

    takes_inputs = True
    seeds_together = True
    pausable = True
    search_space: ClassVar[SearchSpace] = {
        "lr": ("log", 1e-5, 1e-1),
        "weight_decay": ("log", 1e-4, 10.0),
        "dropout": ("uniform", 0.0, 0.7),
        "hidden": ("choice", ((128,), (512,), (512, 512))),
    }

    def __init__(
        self,
        hidden: Sequence[int] = (512,),
        *,
        dropout: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        epochs: int = 100,
        batch_size: int = 256,
        warmup: float = 1.0,
        patience: int | None = 10,
        stop_share: float = 0.15,
        loss: Loss = "cross-entropy",
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = None,
        fusion: Fusion = "concat",
        seed: int = 0,
        precision: HeadPrecision = "auto",
        device: Device = "auto",
        max_bytes: int = 4 << 30,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.warmup = warmup
        self.patience = patience
        self.stop_share = stop_share
        self.loss = loss
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.fusion = fusion
        self.seed = seed
        self.precision = precision
        self.device = device
        self.max_bytes = max_bytes

    def default_grid(self) -> list[dict[str, Any]]:
        """Return 12 settings: three learning rates, two weight decays, with and without dropout."""
        return [
            {"lr": lr, "weight_decay": decay, "dropout": dropout}
            for lr in (1e-4, 1e-3, 1e-2)
            for decay in (1e-2, 1.0)
            for dropout in (0.0, 0.5)
        ]

    def fit_many(
        self, X: Input, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Train many networks together; see `Head.fit_many`.

        Networks in a batch may differ only in ``lr``, ``weight_decay``, ``dropout``, ``label_smoothing`` and ``seed``,
        and must have the same classes in their training rows and the same number of steps.
        """
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        for head in heads:
            head._require_usable(X)
        codes, classes, multilabel = encode_labels(y)
        for chosen in _alike(heads):
            mine, rows = [heads[i] for i in chosen], [fits[i][0] for i in chosen]
            on_device(
                partial(_train_batch, mine, X, codes, classes, multilabel, rows, groups),
                mine[0].device,
                what="MLP heads",
                remedy=f"Lower batch_size (now {mine[0].batch_size}), or free some of it",
            )
        return heads

    def race(
        self,
        X: Input,
        y: NDArray[Any],
        fits: Sequence[Fit],
        tests: Sequence[NDArray[np.int64]],
        judge: Judge,
        *,
        groups: NDArray[Any] | None = None,
    ) -> list[Raced]:
        """Train many networks together, and drop some on the way; see `Head.race`."""
        heads = [type(self)(**{**self.get_params(), **params}) for _, params in fits]
        for head in heads:
            head._require_usable(X)
        labels = _Labels(*encode_labels(y), groups)
        fit_rows = [rows for rows, _ in fits]

        def on(device: str) -> list[Raced]:
            features = _Features.of(X, [*fit_rows, *tests], device, self.max_bytes)
            placed = [features.place[rows] for rows in tests]
            parts = []
            for chosen in _alike(heads):
                mine = [heads[i] for i in chosen], [fit_rows[i] for i in chosen]
                for batch in _batches(*mine, labels, features, racing=True):
                    members = [[chosen[i] for i in of] for of in batch.members]
                    parts.append(_Racing(batch._replace(members=members), placed, labels.multilabel))
            with keep_freed_memory():
                return raced(parts, judge, device)

        remedy = f"Lower batch_size (now {self.batch_size}), or free some of it"
        return on_device(on, self.device, what="MLP heads", remedy=remedy)

    def to_state(self) -> State:
        """Return a fitted network as plain JSON values and arrays."""
        check_is_fitted(self)
        values = {
            "params": {
                **self.get_params(),
                "hidden": list(self.hidden),
                "class_weight": plain_class_weight(self.class_weight),
            },
            "classes": self.classes_.tolist(),
            "multilabel": self.multilabel_,
            "inputs": self.inputs_,
            "n_epochs": self.n_epochs_,
        }
        return values, {"curve": self.curve_, **{f"params.{name}": p for name, p in self.params_.items()}}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a network from `to_state`."""
        head = cls(**{**values["params"], "hidden": tuple(values["params"]["hidden"])})
        head.classes_ = np.array(values["classes"])
        head.multilabel_, head.inputs_, head.n_epochs_ = values["multilabel"], values["inputs"], values["n_epochs"]
        head.curve_ = arrays["curve"]
        head.params_ = {n.removeprefix("params."): p for n, p in arrays.items() if n.startswith("params.")}
        head.n_features_in_ = sum(len(p) for n, p in head.params_.items() if n.startswith("in") and p.ndim == 2)
        return head

    def _require_usable(self, X: Input) -> None:
        require_training(self)
        require_one_of(self, loss=Loss, fusion=Fusion, precision=HeadPrecision, device=Device)
        if self.fusion == "gated" and not self.hidden:
            raise HeadError("fusion 'gated' needs a hidden layer.")
        widths = sorted({part.shape[1] for part in X.values()}) if is_several(X) else []
        if self.fusion == "sum" and len(widths) > 1:
            raise HeadError(
                f"fusion 'sum' needs inputs of equal width, but they have {' and '.join(map(str, widths))} columns: "
                "use concat or gated."
            )

    def _logits(self, X: Input) -> NDArray[np.float32]:
        parts = {"": X} if self.inputs_ is None else X
        if self.inputs_ is not None and (not is_several(X) or set(X) != set(self.inputs_)):
            raise HeadError(f"this head needs a dict of {', '.join(self.inputs_)}.")
        names = [""] if self.inputs_ is None else list(self.inputs_)
        n = n_rows(X)
        out = np.empty((n, self._n_outputs), np.float32)
        for start in range(0, n, PREDICTED_ROWS):
            rows = np.arange(start, min(start + PREDICTED_ROWS, n))
            out[rows] = self._forward([np.asarray(parts[name][rows], np.float32) for name in names])
        return out

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_) if self.multilabel_ or len(self.classes_) > 2 else 1

    def _forward(self, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        p = self.params_
        every = range(len(inputs))
        if self.fusion == "gated":
            x: Any = 0
            for i in every:
                gate = sum(inputs[j] @ p[f"gate{i}.{j}.weight"] for j in every) + p[f"gate{i}.bias"]
                x = x + np.tanh(inputs[i] @ p[f"in{i}.weight"] + p[f"in{i}.bias"]) / (1 + np.exp(-gate))
        else:
            x = sum(inputs[i] @ p[f"in{i}.weight"] for i in every) + p["in.bias"]
        for layer in range(len(self.hidden)):
            if layer or self.fusion != "gated":
                x = np.maximum(x, 0)
            x = x @ p[f"{layer}.weight"] + p[f"{layer}.bias"]
        logits: NDArray[np.float32] = x
        return logits


def _train_batch(
    heads: Sequence[MLP],
    X: Input,
    codes: NDArray[Any],
    classes: NDArray[Any],
    multilabel: bool,
    fit_rows: Sequence[NDArray[np.int64]],
    groups: NDArray[Any] | None,
    device: str,
) -> None:
    """Train heads that differ only in their rows, their seed and `NETWORK_SETTINGS`, on ``cuda`` or ``cpu``."""
    from headwater.heads._training import train

    labels = _Labels(codes, classes, multilabel, groups)
    features = _Features.of(X, fit_rows, device, heads[0].max_bytes)
    batches = list(_batches(heads, fit_rows, labels, features))
    every = side_by_side(lambda batch: train(*batch.network), batches, device)
    for batch, trained in zip(batches, every, strict=True):
        for number, network in zip(chain(*batch.members), chain(*trained), strict=True):
            head = heads[number]
            head.classes_ = batch.classes
            head.multilabel_ = multilabel
            head.params_, head.n_epochs_, head.curve_ = network.params, network.n_epochs, network.curve
            head.inputs_ = {name: int(part.shape[1]) for name, part in X.items()} if is_several(X) else None
            head.n_features_in_ = sum(features.columns)


class _Labels(NamedTuple):
    """Class numbers ``(n,)`` with their classes, or 0/1 ``(n, n_labels)``; and the groups of rows."""

    codes: NDArray[Any]
    classes: NDArray[Any]
    multilabel: bool
    groups: NDArray[Any] | None


class _Features(NamedTuple):
    """The features of the used rows on a device: how to gather them, and the index of each row of X among them."""

    gather: Gather
    place: NDArray[np.int64]
    columns: tuple[int, ...]
    device: str

    @classmethod
    def of(cls, X: Input, row_sets: Sequence[NDArray[np.int64]], device: str, max_bytes: int) -> _Features:
        inputs = list(X.values()) if is_several(X) else [X]
        most = max_bytes if device == "cpu" else min(max_bytes, free_bytes() // 3)
        gather, place = _on_device(inputs, list({id(r): r for r in row_sets}.values()), device, most)
        return cls(gather, place, tuple(int(part.shape[1]) for part in inputs), device)


class _Batch(NamedTuple):
    """Networks to train as one model: the arguments of `headwater.heads._training.Networks`, and whose they are.

    Attributes
    ----------
    members
        For each group the numbers of its heads.
    classes
        The classes of the training rows.
    """

    network: tuple[Shape, Schedule, Sequence[Group], Gather, Tensor, TorchType]
    members: list[list[int]]
    classes: NDArray[Any]


def _alike(heads: Sequence[MLP]) -> list[list[int]]:
    """Return the numbers of heads that may train together: those with the same shape and schedule."""
    found: dict[str, list[int]] = {}
    for i, head in enumerate(heads):
        shared = {k: v for k, v in head.get_params().items() if k not in (*NETWORK_SETTINGS, "seed")}
        found.setdefault(json.dumps(shared, default=list), []).append(i)
    return list(found.values())


def _batches(
    heads: Sequence[MLP],
    fit_rows: Sequence[NDArray[np.int64]],
    labels: _Labels,
    features: _Features,
    *,
    racing: bool = False,
) -> Iterator[_Batch]:
    """Divide heads of the same shape and schedule into batches that fit into memory; or, for a race, of any size."""
    from headwater.heads._training import Schedule

    torch = need("torch", "encoders")
    first = heads[0]
    codes, classes, multilabel, groups = labels
    fast = first.precision == "bf16" or (first.precision == "auto" and fast_at_bf16(features.device))
    dtype = torch.bfloat16 if fast else torch.float32
    schedule = Schedule(first.epochs, first.batch_size, first.warmup, first.patience)
    sharing: dict[tuple[int, int], list[int]] = {}
    for i, rows in enumerate(fit_rows):
        sharing.setdefault((id(rows), heads[i].seed), []).append(i)
    alike: dict[tuple[Any, ...], list[tuple[Group, list[int]]]] = {}
    for members in sharing.values():
        rows = fit_rows[members[0]]
        seen = np.arange(len(classes)) if multilabel else np.unique(codes[rows])
        if not multilabel:
            require_two(seen, classes)
        objective = objective_of(len(seen), multilabel, first.loss, first.gamma)
        group = _group([heads[i] for i in members], rows, codes, classes, seen, objective, groups, features.place)
        key = (objective, *seen.tolist()), schedule.steps(len(group.train)), len(group.stop) > 0, len(members)
        alike.setdefault(key, []).append((group, members))
    for ((objective, *classes_seen), *_), together in alike.items():
        seen = np.array(classes_seen)
        shape = Shape(features.columns, tuple(int(h) for h in first.hidden), objective, first.fusion)
        targets = targets_of(codes, seen, objective, features.place, features.device)
        n = _at_once(shape, len(together[0][1]), len(together), first.batch_size, features.device, racing=racing)
        for start in range(0, len(together), n):
            some = together[start : start + n]
            network = (shape, schedule, [group for group, _ in some], features.gather, targets, dtype)
            yield _Batch(network, [members for _, members in some], classes[seen])


class _Racing(Pausable):
    """A batch of networks in a race.

    Parameters
    ----------
    batch
        Its members are numbers of fits.
    tests
        Rows to score by each fit, as indices among the used rows.
    """

    def __init__(self, batch: _Batch, tests: Sequence[NDArray[np.int64]], multilabel: bool) -> None:
        self._batch, self._multilabel = batch, multilabel
        self._schedule = batch.network[1]
        places = {number: (i, j) for i, of in enumerate(batch.members) for j, number in enumerate(of)}
        self._live = {number: (place, tests[number]) for number, place in places.items()}
        self._networks: Networks | None = None
        self._epoch = 0

    def advance(self, share: float) -> None:
        from headwater.heads._training import Networks

        if self._networks is None and self._live:
            self._networks = Networks(*self._batch.network)
        self._epoch = self._schedule.epoch_at(share)
        if self._networks is not None:
            self._networks.advance(self._epoch)

    def scores(self) -> dict[int, Raced]:
        if self._networks is None:
            return {}
        of = {number: self._networks.logits(*place, rows) for number, (place, rows) in self._live.items()}
        return {
            number: Raced(scored(logits, self._multilabel), self._batch.classes, self._epoch)
            for number, logits in of.items()
        }

    def drop(self, numbers: frozenset[int]) -> None:
        mine = numbers & frozenset(self._live)
        if self._networks is not None:
            self._networks.drop([self._live[number][0] for number in mine])
        self._live = {number: found for number, found in self._live.items() if number not in mine}
        if not self._live:
            self._networks = None


def _group(
    heads: Sequence[MLP],
    rows: NDArray[np.int64],
    codes: NDArray[Any],
    classes: NDArray[Any],
    seen: NDArray[np.int64],
    objective: Objective,
    groups: NDArray[Any] | None,
    place: NDArray[np.int64],
) -> Group:
    from headwater.heads._training import Group

    first = heads[0]
    stop = np.zeros(0, np.int64)
    if first.patience is not None:
        share = None if groups is None else groups[rows]
        stop = rows_to_stop_by(codes[rows], share, first.stop_share, first.seed)
    train = np.setdiff1d(np.arange(len(rows)), stop)
    settings = {
        name: np.array([getattr(head, attribute) for head in heads], np.float32)
        for name, attribute in zip(("lr", "weight_decay", "dropout", "smoothing"), NETWORK_SETTINGS, strict=True)
    }
    known = np.array([0, 1]) if codes.ndim == 2 else classes[seen]
    weight = class_weights(codes[rows[train]], seen, known, objective, first.class_weight)
    return Group(place[rows[train]], place[rows[stop]], weight, first.seed, **settings)


def _at_once(shape: Shape, m: int, n_groups: int, batch_size: int, device: str, *, racing: bool) -> int:
    """Return how many of ``n_groups`` groups of m networks to train at once, by their memory.

    The budget of a CPU is small, since networks larger than its caches are not faster together
    (``benchmarks/mlp_sweep.py --fold-by-fold``). That of a GPU is its free memory, and was not benchmarked. The
    networks of a race are all in memory anyway, and the few that are left of each group are faster together.
    """
    from headwater.heads._training import APART, LEAST_STOP

    units = [*shape.hidden, shape.objective.n_outputs]
    weights = sum(fan_in * k for fan_in, k in pairwise([sum(shape.inputs), *units]))
    if shape.fusion == "gated":
        weights += len(shape.inputs) * sum(shape.inputs) * units[0]  # gates
    # with moments, gradients, casts and activations; and rows: raw, standardised and cast
    each = 4 * m * (8 * weights + 4 * batch_size * sum(units)) + 12 * max(batch_size, LEAST_STOP) * sum(shape.inputs)
    budget = free_bytes() // 2 if device == "cuda" else TOGETHER_ON_CPU
    at_once = n_groups if racing else max(1, int(budget // each))
    if device == "cpu" and weights >= APART:  # a batch for each thread
        at_once = min(at_once, math.ceil(n_groups / need("torch", "encoders").get_num_threads()))
    return at_once


def _on_device(
    inputs: Sequence[Any], row_sets: Sequence[NDArray[np.int64]], device: str, max_bytes: int
) -> tuple[Gather, NDArray[np.int64]]:
    """Return a function that gathers rows of the inputs, and the index of each row of X among the used ones (or -1)."""
    torch = need("torch", "encoders")
    used = np.unique(np.concatenate(row_sets))
    place = np.full(inputs[0].shape[0], -1)
    place[used] = np.arange(len(used))
    kept: list[Any] | None = None
    if 4 * len(used) * sum(part.shape[1] for part in inputs) <= max_bytes:
        kept = [torch.as_tensor(np.asarray(part[used], np.float32), device=device) for part in inputs]
        for part in kept:
            bad = (~torch.isfinite(part).all(1)).nonzero()[:, 0].cpu().numpy()
            if len(bad):
                raise HeadError(
                    f"features are not finite in {len(bad)} rows, the first being {used[bad[:5]].tolist()}."
                )

    def gather(rows: Tensor) -> list[Tensor]:
        if kept is not None:
            return [part[rows] for part in kept]
        numbers = used[rows.cpu().numpy().reshape(-1)]
        read = [torch.as_tensor(np.asarray(part[numbers], np.float32), device=device) for part in inputs]
        return [values.view(*rows.shape, -1) for values in read]

    return gather, place
