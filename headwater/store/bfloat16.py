"""Tokens as bfloat16: two bytes a number, with the range of float32 and eight bits of precision.

Neither NumPy nor zarr has this type. The bits are stored as uint16, the array's metadata says that they are bfloat16,
and reading returns float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.store.blocks import NOT_A_BFLOAT16, Array, AsFloat32, MappedArray

LARGEST = float(np.array(0x7F7F0000, np.uint32).view(np.float32))
"""The largest number."""
PIECE = 1 << 16
"""Numbers that are converted at once, so that intermediate arrays fit in the CPU's cache."""


def to_bfloat16(numbers: Array) -> NDArray[np.uint16]:
    """Return the bits of numbers as bfloat16, rounded to nearest, ties to even.

    Parameters
    ----------
    numbers
        Real numbers, of any shape; float64 is first rounded to float32.

    Returns
    -------
    bits : uint16, of the same shape
        Infinite where a number is beyond `LARGEST`.
    """
    exact = np.asarray(numbers, np.float32)
    bits = np.empty(exact.shape, np.uint16)
    step = max(1, PIECE // max(1, exact[:1].size))
    for start in range(0, len(exact), step):
        some = exact[start : start + step]
        words = some.view(np.uint32)
        up = words >> np.uint32(16)
        up &= np.uint32(1)
        up += np.uint32(0x7FFF)
        up += words
        up >>= np.uint32(16)
        up[np.isnan(some)] = NOT_A_BFLOAT16
        bits[start : start + step] = up
    return bits


def to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Convert the bits of bfloat16 numbers to float32, exactly; the shape stays the same."""
    words = np.left_shift(bits, np.uint32(16), dtype=np.uint32)
    return words.view(np.float32)


class Bfloat16Array(AsFloat32):
    """Tokens stored as bfloat16, converted to float32 when rows are read; NaN where nothing was stored.

    Parameters
    ----------
    bits
        uint16, of shape ``(n, ..., dim)``.
    """

    def __init__(self, bits: MappedArray) -> None:
        super().__init__(bits)

    def _numbers(self, *parts: Array) -> NDArray[np.float32]:
        return to_float32(parts[0])
