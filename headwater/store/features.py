"""One encoder's features of one modality: its arrays, its journal, and the one way to add to them.

On disk, below ``features.zarr/NAME/MODALITY``::

    keys           [n_items, 16] uint8     content keys; row i of every array belongs to keys[i]
    status         [n_items] uint8         0 to do, 1 stored, 2 failed
    pooled         [n_items, dim]
    tokens         [n_items, n_tokens, token_dim]                     images
    tokens/values  [n_all, token_dim], tokens/offsets, tokens/lengths  [n_items]     texts
    token_scales   [n_items, n_tokens], or tokens/scales  [n_all]                     where tokens are int8

Order of writing, each step durable before the next. A plan: arrays grow, keys are written, the journal says so. A
block: its chunks, its chunk of ``status``, its line in the journal. Whatever a crash leaves behind is therefore either
spoken of by the journal and whole, or not spoken of and made again.

Who may write, and when: `headwater.store.rights`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater._reading import matching
from headwater._schema import Count, read_as
from headwater.errors import StoreBusy, StoreError, StoreNotFound
from headwater.store._files import (
    digest,
    fetch_file,
    file_sizes,
    location,
    make_folder,
    read_own_json,
    remove_file,
    remove_unfinished,
    require_own,
)
from headwater.store.bfloat16 import Bfloat16Array
from headwater.store.blocks import (
    Array,
    AsFloat32,
    MappedArray,
    RaggedArray,
    array_metadata,
    group_metadata,
    has_digest,
    write_array_metadata,
    write_group_metadata,
)
from headwater.store.journal import BlockLine, Journal, JournalState, Layout, PlanLine, Ranges
from headwater.store.keys import KEY_BYTES
from headwater.store.places import files_found_from
from headwater.store.quantised import SCALE, QuantisedArray
from headwater.store.remote import remote_of
from headwater.store.rights import Rights
from headwater.store.spec import FeatureSpec

if TYPE_CHECKING:
    from headwater.store.writer import FeatureWriter

TO_DO, STORED, FAILED = 0, 1, 2
KEY_CHUNK = 65_536
BLOCK_BYTES = 64 << 20
MOST_ROWS = 16_384
MOST_BLOCK_BYTES = 1 << 36
"""No block has more bytes: one that is said to was made up."""
FOLDERS_ABOVE = 2
"""Folders of a store above those of a feature set, and above a journal."""
PLANNED = ("keys", "tokens/offsets", "tokens/lengths")
"""Arrays that are written when rows are given out, the last two where tokens are ragged."""
Taken = TypeVar("Taken")
MANY = 256
"""Keys that there are for each that is looked for, from which on not all of them are sorted."""


@dataclass(frozen=True)
class Damage:
    """Something in a feature set that is not what it was written as.

    Attributes
    ----------
    kind
        ``metadata`` (a ``zarr.json``), ``planned`` (keys, places of ragged tokens, the spec), ``block`` or ``status``.
    part
        The array, by its folder.
    text
        A line about it.
    block
        The block, where it is one.
    """

    kind: str
    part: str
    text: str
    block: int | None = None


class Features:
    """A feature set as the journal last spoke of it; reading it never waits for a writer.

    Open one with ``Store.features``.
    """

    def __init__(self, folder: Path, journal: Path, name: str, *, shared: bool = False, mending: bool = False) -> None:
        for part in (folder, journal):
            require_own(part, FOLDERS_ABOVE)
        self.folder = folder
        self.name = name
        self._mending = mending
        self.journal = Journal(journal, shared=shared)
        self.state: JournalState = self.journal.read()
        if remote := remote_of(folder):
            remote.update(folder)  # after the journal: what is listed is as new as it is, or newer
        if not (folder / "zarr.json").exists():
            raise StoreNotFound(f"{location(folder)}: no features called {name!r} here.")
        try:
            self.layout = self._layout(mending)
            self.spec = FeatureSpec.from_dict(self.layout.spec)
            self.block_rows = self.layout.block_rows
            self._require_sane()
        except StoreError:
            self._require_unchanged()
            raise

    @classmethod
    def create(cls, folder: Path, journal: Path, name: str, spec: FeatureSpec, n_items: int) -> Features:
        """Make an empty feature set, with blocks of a size that suits ``n_items``.

        A journal that is there already speaks of features that have been deleted, and goes.
        """
        for place in (folder, journal):
            require_own(place, FOLDERS_ABOVE)
        make_folder(journal.parent)
        remove_file(journal)
        rows = block_rows(spec, n_items)
        layout = Layout(spec=spec.to_dict(), block_rows=rows)
        write_array_metadata(folder, "keys", (0, KEY_BYTES), KEY_CHUNK, np.dtype(np.uint8))
        write_array_metadata(folder, "status", (0,), rows, np.dtype(np.uint8))
        write_array_metadata(folder, "pooled", (0, spec.dim), rows, np.dtype(spec.dtype))
        if spec.ragged:
            write_group_metadata(folder / "tokens", {})
            for part in ("offsets", "lengths"):
                write_array_metadata(folder, f"tokens/{part}", (0,), KEY_CHUNK, np.dtype(np.int64))
        elif spec.has_tokens:
            for part, shape, dtype in token_arrays(spec, 0):
                write_array_metadata(folder, part, shape, rows, dtype)
        sums = {"spec": spec_sum(layout.spec), "layout": layout_sum(rows)}
        Journal(journal).append(PlanLine(items=0, sums=sums, layout=layout))
        write_group_metadata(folder, spec.to_dict())  # last: a feature set without it does not exist
        return cls(folder, journal, name)

    def _layout(self, mending: bool) -> Layout:
        """Return the layout as the journal has it, else as the metadata of zarr do, which its checksums are for.

        Raises
        ------
        StoreError
            When the metadata cannot be read, or differ from their checksums; if ``mending``, only where the journal
            cannot tell what they held.
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
                raise StoreError(f"{self.name}: layout differs from its checksum")
        except StoreError:
            powers = (1 << power for power in range(MOST_ROWS.bit_length() + 1))
            known = next((rows for rows in powers if layout_sum(rows) == sums.get("layout")), None)
            if not mending or known is None:
                raise
            rows = known
        return Layout(spec=spec, block_rows=rows)

    def _metadata(self, part: str, take: Callable[[Any], Taken]) -> Taken:
        """Return something of a ``zarr.json``."""
        path = self.folder / part / "zarr.json"
        try:
            return take(read_own_json(path))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{location(path)} cannot be read ({error}). Restore it from a backup.") from error

    def _require_sane(self) -> None:
        """Refuse a journal that speaks of more than there can be, whoever wrote it."""
        state, rows, n = self.state, self.block_rows, self.n_items

        def refuse(what: str) -> NoReturn:
            raise StoreError(f"{location(self.journal.path)}: {what}. It was changed by hand, or damaged.")

        if not 1 <= rows <= MOST_ROWS or rows * self.spec.item_bytes > MOST_BLOCK_BYTES:
            refuse(f"blocks of {rows} items of {self.spec.item_bytes} bytes cannot be")
        last = self.folder / "keys" / f"c.{(n - 1) // KEY_CHUNK}.0"
        if n and remote_of(self.folder) is None and not last.exists():
            raise StoreError(f"{location(last)} is missing, and {n:,} items are said to have keys. Restore it.")
        parts = {"pooled", *(part for part, *_ in token_arrays(self.spec, 0))} if self.spec.has_tokens else {"pooled"}
        for block, line in state.blocks.items():
            start, stop = block * rows, min((block + 1) * rows, n)
            ranges = [edge for pair in line.stored for edge in pair]
            if start >= stop or (
                ranges and not (start <= ranges[0] and ranges[-1] <= stop and ranges == sorted(ranges))
            ):
                refuse(f"block {block} holds rows that are none of its own")
            if line.failed and not (start <= min(line.failed) and max(line.failed) < stop):
                refuse(f"block {block} speaks of failed rows that are none of its own")
            if line.sums and not set(line.sums) <= parts:
                refuse(f"block {block} has checksums of arrays that these features do not have")

    def refresh(self) -> Features:
        """Return the same feature set as the journal speaks of it now.

        Raises
        ------
        StoreBusy
            When another process has removed it since it was opened.
        """
        return self._opened_again(shared=self.journal.shared)

    def _opened_again(self, *, shared: bool) -> Features:
        try:
            return Features(self.folder, self.journal.path, self.name, shared=shared, mending=self._mending)
        except StoreNotFound:
            self._refuse_changed()

    @property
    def n_items(self) -> int:
        """Number of items that have a row."""
        return self.state.plan.items

    @property
    def n_blocks(self) -> int:
        """Number of blocks, the last one perhaps not full."""
        return -(-self.n_items // self.block_rows)

    def __repr__(self) -> str:
        return f"Features({self.name!r}, {self.n_items} items, dim {self.spec.dim})"

    # Reading

    @cached_property
    def keys(self) -> Array:
        """Content keys, uint8, of shape ``(n_items, 16)``."""
        return np.asarray(self._planned("keys"))

    @cached_property
    def pooled(self) -> MappedArray:
        """Pooled features, of shape ``(n_items, dim)``; NaN where an item has none."""
        shape, dtype = (self.n_items, self.spec.dim), self.spec.dtype
        right = partial(self._require_right, "pooled")
        return self._array("pooled", shape, self.block_rows, dtype, self._written, right, self._require_same)

    @cached_property
    def tokens(self) -> MappedArray | AsFloat32 | RaggedArray:
        """Token features: of shape ``(n_items, n_tokens, token_dim)`` for images, ragged for texts.

        Where they are stored as int8 or bfloat16, they are float32 as they are read.
        """
        if not self.spec.has_tokens:
            name = self.name.partition("/")[0]
            raise StoreError(
                f"{self.name} holds no tokens. Store them with: headwater embed MANIFEST STORE --encoder "
                f"{self.spec.encoder} --name {name}-tokens --tokens all"
            )
        values = self.token_parts["tokens/values" if self.spec.ragged else "tokens"]
        numbers: MappedArray | AsFloat32 = values
        if self.spec.quantised:
            numbers = QuantisedArray(values, self.token_parts["tokens/scales" if self.spec.ragged else "token_scales"])
        elif self.spec.bfloat16:
            numbers = Bfloat16Array(values)
        return RaggedArray(numbers, *self._token_places) if self.spec.ragged else numbers

    @cached_property
    def token_parts(self) -> dict[str, MappedArray]:
        """The arrays that tokens are stored in, as they are on disk, by their folders."""
        if not self.spec.ragged:
            checks = {part: partial(self._require_right, part) for part, *_ in token_arrays(self.spec, 0)}
            return {
                part: self._array(part, shape, self.block_rows, dtype, self._written, checks[part], self._require_same)
                for part, shape, dtype in token_arrays(self.spec, self.n_items)
            }
        offsets, lengths = self._token_places
        chunk = self._token_chunk_rows()
        starts = offsets[:: self.block_rows]  # a block's tokens start at a chunk of their own

        def block_of(index: int) -> int:
            return int(np.searchsorted(starts, index * chunk, side="right")) - 1

        def written(index: int) -> bool:
            return index in group(index)

        def group(index: int) -> range:
            return self._written_chunks(block_of(index), chunk)

        def require_right(part: str, index: int, chunks: list[Array]) -> None:
            self._require_right(part, block_of(index), chunks)

        def require_same(index: int) -> None:
            self._require_same(block_of(index))

        return {
            part: self._array(part, shape, chunk, dtype, written, partial(require_right, part), require_same, group)
            for part, shape, dtype in token_arrays(self.spec, end_of(offsets, lengths))
        }

    @cached_property
    def _token_places(self) -> tuple[Array, Array]:
        """Where the ragged tokens of each item begin, and how many they are, int64, of shape ``(n_items,)``."""
        offsets, lengths = (np.asarray(self._planned(f"tokens/{part}")) for part in ("offsets", "lengths"))
        return offsets, lengths

    def _planned(self, part: str) -> MappedArray:
        """Return an array that is written when rows are given out, and has one checksum."""
        expected = self.state.plan.sums.get(part)

        def require_right(index: int, chunks: list[Array]) -> None:
            if expected is not None and not has_digest(expected, chunks, [(0, self.n_items)]):
                raise StoreError(f"{self.name}: {part} differs from its checksum")

        def require_same(index: int) -> None:
            self._require_unchanged(lambda now: now.plan.sums.get(part) == expected)

        def group(index: int) -> range:
            return range(array.n_chunks)

        shape, dtype = ((self.n_items, KEY_BYTES), np.uint8) if part == "keys" else ((self.n_items,), np.int64)
        array = self._array(part, shape, KEY_CHUNK, dtype, check=require_right, same=require_same, group=group)
        return array

    def _written(self, block: int) -> bool:
        """Whether the journal says that a block holds anything."""
        return block in self.state.blocks and bool(self.state.blocks[block].stored)

    def _require_right(self, part: str, block: int, chunks: list[Array]) -> None:
        """Refuse a block of an array whose rows are not those that the journal speaks of."""
        line = self.state.blocks[block]
        if not has_digest(line.sums.get(part, ""), chunks, self._ranges_in(part, block, line.stored)):
            raise StoreError(self._differs(part, block))

    def _require_same(self, block: int) -> None:
        """Refuse to go on with a block of which the journal says something else by now."""
        self._require_unchanged(lambda now: now.blocks.get(block) == self.state.blocks.get(block))

    def _require_unchanged(self, same: Callable[[JournalState], bool] | None = None) -> None:
        """Refuse to call damaged what another process has changed, or is removing, since this was opened.

        ``same`` says whether the journal still says what it said; whether all of it is the same, when left out.
        """
        now = self.journal.read()
        if not (now == self.state if same is None else same(now)) or not fetch_file(self.folder / "zarr.json"):
            self._refuse_changed()

    def _refuse_changed(self) -> NoReturn:
        raise StoreBusy(f"{self.name}: another process has changed it since it was opened. Run the command again.")

    def _differs(self, part: str, block: int) -> str:
        return f"{self.name}: block {block} of {part} differs from its checksum"

    def _token_chunk_rows(self) -> int:
        if self.layout.token_rows:
            return self.layout.token_rows
        try:
            return self._metadata("tokens/values", _chunk_rows)
        except StoreError:
            if not self._mending:
                raise
        values = self.folder / "tokens" / "values"
        size = next((path.stat().st_size for path in values.glob("c.*.0")), 0)  # all chunks are of one length
        return size // ((self.spec.token_dim or 1) * self.spec.token_type.itemsize) or 16

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Status of each item by the journal, uint8, of shape ``(n_items,)``: 0 to do, 1 stored, 2 failed."""
        status = np.zeros(self.n_items, np.uint8)
        for line in self.state.blocks.values():
            for start, stop in line.stored:
                status[start:stop] = STORED
            status[list(line.failed)] = FAILED
        return status

    @property
    def status_chunks(self) -> MappedArray:
        """The array of status on disk, which is for tools that know of no journal."""
        return self._array("status", (self.n_items,), self.block_rows, np.uint8)

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self.folder.parents[FOLDERS_ABOVE]

    def environments(self) -> dict[str, dict[str, Any]]:
        """Return what blocks were made in, by the name that lines of the journal have, the oldest first."""
        return {name: files_found_from(self.root, values) for name, values in self.state.environments.items()}

    @property
    def forgotten(self) -> list[int]:
        """Blocks that a repair has forgotten, and that are still to be made again."""
        return [block for block, line in self.state.blocks.items() if not line.stored and not line.failed]

    @cached_property
    def failed(self) -> dict[int, str]:
        """Why each failed row failed, by row number."""
        return {row: why for line in self.state.blocks.values() for row, why in line.failed.items()}

    def rows_of(self, keys: Array) -> NDArray[np.int64]:
        """Return the row of each of ``keys`` (uint8, shape ``(n, 16)``), -1 for a key that has none."""
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
        """Sort only those keys that begin as some of ``keys`` do, with their rows: of millions, not many."""
        begins = np.zeros(1 << 16, bool)
        begins[_heads(keys)] = True
        rows = np.flatnonzero(begins[_heads(self.keys)])
        words = as_words(self.keys[rows])
        order = np.argsort(words, kind="stable")
        return words[order], rows[order]

    def _array(
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

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files, journal left out."""
        return sum(file_sizes(self.folder).values())

    @property
    def fingerprint(self) -> str:
        """A word that changes when any stored value does."""
        sums = [sorted(self.state.plan.sums.items())]
        sums += [sorted(self.state.blocks[block].sums.items()) for block in sorted(self.state.blocks)]
        return digest(json.dumps(sums).encode())

    # Checking

    def verify(self) -> Iterator[str]:
        """Compare everything with the journal's checksums; yield a line for each thing that differs."""
        for damage in self.damages():
            yield damage.text

    def damages(self) -> Iterator[Damage]:
        """Compare metadata, keys, blocks and status with what the journal says; yield what differs.

        Blocks are read by several threads; those of a store at a URL are fetched from there, whatever the cache holds.

        Raises
        ------
        StoreBusy
            When something differs since another process has changed it, or is removing it.
        """
        for damage in self._damages():
            if damage.block is None:
                self._require_unchanged(lambda now: now.plan == self.state.plan)
            else:
                self._require_same(damage.block)
            yield damage

    def _damages(self) -> Iterator[Damage]:
        if remote := remote_of(self.folder):
            remote.read_anew(self.folder)
        for mapped in ("keys", "pooled", "tokens", "token_parts", "_token_places"):
            self.__dict__.pop(mapped, None)
        said = set()
        for part in PLANNED if self.spec.ragged else PLANNED[:1]:
            try:
                if self.n_items:
                    self._planned(part).require_right(0)
            except StoreBusy:
                raise
            except StoreError as error:
                said.add(str(error))
                yield Damage("planned", part, str(error))
        yield from (damage for damage in self._wrong_metadata() if damage.text not in said)
        lines = list(self.state.blocks.values())
        if self.spec.ragged and lines:
            try:
                self.token_parts  # noqa: B018  (found once, before threads ask for it)
            except StoreError:  # it has been said that where tokens lie is not known
                lines = [replace(line, sums=_without_ragged(line.sums)) for line in lines]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            differing = pool.map(lambda line: list(self._differences(line)), lines)
            for line, texts in zip(lines, differing, strict=True):
                yield from (Damage("block", "", text, line.block) for text in texts)
        for block, text in self._wrong_status():
            yield Damage("status", "status", text, block)

    @property
    def unchecked(self) -> list[str]:
        """What has no checksum, since an earlier version of headwater wrote it: a line for each kind of thing."""
        found = []
        if self.state.n_unchecked:
            found.append(f"{self.name}: {self.state.n_unchecked:,} lines of its journal")
        parts = (*PLANNED[: 3 if self.spec.ragged else 1], "spec", "layout")
        sums = self.state.plan.sums
        return [*found, *(f"{self.name}: {part}" for part in parts if self.n_items and part not in sums)]

    def expected_metadata(self) -> dict[str, dict[str, Any]]:
        """Return what each ``zarr.json`` must hold, by the folder it is in, as the journal and the spec have it."""
        n, spec, rows = self.n_items, self.spec, self.block_rows
        byte, whole, dtype = np.dtype(np.uint8), np.dtype(np.int64), np.dtype(spec.dtype)
        found = {
            "": group_metadata(spec.to_dict()),
            "keys": array_metadata("keys", (n, KEY_BYTES), KEY_CHUNK, byte),
            "status": array_metadata("status", (n,), rows, byte),
            "pooled": array_metadata("pooled", (n, spec.dim), rows, dtype),
        }
        if spec.ragged:
            found["tokens"] = group_metadata({})
            for part in ("offsets", "lengths"):
                found[f"tokens/{part}"] = array_metadata(f"tokens/{part}", (n,), KEY_CHUNK, whole)
        elif spec.has_tokens:
            found |= {part: array_metadata(part, shape, rows, kind) for part, shape, kind in token_arrays(spec, n)}
        if spec.ragged and n:
            with suppress(StoreError):  # where tokens lie cannot be read, which is another damage
                chunk = self._token_chunk_rows()
                parts = token_arrays(spec, end_of(*self._token_places))
                found |= {part: array_metadata(part, shape, chunk, kind) for part, shape, kind in parts}
        return found

    def _wrong_metadata(self) -> Iterator[Damage]:
        """Yield each ``zarr.json`` that differs; shapes may be those that arrays are, or were to be, growing to."""
        every = self.expected_metadata()
        if self.spec.ragged and self.n_items:
            try:
                self._token_chunk_rows(), self._token_places
            except StoreError as error:
                yield Damage("planned", "tokens/values", str(error))
        for part, expected in every.items():
            path = self.folder / part / "zarr.json"
            try:
                found = read_own_json(path)
            except (OSError, ValueError) as error:
                yield Damage("metadata", part, f"{self.name}: {location(path)} cannot be read ({error})")
                continue
            if not isinstance(found, dict):
                found = {}
            if "dimension_names" not in found:  # as before there were any
                expected = {name: value for name, value in expected.items() if name != "dimension_names"}
            if found != expected and not self._is_ahead(part, found, expected):
                yield Damage("metadata", part, f"{self.name}: {location(path)} is not what it was written as")

    def _is_ahead(self, part: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
        """Whether an array is said to have as many rows as it is growing to, and is else what it should be."""
        growing = self.state.plan.growing
        if growing is None or "shape" not in expected:
            return False
        ahead = growing[1] if part in ("tokens/values", "tokens/scales") else growing[0]
        return found == {**expected, "shape": [ahead, *expected["shape"][1:]]}

    def _differences(self, line: BlockLine) -> Iterator[str]:
        """Yield a line for each array of a block that differs from its checksum; the disk is read again."""
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
                yield str(error)

    def _wrong_status(self) -> Iterator[tuple[int, str]]:
        """Yield each block of which ``status`` says less than the journal; a killed run may leave more."""
        for block, line in self.state.blocks.items():
            start = block * self.block_rows
            try:
                found, said = self.status_chunks.chunk(block), self.status[start : start + self.block_rows]
            except StoreBusy:
                raise
            except StoreError as error:
                yield block, str(error)
                continue
            if bool(((said == STORED) & (found != STORED)).any() or ((said == FAILED) & (found == TO_DO)).any()):
                yield block, f"{self.name}: block {line.block} of status differs from the journal"
            elif bool((found > FAILED).any()):
                yield block, f"{self.name}: block {line.block} of status holds what is no status"

    def _token_span(self, block: int) -> tuple[int, int]:
        """Return the half-open range of token rows that a block fills."""
        offsets, lengths = self._token_places
        start = block * self.block_rows
        stop = min(start + self.block_rows, self.n_items)
        return int(offsets[start]), end_of(offsets[:stop], lengths[:stop])

    def _token_chunks(self, block: int, rows: int) -> range:
        """Return the chunks of ragged tokens, of so many rows each, that are a block's."""
        first, last = self._token_span(block)
        return range(first // rows, -(-last // rows))

    def _written_chunks(self, block: int, rows: int) -> range:
        """Return those `_token_chunks` that hold tokens of stored items, and so are there."""
        line = self.state.blocks.get(block)
        if line is None or not line.stored:
            return range(0)
        offsets, lengths = self._token_places
        stop = line.stored[-1][1]
        return range(int(offsets[block * self.block_rows]) // rows, -(-end_of(offsets[:stop], lengths[:stop]) // rows))

    def _ranges_in(self, part: str, block: int, stored: Ranges) -> Ranges:
        """Return where among the rows of a block's chunks the rows ``stored`` are."""
        if not part.startswith("tokens/"):
            start = block * self.block_rows
            return tuple((a - start, b - start) for a, b in stored)
        (offsets, lengths), first = self._token_places, self._token_span(block)[0]
        return tuple((int(offsets[a]) - first, end_of(offsets[:b], lengths[:b]) - first) for a, b in stored)

    # Writing

    @cached_property
    def rights(self) -> Rights:
        """Who may write it."""
        return Rights(self.journal.path, self.name)

    @contextmanager
    def writing(self) -> Iterator[FeatureWriter]:
        """Hold the one right to write this feature set.

        Raises
        ------
        StoreBusy
            When another process holds it; the message names its host and process.
        """
        from headwater.store.writer import FeatureWriter  # which is about this class

        with self.rights.alone():
            if (self.folder / "zarr.json").exists():  # else another process may be making it anew, from parts
                for metadata in matching(self.folder, "**/zarr.json"):
                    remove_unfinished(metadata.parent)
            yield FeatureWriter(self.refresh())

    @contextmanager
    def sharing(self, part: str) -> Iterator[tuple[FeatureWriter, AbstractContextManager[None]]]:
        """Write this feature set beside other processes, each of which writes blocks of its own.

        Yields a writer, and a lock to hold while rows are given out.

        Parameters
        ----------
        part
            What this process writes, such as ``0-of-8``.

        Raises
        ------
        StoreBusy
            When another process writes alone, or writes the same part, or shards of another number of parts write.
        """
        from headwater.store.writer import FeatureWriter

        with self.rights.of_part(part):
            yield FeatureWriter(self._opened_again(shared=True)), self.rights.to_plan()

    @contextmanager
    def helping(self, right: str, block: int) -> Iterator[None]:
        """Write a block for the process that has the right to write, as long as it has it; the journal is left to it.

        At a URL, what is there of the block is looked at first and the lock then, before each object: so when another
        process has taken over, and written, that is known or what is sent is refused.

        Parameters
        ----------
        right
            The word of that process's `rights`.

        Raises
        ------
        StoreBusy
            When that process has it no more, or another has written the block meanwhile.
        """
        if remote := remote_of(self.folder):
            remote.look_again(*self._paths_of(block))
        with self.rights.borrowed(right):
            yield

    def _paths_of(self, block: int) -> list[Path]:
        """Return the files that a block, and its status, is written to."""
        paths = [array.chunk_path(block) for array in (self.pooled, self.status_chunks)]
        if self.spec.has_tokens:
            chunks = self._token_chunks(block, self._token_chunk_rows()) if self.spec.ragged else [block]
            paths += [array.chunk_path(chunk) for array in self.token_parts.values() for chunk in chunks]
        return paths


def _without_ragged(sums: Mapping[str, str]) -> dict[str, str]:
    return {part: expected for part, expected in sums.items() if not part.startswith("tokens/")}


def spec_sum(spec: Mapping[str, Any]) -> str:
    """Return the checksum of a spec, as JSON values."""
    return digest(json.dumps(spec, sort_keys=True).encode())


def layout_sum(rows: int) -> str:
    """Return the checksum of the number of rows that make a block."""
    return digest(str(rows).encode())


def _chunk_rows(metadata: Any) -> int:
    """Return how many rows a chunk has, by the ``zarr.json`` of its array."""
    return read_as(Count, metadata["chunk_grid"]["configuration"]["chunk_shape"][0])


def block_rows(spec: FeatureSpec, n_items: int) -> int:
    """Return how many items make a block: a power of two, some 32 blocks a run, at most about 64 MB each."""
    number = np.dtype(spec.dtype).itemsize
    item_bytes = spec.dim * number
    if spec.has_tokens:  # before they are quantised
        item_bytes += (spec.n_tokens or 256) * (spec.token_dim or 0) * max(number, spec.token_type.itemsize)
    wanted = min(max(n_items // 32, 64), MOST_ROWS, max(BLOCK_BYTES // item_bytes, 16))
    return 1 << (wanted.bit_length() - 1)


def token_arrays(spec: FeatureSpec, n: int) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Return folder, shape and type of the arrays that hold the tokens of ``n`` items; of ragged ones, ``n`` tokens."""
    shape = (n,) if spec.ragged else (n, int(spec.n_tokens or 0))
    parts = [("tokens/values" if spec.ragged else "tokens", (*shape, int(spec.token_dim or 0)), spec.token_type)]
    if spec.quantised:
        parts.append(("tokens/scales" if spec.ragged else "token_scales", shape, SCALE))
    return parts


def as_words(keys: Array) -> Array:
    """View content keys (uint8, ``(n, 16)``) as one sortable word each."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)


def _heads(keys: Array) -> NDArray[np.uint16]:
    """Return the first two bytes of each key as a number."""
    return np.ascontiguousarray(keys[:, :2]).view(np.uint16).reshape(-1)


def end_of(offsets: Array, lengths: Array) -> int:
    """Return the row after the last token."""
    return int(offsets[-1] + lengths[-1]) if len(offsets) else 0
