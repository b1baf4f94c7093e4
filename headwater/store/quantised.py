"""Tokens in one byte a number: integers from -127 to 127, multiplied by one float16 scale per token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.store.blocks import Array, AsFloat32, MappedArray

LEVELS = 127
PIECE = 1 << 20
"""Numbers that are quantised at once, so that intermediate arrays fit in the CPU's cache."""
SCALE = np.dtype(np.float16)
LEAST = np.finfo(np.float16).smallest_normal
"""The least scale. With it, the error of a number is at most 3e-5, instead of a share of the token's largest number."""
LARGEST = LEVELS * float(np.finfo(np.float16).max)


def quantise(tokens: Array) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return integers and scales of tokens.

    The scale of a token is the least float16 that maps its largest number to at most 127. The error of a number is at
    most half a scale, which is 0.4 % of the largest number. Quantising dequantised tokens again changes nothing.

    Parameters
    ----------
    tokens
        Finite, of shape ``(..., dim)``.

    Returns
    -------
    values : int8, of shape (..., dim)
    scales : float16, of shape (...)
        Infinite where a number is beyond `LARGEST`.
    """
    values, scales = np.empty(tokens.shape, np.int8), np.empty(tokens.shape[:-1], SCALE)
    step = max(1, PIECE // max(1, tokens[:1].size))
    for start in range(0, len(tokens), step):
        some = slice(start, start + step)
        exact = np.asarray(tokens[some], np.float32)
        wanted = np.maximum(exact.max(-1, initial=0), -exact.min(-1, initial=0)) / LEVELS
        with np.errstate(over="ignore"):
            nearest = wanted.astype(SCALE)
            enough = np.where(nearest < wanted, np.nextafter(nearest, SCALE.type(np.inf)), nearest)
        scales[some] = np.maximum(enough, LEAST)
        values[some] = np.rint(exact / scales[some, ..., None].astype(np.float32))
    return values, scales


class QuantisedArray(AsFloat32):
    """Quantised tokens, converted to float32 when rows are read; NaN where nothing was stored.

    Parameters
    ----------
    values
        int8, of shape ``(n, ..., dim)``.
    scales
        float16, of shape ``(n, ...)``, in chunks of equally many rows.
    """

    def __init__(self, values: MappedArray, scales: MappedArray) -> None:
        super().__init__(values, scales)

    def _numbers(self, *parts: Array) -> NDArray[np.float32]:
        values, scales = parts
        return np.multiply(values, np.asarray(scales, np.float32)[..., None], dtype=np.float32)
