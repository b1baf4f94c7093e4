"""A store at a URL: its files are objects in a bucket, cached in a folder on this disk, where they are mapped.

The bucket is authoritative. A file is written to the bucket first, then to the cache, one object at a time, so the
cache is never newer than the bucket. On S3, an object is replaced only if it is still the version that this process
knows. Late writes from a process that has lost its lock are therefore rejected.

Small files are updated whenever a store or a feature set is opened, chunks when they are mapped. A cached file is used
only if it has the version that the bucket listed last. The version is read before the bytes: if the object changes in
between, it is fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from headwater._extras import need
from headwater._reading import matching
from headwater.errors import DiskError, InputError, MissingExtra, RemoteError, StoreBusy, StoreError, StoreNotFound
from headwater.store.cache import FOLDER, LIMIT, CacheIndex, cache_folder, cache_limit
from headwater.store.lease import FREE, Borrowed, Lease, leased, require_free

Taken = TypeVar("Taken")
PAGE = "url.json"
"""File in the cache of a store that gives the store's URL."""
OWN = ("files.parquet", "files.sum.json")
"""Files of a store that concern only this machine and are not uploaded."""
AT_ONCE = 8
"""Requests that run in parallel."""
WHOLE_BYTES = 64 << 20
"""Larger indexes are uploaded in parts, without a condition. All other files take one request, which may have one."""
PUT_BYTES = 5 << 30
"""Most bytes that S3 accepts in one request."""
LEFT_OVER_SECONDS = 3600
TRIES = 5
"""Tries to write an object that the server rejects although no other process has written it."""
PAUSE_SECONDS = 0.2
"""The longest wait before a rejected write is repeated."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_SECRET = re.compile(r"[?&;#](?:[^&;#]*(?:key|secret|token|password|signature|credential|sig)[^&;#=]*)=", re.IGNORECASE)
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}


@dataclass(frozen=True)
class Version:
    """The version of an object: a word that changes when its bytes change, and their number."""

    word: str
    size: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Version:
        """Make a version from fsspec's information on an object: from its ETag, else from its time of writing."""
        names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
        word = next((str(info[name]) for name in names if info.get(name) is not None), "")
        return cls(f"{word} {info['size']}", int(info["size"]))


def is_url(location: str | Path) -> bool:
    """Whether a store's location is a URL; a `Path` made from a URL counts as one.

    Examples
    --------
    >>> is_url("s3://bucket/lung.hw"), is_url(Path("s3://bucket/lung.hw")), is_url("data/lung.hw")
    (True, True, False)
    """
    text = str(location)
    return _URL.match(text) is not None and ("://" in text or not Path(text).exists())


def refuse_credentials(url: str) -> None:
    """Raise if a URL holds a password or a key, since URLs are stored in files and shown in messages.

    Raises
    ------
    InputError
        The message does not repeat the credentials.
    """
    scheme, _, rest = url.partition(":")
    bucket = rest.lstrip("/").partition("/")[0]
    if "@" in bucket or _SECRET.search(rest):
        raise InputError(
            f"{scheme}://…: a URL must not hold credentials, since URLs are stored in files and shown in messages. "
            "Leave them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )


def store_folder(location: str | Path) -> Path:
    """Return the folder of a store on this disk; for a store at a URL, the folder of its cache, created if missing.

    Raises
    ------
    InputError
        When a store cannot be at this URL.
    MissingExtra
        When the package that accesses such URLs is not installed.
    """
    if not is_url(location):
        return Path(location)
    url = str(location)
    refuse_credentials(url)
    fs, root = _file_system(url if "://" in url else url.replace(":/", "://", 1))  # `Path` drops a slash
    name = root.rpartition("/")[2]
    endpoint = _endpoint(fs, url)  # two servers may have buckets of the same name
    url = fs.unstrip_protocol(root)
    word = hashlib.blake2b(f"{endpoint} {url}".encode(), digest_size=8).hexdigest()
    folder = Path(cache_folder(), f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{word}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PAGE).exists():
        beside = folder / f".{PAGE}.{os.getpid()}.{threading.get_ident()}"
        beside.write_text(json.dumps({"url": url, "endpoint": endpoint}) + "\n")
        beside.replace(folder / PAGE)
    return folder / "store"


def remote_of(path: Path) -> Remote | None:
    """Return the store at a URL whose cache holds a path; None for any other path."""
    root, text = cache_folder(), str(path)
    if not text.startswith(root + os.sep):
        return None
    try:
        return _remote(f"{root}/{text[len(root) + 1 :].split(os.sep, 1)[0]}", os.getpid())
    except (FileNotFoundError, NotADirectoryError):  # no cached store is there
        return None


@cache
def _remote(folder: str, process: int) -> Remote:  # one per process: a file system does not survive a fork
    return Remote(json.loads(Path(folder, PAGE).read_text())["url"], Path(folder))


class Remote:
    """The objects of a store, and their cache.

    Parameters
    ----------
    url
        URL of the store.
    folder
        Folder of the store in the cache; the store's files are in its subfolder ``store``.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder / "store"
        self._fs, self._root = _file_system(url)
        self._index = CacheIndex(folder.parent)
        self._listed: dict[str, Version] = {}
        self._leases: list[Lease | Borrowed] = []

    def location(self, path: Path) -> str:
        """Return the URL of a file."""
        name = self._name(path)
        return f"{self.url}/{name}" if name else self.url

    # Reading

    def update(self, folder: Path | None = None) -> None:
        """List the objects below a folder, by default of the whole store, and update the small cached files.

        Raises
        ------
        StoreNotFound
            When there is no such bucket.
        StoreError
            When something other than a store is at the URL.
        RemoteError
            When the bucket cannot be reached, or rejects a request.
        """
        began = time.time_ns()
        prefix = "" if folder is None else f"{self._name(folder)}/"
        found = self._list(prefix)
        if not prefix:
            self._require_store(found)
        kept = {name: version for name, version in self._listed.items() if not name.startswith(prefix)}
        self._listed = kept | found
        stale = [name for name in found if not _is_large(name) and not self._is_current(name)]
        self._fetch_all(stale)
        self._drop_others(self.folder / prefix, found, began)

    def update_file(self, path: Path) -> None:
        """Update one cached file."""
        name = self._name(path)
        try:
            self._listed[name] = self._look(name)
        except FileNotFoundError:
            self._listed.pop(name, None)
            path.unlink(missing_ok=True)
            return
        if not self._is_current(name):
            self._fetch_all([name])

    def read(self, path: Path) -> bytes | None:
        """Return the bytes of a file that the bucket holds now; None if there is none."""
        try:
            self._listed[self._name(path)] = self._look(self._name(path))
            (data,) = self.take([path], _read)
        except FileNotFoundError:
            self._listed.pop(self._name(path), None)
            return None
        return data

    def take(
        self,
        paths: Sequence[Path],
        take: Callable[[BinaryIO, Path], Taken],
        check: Callable[[list[Taken]], object] = lambda found: None,
        *,
        trusted: bool = True,
    ) -> list[Taken]:
        """Apply ``take`` to each file, one after the other, and return the results.

        Fetched files are added to the cache if ``check``, called with all results, does not raise. Unless the cache is
        ``trusted``, cached files are checked too, and fetched again if the check fails.

        Raises
        ------
        FileNotFoundError
            When the bucket lacks a file; the error names it.
        """
        if not trusted:
            try:
                return self._take(paths, take, check, always=True)
            except StoreError:
                for path in paths:  # a cached file may be damaged: fetch it again
                    self._index.forget(path)
        return self._take(paths, take, check, always=False)

    def _take(
        self,
        paths: Sequence[Path],
        take: Callable[[BinaryIO, Path], Taken],
        check: Callable[[list[Taken]], object],
        *,
        always: bool,
    ) -> list[Taken]:
        found: list[Taken] = []
        fetched: list[tuple[Path, Path, Version]] = []
        try:
            for path in paths:
                try:
                    version = self._listed.get(self._name(path)) or self._look(self._name(path))
                    file = self._cached(path, version)
                    if file is None:
                        file = self._fetch(self._name(path))
                        fetched.append((Path(file.name), path, version))
                except FileNotFoundError as error:
                    raise FileNotFoundError(errno.ENOENT, "the bucket has no such object", str(path)) from error
                with file:
                    found.append(take(file, path))
            if fetched or always:
                check(found)
            for beside, path, version in fetched:
                self._keep(beside, path, version)
        finally:
            for beside, *_ in fetched:
                beside.unlink(missing_ok=True)
        if any(_is_chunk(self._name(path)) for _, path, _ in fetched):
            self._index.drop_oldest(cache_limit())
        return found

    def read_past_cache(self, path: Path) -> bytes:
        """Return the bytes of an object without caching them; raise FileNotFoundError if there is none."""
        with self._requests():
            data: bytes = self._fs.cat_file(self._key(self._name(path)))
            return data

    def has(self, path: Path) -> bool:
        """Whether the last listing of the bucket has a file."""
        return self._name(path) in self._listed

    def look_again(self, *paths: Path) -> None:
        """Look up the current versions of files in the bucket, without fetching them."""

        def look(path: Path) -> None:
            try:
                self._listed[self._name(path)] = self._look(self._name(path))
            except FileNotFoundError:
                self._listed.pop(self._name(path), None)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(look, paths))

    def sizes(self, folder: Path) -> dict[Path, int]:
        """Return the size in bytes of every file below a folder, from the last listing."""
        prefix = f"{self._name(folder)}/"
        return {self.folder / name: version.size for name, version in self._listed.items() if name.startswith(prefix)}

    def read_anew(self, folder: Path) -> None:
        """Discard the cache of everything below a folder, so that it is fetched from the bucket again."""
        self._index.forget(folder)
        self.update(None if folder == self.folder else folder)

    # Writing

    def send(self, file: Path, path: Path) -> None:
        """Upload ``file``, which is about to be renamed to ``path``.

        Raises
        ------
        StoreBusy
            When this process may have lost one of its locks.
        RemoteError
            When the bucket cannot be reached, or rejects a request.
        """
        name = self._name(path)
        if path.name in OWN:
            return
        self.require_leases()
        stat = file.stat()
        if stat.st_size > WHOLE_BYTES and name.startswith("index/"):
            with self._requests():
                self._fs.put_file(str(file), self._key(name))
                version = Version.of(self._fs.info(self._key(name)))
        else:
            version = self._write_over(name, file.read_bytes())
        self._listed[name] = version
        self._index.record(path, version.word, stat, droppable=_is_chunk(name))
        if _is_chunk(name):
            self._index.drop_oldest(cache_limit())

    def change(self, path: Path, changed: Callable[[bytes], bytes | None]) -> None:
        """Replace a file by the result of ``changed``, called with its bytes; repeat if the file changed meanwhile.

        A missing file counts as empty. If ``changed`` returns None, nothing is written.

        Raises
        ------
        StoreBusy
            When this process may have lost one of its locks.
        RemoteError
            When the server rejects the write although no other process writes.
        """
        name = self._name(path)
        last, n_refused = None, 0
        while True:
            self.require_leases()
            version, before = self._current(name)
            data = changed(before)
            if data is None:
                return
            word = self.write_if(name, data, None if version is None else version.word)
            if word is not None:
                break
            last, n_refused = version, n_refused + 1 if version == last else 1
            if n_refused == TRIES:
                raise self._refused(name)
            time.sleep(random.uniform(0, PAUSE_SECONDS))  # the other process may be about to write again
        self._listed[name] = Version(word, len(data))
        beside = _beside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._requests():  # also handles errors of the cache's disk
                beside.write_bytes(data)
            self._keep(beside, path, self._listed[name])
        finally:
            beside.unlink(missing_ok=True)

    def _current(self, name: str) -> tuple[Version | None, bytes]:
        """Return the version of an object and its bytes, which may be newer; None and no bytes if it is missing."""
        try:
            version = self._look(name)
            file = self._cached(self.folder / name, version)
            if file is None:
                return version, self.read_past_cache(self.folder / name)
        except FileNotFoundError:
            return None, b""
        with file:
            return version, file.read()

    def _write_over(self, name: str, data: bytes) -> Version:
        """Replace an object if it is still the version that this process knows; without conditional writes, always."""
        if not self.has_conditions:
            with self._requests():
                self._fs.pipe_file(self._key(name), data)
                return Version.of(self._fs.info(self._key(name)))
        known = self._listed.get(name)
        tag = None if known is None else known.word
        for _ in range(TRIES):
            word = self.write_if(name, data, tag)
            if word is not None:
                return Version(word, len(data))
            found = self.read_tagged(name)
            if found is not None and found[1] == data:  # the response was lost, or another process wrote the same
                return Version(found[0], len(data))
            if tag != (None if found is None else found[0]):
                raise StoreBusy(
                    f"{self.url}/{name}: another process has written it meanwhile. Run the same command again."
                )
            time.sleep(random.uniform(0, PAUSE_SECONDS))
        raise self._refused(name)

    def _refused(self, name: str) -> RemoteError:
        return RemoteError(
            f"{self.url}/{name}: the server rejects the write, although no other process has changed it. Run the same "
            "command again. If that fails, check that the server supports conditional writes (If-Match, If-None-Match)."
        )

    def remove(self, path: Path) -> None:
        """Remove a file; do nothing if it is missing."""
        self.require_leases()
        self._remove([self._name(path)])

    def remove_tree(self, folder: Path) -> None:
        """Remove everything below a folder."""
        self.require_leases()
        self._remove(list(self._list(f"{self._name(folder)}/")))

    def copy_tree(self, source: Path, target: Path, last: Path) -> None:
        """Copy everything below ``source`` to ``target`` inside the bucket, the file ``last`` at the end."""
        self.require_leases()
        prefix = f"{self._name(source)}/"
        names, end = list(self._list(prefix)), self._name(last)

        def copy(name: str) -> None:
            place = f"{self._name(target)}/{name[len(prefix) :]}"
            with self._requests():
                self._fs.cp_file(self._key(name), self._key(place))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(copy, [name for name in names if name != end]))
        copy(end)

    # Locks

    @contextmanager
    def lease(self, path: Path, *, wait: bool) -> Iterator[None]:
        """Hold the lock ``path``; writes in the body fail once the lock is lost.

        Raises
        ------
        Held
            When another process holds it and ``wait`` is not set.
        """
        with leased(self, self._name(path), wait=wait) as lease:
            self._leases.append(lease)
            try:
                yield
            finally:
                self._leases.remove(lease)

    @contextmanager
    def borrowed(self, path: Path, word: str) -> Iterator[None]:
        """Write only while another process, which gave ``word``, holds the lock ``path``."""
        lock = Borrowed(self, self._name(path), word)
        self._leases.append(lock)
        try:
            yield
        finally:
            self._leases.remove(lock)

    def word_of(self, path: Path) -> str:
        """Return the word of a lock that this process holds, for `borrowed`."""
        return next(lease.word for lease in self._leases if isinstance(lease, Lease) and lease.name == self._name(path))

    def taken(self, folder: Path) -> list[Path]:
        """Return the locks of a folder that a process holds, or held when it died."""
        found = self._list(f"{self._name(folder)}/")
        return [self.folder / name for name, v in found.items() if name.endswith(".lock") and v.size > len(FREE)]

    def require_free(self, path: Path) -> None:
        """Make sure that no process holds the lock ``path``; see `headwater.store.lease.require_free`."""
        require_free(self, self._name(path))

    @property
    def has_conditions(self) -> bool:
        """Whether `write_if` is one conditional request; otherwise it reads the version first, then writes."""
        return hasattr(self._fs, "s3")

    def read_tagged(self, name: str) -> tuple[str, bytes] | None:
        """Return the tag of an object and its bytes, which may be newer than the tag; None if it is missing."""
        with self._requests():
            try:
                return Version.of(self._fs.info(self._key(name))).word, self._fs.cat_file(self._key(name))
            except FileNotFoundError:
                return None

    def write_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if it still has ``tag`` (None: if it is missing); return its new tag, or None if rejected.

        This is one request where the file system supports conditional writes, as S3 does; elsewhere the tag is read
        first. A tag is the word of a `Version`.
        """
        key = self._key(name)
        whole = {"chunksize": PUT_BYTES} if self.has_conditions else {}
        with self._requests():
            try:
                if tag is None:
                    told = self._fs.pipe_file(key, data, mode="create", **whole)
                elif self.has_conditions:
                    told = self._fs.pipe_file(key, data, IfMatch=tag.rpartition(" ")[0], **whole)
                elif Version.of(self._fs.info(key)).word == tag:
                    told = self._fs.pipe_file(key, data)
                else:
                    return None
            except (FileExistsError, FileNotFoundError):
                return None
            except OSError as error:
                if _code(error) in _REFUSED:
                    return None
                raise
            is_told = isinstance(told, dict) and "ETag" in told
            return Version.of({**told, "size": len(data)} if is_told else self._fs.info(key)).word

    def require_leases(self) -> None:
        """Raise a StoreBusy if a lock that this process holds or borrows is lost."""
        if lost := [lease.name for lease in self._leases if not lease.held]:
            raise StoreBusy(
                f"{self.url}: the lock {lost[0]} was lost: the bucket could not be reached for too long, or the "
                "process that held the lock has ended. Finished blocks are kept. Run the same command again."
            )

    # Requests

    def _list(self, prefix: str) -> dict[str, Version]:
        """Return the objects in a folder, given as a prefix, by their names in the store."""
        with self._requests():
            try:
                found = self._fs.find(f"{self._root}/{prefix}".rstrip("/"), detail=True)
            except FileNotFoundError as error:
                raise StoreNotFound(f"{self.url}: no such bucket. Create it, or check its name.") from error
        start = len(self._root) + 1
        return {key[start:]: Version.of(info) for key, info in found.items() if info["type"] == "file" and key[start:]}

    def _look(self, name: str) -> Version:
        """Return the current version of an object; raise FileNotFoundError if it is missing."""
        with self._requests():
            return Version.of(self._fs.info(self._key(name)))

    def _require_store(self, found: Collection[str]) -> None:
        """Raise if the URL holds objects that are not a store, or is a single object."""
        if "store.json" in found:
            return
        if any(not name.startswith(".") for name in found):
            raise StoreError(f"{self.url} holds other objects, not a store. Give a URL where nothing is stored yet.")
        with self._requests():
            is_file = not found and "/" in self._root and self._fs.isfile(self._root)
        if is_file:
            raise StoreError(f"{self.url} is a single object, not a store. Give a URL where nothing is stored yet.")

    def _fetch_all(self, names: Collection[str]) -> None:
        """Fetch small files in parallel; skip files that have been removed meanwhile."""

        def fetch(name: str) -> None:
            try:
                self.take([self.folder / name], lambda file, path: None)
            except FileNotFoundError:
                self._listed.pop(name, None)

        if names:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(fetch, names))

    def _cached(self, path: Path, version: Version) -> BinaryIO | None:
        """Open a cached file if it holds this version of its object; else return None."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        if self._index.holds(path, version.word, os.fstat(file.fileno())):
            return file
        file.close()
        return None

    def _fetch(self, name: str) -> BinaryIO:
        """Fetch an object into a temporary file beside its place in the cache, and open that."""
        beside = _beside(self.folder / name)
        try:
            while True:
                beside.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with self._requests():
                        self._fs.get_file(self._key(name), str(beside))
                    return beside.open("rb")
                except FileNotFoundError:
                    if beside.parent.exists():  # else another process has removed the empty folder
                        raise
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _keep(self, beside: Path, path: Path, version: Version) -> None:
        """Durably rename a temporary file to its place in the cache, and record its version."""
        with self._requests(), beside.open("rb") as file:  # also handles errors of the cache's disk
            os.fsync(file.fileno())
        self._index.record(path, version.word, beside.stat(), droppable=_is_chunk(self._name(path)))
        beside.replace(path)

    def _is_current(self, name: str) -> bool:
        path = self.folder / name
        try:
            return self._index.holds(path, self._listed[name].word, path.stat())
        except FileNotFoundError:
            return False

    def _drop_others(self, folder: Path, found: Collection[str], began: int) -> None:
        """Remove cached files that the bucket does not have, except those written since the listing ``began``."""
        for path in [path for path in matching(folder, "**/*") if path.is_file()]:
            if path.name.endswith((".lock", ".tmp")) or path.name in OWN:
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process has renamed or removed it
                continue
            gone = self._name(path) not in found and stat.st_ctime_ns < began
            if path.suffix == ".part" or self._name(path).startswith("index/"):  # may be in transfer
                gone = gone and time.time() - stat.st_mtime > LEFT_OVER_SECONDS
            if gone:
                path.unlink(missing_ok=True)
                _remove_empty(path.parent, self.folder)

    def _remove(self, names: Collection[str]) -> None:
        with self._requests():
            for name in names:
                try:
                    self._fs.rm_file(self._key(name))
                except FileNotFoundError:
                    continue
        for name in names:
            self._listed.pop(name, None)

    def _name(self, path: Path) -> str:
        """Return the name of a file in the store, such as ``journal/f/image.jsonl``; ``""`` for the store itself."""
        return "" if path == self.folder else path.relative_to(self.folder).as_posix()

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _requests(self) -> Iterator[None]:
        """Turn the errors of a bucket into a `RemoteError` that says what to do; FileNotFoundError passes through."""
        try:
            yield
        except (FileNotFoundError, RemoteError):
            raise
        except _refusals() as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskError(
                    f"{self.folder}: the disk of the cache is full. Free some space, set {FOLDER} to another folder, "
                    f"or set {LIMIT} to a smaller size; then run the same command again."
                ) from error
            raise RemoteError(f"{self.url}: {_advice(error)}") from error


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, without a cache of listings, and the path in it.

    Raises
    ------
    InputError, MissingExtra
        When no file system supports the URL, or the one that does is not installed.
    """
    core = need("fsspec.core", "s3")
    if magic := next((letter for letter in "*?[" if letter in url), None):
        raise InputError(f"{url}: the URL of a store must not contain {magic!r}.")
    more = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
    try:
        fs, root = core.url_to_fs(url, use_listings_cache=False, **more)
    except ValueError as error:
        raise InputError(f"{url}: cannot hold a store ({error}). Give a folder, or a URL such as s3://…") from error
    except ImportError as error:
        extra = "Run: pip install 'headwater[s3]'" if url.startswith("s3") else "Install fsspec's package for it."
        raise MissingExtra(f"{url}: {error}. {extra}") from error
    root = root.rstrip("/")
    if not root:
        raise InputError(f"{url}: give a bucket and a path in it, such as s3://bucket/lung.hw.")
    return fs, root


def _endpoint(fs: Any, url: str) -> str:
    """Return the URL of the S3 server that a file system connects to; empty for other file systems.

    Raises
    ------
    RemoteError
        When the settings in the environment cannot be used.
    """
    refusals: tuple[type[Exception], ...] = (ValueError, *_refusals())
    try:
        return str(fs.s3.meta.endpoint_url) if hasattr(fs, "s3") else ""
    except refusals as error:
        raise RemoteError(f"{url}: {_advice(error)}") from error


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that requests raise: OSError and, if botocore is loaded, its exceptions."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError, botocore.ClientError)


def _advice(error: Exception) -> str:
    """Say in one line why a request failed and what to do."""
    words = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, PermissionError):
        return f"access denied ({words}). Check your credentials and the bucket's policy."
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket, set "
            "FSSPEC_S3_ANON=true."
        )
    if isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionError)):
        return f"the server rejected the request ({words})."
    return f"cannot be reached ({words}). Check the network, AWS_PROFILE, the region and AWS_ENDPOINT_URL."


def _read(file: BinaryIO, path: Path) -> bytes:
    return file.read()


def _code(error: OSError) -> str:
    """Return the server's error code from botocore's response."""
    response: Mapping[str, Any] = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _beside(path: Path) -> Path:
    """Return the temporary path where this thread writes a file for the cache."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")


def _is_chunk(name: str) -> bool:
    """Whether a file is a chunk of an array."""
    return name.startswith("features.zarr/") and name.rpartition("/")[2].startswith("c.")


def _is_large(name: str) -> bool:
    """Whether a file is not fetched with the small files: chunks and indexes are fetched on use, locks never."""
    return _is_chunk(name) or name.endswith((".faiss", ".marks", ".lock"))


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove an empty folder, and its parents below ``top`` that are then empty."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
