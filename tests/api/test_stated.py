"""Texts that state the label are refused like any leak, wherever texts are used, and never without a way on."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api import audit, embed, fit_head, open_run
from headwater.errors import SplitError

N = 60
WORDS = ["tissue", "with", "glands", "and", "stroma", "in", "several", "fields", "at", "low", "power"]


@pytest.fixture
def manifest(tmp_path):
    """Reports whose last word is the diagnosis; the same without it; some with a word that goes with it."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    plain = [" ".join(rng.choice(WORDS, 8)) for _ in range(N)]
    hint = rng.random(N) < np.where(y == 1, 0.8, 0.1)
    table = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(N)],
            "patient": [f"p{i // 2}" for i in range(N)],
            "finding": [("benign", "malignant")[c] for c in y],
            "size": [10.0 + i for i in range(N)],
            "stated": [f"{text}: {('benign', 'malignant')[c]}" for text, c in zip(plain, y)],
            "hinted": [f"{text}{' spiculated' if h else ''}" for text, h in zip(plain, hint)],
            "measured": [f"{text}, {10 + i} mm" for i, text in enumerate(plain)],
        }
    )
    table.write_csv(tmp_path / "m.csv")
    return tmp_path / "m.csv"


def store_of(manifest, column):
    path = manifest.with_name(f"{column}.hw")
    embed(manifest, path, encoder="builtin:ngram", text=column, image=None)
    return path


def test_fit_head_refuses_and_goes_on_with_a_reason(manifest, command, tmp_path):
    store = store_of(manifest, "stated")
    words = ("fit-head", store, "--features", "ngram/text", "--label", "finding", "--groups", "patient", "--folds", "3")
    refused = command(*words, "--out", tmp_path / "r")
    assert refused.status == 1
    assert "the texts state the label: the name 'benign' alone predicts benign with AUC 1.000" in refused.error
    assert "--allow-leakage REASON" in refused.error
    assert not (tmp_path / "r").exists()
    done = command(*words, "--allow-leakage", "captions were written from labels", "--out", tmp_path / "r")
    assert done.status == 0
    assert "texts: the name 'benign' alone predicts benign with AUC 1.000" in done.out
    kept = open_run(tmp_path / "r").metrics["leakage"]
    assert kept["allowed"] == "captions were written from labels"
    assert kept["texts"]["name"]["strong"]


def test_a_hint_is_printed_beside_the_run(manifest):
    run = fit_head(store_of(manifest, "hinted"), features="ngram/text", label="finding", groups="patient", folds=3)
    assert any(
        line.startswith("texts: the word 'spiculated' alone predicts malignant with AUC ") for line in run.lines()
    )
    assert not run.metrics["leakage"]["texts"]["word"]["strong"]


def test_bags_and_numbers(manifest):
    """Samples of a bag have its label; a regression's number that stands in each text is one too."""
    store = store_of(manifest, "stated")
    options = {"head": "mil", "bags": "patient", "label": "half", "groups": "none", "params": {"width": 4, "epochs": 2}}
    table = pl.read_csv(manifest)
    table = table.with_columns(half=pl.Series([("upper", "lower")[i // 2 % 2] for i in range(N)]))
    table = table.with_columns(stated=pl.concat_str("hinted", pl.lit(" the "), "half", pl.lit(" half")))
    table.write_csv(manifest)
    embed(manifest, store, encoder="builtin:ngram", text="stated", image=None)
    pytest.importorskip("torch")
    with pytest.raises(SplitError, match=r"the texts state the label"):
        fit_head(store, features="ngram/text", folds=3, **options)
    numbers = store_of(manifest, "measured")
    with pytest.raises(SplitError, match="100 % of test texts contain the sample's value of size"):
        fit_head(numbers, features="ngram/text", label="size", task="regression", groups="patient", folds=3)


def test_images_alone_are_not_asked(manifest, tmp_path):
    """A store whose texts state the label may be used for its other features."""
    store = store_of(manifest, "stated")
    embed(manifest, store, encoder="stub:4", text="stated", image=None)
    from headwater.store import open_store

    assert "stub-4/text" in open_store(store).feature_names()
    with pytest.raises(SplitError, match=r"the texts state the label"):
        fit_head(store, features="stub-4/text", label="finding", groups="patient")


def test_sweep_and_fine_tune(manifest, command, tmp_path):
    store = store_of(manifest, "stated")
    words = ("--label", "finding", "--groups", "patient", "--folds", "2")
    done = command("sweep", store, "--features", "ngram/text", *words, "--out", tmp_path / "s")
    assert done.status == 1
    assert "the texts state the label" in done.error
    pytest.importorskip("transformers")
    more = ("--encoder", "builtin:clip", "--text", "stated", "--epochs", "1", "--train", "lora")
    done = command("fine-tune", manifest, *more, *words, "--out", tmp_path / "f")
    assert done.status == 1
    assert "the texts state the label" in done.error


def test_audit_says_it(manifest, command):
    found = audit(store_of(manifest, "stated"), label="finding", groups="patient")
    assert found.texts.strong.kind == "name"
    assert any("the texts state the label" in line for line in found.lines())
    hinted = store_of(manifest, "hinted")
    assert audit(hinted, label="finding", groups="patient").texts.strong is None
    shown = json.loads(command("audit", hinted, "--label", "finding", "--groups", "patient", "--json").out)
    assert shown["texts"]["word"]["words"] == "spiculated"
    assert audit(hinted, groups="patient").texts is None
