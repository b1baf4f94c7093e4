"""A cache of file keys, so that unchanged files need not be read again.

``files.parquet`` in a store holds the size, time of change, inode and content key of each file. If it is missing or
damaged, or with ``--rehash``, files are read again. Paths below the folder that holds the store are relative to it.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from headwater._reading import parse_parquet
from headwater.errors import StoreError
from headwater.store.summed import read_summed, write_summed

NAME = "files.parquet"
SETTLED_NS = 2_000_000_000
"""A file that changed less than this before it was read is not trusted: it may change again within one time stamp."""
_SCHEMA = {
    "path": pl.String,
    "size": pl.Int64,
    "mtime_ns": pl.Int64,
    "inode": pl.UInt64,
    "seen_ns": pl.Int64,
    "key": pl.Binary,
}


class FileIndex:
    """Size, time of change, inode and key of each file when it was last read.

    Parameters
    ----------
    folder
        The store.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._changed = False
        self._table = pl.DataFrame(schema=_SCHEMA)
        self._above = f"{folder.resolve().parent}/"
        with suppress(FileNotFoundError, StoreError, ValueError):  # it is only a cache
            found, _ = parse_parquet(read_summed(self.path))
            if found.schema == pl.Schema(_SCHEMA):
                relative = ~pl.col("path").str.starts_with("/")
                absolute = pl.when(relative).then(self._above + pl.col("path")).otherwise("path")
                self._table = found.with_columns(absolute.alias("path"))

    def __len__(self) -> int:
        return self._table.height

    def keys_of(self, paths: pl.Series) -> pl.Series:
        """Return the keys (binary) of files that are unchanged since they were read; null for the others."""
        if not len(self):
            return pl.Series("key", [None] * len(paths), dtype=pl.Binary)
        now = stats_of(paths.to_list()).with_columns(paths.alias("path"))
        known = self._table.filter(pl.col("mtime_ns") + SETTLED_NS <= pl.col("seen_ns")).drop("seen_ns")
        same = now.join(known, on=["path", "size", "mtime_ns", "inode"], how="left", maintain_order="left")
        return same["key"]

    def remember(self, keys: Mapping[str, bytes], before: Mapping[str, tuple[int, int, int]] | None = None) -> None:
        """Add the keys of files that were read; `save` writes them.

        Parameters
        ----------
        keys
            By path.
        before
            Size, time of change and inode of each file before it was read; looked up now when left out.
        """
        if not keys:
            return
        paths = list(keys)
        looked = stats_of(paths) if before is None else stats_table([before[path] for path in paths])
        new = looked.with_columns(
            pl.Series("path", paths, dtype=pl.String),
            pl.lit(time.time_ns()).cast(pl.Int64).alias("seen_ns"),
            pl.Series("key", [keys[path] for path in paths], dtype=pl.Binary),
        )
        new = new.filter(pl.col("size") >= 0).select(list(_SCHEMA))
        kept = self._table.join(new.select("path"), on="path", how="anti")
        self._table = pl.concat([kept, new])
        self._changed = True

    def save(self) -> None:
        """Write the added files, atomically."""
        if not self._changed:
            return
        data = io.BytesIO()
        self._table.with_columns(pl.col("path").str.strip_prefix(self._above)).write_parquet(data)
        write_summed(self.path, data.getvalue())


def stat_of(path: str) -> tuple[int, int, int]:
    """Return size, time of change and inode of a file; the size is -1 if it is missing."""
    try:
        stat = os.stat(path)  # noqa: PTH116  (making a Path would take longer than the call)
    except (OSError, ValueError):
        return -1, -1, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def stats_of(paths: Sequence[str]) -> pl.DataFrame:
    """Return `stat_of` each file as a table."""
    return stats_table([stat_of(path) for path in paths])


def stats_table(stats: Sequence[tuple[int, int, int]]) -> pl.DataFrame:
    """Return results of `stat_of` as a table with columns ``size``, ``mtime_ns`` and ``inode``."""
    names = {"size": pl.Int64, "mtime_ns": pl.Int64, "inode": pl.UInt64}
    return pl.DataFrame(stats, schema=names, orient="row")
