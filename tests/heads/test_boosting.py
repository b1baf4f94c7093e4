"""Boosted trees: XGBoost's own classifier, fitted many at once."""

import numpy as np
import pytest
from xgboost import XGBClassifier

from headwater.errors import HeadError
from headwater.heads import XGBoost


def data(n=400, d=10, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return X, np.digitize(X[:, 0] * X[:, 1], [-0.4, 0.4])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_are_xgboosts(n_classes):
    """Without rows held out, the trees are those of XGBClassifier with the same settings."""
    X, y = data()
    y = np.minimum(y, n_classes - 1)
    head = XGBoost(30, max_depth=3, lr=0.2, colsample=0.7, patience=None, max_bin=100, n_threads=1)
    head.fit(X[:300], y[:300])
    reference = XGBClassifier(
        n_estimators=30,
        max_depth=3,
        learning_rate=0.2,
        colsample_bytree=0.7,
        min_child_weight=1,
        tree_method="hist",
        max_bin=100,
        random_state=0,
        n_jobs=1,
    ).fit(X[:300], y[:300])
    assert head.predict_proba(X[300:]) == pytest.approx(reference.predict_proba(X[300:]), abs=1e-5)


def test_boosting_stops_at_the_best_round():
    """Where labels are noise few rounds are kept; where they are not, enough to learn what no linear model can."""
    X, y = data(800)
    noise = np.random.default_rng(1).integers(0, 2, 800)
    assert XGBoost(200, n_threads=1).fit(X, noise).n_rounds_ < 40
    head = XGBoost(200, n_threads=1).fit(X[:600], y[:600])
    assert head.n_rounds_ > 20
    assert head.score(X[600:], y[600:]) > 0.75
    assert head.booster_.num_boosted_rounds() == head.n_rounds_


def test_bins_are_made_once_for_all_settings(monkeypatch):
    """Settings that share rows share their columns' bins."""
    X, y = data()
    made = []
    monkeypatch.setattr(XGBoost, "_binned", lambda *a, own=XGBoost._binned: made.append(1) or own(*a))
    rows = [np.arange(300), np.arange(100, 400)]
    fits = [(part, {"max_depth": depth}) for part in rows for depth in (1, 2, 3)]
    XGBoost(5, n_threads=1).fit_many(X, y, fits)
    assert len(made) == 2


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"lr": 0}, "lr must be above 0"),
        ({"subsample": 1.5}, "at most 1"),
        ({"patience": 0}, "patience must be above 0"),
    ],
)
def test_unusable_settings(params, said):
    with pytest.raises(HeadError, match=said):
        XGBoost(**params).fit(*data(60))


def test_settings_side_by_side_are_those_alone():
    """Settings that are boosted at once, on the bins they share, grow the trees that each grows alone."""
    X, y = data(400)
    rows = np.arange(300)
    settings = [{"max_depth": depth, "lr": lr} for depth in (2, 3, 5) for lr in (0.1, 0.3)]
    together = XGBoost(30, n_threads=4).fit_many(X, y, [(rows, params) for params in settings])
    for params, head in zip(settings, together, strict=True):
        (alone,) = XGBoost(30, n_threads=1).fit_many(X, y, [(rows, params)])
        assert np.array_equal(head.predict_proba(X), alone.predict_proba(X))
