"""A store at a URL: the bucket is believed, the cache never; locks hold between machines; a kill loses nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.errors import DiskError, InputError, MissingExtra, RemoteError, StoreBusy, StoreError, StoreNotFound
from headwater.store import (
    BlockResult,
    FeatureSpec,
    FeatureWriter,
    Journal,
    Roles,
    create_store,
    find_store,
    journal,
    lease,
    open_store,
    remote,
    salvage_journal,
    send_file,
    store_folder,
)
from headwater.store.cache import cache_limit
from headwater.store.journal import PlanLine
from headwater.store.remote import Remote, remote_of

N = 300  # five blocks of 64 rows, the last of 44
SPEC = FeatureSpec(encoder="x", modality="image", dim=8)
ROOT = Path(__file__).parents[2]


def keys_of(n, first=0):
    numbers = range(first, first + n)
    return np.stack([np.frombuffer((i * 2654435761 + 1).to_bytes(16, "little"), np.uint8) for i in numbers])


def vectors(rows):
    return (np.asarray(rows)[:, None] * 10 + np.arange(SPEC.dim)).astype(np.float16)


def write(url, n, name="f/image", first=0, spec=None, n_items=N):
    """Make the features of some items; those that are there are kept."""
    features = create_store(url).require_features(name, spec or SPEC, n_items)
    with features.writing() as writer:
        tasks = writer.plan(keys_of(n, first))
        writer.set_environment({"made": "here"})
        for task in tasks:
            made = np.resize(vectors(task.rows + first).T, (features.spec.dim, len(task.rows))).T
            writer.commit(task, BlockResult(task.rows, made))
    return features.refresh()


@pytest.fixture
def url(bucket):
    return f"{bucket}/deep/a.hw"


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Return a function after which everything is as on another machine, whose cache is empty."""

    def go(name="elsewhere"):
        monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / name))

    return go


@pytest.fixture
def fetched(monkeypatch):
    """The names of files that were fetched since."""
    names, fetch = [], Remote._fetch

    def counted(self, name):
        names.append(name)
        return fetch(self, name)

    monkeypatch.setattr(Remote, "_fetch", counted)
    return names


# Reading


def test_another_machine_reads_what_was_written(url, elsewhere):
    """Through an empty cache everything is there, and every checksum is right."""
    write(url, N)
    elsewhere()
    store = open_store(url)
    assert store.location == url
    assert repr(store) == f"Store({url!r})"
    assert np.array_equal(store.features("f/image").pooled[:], vectors(np.arange(N)))
    assert list(store.verify()) == []


def test_what_is_read_twice_is_fetched_once(url, elsewhere, fetched):
    """Blocks are fetched when they are touched, and never again; what this machine wrote is not fetched at all."""
    features = write(url, N)
    fetched.clear()
    assert np.array_equal(features.pooled[:], vectors(np.arange(N)))
    assert [name for name in fetched if "/c." in name] == []
    elsewhere()
    features = open_store(url).features("f/image")
    assert [name for name in fetched if "/pooled/c." in name] == []
    for _ in range(2):
        assert np.array_equal(features.refresh().pooled[130:140], vectors(np.arange(130, 140)))
        assert [name for name in fetched if "/pooled/c." in name] == ["features.zarr/f/image/pooled/c.2.0"]


def test_what_changed_in_the_bucket_is_fetched_again(url, elsewhere):
    """Rows that another machine added to a cached block are there when the features are next opened."""
    write(url, 100)
    here = os.environ["HEADWATER_CACHE"]
    elsewhere()
    write(url, N)
    elsewhere(here)
    assert np.array_equal(open_store(url).features("f/image").pooled[:], vectors(np.arange(N)))


def test_a_cached_file_that_was_changed_is_not_believed(url):
    """A file of the cache that is not the one that was fetched, whatever its size, is fetched again."""
    features = write(url, N)
    path = features.pooled.chunk_path(1)
    path.write_bytes(bytes(len(path.read_bytes())))
    journal = features.journal.path
    journal.write_bytes(journal.read_bytes()[:-50])
    assert np.array_equal(features.refresh().pooled[:], vectors(np.arange(N)))


def test_a_cached_journal_is_not_added_to(url, elsewhere):
    """A line is added to the journal as the bucket has it, whatever a reader put into the cache meanwhile."""
    features = create_store(url).require_features("f/image", SPEC, N)
    with features.writing() as writer:
        for task in writer.plan(keys_of(N)):
            writer.commit(task, BlockResult(task.rows, vectors(task.rows)))
            path = features.journal.path
            path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    elsewhere()
    assert np.array_equal(open_store(url).features("f/image").pooled[:], vectors(np.arange(N)))


def test_a_reader_keeps_its_snapshot(url, elsewhere):
    """While a writer elsewhere adds rows, and rewrites a block, an open feature set reads as it was opened."""
    write(url, 100)
    elsewhere()
    features = open_store(url).features("f/image")
    elsewhere("a third")
    write(url, N)
    elsewhere()
    assert features.n_items == 100
    assert np.array_equal(features.pooled[:], vectors(np.arange(100)))
    assert features.refresh().n_items == N


def test_other_rows_in_the_place_of_a_block_are_refused(url, elsewhere, s3):
    """A fetched block that is not the one that the journal speaks of raises, and is not kept."""
    features = write(url, N)
    elsewhere()
    features = open_store(url).features("f/image")
    pooled = f"{url}/features.zarr/f/image/pooled"
    right = s3.cat_file(f"{pooled}/c.1.0")
    s3.pipe_file(f"{pooled}/c.1.0", s3.cat_file(f"{pooled}/c.2.0"))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"block 1 of pooled differs from its checksum"):
            features.pooled[64:128]
    assert np.array_equal(features.pooled[:64], vectors(np.arange(64)))
    s3.pipe_file(f"{pooled}/c.1.0", right)
    assert np.array_equal(features.pooled[:], vectors(np.arange(N)))


RAGGED = FeatureSpec(
    encoder="x", modality="image", dim=8, dtype="float32", tokens="all", token_dim=3, tokens_dtype="int8"
)
"""Its blocks are of one chunk of tokens where all items are there at once, of more where long ones come later."""


def matrices(lengths, first=0):
    return [np.full((length, 3), row % 100 + 1, np.float32) for row, length in enumerate(lengths, first)]


def write_ragged(url, *plans):
    """Make features with the given numbers of tokens, a plan after the other."""
    features, lengths = create_store(url).require_features("f/image", RAGGED, 130), np.zeros(0, np.int64)
    for plan in plans:
        lengths = np.concatenate([lengths, plan])
        with features.writing() as writer:
            writer.set_environment({"made": "here"})
            for task in writer.plan(keys_of(len(lengths)), lengths):
                tokens = [np.full((lengths[row], 3), row % 100 + 1, np.float32) for row in task.rows]
                writer.commit(task, BlockResult(task.rows, vectors(task.rows), tokens))
    return features.refresh()


def read_ragged(features):
    return [features.tokens[row] for row in range(features.n_items)]


ONE_CHUNK = (np.arange(130) % 4,)
SEVERAL_CHUNKS = (np.ones(64, int), np.arange(66) % 7)


@pytest.mark.parametrize(
    "plans", [pytest.param(ONE_CHUNK, marks=pytest.mark.slow), SEVERAL_CHUNKS], ids=["one", "several"]
)
@pytest.mark.parametrize("part", ["keys", "tokens/offsets", "tokens/lengths", "tokens/values", "tokens/scales"])
def test_damage_in_the_bucket_is_refused_when_it_is_read(url, elsewhere, s3, part, plans):
    """A byte that flipped in what is fetched is one line that names the array, is not kept, and is gone when mended."""
    write_ragged(url, *plans)
    elsewhere()
    features = open_store(url).features("f/image")
    chunks = [key for key in s3.find(f"{url}/features.zarr/f/image/{part}") if "/c." in key]
    place = sorted(chunks, key=lambda key: int(key.rpartition("/c.")[2].split(".")[0]))[-1]
    right = s3.cat_file(place)
    s3.pipe_file(place, bytes([right[0] ^ 1]) + right[1:])

    def read():
        return features.rows_of(keys_of(2)) if part == "keys" else read_ragged(features)

    for _ in range(2):
        with pytest.raises(
            StoreError, match=rf"^f/image: .*{part} differs from its checksum\. Run: headwater verify .* --repair$"
        ):
            read()
        assert not (features.folder / part / place.rpartition("/")[2]).exists()
    said = list(open_store(url).verify())
    assert len(said) == 1
    assert said[0].endswith(f"{part} differs from its checksum")
    s3.pipe_file(place, right)
    found = read()
    if part == "keys":
        assert found.tolist() == [0, 1]
    else:
        expected = matrices(np.concatenate(plans))
        assert all(np.allclose(a, b, atol=0.5) for a, b in zip(found, expected, strict=True))
    assert list(open_store(url).verify()) == []


def test_other_tokens_in_the_place_of_a_block_are_refused(url, elsewhere, s3):
    """Ragged tokens of another block are not those that the journal speaks of; blocks beside it are read."""
    write_ragged(url, *ONE_CHUNK)
    elsewhere()
    features = open_store(url).features("f/image")
    scales = f"{url}/features.zarr/f/image/tokens/scales"
    s3.pipe_file(f"{scales}/c.1", s3.cat_file(f"{scales}/c.0"))
    with pytest.raises(StoreError, match=r"block 1 of tokens/scales differs from its checksum"):
        features.tokens[70]
    assert features.tokens[3].shape == (3, 3)


def test_chunks_that_are_checked_together_are_fetched_once(url, elsewhere, fetched):
    """However many chunks a block has, each is fetched when one of them is touched, and never again."""
    write_ragged(url, *SEVERAL_CHUNKS)
    elsewhere()
    features = open_store(url).features("f/image")
    fetched.clear()
    for row in (70, 71, 127):
        features.tokens[row]
    names = [name for name in fetched if "/tokens/values/" in name]
    assert len(names) == len(set(names)) == 3
    read_ragged(features)
    read_ragged(features.refresh())
    chunks = [name for name in fetched if "/c." in name]
    assert len(chunks) == len(set(chunks))


def test_what_is_read_of_a_grown_set_is_what_was_opened(url, elsewhere, s3):
    """Keys and tokens that another machine adds to chunks which are fetched later leave an open feature set right."""
    write_ragged(url, np.arange(70) % 4)
    elsewhere()
    features = open_store(url).features("f/image")
    elsewhere("a third")
    write_ragged(url, np.arange(70) % 4, np.arange(60) % 4)
    elsewhere()
    assert features.rows_of(keys_of(71)).tolist() == [*range(70), -1]
    assert [len(matrix) for matrix in read_ragged(features)] == (np.arange(70) % 4).tolist()


def test_verify_reads_the_bucket(url, fetched, s3):
    """Every byte is fetched again by verify, so that damage in the bucket is found whatever the cache holds."""
    write(url, N)
    fetched.clear()
    assert list(open_store(url).verify()) == []
    assert sum("/pooled/c." in name for name in fetched) == 5
    fetched.clear()
    assert list(open_store(url).features("f/image").verify()) == []
    assert sum("/pooled/c." in name for name in fetched) == 5
    place = f"{url}/features.zarr/f/image/pooled/c.3.0"
    data = bytearray(s3.cat_file(place))
    data[7] ^= 1
    s3.pipe_file(place, bytes(data))
    assert list(open_store(url).verify()) == ["f/image: block 3 of pooled differs from its checksum"]


def test_a_process_that_was_forked_reads_on(url, elsewhere):
    """A feature set that was opened before a fork is read after it, as data loaders do."""
    write(url, N)
    elsewhere()
    features = open_store(url).features("f/image")
    child = os.fork()
    if not child:
        try:
            os._exit(0 if np.array_equal(features.pooled[:], vectors(np.arange(N))) else 1)
        finally:
            os._exit(2)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the forked process hangs")
    assert os.waitstatus_to_exitcode(status) == 0


# The cache


def test_the_cache_has_a_limit(url, elsewhere, monkeypatch):
    """Blocks that were not used for longest are dropped; what maps them reads on, and the rest is fetched again."""
    write(url, N)
    elsewhere()
    monkeypatch.setenv("HEADWATER_CACHE_LIMIT", "5KB")  # four of the blocks of 64 rows, with the keys none
    features = open_store(url).features("f/image")
    paths = [features.pooled.chunk_path(i) for i in range(5)]
    for i in (0, 1, 2):
        features.pooled.chunk(i)
    features.refresh().pooled.chunk(0)  # used last, though fetched first
    for i in (3, 4):
        features.pooled.chunk(i)
    assert sum(path.stat().st_size for path in paths if path.exists()) <= 5000
    assert paths[0].exists()
    assert not paths[1].exists()
    assert np.array_equal(features.pooled[:], vectors(np.arange(N)))
    assert np.array_equal(features.refresh().pooled[:], vectors(np.arange(N)))


@pytest.mark.parametrize(("text", "expected"), [("1.5 GB", 1_500_000_000), ("20m", 20_000_000), ("7", 7), ("", 10**11)])
def test_sizes(monkeypatch, text, expected):
    """The limit is a number of bytes, or of thousands, millions, ... of them."""
    monkeypatch.setenv("HEADWATER_CACHE_LIMIT", text)
    assert cache_limit() == expected


def test_a_limit_that_is_no_size(monkeypatch):
    """Another word is an error that shows how to write it."""
    monkeypatch.setenv("HEADWATER_CACHE_LIMIT", "lots")
    with pytest.raises(InputError, match=r"HEADWATER_CACHE_LIMIT='lots' is not a size\. Write one such as 20GB"):
        cache_limit()


def test_a_full_disk(url, elsewhere, monkeypatch):
    """Where the disk of the cache is full, the error says what can be done about it."""
    write(url, N)
    elsewhere()
    features = open_store(url).features("f/image")

    def get_file(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote_of(features.folder)._fs, "get_file", get_file)
    with pytest.raises(DiskError, match=r"the disk of the cache is full.*HEADWATER_CACHE_LIMIT"):
        features.pooled[:]


def test_an_index_that_is_damaged(url, tmp_path):
    """What is known of the cache can be thrown away, and the error says so."""
    write(url, N)
    index = tmp_path / "cache" / "index.sqlite"
    index.write_bytes(b"nothing" * 1000)
    with pytest.raises(DiskError, match=r"index\.sqlite: cannot be used .*Remove it"):
        open_store(url)
    index.unlink()
    assert np.array_equal(open_store(url).features("f/image").pooled[:], vectors(np.arange(N)))


def test_stores_share_no_cache(bucket):
    """Stores of like names at different places have folders of their own; one store has one, however it is written."""
    urls = [f"{bucket}/a.hw", f"{bucket}/b/a.hw", f"{bucket}/a-hw"]
    assert len({create_store(url).path for url in urls}) == 3
    assert open_store(f"{urls[0]}/").path == open_store(Path(urls[0])).path == open_store(urls[0]).path


# Removing and replacing


def test_features_are_removed_from_the_bucket(url, elsewhere, s3):
    """Nothing is left of a removed feature set but its lock, here and elsewhere."""
    write(url, N)
    write(url, 10, "g/image")
    open_store(url).remove_features("f/image")
    assert open_store(url).feature_names() == ["g/image"]
    assert [key for key in s3.find(url) if "/f/image" in key and not key.endswith(".lock")] == []
    elsewhere()
    assert open_store(url).feature_names() == ["g/image"]


def test_features_take_the_place_of_others(url, elsewhere, s3):
    """What is put in the place of a feature set is all that is there, here and elsewhere."""
    write(url, N)
    write(url, 10, "g/image", first=1000)
    open_store(url).replace_features("f/image", "g/image")
    assert not any("/g/" in key for key in s3.find(url))
    for _ in range(2):
        store = open_store(url)
        assert store.feature_names() == ["f/image"]
        assert np.array_equal(store.features("f/image").pooled[:], vectors(np.arange(1000, 1010)))
        assert list(store.verify()) == []
        elsewhere()


# Killed at any request


class Requests:
    """Counts requests that change a bucket, and ends the process in place of one."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def install(self, fs):
        for name in ("pipe_file", "put_file", "rm_file", "cp_file"):
            setattr(fs, name, self.guarded(getattr(fs, name)))

    def guarded(self, function):
        def call(*arguments, **options):
            self.count += 1
            if self.count == self.at:
                os._exit(17)
            return function(*arguments, **options)

        return call


def objects_of(folder):
    """The objects below a folder that stands for a bucket; locks, and the order of the journal's lines, left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            data = path.read_bytes()
            found[str(path.relative_to(folder))] = sorted(data.splitlines()) if path.suffix == ".jsonl" else data
    return found


def killed(function, url, at):
    """Run in a child process that ends in place of one request; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        Requests(at).install(remote_of(store_folder(url))._fs)
        function(url)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("function", ["write", "replace"])
def test_killed_at_some_requests(tmp_path, monkeypatch, function):
    """At every few requests a kill leaves a sound store in the bucket; the same run goes on, here or elsewhere."""
    every_kill(tmp_path, monkeypatch, function, 11)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["write", "replace"])
def test_killed_at_any_request(tmp_path, monkeypatch, function):
    """At every single request a kill leaves a sound store in the bucket; the same run goes on, here or elsewhere."""
    every_kill(tmp_path, monkeypatch, function, 1)


def every_kill(tmp_path, monkeypatch, function, step):
    pytest.importorskip("fsspec")

    def run(url):
        if function == "write":
            write(url, 100)
            write(url, N)
        else:
            open_store(url).replace_features("f/image", "g/image")

    def fresh(name):
        folder = tmp_path / name
        monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / f"{name}-cache"))
        if function == "replace":
            shutil.copytree(tmp_path / "before", folder)
        return folder

    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    if function == "replace":
        write(f"file://{tmp_path}/before", N)
        write(f"file://{tmp_path}/before", 70, "g/image", first=1000)
    whole = fresh("whole")
    run(f"file://{whole}")
    expected = objects_of(whole)
    assert expected
    at, last = 1, None
    while last != 0:
        folder = fresh(f"{at}")
        last = killed(run, f"file://{folder}", at)
        assert last in (0, 17)
        if at % 2:  # else this machine goes on, whose cache may be behind
            monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / f"{at}-empty"))
        if (folder / "store.json").exists():
            assert list(open_store(f"file://{folder}").verify()) == []
        if last:
            run(f"file://{folder}")
        assert objects_of(folder) == expected, at
        at += step
    assert at > 20  # or the requests would not have been counted


# Locks


HOLD = """
import sys
from headwater.store import open_store
with open_store(sys.argv[1]).features("f/image").writing():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(url, tmp_path):
    """A process with a cache of its own that writes features."""
    write(url, 10)
    env = {**os.environ, "HEADWATER_CACHE": str(tmp_path / "theirs"), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", HOLD, url]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_writes(url, holder):
    """A writer on another machine is refused at once, with the first one's process and host, until that ends."""
    with pytest.raises(StoreBusy, match=rf"f/image is being written by process {holder.pid} on "):
        write(url, 20)
    holder.communicate("")
    assert write(url, 20).n_items == 20


ADD = """
import sys
import polars as pl
from headwater.store import open_store
for number in range(4):
    with open_store(sys.argv[1]).changing():
        store = open_store(sys.argv[1])
        more = store.samples[:1].with_columns(id=pl.lit(f"{sys.argv[2]} {number}"))
        store.write_samples(pl.concat([store.samples, more]), store.roles)
"""


def test_changes_wait_for_each_other(url, tmp_path):
    """Machines that change the samples at the same time do it one after the other, and no change is lost."""
    table = pl.DataFrame({"id": ["a"], "image": ["a.png"], "image_key": ["00" * 16], "text_key": ["00" * 16]})
    create_store(url).write_samples(table, Roles("id", "image", None, "/"))
    started = []
    for name in "xy":
        env = {**os.environ, "HEADWATER_CACHE": str(tmp_path / name), "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen([sys.executable, "-c", ADD, url, name], env=env))
    assert [process.wait() for process in started] == [0, 0]
    assert len(open_store(url).samples) == 1 + 8


def test_the_lock_of_a_killed_process_is_taken_over(url, holder):
    """What a process of this machine held is free as soon as it is dead."""
    holder.kill()
    holder.wait()
    assert write(url, 20).n_items == 20


def test_a_dead_holder_elsewhere_is_waited_for(url, holder, monkeypatch):
    """The lock of another machine's process is taken over when it was not renewed in time, and not before."""
    holder.kill()
    holder.wait()
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    with pytest.raises(StoreBusy, match=f"process {holder.pid}"):
        write(url, 20)
    monkeypatch.setattr(lease, "SECONDS", 0.4)
    time.sleep(0.5)
    assert write(url, 20).n_items == 20


def test_a_holder_that_lives_keeps_its_lock(url, monkeypatch):
    """A lock is renewed as long as its holder lives: nobody takes it over, however long it is held."""
    monkeypatch.setattr(lease, "SECONDS", 0.8)
    features = write(url, 10)
    with features.writing():
        time.sleep(2)
        monkeypatch.setattr(lease, "_machine", lambda: "another")
        theirs = lease.Lease(remote_of(features.folder), "journal/f/image.lock")
        with pytest.raises(lease.Held, match=f"process {os.getpid()} on "):
            theirs.acquire(wait=False)


def test_who_lost_a_lock_writes_nothing(url, elsewhere, s3):
    """A process whose lock was taken over, having been away for too long, is refused before it writes."""
    features = write(url, 10)
    with features.writing() as writer:
        (held,) = remote_of(features.folder)._leases
        held._renewed -= lease.SECONDS
        before = s3.find(url, detail=True)
        with pytest.raises(StoreBusy, match=r"the lock journal/f/image\.lock was lost: .*Run the same command again"):
            writer.plan(keys_of(20))
    assert {k: v["ETag"] for k, v in s3.find(url, detail=True).items() if not k.endswith(".lock")} == {
        k: v["ETag"] for k, v in before.items() if not k.endswith(".lock")
    }


def test_of_two_that_take_a_lock_one_gets_it(url):
    """A lock that is free, or whose holder is dead, goes to the first that writes its name there."""
    remote = remote_of(create_store(url).path)
    assert remote.write_if("x.lock", b"1", None)
    assert remote.write_if("x.lock", b"2", None) is None
    tag, data = remote.read_tagged("x.lock")
    assert data == b"1"
    assert remote.write_if("x.lock", b"3", tag)
    assert remote.write_if("x.lock", b"4", tag) is None
    assert remote.read_tagged("x.lock")[1] == b"3"


# Shards


def share(url, part, n=N, stop_after=None):
    """Make the blocks of one part, as `headwater.embed.fill` does."""
    index, _, count = part.split("-")
    features = create_store(url).require_features("f/image", SPEC, N, alone=False)
    with features.sharing(part) as (writer, planning):
        with planning:
            writer.features = writer.features.refresh()
            tasks = writer.plan(keys_of(n))
        writer.set_environment({"made": f"by {part}"})
        for task in [task for task in tasks if task.block % int(count) == int(index)][:stop_after]:
            writer.commit(task, BlockResult(task.rows, vectors(task.rows)))
    return features.refresh()


@pytest.mark.parametrize("parts", [("0-of-2", "1-of-2"), ("1-of-2", "0-of-2")])
def test_parts_make_what_one_process_makes(bucket, url, elsewhere, s3, parts):
    """Two machines, whichever comes first, leave the objects that one leaves, and all lines of the journal."""
    write(f"{bucket}/one.hw", N)
    for number, part in enumerate(parts):
        elsewhere(f"machine {number}")
        share(url, part)
    below = [
        {key.partition(".hw/")[2]: s3.cat_file(key) for key in s3.find(f"{base}/features.zarr")}
        for base in (f"{bucket}/one.hw", url)
    ]
    assert below[0] == below[1]
    features = open_store(url).features("f/image")
    assert sorted(features.state.blocks) == [0, 1, 2, 3, 4]
    assert {line["made"] for line in features.state.environments.values()} == {f"by {part}" for part in parts}
    assert list(features.verify()) == []


def test_who_may_write_beside_whom(url, elsewhere):
    """From another machine a lone writer, the same part, and parts of another number are refused, and told why."""
    features = write(url, 10)
    who = f"process {os.getpid()} on "

    def there(part=None):
        elsewhere("there")
        try:
            features = open_store(url).features("f/image")
            with features.sharing(part) if part else features.writing():
                pass
        finally:
            elsewhere("cache")

    elsewhere("cache")
    with features.sharing("0-of-2"):
        with pytest.raises(StoreBusy, match=f"f/image is being written by {who}"), features.writing():
            pass
        there("1-of-2")
        with pytest.raises(StoreBusy, match=f"f/image is being written by {who}"):
            there()
        with pytest.raises(StoreBusy, match=f"shard 0-of-2 of f/image is being written by {who}"):
            there("0-of-2")
        with pytest.raises(
            StoreBusy, match=r"f/image is being written by a run of 2 shards\. Use the same number of shards, or wait"
        ):
            there("1-of-3")
    with features.writing(), pytest.raises(StoreBusy, match=f"f/image is being written by {who}"):
        there("0-of-2")
    for part in (None, "1-of-3", "0-of-2"):
        there(part)


SHARE = HOLD.replace(".writing()", ".sharing('0-of-2')")


def test_the_lock_of_a_dead_part_is_freed(url, tmp_path, monkeypatch):
    """A part that died keeps out a lone writer of another machine until it was not renewed, and is freed then."""
    write(url, 10)
    env = {**os.environ, "HEADWATER_CACHE": str(tmp_path / "theirs"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SHARE, url], stdin=-1, stdout=-1, text=True, env=env)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreBusy, match=rf"f/image is being written by process {process.pid} on "):
        write(url, 20)
    process.kill()
    process.communicate()
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_machine", lambda: "another")
        with pytest.raises(StoreBusy, match=rf"f/image is being written by process {process.pid} on "):
            write(url, 20)
        patch.setattr(lease, "SECONDS", 0.4)
        time.sleep(0.5)
        assert write(url, 20).n_items == 20
    assert remote_of(store_folder(url)).read_tagged("journal/f/image.0-of-2.lock")[1] == lease.FREE
    share(url, "0-of-2")


@pytest.fixture
def between(monkeypatch):
    """Return a function that has something done once, just before an object is written on a condition."""

    def do(name, action):
        write_if = Remote.write_if

        def written(self, place, data, tag):
            if place == name:
                monkeypatch.setattr(Remote, "write_if", write_if)
                action()
            return write_if(self, place, data, tag)

        monkeypatch.setattr(Remote, "write_if", written)

    return do


def test_no_line_of_the_journal_is_lost(url, elsewhere, between):
    """A line that another part adds between the read of the journal and its write is kept; so is this part's."""
    share(url, "0-of-2", stop_after=0)
    here = os.environ["HEADWATER_CACHE"]

    def other():
        elsewhere("there")
        share(url, "1-of-2")
        elsewhere(here)

    between("journal/f/image.jsonl", other)
    features = share(url, "0-of-2")
    assert sorted(features.state.blocks) == [0, 1, 2, 3, 4]
    assert list(features.verify()) == []


def test_a_line_whose_answer_was_lost_is_written_once(url, monkeypatch):
    """A request that arrived, and was refused when it was sent again, is not made another time."""
    features, write_if = write(url, 10), Remote.write_if

    def unanswered(self, name, data, tag):
        monkeypatch.setattr(Remote, "write_if", write_if)
        write_if(self, name, data, tag)

    for what in (features.journal.append_environment, lambda value: share(url, "0-of-2")):
        before = remote_of(features.folder).read(features.journal.path).splitlines()
        with features.writing() if what == features.journal.append_environment else nullcontext():
            monkeypatch.setattr(Remote, "write_if", unanswered)
            what({"lost": 1})
        after = remote_of(features.folder).read(features.journal.path).splitlines()
        assert after[: len(before)] == before
        assert len(set(after)) == len(after)
    assert list(features.refresh().verify()) == []


@pytest.mark.parametrize("late", ["rows", "rows' line", "block", "block's line"])
def test_who_lost_a_lock_unaware_changes_nothing(url, elsewhere, s3, monkeypatch, late):
    """What a paused process sends after another took its place is refused, and all that the other made is right."""
    features = write(url, 100)
    here = os.environ["HEADWATER_CACHE"]
    with features.writing() as writer:
        monkeypatch.setattr(lease.Lease, "held", property(lambda self: True))
        known = writer.features.state
        tasks = writer.plan(keys_of(130)) if "block" in late else []
        late_result = [(task, BlockResult(task.rows, vectors(task.rows) + 1)) for task in tasks]
        lines = [writer.write(*each) for each in late_result] if late == "block's line" else []
        s3.pipe_file(f"{url}/journal/f/image.lock", lease.FREE)
        elsewhere("there")
        other = write(url, 130) if "block" in late else write(url, 30, first=5000)
        elsewhere(here)
        send = {
            "rows": lambda: writer.plan(keys_of(130)),
            "rows' line": lambda: writer.features.journal.append(PlanLine(items=130, sums={}), after=known),
            "block": lambda: writer.commit(*late_result[0]),
            "block's line": lambda: writer.record(*lines),
        }[late]
        done = "assigned rows" if late.startswith("rows") else r"written (block \d+|it)"
        with pytest.raises(StoreBusy, match=f"another process has {done} meanwhile. Run the same command again"):
            send()
    elsewhere("there")
    assert other.refresh().state == other.state
    assert list(other.refresh().verify()) == []


@pytest.mark.parametrize("lost", ["taken", "given back", "meanwhile"])
def test_a_helper_writes_for_whoever_has_the_right(url, elsewhere, s3, lost):
    """Blocks that a worker elsewhere writes become the writer's; once another process writes, they change nothing."""
    features = write(url, 100)
    here = os.environ["HEADWATER_CACHE"]

    def help_with(task, meanwhile=lambda: None, wrong=0):
        elsewhere("there")
        try:
            helper = FeatureWriter(open_store(url).features("f/image"))
            with helper.features.helping(right, task.block):
                elsewhere(here)
                meanwhile()
                elsewhere("there")
                return helper.write(task, BlockResult(task.rows, vectors(task.rows) + wrong))
        finally:
            elsewhere(here)

    with features.writing() as writer:
        right = writer.features.rights.word
        first, second, third = writer.plan(keys_of(200))
        writer.record(help_with(first))
        if lost == "taken":
            s3.pipe_file(f"{url}/journal/f/image.lock", b'{"lease": "another"}')
            with pytest.raises(StoreBusy, match=r"the lock journal/f/image\.lock was lost"):
                help_with(second)
        elif lost == "meanwhile":

            def another():
                writer.commit(second, BlockResult(second.rows, vectors(second.rows)))

            with pytest.raises(StoreBusy, match="another process has written it meanwhile"):
                help_with(second, another, wrong=1)
    if lost == "given back":
        with pytest.raises(StoreBusy, match=r"the lock journal/f/image\.lock was lost"):
            help_with(third)
    found = open_store(url).features("f/image")
    n = 192 if lost == "meanwhile" else 128
    assert np.array_equal(found.pooled[:n], vectors(np.arange(n)))
    assert list(found.verify()) == []


OF_TOKENS = {
    "none": FeatureSpec(encoder="x", modality="image", dim=8),
    "dense": FeatureSpec(encoder="x", modality="image", dim=8, tokens="all", n_tokens=2, token_dim=3),
    "ragged": RAGGED,
}


@pytest.mark.parametrize("tokens", OF_TOKENS)
def test_a_helper_looks_only_at_its_block(url, elsewhere, s3, monkeypatch, tokens):
    """Before a block is written for another process, what it is written to is asked for, and nothing else."""
    lengths = np.full(N, 2, np.int64) if tokens == "ragged" else None
    looked, look = [], Remote._look

    def counted(self, name):
        looked.append(name)
        return look(self, name)

    def tags():
        return {name: info["ETag"] for name, info in s3.find(url, detail=True).items()}

    features = create_store(url).require_features("f/image", OF_TOKENS[tokens], N)
    with features.writing() as writer:
        right = writer.features.rights.word
        _, task, *_ = writer.plan(keys_of(N), lengths)
        elsewhere()
        helper = FeatureWriter(open_store(url).features("f/image"))
        before = tags()
        made = None if tokens == "none" else list(np.ones((len(task.rows), 2, 3)))
        with monkeypatch.context() as patch:
            patch.setattr(Remote, "_look", counted)
            patch.setattr(Remote, "_list", lambda self, prefix: pytest.fail("all was listed"))
            with helper.features.helping(right, task.block):
                asked = set(looked)
                helper.write(task, BlockResult(task.rows, vectors(task.rows), made))
    start = len(url.removeprefix("s3://")) + 1
    changed = {name[start:] for name, tag in tags().items() if before.get(name) != tag}
    assert asked == {name for name in changed if not name.endswith(".lock")}


def test_blocks_larger_than_what_is_sent_at_once_have_conditions_too(url, elsewhere, s3, monkeypatch):
    """However large a block is, who lost a lock unaware does not write over it; an index is sent in parts."""
    monkeypatch.setattr(remote, "WHOLE_BYTES", 100)
    features = write(url, 100)
    with features.writing() as writer:
        monkeypatch.setattr(lease.Lease, "held", property(lambda self: True))
        task, *_ = writer.plan(keys_of(130))
        s3.pipe_file(f"{url}/journal/f/image.lock", lease.FREE)
        here = os.environ["HEADWATER_CACHE"]
        elsewhere()
        write(url, 130)
        elsewhere(here)
        with pytest.raises(StoreBusy, match="another process has written it meanwhile"):
            writer.commit(task, BlockResult(task.rows, vectors(task.rows) + 1))
    table = pl.DataFrame({"id": ["a"], "image_key": ["0" * 32], "text_key": [None]})
    stores = []
    for machine in (here, "elsewhere"):
        elsewhere(machine)
        stores.append(open_store(url))
    stores[1].write_samples(table, Roles("id", None, None, "/"))
    elsewhere(here)
    with pytest.raises(StoreBusy, match="another process has written it meanwhile"):
        stores[0].write_samples(table.clear(), Roles("id", None, None, "/"))
    path = features.folder.parents[2] / "index" / "a.faiss"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"0" * 101)
    send_file(path)
    assert s3.cat_file(f"{url}/index/a.faiss") == path.read_bytes()


@pytest.mark.slow
def test_a_condition_on_what_s3_would_take_in_parts(bucket):
    """Of 110 MB, an object is written over the version that is known, and over no other."""
    url, data = f"{bucket}/large.hw", bytes(110 << 20)
    there = remote_of(create_store(url).path)
    tag = there.write_if("a", data, None)
    assert tag is not None
    assert there.write_if("a", data, None) is None
    assert there.write_if("a", data, "another tag 1") is None
    assert there.write_if("a", b"1" + data, tag) is not None
    assert there.read_tagged("a")[1] == b"1" + data


def test_a_server_that_refuses_every_condition(url, monkeypatch):
    """A line that a server will not take, though nobody else writes, is an error that says so, not an endless try."""
    features = write(url, 10)
    with features.writing() as writer, monkeypatch.context() as patch:
        patch.setattr(remote, "PAUSE_SECONDS", 0)
        patch.setattr(Remote, "write_if", lambda self, name, data, tag: None)
        with pytest.raises(
            RemoteError, match=r"journal/f/image\.jsonl: the server rejects the write, although no other.*If-Match"
        ):
            writer.set_environment({"another": 1})


def test_a_line_is_added_without_reading_all_others_again(url, monkeypatch):
    """Of a journal in a bucket each line is read once by its writer, however many are added."""
    read, parsed = [], journal.parsed

    def counted(line):
        read.append(line)
        return parsed(line)

    features = write(url, 10)
    with features.writing() as writer:
        line = writer.features.state.blocks[0]
        monkeypatch.setattr(journal, "parsed", counted)
        for _ in range(30):
            writer.record(line)
    assert len(read) < 40
    assert len(remote_of(features.folder).read(features.journal.path).splitlines()) == 35


def test_a_part_keeps_out_the_repair_of_a_journal(url, elsewhere, s3):
    """While a part writes on another machine, no line of a damaged journal is left out."""
    features = write(url, N)
    name = f"{url}/journal/f/image.jsonl"
    damaged = s3.cat_file(name).replace(b'"block":1,', b'"block":7,')
    here = os.environ["HEADWATER_CACHE"]
    with features.sharing("0-of-2"):
        elsewhere()
        s3.pipe_file(name, damaged)
        journal_there = Journal(open_store(url).journal_of("f/image"))
        with pytest.raises(StoreBusy, match="f/image is being written by process"):
            salvage_journal(journal_there, "f/image")
        elsewhere(here)
    elsewhere()
    assert s3.cat_file(name) == damaged
    assert (
        "image.jsonl: line 6 removed; what it recorded is embedded again"
        in salvage_journal(journal_there, "f/image")[0]
    )
    assert 1 not in open_store(url).features("f/image").state.blocks


ANEW = {
    "others": lambda url: write(url, N, first=7),
    "none": lambda url: None,
    "wider": lambda url: write(url, N, spec=replace(SPEC, dim=9)),
    "more": lambda url: write(url, N, n_items=4096),
}
READ = {
    "block": lambda features: features.pooled[:],
    "keys": lambda features: features.keys,
    "verify": lambda features: list(features.verify()),
}


EVERY = [(anew, read) for anew in ANEW for read in READ]
FEW = [
    ("others", "block"),
    ("none", "keys"),
    ("wider", "verify"),
    ("wider", "keys"),
    ("more", "block"),
    ("none", "verify"),
]


@pytest.mark.parametrize(
    ("anew", "read"), [case if case in FEW else pytest.param(*case, marks=pytest.mark.slow) for case in EVERY]
)
def test_what_another_process_made_anew_is_not_called_damaged(url, elsewhere, anew, read):
    """A reader whose features were deleted, and perhaps made again, of whatever shape, is told so."""
    write(url, N)
    elsewhere()
    features = open_store(url).features("f/image")
    elsewhere("a third")
    open_store(url).remove_features("f/image")
    ANEW[anew](url)
    elsewhere()
    if (anew, read) in (("wider", "keys"), ("more", "keys")):
        assert np.array_equal(READ[read](features), keys_of(N))
        return
    with pytest.raises(StoreBusy, match="another process has changed it since it was opened"):
        READ[read](features)


def test_a_writer_is_told_what_another_made_anew(url, elsewhere, s3, monkeypatch):
    """A block that another process has made anew is not taken for a damaged one, to which nothing can be added."""
    write(url, 100)
    elsewhere()
    with open_store(url).features("f/image").writing() as writer:
        task, *_ = writer.plan(keys_of(120))
        monkeypatch.setattr(lease.Lease, "held", property(lambda self: True))
        s3.pipe_file(f"{url}/journal/f/image.lock", lease.FREE)
        elsewhere("a third")
        open_store(url).remove_features("f/image")
        write(url, 120, first=7)
        elsewhere()
        with pytest.raises(StoreBusy, match=r"has changed it since it was opened\. Run the command again\.$"):
            writer.commit(task, BlockResult(task.rows, vectors(task.rows)))


def test_parts_where_there_are_no_conditions(tmp_path, elsewhere):
    """Elsewhere than on S3 lines are added under a lock."""
    url = f"file://{tmp_path}/bucket/a.hw"
    for part in ("1-of-2", "0-of-2"):
        elsewhere(part)
        share(url, part)
    features = open_store(url).features("f/image")
    assert sorted(features.state.blocks) == [0, 1, 2, 3, 4]
    assert list(features.verify()) == []
    assert (tmp_path / "bucket/a.hw/journal/f/image.append.lock").read_bytes() == lease.FREE


# What cannot be


def refused(error, url, match):
    for call in (open_store, find_store, create_store):
        with pytest.raises(error, match=match) as caught:
            call(url)
        assert "\n" not in str(caught.value)


def test_nothing_is_there(bucket):
    """A place where nothing is has no store, and one can be made there."""
    with pytest.raises(
        StoreNotFound, match=rf"{bucket}/a\.hw: there is no store\. Run: headwater embed MANIFEST {bucket}"
    ):
        open_store(f"{bucket}/a.hw")
    assert find_store(f"{bucket}/a.hw") is None


def test_other_things_are_left_alone(bucket, s3):
    """A prefix with other objects, and a single object, are refused and stay as they are."""
    s3.pipe_file(f"{bucket}/data/notes.txt", b"mine")
    refused(StoreError, f"{bucket}/data", f"{bucket}/data holds other objects, not a store")
    refused(StoreError, f"{bucket}/data/notes.txt", "data/notes.txt is a single object, not a store")
    assert [f"s3://{key}" for key in s3.find(bucket)] == [f"{bucket}/data/notes.txt"]


def test_no_such_bucket(bucket):
    """A bucket that does not exist is said to be missing."""
    refused(
        StoreNotFound,
        f"s3://missing-{uuid.uuid4().hex}/a.hw",
        "s3://missing-.*: no such bucket. Create it, or check its name",
    )


def test_access_is_denied(url, monkeypatch):
    """What the server forbids says so."""
    store = create_store(url)

    def find(*arguments, **options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote_of(store.path)._fs, "find", find)
    refused(RemoteError, url, r"access denied \(Access Denied\)\. Check your credentials")


FAILS = """
import sys
from headwater.errors import HeadwaterError
from headwater.store import open_store
try:
    open_store(sys.argv[1])
except HeadwaterError as error:
    print(type(error).__name__, error)
"""


def said(url, **settings):
    """Return what a process says that opens a store with other settings of the environment, None for unset."""
    env = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    env = {name: value for name, value in env.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", FAILS, url], capture_output=True, text=True, env=env, check=True)
    return done.stdout


def test_no_credentials(bucket, tmp_path):
    """Without credentials the error says where they come from."""
    missing = dict.fromkeys(name for name in os.environ if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL")
    missing |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    assert said(f"{bucket}/a.hw", **missing).startswith(
        f"RemoteError {bucket}/a.hw: no credentials. Set AWS_ACCESS_KEY"
    )


@pytest.mark.parametrize("wrong", [{"AWS_PROFILE": "nobody"}, {"AWS_ENDPOINT_URL": "nowhere"}])
def test_settings_that_cannot_be_used(bucket, wrong):
    """A profile that is not there, and an endpoint that is none, are one line that says where to look."""
    found = said(f"{bucket}/a.hw", **wrong)
    assert found.startswith(f"RemoteError {bucket}/a.hw: cannot be reached (")
    assert next(iter(wrong)) in found


@pytest.mark.slow
def test_no_network(bucket):
    """Where nothing answers, the error names what to look at."""
    found = said(f"{bucket}/a.hw", AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    assert found.startswith(f"RemoteError {bucket}/a.hw: cannot be reached (")
    assert "AWS_ENDPOINT_URL" in found


def test_urls_that_name_no_place(monkeypatch):
    """An unknown kind of URL, one without a place, and one that would be a pattern are refused."""
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match=r"nonsense://x: cannot hold a store \(Protocol not known: nonsense\)"):
        open_store("nonsense://x")
    with pytest.raises(InputError, match="memory://: give a bucket and a path in it"):
        open_store("memory://")
    with pytest.raises(InputError, match=r"memory://a/\*\.hw: the URL of a store must not contain '\*'"):
        open_store("memory://a/*.hw")


def test_what_is_not_installed(monkeypatch):
    """Without s3fs the error has the line to type."""
    pytest.importorskip("fsspec.registry")
    for name in ("s3fs", "s3fs.core"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("s3", "s3a"):  # as if nobody had asked for it yet
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, name, raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'headwater\[s3\]'"):
        open_store("s3://bucket/a.hw")


def test_any_file_system_that_is_known(tmp_path, monkeypatch):
    """A store lives in whatever fsspec knows, here the memory of this process."""
    pytest.importorskip("fsspec")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    url = f"memory://{tmp_path.name}/a.hw"
    write(url, N)
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))
    assert np.array_equal(open_store(url).features("f/image").pooled[:], vectors(np.arange(N)))
    assert list(open_store(url).verify()) == []


def test_a_store_that_was_copied_into_a_bucket(bucket, s3, tmp_path):
    """A store that any tool copied from a disk is opened, read and added to."""
    write(tmp_path / "a.hw", 100)
    s3.put(str(tmp_path / "a.hw"), f"{bucket}/copied.hw", recursive=True)
    assert list(open_store(f"{bucket}/copied.hw").verify()) == []
    assert np.array_equal(write(f"{bucket}/copied.hw", N).pooled[:], vectors(np.arange(N)))


def test_a_lock_of_this_machine_stays(url, s3):
    """The file that processes of this machine lock is theirs alone: it stays when the bucket has none."""
    store = create_store(url)
    lock = store.path / ".lock"
    inode = lock.stat().st_ino
    s3.rm_file(f"{url}/.lock")
    time.sleep(0.01)
    open_store(url)
    assert lock.stat().st_ino == inode


def test_the_page_of_a_cache_says_what_it_is_of(url):
    """Beside what is cached stands the URL that it comes from."""
    store = create_store(url)
    assert json.loads((store.path.parent / "url.json").read_text())["url"] == url
