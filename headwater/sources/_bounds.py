"""What a file that somebody else wrote may be, and how much it may say that it holds, before anything of it is read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headwater._links import leads_out
from headwater._reading import open_regular
from headwater.errors import VectorsError

PACKED = 100
"""How many times its own size a file may unpack to: numbers of an encoder hardly pack, a bomb does by the thousand."""
FREE = 16 << 20
"""Bytes that any file may unpack to."""


def require_own(path: Path, source: Path) -> None:
    """Raise unless a file is a regular one and, where a folder is imported, lies in it: no link leads out.

    Raises
    ------
    VectorsError
        When it is a pipe or a device, cannot be opened, or is a link out of ``source``.
    """
    if source.is_dir() and leads_out(path, source):
        raise VectorsError(f"{path}: is a symbolic link out of {source}. Copy the folder with its files (cp -rL).")
    try:
        open_regular(path).close()
    except OSError as error:
        raise VectorsError(f"{path}: cannot be read ({error.strerror}). Give a regular file.") from error


def require_room(path: Path, n_bytes: int) -> None:
    """Raise unless a file can hold what it says: ``n_bytes``, unpacked.

    Raises
    ------
    VectorsError
        When that is over `FREE` and over `PACKED` times the file's own size.
    """
    own = sum(p.stat().st_size for p in files_in(path)) if path.is_dir() else path.stat().st_size
    if n_bytes > max(FREE, PACKED * own):
        raise VectorsError(
            f"{path}: says that it holds {n_bytes:,} bytes of arrays, but has {own:,} bytes itself. Write it anew, "
            "without compression."
        )


def files_in(folder: Path) -> list[Path]:
    """Return all that is in a folder and those below it but folders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def require_packed_room(path: Path) -> None:
    """Raise unless the members of a zip archive, as .npz and .pt files are, unpack to what the file can hold."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_room(path, sum(member.file_size for member in archive.infolist()))


def require_parquet_room(path: Path) -> None:
    """Raise unless the columns of a Parquet file unpack to what the file can hold, by its footer.

    Raises
    ------
    VectorsError
        When they do not, or there is no footer that can be read.

    References
    ----------
    https://parquet.apache.org/docs/file-format/metadata/
    """
    with open_regular(path) as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8))
        tail = file.read(8)
        length = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 else 0
        if tail[4:] != b"PAR1" or not 0 < length <= end - 8:
            raise VectorsError(f"{path}: cannot be read (it has no footer of Parquet). Write it anew.")
        file.seek(end - 8 - length)
        footer = file.read(length)
    try:
        metadata = _Compact(footer).struct()
        values = [
            size
            for group in metadata.get(4, [])
            for column in group.get(1, [])
            for size in (column[3].get(6, 0), column[3].get(5, 0))  # bytes unpacked; values, of which some are packed
        ]
        n_bytes = max(sum(values), int(metadata.get(3, 0)))  # a row takes a byte or more
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise VectorsError(f"{path}: cannot be read (its footer is damaged). Write it anew.") from error
    require_room(path, n_bytes)


class _Compact:
    """Reads structs of Thrift's compact protocol: a dict from the numbers of fields to values.

    References
    ----------
    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """Read a struct."""
        found: dict[int, Any] = {}
        for number, kind in self._fields():
            found[number] = self._value(kind)
        return found

    def _fields(self) -> Iterator[tuple[int, int]]:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            yield number, head & 15

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._unsigned())
        if kind in (9, 10):
            head = self._byte()
            n = self._unsigned() if head >> 4 == 15 else head >> 4
            inner = head & 15
            return [self._byte() == 1 if inner in (1, 2) else self._value(inner) for _ in range(n)]
        if kind == 12:
            return self.struct()
        raise ValueError(f"no kind {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _bytes(self, n: int) -> bytes:
        self.at += n
        if self.at > len(self.data):
            raise IndexError("the footer ends early")
        return self.data[self.at - n : self.at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
