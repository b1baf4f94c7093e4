"""info, verify and demo: what a newcomer looks at."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from headwater.api import demo, info, open_run, verify
from headwater.errors import InputError
from headwater.store import create_store, open_store


def test_info(command, store):
    """info says how many samples there are, which columns, and for each feature set its shape, size and encoder."""
    lines = command("info", store).out.splitlines()
    assert lines[0] == f"{store}: 48 samples"
    assert lines[1].startswith("  columns: id, image, patient")
    assert [line.split()[0] for line in lines[2:]] == ["ngram/text", "stub-16/image", "stub-16/text", "texture/image"]
    assert "14 x 512 float16" in lines[2]
    assert lines[2].endswith("builtin:ngram")
    assert command("info", store, "--failed").out.splitlines()[-1] == "nothing failed"


def test_info_as_json(command, store):
    """With --json, the same as JSON and nothing else."""
    value = json.loads(command("info", store, "--json").out)
    assert value["n_samples"] == 48
    assert value["features"]["texture/image"]["stored"] == 48
    assert value["features"]["texture/image"]["encoder"] == "builtin:texture"
    assert value["failed"] == {}


def test_info_of_an_empty_store(tmp_path, command):
    """A store that nothing was embedded into yet is described as such."""
    create_store(tmp_path / "a.hw")
    done = command("info", tmp_path / "a.hw")
    assert (done.status, done.out) == (0, f"{tmp_path / 'a.hw'}: 0 samples\n")


def test_info_counts_what_is_to_do(make_store):
    """Items that were given a row, but whose block was never finished, are counted as to do."""
    store = make_store(np.eye(200, 4))
    journal = store.features("made/image").journal.path
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))  # the last block is lost
    found = info(store).features["made/image"]
    assert (found["items"], found["stored"], found["to_do"]) == (200, 192, 8)
    assert any("8 items to do" in line for line in info(store).lines())


def test_items_that_no_sample_has(make_store):
    """A failed item that the samples no longer hold is listed under its key, and not counted as a sample."""
    store = make_store(np.eye(4))
    from headwater.store import BlockResult

    features = store.features("made/image")
    key = np.full((1, 16), 9, np.uint8)
    with features.writing() as writer:
        (task,) = writer.plan(key)
        writer.commit(task, BlockResult(task.rows, np.zeros((1, 4), np.float32), failed={int(task.rows[0]): "gone"}))
    found = info(store)
    assert (found.failed, found.unlisted) == ({}, {"made/image": {"09" * 16: "gone"}})
    assert not any("sample failed" in line for line in found.lines())
    heading = "not in the samples, failed in made/image:"
    assert found.lines(failed=True)[-2:] == [heading, f"  {'09' * 16}  gone"]


def test_a_sample_that_failed_twice(command, images):
    """A sample that failed in two feature sets is one sample that failed; an item of two samples is two."""
    for name in ("02.png", "03.png"):
        (images / "images" / name).write_bytes(b"no image")
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    for name in ("one", "two"):
        command(*words, "--name", name)
    lines = command("info", images / "a.hw").out.splitlines()
    assert lines[-1].startswith("2 samples failed")


def test_verify(command, store):
    """verify says that all is well; after one byte of one block changed, what differs and where, with status 1."""
    done = command("verify", store)
    assert (done.status, done.out) == (0, f"{store}: all checksums match\n")
    chunk = store / "features.zarr" / "texture" / "image" / "pooled" / "c.0.0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    done = command("verify", store)
    assert done.status == 1
    assert done.out.splitlines()[0] == "texture/image: block 0 of pooled differs from its checksum"
    assert verify(open_store(store)) == done.out.splitlines()[:1]
    assert json.loads(command("verify", store, "--json").out)["problems"] == done.out.splitlines()[:1]


@pytest.mark.parametrize(
    "words",
    [("--weights", "w.pt"), ("--trust-remote-code",), ("--device", "cpu"), ("--batch-size", 2), ("--workers", 2)],
)
def test_options_of_a_repair_need_it(refused, command, store, words):
    """An option for embedding again is refused without --repair; with it, code of a model is warned of."""
    said = "goes with --repair, which embeds damaged blocks again."
    assert refused("verify", store, *words).endswith(f": {words[0]} {said}")
    done = command("verify", store, "--repair", *words)
    assert done.status == 0
    assert ("will run with your rights" in done.err) == (words == ("--trust-remote-code",))


@pytest.mark.usefixtures("quick_texture")
def test_demo(tmp_path):
    """The demonstration makes images, a store and three runs, in a folder of its own making that is made anew."""
    out = tmp_path / "demo"
    out.mkdir()
    for name in ("made-by-headwater-demo", "left-over"):
        (out / name).touch()
    said = []
    result = demo(out, n_patients=6, progress=said.append)
    assert not (out / "left-over").exists()
    assert verify(out / "demo.hw") == []
    assert list(result.runs) == ["image", "text", "image + text"]
    assert all(open_run(run.path).metrics == run.metrics for run in result.runs.values())
    assert any("fit-head" in line for line in said)
    if find_spec("matplotlib") is not None:
        assert result.report == out / "report.html"
        assert "Adding the text to the image" in result.report.read_text()
    lines = "\n".join(result.lines())
    for words in ("image + text", "accuracy", "Most similar to", "±", "headwater serve", "report"):
        assert words in lines


@pytest.mark.usefixtures("quick_texture")
def test_demo_of_mammograms(tmp_path, command):
    """The demonstration on mammograms makes texts, three runs with an ablation, and says what missing values tell."""
    done = command("demo", "--kind", "mammography", "--patients", "8", "--out", tmp_path / "demo")
    assert done.status == 0, done.err
    for words in ("32 synthetic mammograms", "image + text", "without family_history", "shuffled pairs", "Next steps"):
        assert words in done.out
    runs = {name: open_run(tmp_path / "demo" / "runs" / name) for name in ("image", "text", "image-and-text")}
    controls = runs["image-and-text"].metrics["controls"]
    assert [part["column"] for part in controls.values() if part["kind"] == "without"] == [
        *("age", "density", "implant", "family_history", "previous_biopsy"),
    ]
    assert runs["text"].metrics["text_template"]["column"] == "report"
    assert verify(tmp_path / "demo" / "demo.hw") == []
    again = demo(tmp_path / "demo", kind="mammography", n_patients=8)
    assert {name: run.metrics["mean"] for name, run in again.runs.items()} == {
        name.replace("-and-", " + "): run.metrics["mean"] for name, run in runs.items()
    }


def test_demo_of_something_else(tmp_path):
    """An unknown kind of demonstration is refused before a folder is made."""
    with pytest.raises(InputError, match="There are: histology, mammography"):
        demo(tmp_path / "demo", kind="mamography")
    assert not (tmp_path / "demo").exists()
