"""Arrays in blocks: plain zarr v3 chunks on disk, memory-mapped for reading.

A chunk is one file, ``c.I.0``. It holds ``chunk_rows`` rows of raw little-endian numbers and nothing else, so it is
mapped and used in place. The last chunk is padded to the length of the others, as zarr requires.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from headwater._arrays import NumpyMethods
from headwater.errors import DiskError, StoreError
from headwater.store._files import (
    Together,
    digest,
    location,
    make_folder,
    open_own,
    replacing,
    require_own,
    take_files,
    write_json,
)
from headwater.store.mapping import mapped

Array = NDArray[Any]
Selector = SupportsIndex | slice | Array | Sequence[int]
DIMENSIONS = {
    "keys": ("item", "byte"),
    "status": ("item",),
    "pooled": ("item", "feature"),
    "tokens": ("item", "token", "channel"),
    "token_scales": ("item", "token"),
    "tokens/values": ("place", "channel"),
    "tokens/scales": ("place",),
    "tokens/offsets": ("item",),
    "tokens/lengths": ("item",),
}
"""Names of the axes of each array of a feature set, for tools that use them."""
XXH3 = "xxh3:"
CHECK = "HEADWATER_CHECK"
"""Environment variable: ``off`` reads blocks on this disk without checking their checksums."""
BITS = np.dtype(np.uint16)
"""Type on disk of an array of bfloat16 numbers; no other array has it."""
NOT_A_BFLOAT16 = 0x7FC0
MOST_MAPPED = 4096
"""About how many chunks of an array stay mapped: Linux allows a process 65,530 mappings (``vm.max_map_count``)."""
LARGE_ROW = 8 << 10
"""Rows of at least this many bytes are copied one by one."""
ASKED_FOR = 128 << 10
"""Bytes of one prefetch request: Linux reads at most a device's ``read_ahead_kb`` ahead, which is this by default."""

_DAMAGED = "stored features were damaged from outside. Restore the file from a backup, or embed into a new store."


class ArrayLike(Protocol):
    """What heads, retrieval and evaluation need of an array: a shape, a type, rows, and a way to read it in blocks."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any) -> Array: ...
    def blocks(self) -> Iterator[tuple[slice, Array]]: ...


def checks_reads() -> bool:
    """Whether the checksum of a block on this disk is checked when the block is first read; see `CHECK`."""
    return os.environ.get(CHECK, "").strip().lower() not in ("off", "0", "no", "false")


def write_array_metadata(group: Path, part: str, shape: tuple[int, ...], chunk_rows: int, dtype: np.dtype[Any]) -> None:
    """Write the ``zarr.json`` of an array in a group, with chunks of ``chunk_rows`` whole rows."""
    make_folder(group / part)
    write_json(group / part / "zarr.json", array_metadata(part, shape, chunk_rows, dtype))


def array_metadata(part: str, shape: tuple[int, ...], chunk_rows: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the contents of the ``zarr.json`` of an array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if dtype.kind == "f" else int(fill_of(dtype)),
        "codecs": [_codec(dtype)],
        "dimension_names": list(DIMENSIONS[part]),
        "attributes": {"bits_of": "bfloat16"} if dtype == BITS else {},
    }


def fill_of(dtype: np.dtype[Any]) -> Array:
    """Return the value that unwritten rows read as: NaN if the type has one, else 0."""
    if dtype == BITS:
        return np.array(NOT_A_BFLOAT16, dtype)
    return np.array(np.nan if dtype.kind == "f" else 0, dtype)


def _codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    if dtype.itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def write_group_metadata(folder: Path, attributes: dict[str, Any]) -> None:
    """Write the ``zarr.json`` of a group."""
    make_folder(folder)
    write_json(folder / "zarr.json", group_metadata(attributes))


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of the ``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


class MappedArray(NumpyMethods):
    """An array on disk, in chunks of whole rows; each chunk is mapped when it is first read.

    Parameters
    ----------
    folder
        The zarr array's folder.
    shape
        Its shape; ``shape[0]`` counts rows.
    chunk_rows
        Rows a chunk.
    dtype
        Type of its numbers.
    written
        Returns whether the chunk of a number has been written. An unwritten chunk reads as `fill_of` the type,
        whatever is on disk; a written one must be there.
    check
        Called with the number of the first chunk and the values of the chunks checked together; raises if they are
        damaged. Each chunk is checked once, when it is first read; see `checks_reads`.
    same
        Called with the number of a chunk that is missing or damaged; raises if another process has rewritten it, so
        that it is not reported as damaged.
    group
        Returns the chunks that are checked together with a chunk; by default the chunk alone.

    Raises
    ------
    StoreError
        When the folder is a symbolic link.

    Notes
    -----
    ``array[i:j]`` inside one chunk is a view of the file; other selections copy. Views are read-only.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        chunk_rows: int,
        dtype: Any,
        written: Callable[[int], bool] = lambda index: True,
        check: Callable[[int, list[Array]], None] | None = None,
        same: Callable[[int], None] | None = None,
        group: Callable[[int], range] = lambda index: range(index, index + 1),
    ) -> None:
        require_own(folder, 1)
        self.folder = folder
        self.shape = shape
        self.chunk_rows = chunk_rows
        self.dtype = np.dtype(dtype)
        self._written = written
        self._check = check
        self._same = same
        self._group = group
        self._chunks: dict[int, Array] = {}
        self._right: set[int] = set()
        """Chunks that passed the check, whether or not they are still mapped."""

    @property
    def n_chunks(self) -> int:
        """Number of chunks; the last one may be partly filled."""
        return -(-self.shape[0] // self.chunk_rows)

    def __repr__(self) -> str:
        return f"MappedArray({self.folder.name}, shape={self.shape}, dtype={self.dtype})"

    def chunk_path(self, index: int) -> Path:
        """Return the file of chunk ``index``."""
        return self.folder / ".".join(["c", str(index), *["0"] * (self.ndim - 1)])

    def chunk(self, index: int) -> Array:
        """Return chunk ``index``, mapped, of shape ``(rows, ...)``; the last one without its padding."""
        rows = min(self.chunk_rows, self.shape[0] - index * self.chunk_rows)
        found = self._chunks.get(index)
        if found is None:
            if not self._written(index):
                return np.broadcast_to(self._fill, (rows, *self.shape[1:]))
            together = self._map(self._group(index))
            if len(self._chunks) + len(together) > MOST_MAPPED:
                self._chunks = {}  # chunks in use elsewhere stay mapped
            self._chunks.update(together)
            found = together[index]
        return found[:rows]

    def ask_for(self, index: int) -> None:
        """Ask the system to read chunk ``index`` from disk ahead of use; cheap if it is already in memory."""
        if not hasattr(os, "posix_fadvise") or not self._written(index):
            return
        with (
            suppress(OSError, StoreError),
            open_own(self.chunk_path(index)) as file,
        ):  # the read that follows reports it
            for start in range(0, os.fstat(file.fileno()).st_size, ASKED_FOR):
                os.posix_fadvise(file.fileno(), start, ASKED_FOR, os.POSIX_FADV_WILLNEED)

    def require_right(self, index: int) -> None:
        """Read a chunk and those checked together with it from the disk again, and check them again.

        Raises
        ------
        StoreError
            When one of them is missing or damaged.
        """
        together = self._group(index)
        self._right.difference_update(together)
        self._map(together, always=True)

    def _map(self, indices: range, *, always: bool = False) -> dict[int, Array]:
        paths = [self.chunk_path(index) for index in indices]

        def check(chunks: list[Array]) -> None:
            if self._check is not None:
                self._check(indices[0], chunks)
                self._right.update(indices)

        trusted = not always and (self._check is None or self._right.issuperset(indices) or not checks_reads())
        try:
            return dict(zip(indices, take_files(paths, self._mapped, check, trusted=trusted), strict=True))
        except (FileNotFoundError, StoreError) as error:
            if self._same is not None:
                self._same(indices[0])
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{location(Path(error.filename))} is missing: {_DAMAGED}") from error

    def _mapped(self, file: BinaryIO, path: Path) -> Array:
        """Map the whole file of a chunk."""
        full = (self.chunk_rows, *self.shape[1:])
        try:
            data = mapped(file)
        except ValueError as error:
            raise StoreError(f"{location(path)} is empty: {_DAMAGED}") from error
        except OSError as error:
            raise DiskError(
                f"{location(path)} cannot be mapped ({error.strerror}): memory is full, or too many files are mapped "
                "at once. Free some memory, or raise vm.max_map_count."
            ) from error
        expected = math.prod(full) * self.dtype.itemsize
        if len(data) != expected:
            raise StoreError(f"{location(path)} has {len(data)} bytes instead of {expected}: {_DAMAGED}")
        values: Array = data.view(self.dtype).reshape(full)
        return values

    def _take(self, rows: Selector) -> Array:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step == 1:
                return self._span(start, max(start, stop))
            rows = np.arange(start, stop, step)
        index = np.asarray(rows)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        if index.ndim == 0:
            row: Array = self[index[None]][0]
            return row
        return self._gather(_checked(index, self.shape[0]))

    def _span(self, start: int, stop: int) -> Array:
        first, last = start // self.chunk_rows, (stop - 1) // self.chunk_rows
        if first == last:
            return self.chunk(first)[start - first * self.chunk_rows : stop - first * self.chunk_rows]
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        at = 0
        for index in range(first, last + 1):
            base = index * self.chunk_rows
            part = self.chunk(index)[max(start - base, 0) : stop - base]
            out[at : at + len(part)] = part
            at += len(part)
        return out

    def _gather(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        chunks, within = np.divmod(rows, self.chunk_rows)
        order = np.argsort(chunks, kind="stable")
        if out.nbytes >= LARGE_ROW * max(len(rows), 1):  # fancy indexing would copy each row twice
            for place in order.tolist():
                out[place] = self.chunk(int(chunks[place]))[within[place]]
            return out
        ends = np.flatnonzero(np.diff(chunks[order], append=-1)) + 1
        ascending = bool((np.diff(chunks) >= 0).all())
        start = 0
        for end in ends.tolist():
            if ascending:  # straight into its place
                np.take(self.chunk(int(chunks[start])), within[start:end], axis=0, out=out[start:end], mode="clip")
                start = end
                continue
            places = order[start:end]
            out[places] = self.chunk(int(chunks[places[0]]))[within[places]]
            start = end
        return out

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield ``(rows, values)`` chunk by chunk, without copying."""
        for index in range(self.n_chunks):
            values = self.chunk(index)
            start = index * self.chunk_rows
            yield slice(start, start + len(values)), values

    def write_chunk(self, index: int, values: Array, together: Together | None = None) -> None:
        """Replace chunk ``index`` by ``values``, of shape ``(rows, ...)``, atomically, alone or with ``together``."""
        padding = np.broadcast_to(self._fill, (self.chunk_rows - len(values), *self.shape[1:]))
        with replacing(self.chunk_path(index), together) as beside, beside.open("wb") as file:
            for part in (np.asarray(values, self.dtype), padding):
                file.write(raw_bytes(part).data)
        self._chunks.pop(index, None)
        self._right.discard(index)

    @property
    def _fill(self) -> Array:
        return fill_of(self.dtype)


class Chunked(Protocol):
    """An array-like with a number of rows that are read at once."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunk_rows(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Array: ...


class AsFloat32(NumpyMethods):
    """Numbers stored in another form, converted to float32 when rows are read.

    Parameters
    ----------
    parts
        The stored arrays, in chunks of equally many rows; the first has the shape of the result.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, *parts: MappedArray) -> None:
        self.parts = parts
        self.shape = parts[0].shape
        self.chunk_rows = parts[0].chunk_rows

    @abstractmethod
    def _numbers(self, *parts: Array) -> NDArray[np.float32]:
        """Convert rows of the parts to float32."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"

    def _take(self, rows: Selector) -> Array:
        return self._numbers(*(part[rows] for part in self.parts))

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield ``(rows, values)`` chunk by chunk."""
        for found in zip(*(part.blocks() for part in self.parts), strict=True):
            yield found[0][0], self._numbers(*(values for _, values in found))

    def ask_for(self, index: int) -> None:
        """Ask the system to read chunk ``index`` from disk ahead of use."""
        for part in self.parts:
            part.ask_for(index)


class InMemory:
    """An array in memory as a `Chunked` one.

    Parameters
    ----------
    values
        Of shape ``(n_rows, ...)``.
    """

    def __init__(self, values: Array, chunk_rows: int = 8192) -> None:
        self.values = values
        self.shape: tuple[int, ...] = values.shape
        self.dtype = values.dtype
        self.chunk_rows = chunk_rows

    def __getitem__(self, rows: Any, /) -> Array:
        found: Array = self.values[rows]
        return found


class SelectedRows(NumpyMethods):
    """Rows of an array in a given order: a lazy ``array[index]`` that copies nothing until rows are read.

    Parameters
    ----------
    array
        Any `Chunked` one.
    index
        Row numbers, int64, of shape ``(n_rows,)``.
    """

    def __init__(self, array: Chunked, index: NDArray[np.int64]) -> None:
        self.array = array
        self.index = index
        self.dtype = array.dtype
        self.shape = (len(index), *array.shape[1:])
        self._contiguous = bool(len(index)) and bool((np.diff(index) == 1).all())

    def __repr__(self) -> str:
        return f"SelectedRows(shape={self.shape}, dtype={self.dtype})"

    def _take(self, rows: Selector) -> Array:
        if isinstance(rows, slice) and self._contiguous:
            start, stop, step = rows.indices(self.shape[0])
            if step == 1:
                first = int(self.index[0])
                return self.array[first + start : first + max(start, stop)]
        chosen = self.index[np.asarray(rows) if isinstance(rows, Sequence) else rows]
        return self.array[chosen]

    def select(self, index: NDArray[np.int64]) -> SelectedRows:
        """Return the rows ``index`` of these rows, in that order, without copying."""
        return SelectedRows(self.array, self.index[index])

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield ``(rows, values)`` in order, about a chunk at a time."""
        step = max(1, self.array.chunk_rows)
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            yield slice(start, stop), self[start:stop]


class RaggedArray:
    """One matrix per item, each with its own number of rows.

    Parameters
    ----------
    values
        All rows, of shape ``(n_all, dim)``.
    offsets, lengths
        First row and number of rows of each item, int64, of shape ``(n_items,)``. There may be gaps
        between items, since each block starts at a new chunk.
    """

    def __init__(self, values: Chunked, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self.values = values
        self.offsets = offsets
        self.lengths = lengths
        self.dtype = values.dtype
        self.dim = values.shape[1]

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"RaggedArray(n_items={len(self)}, dim={self.dim}, dtype={self.dtype})"

    def __getitem__(self, item: SupportsIndex) -> Array:
        """Return the matrix of one item, of shape ``(n_tokens, dim)``."""
        start, length = int(self.offsets[item]), int(self.lengths[item])
        return self.values[start : start + length]

    def select(self, index: NDArray[np.int64]) -> RaggedArray:
        """Return the items ``index``, in that order, without copying; a negative index gives an item without tokens."""
        there = index >= 0
        return RaggedArray(
            self.values, np.where(there, self.offsets[index], 0), np.where(there, self.lengths[index], 0)
        )

    def padded(self, index: NDArray[np.int64] | Sequence[int]) -> tuple[Array, NDArray[np.bool_]]:
        """Return items ``index`` as one padded array with its attention mask.

        Returns
        -------
        tokens : of shape (n_rows, longest, dim), zero after an item's last token
        attention_mask : bool, of shape (n_rows, longest)
        """
        index = np.asarray(index)
        lengths = self.lengths[index]
        longest = int(lengths.max(initial=0))
        attention_mask = np.arange(longest) < lengths[:, None]
        tokens = np.zeros((len(index), longest, self.dim), self.dtype)
        tokens[attention_mask] = self.values[(self.offsets[index][:, None] + np.arange(longest))[attention_mask]]
        return tokens, attention_mask


def digest_rows(chunks: Sequence[Array], ranges: Sequence[tuple[int, int]]) -> str:
    """Return the XXH3-128 checksum of half-open ranges of rows, in hex after the prefix ``xxh3:``.

    It finds damage at the speed of memory. Unlike content keys, it does not protect against forgery.

    Parameters
    ----------
    chunks
        The rows, in chunks of equally many rows; the last may be shorter.
    ranges
        Row ranges, counted over all chunks.

    References
    ----------
    Collet, xxHash fast digest algorithm, https://github.com/Cyan4973/xxHash
    """
    state = xxh3_128()
    for part in _parts_of(chunks, ranges):
        state.update(raw_bytes(part).data)
    return f"{XXH3}{state.hexdigest()}"


def has_digest(expected: str, chunks: Sequence[Array], ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether rows match a checksum; one without a prefix is BLAKE2b-128, as earlier versions wrote it."""
    if expected.startswith(XXH3):
        return digest_rows(chunks, ranges) == expected
    return digest(*map(raw_bytes, _parts_of(chunks, ranges))) == expected


def _parts_of(chunks: Sequence[Array], ranges: Sequence[tuple[int, int]]) -> Iterator[Array]:
    """Yield the rows of the ranges, chunk by chunk."""
    rows = len(chunks[0]) if chunks else 0
    for start, stop in ranges:
        while start < stop:
            index, within = divmod(start, rows) if rows else (len(chunks), 0)
            if index >= len(chunks):
                return  # the checksum covers more rows than there are, so it will not match
            part = chunks[index][within : within + stop - start]
            if not len(part):
                return
            yield part
            start += len(part)


def raw_bytes(values: Array) -> NDArray[np.uint8]:
    """Return the bytes of ``values`` in C order, without a copy if the array is already in this order."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _checked(index: Array, n_rows: int) -> NDArray[np.int64]:
    if index.size and index.dtype.kind not in "iu":
        raise TypeError(f"rows must be selected by integers, booleans or slices, not by {index.dtype}.")
    index = index.astype(np.int64, copy=False)
    if index.size and (int(index.max()) >= n_rows or int(index.min()) < -n_rows):
        raise IndexError(f"row {int(index.max())} is out of range for an array of {n_rows} rows.")
    return np.where(index < 0, index + n_rows, index) if index.size and index.min() < 0 else index
