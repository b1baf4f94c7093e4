"""Halving: who is dropped when, on what grounds, and that selection stays inside the training rows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from headwater.errors import HeadError
from headwater.evaluate import TPE, Repeat, cross_validate, cross_validate_repeats, inner_splits, make_splits
from headwater.evaluate.halving import RUNGS, Halving, Rung, ahead, n_close, rungs, survivors
from headwater.heads import MLP, LinearProbe, SelfAttention

pytest.importorskip("torch")
GRID = [{"lr": lr, "weight_decay": decay} for lr in (1e-4, 1e-3, 1e-2) for decay in (1e-2, 1.0)]
SMALL = {"hidden": (16,), "epochs": 20, "patience": 4, "precision": "fp32", "device": "cpu"}


def data(n=150, d=12, signal=0.6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    X = rng.standard_normal((n, d)) + signal * np.eye(1, d)[0] * y[:, None]
    return X.astype(np.float32), y, np.arange(n) // 3


@given(st.integers(1, 300))
def test_rungs_halve_what_is_left(n):
    """Each keeps half of what is left, or two thirds at the first of all, later than the one before; one is left at a
    quarter of the schedule, if there are few, and one or two settings are never dropped."""
    found = rungs(n)
    kept = [n, *(rung.kept for rung in found)]
    part = dict(RUNGS)
    assert all(
        after == -(-before * part[rung.share] // 1) for rung, (before, after) in zip(found, pairwise(kept), strict=True)
    )
    assert all(0 < a.share < b.share < 1 for a, b in pairwise(found))
    assert bool(found) == (n > 2)
    assert not found or kept[-1] == 1 or len(found) == len(RUNGS)
    if 3 <= n <= 12:
        assert found[-1] == Rung(1 / 4, 1 / 2, 1)


def test_slow_starters_are_judged_by_what_they_promise():
    """A setting whose loss falls fast is kept rather than a slightly better one whose loss has stopped falling."""
    now, before = np.array([0.50, 0.52, 0.53]), np.array([0.50, 0.80, 0.53])
    assert survivors(ahead(now), 1) == [0]
    assert survivors(ahead(now, before), 1) == [1]
    losses = np.array([0.5, 0.5, np.inf, np.nan])  # one that rose, one that was infinite, and others that are
    assert np.array_equal(ahead(losses, np.array([0.4, np.inf, np.inf, np.inf])), losses, equal_nan=True)


def test_settings_close_to_the_best_go_on_too():
    """Those within two standard errors over inner folds, up to two thirds; not at the last point, nor on one fold."""
    losses = np.array([[0.50, 0.45, 0.95, 0.90, 0.90, 0.91], [0.50, 0.63, 0.95, 0.90, 0.90, 0.91]])
    assert n_close(losses, losses.mean(0)) == 2
    assert n_close(losses[:1], losses[0]) == 1
    assert n_close(np.full((2, 3), np.inf), np.full(3, np.inf)) == 1
    wide = losses + np.array([[0.6], [-0.6]]) * np.arange(6) * 0.3  # folds that disagree: all settings are close

    def left(share, of_folds):
        places = [(0, fold, setting) for fold in range(2) for setting in range(6)]
        judge = Halving(rungs(6), places, lambda search, scores: of_folds, [[10, 10]])
        return judge(share, dict.fromkeys(range(12)), {})

    assert left(1 / 16, losses) == [0, 1, 3, 6, 7, 9]
    assert len(left(1 / 16, wide)) == 2 * 4
    assert len(left(1 / 4, wide)) == 2 * 3


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, np.inf, np.nan]), min_size=1, max_size=12), st.integers(1, 12))
def test_survivors_are_the_lowest_losses(losses, kept):
    """No dropped loss is below a kept one; of those that are not finite, none stays while there is another."""
    values = np.array(losses)
    found = survivors(values, kept)
    finite = np.isfinite(values)
    if finite.any():
        assert len(found) == min(kept, finite.sum())
        assert finite[found].all()
        rest = np.setdiff1d(np.flatnonzero(finite), found)
        assert not len(rest) or values[rest].min() >= values[found].max()
    else:
        assert found == list(range(min(kept, len(values))))


def test_each_fold_drops_by_its_own_inner_folds():
    """A fold's trials are those of its training rows alone: test rows of another label change none of them."""
    X, y, groups = data()
    splits = make_splits(y, groups=groups, n_folds=3)
    turned = y.copy()
    turned[splits[0].test] = 1 - y[splits[0].test]
    head = MLP(**SMALL)
    once, again = (cross_validate(head, X, labels, splits, grid=GRID, groups=groups) for labels in (y, turned))
    dropped = [[(trial.params, trial.dropped_at_epoch) for trial in found.folds[0].trials] for found in (once, again)]
    assert dropped[0] == dropped[1]
    losses = [[[trial.loss for trial in fold.trials] for fold in found.folds] for found in (once, again)]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)
    assert losses[0][1] != pytest.approx(losses[1][1], abs=1e-3)
    assert once.folds[0].params == again.folds[0].params


def test_losses_are_those_of_heads_fitted_by_hand():
    """A setting that was dropped has the inner loss of a head that is trained up to then, and the others that of a
    head that is trained to the end; the selected one is the best of these, with its out-of-fold scores."""
    X, y, groups = data()
    splits = make_splits(y, groups=groups, n_folds=3)
    head = MLP(**{**SMALL, "patience": None, "warmup": 0.0})
    found = cross_validate(head, X, y, splits, grid=GRID, groups=groups, seed=3)
    fold = found.folds[1]
    rows = fold.split.train
    inner = inner_splits(y[rows], groups[rows], 4, 3)
    ends = {}
    for number, trial in enumerate(fold.trials):
        if trial.dropped_at_epoch is None:
            fits = [(rows[part.train], trial.params) for part in inner]
            fitted = head.fit_many(X, y, fits, groups=groups)
            scores = [h.predict_proba(X[rows[part.test]]) for h, part in zip(fitted, inner, strict=True)]
            truth = np.concatenate([y[rows[part.test]] for part in inner])
            ends[number] = log_loss(truth, np.concatenate(scores))
            assert trial.loss == pytest.approx(ends[number], abs=1e-4)
            if trial.params == fold.params:
                assert fold.inside.scores == pytest.approx(np.concatenate(scores), abs=1e-4)
                assert np.array_equal(fold.inside.rows, np.concatenate([rows[part.test] for part in inner]))
    assert len(ends) == 1
    assert fold.params == fold.trials[min(ends, key=ends.get)].params
    assert fold.inner_loss == pytest.approx(min(ends.values()), abs=1e-4)
    assert sorted(t.dropped_at_epoch for t in fold.trials if t.dropped_at_epoch) == [2, 2, 2, 3, 5]
    assert [rung["settings_kept"] for rung in found.selection["halving"]["at"]] == [3, 2, 1]


def test_a_dropped_setting_cannot_win():
    """Not even if its loss when dropped is below all of those at the end, as with networks that overfit."""
    X, y, groups = data(signal=0.0, d=60)
    head = MLP(hidden=(32,), epochs=40, patience=None, device="cpu", precision="fp32")
    grid = [{"lr": lr} for lr in (1e-2, 1.1e-2, 1.2e-2, 1.3e-2)]
    found = cross_validate(head, X, y, make_splits(y, groups=groups, n_folds=3), grid=grid, groups=groups)
    for fold in found.folds:
        ended = [trial for trial in fold.trials if trial.dropped_at_epoch is None]
        assert min(trial.loss for trial in fold.trials) < min(trial.loss for trial in ended)
        assert fold.params in [trial.params for trial in ended]
        assert fold.inner_loss == min(trial.loss for trial in ended)


def test_shapes_race_each_other():
    """Settings of different shapes and schedules, which are trained in different batches, are halved as one list."""
    X, y, _ = data()
    grid = [{"hidden": (h,), "epochs": e, "lr": lr} for h in (4, 16) for e in (8, 21) for lr in (1e-3, 1e-1)]
    found = cross_validate(MLP(**SMALL), X, y, make_splits(y, n_folds=3), grid=grid, n_inner_folds=3)
    for fold in found.folds:
        at = [trial.dropped_at_epoch for trial in fold.trials]
        assert at.count(None) in (1, 2)
        for trial in fold.trials:  # a sixteenth, an eighth and a quarter of the epochs after the warm-up
            points = {8: (2, 2, 3), 21: (3, 4, 6)}[trial.params["epochs"]]
            assert trial.dropped_at_epoch in (None, *points)


@pytest.mark.parametrize("kind", [MLP, SelfAttention])
def test_what_diverges_goes_first(kind):
    """A setting without a finite loss is dropped at the first point, and a search of nothing else is refused."""
    X, y, _ = data(60)
    head = MLP(**SMALL) if kind is MLP else SelfAttention(width=8, blocks=1, heads=2, hidden=(), epochs=8, device="cpu")
    X = X if kind is MLP else X.reshape(60, 3, 4)
    grid = [{"lr": 1e38}, {"lr": 1e-4}, {"lr": 1e-3}, {"lr": 1e37}]
    found = cross_validate(head, X, y, make_splits(y, n_folds=2), grid=grid, n_inner_folds=2)
    for fold in found.folds:
        at = [trial.dropped_at_epoch for trial in fold.trials]
        first = min(epoch for epoch in at if epoch is not None)
        assert (at[0], at[3]) == (first, first)
        assert at[1:3].count(None) == 1
        assert np.isinf([fold.trials[0].loss, fold.trials[3].loss]).all()
    with pytest.raises(HeadError, match=r"lower lr|no setting of the grid gives finite scores"):
        cross_validate(head, X, y, make_splits(y, n_folds=2), grid=[{"lr": 1e38}, {"lr": 1e37}], n_inner_folds=2)


def test_repeats_halve_as_each_alone(monkeypatch):
    """Several seeds in one race drop what each drops alone, however many splits are trained at once."""
    X, y, groups = data()
    splits = {seed: make_splits(y, groups=groups, n_folds=2, seed=seed) for seed in (1, 2)}
    repeats = [Repeat(splits[seed], GRID, seed, {"seed": seed}) for seed in (1, 2)]
    head = MLP(**SMALL)
    outcomes = []
    for most in (1, 1000):
        monkeypatch.setattr("headwater.evaluate.protocol.FITS_PAUSED", most)
        outcomes.append(cross_validate_repeats(head, X, y, repeats, groups=groups))
    alone = [
        cross_validate(MLP(**SMALL, seed=seed), X, y, splits[seed], grid=GRID, groups=groups, seed=seed).folds
        for seed in (1, 2)
    ]
    for folds in zip(*(outcome.folds for outcome in outcomes), [fold for of in alone for fold in of], strict=True):
        for a, b, c in zip(*(fold.trials for fold in folds), strict=True):
            assert a.dropped_at_epoch == b.dropped_at_epoch == c.dropped_at_epoch
            assert (a.loss, b.loss) == pytest.approx((c.loss, c.loss), abs=1e-4)


def test_others_drop_nothing():
    """With halving off, for a search that proposes settings, and for heads that are not trained in epochs."""
    X, y, _ = data(90)
    splits = make_splits(y, n_folds=2)
    off = cross_validate(MLP(**SMALL), X, y, splits, grid=GRID, halving=False)
    linear = cross_validate(LinearProbe(), X, y, splits, grid=[{"C": c} for c in (0.01, 0.1, 1.0, 10.0)])
    for outcome in (off, linear):
        assert all(trial.dropped_at_epoch is None for fold in outcome.folds for trial in fold.trials)
    assert off.selection["halving"] is None
    assert "halving" not in linear.selection
    pytest.importorskip("optuna")
    proposed = cross_validate(MLP(**SMALL), X, y, splits, grid=TPE({"lr": ("log", 1e-3, 1e-1)}, 9), n_inner_folds=2)
    assert all(len(fold.trials) == 9 for fold in proposed.folds)
    assert all(trial.dropped_at_epoch is None for fold in proposed.folds for trial in fold.trials)


def test_nothing_is_learnt_from_noise():
    """Over many data sets of noise the nested AUC is one half within its error: selection saw no tested row."""
    found = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((72, 6)).astype(np.float32), np.arange(72) % 2
        head = MLP(hidden=(8,), epochs=16, patience=4, device="cpu")
        outcome = cross_validate(
            head, X, y, make_splits(y, n_folds=3, seed=seed), grid=GRID, n_inner_folds=3, seed=seed
        )
        found.append(np.mean([roc_auc_score(y[fold.split.test], fold.scores[:, 1]) for fold in outcome.folds]))
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.5) < 3 * error
    assert error < 0.03
