"""predict: new cases by a saved head, from files and from a store; what is said of each, and what is refused."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import EncoderError, HeadError, InputError, ManifestError, SpecMismatch
from headwater.runs.run import REFERENCE
from headwater.store import open_store

FIRST = "age < 70"  # of the gallery: the first ten patients
REST = "age >= 70"
LINEAR = {"params": {"C": 1.0}, "folds": 3}
QUICK = {"width": 16, "heads": 2, "blocks": 1, "hidden": [16], "epochs": 4, "lr": 0.003, "precision": "fp32"}


@pytest.fixture(scope="module")
def run(filled, tmp_path_factory):
    """A head on the texture of the gallery's first patients, with a threshold and prediction sets."""
    out = tmp_path_factory.mktemp("predict") / "run"
    asked = {
        "label": "grade",
        "groups": "patient",
        "where": FIRST,
        "positive": "high",
        "sensitivity": 0.8,
        "conformal": 0.2,
    }
    hw.fit_head(filled, features="texture/image", **asked, **LINEAR, out=out)
    return out


def rest_of(gallery, tmp_path):
    """Write a manifest of the other patients, without labels."""
    table = pl.read_csv(gallery / "manifest.csv").filter(pl.col("age") >= 70)
    table = table.with_columns(image=str(gallery) + "/" + pl.col("image")).drop("grade", "tags")
    table.write_csv(tmp_path / "new.csv")
    return tmp_path / "new.csv", table["image"].to_list()


def scores(table):
    return table.select([name for name in table.columns if name.startswith("score_")]).to_numpy()


# Right answers


def test_through_the_store_as_evaluate_says(run, filled):
    found = hw.predict(run, filled, where=REST)
    tested = hw.evaluate(run, filled, label="grade", groups="patient", where=REST)
    both = found.table.join(tested.predictions, on="id", suffix="_tested")
    assert len(both) == len(found.table) == 8
    for name in ("high", "low"):
        np.testing.assert_allclose(both[f"score_{name}"], both[f"score_{name}_tested"], atol=1e-6)
    at = tested.metrics["external"]["threshold"]
    called = found.table["decision"] == at["positive"]
    truth = both["label"] == at["positive"]
    assert (called & truth).sum() / truth.sum() == pytest.approx(at["sensitivity"])
    assert f"from a probability of {at['threshold']:.3g}" in found.rule


def test_files_are_as_the_store(run, filled, gallery, tmp_path):
    """A manifest, a folder and files give what stored features give, up to the store's half precision."""
    stored = hw.predict(run, filled, where=REST).table
    manifest, images = rest_of(gallery, tmp_path)
    of_manifest = hw.predict(run, manifest).table
    assert of_manifest["id"].to_list() == stored["id"].to_list()
    folder = tmp_path / "loose"
    folder.mkdir()
    for image in images:
        shutil.copy(image, folder)
    of_folder = hw.open_run(run).predict(folder).table
    of_files = hw.predict(run, image=images).table
    of_list = hw.predict(run, images).table
    for other in (of_manifest, of_folder, of_files, of_list):
        np.testing.assert_allclose(scores(other), scores(stored), atol=1e-3)
        assert other["nearest"].to_list() == stored["nearest"].to_list()
    assert of_files["id"].to_list() == of_folder["id"].to_list() == sorted(of_folder["id"])


def test_rows_that_are_not_wanted_are_not_read(run, gallery, tmp_path):
    """A broken image among those that --where leaves out is no matter, and images are found from their manifest."""
    manifest, images = rest_of(gallery, tmp_path)
    table = pl.read_csv(manifest)
    (tmp_path / "broken.png").write_bytes(b"no image")
    shutil.copy(images[0], tmp_path / "here.png")
    table = table.with_columns(image=pl.Series(["here.png", *["broken.png"] * (len(table) - 1)]))
    table.write_csv(manifest)
    found = hw.predict(run, manifest, where=f"id = '{table['id'][0]}'")
    assert found.table["id"].to_list() == [table["id"][0]]
    assert found.left_out.is_empty()


def test_what_was_trained_on_is_marked(run, gallery, filled, tmp_path):
    """By content, under whatever name; by patient, where the cases have that column."""
    shutil.copy(gallery / "images" / "03.png", tmp_path / "renamed.png")
    found = hw.predict(run, image=[tmp_path / "renamed.png", gallery / "images" / "40.png"])
    assert found.table["seen_in_training"].to_list() == ["same image", None]
    assert found.table["nearest"][0][0] == "s03"
    assert found.table["nearest_cosines"][0][0] == pytest.approx(1, abs=1e-3)
    assert any("1 case seen in training" in line for line in found.lines())
    pl.DataFrame({"image": [str(gallery / "images" / "40.png")] * 2, "patient": ["p0", "p10"]}).write_csv(
        tmp_path / "p.csv"
    )
    marked = hw.predict(run, tmp_path / "p.csv").table
    assert marked["seen_in_training"].to_list() == ["same patient", None]
    everything = hw.predict(run, filled).table["seen_in_training"]
    assert everything.null_count() == 8


def test_cases_of_another_kind_are_unlike(run, paint, gallery, tmp_path):
    from PIL import Image

    Image.new("RGB", (48, 48), (250, 20, 20)).save(tmp_path / "red.png")
    found = hw.predict(run, image=[tmp_path / "red.png", gallery / "images" / "40.png"])
    odd, own = found.table["unlike_training"].to_list()
    assert odd > 95 > own
    assert any("farther from the training data" in line for line in found.lines())


def test_runs_of_a_sweep_compare_with_their_store(run, filled, gallery, tmp_path):
    """They keep no distances, which are computed again; so are those of a run of an older version."""
    older = shutil.copytree(run, tmp_path / "older")
    (older / REFERENCE).unlink()
    image = gallery / "images" / "40.png"
    one, other = (hw.predict(of, image=image).table["unlike_training"][0] for of in (run, older))
    assert one == pytest.approx(other, abs=5)


def test_words_for_a_text_and_both_for_fusion(filled, gallery, tmp_path):
    asked = {"label": "grade", "groups": "patient", "where": FIRST, "folds": 3}
    hw.fit_head(filled, features="ngram/text", params={"C": 1.0}, out=tmp_path / "text", **asked)
    found = hw.predict(tmp_path / "text", text=["rough tissue, field 3", "smooth tissue, field 3"]).table
    assert found["predicted"].to_list() == ["high", "low"]
    small = {"hidden": [8], "epochs": 10}
    features = ["texture/image", "ngram/text"]
    hw.fit_head(filled, features=features, head="mlp", params=small, out=tmp_path / "both", **asked)
    image = gallery / "images" / "41.png"
    words = pl.read_csv(gallery / "manifest.csv")["caption"][41]
    stored = hw.predict(tmp_path / "both", filled, where="id = 's41'").table
    np.testing.assert_allclose(
        scores(hw.predict(tmp_path / "both", image=image, text=words).table), scores(stored), atol=1e-3
    )
    with pytest.raises(InputError, match="reads texts, but the cases have none: pass --text"):
        hw.predict(tmp_path / "both", image=image)


@pytest.mark.parametrize(
    "asked",
    [
        {"label": "tags", "label_separator": ";"},
        {"label": "age", "head": "ridge", "params": {"alpha": 1.0}, "task": "regression"},
        {"label": "degree", "task": "ordinal", "order": ["mild", "some", "severe"]},
        {"time": "age", "event": "on", "head": "cox", "task": "survival"},
    ],
    ids=["multilabel", "regression", "ordinal", "survival"],
)
def test_every_task(asked, filled, store, gallery, tmp_path):
    """Through the store as evaluate says, and for a new image."""
    opened = open_store(store)
    table = opened.samples.with_columns(on=pl.Series([1, 0, 1] * 16), degree=pl.Series(["mild", "some", "severe"] * 16))
    with opened.changing():
        opened.write_samples(table, opened.roles)
    given = {"params": {}, **asked}
    if asked.get("task") == "survival":
        given["params"] = {"penalty": 1.0} if "penalty" in _params("cox") else {}
    hw.fit_head(store, features="texture/image", groups="patient", where=FIRST, folds=3, out=tmp_path / "run", **given)
    found = hw.predict(tmp_path / "run", store, where=REST)
    truth = {name: asked[name] for name in ("label", "time", "event", "label_separator") if name in asked}
    tested = hw.evaluate(tmp_path / "run", store, groups="patient", where=REST, **truth).predictions
    both = found.table.join(tested, on="id", suffix="_tested")
    names = [name for name in both.columns if f"{name}_tested" in both.columns and both[name].dtype.is_float()]
    assert names
    for name in names:
        np.testing.assert_allclose(both[name], both[f"{name}_tested"], atol=1e-6)
    one = hw.predict(tmp_path / "run", image=gallery / "images" / "40.png")
    assert len(one.table) == 1
    json.dumps(one.to_dict(), allow_nan=False)
    if asked.get("task") == "survival":
        assert set(found.table["risk_group"]) <= {"low", "high"}
    if asked["label" if "label" in asked else "time"] == "tags":
        row = found.to_dict()["cases"][0]
        ranked = [finding["score"] for finding in row["findings"]]
        assert ranked == sorted(ranked, reverse=True)
        assert set(found.table["nearest_labels"][0]) <= {"a; b", "b", "c"}


def _params(kind):
    from headwater.heads import head_class

    return head_class(kind, survival=True)._get_param_names()


def test_bags_are_one_case(filled, gallery, tmp_path):
    asked = {"label": "site", "groups": "patient", "bags": "patient", "folds": 2, "params": {"epochs": 3}}
    hw.fit_head(filled, features="texture/image", head="mil", out=tmp_path / "run", **asked)
    images = [gallery / "images" / f"{i:02d}.png" for i in range(4)]
    found = hw.predict(tmp_path / "run", image=images).table
    assert found["id"].to_list() == ["case"]
    stored = hw.predict(tmp_path / "run", filled).table
    np.testing.assert_allclose(scores(found), scores(stored.filter(id="p0")), atol=1e-3)
    assert found["seen_in_training"].to_list() == ["same image"]
    pl.DataFrame({"image": [str(images[0])]}).write_csv(tmp_path / "without.csv")
    with pytest.raises(InputError, match="no column 'patient'"):
        hw.predict(tmp_path / "run", tmp_path / "without.csv")


def test_tokens_and_heat_maps(gallery, tiny, tmp_path):
    """A head over tokens, whose picture of each case is drawn."""
    encoder = tiny("timm-vit")
    hw.embed(gallery / "manifest.csv", tmp_path / "t.hw", encoder=encoder.spec, name="vit", tokens="all")
    asked = {"label": "grade", "groups": "patient", "folds": 2, "head": "token-mlp"}
    hw.fit_head(tmp_path / "t.hw", features="vit/image", params=QUICK | {"hidden": []}, out=tmp_path / "run", **asked)
    image = gallery / "images" / "40.png"
    found = hw.predict(tmp_path / "run", image=image, heat_maps=tmp_path / "heat")
    stored = hw.predict(tmp_path / "run", tmp_path / "t.hw", where="id = 's40'").table
    np.testing.assert_allclose(scores(found.table), scores(stored), atol=1e-3)
    assert [path.exists() for path in found.heat_maps.values()] == [True]


def test_a_run_that_trained_its_encoder(gallery, tiny, tmp_path):
    """New images go through the trained encoder; those of training are known by their content."""
    spec = tiny("timm-vit").spec
    asked = {"label": "grade", "groups": "patient", "where": FIRST, "holdout": 0.3, "train": "lora", "epochs": 2}
    hw.fine_tune(gallery / "manifest.csv", encoder=spec, image="image", text=None, out=tmp_path / "run", **asked)
    hw.embed(
        gallery / "manifest.csv", tmp_path / "t.hw", encoder=spec, adapter=tmp_path / "run", name="x", dtype="float32"
    )
    images = [gallery / "images" / f"{i:02d}.png" for i in (2, 40)]
    found = hw.predict(tmp_path / "run", image=images)
    stored = hw.predict(tmp_path / "run", tmp_path / "t.hw", features="x/image", where="id IN ('s02', 's40')").table
    np.testing.assert_allclose(scores(found.table), scores(stored), atol=1e-5)
    assert found.table["seen_in_training"].to_list() == ["same image", None]
    assert "nearest" not in found.table.columns
    assert any("stored no features" in note for note in found.notes)


def test_a_run_that_trained_its_encoder_tells_what_is_unlike(gallery, tiny, tmp_path):
    """By the encoder as it was before training, in a run, in a bundle of it, and on the page."""
    from PIL import Image

    spec = tiny("timm-vit").spec
    asked = {"label": "grade", "groups": "patient", "where": FIRST, "holdout": 0.3, "train": "lora", "epochs": 1}
    hw.fine_tune(gallery / "manifest.csv", encoder=spec, image="image", text=None, out=tmp_path / "run", **asked)
    Image.new("RGB", (48, 48), (250, 20, 20)).save(tmp_path / "red.png")
    images = [tmp_path / "red.png", gallery / "images" / "40.png"]
    found = hw.predict(tmp_path / "run", image=images).table["unlike_training"].to_list()
    assert found[0] > 95 > found[1]
    hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_weights=True)
    assert hw.predict(tmp_path / "b.zip", image=images).table["unlike_training"].to_list() == pytest.approx(
        found, abs=3
    )
    pytest.importorskip("fastapi")
    from headwater._progress import silent
    from headwater.embed.contents import HeldImage, content_key
    from headwater.serve.findings import Encoders, Finder

    finder = Finder(tmp_path / "run", tmp_path, Encoders(), "cpu", False, silent)
    data = (tmp_path / "red.png").read_bytes()
    told = finder.find(HeldImage(content_key(data), "x", None, data), None)
    assert told["unlike_training"] == pytest.approx(found[0], abs=3)


def test_zero_shot_has_no_training_cases(tiny, gallery, tmp_path):
    (tmp_path / "prompts.toml").write_text('[classes]\nlow = ["smooth tissue"]\nhigh = ["rough tissue"]\n')
    hw.embed(gallery / "manifest.csv", tmp_path / "c.hw", encoder="builtin:clip", name="clip")
    hw.zero_shot(
        tmp_path / "c.hw", features="clip", prompts=tmp_path / "prompts.toml", label="grade", out=tmp_path / "run"
    )
    found = hw.predict(tmp_path / "run", image=gallery / "images" / "40.png")
    assert {"seen_in_training", "nearest", "unlike_training"}.isdisjoint(found.table.columns)
    assert any("nothing was fitted" in note for note in found.notes)


def test_without_its_store_a_run_still_predicts(run, filled, gallery, tmp_path):
    """The weights are the encoder's own; nearest cases are out of reach, and it is said."""
    moved = shutil.copytree(run, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "store": "gone.hw"}))
    image = gallery / "images" / "40.png"
    found = hw.predict(moved, image=image)
    assert scores(found.table).tolist() == scores(hw.predict(run, image=image).table).tolist()
    assert "unlike_training" in found.table.columns
    assert "nearest" not in found.table.columns
    assert any("out of reach" in note for note in found.notes)


def test_some_files_cannot_be_read(run, gallery, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    found = hw.predict(run, image=[gallery / "images" / "40.png", tmp_path / "broken.png"])
    assert found.table["id"].to_list() == ["40.png"]
    assert found.left_out["id"].to_list() == ["broken.png"]
    assert any("left out: broken.png" in line for line in found.lines())
    with pytest.raises(InputError, match="no case can be predicted"):
        hw.predict(run, image=tmp_path / "broken.png")


# The command


def test_command(run, gallery, command, tmp_path):
    done = command("predict", run, "--image", gallery / "images" / "40.png", "--out", tmp_path / "p.csv", "--json")
    assert done.status == 0, done.err
    assert "to store" not in done.err  # nothing of a new case is kept
    (case,) = json.loads(done.out)["cases"]
    assert set(case["scores"]) == {"high", "low"}
    assert len(case["nearest"]) == 5
    (row,) = pl.read_csv(tmp_path / "p.csv").to_dicts()
    assert row["predicted"] == case["predicted"]
    assert row["nearest"] == "; ".join(one["id"] for one in case["nearest"])
    done = command("predict", run, gallery / "manifest.csv", "--out", tmp_path / "p.parquet")
    assert done.status == 0, done.err
    assert "… and 28 more" in done.out
    assert pl.read_parquet(tmp_path / "p.parquet")["nearest"].dtype == pl.List(pl.String)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no cases: pass a manifest"),
        (["--image", "gone.png"], "gone.png: no such image file"),
        (["MANIFEST", "--image", "x.png"], "either a manifest, folder or store, or --image"),
        (["--text", "words"], "reads images, but the cases have none: pass --image"),
        (["--image", "IMAGE", "--image", "IMAGE"], "named twice"),
        (["--image", "IMAGE", "--features", "x/image"], "--features is for a store"),
        (["--image", "IMAGE", "--out", "p.txt"], "ends in .csv or .parquet"),
        (["--image", "IMAGE", "--weights", "a=b", "--weights", "c"], "write NAME=FILE"),
        (["--image", "IMAGE", "--weights", "other=x"], "no features of this name"),
        (["--image", "IMAGE", "--id-column", "x"], "are for a manifest"),
        (["--image", "IMAGE", "--text", "a", "--text", "b"], "--text was given 2 times"),
        (["--image", "IMAGE", "--heat-maps", "heat"], "no tokens"),
        (["STORE", "--where", "age > 1000"], "is true for none of the 48 samples"),
        (["STORE", "--features", "ngram/text"], "another spec"),
        (["EMPTY"], "there are no images"),
    ],
)
def test_refusals(words, said, run, filled, gallery, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"IMAGE": gallery / "images" / "40.png", "MANIFEST": gallery / "manifest.csv", "STORE": filled}
    places["EMPTY"] = tmp_path / "empty"
    done = command("predict", run, *[places.get(word, word) for word in words])
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_runs_that_cannot_predict(run, filled, gallery, make_store, tmp_path):
    image = gallery / "images" / "40.png"
    hw.evaluate(run, filled, label="grade", groups="none", where=REST, out=tmp_path / "evaluated")
    with pytest.raises(InputError, match=r"is an evaluation\. Pass the run that it evaluates"):
        hw.predict(tmp_path / "evaluated", image=image)
    rng = np.random.default_rng(0)
    made = make_store(rng.standard_normal((24, 4)), label=["a", "b"] * 12)
    hw.fit_head(made, features="made/image", label="label", folds=2, params={"C": 0.1}, out=tmp_path / "made")
    with pytest.raises(EncoderError, match="made"):
        hw.predict(tmp_path / "made", image=image)
    with pytest.raises(HeadError, match="no run here"):
        hw.predict(tmp_path / "nothing", image=image)


def test_another_encoder_is_refused_and_so_is_code(run, gallery, tmp_path):
    """A spec that the encoder here does not make, and code that somebody else's run names."""
    image = gallery / "images" / "40.png"

    def edited(**changes):
        other = shutil.copytree(run, tmp_path / "edited", dirs_exist_ok=True)
        config = json.loads((run / "config.json").read_text())
        config["features"]["texture/image"] |= changes
        (other / "config.json").write_text(json.dumps(config))
        return other

    with pytest.raises(SpecMismatch, match=r"is not the one that .* was fitted on \(dim: 7 in the run"):
        hw.predict(edited(dim=7), image=image)
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(EncoderError, match="code that would run with your rights"):
        hw.predict(edited(encoder=f"python:{tmp_path / 'code.py'}:Encoder"), image=image)


def test_distances_that_were_edited_are_refused(run, gallery, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    data = (other / REFERENCE).read_bytes()
    for wrong in (data[: len(data) // 2], b"", (run / "head.safetensors").read_bytes()):
        (other / REFERENCE).write_bytes(wrong)
        with pytest.raises(HeadError, match=r"reference\.safetensors: cannot be read"):
            hw.predict(other, image=gallery / "images" / "40.png")


def test_rows_that_lack_an_input(gallery, tiny, tmp_path):
    """With --missing keep: a sample without a text was seen in training only if its image was."""
    table = pl.read_csv(gallery / "manifest.csv").with_columns(image=str(gallery) + "/" + pl.col("image"))
    table = table.with_columns(caption=pl.when(pl.int_range(pl.len()) % 3 == 0).then(None).otherwise("caption"))
    table.write_csv(tmp_path / "m.csv")
    for encoder in ("builtin:texture", "builtin:ngram"):
        hw.embed(tmp_path / "m.csv", tmp_path / "s.hw", encoder=encoder)
    asked = {"label": "grade", "groups": "patient", "where": FIRST, "folds": 3, "missing": "keep"}
    params = QUICK | {"blocks": 1, "tokenizer": "pooled-linear"}
    both = ["texture/image", "ngram/text"]
    hw.fit_head(tmp_path / "s.hw", features=both, head="co-attention", params=params, **asked, out=tmp_path / "run")
    found = hw.predict(tmp_path / "run", tmp_path / "m.csv").table.join(table, on="id")
    first = found["age"] < 70
    assert found.filter(first)["seen_in_training"].to_list() == ["same image"] * int(first.sum())
    assert found.filter(~first)["seen_in_training"].null_count() == int((~first).sum())
    asked = {"label": "grade", "groups": "patient", "where": REST, "allow_leakage": "captions repeat"}
    tested = hw.evaluate(tmp_path / "run", tmp_path / "s.hw", **asked)
    both = found.join(tested.predictions, on="id", suffix="_tested")
    np.testing.assert_allclose(both["score_high"], both["score_high_tested"], atol=1e-5)


def test_a_head_that_gives_no_numbers_is_refused(run, gallery, tmp_path):
    """A damaged head must not call every case by the name of the first class."""
    from headwater._tensors import as_safetensors, read_arrays

    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "head.safetensors"
    file.write_bytes(as_safetensors({name: values * np.nan for name, values in read_arrays(file).items()}))
    with pytest.raises(HeadError, match="scores that are not numbers"):
        hw.predict(tmp_path / "run", image=gallery / "images" / "00.png")


def test_a_table_of_predictions_has_no_formulas(run, gallery, tmp_path):
    """File names of somebody else are no formulas of a spreadsheet."""
    for name in ("=1+1.png", "@a.png", "plain.png"):
        shutil.copy(gallery / "images" / "00.png", tmp_path / name)
    hw.predict(run, image=sorted(tmp_path.glob("*.png")), out=tmp_path / "p.csv")
    assert pl.read_csv(tmp_path / "p.csv")["id"].to_list() == ["'=1+1.png", "'@a.png", "plain.png"]


def test_an_image_in_place_of_a_manifest(run, gallery):
    image = gallery / "images" / "00.png"
    assert hw.predict(run, image).table.equals(hw.predict(run, image=image).table)


def test_a_file_name_that_is_no_text(run, gallery, tmp_path):
    odd = tmp_path / "a\udcff.png"
    shutil.copy(gallery / "images" / "00.png", odd)
    with pytest.raises(ManifestError, match=r"not in UTF-8.*xff"):
        hw.predict(run, image=odd)
