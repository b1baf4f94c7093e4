"""Concatenation of several inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._arrays import NumpyMethods
from headwater.errors import HeadError
from headwater.heads.base import blocks


class Concatenated(NumpyMethods):
    """Array-likes with the same rows, concatenated by column when rows are taken.

    Parameters
    ----------
    parts
        Array-likes of shape ``(n_samples, d_i)``.

    Examples
    --------
    >>> X = Concatenated([np.zeros((3, 2)), np.ones((3, 1))])
    >>> X.shape, X[[0]]
    ((3, 3), array([[0., 0., 1.]]))
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        lengths = {part.shape[0] for part in parts}
        if len(lengths) != 1:
            raise HeadError(f"inputs have different numbers of rows: {sorted(lengths)}.")
        self.parts = parts
        self.shape = (lengths.pop(), sum(part.shape[1] for part in parts))
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def _take(self, rows: Any) -> NDArray[Any]:
        return np.concatenate([np.asarray(part[rows]) for part in self.parts], axis=-1)

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield ``(rows, values)`` in the blocks of the first part."""
        for rows, _ in blocks(self.parts[0]):
            yield rows, self[rows]
