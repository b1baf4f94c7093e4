"""A store and runs that headwater 0.1.0 wrote, before its formats changed, are read by every later version."""

import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.embed.adapter import read_adapter
from headwater.embed.joined import Joint

ARCHIVE = Path(__file__).parents[1] / "data" / "first.tar.xz"
FEATURES = ["clip/image", "clip/text", "ngram/text", "plain/image", "plain/text", "small/image", "small/text"]
FEATURES += ["texture/image", "wide/image", "wide/text"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "first"


def test_features_are_what_they_were(first):
    """All are there, and each stored vector and token is the number that was written: int8 and bfloat16 too."""
    store = hw.open_store(first / "store.hw")
    assert store.feature_names() == FEATURES
    assert len(store.samples) == 16
    for name in FEATURES:
        features = store.features(name)
        stored = np.flatnonzero(features.status == 1)
        assert np.isfinite(features.pooled[stored]).all()
        if features.spec.has_tokens:
            tokens = features.tokens
            assert all(np.isfinite(tokens[int(row)]).all() for row in stored)
    dense, small, wide = (store.read(f"{name}/image", tokens=True).X[:] for name in ("clip", "small", "wide"))
    np.testing.assert_allclose(small, dense, atol=0.05)
    np.testing.assert_allclose(wide, dense, atol=0.05)


def test_verify_finds_nothing_wrong(first, command):
    """No check fails; those that did not exist then are named."""
    done = command("verify", first / "store.hw")
    assert done.status == 0
    assert done.out.endswith("store.hw: all checksums match\n")


RUNS = ["linear", "mlp", "knn", "prototypes", "xgboost", "tip-adapter", "transclip", "token-mlp", "self-attention"]
RUNS += ["co-attention", "mil", "concatenation", "ridge", "knn-regression", "zero-shot", "evaluated", "fine-tuned"]


@pytest.mark.parametrize("name", RUNS)
def test_runs_open(first, name):
    """A run of each kind of head opens, prints what it found, and has its head."""
    run = hw.open_run(first / "runs" / name)
    assert run.lines()
    assert len(run.predictions)
    assert run.head is not None


def test_a_head_predicts_what_it_did(first, tmp_path):
    """A head of then classifies features of then, evaluated anew, as it did."""
    store = hw.open_store(first / "store.hw")
    options = {"label": "label", "groups": "patient", "allow_leakage": "its own rows"}
    again = hw.evaluate(first / "runs" / "linear", store, **options)
    scores = "score_malignant"
    was = pl.read_parquet(first / "runs" / "evaluated" / "predictions.parquet").sort("id")[scores]
    np.testing.assert_allclose(again.predictions.sort("id")[scores], was, atol=1e-6)


def test_trained_encoders_open(first):
    """What fine-tuning trained, and what joins two encoders, are read."""
    for name in ("fine-tuned", "contrasted"):
        assert read_adapter(first / "runs" / name, "builtin:clip").tensors
    assert set(Joint.read(first / "runs" / "joined").parts) == {"image", "text"}


def test_a_sweep_goes_on(first):
    """The leaderboard of a sweep of then is made from its runs."""
    store = first / "store.hw"
    again = hw.sweep(
        store,
        features=["plain/image", "texture/image"],
        label="label",
        groups="patient",
        folds=2,
        inner_folds=2,
        out=first / "runs" / "sweep",
    )
    assert again.lines()


def test_a_store_is_added_to(first, tmp_path):
    """Embedding its own manifest again embeds nothing, and other rows are added."""
    table = pl.read_csv(first / "table.csv")
    again = hw.embed(first / "table.csv", first / "store.hw", encoder="builtin:ngram")
    assert again.results["ngram/text"].embedded == 0
    more = table.with_columns(pl.col("text") + " once more")
    more.write_csv(first / "more.csv")
    grown = hw.embed(first / "more.csv", first / "store.hw", encoder="builtin:ngram")
    assert grown.results["ngram/text"].embedded == 16
    assert hw.verify(first / "store.hw") == []
