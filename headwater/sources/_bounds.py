"""Checks of files that somebody else wrote, before they are read: their kind, and the size that they declare."""

from __future__ import annotations

import zipfile
from pathlib import Path

from headwater._links import leads_out
from headwater._parquet import declared_by
from headwater._reading import open_regular
from headwater.errors import VectorsError

PACKED = 100
"""Most times its own size that a file may decompress to: features hardly compress, a bomb does a thousandfold."""
FREE = 16 << 20
"""Bytes that a file of any size may decompress to."""


def require_own(path: Path, source: Path) -> None:
    """Raise unless a file is a regular file and, if ``source`` is a folder, no link leads out of it.

    Raises
    ------
    VectorsError
        When it is a pipe or a device, cannot be opened, or is a link out of ``source``.
    """
    if source.is_dir() and leads_out(path, source):
        raise VectorsError(f"{path} is a symbolic link out of {source}. Copy the folder with its files (cp -rL).")
    try:
        open_regular(path).close()
    except OSError as error:
        raise VectorsError(f"{path}: cannot be read ({error.strerror}). Give a regular file.") from error


def require_room(path: Path, n_bytes: int) -> None:
    """Raise unless a file of this size can plausibly hold the ``n_bytes`` that it declares, decompressed.

    Raises
    ------
    VectorsError
        When ``n_bytes`` is over `FREE` and over `PACKED` times the file's own size.
    """
    own = sum(p.stat().st_size for p in files_in(path)) if path.is_dir() else path.stat().st_size
    if n_bytes > max(FREE, PACKED * own):
        raise VectorsError(
            f"{path}: declares {n_bytes:,} bytes of arrays, but the file has only {own:,} bytes. Save it without "
            "compression."
        )


def files_in(folder: Path) -> list[Path]:
    """Return all files and links below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def require_packed_room(path: Path) -> None:
    """Check with `require_room` the declared sizes in a zip archive, such as an .npz or .pt file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_room(path, sum(member.file_size for member in archive.infolist()))


def require_parquet_room(path: Path) -> None:
    """Check with `require_room` the sizes that the footer of a Parquet file declares.

    Raises
    ------
    VectorsError
        When they are too large, or the footer cannot be read.

    References
    ----------
    https://parquet.apache.org/docs/file-format/metadata/
    """
    with open_regular(path) as file:
        try:
            declared = declared_by(file)
        except ValueError as error:
            raise VectorsError(f"{path}: cannot be read ({error}). Write the file again.") from error
    require_room(
        path, max(sum(declared.n_bytes) + sum(declared.n_values), declared.n_rows)
    )  # at least one byte per row
