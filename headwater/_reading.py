"""Reading files that somebody else may have written: regular files only, and only so many bytes of one.

A path that leads to a pipe, a socket or a device would wait for ever, or never end; a sparse file of a few bytes on
disk can be said to hold terabytes; JSON that is nested a million deep ends the interpreter. Every file is opened here,
so that none of this happens anywhere. What is refused is an `OSError` with its reason in words, or a `ValueError` for
JSON, so that whoever catches these for a file catches it too.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from headwater._parquet import declared_by

if TYPE_CHECKING:
    import polars as pl

SMALL = 64 << 20
"""Bytes that a JSON file may have: settings, metadata, metrics."""
TABLE = 8 << 30
"""Bytes that a table may have."""
ROWS_A_BYTE = 64
"""Rows that a table may have for each byte of its file: rows of ids of their own take more space than that."""
PACKED = 1000
"""How many times its own size a table may unpack to."""
UNPACKED = 1 << 30
"""Bytes that any table may unpack to."""
DEEPEST = 100
"""Levels that JSON may be nested."""
_BINARY = getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading; a symbolic link is followed unless ``follow`` says otherwise.

    Raises
    ------
    OSError
        When there is none, it may not be read, or it is something else: a folder, a pipe, a device, a link that is not
        to be followed.
    """
    # first, since to open a device may already do something
    _require_regular(os.stat(path, follow_symlinks=follow), path)  # noqa: PTH116  (a string is as good)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | _BINARY
    descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        _require_regular(os.fstat(descriptor), path)  # what was opened, whatever was there a moment before
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, most: int = SMALL, follow: bool = True) -> bytes:
    """Return the bytes of a regular file of at most ``most`` bytes.

    Raises
    ------
    OSError
        As `open_regular` does, and when there are more bytes.
    """
    with open_regular(path, follow=follow) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > most:
            raise _too_large(n_bytes, most, path)
        data = file.read(most + 1)  # a file may grow, and those of /proc are said to hold nothing
    if len(data) > most:
        raise _too_large(len(data), most, path)
    return data


def read_json(path: str | os.PathLike[str], *, most: int = SMALL, follow: bool = True) -> Any:
    """Return what a JSON file holds; see `parse_json`."""
    return parse_json(read_regular(path, most=most, follow=follow))


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises
    ------
    ValueError
        When it is no JSON, not in UTF-8, or nested more than `DEEPEST` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    _require_shallow(value, DEEPEST)
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half a character is a UnicodeEncodeError, which is a ValueError
    return value


class NotParquet(ValueError):
    """Bytes that are no Parquet file, or not one that is read."""


def parse_parquet(data: bytes) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the table that is in a Parquet file, and the words that its writer put beside it.

    Raises
    ------
    NotParquet
        When it is no Parquet file, is damaged, or is said to hold more rows than its bytes can be of.
    """
    import polars as pl

    try:
        declared = declared_by(io.BytesIO(data))
    except ValueError as error:
        raise NotParquet(str(error)) from error
    n_values = max([declared.n_rows, *declared.n_values])
    if n_values > ROWS_A_BYTE * len(data) or sum(declared.n_bytes) > max(UNPACKED, PACKED * len(data)):
        raise NotParquet(f"it is said to unpack to {n_values:,} values, and has {len(data):,} bytes")
    try:
        table, words = pl.read_parquet(io.BytesIO(data)), pl.read_parquet_metadata(io.BytesIO(data))
        texts = table.select(pl.col(pl.String).str.len_bytes().cast(pl.UInt64).sum())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, MemoryError) as error:
        raise NotParquet((str(error).strip() or type(error).__name__).splitlines()[0]) from error
    if texts.width and (n_bytes := sum(texts.row(0))) > max(UNPACKED, PACKED * len(data)):
        raise NotParquet(f"its texts are {n_bytes:,} bytes, and it has {len(data):,}")
    return table, words


def _require_shallow(value: Any, left: int) -> None:
    if not isinstance(value, (dict, list)):
        return
    if left == 0:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, (dict, list)):
            _require_shallow(part, left - 1)


def _require_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "is a symbolic link, where a file is needed", os.fspath(path))
    raise OSError(errno.EINVAL, "is a pipe, a socket or a device, where a file is needed", os.fspath(path))


def _too_large(n_bytes: int, most: int, path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EFBIG, f"{n_bytes:,} bytes or more, where at most {most:,} are read", os.fspath(path))


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern below a folder, of which another process may be removing parts."""
    while True:
        try:
            return list(folder.glob(pattern))
        except FileNotFoundError:  # a folder is gone that was there a moment ago: the next look does without it
            continue
