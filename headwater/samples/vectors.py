"""One vector for each row of a fit, whatever a row is: to say which cases are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.heads.tokens import Ragged, read_tokens
from headwater.samples.inputs import Wanted, samples_behind
from headwater.store import Data, Store

ROWS_AT_ONCE = 1024


def vectors_of(store: Store, what: Wanted, where: str | None, data: Data) -> NDArray[np.float32]:
    """Return a vector for each row, whose dot product with another is the mean cosine over inputs.

    Each input's pooled feature is normalised; that of a bag is the mean of its instances' first. An input that a row
    lacks adds nothing.

    Parameters
    ----------
    store, what, where
        What ``data`` was read from, and how.
    data
        The rows.

    Returns
    -------
    float32 array of shape (n_rows, dim)
        ``dim`` is the sum of the inputs' lengths.
    """
    if what.views is not None or what.partial or (what.bags is None and not what.tokens):
        return joined(data.inputs, data.present)
    samples, of_row = samples_behind(store, what, where, data)
    return joined({name: _means(X, of_row, len(data.ids)) for name, X in samples.inputs.items()}, {})


def joined(inputs: Mapping[str, Any], present: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Return the normalised inputs of rows side by side, scaled so that each vector has length 1.

    Parameters
    ----------
    inputs
        For each input, an array-like of shape ``(n, dim)``, or of tokens, whose mean is taken.
    present
        Which rows have an input, if not all.
    """
    parts = []
    for name, X in inputs.items():
        part = unit_rows(_pooled(X))
        if name in present:
            part = part * present[name][:, None]
        parts.append(part)
    found = np.concatenate(parts, axis=1) / np.sqrt(len(parts))
    return np.asarray(found, np.float32)


def unit_rows(X: NDArray[Any]) -> NDArray[np.float32]:
    """Return rows of length 1; rows of zeros stay as they are."""
    values = np.asarray(X, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1), np.float32)


def _pooled(X: Any) -> NDArray[np.float32]:
    """Return one vector for each row: the feature itself, or the mean of its tokens."""
    if not isinstance(X, Ragged) and len(X.shape) == 2:
        return np.asarray(X[:], np.float32)
    n = len(X) if isinstance(X, Ragged) else int(X.shape[0])
    parts = []
    for start in range(0, n, ROWS_AT_ONCE):
        values, mask = read_tokens(X, np.arange(start, min(start + ROWS_AT_ONCE, n)))
        here = np.ones(values.shape[:2], bool) if mask is None else mask
        total = (np.asarray(values, np.float32) * here[:, :, None]).sum(1)
        parts.append(total / np.maximum(here.sum(1), 1)[:, None])
    return np.concatenate(parts)


def _means(X: Any, of_row: NDArray[np.int64], n_rows: int) -> NDArray[np.float32]:
    """Return the mean of each row's samples."""
    values = np.asarray(X[:], np.float32)
    if len(of_row) == n_rows and (np.bincount(of_row, minlength=n_rows) == 1).all():
        ordered = np.empty_like(values)
        ordered[of_row] = values
        return ordered
    total = np.zeros((n_rows, values.shape[1]), np.float32)
    np.add.at(total, of_row, values)
    return np.asarray(total / np.maximum(np.bincount(of_row, minlength=n_rows), 1)[:, None], np.float32)
