"""A store at a URL: its files are objects of a bucket, cached in a folder of this disk, where they are mapped.

The bucket is the truth. A file is written to it first, then put into the cache; so the bucket goes through the states
of the commit protocol, one object at a time, and the cache is never ahead of it. On S3 an object
is written only over the version of it that this process knows: one that lost its lock unaware, and comes late, changes
nothing.

Small files are brought up to date whenever a store or a feature set is opened, chunks when they are mapped: a cached
file counts only as the version that the bucket listed last. A version is what the bucket said before the bytes were
read, so that what changed in between is newer than it is taken for, and is fetched again.
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
"""In the cache of a store: which store it is of."""
OWN = ("files.parquet", "files.sum.json")
"""Files of a store that are about this machine, and stay on it."""
AT_ONCE = 8
"""Requests that run side by side."""
WHOLE_BYTES = 64 << 20
"""Larger indexes are sent in parts, over whatever is there; nothing else is: a condition goes with a single request."""
PUT_BYTES = 5 << 30
"""What S3 takes in one request."""
LEFT_OVER_SECONDS = 3600
TRIES = 5
"""How often an object is written that the server refuses, though nobody else has written it."""
PAUSE_SECONDS = 0.2
"""The longest wait before an object is written again that was refused."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_SECRET = re.compile(r"[?&;#](?:[^&;#]*(?:key|secret|token|password|signature|credential|sig)[^&;#=]*)=", re.IGNORECASE)
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}


@dataclass(frozen=True)
class Version:
    """What a bucket says of an object: a word that changes when its bytes do, and how many there are."""

    word: str
    size: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Version:
        """Read what fsspec says of an object: its ETag where it has one, else when it was written."""
        names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
        word = next((str(info[name]) for name in names if info.get(name) is not None), "")
        return cls(f"{word} {info['size']}", int(info["size"]))


def is_url(location: str | Path) -> bool:
    """Whether a store's location is a URL; a `Path` that was made of one still is.

    Examples
    --------
    >>> is_url("s3://bucket/lung.hw"), is_url(Path("s3://bucket/lung.hw")), is_url("data/lung.hw")
    (True, True, False)
    """
    text = str(location)
    return _URL.match(text) is not None and ("://" in text or not Path(text).exists())


def refuse_credentials(url: str) -> None:
    """Refuse a URL that holds a password or a key, which would be kept in files and shown in messages.

    Raises
    ------
    InputError
        The message does not repeat it.
    """
    scheme, _, rest = url.partition(":")
    bucket = rest.lstrip("/").partition("/")[0]
    if "@" in bucket or _SECRET.search(rest):
        raise InputError(
            f"{scheme}://…: credentials cannot be part of a URL, which is kept in files and shown in messages. Set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and leave them out."
        )


def store_folder(location: str | Path) -> Path:
    """Return the folder of a store on this disk: for one at a URL, that of its cache, made when it is not there.

    Raises
    ------
    InputError
        When no store can be at this URL.
    MissingExtra
        When what reaches it is not installed.
    """
    if not is_url(location):
        return Path(location)
    url = str(location)
    refuse_credentials(url)
    fs, root = _file_system(url if "://" in url else url.replace(":/", "://", 1))  # as a `Path` has it
    name = root.rpartition("/")[2]
    endpoint = _endpoint(fs, url)  # two servers may have buckets of one name
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
    """Return the store at a URL that a path is cached for; None for a path of this disk alone."""
    root, text = cache_folder(), str(path)
    if not text.startswith(root + os.sep):
        return None
    try:
        return _remote(f"{root}/{text[len(root) + 1 :].split(os.sep, 1)[0]}", os.getpid())
    except (FileNotFoundError, NotADirectoryError):  # there is nothing of a store's
        return None


@cache
def _remote(folder: str, process: int) -> Remote:  # one for each process: a file system does not outlive a fork
    return Remote(json.loads(Path(folder, PAGE).read_text())["url"], Path(folder))


class Remote:
    """The objects of a store, and their cache.

    Parameters
    ----------
    url
        Where the store is.
    folder
        Its part of the cache; the store's files are below ``store`` in it.
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
        """List what there is below a folder, and bring its small files up to date; of the whole store when left out.

        Raises
        ------
        StoreNotFound
            When there is no such bucket.
        StoreError
            When something else than a store is at the URL.
        RemoteError
            When the bucket cannot be reached, or refuses.
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
        """Bring one file up to date."""
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
        """Return what the bucket has of a file now; None when it has none."""
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
        """Return what ``take`` makes of each file, of which one is open at a time.

        Those that have to be fetched become part of the cache if ``check`` lets all that was made of them pass. Unless
        the cache is ``trusted``, those that it has are checked too, and fetched again when they do not pass.

        Raises
        ------
        FileNotFoundError
            When the bucket lacks one, which the error names.
        """
        if not trusted:
            try:
                return self._take(paths, take, check, always=True)
            except StoreError:
                for path in paths:  # a cached file may have been damaged: the bucket's is taken
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
        """Return the bytes of an object, which stay out of the cache; a FileNotFoundError where there is none."""
        with self._requests():
            data: bytes = self._fs.cat_file(self._key(self._name(path)))
            return data

    def has(self, path: Path) -> bool:
        """Whether the bucket has a file, by its last listing."""
        return self._name(path) in self._listed

    def look_again(self, *paths: Path) -> None:
        """Know of files what the bucket has now, without fetching them."""

        def look(path: Path) -> None:
            try:
                self._listed[self._name(path)] = self._look(self._name(path))
            except FileNotFoundError:
                self._listed.pop(self._name(path), None)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(look, paths))

    def sizes(self, folder: Path) -> dict[Path, int]:
        """Return the files below a folder, by the last listing, and their bytes."""
        prefix = f"{self._name(folder)}/"
        return {self.folder / name: version.size for name, version in self._listed.items() if name.startswith(prefix)}

    def read_anew(self, folder: Path) -> None:
        """Fetch everything below a folder again, from now on: what the bucket holds, whatever the cache does."""
        self._index.forget(folder)
        self.update(None if folder == self.folder else folder)

    # Writing

    def send(self, file: Path, path: Path) -> None:
        """Let the bucket have what is in ``file``, which is about to become ``path``.

        Raises
        ------
        StoreBusy
            When a lock that this process held may be another's by now.
        RemoteError
            When the bucket cannot be reached, or refuses.
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
        """Write what ``changed`` makes of a file, if that is still there as it was given; else ask it again.

        An absent file is an empty one. Where ``changed`` returns None, nothing is written.

        Raises
        ------
        StoreBusy
            When a lock that this process held may be another's by now.
        RemoteError
            When the server refuses, though nobody else writes.
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
            time.sleep(random.uniform(0, PAUSE_SECONDS))  # whoever was quicker may be about to write again
        self._listed[name] = Version(word, len(data))
        beside = _beside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._requests():  # of the disk of the cache
                beside.write_bytes(data)
            self._keep(beside, path, self._listed[name])
        finally:
            beside.unlink(missing_ok=True)

    def _current(self, name: str) -> tuple[Version | None, bytes]:
        """Return the version of an object now, and its bytes, which may be newer; None and none where there is none."""
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
        """Write an object over the version of it that this process knows, where the server knows conditions."""
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
            if found is not None and found[1] == data:  # the answer was lost; or another process made the same
                return Version(found[0], len(data))
            if tag != (None if found is None else found[0]):
                raise StoreBusy(
                    f"{self.url}/{name}: another process has written it meanwhile. Run the same command again."
                )
            time.sleep(random.uniform(0, PAUSE_SECONDS))
        raise self._refused(name)

    def _refused(self, name: str) -> RemoteError:
        return RemoteError(
            f"{self.url}/{name}: the server refuses to write it, though nobody else has. Run the same command again; "
            "if it goes on, look whether the server knows conditional writes (If-Match, If-None-Match)."
        )

    def remove(self, path: Path) -> None:
        """Remove a file; nothing where there is none."""
        self.require_leases()
        self._remove([self._name(path)])

    def remove_tree(self, folder: Path) -> None:
        """Remove everything below a folder."""
        self.require_leases()
        self._remove(list(self._list(f"{self._name(folder)}/")))

    def copy_tree(self, source: Path, target: Path, last: Path) -> None:
        """Copy everything below ``source`` to ``target``, the file ``last`` of it last; nothing is fetched."""
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
        """Hold the lock ``path``; what is written meanwhile is written only as long as it is held.

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
        """Write only as long as another process, of which ``word`` came, holds the lock ``path``."""
        lock = Borrowed(self, self._name(path), word)
        self._leases.append(lock)
        try:
            yield
        finally:
            self._leases.remove(lock)

    def word_of(self, path: Path) -> str:
        """Return the word for `borrowed` of a lock that this process holds."""
        return next(lease.word for lease in self._leases if isinstance(lease, Lease) and lease.name == self._name(path))

    def taken(self, folder: Path) -> list[Path]:
        """Return the locks of a folder that somebody holds, or held when it died."""
        found = self._list(f"{self._name(folder)}/")
        return [self.folder / name for name, v in found.items() if name.endswith(".lock") and v.size > len(FREE)]

    def require_free(self, path: Path) -> None:
        """Make sure that nobody holds the lock ``path``; see `headwater.store.lease.require_free`."""
        require_free(self, self._name(path))

    @property
    def has_conditions(self) -> bool:
        """Whether `write_if` is a single request; else there is a look before the write."""
        return hasattr(self._fs, "s3")

    def read_tagged(self, name: str) -> tuple[str, bytes] | None:
        """Return a tag of an object, and its bytes, which may be newer than the tag; None when there is none."""
        with self._requests():
            try:
                return Version.of(self._fs.info(self._key(name))).word, self._fs.cat_file(self._key(name))
            except FileNotFoundError:
                return None

    def write_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if it still has a tag, or if there is none; return its new tag, None when it was not written.

        One request where the file system knows conditions, as S3 does; elsewhere a look before the write. A tag is the
        word of a `Version`.
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
        """Raise a StoreBusy where a lock that this process took, or borrowed, is lost."""
        if lost := [lease.name for lease in self._leases if not lease.held]:
            raise StoreBusy(
                f"{self.url}: the lock {lost[0]} was lost: the bucket could not be reached for too long, or the "
                "process that held it has ended. What is finished is kept: run the same command again."
            )

    # Requests

    def _list(self, prefix: str) -> dict[str, Version]:
        """Return the objects whose names begin with a prefix, a folder's, by their names in the store."""
        with self._requests():
            try:
                found = self._fs.find(f"{self._root}/{prefix}".rstrip("/"), detail=True)
            except FileNotFoundError as error:
                raise StoreNotFound(f"{self.url}: no such bucket. Make it, or look at its name.") from error
        start = len(self._root) + 1
        return {key[start:]: Version.of(info) for key, info in found.items() if info["type"] == "file" and key[start:]}

    def _look(self, name: str) -> Version:
        """Return the version of an object now; a FileNotFoundError where there is none."""
        with self._requests():
            return Version.of(self._fs.info(self._key(name)))

    def _require_store(self, found: Collection[str]) -> None:
        """Refuse a prefix that holds other things, and a single object."""
        if "store.json" in found:
            return
        if any(not name.startswith(".") for name in found):
            raise StoreError(f"{self.url} holds other things, not a store. Give a URL at which nothing is yet.")
        with self._requests():
            is_file = not found and "/" in self._root and self._fs.isfile(self._root)
        if is_file:
            raise StoreError(f"{self.url} is a single object, not a store. Give a URL at which nothing is yet.")

    def _fetch_all(self, names: Collection[str]) -> None:
        """Fetch small files, side by side; one that is gone meanwhile is left out."""

        def fetch(name: str) -> None:
            try:
                self.take([self.folder / name], lambda file, path: None)
            except FileNotFoundError:
                self._listed.pop(name, None)

        if names:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(fetch, names))

    def _cached(self, path: Path, version: Version) -> BinaryIO | None:
        """Open a file of the cache, if it holds a version of its object."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        if self._index.holds(path, version.word, os.fstat(file.fileno())):
            return file
        file.close()
        return None

    def _fetch(self, name: str) -> BinaryIO:
        """Fetch an object into a file beside the one that it may become, and open it."""
        beside = _beside(self.folder / name)
        try:
            while True:
                beside.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with self._requests():
                        self._fs.get_file(self._key(name), str(beside))
                    return beside.open("rb")
                except FileNotFoundError:
                    if beside.parent.exists():  # else another process has dropped the empty folder of the cache
                        raise
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _keep(self, beside: Path, path: Path, version: Version) -> None:
        """Let a file become, durably, that of the cache which holds a version of its object."""
        with self._requests(), beside.open("rb") as file:  # of the disk of the cache
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
        """Drop cached files that the bucket does not have, except those put there since it was asked."""
        for path in [path for path in matching(folder, "**/*") if path.is_file()]:
            if path.name.endswith((".lock", ".tmp")) or path.name in OWN:
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process has put it in its place, or dropped it
                continue
            gone = self._name(path) not in found and stat.st_ctime_ns < began
            if path.suffix == ".part" or self._name(path).startswith("index/"):  # perhaps on its way
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
        """Return the name of a file in the store, such as ``journal/f/image.jsonl``; of the store itself, ``""``."""
        return "" if path == self.folder else path.relative_to(self.folder).as_posix()

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _requests(self) -> Iterator[None]:
        """Turn what a bucket refuses into a `RemoteError` that says what to do; what is not there stays as it is."""
        try:
            yield
        except (FileNotFoundError, RemoteError):
            raise
        except _refusals() as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskError(
                    f"{self.folder}: the disk of the cache is full. Free some space, or name another folder with "
                    f"{FOLDER} or a limit with {LIMIT}; then run the same command again."
                ) from error
            raise RemoteError(f"{self.url}: {_advice(error)}") from error


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, which remembers no listing, and the place on it.

    Raises
    ------
    InputError, MissingExtra
        When there is none for such URLs, or it is not installed.
    """
    core = need("fsspec.core", "s3")
    if magic := next((letter for letter in "*?[" if letter in url), None):
        raise InputError(f"{url}: {magic!r} cannot be in the URL of a store.")
    more = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
    try:
        fs, root = core.url_to_fs(url, use_listings_cache=False, **more)
    except ValueError as error:
        raise InputError(f"{url}: no store can be there ({error}). Give a folder, or a URL such as s3://…") from error
    except ImportError as error:
        extra = "Run: pip install 'headwater[s3]'" if url.startswith("s3") else "Install what fsspec needs for it."
        raise MissingExtra(f"{url}: {error}. {extra}") from error
    root = root.rstrip("/")
    if not root:
        raise InputError(f"{url}: name a bucket and a place in it, such as s3://bucket/lung.hw.")
    return fs, root


def _endpoint(fs: Any, url: str) -> str:
    """Return the server that a file system speaks to, where it can be another; for S3 that is settled by connecting.

    Raises
    ------
    RemoteError
        When the settings of the environment cannot be used.
    """
    refusals: tuple[type[Exception], ...] = (ValueError, *_refusals())
    try:
        return str(fs.s3.meta.endpoint_url) if hasattr(fs, "s3") else ""
    except refusals as error:
        raise RemoteError(f"{url}: {_advice(error)}") from error


def _refusals() -> tuple[type[Exception], ...]:
    """Return what requests raise: besides OSError, what botocore does where it is loaded."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError, botocore.ClientError)


def _advice(error: Exception) -> str:
    """Say in a line what is in the way of a request and what to do."""
    words = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, PermissionError):
        return f"access denied ({words}). Check the credentials and the policy of the bucket."
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket, "
            "FSSPEC_S3_ANON=true."
        )
    if isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionError)):
        return f"refused ({words})."
    return f"cannot be reached ({words}). Check the network, AWS_PROFILE, the region and AWS_ENDPOINT_URL."


def _read(file: BinaryIO, path: Path) -> bytes:
    return file.read()


def _code(error: OSError) -> str:
    """Return the server's word for an error, as botocore has it."""
    response: Mapping[str, Any] = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _beside(path: Path) -> Path:
    """Return where this thread writes what may become a file of the cache."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")


def _is_chunk(name: str) -> bool:
    """Whether a file is a chunk of an array."""
    return name.startswith("features.zarr/") and name.rpartition("/")[2].startswith("c.")


def _is_large(name: str) -> bool:
    """Whether a file is fetched only when it is asked for: chunks, and indexes; locks are never."""
    return _is_chunk(name) or name.endswith((".faiss", ".lock"))


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder that is empty, and those above it that then are, below ``top``."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
