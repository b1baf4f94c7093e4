"""Read-only access to one encoder's features of one modality, as the journal records them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater._schema import Count, read_as
from headwater.errors import StoreBusy, StoreError, StoreNotFound
from headwater.store._files import digest, fetch_file, file_sizes, location, read_own_json, require_own
from headwater.store.bfloat16 import Bfloat16Array
from headwater.store.blocks import Array, AsFloat32, MappedArray, RaggedArray, has_digest
from headwater.store.journal import BlockLine, Journal, JournalState, Layout, Ranges
from headwater.store.keys import KEY_BYTES
from headwater.store.layout import (
    FAILED,
    FOLDERS_ABOVE,
    KEY_CHUNK,
    MOST_BLOCK_BYTES,
    MOST_ROWS,
    PLANNED,
    STORED,
    as_words,
    end_of,
    layout_sum,
    spec_sum,
    token_arrays,
)
from headwater.store.locks import Rights
from headwater.store.places import files_found_from
from headwater.store.quantised import QuantisedArray
from headwater.store.remote import remote_of
from headwater.store.spec import FeatureSpec

Taken = TypeVar("Taken")
MANY = 256
"""With more stored keys than this for each key that is looked up, only some of them are sorted."""


class Damaged(StoreError):
    """Stored data differ from their checksum, and ``headwater verify --repair`` may restore them.

    Attributes
    ----------
    text
        The message without the advice to repair.
    """

    def __init__(self, text: str, root: Path) -> None:
        super().__init__(text, root)
        self.text, self.root = text, root

    def __str__(self) -> str:
        return f"{self.text}. Run: headwater verify {location(self.root)} --repair"


def text_of(error: StoreError) -> str:
    """Return the message of an error, without advice to repair: ``headwater verify`` itself prints it."""
    return error.text if isinstance(error, Damaged) else str(error)


class FeatureReader:
    """A feature set as the journal recorded it when it was opened; reading never waits for a writer."""

    def __init__(self, folder: Path, journal: Path, name: str, *, shared: bool = False, mending: bool = False) -> None:
        for part in (folder, journal):
            require_own(part, FOLDERS_ABOVE)
        self.folder = folder
        self.name = name
        self._mending = mending
        self.journal = Journal(journal, shared=shared)
        self.state: JournalState = self.journal.read()
        if remote := remote_of(folder):
            remote.update(folder)  # after the journal, so the listing is at least as new
        if not (folder / "zarr.json").exists():
            raise StoreNotFound(f"{location(folder)}: there are no features {name!r}.")
        try:
            self.layout = self._layout(mending)
            self.spec = FeatureSpec.from_dict(self.layout.spec)
            self.block_rows = self.layout.block_rows
            self._require_sane()
        except StoreError:
            self.require_unchanged()
            raise

    def _layout(self, mending: bool) -> Layout:
        """Return the layout from the journal, else from the zarr metadata, compared with the journal's checksums.

        Raises
        ------
        StoreError
            When the metadata cannot be read, or differ from their checksums; if ``mending``, only when the journal
            cannot restore them.
        """
        if self.state.plan.layout is not None:
            return self.state.plan.layout
        sums = self.state.plan.sums
        spec = self._metadata("", lambda found: dict(found["attributes"]))
        if "spec" in sums and sums["spec"] != spec_sum(spec):
            raise StoreError(f"{self.name}: spec differs from its checksum. Restore {location(self.folder)}/zarr.json.")
        try:
            rows = self._metadata("pooled", _chunk_rows)
            if "layout" in sums and sums["layout"] != layout_sum(rows):
                raise Damaged(f"{self.name}: layout differs from its checksum", self.root)
        except StoreError:
            powers = (1 << power for power in range(MOST_ROWS.bit_length() + 1))
            known = next((rows for rows in powers if layout_sum(rows) == sums.get("layout")), None)
            if not mending or known is None:
                raise
            rows = known
        return Layout(spec=spec, block_rows=rows)

    def _metadata(self, part: str, take: Callable[[Any], Taken]) -> Taken:
        """Apply ``take`` to a ``zarr.json``."""
        path = self.folder / part / "zarr.json"
        try:
            return take(read_own_json(path))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{location(path)} cannot be read ({error}). Restore it from a backup.") from error

    def _require_sane(self) -> None:
        """Raise if the journal records blocks, rows or arrays that cannot exist."""
        state, rows, n = self.state, self.block_rows, self.n_items

        def refuse(what: str) -> NoReturn:
            raise StoreError(
                f"{location(self.journal.path)}: {what}. It was damaged, or changed by hand. Restore it from a backup."
            )

        if not 1 <= rows <= MOST_ROWS or rows * self.spec.item_bytes > MOST_BLOCK_BYTES:
            refuse(f"blocks of {rows} items of {self.spec.item_bytes} bytes are not possible")
        last = self.folder / "keys" / f"c.{(n - 1) // KEY_CHUNK}.0"
        if n and remote_of(self.folder) is None and not last.exists():
            raise StoreError(
                f"{location(last)} is missing: it holds keys of the {n:,} items. Restore it from a backup."
            )
        parts = {"pooled", *(part for part, *_ in token_arrays(self.spec, 0))} if self.spec.has_tokens else {"pooled"}
        for block, line in state.blocks.items():
            start, stop = block * rows, min((block + 1) * rows, n)
            ranges = [edge for pair in line.stored for edge in pair]
            if start >= stop or (
                ranges and not (start <= ranges[0] and ranges[-1] <= stop and ranges == sorted(ranges))
            ):
                refuse(f"block {block} records rows outside the block")
            if line.failed and not (start <= min(line.failed) and max(line.failed) < stop):
                refuse(f"block {block} records failed rows outside the block")
            if line.sums and not set(line.sums) <= parts:
                refuse(f"block {block} has checksums of arrays that this feature set does not have")

    def refresh(self) -> Self:
        """Return the same feature set as the journal records it now.

        Raises
        ------
        StoreBusy
            When another process has removed it since it was opened.
        """
        return self.opened_again(shared=self.journal.shared)

    def opened_again(self, *, shared: bool) -> Self:
        try:
            return type(self)(self.folder, self.journal.path, self.name, shared=shared, mending=self._mending)
        except StoreNotFound:
            self._refuse_changed()

    @property
    def n_items(self) -> int:
        """Number of items that have been assigned a row."""
        return self.state.plan.items

    @property
    def n_blocks(self) -> int:
        """Number of blocks; the last one may be partly filled."""
        return -(-self.n_items // self.block_rows)

    def __repr__(self) -> str:
        return f"Features({self.name!r}, {self.n_items} items, dim {self.spec.dim})"

    @cached_property
    def keys(self) -> Array:
        """Content keys, uint8, of shape ``(n_items, 16)``."""
        return np.asarray(self.planned("keys"))

    @cached_property
    def pooled(self) -> MappedArray:
        """Pooled features, of shape ``(n_items, dim)``; NaN where an item has none."""
        shape, dtype = (self.n_items, self.spec.dim), self.spec.dtype
        right = partial(self._require_right, "pooled")
        return self.array("pooled", shape, self.block_rows, dtype, self._written, right, self.require_same)

    @cached_property
    def tokens(self) -> MappedArray | AsFloat32 | RaggedArray:
        """Token features: of shape ``(n_items, n_tokens, token_dim)`` for images, ragged for texts.

        Tokens stored as int8 or bfloat16 are read as float32.
        """
        if not self.spec.has_tokens:
            name = self.name.partition("/")[0]
            raise StoreError(
                f"{self.name} holds no tokens. Store them with: headwater embed MANIFEST STORE --encoder "
                f"{quote(self.spec.encoder)} --name {name}-tokens --tokens all"
            )
        values = self.token_parts["tokens/values" if self.spec.ragged else "tokens"]
        numbers: MappedArray | AsFloat32 = values
        if self.spec.quantised:
            numbers = QuantisedArray(values, self.token_parts["tokens/scales" if self.spec.ragged else "token_scales"])
        elif self.spec.bfloat16:
            numbers = Bfloat16Array(values)
        return RaggedArray(numbers, *self.token_places) if self.spec.ragged else numbers

    @cached_property
    def token_parts(self) -> dict[str, MappedArray]:
        """The arrays of tokens as they are stored on disk, by folder."""
        if not self.spec.ragged:
            checks = {part: partial(self._require_right, part) for part, *_ in token_arrays(self.spec, 0)}
            return {
                part: self.array(part, shape, self.block_rows, dtype, self._written, checks[part], self.require_same)
                for part, shape, dtype in token_arrays(self.spec, self.n_items)
            }
        offsets, lengths = self.token_places
        chunk = self.token_chunk_rows()
        starts = offsets[:: self.block_rows]  # the tokens of each block start at a new chunk

        def block_of(index: int) -> int:
            return int(np.searchsorted(starts, index * chunk, side="right")) - 1

        def written(index: int) -> bool:
            return index in group(index)

        def group(index: int) -> range:
            return self._written_chunks(block_of(index), chunk)

        def require_right(part: str, index: int, chunks: list[Array]) -> None:
            self._require_right(part, block_of(index), chunks)

        def require_same(index: int) -> None:
            self.require_same(block_of(index))

        return {
            part: self.array(part, shape, chunk, dtype, written, partial(require_right, part), require_same, group)
            for part, shape, dtype in token_arrays(self.spec, end_of(offsets, lengths))
        }

    @cached_property
    def token_places(self) -> tuple[Array, Array]:
        """Offset and number of the ragged tokens of each item, two int64 arrays of shape ``(n_items,)``."""
        offsets, lengths = (np.asarray(self.planned(f"tokens/{part}")) for part in ("offsets", "lengths"))
        return offsets, lengths

    def planned(self, part: str) -> MappedArray:
        """Return an array that is written when rows are assigned, and that has one checksum for all rows."""
        expected = self.state.plan.sums.get(part)

        def require_right(index: int, chunks: list[Array]) -> None:
            if expected is not None and not has_digest(expected, chunks, [(0, self.n_items)]):
                raise Damaged(f"{self.name}: {part} differs from its checksum", self.root)

        def require_same(index: int) -> None:
            self.require_unchanged(lambda now: now.plan.sums.get(part) == expected)

        def group(index: int) -> range:
            return range(array.n_chunks)

        shape, dtype = ((self.n_items, KEY_BYTES), np.uint8) if part == "keys" else ((self.n_items,), np.int64)
        array = self.array(part, shape, KEY_CHUNK, dtype, check=require_right, same=require_same, group=group)
        return array

    def _written(self, block: int) -> bool:
        """Whether the journal records stored rows for a block."""
        return block in self.state.blocks and bool(self.state.blocks[block].stored)

    def _require_right(self, part: str, block: int, chunks: list[Array]) -> None:
        """Raise if the stored rows of a block in an array differ from their checksum."""
        line = self.state.blocks[block]
        if not has_digest(line.sums.get(part, ""), chunks, self.ranges_in(part, block, line.stored)):
            raise Damaged(self._differs(part, block), self.root)

    def require_same(self, block: int) -> None:
        """Raise a StoreBusy if the journal now records a block differently."""
        self.require_unchanged(lambda now: now.blocks.get(block) == self.state.blocks.get(block))

    def require_unchanged(self, same: Callable[[JournalState], bool] | None = None) -> None:
        """Raise a StoreBusy, instead of reporting damage, if another process has changed or removed this feature set.

        ``same`` tells whether a newer state of the journal agrees with this one; by default the whole state must be
        equal.
        """
        now = self.journal.read()
        if not (now == self.state if same is None else same(now)) or not fetch_file(self.folder / "zarr.json"):
            self._refuse_changed()

    def _refuse_changed(self) -> NoReturn:
        raise StoreBusy(f"{self.name}: another process has changed it since it was opened. Run the command again.")

    def _differs(self, part: str, block: int) -> str:
        return f"{self.name}: block {block} of {part} differs from its checksum"

    def token_chunk_rows(self) -> int:
        if self.layout.token_rows:
            return self.layout.token_rows
        try:
            return self._metadata("tokens/values", _chunk_rows)
        except StoreError:
            if not self._mending:
                raise
        values = self.folder / "tokens" / "values"
        size = next((path.stat().st_size for path in values.glob("c.*.0")), 0)  # all chunks have the same length
        return size // ((self.spec.token_dim or 1) * self.spec.token_type.itemsize) or 16

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Status of each item from the journal, uint8, of shape ``(n_items,)``: 0 to do, 1 stored, 2 failed."""
        status = np.zeros(self.n_items, np.uint8)
        for line in self.state.blocks.values():
            for start, stop in line.stored:
                status[start:stop] = STORED
            status[list(line.failed)] = FAILED
        return status

    @property
    def status_chunks(self) -> MappedArray:
        """The status array on disk, for tools that do not read the journal."""
        return self.array("status", (self.n_items,), self.block_rows, np.uint8)

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self.folder.parents[FOLDERS_ABOVE]

    def environments(self) -> dict[str, dict[str, Any]]:
        """Return the environments in which blocks were made, by their names in the journal, oldest first."""
        return {name: files_found_from(self.root, values) for name, values in self.state.environments.items()}

    @property
    def forgotten(self) -> list[int]:
        """Blocks that a repair has dropped and that have not been written again."""
        return [block for block, line in self.state.blocks.items() if not line.stored and not line.failed]

    @cached_property
    def failed(self) -> dict[int, str]:
        """Reason for each failed row, by row number."""
        return {row: why for line in self.state.blocks.values() for row, why in line.failed.items()}

    def rows_of(self, keys: Array) -> NDArray[np.int64]:
        """Return the row of each of ``keys`` (uint8, shape ``(n, 16)``); -1 for a key without a row."""
        few = len(keys) * MANY < self.n_items and "_sorted_keys" not in vars(self)
        known, order = self._sorted_like(keys) if few else self._sorted_keys
        wanted = as_words(keys)
        if not len(known):
            return np.full(len(wanted), -1, np.int64)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, order[place], -1)

    @cached_property
    def _sorted_keys(self) -> tuple[Array, NDArray[np.int64]]:
        words = as_words(self.keys)
        order = np.argsort(words, kind="stable")
        return words[order], order

    def _sorted_like(self, keys: Array) -> tuple[Array, NDArray[np.int64]]:
        """Sort only the stored keys whose first two bytes occur in ``keys``, and their rows."""
        begins = np.zeros(1 << 16, bool)
        begins[_heads(keys)] = True
        rows = np.flatnonzero(begins[_heads(self.keys)])
        words = as_words(self.keys[rows])
        order = np.argsort(words, kind="stable")
        return words[order], rows[order]

    def array(
        self,
        part: str,
        shape: tuple[int, ...],
        chunk_rows: int,
        dtype: Any,
        written: Callable[[int], bool] = lambda index: True,
        check: Callable[[int, list[Array]], None] | None = None,
        same: Callable[[int], None] | None = None,
        group: Callable[[int], range] | None = None,
    ) -> MappedArray:
        together = {} if group is None else {"group": group}
        return MappedArray(self.folder / part, shape, chunk_rows, dtype, written, check, same, **together)

    @cached_property
    def rights(self) -> Rights:
        """The locks of its writers."""
        return Rights(self.journal.path, self.name)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files, without the journal."""
        return sum(file_sizes(self.folder).values())

    @property
    def fingerprint(self) -> str:
        """A digest that changes when any stored value changes."""
        sums = [sorted(self.state.plan.sums.items())]
        sums += [sorted(self.state.blocks[block].sums.items()) for block in sorted(self.state.blocks)]
        return digest(json.dumps(sums).encode())

    @property
    def unchecked(self) -> list[str]:
        """Parts that have no checksum because an earlier version of headwater wrote them, a line for each kind."""
        found = []
        if self.state.n_unchecked:
            found.append(f"{self.name}: {self.state.n_unchecked:,} lines of its journal")
        parts = (*PLANNED[: 3 if self.spec.ragged else 1], "spec", "layout")
        sums = self.state.plan.sums
        return [*found, *(f"{self.name}: {part}" for part in parts if self.n_items and part not in sums)]

    def differences(self, line: BlockLine) -> Iterator[str]:
        """Read a block from disk again; yield a line for each array that differs from its checksum."""
        for part in line.sums:
            try:
                array = self.pooled if part == "pooled" else self.token_parts[part]
                chunks = [line.block]
                if part.startswith("tokens/"):
                    chunks = list(self._written_chunks(line.block, array.chunk_rows))[:1]
                for first in chunks:
                    array.require_right(first)
            except StoreBusy:
                raise
            except StoreError as error:
                yield text_of(error)

    def token_span(self, block: int) -> tuple[int, int]:
        """Return the half-open range of a block's token rows."""
        offsets, lengths = self.token_places
        start = block * self.block_rows
        stop = min(start + self.block_rows, self.n_items)
        return int(offsets[start]), end_of(offsets[:stop], lengths[:stop])

    def token_chunks(self, block: int, rows: int) -> range:
        """Return the chunks of a block's ragged tokens, for chunks of ``rows`` rows."""
        first, last = self.token_span(block)
        return range(first // rows, -(-last // rows))

    def _written_chunks(self, block: int, rows: int) -> range:
        """Return those `token_chunks` that hold tokens of stored items, and so exist."""
        line = self.state.blocks.get(block)
        if line is None or not line.stored:
            return range(0)
        offsets, lengths = self.token_places
        stop = line.stored[-1][1]
        return range(int(offsets[block * self.block_rows]) // rows, -(-end_of(offsets[:stop], lengths[:stop]) // rows))

    def ranges_in(self, part: str, block: int, stored: Ranges) -> Ranges:
        """Return the row ranges ``stored``, counted from the first row of the block's chunks."""
        if not part.startswith("tokens/"):
            start = block * self.block_rows
            return tuple((a - start, b - start) for a, b in stored)
        (offsets, lengths), first = self.token_places, self.token_span(block)[0]
        return tuple((int(offsets[a]) - first, end_of(offsets[:b], lengths[:b]) - first) for a, b in stored)


def _chunk_rows(metadata: Any) -> int:
    """Return the rows per chunk from the ``zarr.json`` of an array."""
    return read_as(Count, metadata["chunk_grid"]["configuration"]["chunk_shape"][0])


def _heads(keys: Array) -> NDArray[np.uint16]:
    """Return the first two bytes of each key as an integer."""
    return np.ascontiguousarray(keys[:, :2]).view(np.uint16).reshape(-1)
