"""The breadth that is chosen reaches the recall that was asked for, on queries that it was not chosen with."""

from dataclasses import replace

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.retrieve import Searcher, build_index, load_index, recall_at_10, save_index, tuned

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def X():
    """Rows without clusters, which are hard for an index."""
    return np.random.default_rng(0).standard_normal((6000, 24)).astype(np.float16)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_recall_is_reached(kind, X, tmp_path):
    """A higher recall needs a wider search; the recall of other queries is about the one measured."""
    index = build_index(X, kind)
    breadths = []
    for target in (0.7, 0.9, 0.99):
        found, recall = tuned(index, X, target, n_queries=200)
        breadths.append(found.breadth)
        assert recall >= target
        assert recall_at_10(found, X, n_queries=400, seed=5) == pytest.approx(recall, abs=0.03)
        if found.breadth > 12:  # and no wider than needed
            assert recall_at_10(replace(found, breadth=found.breadth // 2), X, n_queries=400) < target
    assert breadths == sorted(breadths)
    assert kind == "hnsw" or len(set(breadths)) == 3
    save_index(found, tmp_path / "a.faiss", fingerprint="x", recall_at_10=recall, target=0.99)
    assert load_index(tmp_path / "a.faiss").breadth == found.breadth


def test_an_exact_index_needs_no_breadth(X):
    """A flat index finds everything."""
    found, recall = tuned(build_index(X, "flat"), Searcher(X), 1.0)
    assert (found.breadth, recall) == (None, 1.0)


def test_a_recall_that_is_out_of_reach(X):
    """Compressed vectors cannot be ranked exactly, however widely one looks; the message says how far they go."""
    with pytest.raises(InputError, match=r"an index of kind ivfpq reaches 0\.\d+ here.*Use ivf, hnsw or flat"):
        tuned(build_index(X, "ivfpq"), X, 0.999)


@pytest.mark.parametrize("target", [0, 1.01, -1])
def test_what_is_no_recall(X, target):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        tuned(build_index(X[:100], "flat"), X[:100], target)
