"""The writer of a feature set: it assigns rows to items, writes blocks, and records them in the journal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import StoreError
from headwater.store._files import Together
from headwater.store.bfloat16 import to_bfloat16
from headwater.store.blocks import Array, MappedArray, digest_rows, write_array_metadata
from headwater.store.journal import BlockLine, PlanLine, Ranges
from headwater.store.layout import FAILED, KEY_CHUNK, STORED, TO_DO, end_of, layout_sum, spec_sum, token_arrays
from headwater.store.places import files_seen_from
from headwater.store.quantised import quantise
from headwater.store.reader import FeatureReader
from headwater.store.remote import remote_of

AT_ONCE = 2
"""Blocks that `FeatureWriter.commit_all` writes in parallel."""
TOGETHER = 16
"""Blocks that `FeatureWriter.commit_all` syncs and records together."""


@dataclass(frozen=True)
class BlockTask:
    """A block to be written: its number, and the rows in it that are to do, ascending."""

    block: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class BlockResult:
    """The results for the rows of a `BlockTask`.

    Attributes
    ----------
    rows
        Row numbers, int64, ascending, of shape ``(n,)``.
    pooled
        Of shape ``(n, dim)``; rows of failed items are ignored.
    tokens
        Of shape ``(n, n_tokens, token_dim)``; for ragged tokens a list of n matrices; None if not stored. Not yet
        converted to int8 or bfloat16.
    failed
        Reason for each failed row, by row number.
    """

    rows: NDArray[np.int64]
    pooled: Array
    tokens: Array | Sequence[Array] | None = None
    failed: Mapping[int, str] = field(default_factory=dict)


class FeatureWriter:
    """Adds items to a feature set. Get one from `Features.writing`."""

    def __init__(self, features: FeatureReader, environment: str = "") -> None:
        self.features = features
        self.environment = environment
        """Name, in the journal, of the environment of the next blocks."""

    def set_environment(self, environment: Mapping[str, Any]) -> None:
        """Record the environment of the next blocks."""
        places = files_seen_from(self.features.root, environment)
        self.environment = self.features.journal.append_environment(places)

    def plan(
        self, keys: Array, lengths: NDArray[np.int64] | None = None, retry_failed: bool = False
    ) -> list[BlockTask]:
        """Assign rows to new keys, and return the blocks that are to do for ``keys``.

        Parameters
        ----------
        keys
            Content keys of distinct items, uint8, of shape ``(n, 16)``.
        lengths
            Number of tokens of each item, for ragged tokens.
        retry_failed
            Also retry items that failed before.
        """
        rows = self.features.rows_of(keys)
        new = np.flatnonzero(rows < 0)
        if len(new):
            self._grow(keys[new], lengths[new] if lengths is not None else None)
            rows[new] = self.features.n_items - len(new) + np.arange(len(new))
        status = self.features.status[rows]
        todo = np.sort(rows[(status == TO_DO) | ((status == FAILED) if retry_failed else False)])
        blocks = todo // self.features.block_rows
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        return [BlockTask(int(block), part) for block, part in zip(blocks[starts], np.split(todo, starts[1:]))]

    def _grow(self, keys: Array, lengths: NDArray[np.int64] | None) -> None:
        old = self.features
        spec, n_items = old.spec, old.n_items + len(keys)
        all_keys = np.concatenate([old.keys, keys])
        layout = old.layout
        sums = {"spec": spec_sum(layout.spec), "layout": layout_sum(layout.block_rows)}
        grown: list[tuple[str, Array]] = [("keys", all_keys)]
        n_tokens = 0
        if spec.ragged:
            if lengths is None:
                raise ValueError("ragged tokens need the lengths of new items.")
            token_rows, offsets, all_lengths = self._place_tokens(lengths)
            layout, n_tokens = replace(layout, token_rows=token_rows), end_of(offsets, all_lengths)
            grown += [("tokens/offsets", offsets), ("tokens/lengths", all_lengths)]
        sums |= {part: digest_rows([array], [(0, n_items)]) for part, array in grown}
        # from here on, metadata may count the new rows
        before = replace(old.state.plan, growing=(n_items, n_tokens), layout=old.layout)
        if before != old.state.plan:  # else a run that was stopped has recorded it already
            old.journal.append(before, after=old.state)
        for part, array in grown:
            write_array_metadata(old.folder, part, array.shape, KEY_CHUNK, array.dtype)
            target = old.array(part, array.shape, KEY_CHUNK, array.dtype)
            for chunk in range(old.n_items // KEY_CHUNK, target.n_chunks):
                target.write_chunk(chunk, array[chunk * KEY_CHUNK : (chunk + 1) * KEY_CHUNK])
        write_array_metadata(old.folder, "status", (n_items,), old.block_rows, np.dtype(np.uint8))
        write_array_metadata(old.folder, "pooled", (n_items, spec.dim), old.block_rows, np.dtype(spec.dtype))
        if spec.has_tokens and not spec.ragged:
            for part, shape, dtype in token_arrays(spec, n_items):
                write_array_metadata(old.folder, part, shape, old.block_rows, dtype)
        if spec.ragged:
            for part, shape, dtype in token_arrays(spec, n_tokens):
                write_array_metadata(old.folder, part, shape, layout.token_rows or 1, dtype)
        planned = PlanLine(items=n_items, sums=sums, layout=layout)
        old.journal.append(planned, after=replace(old.state, plan=before))
        self.features = old.refresh()

    def _place_tokens(self, new_lengths: NDArray[np.int64]) -> tuple[int, Array, Array]:
        """Assign token rows, so that each block has whole chunks of its own.

        Returns
        -------
        token_rows : rows per chunk
        offsets, lengths : of all items, int64, of shape (n_items,)
        """
        old, rows = self.features, self.features.block_rows
        n_old = old.n_items
        if n_old:
            offsets, lengths = old.token_places[0], np.concatenate([old.token_places[1], new_lengths])
            chunk = old.token_chunk_rows()
        else:
            offsets, lengths = np.empty(0, np.int64), new_lengths.astype(np.int64)
            sums = np.add.reduceat(lengths, np.arange(0, len(lengths), rows))
            chunk = max(16, -(-int(sums.max()) // 16) * 16)
        new_offsets = np.empty(len(new_lengths), np.int64)
        end = end_of(offsets, lengths[:n_old])
        for start in range(n_old - n_old % rows, len(lengths), rows):
            first, stop = max(start, n_old), min(start + rows, len(lengths))
            at = end if start < n_old else -(-end // chunk) * chunk
            ends = at + np.cumsum(lengths[first:stop])
            new_offsets[first - n_old : stop - n_old] = ends - lengths[first:stop]
            end = int(ends[-1]) if len(ends) else at
        return chunk, np.concatenate([offsets, new_offsets]), lengths

    def commit(self, task: BlockTask, result: BlockResult) -> None:
        """Write one block, durably: its chunks, its status, its line in the journal.

        Raises
        ------
        StoreError
            When rows that the block already holds are damaged.
        """
        self.record(self.write(task, result))

    def commit_all(self, blocks: Iterable[tuple[BlockTask, BlockResult]]) -> Iterator[BlockTask]:
        """Write blocks in parallel, and write the next ones while the disk syncs the last.

        Yields each task in the given order, once its block is recorded. At most `AT_ONCE` blocks are held in memory. If
        the process dies, the blocks not yet recorded are lost, at most twice `TOGETHER`.
        """
        if remote_of(self.features.folder) is not None:
            yield from self._commit_one_by_one(blocks)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool, ThreadPoolExecutor(1) as syncer:
            begun: deque[tuple[BlockTask, Future[BlockLine]]] = deque()
            written: list[tuple[BlockTask, BlockLine]] = []
            together = Together()
            settling: deque[tuple[list[tuple[BlockTask, BlockLine]], Future[None]]] = deque()

            def take() -> None:
                task, line = begun.popleft()
                written.append((task, line.result()))

            def settle() -> None:
                nonlocal written, together
                settling.append((written, syncer.submit(together.finish)))
                written, together = [], Together()

            def recorded() -> list[BlockTask]:
                done, synced = settling.popleft()
                synced.result()
                self.record(*(line for _, line in done))
                return [task for task, _ in done]

            try:
                for task, result in blocks:
                    begun.append((task, pool.submit(self.write, task, result, together)))
                    if len(begun) == AT_ONCE:
                        take()
                    if len(begun) + len(written) == TOGETHER:
                        while begun:
                            take()
                        settle()
                        if len(settling) > 1:
                            yield from recorded()
            finally:  # after an error too, keep the blocks written before it
                try:
                    while begun:
                        take()
                finally:
                    pool.shutdown()  # wait for writes in progress, whose files are synced below
                    settle()
                    last = [task for _ in list(settling) for task in recorded()]
            yield from last

    def _commit_one_by_one(self, blocks: Iterable[tuple[BlockTask, BlockResult]]) -> Iterator[BlockTask]:
        """Write blocks in parallel, each as `commit` does."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begun: deque[tuple[BlockTask, Future[BlockLine]]] = deque()

            def recorded() -> BlockTask:
                task, line = begun.popleft()
                self.record(line.result())
                return task

            try:
                for task, result in blocks:
                    begun.append((task, pool.submit(self.write, task, result)))
                    if len(begun) == AT_ONCE:
                        yield recorded()
                while begun:
                    yield recorded()
            finally:
                for _, line in begun:
                    line.cancel()

    def record(self, *lines: BlockLine) -> None:
        """Record blocks in the journal that this process, or a worker elsewhere, has written."""
        if not lines:
            return
        self.features.journal.append(*lines, after=self.features.state)
        self.features.state.blocks.update({line.block: line for line in lines})

    def write(self, task: BlockTask, result: BlockResult, together: Together | None = None) -> BlockLine:
        """Write the chunks and the status of one block, durably; the block counts once its line is recorded.

        With ``together``, the files become durable when that group of files does.
        """
        features = self.features
        start = task.block * features.block_rows
        before = features.state.blocks.get(task.block, BlockLine(block=task.block, stored=(), sums={}))
        damaged = next(features.differences(before), None)  # a new checksum would hide the damage
        if damaged is not None:
            raise StoreError(f"{damaged}. Nothing was added. Restore it from a backup, or embed into a new store.")
        good = ~np.isin(result.rows, list(result.failed)) if result.failed else np.ones(len(result.rows), bool)
        rows = result.rows[good]
        stored = _union(before.stored, rows)
        values = self._values(task.block, rows, result, good) if len(rows) else {}

        failed = {row: why for row, why in before.failed.items() if row not in rows} | dict(result.failed)
        status = features.status[start : start + features.block_rows]
        status[rows - start] = STORED
        status[np.array(sorted(failed), np.int64) - start] = FAILED

        for part, whole in values.items():
            self._write_values(part, task.block, whole, together)
        features.status_chunks.write_chunk(task.block, status, together)
        sums = dict(before.sums) | {
            part: digest_rows([whole], features.ranges_in(part, task.block, stored)) for part, whole in values.items()
        }
        return BlockLine(block=task.block, stored=stored, sums=sums, failed=failed, environment=self.environment)

    def _values(
        self, block: int, rows: NDArray[np.int64], result: BlockResult, good: NDArray[np.bool_]
    ) -> dict[str, Array]:
        """Return all values of a block, by array: the new ones of ``rows``, and the ones already stored."""
        features, spec = self.features, self.features.spec
        chosen = slice(None) if good.all() else good
        found = {"pooled": self._dense(features.pooled, block, rows, np.asarray(result.pooled)[chosen])}
        if spec.ragged:
            matrices = [matrix for matrix, ok in zip(result.tokens or (), good, strict=True) if ok]
            for part, values in self._stored(np.concatenate(matrices)).items():
                found[part] = self._ragged(features.token_parts[part], block, rows, values)
        elif spec.has_tokens:
            for part, values in self._stored(np.asarray(result.tokens)[chosen]).items():
                found[part] = self._dense(features.token_parts[part], block, rows, values)
        return found

    def _stored(self, tokens: Array) -> dict[str, Array]:
        """Return tokens in their stored form, by the folder of each array."""
        spec = self.features.spec
        stored = quantise(tokens) if spec.quantised else (to_bfloat16(tokens) if spec.bfloat16 else tokens,)
        return dict(zip(self.features.token_parts, stored, strict=True))

    def _dense(self, array: MappedArray, block: int, rows: NDArray[np.int64], values: Array) -> Array:
        chunk = array.chunk(block)
        if values.shape != (len(rows), *array.shape[1:]):
            raise ValueError(f"values of shape {values.shape} do not fit {len(rows)} rows of {array!r}.")
        if len(rows) == len(chunk):
            return values.astype(array.dtype, copy=False)
        chunk = np.array(chunk)
        chunk[rows - block * self.features.block_rows] = values
        return chunk

    def _ragged(self, array: MappedArray, block: int, rows: NDArray[np.int64], tokens: Array) -> Array:
        """Return all tokens of a block, with the tokens of ``rows`` replaced."""
        offsets, lengths = self.features.token_places
        first, last = self.features.token_span(block)
        values = np.array(array[first:last])
        end = 0
        for row in rows.tolist():
            at, length = int(offsets[row]) - first, int(lengths[row])
            values[at : at + length] = tokens[end : end + length]
            end += length
        if end != len(tokens):
            raise ValueError(f"there are {len(tokens)} tokens, but {end} were planned.")
        return values

    def _write_values(self, part: str, block: int, values: Array, together: Together | None) -> None:
        """Write a block's chunks of one array."""
        features = self.features
        array = features.pooled if part == "pooled" else features.token_parts[part]
        if part == "pooled" or not features.spec.ragged:
            array.write_chunk(block, values, together)
            return
        first, _ = features.token_span(block)
        for at in range(0, len(values), array.chunk_rows):
            array.write_chunk((first + at) // array.chunk_rows, values[at : at + array.chunk_rows], together)


def _union(ranges: Ranges, rows: NDArray[np.int64]) -> Ranges:
    """Return the half-open ranges that cover ``ranges`` and the ascending ``rows``."""
    if not ranges and len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):  # as nearly always
        return ((int(rows[0]), int(rows[-1]) + 1),)
    marks = np.unique(np.concatenate([rows, *(np.arange(start, stop) for start, stop in ranges)]))
    breaks = np.flatnonzero(np.diff(marks) != 1) + 1
    return tuple((int(part[0]), int(part[-1]) + 1) for part in np.split(marks, breaks) if len(part))
