"""Writing files so that a reader, or the next run after a crash, sees the old one or the new one whole.

A path below the cache of a store at a URL stands for an object of its bucket: what is done to the file here is done to
the object first.

A store may be somebody else's. Nothing in it may be a symbolic link, since writing would then change a file outside
the store, and reading would take one in; each file is opened without following a link, and `require_own` looks at the
folders. A file of several names (hard links, as ``cp -al`` makes them) is never changed in place.
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
    """Turn what a disk refuses into a `DiskError` that says where and what to do."""
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
                f"{location(path)}: a folder stands where a file belongs, or a file where a folder does. Take it away, "
                "and run the same command again."
            ) from error
        raise


def require_own(path: Path, levels: int) -> None:
    """Refuse a file or folder of a store that is a symbolic link, or lies in a folder that is.

    Parameters
    ----------
    levels
        How many folders above it belong to the store. The store itself may be a link of its user's.

    Raises
    ------
    StoreError
        The message names the link.
    """
    for part in (path, *path.parents[:levels]):
        if part.is_symlink():
            raise StoreError(
                f"{location(part)} is a symbolic link: a store holds its own files only, and nothing is read or "
                "written through it. Replace the link by what it leads to, if you trust it."
            )


def open_own(path: Path) -> BinaryIO:
    """Open a file of a store for reading; of a store at a URL, that of the cache.

    Raises
    ------
    FileNotFoundError
        When there is none.
    StoreError
        When it is a symbolic link, a pipe, a device or a folder.
    """
    with _own_errors(path):
        return open_regular(path, follow=False)


def read_own(path: Path, *, most: int = SMALL) -> bytes:
    """Return the bytes of a file of a store, of at most ``most``; see `open_own`."""
    with _own_errors(path):
        return read_regular(path, most=most, follow=False)


def read_own_json(path: Path) -> Any:
    """Return what a JSON file of a store holds; see `open_own`.

    Raises
    ------
    ValueError
        When it is no JSON.
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
            why = "is a folder, where a file is needed" if error.errno == errno.EISDIR else error.strerror
            raise StoreError(f"{location(path)}: {why}. It is no file of a store: restore it from a backup.") from error
        raise


def open_to_change(path: Path) -> BinaryIO:
    """Open a file of a store that is changed in place, a lock or a journal; it is made where there is none.

    Raises
    ------
    StoreError
        When it is a symbolic link, or no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with disk_errors(path), _own_errors(path):
        descriptor = os.open(path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is a pipe, a socket or a device", str(path))
        return os.fdopen(descriptor, "r+b")


def has_other_names(file: BinaryIO) -> bool:
    """Whether an open file is known by another name too, perhaps outside of the store."""
    return os.fstat(file.fileno()).st_nlink > 1


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; nothing where it is there already."""
    with disk_errors(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, waiting for whoever has it, in this process or another."""
    with open_to_change(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with lease(path, wait=True):
            yield


def lease(path: Path, *, wait: bool) -> AbstractContextManager[None]:
    """Hold the lock ``path`` of a store at a URL against other machines; on this one, files are locked by `flock`.

    Raises
    ------
    Held
        When another process holds it and ``wait`` is not set.
    """
    remote = remote_of(path)
    return nullcontext() if remote is None else remote.lease(path, wait=wait)


def remove_unfinished(folder: Path) -> None:
    """Remove files that a killed run had begun to write in ``folder`` beside the ones that they were to replace."""
    for beside in matching(folder, ".*.tmp"):
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make what was written to a file durable; of a folder, what was renamed in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, together: Together | None = None) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; when the body succeeds it becomes ``path``, durably.

    When the body fails, ``path`` is as it was and nothing is left beside it. With ``together`` it becomes ``path``, and
    durable, along with others.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    with disk_errors(path):
        kept = False
        try:
            os.close(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            )  # no link of anybody's
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
    """Files that have been written beside those that they are to replace, and do so durably all at once.

    A disk that is asked for many small promises keeps each by itself: one that has much to write anyhow gives them for
    little. Not for stores at a URL, whose objects are written one by one.
    """

    def __init__(self) -> None:
        self._files: dict[Path, Path] = {}

    def add(self, beside: Path, path: Path) -> None:
        """Take over a file; from any thread."""
        self._files[path] = beside

    def finish(self) -> None:
        """Let every file take its place, durably; when one cannot, some others may have."""
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
        """Remove what has not taken its place."""
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
    """Write a JSON file atomically, keys in the given order, indented for people."""
    write_bytes(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def take_files(
    paths: Sequence[Path],
    take: Callable[[BinaryIO, Path], Taken],
    check: Callable[[list[Taken]], object],
    *,
    trusted: bool = False,
) -> list[Taken]:
    """Return what ``take`` makes of each file, if ``check`` lets all pass.

    Parameters
    ----------
    trusted
        Check only what has to be fetched from the bucket of a store at a URL, not what is on this disk.
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
    """Return what a file holds, right or wrong; of a store at a URL it does not become part of the cache."""
    remote = remote_of(path)
    return read_own(path, most=TABLE) if remote is None else remote.read_past_cache(path)


def fetch_file(path: Path) -> bool:
    """Whether there is a file; of a store at a URL, it is in the cache afterwards."""
    if remote := remote_of(path):
        remote.update_file(path)
    return path.exists()


def send_file(path: Path) -> None:
    """Let the bucket of a store at a URL have a file that something else wrote; nothing on a disk.

    It takes the place of whatever version is there by now.
    """
    if remote := remote_of(path):
        remote.look_again(path)
        remote.send(path, path)


def remove_file(path: Path) -> None:
    """Remove a file, durably; nothing where there is none."""
    if remote := remote_of(path):
        remote.remove(path)
    if path.exists():
        with disk_errors(path), suppress(FileNotFoundError):  # another process has removed the folder too
            path.unlink(missing_ok=True)
            sync(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, durably; nothing where there is none."""
    if remote := remote_of(folder):
        remote.remove_tree(folder)
    if folder.exists():
        shutil.rmtree(folder)
        sync(folder.parent)


def file_sizes(folder: Path) -> dict[Path, int]:
    """Return all files below a folder and their bytes, in the cache or not."""
    if remote := remote_of(folder):
        return remote.sizes(folder)
    found = {}
    for path in matching(folder, "**/*"):
        with suppress(FileNotFoundError, NotADirectoryError):  # it has taken its place, or was removed, meanwhile
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                found[path] = status.st_size
    return found


def location(path: Path) -> str:
    """Return where a file is, for people: its URL, or its path."""
    remote = remote_of(path)
    return str(path) if remote is None else remote.location(path)


def digest(*parts: Any) -> str:
    """Return the BLAKE2b-128 digest, as 32 hex digits, of the concatenated bytes-like ``parts``."""
    state = blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        state.update(part)
    return state.hexdigest()
