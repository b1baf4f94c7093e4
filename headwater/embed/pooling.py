"""Pooling of tokens into one vector, or into fewer tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater.errors import EncoderError, nearest

if TYPE_CHECKING:
    from torch import Tensor


POOLINGS = ("cls", "mean", "cls+mean", "max", "last")
"""Values of ``--pooling``: how tokens become one vector."""
OF_CELLS, OF_CLASS = ("mean", "max"), ("cls", "cls+mean")


def parse_pooling(pooling: str | None, spec: str) -> str | None:
    """Return the requested pooling.

    Raises
    ------
    EncoderError
        When its name is unknown.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise EncoderError(
            f"{spec}: --pooling {pooling!r}.{nearest(pooling, POOLINGS)} There are: {', '.join(POOLINGS)}."
        )
    return pooling


def require_pooling(pooling: str | None, able: Sequence[str], spec: str) -> None:
    """Raise `EncoderError` if the requested pooling is not among those that an encoder supports."""
    if pooling is None or pooling in able:
        return
    why = "only texts have a last token" if pooling == "last" else "it has no class token"
    there = f"There are: {', '.join(name for name in POOLINGS if name in able)}" if able else "Leave it out"
    raise EncoderError(f"{spec}: --pooling {pooling}: {why if able else 'its tokens are not known'}. {there}.")


def begins_with_class(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers puts a class token before a text."""
    first = tokenizer.cls_token_id
    return first is not None and next(iter(tokenizer("a")["input_ids"]), None) == first


def pool_cells(pooling: str, cells: Tensor, first: Tensor | None = None) -> Tensor:
    """Return one vector per image, of shape ``(n, dim)``.

    Parameters
    ----------
    pooling
        One of `POOLINGS` other than ``last``.
    cells
        Tokens of shape ``(n, n_cells, dim)``, without class and register tokens.
    first
        The class token, of shape ``(n, dim)``, if it is needed.
    """
    torch = need("torch", "encoders")
    if pooling == "max":
        largest: Tensor = cells.amax(1)
        return largest
    parts = [first if part == "cls" else cells.mean(1) for part in pooling.split("+")]
    vector: Tensor = torch.cat(parts, 1)
    return vector


def pool_words(pooling: str, hidden: Tensor, own: Tensor) -> Tensor:
    """Return one vector per text, of shape ``(n, dim)``.

    Parameters
    ----------
    pooling
        One of `POOLINGS`.
    hidden
        States of shape ``(n, length, dim)``.
    own
        True for a text's own states, false for padding: bool, of shape ``(n, length)``.
    """
    torch = need("torch", "encoders")

    def pooled(part: str) -> Tensor:
        values: Tensor
        if part == "max":
            values = hidden.masked_fill(~own[:, :, None], torch.finfo(hidden.dtype).min).amax(1)
        elif part == "mean":
            values = (hidden * own[:, :, None]).sum(1) / own.sum(1, keepdim=True)
        else:
            place = own.cumsum(1)
            wanted = 1 if part == "cls" else own.sum(1, keepdim=True)
            values = (hidden * ((place == wanted) & own)[:, :, None]).sum(1)
        return values

    vector: Tensor = torch.cat([pooled(part) for part in pooling.split("+")], 1)
    return vector


def grid_of(n_tokens: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of a grid of ``n_tokens`` cells with about the shape of ``height`` x ``width``.

    Raises
    ------
    EncoderError
        When the grid has fewer than ``n_tokens`` cells.

    Examples
    --------
    >>> grid_of(16, 14, 14)
    (4, 4)
    >>> grid_of(8, 16, 8)
    (4, 2)
    """
    if n_tokens > height * width:
        raise EncoderError(
            f"--tokens {n_tokens} is too many: this encoder has {height} x {width} = {height * width} tokens."
        )
    pairs = [(rows, n_tokens // rows) for rows in range(1, n_tokens + 1) if n_tokens % rows == 0]
    return min(pairs, key=lambda pair: abs(pair[0] * width - pair[1] * height))


def grid_of_sequence(n_tokens: int, expected: tuple[int, ...], *, of_square: bool = False) -> tuple[int, int]:
    """Return rows and columns of a grid stored as a sequence: ``expected`` if it fits, else a square or a row.

    Parameters
    ----------
    of_square
        Whether the image is square, so that its cells form a square.

    Raises
    ------
    EncoderError
        When there is one token more than a square of cells, so one of them must be a class token.

    Examples
    --------
    >>> grid_of_sequence(6, (2, 3)), grid_of_sequence(49, (56, 56)), grid_of_sequence(5, ())
    ((2, 3), (7, 7), (1, 5))
    """
    if len(expected) == 2 and expected[0] * expected[1] == n_tokens:
        return expected
    side = math.isqrt(n_tokens)
    if of_square and n_tokens > 1 and side * side + 1 == n_tokens:
        raise EncoderError(
            f"--tokens: the encoder has {n_tokens} tokens for a square image, one more than {side} x {side} cells. One "
            "is a class token at an unknown position. Leave --tokens out."
        )
    return (side, side) if side * side == n_tokens else (1, n_tokens)


def pool_grid(tokens: Tensor, n_tokens: int) -> Tensor:
    """Average a grid of tokens ``(n, height, width, dim)`` down to ``(n, n_tokens, dim)`` by adaptive pooling."""
    torch = need("torch", "encoders")
    grid = grid_of(n_tokens, tokens.shape[1], tokens.shape[2])
    pooled = torch.nn.functional.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2).float(), grid)
    flat: Tensor = pooled.flatten(2).transpose(1, 2)
    return flat


def pool_sequence(tokens: Tensor, n_tokens: int) -> Tensor:
    """Average a sequence of tokens ``(length, dim)`` down to ``n_tokens`` if it is longer."""
    if tokens.shape[0] <= n_tokens:
        return tokens
    torch = need("torch", "encoders")
    pooled: Tensor = torch.nn.functional.adaptive_avg_pool1d(tokens.float().T[None], n_tokens)[0].T
    return pooled


def own_tokens(hidden: Tensor, own: Sequence[slice], n_tokens: int | None) -> tuple[Tensor, Tensor]:
    """Return the tokens of padded sequences, given as ``hidden`` of shape ``(n, longest, dim)``, and their mask.

    Parameters
    ----------
    own
        The slice of each sequence's own tokens.
    n_tokens
        Average longer sequences down to this number of tokens; None to keep all.

    Returns
    -------
    tokens, mask
        Of shape ``(n, most, dim)``, a sequence's own tokens first, then zeros; and bool, ``(n, most)``.
    """
    torch = need("torch", "encoders")
    each = [h[place] for h, place in zip(hidden, own, strict=True)]
    if n_tokens is not None:
        each = [pool_sequence(h, n_tokens) for h in each]
    tokens = torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
    lengths = torch.tensor([len(h) for h in each], device=hidden.device)
    return tokens, torch.arange(tokens.shape[1], device=hidden.device) < lengths[:, None]
