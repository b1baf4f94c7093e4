"""The files of this disk that hold what lies in buckets: which version each is, and which go first.

One folder holds the caches of all stores, and ``index.sqlite`` in it says of each file what it was fetched as. A file
is what the index says only as long as it is the very file, by size, time of change and inode, that the index was told
of: whatever else lies at its path, left by a killed process or put there by hand, is fetched again.
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
"""Environment variables: where the cache is, and how much it may hold."""
DEFAULT_LIMIT = "100GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, version TEXT, size INTEGER, mtime_ns INTEGER, inode INTEGER, used REAL, droppable INTEGER
)
"""


def cache_folder() -> str:
    """Return the folder below which stores at URLs are cached, absolute."""
    return os.path.abspath(os.environ.get(FOLDER) or os.path.expanduser("~/.cache/headwater"))  # noqa: PTH100, PTH111


def cache_limit() -> int:
    """Return how many bytes of blocks the cache may hold.

    Raises
    ------
    InputError
        When the environment variable is no size.
    """
    text = os.environ.get(LIMIT) or DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise InputError(f"{LIMIT}={text!r} is no size: write one such as 20GB.")
    return int(float(found[1]) * _UNITS[found[2]])


class CacheIndex:
    """What is known of the files below a cache folder, shared by threads and processes.

    Parameters
    ----------
    folder
        The folder; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, path: Path, version: str, stat: os.stat_result, *, droppable: bool) -> None:
        """Let the file of ``stat``, which is or will be at ``path``, hold ``version`` of its object.

        A ``droppable`` one may be dropped once there are too many.
        """
        row = (self._name(path), version, *_identity(stat), time.time(), droppable)
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def holds(self, path: Path, version: str, stat: os.stat_result) -> bool:
        """Whether the file of ``stat``, at ``path``, is known to hold ``version``; if so, it has been used now."""
        with self._database() as database:
            found = database.execute(
                "UPDATE files SET used = ? WHERE path = ? AND version = ? AND size = ? AND mtime_ns = ? AND inode = ?",
                (time.time(), self._name(path), version, *_identity(stat)),
            )
            return found.rowcount == 1

    def forget(self, folder: Path) -> None:
        """Know no longer what the files below a folder hold, so that each is fetched again."""
        name = self._name(folder)
        with self._database() as database:
            database.execute(
                "UPDATE files SET version = NULL WHERE path = ? OR substr(path, 1, ?) = ?",
                (name, len(name) + 1, f"{name}/"),
            )

    def drop_oldest(self, limit: int) -> None:
        """Drop files that were not used for longest until at most ``limit`` bytes are left, but never the last one.

        A file that is mapped stays readable to whoever maps it.
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
                database.execute("PRAGMA synchronous = OFF")  # what is lost with the power is fetched again
                database.execute(_SCHEMA)
                yield database
        except sqlite3.Error as error:
            raise DiskError(
                f"{place}: cannot be used ({error}). Remove it, or name another folder with {FOLDER}."
            ) from error


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
