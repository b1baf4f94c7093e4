"""The methods that NumPy and scikit-learn expect of an array, for arrays that read rows on access."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

Array = NDArray[Any]


class NumpyMethods(NDArrayOperatorsMixin, ABC):
    """The methods that NumPy and scikit-learn expect of an array, for one that reads its rows on access.

    ``array[rows, columns]`` reads the rows, then selects from them. `size` and `astype` work as those of an array.
    Operators and NumPy's functions read all rows and compute with them.
    """

    __hash__ = object.__hash__  # by identity, since the mixin's ``==`` compares values

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def _take(self, rows: Any) -> Array:
        """Return rows; for a single row number, drop the row dimension."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        first, *others = (key if isinstance(key, tuple) else (key,)) or (Ellipsis,)
        if first is not Ellipsis and first is not None and all(other is Ellipsis for other in others):
            return self._take(first)
        if isinstance(first, slice) and all(isinstance(other, slice) for other in others):
            rows: Array = self._take(first)[(slice(None), *others)]
            return rows
        selected: Array = np.asarray(self)[key]
        return selected

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(one) if isinstance(one, NumpyMethods) else one for one in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._take(slice(None)), dtype=dtype, copy=copy if copy else None)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def astype(self, dtype: Any) -> Array:
        """Return all rows as an array of another type."""
        return np.asarray(self).astype(dtype)
