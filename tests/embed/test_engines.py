"""Several processes, and a Ray cluster, make the arrays that one process makes."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from headwater.embed import Shard, fill, load_encoder
from headwater.errors import StoreBusy
from headwater.store import create_store

N = 300


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, picture):
    """Return a manifest of 300 images with a text each, one image unreadable."""
    folder = tmp_path_factory.mktemp("many")
    lines = ["id,image,text"]
    for i in range(N):
        picture(folder / f"{i}.png", i, (24, 20))
        lines.append(f"{i},{i}.png,a {'benign' if i % 2 else 'severe'} gland {i}")
    (folder / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (folder / "m.csv").write_text("\n".join(lines))
    return folder / "m.csv"


WAITING = """
import time

import numpy as np


class Waiting:
    modalities = ("image",)

    def load(self, weights, device):
        pass

    def prepare(self, modality, item):
        time.sleep(0.04)  # as long as work would take, which a machine that is busy elsewhere need not do
        return np.asarray(item.resize((8, 8)), float).ravel()

    def encode(self, modality, batch):
        return np.stack(batch)
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Return the name of an encoder that takes its time, and none of the processor's."""
    file = tmp_path_factory.mktemp("waiting") / "waiting.py"
    file.write_text(WAITING)
    return f"python:{file}:Waiting"


def arrays(store):
    """Every chunk of every array, and what the journal adds up to."""
    root = Path(store)
    files = {str(p.relative_to(root)): p.read_bytes() for p in (root / "features.zarr").rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if not name.endswith(".lock")}


def headwater(*arguments, **options):
    command = [sys.executable, "-m", "headwater", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def embed(manifest, store, encoder, *more, **options):
    own = encoder.startswith("python:")  # computes in the precision that it chooses
    precision = () if own else ("--precision", "fp32")
    words = ("embed", manifest, store, "--encoder", encoder, "--device", "cpu", *precision, *more)
    done = headwater(*words, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_shards_together_make_what_one_makes(manifest, tmp_path):
    """Three processes at once, each with its blocks, leave the files that one process leaves."""
    encoder = "stub:16"
    embed(manifest, tmp_path / "one.hw", encoder)
    command = [sys.executable, "-m", "headwater", "embed", manifest, tmp_path / "many.hw", "--encoder", encoder]
    command = [*map(str, command), "--shard"]
    running = [subprocess.Popen([*command, f"{i}/3"], stderr=subprocess.PIPE) for i in range(3)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert arrays(tmp_path / "many.hw") == arrays(tmp_path / "one.hw")
    assert headwater("verify", tmp_path / "many.hw").returncode == 0
    again = embed(manifest, tmp_path / "many.hw", encoder)
    assert "0 items embedded" in again.stdout


def test_a_shard_says_what_it_left(manifest, tmp_path):
    """One shard alone makes its blocks, and says how many items wait for others."""
    done = embed(manifest, tmp_path / "a.hw", "stub:16", "--shard", "1/2")
    assert "left to other shards" in done.stdout
    assert "stub-16/image: 0 items" not in done.stdout
    assert "N - 1" in headwater("embed", manifest, tmp_path / "a.hw", "--encoder", "stub:16", "--shard", "2/2").stderr


def test_shards_keep_out_who_writes_alone_and_the_same_shard(tmp_path):
    """Shards write beside each other; one that writes alone waits for none, nor do two of one number."""
    encoder = load_encoder("stub:8")
    features = create_store(tmp_path / "a.hw").require_features("s/image", encoder.spec("image", "float16"), 10)
    with features.sharing("0-of-2"), features.sharing("1-of-2"):
        with pytest.raises(StoreBusy, match="is being written"), features.writing():
            pass
        with (
            pytest.raises(StoreBusy, match="shard 0-of-2 of s/image is being written by process"),
            features.sharing("0-of-2"),
        ):
            pass
        with (
            pytest.raises(StoreBusy, match=r"s/image is being written by a run of 2 shards\. Use the same number"),
            features.sharing("1-of-3"),
        ):
            pass
    with features.writing(), pytest.raises(StoreBusy, match="is being written by process"), features.sharing("0-of-2"):
        pass


def test_lines_of_shards_that_write_at_once_stay_whole(tmp_path):
    """Two threads with a shard each append to one journal; every line can be read."""
    from headwater.embed import Content

    encoder = load_encoder("stub:8")
    contents = [Content(i.to_bytes(16, "big"), "x") for i in range(5000)]
    features = create_store(tmp_path / "a.hw").require_features(
        "s/text", encoder.spec("text", "float16"), len(contents)
    )
    threads = [
        threading.Thread(target=fill, args=(features, encoder, contents), kwargs={"shard": Shard(i, 2)})
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = features.refresh()
    assert (done.status == 1).all()
    assert not list(done.verify())
    assert np.isfinite(np.asarray(done.pooled)).all()


def objects(s3, url):
    """The objects of every array of a store in a bucket."""
    start = len(url.removeprefix("s3://")) + 1
    return {key[start:]: s3.cat_file(key) for key in s3.find(f"{url}/features.zarr")}


@pytest.fixture
def machine(tmp_path):
    """Return a function that gives the environment of one of several machines, each with a cache of its own."""
    return lambda name: {**os.environ, "HEADWATER_CACHE": str(tmp_path / f"cache of {name}")}


@pytest.mark.parametrize("order", [(0, 1), pytest.param((1, 0), marks=pytest.mark.slow)])
def test_shards_fill_a_bucket(manifest, tmp_path, bucket, s3, machine, order):
    """Shards on two machines at once, one of them killed and run again, leave the objects that one process leaves."""
    url = f"{bucket}/many.hw"
    embed(manifest, tmp_path / "one.hw", "stub:16")
    command = [sys.executable, "-m", "headwater", "embed", str(manifest), url, "--encoder", "stub:16", "--shard"]

    def start(i):
        return subprocess.Popen([*command, f"{i}/2"], stderr=subprocess.PIPE, env=machine(i))

    running = [start(i) for i in order]
    while not s3.exists(f"{url}/features.zarr/stub-16/image/pooled/c.{order[0]}.0") and running[0].poll() is None:
        time.sleep(0.005)
    assert running[0].poll() is None, "it was over before it was killed"
    running[0].kill()
    running[0].communicate()
    running[0] = start(order[0])
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert objects(s3, url) == arrays(tmp_path / "one.hw")
    journal = s3.cat_file(f"{url}/journal/stub-16/image.jsonl")
    assert [journal.count(b'"block":%d,' % block) for block in range(5)] == [1] * 5
    again = headwater("embed", manifest, url, "--encoder", "stub:16", env=machine("a third"))
    assert "0 items embedded" in again.stdout
    assert headwater("verify", url, env=machine("a third")).returncode == 0


@pytest.mark.slow
def test_ray_fills_a_bucket(manifest, waiting, tmp_path, bucket, s3, machine):
    """Two workers write to a bucket, for the process that keeps the journal, what one process writes to a folder."""
    pytest.importorskip("ray")
    url = f"{bucket}/ray.hw"
    embed(manifest, tmp_path / "one.hw", waiting)
    embed(manifest, url, waiting, "--engine", "ray", "--workers", "2", env=machine("driver"))
    assert objects(s3, url) == arrays(tmp_path / "one.hw")
    assert headwater("verify", url, env=machine("another")).returncode == 0


IN_THE_WAY = """
from pathlib import Path

import fsspec
import numpy as np
import ray


class Mean:
    modalities = ("image",)

    def load(self, weights, device):
        pass

    def prepare(self, modality, item):
        return np.asarray(item.resize((8, 8)), float).reshape(-1, 3).mean(0)

    def encode(self, modality, batch):
        done = Path(__file__).with_name("done")
        is_worker = ray.is_initialized() and ray.get_runtime_context().get_actor_id()
        if is_worker and len(batch) >= 8 and not done.exists():  # fewer are what an encoder is tried with
            fs, path = fsspec.url_to_fs(Path(__file__).with_name("place").read_text())
            for block in range(5):  # whichever is being made
                fs.pipe_file(f"{path}/c.{block}.0", b"of a worker that was taken for dead")
            done.touch()
        return np.stack(batch)
"""


@pytest.mark.slow
def test_a_block_that_another_worker_wrote_is_made_again(manifest, tmp_path, bucket, s3, machine):
    """A worker that finds another's object in its way is refused once; then the block is made all the same."""
    pytest.importorskip("ray")
    url = f"{bucket}/ray.hw"
    encoder = f"python:{tmp_path / 'own.py'}:Mean"
    (tmp_path / "own.py").write_text(IN_THE_WAY)
    (tmp_path / "done").touch()
    (tmp_path / "place").write_text(f"{url}/features.zarr/Mean/image/pooled")
    embed(manifest, tmp_path / "one.hw", encoder)
    (tmp_path / "done").unlink()
    embed(manifest, url, encoder, "--engine", "ray", "--workers", "1", env=machine("driver"))
    assert (tmp_path / "done").exists()
    assert objects(s3, url) == arrays(tmp_path / "one.hw")
    assert headwater("verify", url, env=machine("another")).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["builtin:texture", "hf-clip", "hf-smolvlm-pair"])
def test_ray_makes_what_one_process_makes(manifest, tmp_path, tiny, encoder):
    """Two workers of a Ray cluster leave the arrays that one process leaves, bit for bit."""
    pytest.importorskip("ray")
    spec = encoder if ":" in encoder else tiny(encoder).spec
    more = [] if ":" in encoder else ["--tokens", "all"]
    if encoder.endswith("-pair"):
        more = ["--prompt", tiny(encoder).options["prompt"]]
    embed(manifest, tmp_path / "one.hw", spec, *more)
    embed(manifest, tmp_path / "ray.hw", spec, *more, "--engine", "ray", "--workers", "2")
    assert arrays(tmp_path / "ray.hw") == arrays(tmp_path / "one.hw")
    assert headwater("verify", tmp_path / "ray.hw").returncode == 0


@pytest.mark.slow
def test_ray_counts_texts_that_are_cut(tmp_path, tiny):
    """Workers say how many texts were longer than the encoder reads, as one process does."""
    pytest.importorskip("ray")
    lines = ["text", *(f"a gland {i}" + " and a mass" * (40 * (i % 3 == 0)) for i in range(90))]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    spec = tiny("hf-bert").spec
    said = [
        embed(tmp_path / "m.csv", tmp_path / f"{name}.hw", spec, *more).stdout.split("\n")
        for name, more in (("one", ()), ("ray", ("--engine", "ray", "--workers", "1")))
    ]
    cut = [[line for line in lines if "truncated" in line] for lines in said]
    assert cut[0] == cut[1]
    assert "30 texts truncated" in cut[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["worker", "node"])
def test_a_cluster_that_loses_a_worker(manifest, waiting, tmp_path, lost):
    """Of two nodes one loses its worker, or is gone: its blocks are made by another, and are the same."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    embed(manifest, tmp_path / "one.hw", waiting)
    store = tmp_path / "ray.hw"
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        words = ("embed", manifest, store, "--encoder", waiting, "--engine", "ray", "--ray-address")
        command = [sys.executable, "-m", "headwater", *map(str, words), cluster.address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        journal = store / "journal" / "Waiting" / "image.jsonl"
        while process.poll() is None and (not journal.exists() or '"block"' not in journal.read_text()):
            time.sleep(0.02)
        n_before = journal.read_text().count('"block"')
        if lost == "node":
            cluster.remove_node(other, allow_graceful=False)
        else:
            workers = [one for one in psutil.process_iter(["cmdline"]) if is_worker(one)]
            assert workers, "no worker was found"
            workers[0].kill()
        _, error = process.communicate()
        assert process.returncode == 0, error[-3000:]
    finally:
        cluster.shutdown()
    assert n_before < journal.read_text().count('"block"'), "all was done before anything was lost"
    assert arrays(store) == arrays(tmp_path / "one.hw")
    assert headwater("verify", store).returncode == 0


def is_worker(process):
    """Whether a process is one of Ray's that makes blocks."""
    command = " ".join(process.info["cmdline"] or ())
    return command.startswith("ray::") and "Worker" in command


NO_STATISTICS = """
from headwater.embed.by_ray import RayEngine
from ray._common.usage.usage_lib import usage_stats_enabled

with RayEngine(recipe=None).blocks(None, [], None, "{}"):
    print(usage_stats_enabled())
"""


@pytest.mark.slow
def test_a_cluster_that_is_started_sends_no_statistics():
    """A cluster that headwater starts sends Ray's makers nothing, as docs/air_gapped.md says."""
    pytest.importorskip("ray._common.usage.usage_lib")
    done = subprocess.run([sys.executable, "-c", NO_STATISTICS], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
