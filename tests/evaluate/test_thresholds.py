"""Thresholds: the best of all that reach the target, by trying every one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from headwater.errors import InputError
from headwater.evaluate.thresholds import at_threshold, choose_threshold

rows = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=60).filter(
    lambda found: len({truth for truth, _ in found}) == 2
)


def both(truth, scores, threshold):
    """Sensitivity and specificity by counting."""
    called = scores >= threshold
    return (called & truth).sum() / truth.sum(), (~called & ~truth).sum() / (~truth).sum()


@given(rows, st.integers(1, 100))
@settings(deadline=None)
def test_no_other_threshold_is_better(found, percent):
    """Of all thresholds that reach the target the one chosen has the best of the other; scores may be tied."""
    truth, scores = np.array([t for t, _ in found]), np.array([s / 20 for _, s in found])
    every = np.unique([*scores, *np.nextafter(scores, np.inf), -1.0, 2.0])
    for target, here, there in (("sensitivity", 0, 1), ("specificity", 1, 0)):
        chosen = both(truth, scores, choose_threshold(truth, scores, target=target, at=percent / 100))
        assert chosen[here] >= percent / 100 - 1e-9
        tried = [pair for t in every if (pair := both(truth, scores, t))[here] >= percent / 100 - 1e-9]
        assert chosen[there] == max(pair[there] for pair in tried)


@given(rows, st.floats(-0.1, 1.1))
def test_shares_are_those_of_the_confusion_matrix(found, threshold):
    """Sensitivity, specificity and predictive values come from scikit-learn's four counts; 0 of 0 is NaN."""
    truth, scores = np.array([t for t, _ in found]), np.array([s / 20 for _, s in found])
    tn, fp, fn, tp = confusion_matrix(truth, scores >= threshold, labels=[False, True]).ravel()
    n = tn + fp + fn + tp
    shares = [(tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn), (tp + fp, n), (tp, n)]
    expected = [part / whole if whole else np.nan for part, whole in shares]
    assert np.allclose(list(at_threshold(truth, scores, threshold).values()), expected, equal_nan=True)


def test_share_that_rounding_would_raise():
    """95 of 100 positives are enough for 0.95, though 0.95 * 100 is not a whole number of its own accord."""
    scores = np.arange(200) / 200
    truth = scores >= 0.5
    for percent in range(1, 101):
        threshold = choose_threshold(truth, scores, target="sensitivity", at=percent / 100)
        assert round(100 * at_threshold(truth, scores, threshold)["sensitivity"]) == percent


def test_separable_and_one_in_a_thousand():
    """Separable scores lose nothing; with one positive in a thousand rows its score is the threshold."""
    truth = np.arange(1000) == 7
    scores = np.where(truth, 0.9, 0.1)
    threshold = choose_threshold(truth, scores, target="sensitivity", at=0.95)
    assert threshold == 0.9
    assert at_threshold(truth, scores, threshold) == {
        **{"sensitivity": 1, "specificity": 1, "ppv": 1, "npv": 1},
        **{"recall_rate": 0.001, "detection_rate": 0.001},
    }


@pytest.mark.parametrize("at", [0, -1, 1.01, float("nan")])
def test_shares_that_are_none(at):
    """A target is a share above 0 and at most 1."""
    with pytest.raises(InputError, match="--sensitivity"):
        choose_threshold(np.array([True, False]), np.array([0.5, 0.5]), target="sensitivity", at=at)


def test_no_rows_of_the_class():
    """A sensitivity without positives, or a specificity without negatives, is refused."""
    with pytest.raises(InputError, match="positive rows"):
        choose_threshold(np.array([False]), np.array([0.5]), target="sensitivity", at=0.9)
    with pytest.raises(InputError, match="negative rows"):
        choose_threshold(np.array([True]), np.array([0.5]), target="specificity", at=0.9)
