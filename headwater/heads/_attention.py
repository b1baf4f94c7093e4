"""Networks over token features: tokenizers, attention blocks and pooling, as functions of a dictionary of parameters.

Tokens have shape ``(b, t, d)`` with a mask ``(b, t)`` of existing tokens. A layer NAME has parameters ``NAME.weight``
``(units, fan_in)`` and ``NAME.bias`` ``(units,)``, as in torch.nn.functional.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from headwater._extras import need
from headwater.heads._objective import Objective

if TYPE_CHECKING:
    from torch import Generator, Tensor

Tokenizer = Literal["project", "mix", "average", "max", "pooled-linear", "pooled-mlp"]
Aggregator = Literal["none", "queries", "self", "merged", "cross", "co"]
Pool = Literal["max", "mean", "attention"]
Params = dict[str, "Tensor"]
Tokens = tuple["Tensor", "Tensor"]  # values (b, t, d), mask (b, t)
Drop = Callable[["Tensor"], "Tensor"]
EXPANSION = 2  # hidden units of a block's MLP, relative to the width


@dataclass(frozen=True)
class TokenShape:
    """The architecture of a network over tokens.

    Attributes
    ----------
    inputs
        Columns of each input's tokens.
    lengths
        Number of each input's tokens; None if it varies between items.
    tokenizer, n_tokens, aggregator, width, blocks, heads, pool, hidden
        See `headwater.heads.TokenHead`.
    rectified
        Whether projected tokens go through a ReLU, as instances of bags do.
    objective
        The task of the logits.
    """

    inputs: tuple[int, ...]
    lengths: tuple[int | None, ...]
    tokenizer: Tokenizer
    n_tokens: int
    aggregator: Aggregator
    width: int
    blocks: int
    heads: int
    pool: Pool
    hidden: tuple[int, ...]
    rectified: bool
    objective: Objective

    @property
    def streams(self) -> int:
        """Number of sequences that go through the blocks."""
        return 1 if self.aggregator == "merged" else len(self.inputs)

    @property
    def attends(self) -> bool:
        """Whether tokens attend to tokens, in blocks."""
        return self.aggregator not in ("none", "queries")


def initial(shape: TokenShape, generator: Generator) -> Params:
    """Initialise parameters: weights uniform in ``± fan_in ** -1/2``, norms at 1 and 0."""
    torch = need("torch", "encoders")
    params: Params = {}
    w = shape.width

    def layer(name: str, fan_in: int, units: int) -> None:
        bound = fan_in**-0.5
        params[f"{name}.weight"] = torch.empty(units, fan_in).uniform_(-bound, bound, generator=generator)
        params[f"{name}.bias"] = torch.empty(units).uniform_(-bound, bound, generator=generator)

    def norm(name: str) -> None:
        params[f"{name}.weight"], params[f"{name}.bias"] = torch.ones(w), torch.zeros(w)

    def attention(name: str) -> None:
        for part in ("query", "key", "value", "out"):
            layer(f"{name}.{part}", w, w)
        norm(f"{name}.norm")

    for i, (d, length) in enumerate(zip(shape.inputs, shape.lengths, strict=True)):
        pooled = shape.tokenizer.startswith("pooled")
        layer(f"project{i}", d, w * shape.n_tokens if shape.tokenizer == "pooled-linear" else w)
        if shape.tokenizer == "pooled-mlp":
            layer(f"unfold{i}", w, w * shape.n_tokens)
        if shape.tokenizer == "mix":
            layer(f"mix{i}", length or shape.n_tokens, shape.n_tokens)
        params[f"missing{i}.bias"] = 0.02 * torch.randn(shape.n_tokens if pooled else 1, w, generator=generator)
        if shape.aggregator == "merged":
            params[f"kind{i}.bias"] = 0.02 * torch.randn(w, generator=generator)
    for block in range(shape.blocks if shape.attends else 0):
        for i in range(shape.streams):
            if shape.aggregator != "cross":
                attention(f"block{block}.self{i}")
            if shape.aggregator in ("cross", "co"):
                attention(f"block{block}.cross{i}")
            layer(f"block{block}.up{i}", w, EXPANSION * w)
            layer(f"block{block}.down{i}", EXPANSION * w, w)
            norm(f"block{block}.norm{i}")
    for i, d in enumerate(shape.inputs if shape.aggregator == "queries" else ()):
        bound = d**-0.5
        params[f"query{i}.weight"] = torch.empty(shape.heads, d).uniform_(-bound, bound, generator=generator)
    gated = shape.pool == "attention" and shape.aggregator != "queries"
    for i in range(len(shape.inputs) if gated else 0):
        layer(f"pool{i}.value", w, max(w // 2, 1))
        layer(f"pool{i}.gate", w, max(w // 2, 1))
        layer(f"pool{i}.score", max(w // 2, 1), 1)
    units = [w * len(shape.inputs), *shape.hidden, shape.objective.n_outputs]
    for number, (fan_in, k) in enumerate(pairwise(units)):
        layer(f"fusion{number}", fan_in, k)
    return params


def forward(
    shape: TokenShape, params: Params, inputs: Sequence[Tokens], drop: Drop = lambda x: x
) -> tuple[Tensor, list[Tensor]]:
    """Return logits ``(b, n_outputs)``, float32, and each input's share of attention in pooling, ``(b, tokens)``.

    A learned token replaces an input that an item lacks. ``drop`` is applied to each residual branch and before each
    layer of the fusion MLP.

    References
    ----------
    Dou et al., An empirical study of training end-to-end vision-and-language transformers (METER), 2022, section 3.3,
    for merged and co-attention; residual connections and layer norms after each part as in Vaswani et al., 2017.
    Ilse et al., Attention-based deep multiple instance learning, 2018, eq. 9, for pooling by gated attention. Psomas et
    al., Attention, please! Revisiting attentive probing through the lens of efficiency, 2025, for pooling by queries.
    """
    torch = need("torch", "encoders")
    streams = [_tokenized(shape, params, i, values, mask) for i, (values, mask) in enumerate(inputs)]
    sizes = [values.shape[1] for values, _ in streams]
    if shape.aggregator == "merged":
        kinds = [(values + params[f"kind{i}.bias"], mask) for i, (values, mask) in enumerate(streams)]
        streams = [_joined(kinds)]
    for block in range(shape.blocks if shape.attends else 0):
        streams = _block(shape, params, f"block{block}", streams, drop)
    if shape.aggregator == "merged":
        apart, masks = torch.split(streams[0][0], sizes, 1), torch.split(streams[0][1], sizes, 1)
        streams = list(zip(apart, masks, strict=True))
    if shape.aggregator == "queries":
        asked = zip(inputs, streams, strict=True)
        parts = [_asked(shape, params, i, tokens, *stream) for i, ((tokens, _), stream) in enumerate(asked)]
    else:
        parts = [_pooled(shape, params, i, *stream) for i, stream in enumerate(streams)]
    pooled, shares = zip(*parts, strict=True)
    x = torch.cat(pooled, 1)
    for number in range(len(shape.hidden) + 1):
        if number:
            x = torch.nn.functional.gelu(x)
        x = linear(params, f"fusion{number}", drop(x))
    return x.float(), list(shares)


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """Apply a layer to the last axis."""
    out: Tensor = need("torch", "encoders").nn.functional.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])
    return out


def _norm(params: Params, name: str, x: Tensor) -> Tensor:
    weight = params[f"{name}.weight"]
    out: Tensor = need("torch", "encoders").nn.functional.layer_norm(x, weight.shape, weight, params[f"{name}.bias"])
    return out


def _tokenized(shape: TokenShape, params: Params, i: int, values: Tensor, mask: Tensor) -> Tokens:
    """Project an input's tokens to the common width and, for some tokenizers, to another number of tokens."""
    torch = need("torch", "encoders")
    there = mask.any(1)
    values = values.to(params[f"project{i}.weight"].dtype)
    if shape.tokenizer.startswith("pooled"):
        mean = (values * mask[..., None]).sum(1) / mask.sum(1).clamp(min=1)[:, None]
        x = linear(params, f"project{i}", mean)
        if shape.tokenizer == "pooled-mlp":
            x = linear(params, f"unfold{i}", torch.nn.functional.gelu(x))
        x = x.view(len(x), shape.n_tokens, shape.width)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    else:
        x = linear(params, f"project{i}", values)
        if shape.rectified:
            x = torch.relu(x)
        if shape.tokenizer in ("average", "max") or (shape.tokenizer == "mix" and shape.lengths[i] is None):
            x, mask = fewer(x, mask, shape.n_tokens, by_max=shape.tokenizer == "max")
        if shape.tokenizer == "mix":
            x = linear(params, f"mix{i}", (x * mask[..., None]).mT).mT
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    # a missing input is one learned token, or as many as every item has
    absent = params[f"missing{i}.bias"].to(x.dtype)
    instead = absent if len(absent) == x.shape[1] else torch.nn.functional.pad(absent, (0, 0, 0, x.shape[1] - 1))
    first = torch.arange(x.shape[1], device=x.device) < len(absent)
    return torch.where(there[:, None, None], x, instead), torch.where(there[:, None], mask, first)


def fewer(tokens: Tensor, mask: Tensor, n_tokens: int, *, by_max: bool = False) -> Tokens:
    """Pool each item's tokens adaptively to at most ``n_tokens``, by the mean or the maximum of each bin.

    An item with ``L`` tokens has ``m = min(L, n_tokens)`` bins, the k-th from ``floor(k L / m)`` to
    ``ceil((k + 1) L / m)``, as in torch.nn.AdaptiveAvgPool1d. Existing tokens come first.
    """
    torch = need("torch", "encoders")
    longest = tokens.shape[1]
    if longest <= n_tokens and not by_max:
        padding = (0, n_tokens - longest)
        return torch.nn.functional.pad(tokens, (0, 0, *padding)), torch.nn.functional.pad(mask, padding)
    length = mask.sum(1)[:, None]
    bins = length.clamp(max=n_tokens)
    k = torch.arange(n_tokens, device=tokens.device)[None]
    kept = k < bins
    start = k * length // bins.clamp(min=1)
    stop = -(-(k + 1) * length // bins.clamp(min=1))
    size = torch.where(kept, stop - start, 0)  # (b, n_tokens)
    within = torch.arange(int(size.max().clamp(min=1)), device=tokens.device)
    place = (start[..., None] + within).clamp(max=longest - 1)
    inside = within < size[..., None]  # (b, n_tokens, in a bin)
    index = place.flatten(1)[..., None].expand(-1, -1, tokens.shape[2])
    members = tokens.gather(1, index).view(*place.shape, -1)
    if by_max:
        out = members.masked_fill(~inside[..., None], -torch.inf).amax(2).masked_fill(~kept[..., None], 0)
    else:
        out = (members * inside[..., None]).sum(2) / size.clamp(min=1)[..., None]
    return out.to(tokens.dtype), kept


def _block(shape: TokenShape, params: Params, name: str, streams: list[Tokens], drop: Drop) -> list[Tokens]:
    """Apply self-attention, cross-attention and an MLP to each stream, depending on the aggregator."""
    if shape.aggregator != "cross":
        own = [_attended(shape, params, f"{name}.self{i}", s[0], s, drop) for i, s in enumerate(streams)]
        streams = [(x, mask) for x, (_, mask) in zip(own, streams, strict=True)]
    if shape.aggregator in ("cross", "co"):
        asked = []
        for i, (x, _) in enumerate(streams):
            others = _joined([stream for j, stream in enumerate(streams) if j != i])
            asked.append(_attended(shape, params, f"{name}.cross{i}", x, others, drop))
        streams = [(x, mask) for x, (_, mask) in zip(asked, streams, strict=True)]
    out = []
    for i, (x, mask) in enumerate(streams):
        up = need("torch", "encoders").nn.functional.gelu(linear(params, f"{name}.up{i}", x))
        out.append((_norm(params, f"{name}.norm{i}", x + drop(linear(params, f"{name}.down{i}", up))), mask))
    return out


def _joined(streams: Sequence[Tokens]) -> Tokens:
    torch = need("torch", "encoders")
    return torch.cat([values for values, _ in streams], 1), torch.cat([mask for _, mask in streams], 1)


def _attended(shape: TokenShape, params: Params, name: str, x: Tensor, context: Tokens, drop: Drop) -> Tensor:
    """Apply multi-head attention of ``x`` to the context's tokens, a residual connection and a layer norm."""
    torch = need("torch", "encoders")
    values, mask = context

    def heads(part: str, tokens: Tensor) -> Tensor:
        apart: Tensor = (
            linear(params, f"{name}.{part}", tokens).view(*tokens.shape[:2], shape.heads, -1).transpose(1, 2)
        )
        return apart

    seen = torch.nn.functional.scaled_dot_product_attention(
        heads("query", x), heads("key", values), heads("value", values), attn_mask=mask[:, None, None]
    )
    return _norm(params, f"{name}.norm", x + drop(linear(params, f"{name}.out", seen.transpose(1, 2).flatten(2))))


def _pooled(shape: TokenShape, params: Params, i: int, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return one vector per item ``(b, width)``, and the weight of each of its tokens in it ``(b, t)``."""
    torch = need("torch", "encoders")
    if shape.pool == "max":
        best, place = x.masked_fill(~mask[..., None], -torch.inf).max(1)
        counts = torch.zeros(x.shape[:2], device=x.device).scatter_add_(1, place, torch.ones_like(best).float())
        return best, counts / x.shape[2]
    if shape.pool == "mean":
        share = mask / mask.sum(1, keepdim=True)
    else:
        value, gate = torch.tanh(linear(params, f"pool{i}.value", x)), linear(params, f"pool{i}.gate", x).sigmoid()
        score = linear(params, f"pool{i}.score", value * gate)[..., 0].float()
        share = score.masked_fill(~mask, -torch.inf).softmax(1)
    return (x * share[..., None].to(x.dtype)).sum(1), share


def _asked(
    shape: TokenShape, params: Params, i: int, tokens: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Pool by learned queries; return one vector per item ``(b, width)``, and the weight of each token ``(b, t)``.

    Query j attends to tokens as they are, without a projection of keys, and takes the weighted mean of the j-th part of
    the columns of ``values``, the projected tokens. A token's weight is its mean over queries.
    """
    query = params[f"query{i}.weight"]
    scores = (tokens.to(query.dtype) @ query.T).float() * query.shape[1] ** -0.5  # (b, t, queries)
    share = scores.masked_fill(~mask[..., None], -need("torch", "encoders").inf).softmax(1)
    chunks = values.view(*values.shape[:2], len(query), -1)  # (b, t, queries, width / queries)
    pooled = (chunks * share[..., None].to(values.dtype)).sum(1).flatten(1)
    return pooled, share.mean(2)


def folded(params: Params, scales: Sequence[tuple[Tensor, Tensor]]) -> Params:
    """Return parameters for unstandardised tokens, and the means ``mean0``, … of the training tokens.

    Parameters
    ----------
    params
        For standardised tokens.
    scales
        Each input's column means and standard deviations, of shape ``(d,)``.
    """
    out = dict(params) | {f"mean{i}": mean for i, (mean, _) in enumerate(scales)}
    for i, (mean, std) in enumerate(scales):
        if f"query{i}.weight" in out:  # the mean adds the same to the scores of all tokens
            out[f"query{i}.weight"] = out[f"query{i}.weight"] / std
        out[f"project{i}.weight"] = out[f"project{i}.weight"] / std
        out[f"project{i}.bias"] = out[f"project{i}.bias"] - out[f"project{i}.weight"] @ mean
    return out


def unfolded(params: Params, scales: Sequence[tuple[Tensor, Tensor]]) -> Params:
    """Return parameters for standardised tokens: the inverse of `folded`, without the means."""
    out = {name: p for name, p in params.items() if not name.startswith("mean")}
    for i, (mean, std) in enumerate(scales):
        out[f"project{i}.bias"] = out[f"project{i}.bias"] + out[f"project{i}.weight"] @ mean
        out[f"project{i}.weight"] = out[f"project{i}.weight"] * std
        if f"query{i}.weight" in out:
            out[f"query{i}.weight"] = out[f"query{i}.weight"] * std
    return out
