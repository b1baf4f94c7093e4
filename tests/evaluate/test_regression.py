"""Numbers to predict: metrics against other people's, splits by quantile, the protocol, and draws of patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from headwater.errors import InputError, SplitError
from headwater.evaluate import cross_validate, inner_splits, make_splits, score
from headwater.evaluate.aggregate import aggregated, units_of
from headwater.evaluate.bootstrap import FoldScores, bootstrap
from headwater.evaluate.regression import of_each_output, squared_errors, weighted
from headwater.heads import Ridge

METRICS = {
    "r2": r2_score,
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "pearson": lambda t, p: pearsonr(t, p)[0],
    "spearman": lambda t, p: spearmanr(t, p)[0],
}


def numbers(seed, n, k=1, offset=0.0):
    """Truth and predictions that follow it, with equal numbers among both."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((n, k)).round(1) * 10 + offset
    return truth, truth + rng.standard_normal((n, k)).round(1) * 8 + 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 60), offset=st.sampled_from([0.0, -3.0, 1e6]))
def test_metrics_are_those_of_scikit_learn_and_scipy(seed, n, offset):
    """Each metric of each output is another implementation's, also far from 0, and a task's is their mean."""
    truth, found = numbers(seed, n, 3, offset)
    mine, task = of_each_output(truth, found), score("regression", truth, found)
    assert set(mine) == set(task) == set(METRICS)
    for name, metric in METRICS.items():
        each = [metric(t, p) for t, p in zip(truth.T, found.T, strict=True)]
        assert mine[name] == pytest.approx(each, abs=1e-8, rel=1e-8)
        assert task[name] == pytest.approx(np.mean(each), abs=1e-8, rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 30))
def test_weights_are_repetitions(seed, n):
    """A row that is drawn twice counts as two rows, in every metric; one that is not drawn is not there."""
    truth, found = (values[:, 0] for values in numbers(seed, n))
    draws = np.random.default_rng(seed).multinomial(n, [1 / n] * n, 5)
    mine = weighted(truth, found, draws.astype(float))
    for i, draw in enumerate(draws):
        again = of_each_output(np.repeat(truth, draw), np.repeat(found, draw))
        for name in METRICS:
            assert mine[name][i] == pytest.approx(again[name][0], nan_ok=True, abs=1e-9)


def test_what_is_undefined_is_nan():
    """r2 and correlations need two different numbers of truth; a correlation two predictions; errors need neither."""
    same = score("regression", [0.1, 0.1, 0.1], [1.0, 2.0, 3.0])
    assert np.isnan([same["r2"], same["pearson"], same["spearman"]]).all()
    assert same["mae"] == pytest.approx(1.9)
    flat = score("regression", [1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    assert np.isnan([flat["pearson"], flat["spearman"]]).all()
    assert flat["r2"] < 0


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([1.0, np.inf], [1.0, 2.0], "not finite in 1 place"),
        (["a", "b"], [1.0, 2.0], "regression needs numbers"),
        ([[1.0, 2.0]], [[1.0]], r"shape \(1, 1\), but need \(1, 2\)"),
        ([1.0, 2.0], [1.0, np.nan], "scores are NaN"),
    ],
)
def test_numbers_that_cannot_be_scored(truth, found, message):
    """Truth that is not finite or no number, and predictions of another shape, are refused."""
    with pytest.raises(InputError, match=message):
        score("regression", truth, found)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
def test_folds_are_alike_in_the_target(grouped, outputs):
    """Each fold has its share of every third of each output, and groups stay whole."""
    rng = np.random.default_rng(0)
    y = rng.exponential(size=(300, outputs)) * [1, 1000][:outputs]
    groups = np.arange(300) // 3 if grouped else None
    splits = make_splits(y if outputs > 1 else y[:, 0], groups=groups, n_folds=5, regression=True)
    assert np.array_equal(np.sort(np.concatenate([s.test for s in splits])), np.arange(300))
    third = np.stack([np.digitize(column, np.quantile(column, [1 / 3, 2 / 3])) for column in y.T])
    for split in splits:
        counts = np.stack([np.bincount(column[split.test], minlength=3) for column in third])
        assert (np.abs(counts - 20) <= 4).all()
        if grouped:
            assert not set(groups[split.train]) & set(groups[split.test])
    (held,) = make_splits(y, groups=groups, holdout=0.2, regression=True)
    assert len(held.test) == 60


def test_few_rows_and_equal_numbers_can_be_split():
    """As many rows as folds can be split, and a target that is mostly one number; one that is all alike cannot."""
    assert len(make_splits(np.arange(5.0), n_folds=5, regression=True)) == 5
    assert len(make_splits(np.r_[np.zeros(28), 1, 2], n_folds=5, regression=True)) == 5
    assert len(make_splits(np.arange(9.0), holdout=0.3, regression=True)) == 1
    assert len(inner_splits(np.arange(4.0), np.array([0, 0, 1, 1]), 4, 0, regression=True)) == 2
    with pytest.raises(SplitError, match="nothing to learn"):
        make_splits(np.ones(9), regression=True)
    with pytest.raises(SplitError, match="not finite in 1 place"):
        make_splits(np.r_[np.arange(9.0), np.nan], regression=True)


def test_the_penalty_of_least_inner_error_is_selected():
    """In each fold the setting whose inner folds have the least squared error is fitted, and test rows say nothing."""
    rng = np.random.default_rng(0)
    X, groups = rng.standard_normal((80, 30)), np.arange(80) // 2
    y = X[:, 0] + rng.standard_normal(80)
    splits = make_splits(y, groups=groups, n_folds=4, regression=True)
    grid = [{"alpha": a} for a in (0.01, 30.0, 1e5)]
    outcome = cross_validate(Ridge(), X, y, splits, grid=grid, groups=groups, n_inner_folds=3, seed=5, regression=True)
    assert outcome.task == "regression"
    assert outcome.selection["by"] == "mean_squared_error"
    for fold in outcome.folds:
        train = fold.split.train
        inner = inner_splits(y[train], groups[train], 3, 5, regression=True)
        errors = [
            np.concatenate(
                [
                    Ridge(**g).fit(X[train][s.train], y[train][s.train]).predict(X[train][s.test]) - y[train][s.test]
                    for s in inner
                ]
            )
            for g in grid
        ]
        losses = [np.mean(e**2) for e in errors]
        assert [trial.loss for trial in fold.trials] == pytest.approx(losses)
        assert fold.params == grid[int(np.argmin(losses))]
        alone = Ridge(**fold.params).fit(X[train], y[train]).predict(X[fold.split.test])
        assert fold.scores[:, 0] == pytest.approx(alone)
        assert fold.metrics["r2"] == pytest.approx(r2_score(y[fold.split.test], alone))
    changed = np.where(np.isin(np.arange(80), splits[0].test), -50.0, y)
    again = cross_validate(Ridge(), X, changed, splits[:1], grid=grid, groups=groups, n_inner_folds=3, regression=True)
    assert np.array_equal(
        again.folds[0].scores,
        cross_validate(Ridge(), X, y, splits[:1], grid=grid, groups=groups, n_inner_folds=3, regression=True)
        .folds[0]
        .scores,
    )


def test_no_output_counts_more_for_its_unit():
    """With several outputs the selected setting stays when one of them is measured in another unit."""
    truth = np.random.default_rng(0).standard_normal((50, 2))
    found = truth + np.random.default_rng(1).standard_normal((3, 50, 2)) * [[[1.0, 0.1]], [[0.5, 0.7]], [[0.2, 0.9]]]
    scale = np.array([1.0, 1000.0])
    plain = squared_errors(truth, found, truth.var(0))
    assert squared_errors(truth * scale, found * scale, (truth * scale).var(0)) == pytest.approx(plain)
    assert squared_errors(truth[:, :1], found[..., :1], truth[:, :1].var(0)) == pytest.approx(
        ((found[..., 0] - truth[:, 0]) ** 2).mean(1)
    )
    assert np.isinf(squared_errors(truth, np.full((1, 50, 2), np.nan), truth.var(0))).all()


def test_intervals_are_of_patients():
    """The bootstrap's first value is the metric, and its draws are of whole groups: rows alike, intervals wider."""
    truth, found = numbers(0, 40)
    truth, found = np.repeat(truth, 5, 0), np.repeat(found, 5, 0)
    groups = np.repeat(np.arange(40), 5)
    whole, rows = (
        bootstrap("regression", [[FoldScores(truth, found, g)]], n_draws=500, seed=0) for g in (groups, np.arange(200))
    )
    for name, metric in METRICS.items():
        assert whole[name][0, 0] == pytest.approx(metric(truth[:, 0], found[:, 0]))
        assert whole[name][0, 1:].std() > 1.5 * rows[name][0, 1:].std()


def test_patients_have_the_mean_of_their_images():
    """Numbers of what rows belong to are means, of truth and of predictions; no maximum is taken."""
    rng = np.random.default_rng(0)
    X, per = rng.standard_normal((60, 4)), np.arange(60) // 3
    y = X[:, 0] + per
    splits = make_splits(y, groups=per, n_folds=3, regression=True)
    outcome = cross_validate(Ridge(), X, y, splits, groups=per, regression=True)
    of_units, labels = aggregated(outcome, y, units_of(per, "patient"), "mean")
    assert labels == pytest.approx([y[per == unit].mean() for unit in range(20)])
    first, plain = of_units.folds[0], outcome.folds[0]
    expected = [plain.scores[per[plain.split.test] == unit].mean() for unit in first.split.test]
    assert first.scores[:, 0] == pytest.approx(expected)
    with pytest.raises(InputError, match="--aggregate max is for class scores: use mean to aggregate numbers"):
        aggregated(outcome, y, units_of(per, "patient"), "max")
