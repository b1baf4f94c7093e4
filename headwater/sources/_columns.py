"""Tables with a column of vectors: Parquet and Lance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._extras import need
from headwater.errors import VectorsError
from headwater.sources._arrays import reading
from headwater.sources._bounds import require_parquet_room, require_room
from headwater.sources._parts import SHOWN, Part, chosen


def parquet_part(path: Path, asked: str | None) -> Part:
    """Return the vectors of a Parquet file; reading them loads the whole column."""
    require_parquet_room(path)
    try:
        schema = pl.read_parquet_schema(path)
        name = chosen({column: _is_vectors(dtype) for column, dtype in schema.items()}, asked, path)
        dtype = schema[name]
        if not isinstance(dtype, (pl.Array, pl.List)) or not dtype.inner.is_numeric():
            raise VectorsError(f"{path}: column {name!r} holds {dtype}, not lists of numbers. Pass --vectors NAME.")
        length = pl.col(name).list.len() if isinstance(dtype, pl.List) else pl.col(name).arr.len()
        lengths = pl.scan_parquet(path).select(length).collect()[name]
        columns = pl.read_parquet(path, columns=[c for c in schema if c != name and not _is_other(schema[c])])
    except pl.exceptions.PolarsError as error:
        raise VectorsError(f"{path}: cannot be read ({str(error).splitlines()[0]}). Write the file again.") from error
    require_room(path, int(lengths.sum()))  # at least one byte per number
    dim = int(lengths.mode().max() or 0) if len(lengths) else 0  # type: ignore[arg-type]
    odd = (lengths.is_null() | (lengths != dim)).arg_true()
    if len(odd):
        rows = ", ".join(f"{row + 1} ({lengths[row] if lengths[row] is not None else 'none'})" for row in odd[:SHOWN])
        more = f" and {len(odd) - SHOWN:,} more" if len(odd) > SHOWN else ""
        raise VectorsError(
            f"{path}: most vectors of column {name!r} have {dim} numbers, but rows {rows}{more} differ. Leave these "
            "rows out."
        )

    def read() -> NDArray[Any]:
        column = pl.read_parquet(path, columns=[name])[name]
        if isinstance(dtype, pl.List):
            column = column.list.to_array(dim)
        values: NDArray[Any] = column.explode().to_numpy().reshape(-1, dim)  # null becomes NaN
        return values

    inner = pl.Series([], dtype=dtype.inner).to_numpy().dtype
    return Part(path, name, len(lengths), dim, inner, 2, read, columns)


def _is_vectors(dtype: Any) -> bool:
    return isinstance(dtype, (pl.Array, pl.List)) and bool(dtype.inner.is_float())


def _is_other(dtype: Any) -> bool:
    """Whether a column holds vectors other than the requested ones, as in an export of several feature sets."""
    return isinstance(dtype, pl.Array) and _is_vectors(dtype)


@dataclass(frozen=True)
class _LanceColumn:
    """A column of fixed-size lists of a Lance table."""

    dataset: Any
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        column = self.dataset.to_table(columns=[self.name], offset=start, limit=stop - start)[self.name]
        if column.null_count:
            raise VectorsError(
                f"{self.dataset.uri}: {column.null_count} rows from row {start + 1} on have no vector. Leave them out."
            )
        values: NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.reshape(-1, self.shape[1])


def lance_part(path: Path, asked: str | None) -> Part:
    """Return the vectors of a Lance table."""
    lance = need("lance", "bridges")
    pa = need("pyarrow", "bridges")
    try:
        dataset = lance.dataset(str(path))
        data = [file for fragment in dataset.get_fragments() for file in fragment.data_files()]
    except (ValueError, OSError) as error:
        raise VectorsError(f"{path}: cannot be read as a Lance table. Write the table again.") from error
    if any(getattr(file, "base_id", None) is not None for file in data):  # a shallow clone
        raise VectorsError(f"{path}: keeps its rows in another table. Write a full copy of the table.")
    types = {field.name: field.type for field in dataset.schema}
    fixed = {n: pa.types.is_fixed_size_list(t) and pa.types.is_floating(t.value_type) for n, t in types.items()}
    name = chosen(fixed, asked, path)
    if not fixed[name]:
        raise VectorsError(
            f"{path}: column {name!r} holds {types[name]}, not lists of equal length. Pass --vectors NAME."
        )
    n_rows, dim = reading(path, dataset.count_rows), types[name].list_size
    dtype = np.dtype(types[name].value_type.to_pandas_dtype())
    require_room(path, max(n_rows, n_rows * dim * dtype.itemsize))
    others = [n for n in types if n != name and not fixed[n]]
    columns = pl.DataFrame()
    if others:
        columns = reading(path, lambda: pl.DataFrame(pl.from_arrow(dataset.to_table(columns=others))))
    held = _LanceColumn(dataset, name, (n_rows, dim), dtype)
    return Part(path, name, n_rows, dim, dtype, 2, lambda: held, columns)
