"""Near duplicates: whitening is scikit-learn's, pairs are those of the whole matrix, and alarms are as rare as said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA

from headwater.errors import InputError
from headwater.retrieve.cosine import unit
from headwater.retrieve.duplicates import Tail, Whitening, components, pairs_above


class Blocked:
    """An array-like that hands out uneven blocks, like features on disk."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def blocks(self):
        for start in range(0, len(self.array), 7):
            yield slice(start, min(start + 7, len(self.array))), self.array[start : start + 7]


def directions(n, dim, seed=0):
    """Rows of length 1 in directions at random."""
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))[0]


@pytest.mark.parametrize(("n", "dim"), [(400, 20), (120, 300)])
def test_whitening_is_that_of_scikit_learn(n, dim):
    """With more rows than columns or fewer, whitened rows are PCA(whiten=True)'s, but for the sign of a column."""
    X = np.random.default_rng(0).standard_normal((n, dim)) @ np.random.default_rng(1).standard_normal((dim, dim)) + 5
    found = Whitening.fit(X, 16)
    expected = PCA(16, whiten=True, svd_solver="full").fit(X).transform(X)
    mine = (X - found.mean) @ found.components
    np.testing.assert_allclose(np.abs((mine * expected).sum(0)) / (n - 1), 1, rtol=1e-8)
    np.testing.assert_allclose(np.abs(mine), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(np.abs(found.transform(X)), np.abs(unit(expected)[0]), atol=1e-4)


def test_whitening_keeps_what_the_rows_can_tell():
    """No more columns are kept than a quarter of the rows, nor than there are directions in which rows differ."""
    X = np.random.default_rng(0).standard_normal((80, 50))
    assert Whitening.fit(X).n_components == 20
    flat = np.random.default_rng(0).standard_normal((80, 3)) @ np.random.default_rng(1).standard_normal((3, 50))
    assert Whitening.fit(flat).n_components == 3
    assert Whitening.fit(np.ones((80, 50))).n_components == 0
    assert Whitening.fit(np.ones((80, 50))).transform(X).shape == (80, 0)
    with pytest.raises(InputError, match="whitening needs at least 2 finite rows, but there are 0"):
        Whitening.fit(np.full((5, 2), np.nan))


def test_whitening_reads_blocks_and_passes_over_what_is_not_finite():
    """Blocks give what the whole array gives; a row with NaN or infinity becomes zeros and changes no other."""
    X = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float16)
    clean = Whitening.fit(X[2:]).transform(X[2:])
    X[0, 3], X[1, 0] = np.nan, np.inf
    found = Whitening.fit(X)
    np.testing.assert_allclose(found.transform(X)[2:], clean, atol=1e-6)
    np.testing.assert_allclose(found.transform(Blocked(X)), found.transform(X), atol=1e-6)
    assert not found.transform(X)[:2].any()


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 90), st.integers(2, 6), st.floats(0.05, 0.99), st.integers(0, 5), st.booleans())
def test_pairs_are_those_of_the_whole_matrix(n, dim, threshold, seed, ask_some):
    """In blocks of any size, every pair at least as similar is found once, and no other; or every pair of a query."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headwater.retrieve.duplicates._QUERIES", 16)
        patch.setattr("headwater.retrieve.duplicates._COLUMNS", 24)
        units = directions(n, dim, seed)
        units[seed % n] = 0
        queries = np.random.default_rng(seed).permutation(n)[: n // 2] if ask_some else None
        found = [
            (int(a), int(b), s)
            for i, j, similar in pairs_above(units, threshold, queries=queries)
            for a, b, s in zip(i, j, similar, strict=True)
        ]
    whole = units.astype(np.float64) @ units.T.astype(np.float64)
    near_it = np.abs(whole - threshold) < 1e-6
    asked = np.zeros((n, n), bool)
    if queries is None:
        asked[np.triu_indices(n, 1)] = True
    else:
        asked[queries] = True
        np.fill_diagonal(asked, False)
    pairs = {(a, b) for a, b, _ in found}
    assert len(pairs) == len(found)
    wanted = {(int(a), int(b)) for a, b in np.argwhere(asked & (whole >= threshold) & ~near_it)}
    allowed = {(int(a), int(b)) for a, b in np.argwhere(asked & near_it)}
    assert wanted <= pairs <= wanted | allowed
    assert all(abs(whole[a, b] - s) < 1e-5 for a, b, s in found)


def test_progress_counts_rows():
    """Progress ends with all rows done; a threshold that everything exceeds is refused."""
    seen = []
    list(pairs_above(directions(2000, 4), 0.999, progress=seen.append))
    assert seen == [1024, 2000]
    with pytest.raises(InputError, match="above 0"):
        list(pairs_above(directions(5, 4), 0.0))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.data())
def test_components_are_what_pairs_link(n, data):
    """Rows have one number when a chain of pairs leads from one to the other, which powers of the matrix say too."""
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20))
    number = components(n, [a for a, _ in pairs], [b for _, b in pairs])
    reach = np.eye(n, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(n):
        reach = reach @ reach
    assert (reach == (number[:, None] == number)).all()


@pytest.mark.parametrize("dim", [8, 32, 200])
@pytest.mark.parametrize("rate", [1e-3, 1e-4, 1e-5])
def test_alarms_are_no_more_than_wanted(dim, rate):
    """Of pairs of unrelated rows, no more are above the threshold than wanted; and it is not so high as to be idle."""
    units = directions(4000, dim)
    tail = Tail.fit(units[:2000], n_rows=4000)
    n_found = sum(len(i) for i, _, _ in pairs_above(units, tail.threshold(rate)))
    n_wanted = rate * 4000 * 3999 / 2
    assert n_found < n_wanted + 3 * n_wanted**0.5
    exact = np.sqrt(stats.beta.isf(2 * rate, 0.5, (dim - 1) / 2))
    assert np.arctanh(tail.threshold(rate)) < 1.5 * np.arctanh(exact)


def test_copies_hardly_move_the_threshold():
    """With every row there five times, slightly changed, all copies are found, and hardly anything else."""
    noise = np.random.default_rng(1).standard_normal((2000, 64)) * 0.03
    copies = unit(np.repeat(directions(400, 64), 5, axis=0) + noise)[0]
    of_one = np.repeat(np.arange(400), 5)
    clean = Tail.fit(directions(2000, 64, 2)).threshold(1e-5)
    assert clean - 0.02 < Tail.fit(copies).threshold(1e-5) < clean + 0.1
    assert Tail.fit(copies, groups=of_one).threshold(1e-5) == pytest.approx(clean, abs=0.05)
    found = pairs_above(copies, Tail.fit(copies).threshold(1e-5))
    i, j, _ = (np.concatenate(part) for part in zip(*found, strict=True))
    assert (of_one[i] == of_one[j]).sum() == 400 * 10
    assert (of_one[i] != of_one[j]).sum() <= 20


def test_rate_undoes_threshold():
    """The rate of a threshold is the rate that it was made for."""
    tail = Tail.fit(directions(500, 16))
    for rate in (1e-3, 1e-5, 1e-8):
        assert tail.rate(tail.threshold(rate)) == pytest.approx(rate)
    with pytest.raises(InputError, match="between 0 and 1"):
        tail.threshold(0)


@pytest.mark.parametrize(
    "units", [directions(20, 8), np.ones((100, 1), np.float32), np.zeros((100, 0), np.float32), np.zeros((100, 3))]
)
def test_what_cannot_be_told(units):
    """Too few rows, rows that are all alike, and rows of nothing have no tail."""
    assert Tail.fit(units) is None


def test_a_device_finds_what_the_cpu_finds():
    """Whitening, and pairs above a threshold, are the CPU's up to rounding, for many rows and for few."""
    pytest.importorskip("torch")
    from array_api_compat import torch as xp

    from headwater._backend import Backend
    from tests.pretended import DEVICE, pretended

    rng = np.random.default_rng(0)
    for n in (600, 40):
        X = (rng.standard_normal((n, 48)) @ rng.standard_normal((48, 48)) + 3).astype(np.float16)
        X[7], X[11] = X[3], np.nan
        expected = Whitening.fit(X).transform(X)
        with pretended():
            backend = Backend(xp, DEVICE)
            found = Whitening.fit(X, backend=backend).transform(X, backend)
            pairs = list(pairs_above(expected, 0.3, backend=backend))
            asked = list(pairs_above(expected, 0.3, queries=np.array([3, 20]), backend=backend))
        np.testing.assert_allclose(np.abs(found @ found.T), np.abs(expected @ expected.T), atol=1e-4)
        assert not found[11].any()
        for queries, ours in ((None, pairs), (np.array([3, 20]), asked)):
            theirs = list(pairs_above(expected, 0.3, queries=queries))
            assert rounded(ours) == rounded(theirs)
            assert ours


def rounded(parts):
    """Pairs in order, with similarities to four digits."""
    return sorted((i, j, round(float(similar), 4)) for part in parts for i, j, similar in zip(*part, strict=True))
