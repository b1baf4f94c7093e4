"""Bags: samples that form one row, such as the images of a slide, an exam or a patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.heads import Bags
from headwater.samples.columns import full_column
from headwater.store import Data


def bagged(data: Data, column: str, used: Sequence[str]) -> Data:
    """Return one row per bag: the samples that share a value of a column."""
    names, members, first = bags_of(data, column, used)
    inputs: dict[str, Any] = {name: Bags(X, members, data.ids) for name, X in data.inputs.items()}
    return Data(inputs, first, names, data.left_out)


def bags_of(
    data: Data, column: str, used: Sequence[str]
) -> tuple[NDArray[np.str_], list[NDArray[np.int64]], pl.DataFrame]:
    """Return the bags' names, their samples, and a table of their values in the columns ``used``."""
    values, codes = np.unique(names_of(data, column), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    first = pl.DataFrame({column: values})
    for name in dict.fromkeys(used):
        if name != column:
            first = first.with_columns(agreed(data.table[name], members, column, values).alias(name))
    return values, members, first


def agreed(values: pl.Series, members: Sequence[NDArray[np.int64]], column: str, names: NDArray[np.str_]) -> pl.Series:
    """Return each bag's value in a column, null where its samples have none; refuse bags with several values."""
    found = []
    for rows, name in zip(members, names.tolist(), strict=True):
        here = values[rows].drop_nulls().unique(maintain_order=True)
        if len(here) > 1:
            several = " and ".join(repr(value) for value in here.to_list()[:2])
            raise InputError(
                f"--bags {column}: samples of {name!r} have {several} in {values.name!r}, but a bag needs one value. "
                "Add a column that is the same in all samples of a bag."
            )
        found.append(here[0] if len(here) else None)
    return pl.Series(values.name, found, dtype=values.dtype)


def names_of(data: Data, column: str) -> NDArray[np.str_]:
    """Return the bag's name for each sample."""
    return full_column(data, column, "--bags").astype(np.str_)


def those_in(samples: Data, of: NDArray[np.str_], ids: NDArray[np.str_]) -> tuple[Data, NDArray[np.int64]]:
    """Return the samples whose row's name, given in ``of``, is in ``ids``, and the index of that row."""
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids[order], of), len(order) - 1)
    kept = np.flatnonzero(ids[order][place] == of)
    inputs = {name: X.select(kept) for name, X in samples.inputs.items()}
    chosen = Data(inputs, samples.table[kept], samples.ids[kept], samples.left_out)
    return chosen, order[place[kept]].astype(np.int64)
