"""Parameters and logits of many small networks of one shape at once.

Parameters have an axis m for networks with the same training rows (the settings of a sweep), and before it an axis g
for different rows (folds). Networks that share rows also share batches, so that the first layer, which takes most of
the time, is one matrix product for all of them: its weights have shape ``(g, m * h, d)`` and its biases
``(g, m * h, 1)``; those of later layers have ``(g, m, k, h)`` and ``(g, m, k, 1)``. Units come before rows throughout,
so that no matrix needs to be transposed in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from headwater._extras import need
from headwater.heads._objective import Objective

if TYPE_CHECKING:
    from torch import Generator, Tensor

Fusion = Literal["concat", "sum", "gated"]
Params = dict[str, "Tensor"]


@dataclass(frozen=True)
class Shape:
    """The architecture shared by networks that are trained together.

    Attributes
    ----------
    inputs
        Columns of each input.
    hidden
        Units of each hidden layer.
    objective
        The task of the logits.
    fusion
        How several inputs are combined; see `headwater.heads.MLP`.
    """

    inputs: tuple[int, ...]
    hidden: tuple[int, ...]
    objective: Objective
    fusion: Fusion


def initial(shape: Shape, m: int, generators: Sequence[Generator]) -> Params:
    """Initialise parameters uniformly in ``± fan_in ** -1/2``, as torch.nn.Linear does, the same within a group."""
    torch = need("torch", "encoders")
    total = sum(shape.inputs)

    def drawn(fan_in: int, *size: int) -> Tensor:
        bound = fan_in**-0.5
        drawn: Tensor = torch.stack([torch.empty(size).uniform_(-bound, bound, generator=g) for g in generators])
        return drawn

    units = [*shape.hidden, shape.objective.n_outputs]
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
        for name, columns in (("weight", fan_in), ("bias", 1)):
            wide[f"{layer}.{name}"] = drawn(fan_in, 1, k, columns).repeat(1, m, 1, 1)
    return wide


def forward(shape: Shape, params: Params, inputs: list[Tensor], dropout: Tensor, noise: list[Tensor] | None) -> Tensor:
    """Return logits, float32, of shape ``(g, m, b, n_outputs)``, for inputs ``(g, b, d)``.

    Everything except the logits is computed in the type of the inputs. ``noise`` holds uniform numbers
    ``(g, units, b)`` for each hidden layer; units below ``dropout`` are dropped.
    """
    torch = need("torch", "encoders")
    g, m = dropout.shape
    every = range(len(inputs))
    cast = {name: p.to(inputs[0].dtype) for name, p in params.items()}

    columns = [x.mT for x in inputs]

    def layer(name: str, *products: Tensor) -> Tensor:
        out: Tensor = sum(products[1:], products[0]) + cast[name]
        return out

    if shape.fusion == "gated":
        x = torch.zeros((), dtype=inputs[0].dtype, device=dropout.device)
        for i in every:
            gate = layer(f"gate{i}.bias", *(cast[f"gate{i}.{j}.weight"] @ columns[j] for j in every))
            own = layer(f"in{i}.bias", cast[f"in{i}.weight"] @ columns[i])
            x = x + torch.sigmoid(gate) * torch.tanh(own)
    else:
        parts = [torch.stack(columns).sum(0)] if shape.fusion == "sum" else columns
        x = layer("in.bias", *(cast[f"in{i}.weight"] @ part for i, part in enumerate(parts)))
    x = x.view(g, m, -1, x.shape[2])
    for number in range(len(shape.hidden)):
        if number or shape.fusion != "gated":
            x = torch.relu(x)
        if noise is not None:
            rate = dropout[:, :, None, None]
            x = x * ((noise[number][:, None] >= rate) / (1 - rate)).to(x.dtype)
        x = layer(f"{number}.bias", cast[f"{number}.weight"] @ x)
    logits: Tensor = x.mT.float()
    return logits


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one number per network ``(g, m)`` to broadcast with a parameter."""
    if like.ndim == 4:
        return values[:, :, None, None]
    return values.repeat_interleave(like.shape[1] // values.shape[1], 1)[:, :, None]


def one_network(params: Params, i: int, j: int, m: int) -> Params:
    """Return the parameters of one network: weights ``(fan_in, units)``, biases ``(units,)``."""
    out = {}
    for name, p in params.items():
        mine = p[i, j] if p.ndim == 4 else p[i].view(m, -1, p.shape[2])[j]
        out[name] = mine[:, 0] if name.endswith("bias") else mine.T
    return out


def batched(params: Params) -> Params:
    """Return one network's parameters with axes of length 1 for groups and networks."""
    out = {}
    for name, p in params.items():
        columns = p[:, None] if p.ndim == 1 else p.T
        out[name] = columns[None] if name.startswith(("in", "gate")) else columns[None, None]
    return out


def folded(params: Params, scales: Sequence[tuple[Tensor, Tensor]]) -> Params:
    """Return one network's parameters for unstandardised inputs; weights shared by inputs are duplicated.

    Parameters
    ----------
    params
        For standardised inputs.
    scales
        Each input's column means and standard deviations, of shape ``(d,)``.
    """
    out = dict(params)
    if "in.bias" in out and "in1.weight" not in out:  # a sum of inputs, or one input
        out |= {f"in{i}.weight": out["in0.weight"] for i in range(1, len(scales))}
    for name, bias, i in _first_layers(out):
        mean, std = scales[i]
        out[name] = out[name] / std[:, None]
        out[bias] = out[bias] - mean @ out[name]
    return out


def unfolded(params: Params, scales: Sequence[tuple[Tensor, Tensor]]) -> Params:
    """Return one network's parameters for standardised inputs: the inverse of `folded`."""
    out = dict(params)
    for name, bias, i in _first_layers(out):
        mean, std = scales[i]
        out[bias] = out[bias] + mean @ out[name]
        out[name] = out[name] * std[:, None]
    return out


def _first_layers(params: Params) -> list[tuple[str, str, int]]:
    """Return the first-layer weights: their name, that of their bias, and the input's number."""
    found = []
    for name in [name for name in params if name.startswith(("in", "gate")) and name.endswith("weight")]:
        layer, *rest = name.removesuffix(".weight").split(".")
        number = int(rest[0] if rest else layer.removeprefix("in"))
        found.append((name, "in.bias" if "in.bias" in params else f"{layer}.bias", number))
    return found
