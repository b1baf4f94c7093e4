"""explain: what of an image and of a text speaks for a class, from the store and the saved head."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.api import embed, explain, fit_head
from headwater.api.explain import as_grid, heat_map, seen_region
from headwater.errors import InputError
from headwater.store import open_store

QUICK = {"width": 16, "heads": 2, "blocks": 1, "hidden": [16], "epochs": 4, "lr": 0.003, "precision": "fp32"}


@pytest.fixture(scope="session")
def tokens(gallery, tiny, tmp_path_factory):
    """A store of the gallery with all tokens of a ViT, of a convolutional network, of a BERT and of a dual encoder."""
    folder = tmp_path_factory.mktemp("explain")
    table = pl.read_csv(gallery / "manifest.csv").with_columns(image=str(gallery) + "/" + pl.col("image"))
    table.write_csv(folder / "manifest.csv")
    for member, name in (("timm-vit", "vit"), ("timm-conv", "conv"), ("hf-bert", "bert"), ("builtin-clip", "clip")):
        embed(folder / "manifest.csv", folder / "t.hw", encoder=tiny(member).spec, name=name, tokens="all")
    return folder / "t.hw"


def fitted(store, out, features, head, params):
    return fit_head(
        store, features=features, label="grade", groups="patient", folds=3, head=head, params=params, out=out
    )


@pytest.mark.parametrize("text", ["bert/text", "clip/text"])
def test_image_and_words(tokens, command, tmp_path, text):
    """A co-attention head says of each token of image and text how much it counts, and draws the image's."""
    fitted(tokens, tmp_path / "run", ["vit/image", text], "co-attention", QUICK)
    done = command("explain", tmp_path / "run", "--id", "s03", "--out", tmp_path / "heat.png", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    data = open_store(tokens).read("vit/image", text, tokens=True, where="id = 's03'")
    assert len(found["relevance"]["vit/image"]) == data.inputs["vit/image"].shape[1]
    words = found["words"][text]
    assert len(words) == data.inputs[text].lengths[0]
    assert words[0] == "[CLS]"
    assert "tissue" in words
    assert set(found["check"][text]) == {"deletion", "insertion", "deletion_random", "insertion_random"}
    with Image.open(tmp_path / "heat.png") as picture:
        assert min(picture.size) >= 448


def test_attention_of_queries(tokens, command, tmp_path):
    """A head that pools by queries says what share of attention each token of the image has."""
    fitted(tokens, tmp_path / "run", ["vit/image"], "efficient-probing", {**QUICK, "hidden": []})
    words = ("explain", tmp_path / "run", "--id", "s03", "--method", "attention", "--json")
    done = command(*words, "--out", tmp_path / "heat.png")
    assert done.status == 0, done.err
    shares = json.loads(done.out)["relevance"]["vit/image"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "heat.png").exists()


def test_a_linear_probe_has_a_map_where_pooling_is_a_mean(tokens, tmp_path):
    """Relevance under a linear probe adds up to nothing, and its probability is that of the run's head."""
    run = fitted(tokens, tmp_path / "run", ["conv/image"], "linear", {"C": 0.01})
    found = explain(tmp_path / "run", id="s03", target="high")
    data = open_store(tokens).read("conv/image", where="id = 's03'")
    assert found.probability == pytest.approx(run.head.predict_proba(data.X)[0][run.head.classes_ == "high"][0])
    assert found.relevance["conv/image"].sum() == pytest.approx(0, abs=1e-3)
    other = explain(tmp_path / "run", id="s03", target="low")
    assert other.relevance["conv/image"] == pytest.approx(-found.relevance["conv/image"], abs=1e-5)


def test_the_map_lies_over_what_steps_left_of_an_image(gallery, tiny, tmp_path):
    """Of an image that was mirrored and cut before it was encoded, the picture is of what was encoded."""
    size = (3 * 448, 448)
    table = pl.read_csv(gallery / "manifest.csv").with_columns(image=str(gallery) + "/" + pl.col("image"))
    table.write_csv(tmp_path / "m.csv")
    steps = [f"resize={size[1]}x{size[0]}", "macenko"]
    store = embed(tmp_path / "m.csv", tmp_path / "t.hw", encoder=tiny("timm-vit").spec, tokens="all", steps=steps)
    (name,) = store.feature_names()
    fitted(store, tmp_path / "run", [name], "token-mlp", {**QUICK, "blocks": 0})
    explain(tmp_path / "run", id="s03", out=tmp_path / "heat.png")
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.size == size


def test_refusals(tokens, filled, refused, command, tmp_path):
    """What cannot be explained is refused with one line that says what can."""
    fitted(tokens, tmp_path / "vit", ["vit/image"], "linear", {"C": 0.01})
    fitted(tokens, tmp_path / "text", ["bert/text"], "token-mlp", {**QUICK, "blocks": 0})
    fitted(filled, tmp_path / "knn", ["texture/image"], "knn", {"k": 3})
    assert "not the mean of its tokens" in refused("explain", tmp_path / "vit", "--id", "s00")
    assert "Fit a head over tokens (--head efficient-probing, co-attention, token-mlp)" in refused(
        "explain", tmp_path / "knn", "--id", "s00"
    )
    assert "Did you mean 's01'" in refused("explain", tmp_path / "text", "--id", "S01")
    assert "There are: high, low" in refused("explain", tmp_path / "text", "--id", "s00", "--class", "hi")
    assert "There are: gradient" in refused("explain", tmp_path / "text", "--id", "s00", "--method", "shap")
    assert "no image to draw" in refused("explain", tmp_path / "text", "--id", "s00", "--out", tmp_path / "a.png")


def test_the_map_lies_where_the_encoder_looked():
    """Red lies over the part of the image that the tokens came from, and nothing beside it."""
    assert as_grid(np.zeros(5)) is None
    assert seen_region({"resize_mode": "shortest"}, 100, 60) == (20, 0, 80, 60)
    hub = {"do_center_crop": True, "size": {"shortest_edge": 80}, "crop_size": {"height": 40, "width": 40}}
    assert seen_region(hub, 100, 100) == (25, 25, 75, 75)
    grid = np.zeros((4, 4))
    grid[0, 3] = 1.0
    image = Image.new("RGB", (600, 500), (90, 90, 90))
    drawn = np.asarray(heat_map(image, grid, (50.0, 0.0, 550.0, 500.0)).convert("RGB"), int)
    assert drawn.shape == (500, 600, 3)
    redder = drawn[..., 0] - drawn[..., 2]
    assert np.unravel_index(redder.argmax(), redder.shape)[0] < 125
    assert 425 <= np.unravel_index(redder.argmax(), redder.shape)[1] < 550
    assert not redder[:, :50].any()
    assert not redder[:, 550:].any()


def test_another_image_than_the_one_that_was_embedded_is_not_drawn(gallery, tiny, tmp_path):
    """A store that names another file, anybody's, is told so: only the very content is opened and drawn."""
    shutil.copytree(gallery, tmp_path / "g")
    embed(tmp_path / "g/manifest.csv", tmp_path / "t.hw", encoder=tiny("timm-conv").spec, name="conv", tokens="all")
    fitted(tmp_path / "t.hw", tmp_path / "run", ["conv/image"], "linear", {"C": 0.01})
    explain(tmp_path / "run", id="s03", out=tmp_path / "heat.png")
    store = open_store(tmp_path / "t.hw")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "secret.png")
    other = store.samples.with_columns(pl.lit(str(tmp_path / "secret.png")).alias(store.roles.image))
    store.write_samples(other, store.roles)
    with pytest.raises(InputError, match="cannot be read"):
        explain(tmp_path / "run", id="s03", out=tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
