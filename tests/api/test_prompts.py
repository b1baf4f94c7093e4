"""fit-head with prompts: heads that weigh images against texts get them, others refuse them."""

import json

import numpy as np
import pytest

from headwater.api import evaluate, open_run
from headwater.embed import unique_texts

SCALE = 10.0
WORDS = {"north": "snow", "south": "sun", "west": "rain"}


@pytest.fixture
def dual(make_store, write_features, tmp_path):
    """A store of images around their classes' prompts, and the prompts file."""
    rng = np.random.default_rng(0)
    T = rng.standard_normal((3, 12)).astype(np.float32)
    codes = np.arange(90) % 3
    X = (T[codes] + 1.5 * rng.standard_normal((90, 12))).astype(np.float32)
    store = make_store(X, place=[list(WORDS)[c] for c in codes], person=[f"p{i // 3}" for i in range(90)])
    contents, _ = unique_texts(list(WORDS.values()))
    keys = np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)
    write_features(store, "made/text", T, keys, dtype="float32", logit_scale=SCALE)
    path = tmp_path / "p.toml"
    path.write_text("[classes]\n" + "\n".join(f'{k} = "{v}"' for k, v in WORDS.items()))
    return store.path, path, X, T


def words(store, *more):
    return "fit-head", store, "--features", "made/image", "--label", "place", "--groups", "person", "--folds", 3, *more


def test_a_tip_adapter_run(command, dual, tmp_path):
    """Weight and width are selected inside the training rows, and the saved head has the prompts' vectors and scale."""
    store, prompts, _, T = dual
    done = command(*words(store, "--head", "tip-adapter", "--prompts", prompts, "--out", tmp_path / "run"))
    assert done.status == 0, done.err
    run = open_run(tmp_path / "run")
    assert {"alpha", "beta"} == set(run.metrics["selection"]["final_params"])
    assert run.config["prompts"]["classes"] == {name: [word] for name, word in WORDS.items()}
    assert run.config["prompts"]["logit_scale"] == SCALE
    assert run.config["params"] == {}
    assert run.head.texts.logit_scale == SCALE
    assert np.allclose(run.head.texts.features, T / np.linalg.norm(T, axis=1, keepdims=True), atol=1e-6)
    assert run.mean["accuracy"] > 0.7


def test_the_head_is_evaluated_elsewhere(command, dual, make_store, tmp_path):
    """A run with prompts is evaluated on another store that holds images alone."""
    store, prompts, X, _ = dual
    command(
        *words(store, "--head", "tip-adapter-f", "--set", "epochs=2", "--prompts", prompts, "--out", tmp_path / "r")
    )
    other = make_store(
        X[::-1] + 0.1, path="other.hw", first_key=500, place=[list(WORDS)[i % 3] for i in range(90)][::-1]
    )
    made = evaluate(tmp_path / "r", other, label="place", groups="none")
    assert made.mean["accuracy"] > 0.7


def test_transduction_is_said(command, dual):
    """A run whose head classifies tested samples together says in its metrics what it saw of them."""
    store, prompts, *_ = dual
    done = command(*words(store, "--head", "transclip", "--prompts", prompts, "--json"))
    metrics = json.loads(done.out)
    assert "without their labels" in metrics["transduction"]["sees"]
    assert metrics["mean"]["accuracy"] > 0.7
    other = command(*words(store, "--head", "tip-adapter", "--prompts", prompts, "--json"))
    assert "transduction" not in json.loads(other.out)


def test_a_head_of_the_cpu_is_said(command, dual, monkeypatch):
    """A GPU that was requested for a head that is fitted on the CPU is not ignored in silence."""
    store, prompts, *_ = dual
    monkeypatch.setattr("headwater._devices._missing_cuda", lambda: None)
    done = command(*words(store, "--head", "tip-adapter", "--prompts", prompts, "--device", "cuda"))
    assert done.status == 0, done.err
    assert "a tip-adapter head is fitted on the CPU" in done.err
    assert "on the CPU" not in command(*words(store, "--head", "tip-adapter", "--prompts", prompts)).err


def test_seeds_are_those_of_training(command, dual):
    """--seeds gives a head that draws at random its seeds, texts and all."""
    store, prompts, *_ = dual
    extra = ("--head", "tip-adapter-f", "--set", "alpha=1", "--set", "epochs=1", "--seeds", 2, "--json")
    done = command(*words(store, "--prompts", prompts, *extra))
    assert {fold["seed"] for fold in json.loads(done.out)["folds"]} == {0, 1}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--head", "tip-adapter"), "pass --prompts FILE.toml"),
        (("--head", "tip-adapter", "--set", "texts=x", "--prompts", "PROMPTS"), "given by --prompts FILE.toml"),
        (("--head", "linear", "--prompts", "PROMPTS"), "--head linear does not take prompts"),
        (("--head", "tip-adapter", "--prompts", "nowhere.toml"), "no such file"),
    ],
)
def test_what_is_refused(refused, dual, extra, said):
    """Prompts that are missing, of no use or not there are refused in one line."""
    store, prompts, *_ = dual
    assert said in refused(*words(store, *(prompts if word == "PROMPTS" else word for word in extra)))


def test_a_label_without_prompts(refused, dual):
    """A label that the prompts say nothing of is refused by name, before anything is embedded."""
    store, prompts, *_ = dual
    prompts.write_text('[classes]\nnorth = "snow"\nsouth = "sun"\neast = "x"')
    error = refused(*words(store, "--head", "tip-adapter", "--prompts", prompts))
    assert "has no class for label 'west'. Did you mean 'east'?" in error


def test_more_than_images(refused, store, tmp_path):
    """A head that compares with texts wants one set of image features."""
    (tmp_path / "p.toml").write_text('[classes]\nlow = "pale"\nhigh = "dark"')
    options = ("--label", "grade", "--groups", "patient", "--head", "tip-adapter", "--prompts", tmp_path / "p.toml")
    error = refused("fit-head", store, "--features", "stub-16/image", "--features", "texture/image", *options)
    assert "one set of image features of a dual encoder" in error


def test_gaussians_go_with_texts_and_without(command, dual, tmp_path):
    """Shrinkage and weight of gda are selected inside the training rows; texts are added where there are prompts."""
    store, prompts, _, T = dual
    done = command(*words(store, "--head", "gda", "--prompts", prompts, "--out", tmp_path / "run"))
    assert done.status == 0, done.err
    run = open_run(tmp_path / "run")
    assert {"alpha", "shrinkage"} == set(run.metrics["selection"]["final_params"])
    assert run.trials.filter(run.trials["fold"] == 0).height == 136
    assert run.head.texts.logit_scale == SCALE
    assert np.allclose(run.head.texts.features, T / np.linalg.norm(T, axis=1, keepdims=True), atol=1e-6)
    alone = command(*words(store, "--head", "gda", "--out", tmp_path / "alone"))
    assert alone.status == 0, alone.err
    assert "prompts" not in open_run(tmp_path / "alone").config
    assert open_run(tmp_path / "alone").head.texts is None
    assert run.mean["accuracy"] > open_run(tmp_path / "alone").mean["accuracy"] - 0.05
    shrunk = command(*words(store, "--head", "gda", "--set", 'shrinkage=["ks", 0.1]', "--set", "alpha=1", "--json"))
    assert json.loads(shrunk.out)["selection"]["final_params"]["shrinkage"] in ("ks", 0.1)


def test_gaussians_can_be_swept(command, dual, tmp_path):
    """A sweep takes gda, without texts."""
    store, *_ = dual
    options = ("--features", "made/image", "--heads", "gda", "--label", "place", "--groups", "person", "--folds", 3)
    done = command("sweep", store, *options, "--out", tmp_path / "sweep")
    assert done.status == 0, done.err
    assert "gda" in done.out
