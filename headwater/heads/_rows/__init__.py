"""Training rows for many fits at once, in the form that is fastest to solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._backend import Backend
from headwater.heads._rows.base import Chunk, TrainingRows, one_blas_thread
from headwater.heads._rows.rotated import RotatedRows
from headwater.heads._rows.shared import SharedRows

__all__ = ["Chunk", "RotatedRows", "SharedRows", "TrainingRows", "one_blas_thread", "training_rows"]

ROTATE_BELOW = 0.75  # most rows per column to rotate
ROTATE_ROWS = 1024  # most rows to rotate; a larger decomposition is too slow
SHARE_OF_DEVICE = 0.5  # of the free memory of a GPU, for the rows; the rest is for what is computed from them


def training_rows(
    X: Any,
    row_sets: Sequence[NDArray[np.int64]],
    backend: Backend,
    *,
    scale: bool,
    max_bytes: int,
    n_threads: int,
) -> TrainingRows:
    """Return the rows in the form that is fastest to solve; parameters as for `SharedRows`."""
    free = backend.free_bytes()
    if free is not None:
        max_bytes = min(max_bytes, int(SHARE_OF_DEVICE * free))
    most = max(len(rows) for rows in row_sets)
    size = 8 * most * most * len(row_sets) + 4 * X.shape[1] * min(X.shape[0], most * len(row_sets))
    if most <= min(ROTATE_BELOW * X.shape[1], ROTATE_ROWS) and size <= max_bytes:
        return RotatedRows(X, row_sets, backend, scale=scale, n_threads=n_threads)
    return SharedRows(X, row_sets, backend, scale=scale, max_bytes=max_bytes, n_threads=n_threads)
