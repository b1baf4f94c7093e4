"""Every metric agrees with an independent implementation, and is NaN rather than wrong where it is undefined."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.exceptions import UndefinedMetricWarning

from headwater.errors import InputError
from headwater.evaluate.metrics import count_folds, infer_task, log_loss_many, score, summarise

NAN = float("nan")


def probabilities(rng, n, k, *, coarse):
    """Draw rows that add up to 1; coarse ones are full of ties."""
    raw = rng.integers(1, 4, (n, k)).astype(float) if coarse else rng.exponential(size=(n, k))
    return raw / raw.sum(axis=1, keepdims=True)


def brute_force_ece(codes, p, n_bins=15):
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == codes
    total = 0.0
    for b in range(n_bins):
        inside = (confidence > b / n_bins + 1e-6) & (confidence <= (b + 1) / n_bins + 1e-6)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.booleans())
def test_binary_metrics_agree_with_scikit_learn(seed, n, coarse):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[0, 1, rng.integers(0, 2, n - 2)])
    names = np.array(["benign", "malignant"])[y]
    p = probabilities(rng, n, 2, coarse=coarse)
    predicted = (p[:, 1] > p[:, 0]).astype(int)
    found = score("binary", names, p)
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(y, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(y, predicted),
            "precision": reference.precision_score(y, predicted, zero_division=0),
            "recall": reference.recall_score(y, predicted),
            "f1": reference.f1_score(y, predicted),
            "f1_macro": reference.f1_score(y, predicted, average="macro"),
            "f1_weighted": reference.f1_score(y, predicted, average="weighted"),
            "specificity": reference.recall_score(y, predicted, pos_label=0),
            "kappa": cohens_kappa(y, predicted),
            "auc": reference.roc_auc_score(y, p[:, 1]),
            "auc_above_90_specificity": reference.roc_auc_score(y, p[:, 1], max_fpr=0.1),
            "sensitivity_at_90_specificity": best_of_curve(y, p[:, 1], specificity=0.9),
            "specificity_at_90_sensitivity": best_of_curve(y, p[:, 1], sensitivity=0.9),
            "average_precision": reference.average_precision_score(y, p[:, 1]),
            "log_loss": reference.log_loss(y, p),
            "ece": brute_force_ece(y, p),
            "brier": reference.brier_score_loss(y, p[:, 1]),
            **{name: found[name] for name in found if name.startswith("calibration")},  # tested below
        },
        abs=1e-12,
        nan_ok=True,
    )
    assert score("binary", names, p[:, 1]) == pytest.approx(found, abs=1e-12, nan_ok=True)


def cohens_kappa(y, predicted, **options):
    """Scikit-learn warns of a division by zero, and returns NaN, if there is one class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reference.cohen_kappa_score(y, predicted, **options)


def best_of_curve(y, p, *, specificity=None, sensitivity=None):
    """Try every threshold."""
    best = 0.0
    for threshold in [*np.unique(p), np.inf]:
        called = p >= threshold
        of_positive, of_negative = called[y == 1].mean(), (~called)[y == 0].mean()
        if specificity is not None and of_negative >= specificity - 1e-9:
            best = max(best, of_positive)
        if sensitivity is not None and of_positive >= sensitivity - 1e-9:
            best = max(best, of_negative)
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3), st.floats(-2, 2))
def test_calibration_is_that_of_a_logistic_regression(seed, slope, shift):
    """Held against scipy's minimiser, on overlapping classes."""
    rng = np.random.default_rng(seed)
    logit = rng.standard_normal(300) * 2
    y = (rng.random(300) < 1 / (1 + np.exp(-slope * logit - shift))).astype(int)
    y[:4], logit[:4] = [0, 1, 0, 1], [-1, -2, 2, 1]
    found = score("binary", y, 1 / (1 + np.exp(-logit)))

    def loss(line):
        return np.logaddexp(0, line).mean() - (y * line).mean()

    both = minimize(lambda at: loss(at[0] + at[1] * logit), [0, 1], tol=1e-12)
    alone = minimize(lambda at: loss(at[0] + logit), [0], tol=1e-12)
    assert [found["calibration_intercept"], found["calibration_slope"]] == pytest.approx(both.x, abs=2e-4)
    assert found["calibration_in_the_large"] == pytest.approx(alone.x[0], abs=2e-4)


@pytest.mark.parametrize(
    "p", [[0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1], [0.5] * 4, [0.0, 0.0, 1.0, 1.0], [0.2, 0.3, 0.3, 0.4]]
)
def test_separated_or_constant_scores_have_no_calibration_slope(p):
    found = score("binary", [0, 0, 1, 1], p)
    assert math.isnan(found["calibration_slope"])
    assert math.isnan(found["calibration_intercept"])
    assert math.isfinite(found["calibration_in_the_large"])


def test_predictions_that_are_right_on_average_have_slope_one_and_intercept_zero():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    found = score("binary", (rng.random(200_000) < p).astype(int), p)
    assert found["calibration_slope"] == pytest.approx(1, abs=0.02)
    assert found["calibration_intercept"] == pytest.approx(0, abs=0.02)
    assert found["calibration_in_the_large"] == pytest.approx(0, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 5), st.integers(8, 60), st.booleans())
def test_multiclass_metrics_agree_with_scikit_learn(seed, k, n, coarse):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[np.arange(k), rng.integers(0, k, n - k)])
    p = probabilities(rng, n, k, coarse=coarse)
    predicted = p.argmax(axis=1)
    one_hot = np.eye(k)[y]
    each = {"average": "macro", "zero_division": 0}
    one_against_rest = reference.roc_auc_score(y, p, multi_class="ovr", average="macro")
    assert score("multiclass", y * 10, p, classes=np.arange(k) * 10) == pytest.approx(
        {
            "accuracy": reference.accuracy_score(y, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(y, predicted),
            "precision": reference.precision_score(y, predicted, **each),
            "recall": reference.recall_score(y, predicted, **each),
            "f1_macro": reference.f1_score(y, predicted, average="macro"),
            "f1_micro": reference.f1_score(y, predicted, average="micro"),
            "f1_weighted": reference.f1_score(y, predicted, average="weighted"),
            "kappa": cohens_kappa(y, predicted),
            "kappa_quadratic": cohens_kappa(y, predicted, weights="quadratic", labels=np.arange(k)),
            "average_precision": reference.average_precision_score(one_hot, p, average="macro"),
            "average_precision_present": reference.average_precision_score(one_hot, p, average="macro"),
            "brier": ((p - one_hot) ** 2).sum(1).mean(),
            "auc": one_against_rest,
            "auc_macro": one_against_rest,
            "auc_micro": reference.roc_auc_score(one_hot.ravel(), p.ravel()),
            "log_loss": reference.log_loss(y, p, labels=np.arange(k)),
            "ece": brute_force_ece(y, p),
            "balanced_accuracy_present": reference.balanced_accuracy_score(y, predicted),
            "f1_macro_present": reference.f1_score(y, predicted, average="macro"),
            "auc_present": one_against_rest,
            "classes_present": k,
        },
        abs=1e-12,
        nan_ok=True,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(4, 60), st.booleans())
def test_multilabel_metrics_agree_with_scikit_learn(seed, k, n, coarse):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, k))
    y[0], y[1] = 0, 1
    p = rng.integers(0, 4, (n, k)) / 4 + 0.01 if coarse else rng.random((n, k))
    predicted = (p > 0.5).astype(int)
    top = np.zeros((n, k), dtype=int)
    for i in range(n):
        best = sorted(range(k), key=lambda j: (-p[i, j], j))[:3]
        top[i, best] = 1
    hits = (y * top).sum(axis=1)

    def f1(guess, average):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            return reference.f1_score(y.ravel() if k == 1 else y, guess.ravel() if k == 1 else guess,
                                      average="binary" if k == 1 else average)  # fmt: skip

    assert score("multilabel", y, p) == pytest.approx(
        {
            "auc_micro": reference.roc_auc_score(y.ravel(), p.ravel()),
            "auc_macro": reference.roc_auc_score(y, p, average="macro"),
            "average_precision": reference.average_precision_score(y, p, average="macro"),
            "f1_micro": f1(predicted, "micro"),
            "f1_macro": f1(predicted, "macro"),
            "hamming": np.mean(y != predicted),
            "top3_f1_micro": f1(top, "micro"),
            "top3_f1_macro": f1(top, "macro"),
            "top3_hamming": np.mean(y != top),
            "top3_1": np.mean(hits >= 1),
            "top3_2": np.mean(hits >= 2),
            "top3_3": np.mean(hits >= 3),
            "auc_macro_present": reference.roc_auc_score(y, p, average="macro"),
            "average_precision_present": reference.average_precision_score(y, p, average="macro"),
            "f1_macro_present": f1(predicted, "macro"),
            "top3_f1_macro_present": f1(top, "macro"),
            "labels_present": k,
        },
        abs=1e-12,
    )


def test_top_three_by_hand():
    y = [[1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]]
    p = [[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.0]]
    metrics = score("multilabel", y, p)
    assert metrics["top3_1"] == pytest.approx(2 / 3)
    assert metrics["top3_2"] == pytest.approx(1 / 3)
    assert metrics["top3_3"] == pytest.approx(1 / 3)
    assert metrics["top3_f1_micro"] == pytest.approx(2 * 4 / (9 + 6))
    assert metrics["top3_hamming"] == pytest.approx((0 + 3 + 4) / 12)


def test_constant_scores_tell_nothing():
    y = [0, 0, 0, 1]
    metrics = score("binary", y, np.full(4, 0.5))
    assert metrics["auc"] == 0.5
    assert metrics["average_precision"] == 0.25
    assert metrics["log_loss"] == pytest.approx(math.log(2))
    assert metrics["accuracy"] == 0.75  # of equal scores the earlier class
    assert metrics["precision"] == 0  # nothing is predicted to be positive
    assert metrics["ece"] == pytest.approx(0.25)


def test_a_sure_mistake_costs_much_but_not_everything():
    metrics = score("binary", [0, 1], [1.0, 1.0])
    assert metrics["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2)
    assert score("binary", [0, 1], [0.0, 1.0])["log_loss"] == 0


def test_the_edge_of_a_calibration_bin_holds_for_every_way_to_write_it():
    y, p = ["a", "b", "b", "a"], np.array([0.4, 0.62, 0.59, 0.4])
    single = score("binary", y, np.float32(p))["ece"]
    assert single == pytest.approx(score("binary", y, np.column_stack([[0.6, 0.38, 0.41, 0.6], p]))["ece"])
    assert single == pytest.approx(score("binary", y, p)["ece"])


def nan_names(metrics):
    return {name for name, value in metrics.items() if math.isnan(value)}


@pytest.mark.parametrize("only", ["a", "b"])
def test_with_one_class_in_a_binary_test_fold_what_needs_both_is_nan(only):
    metrics = score("binary", [only] * 3, [0.2, 0.4, 0.9], classes=["a", "b"])
    undefined = {"balanced_accuracy", "f1_macro", "auc", "average_precision", "auc_above_90_specificity"}
    undefined |= {"sensitivity_at_90_specificity", "specificity_at_90_sensitivity"}
    undefined |= {"calibration_slope", "calibration_intercept", "calibration_in_the_large"}
    undefined |= {"precision", "recall", "f1"} if only == "a" else {"specificity"}
    assert nan_names(metrics) == undefined
    assert metrics["accuracy"] == pytest.approx(2 / 3 if only == "a" else 1 / 3)


def test_with_a_class_missing_from_a_multiclass_test_fold_means_over_classes_are_nan():
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    metrics = score("multiclass", ["a", "b", "a"], p, classes=["a", "b", "c"])
    undefined = {"balanced_accuracy", "precision", "recall", "f1_macro", "auc", "auc_macro", "average_precision"}
    assert nan_names(metrics) == undefined
    assert metrics["accuracy"] == metrics["f1_micro"] == pytest.approx(2 / 3)
    assert metrics["log_loss"] == pytest.approx(-(2 * math.log(0.7) + math.log(0.1)) / 3)
    assert metrics["classes_present"] == 2
    assert metrics["balanced_accuracy_present"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["f1_macro_present"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["auc_present"] == pytest.approx((1 / 2 + 1) / 2)


def test_with_a_label_no_row_has_means_over_labels_are_nan_and_the_others_are_not():
    y = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    metrics = score("multilabel", y, np.full((3, 3), 0.3))
    assert nan_names(metrics) == {"auc_macro", "average_precision", "f1_macro", "top3_f1_macro"}
    assert metrics["auc_micro"] == 0.5
    assert metrics["labels_present"] == 2


@pytest.mark.parametrize("left_out", [[], [0], [3, 7], [1, 2, 5, 8], [0, 1, 2, 3, 4, 5, 6]])
def test_means_over_the_labels_present_are_those_of_these_labels_alone(left_out):
    """Of ten labels some are never there, and one always: the others' mean is that of a task without them."""
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (50, 10)), rng.random((50, 10))
    y[:, left_out] = 0
    y[:, 9] = 1
    metrics = score("multilabel", y, p)
    there = np.setdiff1d(np.arange(9), left_out)
    alone = score("multilabel", y[:, there], p[:, there])
    assert metrics["labels_present"] == len(there)
    for name in ("auc_macro", "average_precision", "f1_macro"):
        assert metrics[f"{name}_present"] == pytest.approx(alone[name]), name
    top = np.zeros((50, 10), int)
    np.put_along_axis(top, np.argsort(-p, axis=1)[:, :3], 1, axis=1)
    by_hand = reference.f1_score(y[:, there], top[:, there], average="macro")
    assert metrics["top3_f1_macro_present"] == pytest.approx(by_hand)


def test_without_a_single_true_label_only_the_shares_are_numbers():
    metrics = score("multilabel", np.zeros((2, 4)), np.full((2, 4), 0.3))
    assert metrics["labels_present"] == 0
    assert nan_names(metrics) == {name for name in metrics if "auc" in name or "f1" in name or "average" in name}
    assert metrics["hamming"] == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_auc_depends_on_the_order_of_the_scores_alone(seed):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, 2, 30)]
    p = rng.integers(0, 9, 32) / 8
    assert score("binary", y, p)["auc"] == score("binary", y, p**3)["auc"]
    assert score("binary", y, p)["auc"] == pytest.approx(1 - score("binary", y, 1 - p)["auc"])


def test_float16_probabilities_are_accepted():
    rng = np.random.default_rng(0)
    p = probabilities(rng, 50, 60, coarse=False).astype(np.float16)
    y = rng.integers(0, 60, 50)
    expected = score("multiclass", y, p.astype(np.float64), classes=np.arange(60))
    assert score("multiclass", y, p, classes=np.arange(60)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("labels", [[False, True, True], [0, 1, 1], ["n", "y", "y"]])
def test_labels_may_be_of_any_kind(labels):
    assert score("binary", labels, [0.1, 0.8, 0.9], classes=np.unique(labels))["auc"] == 1


REFUSED = {
    "NaN": (("binary", [0, 1], [0.1, NAN]), {}, "NaN in 1 place"),
    "logits": (("binary", [0, 1], [-3.0, 4.0]), {}, "from -3 to 4"),
    "rows that do not add up": (("binary", [0, 1], [[0.1, 0.2], [0.5, 0.5]]), {}, "row 0 sum to 0.3"),
    "columns that are missing": (
        ("multiclass", [0, 1, 2], np.full((3, 2), 0.5)),
        {},
        r"shape \(3, 2\), but need \(3, 3\)",
    ),
    "rows that are missing": (("binary", [0, 1, 1], [0.5, 0.5]), {}, r"shape \(2, 2\), but need \(3, 2\)"),
    "a null label": (("binary", ["a", None], [0.1, 0.2]), {"classes": ["a", "b"]}, "null in 1 row"),
    "an unknown label": (("binary", ["a", "c"], [0.1, 0.2]), {"classes": ["a", "b"]}, "'c'"),
    "numbers for names": (("binary", [0, 1], [0.1, 0.2]), {"classes": ["0", "1"]}, "y holds 0"),
    "classes twice": (("binary", ["a", "b"], [0.1, 0.2]), {"classes": ["a", "b", "a"]}, "distinct"),
    "three classes": (("binary", [0, 1, 2], [0.1, 0.2, 0.3]), {}, "there are 3"),
    "one class": (("binary", [0, 0], [0.1, 0.2]), {}, "there is 1"),
    "counts as indicators": (("multilabel", [[0, 2]], [[0.1, 0.2]]), {}, "hold only 0 and 1"),
    "classes as indicators": (("multilabel", [0, 1], [0.1, 0.2]), {}, "several labels"),
    "indicators as classes": (("multiclass", [[0, 1]], [[0.1, 0.9]]), {}, r"shape \(1, 2\), but needs \(n_samples,\)"),
    "no rows": (("binary", [], []), {"classes": [0, 1]}, "no rows"),
    "another task": (("multi-class", [0, 1], [0.1, 0.2]), {}, "Did you mean 'multiclass'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_scored_is_refused_in_one_line(case):
    arguments, options, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        score(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "task"),
    [
        ([0, 1, 1], "binary"),
        (["a", "b", "c"], "multiclass"),
        ([True, False], "binary"),
        ([0.0, 1.0, 2.0], "multiclass"),
        ([[0, 1], [0, 1]], "multilabel"),
        (np.array(["a", "b"], dtype=object), "binary"),
    ],
)
def test_the_task_is_read_from_the_labels(y, task):
    assert infer_task(y) == task


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "a"], "y is a in every row"),
        ([0.5, 1.5, 1.0], "measurements such as 0.5"),
        (["a", None], "null in 1 row"),
        ([], "shape"),
        ([[0, 3]], "hold only 0 and 1"),
        (np.array([1, "a"], dtype=object), "y mixes"),
    ],
)
def test_labels_that_make_no_task_are_refused(y, message):
    with pytest.raises(InputError, match=message):
        infer_task(y)


def test_mean_and_standard_deviation_leave_out_undefined_folds():
    folds = [{"auc": 0.8, "f1": 0.5}, {"auc": NAN, "f1": 0.7}, {"auc": 0.6, "f1": None}, {"f1": 0.6, "ece": NAN}]
    mean, std = summarise(folds)
    assert mean == pytest.approx({"auc": 0.7, "f1": 0.6, "ece": None})
    assert std == pytest.approx({"auc": math.sqrt(0.02), "f1": 0.1, "ece": None})
    assert count_folds(folds) == {"auc": 2, "f1": 3, "ece": 0}


def test_the_summary_of_one_fold_is_json():
    mean, std = summarise([{"auc": 0.8, "f1": NAN}])
    assert json.dumps([mean, std], allow_nan=False) == '[{"auc": 0.8, "f1": null}, {"auc": null, "f1": null}]'
    assert summarise([]) == ({}, {})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_the_log_loss_of_many_models_is_that_of_each(seed, dtype):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 20)
    many = np.stack([probabilities(rng, 20, 3, coarse=False) for _ in range(4)]).astype(dtype)
    each = [reference.log_loss(y, p, labels=[0, 1, 2]) for p in many]
    np.testing.assert_allclose(log_loss_many(y, many), each, rtol=1e-5)


def test_a_model_with_nan_is_never_the_best():
    many = np.full((2, 3, 2), 0.5)
    many[0, 1] = NAN
    losses = log_loss_many([0, 1, 1], many)
    assert losses[0] == np.inf
    assert losses.argmin() == 1


def test_log_losses_of_other_shapes_or_codes_are_refused():
    with pytest.raises(InputError, match="shape"):
        log_loss_many([0, 1], np.full((2, 3, 2), 0.5))
    with pytest.raises(InputError, match="from 0 to 2, but there are 2 columns"):
        log_loss_many([0, 1, 2], np.full((2, 3, 2), 0.5))
