"""Making one vector of many tokens, or fewer tokens of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater.errors import EncoderError, nearest

if TYPE_CHECKING:
    from torch import Tensor


POOLINGS = ("cls", "mean", "cls+mean", "max", "last")
"""How tokens become one vector where ``--pooling`` says so."""
OF_CELLS, OF_CLASS = ("mean", "max"), ("cls", "cls+mean")


def parse_pooling(pooling: str | None, spec: str) -> str | None:
    """Return a pooling that was asked for.

    Raises
    ------
    EncoderError
        When there is none of this name.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise EncoderError(
            f"{spec}: --pooling {pooling!r}.{nearest(pooling, POOLINGS)} There are: {', '.join(POOLINGS)}."
        )
    return pooling


def require_pooling(pooling: str | None, able: Sequence[str], spec: str) -> None:
    """Raise `EncoderError` where an encoder cannot pool as it was asked to, given what it can."""
    if pooling is None or pooling in able:
        return
    why = "a last token is one of a text" if pooling == "last" else "it has no class token"
    there = f"It can: {', '.join(name for name in POOLINGS if name in able)}" if able else "Leave it out"
    raise EncoderError(f"{spec}: --pooling {pooling}: {why if able else 'its tokens cannot be told'}. {there}.")


def begins_with_class(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers puts a class token before a text."""
    first = tokenizer.cls_token_id
    return first is not None and next(iter(tokenizer("a")["input_ids"]), None) == first


def pool_cells(pooling: str, cells: Tensor, first: Tensor | None = None) -> Tensor:
    """Return one vector an image, of shape ``(n, dim)``.

    Parameters
    ----------
    pooling
        One of `POOLINGS` other than ``last``.
    cells
        Tokens of shape ``(n, n_cells, dim)``, class and register tokens left out.
    first
        The class token, of shape ``(n, dim)``, where it is needed.
    """
    torch = need("torch", "encoders")
    if pooling == "max":
        largest: Tensor = cells.amax(1)
        return largest
    parts = [first if part == "cls" else cells.mean(1) for part in pooling.split("+")]
    vector: Tensor = torch.cat(parts, 1)
    return vector


def pool_words(pooling: str, hidden: Tensor, own: Tensor) -> Tensor:
    """Return one vector a text, of shape ``(n, dim)``.

    Parameters
    ----------
    pooling
        One of `POOLINGS`.
    hidden
        States of shape ``(n, length, dim)``.
    own
        Which of them are a text's own, and no padding, bool, of shape ``(n, length)``.
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
    """Return rows and columns of a grid of ``n_tokens`` cells, shaped as nearly like ``height`` x ``width`` as can be.

    Raises
    ------
    EncoderError
        When there are more tokens asked for than the grid has.

    Examples
    --------
    >>> grid_of(16, 14, 14)
    (4, 4)
    >>> grid_of(8, 16, 8)
    (4, 2)
    """
    if n_tokens > height * width:
        raise EncoderError(f"--tokens {n_tokens}: this encoder makes {height} x {width} = {height * width} tokens.")
    pairs = [(rows, n_tokens // rows) for rows in range(1, n_tokens + 1) if n_tokens % rows == 0]
    return min(pairs, key=lambda pair: abs(pair[0] * width - pair[1] * height))


def grid_of_sequence(n_tokens: int, expected: tuple[int, ...], *, of_square: bool = False) -> tuple[int, int]:
    """Return rows and columns of a grid laid out as a sequence: ``expected`` where that fits, else a square or a row.

    Parameters
    ----------
    of_square
        Whether the tokens are of a square image, whose cells make a square.

    Raises
    ------
    EncoderError
        When they are one more than a square of cells, so that a class token is among them.

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
            f"--tokens: the encoder makes {n_tokens} tokens of a square image, one more than {side} x {side} cells: a "
            "class token is among them, and its place is not known. Leave --tokens out."
        )
    return (side, side) if side * side == n_tokens else (1, n_tokens)


def pool_grid(tokens: Tensor, n_tokens: int) -> Tensor:
    """Average a grid of tokens ``(n, height, width, dim)`` down to ``(n, n_tokens, dim)``, adaptively."""
    torch = need("torch", "encoders")
    grid = grid_of(n_tokens, tokens.shape[1], tokens.shape[2])
    pooled = torch.nn.functional.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2).float(), grid)
    flat: Tensor = pooled.flatten(2).transpose(1, 2)
    return flat


def pool_sequence(tokens: Tensor, n_tokens: int) -> Tensor:
    """Average a sequence of tokens ``(length, dim)`` down to ``n_tokens`` where it is longer."""
    if tokens.shape[0] <= n_tokens:
        return tokens
    torch = need("torch", "encoders")
    pooled: Tensor = torch.nn.functional.adaptive_avg_pool1d(tokens.float().T[None], n_tokens)[0].T
    return pooled


def own_tokens(hidden: Tensor, own: Sequence[slice], n_tokens: int | None) -> tuple[Tensor, Tensor]:
    """Return the tokens of sequences that stand, padded, in ``hidden`` of shape ``(n, longest, dim)``.

    Parameters
    ----------
    own
        Where each sequence's own tokens are.
    n_tokens
        Average longer sequences down to so many; None for none.

    Returns
    -------
    tokens, mask
        Of shape ``(n, most, dim)``, zero beyond a sequence's own, which come first; and bool, ``(n, most)``.
    """
    torch = need("torch", "encoders")
    each = [h[place] for h, place in zip(hidden, own, strict=True)]
    if n_tokens is not None:
        each = [pool_sequence(h, n_tokens) for h in each]
    tokens = torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
    lengths = torch.tensor([len(h) for h in each], device=hidden.device)
    return tokens, torch.arange(tokens.shape[1], device=hidden.device) < lengths[:, None]
