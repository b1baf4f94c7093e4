"""zero-shot: probabilities are those that the prompts' stored vectors give, and a prompt is embedded once."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from headwater.api import evaluate, open_run, zero_shot
from headwater.embed import unique_texts
from headwater.heads import ClassTexts, TransductiveZeroShot
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
    place = [list(CLASSES)[i % 3] for i in range(30)]
    mixed = ["Occident" if name == "west" and i % 2 else name for i, name in enumerate(place)]
    lists = [name.replace("Occident", "west; Occident") for name in mixed]
    store = make_store(X, place=place, mixed=mixed, lists=lists, half=["ab"[i % 2] for i in range(30)])
    texts = [t for words in CLASSES.values() for t in prompts_of(TEMPLATES, words)]
    T = rng.standard_normal((len(texts), 8)).astype(np.float32) * rng.uniform(0.1, 9, (len(texts), 1))
    write_features(store, "made/text", T, keys_of(texts), dtype="float32", logit_scale=SCALE)
    return store, X, dict(zip(texts, T, strict=True))


def test_a_label_that_an_expression_defines(dual, tmp_path):
    """An expression may give the class that the prompts name."""
    store, *_ = dual
    asked = {"features": "made", "prompts": toml(tmp_path / "p.toml", TEMPLATES, CLASSES)}
    run = zero_shot(store, label="where_it_is = LOWER(UPPER(place))", **asked)
    assert run.config["label_sql"] == {"where_it_is": "LOWER(UPPER(place))"}
    assert run.predictions["label"].to_list() == zero_shot(store, label="place", **asked).predictions["label"].to_list()


def test_labels_that_mean_the_same_are_merged(dual, command, tmp_path):
    """Merged labels are those that prompts describe, of one label per sample and of several."""
    store, *_ = dual
    prompts = toml(tmp_path / "p.toml")
    plain = zero_shot(store, features="made", prompts=prompts, label="place")
    run = zero_shot(store, features="made", prompts=prompts, label="mixed", merge={"Occident": "west"})
    assert (run.mean, run.config["merge"]) == (plain.mean, {"Occident": "west"})
    several = zero_shot(
        store, features="made", prompts=prompts, label="lists", label_separator=";", merge={"Occident": "west"}
    )
    assert several.metrics["classes"] == list(CLASSES)
    assert several.predictions["label"].to_list() == [[name] for name in plain.predictions["label"]]
    asked = ["--features", "made", "--prompts", prompts, "--label", "mixed"]
    done = command("zero-shot", store.path, *asked, "--merge", "Occident=west", "--json")
    assert json.loads(done.out)["mean"]["accuracy"] == plain.mean["accuracy"]
    assert "no class for label 'Occident'" in command("zero-shot", store.path, *asked).error


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


# Several labels


def test_several_labels(command, make_store, write_features, tmp_path):
    """Scores of labels are their softmax over all described labels, one that no sample has included."""
    rng = np.random.default_rng(0)
    X, T = rng.standard_normal((40, 8)).astype(np.float32), rng.standard_normal((5, 8)).astype(np.float32)
    names = ["e", "a", "d", "b", "never"]
    near = np.argsort(-X @ T[:4].T, axis=1)[:, :3]
    store = make_store(X, found=["; ".join(names[c] for c in row) for row in near])
    write_features(
        store, "made/text", T, keys_of([f"an image of {n}" for n in names]), dtype="float32", logit_scale=5.0
    )
    path = toml(tmp_path / "p.toml", ["an image of {}"], {name: name for name in names})
    words = ("zero-shot", store.path, "--features", "made", "--label", "found", "--label-separator", ";")
    done = command(*words, "--prompts", path, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    run = open_run(tmp_path / "run")
    order = np.argsort(names)
    p = expected(X.astype(np.float64), [T[[c]].astype(np.float64) for c in order], 5.0)
    found = run.predictions.select([f"score_{names[c]}" for c in order]).to_numpy()
    assert np.allclose(found, p, atol=1e-6)
    truth = np.array([[names[c] in {names[i] for i in row} for c in order] for row in near])
    top = np.argsort(-p, axis=1)[:, :3]
    hits = np.take_along_axis(truth, top, axis=1).sum(1)
    for least in (1, 2, 3):
        assert run.mean[f"top3_{least}"] == pytest.approx((hits >= least).mean())
    assert run.mean["auc_micro"] == pytest.approx(roc_auc_score(truth.ravel(), p.ravel()))
    assert run.metrics["classes_without_samples"] == ["never"]
    assert "rank labels" in run.metrics["scores"]
    assert "top3_3" in done.out


def test_columns_of_labels(command, make_store, write_features, tmp_path):
    """Labels in columns of 0 and 1 give what the same labels in a list give, and such a run is evaluated elsewhere."""
    X = np.eye(4, dtype=np.float32).repeat(2, 0)
    columns = {"b": [1, 1, 0, 0, 1, 0, 0, 1], "a": [0, 1, 1, 1, 0, 1, 1, 0]}
    listed = [";".join(name for name in ("b", "a") if columns[name][i]) for i in range(8)]
    store = make_store(X, **columns, listed=listed)
    write_features(store, "made/text", np.eye(4, dtype=np.float32)[:2], keys_of(["a", "b"]), dtype="float32")
    path = toml(tmp_path / "p.toml", ["{}"], {"a": "a", "b": "b"})
    words = ("zero-shot", store.path, "--features", "made", "--prompts", path, "--json")
    one = command(*words, "--label", "b", "--label", "a", "--out", tmp_path / "run")
    other = command(*words, "--label", "listed", "--label-separator", ";")
    assert json.loads(one.out)["mean"] == json.loads(other.out)["mean"]
    made = evaluate(tmp_path / "run", store, label=["b", "a"])
    assert made.mean["auc_micro"] == json.loads(one.out)["mean"]["auc_micro"]


# Together


@pytest.fixture
def shifted(make_store, write_features, tmp_path):
    """Images in clusters, and prompts that point aside; three images a person."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((3, 128))
    codes = np.arange(180) % 3
    X = (centres[codes] + 1.5 * rng.standard_normal((180, 128))).astype(np.float32)
    T = (centres + 3 * rng.standard_normal((3, 128))).astype(np.float32)
    store = make_store(X, place=[list(CLASSES)[c] for c in codes], person=[f"p{i // 3}" for i in range(180)])
    write_features(store, "made/text", T, keys_of(list(CLASSES)), dtype="float32", logit_scale=10.0)
    return store, toml(tmp_path / "p.toml", ["{}"], {name: name for name in CLASSES}), X, T


def test_classified_together(command, shifted, tmp_path):
    """Together is better than one by one on clusters; the run says what was seen, and both numbers."""
    store, path, X, T = shifted
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--prompts", path)
    alone = command(*words, "--out", tmp_path / "alone")
    done = command(*words, "--transductive", "--out", tmp_path / "run")
    assert alone.status == done.status == 0, done.err
    run, before = open_run(tmp_path / "run"), open_run(tmp_path / "alone")
    section = run.metrics["transduction"]
    assert "without their labels" in section["sees"]
    assert "features of all test samples" in run.metrics["selection"]["note"]
    assert section["zero_shot"]["accuracy"] == before.mean["accuracy"]
    assert run.mean["accuracy"] > before.mean["accuracy"] + 0.03
    changed = (run.predictions["predicted"] != before.predictions["predicted"]).mean()
    assert section["changed"] == pytest.approx(changed)
    assert "one by one" in done.out
    texts = ClassTexts(T, tuple(CLASSES), 10.0)
    assert run.head.predict_proba(X) == pytest.approx(TransductiveZeroShot(texts).predict_proba(X), abs=1e-4)


def test_the_labels_stay_unseen(command, shifted, tmp_path):
    """Other labels of the same images leave every probability as it was."""
    store, path, *_ = shifted
    words = ("zero-shot", store.path, "--features", "made", "--prompts", path, "--transductive")
    command(*words, "--label", "place", "--out", tmp_path / "one")
    table = store.samples.with_columns(pl.col("place").shuffle(seed=0))
    store.write_samples(table, store.roles)
    command(*words, "--label", "place", "--out", tmp_path / "other")
    one, other = (open_run(tmp_path / name).predictions for name in ("one", "other"))
    assert not one["label"].equals(other["label"])
    assert one.drop("label").equals(other.drop("label"))


def test_a_transductive_run_elsewhere(command, shifted, tmp_path):
    """Evaluated on other samples, the head classifies those together, and the run says so."""
    store, path, *_ = shifted
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--prompts", path)
    command(*words, "--transductive", "--out", tmp_path / "run")
    made = evaluate(tmp_path / "run", store, label="place", groups="none", where="person < 'p4'")
    assert "without their labels" in made.metrics["transduction"]["sees"]


# Ablation


def ablation_of(command, store, path, *more):
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--prompts", path, "--ablate")
    done = command(*words, "--draws", 300, *more, "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_every_wording(command, dual, tmp_path):
    """Each template alone, each descriptor alone and left out, and the mean of probabilities are measured."""
    store, X, vectors = dual
    found = ablation_of(command, store, toml(tmp_path / "p.toml"))["ablation"]
    by_kind = Counter(entry["kind"] for entry in found["wordings"])
    assert by_kind == {"ensemble": 1, "probabilities": 1, "template": 2, "only": 5, "without": 3}
    assert found["n_comparisons"] == 11
    assert "selection on the test labels" in found["warning"]
    truth = np.arange(30) % 3
    X = X.astype(np.float64)

    def accuracy(p):
        return (p.argmax(1) == truth).mean()

    def of(templates, **words):
        chosen = {c: words.get(c, CLASSES[c]) for c in CLASSES}
        prompts = [np.stack([vectors[t] for t in prompts_of(templates, chosen[c])]) for c in CLASSES]
        return accuracy(expected(X, prompts, SCALE))

    entries = {(e["kind"], e["template"], e["class"], e["descriptor"]): e["metrics"] for e in found["wordings"]}
    assert entries["ensemble", None, None, None]["accuracy"] == pytest.approx(of(TEMPLATES))
    for template in TEMPLATES:
        assert entries["template", template, None, None]["accuracy"] == pytest.approx(of([template]))
    for word in CLASSES["west"]:
        assert entries["only", None, "west", word]["accuracy"] == pytest.approx(of(TEMPLATES, west=[word]))
        rest = [w for w in CLASSES["west"] if w != word]
        assert entries["without", None, "west", word]["accuracy"] == pytest.approx(of(TEMPLATES, west=rest))
    every = [np.stack([vectors[t] for t in prompts_of(TEMPLATES, words)]) for words in CLASSES.values()]
    cosine = [
        (X / np.linalg.norm(X, axis=1, keepdims=True)) @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T for v in every
    ]
    mixture = np.stack([np.exp(SCALE * c).mean(1) for c in cosine], axis=1)
    assert entries["probabilities", None, None, None]["accuracy"] == pytest.approx(accuracy(mixture))


def test_differences_are_paired(command, dual, tmp_path):
    """Differences are to all prompts, in intervals of the same draws; p values are Holm's; the best comes first."""
    store, X, vectors = dual
    metrics = ablation_of(command, store, toml(tmp_path / "p.toml"), "--metric", "accuracy", "--seed", 4)
    found = metrics["ablation"]
    values = [entry["metrics"]["accuracy"] for entry in found["wordings"]]
    assert values == sorted(values, reverse=True)
    (whole,) = (entry for entry in found["wordings"] if entry["kind"] == "ensemble")
    others = [entry for entry in found["wordings"] if entry is not whole]
    assert "differences" not in whole
    for entry in others:
        change = entry["differences"]["accuracy"]
        assert change["difference"] == pytest.approx(entry["metrics"]["accuracy"] - whole["metrics"]["accuracy"])
        assert change["low"] <= change["difference"] <= change["high"]
    p = [entry["differences"]["accuracy"] for entry in others]
    assert [c["p_holm"] for c in p] == pytest.approx(holms([c["p"] for c in p]).tolist())
    # by hand, for one of them: right or wrong in each draw of samples
    template = next(entry for entry in others if entry["template"] == TEMPLATES[0])
    sides = [
        [np.stack([vectors[t] for t in prompts_of(some, w)]) for w in CLASSES.values()]
        for some in (TEMPLATES[:1], TEMPLATES)
    ]
    right = [expected(X.astype(np.float64), side, SCALE).argmax(1) == np.arange(30) % 3 for side in sides]
    drawn = np.random.default_rng(4).multinomial(29, [1 / 30] * 30, 300) @ (right[0].astype(float) - right[1]) / 29
    change = template["differences"]["accuracy"]
    assert (change["low"], change["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def holms(p):
    """Holm's correction as its definition has it."""
    order, out, least = np.argsort(p), np.empty(len(p)), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        out[i] = least
    return out


def test_patients_are_what_is_drawn(command, make_store, write_features, tmp_path):
    """With groups, intervals are by group, and a patient column is not passed over in silence."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10, 6)).astype(np.float32).repeat(6, 0)  # six like images of each patient
    store = make_store(X, place=["ab"[i // 6 % 2] for i in range(60)], patient=[f"p{i // 6}" for i in range(60)])
    T = rng.standard_normal((4, 6)).astype(np.float32)
    write_features(store, "made/text", T, keys_of(["a one", "b one", "a two", "b two"]), dtype="float32")
    path = toml(tmp_path / "p.toml", ["{} one", "{} two"], {"a": "a", "b": "b"})
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--prompts", path, "--ablate")
    assert "--groups patient" in command(*words).error

    def width(*more):
        found = ablation_of(command, store, path, "--metric", "log_loss", *more)["ablation"]
        (entry,) = (e for e in found["wordings"] if e["template"] == "{} one")
        change = entry["differences"]["log_loss"]
        return change["high"] - change["low"], found["drawn"]

    (by_patient, drawn), (by_sample, other) = width("--groups", "patient"), width("--groups", "none")
    assert (drawn, other) == ("group", "sample")
    assert by_patient > 1.8 * by_sample


def test_the_printed_table(command, dual, tmp_path):
    """In print every wording has a line with its difference, and a warning follows."""
    store, *_ = dual
    words = ("zero-shot", store.path, "--features", "made", "--label", "place", "--ablate", "--draws", 100)
    out = command(*words, "--prompts", toml(tmp_path / "p.toml")).out
    for line in (
        "all prompts, mean vector",
        "template 'a photo of {}.' alone",
        "west: without 'fog'",
        "north: 'snow' alone",
    ):
        assert line in out
    assert (
        "11 comparisons: choosing the best wording here is selection on the test labels, so its result is optimistic"
        in out
    )


def test_wordings_of_labels(command, make_store, write_features, tmp_path):
    """Wordings are measured for several labels too, by micro AUC."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 6)).astype(np.float32)
    store = make_store(X, place=[("a;b", "b", "a;c", "c")[i % 4] for i in range(30)])
    T = rng.standard_normal((6, 6)).astype(np.float32)
    write_features(store, "made/text", T, keys_of([f"{n} {t}" for n in "abc" for t in ("one", "two")]), dtype="float32")
    path = toml(tmp_path / "p.toml", ["{} one", "{} two"], {n: n for n in "cab"})
    metrics = ablation_of(command, store, path, "--label-separator", ";")
    assert metrics["ablation"]["metric"] == "auc_micro"
    (whole,) = (e for e in metrics["ablation"]["wordings"] if e["kind"] == "ensemble")
    assert {name: metrics["folds"][0][name] for name in whole["metrics"]} == whole["metrics"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--ablate", "--transductive"), "--ablate goes without --transductive"),
        (("--metric", "auc"), "--metric goes with --ablate"),
        (("--draws", "300"), "--draws goes with --ablate"),
        (("--seed", "1"), "--seed goes with --ablate"),
        (("--ablate", "--metric", "acuracy"), "Did you mean 'accuracy'"),
        (("--ablate", "--draws", "10"), "--draws must be at least 100"),
        (("--label-separator", "o", "--transductive"), "--transductive needs one class per sample"),
    ],
)
def test_options_that_do_not_go_together(refused, make_store, write_features, tmp_path, extra, said):
    """Options that contradict each other, or the task, are refused in one line."""
    store = make_store(np.eye(4), place=["xoy", "x", "y", "x"])
    if "--label-separator" not in extra:
        store.write_samples(store.samples.with_columns(place=pl.Series(list("xyxy"))), store.roles)
    write_features(store, "made/text", np.eye(4, dtype=np.float32)[:2], keys_of(["x", "y"]), dtype="float32")
    path = toml(tmp_path / "p.toml", ["{}"], {"x": "x", "y": "y"})
    error = refused("zero-shot", store.path, "--features", "made", "--label", "place", "--prompts", path, *extra)
    assert said in error


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


def test_classes_are_printed_and_missing_ones_left_out(dual, command, tmp_path):
    """The classes stand with their samples and groups; NA is no class that prompts lack, unless that is asked for."""
    store, _, _ = dual
    place = pl.Series("place", ["NA" if i < 6 else list(CLASSES)[i % 3] + " " * (i % 2) for i in range(30)])
    who = pl.Series("who", [f"p{i // 5}" for i in range(30)])
    with store.changing():
        store.write_samples(store.samples.with_columns(place, who), store.roles)
    prompts = toml(tmp_path / "p.toml")
    words = ("zero-shot", store.path, "--features", "made", "--prompts", prompts, "--label", "place", "--groups", "who")
    done = command(*words, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    metrics = open_run(tmp_path / "run").metrics
    assert metrics["left_out"] == {"no place": 6}
    assert [(part["name"], part["n_samples"]) for part in metrics["class_counts"]] == [
        ("north", 8),
        ("south", 8),
        ("west", 8),
    ]
    assert "missing: place: NA in 6" in done.out
    assert [line.split() for line in done.out.splitlines()].count(
        ["class", "samples", "groups", "precision", "recall", "f1", "auc"]
    ) == 1
    assert "NA" in command(*words, "--missing-values", "").error
