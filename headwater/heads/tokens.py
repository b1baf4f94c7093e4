"""Token features in the form heads take: padded matrices with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from headwater.errors import HeadError

Mask = NDArray[np.bool_]


@runtime_checkable
class Ragged(Protocol):
    """Matrices of different lengths, one per item, such as `headwater.store.RaggedArray`."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def dim(self) -> int: ...
    @property
    def lengths(self) -> NDArray[np.int64]: ...
    def __len__(self) -> int: ...
    def padded(self, index: NDArray[np.int64]) -> tuple[NDArray[Any], Mask]: ...


@runtime_checkable
class Selectable(Protocol):
    """Array-likes whose rows can be selected without copying, such as those of a store."""

    def select(self, index: NDArray[np.int64]) -> Any: ...


def selected(X: Any, index: NDArray[np.int64]) -> Any:
    """Return rows of an input, in the order of ``index``, without copying if possible."""
    return X.select(index) if isinstance(X, Selectable) else X[index]


class Bags:
    """Instances in bags: the rows of each slide, exam or patient, as the tokens of one item.

    Parameters
    ----------
    instances
        Features, an array-like of shape ``(n_instances, d)``; values are copied only when bags are taken.
    members
        For each bag, the rows of its instances, int64.
    ids
        Ids of instances, of shape ``(n_instances,)``. Default: their numbers.

    Examples
    --------
    >>> bags = Bags(np.arange(8.0).reshape(4, 2), [np.array([0, 3]), np.array([2])])
    >>> values, mask = bags.padded(np.array([0, 1]))
    >>> values.shape, mask.tolist()
    ((2, 2, 2), [[True, True], [True, False]])
    """

    def __init__(self, instances: Any, members: Sequence[NDArray[np.int64]], ids: NDArray[Any] | None = None) -> None:
        if any(len(rows) == 0 for rows in members):
            raise HeadError("a bag has no instances: leave it out.")
        self.instances = instances
        self.members = members
        self.ids = np.arange(instances.shape[0]) if ids is None else ids
        self.lengths = np.array([len(rows) for rows in members], np.int64)
        self.dtype = instances.dtype
        self.dim = int(instances.shape[1])

    @classmethod
    def of_groups(cls, instances: Any, groups: NDArray[Any]) -> tuple[Bags, NDArray[Any]]:
        """Return a bag for each value of ``groups`` (of shape ``(n_instances,)``), and these values, sorted."""
        values, codes = np.unique(groups, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        return cls(instances, np.split(order, np.cumsum(np.bincount(codes))[:-1])), values

    def __len__(self) -> int:
        return len(self.members)

    def select(self, index: NDArray[np.int64]) -> Bags:
        """Return bags ``index``, in that order."""
        return Bags(self.instances, [self.members[i] for i in index], self.ids)

    def padded(self, index: NDArray[np.int64]) -> tuple[NDArray[Any], Mask]:
        """Return bags ``index`` as one array ``(n_bags, largest, d)``, padded with zeros, and its mask."""
        chosen = [self.members[i] for i in np.asarray(index)]
        lengths = self.lengths[index]
        mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        values = np.zeros((*mask.shape, self.dim), self.dtype)
        values[mask] = self.instances[np.concatenate(chosen)]
        return values, mask


class Masked:
    """A fixed number of tokens per item, some of which may be missing.

    Parameters
    ----------
    values
        Array-like of shape ``(n, t, d)``, or ``(n, d)`` for one vector per item.
    mask
        Existing tokens, bool, of shape ``(n, t)``, or ``(n,)`` for whole items.
    """

    def __init__(self, values: Any, mask: Mask) -> None:
        self.values = values
        self.mask = mask if mask.ndim == 2 else np.repeat(mask[:, None], _length(values), axis=1)
        self.dtype = values.dtype
        self.dim = int(values.shape[-1])
        self.lengths = self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, index: NDArray[np.int64]) -> Masked:
        """Return items ``index``, in that order."""
        return Masked(selected(self.values, index), self.mask[index])

    def padded(self, index: NDArray[np.int64]) -> tuple[NDArray[Any], Mask]:
        """Return items ``index``, of shape ``(n_rows, t, d)``, and which of their tokens exist."""
        values = np.asarray(self.values[index])
        return values.reshape(len(values), -1, self.dim), self.mask[index]


def read_tokens(X: Any, rows: NDArray[np.int64]) -> tuple[NDArray[Any], Mask | None]:
    """Return tokens ``(n_rows, t, d)`` and their mask, None if all exist; one vector per item is one token."""
    if isinstance(X, Ragged):
        return X.padded(rows)
    values = np.asarray(X[rows])
    return (values[:, None] if values.ndim == 2 else values), None


def token_width(X: Any) -> int:
    """Return the number of columns of an input's tokens."""
    return X.dim if isinstance(X, Ragged) else int(X.shape[-1])


def token_count(X: Any) -> int | None:
    """Return the number of an input's tokens; None if it varies between items."""
    return None if isinstance(X, Ragged) else _length(X)


def _length(values: Any) -> int:
    return int(values.shape[1]) if len(values.shape) == 3 else 1
