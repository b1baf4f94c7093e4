"""Bring an index up to date with features that grew, shrank or were moved, instead of building it anew.

Each row has a mark: a digest of its item's key and its numbers. A row whose mark is known is in the index already,
whatever its number is now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from headwater.retrieve.cosine import Features, Rows, blocks, unit
from headwater.retrieve.index import VectorIndex, lists_for
from headwater.retrieve.library import load_faiss
from headwater.retrieve.searcher import row_lengths

Marks = NDArray[np.uint64]
MOST_GROWTH = 1.5
"""An index with lists is built anew when a new one would have more than this times as many."""
MOST_DEAD = 0.2
"""A graph is built anew when a larger share of its vectors would be of removed rows."""
_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Updated:
    """An index that was brought up to date, and the numbers of rows that were added and removed."""

    index: VectorIndex
    n_added: int
    n_removed: int


def row_marks(X: Features | NDArray[Any], keys: NDArray[np.uint8]) -> Marks:
    """Return the mark of each row, uint64, of shape ``(n_rows,)``; 0 for a row that cannot be indexed.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
    keys : uint8 array of shape (n_rows, n_bytes)
        The content key of each row.

    References
    ----------
    Collet, xxHash fast digest algorithm, https://github.com/Cyan4973/xxHash (XXH3, 64 bits)
    """
    marks = np.zeros(X.shape[0], np.uint64)
    for span, block in blocks(X):
        rows = np.ascontiguousarray(block)
        usable = np.flatnonzero(row_lengths(rows) > 0)
        texts = rows.view(np.uint8).reshape(len(rows), -1)
        both = np.concatenate([np.ascontiguousarray(keys[span]), texts], axis=1)
        marks[span.start + usable] = [xxh3_64_intdigest(both[row].data) or 1 for row in usable.tolist()]
    return marks


def update_index(
    index: VectorIndex,
    before: Marks,
    X: Features | NDArray[Any],
    now: Marks,
    progress: Callable[[int, int], None] | None = None,
) -> Updated | None:
    """Remove rows that are gone, give rows that moved their new numbers, and add new rows.

    Parameters
    ----------
    index
        An index of earlier features; it is changed.
    before, now
        The marks of the earlier features' rows, and of those of `X`.
    X : float array or array-like of shape (n_rows, dim)
        The features now.
    progress
        Called with the number of rows added so far, and of all to add.

    Returns
    -------
    Updated or None
        None if the index should be built anew: it would hold too many removed rows, or far more than it was planned
        for. It is then unchanged.
    """
    new_number = _places(before, now)
    added = np.flatnonzero((_places(now, before) < 0) & (now > 0))
    n_removed = int(((new_number < 0) & (before > 0)).sum())
    n_held, n_vectors = index.native.ntotal, int((now > 0).sum())
    if index.kind == "hnsw" and index.n_dead + n_removed > MOST_DEAD * (n_held + len(added)):
        return None
    if index.kind in ("ivf", "ivfpq") and lists_for(n_vectors) > MOST_GROWTH * index.n_lists:
        return None
    if not n_vectors:
        return None
    n_dead = _renumber(index, new_number, n_removed)
    for start in range(0, len(added), _AT_ONCE):
        some = added[start : start + _AT_ONCE]
        index.native.add_with_ids(unit(np.asarray(X[some]))[0], some)
        if progress is not None:
            progress(start + len(some), len(added))
    return Updated(replace(index, n_rows=len(now), n_dead=n_dead), len(added), n_removed)


def _places(marks: Marks, among: Marks) -> Rows:
    """Return where each mark is among others; -1 where it is not, or is 0."""
    order = np.argsort(among, kind="stable")
    if not len(among):
        return np.full(len(marks), -1, np.int64)
    place = order[np.minimum(np.searchsorted(among, marks, sorter=order), len(among) - 1)]
    return np.where((among[place] == marks) & (marks > 0), place, -1)


def _renumber(index: VectorIndex, new_number: Rows, n_removed: int) -> int:
    """Remove vectors of rows that are gone, and renumber the others; return the number that stay without a row."""
    faiss, native = load_faiss(), index.native
    moved = not np.array_equal(new_number[new_number >= 0], np.flatnonzero(new_number >= 0))
    if index.kind == "hnsw":
        ids = faiss.vector_to_array(native.id_map)
        ids = np.where(ids < 0, -1, new_number[np.maximum(ids, 0)])
        faiss.copy_array_to_vector(ids, native.id_map)
        return int((ids < 0).sum())
    if n_removed:
        gone = new_number < 0
        native.remove_ids(faiss.IDSelectorBitmap(np.packbits(gone, bitorder="little")))
    if not moved:
        return 0
    if index.kind == "flat":
        ids = faiss.vector_to_array(native.id_map)
        faiss.copy_array_to_vector(new_number[ids], native.id_map)
        return 0
    lists = faiss.extract_index_ivf(native).invlists
    for number in range(index.n_lists):
        if size := lists.list_size(number):
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)  # a view of the list
            ids[:] = new_number[ids]
    return 0
