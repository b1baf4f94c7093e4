"""A limit for new patients holds what it promises, however many images each patient has."""

import numpy as np
import pytest

from headwater.evaluate._limits import limit_for_new
from headwater.evaluate.conformal import fit_sets
from headwater.evaluate.thresholds import choose_threshold


def drawn(rng, n_groups, sizes):
    """Values of groups that look alike within, and which group each is of."""
    groups = np.repeat(np.arange(n_groups), sizes)
    return rng.standard_normal(n_groups)[groups] + 0.5 * rng.standard_normal(len(groups)), groups


@pytest.mark.parametrize("share", [0.8, 0.9])
@pytest.mark.parametrize("images", [1, 4, "1 to 30"])
def test_new_groups_are_at_or_above_it(share, images):
    """Of 3,000 draws of 20 groups and a new one, the new one's values are above the limit as often as was asked."""
    rng = np.random.default_rng(0)
    above = []
    for _ in range(3000):
        sizes = rng.integers(1, 31, 21) if images == "1 to 30" else np.full(21, images)
        values, groups = drawn(rng, 21, sizes)
        old = groups < 20
        limit = limit_for_new(values[old], share, groups[old])
        above.append(np.mean(values[~old] >= limit))
    assert share - 0.02 < np.mean(above) < share + 0.07


def test_values_by_themselves_promise_less():
    """Counting every image of 10 patients as independent falls short: the limit has to know of patients."""
    rng = np.random.default_rng(0)
    above = []
    for _ in range(3000):
        values, groups = drawn(rng, 11, np.full(11, 10))
        above.append(np.mean(values[groups == 10] >= limit_for_new(values[groups < 10], 0.9)))
    assert np.mean(above) < 0.89


def test_too_few_groups_rule_nothing_out():
    values, groups = np.arange(40.0), np.arange(40) // 8
    assert limit_for_new(values, 0.9, groups) == -np.inf
    assert limit_for_new(values, 0.8, groups) > -np.inf
    assert limit_for_new(values[:0], 0.8) == -np.inf
    truth, scores = np.ones(40, int), np.column_stack([1 - values / 40, values / 40])
    assert fit_sets(truth, scores, 0.1, groups=groups).least == (-np.inf, -np.inf)
    assert choose_threshold(truth == 1, scores[:, 1], target="sensitivity", at=0.9, groups=groups) == 0.0


@pytest.mark.parametrize("target", ["sensitivity", "specificity"])
def test_a_threshold_holds_on_new_patients(target):
    """With four images each of 30 patients a side, and new ones: the share that was asked for, on average."""
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(1500):
        scores, groups = drawn(rng, 61, np.full(61, 4))
        side = (groups < 30) if target == "specificity" else (groups >= 30)
        truth = (groups >= 30) if target == "sensitivity" else ~side
        old = groups < 60 if target == "sensitivity" else groups != 0
        at = choose_threshold(truth[old], scores[old], target=target, at=0.9, groups=groups[old])
        new = scores[~old]
        reached.append(np.mean(new >= at if target == "sensitivity" else new < at))
    assert 0.88 < np.mean(reached) < 0.96
