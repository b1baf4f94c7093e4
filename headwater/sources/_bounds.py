"""What a file that somebody else wrote may be, and how much it may say that it holds, before anything of it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

from headwater._links import leads_out
from headwater._parquet import declared_by
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
        try:
            declared = declared_by(file)
        except ValueError as error:
            raise VectorsError(f"{path}: cannot be read ({error}). Write it anew.") from error
    require_room(path, max(sum(declared.n_bytes) + sum(declared.n_values), declared.n_rows))  # a row takes a byte
