"""Approximate nearest neighbours by cosine: an index of FAISS over the rows of a feature array."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._extras import need
from headwater.errors import InputError, nearest
from headwater.retrieve.exact import Exclude, Features, Mask, Rows, Scores, blocks, check, search, unit

Kind = Literal["flat", "ivf", "hnsw", "ivfpq"]

_POINTS_PER_CENTRE = 39  # FAISS warns of centres trained on fewer
_MOST_TRAINED_ON = 131_072  # rows: 512 MiB of float32 at 1,024 dimensions
_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 32, 100, 64  # of the HNSW graph
_LEAST_SHARE = 1 / 8  # of rows allowed: of fewer, each is compared, which is as fast and exact


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """An index over the usable rows of a feature array. Made by `build_index`.

    Attributes
    ----------
    kind
        "flat" compares with every vector; "ivf" with those in the lists nearest to the query; "hnsw" walks a graph;
        "ivfpq" is "ivf" with compressed vectors, so its scores are approximate too.
    dim
        Length of the vectors.
    n_rows
        Number of rows of the feature array, those included that are not in the index because they were NaN or zero.
    native
        The FAISS index; its ids are row numbers.
    """

    kind: Kind
    dim: int
    n_rows: int
    native: Any

    @property
    def n_vectors(self) -> int:
        """Number of rows that are in the index."""
        return int(self.native.ntotal)

    def search(
        self,
        queries: NDArray[Any],
        k: int,
        *,
        rows: ArrayLike | None = None,
        exclude: Exclude | None = None,
    ) -> tuple[Scores, Rows]:
        """Find `k` rows similar to each query: takes and returns what the exact `headwater.retrieve.search` does.

        With `exclude`, more rows are fetched than asked for. Where `rows` allows less than an eighth of the rows, and
        for a query that still lacks rows, every allowed vector of the index is compared: rows are missing from the
        result only where there are none.

        Parameters
        ----------
        queries : float array of shape (n_queries, dim)
        k
            How many rows to find for each query.
        rows : bool array of shape (n_rows,) or int array of shape (n_allowed,), optional
            The rows that may be found.
        exclude : (int array of shape (n_rows,), int array of shape (n_queries,)), optional
            The group of each row and of each query; a row of the query's own group is not found for it.

        Returns
        -------
        scores : float32 array of shape (n_queries, k)
            Cosine similarities, highest first; -inf where nothing more could be found.
        rows : int64 array of shape (n_queries, k)
            Row numbers; -1 beside -inf.

        Raises
        ------
        InputError
            When shapes do not fit, a query is zero or not finite, or `k` is not positive.
        """
        wanted, allowed, groups = check((self.n_rows, self.dim), queries, k, rows, exclude)
        scores = np.full((len(wanted), k), -np.inf, dtype=np.float32)
        found = np.full((len(wanted), k), -1, dtype=np.int64)
        lacking = np.arange(len(wanted))
        share = 1.0 if allowed is None else float(allowed.mean())
        for n_fetched in (k,) if groups is None else (2 * k, 8 * k):
            if len(lacking) == 0 or share < _LEAST_SHARE:
                break
            near, ids = self._near(wanted[lacking], min(n_fetched, self.n_vectors), allowed, share)
            if groups is not None:
                same = (groups[0][ids] == groups[1][lacking, None]) & (ids >= 0)
                near[same], ids[same] = -np.inf, -1
            _keep_best(scores, found, lacking, near, ids)
            lacking = lacking[found[lacking, -1] < 0]

        for queries_of_group, mask in _shared_masks(lacking, allowed, groups, self.n_rows):
            every = self._exhaustive(wanted[queries_of_group], min(k, self.n_vectors), mask)
            _keep_best(scores, found, queries_of_group, *every)
        return scores, found

    def _near(self, wanted: Scores, k: int, allowed: Mask | None, share: float) -> tuple[Scores, Rows]:
        """Search as this kind does, the more widely the fewer rows are allowed."""
        faiss = load_faiss()
        selector = None if allowed is None else _selector(faiss, allowed)
        if self.kind == "flat":
            params = faiss.SearchParameters(sel=selector)
        elif self.kind == "hnsw":
            breadth = round(max(_SEARCH_BREADTH, 2 * k) / share)
            params = faiss.SearchParametersHNSW(sel=selector, efSearch=breadth)
        else:
            n_lists = faiss.extract_index_ivf(self.native).nlist
            n_probed = min(n_lists, round(max(8, 2 * math.sqrt(n_lists)) / share))
            params = faiss.SearchParametersIVF(sel=selector, nprobe=n_probed)
        return _clean(*self.native.search(wanted, k, params=params))

    def _exhaustive(self, wanted: Scores, k: int, allowed: Mask) -> tuple[Scores, Rows]:
        """Compare with every allowed vector of the index."""
        faiss = load_faiss()
        if self.kind in ("ivf", "ivfpq"):
            n_lists = faiss.extract_index_ivf(self.native).nlist
            params = faiss.SearchParametersIVF(sel=_selector(faiss, allowed), nprobe=n_lists)
            return _clean(*self.native.search(wanted, k, params=params))
        row_of_place = faiss.vector_to_array(self.native.id_map)
        inner = faiss.downcast_index(self.native.index)
        vectors = faiss.downcast_index(inner.storage) if self.kind == "hnsw" else inner
        params = faiss.SearchParameters(sel=_selector(faiss, allowed[row_of_place]))
        scores, places = _clean(*vectors.search(wanted, k, params=params))
        return scores, np.where(places < 0, -1, row_of_place[places])


def build_index(
    X: Features | NDArray[Any],
    kind: Kind = "flat",
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> VectorIndex:
    """Build an index over the rows of a feature array, block by block.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
        Scaled to length 1 on the way in. Rows that hold NaN or infinity and rows of zeros are left out.
    kind
        "flat", "ivf", "hnsw" or "ivfpq": see `VectorIndex`. Parameters are chosen from the shape.
    seed
        Of the rows that are trained on, at most 131,072, and of the first centres of the lists. An "hnsw" graph that
        several threads build still differs a little from one time to the next.
    progress
        Called after each block with the number of rows done and of rows in all.

    Raises
    ------
    InputError
        When there are too few rows for the kind, no usable row at all, or `dim` cannot be divided for "ivfpq".
    MissingExtra
        When FAISS is not installed.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float16)
    >>> index = build_index(X, "flat")
    >>> scores, rows = index.search(X[:1], k=1)
    >>> int(rows[0, 0])
    0
    """
    if kind not in get_args(Kind):
        known = get_args(Kind)
        raise InputError(f"there is no index of kind {kind!r}: {', '.join(known)}.{nearest(kind, known)}")
    if len(X.shape) != 2:
        raise InputError(f"features of shape {X.shape} cannot be indexed: (n_rows, dim) is needed, so pooled ones.")
    n_rows, dim = X.shape
    native = _empty(X, kind, seed)
    for span, block in blocks(X):
        vectors, usable = unit(block)
        native.add_with_ids(vectors[usable], np.arange(span.start, span.stop)[usable])
        if progress is not None:
            progress(span.stop, n_rows)
    if native.ntotal == 0:
        raise InputError(f"none of the {n_rows} rows can be indexed: they are NaN or zero.")
    return VectorIndex(kind, dim, n_rows, native)


def plan(kind: Kind, n_rows: int, n_sample: int, dim: int) -> str:
    """Choose the parameters of an index, as a FAISS factory string.

    Parameters
    ----------
    kind
        Kind of index.
    n_rows
        Number of rows to index: 4 times its square root lists for "ivf" and "ivfpq".
    n_sample
        Number of rows to train on; each centre, of a list or of a code, is to have 39 of them or more.
    dim
        Length of the vectors; "ivfpq" cuts them into pieces of 4 to 16 numbers, a code each.

    Raises
    ------
    InputError
        When there are too few rows to train on, or `dim` has no such divisor.

    Examples
    --------
    >>> plan("ivf", 10_000, 10_000, 768)
    'IVF256,Flat'
    >>> plan("ivfpq", 1_000_000, 131_072, 768)
    'IVF3360,PQ192x8np'
    """
    if kind == "flat":
        return "IDMap,Flat"
    if kind == "hnsw":
        return f"IDMap,HNSW{_LINKS},Flat"
    n_centres = n_sample // _POINTS_PER_CENTRE
    fewest = 4 if kind == "ivf" else 16
    if n_centres < fewest:
        raise InputError(
            f"an index of kind {kind} is trained on {fewest * _POINTS_PER_CENTRE} usable rows or more, but there are "
            f"{n_sample}: use flat, which is exact and fast for so few."
        )
    n_lists = min(round(4 * math.sqrt(n_rows)), n_centres)
    if kind == "ivf":
        return f"IVF{n_lists},Flat"
    n_pieces = max(m for m in range(1, max(dim // 4, 1) + 1) if dim % m == 0)
    if dim > 16 * n_pieces:
        raise InputError(f"vectors of length {dim} cannot be cut into equal pieces for ivfpq: use ivf or hnsw.")
    n_bits = min(8, n_centres.bit_length() - 1)
    return f"IVF{n_lists},PQ{n_pieces}x{n_bits}np"  # np: without the training for a search mode not used here


def recall_at_10(index: VectorIndex, X: Features | NDArray[Any], *, n_queries: int = 256, seed: int = 0) -> float:
    """Measure which share of the true ten nearest neighbours an index finds.

    Parameters
    ----------
    index
        Built over `X`.
    X : float array or array-like of shape (n_rows, dim)
        Searched exactly, once, for the truth.
    n_queries
        Number of rows of `X` to search with, drawn at random; a row does not count as a neighbour of itself.
    seed
        Of the draw.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    InputError
        When the index is over an array of another shape, or has fewer than two vectors.
    """
    if tuple(X.shape) != (index.n_rows, index.dim):
        raise InputError(f"the index is over features of shape {(index.n_rows, index.dim)}, not {tuple(X.shape)}.")
    if index.n_vectors < 2:
        raise InputError("the index has one vector, which has no neighbour.")
    inside = np.concatenate([span.start + np.flatnonzero(unit(block)[1]) for span, block in blocks(X)])
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(inside, min(n_queries, len(inside)), replace=False, shuffle=False))
    itself = (np.arange(index.n_rows), chosen)
    queries = X[chosen]
    _, true = search(X, queries, 10, exclude=itself)
    _, found = index.search(queries, 10, exclude=itself)
    hits = (true[:, :, None] == found[:, None, :]) & (true >= 0)[:, :, None]
    return float(hits.sum() / (true >= 0).sum())


def load_faiss() -> Any:
    """Import FAISS and return it."""
    with warnings.catch_warnings():
        # Types that SWIG generates have no __module__, of which some Python versions warn while FAISS is imported.
        warnings.filterwarnings("ignore", "builtin type .* has no __module__", DeprecationWarning)
        return need("faiss", extra="retrieve")


def _empty(X: Features | NDArray[Any], kind: Kind, seed: int) -> Any:
    """Return a FAISS index that is trained, if its kind is trained, and empty."""
    faiss = load_faiss()
    n_rows, dim = X.shape
    if kind in ("flat", "hnsw"):
        native = faiss.index_factory(dim, plan(kind, n_rows, 0, dim), faiss.METRIC_INNER_PRODUCT)
        if kind == "hnsw":
            faiss.downcast_index(native.index).hnsw.efConstruction = _BUILD_BREADTH
        return native
    if n_rows <= _MOST_TRAINED_ON:
        drawn = np.arange(n_rows)
    else:
        drawn = np.sort(np.random.default_rng(seed).choice(n_rows, _MOST_TRAINED_ON, replace=False, shuffle=False))
    vectors, usable = unit(X[drawn])
    sample = vectors[usable]
    native = faiss.index_factory(dim, plan(kind, n_rows, len(sample), dim), faiss.METRIC_INNER_PRODUCT)
    native.cp.seed = seed
    native.train(sample)
    return native


def _selector(faiss: Any, allowed: Mask) -> Any:
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _clean(scores: Scores, ids: Rows) -> tuple[Scores, Rows]:
    """Write -inf where FAISS found nothing, and put ids of equal scores in order."""
    scores = np.where(ids < 0, -np.inf, scores.clip(-1, 1)).astype(np.float32)
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _keep_best(scores: Scores, rows: Rows, queries: Rows, near: Scores, ids: Rows) -> None:
    """Write the first finds of some queries over what they had, in place; finds struck out come last."""
    order = np.argsort(-near, axis=1, kind="stable")[:, : scores.shape[1]]
    n_found = order.shape[1]
    scores[queries, :n_found] = np.take_along_axis(near, order, axis=1)
    rows[queries, :n_found] = np.take_along_axis(ids, order, axis=1)


def _shared_masks(
    queries: Rows, allowed: Mask | None, groups: tuple[Rows, Rows] | None, n_rows: int
) -> Iterator[tuple[Rows, Mask]]:
    """Yield the queries of each group with the rows that may be found for them."""
    if len(queries) == 0:
        return
    everything = np.ones(n_rows, dtype=np.bool_) if allowed is None else allowed
    if groups is None:
        yield queries, everything
        return
    of_rows, of_queries = groups
    for group in np.unique(of_queries[queries]):
        yield queries[of_queries[queries] == group], everything & (of_rows != group)
