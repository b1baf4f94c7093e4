"""Whether what is to be written can be, asked before hours of work; nothing is left behind."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from headwater.errors import InputError
from headwater.store import is_url

_LONGEST_END = ".progress"  # of what is written beside a path until it is whole, besides a dot and a process number


def require_writable(path: str | os.PathLike[str], option: str = "--out") -> Path:
    """Return a path at which a file or folder can be written, and beside which one can.

    Folders that are not there yet are not made.

    Raises
    ------
    InputError
        When something stands in the way; the message says where and what.
    """
    if is_url(os.fspath(path)):
        raise InputError(f"{option} {path} is a URL, at which only a store can be. Give a folder, and copy it there.")
    try:
        return _tried(Path(path), option)
    except ValueError as error:
        raise InputError(f"{option} {os.fspath(path)!r} is no path ({error}). Give another path.") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename and os.fspath(error.filename) != os.fspath(path) else ""
        why = error.strerror or str(error)
        raise InputError(f"{option} {path} cannot be written ({where}{why}). Give another path.") from error


def _tried(path: Path, option: str) -> Path:
    here, missing = path.absolute(), []
    while not _is_there(here):
        missing.append(here.name)
        here = here.parent
    if not here.exists():
        raise OSError(errno.ENOENT, "a link that leads nowhere", str(here))
    if missing and not here.is_dir():
        raise OSError(errno.ENOTDIR, "is a file, where a folder is needed", str(here))
    if not missing and not here.is_dir() and not os.access(here, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(here))
    folders = [here] if here.is_dir() else []
    if not missing:  # what is written whole is made beside it first
        folders.append(here.resolve().parent)
    for folder in folders:
        _try_folder(folder)
        for name in (*missing, f".{path.name}.{os.getpid()}{_LONGEST_END}"):
            _is_there(folder / name)  # a name that is too long is an error of its own
    return path


def _is_there(path: Path) -> bool:
    """Whether something is at a path, a link that leads nowhere too; what cannot be looked at is an error."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _try_folder(folder: Path) -> None:
    """Make a folder in another, and take it away."""
    try:
        made = tempfile.mkdtemp(prefix=".headwater-", dir=folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    Path(made).rmdir()
