"""export: write features and their samples to files for other tools."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from headwater._extras import need
from headwater._shown import Shown
from headwater._words import counted
from headwater._writable import require_writable
from headwater.errors import InputError, nearest
from headwater.sources import with_plain_types
from headwater.store import Data, SelectedRows, Store, open_store


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """The result of an export: path, format, features, and numbers of samples written and left out."""

    path: str
    format: str
    features: list[str]
    n_samples: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Return it in one or two lines."""
        out = [f"left out: {counted(self.left_out, 'sample')} without all features"] if self.left_out else []
        return [
            *out,
            f"{counted(self.n_samples, 'sample')} with {', '.join(self.features)} in {self.path} ({self.format})",
        ]


def export_features(
    store: str | Path | Store,
    out: str | Path,
    *,
    features: str | Sequence[str],
    format: str = "npy",
    where: str | None = None,
) -> Exported:
    """Write pooled features, and the samples that have all of them, in sample order.

    Parameters
    ----------
    store
        A store, or its path.
    out
        Path to write: a folder for ``npy``, ``safetensors`` and ``datasets``, else a file. It must not exist yet.
    features
        One or more feature sets, ``NAME/MODALITY``.
    format
        ``npy``, ``hdf5``, ``parquet``, ``h5ad`` (AnnData), ``datasets`` (Hugging Face) or ``safetensors``. All but the
        last are written block by block.
    where
        A boolean SQL expression: only these samples.

    Raises
    ------
    InputError, StoreError, DiskError
        When the export is not possible; the message says why.
    MissingExtra
        When the format's library is not installed.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format!r}.{nearest(format, FORMATS)} There are: {', '.join(FORMATS)}.")
    path = require_writable(out, "OUT")
    if path.exists():
        raise InputError(f"{path} already exists. Give a path that does not exist yet.")
    names = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    if not names:
        raise InputError("--features is missing: name the features to export.")
    opened = store if isinstance(store, Store) else open_store(store)
    data = opened.read(*names, where=where)
    data = replace(data, table=with_plain_types(data.table))  # stores of older versions may hold other types
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as unfinished:
        FORMATS[format](data, unfinished)
    return Exported(str(path), format, names, len(data.ids), len(data.left_out))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` if the body succeeds, else remove it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)


BATCH = 1024  # rows of a table written at once


def _arrays(data: Data) -> dict[str, SelectedRows]:
    return {name: X for name, X in data.inputs.items() if isinstance(X, SelectedRows)}


def _file_name(name: str) -> str:
    """Return the name of features for use in a file name.

    Examples
    --------
    >>> _file_name("clip/image")
    'clip-image'
    """
    return name.replace("/", "-")


def _npy(data: Data, path: Path) -> None:
    path.mkdir()
    data.table.write_parquet(path / "samples.parquet")
    for name, X in _arrays(data).items():
        out = open_memmap(path / f"{_file_name(name)}.npy", "w+", dtype=X.dtype, shape=X.shape)
        for rows, values in X.blocks():
            out[rows] = values
        out.flush()


def _safetensors(data: Data, path: Path) -> None:
    from safetensors.numpy import save_file

    path.mkdir()
    data.table.write_parquet(path / "samples.parquet")
    save_file({name: np.ascontiguousarray(X[:]) for name, X in _arrays(data).items()}, path / "features.safetensors")


def _hdf5(data: Data, path: Path) -> None:
    h5py = need("h5py", "bridges")
    with h5py.File(path, "w") as file:
        for name, X in _arrays(data).items():
            _write_blocks(file.create_dataset(name, X.shape, X.dtype), X)
        file.create_dataset("ids", data=data.ids.astype(object), dtype=h5py.string_dtype())
        for column in _columns(data, "samples").get_columns():
            words = column.dtype == pl.String
            values = column.fill_null("").to_numpy().astype(object) if words else column.to_numpy()
            file.create_dataset(f"samples/{column.name}", data=values, dtype=h5py.string_dtype() if words else None)


def _write_blocks(dataset: Any, X: SelectedRows) -> None:
    for rows, values in X.blocks():
        dataset[rows] = values


def _columns(data: Data, what: str) -> pl.DataFrame:
    """Return the samples' columns as strings, numbers and booleans.

    Integers with missing values become floats, with NaN for missing; if that is not exact they become strings.
    """
    taken = [column for column in data.table.columns if "/" in column]
    if taken:
        raise InputError(f"column {taken[0]!r} has a slash, which {what} in this format cannot have. Rename it.")
    plain = []
    for column in data.table.get_columns():
        if column.dtype.is_nested():
            words = [None if v is None else json.dumps(v, default=str, ensure_ascii=False) for v in column.to_list()]
            plain.append(pl.Series(column.name, words, dtype=pl.String))
        elif column.dtype == pl.Binary:
            plain.append(column.bin.encode("hex"))
        elif not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            words = [None if value is None else str(value) for value in column.to_list()]
            plain.append(pl.Series(column.name, words, dtype=pl.String))
        elif column.null_count() and column.dtype.is_integer():
            numbers = column.cast(pl.Float64)
            exact = (numbers.cast(pl.Int64, strict=False) == column).fill_null(True).all()
            plain.append(numbers if exact else column.cast(pl.String))
        elif column.dtype == pl.Boolean and column.null_count():
            plain.append(column.cast(pl.String))
        else:
            plain.append(column)
    return pl.DataFrame(plain)


def _h5ad(data: Data, path: Path) -> None:
    """Write samples with AnnData, then the arrays block by block into its file, to save memory."""
    anndata, h5py, pd = need("anndata", "bridges"), need("h5py", "bridges"), need("pandas", "bridges")
    columns = _columns(data, "obs")
    obs = pd.DataFrame(index=pd.Index(data.ids.astype(object)))
    for column in columns.get_columns():
        words = column.dtype == pl.String
        name = column.name if column.name != "_index" else "index"  # AnnData reserves "_index"
        obs[name] = pd.Categorical(column.to_list()) if words else column.to_numpy()
    arrays = _arrays(data)
    (_, X), *others = arrays.items()
    var = pd.DataFrame(index=pd.Index([str(i) for i in range(X.shape[1])], dtype=object))
    anndata.AnnData(obs=obs, var=var).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for place, values in [("X", X), *((f"obsm/{name.replace('/', '_')}", other) for name, other in others)]:
            file.pop(place, None)
            dataset = file.create_dataset(place, values.shape, values.dtype)
            dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            _write_blocks(dataset, values)


def _batches(data: Data) -> Iterator[Any]:
    """Yield Arrow tables of samples with their vectors, a column for each feature set."""
    pa = need("pyarrow", "bridges")
    arrays = _arrays(data)
    taken = [name for name in arrays if name in data.table.columns]
    if taken:
        raise InputError(f"the samples have a column {taken[0]!r}, the name of the features. Rename the column.")
    for start in range(0, len(data.ids), BATCH):
        stop = min(start + BATCH, len(data.ids))
        # the oldest string type, since other readers of Parquet and Arrow may support no other
        table = data.table[start:stop].to_arrow(compat_level=pl.CompatLevel.oldest())
        for name, X in arrays.items():
            flat: NDArray[Any] = np.ascontiguousarray(X[start:stop]).reshape(-1)
            table = table.append_column(name, pa.FixedSizeListArray.from_arrays(pa.array(flat), X.shape[1]))
        yield table


def _parquet(data: Data, path: Path) -> None:
    pq = need("pyarrow.parquet", "bridges")
    tables = _batches(data)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _datasets(data: Data, path: Path) -> None:
    datasets, pa = need("datasets", "bridges"), need("pyarrow", "bridges")
    stream = path.with_name(f"{path.name}.arrow")
    shown = datasets.is_progress_bar_enabled()
    try:
        tables = _batches(data)
        first = next(tables)
        with pa.OSFile(str(stream), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        datasets.disable_progress_bars()
        datasets.Dataset.from_file(str(stream)).save_to_disk(path)
    finally:
        if shown:
            datasets.enable_progress_bars()
        stream.unlink(missing_ok=True)


FORMATS: dict[str, Callable[[Data, Path], None]] = {
    "npy": _npy,
    "hdf5": _hdf5,
    "parquet": _parquet,
    "h5ad": _h5ad,
    "datasets": _datasets,
    "safetensors": _safetensors,
}
