"""Atomic file writes: a reader, or the next run after a crash, sees either the whole old file or the whole new one.

A path in the cache of a store at a URL stands for an object of its bucket. Every change is made to the object first,
then to the cached file.

A store may come from somebody else. Nothing in it may be a symbolic link: writing through one would change a file
outside the store, and reading through one would take in such a file. Files are opened without following links, and
`require_own` checks the folders. A file with several names (hard links, as ``cp -al`` makes them) is never changed in
place.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from headwater._reading import SMALL, TABLE, matching, open_regular, parse_json, read_regular
from headwater.errors import DiskError, StoreError
from headwater.store.remote import remote_of

DIGEST_SIZE = 16
Taken = TypeVar("Taken")
SYNCED_AT_ONCE = 3  # files of one `Together`


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a disk into a `DiskError` that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"{path}: the disk is full. Free some space and run the same command again; finished blocks are kept."
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
            raise DiskError(f"{path}: cannot be written ({error.strerror}).") from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR):
            raise StoreError(
                f"{location(path)}: there is a folder where a file belongs, or a file where a folder belongs. Remove "
                "it, then run the same command again."
            ) from error
        raise


def require_own(path: Path, levels: int) -> None:
    """Raise if a file or folder of a store is a symbolic link, or lies in a folder that is one.

    Parameters
    ----------
    levels
        How many folders above the path belong to the store. The folder of the store itself may be a link.

    Raises
    ------
    StoreError
        The message names the link.
    """
    for part in (path, *path.parents[:levels]):
        if part.is_symlink():
            raise StoreError(
                f"{location(part)} is a symbolic link, which headwater does not follow inside a store. If you trust "
                "its target, replace the link with the target."
            )


def open_own(path: Path) -> BinaryIO:
    """Open a file of a store for reading; for a store at a URL, the cached file.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    StoreError
        When it is a symbolic link, a pipe, a device or a folder.
    """
    with _own_errors(path):
        return open_regular(path, follow=False)


def read_own(path: Path, *, most: int = SMALL) -> bytes:
    """Return the bytes of a file of a store, at most ``most``; see `open_own`."""
    with _own_errors(path):
        return read_regular(path, most=most, follow=False)


def read_own_json(path: Path) -> Any:
    """Return the value in a JSON file of a store; see `open_own`.

    Raises
    ------
    ValueError
        When the file is not JSON.
    """
    return parse_json(read_own(path))


@contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.EFBIG):
            why = "is a folder, not a regular file" if error.errno == errno.EISDIR else error.strerror
            raise StoreError(f"{location(path)}: {why}. A store has no such file: restore it from a backup.") from error
        raise


def open_to_change(path: Path) -> BinaryIO:
    """Open a file that is changed in place (a lock or a journal); create it when it is missing.

    Raises
    ------
    StoreError
        When it is a symbolic link, or not a regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with disk_errors(path), _own_errors(path):
        descriptor = os.open(path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is a pipe, a socket or a device", str(path))
        return os.fdopen(descriptor, "r+b")


def has_other_names(file: BinaryIO) -> bool:
    """Whether an open file has another name too (a hard link), perhaps outside the store."""
    return os.fstat(file.fileno()).st_nlink > 1


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably; do nothing if it exists."""
    with disk_errors(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; wait while another thread or process holds it."""
    with open_to_change(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with lease(path, wait=True):
            yield


def lease(path: Path, *, wait: bool) -> AbstractContextManager[None]:
    """Hold the lock ``path`` of a store at a URL against other machines; `flock` locks files on this one.

    Raises
    ------
    Held
        When another process holds it and ``wait`` is not set.
    """
    remote = remote_of(path)
    return nullcontext() if remote is None else remote.lease(path, wait=wait)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed run left in ``folder``."""
    for beside in matching(folder, ".*.tmp"):
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make the contents of a file durable, or the renames in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, together: Together | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the body succeeds, it durably replaces ``path``.

    When the body fails, ``path`` is unchanged and the temporary file is removed. With ``together``, the file replaces
    ``path``, and becomes durable, when that group of files does.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    with disk_errors(path):
        kept = False
        try:
            os.close(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            )  # O_EXCL: fails if something, such as a link, is there
            yield beside
            if together is not None:
                together.add(beside, path)
                kept = True
                return
            sync(beside)
            if remote := remote_of(path):
                remote.send(beside, path)
            beside.replace(path)
            sync(path.parent)
        finally:
            if not kept:
                beside.unlink(missing_ok=True)


class Together:
    """Temporary files that replace their targets as a group, durably.

    Syncing many small files one by one is slow; syncing them together costs little more than syncing one. Stores at a
    URL do not use this, since their objects are written one by one.
    """

    def __init__(self) -> None:
        self._files: dict[Path, Path] = {}

    def add(self, beside: Path, path: Path) -> None:
        """Add a file; any thread may call this."""
        self._files[path] = beside

    def finish(self) -> None:
        """Replace every target, durably; if one fails, others may already be replaced."""
        try:
            with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
                list(pool.map(_promised, self._files, self._files.values()))
            for path, beside in self._files.items():
                with disk_errors(path):
                    beside.replace(path)
            for folder in {path.parent for path in self._files}:
                with disk_errors(folder):
                    sync(folder)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary files that have not replaced their targets."""
        for beside in self._files.values():
            beside.unlink(missing_ok=True)


def _promised(path: Path, beside: Path) -> None:
    with disk_errors(path):
        sync(beside)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file atomically."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, with keys in the given order."""
    write_bytes(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def take_files(
    paths: Sequence[Path],
    take: Callable[[BinaryIO, Path], Taken],
    check: Callable[[list[Taken]], object],
    *,
    trusted: bool = False,
) -> list[Taken]:
    """Apply ``take`` to each file, then ``check`` to all results, which raises if they are wrong; return the results.

    Parameters
    ----------
    trusted
        Skip ``check`` for files on this disk; files fetched from a bucket are always checked.
    """
    if remote := remote_of(paths[0]):
        return remote.take(paths, take, check, trusted=trusted)
    found = []
    for path in paths:
        with open_own(path) as file:
            found.append(take(file, path))
    if not trusted:
        check(found)
    return found


def read_unchecked(path: Path) -> bytes:
    """Return the bytes of a file without checking them; for a store at a URL, without caching them."""
    remote = remote_of(path)
    return read_own(path, most=TABLE) if remote is None else remote.read_past_cache(path)


def fetch_file(path: Path) -> bool:
    """Whether a file exists; for a store at a URL, bring the cached file up to date first."""
    if remote := remote_of(path):
        remote.update_file(path)
    return path.exists()


def send_file(path: Path) -> None:
    """Upload a file that another library wrote to the bucket of a store at a URL; do nothing for a store on a disk.

    It replaces the version that the bucket holds now.
    """
    if remote := remote_of(path):
        remote.look_again(path)
        remote.send(path, path)


def remove_file(path: Path) -> None:
    """Remove a file, durably; do nothing if it is missing."""
    if remote := remote_of(path):
        remote.remove(path)
    if path.exists():
        with disk_errors(path), suppress(FileNotFoundError):  # another process may have removed the folder
            path.unlink(missing_ok=True)
            sync(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder and its contents, durably; do nothing if it is missing."""
    if remote := remote_of(folder):
        remote.remove_tree(folder)
    if folder.exists():
        shutil.rmtree(folder)
        sync(folder.parent)


def file_sizes(folder: Path) -> dict[Path, int]:
    """Return the size in bytes of every file below a folder, cached or not."""
    if remote := remote_of(folder):
        return remote.sizes(folder)
    found = {}
    for path in matching(folder, "**/*"):
        with suppress(FileNotFoundError, NotADirectoryError):  # a temporary file was renamed, or removed, meanwhile
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                found[path] = status.st_size
    return found


def location(path: Path) -> str:
    """Return the URL of a file, or its path, for messages."""
    remote = remote_of(path)
    return str(path) if remote is None else remote.location(path)


def digest(*parts: Any) -> str:
    """Return the BLAKE2b-128 digest, as 32 hex digits, of the concatenated bytes-like ``parts``."""
    state = blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        state.update(part)
    return state.hexdigest()
