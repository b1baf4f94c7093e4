"""Read from the footer of a Parquet file how much it declares to hold, before any of it is decompressed."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Declared:
    """The sizes that the footer of a Parquet file declares.

    Attributes
    ----------
    n_rows
        Rows of the table.
    n_bytes, n_values
        Uncompressed bytes, and values, of each column of each row group. For a column of lists, the values are the
        elements of the lists.
    """

    n_rows: int
    n_bytes: Sequence[int]
    n_values: Sequence[int]


def declared_by(file: BinaryIO) -> Declared:
    """Read the footer of a Parquet file.

    Raises
    ------
    ValueError
        When there is no footer, or it cannot be read.

    References
    ----------
    https://parquet.apache.org/docs/file-format/metadata/
    """
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    tail = file.read(8)
    length = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 else 0
    if tail[4:] != b"PAR1" or not 0 < length <= end - 8:
        raise ValueError("it has no Parquet footer")
    file.seek(end - 8 - length)
    try:
        metadata = _Compact(file.read(length)).struct()
        columns = [column[3] for group in metadata.get(4, []) for column in group.get(1, [])]
        n_bytes, n_values = ([int(column.get(number, 0)) for column in columns] for number in (6, 5))
        return Declared(int(metadata.get(3, 0)), n_bytes, n_values)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError("its footer is damaged") from error


class _Compact:
    """Reads structs of Thrift's compact protocol as dicts from field numbers to values.

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
        raise ValueError(f"unknown type {kind}")

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
