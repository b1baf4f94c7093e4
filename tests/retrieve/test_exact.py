"""Exact search gives what sorting all similarities gives, whatever the blocks, filters and ties."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import InputError
from headwater.retrieve import search
from headwater.retrieve.cosine import unit


class Blocked:
    """An array-like that hands out blocks of the lengths it is told, like features on disk."""

    def __init__(self, array, edges):
        self.array = array
        self.edges = sorted({0, *edges, len(array)})
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        return self.array[rows]

    def blocks(self):
        for start, stop in zip(self.edges[:-1], self.edges[1:], strict=True):
            yield slice(start, stop), self.array[start:stop].copy()


def by_sorting(X, queries, k, allowed, same):
    """Sort all rows by (similarity, row number) with integer arithmetic: no rounding, so that ties are ties.

    The cosine of integer vectors is ordered as sign(dot) * dot**2 / |row|**2 is.
    """
    found = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        ranked = []
        for j, row in enumerate(X):
            if not np.isfinite(row).all() or not row.any() or not allowed[j] or same[i, j]:
                continue
            dot = int(row @ query)
            ranked.append((-Fraction(dot * abs(dot), int(row @ row)), j))
        best = [j for _, j in sorted(ranked)[:k]]
        found[i, : len(best)] = best
    return found


@st.composite
def searches(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim, q = draw(st.integers(1, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    X = rng.integers(-3, 4, (n, dim)).astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))
    X[rng.random(n) < 0.1] = np.nan
    X[rng.random(n) < 0.1] = 0
    X[rng.random(n) < 0.05, 0] = np.inf
    queries = rng.integers(-3, 4, (q, dim)).astype(np.float32)
    queries[~queries.any(axis=1)] = 1
    allowed = rng.random(n) < 0.7 if draw(st.booleans()) else None
    groups = (rng.integers(0, 3, n), rng.integers(0, 3, q)) if draw(st.booleans()) else None
    edges = rng.integers(0, n + 1, draw(st.integers(0, 5)))
    return X, queries, draw(st.integers(1, 12)), allowed, groups, edges


@settings(max_examples=300, deadline=None)
@given(searches(), st.booleans())
def test_search_agrees_with_sorting_everything(case, as_numbers):
    X, queries, k, allowed, groups, edges = case
    mask = np.ones(len(X), bool) if allowed is None else allowed
    same = np.zeros((len(queries), len(X)), bool) if groups is None else groups[1][:, None] == groups[0]
    rows = np.flatnonzero(mask)[::-1] if as_numbers and allowed is not None else allowed

    scores, found = search(Blocked(X, edges), queries, k, rows=rows, exclude=groups)

    assert scores.dtype == np.float32
    assert found.dtype == np.int64
    assert scores.shape == found.shape == (len(queries), k)
    np.testing.assert_array_equal(np.isneginf(scores), found < 0)
    expected = by_sorting(X, queries, k, mask, same)
    units, wanted = unit(X)[0].astype(float), unit(queries)[0].astype(float)
    np.testing.assert_array_equal(found >= 0, expected >= 0)
    for i in range(len(queries)):
        there = found[i] >= 0
        assert len(set(found[i][there])) == there.sum()
        np.testing.assert_allclose(scores[i][there], units[found[i][there]] @ wanted[i], atol=1e-6)
        np.testing.assert_allclose(scores[i][there], units[expected[i][there]] @ wanted[i], atol=1e-6)
        assert mask[found[i][there]].all()
        assert not same[i, found[i][there]].any()


@settings(max_examples=100, deadline=None)
@given(searches())
def test_equal_rows_come_in_order_and_blocks_do_not_matter(case):
    X, queries, _, _, _, edges = case
    X = np.repeat(X, 3, axis=0)[np.random.default_rng(0).permutation(3 * len(X))]  # every row thrice
    whole = search(X, queries, 10)
    for some_edges in (edges, range(len(X))):
        blocked = search(Blocked(X, some_edges), queries, 10)
        np.testing.assert_array_equal(whole[1], blocked[1])
        np.testing.assert_array_equal(whole[0], blocked[0])
    for scores, rows in zip(*whole, strict=True):
        for a in range(9):
            assert scores[a] > scores[a + 1] or (
                scores[a] == scores[a + 1] and (rows[a] < rows[a + 1] or rows[a + 1] < 0)
            )


def cosines(queries, X):
    """Cosines in float64, of the rows as they are."""
    units = [np.asarray(v, np.float64) / np.linalg.norm(v.astype(np.float64), axis=1)[:, None] for v in (queries, X)]
    return np.einsum("qd,nd->qn", *units)


def test_rows_that_differ_by_less_than_a_product_rounds_come_in_their_true_order():
    rng = np.random.default_rng(0)
    base = rng.normal(size=384)
    X = (base + 1e-5 * rng.normal(size=(1001, 384))).astype(np.float32)
    X[500:600] = X[7]
    queries = base + 0.1 * rng.normal(size=(9, 384))
    similar = cosines(queries, X)
    expected = np.argsort(-similar.astype(np.float32), axis=1, kind="stable")[:, :25]
    for edges in ([], [3, 17, 400, 401]):
        _, rows = search(Blocked(X, edges), queries, 25)
        np.testing.assert_array_equal(rows, expected)


def test_a_query_gets_the_same_answer_alone_and_among_others():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 48)).astype(np.float16)
    queries = rng.normal(size=(1100, 48))
    scores, rows = search(X, queries, 7)
    for i in (0, 511, 512, 1099):
        alone = search(X, queries[i : i + 1], 7)
        np.testing.assert_array_equal(alone[0][0], scores[i])
        np.testing.assert_array_equal(alone[1][0], rows[i])
    similar = cosines(queries, X)
    np.testing.assert_array_equal(rows, np.argsort(-similar.astype(np.float32), axis=1, kind="stable")[:, :7])


def test_lengths_of_vectors_do_not_matter_however_extreme():
    X = np.array([[1, 1], [1e-40, 1e-40], [3e38, 3e38], [1e-300, 1e-300], [1e300, 1e300], [-1, 1]])
    scores, rows = search(X, np.array([[1e-5, 1e-5]]), 6)
    assert rows[0].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(scores[0], [1, 1, 1, 1, 1, 0], atol=1e-6)


def test_excluding_its_own_group_keeps_a_patient_from_himself():
    patients = np.array([7, 7, 8, 9])
    X = np.array([[1, 0], [0.9, 0.1], [0.5, 0.5], [0, 1.0]])
    _, rows = search(X, X[:1], 3, exclude=(patients, patients[:1]))
    assert rows.tolist() == [[2, 3, -1]]


def test_blocks_without_allowed_rows_are_not_touched():
    class Watched(Blocked):
        def blocks(self):
            for span, block in super().blocks():
                yield span, block if span.start == 4 else None

    X = np.random.default_rng(0).normal(size=(8, 3))
    _, rows = search(Watched(X, [4]), X[:1], 3, rows=[5, 6])
    assert sorted(rows[0].tolist()) == [-1, 5, 6]


def test_no_similarity_exceeds_one():
    X = np.random.default_rng(0).normal(size=(3000, 5))
    scores, rows = search(X, X, 1)
    np.testing.assert_array_equal(rows[:, 0], np.arange(3000))
    assert scores.max() == 1


def test_memory_does_not_grow_with_the_number_of_rows():
    rng = np.random.default_rng(0)
    peaks = []
    for n in (20_000, 160_000):
        X = rng.normal(size=(n, 16)).astype(np.float16)
        queries = rng.normal(size=(20, 16))
        tracemalloc.start()
        search(X, queries, 5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


X = np.eye(3, dtype=np.float32)
REFUSED = {
    "a single vector": ((X, X[0], 1), {}, r"\(n_queries, 3\)"),
    "another length": ((X, np.ones((1, 2)), 1), {}, r"\(n_queries, 3\)"),
    "tokens": ((np.ones((2, 4, 3)), X, 1), {}, "pooled"),
    "no neighbours": ((X, X, 0), {}, "k must be at least 1, but is 0"),
    "a zero query": ((X, np.array([[1, 0, 0], [0, 0, 0.0]]), 1), {}, "query 1 is zero"),
    "a NaN query": ((X, np.array([[np.nan, 0, 0]]), 1), {}, "query 0"),
    "a mask too short": ((X, X, 1), {"rows": [True, False]}, r"mask of rows must have shape \(3,\), but has \(2,\)"),
    "a row too far": ((X, X, 1), {"rows": [3]}, "from 0 to 2"),
    "a negative row": ((X, X, 1), {"rows": [-1]}, "from 0 to 2"),
    "a row and a half": ((X, X, 1), {"rows": [1.5]}, "row numbers"),
    "groups too short": ((X, X, 1), {"exclude": ([1, 2], [1, 2, 3])}, r"\(3,\) for the rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_refused_in_one_line(case):
    arguments, options, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        search(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_nothing_allowed_is_nothing_found():
    scores, rows = search(X, X, 2, rows=[])
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


# On another device


@pytest.fixture
def gpu(monkeypatch):
    """A pretended device in place of a CUDA device."""
    pytest.importorskip("torch")
    from tests.pretended import in_place_of_cuda

    in_place_of_cuda(monkeypatch)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_a_device_finds_what_the_cpu_finds(gpu, dtype, k):
    """Rows and scores are the CPU's to the last digit, with masks, groups, unusable rows and equal rows."""
    from tests.pretended import pretended

    rng = np.random.default_rng(0)
    X = (rng.normal(size=(700, 24)) + 2).astype(dtype)
    X[5], X[9], X[300:340] = np.nan, 0, X[7]
    queries = rng.normal(size=(30, 24))
    patient = rng.integers(0, 40, 700)
    filters = {"rows": rng.random(700) < 0.7, "exclude": (patient, rng.integers(0, 40, 30))}
    for some in ({}, filters):
        expected = search(Blocked(X, [100, 600]), queries, k, device="cpu", **some)
        with pretended():
            found = search(Blocked(X, [100, 600]), queries, k, device="cuda", **some)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])


def test_a_tensor_is_searched_where_it_is(gpu):
    """Features and queries that are on a device are not copied from it."""
    from array_api_compat import torch as xp

    from tests.pretended import pretended

    X, queries = (np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32) for n in (50, 3))
    with pretended() as device:
        found = search(xp.asarray(X, device=device), xp.asarray(queries, device=device), 4)
    np.testing.assert_array_equal(found[1], search(X, queries, 4)[1])


def test_neighbours_beyond_all_groups_are_not_numbers_that_collide():
    """Groups of queries that no row has exclude nothing."""
    X = np.eye(3)
    _, rows = search(X, X, 3, exclude=(np.array([10, 20, 30]), np.array([0, 1, 2])))
    assert (rows >= 0).all()
