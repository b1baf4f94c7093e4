"""Approximate nearest neighbours by cosine: a FAISS index over the rows of a feature array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._backend import or_on_cpu
from headwater._devices import Device
from headwater.errors import InputError, nearest
from headwater.retrieve.asked import Asked, Exclude, check
from headwater.retrieve.cosine import Features, Mask, Rows, Scores, blocks, unit
from headwater.retrieve.gpu import MOST_FOUND, Lists, copy_on_gpu, uses_gpu
from headwater.retrieve.library import load_faiss

Kind = Literal["flat", "ivf", "hnsw", "ivfpq"]

_POINTS_PER_CENTRE = 39  # FAISS warns of centres trained on fewer
_MOST_TRAINED_ON = 131_072  # most rows to train on: 512 MiB of float32 at 1,024 dimensions
_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 32, 100, 64  # of the HNSW graph
_ROUNDS = 10  # of k-means, as FAISS sets them for lists
_LEAST_SHARE = 1 / 8  # if a smaller share of rows is allowed, all of them are compared, which is as fast and exact


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """An index over the usable rows of a feature array. Made by `build_index`.

    Attributes
    ----------
    kind
        "flat" compares the query with every vector; "ivf" with those in the lists nearest to the query; "hnsw" follows
        a graph of neighbours; "ivfpq" is "ivf" with compressed vectors, so its scores are approximate too.
    dim
        Length of the vectors.
    n_rows
        Number of rows of the feature array, including rows that are NaN or zero and so not in the index.
    native
        The FAISS index; its ids are row numbers.
    breadth
        How widely to search, so that a recall that was asked for is reached: lists to look in ("ivf", "ivfpq") or
        candidates to keep ("hnsw"). None for a default.
    n_dead
        Vectors of rows that were removed, which an "hnsw" graph cannot lose; their id is -1, and they are not found.
    """

    kind: Kind
    dim: int
    n_rows: int
    native: Any
    breadth: int | None = None
    n_dead: int = 0

    @property
    def n_vectors(self) -> int:
        """Number of rows that are in the index."""
        return int(self.native.ntotal) - self.n_dead

    def search(
        self,
        queries: NDArray[Any],
        k: int,
        *,
        rows: ArrayLike | None = None,
        exclude: Exclude | None = None,
        device: Device = "auto",
    ) -> tuple[Scores, Rows]:
        """Find `k` rows similar to each query; arguments and results are those of `headwater.retrieve.search`.

        With `exclude`, more than `k` rows are fetched first. If `rows` allows less than an eighth of the rows, or a
        query has too few results, every allowed vector of the index is compared. So a query gets fewer than `k` rows
        only if there are no more.

        Parameters
        ----------
        queries : float array of shape (n_queries, dim)
        k
            Number of rows to find for each query.
        rows : bool array of shape (n_rows,) or int array of shape (n_allowed,), optional
            The rows that may be found.
        exclude : (int array of shape (n_rows,), int array of shape (n_queries,)), optional
            The group of each row and of each query; rows in the query's own group are not found.
        device
            Where vectors are compared: ``cpu``; ``cuda`` for a copy of the index on a GPU, which is made for each call;
            or ``auto`` for a GPU if FAISS can use one and the work is worthwhile. FAISS cannot search an "hnsw" index,
            or only some of the `rows`, on a GPU.

        Returns
        -------
        scores : float32 array of shape (n_queries, k)
            Cosine similarities, highest first; -inf where nothing more could be found.
        rows : int64 array of shape (n_queries, k)
            Row numbers; -1 where the score is -inf.

        Raises
        ------
        InputError
            When shapes do not fit, a query is zero or not finite, or `k` is not positive. When a GPU is requested, but
            FAISS cannot use one for this search.
        DeviceMemory
            When a GPU that was requested runs out of memory.
        """
        asked = check((self.n_rows, self.dim), queries, k, rows, exclude)
        why_cpu = self._why_cpu(asked, k)
        if device == "cuda" and why_cpu is not None:
            raise InputError(f"device='cuda': FAISS searches {why_cpu} only on the CPU. Pass 'auto' or 'cpu'.")
        if not uses_gpu(device, 0.0 if why_cpu is not None else self._work(len(asked.queries))):
            return self._searched(asked, k, None)

        def compute(gpu: bool) -> tuple[Scores, Rows]:
            return self._searched(asked, k, self._copy(device) if gpu else None)

        return or_on_cpu(compute, True, False, requested=device == "cuda", what="search in an index")

    def _why_cpu(self, asked: Asked, k: int) -> str | None:
        """Say what it is that FAISS cannot search for on a GPU; None if it can."""
        if self.kind == "hnsw":
            return "an hnsw index"
        if asked.allowed is not None:
            return "a part of the rows"
        most = MOST_FOUND if asked.of_rows is None else MOST_FOUND // 8  # with exclude, more than k are fetched
        return f"for more than {most:,} neighbours" if k > most else None

    def _work(self, n_queries: int) -> float:
        """Return about how many operations a search takes."""
        compared: float = self.n_vectors
        if self.kind in ("ivf", "ivfpq"):
            n_lists = self.n_lists
            compared = n_lists + self.n_vectors * self._n_probed(1.0) / n_lists
        return 2.0 * n_queries * self.dim * compared

    def _copy(self, device: Device) -> Any:
        """Return a copy of the FAISS index on a GPU; None if that is impossible and was not requested."""
        try:
            return copy_on_gpu(self.native, half=self.kind == "ivfpq")
        except InputError:
            if device == "cuda":
                raise
            return None

    @cached_property
    def n_lists(self) -> int:
        """Number of lists of an "ivf" or "ivfpq" index."""
        return int(load_faiss().extract_index_ivf(self.native).nlist)

    def _n_probed(self, share: float) -> int:
        """Return in how many lists to look, if a share of the rows is allowed."""
        n_lists = self.n_lists
        return min(n_lists, round((self.breadth or max(8, 2 * math.sqrt(n_lists))) / share))

    def _searched(self, asked: Asked, k: int, copy: Any) -> tuple[Scores, Rows]:
        """Search with the index, or with its copy on a GPU; then compare every vector for what it lacks."""
        wanted, allowed = asked.queries, asked.allowed
        groups = None if asked.of_rows is None or asked.group is None else (asked.of_rows, asked.group)
        if groups is None and allowed is None and k <= self.n_vectors:
            near, ids = self._near(wanted, k, None, 1.0, copy)
            if ids.min(initial=0) >= 0:
                return near, ids
        scores = np.full((len(wanted), k), -np.inf, dtype=np.float32)
        found = np.full((len(wanted), k), -1, dtype=np.int64)
        lacking = np.arange(len(wanted))
        share = 1.0 if allowed is None else float(allowed.mean())
        for n_fetched in (k,) if groups is None else (2 * k, 8 * k):
            if len(lacking) == 0 or share < _LEAST_SHARE:
                break
            near, ids = self._near(wanted[lacking], min(n_fetched, self.n_vectors), allowed, share, copy)
            if groups is not None:
                same = (groups[0][ids] == groups[1][lacking, None]) & (ids >= 0)
                near[same], ids[same] = -np.inf, -1
            _keep_best(scores, found, lacking, near, ids)
            lacking = lacking[found[lacking, -1] < 0]

        for queries_of_group, mask in _shared_masks(lacking, allowed, groups, self.n_rows):
            every = self._exhaustive(wanted[queries_of_group], min(k, self.n_vectors), mask)
            _keep_best(scores, found, queries_of_group, *every)
        return scores, found

    def _near(
        self, wanted: Scores, k: int, allowed: Mask | None, share: float, copy: Any = None
    ) -> tuple[Scores, Rows]:
        """Search with the index; the fewer rows are allowed, the wider the search."""
        faiss = load_faiss()
        if copy is not None:
            if self.kind != "flat":
                copy.nprobe = self._n_probed(share)
            return _clean(*copy.search(wanted, k))
        selector = None if allowed is None else _selector(faiss, allowed)
        if selector is None and self.n_dead:
            selector = faiss.IDSelectorRange(0, self.n_rows)
        if self.kind == "flat":
            params = faiss.SearchParameters(sel=selector)
        elif self.kind == "hnsw":
            breadth = round(max(self.breadth or _SEARCH_BREADTH, 2 * k if self.breadth is None else k) / share)
            params = faiss.SearchParametersHNSW(sel=selector, efSearch=breadth)
        else:
            params = faiss.SearchParametersIVF(sel=selector, nprobe=self._n_probed(share))
        return _clean(*self.native.search(wanted, k, params=params))

    def _exhaustive(self, wanted: Scores, k: int, allowed: Mask) -> tuple[Scores, Rows]:
        """Compare queries with every allowed vector of the index."""
        faiss = load_faiss()
        if self.kind in ("ivf", "ivfpq"):
            params = faiss.SearchParametersIVF(sel=_selector(faiss, allowed), nprobe=self.n_lists)
            return _clean(*self.native.search(wanted, k, params=params))
        row_of_place = faiss.vector_to_array(self.native.id_map)
        inner = faiss.downcast_index(self.native.index)
        vectors = faiss.downcast_index(inner.storage) if self.kind == "hnsw" else inner
        there = (row_of_place >= 0) & allowed[np.maximum(row_of_place, 0)]
        params = faiss.SearchParameters(sel=_selector(faiss, there))
        scores, places = _clean(*vectors.search(wanted, k, params=params))
        return scores, np.where(places < 0, -1, row_of_place[places])


def build_index(
    X: Features | NDArray[Any],
    kind: Kind = "flat",
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    device: Device = "auto",
) -> VectorIndex:
    """Build an index over the rows of a feature array, block by block.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
        Rows are scaled to length 1. Rows with NaN or infinity and rows of zeros are left out.
    kind
        "flat", "ivf", "hnsw" or "ivfpq": see `VectorIndex`. Parameters are chosen from the shape.
    seed
        Seed for drawing the rows to train on, at most 131,072, and the initial centres of the lists. An "hnsw" graph
        built by several threads still varies slightly between runs.
    progress
        Called after each block with the number of finished rows and the number of all rows.
    device
        Where k-means runs and lists are chosen: ``cpu``, ``cuda``, or ``auto`` for a GPU if FAISS can use one and the
        work is worthwhile. The index itself is on the CPU. "flat" and "hnsw" are built on the CPU.

    Raises
    ------
    InputError
        When there are too few rows for the kind, no usable row at all, or `dim` cannot be divided for "ivfpq". When a
        GPU is requested, but FAISS cannot use one, or not for this kind.
    MissingExtra
        When FAISS is not installed.
    DeviceMemory
        When a GPU that was requested runs out of memory.

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
        raise InputError(f"there is no index of kind {kind!r}.{nearest(kind, known)} There are: {', '.join(known)}.")
    if len(X.shape) != 2:
        raise InputError(f"features of shape {X.shape} cannot be indexed. Give pooled ones, of shape (n_rows, dim).")
    n_rows, dim = X.shape

    def compute(gpu: bool) -> Any:
        native, add = _empty(X, kind, seed, gpu)
        for span, block in blocks(X):
            vectors, usable = unit(block)
            add(vectors[usable], np.arange(span.start, span.stop)[usable])
            if progress is not None:
                progress(span.stop, n_rows)
        return native

    if trains_on_gpu(kind, n_rows, dim, device):
        native = or_on_cpu(compute, True, False, requested=device == "cuda", what=f"{kind} index")
    else:
        native = compute(False)
    if native.ntotal == 0:
        raise InputError(f"none of the {n_rows} rows can be indexed: all are NaN, infinite or zero.")
    return VectorIndex(kind, dim, n_rows, native)


def trains_on_gpu(kind: Kind, n_rows: int, dim: int, device: Device) -> bool:
    """Whether an index of a kind is trained and its lists are chosen on a GPU.

    Raises
    ------
    InputError
        When a GPU is requested, but FAISS cannot use one, or not for this kind.
    """
    if kind in ("flat", "hnsw"):
        if device == "cuda":
            raise InputError(
                f"--device cuda: FAISS builds an index of kind {kind} on the CPU. Pass --kind ivf or ivfpq, or leave "
                "--device out."
            )
        return uses_gpu(device, 0.0)
    n_sample = min(n_rows, _MOST_TRAINED_ON)
    compared = lists_for(n_rows, n_sample) * (_ROUNDS * n_sample + n_rows)
    return uses_gpu(device, 2.0 * dim * compared)


def plan(kind: Kind, n_rows: int, n_sample: int, dim: int) -> str:
    """Choose the parameters of an index, as a FAISS factory string.

    Parameters
    ----------
    kind
        Kind of index.
    n_rows
        Number of rows to index; "ivf" and "ivfpq" get 4 times its square root of lists.
    n_sample
        Number of rows to train on; each centre of a list or a code needs at least 39.
    dim
        Length of the vectors; "ivfpq" divides them into pieces of 4 to 16 numbers, with one code each.

    Raises
    ------
    InputError
        When there are too few rows to train on, or `dim` cannot be divided into such pieces.

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
            f"an index of kind {kind} needs at least {fewest * _POINTS_PER_CENTRE} usable rows, but there are "
            f"{n_sample}. Use flat, which is exact, and fast for so few rows."
        )
    n_lists = lists_for(n_rows, n_sample)
    if kind == "ivf":
        return f"IVF{n_lists},Flat"
    n_pieces = max(m for m in range(1, max(dim // 4, 1) + 1) if dim % m == 0)
    if dim > 16 * n_pieces:
        raise InputError(f"vectors of length {dim} cannot be divided into equal pieces for ivfpq. Use ivf or hnsw.")
    n_bits = min(8, n_centres.bit_length() - 1)
    return f"IVF{n_lists},PQ{n_pieces}x{n_bits}np"  # np: without the training for a search mode not used here


def lists_for(n_rows: int, n_sample: int | None = None) -> int:
    """Return the number of lists of an index of some rows, trained on a sample; by default on as many as it takes."""
    n_sample = min(n_rows, _MOST_TRAINED_ON) if n_sample is None else n_sample
    return min(round(4 * math.sqrt(n_rows)), n_sample // _POINTS_PER_CENTRE)


def _empty(X: Features | NDArray[Any], kind: Kind, seed: int, gpu: bool) -> tuple[Any, Callable[[Scores, Rows], None]]:
    """Return an empty FAISS index, trained if its kind needs training, and what adds vectors with their ids."""
    faiss = load_faiss()
    n_rows, dim = X.shape
    if kind in ("flat", "hnsw"):
        native = faiss.index_factory(dim, plan(kind, n_rows, 0, dim), faiss.METRIC_INNER_PRODUCT)
        if kind == "hnsw":
            faiss.downcast_index(native.index).hnsw.efConstruction = _BUILD_BREADTH
        return native, native.add_with_ids
    if n_rows <= _MOST_TRAINED_ON:
        drawn = np.arange(n_rows)
    else:
        drawn = np.sort(np.random.default_rng(seed).choice(n_rows, _MOST_TRAINED_ON, replace=False, shuffle=False))
    vectors, usable = unit(X[drawn])
    sample = vectors[usable]
    native = faiss.index_factory(dim, plan(kind, n_rows, len(sample), dim), faiss.METRIC_INNER_PRODUCT)
    native.cp.seed = seed
    if gpu:
        lists = Lists(native)
        lists.train(sample)
        return native, lists.add
    native.train(sample)
    return native, native.add_with_ids


def _selector(faiss: Any, allowed: Mask) -> Any:
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _clean(scores: Scores, ids: Rows) -> tuple[Scores, Rows]:
    """Write -inf where FAISS found nothing, and sort ids of equal scores."""
    scores = np.where(ids < 0, np.float32(-np.inf), np.minimum(np.maximum(scores, -1), 1))
    if ids.shape[1] < 2 or (scores[:, :-1] > scores[:, 1:]).all():
        return scores, ids
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _keep_best(scores: Scores, rows: Rows, queries: Rows, near: Scores, ids: Rows) -> None:
    """Replace the results of some queries by their best new finds, in place; excluded finds come last."""
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
