"""audit: duplicates that were put there are found and told apart, and nothing is found where there is nothing."""

import json
import re

import numpy as np
import polars as pl
import pytest

from headwater.api import audit
from headwater.errors import InputError

N = 300


@pytest.fixture
def planted(make_store):
    """A store in which rows 0 to 9 are copied as 290 to 299, and 20 and 21 hold one image.

    Patients are of 10 rows, so that copies are of two; the first three copies have another label; even rows train.
    """
    X = np.random.default_rng(0).standard_normal((N, 60))
    X[290:] = X[:10] + 0.05 * np.random.default_rng(1).standard_normal((10, 60))
    label = [("a", "b")[i % 2] for i in range(N)]
    label[290:293] = ["b", "a", "b"]
    store = make_store(
        X,
        label=label,
        who=[f"p{i // 10}" for i in range(N)],
        part=[("train", "test")[i % 2] if i < 295 else "train" for i in range(N)],
        some=[None if i >= 295 else "x" if i % 3 else "y" for i in range(N)],
    )
    keys = store.samples["image_key"].to_list()
    keys[21] = keys[20]
    store.write_samples(store.samples.with_columns(image_key=pl.Series(keys)), store.roles)
    return store


def test_what_was_planted(planted):
    """Every copy is found, with what straddles patients, the split and labels; hardly anything else is."""
    (found,) = audit(planted, label="label", groups="who", split="part").found
    assert found.n_contents == N - 1
    assert vars(found.identical) == {
        "n": 1,
        "samples": 2,
        "across_groups": 0,
        "across_split": 1,
        "labels_differ": 1,
    }
    assert 10 <= found.near.n <= 11
    assert found.near.across_groups == found.near.n
    assert found.near.labels_differ in (3, 4)
    # 290 to 294 are on the side of their parity, that of rows 0 to 4; 295 to 299 train, of which 5, 7 and 9 are tested.
    assert found.near.across_split in (3, 4)
    assert 11 <= found.clusters.n <= 12
    assert found.across_groups_rate == pytest.approx(found.near.n / ((N - 1) * (N - 2) / 2 - 29 * 45 - 36), rel=1e-9)


def test_pairs_are_written(planted, tmp_path):
    """The pairs are a table with ids, similarity and columns of both, as CSV or Parquet, one cluster a copied image."""
    for name in ("pairs.csv", "pairs.parquet"):
        found = audit(planted, label="label", groups="who", split="part", out=tmp_path / name)
        read = pl.read_csv if name.endswith("csv") else pl.read_parquet
        table = read(tmp_path / name)
        assert table.columns == found.pairs.columns
        ids = set(table.select("id_a", "id_b").rows())
        assert {(f"r{i:03d}", f"r{290 + i}") for i in range(10)} | {("r020", "r021")} <= ids
        assert table.filter(kind="identical").select("id_a", "id_b", "similarity").rows() == [("r020", "r021", 1.0)]
        assert table["cluster"].n_unique() == found.found[0].clusters.n
        row = table.filter(id_a="r000").row(0, named=True)
        assert (row["group_a"], row["group_b"], row["side_a"], row["side_b"]) == ("p0", "p29", "train", "train")
        assert row["similarity"] > 0.9


def test_lines(command, planted):
    """The report names counts, the rate of false alarms as estimated and as measured, and the worst clusters' ids."""
    words = ("audit", planted.path, "--label", "label", "--groups", "who", "--split", "part")
    out = command(*words).out
    assert "identical: 2 samples in 1 content, 0 in several who, 1 on both sides of part, 1 with different label" in out
    assert "as in an estimated 1e-05 of unrelated pairs (0.4 pairs here)" in out
    assert re.search(r"measured in pairs of different who: 0\.0\d+\n", out)
    assert "groups of who on both sides of part: 30" in out
    first = next(line for line in out.splitlines() if line.strip().startswith("1.000"))
    assert "r020, r021" in first
    assert "test, train" in first or "train, test" in first
    found = json.loads(command(*words, "--json").out)
    worst = found["found"][0]["worst"]
    assert {tuple(one["ids"]) for one in worst[:3]} == {("r005", "r295"), ("r007", "r297"), ("r009", "r299")}
    assert worst[3]["ids"] == ["r020", "r021"]  # on both sides too, but of one patient
    assert found["groups_across_split"] == 30


def test_folds_are_those_of_fit_head(command, planted, tmp_path):
    """With --folds, duplicates are looked at across the folds that fit-head makes for the same settings."""
    found = audit(planted, label="label", groups="who", folds=4, seed=3)
    assert found.groups_across_split == 0
    words = ("--features", "made/image", "--label", "label", "--groups", "who", "--folds", "4", "--seed", "3")
    done = command("fit-head", planted.path, *words, "--set", "C=1", "--allow-leakage", "x", "--out", tmp_path / "run")
    assert done.status == 0
    fold = dict(pl.read_parquet(tmp_path / "run" / "predictions.parquet").select("id", "fold").rows())
    for a, b, side_a, side_b in found.pairs.select("id_a", "id_b", "side_a", "side_b").rows():
        assert (side_a, side_b) == (f"fold {fold[a]}", f"fold {fold[b]}")
    pairs = found.pairs.filter(kind="near")
    assert found.found[0].near.across_split == (pairs["side_a"] != pairs["side_b"]).sum()


def test_nothing_found(command, make_store):
    """Where there is nothing, it says at which rate of false alarms; of too few rows, that it cannot be told."""
    X = np.random.default_rng(0).standard_normal((N, 60))
    out = command("audit", make_store(X, path="some.hw").path, "--false-alarms", "1e-6").out
    assert "no duplicates found at a false-alarm rate of 1e-06" in out
    out = command("audit", make_store(X[:20], path="few.hw").path).out
    assert "near duplicates unknown: too few distinct contents, or contents too similar" in out


def test_threshold(planted):
    """A threshold is taken as it is, its rate of false alarms is estimated, and a lower one finds no less."""
    counts = {t: audit(planted, threshold=t, groups="none").found[0] for t in (0.5, 0.7, 0.9)}
    assert [one.threshold for one in counts.values()] == [0.5, 0.7, 0.9]
    assert counts[0.5].near.n >= counts[0.7].near.n >= counts[0.9].near.n >= 8
    assert counts[0.5].false_alarms > counts[0.7].false_alarms > counts[0.9].false_alarms


def test_only_the_most_similar_pairs_are_kept(planted, monkeypatch):
    """Of more pairs than are kept, all are counted and clustered, and the most similar are listed."""
    whole = audit(planted, threshold=0.1, groups="none")
    monkeypatch.setattr("headwater.samples.duplicates.MOST_PAIRS", 20)
    monkeypatch.setattr("headwater.retrieve.duplicates._QUERIES", 16)
    cut = audit(planted, threshold=0.1, groups="none")
    assert cut.found[0].near == whole.found[0].near
    assert cut.found[0].clusters == whole.found[0].clusters
    near = whole.pairs.filter(kind="near")["similarity"].sort(descending=True)[:20]
    np.testing.assert_allclose(cut.pairs.filter(kind="near")["similarity"], near, atol=1e-6)


def test_samples_without_a_label_are_left_out(planted):
    """With --label, samples without one are left out and counted."""
    found = audit(planted, label="some", groups="none")
    assert (found.n_samples, found.n_left_out) == (295, 5)


def test_several_features(store):
    """Each of several feature sets is looked at by itself: texts by their keys, images by theirs."""
    found = audit(store, features=["texture/image", "ngram/text"], groups="patient")
    images, texts = found.found
    assert images.identical.n == 0
    assert texts.identical.samples == 48
    assert texts.n_contents == texts.identical.n == 14
    assert set(found.pairs["features"]) >= {"ngram/text"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--features", "mad/image"), "Did you mean 'made/image'?"),
        (("--groups", "wo"), "--groups: no column 'wo'. Did you mean 'who'?"),
        (("--split", "prt"), "--split: no column 'prt'. Did you mean 'part'?"),
        (("--label", "lable"), "--label: no column 'lable'. Did you mean 'label'?"),
        (("--split", "id"), "--split id has 300 values, but needs 2 to 100"),
        (("--folds", "5"), "--folds needs --label"),
        (("--seed", "1"), "--seed goes with --folds"),
        (("--folds", "5", "--label", "label", "--split", "part"), "--folds goes without --split"),
        (("--false-alarms", "0"), "--false-alarms must be above 0"),
        (("--threshold", "1.5"), "--threshold must be between 0 and 1"),
        (("--out", "pairs.xlsx"), ".csv or .parquet"),
        (("--where", "age > 3"), "cannot be used"),
    ],
)
def test_what_cannot_be_audited(refused, planted, words, expected):
    """An option that cannot be used is named with what to do."""
    assert expected in refused("audit", planted.path, *words)


def test_features_must_be_named(store):
    """Of several feature sets, one must be named."""
    with pytest.raises(InputError, match="say which features to audit with --features"):
        audit(store, groups="patient")


def test_large_stores_are_searched_approximately(make_store, command, monkeypatch):
    """From so many contents on not all pairs are compared; this is said with the measured recall, and --exact does."""
    monkeypatch.setattr("headwater.samples.duplicates.LEAST_ROWS", 1000)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 40))
    X[1000:1300] = X[:300] + 0.2 * rng.standard_normal((300, 40))
    store = make_store(X, patient=[f"p{i}" for i in range(2000)])
    words = ("audit", store.path, "--groups", "patient")
    done = command(*words)
    assert "approximate search: not all pairs were compared (--exact does)" in done.out
    assert "recall of copies 1.0000" in done.out
    assert "measured in pairs of different patient" not in done.out
    (found,) = json.loads(command(*words, "--json").out)["found"]
    assert found["search"]["n_certain"] >= found["search"]["n_certain_found"] > 500
    exact = command(*words, "--exact")
    assert "approximate" not in exact.out
    assert "measured in pairs of different patient" in exact.out
    (whole,) = json.loads(command(*words, "--exact", "--json").out)["found"]
    assert whole["search"] is None
    assert 300 <= found["near"]["n"] <= whole["near"]["n"]
