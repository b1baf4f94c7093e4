"""--device: where heads are fitted does not change what a run or a sweep is."""

import json

import numpy as np
import pytest

from headwater.api import audit, evaluate, fit_head, index, open_run, similar, sweep
from headwater.errors import InputError

pytest.importorskip("torch")
from tests.pretended import in_place_of_cuda, pretended

ASKED = {"features": ["a/image"], "label": "label", "folds": 3}


@pytest.fixture
def rows(make_store):
    """A store of one input that tells a label and a number."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 90)
    X = rng.standard_normal((90, 6)) + label[:, None]
    return make_store(X, "a/image", label=label, age=X[:, 0] * 10 + 50)


@pytest.fixture
def gpu(monkeypatch):
    """A pretended device in place of a CUDA device."""
    in_place_of_cuda(monkeypatch)


@pytest.mark.parametrize("head", ["linear", "knn", "prototypes", "gda"])
def test_a_run_on_a_gpu_is_that_of_the_cpu(rows, gpu, head):
    """Selection, folds and scores are the CPU's up to the solver's tolerance, and the run says where it was fitted."""
    expected = fit_head(rows, head=head, device="cpu", **ASKED)
    with pretended():
        found = fit_head(rows, head=head, device="cuda", **ASKED)
    assert found.config["device"] == "cuda"
    assert found.metrics["folds"][0]["params"] == expected.metrics["folds"][0]["params"]
    score = [run.predictions["score_1"].to_numpy() for run in (found, expected)]
    np.testing.assert_allclose(*score, atol=2e-3)


def test_a_regression_on_a_gpu_is_that_of_the_cpu(rows, gpu):
    """Ridge regression predicts the same numbers."""
    asked = {"features": ["a/image"], "label": "age", "folds": 3, "task": "regression"}
    with pretended():
        found = fit_head(rows, device="cuda", **asked)
    expected = fit_head(rows, device="cpu", **asked)
    np.testing.assert_allclose(found.predictions["predicted"], expected.predictions["predicted"], rtol=1e-6)


def test_a_saved_head_predicts_where_it_is_loaded(rows, gpu, tmp_path, monkeypatch):
    """The files of a head do not say where it was fitted, so that a machine without a GPU can use it."""
    with pretended():
        fit_head(rows, device="cuda", out=tmp_path / "run", **ASKED)
    assert "device" not in json.loads((tmp_path / "run" / "head.json").read_text())["params"]
    monkeypatch.undo()
    assert open_run(tmp_path / "run").head.device == "auto"
    made = evaluate(tmp_path / "run", rows, label="label", allow_leakage="the same rows", device="cpu")
    assert made.config["device"] == "cpu"
    assert made.head.device == "cpu"


def test_a_head_file_that_names_a_device_is_read(rows, tmp_path):
    """A file that names a device, as earlier versions wrote it, says nothing of where the head predicts."""
    fit_head(rows, out=tmp_path / "run", **ASKED)
    path = tmp_path / "run" / "head.json"
    values = json.loads(path.read_text())
    values["params"]["device"] = "cuda"
    path.write_text(json.dumps(values))
    assert open_run(tmp_path / "run").head.device == "auto"


def test_a_sweep_goes_on_on_another_device(rows, gpu, tmp_path):
    """The cells that a sweep finished on the CPU are kept when it goes on with a GPU."""
    asked = {"features": ["a/image"], "label": "label", "folds": 3, "out": tmp_path / "sweep"}
    sweep(rows, heads=["linear"], **asked)
    written = (tmp_path / "sweep" / "runs" / "a-image.linear" / "head.json").stat().st_mtime_ns
    with pretended():
        again = sweep(rows, heads=["linear"], device="cuda", **asked)
    assert (tmp_path / "sweep" / "runs" / "a-image.linear" / "head.json").stat().st_mtime_ns == written
    assert len(again.leaderboard) == 1


def test_the_device_is_no_parameter_to_set(rows):
    """``--set device`` says which option to pass, and an unknown device which there are."""
    with pytest.raises(InputError, match="pass --device cpu"):
        fit_head(rows, params={"device": "cpu"}, **ASKED)
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        fit_head(rows, device="gpu", **ASKED)


def test_an_audit_and_a_search_on_a_gpu_are_those_of_the_cpu(rows, gpu):
    """The pairs of an audit, and the neighbours of a sample, are the same."""
    expected = audit(rows, threshold=0.4, device="cpu")
    with pretended():
        found = audit(rows, threshold=0.4, device="cuda")
        near = similar(rows, features="a/image", id=rows.samples["id"][5], device="cuda")
    assert found.pairs.drop("similarity").equals(expected.pairs.drop("similarity"))
    assert len(found.pairs)
    assert near == similar(rows, features="a/image", id=rows.samples["id"][5], device="cpu")


def test_an_index_is_built_on_a_gpu(make_store, gpu, monkeypatch):
    """Lists are trained, and recall is measured, on the GPU; the index is used where it is not."""
    pytest.importorskip("faiss")
    from tests.pretended_faiss import install

    store = make_store(np.random.default_rng(0).normal(size=(300, 8)), "a/image")
    with monkeypatch.context() as patch, pretended():
        faiss = install(patch)
        made = index(store, features="a/image", kind="ivf", device="cuda")
    assert faiss.found == made.n_vectors == 300
    assert made.recall_at_10 > 0.9
    asked = {"features": "a/image", "id": store.samples["id"][5], "k": 3}
    near, exact = similar(store, **asked, index="ivf"), similar(store, **asked)
    assert [hit.id for hit in near] == [hit.id for hit in exact]


def test_an_index_that_faiss_builds_on_no_gpu(refused, command, rows, gpu, monkeypatch):
    """``--device cuda`` with a FAISS for the CPU, or for a graph, ends in a line before anything is read."""
    faiss = pytest.importorskip("faiss")
    from tests.pretended_faiss import install

    with monkeypatch.context() as patch:
        patch.delattr(faiss, "StandardGpuResources", raising=False)
        said = refused("index", "none.hw", "--features", "a/image", "--kind", "ivf", "--device", "cuda")
    assert "uses only the CPU" in said
    install(monkeypatch)
    said = refused("index", "none.hw", "--features", "a/image", "--device", "cuda")
    assert "index of kind hnsw on the CPU. Pass --kind ivf or ivfpq, or leave --device out." in said
    with pretended():
        command("index", rows.path, "--features", "a/image", "--kind", "flat", "--device", "auto")


@pytest.mark.parametrize("name", ["fit-head", "sweep", "evaluate", "audit", "similar", "index", "zero-shot"])
def test_a_missing_gpu_is_said_before_anything_is_read(refused, monkeypatch, name):
    """``--device cuda`` on a machine without one ends in a line, even if there is no such store."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = {
        "fit-head": ["none.hw", "--features", "a/image", "--label", "label"],
        "sweep": ["none.hw", "--features", "a/image", "--label", "label", "--out", "sweep"],
        "evaluate": ["none", "none.hw", "--label", "label"],
        "audit": ["none.hw"],
        "similar": ["none.hw", "--features", "a/image", "--id", "1"],
        "index": ["none.hw", "--features", "a/image"],
        "zero-shot": ["none.hw", "--features", "a", "--prompts", "none.toml", "--label", "label"],
    }
    assert "--device cuda: " in refused(name, *arguments[name], "--device", "cuda")
