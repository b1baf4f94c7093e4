"""Few-shot draws: so many rows of each class, of training rows alone, from as many groups as there are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SplitError
from headwater.evaluate import make_splits
from headwater.evaluate.shots import few_shots


@given(st.integers(0, 1000), st.integers(1, 6), st.booleans())
@settings(max_examples=50, deadline=None)
def test_so_many_of_each_class(seed, shots, grouped):
    """Each draw has that many rows a class, from as many groups as can be; test rows are those of the fold."""
    rng = np.random.default_rng(seed)
    y = np.array(["ash", "beech", "cedar"])[np.arange(90) % 3]
    groups = rng.integers(0, 20, 90) if grouped else np.arange(90)
    splits = make_splits(y, groups=groups if grouped else None, n_folds=3, seed=seed)
    try:
        drawn = few_shots(splits, y, groups if grouped else None, shots=shots, n_draws=4)
    except SplitError:
        assert min(np.sum(y[s.train] == c) for s in splits for c in np.unique(y)) < shots
        return
    assert [(s.fold, s.draw, s.seed) for s in drawn] == [(f, d, seed) for f in range(3) for d in range(4)]
    for split in drawn:
        assert set(split.train) <= set(splits[split.fold].train)
        assert split.test is splits[split.fold].test  # the same object, so that rows are read once
        for c in np.unique(y):
            chosen = split.train[y[split.train] == c]
            there = groups[splits[split.fold].train[y[splits[split.fold].train] == c]]
            assert len(chosen) == shots
            assert len(set(groups[chosen])) == min(shots, len(set(there)))


def test_draws_differ_and_come_again():
    """Draws differ from each other and between seeds, and the same seed gives the same."""
    y = np.arange(60) % 2
    one, two, other = (few_shots(make_splits(y, seed=s), y, None, shots=5, n_draws=2) for s in (0, 0, 1))
    assert [s.train.tolist() for s in one] == [s.train.tolist() for s in two]
    assert one[0].train.tolist() != one[1].train.tolist()
    assert one[0].train.tolist() != other[0].train.tolist()


def test_every_row_is_drawn_at_times():
    """Without groups all training rows of a class are as likely."""
    y = np.arange(20) % 2
    split = make_splits(y, n_folds=2)[:1]
    drawn = few_shots(split, y, None, shots=1, n_draws=400)
    times = np.bincount(np.concatenate([s.train for s in drawn]), minlength=20)[split[0].train]
    assert times.min() > 400 / 5 * 0.6


def test_fewer_rows_than_shots():
    """A class with fewer training rows than shots is named with its fold."""
    y = np.array(["rare"] * 4 + ["often"] * 20)
    with pytest.raises(SplitError, match="fold 0 has 2 training rows of class rare, but --shots 3"):
        few_shots(make_splits(y, n_folds=2), y, None, shots=3)
    for options in ({"shots": 0}, {"shots": 1, "n_draws": 0}):
        with pytest.raises(SplitError, match="at least 1"):
            few_shots(make_splits(y, n_folds=2), y, None, **options)
