"""An index finds what exact search finds, or a stated share of it, under the same filters."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from headwater.errors import InputError, MissingExtra
from headwater.retrieve import build_index, recall_at_10, search
from headwater.retrieve.index import plan

pytest.importorskip("faiss")

KINDS = ["flat", "ivf", "hnsw", "ivfpq"]
LEAST_RECALL = {"flat": 1.0, "ivf": 0.95, "hnsw": 0.95, "ivfpq": 0.6}
NAN_ROW, ZERO_ROW = 5, 77


class Blocked:
    """An array-like in blocks of 700 rows that refuses to be read whole."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        return self.array[rows]

    def __array__(self, *args, **kwargs):
        raise AssertionError("read whole")

    def blocks(self):
        for start in range(0, len(self.array), 700):
            yield slice(start, min(start + 700, len(self.array))), self.array[start : start + 700]


@pytest.fixture(scope="module")
def X():
    """Clusters, as features have them, with an item that failed and one that is zero."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, 32))
    features = (centres[rng.integers(0, 100, 4000)] + 0.7 * rng.normal(size=(4000, 32))).astype(np.float16)
    features[NAN_ROW], features[ZERO_ROW] = np.nan, 0
    return features


@pytest.fixture(scope="module")
def groups():
    return np.random.default_rng(1).integers(0, 40, 4000)


@pytest.fixture(scope="module")
def indexes(X):
    return {kind: build_index(Blocked(X), kind) for kind in KINDS}


def share_found(true, found):
    """Share of the true rows that were found."""
    hits = (true[:, :, None] == found[:, None, :]) & (true >= 0)[:, :, None]
    return hits.sum() / (true >= 0).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_what_the_kind_promises(kind, indexes, X):
    assert recall_at_10(indexes[kind], Blocked(X)) >= LEAST_RECALL[kind]


def test_recall_is_measured_against_true_neighbours_and_not_against_itself(indexes, X):
    shuffled = X[np.random.default_rng(0).permutation(len(X))]
    assert recall_at_10(indexes["flat"], shuffled, n_queries=50) < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filtered", ["nothing", "half", "a tenth", "six rows"])
@pytest.mark.parametrize("excluding", [False, True])
def test_filters_hold_as_in_exact_search(kind, filtered, excluding, indexes, X, groups):
    rng = np.random.default_rng(2)
    rows = {
        "nothing": None,
        "half": rng.random(4000) < 0.5,
        "a tenth": rng.random(4000) < 0.1,
        "six rows": np.array([9, NAN_ROW, 3000, ZERO_ROW, 12, 1]),
    }[filtered]
    asked = np.arange(100, 140)
    exclude = (groups, groups[asked]) if excluding else None

    scores, found = indexes[kind].search(X[asked], 10, rows=rows, exclude=exclude)
    true_scores, true = search(X, X[asked], 10, rows=rows, exclude=exclude)

    assert (scores.dtype, found.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(found < 0, true < 0)
    np.testing.assert_array_equal(np.isneginf(scores), found < 0)
    assert share_found(true, found) >= LEAST_RECALL[kind] - (0.05 if kind == "ivfpq" else 0)
    if kind != "ivfpq":
        if filtered in ("a tenth", "six rows"):
            np.testing.assert_array_equal(found, true)  # so few are all compared
        np.testing.assert_allclose(scores[found == true], true_scores[found == true], atol=1e-6)
    for i in range(len(asked)):
        there = found[i][found[i] >= 0]
        assert len(set(there)) == len(there)
        assert (np.diff(scores[i][: len(there)]) <= 0).all()
        assert not {NAN_ROW, ZERO_ROW} & set(there)
        if rows is not None:
            assert set(there) <= set(np.flatnonzero(rows) if rows.dtype == bool else rows)
        if excluding:
            assert not (groups[there] == groups[asked[i]]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_excluding_the_group_of_nearly_every_row_still_finds_the_few_others(kind, indexes, X):
    groups = np.zeros(4000, dtype=int)
    groups[[40, 1234, 3999, NAN_ROW]] = 1
    scores, found = indexes[kind].search(X[100:103], 5, exclude=(groups, np.zeros(3, dtype=int)))
    assert [sorted(rows) for rows in found.tolist()] == [[-1, -1, 40, 1234, 3999]] * 3
    assert np.isfinite(scores[:, :3]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_where_few_rows_are_allowed_each_is_compared(kind, indexes, X, monkeypatch):
    monkeypatch.setattr("headwater.retrieve.VectorIndex._near", lambda *_: pytest.fail("searched approximately"))
    _, found = indexes[kind].search(X[100:103], 5, rows=np.arange(499))
    assert (found >= 0).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq"])
def test_the_same_seed_builds_the_same_index(kind, indexes, X):
    again = build_index(X, kind)  # a plain array, so in other blocks
    for a, b in zip(again.search(X[100:120], 10), indexes[kind].search(X[100:120], 10), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_trains_other_lists(X):
    first, second = (build_index(X[100:1400], "ivf", seed=seed) for seed in (0, 1))
    assert not np.array_equal(*(index.native.quantizer.reconstruct_n() for index in (first, second)))


def test_more_neighbours_than_vectors_are_padded():
    X = np.eye(3, dtype=np.float32)
    scores, rows = build_index(X, "hnsw").search(X[:1], 5)
    assert rows.tolist() == [[0, 1, 2, -1, -1]]
    assert scores.tolist() == [[1, 0, 0, -np.inf, -np.inf]]


def test_progress_is_told_after_each_block(X):
    told = []
    index = build_index(Blocked(X), "flat", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 4000) for done in (700, 1400, 2100, 2800, 3500, 4000)]
    assert (index.n_rows, index.n_vectors, index.dim, index.kind) == (4000, 3998, 32, "flat")


@pytest.mark.parametrize(
    ("kind", "n_rows", "dim", "expected"),
    [
        ("ivf", 10**6, 768, "IVF3360,Flat"),
        ("ivf", 156, 768, "IVF4,Flat"),
        ("ivfpq", 624, 100, "IVF16,PQ25x4np"),
        ("ivfpq", 20_000, 513, "IVF512,PQ57x8np"),
        ("ivfpq", 20_000, 3, "IVF512,PQ1x8np"),
    ],
)
def test_parameters_follow_from_the_shape(kind, n_rows, dim, expected):
    assert plan(kind, n_rows, min(n_rows, 131_072), dim) == expected


def test_every_list_has_enough_rows_to_be_trained_on():
    for n in np.unique(np.geomspace(156, 10**8, 60).astype(int)):
        n_lists = int(plan("ivf", n, min(n, 131_072), 64).split(",")[0][3:])
        assert n_lists * 39 <= min(n, 131_072)
        assert n_lists <= 4 * np.sqrt(n) + 1


def test_training_an_index_prints_nothing(X):
    """FAISS warns on the standard error of the process, which only another process can watch."""
    code = (
        "import numpy as np; from headwater.retrieve import build_index\n"
        "X = np.random.default_rng(0).normal(size=(700, 8))\n"
        "for kind in ('ivf', 'ivfpq', 'hnsw'): build_index(X, kind)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((155, 8), "ivf", "ivf needs at least 156 usable rows, but there are 155. Use flat"),
        ((623, 8), "ivfpq", "624 usable rows"),
        ((700, 101), "ivfpq", "length 101"),
        ((10, 2, 8), "flat", "pooled"),
        ((10, 8), "hsnw", "Did you mean 'hnsw'"),
    ],
)
def test_what_cannot_be_indexed_is_refused(shape, kind, message):
    with pytest.raises(InputError, match=message):
        build_index(np.random.default_rng(0).normal(size=shape), kind)


def test_features_that_all_failed_are_refused():
    with pytest.raises(InputError, match="none of the 4 rows"):
        build_index(np.full((4, 8), np.nan), "flat")


def test_recall_over_other_features_is_refused(indexes):
    with pytest.raises(InputError, match=r"shape \(4000, 32\), not \(3, 32\)"):
        recall_at_10(indexes["flat"], np.ones((3, 32)))
    with pytest.raises(InputError, match="one vector"):
        recall_at_10(build_index(np.ones((1, 4))), np.ones((1, 4)))


def test_without_faiss_the_line_to_type_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'headwater\[retrieve\]'"):
        build_index(np.eye(3))


def test_faiss_is_imported_only_when_an_index_is_used():
    code = "import sys, headwater.retrieve; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
