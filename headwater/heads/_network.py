"""Small networks, many of one shape at once: their parameters, logits and losses.

Parameters have an axis for networks that share their training rows (the settings of a sweep), m, and one before it for
different rows (folds), g. Networks that share rows also share batches, so that the first layer, where most of the work
is, is one matrix product for all of them: its weights have shape ``(g, m * h, d)`` and its biases ``(g, m * h, 1)``;
those of later layers have ``(g, m, h, k)`` and ``(g, m, 1, k)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from headwater._extras import need

if TYPE_CHECKING:
    from torch import Generator, Tensor

Fusion = Literal["concat", "sum", "gated"]
Loss = Literal["cross-entropy", "focal"]
Params = dict[str, "Tensor"]


@dataclass(frozen=True)
class Shape:
    """What networks that are trained together have in common.

    Attributes
    ----------
    inputs
        Columns of each input.
    hidden
        Units of each hidden layer.
    n_outputs
        Logits.
    softmax
        Whether logits are of classes that exclude each other; else each is a label's own.
    fusion
        How several inputs become one; see `headwater.heads.MLP`.
    loss, gamma
        ``cross-entropy`` (logistic, where a logit stands for itself) or ``focal``, with its exponent.
    """

    inputs: tuple[int, ...]
    hidden: tuple[int, ...]
    n_outputs: int
    softmax: bool
    fusion: Fusion
    loss: Loss
    gamma: float


def initial(shape: Shape, m: int, generators: Sequence[Generator]) -> Params:
    """Draw parameters uniformly between ``± fan_in ** -1/2``, as torch.nn.Linear does; alike within a group."""
    torch = need("torch", "encoders")
    total = sum(shape.inputs)

    def drawn(fan_in: int, *size: int) -> Tensor:
        bound = fan_in**-0.5
        drawn: Tensor = torch.stack([torch.empty(size).uniform_(-bound, bound, generator=g) for g in generators])
        return drawn

    units = [*shape.hidden, shape.n_outputs]
    params = {}
    if shape.fusion == "gated":
        for i, d in enumerate(shape.inputs):
            params[f"in{i}.weight"], params[f"in{i}.bias"] = drawn(d, units[0], d), drawn(d, units[0], 1)
            for j, from_d in enumerate(shape.inputs):
                params[f"gate{i}.{j}.weight"] = drawn(total, units[0], from_d)
            params[f"gate{i}.bias"] = drawn(total, units[0], 1)
    else:
        inputs = shape.inputs[:1] if shape.fusion == "sum" else shape.inputs
        for i, d in enumerate(inputs):
            params[f"in{i}.weight"] = drawn(sum(inputs), units[0], d)
        params["in.bias"] = drawn(sum(inputs), units[0], 1)
    wide = {name: p.repeat(1, m, 1) for name, p in params.items()}
    for layer, (fan_in, k) in enumerate(pairwise(units)):
        for name, rows in (("weight", fan_in), ("bias", 1)):
            wide[f"{layer}.{name}"] = drawn(fan_in, 1, rows, k).repeat(1, m, 1, 1)
    return wide


def forward(shape: Shape, params: Params, inputs: list[Tensor], dropout: Tensor, noise: list[Tensor] | None) -> Tensor:
    """Return logits, float32, of shape ``(g, m, b, n_outputs)``, of inputs ``(g, b, d)``.

    Matrix products are in the type of the inputs; their results are float32. ``noise`` holds uniform numbers
    ``(g, b, units)`` for each hidden layer; units below ``dropout`` are left out.
    """
    torch = need("torch", "encoders")
    g, m = dropout.shape
    every = range(len(inputs))

    def product(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = (x @ weight.to(x.dtype)).float()
        return out

    if shape.fusion == "gated":
        x = torch.zeros((), device=dropout.device)
        for i in every:
            gate = sum(product(inputs[j], params[f"gate{i}.{j}.weight"].mT) for j in every) + params[f"gate{i}.bias"].mT
            own = product(inputs[i], params[f"in{i}.weight"].mT) + params[f"in{i}.bias"].mT
            x = x + torch.sigmoid(gate) * torch.tanh(own)
    else:
        summed = [torch.stack(inputs).sum(0)] if shape.fusion == "sum" else inputs
        x = sum(product(one, params[f"in{i}.weight"].mT) for i, one in enumerate(summed)) + params["in.bias"].mT
    x = x.view(g, x.shape[1], m, -1).transpose(1, 2)
    for layer in range(len(shape.hidden)):
        if layer or shape.fusion != "gated":
            x = torch.relu(x)
        if noise is not None:
            rate = dropout[:, :, None, None]
            x = x * (noise[layer][:, None] >= rate) / (1 - rate)
        x = product(x.to(inputs[0].dtype), params[f"{layer}.weight"]) + params[f"{layer}.bias"]
    return x  # type: ignore[no-any-return]


def losses(
    shape: Shape, logits: Tensor, targets: Tensor, class_weight: Tensor, smoothing: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each network's sum of weighted losses and of weights, both of shape ``(g, m)``.

    Parameters
    ----------
    logits
        Of shape ``(g, m, b, k)``.
    targets
        Of shape ``(g, b)``, or ``(g, b, k)`` where each logit is a label's own.
    present
        Rows that count, bool, of shape ``(g, b)``.

    References
    ----------
    Lin et al., Focal loss for dense object detection, 2017, eq. 4; Szegedy et al., Rethinking the Inception
    architecture, 2016, section 7 (label smoothing).
    """
    torch = need("torch", "encoders")
    smooth = smoothing[:, :, None, None]
    if shape.softmax:
        log_p = torch.log_softmax(logits, -1)
        own = targets[:, None, :, None].expand(*log_p.shape[:3], 1)
        log_own = log_p.gather(-1, own)
        loss = -(1 - smooth) * log_own - smooth * log_p.mean(-1, keepdim=True)
        weight = class_weight.gather(1, targets)[:, None, :, None]
    else:
        truth = targets[:, None]
        log_own = -torch.nn.functional.softplus(logits * (1 - 2 * truth))
        loss = torch.nn.functional.softplus(logits) - (truth * (1 - smooth) + smooth / 2) * logits
        weight = torch.where(truth > 0, class_weight[:, None, None, 1], class_weight[:, None, None, 0])
    if shape.loss == "focal":
        loss = loss * (1 - log_own.exp()) ** shape.gamma
    weight = (weight * present[:, None, :, None]).expand_as(loss)
    return (loss * weight).sum((2, 3)), weight.sum((2, 3)).clamp(min=1e-12)


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Shape a number a network ``(g, m)`` so that it goes with a parameter."""
    if like.ndim == 4:
        return values[:, :, None, None]
    return values.repeat_interleave(like.shape[1] // values.shape[1], 1)[:, :, None]


def one_network(params: Params, i: int, j: int, m: int) -> Params:
    """Return the parameters of one network: weights ``(fan_in, units)``, biases ``(units,)``."""
    out = {}
    for name, p in params.items():
        mine = p[i, j] if p.ndim == 4 else p[i].view(m, -1, p.shape[2])[j].T
        out[name] = mine[0] if name.endswith("bias") else mine
    return out
