"""Random batches with local reads: blocks are shuffled, and rows are mixed within a window of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BlockShuffle:
    """Batches of an epoch: blocks in random order, and rows in random order within each window of blocks.

    The order depends only on seed and epoch. An epoch can therefore resume at any batch and be divided over workers.

    Attributes
    ----------
    blocks
        The block of each row, int64, of shape ``(n_rows,)``.
    batch_size
        Rows per batch; the last batch may be smaller.
    window
        Number of blocks whose rows are mixed; 1 mixes only within a block.
    seed
        Seed of the order.

    Examples
    --------
    >>> order = BlockShuffle(np.arange(8) // 2, batch_size=3, window=2, seed=0)
    >>> sorted(np.concatenate(list(order.batches(epoch=0))).tolist()) == list(range(8))
    True
    """

    blocks: NDArray[np.int64]
    batch_size: int
    window: int = 16
    seed: int = 0

    @property
    def n_batches(self) -> int:
        """Number of batches per epoch."""
        return -(-len(self.blocks) // self.batch_size)

    def batches(self, epoch: int, start: int = 0, worker: int = 0, n_workers: int = 1) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each batch of a worker, from batch ``start`` on."""
        order = self._order(epoch)
        for number in range(start, self.n_batches):
            if number % n_workers == worker:
                yield order[number * self.batch_size : (number + 1) * self.batch_size]

    def needed(self, epoch: int, start: int = 0) -> list[tuple[int, int]]:
        """Return when to prefetch each block that batches from ``start`` on need, as pairs ``(batch, block)``.

        The blocks of a window are prefetched one by one while the previous window is used, so about two windows are in
        memory at a time.
        """
        found: list[tuple[int, int]] = []
        end = before = 0
        for parts in self._windows(np.random.default_rng([self.seed, epoch])):
            begin, size = end, sum(len(part) for part in parts)
            end += size
            if end > start * self.batch_size:
                places = (begin - before + before * i // len(parts) for i in range(len(parts)))
                found += [(place // self.batch_size, int(self.blocks[part[0]])) for place, part in zip(places, parts)]
            before = size
        return found

    def _windows(self, random: np.random.Generator) -> list[list[NDArray[np.int64]]]:
        """Return the rows of each block of each window."""
        rows = np.argsort(self.blocks, kind="stable")
        parts = np.split(rows, np.flatnonzero(np.diff(self.blocks[rows])) + 1)
        parts = [parts[i] for i in random.permutation(len(parts))]
        return [parts[i : i + self.window] for i in range(0, len(parts), self.window)]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        random = np.random.default_rng([self.seed, epoch])
        windows = [np.concatenate(parts) for parts in self._windows(random)]
        mixed: NDArray[np.int64] = np.concatenate([random.permutation(part) for part in windows])
        return mixed
