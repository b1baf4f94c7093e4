"""A run is somebody else's: what cannot be read of it is one line, and nothing in it is waited for."""

import os

import polars as pl
import pytest

from headwater.api import open_run
from headwater.errors import HeadError, InputError
from headwater.finetune.checkpoint import Checkpoint, Progressed
from headwater.heads import LinearProbe, save_head

FILES = ["config.json", "metrics.json", "predictions.parquet", "decision.json", "trials.parquet", "head.json"]
FILES += ["head.safetensors"]


@pytest.fixture
def run(tmp_path):
    """A folder that holds all that a run may hold."""
    folder = tmp_path / "run"
    folder.mkdir()
    X = [[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [2.0, 0.0]]
    save_head(LinearProbe(C=1.0).fit(X, [0, 1, 0, 1]), "linear", folder)
    (folder / FILES[0]).write_text('{"command": "fit-head"}')
    (folder / FILES[1]).write_text('{"task": "binary", "n_samples": 4}')
    (folder / FILES[3]).write_text("{}")
    for name in (FILES[2], FILES[4]):
        pl.DataFrame({"id": ["a"]}).write_parquet(folder / name)
    open_run(folder)
    return folder


def refused(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["pipe", "folder", "deep", "list", "nothing in it", "bytes"])
def test_what_cannot_be_read(name, what, run):
    """Each file of a run that is a pipe, a folder, nested too deep, of another form, empty or damaged is one line."""
    path = run / name
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_bytes({"deep": b"[" * 100_000, "list": b"[1]", "bytes": b"\xff\xfe" * 9}.get(what, b""))
    refused(HeadError, lambda: open_run(run))


@pytest.mark.parametrize("values", ['{"head": 5}', '{"head": "linear"}', '{"head": "linear", "params": {"C": "x"}}'])
def test_heads_of_another_form(values, run):
    """A description of a head that lacks something, or has it in another type, is one line."""
    (run / "head.json").write_text('{"format": 1, ' + values[1:])
    refused(HeadError, lambda: open_run(run))


@pytest.mark.parametrize("what", ["pipe", "folder", "text", "list", "other values"])
def test_a_training_that_cannot_go_on(what, tmp_path):
    """What an earlier training left, and somebody changed, is one line."""
    torch = pytest.importorskip("torch")
    for name in ("a.pt", "a.done.pt", "asked.json"):
        path = tmp_path / name
        if what == "pipe":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        elif what == "text" or path.suffix == ".json":
            path.write_text("[1]")
        else:
            torch.save([1] if what == "list" else {"other": 1}, path)
    refused(InputError, Checkpoint(tmp_path / "a.pt").read)
    refused(InputError, lambda: Progressed(tmp_path, {"a": 1}))
    (tmp_path / "asked.json").rmdir() if what == "folder" else (tmp_path / "asked.json").unlink()
    progressed = Progressed(tmp_path, {"a": 1})
    if what != "other values":
        refused(InputError, lambda: progressed.finished("a"))
