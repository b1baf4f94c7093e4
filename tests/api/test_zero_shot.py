"""zero-shot: probabilities are those that the prompts' stored vectors give, and a prompt is embedded once."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.api import open_run
from headwater.embed import unique_texts
from headwater.store import open_store

DATA = Path(__file__).parents[3] / "shared" / "data" / "clip_pathmnist"
TEMPLATES = ["a photo of {}.", "{}, stained"]
CLASSES = {"north": ["snow", "ice and {frost}"], "south": ["sun"], "west": ["rain", "wind", "fog"]}
SCALE = 40.0


def toml(path, templates=TEMPLATES, classes=CLASSES):
    """Write a prompts file."""
    lines = [f"templates = {json.dumps(templates)}", "[classes]"]
    path.write_text("\n".join([*lines, *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in classes.items())]))
    return path


def prompts_of(templates, words):
    return [template.replace("{}", word) for template in templates for word in words]


def keys_of(texts):
    contents, _ = unique_texts(texts)
    return np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)


def expected(images, prompts, scale):
    """Softmax of scaled cosines to the mean of each class's unit prompts, from the arrays alone."""
    means = []
    for vectors in prompts:
        mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(0)
        means.append(mean / np.linalg.norm(mean))
    logits = scale * (images / np.linalg.norm(images, axis=1, keepdims=True)) @ np.stack(means).T
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.fixture
def dual(make_store, write_features):
    """A store of vectors of images and of every prompt, by an encoder that cannot be loaded."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 8)).astype(np.float32)
    store = make_store(X, place=[list(CLASSES)[i % 3] for i in range(30)], half=["ab"[i % 2] for i in range(30)])
    texts = [t for words in CLASSES.values() for t in prompts_of(TEMPLATES, words)]
    T = rng.standard_normal((len(texts), 8)).astype(np.float32) * rng.uniform(0.1, 9, (len(texts), 1))
    write_features(store, "made/text", T, keys_of(texts), dtype="float32", logit_scale=SCALE)
    return store, X, dict(zip(texts, T, strict=True))


def test_probabilities(command, dual, tmp_path):
    """Each class is the mean of its unit prompts, each template filled with each descriptor; cosines are scaled."""
    store, X, vectors = dual
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--out", tmp_path / "run")
    assert command(*words, "--prompts", toml(tmp_path / "p.toml")).status == 0
    run = open_run(tmp_path / "run")
    prompts = [np.stack([vectors[t] for t in prompts_of(TEMPLATES, words)]) for words in CLASSES.values()]
    p = expected(X.astype(np.float64), prompts, SCALE)
    found = run.predictions.select([f"score_{name}" for name in CLASSES]).to_numpy()
    assert np.allclose(found, p, atol=1e-6)
    assert run.predictions["predicted"].to_list() == [list(CLASSES)[c] for c in p.argmax(1)]
    assert np.allclose(run.head.predict_proba(X), p, atol=1e-5)


def test_the_run(command, dual, tmp_path):
    """The run says that nothing was fitted, holds the prompts, and tests every sample."""
    store, *_ = dual
    words = ("zero-shot", store.path, "--features", "made/image", "--label", "place", "--by", "half", "--json")
    done = command(*words, "--prompts", toml(tmp_path / "p.toml"), "--out", tmp_path / "run")
    metrics = json.loads(done.out)
    assert metrics["task"] == "multiclass"
    assert [(f["n_train"], f["n_test"], f["params"]) for f in metrics["folds"]] == [(0, 30, {})]
    assert "nothing was fitted" in metrics["selection"]["note"]
    assert set(metrics["by"]["levels"]) == {"a", "b"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["prompts"] == {"templates": TEMPLATES, "classes": CLASSES}
    assert config["logit_scale"] == SCALE


def test_a_class_that_no_sample_has(command, dual, tmp_path):
    """Metrics that need a class which only the prompts have are named in print, with the class; also in the run."""
    store, *_ = dual
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--where", "place <> 'west'")
    done = command(*words, "--prompts", toml(tmp_path / "p.toml"), "--out", tmp_path / "run")
    (line,) = [line for line in done.out.splitlines() if line.startswith("not defined")]
    assert line.startswith("not defined: balanced_accuracy, f1_macro, auc")
    assert "there are none of 'west'" in line
    assert open_run(tmp_path / "run").metrics["classes_without_samples"] == ["west"]


def test_labels_that_are_numbers(command, make_store, write_features, tmp_path):
    """A label column of numbers is compared with the prompts file as words."""
    store = make_store(np.eye(4), label=[0, 1, 0, 1])
    write_features(store, "made/text", np.eye(4, dtype=np.float32)[:2], keys_of(["zero", "one"]), dtype="float32")
    path = toml(tmp_path / "p.toml", ["{}"], {"1": "one", "0": "zero"})
    words = ("zero-shot", store.path, "--features", "made", "--label", "label", "--prompts", path)
    assert command(*words, "--out", tmp_path / "run").status == 0
    assert open_run(tmp_path / "run").predictions["predicted"].to_list()[:2] == ["0", "1"]


def test_a_prompt_is_embedded_once(command, store, tmp_path, files_of):
    """Prompts that the store lacks are embedded and kept there; the same prompts again change no file."""
    words = ("zero-shot", store, "--features", "stub-16", "--label", "grade", "--prompts", tmp_path / "p.toml")
    captions = open_store(store).features("stub-16/text").n_items
    toml(tmp_path / "p.toml", ["{} tissue"], {"low": "pale", "high": "dark"})
    assert command(*words).status == 0
    assert open_store(store).features("stub-16/text").n_items == captions + 2
    before = files_of(store)
    assert command(*words).status == 0
    assert files_of(store) == before


def test_texts_of_the_manifest_are_prompts_too(command, store, tmp_path, files_of):
    """A prompt that stands in the manifest as a text has its features already."""
    before = files_of(store)
    toml(tmp_path / "p.toml", ["{} tissue, field 1"], {"low": "smooth", "high": "rough"})
    words = ("zero-shot", store, "--features", "stub-16", "--label", "grade", "--prompts", tmp_path / "p.toml")
    assert command(*words).status == 0
    assert files_of(store) == before


def test_a_store_of_images_alone(command, gallery, tmp_path):
    """Where only images were embedded, the prompts begin the encoder's text features."""
    from headwater.api import embed

    table = pl.read_csv(gallery / "manifest.csv").drop("caption")
    table = table.with_columns(image=pl.lit(f"{gallery}/") + pl.col("image"))
    table.write_csv(tmp_path / "manifest.csv")
    embed(tmp_path / "manifest.csv", tmp_path / "a.hw", encoder="stub:8")
    toml(tmp_path / "p.toml", ["{}"], {"low": "pale", "high": "dark"})
    words = ("zero-shot", tmp_path / "a.hw", "--features", "stub-8", "--label", "grade")
    assert command(*words, "--prompts", tmp_path / "p.toml").status == 0
    assert open_store(tmp_path / "a.hw").feature_names() == ["stub-8/image", "stub-8/text"]


def test_images_and_words_of_different_encoders(command, make_store, write_features, tmp_path):
    """Image and text features under one name, but by two encoders, are not compared."""
    store = make_store(np.eye(4), label=list("abab"))
    write_features(store, "made/text", np.eye(4, dtype=np.float32), keys_of(["a", "b", "c", "d"]), encoder="test:other")
    path = toml(tmp_path / "p.toml", ["{}"], {"a": "a", "b": "b"})
    done = command("zero-shot", store.path, "--features", "made", "--label", "label", "--prompts", path)
    assert done.status == 1
    assert "one dual encoder" in done.error


def test_published_embeddings(command, make_store, write_features, tmp_path):
    """On published CLIP embeddings of tissue and of prompts, the probabilities are those of the arrays."""
    if not DATA.exists():
        pytest.skip("the CLIP embeddings of PathMNIST are not here")
    X = np.load(DATA / "image_embeddings.npy").astype(np.float32)
    T = np.load(DATA / "prompt_embeddings.npy").astype(np.float32)
    entries = json.loads((DATA / "prompt_map.json").read_text())
    rows = [i for i, e in enumerate(entries) if e["family"] == "clinical" and e["synonym"] == e["label_name"]]
    templates = sorted({entries[i]["template"] for i in rows})
    names = sorted({entries[i]["label_name"] for i in rows})
    store = make_store(X, label=[names[i % len(names)] for i in range(len(X))])
    texts = [entries[i]["template"].replace("{label}", entries[i]["label_name"]) for i in rows]
    write_features(store, "made/text", T[rows], keys_of(texts), dtype="float32")
    path = toml(tmp_path / "p.toml", [t.replace("{label}", "{}") for t in templates], {name: name for name in names})
    words = ("zero-shot", store.path, "--features", "made", "--label", "label", "--prompts", path)
    assert command(*words, "--out", tmp_path / "run").status == 0
    prompts = [np.stack([T[i] for i in rows if entries[i]["label_name"] == n]) for n in names]
    found = open_run(tmp_path / "run").predictions.select([f"score_{name}" for name in names]).to_numpy()
    assert np.allclose(found, expected(X.astype(np.float64), prompts, 100.0), atol=1e-6)
