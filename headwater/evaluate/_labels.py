"""Missing and distinct values of a column, for splits and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError


def count_nulls(values: NDArray[Any]) -> int:
    """Count the values that are None, NaN or not-a-time.

    Examples
    --------
    >>> count_nulls(np.array(["a", None, float("nan")], dtype=object))
    2
    """
    if values.dtype.kind == "f":
        return int(np.isnan(values).sum())
    if values.dtype.kind in "mM":
        return int(np.isnat(values).sum())
    if values.dtype.kind == "O":
        return sum(value is None or value != value for value in values.ravel())
    return 0


def encode(values: NDArray[Any], what: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the sorted distinct values, and the index of each value among them.

    Parameters
    ----------
    values : array of shape (n,)
        Strings, integers, booleans or floats, without nulls.
    what
        The name of the column, for the error.

    Returns
    -------
    distinct : array of shape (n_distinct,)
        Sorted, as `numpy.unique` sorts.
    codes : int64 array of shape (n,)
        ``distinct[codes]`` equals ``values``.

    Raises
    ------
    InputError
        When values of different kinds cannot be sorted, such as strings and numbers.

    Examples
    --------
    >>> encode(np.array(["b", "a", "b"]), "label")[1]
    array([1, 0, 1])
    """
    try:
        distinct, codes = np.unique(values, return_inverse=True)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise InputError(f"{what} mixes values of different kinds ({', '.join(kinds)}): use one kind.") from None
    return distinct, codes.astype(np.int64, copy=False)


def codes_in(values: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the index of each value among classes, which may be in any order and must hold every value.

    Examples
    --------
    >>> codes_in(np.array(["a", "b", "a"]), np.array(["b", "a"]))
    array([1, 0, 1])
    """
    order = np.argsort(classes, kind="stable")
    return order[np.searchsorted(classes, values, sorter=order)].astype(np.int64, copy=False)


def counted(n: int, noun: str) -> str:
    """Format a number with its noun: ``1 row``, ``2 rows``, ``3 classes``."""
    if n == 1:
        return f"1 {noun}"
    return f"{n} {noun}{'es' if noun.endswith('s') else 's'}"
