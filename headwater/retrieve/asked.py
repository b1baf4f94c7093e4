"""What a search is for, validated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._backend import NUMPY
from headwater.errors import InputError
from headwater.retrieve.cosine import Mask, Rows, Scores, unit, unit64

Exclude = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, eq=False)
class Asked:
    """What is searched for, validated.

    Attributes
    ----------
    queries : float32 array of shape (n_queries, dim)
        Unit vectors.
    given : float array of shape (n_queries, dim)
        The queries, of any length.
    allowed : bool array of shape (n_rows,), or None
        The rows that may be found.
    of_rows, group : int64 arrays of shapes (n_rows,) and (n_queries,), or None
        Numbers of the groups of rows and of queries.
    """

    queries: Scores
    given: NDArray[Any]
    allowed: Mask | None
    of_rows: Rows | None = None
    group: Rows | None = None

    @cached_property
    def exact(self) -> NDArray[np.float64]:
        """The queries as unit vectors in float64, of shape ``(n_queries, dim)``."""
        exact: NDArray[np.float64] = unit64(NUMPY, self.given)
        return exact


def require_matrix(shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless features have rows and columns."""
    if len(shape) != 2:
        raise InputError(f"features of shape {shape} cannot be searched. Give pooled ones, of shape (n_rows, dim).")


def check(
    shape: tuple[int, ...], queries: NDArray[Any], k: int, rows: ArrayLike | None, exclude: Exclude | None
) -> Asked:
    """Validate the arguments of a search."""
    require_matrix(shape)
    n_rows, dim = shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(f"queries must have shape (n_queries, {dim}), but have {queries.shape}.")
    if k < 1:
        raise InputError(f"k must be at least 1, but is {k}.")
    wanted, usable = _quick_unit(queries)
    if not usable.all():
        raise InputError(f"query {int(usable.argmin())} is zero or not finite, so its cosines are undefined.")
    if exclude is None:
        return Asked(wanted, queries, _allowed(rows, n_rows))
    of_rows, of_queries = (np.asarray(groups) for groups in exclude)
    if of_rows.shape != (n_rows,) or of_queries.shape != (len(queries),):
        raise InputError(
            f"exclude must hold groups of shape ({n_rows},) for the rows and ({len(queries)},) for the queries, but "
            f"holds {of_rows.shape} and {of_queries.shape}."
        )
    _, numbers = np.unique(np.concatenate([of_rows, of_queries]), return_inverse=True)
    return Asked(wanted, queries, _allowed(rows, n_rows), numbers[:n_rows], numbers[n_rows:])


def allowed_rows(rows: ArrayLike, n_rows: int) -> Mask:
    """Return which rows may be found, of shape ``(n_rows,)``, from a mask or row numbers."""
    mask = _allowed(rows, n_rows)
    assert mask is not None
    return mask


def _quick_unit(queries: NDArray[Any]) -> tuple[Scores, Mask]:
    """Return what `unit` does; more quickly for float32 of the usual size, as single queries are."""
    if queries.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries))
        if len(lengths) and lengths.min() > 1e-9 and lengths.max() < 1e9:
            return queries / lengths[:, None], np.ones(len(lengths), np.bool_)
    return unit(queries)


def _allowed(rows: ArrayLike | None, n_rows: int) -> Mask | None:
    if rows is None:
        return None
    chosen = np.asarray(rows)
    if chosen.dtype == np.bool_:
        if chosen.shape != (n_rows,):
            raise InputError(f"a mask of rows must have shape ({n_rows},), but has {chosen.shape}.")
        return chosen
    if chosen.size and (chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= n_rows):
        raise InputError(f"rows must be a mask, or row numbers from 0 to {n_rows - 1}.")
    mask = np.zeros(n_rows, dtype=np.bool_)
    mask[chosen.astype(np.int64)] = True
    return mask
