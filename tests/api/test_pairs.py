"""An image and its text read together as one item: embedded once, known by both, and seen by every verb."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from headwater._progress import silent
from headwater.api import audit, embed, fit_head, gc, info, repair, similar, verify
from headwater.embed import content_key
from headwater.embed.items import items_of
from headwater.errors import ImageError, InputError, SplitError
from headwater.sources import read_manifest
from headwater.store import BlockResult, FeatureSpec, hex_from_keys, keys_from_hex, open_store, pair_key, sample_keys

PROMPT = "{image}Report: {text}\nSummary in one word:"
N = 12
TEXTS = ["a benign gland", "severe tissue", "a benign gland", "left breast mass"]


def rows_of(n=N):
    """Twelve rows of nine pairs, image i % 6 and text i % 4; then a repeat, and rows that lack a readable part."""
    rows = [(f"s{i:02d}", f"{i % 6}.png", TEXTS[i % 4], f"p{i % 6}", ("a", "b")[i % 2]) for i in range(n)]
    more = [("again", "0.png", TEXTS[0], "p0", "a"), ("mute", "1.png", "", "p1", "b"), ("blind", "", "mass", "p9", "a")]
    return pl.DataFrame(
        [*rows, *more, ("broken", "broken.png", "gland", "p8", "b"), ("gone", "gone.png", "gland", "p7", "b")],
        schema=["id", "image", "report", "patient", "label"],
        orient="row",
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory, picture):
    """A folder of images with a manifest of reports."""
    folder = tmp_path_factory.mktemp("reports")
    for i in range(6):
        picture(folder / f"{i}.png", i)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    rows_of().write_csv(folder / "m.csv")
    return folder


@pytest.fixture(scope="module")
def asked(tiny):
    """How pairs are embedded."""
    pytest.importorskip("transformers")
    return {"encoder": tiny("hf-smolvlm").spec, "prompt": PROMPT, "name": "vlm", "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def made(reports, asked):
    """A store of pairs, and what embedding said."""
    return embed(reports / "m.csv", reports / "a.hw", **asked)


@pytest.fixture
def store(made, tmp_path):
    """A copy that a test may change, with the images beside it."""
    shutil.copytree(made.path.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / made.path.name


def key_of(folder, image, text):
    return pair_key(content_key((folder / image).read_bytes()), content_key(text.encode()))


def test_each_pair_is_embedded_once(reports, made, asked):
    """Rows with both parts have one vector a distinct pair; the others say which part they lack, or what failed."""
    # texts 0 and 2 are the same words: rows 0 and 6, 2 and 8, 4 and 10 are the same pairs
    assert made.feature_names() == ["vlm/pair"]
    assert made.results["vlm/pair"].embedded == 9
    assert set(made.failed["vlm/pair"]) == {"broken", "gone"}
    data = made.read("vlm/pair")
    assert data.X.shape == (13, 32)
    reasons = dict(data.left_out.iter_rows())
    assert (reasons["mute"], reasons["blind"]) == ("no text", "no image")
    assert "broken.png" in reasons["broken"]
    assert "gone.png" in reasons["gone"]
    features = made.features("vlm/pair")
    assert features.spec.modality == "pair"
    keys = {features.keys[i].tobytes() for i in np.flatnonzero(features.status == 1)}
    assert keys == {key_of(reports, row["image"], row["report"]) for row in data.table.iter_rows(named=True)}
    assert "pair_key" not in made.samples.columns
    assert made.samples["image_key"].null_count() == 2  # blind and gone
    assert made.samples["text_key"].null_count() == 1
    again = embed(reports / "m.csv", reports / "a.hw", **asked)
    assert (again.results["vlm/pair"].embedded, again.results["vlm/pair"].kept) == (0, 10)


def test_why_rows_have_no_pair(reports):
    """Before anything is encoded it is known which part a row lacks, or which file is not there."""
    table = read_manifest(reports / "m.csv")
    why = dict(zip(table.ids, items_of(table, "pair", None, "skip", silent).why_none(table.ids, "pair"), strict=True))
    assert (why.pop("mute"), why.pop("blind")) == ("no text", "no image")
    assert "gone.png" in why.pop("gone")
    assert set(why.values()) == {""}


def test_a_vector_is_of_both(made):
    """Another text beside the same image is another vector, and another image beside the same text too."""
    data = made.read("vlm/pair")
    X, ids = np.asarray(data.X[:]), data.ids.tolist()
    assert np.array_equal(X[ids.index("s00")], X[ids.index("again")])
    assert np.array_equal(X[ids.index("s00")], X[ids.index("s06")])  # the same words, from another row
    assert not np.allclose(X[ids.index("s01")], X[ids.index("s07")], atol=1e-4)
    assert not np.allclose(X[ids.index("s00")], X[ids.index("s04")], atol=1e-4)


def test_an_unreadable_image_stops_where_that_is_asked(reports, tmp_path, asked):
    """With on_error stop, an image that cannot be read is an error that names the row."""
    with pytest.raises(ImageError, match=r"manifest row 17 \('gone'\)"):
        embed(reports / "m.csv", tmp_path / "b.hw", **asked, on_error="stop")


def test_images_and_texts_beside_pairs(store, asked):
    """Features of images and texts go into the same store, and leave what is known of pairs."""
    done = embed(store.parent / "m.csv", store, encoder="stub:8", text="report")
    assert done.feature_names() == ["stub-8/image", "stub-8/text", "vlm/pair"]
    assert done.changes.lines() == []
    assert done.read("stub-8/image", "stub-8/text", "vlm/pair").ids.tolist() == done.read("vlm/pair").ids.tolist()
    done = embed(store.parent / "m.csv", store, encoder="stub:8", name="texts", text="report")
    assert len(done.read("vlm/pair").ids) == 13


def test_info_and_verify(made):
    """What failed is said by sample; every checksum is right."""
    found = info(made.path)
    assert found.features["vlm/pair"]["stored"] == 9
    assert set(found.failed["vlm/pair"]) == {"broken", "gone"}
    assert verify(made.path) == []


def test_damaged_blocks_are_made_again(store, files_of):
    """A damaged block of pairs is embedded again from images and texts, to the same bytes."""
    before = files_of(store / "features.zarr")
    (file,) = (store / "features.zarr/vlm/pair/pooled").glob("c*0")
    data = bytearray(file.read_bytes())
    data[40] ^= 0x10
    file.write_bytes(bytes(data))
    done = repair(store)
    assert any("9 items embedded again" in line for line in done.done)
    assert done.left == []
    after = files_of(store / "features.zarr")
    place = str(file.relative_to(store / "features.zarr"))
    one, other = (np.frombuffer(files[place], np.float32) for files in (before, after))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_unused_pairs_are_dropped(reports, store):
    """A pair that no sample holds any more is dropped, though other samples hold its image and its text."""
    rows_of().filter(pl.col("id") != "s01").write_csv(reports / "fewer.csv")
    embed(reports / "fewer.csv", store, encoder="stub:8", text="report")
    kept = gc(store, yes=True)
    assert kept.items["vlm/pair"][0] == 1
    assert open_store(store).features("vlm/pair").n_items == 9
    assert len(open_store(store).read("vlm/pair").ids) == 12


def test_similar_pairs(reports, made):
    """A query is a sample, or an image together with a text; one alone is refused in a line that says so."""
    hits = similar(made.path, features="vlm/pair", id="s01", k=3)
    assert len(hits) == 3
    assert set(hits[0].row) == {"id", "image", "report", "patient", "label"}
    stored = similar(made.path, features="vlm/pair", image=reports / "1.png", text=TEXTS[1], k=1)
    assert stored[0].id in ("s01",)
    assert stored[0].score == pytest.approx(1, abs=1e-5)
    fresh = similar(made.path, features="vlm/pair", image=reports / "1.png", text="severe mass", k=1)
    assert -1 <= fresh[0].score <= 1
    for alone in ({"image": reports / "1.png"}, {"text": "mass"}, {"id": "s01", "text": "mass"}, {}):
        with pytest.raises(InputError, match="both --image and --text, or --id"):
            similar(made.path, features="vlm/pair", **alone)
    with pytest.raises(InputError, match=r"'mute' has no features in vlm/pair"):
        similar(made.path, features="vlm/pair", id="mute")


def test_fit_and_evaluate(command, made, tmp_path):
    """A head is fitted to pairs and tested elsewhere; what it was fitted on is known by its images."""
    words = ["--label", "label", "--groups", "patient", "--set", "C=1", "--folds", "2"]
    words += ["--allow-leakage", "the texts say the label"]
    done = command("fit-head", made.path, "--features", "vlm/pair", *words, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    leakage = json.loads((tmp_path / "run/metrics.json").read_text())["leakage"]
    assert set(leakage["identical_across_splits"]) == {"image", "text"}
    swept = command(
        "sweep",
        made.path,
        "--features",
        "vlm/pair",
        "--heads",
        "linear",
        *words[:4],
        *words[-2:],
        "--out",
        tmp_path / "s",
    )
    assert swept.status == 0, swept.err
    assert "vlm/pair" in swept.out
    more = ["--seed", "1", "--out", tmp_path / "other"]
    assert command("fit-head", made.path, "--features", "vlm/pair", *words, *more).status == 0
    compared = command("compare", tmp_path / "run", tmp_path / "other")
    assert compared.status == 0, compared.err
    words = ["--label", "label", "--groups", "patient", "--out", tmp_path / "outside"]
    again = command("evaluate", tmp_path / "run", made.path, *words)
    assert again.status == 1
    whose = "13 samples whose image the head was fitted on and 13 samples whose text the head was fitted on"
    assert whose in again.error


def test_export(command, made, tmp_path):
    """Features of pairs are exported with their samples; vectors of pairs are not imported."""
    assert command("export", made.path, tmp_path / "out", "--features", "vlm/pair").status == 0
    assert np.load(tmp_path / "out/vlm-pair.npy").shape == (13, 32)
    done = command("import", tmp_path / "out/vlm-pair.npy", tmp_path / "b.hw", "--name", "x", "--modality", "pair")
    assert "--modality 'pair'" in done.error


def test_zero_shot_wants_images(command, made, tmp_path):
    """Zero-shot on pairs is refused in one line."""
    (tmp_path / "p.toml").write_text('templates = ["{}"]\n[classes]\na = "benign"\nb = "severe"\n')
    done = command(
        "zero-shot", made.path, "--features", "vlm/pair", "--prompts", tmp_path / "p.toml", "--label", "label"
    )
    assert "vlm/pair are features of image-text pairs" in done.error


def test_doctor(command, asked):
    """doctor tries a decoder on pairs."""
    done = command("doctor", "--encoder", asked["encoder"], "--prompt", PROMPT, "--device", "cpu", "--batch-size", "2")
    assert done.status == 0, done.err
    assert "\npair: 32 values; preprocessed by SmolVLMImageProcessor" in done.out
    assert "with texts of 40 words" in done.out


@pytest.fixture
def planted(make_store, write_features):
    """Return a function that makes a store of 200 random pairs, some of which share an image or a text."""

    def make(images=(), texts=(), X=None, **columns):
        X = np.random.default_rng(0).standard_normal((200, 40)).astype(np.float32) if X is None else X
        store = make_store(X, name="made/image", **columns)
        image = store.samples["image_key"].to_list()
        text = [f"{i:032x}" for i in range(len(X))]
        for column, same in ((image, images), (text, texts)):
            for a, b in same:
                column[b] = column[a]
        table = store.samples.with_columns(image_key=pl.Series(image), text_key=pl.Series(text), text=pl.Series(text))
        roles = type(store.roles)("id", "image", "text", "/")
        store.write_samples(table, roles)
        keys = keys_from_hex(sample_keys(table, "pair"))
        first = np.sort(np.unique(keys.view("S16"), return_index=True)[1])
        write_features(store, "made/pair", X[first], keys[first], dtype="float32")
        return store

    return make


LABEL = ["a", "b"] * 100
ALTERNATE = [i % 4 for i in range(200)]


def test_one_image_with_two_texts_leaks(command, planted, tmp_path):
    """An image on both sides of a split is refused though its texts differ; a text on both sides is only said."""
    store = planted(images=[(0, 1)], texts=[(4, 5)], label=LABEL, fold=ALTERNATE)
    words = [
        "--features",
        "made/pair",
        "--label",
        "label",
        "--set",
        "C=1",
        "--split",
        "fold",
        "--out",
        tmp_path / "run",
    ]
    done = command("fit-head", store.path, *words)
    assert done.status == 1
    assert "1 identical image on both sides ('r000' and 'r001')" in done.error
    done = command("fit-head", store.path, *words, "--allow-leakage", "a test")
    assert done.status == 0
    assert "1 identical text on both sides of a split" in done.err
    leakage = json.loads((tmp_path / "run/metrics.json").read_text())["leakage"]
    assert leakage["identical_across_splits"] == {"image": 1, "text": 1}
    assert leakage["near_duplicates"]["features"] == "made/pair"


def test_near_duplicates_of_pairs_are_said(command, planted, tmp_path):
    """Pairs that are much alike on both sides are counted and said, and not refused: their texts may make them so."""
    X = np.random.default_rng(0).standard_normal((200, 40)).astype(np.float32)
    X[-60:] = X[:60] + 0.05 * np.random.default_rng(1).standard_normal((60, 40)).astype(np.float32)
    store = planted(X=X, label=LABEL)
    words = ["--features", "made/pair", "--label", "label", "--set", "C=1", "--out", tmp_path / "run"]
    done = command("fit-head", store.path, *words)
    assert done.status == 0, done.err
    assert "102 of 200 test pairs have near duplicates in training (2.0 expected by chance)" in done.err
    assert "headwater audit lists them" in done.err


def test_an_audit_of_pairs_sees_images(planted):
    """An image with two texts is one image: identical, in one cluster, and its pairs are no near duplicates."""
    X = np.random.default_rng(0).standard_normal((200, 40)).astype(np.float32)
    X[1] = X[0] + 0.01  # another text beside the same image
    X[9] = X[8] + 0.01  # another image
    store = planted(images=[(0, 1)], texts=[(8, 9)], X=X, label=LABEL, fold=ALTERNATE)
    found = audit(store, features="made/pair", label="label", split="fold", groups="none")
    (one,) = found.found
    assert one.n_contents == 200
    assert (one.identical.n, one.identical.samples, one.identical.across_split) == (1, 2, 1)
    kinds = {(a, b): kind for kind, a, b in found.pairs.select("kind", "id_a", "id_b").rows()}
    assert kinds["r000", "r001"] == "identical"
    assert kinds["r008", "r009"] == "near"
    assert one.worst[0].ids[:2] == ["r000", "r001"]


def test_texts_beside_one_image_do_not_hide_near_duplicates(planted):
    """How similar unrelated pairs are is measured on pairs of different images, however many texts these have."""
    X = np.random.default_rng(0).standard_normal((200, 40)).astype(np.float32)
    of_one_image = [(i - i % 10, i) for i in range(140) if i % 10]
    X[:140] = np.repeat(X[:140:10], 10, axis=0) + 0.3 * X[:140]
    X[151] = X[150] + 0.5 * X[151]  # similar as 0.9
    store = planted(images=of_one_image, X=X, label=LABEL, fold=ALTERNATE)
    found = audit(store, features="made/pair", label="label", split="fold", groups="none")
    near = found.pairs.filter(pl.col("kind") == "near")
    assert near.select("id_a", "id_b").rows() == [("r150", "r151")]
    (one,) = found.found
    assert one.expected_pairs == pytest.approx(one.false_alarms * (200 * 199 / 2 - 14 * 10 * 9 / 2))


def test_many_texts_beside_few_images(planted):
    """How many of the pairs may be copies goes by the number of images, not of the texts beside them."""
    n_images, n_texts = 60, 100
    of_image = np.random.default_rng(0).standard_normal((n_images, 40)).astype(np.float32)
    of_image[1] = of_image[0] + 0.01
    X = np.repeat(of_image, n_texts, axis=0)
    X += 0.1 * np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)
    same = [(i - i % n_texts, i) for i in range(len(X)) if i % n_texts]
    store = planted(images=same, X=X, label=["a", "b"] * (len(X) // 2), fold=["0", "1"] * (len(X) // 2))
    (one,) = audit(store, features="made/pair", label="label", split="fold", groups="none").found
    assert one.near.n == n_texts**2


def test_keys_read_back(made):
    """Keys of a table that was selected are those of its rows."""
    table = made.select("patient = 'p3'")
    keys = sample_keys(table, "pair")
    assert hex_from_keys(keys_from_hex(keys)) == keys.to_list()


def test_an_image_leaks_where_samples_may_lack_it(planted):
    """With missing="keep", images that only pairs show are seen too, and those of one kind of features as before."""
    store = planted(images=[(150, 151)], label=LABEL, fold=ALTERNATE)
    X = np.random.default_rng(1).standard_normal((100, 8)).astype(np.float32)
    keys = keys_from_hex(store.samples["image_key"][:100])
    spec = FeatureSpec(encoder="test:made", modality="image", dim=8, tokens="all", n_tokens=2, token_dim=4)
    with store.require_features("some/image", spec, 100).writing() as writer:
        for task in writer.plan(keys):
            writer.commit(task, BlockResult(task.rows, X[task.rows], X[task.rows].reshape(-1, 2, 4)))
    options = {"features": ["some/image", "made/pair:pooled"], "label": "label", "split": "fold", "missing": "keep"}
    quick = {"head": "merged-attention", "params": {"width": 8, "hidden": [], "epochs": 2, "blocks": 1, "heads": 2}}
    with pytest.raises(SplitError, match="the split leaks: 1 identical image on both sides"):
        fit_head(store, **options, **quick)
    run = fit_head(store, **options, **quick, allow_leakage="a test")
    assert run.metrics["leakage"]["identical_across_splits"]["image"] == 1
