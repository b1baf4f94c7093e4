"""A server on the gallery: images and captions by a dual encoder, texture, and runs on both."""

import threading
import time

import polars as pl
import pytest

import headwater as hw
from headwater._progress import silent
from headwater.serve.options import ServeOptions
from headwater.store import open_store
from tests.gallery import gallery, paint

__all__ = ["gallery", "paint"]

QUICK = {"hidden": [], "epochs": 4, "lr": 0.003, "precision": "fp32", "tokenizer": "project"}


@pytest.fixture(scope="session")
def served(gallery, tmp_path_factory):
    """A store of images, captions and tokens, with a calibrated run on images and a run on tokens."""
    folder = tmp_path_factory.mktemp("served")
    table = pl.read_csv(gallery / "manifest.csv").with_columns(image=str(gallery) + "/" + pl.col("image"))
    table.write_csv(folder / "manifest.csv")
    store = folder / "gallery.hw"
    hw.embed(folder / "manifest.csv", store, encoder="builtin:texture")
    hw.embed(folder / "manifest.csv", store, encoder="builtin:clip", name="clip")
    hw.embed(folder / "manifest.csv", store, encoder="builtin:clip", name="tokens", tokens="all")
    asked = {"label": "grade", "groups": "patient", "folds": 3, "where": "age < 70"}
    decided = {"calibrate": "temperature", "conformal": 0.2, "positive": "high", "sensitivity": 0.8}
    hw.fit_head(store, features="clip/image", params={"C": 1.0}, **asked, **decided, out=folder / "grade")
    hw.fit_head(store, features="tokens/image", head="token-mlp", params=QUICK, **asked, out=folder / "areas")
    hw.fit_head(store, features=["clip/image", "clip/text"], params={"C": 1.0}, **asked, out=folder / "both")
    return folder


def options_of(served, tmp_path, **changes):
    given = {
        "runs": [served / "grade"],
        "show": ["grade", "site", "age"],
        "by": "site",
        "log": tmp_path / "log",
        "allow_host": ["testserver"],
    }
    return ServeOptions(**(given | changes))


@pytest.fixture
def serving(served, tmp_path):
    """Return a function that makes a client of a server; all are closed at the end."""
    from fastapi.testclient import TestClient

    from headwater.serve.app import make_app
    from headwater.serve.service import Service

    clients = []

    def make(token=None, measured=True, **changes):
        service = Service(open_store(served / "gallery.hw"), options_of(served, tmp_path, **changes), silent)
        if measured:
            service.neighbours._measure()
            service.neighbours.measure = lambda: None
        client = TestClient(make_app(service, token=token), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serving):
    return serving()


@pytest.fixture
def running(served, tmp_path):
    """Return a function that runs a server in a thread, on a free port, and returns its address."""

    from headwater.serve.server import prepare, server_of

    servers = []

    def run(**changes):
        given = vars(options_of(served, tmp_path, **{"allow_host": (), **changes}))
        ready = prepare(served / "gallery.hw", progress=None, **(given | {"port": 0}))
        server = server_of(ready)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [ready.listens]}, daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        servers.append((server, thread, ready))
        return ready.url

    yield run
    for server, thread, ready in servers:
        server.should_exit = True
        thread.join(10)
        ready.listens.close()
