"""Nested selection: what is reported was seen by nothing, and what is selected is what scikit-learn selects."""

from typing import ClassVar

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headwater.errors import HeadError, InputError, SplitError
from headwater.evaluate import Repeat, cross_validate, cross_validate_repeats, inner_splits, make_splits
from headwater.evaluate.protocol import align
from headwater.heads import LinearProbe
from headwater.heads.base import Head

GRID = [{"C": float(c)} for c in np.logspace(-3, 1, 25)]


def data(n=120, n_classes=3, seed=0):
    """Noisy classes in ten dimensions, in groups of four rows."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    X = rng.standard_normal((n, 10)) + 0.7 * np.eye(n_classes, 10)[y]
    return X, np.array(["ash", "beech", "cedar"])[y], np.repeat(np.arange(n // 4), 4)


class Spy(Head):
    """A head that tells by how far rows are from class means, sharpened by C, and keeps what each fit was given."""

    fits: ClassVar = []

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == c].mean(0) for c in self.classes_])
        return self

    def fit_many(self, X, y, fits, *, groups=None):
        Spy.fits.append([(rows, dict(params)) for rows, params in fits])
        return super().fit_many(X, y, fits, groups=groups)

    @classmethod
    def predict_proba_many(cls, heads, X, rows):
        return [head.predict_proba(X[part]) for head, part in zip(heads, rows, strict=True)]

    def predict_proba(self, X):
        distance = ((X[:, None] - self.means_) ** 2).sum(2)
        p = np.exp(-self.C * (distance - distance.min(1, keepdims=True)))
        return p / p.sum(1, keepdims=True)

    def default_grid(self):
        return GRID

    def to_state(self):
        raise NotImplementedError

    @classmethod
    def from_state(cls, values, arrays):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def forget():
    """Start each test with nothing seen."""
    Spy.fits = []


@pytest.mark.parametrize(("head", "tolerance"), [(Spy(), 0), (LinearProbe(), 1e-4)])
@pytest.mark.parametrize("grouped", [False, True])
def test_labels_of_test_rows_change_nothing_but_the_score(head, tolerance, grouped):
    """With the labels of a fold's test rows poisoned, its parameters and predictions are the same, its score is not."""
    X, y, patient = data()
    groups = patient if grouped else None
    splits = make_splits(y, groups=groups, n_folds=4)
    honest = cross_validate(head, X, y, splits, grid=GRID, groups=groups)
    assert len({fold.params["C"] for fold in honest.folds} | {honest.params["C"]}) > 1, "all the same proves nothing"
    for fold in honest.folds:
        poisoned = y.copy()
        poisoned[fold.split.test] = np.roll(np.unique(y), 1)[np.searchsorted(np.unique(y), y[fold.split.test])]
        again = cross_validate(head, X, poisoned, splits, grid=GRID, groups=groups).folds[fold.split.fold]
        assert again.params == fold.params
        assert np.abs(again.scores - fold.scores).max() <= tolerance
        assert again.metrics["log_loss"] != fold.metrics["log_loss"]


def test_features_of_test_rows_are_not_looked_at():
    """Replacing a fold's test features by others leaves its parameters as they are: no scaling has seen them."""
    X, y, _ = data()
    splits = make_splits(y, n_folds=3)
    honest = cross_validate(LinearProbe(), X, y, splits, grid=GRID)
    for fold in honest.folds:
        other = X.copy()
        other[fold.split.test] = 5 - 3 * other[fold.split.test]
        again = cross_validate(LinearProbe(), other, y, splits, grid=GRID).folds[fold.split.fold]
        assert again.params == fold.params


def test_every_fit_stays_inside_its_training_rows():
    """Fits for selection use part of a fold's training rows, whole groups of them; the reported fit uses them all."""
    X, y, groups = data()
    splits = make_splits(y, groups=groups, n_folds=3)
    cross_validate(Spy(), X, y, splits, grid=GRID, groups=groups, n_inner_folds=4)
    selecting, reporting = Spy.fits
    assert [params for _, params in selecting] == GRID * (4 * 4)  # three folds, and all rows for the final head
    for i, (rows, _) in enumerate(selecting):
        owner = i // (4 * len(GRID))
        train = splits[owner].train if owner < 3 else np.arange(len(y))
        assert set(rows) < set(train)
        assert not set(groups[rows]) & set(groups[np.setdiff1d(train, rows)])
    assert [rows.tolist() for rows, _ in reporting] == [*(s.train.tolist() for s in splits), list(range(len(y)))]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_selects_what_scikit_learn_selects(n_classes, grouped):
    """Each fold's C is the one with the lowest log loss, pooled over rows, of scikit-learn's pipeline."""
    X, y, groups = data(n_classes=n_classes, seed=3)
    groups = groups if grouped else None
    splits = make_splits(y, groups=groups, n_folds=4, seed=1)
    outcome = cross_validate(LinearProbe(tol=1e-9), X, y, splits, grid=GRID, groups=groups, n_inner_folds=3, seed=1)
    chosen = []
    for split in splits:
        inside = None if groups is None else groups[split.train]
        cv = [(inner.train, inner.test) for inner in inner_splits(y[split.train], inside, 3, 1)]

        def pooled(estimator, X, y, cv=cv):
            """Give each fold the weight of its rows: scikit-learn's mean over folds is then the mean over rows."""
            return -log_loss(y, estimator.predict_proba(X), labels=estimator.classes_) * len(y) * len(cv)

        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, tol=1e-9))
        search = GridSearchCV(pipeline, {"logisticregression__C": [p["C"] for p in GRID]}, scoring=pooled, cv=cv)
        search.fit(X[split.train], y[split.train])
        chosen.append({"C": search.best_params_["logisticregression__C"]})
        fold = outcome.folds[split.fold]
        assert np.abs(fold.scores - search.predict_proba(X[split.test])).max() < 1e-3
    assert [fold.params for fold in outcome.folds] == chosen
    assert len({fold.params["C"] for fold in outcome.folds}) > 1 or n_classes == 2


def test_the_loss_is_pooled_over_rows():
    """Inner folds of unequal size count by their rows: the choice is that of one log loss over all of them."""
    X, y, _ = data(seed=5)
    groups = np.repeat([0, 1, 2, 3, 4, 5, 6, 7], [50, 20, 14, 12, 9, 7, 5, 3])
    splits = make_splits(y, groups=groups, n_folds=2)
    outcome = cross_validate(Spy(), X, y, splits, grid=GRID, groups=groups, n_inner_folds=3)
    for split, fold in zip(splits, outcome.folds, strict=True):
        cv = [(i.train, i.test) for i in inner_splits(y[split.train], groups[split.train], 3, 0)]
        assert len({len(test) for _, test in cv}) > 1
        losses = []
        for params in GRID:
            p = np.empty((len(split.train), 3))
            for train, test in cv:
                p[test] = (
                    Spy(**params).fit(X[split.train[train]], y[split.train[train]]).predict_proba(X[split.train[test]])
                )
            losses.append(log_loss(y[split.train], p))
        assert fold.params == GRID[int(np.argmin(losses))]


def test_of_equal_settings_the_earlier_is_taken():
    """Among settings with the same loss the first of the grid is selected."""
    X, y, _ = data()
    grid = [{"C": 0.3}, {"C": 0.1}, {"C": 0.1, "tol": 1e-6}]
    outcome = cross_validate(LinearProbe(), X, y, make_splits(y, n_folds=2), grid=[*grid[1:], *grid[1:]])
    assert all(fold.params == grid[1] for fold in outcome.folds)


def test_nothing_to_select():
    """With one setting nothing is selected, no inner fold is made, and the outcome says so."""
    X, y, _ = data()
    outcome = cross_validate(Spy(), X, y, make_splits(y, n_folds=3), grid=[{"C": 2.0}])
    assert len(Spy.fits) == 1
    assert outcome.selection["by"] is None
    assert outcome.selection["inner_folds"] is None
    assert outcome.params == {"C": 2.0}


def test_the_final_head_is_fitted_on_all_rows():
    """The head that is handed out was fitted on all rows, with parameters selected on all rows."""
    X, y, groups = data()
    outcome = cross_validate(LinearProbe(), X, y, make_splits(y, groups=groups), grid=GRID, groups=groups)
    alone = LinearProbe(**outcome.params).fit(X, y)
    assert np.allclose(outcome.head.predict_proba(X), alone.predict_proba(X), atol=1e-4)
    assert outcome.selection["final_params"] == outcome.params


def test_the_same_seed_gives_the_same_outcome():
    """Everything in an outcome is the same when it is computed again, to the bit."""
    X, y, groups = data()
    splits = make_splits(y, groups=groups)
    one, two = (cross_validate(LinearProbe(), X, y, splits, grid=GRID, groups=groups) for _ in range(2))
    assert one.mean == two.mean
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(one.folds, two.folds, strict=True))
    assert np.array_equal(one.head.coef_, two.head.coef_)


def test_several_labels():
    """For several labels the scores have a column for each, and the metrics are those of several labels."""
    X, y, groups = data()
    Y = np.column_stack([y == "ash", (y == "beech") | (X[:, 5] > 0)]).astype(int)
    outcome = cross_validate(LinearProbe(), X, Y, make_splits(Y, groups=groups), grid=GRID, groups=groups)
    assert outcome.task == "multilabel"
    assert all(fold.scores.shape == (len(fold.split.test), 2) for fold in outcome.folds)
    assert outcome.mean["auc_macro"] > 0.6


def test_a_class_that_inner_training_rows_lack():
    """A class that some inner training rows lack counts there with probability 0, and the selection goes on."""
    X, y, groups = data(n_classes=2)
    y = y.astype(object)
    y[:8] = "yew"  # two groups
    outcome = cross_validate(LinearProbe(), X, y, make_splits(y, groups=groups, n_folds=2), grid=GRID, groups=groups)
    assert outcome.classes.tolist() == ["ash", "beech", "yew"]
    assert all(fold.scores.shape[1] == 3 for fold in outcome.folds)


def test_align_puts_columns_where_their_class_is():
    """Probabilities get a column for each class, 0 for one that the head never saw."""
    p = np.array([[0.25, 0.75]])
    assert align(p, np.array(["b", "d"]), np.array(["a", "b", "c", "d"])).tolist() == [[0, 0.25, 0, 0.75]]


@pytest.mark.parametrize("grid", [GRID, [{"C": 2.0}]])
def test_out_of_fold_scores(grid):
    """Each training row is scored once, by a head with the selected parameters that saw neither it nor its group."""
    X, y, groups = data()
    splits = make_splits(y, groups=groups, n_folds=3)
    outcome = cross_validate(Spy(), X, y, splits, grid=grid, groups=groups, n_inner_folds=4, out_of_fold=True)
    everything = np.arange(len(y))
    reported = [*((f.split.train, f.params, f.inside) for f in outcome.folds)]
    for train, params, inside in [*reported, (everything, outcome.params, outcome.inside)]:
        assert sorted(inside.rows) == train.tolist()
        for number in np.unique(inside.fold):
            tested = inside.rows[inside.fold == number]
            others = np.setdiff1d(train, tested)
            assert not set(groups[tested]) & set(groups[others])
            alone = Spy(**params).fit(X[others], y[others]).predict_proba(X[tested])
            assert np.array_equal(inside.scores[inside.fold == number], alone)


def test_out_of_fold_scores_are_made_when_asked_for():
    """Where there is nothing to select and nobody asks, no inner fold is made."""
    X, y, _ = data()
    outcome = cross_validate(Spy(), X, y, make_splits(y, n_folds=3), grid=[{"C": 2.0}])
    assert outcome.inside is None
    assert all(fold.inside is None for fold in outcome.folds)


def test_rows_that_every_inner_fold_trains_on_have_no_out_of_fold_score():
    """A class in one group only stays in training inside: its rows are not among those scored out of fold."""
    X, y, groups = data(n_classes=2)
    y = y.astype(object)
    y[:4] = "yew"  # one group
    split = np.where(groups % 3 == 2, "test", "train")
    outcome = cross_validate(LinearProbe(), X, y, make_splits(y, groups=groups, split=split), groups=groups, grid=GRID)
    train = outcome.folds[0].split.train
    assert sorted(outcome.folds[0].inside.rows) == np.setdiff1d(train, np.arange(4)).tolist()


def test_the_final_head_may_be_fitted_on_some_rows():
    """Where rows are named for the head that is handed out, it is fitted and its parameters are selected on those."""
    X, y, groups = data()
    rows = np.arange(0, len(y), 2)
    splits = make_splits(y, groups=groups)
    outcome = cross_validate(LinearProbe(tol=1e-9), X, y, splits, grid=GRID, groups=groups, final=rows)
    alone = LinearProbe(tol=1e-9, **outcome.params).fit(X[rows], y[rows])
    assert np.allclose(outcome.head.predict_proba(X), alone.predict_proba(X), atol=1e-4)
    assert set(outcome.inside.rows) <= set(rows)
    assert "60 rows" in outcome.selection["saved_head"]


def test_training_rows_of_one_group():
    """Training rows that cannot be divided further are refused, since nothing could be selected honestly."""
    X, y, _ = data(n=40, n_classes=2)
    groups = np.repeat([0, 1], 20)
    with pytest.raises(SplitError):
        cross_validate(LinearProbe(), X, y, make_splits(y, groups=groups, n_folds=2), grid=GRID, groups=groups)


def test_probabilities_that_are_not_numbers():
    """When no setting gives numbers the run stops, rather than reporting a choice made of NaN."""

    class Broken(Spy):
        def predict_proba(self, X):
            return np.full((len(X), len(self.classes_)), np.nan)

    X, y, _ = data(n_classes=2)
    with pytest.raises(HeadError, match="finite"):
        cross_validate(Broken(), X, y, make_splits(y), grid=GRID)


@pytest.mark.parametrize("several", [False, True])
def test_a_setting_that_gives_no_numbers_is_not_selected(several):
    """Among settings one of which gives NaN another is selected, for one label a row and for several."""

    class Diverges(Spy):
        def fit(self, X, y):
            self.classes_ = np.arange(2)
            return self

        def predict_proba(self, X):
            return np.full((len(X), 2), np.nan if self.C == 1.0 else 0.5)

    X, y, _ = data(n_classes=2)
    labels = np.column_stack([y == "ash", X[:, 0] > 0]).astype(int) if several else (y == "ash").astype(int)
    outcome = cross_validate(Diverges(), X, labels, make_splits(labels), grid=[{"C": 1.0}, {"C": 2.0}])
    assert {fold.params["C"] for fold in outcome.folds} == {2.0}
    with pytest.raises(InputError, match="scores are NaN"):
        cross_validate(Diverges(), X, labels, make_splits(labels), grid=[{"C": 1.0}])


def test_progress_counts_the_fits():
    """What is said on the way names the number of settings, of fits and of heads."""
    X, y, _ = data()
    said = []
    cross_validate(Spy(), X, y, make_splits(y, n_folds=3), grid=GRID, n_inner_folds=4, progress=said.append)
    assert said == [f"selecting among 25 settings: {4 * 4 * 25} fits", "fitting 4 heads"]


# Repeats


class Drawn(Spy):
    """A head that moves the class means by chance."""

    seeds_together = True

    def __init__(self, C=1.0, seed=0):
        super().__init__(C)
        self.seed = seed

    def fit(self, X, y):
        super().fit(X, y)
        self.means_ = self.means_ + np.random.default_rng(self.seed).standard_normal(self.means_.shape)
        return self


@pytest.mark.parametrize(("together", "at_once", "calls"), [(True, 1000, [700, 7]), (False, 1000, [400, 400, 4, 4])])
def test_repeats_are_those_of_each_seed_alone(together, at_once, calls, monkeypatch):
    """Several seeds are fitted in one call where that is faster, and each comes out as it does alone."""
    monkeypatch.setattr(Drawn, "seeds_together", together)
    X, y, groups = data()
    splits = {seed: make_splits(y, groups=groups, n_folds=3, seed=seed) for seed in (4, 5)}
    monkeypatch.setattr(Spy, "fits", [])
    found = cross_validate_repeats(
        Drawn(), X, y, [Repeat(splits[seed], GRID, seed, {"seed": seed}) for seed in (4, 5)], groups=groups
    )
    assert [len(call) for call in Spy.fits] == calls
    alone = [
        cross_validate(Drawn(seed=seed), X, y, splits[seed], grid=GRID, groups=groups, seed=seed) for seed in (4, 5)
    ]
    folds = [fold for one in alone for fold in one.folds]
    assert len(found.folds) == 6
    for a, b in zip(folds, found.folds, strict=True):
        assert a.params == b.params
        assert "seed" not in b.params
        assert np.array_equal(a.scores, b.scores)
        assert np.array_equal(a.inside.scores, b.inside.scores)
        assert np.array_equal(a.split.test, b.split.test)
    assert found.params == alone[0].params
    assert np.array_equal(found.head.means_, alone[0].head.means_)
    assert np.array_equal(found.inside.scores, alone[0].inside.scores)


def test_no_more_heads_are_held_than_may_be(monkeypatch):
    """Selection goes through the outer splits a few at a time, to the same answers."""
    X, y, groups = data()
    splits = make_splits(y, groups=groups, n_folds=3)
    whole = cross_validate(Spy(), X, y, splits, grid=GRID, groups=groups)
    monkeypatch.setattr("headwater.evaluate.protocol.FITS_AT_ONCE", 210)
    monkeypatch.setattr(Spy, "fits", [])
    parts = cross_validate(Spy(), X, y, splits, grid=GRID, groups=groups)
    assert [len(call) for call in Spy.fits] == [200, 200, 4]
    for a, b in zip(whole.folds, parts.folds, strict=True):
        assert a.params == b.params
        assert np.array_equal(a.scores, b.scores)
