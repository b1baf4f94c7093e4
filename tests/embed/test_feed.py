"""Feeds of an encoder: processes prepare what threads prepare, and what they cannot do is done or said."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headwater.embed import Content, fill, key_of_file
from headwater.embed.contents import HeldImage
from headwater.embed.encoder import Encoded, Encoder
from headwater.embed.feed import InProcesses, InThreads, feeding, require_feed
from headwater.embed.run import Spent, _OneAfterTheOther
from headwater.errors import DeviceMemory, DiskError, EncoderError, InputError
from headwater.sources.steps import parse_steps
from headwater.store import FeatureSpec, create_store

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
from headwater.embed._preprocess import ImagePipeline, ImagePreparer  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

SETTINGS = {"input_size": (3, 32, 32), "crop_pct": 0.9, "interpolation": "bicubic"}


class Pixels(Encoder):
    """The mean pixel of an image, as an encoder on a GPU: one thread encodes, and others prepare."""

    name, modalities = "test:pixels", frozenset({"image"})

    def __init__(self, steps=None):
        self.steps = steps
        self._pipeline = ImagePipeline(timm.data.create_transform(**SETTINGS, is_training=False))

    def spec(self, modality, dtype):
        own = {"encoder": self.name, "modality": modality, "weights": "none", "adapter": None, "preprocessing": {}}
        return FeatureSpec(**own, layer="none", pooling="mean", dim=3, dtype=dtype)

    def preparer(self, modality):
        return ImagePreparer(self._pipeline, self.steps)

    def prepare(self, modality, content):
        return self.preparer(modality)(content)

    def encode(self, modality, batch):
        return Encoded(np.stack([item.astype(np.float32).mean((0, 1)) for item in batch]))


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Forty images of several shapes, the 17th of which cannot be read."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    found = []
    for i in range(40):
        file = folder / f"{i}.png"
        side = 600 if i % 10 == 0 else 40 + i
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side + 7)).save(file)
        if i == 17:
            file.write_bytes(b"\x89PNG\r\n\x1a\n no image")
        found.append(Content(key_of_file(file), file))
    return found


@pytest.fixture(scope="module")
def encoder():
    return Pixels(parse_steps(["background=20", "resize=60x70"]))


@pytest.fixture
def processes(encoder, contents):
    """Two processes for jobs of four items."""
    first = encoder.prepare("image", contents[0])
    with InProcesses(InThreads(encoder, "image"), encoder.preparer("image"), first, 4, 2) as feed:
        yield feed


def jobs_of(contents):
    return [(range(100 + i, 104 + i), contents[i : i + 4]) for i in range(0, len(contents), 4)]


def test_processes_prepare_what_threads_prepare(encoder, contents, processes):
    """Items, rows and reasons of failures are the same, over more jobs than there are places in shared memory."""
    expected = [InThreads(encoder, "image").prepare(*job) for job in jobs_of(contents)]

    def prepared(job):
        ready = processes.prepare(*job)
        items = np.array(ready.items)
        processes.done(ready)
        return items, list(ready.good), dict(ready.failed)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(prepared, jobs_of(contents) * 3))
    for (items, good, failed), ready in zip(found, expected * 3, strict=True):
        np.testing.assert_array_equal(items, np.stack(ready.items))
        assert good == list(ready.good)
        assert failed == dict(ready.failed)
    assert sum(len(failed) for _, _, failed in found) == 3


def test_items_that_do_not_fit_are_sent(encoder, contents):
    """An item of another shape than the first is handed over all the same."""
    like = np.zeros((5, 5, 3), np.uint8)
    with InProcesses(InThreads(encoder, "image"), encoder.preparer("image"), like, 4, 1) as feed:
        ready = feed.prepare(range(4), contents[:4])
    assert ready.place is None
    np.testing.assert_array_equal(np.stack(ready.items), [encoder.prepare("image", c) for c in contents[:4]])


def test_a_lost_process_is_replaced_by_a_thread(encoder, contents, processes):
    """What a killed process had to do, and all that comes after it, is prepared here."""
    helper = processes._helper.pid
    children: list[int] = []
    while len(children) < 2:
        children = list(map(int, Path(f"/proc/{helper}/task/{helper}/children").read_text().split()))
        time.sleep(0.05)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for _ in range(3):
        ready = processes.prepare(*jobs_of(contents)[0])
        np.testing.assert_array_equal(np.stack(ready.items), [encoder.prepare("image", c) for c in contents[:4]])
        processes.done(ready)


def test_an_error_of_the_code_is_raised(processes, contents):
    """An error that is not about an image reaches the caller, with where it happened, and the process goes on."""
    with pytest.raises(EncoderError, match="cannot be prepared"):
        processes.prepare([0], [HeldImage(contents[0].key, contents[0].source, data=None)])
    assert len(processes.prepare([0], contents[:1]).items) == 1


def test_processes_end_with_the_feed(encoder, contents):
    """Nothing is left running."""
    first = encoder.prepare("image", contents[0])
    with InProcesses(InThreads(encoder, "image"), encoder.preparer("image"), first, 4, 2) as feed:
        feed.prepare(range(2), contents[:2])
        helper = feed._helper
    assert helper.returncode == 0


def test_a_store_is_the_same_by_either(encoder, contents, tmp_path):
    """`fill` stores the same vectors and failures, whatever feeds the encoder."""
    found = []
    for kind in ("threads", "processes"):
        features = create_store(tmp_path / f"{kind}.hw").require_features(
            "pixels/image", encoder.spec("image", "float32"), len(contents)
        )
        result = fill(features, encoder, contents, batch_size=4, workers=2, feed=kind)
        assert result.embedded == 39
        assert {content.source for content, _ in result.failed} == {contents[17].source}
        found.append(np.asarray(features.refresh().pooled[np.arange(40)]))
    np.testing.assert_array_equal(*found)


def test_auto_takes_processes_for_many_items_and_workers(encoder, contents, monkeypatch):
    """Below either limit, threads prepare."""

    def kind_of(n_items, n_workers, kind="auto"):
        with feeding(encoder, "image", contents[:2], n_items, 4, n_workers, kind) as feed:
            return type(feed)

    monkeypatch.setattr("headwater.embed.feed.LEAST_WORKERS", 1)
    assert kind_of(100, 1) is InThreads
    assert kind_of(10_000, 1) is InProcesses
    assert kind_of(10_000, 1, "threads") is InThreads
    monkeypatch.setattr("headwater.embed.feed.LEAST_WORKERS", 2)
    assert kind_of(10_000, 1) is InThreads
    with feeding(encoder, "image", contents[17:18], 10_000, 4, 2, "processes") as feed:
        assert type(feed) is InThreads  # no item shows how much memory it takes


def test_processes_that_cannot_help_are_refused(encoder, tiny):
    """Processes are refused where the encoder computes on the CPU, or needs this process to prepare."""
    require_feed("processes", encoder, ["image"])
    require_feed("auto", encoder, ["text"])
    encoder_on_cpu = Pixels()
    encoder_on_cpu.threads_own_cores = True
    with pytest.raises(InputError, match="--feed processes: test:pixels encodes on the CPU"):
        require_feed("processes", encoder_on_cpu, ["image"])
    encoder_on_cpu.threads_own_cores = False
    encoder_on_cpu.preparer = lambda modality: None
    with pytest.raises(InputError, match="only this process can prepare a image"):
        require_feed("processes", encoder_on_cpu, ["image"])


class Small(Pixels):
    """An encoder on a GPU whose memory holds three items at most."""

    holds = 3

    def encode(self, modality, batch):
        if len(batch) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode(modality, batch)


def test_fewer_items_are_encoded_together_when_memory_runs_out(contents, tmp_path):
    """A batch that does not fit into a GPU's memory is halved until it does, which is said, and nothing is lost."""
    encoder = Small()
    features = create_store(tmp_path / "s.hw").require_features("p/image", encoder.spec("image", "float32"), 40)
    with pytest.warns(UserWarning, match="from here on 2 at a time are encoded"):
        result = fill(features, encoder, contents, batch_size=4, workers=2)
    assert result.embedded == 39
    assert {content.source for content, _ in result.failed} == {contents[17].source}


def test_an_item_that_exceeds_memory_alone_ends_in_a_line(contents, tmp_path):
    """An item that does not fit alone ends the run with what to lower."""
    encoder = Small()
    encoder.holds = 0
    features = create_store(tmp_path / "s.hw").require_features("p/image", encoder.spec("image", "float32"), 40)
    with (
        pytest.warns(UserWarning, match="from here on 1 at a time"),
        pytest.raises(DeviceMemory, match="Lower --image-size"),
    ):
        fill(features, encoder, contents, batch_size=2, workers=1)


def test_the_time_is_counted():
    """A line says which share of the time went where; shares of what may encode make up the whole."""
    ahead, sharing = Spent(), Spent(2)
    for spent in (ahead, sharing):
        spent.seconds.update(prepare=30, encode=15, wait=4, write=1)
    assert ahead.line() == "20 % waiting for prepared items, 75 % encoding, 5 % waiting for the disk"
    assert sharing.line() == "67 % reading and preparing, 33 % encoding"
    with ahead.on("wait"):
        time.sleep(0.01)
    assert ahead.seconds["wait"] > 4


def test_a_block_is_written_while_the_next_is_encoded():
    """A call runs beside its caller until the next call, and its error reaches the caller then or at the end."""
    begun, may_end = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert may_end.wait(10)

    def fails():
        raise DiskError("the disk is full")

    with _OneAfterTheOther(Spent()) as calls:
        calls.run(slow)
        assert begun.wait(10)  # and the caller is here already
        may_end.set()
        calls.run(fails)
        with pytest.raises(DiskError, match="full"):
            calls.run(slow)
        calls.run(fails)
        with pytest.raises(DiskError, match="full"):
            calls.finish()
