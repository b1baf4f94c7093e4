"""A run that ends before its time: killed, stopped by Ctrl-C, or out of disk. The same command finishes it."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from headwater.api import open_run, verify
from headwater.errors import HeadError

N_IMAGES = 180
KILLS = 4
ENCODER = """
import time
import numpy as np

class Waiting:
    modalities = ("image",)

    def load(self, weights, device):
        pass

    def prepare(self, modality, item):
        time.sleep(0.02)  # as long as work would take, which a machine that is busy elsewhere need not do
        return np.asarray(item, np.float32).mean((0, 1))

    def encode(self, modality, batch):
        return np.stack(batch)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory, paint):
    """A folder of a few hundred small images, one of them damaged, with a manifest."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(N_IMAGES):
        paint(folder / f"{i:03d}.png", i, coarse=3)
    (folder / "waiting.py").write_text(ENCODER)
    (folder / "150.png").write_bytes((folder / "150.png").read_bytes()[:60])
    pl.DataFrame({"image": [f"{i:03d}.png" for i in range(N_IMAGES)]}).write_csv(folder / "manifest.csv")
    return folder


def start(*words):
    """Start a command in a process of its own."""
    line = [sys.executable, "-m", "headwater", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def embedding(folder, store):
    return ("embed", folder / "manifest.csv", store, "--encoder", f"python:{folder / 'waiting.py'}:Waiting")


@pytest.fixture(scope="module")
def whole(many, tmp_path_factory):
    """A store that one run filled, and how long its process took in seconds."""
    store = tmp_path_factory.mktemp("whole") / "a.hw"
    began = time.monotonic()
    process = start(*embedding(many, store))
    process.communicate()
    assert process.returncode == 0
    return store, time.monotonic() - began


def n_blocks(store):
    """Blocks that the journal speaks of."""
    path = store / "journal" / "Waiting" / "image.jsonl"
    return path.read_text().count('"block"') if path.exists() else 0


def test_killed_at_any_instant(many, whole, tmp_path, files_of):
    """After kills at random instants the same command leaves every feature file as one whole run does, to the byte."""
    instants = random.Random(7)
    store, (expected, seconds) = tmp_path / "a.hw", whole
    lost = 0
    for kill in range(KILLS):
        process = start(*embedding(many, store))
        if kill % 2:  # between two blocks at the latest, wherever it is then
            blocks = n_blocks(store)
            while n_blocks(store) == blocks and process.poll() is None:
                time.sleep(0.002)
            time.sleep(instants.uniform(0, 0.1))
        else:
            time.sleep(instants.uniform(0.2, 0.9) * seconds / KILLS)
        process.kill()
        process.communicate()
        lost += process.returncode == -signal.SIGKILL
    assert lost >= 2, "the run was over before it was killed"
    process = start(*embedding(many, store))
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "1 sample failed" in out
    assert files_of(store / "features.zarr") == files_of(expected / "features.zarr")
    assert verify(store) == []


def test_ctrl_c(many, whole, tmp_path, files_of):
    """Ctrl-C ends a run with status 130 and one line that says how to go on; going on gives the same files."""
    store = tmp_path / "a.hw"
    process = start(*embedding(many, store))
    while n_blocks(store) < 1:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "headwater: stopped. What was finished is kept: run the same command again to go on."
    assert "Traceback" not in err
    assert 0 < n_blocks(store) < n_blocks(whole[0])
    process = start(*embedding(many, store))
    out, _ = process.communicate()
    assert process.returncode == 0
    assert " already stored" in out
    assert files_of(store / "features.zarr") == files_of(whole[0] / "features.zarr")


def test_ctrl_c_that_comes_out_as_another_error(command, store, monkeypatch):
    """As when it lands between a lock's release and its return: what the user did is what is answered."""

    def cut_short(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("cannot release un-acquired lock") from error

    monkeypatch.setattr("headwater.api.verify", cut_short)
    done = command("verify", store)
    assert done.status == 130
    assert done.error == "headwater: stopped. What was finished is kept: run the same command again to go on."
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Killed(BaseException):
    """What ends a run at once."""


def dying(step):
    """Return a way to replace a file that ends the run instead when it is called for the ``step``-th time."""
    replace, count = Path.replace, 0

    def die(self, target):
        nonlocal count
        count += 1
        if count == step:
            raise Killed
        return replace(self, target)

    return die


@pytest.mark.parametrize("step", range(1, 25, 2))
def test_killed_before_any_file_takes_its_place(command, images, tmp_path, files_of, monkeypatch, step):
    """Wherever a run ends between two files, making the store included, the same command finishes it."""

    words = ("embed", images / "manifest.csv", tmp_path / "a.hw", "--encoder", "stub:8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying(step))
        with pytest.raises(Killed):
            command(*words)
    assert command(*words).status == 0
    command("embed", images / "manifest.csv", tmp_path / "b.hw", "--encoder", "stub:8")
    assert files_of(tmp_path / "a.hw" / "features.zarr") == files_of(tmp_path / "b.hw" / "features.zarr")
    assert verify(tmp_path / "a.hw") == []


@pytest.mark.parametrize("step", range(1, 6))
def test_killed_while_a_run_is_replaced(command, store, tmp_path, monkeypatch, step):
    """A run of which half was replaced is no run, never a mixture of two; the same command replaces the rest."""
    words = ("fit-head", store, "--features", "texture/image", "--label", "grade", "--out", tmp_path / "run")
    assert command(*words, "--groups", "patient").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying(step))
        with pytest.raises(Killed):
            command(*words, "--groups", "none")
    with pytest.raises(HeadError, match="no run here"):
        open_run(tmp_path / "run")
    assert command(*words, "--groups", "none").status == 0
    assert open_run(tmp_path / "run").config["groups"] == "none"


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(command, images, small_disk):
    """A full disk ends a run with one line; once there is room the same command finishes it."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    words = ("embed", images / "manifest.csv", small_disk / "a.hw", "--encoder", "builtin:texture")
    done = command(*words)
    assert done.status == 1
    assert "the disk is full. Free some space and run the same command again" in done.error
    ballast.unlink()
    assert command(*words).status == 0
    assert verify(small_disk / "a.hw") == []


def test_a_disk_that_is_full_when_a_run_is_written(command, store, small_disk):
    """A run that does not fit leaves nothing of itself; once there is room the same command writes it."""
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:  # all but one page
        file.write(bytes((2 << 20) - 4096 * 2))
    words = ("fit-head", store, "--features", "texture/image", "--label", "grade", "--groups", "patient")
    done = command(*words, "--out", small_disk / "run")
    assert done.status == 1
    assert "the disk is full" in done.error
    assert sorted(p.name for p in small_disk.iterdir()) == ["ballast"]
    ballast.unlink()
    assert command(*words, "--out", small_disk / "run").status == 0


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 13, 21])
def test_a_disk_that_is_full_at_any_file(command, images, tmp_path, monkeypatch, nth):
    """Whichever file finds no room, the message is the same, and the same command finishes the run afterwards."""
    words = ("embed", images / "manifest.csv", tmp_path / "a.hw", "--encoder", "stub:8")
    sync, count = os.fsync, 0

    def full(descriptor):
        nonlocal count
        count += 1
        if count >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = command(*words)
    assert done.status == 1
    assert "the disk is full. Free some space and run the same command again" in done.error
    assert command(*words).status == 0
    assert verify(tmp_path / "a.hw") == []


def test_a_run_that_could_not_be_replaced_is_still_there(command, store, tmp_path, files_of, monkeypatch):
    """Writing a run over an older one changes nothing of the older one until all of the newer is on disk."""
    words = ("fit-head", store, "--features", "texture/image", "--label", "grade", "--out", tmp_path / "run")
    assert command(*words, "--groups", "patient").status == 0
    before = files_of(tmp_path / "run")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("headwater.runs.write.save_head", full)
        assert "the disk is full" in command(*words, "--groups", "none").error
    assert files_of(tmp_path / "run") == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert command(*words, "--groups", "none").status == 0
    assert files_of(tmp_path / "run") != before
