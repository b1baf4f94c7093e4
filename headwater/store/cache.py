"""The local cache of stores at URLs: which version of an object each file holds, and which files are dropped first.

One folder holds the caches of all stores. ``index.sqlite`` in it records the version of each cached file together with
its size, time of change and inode. A file that differs from this record, for example one left by a killed process or
put there by hand, is fetched again.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from headwater.errors import DiskError, InputError

FOLDER, LIMIT = "HEADWATER_CACHE", "HEADWATER_CACHE_LIMIT"
"""Environment variables: the folder of the cache, and its maximum size."""
DEFAULT_LIMIT = "100GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, version TEXT, size INTEGER, mtime_ns INTEGER, inode INTEGER, used REAL, droppable INTEGER
)
"""


def cache_folder() -> str:
    """Return the absolute path of the folder that caches stores at URLs."""
    return os.path.abspath(os.environ.get(FOLDER) or os.path.expanduser("~/.cache/headwater"))  # noqa: PTH100, PTH111


def cache_limit() -> int:
    """Return how many bytes of blocks the cache may hold.

    Raises
    ------
    InputError
        When the environment variable is not a size.
    """
    text = os.environ.get(LIMIT) or DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise InputError(f"{LIMIT}={text!r} is not a size. Write one such as 20GB.")
    return int(float(found[1]) * _UNITS[found[2]])


class CacheIndex:
    """The index of the files in a cache folder, shared by threads and processes.

    Parameters
    ----------
    folder
        The folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, path: Path, version: str, stat: os.stat_result, *, droppable: bool) -> None:
        """Record that the file with this ``stat``, which is or will be at ``path``, holds ``version`` of its object.

        A ``droppable`` file may be dropped when the cache is full.
        """
        row = (self._name(path), version, *_identity(stat), time.time(), droppable)
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def holds(self, path: Path, version: str, stat: os.stat_result) -> bool:
        """Whether the file with this ``stat`` at ``path`` holds ``version``; if so, record that it was used now."""
        with self._database() as database:
            found = database.execute(
                "UPDATE files SET used = ? WHERE path = ? AND version = ? AND size = ? AND mtime_ns = ? AND inode = ?",
                (time.time(), self._name(path), version, *_identity(stat)),
            )
            return found.rowcount == 1

    def forget(self, folder: Path) -> None:
        """Forget the versions of all files below a folder, so that each is fetched again."""
        name = self._name(folder)
        with self._database() as database:
            database.execute(
                "UPDATE files SET version = NULL WHERE path = ? OR substr(path, 1, ?) = ?",
                (name, len(name) + 1, f"{name}/"),
            )

    def drop_oldest(self, limit: int) -> None:
        """Drop the least recently used files until at most ``limit`` bytes are left; always keep the latest one.

        A process that has mapped a dropped file can still read it.
        """
        with self._database() as database:
            total = database.execute("SELECT sum(size) FROM files WHERE droppable").fetchone()[0] or 0
            if total <= limit:
                return
            rows = database.execute("SELECT path, size FROM files WHERE droppable ORDER BY used DESC").fetchall()
            for name, size in reversed(rows[1:]):
                (self.folder / name).unlink(missing_ok=True)
                database.execute("DELETE FROM files WHERE path = ?", (name,))
                total -= size
                if total <= limit:
                    return

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        place = self.folder / "index.sqlite"
        try:
            with closing(sqlite3.connect(place, timeout=60, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = OFF")  # entries lost in a power failure are fetched again
                database.execute(_SCHEMA)
                yield database
        except sqlite3.Error as error:
            raise DiskError(
                f"{place}: cannot be used ({error}). Remove it, or set {FOLDER} to another folder."
            ) from error


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
