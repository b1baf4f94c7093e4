"""fit-head on splits that leak: what is refused, what is only said, and what is no leak at all."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api import open_run

N = 200


@pytest.fixture
def noise():
    """Vectors without any structure."""
    return np.random.default_rng(0).standard_normal((N, 40))


@pytest.fixture
def fit(command, tmp_path):
    """Return a function that fits to a store and returns how it ended and what metrics.json says of leakage."""

    def run(store, *words, features=("made/image",)):
        named = [w for f in features for w in ("--features", f)]
        asked = ("fit-head", store.path, *named, "--label", "label", "--set", "C=1", "--out", tmp_path / "run", *words)
        done = command(*asked)
        path = tmp_path / "run" / "metrics.json"
        return done, json.loads(path.read_text())["leakage"] if path.exists() else None

    return run


def copied(X, n, *, noise=0.05):
    """Let the last rows be copies of the first, slightly changed."""
    X = X.copy()
    X[-n:] = X[:n] + noise * np.random.default_rng(1).standard_normal((n, X.shape[1]))
    return X


def same_content(store, pairs, column="image_key"):
    """Let samples hold the same content."""
    keys = store.samples[column].to_list()
    for a, b in pairs:
        keys[b] = keys[a]
    store.write_samples(store.samples.with_columns(pl.Series(column, keys)), store.roles)


LABEL = ["a", "b"] * (N // 2)
ALTERNATE = [i % 4 for i in range(N)]


def test_identical_images_on_both_sides(fit, make_store, noise):
    """One image in training and in test is enough to refuse a run, which names it; a reason lets the run be made."""
    store = make_store(noise, label=LABEL, fold=ALTERNATE)
    same_content(store, [(0, 1), (2, 6)])  # of one fold, 2 and 6 are no leak
    done, leakage = fit(store, "--split", "fold")
    assert done.status == 1
    assert "1 identical image on both sides ('r000' and 'r001')" in done.error
    assert "--allow-leakage REASON" in done.error
    assert leakage is None
    done, leakage = fit(store, "--split", "fold", "--allow-leakage", "a test")
    assert done.status == 0
    assert "allowed (a test): 1 identical image" in done.err
    assert leakage["identical_across_splits"] == {"image": 1}
    assert leakage["allowed"] == "a test"


def test_identical_images_in_one_group(fit, make_store, noise):
    """Groups that hold both samples of an image keep it on one side: nothing is refused."""
    store = make_store(noise, label=LABEL, who=[i // 2 for i in range(N)])
    same_content(store, [(0, 1), (2, 3)])
    done, leakage = fit(store, "--groups", "who")
    assert done.status == 0
    assert leakage["identical_across_splits"] == leakage["identical_across_groups"] == {"image": 0}
    assert leakage["groups_across_splits"] == 0
    assert leakage["allowed"] is None


def test_split_that_divides_groups(fit, make_store, noise):
    """A split that divides groups is refused with how many, unless that is allowed, and is then counted."""
    store = make_store(noise, label=LABEL, fold=ALTERNATE, who=[i // 2 if i < 8 else i for i in range(N)])
    done, _ = fit(store, "--split", "fold", "--groups", "who")
    assert "it divides 4 groups of who, such as '0'" in done.error
    assert "Correct the column of --split so that each who is on one side, or pass --allow-leakage" in done.error
    done, leakage = fit(store, "--split", "fold", "--groups", "who", "--allow-leakage", "the published split")
    assert done.status == 0
    assert leakage["groups_across_splits"] == 4


def test_many_near_duplicates(fit, make_store, noise):
    """Copies of many images on the other side are refused, unless they are of one group; so few as 10 are only said."""
    store = make_store(copied(noise, 60), label=LABEL, who=[str(i % 140) for i in range(N)])
    done, _ = fit(store, "--groups", "none")
    assert done.status == 1
    assert "102 of 200 test images have near duplicates in training (2.0 expected by chance)" in done.error
    done, leakage = fit(store, "--groups", "who")
    assert done.status == 0
    assert leakage["near_duplicates"]["n_with_copies"] <= 4
    done, leakage = fit(store, "--groups", "none", "--allow-leakage", "a test")
    near = leakage["near_duplicates"]
    assert near["n_looked_up"] == N
    assert 70 < near["n_with_copies"] <= 124  # of 120, those of which the copy is in another fold
    assert near["false_alarms"] == pytest.approx(0.01 / N)


def test_few_near_duplicates(fit, make_store, noise):
    """A few copies are said and counted, and the run is made."""
    store = make_store(copied(noise, 12), label=LABEL)
    done, leakage = fit(store)
    assert done.status == 0
    assert "have near duplicates in training" in done.err
    assert "headwater audit" in done.err
    assert 15 < leakage["near_duplicates"]["n_with_copies"] <= 28


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "made",
    [
        lambda rng: rng.standard_normal((N, 300)),
        lambda rng: rng.standard_normal((N, 3)),
        lambda rng: np.exp(1.5 * rng.standard_normal((N, 50))),
        lambda rng: np.maximum(rng.standard_normal((N, 100)) - 1.5, 0),
        lambda rng: rng.integers(0, 2, (N, 20)),
        lambda rng: np.eye(3)[rng.integers(0, 3, N)],
        lambda rng: rng.standard_t(2, (N, 30)),
        lambda rng: rng.standard_normal((4, 60))[rng.integers(0, 4, N)] + 0.1 * rng.standard_normal((N, 60)),
        lambda rng: np.ones((N, 5)),
    ],
    ids=["normal", "three", "lognormal", "sparse", "binary", "classes", "heavy", "clusters", "constant"],
)
def test_honest_features_are_not_refused(fit, make_store, made, seed):
    """Features without copies, of whatever distribution, lead to no refusal."""
    store = make_store(made(np.random.default_rng(seed)).astype(float), label=LABEL)
    assert fit(store)[0].status == 0


def test_what_is_common_is_no_copy(fit, make_store, noise):
    """Images that are all alike, such as empty glass, are counted apart, said, and refuse nothing."""
    X = noise.copy()
    X[:34] = X[0] + 0.02 * np.random.default_rng(2).standard_normal((34, 40))
    done, leakage = fit(make_store(X, label=LABEL))
    assert done.status == 0
    near = leakage["near_duplicates"]
    assert near["n_like_many"] >= 30
    assert near["n_with_copies"] <= 5
    assert "of them more than 20" in done.err


def test_texts_are_counted_and_refuse_nothing(command, store, tmp_path):
    """The same report in training and in test is normal: it is said and counted, and the run is made."""
    words = ("fit-head", store, "--features", "ngram/text", "--label", "grade", "--groups", "none", "--set", "C=1")
    done = command(*words, "--out", tmp_path / "run")
    assert done.status == 0
    assert "14 identical texts on both sides of a split" in done.err
    leakage = open_run(tmp_path / "run").metrics["leakage"]
    assert leakage["identical_across_splits"] == {"text": 14}
    assert "near_duplicates" not in leakage


def test_a_reason_is_words(fit, make_store, noise):
    """An empty reason is none."""
    assert "needs a reason" in fit(make_store(noise, label=LABEL), "--allow-leakage", " ")[0].error
