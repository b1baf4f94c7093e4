"""Safe reading of files that somebody else may have written: regular files only, up to a number of bytes.

Reading a pipe, a socket or a device may block or never end. A sparse file that takes a few bytes on disk may read as
terabytes. JSON that is nested a million levels deep crashes the interpreter. Every file is therefore opened here. A
file that is refused raises `OSError`, or `ValueError` for JSON, so code that handles errors of a file handles these
too.
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
"""Most bytes of a JSON file (settings, metadata, metrics)."""
TABLE = 8 << 30
"""Most bytes of a table."""
ROWS_A_BYTE = 64
"""Most rows of a table for each byte of its file. A table with distinct ids has far fewer."""
PACKED = 1000
"""Most times its own size that a table may decompress to."""
UNPACKED = 1 << 30
"""Bytes that a table of any size may decompress to."""
DEEPEST = 100
"""Most levels of nesting in JSON."""
_BINARY = getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading; a symbolic link is followed unless ``follow`` is false.

    Raises
    ------
    OSError
        When there is no file, it may not be read, or it is not a regular file: a folder, a pipe, a device, or, with
        ``follow=False``, a link.
    """
    # before opening, since opening a device may already have an effect
    _require_regular(os.stat(path, follow_symlinks=follow), path)  # noqa: PTH116  (path may be a string)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | _BINARY
    descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        _require_regular(os.fstat(descriptor), path)  # again, in case the path was replaced in between
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, most: int = SMALL, follow: bool = True) -> bytes:
    """Return the bytes of a regular file of at most ``most`` bytes.

    Raises
    ------
    OSError
        As `open_regular` does, and when the file has more bytes.
    """
    with open_regular(path, follow=follow) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > most:
            raise _too_large(n_bytes, most, path)
        data = file.read(most + 1)  # a file may grow, and files in /proc report a size of 0
    if len(data) > most:
        raise _too_large(len(data), most, path)
    return data


def read_json(path: str | os.PathLike[str], *, most: int = SMALL, follow: bool = True) -> Any:
    """Return the value in a JSON file; see `parse_json`."""
    return parse_json(read_regular(path, most=most, follow=follow))


def parse_json(text: str | bytes) -> Any:
    """Return the value of JSON text.

    Raises
    ------
    ValueError
        When the text is not JSON, not in UTF-8, or nested more than `DEEPEST` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    _require_shallow(value, DEEPEST)
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # an unpaired surrogate raises UnicodeEncodeError, which is a ValueError
    return value


class NotParquet(ValueError):
    """The bytes are not a Parquet file, or one that is refused."""


def parse_parquet(data: bytes) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the table in a Parquet file, and the key-value metadata that its writer added.

    Raises
    ------
    NotParquet
        When the bytes are not a Parquet file, are damaged, or declare more values than a file of this size can hold.
    """
    import polars as pl

    try:
        declared = declared_by(io.BytesIO(data))
    except ValueError as error:
        raise NotParquet(str(error)) from error
    n_values = max([declared.n_rows, *declared.n_values])
    if n_values > ROWS_A_BYTE * len(data) or sum(declared.n_bytes) > max(UNPACKED, PACKED * len(data)):
        raise NotParquet(f"it declares {n_values:,} values, too many for a file of {len(data):,} bytes")
    try:
        table, words = pl.read_parquet(io.BytesIO(data)), pl.read_parquet_metadata(io.BytesIO(data))
        texts = table.select(pl.col(pl.String).str.len_bytes().cast(pl.UInt64).sum())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, MemoryError) as error:
        raise NotParquet((str(error).strip() or type(error).__name__).splitlines()[0]) from error
    if texts.width and (n_bytes := sum(texts.row(0))) > max(UNPACKED, PACKED * len(data)):
        raise NotParquet(f"its texts take {n_bytes:,} bytes, too many for a file of {len(data):,} bytes")
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
        raise OSError(errno.ELOOP, "is a symbolic link, not a regular file", os.fspath(path))
    raise OSError(errno.EINVAL, "is a pipe, a socket or a device, not a regular file", os.fspath(path))


def _too_large(n_bytes: int, most: int, path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EFBIG, f"has {n_bytes:,} bytes or more; at most {most:,} are read", os.fspath(path))


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that match a pattern, even while another process removes some."""
    while True:
        try:
            return list(folder.glob(pattern))
        except FileNotFoundError:  # a folder was removed during the listing: list again without it
            continue
