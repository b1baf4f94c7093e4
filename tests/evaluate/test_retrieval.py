"""Numbers about neighbours are those of scikit-learn or of counting by hand, and chance is what it is in theory."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from headwater.evaluate.bootstrap import Draws
from headwater.evaluate.retrieval import (
    Neighbours,
    average_precision,
    crowding,
    expected_precision,
    f1_macro,
    measures,
    voted,
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 5))
def test_votes(seed, n_votes, n_classes):
    """The most frequent class wins; among equally frequent ones, that of the nearest neighbour."""
    near = np.random.default_rng(seed).integers(-1, n_classes, (20, 6))
    near = -np.sort(-(near >= 0).astype(int), axis=1) * (near + 1).clip(1) - 1  # neighbours first, then none
    found = voted(near, n_votes, n_classes)
    for row, guess in zip(near.tolist(), found.tolist(), strict=True):
        votes = [c for c in row[:n_votes] if c >= 0]
        most = Counter(votes).most_common(1)[0][1] if votes else 0
        assert guess == next((c for c in votes if votes.count(c) == most), -1)


def test_macro_f1_is_that_of_scikit_learn():
    """Over the classes that occur; a guess of a class that does not occur is a miss."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, guess = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
        expected = f1_score(truth, guess, labels=np.unique(truth), average="macro", zero_division=0)
        assert f1_macro(truth, guess, 5) == pytest.approx(expected)


def test_average_precision_is_that_of_scikit_learn():
    """For distinct similarities, negative ones and zero included."""
    rng = np.random.default_rng(1)
    for n in (2, 10, 500):
        similar = rng.permutation(np.linspace(-1, 1, n)).astype(np.float32)
        relevant = rng.random(n) < 0.3
        relevant[0] = True
        assert average_precision(similar, relevant, rng) == pytest.approx(average_precision_score(relevant, similar))
    assert np.isnan(average_precision(similar, np.zeros(n, bool), rng))


def test_ties_are_in_random_order():
    """Rows that are all alike have the average precision of a random order, not that of a lucky one."""
    rng = np.random.default_rng(2)
    relevant = np.arange(40) < 10
    found = [average_precision(np.zeros(40, np.float32), relevant, rng) for _ in range(3000)]
    assert np.mean(found) == pytest.approx(expected_precision(40, 10), abs=0.005)


@pytest.mark.parametrize(("n", "n_relevant"), [(7, 1), (7, 3), (30, 12), (2000, 40)])
def test_expected_precision(n, n_relevant):
    """The exact expectation is the mean over random orders."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(4000 if n < 100 else 400):
        places = np.sort(rng.choice(n, n_relevant, replace=False)) + 1
        found.append((np.arange(1, n_relevant + 1) / places).mean())
    error = np.std(found) / len(found) ** 0.5
    assert expected_precision(n, n_relevant) == pytest.approx(np.mean(found), abs=4 * error)


def neighbours(rng, n=600, k=10, n_classes=3, hit=None):
    """Random neighbours, which have the query's class with a given probability."""
    truth = rng.integers(0, n_classes, n)
    near = rng.integers(0, n_classes, (n, k))
    if hit is not None:
        near = np.where(rng.random((n, k)) < hit, truth[:, None], (truth[:, None] + 1) % n_classes)
    return Neighbours(truth, near, np.arange(n) // 3, rng.random(n))


def test_measures_of_a_known_process():
    """Shares, their chance level and mean average precision are those of the process that made the neighbours."""
    rng = np.random.default_rng(4)
    found = neighbours(rng, n=6000, hit=0.6)
    random = [neighbours(np.random.default_rng(4), n=6000)] * 2
    out = measures(found, random, 3, 0.4, Draws(0.95, 200, 0))
    p = 0.6
    expected = {
        "top_1": p,
        "majority_3": p**3 + 3 * p**2 * (1 - p),
        "majority_5": p**5 + 5 * p**4 * (1 - p) + 10 * p**3 * (1 - p) ** 2,
        "recall_at_3": 1 - (1 - p) ** 3,
        "recall_at_10": 1 - (1 - p) ** 10,
        "map": 0.5,
    }
    for name, value in expected.items():
        assert out[name].value == pytest.approx(value, abs=0.025), name
        assert abs(out[name].value - value) < out[name].high - out[name].low, name  # about four standard errors
    assert out["top_1"].by_chance == pytest.approx(1 / 3, abs=0.02)
    assert out["recall_at_5"].by_chance == pytest.approx(1 - (2 / 3) ** 5, abs=0.02)
    assert out["map"].by_chance == 0.4
    for n, name in ((1, "top_1"), (5, "majority_5")):
        guess = voted(found.near, n, 3)
        assert out[f"f1_{name}"].value == pytest.approx(f1_score(found.truth, guess, average="macro"))
        assert out[f"f1_{name}"].low < out[f"f1_{name}"].value < out[f"f1_{name}"].high


def test_intervals_hold_the_truth():
    """With dependent rows in a group, the intervals by group hold the true share as often as they say."""
    rng = np.random.default_rng(5)
    held = {"top_1": 0, "f1_top_1": 0, "map": 0}
    for _ in range(200):
        quality = np.repeat(rng.random(60) < 0.5, 5)  # groups are all right or all wrong
        truth = np.repeat([0, 1], 150)
        near = np.where(quality, truth, 1 - truth)[:, None].repeat(10, 1)
        found = Neighbours(truth, near, np.arange(300) // 5, quality.astype(float))
        out = measures(found, [found], 2, 0.5, Draws(0.95, 200, 1))
        for name in held:
            held[name] += out[name].low <= 0.5 <= out[name].high
    assert all(180 <= n <= 200 for n in held.values()), held


def test_crowding():
    """The share of neighbours that are there, among all of them, with its interval by groups."""
    rng = np.random.default_rng(6)
    there = rng.random((900, 10)) < 0.9
    same = there & (rng.random((900, 10)) < 0.3)
    found = crowding("site", same, there, np.arange(900) // 3, np.full(900, 0.1), np.full(900, np.nan), Draws())
    assert found.share == same.sum() / there.sum()
    assert found.low < 0.3 < found.high
    assert found.high - found.low < 0.03
    assert found.by_chance == pytest.approx(0.1)
    assert np.isnan(found.by_chance_in_class)
