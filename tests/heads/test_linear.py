"""The linear probe: scikit-learn's objective, minimised at least as well, for any number of fits at once."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headwater._backend import NUMPY
from headwater.errors import HeadError
from headwater.heads import LinearProbe
from headwater.heads._lbfgs import minimise
from headwater.heads._logistic import LogisticObjective, Problems
from headwater.heads._rows import RotatedRows, SharedRows, training_rows


def features(n=400, d=30, seed=0):
    """Correlated columns of different sizes, and offsets much larger than some of their spreads."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.7
    X = X @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    return (X * 10 ** rng.uniform(-2, 2, d) + 3 * rng.standard_normal(d)).astype(np.float32)


def labels(X, n_classes=2, seed=1):
    rng = np.random.default_rng(seed)
    Z = (X - X.mean(0)) / X.std(0)
    scores = Z @ rng.standard_normal((X.shape[1], n_classes)) + rng.standard_normal((len(X), n_classes))
    return scores.argmax(1)


def folds_of(n, k=3, seed=0):
    fold = np.random.default_rng(seed).integers(0, k, n)
    return [np.flatnonzero(fold != f) for f in range(k)]


def objective(coef, intercept, X, y, C, std):
    """scikit-learn's objective in float64, for weights on X as it comes."""
    logits = X.astype(np.float64) @ coef.T + intercept
    if len(coef) == 1:
        loss = np.logaddexp(0, -np.where(y == 1, 1, -1) * logits[:, 0]).sum()
    else:
        top = logits.max(1, keepdims=True)
        loss = (np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(y)), y]).sum()
    return C * loss + 0.5 * ((coef * std) ** 2).sum()


def reference(X, y, C, standardize=True):
    """scikit-learn's answer at a tight tolerance, in float64, as weights on X as it comes."""
    scaler = StandardScaler(with_std=standardize).fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    model = LogisticRegression(C=C, tol=1e-10, max_iter=20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(Z, y)
    std = scaler.scale_ if standardize else np.ones(X.shape[1])
    coef = model.coef_ / std
    return coef, model.intercept_ - coef @ X.astype(np.float64).mean(0), std


@pytest.mark.parametrize(("n_classes", "standardize"), [(2, True), (4, True), (2, False)])
def test_every_fit_of_a_grid_reaches_scikit_learns_minimum(n_classes, standardize):
    """Folds x penalties solved together are each as good as scikit-learn's own fit, and predict the same."""
    X = features()
    y = labels(X, n_classes)
    Cs = [1e-5, 1e-2, 100.0] if standardize else [1e-5, 1e-2]
    fits = [(rows, {"C": C}) for rows in folds_of(len(X)) for C in Cs]
    heads = LinearProbe(standardize=standardize, tol=1e-10).fit_many(X, y, fits)
    for head, (rows, params) in zip(heads, fits, strict=True):
        coef, intercept, std = reference(X[rows], y[rows], params["C"], standardize)
        best = objective(coef, intercept, X[rows], y[rows], params["C"], std)
        ours = objective(head.coef_, head.intercept_, X[rows], y[rows], params["C"], std)
        assert ours <= best * (1 + 1e-6)
        assert head.objective_ == pytest.approx(ours, rel=1e-5)
        if standardize:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=params["C"], tol=1e-9, max_iter=20_000))
            expected = model.fit(X[rows].astype(float), y[rows]).predict_proba(X.astype(float))
            assert np.abs(head.predict_proba(X) - expected).max() < 3e-3


@pytest.mark.parametrize("rotated", [False, True])
def test_gradient_and_value_agree(rotated):
    """The gradient is the finite difference of the value, two classes and more, masks and shared rows included."""
    X = features(90, 6)
    sets = folds_of(90)
    if rotated:
        rows = RotatedRows(X, sets, NUMPY, scale=True, n_threads=1)
    else:
        rows = SharedRows(X, sets, NUMPY, scale=True, max_bytes=1 << 30, n_threads=1)
    for n_classes in (2, 3):
        y = labels(X, n_classes)
        targets = (2.0 * y - 1 if n_classes == 2 else y)[:, None]
        k = 1 if n_classes == 2 else n_classes
        problems = Problems(np.array([0, 1, 2]), np.array([0.1, 1, 10.0]), np.zeros(3, int), targets, k)
        target = LogisticObjective(rows, problems, np.float64)
        rng = np.random.default_rng(0)
        theta, step = rng.standard_normal((2, 3, k, rows.n_weights + 1))
        which = np.arange(3)
        ahead, behind = (target.evaluate(theta + sign * 1e-5 * step, which).value for sign in (1, -1))
        slope = (target.evaluate(theta, which).gradient * step).sum((1, 2))
        assert np.allclose((ahead - behind) / 2e-5, slope, rtol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_fewer_rows_than_columns_are_solved_in_the_space_they_span(n_classes):
    """Rotating each row set into its own space changes the cost and not the answer."""
    X = features(120, 300)
    y = labels(X, n_classes)
    fits = [(rows, {"C": C}) for rows in folds_of(120) for C in (1e-4, 1e-2, 1.0, 100.0)]
    assert isinstance(training_rows(X, [fits[0][0]], NUMPY, scale=True, max_bytes=1 << 30, n_threads=1), RotatedRows)
    for head, (rows, params) in zip(LinearProbe(tol=1e-9).fit_many(X, y, fits), fits, strict=True):
        coef, intercept, std = reference(X[rows], y[rows], params["C"])
        best = objective(coef, intercept, X[rows], y[rows], params["C"], std)
        ours = objective(head.coef_, head.intercept_, X[rows], y[rows], params["C"], std)
        assert ours <= best * (1 + 2e-6)


def test_solving_together_equals_solving_alone():
    """A fit's answer does not depend on its company in the batch."""
    X = features()
    y = labels(X, 3)
    fits = [(rows, {"C": C}) for rows in folds_of(len(X)) for C in (0.01, 1.0)]
    together = LinearProbe().fit_many(X, y, fits)
    for (rows, params), head in zip(fits, together, strict=True):
        alone = LinearProbe(**params).fit(X[rows], y[rows])
        assert head.predict_proba(X) == pytest.approx(alone.predict_proba(X), abs=2e-3)
        assert head.objective_ == pytest.approx(alone.objective_, rel=1e-6)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_fine_grid_costs_little_more_than_a_coarse_one(class_weight):
    """Penalties between others are begun where those ended: in any order, repeated or alone, to the same minimum."""
    X = features()
    y = labels(X, 2)
    grid = np.random.default_rng(0).permutation([*np.logspace(-5, 2, 36), 1.0, 1.0, 1e4])
    fits = [(rows, {"C": float(C)}) for rows in folds_of(len(X)) for C in grid]
    probe = LinearProbe(class_weight=class_weight, tol=1e-8)
    fine = probe.fit_many(X, y, fits)
    coarse = probe.fit_many(X, y, [fit for fit in fits if fit[1]["C"] in (1.0, grid.min())])
    for (rows, params), head in list(zip(fits, fine, strict=True))[::6]:
        alone = LinearProbe(**params, class_weight=class_weight, tol=1e-8).fit(X[rows], y[rows])
        assert head.objective_ == pytest.approx(alone.objective_, rel=1e-5)
        assert head.predict_proba(X) == pytest.approx(alone.predict_proba(X), abs=1e-3)
    assert np.mean([head.n_iter_ for head in fine]) < 0.7 * np.mean([head.n_iter_ for head in coarse])


def test_labels_are_independent_problems():
    """With several labels each is fitted as a two-class problem of its own, a constant one by its frequency."""
    X = features()
    Y = np.stack([labels(X, 2, seed) for seed in range(4)] + [np.zeros(len(X), int)], axis=1)
    head = LinearProbe(C=0.1).fit(X, Y)
    for label in range(4):
        alone = LinearProbe(C=0.1).fit(X, Y[:, label])
        assert head.predict_proba(X)[:, label] == pytest.approx(alone.predict_proba(X)[:, 1], abs=2e-3)
    assert head.predict_proba(X)[:, 4] == pytest.approx(0.5 / (len(X) + 1))
    assert head.predict(X).shape == Y.shape


@pytest.mark.parametrize("C", [1e-6, 1.0, 1e6])
def test_separable_data_has_a_finite_fit(C):
    """Where the classes can be told apart without error, the penalty alone bounds the weights."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 200)).astype(np.float32)  # more columns than rows
    y = (rng.random(60) > 0.5).astype(int)
    coef, intercept, std = reference(X, y, C)
    best = objective(coef, intercept, X, y, C, std)

    def excess(tol):
        head = LinearProbe(C=C, tol=tol).fit(X, y)
        return objective(head.coef_, head.intercept_, X, y, C, std) - best

    assert excess(1e-6) <= 1e-5 * C * 60 * np.log(2)
    assert excess(1e-12) <= 1e-5 * best


@pytest.mark.parametrize("shape", [(300, 20), (60, 200)])
@pytest.mark.parametrize("factor", [1e-7, 1e6])
def test_the_unit_of_a_column_does_not_matter(shape, factor):
    """Columns are standardised however small or large their numbers are."""
    X = features(*shape)
    y = labels(X)
    usual, scaled = LinearProbe(C=0.1).fit(X, y), LinearProbe(C=0.1).fit(X * np.float32(factor), y)
    assert scaled.predict_proba(X * np.float32(factor)) == pytest.approx(usual.predict_proba(X), abs=2e-3)


def test_a_constant_column_does_no_harm():
    """A column without spread gets no say, also when it is constant in the training rows of one fold only."""
    X = features(200, 5)
    X[:, 2] = 7.25
    X[:150, 3] = -1.5
    y = labels(features(200, 5))
    head, whole = LinearProbe(tol=1e-9).fit_many(X, y, [(np.arange(150), {}), (np.arange(200), {})])
    expected = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(X[:150], y[:150])
    assert head.predict_proba(X) == pytest.approx(expected.predict_proba(X), abs=1e-3)
    assert np.isfinite(whole.coef_).all()


def test_a_class_that_a_fold_lacks_is_absent_from_its_probe():
    """Each probe knows the classes of its own training rows, as scikit-learn's does."""
    X = features(300, 6)
    y = np.array(["a", "b", "c"])[labels(X, 3)]
    some = np.flatnonzero(y != "b")
    head, whole = LinearProbe().fit_many(X, y, [(some, {}), (np.arange(300), {})])
    assert head.classes_.tolist() == ["a", "c"]
    assert head.coef_.shape == (1, 6)
    assert whole.classes_.tolist() == ["a", "b", "c"]


class Blocked:
    """An array that can only be read by rows or block by block, as a store's can."""

    def __init__(self, X, size=64):
        self.X, self.size, self.shape, self.dtype = X, size, X.shape, X.dtype

    def __getitem__(self, rows):
        return self.X[rows]

    def blocks(self):
        for start in range(0, len(self.X), self.size):
            part = self.X[start : start + self.size]
            yield slice(start, start + len(part)), part


@pytest.mark.parametrize("max_bytes", [1 << 30, 0])
def test_rows_may_come_in_blocks_and_be_streamed(max_bytes):
    """Blocks, kept or streamed again in each pass, give what the whole array gives."""
    X = features().astype(np.float16)
    y = labels(features())
    fits = [(rows, {"C": C}) for rows in folds_of(len(X)) for C in (0.01, 10.0)]
    expected = LinearProbe().fit_many(X, y, fits)
    actual = LinearProbe(max_bytes=max_bytes).fit_many(Blocked(X), y, fits)
    for a, b in zip(actual, expected, strict=True):
        assert a.objective_ == pytest.approx(b.objective_, rel=1e-6)
        assert a.predict_proba(Blocked(X)) == pytest.approx(b.predict_proba(X), abs=2e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_another_array_library_gives_the_same(n_classes):
    """The same code runs on torch tensors, which on a GPU stay there."""
    torch = pytest.importorskip("torch")
    X = features()
    y = labels(X, n_classes)
    fits = [(rows, {"C": float(C)}) for rows in folds_of(len(X)) for C in np.logspace(-3, 1, 24)]
    for a, b in zip(LinearProbe().fit_many(torch.asarray(X), y, fits), LinearProbe().fit_many(X, y, fits), strict=True):
        assert a.objective_ == pytest.approx(b.objective_, rel=1e-6)
        assert a.predict_proba(X) == pytest.approx(b.predict_proba(X), abs=2e-3)


def test_many_predictions_equal_single_ones():
    """Predicting for many probes at once is predicting for each."""
    X = features()
    y = labels(X, 3)
    rows = folds_of(len(X))
    heads = LinearProbe().fit_many(X, y, [(r, {"C": C}) for r in rows for C in (0.1, 1.0)])
    parts = [np.setdiff1d(np.arange(len(X)), r) for r in rows]
    wanted = [parts[i // 2] for i in range(6)]
    for head, part, found in zip(heads, wanted, LinearProbe.predict_proba_many(heads, X, wanted), strict=True):
        assert found == pytest.approx(head.predict_proba(X[part]), abs=1e-4)


def test_state_round_trip():
    """A probe rebuilt from plain values and arrays predicts bit for bit the same."""
    X = features()
    y = np.array(["benign", "malignant"])[labels(X)]
    head = LinearProbe(C=0.3).fit(X, y)
    again = LinearProbe.from_state(*head.to_state())
    assert np.array_equal(again.predict_proba(X), head.predict_proba(X))
    assert again.predict(X).tolist() == head.predict(X).tolist()
    assert again.get_params() == head.get_params()


def test_what_cannot_be_fitted_is_refused():
    """One class, features that are not finite, or a penalty that makes no sense: an error that says which."""
    X = features(50, 4)
    y = labels(X)
    with pytest.raises(HeadError, match="one class only"):
        LinearProbe().fit_many(X, np.zeros(50, int), [(np.arange(50), {})])
    with pytest.raises(HeadError, match="above 0"):
        LinearProbe(C=0).fit(X, y)
    X[7, 2] = np.inf
    with pytest.raises(HeadError, match=r"not finite in 1 rows, the first being \[7\]"):
        LinearProbe().fit(Blocked(X), y)


def test_too_few_iterations_warn():
    """A fit that has not converged says so."""
    X = features()
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        LinearProbe(C=1e4, max_iter=1).fit(X, labels(X))


class Quadratics:
    """Badly scaled quadratic bowls, for the optimiser alone."""

    xp = __import__("array_api_compat.numpy").numpy

    def __init__(self, stiffness):
        self.stiffness = stiffness

    def evaluate(self, theta, which):
        from headwater.heads._lbfgs import Evaluation

        pull = self.stiffness[which][:, None] * (theta - 1)
        return Evaluation(1 + 0.5 * (pull * (theta - 1)).sum((1, 2)), pull, np.ones((len(which), 1)))

    def precondition(self, gradient, curvature, which):
        return gradient * 10  # far too long a step: the search has to shorten it


def test_the_optimiser_finds_the_bottom_of_each_bowl():
    """Problems of different stiffness converge each at its own pace, whatever the first step's length."""
    stiffness = 10.0 ** np.random.default_rng(0).uniform(-2, 2, (5, 8))
    end = minimise(Quadratics(stiffness), np.zeros((5, 1, 8)), tol=np.full(5, 1e-12), share=1.0, max_iter=300)
    assert end.converged.all()
    assert end.theta == pytest.approx(np.ones((5, 1, 8)), abs=1e-4)


# Weights


@pytest.mark.parametrize(("n", "n_classes"), [(400, 2), (400, 4), (60, 2), (60, 3)])
def test_weights_are_scikit_learns(n, n_classes):
    """Weights of classes and of rows count as in scikit-learn, with many rows and with fewer rows than columns."""
    X, rng = features(n, 80), np.random.default_rng(3)
    y = np.minimum(labels(X, n_classes), (rng.random(n) * n_classes * 2).astype(int))  # uneven classes
    weight = rng.uniform(0, 3, n)
    rows = folds_of(n, 3)
    given = {0: 0.2, n_classes - 1: 4.0}
    fits = [(part, {"C": 0.01, "class_weight": w}) for part in rows for w in (None, "balanced", given)]
    heads = LinearProbe(tol=1e-9).fit_many(X, y, fits, sample_weight=weight)
    for head, (part, params) in zip(heads, fits, strict=True):
        scaler = StandardScaler().fit(X[part].astype(np.float64))
        model = LogisticRegression(C=0.01, class_weight=params["class_weight"], tol=1e-10, max_iter=5000)
        model.fit(scaler.transform(X[part].astype(np.float64)), y[part], sample_weight=weight[part])
        expected = model.decision_function(scaler.transform(X.astype(np.float64)))
        found = head.decision_function(X)
        if found.ndim == 2:
            found, expected = found - found.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True)
        assert found == pytest.approx(expected, abs=2e-3)


def test_each_label_has_weights_of_its_own():
    """Of several labels, each is balanced by its own frequency, as a two-class problem by itself."""
    X = features(300)
    Y = np.stack([labels(X, 2), labels(X, 5, seed=2) == 0], axis=1).astype(int)
    head = LinearProbe(C=0.1, class_weight="balanced", tol=1e-9).fit(X, Y)
    for label in range(2):
        alone = LinearProbe(C=0.1, class_weight="balanced", tol=1e-9).fit(X, Y[:, label])
        assert head.coef_[label] == pytest.approx(alone.coef_[0], rel=1e-2, abs=1e-5)
        model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=5000)
        Z = StandardScaler().fit_transform(X.astype(np.float64))
        expected = model.fit(Z, Y[:, label]).decision_function(Z)
        assert head.decision_function(X)[:, label] == pytest.approx(expected, abs=2e-3)


def test_a_rare_class_is_found_when_balanced():
    """One positive in a thousand: balanced weights give sensitivity, where plain ones give none."""
    rng = np.random.default_rng(0)
    y = np.zeros(20_000, int)
    y[:20] = 1
    X = (rng.standard_normal((20_000, 8)) + 1.5 * y[:, None]).astype(np.float32)
    plain, balanced = (LinearProbe(C=1e-3, class_weight=w).fit(X, y) for w in (None, "balanced"))
    assert plain.predict(X)[y == 1].mean() < 0.3
    assert balanced.predict(X)[y == 1].mean() > 0.8


@pytest.mark.parametrize("wrong", ["balance", {0: -1.0}, 3])
def test_unusable_class_weights(wrong):
    """Weights of classes that are none are refused."""
    X = features(50)
    with pytest.raises(HeadError, match="class_weight must"):
        LinearProbe(class_weight=wrong).fit(X, labels(X))


def test_unusable_sample_weights():
    """Weights of rows that are negative, or not one a row, are refused."""
    X = features(50)
    for wrong in (np.ones(49), -np.ones(50), np.full(50, np.nan)):
        with pytest.raises(HeadError, match="50 numbers of at least 0"):
            LinearProbe().fit_many(X, labels(X), [(np.arange(50), {})], sample_weight=wrong)


WEAK = {
    "two classes": ("separable", 2, {}),
    "three classes": ("separable", 3, {}),
    "eight classes": ("separable", 8, {}),
    "wide": ("wide", 2, {}),
    "balanced": ("separable", 2, {"class_weight": "balanced"}),
    "as they come": ("scaled", 2, {"standardize": False}),
}


@pytest.mark.parametrize("C", [100.0, 1e4, 1e6])
@pytest.mark.parametrize("case", WEAK)
def test_a_weak_penalty_is_solved_too(case, C):
    """Where hardly anything is left of the objective, it is near the optimum, or a warning says so."""
    kind, k, options = WEAK[case]
    rng = np.random.default_rng(0)
    n, d = (40, 400) if kind == "wide" else (160, 40)
    Z = rng.standard_normal((n, 12)) / np.arange(1, 13) ** 0.7
    X = (Z @ rng.standard_normal((12, d)) + 0.05 * rng.standard_normal((n, d))).astype(np.float32)
    X *= 10.0 ** rng.integers(-1, 2, d) if kind == "scaled" else 1
    y = (Z @ rng.standard_normal((12, k)) + 0.1 * rng.standard_normal((n, k))).argmax(1)
    best = LinearProbe(C=C, tol=1e-14, max_iter=50_000, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of what rounding in float64 leaves
        best.fit(X, y)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        head = LinearProbe(C=C, **options).fit(X, y)
    excess = head.objective_ / best.objective_ - 1
    assert excess < 1e-3 or any(issubclass(w.category, ConvergenceWarning) for w in said), excess


def test_too_few_iterations_are_said():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 20)).astype(np.float32)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        LinearProbe(C=1e6, max_iter=3).fit(X, (X[:, 0] > 0).astype(int))
