"""A store that somebody else made: nothing outside it is read, written or removed through it, and nothing waits."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from headwater.api import embed, gc, index, repair, similar, verify
from headwater.errors import HeadwaterError, InputError, StoreError
from headwater.store import Journal, open_store, store_folder

ENCODER = {"encoder": "stub:8"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A store of images and texts with an index, the table it is of, and a victim's folder beside it."""
    folder = tmp_path_factory.mktemp("first")
    rows = ["id,image,text"]
    (folder / "images").mkdir()
    for i in range(6):
        (folder / f"images/{i}.png").write_bytes(bytes([i]))
        rows.append(f"{i},images/{i}.png,words {i}")
    (folder / "m.csv").write_text("\n".join(rows))
    embed(folder / "m.csv", folder / "a.hw", **ENCODER)
    index(folder / "a.hw", features="stub-8/image", kind="flat")
    (folder / "victim").mkdir()
    (folder / "victim" / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def made(first, tmp_path):
    """A copy of all that."""
    return shutil.copytree(first, tmp_path, dirs_exist_ok=True)


def everything(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def use(folder):
    """Do with a store whatever could write into it, or read of it."""
    store = folder / "a.hw"
    (folder / "more.csv").write_text((folder / "m.csv").read_text() + "\n9,images/5.png,other words\n")
    verbs = [
        lambda: embed(folder / "more.csv", store, **ENCODER),
        lambda: embed(folder / "m.csv", store, name="new", **ENCODER),
        lambda: open_store(store).samples,
        lambda: open_store(store).read("stub-8/image").X[:],
        lambda: similar(store, features="stub-8/image", id="1", index="flat"),
        lambda: index(store, features="stub-8/text", kind="flat"),
        lambda: verify(store),
        lambda: repair(store),
        lambda: gc(store, drop=["stub-8/text"], yes=True),
        lambda: gc(store, yes=True),
    ]
    errors = []
    for verb in verbs:
        try:
            verb()
        except HeadwaterError as error:
            errors.append(str(error))
    return errors


LINKED = [
    ".lock",
    "store.json",
    "samples.parquet",
    "samples.sum.json",
    "files.parquet",
    "features.zarr",
    "features.zarr/stub-8",
    "features.zarr/stub-8/image",
    "features.zarr/stub-8/image/zarr.json",
    "features.zarr/stub-8/image/pooled",
    "features.zarr/stub-8/image/pooled/c.0.0",
    "features.zarr/stub-8/image/status/c.0",
    "features.zarr/stub-8/image/keys/c.0.0",
    "features.zarr/new",
    "journal",
    "journal/stub-8",
    "journal/new",
    "journal/stub-8/image.jsonl",
    "journal/stub-8/image.lock",
    "journal/stub-8/image.append.lock",
    "index",
    "index/stub-8",
    "index/stub-8/image.flat.faiss",
    "index/stub-8/image.flat.faiss.json",
]


SLOW = pytest.mark.slow


@pytest.mark.parametrize("absolute", [True, pytest.param(False, marks=SLOW)], ids=["absolute", "relative"])
@pytest.mark.parametrize("place", LINKED)
def test_nothing_is_reached_through_a_link(made, place, absolute):
    """Wherever a link stands in a store, what it leads to stays as it is, whatever is done; most say what is wrong."""
    link = made / "a.hw" / place
    target = made / "victim" / ("folder" if link.is_dir() or "." not in link.name else "file")
    if link.is_dir() or link.exists():
        shutil.move(link, target)
    elif target.name == "folder":
        target.mkdir()
        (target / "image").mkdir()
        (target / "image" / "kept").write_text("mine")
    else:
        target.write_text("mine")
    link.symlink_to(target if absolute else os.path.relpath(target, link.parent))
    before = everything(made / "victim")
    errors = use(made)
    assert everything(made / "victim") == before
    if link.is_symlink() and place != "journal/stub-8/image.append.lock":  # else it was replaced, as a file may be
        assert any("symbolic link" in error for error in errors), errors


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "sparse"])
@pytest.mark.parametrize(
    "place", [p for p in LINKED if p.endswith((".json", ".parquet", ".0", ".jsonl", ".faiss", "lock"))]
)
def test_what_is_no_file_waits_for_nothing(made, place, kind):
    """A pipe, a device, a folder or terabytes of nothing in place of a file are refused or replaced, at once."""
    path = made / "a.hw" / place
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 42)
    use(made)  # each verb ends


@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse"])
def test_an_image_that_is_no_file(made, kind):
    """A cell of a manifest that leads to a pipe, a device or a terabyte is an item that failed, with the reason."""
    path = made / "images/0.png"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 42)
    done = embed(made / "m.csv", made / "b.hw", **ENCODER)
    assert list(done.failed["stub-8/image"]) == ["0"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_a_manifest_that_is_a_pipe(made, suffix):
    """A manifest that is a pipe is refused, and not waited for."""
    os.mkfifo(made / f"pipe{suffix}")
    with pytest.raises(HeadwaterError, match="pipe"):
        embed(made / f"pipe{suffix}", made / "b.hw", **ENCODER)


def test_a_copy_by_hard_links_is_another_store(made):
    """What is added to a store does not reach its copy by ``cp -al``, nor the other way round."""
    subprocess.run(["cp", "-al", made / "a.hw", made / "copy.hw"], check=True)
    before = everything(made / "copy.hw")
    (made / "more.csv").write_text((made / "m.csv").read_text() + "\n9,images/5.png,other words\n")
    embed(made / "more.csv", made / "a.hw", **ENCODER)
    assert everything(made / "copy.hw") == before
    assert verify(made / "copy.hw") == []
    assert verify(made / "a.hw") == []
    (made / "a.hw/journal/stub-8/text.jsonl").write_bytes(b"")
    assert verify(made / "copy.hw") == []


def test_a_lock_of_two_names_is_not_written(made):
    """A lock that is somebody's file by another name keeps what it holds."""
    lock = made / "a.hw/journal/stub-8/image.lock"
    lock.unlink()
    os.link(made / "victim/notes.txt", lock)
    use(made)
    assert (made / "victim/notes.txt").read_text() == "mine"


def test_a_planted_name_beside_a_file_is_not_written_through(made, monkeypatch):
    """A link at the name that a file is first written under is not followed, should that name be guessed."""
    monkeypatch.setattr("headwater.store._files.secrets.token_hex", lambda n: "guessed")
    beside = made / "a.hw" / f".samples.parquet.{os.getpid()}.guessed.tmp"
    beside.symlink_to(made / "victim/notes.txt")
    use(made)
    assert (made / "victim/notes.txt").read_text() == "mine"


def test_locks_that_are_free_say_nothing(made):
    """Neither host names nor process numbers stay in a store that nobody writes."""
    use(made)
    assert [path for path in (made / "a.hw").rglob("*.lock") if path.stat().st_size] == []


def test_no_absolute_path_stays_in_a_store(made):
    """A store and the images beside it say nothing of where they lie, so that both can be moved or given away."""
    home = str(made).encode()
    for path, data in everything(made / "a.hw").items():
        assert home not in data, path
    samples = open_store(made / "a.hw")
    assert Path(samples.roles.root) == made
    shutil.move(made, moved := made.with_name(f"{made.name}-moved"))
    again = embed(moved / "m.csv", moved / "a.hw", **ENCODER)
    assert sum(result.embedded for result in again.results.values()) == 0
    assert Path(open_store(moved / "a.hw").roles.root) == moved
    shutil.move(moved, made)


def test_the_files_of_an_encoder_are_found_again(made):
    """Where weights and adapters were is written as seen from the store, and read as an absolute path, at any depth."""
    features = open_store(made / "a.hw").features("stub-8/image")
    files = {"weights_file": str(made / "w.safetensors"), "image": {"adapter_file": str(made / "run")}, "device": "cpu"}
    with features.writing() as writer:
        writer.set_environment(files)
    assert str(made) not in features.journal.path.read_text()
    assert list(features.refresh().environments().values())[-1] == files


def test_a_link_that_leads_to_what_is_not_yet(made):
    """A user's own link to a large disk is followed when the store is made."""
    (made / "b.hw").symlink_to(made / "disk" / "big.hw")
    done = embed(made / "m.csv", made / "b.hw", **ENCODER)
    assert done.results["stub-8/image"].embedded == 6
    assert (made / "disk" / "big.hw" / "store.json").exists()


SECRETS = [
    "s3://KEY:hunter2@bucket/a.hw",
    "s3:/KEY:hunter2@bucket/a.hw",
    "gs://hunter2@bucket/a.hw",
    "https://KEY:hunter2@host/a.hw",
    "s3://bucket/a.hw?secret=hunter2",
    "s3://bucket/a.hw?aws_access_key_id=K&aws_secret_access_key=hunter2",
    "file://KEY:hunter2@host/a.hw",
]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("words", ["info", "verify", "embed m.csv", "compare x", "evaluate x"])
def test_credentials_are_neither_kept_nor_repeated(made, command, url, words, monkeypatch):
    """A password in a URL is refused, stands in no message, and is written nowhere."""
    monkeypatch.setenv("HEADWATER_CACHE", str(made / "cache"))
    more = {"embed m.csv": ["--encoder", "stub:8"], "evaluate x": ["--label", "x"]}.get(words, [])
    done = command(*words.split(), url, *more)
    assert done.status
    assert "hunter2" not in done.out + done.err
    assert not any(b"hunter2" in data for data in everything(made).values())


def test_a_url_with_credentials_is_no_place_of_a_store():
    """Python callers are refused alike."""
    for url in SECRETS:
        with pytest.raises(InputError, match="credentials") as caught:
            store_folder(url)
        assert "hunter2" not in str(caught.value)


def test_a_journal_made_up_to_be_huge(made):
    """Lines that speak of more than there is are refused before memory is asked for."""
    journal = Journal(made / "a.hw/journal/stub-8/image.jsonl")
    plan = journal.read().plan
    kept = journal.path.read_bytes()
    for change in ({"items": 1 << 39}, {"items": 10**30}, {"items": -1}, {"layout": {"spec": {}, "block_rows": 0}}):
        from headwater.store.journal import written

        journal.path.write_bytes(kept + written(json.loads(json.dumps(plan.to_dict() | change))))
        with pytest.raises(StoreError):
            open_store(made / "a.hw").features("stub-8/image")
