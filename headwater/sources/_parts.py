"""One file of a source of vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import VectorsError, nearest
from headwater.sources._arrays import Held, reading
from headwater.sources._bounds import files_in

BLOCK = 4096  # rows that are checked together
SHOWN = 5  # most rows and names that a message lists
NAMES = ("features", "feats", "embeddings", "embedding", "vectors", "vector", "X")


@dataclass(frozen=True, eq=False)
class Part:
    """The vectors of one file.

    Attributes
    ----------
    path
        The file, or a table that is a folder.
    array
        Name of the array or column.
    n_rows, dim, dtype
        Number, length and type of the vectors.
    ndim
        2 for an array of shape ``(n, d)``, 3 for ``(1, n, d)``, 1 for a single vector ``(d,)``.
    open
        Returns the array.
    columns
        The file's other data on the vectors, one row per vector; without columns if there are none.
    """

    path: Path
    array: str
    n_rows: int
    dim: int
    dtype: np.dtype[Any]
    ndim: int
    open: Callable[[], Held]
    columns: pl.DataFrame

    def rows(self, opened: Held, start: int, stop: int) -> NDArray[Any]:
        """Return rows, of shape ``(stop - start, dim)``."""

        def read() -> NDArray[Any]:
            if self.ndim == 1:
                values = np.asarray(opened[:])[None]
            else:
                values = np.asarray(opened[0:1, start:stop][0] if self.ndim == 3 else opened[start:stop])
            if values.shape != (stop - start, self.dim):
                raise ValueError(f"rows have shape {values.shape}, but {(stop - start, self.dim)} was declared")
            return values

        return reading(self.path, read)

    def files(self) -> list[Path]:
        """Return the files that hold the vectors."""
        return files_in(self.path) if self.path.is_dir() else [self.path]


def chosen(candidates: Mapping[str, bool], asked: str | None, path: Path) -> str:
    """Return the array or column that holds the vectors: the named one, the only one, or one with a usual name.

    Parameters
    ----------
    candidates
        All names, and whether each could hold vectors.
    """
    there = listed(list(candidates), most=20) or "nothing"
    if asked is not None:
        if asked not in candidates:
            raise VectorsError(f"{path}: there is no {asked!r}.{nearest(asked, candidates)} There are: {there}.")
        return asked
    fit = [name for name, could in candidates.items() if could]
    for name in fit if len(fit) == 1 else NAMES:
        if name in fit:
            return name
    what = f"several could hold the vectors ({listed(fit)})" if fit else f"none holds vectors; there are: {there}"
    raise VectorsError(f"{path}: {what}. Pass --vectors NAME.")


def listed(words: Sequence[str], *, most: int = SHOWN) -> str:
    """List words in quotes, at most the first ``most``."""
    return ", ".join(map(repr, words[:most])) + (f" and {len(words) - most:,} more" if len(words) > most else "")
