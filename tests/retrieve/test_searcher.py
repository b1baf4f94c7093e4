"""A searcher gives what `search` gives, as often as it is asked, from several threads and with rows of any length."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.retrieve import Searcher, search
from headwater.retrieve import searcher as module
from headwater.retrieve.half import HALF_SCALE, as_floats, finite_halves
from headwater.retrieve.searcher import row_lengths


def by_float64(X, queries, k, allowed=None, same=None):
    """Scores and rows of the best, from all cosines in float64."""
    X = X.astype(np.float64)
    largest = np.abs(X).max(1)
    usable = np.isfinite(largest) & (largest > 0)
    units = np.where(usable[:, None], X / np.where(usable, largest, 1)[:, None], 0)
    units /= np.where(usable, np.linalg.norm(units, axis=1), 1)[:, None]
    cosine = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ units.T
    cosine[:, ~usable] = -np.inf
    if allowed is not None:
        cosine[:, ~allowed] = -np.inf
    if same is not None:
        cosine[same] = -np.inf
    cosine = cosine.astype(np.float32)
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(cosine, rows, axis=1)
    return scores, np.where(np.isneginf(scores), -1, rows)


def agree(found, expected):
    """The same scores to a rounding, and the same rows."""
    np.testing.assert_allclose(found[0], expected[0], atol=2e-7)
    np.testing.assert_array_equal(found[1], expected[1])


def rows_of(dtype, n=3000, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim)) * rng.choice([1e-3, 1, 100], (n, 1))
    X[[5, n - 300]] = 0
    X[9, 3], X[n - 200, 0] = np.nan, np.inf
    return X.astype(dtype)


def test_every_half_is_converted_as_numpy_does():
    """All 65,536 numbers of float16, subnormal ones included; infinity and NaN are told apart from them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[:, None]
    finite = np.isfinite(halves)[:, 0]
    np.testing.assert_array_equal(finite_halves(halves), finite)
    converted = as_floats(halves) * np.float32(HALF_SCALE)
    np.testing.assert_array_equal(converted[finite], halves[finite].astype(np.float32))
    assert (np.abs(converted[~finite]) >= 65_536).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lengths(dtype):
    """Lengths are those of the rows in float64; rows that are zero or not finite have length 0."""
    X = rows_of(dtype)
    expected = np.linalg.norm(X.astype(np.float64), axis=1)
    expected[~np.isfinite(expected)] = 0
    np.testing.assert_allclose(row_lengths(X), expected, rtol=1e-6)
    np.testing.assert_array_equal(Searcher(X).lengths(), row_lengths(X))
    assert row_lengths(X)[[5, 9, 2700, 2800]].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n_queries", [1, 4, 5, 40])
@pytest.mark.parametrize("share", [None, 0.03, 0.3, 0.8])
def test_the_best_rows(dtype, n_queries, share):
    """For few and many queries, with and without a filter and exclusions, the first time and again."""
    X = rows_of(dtype)
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((n_queries, 24))
    allowed = None if share is None else rng.random(len(X)) < share
    group, own = rng.integers(0, 30, len(X)), rng.integers(0, 30, n_queries)
    searcher = Searcher(X)
    for _ in range(2):
        agree(searcher.search(queries, 12, rows=allowed), by_float64(X, queries, 12, allowed))
        found = searcher.search(queries, 12, rows=allowed, exclude=(group, own))
        agree(found, by_float64(X, queries, 12, allowed, own[:, None] == group))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_extreme_length(dtype):
    """Rows whose squares overflow or vanish in float32 are found as all others are."""
    X = rows_of(dtype, n=400)
    X = np.where(np.isfinite(X), X, 0)
    sizes = [1e-30, 1, 1e30] if dtype == np.float32 else [1e-200, 1e-30, 1, 1e30, 1e200]
    X = X * np.random.default_rng(2).choice(sizes, (400, 1)).astype(dtype)
    queries = np.random.default_rng(3).standard_normal((6, 24))
    searcher = Searcher(X)
    assert (searcher.lengths() > 0).sum() == X.any(1).sum()
    for some in (queries, queries[:1]):
        agree(searcher.search(some, 9), by_float64(X, some, 9))


def test_lengths_are_computed_once(monkeypatch):
    """Given or remembered lengths are used, so that nothing is normalised again."""
    X = rows_of(np.float16)
    searcher = Searcher(X)
    first = searcher.search(X[:1], 5)
    monkeypatch.setattr(module, "row_lengths", lambda *_: pytest.fail("computed again"))
    agree(searcher.search(X[:1], 5), first)
    agree(Searcher(X, searcher.lengths()).search(X[:1], 5), first)
    hidden = searcher.lengths().copy()
    hidden[0] = 0
    assert 0 not in Searcher(X, hidden).search(X[:1], 5)[1]


@pytest.mark.parametrize("share", [None, 0.5])
def test_threads_share_the_rows(monkeypatch, share):
    """Several threads find what one does, ties included."""
    monkeypatch.setattr(module, "_WORTHWHILE", 0)
    monkeypatch.setattr(module, "_FEW_ROWS", 64)
    X = np.repeat(rows_of(np.float16, n=500), 5, axis=0)

    class Blocked:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            return X[rows]

        def blocks(self):
            for start in range(0, len(X), 100):
                yield slice(start, start + 100), X[start : start + 100]

    allowed = None if share is None else np.random.default_rng(4).random(len(X)) < share
    queries = np.random.default_rng(5).standard_normal((3, 24))
    one = Searcher(X, n_threads=1).search(queries, 13, rows=allowed)
    several = Searcher(Blocked(), n_threads=4)
    for _ in range(5):
        found = several.search(queries, 13, rows=allowed)
        np.testing.assert_array_equal(found[0], one[0])
        np.testing.assert_array_equal(found[1], one[1])


def test_many_callers_at_once(monkeypatch):
    """A server's threads share one searcher, before its lengths are known too."""
    monkeypatch.setattr(module, "_WORTHWHILE", 0)
    X = rows_of(np.float16)
    queries = np.random.default_rng(6).standard_normal((40, 24))
    expected = search(X, queries, 6)
    searcher = Searcher(X, n_threads=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: searcher.search(queries[i : i + 1], 6), range(40)))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), expected[1])
    np.testing.assert_array_equal(np.concatenate([scores for scores, _ in found]), expected[0])


def test_an_error_in_a_thread_is_raised(monkeypatch):
    """What a thread cannot read ends the search with that error."""
    monkeypatch.setattr(module, "_WORTHWHILE", 0)

    class Broken:
        shape, dtype = (400, 24), np.dtype(np.float16)

        def __getitem__(self, rows):
            raise AssertionError

        def blocks(self):
            for start in range(0, 400, 10):
                if start == 300:
                    raise OSError("the disk")
                yield slice(start, start + 10), np.ones((10, 24), np.float16)

    with pytest.raises(OSError, match="the disk"):
        Searcher(Broken(), n_threads=3).search(np.ones((1, 24)), 3)


@pytest.mark.parametrize("n_queries", [1, 20])
def test_more_equal_rows_than_are_kept(monkeypatch, n_queries):
    """When almost all rows are equally similar, candidates are settled on the way, and the first rows are found."""
    monkeypatch.setattr("headwater.retrieve._candidates._MOST_PENDING", 100)
    monkeypatch.setattr(module, "_FEW_ROWS", 50)
    monkeypatch.setattr(module, "_MANY_ROWS", 50)
    X = np.ones((2000, 8), np.float16)
    X[1234] = 2
    X[77, 0] = 5
    _, rows = Searcher(X).search(np.ones((n_queries, 8)), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * n_queries


@pytest.mark.parametrize("share", [0.01, 0.4])
def test_some_rows_alone(share):
    """A searcher of some rows finds what a filter of these rows finds, with further filters and exclusions too."""
    X = rows_of(np.float16)
    rng = np.random.default_rng(7)
    mask, further = rng.random(len(X)) < share, rng.random(len(X)) < 0.5
    queries, group = rng.standard_normal((7, 24)), rng.integers(0, 9, len(X))
    searcher = Searcher(X)
    for only in (searcher.only(mask), searcher.only(np.flatnonzero(mask))):
        agree(only.search(queries, 8), searcher.search(queries, 8, rows=mask))
        agree(only.search(queries, 8, rows=further), searcher.search(queries, 8, rows=mask & further))
        agree(only.only(further).search(queries, 8), searcher.search(queries, 8, rows=mask & further))
        exclude = (group, group[:7])
        agree(only.search(queries, 8, exclude=exclude), searcher.search(queries, 8, rows=mask, exclude=exclude))
    assert (searcher.only(np.zeros(len(X), bool)).search(queries, 3)[1] == -1).all()


def test_what_does_not_fit():
    """Lengths of other rows, and features that are no matrix, are refused."""
    with pytest.raises(InputError, match=r"lengths must have shape \(3,\)"):
        Searcher(np.eye(3), np.ones(4, np.float32))
    with pytest.raises(InputError, match="cannot be searched"):
        Searcher(np.ones((3, 3, 3)))
