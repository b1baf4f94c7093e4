"""audit --by: whether features show the site rather than the label, on made data where the answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headwater._progress import silent
from headwater.api import audit
from headwater.errors import InputError
from headwater.experiment.sites import counts_by_site, site_effect

N = 160
PATIENT = np.repeat(np.arange(N // 2), 2)
SITE = np.array(["a", "b"])[PATIENT % 2]
LABEL = PATIENT // 2 % 2


def vectors(rng, of_site, of_label):
    X = rng.standard_normal((N, 8))
    X[:, 0] += of_site * np.where(SITE == "a", 1, -1)
    X[:, 1] += of_label * np.where(LABEL == 1, 1, -1)
    return X.astype(np.float32)


def effect(X, **options):
    return site_effect("made/image", X, SITE, LABEL, PATIENT, say=silent, **options)


def test_features_of_the_label_are_robust():
    found = effect(vectors(np.random.default_rng(6), 0, 8))
    assert found.robustness > 0.95
    assert found.by_chance == pytest.approx(0.5, abs=0.02)
    assert found.interval[0] > found.by_chance
    assert found.same_label > 0.95
    low, high = found.probe["intervals"]["auc"]
    assert low < 0.5 < high


def test_features_of_the_site_are_not():
    found = effect(vectors(np.random.default_rng(1), 8, 0))
    assert found.robustness < 0.05
    assert found.interval[1] < found.by_chance
    assert found.probe["auc"] > 0.99
    assert found.probe["balanced_accuracy"] > 0.95


def test_the_index_is_counted_by_hand():
    """Six samples on a line, each of its own patient; the two nearest of each are plain to see."""
    X = np.array([[1, x] for x in (0.0, 0.1, 0.2, 5.0, 5.5, 6.0)], np.float32)
    site = np.array(["a", "b", "a", "b", "b", "a"])
    label = np.array([0, 0, 1, 1, 1, 0])
    so = os = 0
    for i in range(6):
        angle = np.abs(np.arctan(X[:, 1]) - np.arctan(X[i, 1]))
        for j in [j for j in np.argsort(angle, kind="stable") if j != i][:2]:
            so += label[i] == label[j] and site[i] != site[j]
            os += label[i] != label[j] and site[i] == site[j]
    found = site_effect("x", X, site, label, None, k=2, say=silent)
    assert found.robustness == pytest.approx(so / (so + os))
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    chance = [(label[i] == label[j]) & (site[i] != site[j]) for i, j in pairs]
    against = [(label[i] != label[j]) & (site[i] == site[j]) for i, j in pairs]
    assert found.by_chance == pytest.approx(np.sum(chance) / (np.sum(chance) + np.sum(against)))


def test_a_patients_own_images_are_no_neighbours():
    """Copies of an image within a patient change nothing."""
    rng = np.random.default_rng(2)
    X = vectors(rng, 1, 1)
    X[1::2] = X[::2]  # the second image of each patient is the first
    assert effect(X, k=6).same_site == pytest.approx(effect(X[:, ::-1].copy(), k=6).same_site)
    alone = site_effect("x", X, SITE, LABEL, None, k=1, say=silent)
    assert alone.same_site == 1  # without groups, the copy is the nearest
    assert effect(X, k=1).same_site < 0.9


def test_noise_holds_the_value_of_chance():
    """Of 40 sets of noise nearly all have chance within the interval, for the index and for the probe."""
    index, probe = [], []
    for seed in range(40):
        found = effect(vectors(np.random.default_rng(100 + seed), 0, 0), k=10)
        index.append(found.interval[0] <= found.by_chance <= found.interval[1])
        low, high = found.probe["intervals"]["auc"]
        probe.append(low <= 0.5 <= high)
    assert np.mean(index) > 0.85
    assert np.mean(probe) > 0.85


@pytest.fixture
def store(make_store):
    rng = np.random.default_rng(3)
    return make_store(
        vectors(rng, 2, 2), hospital=SITE.tolist(), label=LABEL, patient=PATIENT, alone=["x"] * N, each=list(range(N))
    )


def test_the_command_prints_and_returns_it(store, command):
    words = ("audit", store.path, "--label", "label", "--groups", "patient", "--by", "hospital")
    out = command(*words).out
    assert "robustness index" in out
    assert "linear probe for hospital, auc" in out
    found = json.loads(command(*words, "--json").out)
    assert found["site_labels"] == counts_by_site(SITE, LABEL)
    assert 0 < found["sites"][0]["robustness"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "hospital"}, "--by needs --label"),
        ({"by": "alone", "label": "label"}, "alone has 1 value, but needs 2 to 200"),
        ({"by": "hospitl", "label": "label"}, "Did you mean 'hospital'"),
    ],
)
def test_what_is_no_site(store, options, message):
    with pytest.raises(InputError, match=message):
        audit(store, groups="patient", **options)


def test_a_site_of_one_patient_has_no_probe(make_store):
    """Where a site has too few patients to divide, the index stands alone, with the reason."""
    rng = np.random.default_rng(4)
    site = np.where(PATIENT == 0, "lone", "other")
    store = make_store(vectors(rng, 0, 0), hospital=site.tolist(), label=LABEL, patient=PATIENT)
    (found,) = audit(store, groups="patient", label="label", by="hospital").sites
    assert found.probe is None or found.probe["auc"] is None or found.probe["intervals"]["auc"] is not None
    assert found.robustness is not None


def test_rows_that_are_not_finite_are_left_out():
    X = vectors(np.random.default_rng(5), 0, 2)
    X[3] = np.nan
    found = site_effect("x", X[np.arange(N) != 3], *(v[np.arange(N) != 3] for v in (SITE, LABEL, PATIENT)), say=silent)
    assert found.n_references == N - 1
