"""A setting that is the best at an end of its grid is said, with values beyond it that can be had."""

import numpy as np
import pytest

from headwater.evaluate import cross_validate, make_splits
from headwater.evaluate.edges import at_edges, beyond
from headwater.heads import KNN, LinearProbe


def outcome(signal, head=None, grid=None, n=120, d=30):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    X = rng.standard_normal((n, d)).astype(np.float32)
    X[:, 0] += signal * y
    head = head or LinearProbe()
    return cross_validate(head, X, y, make_splits(y, n_folds=4), grid=grid or head.default_grid())


def test_noise_wants_the_strongest_penalty():
    """Where there is nothing to learn the least C is the best: lower ones are proposed."""
    (edge,) = at_edges(outcome(0.0, grid=[{"C": c} for c in (0.01, 1.0, 100.0)]), LinearProbe.search_space)
    assert (edge.param, edge.end, edge.value, edge.grid) == ("C", "lowest", 0.01, 100.0)
    assert 2 * edge.n_folds > edge.of == 4
    assert edge.beyond == [1e-10, 1e-8, 1e-6, 1e-4, 0.01]


def test_a_grid_that_is_too_low_and_the_wider_one():
    """With C of 1e-6 to 1e-4 the highest is the best of a strong signal; on the grid that is proposed it goes up."""
    narrow = outcome(3.0, grid=[{"C": c} for c in (1e-6, 1e-5, 1e-4)])
    (edge,) = at_edges(narrow, LinearProbe.search_space)
    assert (edge.end, edge.value) == ("highest", 1e-4)
    assert edge.beyond == [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    wider = outcome(3.0, grid=[{"C": c} for c in edge.beyond])
    assert all(fold.params["C"] > 1e-4 for fold in wider.folds)


def test_a_best_inside_is_not_said():
    assert at_edges(outcome(1.2), LinearProbe.search_space) == []


@pytest.mark.parametrize(
    ("head", "grid"),
    [
        (KNN(), [{"k": k} for k in (1, 5, 20)]),  # fewer than one neighbour there is not
        (LinearProbe(), [{"C": 1e-6}, {"C": 1e-5}]),  # of two values each is an end
        (KNN(), [{"scaling": "centre"}, {"scaling": "standardize"}]),
    ],
)
def test_ends_that_are_none(head, grid):
    assert at_edges(outcome(6.0, head, grid), head.search_space) == []


@pytest.mark.parametrize(
    ("grid", "end", "limits", "expected"),
    [
        ([1, 5, 20], "highest", (1, np.inf), [20, 80, 320, 1280, 5120]),
        ([1, 5, 20], "highest", (1, 200), [20, 80]),
        ([1, 5, 1024], "highest", (1, 1024), [1024]),
        ([1, 2, 3], "highest", (1, np.inf), [3, 4, 5, 6, 7]),
        ([1, 2, 3], "lowest", (1e-300, np.inf), [1]),
        ([1000, 100_000, 10_000_000], "lowest", (1e-300, np.inf), [1e-5, 1e-3, 0.1, 10, 1000]),
        ([2, 4, 8], "lowest", (1, np.inf), [1, 2]),
        ([0.0, 0.25, 0.5], "highest", (0, 0.7), [0.5]),
        ([0.0, 1.0, 3.0], "highest", (0, np.inf), [3, 5, 7, 9, 11]),
        ([0.0, 1.0, 3.0], "lowest", (0, np.inf), [0]),
        ([0.03, 0.07, 0.2], "lowest", (0, np.inf), [0.00101, 0.00236, 0.00551, 0.0129, 0.03]),
    ],
)
def test_values_beyond(grid, end, limits, expected):
    assert beyond(grid, end, limits) == expected
