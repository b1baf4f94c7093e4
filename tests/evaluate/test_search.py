"""What is tried on inner folds: grids, and what Optuna proposes."""

import math

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.evaluate import TPE, Grid, Refined, cross_validate, make_splits
from headwater.evaluate.search import AT_ONCE, KINDS
from headwater.heads import HEADS, LinearProbe, head_class

pytest.importorskip("optuna")
SPACE = {"x": ("log", 1e-4, 1e4), "n": ("int", 1, 5), "hidden": ("choice", ((8,), (8, 8)))}


def searched(searches, number, loss):
    """Go through a search, and return what it tried with each loss."""
    search, tried = searches.start(number), []
    while asked := search.ask():
        assert len(asked) <= AT_ONCE or isinstance(searches, Grid)
        losses = [loss(params) for params in asked]
        search.tell(losses)
        tried += zip(asked, losses, strict=True)
    return tried


def far(params):
    """How far x is from 30, in its logarithm."""
    return abs(math.log10(params["x"] / 30))


def test_proposals_learn():
    """Proposals are as many as asked for, come nearer to what is best, and lie in the space."""
    tried = searched(TPE(SPACE, 60), 0, far)
    losses = [loss for _, loss in tried]
    assert len(tried) == 60
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:10])
    for params, _ in tried:
        assert 1e-4 <= params["x"] <= 1e4
        assert params["n"] in range(1, 6)
        assert params["hidden"] in ((8,), (8, 8))


def test_each_study_has_its_own_seed():
    """The same study proposes the same; another one, or another seed, does not."""
    first = searched(TPE(SPACE, 12, seed=1), 0, far)
    assert first == searched(TPE(SPACE, 12, seed=1), 0, far)
    assert first[0] != searched(TPE(SPACE, 12, seed=1), 1, far)[0]
    assert first[0] != searched(TPE(SPACE, 12, seed=2), 0, far)[0]


def test_a_setting_that_fails():
    """A setting without a finite loss is no reason to stop."""
    tried = searched(TPE(SPACE, 30), 0, lambda params: np.inf if params["x"] < 1 else far(params))
    assert len(tried) == 30


def test_an_unknown_range():
    """A kind of range that there is not is named with those there are."""
    with pytest.raises(InputError, match="log, uniform, int"):
        TPE({"x": ("linear", 0, 1)}, 3).start(0)


def test_the_best_proposal_is_reported():
    """Each fold reports the proposal of its lowest loss, and its test scores are those of a head fitted so."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((120, 5)), rng.integers(0, 2, 120)
    X[:, 0] += y
    splits = make_splits(y, n_folds=3)
    found = cross_validate(LinearProbe(), X, y, splits, grid=TPE({"C": ("log", 1e-4, 1e2)}, 11))
    for fold in found.folds:
        assert len(fold.trials) == 11
        assert fold.params == min(fold.trials, key=lambda trial: trial.loss).params
        probe = LinearProbe(**fold.params).fit(X[fold.split.train], y[fold.split.train])
        assert fold.scores == pytest.approx(probe.predict_proba(X[fold.split.test]), abs=1e-3)
    assert found.selection["search"]["trials"] == 11
    assert len({fold.params["C"] for fold in found.folds} | {found.params["C"]}) == 4


SEARCHED = [kind for kind in HEADS if not kind.startswith("zero-shot") and not head_class(kind).takes_texts]


@pytest.mark.parametrize("kind", SEARCHED)
def test_spaces_are_of_parameters_that_heads_have(kind):
    """A head's search space is of its own parameters, in ranges that are known."""
    cls = head_class(kind)
    assert cls.search_space
    assert set(cls.search_space) <= set(cls().get_params())
    assert {where[0] for where in cls.search_space.values()} <= set(KINDS)


def test_a_finer_grid_lies_around_the_best():
    """After a grid, values between the neighbours of its best are tried, at an end on the one side there is."""
    cases = (([3.0, 1.0, 2.0], 0.01, 100.0), ([1.0, 2.0, 3.0], 0.01, 1.0), ([3.0, 2.0, 1.0], 1.0, 100.0))
    for losses, low, high in cases:
        search = Refined("C", [100.0, 0.01, 1.0], {"tol": 1e-3}, n_fine=4).start(0)
        assert [params["C"] for params in search.ask()] == [0.01, 1.0, 100.0]
        search.tell(losses)
        fine = search.ask()
        assert len(fine) == 4
        assert all(low < params["C"] < high and params["tol"] == 1e-3 for params in fine)
        search.tell([0.0] * 4)
        assert search.ask() == []


def test_a_finer_grid_is_no_worse_inside():
    """The penalty of the finer grid has an inner loss of at most the grid's, and the grid is tried in full."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 30)).astype(np.float32)
    y = (X[:, 0] + rng.standard_normal(200) > 0).astype(int)
    head = LinearProbe(tol=1e-8)
    values = [params["C"] for params in head.default_grid()]
    splits = make_splits(y, n_folds=3)
    coarse = cross_validate(head, X, y, splits, grid=head.default_grid())
    fine = cross_validate(head, X, y, splits, grid=Refined("C", values))
    for one, other in zip(fine.folds, coarse.folds, strict=True):
        assert len(one.trials) > len(values)
        assert one.inner_loss <= other.inner_loss + 1e-6
    assert any(fold.params["C"] not in values for fold in fine.folds)
