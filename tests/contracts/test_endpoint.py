"""What headwater needs of an S3 endpoint, a promise a test; docs/buckets.md says how to check one's own."""

import logging
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from headwater.store import BlockResult, FeatureSpec, Journal, create_store, open_store, store_folder
from headwater.store.journal import BlockLine
from headwater.store.lease import Held, Lease
from headwater.store.remote import Remote, remote_of

WRITERS = 8
ROUNDS = 5


@dataclass(frozen=True)
class Endpoint:
    """A plain client of an endpoint, a place in a bucket there, and headwater's own requests to that place."""

    s3: Any
    url: str

    @property
    def objects(self) -> Remote:
        return remote_of(store_folder(self.url))


@pytest.fixture
def endpoint(s3, bucket):
    return Endpoint(s3, f"{bucket}/promises.hw")


def at_once(function, n=WRITERS):
    """Return what a function makes of each number below n, all called at the same time."""
    barrier = threading.Barrier(n)

    def call(number):
        barrier.wait()
        return function(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(call, range(n)))


# Conditional writes


def test_an_object_is_created_once(endpoint):
    """PUT with ``If-None-Match: *`` writes where there is no object, and is refused where there is one."""
    assert endpoint.objects.write_if("a", b"first", None) is not None
    assert endpoint.objects.write_if("a", b"second", None) is None
    assert endpoint.s3.cat_file(f"{endpoint.url}/a") == b"first"


def test_only_the_version_that_is_named_is_replaced(endpoint):
    """PUT with ``If-Match`` writes over the version with this ETag, and is refused where there is another by now."""
    first = endpoint.objects.write_if("a", b"first", None)
    second = endpoint.objects.write_if("a", b"second", first)
    assert second is not None
    assert endpoint.objects.write_if("a", b"third", first) is None
    assert endpoint.s3.cat_file(f"{endpoint.url}/a") == b"second"
    assert endpoint.objects.write_if("a", b"third", second) is not None


def test_an_object_that_is_gone_is_not_replaced(endpoint):
    """PUT with ``If-Match`` is refused where there is no object."""
    tag = endpoint.objects.write_if("a", b"first", None)
    endpoint.s3.rm_file(f"{endpoint.url}/a")
    assert endpoint.objects.write_if("a", b"second", tag) is None
    assert not endpoint.s3.exists(f"{endpoint.url}/a")


def test_of_many_that_create_an_object_one_does(endpoint):
    """Of several PUTs with ``If-None-Match: *`` at the same time exactly one is accepted, and it is the one there."""
    for round_ in range(ROUNDS):
        name = f"new {round_}"
        tags = at_once(lambda number, name=name: endpoint.objects.write_if(name, b"%d" % number, None))
        (winner,) = [number for number, tag in enumerate(tags) if tag is not None]
        assert endpoint.objects.read_tagged(name) == (tags[winner], b"%d" % winner)


def test_of_many_that_replace_a_version_one_does(endpoint):
    """Of several PUTs with one ``If-Match`` at the same time exactly one is accepted, and it is the one there."""
    tag = endpoint.objects.write_if("a", b"first", None)
    for round_ in range(ROUNDS):
        tags = at_once(
            lambda number, tag=tag, round_=round_: endpoint.objects.write_if("a", b"%d %d" % (round_, number), tag)
        )
        (winner,) = [number for number, found in enumerate(tags) if found is not None]
        tag = tags[winner]
        assert endpoint.objects.read_tagged("a") == (tag, b"%d %d" % (round_, winner))


def test_a_removed_object_can_be_created(endpoint):
    """After DELETE an object is not there, and PUT with ``If-None-Match: *`` writes it anew."""
    endpoint.objects.write_if("a", b"first", None)
    endpoint.s3.rm_file(f"{endpoint.url}/a")
    assert endpoint.objects.read_tagged("a") is None
    assert endpoint.objects.write_if("a", b"second", None) is not None
    assert endpoint.s3.cat_file(f"{endpoint.url}/a") == b"second"


# Reading


def test_what_was_written_is_read(endpoint):
    """GET and HEAD answer with what was written last, at once, also where something else was read before."""
    for number in range(10):
        data = b"%d" % number * (number + 1)
        endpoint.s3.pipe_file(f"{endpoint.url}/a", data)
        assert endpoint.s3.info(f"{endpoint.url}/a")["size"] == len(data)
        assert endpoint.s3.cat_file(f"{endpoint.url}/a") == data


def test_what_was_written_is_listed(endpoint):
    """A listing has each object that was written before it, and none that was removed, at once."""
    names = [f"{endpoint.url}/{folder}/{i}" for folder in "bac" for i in range(4)]
    for n_written, name in enumerate(names, start=1):
        endpoint.s3.pipe_file(name, b"1")
        assert {f"s3://{key}" for key in endpoint.s3.find(endpoint.url)} == set(names[:n_written])
    for n_removed, name in enumerate(names, start=1):
        endpoint.s3.rm_file(name)
        assert {f"s3://{key}" for key in endpoint.s3.find(endpoint.url)} == set(names[n_removed:])


def test_an_etag_changes_with_the_bytes(endpoint):
    """Two versions of an object with different bytes, of one length, have different ETags."""
    tags = set()
    for number in range(5):
        endpoint.s3.pipe_file(f"{endpoint.url}/a", b"version %d" % number)
        tags.add(endpoint.s3.info(f"{endpoint.url}/a")["ETag"])
    assert len(tags) == 5


def test_an_etag_is_the_same_wherever_it_is_told(endpoint):
    """The answer to a PUT, HEAD and a listing have one ETag for one version of an object."""
    told = endpoint.s3.pipe_file(f"{endpoint.url}/a", b"first")["ETag"]
    (listed,) = endpoint.s3.find(endpoint.url, detail=True).values()
    assert told == endpoint.s3.info(f"{endpoint.url}/a")["ETag"] == listed["ETag"]


def test_objects_are_copied_within_the_bucket(endpoint):
    """COPY makes an object of the same bytes, which HEAD and a listing have at once."""
    endpoint.s3.pipe_file(f"{endpoint.url}/a/1", b"first")
    endpoint.s3.cp_file(f"{endpoint.url}/a/1", f"{endpoint.url}/b/1")
    assert endpoint.s3.cat_file(f"{endpoint.url}/b/1") == b"first"
    assert endpoint.s3.info(f"{endpoint.url}/b/1")["size"] == 5
    assert len(endpoint.s3.find(endpoint.url)) == 2


# What headwater makes of it


class Seen:
    """Objects as several processes see them that look at the same time: none writes before all have looked once."""

    def __init__(self, objects, barrier):
        self.objects, self.barrier, self.looked = objects, barrier, False

    def read_tagged(self, name):
        found = self.objects.read_tagged(name)
        if not self.looked:
            self.looked = True
            self.barrier.wait()
        return found

    def write_if(self, name, data, tag):
        return self.objects.write_if(name, data, tag)


def test_a_lock_has_one_holder(endpoint):
    """Of several that take a free lock at the same time one gets it; nobody else does until it is released."""
    barrier = threading.Barrier(WRITERS)

    def take(number):
        lease = Lease(Seen(endpoint.objects, barrier), "x.lock")
        try:
            lease.acquire(wait=False)
        except Held:
            return None
        return lease

    held = [lease for lease in at_once(take) if lease is not None]
    try:
        assert len(held) == 1
        with pytest.raises(Held, match="process"):
            Lease(endpoint.objects, "x.lock").acquire(wait=False)
    finally:
        for lease in held:
            lease.release()
    again = Lease(endpoint.objects, "x.lock")
    again.acquire(wait=False)
    again.release()


def test_a_journal_loses_no_line(endpoint):
    """Lines that several writers add to one journal at the same time are all there, once."""
    path = store_folder(endpoint.url) / "journal/f/image.jsonl"

    def add(number):
        for i in range(3):
            Journal(path, shared=True).append(BlockLine(block=number * 3 + i, stored=(), sums={}))

    at_once(add, 4)
    assert sorted(Journal(path).read().blocks) == list(range(12))
    assert len(endpoint.objects.read(path).splitlines()) == 12


def test_a_store_is_read_as_it_was_written(endpoint, monkeypatch, tmp_path):
    """Features written through the endpoint, and added to, have the right checksums when all is fetched again."""
    keys = np.arange(200 * 16, dtype="<u2").view(np.uint8)[: 200 * 16].reshape(200, 16)
    X = np.arange(200 * 4, dtype=np.float32).reshape(200, 4)
    spec = FeatureSpec(encoder="test:made", modality="image", dim=4, dtype="float32")
    for n in (100, 200):
        with create_store(endpoint.url).require_features("f/image", spec, 200).writing() as writer:
            for task in writer.plan(keys[:n]):
                writer.commit(task, BlockResult(task.rows, X[task.rows]))
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "empty"))
    store = open_store(endpoint.url)
    assert list(store.verify()) == []
    assert np.array_equal(store.features("f/image").pooled[:], X)


# Whether the promises can be broken


@pytest.fixture(scope="session")
def deaf_server():
    """The URL of an S3 server that passes over ``If-Match`` and ``If-None-Match``."""
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    serving = pytest.importorskip("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = server.DomainDispatcherApplication(server.create_backend_app)

    def deaf(environ, start_response):
        for header in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            environ.pop(header, None)
        return app(environ, start_response)

    running = serving.make_server("127.0.0.1", 0, deaf, threaded=True)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()


@pytest.fixture
def deaf(deaf_server, monkeypatch, tmp_path):
    """The endpoint of that server."""
    s3fs = pytest.importorskip("s3fs")
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_", "HEADWATER_"))]:
        monkeypatch.delenv(name)
    settings = {"ENDPOINT_URL": deaf_server, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    for name, value in {**settings, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()  # fsspec would go on with the client of the endpoint that came first
    s3 = s3fs.S3FileSystem(use_listings_cache=False)
    bucket = f"deaf-{uuid.uuid4().hex[:12]}"
    s3.mkdir(bucket)
    yield Endpoint(s3, f"s3://{bucket}/promises.hw")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "promise",
    [
        test_an_object_is_created_once,
        test_only_the_version_that_is_named_is_replaced,
        test_an_object_that_is_gone_is_not_replaced,
        test_of_many_that_create_an_object_one_does,
        test_of_many_that_replace_a_version_one_does,
        test_a_lock_has_one_holder,
    ],
)
def test_an_endpoint_that_ignores_conditions_is_noticed(deaf, promise):
    """Each promise about conditions is broken by an endpoint that writes whatever the condition."""
    test_what_was_written_is_read(deaf)  # else it keeps what it should
    with pytest.raises((AssertionError, ValueError)):  # a ValueError where several have won
        promise(deaf)
