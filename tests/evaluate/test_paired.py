"""Two models side by side: which test counts, and that it has its size on procedures that are equally good."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from headwater.evaluate.bootstrap import FoldScores, difference, fold_values
from headwater.evaluate.metrics import score
from headwater.evaluate.paired import Paired
from headwater.evaluate.paired import test_to_train as ratio_of
from headwater.evaluate.statistics import corrected_t


def benchmark(name):
    """A script of the benchmarks, whose simulations are repeated here at a smaller size."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


type_one, new_patients = benchmark("type_one"), benchmark("new_patients")


def folds(rng, n_folds, quality=1.0, n_train=None):
    """Folds of one model, of twelve rows each; the same truth for the same number of folds."""
    out = []
    for number in range(n_folds):
        truth = np.arange(12) % 2
        p = 1 / (1 + np.exp(-quality * truth - rng.standard_normal(12)))
        out.append(FoldScores(truth, np.column_stack([1 - p, p]), 12 * number + np.arange(12), n_train))
    return out


@pytest.mark.parametrize("metric", ["auc", "accuracy", "f1_macro", "log_loss", "brier"])
def test_folds_are_compared_by_the_corrected_t(metric):
    """Of every metric: the mean difference over folds, and the p of the corrected t of the numbers of each fold."""
    rng = np.random.default_rng(0)
    models = [folds(rng, 5), folds(rng, 5, 0.2)]
    found = Paired.of("binary", models, n_draws=100).difference(metric, 0, 1)
    values = [[score("binary", f.truth, f.scores)[metric] for f in model] for model in models]
    assert found.test == "corrected_t"
    assert found.value == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert found.p == pytest.approx(corrected_t(*values, 1 / 4).p)
    assert found.low < found.value < found.high
    assert fold_values("binary", models)[metric] == pytest.approx(np.array(values))


def test_one_test_set_is_drawn_again():
    """Fixed models: nothing was trained anew, and the draws of groups say how far apart they are."""
    rng = np.random.default_rng(0)
    paired = Paired.of("binary", [folds(rng, 1), folds(rng, 1, 0.2)], n_draws=200)
    assert paired.difference("auc", 0, 1) == difference(*paired.drawn["auc"])
    other = Paired.of("binary", [folds(rng, 3), folds(rng, 2)], n_draws=200, same_folds=False)
    assert other.difference("auc", 0, 1).test == "bootstrap"


@pytest.mark.parametrize(
    ("n_train", "ratio"), [(None, 1 / 4), (48, 1 / 4), (8, 12 / 8), (6, 2), (1, 12)], ids=["unknown", *"8421"]
)
def test_the_rows_that_were_trained_on_count(n_train, ratio):
    """Those of each fold where they are known, else the rows of all other folds."""
    rng = np.random.default_rng(0)
    assert ratio_of(folds(rng, 5, n_train=n_train)) == pytest.approx(ratio)
    both = Paired.of("binary", [folds(rng, 5), folds(rng, 5, n_train=n_train)], n_draws=10)
    assert both.ratio(0, 1) == both.ratio(1, 0) == pytest.approx(ratio)


def test_a_fold_without_the_metric_is_left_out():
    """Both models lack it there, and the other folds are compared."""
    rng = np.random.default_rng(0)
    models = [folds(rng, 4), folds(rng, 4)]
    for model in models:
        model[2] = FoldScores(np.ones(12, int), model[2].scores, model[2].groups)
    paired = Paired.of("binary", models, n_draws=10)
    assert paired.folds("auc").shape == (2, 3)
    assert paired.folds("accuracy").shape == (2, 4)
    assert paired.difference("auc", 0, 1).p == pytest.approx(corrected_t(*paired.folds("auc"), 1 / 3).p)


def test_procedures_whose_fits_vary_are_told_apart_too_often_by_drawing_patients():
    """Fits that come out better or worse by luck: the corrected t knows it from the folds, the bootstrap does not."""
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):
        models = [[folds(rng, 1, 1 + rng.standard_normal())[0] for _ in range(5)] for _ in range(2)]
        models = [[FoldScores(f.truth, f.scores, f.groups + 12 * n) for n, f in enumerate(model)] for model in models]
        paired = Paired.of("binary", models, n_draws=200, seed=seed)
        p.append((paired.difference("auc", 0, 1).p, difference(*paired.drawn["auc"]).p))
    corrected, resampled = np.mean(np.array(p) < 0.05, axis=0)
    assert corrected < 0.08
    assert resampled > 0.12


def test_probes_that_are_equally_good():
    """Of 40 data sets with real fits the corrected t tells hardly any apart, and Wilcoxon over five folds cannot."""
    found = type_one.type_one(40, 5)
    assert found["corrected t"] <= 0.15
    assert found["Wilcoxon"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("n_folds", "least"), [(5, 0.09), (10, 0.055)])
def test_the_corrected_t_has_its_size(n_folds, least):
    """As the docs say: the corrected t about 0.05, tests that take the trained models as they came above it.

    With few groups per fold the bootstrap, whose resamples vary more then, is the less wrong of these.
    """
    found = type_one.type_one(400, n_folds)
    assert 0.01 < found["corrected t"] < 0.08
    assert found["bootstrap"] > least
    assert found["DeLong"] > 0.1


@pytest.mark.slow
def test_tests_of_fixed_models_have_their_size():
    found = type_one.type_one(1000, None)
    assert 0.03 < found["bootstrap"] < 0.09
    assert 0.03 < found["DeLong"] < 0.09


@pytest.mark.parametrize("name", new_patients.SIGNALS)
def test_what_is_asked_for_is_reached_on_new_patients(name):
    """Images of a patient look alike, and ``per`` alone keeps patients whole: sensitivity and coverage hold."""
    found = new_patients.reached(new_patients.SIGNALS[name], 8)
    for what in ("sensitivity", "coverage", "sensitivity of patients", "coverage of patients"):
        assert 0.83 < found[what] < 0.99, what


@pytest.mark.slow
def test_noise_in_is_chance_out():
    """With nothing to learn the AUC is 0.5, and a sensitivity that was asked for is reached all the same."""
    found = new_patients.reached(0.0, 120)
    assert found["AUC"] == pytest.approx(0.5, abs=0.03)
    for what in ("sensitivity", "coverage", "sensitivity of patients", "coverage of patients"):
        assert 0.88 < found[what] < 0.97, what
