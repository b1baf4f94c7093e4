"""How unlike the training data new cases are: percentiles of made cases whose likeness is known."""

import numpy as np
import pytest
from scipy.stats import kstest

from headwater.errors import InputError
from headwater.evaluate.novelty import Reference, fit_reference


def cases(rng, n_groups, n_each, dim=40, shift=0.0):
    """Rows of patients: a few strong directions, a patient's own offset in all of them, and noise."""
    strong = np.random.default_rng(9).standard_normal((5, dim))
    patient = rng.standard_normal((n_groups, 5)) @ strong + 0.5 * rng.standard_normal((n_groups, dim))
    own = rng.standard_normal((n_groups * n_each, dim))
    return (patient.repeat(n_each, 0) + 0.3 * own + shift).astype(np.float32), np.repeat(np.arange(n_groups), n_each)


@pytest.mark.parametrize(("n_groups", "n_each"), [(40, 1), (40, 4), (200, 1)])
def test_percentiles_of_new_cases_are_uniform(n_groups, n_each):
    """One case of each of many new patients, over several training sets; 5 % are above the 95th percentile."""
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        reference = fit_reference(*cases(rng, n_groups, n_each), seed=seed)
        found.append(reference.percentile(cases(rng, 100, 1)[0]))
    found = np.concatenate(found)
    assert kstest(found / 100, "uniform").statistic < 0.1
    assert 0.02 < (found > 95).mean() < 0.09


def test_distances_of_rows_that_were_fitted_to_would_be_too_small():
    """That is why rows are left out by patient: images of a patient are alike."""
    rng = np.random.default_rng(0)
    X, groups = cases(rng, 30, 6)
    by_patient, by_row = fit_reference(X, groups), fit_reference(X)
    new = cases(rng, 2000, 1)[0]
    assert (by_row.percentile(new) > 95).mean() > 1.5 * (by_patient.percentile(new) > 95).mean()


@pytest.mark.parametrize("what", ["another place", "another scale", "another direction"])
def test_cases_of_another_kind_are_unlike(what):
    rng = np.random.default_rng(0)
    reference = fit_reference(*cases(rng, 100, 2))
    new = cases(rng, 50, 1, shift=1.5 if what == "another place" else 0.0)[0]
    if what == "another scale":
        new *= 3
    if what == "another direction":
        new = np.roll(new, 7, axis=1)
    assert np.median(reference.percentile(new)) > 99


def test_too_few_groups_or_no_variance_give_none():
    rng = np.random.default_rng(0)
    assert fit_reference(*cases(rng, 9, 5)) is None
    assert fit_reference(np.ones((50, 4), np.float32)) is None


def test_many_rows_are_a_choice_of_groups():
    rng = np.random.default_rng(0)
    X, groups = cases(rng, 2000, 4)
    reference = fit_reference(X, groups)
    assert len(reference.distances) == 5000
    assert np.array_equal(reference.distances, fit_reference(X, groups).distances)


def test_arrays_there_and_back_and_those_that_do_not_fit():
    rng = np.random.default_rng(0)
    X, groups = cases(rng, 20, 2)
    arrays = fit_reference(X, groups).to_arrays()
    again = Reference.from_arrays(arrays)
    assert np.array_equal(again.percentile(X), fit_reference(X, groups).percentile(X))
    for name, wrong in [
        ("mean", arrays["mean"][:, :-1]),
        ("variances", -arrays["variances"]),
        ("noise", np.zeros(5)),
        ("noise", np.full(5, np.nan)),
        ("mean", arrays["mean"][:3]),
        ("fold", arrays["fold"][::-1]),
        ("distances", arrays["distances"][::-1]),
        ("distances", np.empty(0)),
        ("components", arrays["components"].swapaxes(1, 2)),
    ]:
        with pytest.raises(InputError):
            Reference.from_arrays({**arrays, name: wrong})
    with pytest.raises(InputError, match="needs mean"):
        Reference.from_arrays({"mean": arrays["mean"]})
