"""Near duplicates: rows that are more similar than unrelated rows are, with an estimated false alarm rate.

Copies of an image (cropped, rotated, compressed again) have similar features, but so have all images of one stain or
one scanner. Whitening removes the directions that all images share, so unrelated rows are almost orthogonal and copies
stand out. The similarity that unrelated rows reach by chance is then estimated from the rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from headwater._backend import NUMPY, Backend, to_numpy
from headwater.errors import InputError
from headwater.retrieve.cosine import Features, blocks, unit, unit_on

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

DIM = 256
ROWS_A_DIM = 4  # with fewer rows per dimension, whitening amplifies sampling noise, and copies become dissimilar too
LEAST_VARIANCE = 1e-6  # relative to the largest; rounding to float16 adds about as much
COPIES = 10  # assumed maximum number of copies of a row; this share of pairs may be copies
LEAST_ROWS = 30  # with fewer rows, the tail cannot be estimated
NO_ANGLE = 1 - 1e-6  # above it, float32 cannot tell a similarity from 1
_QUERIES, _COLUMNS = 1024, 4096  # 16 MiB of similarities at once
_ON_DEVICE = 4096, 32_768  # 512 MiB, on a GPU, which needs large products to be busy


@cache
def _blas() -> ThreadpoolController:
    """Return the controller of BLAS threads; cached, since finding the libraries takes a while."""
    return ThreadpoolController()


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map that gives the rows it was fitted to uncorrelated columns of variance 1.

    Attributes
    ----------
    mean : float64 array of shape (dim,)
    components : float64 array of shape (dim, n_components)
        Principal directions, each divided by the standard deviation along it.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    @classmethod
    def fit(cls, X: NDArray[Any], n_components: int = DIM, backend: Backend = NUMPY) -> Whitening:
        """Fit to rows, float, of shape ``(n, dim)``, on a backend; rows that are not finite are ignored.

        The number of directions is at most ``n_components`` and a quarter of the number of rows. Directions whose
        variance is below a millionth of the largest are dropped.

        References
        ----------
        Jégou and Chum, Negative evidences and co-occurences in image retrieval: the benefit of PCA and whitening, 2012.
        """
        X = X[np.isfinite(X).all(1)].astype(np.float64)
        n, dim = X.shape
        if n < 2:
            raise InputError(f"whitening needs at least 2 finite rows, but there are {n}.")
        mean = X.mean(0)
        X -= mean
        rows = backend.put(X)
        # The smaller of the two products, which have the same eigenvalues.
        product = rows.T @ rows if dim <= n else rows @ rows.T
        with _blas().limit(limits=1):  # beside other work, waiting for threads costs more than they gain
            values, vectors = map(to_numpy, backend.xp.linalg.eigh(product))
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = min(n_components, max(n // ROWS_A_DIM, 1), int((values > LEAST_VARIANCE * values[0]).sum()))
        values, vectors = values[:kept], vectors[:, :kept]
        if dim > n:
            vectors = X.T @ vectors / np.sqrt(values)
        return cls(mean, vectors * np.sqrt((n - 1) / values))

    @property
    def n_components(self) -> int:
        """Number of columns after whitening; 0 if all rows were equal."""
        return int(self.components.shape[1])

    def transform(self, X: Features | NDArray[Any], backend: Backend = NUMPY) -> Floats:
        """Return whitened rows scaled to length 1, float32, of shape ``(n, n_components)``; zero if not finite.

        `X` is read block by block, and computed with on a backend.
        """
        mean, components = (backend.put(v, backend.xp.float32) for v in (self.mean, self.components))
        out = np.zeros((X.shape[0], self.n_components), np.float32)
        if self.n_components:
            with np.errstate(invalid="ignore", over="ignore"):  # such rows become zero
                for span, block in blocks(X):
                    whitened = (backend.put(block, backend.xp.float32) - mean) @ components
                    out[span] = unit(whitened)[0] if backend.is_numpy else to_numpy(unit_on(backend, whitened)[0])
        return out


@dataclass(frozen=True)
class Tail:
    """The upper tail of the similarity of unrelated pairs of rows.

    The model: beyond ``start``, the share of pairs decreases exponentially with the Fisher transform of the similarity,
    z = arctanh(s): ``P(z > start + x) = share * exp(-x / scale)``. For random directions in d dimensions, ``P(s > t)``
    decreases as ``(1 - t²)^((d - 1) / 2)``, which is ``exp(-(d - 1) z)`` in the limit and faster before it; for these
    the threshold is conservative. Features of images are denser in some regions than in others, so their tail is
    heavier; after whitening it is about exponential (benchmarks/audit_duplicates.py).

    Attributes
    ----------
    start, scale
        Start and scale of the tail, in Fisher's z.
    share
        Share of pairs beyond ``start``.
    n_pairs
        Number of pairs that the tail was fitted to.
    """

    start: float
    scale: float
    share: float
    n_pairs: int

    @classmethod
    def fit(cls, units: Floats, *, groups: ArrayLike | None = None, n_rows: int | None = None) -> Tail | None:
        """Fit the tail to all pairs of rows, without knowing which of them are copies.

        A row is assumed to have at most ten copies. Among ``n_rows`` rows, a share of ``10 / n_rows`` of all pairs may
        then be copies, and these are the most similar pairs. The scale is therefore estimated from the pairs between
        this share and ten times this share. The more similar pairs enter only by their number, as censored values.

        Parameters
        ----------
        units : float32 array of shape (n, dim)
            Rows of length 1, either all rows or a random sample; rows of zeros are ignored.
        groups : array of shape (n,), optional
            Pairs within a group are not unrelated and are ignored.
        n_rows
            Total number of rows; by default the number of rows given.

        Returns
        -------
        Tail or None
            None if it cannot be estimated: with fewer than 30 rows, or with too many equal rows.
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
        # The likelihood of exponential values censored at ``stop`` (Lawless, 2003, section 4.1).
        scale = float(((between - start).sum() + n_censored * (stop - start)) / len(between))
        return cls(float(start), scale, n_beyond / len(similar), len(similar)) if scale > 0 else None

    def threshold(self, rate: float) -> float:
        """Return the similarity that a share ``rate`` of unrelated pairs exceeds."""
        if not 0 < rate < 1:
            raise InputError(f"the false alarm rate must be between 0 and 1, such as 1e-5, but is {rate}.")
        return float(np.tanh(self.start + self.scale * np.log(self.share / rate)))

    def rate(self, threshold: float) -> float:
        """Return the share of unrelated pairs that exceed a similarity; at most the share beyond ``start``."""
        z = np.arctanh(min(threshold, NO_ANGLE))
        return float(self.share * np.exp(-max(z - self.start, 0.0) / self.scale))


def _unrelated(units: Floats, groups: Rows | None) -> Iterator[Floats]:
    """Yield the similarities of all pairs of rows from different groups."""
    for first in range(0, len(units), _QUERIES):
        some = slice(first, first + _QUERIES)
        similar = units[some] @ units.T
        keep = np.arange(len(units)) > np.arange(len(units))[some, None]
        if groups is not None:
            keep &= groups[some, None] != groups
        yield similar[keep]


def pairs_above(
    units: Floats,
    threshold: float,
    *,
    queries: Rows | None = None,
    progress: Callable[[int], None] | None = None,
    backend: Backend = NUMPY,
) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Find every pair of rows whose similarity is at least ``threshold``, one block of the matrix at a time.

    Parameters
    ----------
    units : float32 array of shape (n, dim)
        Rows of length 1; rows of zeros are never found.
    threshold
        Smallest similarity, above 0.
    queries : int64 array of shape (n_queries,), optional
        Find only pairs of these rows with any other row, with the query as ``i``; by default all pairs, once each.
    progress
        Called with the number of finished rows.
    backend
        Where rows are compared. In float32, so that a similarity within rounding of the threshold, about 1e-6, may be
        found on one and not on another.

    Yields
    ------
    i, j : int64 array of shape (n_found,)
        Row numbers; i < j when there are no ``queries``.
    similarity : float32 array of shape (n_found,)
    """
    if not threshold > 0:
        raise InputError(f"the similarity threshold must be above 0, but is {threshold}.")
    n = len(units)
    asked = np.arange(n) if queries is None else queries
    n_queries, n_columns = (_QUERIES, _COLUMNS) if backend.is_numpy else _ON_DEVICE
    there = backend.put(units)
    for first in range(0, len(asked), n_queries):
        some = asked[first : first + n_queries]
        rows = there[some]
        for start in range(first if queries is None else 0, n, n_columns):
            similar = (rows @ there[start : start + n_columns].T).reshape(-1)
            # Much faster than the nonzero entries of the matrix, since few pairs are found.
            (found,) = backend.xp.nonzero(similar >= threshold)
            width = min(n_columns, n - start)
            flat, similar = to_numpy(found), to_numpy(similar[found])
            i, j = some[flat // width], flat % width + start
            keep = i < j if queries is None else i != j
            if keep.any():
                yield i[keep], j[keep], similar[keep]
        if progress is not None:
            progress(min(first + n_queries, len(asked)))


def components(n: int, i: ArrayLike, j: ArrayLike) -> Rows:
    """Return the cluster number of each row, int64, of shape ``(n,)``; pairs link rows into clusters.

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
