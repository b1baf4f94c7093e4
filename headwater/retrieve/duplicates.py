"""Near duplicates: which rows are too alike to be unrelated, and at which rate unrelated ones would be called so.

Copies of an image (cropped, turned, compressed anew) have features that are close, but so have all images of one stain
or one scanner. Whitening takes out the directions that everything shares, so that unrelated rows are almost orthogonal
and copies stand out. What similarity is too high for chance is then read off the rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from headwater.errors import InputError
from headwater.retrieve.exact import Features, blocks, unit

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

DIM = 256
ROWS_A_DIM = 4  # with fewer, what is whitened is the noise of the sample, and copies drift apart with the rest
LEAST_VARIANCE = 1e-6  # of the largest: float16 rounds by about as much
COPIES = 10  # a row is taken to have at most so many copies, so that pairs rarer than this may be copies
LEAST_ROWS = 30  # of fewer the tail cannot be told
NO_ANGLE = 1 - 1e-6  # above it, float32 cannot tell a similarity from 1
_QUERIES, _COLUMNS = 1024, 4096  # 16 MiB of similarities at once


@cache
def _blas() -> ThreadpoolController:
    """Return what sets the number of threads; to look for the libraries takes a while."""
    return ThreadpoolController()


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map after which the rows it was fitted to have uncorrelated columns of variance 1.

    Attributes
    ----------
    mean : float64 array of shape (dim,)
    components : float64 array of shape (dim, n_components)
        Principal directions, each divided by the standard deviation along it.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    @classmethod
    def fit(cls, X: NDArray[Any], n_components: int = DIM) -> Whitening:
        """Fit to rows, float, of shape ``(n, dim)``; rows that are not finite are passed over.

        At most ``n_components`` directions are kept, a quarter as many as there are rows, and none whose variance is
        below a millionth of the largest.

        References
        ----------
        Jégou and Chum, Negative evidences and co-occurences in image retrieval: the benefit of PCA and whitening, 2012.
        """
        X = X[np.isfinite(X).all(1)].astype(np.float64)
        n, dim = X.shape
        if n < 2:
            raise InputError(f"{n} finite rows cannot be whitened: at least 2 are needed.")
        mean = X.mean(0)
        X -= mean
        # Of the two products that have the same eigenvalues, the smaller.
        product = X.T @ X if dim <= n else X @ X.T
        with _blas().limit(limits=1):  # threads that wait for each other cost more than they gain, beside other work
            values, vectors = np.linalg.eigh(product)
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = min(n_components, max(n // ROWS_A_DIM, 1), int((values > LEAST_VARIANCE * values[0]).sum()))
        values, vectors = values[:kept], vectors[:, :kept]
        if dim > n:
            vectors = X.T @ vectors / np.sqrt(values)
        return cls(mean, vectors * np.sqrt((n - 1) / values))

    @property
    def n_components(self) -> int:
        """Number of columns after whitening; 0 where all rows were the same."""
        return int(self.components.shape[1])

    def transform(self, X: Features | NDArray[Any]) -> Floats:
        """Return whitened rows scaled to length 1, float32, of shape ``(n, n_components)``; zeros for rows not finite.

        `X` is read block by block.
        """
        mean, components = self.mean.astype(np.float32), self.components.astype(np.float32)
        out = np.zeros((X.shape[0], self.n_components), np.float32)
        if self.n_components:
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite becomes zeros
                for span, block in blocks(X):
                    out[span] = unit((np.asarray(block, np.float32) - mean) @ components)[0]
        return out


@dataclass(frozen=True)
class Tail:
    """How similar unrelated rows are at most: the upper tail of the similarity of pairs.

    Beyond ``start`` the share of pairs is taken to fall off exponentially with the similarity's Fisher transform,
    z = arctanh(s): ``P(z > start + x) = share * exp(-x / scale)``. Between directions at random in d dimensions,
    ``P(s > t)`` falls as ``(1 - t²)^((d - 1) / 2)``, which is ``exp(-(d - 1) z)`` in the limit and faster before it, so
    that for these the threshold is on the safe side. Features of images lie more densely in some places than in others,
    which makes their tail heavier; whitened, it was found to be about exponential (benchmarks/audit_duplicates.py).

    Attributes
    ----------
    start, scale
        In Fisher's z.
    share
        Of pairs that lie beyond ``start``.
    n_pairs
        Pairs that this was measured on.
    """

    start: float
    scale: float
    share: float
    n_pairs: int

    @classmethod
    def fit(cls, units: Floats, *, groups: ArrayLike | None = None, n_rows: int | None = None) -> Tail | None:
        """Measure the tail on all pairs of some rows, without knowing which of them are copies.

        A row is taken to have at most ten copies, so that among ``n_rows`` rows a share of ``10 / n_rows`` of all pairs
        may be copies, and these the most similar ones. So the scale comes from the pairs between that share and ten
        times it; of the more similar ones only their number is used, as of values that are censored.

        Parameters
        ----------
        units : float32 array of shape (n, dim)
            Rows of length 1, drawn at random when they are not all there are; zeros are passed over.
        groups : array of shape (n,), optional
            Pairs of one group are not unrelated, and are passed over.
        n_rows
            How many rows there are in all; as many as are given by default.

        Returns
        -------
        Tail or None
            None where it cannot be told: fewer than 30 rows, or so many that are the same that nothing is beyond.
        """
        there = np.flatnonzero(units.any(1)) if units.shape[1] else np.arange(0)
        n_rows = max(n_rows or 0, len(there))
        if len(there) < LEAST_ROWS:
            return None
        units = units[there]
        codes = None if groups is None else np.unique(np.asarray(groups)[there], return_inverse=True)[1]
        similar = np.concatenate(list(_unrelated(units, codes)))
        censored = min(COPIES / (n_rows - 1), 0.03)
        share = min(10 * censored, 0.2)
        n_censored, n_beyond = round(censored * len(similar)), round(share * len(similar))
        if n_censored < 5:
            return None
        ordered = np.sort(np.partition(similar, len(similar) - n_beyond - 1)[-n_beyond - 1 :])[::-1]
        if ordered[n_censored] >= NO_ANGLE or ordered[n_beyond] <= -NO_ANGLE:
            return None
        z = np.arctanh(ordered[n_censored:].astype(np.float64))
        start, stop, between = z[-1], z[0], z[:-1]
        # The likelihood of exponential values that are censored at ``stop`` (Lawless, 2003, section 4.1).
        scale = float(((between - start).sum() + n_censored * (stop - start)) / len(between))
        return cls(float(start), scale, n_beyond / len(similar), len(similar)) if scale > 0 else None

    def threshold(self, rate: float) -> float:
        """Return the similarity that a share ``rate`` of unrelated pairs exceeds."""
        if not 0 < rate < 1:
            raise InputError(f"a rate of false alarms is between 0 and 1, such as 1e-5, but is {rate}.")
        return float(np.tanh(self.start + self.scale * np.log(self.share / rate)))

    def rate(self, threshold: float) -> float:
        """Return the share of unrelated pairs that exceed a similarity; at most the share beyond ``start``."""
        z = np.arctanh(min(threshold, NO_ANGLE))
        return float(self.share * np.exp(-max(z - self.start, 0.0) / self.scale))


def _unrelated(units: Floats, groups: Rows | None) -> Iterator[Floats]:
    """Yield the similarities of all pairs of rows, those of one group left out."""
    for first in range(0, len(units), _QUERIES):
        some = slice(first, first + _QUERIES)
        similar = units[some] @ units.T
        keep = np.arange(len(units)) > np.arange(len(units))[some, None]
        if groups is not None:
            keep &= groups[some, None] != groups
        yield similar[keep]


def pairs_above(
    units: Floats, threshold: float, *, queries: Rows | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Find every pair of rows that are at least as similar as ``threshold``, a block of the matrix at a time.

    Parameters
    ----------
    units : float32 array of shape (n, dim)
        Rows of length 1; those of zeros are never found.
    threshold
        Above 0.
    queries : int64 array of shape (n_queries,), optional
        Only pairs of one of these with any other row, each pair from the side of its query; all pairs, once each, when
        left out.
    progress
        Called with the number of rows that are done.

    Yields
    ------
    i, j : int64 array of shape (n_found,)
        Row numbers; i < j when there are no ``queries``.
    similarity : float32 array of shape (n_found,)
    """
    if not threshold > 0:
        raise InputError(f"a threshold of similarity is above 0, but is {threshold}.")
    n = len(units)
    asked = np.arange(n) if queries is None else queries
    for first in range(0, len(asked), _QUERIES):
        some = asked[first : first + _QUERIES]
        for start in range(first if queries is None else 0, n, _COLUMNS):
            similar = units[some] @ units[start : start + _COLUMNS].T
            # Far quicker than np.nonzero on all of it, since hardly anything is ever found.
            flat = np.flatnonzero(similar.ravel() >= threshold)
            i, j = some[flat // similar.shape[1]], flat % similar.shape[1] + start
            keep = i < j if queries is None else i != j
            if keep.any():
                yield i[keep], j[keep], similar.ravel()[flat[keep]]
        if progress is not None:
            progress(min(first + _QUERIES, len(asked)))


def components(n: int, i: ArrayLike, j: ArrayLike) -> Rows:
    """Return the number of each row's cluster, int64, of shape ``(n,)``: rows are of one that pairs link, by any way.

    Examples
    --------
    >>> components(5, [0, 3], [3, 4])
    array([0, 1, 2, 0, 0])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    i = np.asarray(i, np.int64)
    links = coo_array((np.ones(len(i), np.int8), (i, np.asarray(j, np.int64))), shape=(n, n))
    found: Rows = connected_components(links, directed=False)[1].astype(np.int64)
    return found
