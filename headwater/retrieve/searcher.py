"""Exact search of the same rows again and again, such as by a server: the lengths of rows are computed once.

A row's similarity to a query is their product divided by the row's length. So rows are read as they are stored, and
nothing is normalised again for each query.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from headwater.errors import InputError
from headwater.retrieve._candidates import Candidates
from headwater.retrieve.asked import Asked, Exclude, allowed_rows, check, require_matrix
from headwater.retrieve.cosine import Features, Mask, Rows, Scores, blocks, unit
from headwater.retrieve.half import HALF_SCALE, INFINITE_HALF, as_floats, finite_halves

UNKNOWN = -1.0
"""Length of a row that was not computed yet."""
_FEW = 4  # with at most so many queries, each is a product of a matrix and a vector, in threads of our own
_SOME = 64  # with at most so many queries, rows are shared among threads of our own, each with BLAS on one core
_FEW_NUMBERS = (
    393_216  # numbers to convert at once then: 1.5 MiB of float32 stay in a core's cache, and BLAS starts no threads
)
_FEW_ROWS, _MANY_ROWS = 8192, 4096  # rows whose similarities are looked at together, for few and for many queries
_QUERIES_AT_ONCE = 1024  # so that the similarities of a step take 16 MiB
_MOST_THREADS = 16  # which read as fast as memory is
_WORTHWHILE = 20_000_000  # numbers to read, below which starting threads takes longer than they save
_SPARSE = 1 / 8  # if a smaller share of rows is allowed, these are gathered from anywhere
_GATHERED = 1 / 2  # within a step
_LEAST, _MOST = 2.0**-40, 2.0**40  # lengths of rows whose products in float32 neither overflow nor lose digits
_LIMITS = 1e-37, 3e38  # of recorded lengths
_NONE = np.arange(0)


class Searcher:
    """Search rows for those most similar to a query, by cosine, exactly, as often as needed.

    It may be used by several threads at once.

    Parameters
    ----------
    X : float array or array-like of shape (n_rows, dim)
        Rows of any length, in memory or mapped. They are not copied, and must not change.
    lengths : float32 array of shape (n_rows,), optional
        What `lengths` returned for the same rows before. By default they are computed as rows are first searched.
    n_threads
        Threads for few queries; by default one for each available core, at most 16 and at most ``OMP_NUM_THREADS``.
        Many queries at once use the threads of the BLAS library.
    keep
        Whether to keep the lengths, 4 bytes for each row; else every search computes them.

    Raises
    ------
    InputError
        When shapes do not fit.

    Examples
    --------
    >>> searcher = Searcher(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))
    >>> scores, rows = searcher.search(np.array([[0.0, 1.0]]), k=2)
    >>> rows
    array([[1, 2]])
    >>> searcher.search(np.array([[0.0, 1.0]]), k=1, rows=[0, 2])[1]
    array([[2]])
    """

    def __init__(
        self,
        X: Features | NDArray[Any],
        lengths: NDArray[np.float32] | None = None,
        *,
        n_threads: int | None = None,
        keep: bool = True,
    ) -> None:
        require_matrix(X.shape)
        self.X = X
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.n_threads = n_threads or _threads()
        n_rows = self.shape[0]
        if lengths is not None and lengths.shape != (n_rows,):
            raise InputError(f"lengths must have shape ({n_rows},), but have {lengths.shape}.")
        if lengths is None and keep:
            lengths = np.full(n_rows, UNKNOWN, np.float32)
        self._lengths = lengths
        self._n_rows = n_rows
        self._numbers: Rows | None = None  # of these rows among those of another searcher

    def __repr__(self) -> str:
        return f"Searcher(shape={self.shape}, dtype={self.X.dtype})"

    def lengths(self) -> NDArray[np.float32]:
        """Return the length of each row, float32, of shape ``(n_rows,)``; 0 if it is zero or not finite."""
        kept = np.full(self.shape[0], UNKNOWN, np.float32) if self._lengths is None else self._lengths
        if (kept < 0).any():
            for span, block in blocks(self.X):
                kept[span] = row_lengths(block)
        return kept

    def search(
        self, queries: NDArray[Any], k: int, *, rows: ArrayLike | None = None, exclude: Exclude | None = None
    ) -> tuple[Scores, Rows]:
        """Find the `k` rows most similar to each query, on the CPU.

        Arguments, results and errors are those of `headwater.retrieve.search`, which says how equal scores are ordered.
        """
        shape = (self._n_rows, self.shape[1])
        asked = check(shape, np.asarray(queries), k, rows, exclude)
        if self._numbers is None:
            return self.found(asked, k)
        allowed = None if asked.allowed is None else asked.allowed[self._numbers]
        of_rows = None if asked.of_rows is None else asked.of_rows[self._numbers]
        scores, places = self.found(Asked(asked.queries, asked.given, allowed, of_rows, asked.group), k)
        if not len(self._numbers):
            return scores, places
        return scores, np.where(places < 0, -1, self._numbers[np.maximum(places, 0)])

    def only(self, rows: ArrayLike) -> Searcher:
        """Return a searcher of some rows alone, for a filter that is used again: it holds copies of these rows.

        Its results, and what is passed to its `search`, number the rows of this searcher.

        Parameters
        ----------
        rows : bool array of shape (n_rows,) or int array of shape (n_allowed,)
            The rows that may be found.
        """
        chosen = np.flatnonzero(allowed_rows(rows, self._n_rows))
        if self._numbers is not None:
            chosen = chosen[np.isin(chosen, self._numbers)]
            places = np.searchsorted(self._numbers, chosen)
        else:
            places = chosen
        lengths = None if self._lengths is None else self._lengths[places]
        part = Searcher(np.ascontiguousarray(self.X[places]), lengths, n_threads=self.n_threads)
        part._numbers, part._n_rows = chosen, self._n_rows
        return part

    def found(self, asked: Asked, k: int) -> tuple[Scores, Rows]:
        """Search for what was validated."""
        m, (_, dim) = len(asked.queries), self.shape
        pieces = _Pieces(self._pieces(asked.allowed))
        if m > _SOME:
            parts = (slice(first, min(first + _QUERIES_AT_ONCE, m)) for first in range(0, m, _QUERIES_AT_ONCE))
            found = [(some, Candidates(asked, k, some, dim)) for some in parts]
            self._scan(pieces, asked, found)
        else:
            found = [(slice(0, m), Candidates(asked, k, slice(0, m), dim))]
            n_read = (self.shape[0] if asked.allowed is None else int(asked.allowed.sum())) * dim
            n_threads = self.n_threads if n_read > _WORTHWHILE else 1
            others = [Candidates(asked, k, slice(0, m), dim) for _ in range(n_threads - 1)]
            workers = [_Worker(self._scan, pieces, asked, [(slice(0, m), other)]) for other in others]
            with nullcontext() if m <= _FEW else _one_thread_of_blas():
                for worker in workers:
                    worker.start()
                try:
                    self._scan(pieces, asked, found)
                finally:
                    pieces.stop()
                    for worker in workers:
                        worker.join()
            for worker, other in zip(workers, others, strict=True):
                if worker.error is not None:
                    raise worker.error
                found[0][1].take_in(other)
        scores, rows = zip(*(candidates.best(self.X) for _, candidates in found), strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _pieces(self, allowed: Mask | None) -> Iterator[tuple[Rows | slice, NDArray[Any]]]:
        """Yield rows that may be found, with their numbers, a block at a time."""
        if allowed is None:
            yield from blocks(self.X)
            return
        chosen = np.flatnonzero(allowed)
        if len(chosen) < _SPARSE * len(allowed):
            for start in range(0, len(chosen), _MANY_ROWS):
                some = chosen[start : start + _MANY_ROWS]
                yield some, self.X[some]
            return
        for span, block in blocks(self.X):
            there = np.flatnonzero(allowed[span])
            if len(there) == span.stop - span.start:
                yield span, block
            elif len(there):
                yield there + span.start, _Some(block, there)  # type: ignore[misc]

    def _scan(self, pieces: _Pieces, asked: Asked, found: list[tuple[slice, Candidates]]) -> None:
        """Compare the queries with rows until no piece is left."""
        few, some, dim = len(asked.queries) <= _FEW, len(asked.queries) <= _SOME, self.shape[1]
        step = _FEW_ROWS if few else _MANY_ROWS
        at_once = min(step, max(1, _FEW_NUMBERS // max(dim, 1))) if some else step
        buffer = np.empty((at_once, dim), np.float32)
        similar = np.empty((min(len(asked.queries), _QUERIES_AT_ONCE), step), np.float32)
        scaled = asked.queries * np.float32(HALF_SCALE)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of rows that are zero or not finite
            for numbers, block in pieces:
                n = len(numbers) if isinstance(numbers, np.ndarray) else numbers.stop - numbers.start
                for start in range(0, n, step):
                    stop = min(start + step, n)
                    these: Rows | slice
                    if isinstance(numbers, slice):
                        these = slice(numbers.start + start, numbers.start + stop)
                    else:
                        these = numbers[start:stop]
                    values = block[start:stop]
                    lengths = self._known(these, values, buffer)
                    unusable = np.flatnonzero(lengths == 0) if lengths.min() == 0 else _NONE
                    extreme = _are_extreme(lengths)
                    if extreme:
                        values = unit(values)[0]
                    inverse = np.float32(1) / lengths
                    queries = scaled if few and values.dtype == np.float16 else asked.queries
                    for part, candidates in found:
                        out = similar[: part.stop - part.start, : stop - start]
                        _multiply(queries[part], values, out, buffer, few)
                        if not extreme:
                            out *= inverse
                        if len(unusable):
                            out[:, unusable] = -np.inf
                        candidates.add(out, these)
                        if candidates.too_many():
                            candidates.settle(self.X)

    def _known(self, some: Rows | slice, values: NDArray[Any], buffer: Scores) -> Scores:
        """Return the lengths of some rows; remember them if they are computed, as several threads may do at once."""
        if self._lengths is None:
            return row_lengths(values, buffer)
        lengths = self._lengths[some]
        if lengths.min() < 0:
            lengths = row_lengths(values, buffer)
            self._lengths[some] = lengths
        return lengths


@contextmanager
def _one_thread_of_blas() -> Iterator[None]:
    """Let NumPy's BLAS compute in the thread that calls it."""
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    """Return the controller of NumPy's BLAS; cached, since finding the libraries takes a while."""
    return ThreadpoolController().select(internal_api="openblas")


def _are_extreme(lengths: Scores) -> bool:
    """Whether products of some rows may overflow in float32, or lose digits."""
    usable = lengths[lengths > 0]
    return bool(len(usable)) and not _LEAST < usable.min() <= usable.max() < _MOST


def _multiply(queries: Scores, values: NDArray[Any], out: Scores, buffer: Scores, few: bool) -> None:
    """Write the product of each query with each row, some rows at a time.

    Few queries are scaled for float16, as `as_floats` returns it. For more of them the rows are: their smallest numbers
    are subnormal before, and some processors take a hundred times as long for each product with one.
    """
    for start in range(0, len(values), len(buffer)):
        rows = as_floats(values[start : start + len(buffer)], buffer)
        part = out[:, start : start + len(rows)]
        if not few:
            if values.dtype == np.float16:
                rows *= np.float32(HALF_SCALE)
            np.matmul(queries, rows.T, out=part)
            continue
        for number, query in enumerate(queries):
            np.matmul(rows, query, out=part[number])


def row_lengths(values: NDArray[Any], buffer: Scores | None = None) -> NDArray[np.float32]:
    """Return the lengths of rows, float32, of shape ``(n,)``; 0 where a row is zero or not finite.

    Parameters
    ----------
    values : float array of shape (n, dim)
    buffer : float32 array of shape (n_at_once, dim), optional
        Memory to compute in.

    Examples
    --------
    >>> row_lengths(np.array([[3.0, 4.0], [np.nan, 1.0], [0.0, 0.0]]))
    array([5., 0., 0.], dtype=float32)
    """
    if values.dtype != np.float16:
        return _lengths_of_floats(values)
    n, dim = values.shape
    buffer = np.empty((max(1, min(n, _FEW_NUMBERS // max(dim, 1))), dim), np.float32) if buffer is None else buffer
    lengths = np.empty(n, np.float32)
    for start in range(0, n, len(buffer)):
        rows = as_floats(values[start : start + len(buffer)], buffer)
        rows *= np.float32(HALF_SCALE)
        np.einsum("ij,ij->i", rows, rows, out=lengths[start : start + len(rows)])
    np.sqrt(lengths, out=lengths)
    doubtful = np.flatnonzero(lengths >= INFINITE_HALF)
    lengths[doubtful[~finite_halves(values[doubtful])]] = 0
    return lengths


def _lengths_of_floats(values: NDArray[Any]) -> NDArray[np.float32]:
    if not values.shape[1]:
        return np.zeros(len(values), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.maximum(values.max(axis=1), -values.min(axis=1)).astype(np.float64)
        usable = np.isfinite(largest) & (largest > 0)
        if usable.all() and largest.max() < _MOST and largest.min() > _LEAST:
            exact = np.sqrt(np.einsum("ij,ij->i", values, values)).astype(np.float64)
        else:
            scaled = values / np.where(usable, largest, 1)[:, None].astype(values.dtype)
            exact = np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) * largest
    return np.where(usable, np.clip(exact, *_LIMITS), 0).astype(np.float32)


class _Some:
    """Some rows of a block, which are copied when a step takes them."""

    def __init__(self, block: NDArray[Any], there: Rows) -> None:
        self._block, self._there = block, there

    def __getitem__(self, some: slice) -> NDArray[Any]:
        chosen: NDArray[Any] = self._block[self._there[some]]
        return chosen


class _Pieces:
    """Pieces of rows that several threads take in turn, so that few are in memory at once."""

    def __init__(self, pieces: Iterator[tuple[Rows | slice, NDArray[Any]]]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[Rows | slice, NDArray[Any]]]:
        while True:
            with self._lock:
                piece = None if self._stopped else next(self._pieces, None)
            if piece is None:
                return
            yield piece

    def stop(self) -> None:
        """Let every thread end after its present piece."""
        self._stopped = True


class _Worker(threading.Thread):
    """A thread that keeps the error that ended it."""

    def __init__(self, work: Any, *args: Any) -> None:
        super().__init__(daemon=True)
        self._work, self._given = work, args
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the work."""
        try:
            self._work(*self._given)
        except BaseException as error:  # noqa: BLE001  (raised by the thread that waits)
            self.error = error


def _threads() -> int:
    """Return the number of threads to use by default."""
    available = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(available, int(wanted))) if wanted.isdigit() else available
