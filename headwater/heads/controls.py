"""Control inputs without information: shuffled rows, or random numbers.

A head on them should perform at chance; anything above shows a result that does not come from the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.heads.tokens import Bags, Mask, Masked, Ragged, selected

Rows = NDArray[np.int64]
ROWS = 1024  # per block


def shuffled(X: Any, seed: int) -> Any:
    """Return an input with its rows shuffled, without copying values if possible.

    Rows that lack the input still lack it.

    Parameters
    ----------
    X
        An array, an array-like, or tokens; see `headwater.heads.tokens`.
    seed
        The same seed gives the same order.

    Examples
    --------
    >>> shuffled(np.arange(5), seed=0)
    array([2, 4, 3, 0, 1])
    """
    there = X.lengths > 0 if isinstance(X, Ragged) else np.ones(len(X), bool)
    order = np.arange(len(there))
    order[there] = np.random.default_rng(seed).permutation(order[there])
    return selected(X, order)


def noise_like(X: Any, seed: int) -> Any:
    """Return Gaussian noise in the shape of an input, with the same missing rows and tokens.

    Parameters
    ----------
    X
        An array, an array-like, or tokens; see `headwater.heads.tokens`.
    seed
        The same seed gives the same noise.

    Examples
    --------
    >>> noise = noise_like(np.zeros((4, 3)), seed=0)
    >>> noise.shape, bool((noise[[2]] == noise[:][2]).all())
    ((4, 3), True)
    """
    if isinstance(X, Bags):
        return Bags(Noise(X.instances.shape, seed), X.members)
    if isinstance(X, Masked):
        return Masked(Noise(X.values.shape, seed), X.mask)
    if isinstance(X, Ragged):
        return NoiseTokens(X.lengths, X.dim, seed)
    return Noise(X.shape, seed)


class Noise:
    """An array of standard normal numbers, generated when rows are taken; a row is always the same.

    Parameters
    ----------
    shape
        ``(n, d)`` or ``(n, t, d)``.
    seed
        Random seed.
    """

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(np.float32)
        self.seed = seed

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        chosen = np.arange(self.shape[0])[rows]
        out = np.empty((chosen.size, *self.shape[1:]), np.float32)
        for place, row in enumerate(chosen.reshape(-1).tolist()):
            out[place] = _normal(self.seed, row, self.shape[1:])
        return out if chosen.ndim else out[0]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ``(rows, values)`` in order."""
        for start in range(0, self.shape[0], ROWS):
            rows = slice(start, min(start + ROWS, self.shape[0]))
            yield rows, self[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype=dtype)


class NoiseTokens:
    """Standard normal tokens with a given number per item, generated when items are taken.

    Parameters
    ----------
    lengths
        Tokens of each item, int64, of shape ``(n_items,)``.
    dim
        Columns of a token.
    seed
        Random seed.
    """

    def __init__(self, lengths: Rows, dim: int, seed: int) -> None:
        self.lengths = lengths
        self.dim = dim
        self.dtype = np.dtype(np.float32)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, index: Rows) -> tuple[NDArray[np.float32], Mask]:
        """Return items ``index`` as one array ``(n_rows, longest, dim)``, zero beyond an item's own, and its mask."""
        lengths = self.lengths[index]
        mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        tokens = np.zeros((*mask.shape, self.dim), np.float32)
        for place, (row, length) in enumerate(zip(np.asarray(index).tolist(), lengths.tolist(), strict=True)):
            tokens[place, :length] = _normal(self.seed, row, (length, self.dim))
        return tokens, mask


def _normal(seed: int, row: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw a row from its own stream of the generator, independent of other rows."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, row]))
    return generator.standard_normal(shape, np.float32)


LONE = "self-attention"  # replaces a head that needs two inputs if there is one
