"""What people send and what goes wrong: memory stays bounded, and answers tell nothing of files or ids."""

import io
import json
import re
import shutil
import socket
import threading
from hashlib import blake2b
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

import headwater as hw
from headwater._progress import silent
from headwater.embed.contents import HeldImage, content_key
from headwater.errors import HeadError
from headwater.serve import findings, server, uploads
from headwater.serve.options import ServeOptions
from headwater.serve.service import Service
from headwater.serve.uploads import Room, Uploads
from headwater.store import open_store
from tests.serve.test_app import PNG, search, uploaded


@pytest.fixture
def own(gallery, tmp_path):
    """A service of a copy of the gallery, whose files a test may change."""
    folder = shutil.copytree(gallery, tmp_path / "Smith_Jane")
    hw.embed(folder / "manifest.csv", tmp_path / "own.hw", encoder="builtin:texture")
    service = Service(open_store(tmp_path / "own.hw"), ServeOptions(log=tmp_path / "log"), silent)
    yield service, folder
    service.close()


def png(width, height, mode="L"):
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "PNG")
    return out.getvalue()


def test_errors_name_no_file_of_the_store(serving, served, gallery, tmp_path):
    """File names and folders may hold patients' names; a person at the page may not even know the machine."""
    folder = shutil.copytree(gallery, tmp_path / "Smith_Jane")
    hw.embed(folder / "manifest.csv", tmp_path / "own.hw", encoder="builtin:clip", name="clip")
    from fastapi.testclient import TestClient

    from headwater.serve.app import make_app

    options = ServeOptions(log=tmp_path / "log", allow_host=["testserver"], runs=[served / "grade"])
    service = Service(open_store(tmp_path / "own.hw"), options, silent)
    with TestClient(make_app(service, token=None), raise_server_exceptions=False) as client:
        gone, changed = service.gallery.references[:2]
        (folder / "images" / "00.png").unlink()
        (folder / "images" / "01.png").write_bytes(b"changed")
        for case in (gone, changed):
            region = {"query": {"case": case, "region": [0, 0, 0.5, 0.5]}}
            answers = [client.get(f"/api/cases/{case}/image"), client.post("/api/search", json=region)]
            answers.append(client.post("/api/findings", json=region))
            for answer in answers:
                assert "moved, or changed since it was embedded" in answer.text
                assert not re.search(r"Smith|0[01]\\.png|/tmp|" + re.escape(str(tmp_path)), answer.text)


def test_a_run_that_fails_fails_alone(serving, served, monkeypatch):
    """Whatever error of headwater it is, the other runs still answer; and the line names no folder."""
    client = serving(runs=[served / "grade", served / "both"])

    def fails(*_):
        raise HeadError(f"{served / 'grade'}: the head cannot be used")

    monkeypatch.setattr(client.service.finders["grade"], "find", fails)
    case = client.service.gallery.references[45]
    one, other = client.post("/api/findings", json={"query": {"case": case}}).json()
    assert one["error"] == "grade: the head cannot be used"
    assert "scores" in other


def test_runs_are_called_by_their_whole_name(served, serving, tmp_path):
    for version in ("v1.0", "v1.1"):
        shutil.copytree(served / "grade", tmp_path / version)
    client = serving(runs=[tmp_path / "v1.0", tmp_path / "v1.1"])
    assert [run["name"] for run in client.get("/api/info").json()["runs"]] == ["v1.0", "v1.1"]


def test_references_tell_no_id(own, served, serving, tmp_path):
    """Ids are easily guessed, so nobody may compute what the reference of one would be; a restart changes none."""
    service, _ = own
    here = service.gallery.references
    assert len(set(here)) == 48
    plain = {blake2b(f"s{i:02d}".encode(), digest_size=n).hexdigest() for i in range(48) for n in (10, 16, 32)}
    assert not any(one.startswith(reference[:10]) for reference in here for one in plain)
    again = Service(service.store, service.options, silent)
    assert again.gallery.references == here
    again.close()
    elsewhere = Service(service.store, ServeOptions(log=tmp_path / "other"), silent)
    assert not set(elsewhere.gallery.references) & set(here)
    elsewhere.close()
    assert (tmp_path / "log" / "secret").stat().st_mode & 0o077 == 0


# What similarities may be compared with


def test_a_sentence_is_not_called_unlike_the_store(client):
    """A sentence is far from any image: only images are compared with how near images are to each other."""
    client.service.neighbours._votes["clip/image"] = client.service.neighbours._vote("clip/image")
    case = client.service.gallery.references[8]
    for query in ({"text": "rough"}, {"case": case, "text": "smooth", "weight": 0.1}):
        assert not any("resembles" in note for note in search(client, query=query, features="clip/image")["notes"])


def test_a_filter_does_not_make_a_query_unlike_the_store(client, tmp_path):
    """What was filtered away may resemble it."""
    Image.new("RGB", (48, 48), (255, 0, 0)).save(tmp_path / "red.png")
    query = {"upload": uploaded(client, tmp_path / "red.png")}
    asked = {"query": query, "features": "texture/image"}
    assert any("resembles" in note for note in search(client, **asked)["notes"])
    assert not any("resembles" in note for note in search(client, **asked, filters={"site": ["south"]})["notes"])


def test_a_region_of_a_12_bit_image_is_as_bright_as_the_image(gallery, tmp_path):
    """The part is scaled by the bits that the encoder was given, not by 16."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(4):
        values = rng.integers(0, 4096, (64, 64)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "images" / f"{i}.png")
    lines = ["id,image", *(f"{i},images/{i}.png" for i in range(4))]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    hw.embed(tmp_path / "m.csv", tmp_path / "s.hw", encoder="builtin:texture", steps=["bits=12"])
    service = Service(open_store(tmp_path / "s.hw"), ServeOptions(log=tmp_path / "log"), silent)
    from headwater.serve.service import Question

    case = service.gallery.references[0]
    whole = service.vector("texture/image", Question(case=case))
    part = service.vector("texture/image", Question(case=case, region=(0.0, 0.0, 1.0, 1.0)))
    np.testing.assert_allclose(part, whole, atol=1e-2)
    with Image.open(io.BytesIO(service.uploads.add((tmp_path / "images" / "0.png").read_bytes())[1].preview)) as shown:
        assert np.asarray(shown).mean() > 100
    service.close()


# Memory


def test_a_strip_is_refused_before_it_is_resized(client):
    """An image of one pixel by thousands would be made a thousand times larger by an encoder."""
    for width, height in ((20_000, 1), (1, 20_000)):
        answer = client.post("/api/uploads", content=png(width, height), headers=PNG)
        found = search(client, 422, query={"upload": answer.json()["upload"]}, features="clip/image")
        assert "times as long as wide" in found["error"]


def test_room_for_images_is_shared():
    """Small images are decoded together; a large one waits for them, and none is refused."""
    room, inside, most, go = Room(100), [], [], threading.Event()

    def take(side):
        content = HeldImage(content_key(png(side, side)), "x", None, png(side, side))
        with room.of(content):
            inside.append(side * side)
            most.append(sum(inside))
            go.wait(0.05)
            inside.remove(side * side)

    threads = [threading.Thread(target=take, args=(side,)) for side in (4, 5, 6, 10, 5, 4, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 7
    assert all(total <= 100 or total == 900 for total in most)
    assert room._free == 100


def test_uploads_and_features_are_forgotten(client, gallery, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_UPLOADS", 3)
    held = Uploads(10_000_000, keep=60.0)
    handles = [held.add(png(4, 4 + i))[0] for i in range(5)]
    assert len(held) == 3
    assert held.get(handles[-1]).height == 8

    monkeypatch.setattr(findings, "REMEMBERED_BYTES", 3 * 128 * 4)
    for i in range(8):
        answer = client.post("/api/uploads", content=png(40, 41 + i), headers=PNG)
        search(client, query={"upload": answer.json()["upload"]}, features="clip/image")
    assert 1 <= len(client.service.encoders._made) <= 3


def test_it_ends_while_the_vote_is_measured(served, tmp_path):
    """Ctrl-C just after the start: no thread waits for an answer that nobody will give."""
    options = ServeOptions(log=tmp_path / "log", label="grade")
    service = Service(open_store(served / "gallery.hw"), options, silent)
    thread = service.neighbours.measure()
    service.close()
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(Exception, match="the server is ending"):
        service.neighbours._vote("clip/image")


def test_the_secret_is_not_in_the_log(client, tmp_path):
    search(client, query={"text": "rough"})
    line = json.loads((tmp_path / "log" / "audit.jsonl").read_text().splitlines()[-1])
    plain = blake2b(repr((None, "", "rough", None)).encode(), digest_size=16).hexdigest()
    assert line["query"] != plain  # else a sentence could be guessed


# Connections


def test_connections_without_a_request_are_closed(running, monkeypatch):
    """Else a few that are kept open, or that trickle, would keep everybody else out."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    place = urlsplit(running())
    with socket.create_connection((place.hostname, place.port), 30) as idle:
        assert idle.recv(1) == b""
    with socket.create_connection((place.hostname, place.port), 30) as slow:
        slow.sendall(b"GET / HT")
        assert slow.recv(1) == b""
    with urlopen(f"{place.scheme}://{place.netloc}/api/info") as answer:
        assert answer.status == 200


def test_who_leaves_while_sending_is_no_error(running, capfd, caplog):
    """A traceback for each would fill the terminal."""
    place = urlsplit(running())
    lines = ["POST /api/uploads HTTP/1.1", f"Host: {place.netloc}", "Content-Type: image/png", "Content-Length: 99"]
    head = "\r\n".join([*lines, "", ""])
    with socket.create_connection((place.hostname, place.port), 30) as leaves:
        leaves.sendall(head.encode() + b"abc")
    for _ in range(3):  # what came before is dealt with
        with urlopen(f"{place.scheme}://{place.netloc}/api/info") as answer:
            answer.read()
    assert "ClientDisconnect" not in capfd.readouterr().err + caplog.text
