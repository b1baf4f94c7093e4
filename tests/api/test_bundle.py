"""bundle: a run's head in one file of data, which predicts as the run does, holds no patient, and is safe to open."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import HeadError, HeadwaterError, InputError
from headwater.runs import bundle as bundles

FIRST = "age < 70"
ASKED = {"label": "grade", "groups": "patient", "where": FIRST, "folds": 3}


@pytest.fixture(scope="module")
def run(filled, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "run"
    decided = {"positive": "high", "sensitivity": 0.8, "conformal": 0.2, "calibrate": "isotonic"}
    hw.fit_head(filled, features="texture/image", params={"C": 1.0}, **decided, **ASKED, out=out)
    return out


def new_images(gallery):
    return [gallery / "images" / f"{i:02d}.png" for i in (3, 40, 41)]


def scores(table):
    return table.select([name for name in table.columns if name.startswith("score_")]).to_numpy()


def members(path):
    with zipfile.ZipFile(path) as held:
        return {name: held.read(name) for name in held.namelist()}


def written(path, contents, *, digests=True, compression=zipfile.ZIP_STORED):
    """Write a bundle of these members, their digests made again if asked for, as somebody who edits one would."""
    contents = dict(contents)
    if digests:
        listed = {n: [bundles._digest(c), len(c)] for n, c in contents.items() if n != "digests.json"}
        contents["digests.json"] = json.dumps({"members": listed}).encode()
    with zipfile.ZipFile(path, "w", compression) as held:
        for name, content in contents.items():
            held.writestr(name, content)
    return path


THRESHOLD = {"target": "sensitivity", "at": 0.8, "positive": "high", "threshold": 0.5}
COLD = {"method": "temperature", "task": "binary", "temperatures": [1.0]}
STEPS = {"method": "isotonic", "task": "binary", "steps": []}


# The same predictions


def test_as_the_run_predicts(run, gallery, command, tmp_path):
    """From a copy elsewhere, without the store: scores, decisions, sets and distances; nearest cases are left out."""
    made = hw.bundle(run, tmp_path / "b.zip")
    assert not made.cases
    images = new_images(gallery)
    found, own = hw.predict(tmp_path / "b.zip", image=images), hw.predict(run, image=images)
    assert found.table.columns == [n for n in own.table.columns if not n.startswith(("nearest", "seen"))]
    for name in found.table.columns:
        assert found.table[name].to_list() == own.table[name].to_list(), name
    assert found.rule == own.rule
    assert any("holds no training cases" in note for note in found.notes)
    done = command("predict", tmp_path / "b.zip", "--verify", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["digest"] == made.digest
    assert any("7 made-up inputs scored" in line for line in told["verified"])


def test_with_cases(run, gallery, tmp_path):
    """Nearest cases with their labels, and what was seen in training, by content and without ids."""
    hw.bundle(run, tmp_path / "b.zip", with_cases=True)
    images = new_images(gallery)
    found, own = (hw.predict(of, image=images).table for of in (tmp_path / "b.zip", run))
    assert found["seen_in_training"].to_list() == ["same image", None, None]
    assert found["nearest_labels"].to_list() == own["nearest_labels"].to_list()
    assert all(id.startswith("case ") for row in found["nearest"] for id in row)
    np.testing.assert_allclose(found["nearest_cosines"].to_list(), own["nearest_cosines"].to_list(), atol=1e-3)


def test_equal_runs_make_equal_files(run, tmp_path):
    one, other = (hw.bundle(run, tmp_path / name).path for name in ("1.zip", "2.zip"))
    first, second = members(one), members(other)
    assert {n: c for n, c in first.items() if n not in ("README.md", "digests.json")} == {
        n: c for n, c in second.items() if n not in ("README.md", "digests.json")
    }


@pytest.mark.parametrize("member", ["timm-vit", "hf-vit", "open_clip", "torchvision", "builtin-clip"])
def test_with_the_encoder(member, gallery, tiny, tmp_path):
    """A model in a folder, or a file of weights, goes along; then it predicts where neither is any more."""
    encoder = tiny(member)
    here = tmp_path / "here"
    hw.embed(gallery / "manifest.csv", here / "s.hw", encoder=encoder.spec, name="m", **encoder.options)
    hw.fit_head(here / "s.hw", features="m/image", params={"C": 1.0}, **ASKED, out=here / "run")
    images = new_images(gallery)
    own = hw.predict(here / "run", image=images).table
    hw.bundle(here / "run", tmp_path / "b.zip", with_weights=True)
    shutil.rmtree(here)
    found = hw.predict(tmp_path / "b.zip", image=images).table
    np.testing.assert_allclose(scores(found), scores(own), atol=1e-5)
    assert str(tmp_path).encode() not in (tmp_path / "b.zip").read_bytes()


def test_a_tuned_encoder_goes_along(gallery, tiny, tmp_path):
    """Trained adapters are part of what was learned, with or without the weights that they were added to."""
    spec = tiny("timm-vit").spec
    asked = {"label": "grade", "groups": "patient", "where": FIRST, "holdout": 0.3, "train": "lora", "epochs": 1}
    hw.fine_tune(gallery / "manifest.csv", encoder=spec, image="image", text=None, out=tmp_path / "run", **asked)
    images = new_images(gallery)
    own = hw.predict(tmp_path / "run", image=images).table
    hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_weights=True)
    shutil.rmtree(tmp_path / "run")
    found = hw.predict(tmp_path / "b.zip", image=images).table
    np.testing.assert_allclose(scores(found), scores(own), atol=1e-5)
    assert str(tmp_path).encode() not in (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("head", ["mlp", "xgboost", "gda", "prototypes", "mil", "co-attention"])
def test_every_kind_of_head(head, filled, gallery, tmp_path):
    small = {"mlp": {"hidden": [4], "epochs": 2}, "mil": {"epochs": 3}, "xgboost": {"n_rounds": 3}}
    small["co-attention"] = {"width": 8, "heads": 2, "blocks": 1, "epochs": 3, "tokenizer": "pooled-linear"}
    features = ["texture/image", "ngram/text"] if head == "co-attention" else ["texture/image"]
    bags = {"bags": "patient", "label": "site", "where": None} if head == "mil" else {}
    hw.fit_head(
        filled, features=features, head=head, params=small.get(head, {}), **(ASKED | bags), out=tmp_path / "run"
    )
    hw.bundle(tmp_path / "run", tmp_path / "b.zip")
    cases = {"image": new_images(gallery)} | ({"text": "rough tissue"} if len(features) > 1 else {})
    own, found = (scores(hw.predict(of, **cases).table) for of in (tmp_path / "run", tmp_path / "b.zip"))
    np.testing.assert_allclose(found, own, atol=1e-6)


# What is in it


def test_no_patient_no_id_no_path(filled, gallery, tmp_path):
    """Of a run whose options name a patient: no value of the manifest but the classes is in any bundle of it."""
    given = ASKED | {"where": "patient <> 'p3'", "by": "site"}
    hw.fit_head(filled, features="texture/image", params={"C": 1.0}, **given, out=tmp_path / "run")
    table = pl.read_csv(gallery / "manifest.csv")
    secret = {*table["id"], *table["patient"], *table["image"], *table["caption"], "north", "south", "gallery"}
    for cases in (False, True):
        hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_cases=cases)
        held = members(tmp_path / "b.zip")
        text = b"\n".join(c for n, c in held.items() if n.endswith((".json", ".md"))).decode()
        words = set(text.replace('"', " ").replace(",", " ").split())
        assert not (secret & words), secret & words
        assert str(tmp_path) not in text
        assert not any(str(tmp_path).encode() in c for c in held.values())
    vectors = hw.open_store(filled).read("texture/image").X[:]
    hw.bundle(tmp_path / "run", tmp_path / "b.zip")
    held = (tmp_path / "b.zip").read_bytes()
    for row in np.asarray(vectors):
        assert row.tobytes() not in held
        assert row.astype(np.float32).tobytes() not in held


@pytest.mark.parametrize("head", ["knn", "tip-adapter"])
def test_heads_made_of_training_rows_need_consent(head, filled, gallery, tiny, tmp_path):
    hw.fit_head(filled, features="texture/image", head=head, **ASKED, out=tmp_path / "run") if head == "knn" else None
    if head == "tip-adapter":
        prompts = tmp_path / "p.toml"
        prompts.write_text('[classes]\nlow = ["smooth tissue"]\nhigh = ["rough tissue"]\n')
        hw.embed(gallery / "manifest.csv", tmp_path / "c.hw", encoder="builtin:clip", name="clip")
        hw.fit_head(tmp_path / "c.hw", features="clip/image", head=head, prompts=prompts, **ASKED, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"made of the training rows themselves.*--with-cases"):
        hw.bundle(tmp_path / "run", tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
    hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_cases=True)
    assert len(hw.predict(tmp_path / "b.zip", image=new_images(gallery)).table) == 3


def test_a_mean_of_one_row_is_that_row(make_store, tmp_path):
    rng = np.random.default_rng(0)
    labels, sides = ["a", "b"] * 10 + ["c"], ["train", "train", "test", "test"] * 5 + ["train"]
    store = make_store(rng.standard_normal((21, 4)), label=labels, side=sides)
    hw.fit_head(store, features="made/image", label="label", head="prototypes", split="side", out=tmp_path / "run")
    with pytest.raises(InputError, match="one class has a single row"):
        hw.bundle(tmp_path / "run", tmp_path / "b.zip")


def test_the_published_schema_is_that_of_the_code():
    published = Path(__file__).parents[2] / "docs" / "schemas" / "bundle.schema.json"
    assert json.loads(published.read_text()) == bundles.schema()


def test_card_has_a_header_that_the_hub_reads(run, tmp_path):
    import yaml

    hw.bundle(run, tmp_path / "b.zip")
    card = members(tmp_path / "b.zip")["README.md"].decode()
    _, header, body = card.split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["library_name"] == "headwater"
    metrics = {m["type"]: m["value"] for m in told["model-index"][0]["results"][0]["metrics"]}
    assert metrics["auc"] == pytest.approx(hw.open_run(run).mean["auc"], abs=1e-4)
    assert "not a medical device" in body


def test_the_order_of_cases_tells_no_id(run, filled, tmp_path):
    """Ids are easily guessed; cases are in an order that is computed from their vectors alone."""
    from headwater._tensors import read_arrays
    from headwater.embed import content_key

    hw.bundle(run, tmp_path / "b.zip", with_cases=True)
    (tmp_path / "c.safetensors").write_bytes(members(tmp_path / "b.zip")["cases.safetensors"])
    vectors = read_arrays(tmp_path / "c.safetensors")["vectors"]
    digests = [content_key(row.tobytes()) for row in vectors]
    assert digests == sorted(digests)


def test_a_folder_gives_no_more_than_the_model(gallery, tiny, tmp_path):
    """Logs and lists beside a model, what links lead to, and what the writer of weights noted, stay behind."""
    from safetensors.torch import load_file, save_file

    encoder = tiny("timm-vit")
    folder = shutil.copytree(encoder.spec.partition("local-dir:")[2], tmp_path / "model")
    for name in ("train_log.txt", "patients.json", "README.md", "trainer_state.json"):
        (folder / name).write_text('{"who": "SMITH JANE"}')
    (tmp_path / "secret.json").write_text('{"key": "SMITH JANE"}')
    (folder / "vocab.json").symlink_to(tmp_path / "secret.json")
    weights = next(folder.glob("*.safetensors"))
    save_file(load_file(weights), weights, {"format": "pt", "dataset": "/data/SMITH JANE"})
    (folder / "vocab.json").rename(tmp_path / "vocab.json")
    hw.embed(gallery / "manifest.csv", tmp_path / "s.hw", encoder=f"timm:local-dir:{folder}", name="m")
    hw.fit_head(tmp_path / "s.hw", features="m/image", params={"C": 1.0}, **ASKED, out=tmp_path / "run")
    hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_weights=True)
    assert b"SMITH" not in (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.zip") as held:
        beside = {Path(name).name for name in held.namelist() if name.startswith("weights/")}
    assert beside == {"config.json", weights.name}
    assert len(hw.predict(tmp_path / "b.zip", image=new_images(gallery)).table) == 3


def test_a_link_in_a_run_leads_nowhere(gallery, tiny, tmp_path):
    """A run from somebody else must not make its receiver send a file of theirs on."""
    asked = {"label": "grade", "groups": "patient", "where": FIRST, "holdout": 0.3, "train": "lora", "epochs": 1}
    spec = tiny("timm-vit").spec
    hw.fine_tune(gallery / "manifest.csv", encoder=spec, image="image", text=None, out=tmp_path / "run", **asked)
    (tmp_path / "secret.json").write_text('{"key": "SMITH JANE"}')
    adapter = next((tmp_path / "run").rglob("adapter.json")).parent
    (adapter / "config.json").symlink_to(tmp_path / "secret.json")
    hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_weights=True)
    assert b"SMITH" not in (tmp_path / "b.zip").read_bytes()


def test_imported_features(tmp_path):
    """Of another file that the same encoder made, by name of the features; no file is named in the bundle."""
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"id": [f"s{i}" for i in range(60)], "label": ["a", "b"] * 30})
    table = table.with_columns(patient="p" + (pl.int_range(60) // 2).cast(pl.String))
    X = rng.standard_normal((60, 8)).astype(np.float32)
    X[::2] += 1
    for name, rows in (("SMITH", slice(0, 40)), ("new", slice(40, 60))):
        np.save(tmp_path / f"{name}.npy", X[rows])
        table[rows].write_csv(tmp_path / f"{name}.csv")
        given = {"name": "v", "modality": "image", "table": tmp_path / f"{name}.csv"}
        hw.import_features(tmp_path / f"{name}.npy", tmp_path / f"{name}.hw", **given)
    store = tmp_path / "SMITH.hw"
    hw.fit_head(store, features="v/image", label="label", groups="patient", params={"C": 1.0}, out=tmp_path / "run")
    own = hw.predict(tmp_path / "run", tmp_path / "new.hw")
    assert len(own.table) == 20
    assert any("the same encoder" in note for note in own.notes)
    made = hw.bundle(tmp_path / "run", tmp_path / "b.zip")
    assert "must be imported" in made.lines()[0]
    assert b"SMITH" not in (tmp_path / "b.zip").read_bytes()
    np.testing.assert_allclose(scores(hw.predict(tmp_path / "b.zip", tmp_path / "new.hw").table), scores(own.table))
    tested = hw.evaluate(tmp_path / "run", tmp_path / "new.hw", label="label", groups="patient")
    assert tested.metrics["n_samples"] == 20


def test_the_card_holds_no_markup_of_class_names(make_store, tmp_path):
    """Names of classes are somebody else's words: they must not make headings, links or other metadata."""
    import yaml

    evil = 'a"\n---\nlicense: mit\n# Approved\n[x](http://evil.example)<script>'
    labels = [evil, "b\x85\x00c"] * 12
    store = make_store(np.random.default_rng(0).standard_normal((24, 4)), label=labels)
    asked = {"features": "made/image", "label": "label", "groups": "none", "params": {"C": 1.0}}
    hw.fit_head(store, **asked, out=tmp_path / "run")
    hw.bundle(tmp_path / "run", tmp_path / "b`$(x).zip")
    card = members(tmp_path / "b`$(x).zip")["README.md"].decode()
    _, header, body = card.split("---\n", 2)
    assert "license" not in yaml.safe_load(header)
    assert not any(line.startswith("# ") and "Approved" in line for line in body.splitlines())
    assert "](http://evil" not in body
    assert "<script>" not in body
    assert "\x85" not in card


# What is refused


def test_a_bundle_cut_short_anywhere(run, gallery, tmp_path):
    data = Path(hw.bundle(run, tmp_path / "b.zip").path).read_bytes()
    for end in [*range(0, len(data), len(data) // 23), len(data) - 1]:
        (tmp_path / "cut.zip").write_bytes(data[:end])
        with pytest.raises(HeadError, match=r"cut\.zip: (not a bundle|no bundle here)"):
            hw.predict(tmp_path / "cut.zip", image=new_images(gallery))


def test_a_bit_changed_anywhere(run, gallery, tmp_path):
    """Every member's content is covered by a digest, and digests that were changed match none."""
    held = members(hw.bundle(run, tmp_path / "b.zip").path)
    for name, content in held.items():
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            written(tmp_path / "c.zip", {**held, name: bytes(changed)}, digests=False)
            with pytest.raises(HeadError, match=r"c\.zip"):
                hw.predict(tmp_path / "c.zip", image=new_images(gallery))


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "a/../../x.json", "C:x.json", "a\\b.json", ".hidden.json"])
def test_members_that_lead_elsewhere(name, run, gallery, tmp_path):
    held = members(hw.bundle(run, tmp_path / "b.zip").path)
    written(tmp_path / "c.zip", {**held, name: b"{}"})
    before = sorted(p for p in tmp_path.parent.rglob("*"))
    with pytest.raises(HeadError, match="a member is called"):
        hw.predict(tmp_path / "c.zip", image=new_images(gallery))
    assert sorted(p for p in tmp_path.parent.rglob("*")) == before


def test_members_that_are_no_data(run, gallery, tmp_path):
    held = members(hw.bundle(run, tmp_path / "b.zip").path)

    def refused(match):
        with pytest.raises(HeadError, match=match):
            hw.predict(tmp_path / "c.zip", image=new_images(gallery))

    for name in ("model.pkl", "code.py", "weights.bin", "x.so"):
        written(tmp_path / "c.zip", {**held, name: b"x"})
        refused("a member is called")
    written(tmp_path / "c.zip", held, compression=zipfile.ZIP_DEFLATED)
    refused("is compressed")
    written(tmp_path / "c.zip", {n: c for n, c in held.items() if n != "digests.json"}, digests=False)
    refused("digests.json is missing")
    written(tmp_path / "c.zip", {**held, "more.json": b"{}"}, digests=False)
    refused("not those that digests.json lists")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as out:
        for member, content in held.items():
            info = zipfile.ZipInfo(member)
            info.external_attr = (0o120777 << 16) if member == "README.md" else 0
            out.writestr(info, content)
    refused("no file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "Upgrade headwater"),
        ({"format": "1"}, "format"),
        ({"task": "magic"}, "task"),
        ({"names": None}, "names"),
        ({"names": ["high"]}, "."),
        ({"names": ["a", "b", "c"]}, "."),
        ({"features": {}}, "."),
        ({"features": {"texture/image": {}}}, "."),
        ({"encoders": {"texture": "../../etc"}}, "a member is called"),
        ({"encoders": {"texture": "/etc/passwd"}}, "a member is called"),
        ({"adapters": {"texture": "../x"}}, "a member is called"),
        ({"decision": {"threshold": {}}}, "."),
        ({"decision": {"conformal": {"least": "x"}}}, "."),
        ({"decision": {"calibrator": {"method": "pickle"}}}, "."),
        ({"head": 5}, "head"),
        ({"cases": True}, "training cases cannot be read"),
        ({"command": "evaluate"}, "command"),
        ({"decision": {"threshold": THRESHOLD | {"threshold": float("nan")}}}, r"decision.threshold"),
        ({"decision": {"threshold": THRESHOLD | {"threshold": 5}}}, "from 0 to 1"),
        ({"decision": {"threshold": THRESHOLD | {"threshold": True}}}, "expected float"),
        ({"decision": {"threshold": THRESHOLD | {"positive": "low"}}}, "which is the positive one"),
        ({"decision": {"conformal": {"least": [0.1], "alpha": 0.1}}}, "1 values for 2 classes"),
        ({"decision": {"conformal": {"least": [float("nan"), 0.1], "alpha": 0.1}}}, r"decision.conformal"),
        ({"decision": {"conformal": {"least": [-1, 0.1], "alpha": 0.1}}}, "probabilities"),
        ({"decision": {"calibrator": COLD | {"temperatures": [-1.0]}}}, "positive"),
        ({"decision": {"calibrator": COLD | {"task": "multilabel"}}}, "the run is binary"),
        ({"decision": {"calibrator": STEPS | {"steps": [{"x": [0.0, 1.0], "y": [1.0, 0.0]}]}}}, "ascend"),
        ({"decision": {"risk_groups": {"thresholds": [1.0]}}}, r"decision.risk_groups"),
        ({"names": ["low", "low"]}, "distinct"),
        ({"names": ["benign", "malignant"], "decision": {}}, "other classes than its head"),
    ],
)
def test_descriptions_that_were_edited(change, said, run, gallery, tmp_path):
    """By somebody who made the digests again: one line, and never a traceback of another kind."""
    held = members(hw.bundle(run, tmp_path / "b.zip").path)
    told = json.loads(held["bundle.json"])
    written(tmp_path / "c.zip", {**held, "bundle.json": json.dumps({**told, **change}).encode()})
    with pytest.raises(HeadwaterError, match=said):
        hw.predict(tmp_path / "c.zip", image=new_images(gallery))


def test_an_encoder_that_is_code_is_not_run(run, gallery, tmp_path):
    held = members(hw.bundle(run, tmp_path / "b.zip").path)
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    told = json.loads(held["bundle.json"])
    told["features"]["texture/image"]["encoder"] = f"python:{tmp_path / 'code.py'}:Encoder"
    written(tmp_path / "c.zip", {**held, "bundle.json": json.dumps(told).encode()})
    with pytest.raises(HeadwaterError, match="code that would run with your rights"):
        hw.predict(tmp_path / "c.zip", image=new_images(gallery))


def test_another_head_is_found_out(run, tmp_path):
    """The made-up inputs tell, whoever made the digests again."""
    from headwater._tensors import as_safetensors, read_arrays

    held = members(hw.bundle(run, tmp_path / "b.zip").path)
    (tmp_path / "h.safetensors").write_bytes(held["head.safetensors"])
    arrays = {n: a * 1.01 if n == "coef" else a for n, a in read_arrays(tmp_path / "h.safetensors").items()}
    written(tmp_path / "c.zip", {**held, "head.safetensors": as_safetensors(arrays)})
    with pytest.raises(HeadError, match="scores its probes otherwise here"):
        hw.verify_bundle(tmp_path / "c.zip")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bundle", "RUN", "b.tar"], "ends in .zip"),
        (["bundle", "RUN", "b.zip", "--weights", "x=y"], "no features of this name"),
        (["bundle", "GONE", "b.zip"], "no run here"),
        (["bundle", "EVALUATED", "b.zip"], "has no head for new cases"),
        (["predict", "RUN", "--verify"], "is not a bundle"),
        (["predict", "gone.zip", "--image", "x.png"], "no bundle here"),
        (["predict", "RUN", "--verify", "--image", "x.png"], "own inputs"),
    ],
)
def test_refusals(words, said, run, filled, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "EVALUATED" in words:
        hw.evaluate(run, filled, label="grade", groups="none", where="age >= 70", out=tmp_path / "evaluated")
    places = {"RUN": run, "GONE": tmp_path / "gone", "EVALUATED": tmp_path / "evaluated"}
    done = command(*[places.get(word, word) for word in words])
    assert done.status == 1
    assert said in done.err
    assert not list(tmp_path.glob("*.zip"))


def test_an_encoder_in_a_folder_must_come_along(gallery, tiny, tmp_path):
    hw.embed(gallery / "manifest.csv", tmp_path / "s.hw", encoder=tiny("hf-vit").spec, name="m")
    hw.fit_head(tmp_path / "s.hw", features="m/image", params={"C": 1.0}, **ASKED, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"is in a folder of this machine.*--with-weights"):
        hw.bundle(tmp_path / "run", tmp_path / "b.zip")


def test_not_a_zip_file_at_all(gallery, tmp_path):
    (tmp_path / "b.zip").write_bytes(io.BytesIO(b"PK\x03\x04" + b"\0" * 100).read())
    with pytest.raises(HeadError, match="not a bundle"):
        hw.predict(tmp_path / "b.zip", image=new_images(gallery))


def of_kind(kind, n_bytes, n):
    """A file of tensors of a kind that NumPy lacks."""
    header = json.dumps({"coef": {"dtype": kind, "shape": [n], "data_offsets": [0, n_bytes * n]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(n_bytes * n)


@pytest.mark.parametrize("member", [f"{name}.safetensors" for name in ("head", "reference", "cases", "probe")])
@pytest.mark.parametrize("content", [of_kind("BF16", 2, 8), of_kind("F8_E4M3", 1, 8), b"x", of_kind("F32", 4, 8)])
def test_arrays_that_are_no_such_arrays(member, content, run, gallery, tmp_path):
    """Whatever is in a file of tensors: one line that names the bundle, also by --verify."""
    held = members(hw.bundle(run, tmp_path / "b.zip", with_cases=True).path)
    written(tmp_path / "c.zip", {**held, member: content})
    verb = hw.verify_bundle if member.startswith("probe") else lambda path: hw.predict(path, image=new_images(gallery))
    with pytest.raises(HeadError, match=r"c\.zip"):
        verb(tmp_path / "c.zip")


@pytest.mark.parametrize("factor", [np.nan, 100.0])
def test_cases_that_are_no_vectors(factor, run, gallery, tmp_path):
    from headwater._tensors import as_safetensors, read_arrays

    held = members(hw.bundle(run, tmp_path / "b.zip", with_cases=True).path)
    (tmp_path / "v.safetensors").write_bytes(held["cases.safetensors"])
    vectors = read_arrays(tmp_path / "v.safetensors")["vectors"] * np.float16(factor)
    written(tmp_path / "c.zip", {**held, "cases.safetensors": as_safetensors({"vectors": vectors})})
    with pytest.raises(HeadError, match="training cases cannot be read"):
        hw.predict(tmp_path / "c.zip", image=new_images(gallery))


def test_members_that_overlap(run, gallery, tmp_path):
    """Members may share their bytes in the file; a small file must not fill the disk."""
    held = members(hw.bundle(run, tmp_path / "b.zip").path)
    path = written(tmp_path / "c.zip", held)
    with zipfile.ZipFile(path, "a") as out:
        largest = max(out.infolist(), key=lambda member: member.file_size)
        for i in range(50):
            twin = zipfile.ZipInfo(f"more{i}.json")
            twin.header_offset, twin.CRC = largest.header_offset, largest.CRC
            twin.file_size = twin.compress_size = largest.file_size
            out.filelist.append(twin)
            out.NameToInfo[twin.filename] = twin
        out._didModify = True
    with pytest.raises(HeadError, match="overlap"):
        hw.predict(path, image=new_images(gallery))
