"""Predictive values at a prevalence, and decision curves, agree with their definitions and hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.evaluate.clinical import THRESHOLDS, Called, decision_curve, prior_shift, require_prevalence


def test_rates_at_a_prevalence_are_those_of_a_population_made_to_have_it():
    """Rows repeated until the share of positive ones is the prevalence."""
    rng = np.random.default_rng(0)
    positive = np.arange(100) < 50
    called = np.where(positive, rng.random(100) < 0.8, rng.random(100) < 0.3)
    rows = np.concatenate([np.flatnonzero(positive), np.repeat(np.flatnonzero(~positive), 9)])
    found = Called(positive, called, np.arange(100), 0.1).rates()
    expected = Called(positive[rows], called[rows], rows).rates()
    for name in ("ppv", "npv", "recall_rate", "detection_rate"):
        assert found[name][0] == pytest.approx(expected[name][0]), name


@pytest.mark.parametrize("prevalence", [None, 0.01, 0.5])
@pytest.mark.parametrize("n_images", [1, 3])
def test_intervals_of_rates_hold_the_truth(prevalence, n_images):
    rng = np.random.default_rng(1)
    sensitivity, specificity, share = 0.8, 0.7, 0.4
    q = share if prevalence is None else prevalence
    called = q * sensitivity + (1 - q) * (1 - specificity)
    truth = {
        "ppv": q * sensitivity / called,
        "npv": (1 - q) * specificity / (1 - called),
        "recall_rate": called,
        "detection_rate": q * sensitivity,
    }
    held = {name: [] for name in truth}
    for _ in range(250):
        patient = np.repeat(np.arange(80), n_images)
        positive = (rng.random(80) < share)[patient]
        chance = np.where(positive, sensitivity, 1 - specificity)
        whole, own = (rng.random(80))[patient] < chance, rng.random(len(patient)) < chance
        right = whole if n_images == 1 else np.where(rng.random(len(patient)) < 0.5, whole, own)
        for name, (value, (low, high)) in Called(positive, right, patient, prevalence).rates().items():
            held[name].append(low <= truth[name] <= high)
            assert low <= value <= high
    for name, of_sets in held.items():
        assert np.mean(of_sets) > 0.91, name


def test_what_is_never_called_has_no_predictive_value():
    rates = Called(np.array([True, False, False]), np.zeros(3, bool), np.arange(3)).rates()
    assert np.isnan(rates["ppv"][0])
    assert rates["recall_rate"][0] == rates["detection_rate"][0] == 0
    assert rates["recall_rate"][1].high > 0.5  # three patients tell little


def test_the_detection_rate_is_never_above_the_prevalence():
    rng = np.random.default_rng(2)
    positive = np.arange(60) < 30
    for seed in range(20):
        called = np.random.default_rng(seed).random(60) < np.where(positive, 0.95, 0.4)
        _, (_, high) = Called(positive, called, np.arange(60), 0.006).rates()["detection_rate"]
        assert high <= 0.006
    assert rng is not None


def test_a_decision_curve_is_its_definition():
    rng = np.random.default_rng(3)
    positive, p = rng.random(200) < 0.3, rng.random(200)
    found = decision_curve(positive, p, np.arange(200))
    for i in (4, 49, 90):
        t = THRESHOLDS[i]
        called = p >= t
        benefit = (called & positive).sum() / 200 - (called & ~positive).sum() / 200 * t / (1 - t)
        assert found["net_benefit"][i] == pytest.approx(benefit)
        assert found["low"][i] < benefit < found["high"][i]
        assert found["treat_all"][i] == pytest.approx(positive.mean() - (~positive).mean() * t / (1 - t))


def test_a_decision_curve_at_a_prevalence_is_that_of_such_a_population():
    rng = np.random.default_rng(4)
    positive, p = np.arange(100) < 50, rng.random(100)
    rows = np.concatenate([np.flatnonzero(positive), np.repeat(np.flatnonzero(~positive), 9)])
    found = decision_curve(positive, p, np.arange(100), 0.1)
    expected = decision_curve(positive[rows], p[rows], rows)
    assert found["net_benefit"] == pytest.approx(expected["net_benefit"])
    assert found["treat_all"] == pytest.approx(expected["treat_all"])


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_the_band_of_a_decision_curve_holds_the_truth(prevalence):
    rng = np.random.default_rng(5)

    def drawn(n):
        positive = rng.random(n) < 0.4
        return positive, 1 / (1 + np.exp(-rng.standard_normal(n) - 1.5 * positive))

    truth = decision_curve(*drawn(200_000), np.arange(200_000), prevalence)["net_benefit"]
    held = []
    for _ in range(150):
        found = decision_curve(*drawn(100), np.arange(100), prevalence)
        held.append([found["low"][i] <= truth[i] <= found["high"][i] for i in (29, 59, 79)])
    assert np.mean(held, axis=0).min() > 0.89


def test_probabilities_move_by_the_shift_of_the_prior():
    """A model that is right at a prevalence of one half is right at another after the shift."""
    rng = np.random.default_rng(6)
    score = rng.standard_normal(400_000) + (positive := rng.random(400_000) < 0.05) * 1.0
    logit = score - 0.5 + prior_shift(0.5, 0.05)  # the density ratio of two unit normals at a distance of 1
    p = 1 / (1 + np.exp(-logit))
    for low, high in ((0.0, 0.02), (0.02, 0.1), (0.1, 0.5)):
        here = (p >= low) & (p < high)
        assert positive[here].mean() == pytest.approx(p[here].mean(), rel=0.1)


@pytest.mark.parametrize("prevalence", [0, 1, -0.1, 1.5, float("nan")])
def test_a_prevalence_is_a_share(prevalence):
    with pytest.raises(InputError, match="--prevalence"):
        require_prevalence(prevalence)


def test_perfect_calls_are_not_certain_at_another_prevalence():
    """Fifty of fifty right on both sides: the false-positive rate may still be up to 7 %."""
    positive = np.arange(100) < 50
    rates = Called(positive, positive, np.arange(100), 0.006).rates()
    assert rates["ppv"][0] == 1
    assert rates["ppv"][1].low < 0.1
    assert rates["recall_rate"][0] == pytest.approx(0.006)
    assert rates["recall_rate"][1].high > 0.06
    assert 0.99 < rates["npv"][1].low < 1
