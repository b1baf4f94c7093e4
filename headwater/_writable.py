"""Check before hours of work that an output path can be written; the check leaves nothing behind."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from headwater.errors import InputError
from headwater.store import is_url

_LONGEST_END = ".progress"  # longest suffix of a temporary file, whose name is .NAME.PROCESS plus a suffix


def require_writable(path: str | os.PathLike[str], option: str = "--out") -> Path:
    """Return the path if a file or folder can be written there, and a temporary one beside it.

    Missing folders are not created.

    Raises
    ------
    InputError
        When the path cannot be written; the message gives the place and the reason.
    """
    if is_url(os.fspath(path)):
        raise InputError(f"{option} {path} is a URL, where only a store can be written. Give a folder, then copy it.")
    try:
        return _tried(Path(path))
    except ValueError as error:
        raise InputError(f"{option} {os.fspath(path)!r} is not a path ({error}). Give another path.") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename and os.fspath(error.filename) != os.fspath(path) else ""
        why = error.strerror or str(error)
        raise InputError(f"{option} {path} cannot be written ({where}{why}). Give another path.") from error


def _tried(path: Path) -> Path:
    here, missing = path.absolute(), []
    while not _is_there(here):
        missing.append(here.name)
        here = here.parent
    if not here.exists():
        raise OSError(errno.ENOENT, "is a link to a missing file", str(here))
    if missing and not here.is_dir():
        raise OSError(errno.ENOTDIR, "is a file, not a folder", str(here))
    if not missing and not here.is_dir() and not os.access(here, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(here))
    folders = [here] if here.is_dir() else []
    if not missing:  # the temporary file is written beside it
        folders.append(here.resolve().parent)
    for folder in folders:
        _try_folder(folder)
        for name in (*missing, f".{path.name}.{os.getpid()}{_LONGEST_END}"):
            _is_there(folder / name)  # raises when a name is too long
    return path


def _is_there(path: Path) -> bool:
    """Whether a file, folder or link, also a broken one, is at a path; raises where this cannot be found out."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _try_folder(folder: Path) -> None:
    """Create a folder in another, and remove it."""
    try:
        made = tempfile.mkdtemp(prefix=".headwater-", dir=folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    Path(made).rmdir()
