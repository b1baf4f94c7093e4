"""Calibration: what scikit-learn and scipy fit, on easy scores and on hard ones."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from headwater.errors import InputError
from headwater.evaluate import score
from headwater.evaluate.calibration import (
    Isotonic,
    Steps,
    calibration_error,
    calibrator_from_dict,
    cross_calibrated,
    fit_calibrator,
    reliability,
)


def overconfident(n=400, k=3, seed=0, sharpness=4.0):
    """Class numbers drawn from probabilities, and the same probabilities sharpened."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, k))
    p = softmax(logits, axis=1)
    truth = (p.cumsum(1) < rng.random((n, 1))).sum(1)
    return truth.clip(0, k - 1), softmax(sharpness * logits, axis=1)


def several(n=300, seed=0):
    """Three labels, the last of them rare, with scores that are too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, 3)) - [0, 0, 3]
    truth = (rng.random((n, 3)) < 1 / (1 + np.exp(-logits))).astype(int)
    return truth, 1 / (1 + np.exp(-3 * logits))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_temperature_is_that_of_the_lowest_log_loss(k):
    """The temperature is where scipy's own minimiser of the log loss ends, from another parametrisation."""
    truth, scores = overconfident(k=k)
    logits = np.log(scores)
    found = minimize(
        lambda b: -log_softmax(b[0] * logits, axis=1)[np.arange(len(truth)), truth].mean(), [1.0], tol=1e-9
    )
    fitted = fit_calibrator("temperature", "binary" if k == 2 else "multiclass", truth, scores)
    assert fitted.temperatures[0] == pytest.approx(1 / found.x[0], rel=1e-3)
    assert fitted.temperatures[0] == pytest.approx(4, rel=0.25)
    assert np.allclose(fitted(scores), softmax(found.x[0] * logits, axis=1), atol=1e-4)


def test_temperature_of_several_labels():
    """Each label has the temperature that it would have alone, as two classes."""
    truth, scores = several()
    fitted = fit_calibrator("temperature", "multilabel", truth, scores)
    for c in range(3):
        both = np.column_stack([1 - scores[:, c], scores[:, c]])
        alone = fit_calibrator("temperature", "binary", truth[:, c], both)
        assert fitted.temperatures[c] == alone.temperatures[0]
        assert np.allclose(fitted(scores)[:, c], alone(both)[:, 1])


@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from(["temperature", "isotonic"]))
@settings(max_examples=40, deadline=None)
def test_calibrated_scores_are_probabilities_no_worse_on_their_rows(seed, k, method):
    """On the rows it was fitted to, each method lowers what it minimises; scores stay probabilities; JSON keeps it."""
    truth, scores = overconfident(n=40, k=k, seed=seed, sharpness=np.random.default_rng(seed).choice([0.3, 1, 3]))
    task = "binary" if k == 2 else "multiclass"
    fitted = fit_calibrator(method, task, truth, scores)
    better = fitted(scores)
    assert np.allclose(better.sum(1), 1)
    assert better.min() >= 0
    what = {"temperature": "log_loss", "isotonic": "brier"}[method]
    if method == "temperature" or k == 2:  # one against the rest, brought to 1, promises nothing of their sum
        assert calibration_error(task, truth, better)[what] <= calibration_error(task, truth, scores)[what] + 1e-9
    again = calibrator_from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert np.array_equal(again(scores), better)


def test_isotonic_is_scikit_learns():
    """For two classes, for more (brought to add up to 1) and for labels, the functions are scikit-learn's."""
    truth, scores = overconfident(k=2)
    plain = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores[:, 1], truth)
    new = np.linspace(0, 1, 101)
    found = fit_calibrator("isotonic", "binary", truth, scores)(np.column_stack([1 - new, new]))
    assert np.allclose(found[:, 1], plain.predict(new))

    truth, scores = overconfident(k=3)
    each = [
        IsotonicRegression(out_of_bounds="clip").fit(scores[:, c], truth == c).predict(scores[:, c]) for c in (0, 1, 2)
    ]
    expected = np.column_stack(each) / np.sum(each, axis=0)[:, None]
    assert np.allclose(fit_calibrator("isotonic", "multiclass", truth, scores)(scores), expected)

    truth, scores = several()
    found = fit_calibrator("isotonic", "multilabel", truth, scores)(scores)
    alone = IsotonicRegression(out_of_bounds="clip").fit(scores[:, 2], truth[:, 2]).predict(scores[:, 2])
    assert np.allclose(found[:, 2], alone)


def test_isotonic_row_that_no_class_wants():
    """Where every class's function gives 0, the classes are equally likely."""
    never = Steps((0.5, 0.9), (0.0, 1.0))
    found = Isotonic("multiclass", (never, never, never))(np.array([[0.4, 0.35, 0.25], [0.8, 0.1, 0.1]]))
    assert np.allclose(found, [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0]])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_separable_scores(method):
    """Scores without an error get finite probabilities, and temperatures stop at their bound."""
    truth = np.repeat([0, 1], 50)
    scores = np.where(truth[:, None] == [0, 1], 0.7, 0.3)
    with warnings.catch_warnings(action="error"):
        fitted = fit_calibrator(method, "binary", truth, scores)
        assert np.isfinite(fitted(scores)).all()
    assert calibration_error("binary", truth, fitted(scores))["log_loss"] < 1e-6
    if method == "temperature":
        assert fitted.temperatures[0] == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_scores_of_nothing_but_0_and_1(method):
    """Votes without doubt, some of them wrong, are made less sure."""
    truth = np.repeat([0, 1], 50)
    scores = np.eye(2)[np.where(np.arange(100) % 10 == 0, 1 - truth, truth)]
    better = fit_calibrator(method, "binary", truth, scores)(scores)
    assert better.max(1) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_one_in_a_thousand(method):
    """With one positive in a thousand rows, mean probability and frequency agree after calibration."""
    rng = np.random.default_rng(0)
    truth = (np.arange(5000) % 1000 == 0).astype(int)
    p = np.clip(0.002 + 0.3 * truth * rng.random(5000) + 0.05 * rng.random(5000), 0, 1)
    better = fit_calibrator(method, "binary", truth, np.column_stack([1 - p, p]))(np.column_stack([1 - p, p]))
    before, after = (calibration_error("binary", truth, s)["log_loss"] for s in (np.column_stack([1 - p, p]), better))
    assert after <= before
    if method == "isotonic":
        assert better[:, 1].mean() == pytest.approx(0.001)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_class_without_rows_is_left_as_it_is(method):
    """Of a class or label that no row has, or all rows have, nothing is learned."""
    truth, scores = several()
    truth[:, 1] = 0
    assert np.allclose(fit_calibrator(method, "multilabel", truth, scores)(scores)[:, 1], scores[:, 1])
    one = fit_calibrator(method, "binary", np.ones(4, int), np.full((4, 2), 0.5))
    assert np.allclose(one(np.array([[0.2, 0.8]])), [[0.2, 0.8]])


def test_no_row_is_in_its_own_calibration():
    """With the truth of one fold's rows turned round, that fold's calibrated scores stay and others change."""
    truth, scores = overconfident(k=2)
    fold = np.arange(len(truth)) % 4
    honest = cross_calibrated("isotonic", "binary", truth, scores, fold)
    poisoned = cross_calibrated("isotonic", "binary", np.where(fold == 1, 1 - truth, truth), scores, fold)
    assert np.array_equal(honest[fold == 1], poisoned[fold == 1])
    assert not np.array_equal(honest[fold == 2], poisoned[fold == 2])
    assert np.array_equal(cross_calibrated("isotonic", "binary", truth, scores, np.zeros(len(truth), int)), scores)


def test_errors_are_those_of_scikit_learn_and_of_the_metrics():
    """Log loss and Brier score are scikit-learn's; the expected calibration error is that of the metrics."""
    truth, scores = overconfident(k=2)
    found = calibration_error("binary", truth, scores)
    assert found["log_loss"] == pytest.approx(log_loss(truth, scores))
    assert found["brier"] == pytest.approx(brier_score_loss(truth, scores[:, 1]))
    assert found["ece"] == pytest.approx(score("binary", truth, scores)["ece"])
    truth, scores = overconfident(k=3)
    found = calibration_error("multiclass", truth, scores)
    assert found["log_loss"] == pytest.approx(log_loss(truth, scores))
    assert found["brier"] == pytest.approx(brier_score_loss(truth, scores, scale_by_half=False))
    assert found["ece"] == pytest.approx(score("multiclass", truth, scores)["ece"])
    truth, scores = several()
    found = calibration_error("multilabel", truth, scores)
    assert found["log_loss"] == pytest.approx(log_loss(truth.ravel(), scores.ravel()))
    assert found["brier"] == pytest.approx(brier_score_loss(truth.ravel(), scores.ravel()))


def test_reliability_counts_every_row():
    """Bins hold all rows, their means are those of their rows, an edge belongs below, and 0 to the first."""
    truth, scores = overconfident(k=3)
    found = reliability("multiclass", truth, scores)
    assert sum(found["count"]) == len(truth)
    confidence, right = scores.max(1), scores.argmax(1) == truth
    here = (confidence > 14 / 15) & (confidence <= 1)
    assert found["count"][14] == here.sum()
    assert found["confidence"][14] == pytest.approx(confidence[here].mean())
    assert found["accuracy"][14] == pytest.approx(right[here].mean())
    assert found["accuracy"][0] is None  # of three classes the likeliest is above 1/15
    labels = reliability("multilabel", np.array([[0, 1]]), np.array([[0.0, 0.6]]))
    assert labels["count"] == [1, *[0] * 7, 1, *[0] * 6]


def test_unknown_method():
    """A method that there is not is refused with the nearest that there is."""
    with pytest.raises(InputError, match="Did you mean 'isotonic'"):
        fit_calibrator("isotonc", "binary", np.array([0, 1]), np.eye(2))
