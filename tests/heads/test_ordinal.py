"""The ordinal head: proportional odds, its optimum, its order, and what it does with hard data."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from headwater._grades import ordered_grades
from headwater.errors import HeadError, InputError
from headwater.heads import LinearProbe, Ordinal, load_head, relevance, save_head
from headwater.heads.ordinal import log_probabilities

EXACT = {"tol": 1e-12}


def graded(n=400, d=5, seed=0, cuts=(-1.5, 0.0, 2.0), scale=1.0):
    """Rows with four grades, drawn from a proportional-odds model; the weights too."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * rng.uniform(0.2, 5, d) + 3
    w = scale * rng.standard_normal(d) / X.std(0)
    latent = (X - 3) @ w
    return X, np.digitize(latent + rng.logistic(size=n), cuts), w


def naive(params, Z, y, C):
    """The penalised objective by the textbook formula, with thresholds as they are."""
    d = Z.shape[1]
    w, thresholds = params[:d], params[d:]
    if (np.diff(thresholds) <= 0).any():
        return np.inf
    ends = np.r_[-np.inf, thresholds, np.inf]
    p = expit(ends[y + 1] - Z @ w) - expit(ends[y] - Z @ w)
    return -C * np.log(np.maximum(p, 1e-300)).sum() + w @ w / 2


@pytest.mark.parametrize("C", [1e-4, 0.01, 1.0])
def test_the_optimum_is_that_of_a_naive_objective(C):
    """Nelder-Mead on the textbook formula finds no lower value, and the same parameters."""
    X, y, _ = graded()
    Z = (X - X.mean(0)) / X.std(0)
    head = Ordinal(C=C, **EXACT).fit(X, y)
    start = np.r_[head.coef_[0] * X.std(0), head.thresholds_ - head.coef_[0] @ X.mean(0)]
    assert naive(start, Z, y, C) == pytest.approx(head.objective_, rel=1e-6)  # rows are float32
    found = minimize(naive, start + 0.05, (Z, y, C), method="Nelder-Mead", options={"maxiter": 20000, "fatol": 1e-12})
    found = minimize(naive, found.x, (Z, y, C), method="Nelder-Mead", options={"maxiter": 20000, "fatol": 1e-12})
    assert head.objective_ <= found.fun + 1e-7 * found.fun
    assert start == pytest.approx(found.x, abs=5e-3)


def test_without_a_penalty_it_is_statsmodels():
    """Weights, thresholds, likelihood and probabilities are those of OrderedModel."""
    ordered = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    X, y, _ = graded()
    head = Ordinal(C=1e8, **EXACT).fit(X, y)
    theirs = ordered.OrderedModel(y, X, distr="logit").fit(method="bfgs", disp=0, maxiter=500, gtol=1e-8)
    assert head.coef_[0] == pytest.approx(theirs.params[:5], abs=1e-4)
    assert head.thresholds_ == pytest.approx(theirs.model.transform_threshold_params(theirs.params)[1:-1], abs=1e-4)
    assert -head.objective_ / 1e8 >= theirs.llf - 1e-6
    assert head.predict_proba(X) == pytest.approx(np.asarray(theirs.predict()), abs=1e-5)


def test_two_classes_are_logistic_regression():
    """With one threshold the model, its penalty and its optimum are the linear probe's."""
    X, y, _ = graded()
    ours, theirs = Ordinal(C=0.1, **EXACT).fit(X, y > 1), LinearProbe(C=0.1, **EXACT).fit(X, y > 1)
    assert ours.coef_ == pytest.approx(theirs.coef_, abs=1e-6)
    assert ours.objective_ == pytest.approx(theirs.objective_)
    assert ours.predict_proba(X) == pytest.approx(theirs.predict_proba(X), abs=1e-6)


def test_known_thresholds_are_recovered():
    """With many rows, weights and thresholds approach those that drew the grades, within their standard errors."""
    X, y, w = graded(n=40_000, seed=3)
    head = Ordinal(C=1e6).fit(X, y)
    assert head.coef_[0] * X.std(0) == pytest.approx(w * X.std(0), abs=0.05)
    assert head.thresholds_ - 3 * head.coef_[0].sum() == pytest.approx([-1.5, 0.0, 2.0], abs=0.08)


@pytest.mark.parametrize(("n", "d"), [(300, 8), (60, 400), (2000, 30)])
def test_a_grid_together_is_each_alone(n, d):
    """Many penalties and row sets in one call, also with fewer rows than columns, reach the optimum of each alone."""
    X, y, _ = graded(n=n, d=d, seed=5, scale=2 / np.sqrt(d))
    rows = [np.arange(n // 4, n), np.arange(0, 3 * n // 4)]
    fits = [(part, {"C": C}) for part in rows for C in np.logspace(-6, 2, 17)]
    for (part, params), head in zip(fits, Ordinal().fit_many(X, y, fits), strict=True):
        alone = Ordinal(**params, **EXACT).fit(X[part], y[part])
        constant = params["C"] * len(part) * np.log(4)
        assert head.objective_ <= alone.objective_ + 1e-5 * constant
        assert (np.diff(head.thresholds_) > 0).all()


def test_probabilities_are_those_of_the_model_and_sum_to_one():
    X, y, _ = graded()
    head = Ordinal(C=0.1).fit(X, y)
    p = head.predict_proba(X)
    assert p.sum(1) == pytest.approx(np.ones(len(X)), abs=1e-12)
    below = expit(head.thresholds_ - (X @ head.coef_[0])[:, None])
    assert p.cumsum(1)[:, :-1] == pytest.approx(below, abs=1e-12)
    assert np.array_equal(head.predict(X), p.argmax(1))


def test_far_tails_have_log_probabilities():
    """Beyond where probabilities round to 0 or 1, logarithms stay finite and exact."""
    found = log_probabilities(np.array([-800.0, 0.0, 800.0]), np.array([-1.0, 1.0]))
    assert np.isfinite(found).all()
    assert found[0, 2] == pytest.approx(-801)
    assert found[2, 0] == pytest.approx(-801)
    assert np.exp(found).sum(1) == pytest.approx([1, 1, 1])


def test_slopes_are_those_of_the_log_probabilities():
    X, y, _ = graded()
    words = np.array(["none", "low", "middle", "high"])
    head = Ordinal(C=0.1, order=list(words)).fit(X, words[y])
    latent = np.linspace(-8, 8, 9) + head.thresholds_.mean()
    step = 1e-5
    rise = head.log_probabilities(latent + step) - head.log_probabilities(latent - step)
    assert head.slopes(latent) == pytest.approx(rise / (2 * step), abs=1e-6)


def test_relevance_of_tokens_is_that_for_the_class():
    """Tokens that raise the latent speak for the highest grade and against the lowest, and add up to nothing."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((60, 5, 6)).astype(np.float32)
    X = tokens.mean(1)
    y = np.digitize(X[:, 0], np.quantile(X[:, 0], [0.3, 0.7]))
    head = Ordinal(C=10.0).fit(X, y)
    rows = np.arange(4)
    (low,), (high,) = (relevance(head, tokens, rows, target=target) for target in (0, 2))
    assert low.sum(1) == pytest.approx(np.zeros(4), abs=1e-5)
    raises = (tokens[rows] - X[rows, None]) @ head.coef_[0]
    assert (np.sign(high) == np.sign(raises)).all()
    assert (np.sign(low) == -np.sign(raises)).all()
    (own,) = relevance(head, tokens, rows)
    for row, c in enumerate(head.predict(X[rows])):
        assert own[row] == pytest.approx(relevance(head, tokens, rows, target=int(c))[0][row])
    with pytest.raises(HeadError, match="from 0 to 2"):
        relevance(head, tokens, rows, target=3)


def test_an_order_that_sorting_does_not_give():
    """Words are ordered as asked; columns of probabilities stay in sorted order, as scikit-learn has them."""
    X, y, _ = graded()
    words = np.array(["none", "low", "middle", "high"])
    named = Ordinal(C=0.1, order=list(words)).fit(X, words[y])
    numbered = Ordinal(C=0.1).fit(X, y)
    assert named.classes_.tolist() == ["high", "low", "middle", "none"]
    assert named.grades_.tolist() == list(words)
    assert named.thresholds_ == pytest.approx(numbered.thresholds_)
    assert named.predict_proba(X)[:, [3, 1, 2, 0]] == pytest.approx(numbered.predict_proba(X))
    assert np.array_equal(named.predict(X), words[numbered.predict(X)])
    reverse = Ordinal(C=0.1, order=list(words)[::-1]).fit(X, words[y])
    assert reverse.coef_ == pytest.approx(-named.coef_, abs=1e-4)


def test_a_saved_head_keeps_its_order(tmp_path):
    X, y, _ = graded()
    words = np.array(["none", "low", "middle", "high"])
    head = Ordinal(C=0.1, order=tuple(words)).fit(X, words[y])
    save_head(head, "ordinal", tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert loaded.grades_.tolist() == head.grades_.tolist()


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["B", "D", "A", "C"], ["A", "B", "C", "D"]),
        ([3, 1, 2], [1, 2, 3]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["G3", "G1", "G2"], ["G1", "G2", "G3"]),
        (["IV", "I", "V", "II"], ["I", "II", "IV", "V"]),
        (["stage IX", "stage V", "stage I"], ["stage I", "stage V", "stage IX"]),
        (["grade 2", "grade 10", "grade 1"], ["grade 1", "grade 2", "grade 10"]),
        (["BI-RADS b", "BI-RADS c", "BI-RADS a"], ["BI-RADS a", "BI-RADS b", "BI-RADS c"]),
        (["-1", "1", "0"], ["-1", "0", "1"]),
    ],
)
def test_a_plain_order(names, order):
    assert ordered_grades(names) == order


@pytest.mark.parametrize(
    "names",
    [
        ["low", "high", "middle"],
        ["F", "G", "D"],  # fatty, glandular, dense: sorted they would be in a wrong order
        ["a", "A", "b"],
        ["3+4", "4+3", "3+3"],
        ["1", "01", "2"],
        ["0", "I", "II"],
        ["1", "2", "3a"],
        ["grade one", "grade two", "grade three"],
        ["", "1", "2"],
        [True, False, "unsure"],
    ],
)
def test_an_order_that_is_not_plain_is_refused(names):
    """Nothing is guessed, also by the head itself, and the message says what to pass."""
    with pytest.raises(InputError, match=r"do not show their order\. Pass --order"):
        ordered_grades(names)


def test_words_without_an_order_are_refused_by_the_head():
    X, y, _ = graded(n=60)
    with pytest.raises(InputError, match="do not show their order"):
        Ordinal().fit(X, np.array(["none", "low", "middle", "high"])[y])
    with pytest.raises(InputError, match="lacks the grade 'none'"):
        Ordinal(order=["low", "middle", "high"]).fit(X, np.array(["none", "low", "middle", "high"])[y])
    with pytest.raises(InputError, match="names 'low' twice"):
        Ordinal(order=["low", "low", "high"]).fit(X, np.array(["none", "low", "middle", "high"])[y])


def test_a_grade_without_training_rows_is_left_out():
    """A head without rows of a grade knows the others, in their order; rows of its batch have them all."""
    X, y, _ = graded()
    rows = [np.flatnonzero(y != 1), np.arange(len(y)), np.flatnonzero(y != 3)]
    heads = Ordinal(C=0.1).fit_many(X, y, [(part, {}) for part in rows])
    assert [head.classes_.tolist() for head in heads] == [[0, 2, 3], [0, 1, 2, 3], [0, 1, 2]]
    alone = Ordinal(C=0.1).fit(X[rows[0]], y[rows[0]])
    assert heads[0].predict_proba(X) == pytest.approx(alone.predict_proba(X), abs=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "case", ["large float16", "constant column", "duplicates", "single row of a grade", "separable"]
)
def test_hard_data(case):
    """Whatever comes in, probabilities are finite and sum to 1, and thresholds ascend."""
    X, y, _ = graded(n=80, d=6)
    if case == "large float16":
        X = (X * 60_000 / np.abs(X).max()).astype(np.float16)
    if case == "constant column":
        X[:, 2] = 7
    if case == "duplicates":
        X, y = np.repeat(X[:10], 8, axis=0), np.repeat(y[:10], 8)
        y[:4] = np.arange(4)
    if case == "single row of a grade":
        y[y == 3] = 2
        y[0] = 3
    if case == "separable":
        y = np.digitize(X[:, 0], np.quantile(X[:, 0], [0.3, 0.6, 0.8]))
    for C in (1e-6, 1.0, 100.0):
        head = Ordinal(C=C).fit(X, y)
        p = head.predict_proba(X)
        assert np.isfinite(p).all()
        assert p.sum(1) == pytest.approx(np.ones(len(X)))
        assert (np.diff(head.thresholds_) > 0).all()


def test_noise_is_chance():
    """Features that know nothing leave the grades' frequencies."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((600, 20)), rng.choice(4, 600, p=[0.1, 0.4, 0.3, 0.2])
    p = Ordinal(C=1e-6).fit(X, y).predict_proba(X)
    assert p == pytest.approx(np.tile(np.bincount(y) / 600, (600, 1)), abs=0.01)


@pytest.mark.parametrize("params", [{"C": 0.0}, {"C": -1.0}, {"tol": 0}, {"max_iter": 0}, {"n_threads": 0}])
def test_settings_that_cannot_be(params):
    X, y, _ = graded(n=60)
    with pytest.raises(HeadError, match="must be above 0"):
        Ordinal(**params).fit(X, y)
