"""The script that a machine with a GPU runs unattended works here, at tiny sizes, on the CPU."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    for name in ("torch", "torchvision", "timm"):
        pytest.importorskip(name)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("gpu")


@pytest.fixture
def bench(script, tmp_path):
    return script.Bench("cpu", script.TINY, tmp_path)


@pytest.mark.slow
def test_every_row_is_measured(tmp_path):
    """Each part gives rows with two positive sides, and nothing is left out."""
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left"] == {}
    assert len(found["rows"]) >= 26
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in found["rows"])
    rule = [row["also"] for row in found["rows"] if "operations" in row["also"]]
    assert {one["head"] for one in rule} >= {"linear", "ridge", "knn"}
    for one in rule:
        share = one["operations"] / one["rule"]
        assert min(abs(share / asked - 1) for asked in (1e-5, 3e-5, 1e-4)) < 0.1


@pytest.mark.slow
def test_a_row_without_time_is_said(tmp_path):
    """Rows for which no time is left are named, and those before are kept."""
    command = [
        sys.executable,
        str(SCRIPT),
        "--tiny",
        "--device",
        "cpu",
        "--minutes",
        "0",
        "--rows",
        "perceptrons",
        "feed",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "feed: not measured (no time was left)" in done.stdout


def test_what_cannot_be_measured_takes_no_other_row_with_it(script, bench, monkeypatch, capsys):
    """Memory that runs out, a missing package and a row that takes too long are said in one line each."""

    def full(_):
        yield script.Row("first", "another", "s", 1.0, 2.0, None)
        raise script.torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    def lacking(_):
        raise ModuleNotFoundError("No module named 'peft'")

    def slow(_):
        while True:
            time.sleep(0.01)

    def good(_):
        yield script.Row("last", "another", "s", 1.0, 2.0, 1.5)

    rows = {"full": full, "lacking": lacking, "slow": slow, "good": good}
    monkeypatch.setattr(script, "ROWS", rows)
    monkeypatch.setattr(script, "LIMITS", dict.fromkeys(rows, 1))
    saved = []
    found = script.measured(bench, list(rows), 60, lambda found: saved.append(json.dumps(found)))
    assert [row["name"] for row in found["rows"]] == ["first", "last"]
    assert found["left"] == {
        "full": "OutOfMemoryError: CUDA out of memory.",
        "lacking": "ModuleNotFoundError: No module named 'peft'",
        "slow": "TimeoutError: it took more than 1 s",
    }
    assert json.loads(saved[-1]) == found
    assert found["seconds"]["slow"] < 3
    said = capsys.readouterr()
    assert "full: not measured (OutOfMemoryError: CUDA out of memory.)" in said.out
    assert said.err == ""


def test_a_row_that_might_end_too_late_is_not_begun(script, bench, monkeypatch):
    """Rows whose limit exceeds the time that is left are named; shorter ones after them are measured."""

    def row(_):
        yield script.Row("a row", "another", "s", 1.0, 2.0, None)

    monkeypatch.setattr(script, "ROWS", dict.fromkeys("abc", row))
    monkeypatch.setattr(script, "LIMITS", {"a": 100, "b": 61, "c": 10})
    found = script.measured(bench, ["a", "b", "c"], 60, lambda found: None)
    assert found["left"] == {"b": "no time was left"}
    assert len(found["rows"]) == 2


def test_the_default_rows_end_within_eight_minutes(script):
    """Each row has a limit, and none is longer than a quarter of the time."""
    assert script.LIMITS.keys() == script.ROWS.keys()
    assert max(script.LIMITS.values()) <= 120


def test_sides_without_their_package_are_skipped(script, bench, monkeypatch, capsys):
    """The other heads, and the other side of a search, are measured without XGBoost and FAISS, and that is said."""
    found_at = script.find_spec
    monkeypatch.setattr(script, "find_spec", lambda name: None if name in ("faiss", "xgboost") else found_at(name))
    heads = {row.also["head"] for row in script.worthwhile(bench)}
    assert heads == {"linear", "ridge", "knn"}
    (row,) = script.search(bench)
    assert row.also["recall_of_the_bare_product"] > 0.9
    assert bench.skipped == {
        "worthwhile: xgboost": "xgboost is not installed",
        "search: against FAISS": "faiss is not installed",
    }
    assert "xgboost is not installed" in capsys.readouterr().out


def test_the_decoder_is_trained(script, bench, monkeypatch):
    """Adapters of the language model's layers are trained, and gradients are checkpointed in the second half."""
    pytest.importorskip("peft")
    steps, models, checkpointed = importlib.import_module("fine_tune_step"), [], []
    made, timed = steps.adapted_model, steps.ours

    def adapted_model(*args):
        models.append(made(*args))
        return models[-1]

    def ours(model, *args):
        parts = model.adapted[0].encoder.module.modules()
        checkpointed.append(any(getattr(part, "gradient_checkpointing", False) for part in parts))
        return timed(model, *args)

    monkeypatch.setattr(steps, "adapted_model", adapted_model)
    monkeypatch.setattr(steps, "ours", ours)
    rows = list(script.decoder(bench))
    assert [row.unit for row in rows] == ["s", "GB"] * 2
    assert "checkpoints" in rows[2].name
    assert checkpointed == [False] * 2 + [True] * 2
    (model,) = models
    assert all(name.startswith("language_model.layers.") for name in model.adapted[0].trained)
    shape = script.QWEN2_VL_2B
    assert (shape.text["num_hidden_layers"], shape.text["hidden_size"], shape.vision["depth"]) == (28, 1536, 32)
