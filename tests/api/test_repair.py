"""verify finds any byte that changed; --repair mends it, and embeds just what is damaged again."""

import json
import random
import shutil
import sys
from dataclasses import replace

import pytest

from headwater.api import embed, repair, verify
from headwater.errors import EncoderError, HeadwaterError, StoreError
from headwater.store import Journal, open_store


@pytest.fixture(scope="module")
def sound(tmp_path_factory, paint, files_of):
    """Return a store of 130 painted images and texts, and its files."""
    folder = tmp_path_factory.mktemp("sound")
    lines = ["id,image,text"]
    for i in range(N):
        paint(folder / f"images/{i}.png", i)
        lines.append(f"{i},images/{i}.png,words {i}")
    (folder / "m.csv").write_text("\n".join(lines))
    embed(folder / "m.csv", folder / "a.hw", encoder="stub:16")
    embed(folder / "m.csv", folder / "a.hw", encoder="builtin:ngram", text="text")
    return folder / "a.hw", files_of(folder / "a.hw" / "features.zarr")


@pytest.fixture
def store(sound, tmp_path):
    """Return a copy to damage, with its images beside it."""
    shutil.copytree(sound[0].parent / "images", tmp_path / "images")
    return shutil.copytree(sound[0], tmp_path / "a.hw")


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    place = len(data) // 2 if place is None else place
    data[place] ^= 0x10
    path.write_bytes(bytes(data))


N = 130
BLOCK = "features.zarr/stub-16/image/pooled/c.1.0"
KEYS = "features.zarr/stub-16/image/keys/c.0.0"


@pytest.mark.parametrize(
    "file",
    [
        BLOCK,
        "features.zarr/stub-16/image/status/c.0",
        "features.zarr/stub-16/image/pooled/zarr.json",
        KEYS,
    ],
)
def test_one_byte_is_found_and_mended(store, sound, files_of, file):
    """A flipped byte is found; after the repair every file of the features is what it was, and nothing else is made."""
    flip(store / file, 40 if file in (KEYS,) else None)
    assert len(verify(store)) == 1
    done = repair(store)
    assert done.left == []
    assert any("64 items embedded again" in line for line in done.done) == (file == BLOCK)
    assert files_of(store / "features.zarr") == sound[1]
    assert verify(store) == []


def test_a_lost_block_file_is_made_again(store, sound, files_of):
    """A missing file of a block is found, and made again from the images."""
    (store / BLOCK).unlink()
    assert repair(store).left == []
    assert files_of(store / "features.zarr") == sound[1]


def test_what_was_never_made_stays_to_do(store):
    """Of a set that is not finished, only what was damaged is made again."""
    journal = store / "journal/stub-16/image.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"block":0,' not in line))
    flip(store / BLOCK)
    done = repair(store)
    assert any("64 items embedded again" in line for line in done.done)
    status = open_store(store).features("stub-16/image").status
    assert status.tolist() == [0] * 64 + [1] * (N - 64)


def test_nothing_is_forgotten_before_it_can_be_made_again(store, sound, files_of, monkeypatch):
    """An encoder that cannot be loaded leaves all as it was; a repair that is stopped halfway is taken up again."""

    def absent(*args, **kwargs):
        raise EncoderError("no such weights")

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    flip(store / BLOCK)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["headwater.api.repair"], "encoder_of", absent)
        with pytest.raises(EncoderError):
            repair(store)
    assert len(verify(store)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["headwater.api.repair"], "fill", stopped)
        with pytest.raises(KeyboardInterrupt):
            repair(store)
    assert verify(store) == []
    assert open_store(store).features("stub-16/image").forgotten == [1]
    assert any("64 items embedded again" in line for line in repair(store).done)
    assert files_of(store / "features.zarr") == sound[1]
    assert repair(store).done == []


def test_any_byte_of_the_journal(store, sound, files_of):
    """A flipped byte in a line about a block is found; the block is made again, and the old journal kept."""
    path = store / "journal/stub-16/image.jsonl"
    text = path.read_bytes()
    place = text.index(b'"block":1')
    flip(path, place + 9)
    assert any("line" in line and "cannot be read" in line for line in verify(store))
    done = repair(store)
    assert done.left == []
    assert any("removed; what it recorded is embedded again" in line for line in done.done)
    assert files_of(store / "features.zarr") == sound[1]
    assert path.with_suffix(".damaged").exists()


def test_what_cannot_be_told_from_the_rest_is_left(store):
    """Keys of which many are damaged, and the samples, are errors that say what to do; nothing is changed."""
    for place in (40, 400):
        flip(store / KEYS, place)
    before = (store / KEYS).read_bytes()
    with pytest.raises(StoreError, match="Restore it from a backup"):
        repair(store)
    assert (store / KEYS).read_bytes() == before


@pytest.mark.parametrize("part", ["", "pooled", "keys", "status"])
@pytest.mark.parametrize("damage", ["cut", "empty", "deep", "rows", "another"])
def test_damaged_metadata_are_written_anew(store, sound, files_of, part, damage):
    """Whatever befalls a zarr.json, the journal knows what it held: it is mended, and nothing is embedded again."""
    path = store / "features.zarr/stub-16/image" / part / "zarr.json"
    text = path.read_text()
    rows = '"dim": 16' if part == "" else "64" if part == "pooled" else "130"
    path.write_text(
        {
            "cut": text[: len(text) // 2],
            "empty": "",
            "deep": '{"a":' * 5000 + "1" + "}" * 5000,
            "rows": text.replace(rows, rows[:-1] + "9", 1),
            "another": "[1, 2]",
        }[damage]
    )
    assert len(verify(store)) == 1
    done = repair(store)
    assert done.left == []
    assert not any("embedded again" in line for line in done.done)
    assert files_of(store / "features.zarr") == sound[1]


def test_a_shape_ahead_of_the_journal_is_damage_unless_it_is_growing(store):
    """A larger shape passes only where the journal says that arrays grow to just that many rows."""
    path = store / "features.zarr/stub-16/image/pooled/zarr.json"
    text = path.read_text()
    path.write_text(text.replace("130", "138", 1))
    assert len(verify(store)) == 1
    journal = Journal(store / "journal/stub-16/image.jsonl")
    journal.append(replace(journal.read().plan, growing=(138, 0)))
    assert verify(store) == []
    path.write_text(text.replace("130", "139", 1))
    assert len(verify(store)) == 1


@pytest.mark.parametrize("newline", [b"", b"*", b"\x0b", b"\x00"])
def test_a_lost_last_newline_loses_no_rows(store, newline):
    """The last line of a journal counts without its newline, and a byte in its place is damage that is mended."""
    path = store / "journal/stub-16/image.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + newline)
    if newline:
        with pytest.raises(StoreError, match="newline"):
            open_store(store).features("stub-16/image")
        assert repair(store).left == []
        assert path.read_bytes() == data
    assert (open_store(store).features("stub-16/image").status == 1).sum() == N


def test_a_byte_of_the_samples(store):
    """A flipped byte in the samples table is found, whether polars can read it or not."""
    path = store / "samples.parquet"
    flip(path, 200)
    assert any("samples.parquet differs" in line for line in verify(store))
    with pytest.raises(StoreError, match="Embed the manifest again"):
        repair(store)


def test_items_of_no_sample_cannot_be_made_again(store, sound, tmp_path):
    """A damaged block of items that no sample has any more is said to be lost."""
    manifest = sound[0].parent / "m.csv"
    lines = manifest.read_text().splitlines()
    short = manifest.with_name("short.csv")
    short.write_text("\n".join(lines[:51]))
    embed(short, store, encoder="stub:16")
    flip(store / BLOCK)
    done = repair(store)
    assert any("lost, since no sample has the content any more" in line for line in done.done)
    assert done.left == []


def test_any_flipped_byte_is_found(sound, tmp_path, files_of):
    """Bytes drawn at random over all files of a store: each flip is found by verify, or by opening the store."""
    store = shutil.copytree(sound[0], tmp_path / "b.hw")
    every = [p for p in sorted(store.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    files = [p for p in every if p.stat().st_size]
    draw = random.Random(0)
    for path in files:
        data = path.read_bytes()
        for _ in range(3):
            place = draw.randrange(len(data))
            if path.name.startswith("c.2"):  # the last block is not full: what lies beyond it holds nothing
                place = draw.randrange(len(data) * (N % 64) // 64)
            if path.parent.name == "keys" and path.name.startswith("c."):
                place = draw.randrange(N * 16)
            flip(path, place)
            try:
                found = verify(store)
            except HeadwaterError as error:
                found = [str(error)]
            assert found, (path, place)
            path.write_bytes(data)


def test_from_the_command_line(store, command):
    """verify names what differs and how to mend it; --repair mends it; then there is nothing to do."""
    flip(store / BLOCK)
    done = command("verify", store)
    assert done.status == 1
    assert f"headwater verify {store} --repair" in done.out
    assert command("verify", store, "--repair").status == 0
    value = json.loads(command("verify", store, "--repair", "--json").out)
    assert value == {"found": [], "done": [], "left": []}
