"""Labels, groups and levels: what a run takes from the samples table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import InputError, nearest
from headwater.evaluate import infer_task
from headwater.store import Data, RaggedArray, SelectedRows, Store

PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "case_id", "participant", "mrn")


def require_column(store: Store, column: str) -> str:
    """Return ``column``, or say which columns there are."""
    columns = store.samples.columns
    if column not in columns:
        raise InputError(f"no column {column!r}.{nearest(column, columns)} Columns: {', '.join(columns)}.")
    return column


def with_labels(data: Data, columns: Sequence[str], separator: str | None) -> tuple[Data, NDArray[Any]]:
    """Return the samples that have a label, and their labels, of shape ``(n,)`` or 0/1 ``(n, n_labels)``."""
    present = np.logical_and.reduce([data.table[c].is_not_null().to_numpy() for c in columns])
    if not present.any():
        raise InputError(f"label column {columns[0]!r} is empty in all {len(present):,} samples.")
    if not present.all():
        data = _only(data, present, f"no {columns[0]}")
    column = data.table[columns[0]]
    if separator is not None:
        column = column.cast(pl.String).str.split(separator)
    if column.dtype == pl.List:
        return data, _indicators(column)
    if len(columns) > 1:
        y = data.table.select(columns).to_numpy()
        if not np.isin(y, (0, 1)).all():
            raise InputError(f"label columns {', '.join(columns)} must hold 0 and 1 when there are several.")
        return data, y.astype(np.int64)
    if column.n_unique() == 1:
        raise InputError(
            f"label column {columns[0]!r} is {column[0]!r} in all {len(column):,} samples: there is nothing to learn."
        )
    values = column.to_numpy()
    infer_task(values)
    return data, values


def _only(data: Data, keep: NDArray[np.bool_], reason: str) -> Data:
    dropped = pl.DataFrame({"id": data.ids[~keep], "reason": [reason] * int((~keep).sum())})
    rows = np.flatnonzero(keep)
    inputs = {
        name: X.select(rows) if isinstance(X, RaggedArray) else SelectedRows(X.array, X.index[rows])
        for name, X in data.inputs.items()
    }
    left_out = pl.concat([data.left_out.cast(pl.String), dropped.cast(pl.String)])
    return Data(inputs, data.table.filter(pl.Series(keep)), data.ids[keep], left_out)


def _indicators(column: pl.Series) -> NDArray[np.int64]:
    values = [[str(v).strip() for v in row] for row in column.to_list()]
    names = sorted({v for row in values for v in row if v})
    return np.array([[int(name in row) for name in names] for row in values], np.int64)


def group_column(store: Store, groups: str | None) -> str | None:
    """Return the column of groups; refuse to pass over an obvious one in silence."""
    if groups == "none":
        return None
    if groups is not None:
        return groups
    for column in store.samples.columns:
        if column.lower() in PATIENT_COLUMNS and store.samples[column].n_unique() < len(store.samples):
            raise InputError(
                f"the manifest has a column {column!r}: pass --groups {column} to keep each whole in every split, "
                "or --groups none if rows are independent."
            )
    return None
