"""Aggregation: scores of units by hand, their labels, and units that a split divides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import InputError, SplitError
from headwater.evaluate import Split, cross_validate, make_splits, score
from headwater.evaluate.aggregate import aggregate, aggregated, kept_whole, labels_of_units, refuse_straddling, units_of
from headwater.heads import LinearProbe


@given(st.integers(0, 10_000), st.sampled_from(["binary", "multiclass", "multilabel"]))
@settings(deadline=None)
def test_scores_of_units_are_those_by_hand(seed, task):
    """In any order of rows, each unit has what a loop over units finds."""
    rng = np.random.default_rng(seed)
    n, k = rng.integers(1, 30), {"binary": 2, "multiclass": 4, "multilabel": 3}[task]
    scores = rng.random((n, k))
    if task != "multilabel":
        scores /= scores.sum(1, keepdims=True)
    units = rng.integers(0, 8, n)
    for how in ("mean", "max", "noisy-or"):
        if how == "noisy-or" and task == "multiclass":
            continue
        names, found = aggregate(scores, units, task, how)
        assert names.tolist() == sorted(set(units.tolist()))
        for name, row in zip(names, found, strict=True):
            own = scores[units == name]
            expected = {"mean": own.mean(0), "max": own.max(0), "noisy-or": 1 - np.prod(1 - own, axis=0)}[how]
            if task == "binary" and how != "mean":
                expected = [1 - expected[1], expected[1]]
            if task == "multiclass":
                expected = expected / expected.sum()
            assert np.allclose(row, expected)


def test_a_unit_of_one_row_keeps_its_scores():
    """Whatever the way, a unit of one row has the scores of that row."""
    scores = np.array([[0.3, 0.7], [1.0, 0.0]])
    for how in ("mean", "max", "noisy-or"):
        assert np.allclose(aggregate(scores, np.array([4, 2]), "binary", how)[1], scores[::-1])


def test_labels_of_units():
    """A unit is positive when any row is, has every label of its rows, and needs one class where there are more."""
    units = units_of(np.array(["p", "q", "p", "q"]), "patient")
    classes = np.array(["benign", "malignant"])
    y = np.array(["benign", "benign", "malignant", "benign"])
    assert labels_of_units(units, "binary", y, classes).tolist() == ["malignant", "benign"]
    Y = np.array([[1, 0], [0, 0], [0, 1], [0, 0]])
    assert labels_of_units(units, "multilabel", Y, np.arange(2)).tolist() == [[1, 1], [0, 0]]
    three = np.array(["a", "b", "c"])
    assert labels_of_units(units, "multiclass", np.array(["a", "c", "a", "c"]), three).tolist() == ["a", "c"]
    with pytest.raises(InputError, match="--per patient: q has rows of b and of c"):
        labels_of_units(units, "multiclass", np.array(["a", "b", "a", "c"]), three)


def test_units_that_straddle_a_split():
    """A unit with rows on both sides is refused, with what keeps it whole."""
    units = units_of(np.array(["p", "q", "p"]), "exam")
    with pytest.raises(SplitError, match=r"exam: p has training and test rows in fold 0\..*each exam is on one side"):
        refuse_straddling(units, [Split(0, np.array([0, 1]), np.array([2]))])
    refuse_straddling(units, [Split(0, np.array([0, 2]), np.array([1]))])


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=20))
def test_what_is_kept_whole_divides_neither_groups_nor_units(rows):
    """Rows that share a group or a unit, in turn, are one part, and no others are."""
    groups, units = np.array(rows).T
    part = np.arange(len(rows))
    for _ in rows:  # as often as a chain can be long
        for values in (groups, units):
            for value in np.unique(values):
                part[values == value] = part[values == value].min()
    if len(np.unique(part)) == 1 < min(len(np.unique(groups)), len(np.unique(units))):
        with pytest.raises(SplitError, match="connects all samples"):
            kept_whole(groups, units_of(units, "exam"))
        return
    found = kept_whole(groups, units_of(units, "exam"))
    assert (np.equal.outer(found, found) == np.equal.outer(part, part)).all()


def test_ways_that_there_are_not():
    """An unknown way, and noisy-or of more than two classes, are refused."""
    with pytest.raises(InputError, match="Did you mean 'mean'"):
        aggregate(np.eye(2), np.arange(2), "binary", "men")
    with pytest.raises(InputError, match="noisy-or"):
        aggregate(np.eye(3), np.arange(3), "multiclass", "noisy-or")


def test_an_outcome_of_units():
    """Of an aggregated outcome every fold has its units' metrics, and its training units their out-of-fold scores."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 3)
    y = (rng.random(40) < 0.5)[patient]
    X = rng.standard_normal((120, 4)) + y[:, None]
    splits = make_splits(y, groups=patient, n_folds=4)
    outcome = cross_validate(LinearProbe(), X, y, splits, groups=patient, out_of_fold=True)
    units, labels = aggregated(outcome, y, units_of(patient, "patient"), "mean")
    for fold, of_rows in zip(units.folds, outcome.folds, strict=True):
        assert set(fold.split.test) == set(patient[of_rows.split.test])
        assert set(fold.split.train) == set(fold.inside.rows) == set(patient[of_rows.split.train])
        truth = y[::3][fold.split.test]
        mean = [of_rows.scores[patient[of_rows.split.test] == p].mean(0) for p in fold.split.test]
        expected = score("binary", truth, np.array(mean), classes=outcome.classes)
        assert fold.metrics == pytest.approx(expected, nan_ok=True)
    assert labels.tolist() == y[::3].tolist()
    assert units.mean["auc"] > outcome.mean["auc"]
