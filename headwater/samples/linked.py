"""Groups of samples that are linked: by a shared patient, or by a cluster of duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray


def linked(ids: pl.Series, links: Sequence[pl.Series]) -> pl.Series:
    """Return a group for each sample, so that samples with the same value in any column of links are in one group.

    A group is named by the id of its first sample. A missing value links nothing.

    Parameters
    ----------
    ids
        The ids of the samples, which are unique.
    links
        Columns of the same length.

    Examples
    --------
    >>> ids = pl.Series(["a", "b", "c", "d"])
    >>> linked(ids, [pl.Series([1, 1, None, None]), pl.Series(["x", "y", "y", None])]).to_list()
    ['a', 'a', 'a', 'd']
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(ids)
    ends: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    n_nodes = n
    for column in links:
        rows = column.is_not_null().arg_true().to_numpy().astype(np.int64)
        codes = column.drop_nulls().rank("dense").to_numpy().astype(np.int64) - 1
        ends.append((rows, n_nodes + codes))
        n_nodes += int(codes.max(initial=-1)) + 1
    one, other = (
        np.concatenate(part) if part else np.zeros(0, np.int64) for part in (zip(*ends) if ends else ([], []))
    )
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(n_nodes, n_nodes))
    part = connected_components(graph, directed=False)[1][:n]
    _, first, back = np.unique(part, return_index=True, return_inverse=True)
    return ids.gather(first[back])
