"""The approximate search for near duplicates yields right pairs, each once, and its recall is what it says."""

import numpy as np
import pytest

from headwater.retrieve import near as module
from headwater.retrieve.cosine import unit
from headwater.retrieve.duplicates import pairs_above
from headwater.retrieve.near import NearPairs

N, DIM, THRESHOLD, CERTAIN = 6000, 48, 0.5, 0.75


@pytest.fixture(scope="module")
def planted():
    """Rows of which some are copies, more or less alike; one is zero."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, DIM))
    n = 600
    noise = rng.uniform(0.05, 0.6, (n, 1))
    X[n : 2 * n] = X[:n] * np.sqrt(1 - noise**2) + noise * rng.standard_normal((n, DIM))
    X[2 * n : 2 * n + 5] = X[0]  # several copies of one row
    X[5000] = 0
    return unit(X)[0]


def gathered(parts):
    parts = list(parts)
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def codes(i, j):
    return i * N + j


def test_pairs(planted):
    """Each pair comes once, lower row first, with its similarity; all are above the threshold."""
    search, told = NearPairs(planted, THRESHOLD, CERTAIN), []
    i, j, similar = gathered(search.pairs(told.append))
    assert (i < j).all()
    assert len(np.unique(codes(i, j))) == len(i)
    np.testing.assert_allclose(similar, np.einsum("ij,ij->i", planted[i], planted[j]), atol=1e-5)
    assert (similar >= THRESHOLD).all()
    assert not np.isin(5000, [i, j])
    assert told == sorted(told)
    assert told[-1] == N


def test_recall(planted):
    """Of the pairs that are certain copies, as many are found as the sample says; all found pairs are real ones."""
    search = NearPairs(planted, THRESHOLD, CERTAIN)
    i, j, _ = gathered(search.pairs())
    a, b, similar = gathered(pairs_above(planted, THRESHOLD))
    found = np.isin(codes(a, b), codes(i, j))
    assert found.sum() == len(i)
    sure = similar >= CERTAIN
    assert sure.sum() > 500
    assert found[sure].mean() >= 0.995
    assert search.recall >= 0.999
    assert search.n_certain > 100
    tables = search._tables
    by_tables = np.logical_or.reduce([table.finds(planted, a, b, 0.0) for table in tables])
    assert (by_tables == found).mean() > 0.9999
    assert search.n_sampled_found / search.n_sampled == pytest.approx(found.mean(), abs=0.05)


def test_more_tables_for_less_similar_copies(planted):
    """The lower the similarity that must be found, the more tables are made."""
    few, many = NearPairs(planted, THRESHOLD, 0.9), NearPairs(planted, THRESHOLD, THRESHOLD)
    list(few.pairs())
    list(many.pairs())
    assert few.n_tables == module.LEAST_TABLES
    assert many.complete or many.n_tables > few.n_tables


def test_all_pairs_are_compared_if_tables_find_too_few(planted, monkeypatch):
    """Where so many tables would be needed that all pairs are as fast, all pairs are compared, and this is said."""
    monkeypatch.setattr(module, "MOST_TABLES", 3)
    monkeypatch.setattr(module, "SHARE", 0.001)
    search = NearPairs(planted, THRESHOLD, THRESHOLD)
    i, j, _ = gathered(search.pairs())
    assert search.complete
    assert search.recall == 1
    a, b, _ = gathered(pairs_above(planted, THRESHOLD))
    np.testing.assert_array_equal(np.sort(codes(i, j)), np.sort(codes(a, b)))


def test_nothing_to_find():
    """Without pairs above the threshold nothing is yielded, and there is no recall to speak of."""
    search = NearPairs(np.eye(64, dtype=np.float32), 0.5, 0.9)
    assert list(search.pairs()) == []
    assert (search.recall, search.n_certain, search.complete) == (None, 0, False)


def test_the_same_every_time(planted):
    """Directions and sample are drawn by a seed."""
    one, other = (NearPairs(planted, THRESHOLD, CERTAIN, seed=3) for _ in range(2))
    for a, b in zip(gathered(one.pairs()), gathered(other.pairs()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.n_found, one.n_certain) == (other.n_found, other.n_certain)
