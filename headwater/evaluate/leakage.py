"""Contents, groups and pairs of near duplicates that are on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.evaluate.splits import Split

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sides:
    """The sides of each split on which the rows of each entity (a content, a group) are.

    Attributes
    ----------
    train, test : bool array of shape (n_entities, n_splits)
        Whether any row of an entity is a training row, and whether any is a test row.
    """

    train: Mask
    test: Mask

    @classmethod
    def of(cls, codes: Rows, splits: Sequence[Split]) -> Sides:
        """Compute the sides of entities, from each row's entity code, of shape ``(n_rows,)``.

        Examples
        --------
        >>> split = Split(0, np.array([0, 1, 2]), np.array([3, 4]))
        >>> Sides.of(np.array([0, 0, 1, 1, 2]), [split]).straddling()
        array([False,  True, False])
        """
        n = int(codes.max()) + 1
        train, test = np.zeros((n, len(splits)), np.bool_), np.zeros((n, len(splits)), np.bool_)
        for number, split in enumerate(splits):
            train[codes[split.train], number] = True
            test[codes[split.test], number] = True
        return cls(train, test)

    def straddling(self) -> Mask:
        """Whether each entity has training and test rows in the same split, of shape ``(n_entities,)``."""
        return np.asarray((self.train & self.test).any(1))

    def leaks(self, tested: Rows, trained: Rows) -> Mask:
        """Whether, for each pair, one entity has test rows in a split where the other has training rows."""
        return np.asarray((self.test[tested] & self.train[trained]).any(1))

    def between(self, i: Rows, j: Rows) -> Mask:
        """Whether, for each pair, two entities are on different sides of a split, of shape ``(n_pairs,)``."""
        return self.leaks(i, j) | self.leaks(j, i)


@dataclass(frozen=True, eq=False)
class Values:
    """The range of values of each entity's rows, to tell whether they are all the same.

    Attributes
    ----------
    least, most : int64 array of shape (n_entities,)
        Least and greatest code of the values.
    """

    least: Rows
    most: Rows

    @classmethod
    def of(cls, codes: Rows, values: ArrayLike) -> Values:
        """Compute the ranges of entities, from the entity code and the value of each row.

        Examples
        --------
        >>> Values.of(np.array([0, 0, 1]), ["benign", "malignant", "benign"]).differ()
        array([ True, False])
        """
        numbers = np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64)
        n = int(codes.max()) + 1
        least, most = np.full(n, np.iinfo(np.int64).max), np.full(n, -1)
        np.minimum.at(least, codes, numbers)
        np.maximum.at(most, codes, numbers)
        return cls(least, most)

    def differ(self) -> Mask:
        """Whether the rows of each entity have several values, of shape ``(n_entities,)``."""
        return np.asarray(self.least != self.most)

    def between(self, i: Rows, j: Rows) -> Mask:
        """Whether, for each pair, the rows of two entities have several values, of shape ``(n_pairs,)``."""
        return np.asarray(np.minimum(self.least[i], self.least[j]) != np.maximum(self.most[i], self.most[j]))
