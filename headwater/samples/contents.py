"""Samples that hold the same content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headwater.store import PARTS, Data, Modality, keys_from_hex, sample_keys


@dataclass(frozen=True, eq=False)
class SharedContents:
    """The distinct contents of samples.

    Attributes
    ----------
    of_sample : int64 array of shape (n_samples,)
        Index of each sample's content.
    first : int64 array of shape (n_contents,)
        The first sample that holds each content.
    """

    of_sample: NDArray[np.int64]
    first: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of samples that hold each content, of shape ``(n_contents,)``."""
        return np.bincount(self.of_sample)

    def samples(self, content: int) -> NDArray[np.int64]:
        """Return the samples that hold a content."""
        return np.flatnonzero(self.of_sample == content)


def contents_of(data: Data, modality: Modality) -> SharedContents:
    """Number the distinct contents of samples by their keys, in order of first occurrence."""
    words = keys_from_hex(sample_keys(data.table, modality)).view("S16").reshape(-1)
    _, first, numbers = np.unique(words, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return SharedContents(place[numbers], first[order].astype(np.int64))


def modality_of(name: str) -> Modality:
    """Return the modality of features called ``NAME/MODALITY``."""
    return cast("Modality", name.rpartition("/")[2])


def kinds_of(names: Iterable[str]) -> list[Modality]:
    """Return the modalities that features of these names encode, sorted.

    Examples
    --------
    >>> kinds_of(["clip/image"]), kinds_of(["vlm/pair"])
    (['image'], ['image', 'text'])
    """
    return sorted({part for name in names for part in PARTS[modality_of(name)]})
