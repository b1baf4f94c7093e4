"""fit-head on token features and on bags: what is read, from where, and what is refused."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api import embed, fit_head, info, open_run
from headwater.store import open_store

QUICK = {"width": 16, "heads": 2, "blocks": 1, "hidden": [16], "epochs": 6, "lr": 0.003, "precision": "fp32"}


@pytest.fixture(scope="session")
def with_tokens(gallery, tiny, tmp_path_factory):
    """A store of the gallery with all tokens of a ViT and of a BERT; a fifth of the captions are missing."""
    folder = tmp_path_factory.mktemp("tokens")
    table = pl.read_csv(gallery / "manifest.csv").with_columns(
        image=str(gallery) + "/" + pl.col("image"),
        caption=pl.when(pl.col("age") % 5 > 0).then(pl.col("caption")),
    )
    table.write_csv(folder / "manifest.csv")
    for member, name in (("timm-vit", "vit"), ("hf-bert", "bert")):
        embed(
            folder / "manifest.csv",
            folder / "t.hw",
            encoder=tiny(member).spec,
            name=name,
            tokens="all",
            precision="fp32",
        )
    return folder / "t.hw"


def test_co_attention_from_the_command_line(with_tokens, command, tmp_path):
    """Image and text tokens go into a co-attention head, and the run can be opened and read."""
    sets = [word for name, value in QUICK.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    done = command(
        *("fit-head", with_tokens, "--features", "vit/image", "--features", "bert/text", "--label", "grade"),
        *("--groups", "patient", "--folds", "3", "--head", "co-attention", "--out", tmp_path / "run", *sets),
    )
    assert done.status == 0, done.err
    run = open_run(tmp_path / "run")
    assert run.metrics["n_samples"] == 38
    assert run.config["tokens"] == ["bert/text", "vit/image"]
    data = open_store(with_tokens).read("vit/image", "bert/text", tokens=True)
    assert run.head.predict_proba(data.inputs).shape == (38, 2)
    assert run.head.shape_.lengths == (data.inputs["vit/image"].shape[1], None)


@pytest.fixture(scope="session", params=["int8", "bfloat16"])
def with_other(request, with_tokens, tiny, tmp_path_factory):
    """A type of tokens, and the same store with its tokens stored as that."""
    path = tmp_path_factory.mktemp(request.param) / "t.hw"
    options = {"tokens": "all", "tokens_dtype": request.param, "precision": "fp32"}
    for member, name in (("timm-vit", "vit"), ("hf-bert", "bert")):
        embed(with_tokens.parent / "manifest.csv", path, encoder=tiny(member).spec, name=name, **options)
    return request.param, path


@pytest.mark.parametrize("name", ["vit/image", "bert/text"])
def test_tokens_of_another_type(with_tokens, with_other, name):
    """int8: half a step of 1/127 of a token's largest number off; bfloat16: 1/256 of each. Pooled ones are the same."""
    dtype, path = with_other
    exact, other = (open_store(store).features(name) for store in (with_tokens, path))
    assert np.array_equal(exact.pooled[:], other.pooled[:])
    for row in range(exact.n_items):
        wanted, found = (np.asarray(f.tokens[row], np.float64) for f in (exact, other))
        largest = np.abs(wanted).max(-1, keepdims=True)
        error = largest * (0.5 / 127 + 2e-3) if dtype == "int8" else np.abs(wanted) * (1 / 256 + 1e-3) + 1e-6
        assert (np.abs(found - wanted) <= error).all()
        assert not np.array_equal(found, wanted)


def test_a_head_learns_from_tokens_of_another_type(with_tokens, with_other):
    """Scores are near those from float16, and the store says what it holds."""
    dtype, path = with_other
    options = {"features": ["vit/image", "bert/text"], "label": "grade", "head": "co-attention", "params": QUICK}
    runs = [fit_head(store, groups="patient", folds=3, **options) for store in (with_tokens, path)]
    exact, other = (run.predictions.sort("id")["score_high"].to_numpy() for run in runs)
    assert np.corrcoef(exact, other)[0, 1] > 0.95
    assert f" + tokens all {dtype}" in "\n".join(info(path).lines())
    assert dtype not in "\n".join(info(with_tokens).lines())


def test_a_type_of_tokens_that_are_not_stored(refused, gallery, tmp_path):
    """Asked for without tokens, it is refused, and so is a type that is none."""
    words = ("embed", gallery / "manifest.csv", tmp_path / "a.hw", "--encoder", "builtin:texture", "--tokens-dtype")
    assert "--tokens-dtype needs stored tokens. Pass --tokens all or a number too." in refused(*words, "int8")
    assert "--tokens-dtype 'int4'. Did you mean 'int8'?" in refused(*words, "int4", "--tokens", "all")


def test_samples_that_lack_a_text_are_kept(with_tokens):
    """With missing="keep" a sample needs one of the features, and is tested like the others."""
    run = fit_head(
        with_tokens,
        features=["vit/image", "bert/text"],
        label="grade",
        head="merged-attention",
        params=QUICK,
        groups="patient",
        folds=3,
        missing="keep",
    )
    assert run.metrics["n_samples"] == 48
    assert not run.metrics["left_out"]
    assert set(run.predictions["id"]) == {f"s{i:02d}" for i in range(48)}


def test_a_pooled_feature_is_one_token(with_tokens, filled):
    """NAME/MODALITY:pooled reads the pooled feature, as one token beside those of another input."""
    run = fit_head(
        with_tokens,
        features=["vit/image", "bert/text:pooled"],
        label="grade",
        head="cross-attention",
        params=QUICK,
        groups="patient",
        folds=3,
    )
    assert run.head.shape_.lengths[1] == 1
    assert run.config["tokens"] == ["vit/image"]


def test_bags_are_the_rows_of_a_run(filled, tmp_path):
    """With bags a row is a patient: labels and predictions are by patient, and each sample has its weight in it."""
    table = open_store(filled).samples
    truth = dict(table.group_by("patient").agg(pl.col("site").first()).iter_rows())
    run = fit_head(
        filled,
        features="texture/image",
        label="site",
        head="mil",
        params={"epochs": 5, "width": 16},
        bags="patient",
        folds=3,
        out=tmp_path / "run",
    )
    assert run.metrics["n_samples"] == 12
    assert dict(run.predictions.select("id", "label").iter_rows()) == truth
    assert run.config["bags"] == "patient"
    weights = open_run(tmp_path / "run").instances
    assert dict(weights.select("id", "bag").iter_rows()) == dict(table.select("id", "patient").iter_rows())
    assert weights.group_by("bag").agg(pl.col("weight").sum())["weight"].to_numpy() == pytest.approx(1, abs=1e-4)
    tested = dict(run.predictions.select("id", "fold").iter_rows())
    assert all(tested[bag] == fold for bag, fold in weights.select("bag", "fold").iter_rows())


def test_tokens_that_are_not_stored_come_with_the_line_that_stores_them(filled, refused):
    """A head over tokens names the command that would store them."""
    words = ("--label", "grade", "--groups", "none", "--head", "self-attention")
    line = refused("fit-head", filled, "--features", "texture/image", *words)
    assert "--encoder builtin:texture --name texture-tokens --tokens all" in line
    assert "texture/image:pooled" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--head", "linear", "--missing", "keep"), "heads over the tokens of several inputs"),
        (("--head", "linear", "--bags", "patient"), "goes with --head mil"),
        (("--head", "mil", "--bags", "patient"), "samples of 'p0' have 'low' and 'high' in 'grade'"),
        (("--head", "mil", "--bags", "patents"), "Did you mean 'patient'"),
        (("--head", "mil", "--missing", "kept"), "There are: drop, keep"),
    ],
)
def test_refusals(filled, refused, words, said):
    """Options that a head has no use for, and bags without one label, are refused with one line."""
    line = refused("fit-head", filled, "--features", "texture/image", "--label", "grade", "--groups", "none", *words)
    assert said in line


def test_partial_reading(with_tokens):
    """A store says which samples have what, and gives no tokens to those that have none."""
    data = open_store(with_tokens).read("vit/image", "bert/text", tokens=["bert/text"], partial=True)
    assert len(data.ids) == 48
    assert data.present["bert/text"].sum() == 38
    assert np.array_equal(data.inputs["bert/text"].lengths > 0, data.present["bert/text"])
    assert data.inputs["vit/image"].ndim == 2
