"""Every way to split keeps groups whole, is the same for the same seed, and says in one line why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

from headwater.errors import InputError, SplitError
from headwater.evaluate.splits import Split, inner_splits, make_splits


@st.composite
def grouped_tables(draw):
    """Labels of one or several kinds, with groups of very different sizes."""
    n_groups = draw(st.integers(2, 12))
    sizes = draw(st.lists(st.integers(1, 9), min_size=n_groups, max_size=n_groups))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.permutation(np.repeat([f"p{i}" for i in range(n_groups)], sizes))
    if draw(st.booleans()):
        y = rng.integers(0, 2, (len(groups), draw(st.integers(1, 5))))
    else:
        y = rng.integers(0, draw(st.integers(2, 4)), len(groups))
    return y, groups


def assert_sound(splits: list[Split], n: int, groups=None) -> None:
    for split in splits:
        assert split.train.dtype == split.test.dtype == np.int64
        assert len(split.train) > 0
        assert len(split.test) > 0
        assert not set(split.train) & set(split.test)
        assert set(split.train) | set(split.test) <= set(range(n))
        assert (np.diff(split.train) > 0).all()
        assert (np.diff(split.test) > 0).all()
        if groups is not None:
            assert not set(groups[split.train]) & set(groups[split.test])


def same(a: list[Split], b: list[Split]) -> bool:
    return len(a) == len(b) and all(
        s.fold == t.fold and np.array_equal(s.train, t.train) and np.array_equal(s.test, t.test)
        for s, t in zip(a, b, strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(grouped_tables(), st.integers(2, 6), st.integers(0, 99))
def test_no_group_is_divided_between_folds_and_every_row_is_tested_once(table, n_folds, seed):
    y, groups = table
    try:
        splits = make_splits(y, groups=groups, n_folds=n_folds, seed=seed)
    except SplitError:
        return
    assert_sound(splits, len(y), groups)
    assert [s.fold for s in splits] == list(range(n_folds))
    assert sorted(np.concatenate([s.test for s in splits])) == list(range(len(y)))
    assert same(splits, make_splits(y, groups=groups, n_folds=n_folds, seed=seed))


@settings(max_examples=150, deadline=None)
@given(grouped_tables(), st.floats(0.05, 0.95), st.integers(0, 99))
def test_no_group_is_divided_by_a_hold_out(table, share, seed):
    y, groups = table
    try:
        splits = make_splits(y, groups=groups, holdout=share, seed=seed)
    except SplitError:
        return
    assert len(splits) == 1
    assert_sound(splits, len(y), groups)
    assert len(splits[0].train) + len(splits[0].test) == len(y)
    assert same(splits, make_splits(y, groups=groups, holdout=share, seed=seed))


@settings(max_examples=150, deadline=None)
@given(grouped_tables(), st.booleans(), st.integers(2, 6), st.integers(0, 99))
def test_inner_splits_keep_groups_whole_and_every_class_in_training(table, grouped, n_folds, seed):
    y, groups = table
    groups = groups if grouped else None
    try:
        splits = inner_splits(y, groups, n_folds, seed)
    except SplitError:
        return
    assert_sound(splits, len(y), groups)
    assert 1 <= len(splits) <= n_folds
    if y.ndim == 1:
        assert all(set(y[s.train]) == set(y) for s in splits)
    assert same(splits, inner_splits(y, groups, n_folds, seed))


@pytest.mark.parametrize("seed", [0, 7])
def test_folds_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(3)
    y = rng.choice(["benign", "malignant", "normal"], 200, p=[0.6, 0.3, 0.1])
    groups = rng.integers(0, 30, 200)
    X = np.zeros((200, 1))

    expected = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y))
    for split, (train, test) in zip(make_splits(y, seed=seed), expected, strict=True):
        np.testing.assert_array_equal(split.train, train)
        np.testing.assert_array_equal(split.test, test)

    expected = list(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(X, y, groups))
    for split, (train, test) in zip(make_splits(y, groups=groups, seed=seed), expected, strict=True):
        np.testing.assert_array_equal(split.train, train)
        np.testing.assert_array_equal(split.test, test)

    expected = list(StratifiedShuffleSplit(1, test_size=0.2, random_state=seed).split(X, y))
    (split,) = make_splits(y, holdout=0.2, seed=seed)
    np.testing.assert_array_equal(split.test, np.sort(expected[0][1]))


def test_string_groups_of_object_dtype_split_like_the_same_groups_as_numbers():
    y = np.arange(60) % 2
    numbers = np.arange(60) // 4
    names = np.array([f"p{n:02}" for n in numbers], dtype=object)
    assert same(make_splits(y, groups=numbers), make_splits(y, groups=names))


def test_another_seed_gives_other_folds():
    y = np.arange(100) % 2
    indicators = np.column_stack([y, np.arange(100) % 3 == 0])
    assert not same(make_splits(y, seed=0), make_splits(y, seed=1))
    assert not same(make_splits(indicators, seed=0), make_splits(indicators, seed=1))


def test_several_labels_are_balanced_over_folds_much_better_than_by_chance():
    rng = np.random.default_rng(0)
    y = (rng.random((2000, 12)) < rng.uniform(0.005, 0.3, 12)).astype(int)
    splits = make_splits(y, n_folds=5)
    found = np.array([y[s.test].sum(axis=0) for s in splits])
    assert np.abs(found - y.sum(axis=0) / 5).max() <= 1
    sizes = [len(s.test) for s in splits]
    assert max(sizes) - min(sizes) <= 1

    (split,) = make_splits(y, holdout=0.2)
    np.testing.assert_allclose(y[split.test].sum(axis=0), 0.2 * y.sum(axis=0), atol=1)


def test_groups_with_the_rarest_label_are_dealt_out_first():
    """Ten small groups have the rare label; twenty large ones would leave no choice if they came first."""
    groups = np.repeat(np.arange(30), [2] * 10 + [20] * 20)
    y = np.column_stack([groups < 10, np.arange(len(groups)) % 2]).astype(int)
    for seed in range(5):
        found = [y[s.test, 0].sum() for s in make_splits(y, groups=groups, seed=seed)]
        assert found == [4] * 5


def test_a_hold_out_by_group_comes_near_its_share_of_rows_and_of_classes():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 80, 1000)
    y = (rng.random(1000) < 0.25).astype(int)
    (split,) = make_splits(y, groups=groups, holdout=0.2)
    assert 0.17 < len(split.test) / 1000 < 0.23
    assert 0.22 < y[split.test].mean() < 0.28


def test_a_hold_out_of_two_groups_tests_the_smaller_one():
    groups = np.array([0, 0, 0, 1, 1])
    (split,) = make_splits([0, 1, 0, 0, 1], groups=groups, holdout=0.1)
    assert split.test.tolist() == [3, 4]


def test_a_class_rarer_than_the_folds_is_split_without_a_warning():
    y = np.array(["a"] * 20 + ["b"] * 3)
    splits = make_splits(y, n_folds=5)
    assert sum("b" in y[s.test] for s in splits) == 3


def test_a_given_split_counts_validation_rows_as_training_rows():
    column = np.array(["train", "VAL", "test", "valid ", "test"], dtype=object)
    (split,) = make_splits([0, 1, 0, 1, 1], split=column)
    assert split.fold == 0
    assert split.train.tolist() == [0, 1, 3]
    assert split.test.tolist() == [2, 4]


@pytest.mark.parametrize("column", [[2, 0, 1, 0, 1, 2], [2.0, 0.0, 1.0, 0.0, 1.0, 2.0], ["2", "0", "1", "0", "1", "2"]])
def test_given_fold_numbers_are_tested_in_turn(column):
    splits = make_splits([0, 0, 0, 1, 1, 1], split=column)
    assert [s.test.tolist() for s in splits] == [[1, 3], [2, 4], [0, 5]]
    assert_sound(splits, 6)


Y = np.array([0, 1] * 5)
REFUSED = {
    "more folds than groups": ({"groups": np.arange(10) // 5}, "only 2 groups"),
    "more folds than rows": ({"n_folds": 11}, "only 10 rows"),
    "more folds than rows of the largest class": ({"n_folds": 6}, "largest class has only 5 rows"),
    "one fold": ({"n_folds": 1}, "at least 2"),
    "null groups": ({"groups": np.array(["a", None] * 5, dtype=object)}, "groups is null in 5 rows"),
    "NaN groups": ({"groups": np.array([1.0] * 9 + [np.nan])}, "groups is null in 1 row:"),
    "groups of another length": ({"groups": np.arange(9)}, r"groups has shape \(9,\), but there are 10 samples"),
    "an unknown word": ({"split": ["train"] * 8 + ["test", "tset"]}, "'tset'"),
    "a gap in the fold numbers": ({"split": [0, 2] * 5}, r"fold numbers \[0, 2\]"),
    "one fold number": ({"split": [0] * 10}, r"fold numbers \[0\]"),
    "a fold and a half": ({"split": [0, 1.5] * 5}, "1.5"),
    "nothing tested": ({"split": ["train"] * 10}, "no test rows"),
    "nothing trained": ({"split": ["test"] * 10}, "no training rows"),
    "a null split": ({"split": ["train", None] * 5}, "split is null in 5 rows"),
    "a group on both sides": (
        {"split": ["train"] * 5 + ["test"] * 5, "groups": list("aabbccddee")},
        "divides 1 group, such as c:",
    ),
    "split and holdout": ({"split": ["train"] * 10, "holdout": 0.2}, "pass one of them"),
    "a share above one": ({"holdout": 20}, "between 0 and 1"),
    "a single group held out": ({"holdout": 0.5, "groups": ["a"] * 10}, "only 1 group"),
    "a class only tested": ({"split": ["train", "test"] * 5}, "no training rows of class 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split_is_refused_in_one_line(case):
    arguments, message = REFUSED[case]
    with pytest.raises(SplitError, match=message) as caught:
        make_splits(Y, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 6, "label is a in every row"),
        (np.ones((6, 2)), "same in every row"),
        (np.array([[0, 2], [1, 0]]), "hold only 0 and 1"),
        (np.array(["a", None, "b"], dtype=object), "null in 1 row"),
        (np.zeros((2, 2, 2)), "shape"),
        ([], "shape"),
        (["a", "b", "a", "a", "a", "a"], "no training rows of class b"),
    ],
)
@pytest.mark.parametrize("divide", [make_splits, lambda y, n_folds: inner_splits(y, None, n_folds, 0)])
def test_labels_that_cannot_be_learnt_are_refused(y, message, divide):
    if message.startswith("no training") and divide is not make_splits:
        message = "class b is in only one training row"
    with pytest.raises(SplitError, match=message):
        divide(y, n_folds=2)


def test_values_of_different_kinds_in_a_column_are_refused():
    with pytest.raises(InputError, match=r"groups mixes .* \(int, str\)"):
        make_splits([0, 1], groups=np.array([1, "a"], dtype=object), n_folds=2)


def test_a_class_in_one_group_only_is_refused():
    with pytest.raises(SplitError, match="no training rows of class rare"):
        make_splits(["a", "b"] * 4 + ["rare"] * 2, groups=np.arange(10) // 2, n_folds=2)


def test_inner_splits_come_down_to_the_number_of_groups():
    y, groups = np.array([0, 1] * 6), np.arange(12) // 4
    assert len(inner_splits(y, groups, 5, 0)) == 3
    assert len(inner_splits(np.column_stack([y, y]), groups, 5, 0)) == 3
    assert len(inner_splits(y[:8], groups[:8], 5, 0)) == 2


def test_inner_splits_keep_the_only_group_of_a_class_in_training():
    y = np.array(["a", "b"] * 4 + ["rare"] * 2)
    groups = np.arange(10) // 2
    splits = inner_splits(y, groups, 5, 0)
    assert_sound(splits, 10, groups)
    assert all("rare" in y[s.train] and "rare" not in y[s.test] for s in splits)
    assert [s.fold for s in splits] == list(range(len(splits)))


def test_inner_splits_are_refused_where_nothing_can_be_selected():
    with pytest.raises(
        SplitError,
        match="cannot select parameters or calibrate: all training rows belong to one group",
    ):
        inner_splits([0, 1, 0], [7, 7, 7], 5, 0)
    with pytest.raises(SplitError, match="class 1 is in only one training group"):
        inner_splits([0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2], 5, 0)
    with pytest.raises(SplitError, match="at least 2"):
        inner_splits([0, 1, 0], None, 1, 0)


def test_splitting_many_labelled_rows_takes_seconds_at_most():
    rng = np.random.default_rng(0)
    y = (rng.random((20_000, 60)) < 0.05).astype(int)
    assert len(make_splits(y, holdout=0.2)[0].test) == pytest.approx(4000, abs=60)
