"""export: features of a store, with their samples, in files that other tools read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headwater._shown import Shown
from headwater._words import counted
from headwater._writable import require_writable
from headwater.api._export_formats import FORMATS
from headwater.errors import InputError, nearest
from headwater.sources import with_plain_types
from headwater.store import Store, open_store


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """What was exported: where to, in which format, which features, of how many samples, and how many lack them."""

    path: str
    format: str
    features: list[str]
    n_samples: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Say it in a line or two."""
        out = [f"{counted(self.left_out, 'sample')} left out, which lack features"] if self.left_out else []
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
    """Write pooled features and the samples that have all of them, in the samples' order.

    Parameters
    ----------
    store
        A store, or where it is.
    out
        What to write: a folder for ``npy``, ``safetensors`` and ``datasets``, else a file. It must not be there yet.
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
        When something is in the way; the message says what.
    MissingExtra
        When the format's library is not installed.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format!r}.{nearest(format, FORMATS)} There are: {', '.join(FORMATS)}.")
    path = require_writable(out, "OUT")
    if path.exists():
        raise InputError(f"{path} is there already. Give a path that does not exist yet.")
    names = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    if not names:
        raise InputError("--features is missing: say which features to export.")
    opened = store if isinstance(store, Store) else open_store(store)
    data = opened.read(*names, where=where)
    data = replace(data, table=with_plain_types(data.table))  # a store of an older headwater may hold other types
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as unfinished:
        FORMATS[format](data, unfinished)
    return Exported(str(path), format, names, len(data.ids), len(data.left_out))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, which becomes ``path`` when the body succeeds, and else is gone."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
