"""An updated index finds what one that was built anew does: new rows, moved rows, and no rows that are gone."""

import numpy as np
import pytest

from headwater.retrieve import (
    build_index,
    load_index,
    read_marks,
    recall_at_10,
    row_marks,
    save_index,
    search,
    update_index,
)

pytest.importorskip("faiss")
KINDS = ["flat", "ivf", "hnsw", "ivfpq"]


def keys_of(numbers):
    """A key for each number."""
    return np.random.default_rng(9).integers(0, 256, (5000, 16), np.uint8)[numbers]


@pytest.fixture(scope="module")
def rows():
    """5,000 rows, of which some cannot be indexed."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 24))
    X = (centres[rng.integers(0, 60, 5000)] + 0.7 * rng.standard_normal((5000, 24))).astype(np.float16)
    X[[3, 2900]], X[2950] = np.nan, 0
    return X


def change(X, how):
    """Return the numbers of the rows before and after a change."""
    before = np.arange(2000)
    kept = np.random.default_rng(1).permutation(2000)[:1900]
    after = {
        "grown": np.arange(2100),
        "shrunk": np.sort(kept),
        "moved": np.random.default_rng(2).permutation(2000),
        "all of these": np.concatenate([kept, np.arange(2850, 3000)]),
        "the same": before,
    }[how]
    return before, after


@pytest.mark.parametrize("how", ["grown", "shrunk", "moved", "all of these", "the same"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update(rows, kind, how, tmp_path):
    """Whatever happened to the rows, each is found under its number now, and rows that are gone are not."""
    before, after = change(rows, how)
    old, new = rows[before], rows[after]
    marks = row_marks(old, keys_of(before)), row_marks(new, keys_of(after))
    told = []
    updated = update_index(build_index(old, kind), marks[0], new, marks[1], lambda *n: told.append(n))
    usable = [set(r[np.isfinite(rows[r]).all(1) & rows[r].any(1)].tolist()) for r in (before, after)]
    assert (updated.n_added, updated.n_removed) == (len(usable[1] - usable[0]), len(usable[0] - usable[1]))
    assert told[-1:] == ([(updated.n_added,) * 2] if updated.n_added else [])
    path = tmp_path / "index.faiss"
    info = save_index(updated.index, path, fingerprint="x", marks=marks[1])
    assert info.n_vectors == len(usable[1])
    np.testing.assert_array_equal(read_marks(path), marks[1])
    for index in (updated.index, load_index(path)):
        assert (index.n_rows, index.n_vectors) == (len(new), len(usable[1]))
        if kind != "ivfpq":
            fit = np.isfinite(new).all(1) & new.any(1)
            found = index.search(np.where(fit[:, None], new, 1), 1)[1][:, 0]
            assert (found[fit] == np.flatnonzero(fit)).mean() > 0.98
        gone = rows[sorted(usable[0] - usable[1])][:50]
        queries = gone if len(gone) else new[10:60]
        exact = search(new, queries, 5)[1]
        ids = index.search(queries, 5)[1]
        assert (ids >= 0).all()
        assert (ids < len(new)).all()
        if kind == "flat":
            np.testing.assert_array_equal(ids, exact)
        few = np.arange(len(new)) % 40 == 0
        some = index.search(queries, 5, rows=few)[1]
        assert few[some].all()
        if kind != "ivfpq":
            np.testing.assert_array_equal(some, search(new, queries, 5, rows=few)[1])
        groups = np.arange(len(new)) % 7
        other = index.search(queries, 5, exclude=(groups, np.zeros(len(queries), int)))[1]
        assert (groups[other] != 0).all()
        assert recall_at_10(index, new) > (0.6 if kind == "ivfpq" else 0.95)


def test_updates_one_after_the_other(rows):
    """A graph that was updated several times still finds each row by its number, and counts what it holds."""
    now = np.arange(1500)
    index = build_index(rows[now], "hnsw")
    marks = row_marks(rows[now], keys_of(now))
    rng = np.random.default_rng(3)
    for step in range(4):
        later = np.concatenate([rng.permutation(now)[:-40], np.arange(1500 + 60 * step, 1560 + 60 * step)])
        new = row_marks(rows[later], keys_of(later))
        updated = update_index(index, marks, rows[later], new)
        assert (updated.n_added, updated.n_removed) == (60, 40 - (3 not in later and 3 in now))
        now, index, marks = later, updated.index, new
        assert index.n_vectors == (marks > 0).sum()
        fit = now[:300] != 3
        found = index.search(np.where(fit[:, None], rows[now[:300]], 1), 1)[1][:, 0]
        assert (found[fit] == np.flatnonzero(fit)).mean() > 0.98
    assert index.n_dead > 100


def test_a_vector_that_changed_is_not_the_old_one(rows):
    """An item that was embedded again with other numbers is removed and added."""
    X = rows[:500].copy()
    marks = row_marks(X, keys_of(np.arange(500)))
    index = build_index(X, "flat")
    X[40] = -X[40]
    updated = update_index(index, marks, X, row_marks(X, keys_of(np.arange(500))))
    assert (updated.n_added, updated.n_removed) == (1, 1)
    assert updated.index.search(X[40:41], 1)[1].tolist() == [[40]]


@pytest.mark.parametrize(
    ("kind", "after"), [("hnsw", np.arange(400, 1000)), ("ivf", np.arange(4000)), ("flat", np.array([3, 2950]))]
)
def test_too_much_has_changed(rows, kind, after):
    """A graph that would be full of removed rows, lists for far fewer rows, and nothing left: built anew instead."""
    before = np.arange(1000)
    marks = row_marks(rows[before], keys_of(before))
    index = build_index(rows[before], kind)
    n = index.native.ntotal
    assert update_index(index, marks, rows[after], row_marks(rows[after], keys_of(after))) is None
    assert index.native.ntotal == n
    np.testing.assert_array_equal(index.search(rows[10:11], 1)[1], [[10]])
