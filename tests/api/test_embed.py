"""embed: what is new is embedded, nothing twice; what cannot be read is said, and the rest goes on."""

import json
import os
import re
import shutil
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from headwater.api import embed, fit_head, info, verify
from headwater.embed import load_encoder
from headwater.errors import DiskError
from headwater.store import open_store

pytestmark = pytest.mark.usefixtures("quick_texture")


def vectors_by_id(path, name, **read):
    """Each sample's stored vector."""
    data = open_store(path).read(name, **read)
    return dict(zip(data.ids.tolist(), np.asarray(data.X[:]), strict=True))


# What is new


def test_the_report_says_what_was_done_and_where(command, images):
    """The last lines say how many items were embedded, how many samples there are, and in which store."""
    done = command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    assert done.status == 0
    assert done.out.splitlines() == ["texture/image: 16 items embedded", f"16 samples, in {images / 'a.hw'}"]


def test_a_long_run_says_where_its_time_went(command, images, monkeypatch):
    """From some seconds on, a line says what share of them went where."""
    monkeypatch.setattr(sys.modules["headwater.api.embed"], "LONG", 0.0)
    done = command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    assert re.fullmatch(r"  time: \d+ % reading and preparing, \d+ % encoding", done.out.splitlines()[1])


def test_the_report_as_json(command, images):
    """With --json, standard output holds JSON and nothing else."""
    done = command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "stub:8", "--json")
    value = json.loads(done.out)
    assert value["n_samples"] == 16
    of_images = value["features"]["stub-8/image"]
    assert set(of_images.pop("seconds")) == {"prepare", "encode", "wait", "write"}
    assert of_images == {"embedded": 16, "kept": 0, "cut": 0, "failed": {}}
    assert value["features"]["stub-8/text"]["embedded"] == 13


def test_again_embeds_nothing(command, images, files_of):
    """The same command again embeds nothing, says so, and leaves every feature file as it is."""
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    command(*words)
    before = files_of(images / "a.hw" / "features.zarr")
    assert "0 items embedded, 16 already stored" in command(*words).out
    assert files_of(images / "a.hw" / "features.zarr") == before


def test_new_rows(command, images, paint):
    """Of a manifest that grew, only the new items are embedded."""
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    command(*words)
    then = vectors_by_id(images / "a.hw", "texture/image")
    paint(images / "images" / "new.png", 1000)
    table = pl.read_csv(images / "manifest.csv", infer_schema=False)
    more = table.head(1).with_columns(id=pl.lit("s99"), image=pl.lit("images/new.png"))
    pl.concat([more, table]).write_csv(images / "manifest.csv")
    assert "1 item embedded, 16 already stored" in command(*words).out
    now = vectors_by_id(images / "a.hw", "texture/image")
    assert set(now) == {*then, "s99"}
    assert all(np.array_equal(now[id], then[id]) for id in then)


def test_renamed_files_and_rows_in_another_order(command, images):
    """Files renamed and rows reordered: nothing is embedded, and each row still has its image's vector."""
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    command(*words)
    then = vectors_by_id(images / "a.hw", "texture/image")
    (images / "images").rename(images / "pictures")
    table = pl.read_csv(images / "manifest.csv")
    table = table.with_columns(pl.col("image").str.replace("images", "pictures")).sample(
        fraction=1, shuffle=True, seed=1
    )
    table.write_csv(images / "manifest.csv")
    assert "0 items embedded, 16 already stored" in command(*words).out
    now = vectors_by_id(images / "a.hw", "texture/image")
    assert list(now) == table["id"].to_list()
    assert all(np.array_equal(now[id], then[id]) for id in then)


def test_a_second_manifest_over_the_same_images(command, images):
    """A second table over the same images embeds nothing, and becomes the store's samples."""
    command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    pl.DataFrame({"id": ["x", "y"], "image": ["images/05.png", "images/02.png"]}).write_parquet(images / "two.parquet")
    done = command("embed", images / "two.parquet", images / "a.hw", "--encoder", "builtin:texture")
    assert done.out.splitlines() == [
        "texture/image: 0 items embedded, 2 already stored",
        "samples: +2 new, -16 no longer listed (their features are kept)",
        f"2 samples, in {images / 'a.hw'}",
    ]
    table = pl.read_csv(images / "manifest.csv")
    table.tail(15).write_csv(images / "three.csv")
    command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    done = command("embed", images / "three.csv", images / "a.hw", "--encoder", "builtin:texture", "--json")
    assert json.loads(done.out)["changes"] == {"new": 0, "changed": 0, "moved": 0, "unlisted": 1}


def test_samples_that_cannot_be_read_are_written_anew(images):
    """A damaged samples table is replaced by the manifest's, as its error advises."""
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    (images / "a.hw" / "samples.parquet").write_bytes(b"PAR1")
    assert embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture").changes is None
    assert len(open_store(images / "a.hw").read("texture/image").ids) == 16


def test_one_content_in_many_rows(images):
    """An image that stands in several rows, or under several names, is embedded once."""
    (images / "images" / "copy.png").write_bytes((images / "images" / "00.png").read_bytes())
    rows = ["00", "copy", "00", "01"]
    table = pl.DataFrame({"id": list("abcd"), "image": [f"images/{r}.png" for r in rows]})
    table.write_csv(images / "few.csv")
    done = embed(images / "few.csv", images / "a.hw", encoder="builtin:texture")
    assert done.results["texture/image"].embedded == 2
    found = vectors_by_id(images / "a.hw", "texture/image")
    assert np.array_equal(found["a"], found["b"])
    assert np.array_equal(found["a"], found["c"])
    assert not np.array_equal(found["a"], found["d"])


def test_a_text_encoder_later_keeps_the_images(command, images):
    """Embedding texts later, from a table with a new column, leaves the keys of the images where they are."""
    table = pl.read_csv(images / "manifest.csv")
    table.drop("caption").write_csv(images / "manifest.csv")
    command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    keys = open_store(images / "a.hw").samples["image_key"]
    table.write_csv(images / "manifest.csv")
    done = command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:ngram")
    assert "ngram/text: 13 items embedded" in done.out
    store = open_store(images / "a.hw")
    assert store.samples["image_key"].equals(keys)
    assert len(store.read("texture/image", "ngram/text").ids) == 16


def test_an_image_encoder_later_keeps_the_texts(images):
    """A run over images leaves alone which column the texts were read from, and their keys."""
    table = pl.read_csv(images / "manifest.csv").with_columns(remark=pl.lit("remark ") + pl.col("id"))
    table.write_csv(images / "manifest.csv")
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:ngram", text="remark")
    then = vectors_by_id(images / "a.hw", "ngram/text")
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    assert open_store(images / "a.hw").roles.text == "remark"
    now = vectors_by_id(images / "a.hw", "ngram/text")
    assert set(now) == set(then)
    assert all(np.array_equal(now[id], then[id]) for id in then)


def test_keys_of_other_files_are_not_taken_over(images, tmp_path, paint):
    """The same ids and paths below another folder are other images: a run over texts does not keep their keys."""
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.csv").write_bytes((images / "manifest.csv").read_bytes())
    embed(other / "manifest.csv", images / "a.hw", encoder="builtin:ngram")
    assert open_store(images / "a.hw").samples["image_key"].null_count() == 16


@pytest.mark.parametrize("way", ["{}/images", "../gallery/images", "../other/../gallery/images"])
def test_keys_of_the_same_files_are_taken_over(images, tmp_path, way):
    """The same image files, listed by a manifest of texts in another folder, keep their keys."""
    table = pl.read_csv(images / "manifest.csv")
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    then = open_store(images / "a.hw").samples["image_key"]
    (tmp_path / "other").mkdir()
    table = table.with_columns(pl.col("image").str.replace("images", way.format(images)))
    table.write_csv(tmp_path / "other" / "manifest.csv")
    embed(tmp_path / "other" / "manifest.csv", images / "a.hw", encoder="builtin:ngram")
    assert open_store(images / "a.hw").samples["image_key"].equals(then)


def test_rows_that_were_not_looked_at_are_not_said_to_lack_an_image(images, paint):
    """A row that a run over texts added has an image that is to be embedded, rather than none."""
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    paint(images / "images" / "new.png", 1000)
    table = pl.read_csv(images / "manifest.csv", infer_schema=False)
    more = table.head(1).with_columns(id=pl.lit("s99"), image=pl.lit("images/new.png"))
    pl.concat([table, more]).write_csv(images / "manifest.csv")
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:ngram")
    left_out = open_store(images / "a.hw").read("texture/image").left_out
    assert left_out.rows() == [("s99", "not embedded yet in texture/image")]


def test_a_column_named_for_another_encoder(command, images):
    """Where several columns could hold the texts, an encoder of images takes the one named, and leaves it alone."""
    pl.read_csv(images / "manifest.csv").with_columns(findings=pl.lit("x")).write_csv(images / "manifest.csv")
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    assert "--text COLUMN" in command(*words).error
    done = command(*words, "--text", "findings")
    assert done.status == 0
    assert "column 'findings' was not encoded: its texts need another encoder" in done.out


@pytest.mark.parametrize(("column", "kind"), [("image_key", "image"), ("text_key", "text")])
def test_a_column_of_keys_of_ones_own(refused, images, column, kind):
    """A manifest's own column under the name of headwater's keys is refused, rather than lost."""
    table = pl.read_csv(images / "manifest.csv").with_columns(pl.lit("c9f0f895fb98ab9159f51fd0297e236d").alias(column))
    table.write_csv(images / "manifest.csv")
    error = refused("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    assert f"headwater stores the digests of {kind}s in a column '{column}', but the manifest has other values" in error
    assert "Rename the column, or remove it." in error


def test_a_manifest_that_was_exported_from_a_store(images):
    """The samples table of a store, keys and all, is a manifest as well, for that store and for another."""
    embed(images / "manifest.csv", images / "a.hw", encoder="stub:8")
    open_store(images / "a.hw").samples.write_parquet(images / "exported.parquet")
    for store in ("a.hw", "b.hw"):
        embed(images / "exported.parquet", images / store, encoder="builtin:ngram")
        embed(images / "exported.parquet", images / store, encoder="builtin:texture")
        assert open_store(images / store).samples.equals(pl.read_parquet(images / "exported.parquet"))


# Anything reads it


def test_polars_and_zarr_read_it_without_us(images, gallery):
    """The samples open with polars and the features with zarr, nothing of ours and no warning, to the same numbers."""
    import zarr

    embed(gallery / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    expected = vectors_by_id(images / "a.hw", "texture/image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = pl.read_parquet(images / "a.hw" / "samples.parquet")
        group = zarr.open_group(images / "a.hw" / "features.zarr", mode="r")
        assert [name for name, _ in group.groups()] == ["texture"]
        members = dict(group["texture/image"].members())
        keys, pooled, status = (members[name][:] for name in ("keys", "pooled", "status"))
    assert set(members) == {"keys", "pooled", "status"}
    assert (status == 1).all()
    row_of = {key.tobytes().hex(): row for row, key in enumerate(keys)}
    assert table.columns == [*pl.read_csv(gallery / "manifest.csv").columns, "image_key", "text_key"]
    for id, key in table.select("id", "image_key").rows():
        assert np.array_equal(pooled[row_of[key]], expected[id])


# What cannot be read


def bomb(side):
    """Return a small PNG file that declares ``side`` times ``side`` pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def damaged(images):
    """The gallery with six images that cannot be read, each in a way of its own, of rows s00 to s05."""
    folder = images / "images"
    (folder / "00.png").unlink()
    (folder / "01.png").write_bytes((folder / "01.png").read_bytes()[:150])
    (folder / "02.png").write_bytes(b"")
    (folder / "03.png").write_bytes(b"%PDF-1.7 no image at all")
    (folder / "04.png").write_bytes(bomb(40_000))
    (folder / "05.png").unlink()
    (folder / "05.png").mkdir()
    return images


WHY = {
    "s00": "image file not found",
    "s01": "truncated image",
    "s02": "empty image file",
    "s03": "not an image",
    "s04": "image too large",
    "s05": "this is a folder, not an image file",
}


def test_images_that_cannot_be_read_are_reported(command, damaged):
    """Each unreadable image is named with its reason, counted at the end, and the rest is embedded."""
    store = damaged / "a.hw"
    done = command("embed", damaged / "manifest.csv", store, "--encoder", "builtin:texture")
    lines = done.out.splitlines()
    assert done.status == 0
    assert lines[0] == "texture/image: 10 items embedded, 6 samples failed"
    for line, (id, why) in zip(lines[1:6], WHY.items(), strict=False):
        assert line.startswith(f"  {id}: {why}")
        assert f"images/{id[1:]}.png" in line
    assert lines[6] == f"  … and 1 more: headwater info {store} --failed"
    assert lines[7] == f"16 samples, 6 of them without features, in {store}"
    assert verify(store) == []


def test_images_that_cannot_be_read_are_recorded(command, damaged):
    """`info` counts what failed, and with --failed lists every sample with its reason, whatever kept it from a key."""
    store = damaged / "a.hw"
    command("embed", damaged / "manifest.csv", store, "--encoder", "builtin:texture")
    assert f"6 samples failed: headwater info {store} --failed" in command("info", store).out
    listed = command("info", store, "--failed").out.splitlines()
    start = listed.index("failed in texture/image:")
    assert len(listed) == start + 7
    for line, (id, why) in zip(listed[start + 1 :], WHY.items(), strict=True):
        assert line.startswith(f"  {id}  {why}")
    value = json.loads(command("info", store, "--json").out)
    assert list(value["failed"]["texture/image"]) == list(WHY)


def test_images_that_cannot_be_read_are_left_out_of_a_fit(command, damaged):
    """fit-head leaves such samples out and counts them by reason."""
    store = damaged / "a.hw"
    command("embed", damaged / "manifest.csv", store, "--encoder", "builtin:texture")
    (damaged / "images" / "06.png").unlink()
    command("embed", damaged / "manifest.csv", store, "--encoder", "builtin:texture")
    words = ("--features", "texture/image", "--label", "grade", "--groups", "none", "--folds", "2", "--json")
    metrics = json.loads(command("fit-head", store, *words).out)
    assert metrics["n_samples"] == 9
    assert metrics["left_out"] == {
        "image file not found": 2,
        "truncated image": 1,
        "empty image file": 1,
        "not an image of a supported format": 1,
        "image too large": 1,
        "this is a folder, not an image file": 1,
    }
    done = command("fit-head", store, *words[:-1])
    assert "left out: 2 samples (image file not found)" in done.out
    assert "left out: 1 sample (truncated image)" in done.out


def test_failures_are_known_again(command, damaged):
    """A second run does not try failed items again and says so; a file put right is embedded."""
    store = damaged / "a.hw"
    words = ("embed", damaged / "manifest.csv", store, "--encoder", "builtin:texture")
    command(*words)
    again = command(*words).out
    assert "0 items embedded, 10 already stored, 6 samples failed" in again
    assert "4 items failed in an earlier run: --retry-failed retries them" in again
    (damaged / "images" / "00.png").write_bytes((damaged / "images" / "07.png").read_bytes() + b" ")
    assert "1 item embedded, 10 already stored, 5 samples failed" in command(*words).out
    assert "retry-failed" not in command(*words, "--retry-failed").out


def test_a_run_over_texts_keeps_what_is_known_of_unreadable_images(damaged):
    """Why an image has no features is still known after a run that looked at texts alone."""
    embed(damaged / "manifest.csv", damaged / "a.hw", encoder="builtin:texture")
    embed(damaged / "manifest.csv", damaged / "a.hw", encoder="builtin:ngram")
    failed = info(damaged / "a.hw").failed
    assert list(failed) == ["texture/image"]
    assert [why.startswith(WHY[id]) for id, why in failed["texture/image"].items()] == [True] * 6
    table = pl.read_csv(damaged / "manifest.csv").with_columns(pl.col("image").str.replace("/00", "/07"))
    table.write_csv(damaged / "manifest.csv")
    embed(damaged / "manifest.csv", damaged / "a.hw", encoder="builtin:ngram")
    assert "s00" not in info(damaged / "a.hw").failed["texture/image"]


def test_stop_at_the_first_file_that_is_not_there(refused, damaged):
    """With --on-error stop, a missing file ends the run with its row, before anything is written."""
    words = ("--encoder", "builtin:texture", "--on-error", "stop")
    error = refused("embed", damaged / "manifest.csv", damaged / "a.hw", *words)
    assert "manifest row 1 ('s00'): image file not found" in error
    assert "--on-error skip" in error


def test_stop_at_the_first_image_that_is_damaged(command, images):
    """With --on-error stop, a damaged image ends the run with its path; the same command goes on once it is mended."""
    whole = (images / "images" / "14.png").read_bytes()
    (images / "images" / "14.png").write_bytes(whole[:100])
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture", "--on-error", "stop")
    done = command(*words)
    assert done.status == 1
    assert "truncated image" in done.error
    assert "images/14.png" in done.error
    assert "--on-error skip" in done.error
    (images / "images" / "14.png").write_bytes(whole)
    assert command(*words).status == 0
    assert verify(images / "a.hw") == []


def test_stop_at_what_failed_in_an_earlier_run(refused, command, damaged):
    """With --on-error stop, samples that failed before end the run with their names, unless they are tried again."""
    for i in (0, 5):  # these have no key, so that they would end the run as files that are not there
        shutil.rmtree(damaged / "images" / f"0{i}.png", ignore_errors=True)
        (damaged / "images" / f"0{i}.png").write_bytes(b"no image" + bytes([i]))
    words = ("embed", damaged / "manifest.csv", damaged / "a.hw", "--encoder", "builtin:texture")
    command(*words)
    error = refused(*words, "--on-error", "stop")
    assert "texture/image: 6 samples failed in an earlier run: 's00' (not an image" in error
    assert "'s04'" in error
    assert "and 1 more. Pass --retry-failed to retry them, or --on-error skip" in error
    for i in range(6):
        (damaged / "images" / f"0{i}.png").write_bytes((damaged / "images" / f"1{i}.png").read_bytes())
    assert command(*words, "--on-error", "stop").status == 0


def test_nothing_can_be_read(command, images):
    """When every image fails the status is 1, and fit-head says that no sample has features and why."""
    for path in (images / "images").iterdir():
        path.write_bytes(b"no image " + path.name.encode())
    done = command("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    assert done.status == 1
    assert "0 items embedded, 16 samples failed" in done.out
    assert "texture/image: all failed (16 samples)" in done.error
    words = ("--features", "texture/image", "--label", "grade", "--groups", "patient")
    assert "not an image" in command("fit-head", images / "a.hw", *words).error


def test_an_unfinished_file_is_cleared_away(images, files_of):
    """What a killed run left half-written beside its place is gone after the next run, and zarr never warns of it."""
    import zarr

    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    whole = files_of(images / "a.hw" / "features.zarr")
    for place in ("texture/.zarr.json.1.tmp", "texture/image/.zarr.json.1.tmp", "texture/image/pooled/.c.0.0.1.tmp"):
        (images / "a.hw" / "features.zarr" / place).write_bytes(b"half")
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    assert files_of(images / "a.hw" / "features.zarr") == whole
    list(zarr.open_group(images / "a.hw" / "features.zarr", mode="r").members(max_depth=None))


def test_embed_returns_the_store(images):
    """What `embed` returns is the store, ready to be read and to be fitted on."""
    store = embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    assert store.n_failed == 0
    assert len(store.read("texture/image").ids) == 16
    assert fit_head(store, features="texture/image", label="grade", groups="patient", folds=2).mean["accuracy"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written(refused, images):
    """A folder that may not be written to is named."""
    images.chmod(0o555)
    assert str(images) in refused("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")


def test_two_that_write_the_same_store_at_once(images, tmp_path):
    """Images and texts embedded side by side into a new store: neither loses what the other found out."""
    manifest, path = images / "manifest.csv", tmp_path / "both.hw"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda encoder: embed(manifest, path, encoder=encoder), ["builtin:texture", "builtin:ngram"]))
    samples = open_store(path).samples
    assert samples["image_key"].null_count() == samples["text_key"].null_count() == 0
    assert open_store(path).feature_names() == ["ngram/text", "texture/image"]
    assert not list(path.rglob(".*.tmp"))


def test_what_changed_is_counted_and_the_rest_is_not_read(images, monkeypatch):
    """New, changed and moved files are told apart; files that look as they did are read with ``rehash`` alone."""
    import os

    from headwater.embed import items as _items

    for path in (images / "images").iterdir():  # a while ago
        os.utime(path, (1_700_000_000, 1_700_000_000))
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    real, read = _items.key_or_error, []
    monkeypatch.setattr(_items, "key_or_error", lambda path: read.append(path) or real(path))
    again = embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    assert read == []
    assert again.changes.lines() == []
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture", rehash=True)
    assert len(read) == len(list((images / "images").iterdir()))
    table = pl.read_csv(images / "manifest.csv")
    first, second = (images / table["image"][i] for i in range(2))
    first.write_bytes((images / table["image"][5]).read_bytes())  # another content behind the same path
    second.rename(second.with_name("moved.png"))
    (images / "images" / "new.png").write_bytes((images / table["image"][6]).read_bytes())
    changed = pl.concat(
        [
            table.with_columns(
                image=pl.when(pl.int_range(pl.len()) == 1).then(pl.lit("images/moved.png")).otherwise("image")
            ),
            table.tail(1).with_columns(id=pl.lit("new"), image=pl.lit("images/new.png")),
        ]
    )
    changed.write_csv(images / "changed.csv")
    read.clear()
    done = embed(images / "changed.csv", images / "a.hw", encoder="builtin:texture")
    assert sorted(path.name for path in read) == sorted([first.name, "moved.png", "new.png"])
    assert done.changes.lines() == ["samples: +1 new, 1 changed, 1 moved"]
    assert done.results["texture/image"].embedded == 0


def test_what_is_to_be_stored_is_said_before_it_is(images, command, tmp_path):
    """The items to be embedded and their bytes come first; of nothing, nothing is said."""
    words = ("embed", images / "manifest.csv", tmp_path / "a.hw", "--encoder", "builtin:texture")
    each = load_encoder("builtin:texture").spec("image", "float16").item_bytes
    n = len({path.read_bytes() for path in (images / "images").iterdir()})
    said = f"texture/image: {n} items to embed, {n * each / 1000:.1f} kB to store ({each} B each)"
    assert said in command(*words).err.splitlines()
    assert "to embed" not in command(*words).err


def test_a_shard_says_what_is_its_own(command, tmp_path):
    """Of three blocks and a new item, shards say how many are theirs, whatever others have made already."""
    texts = [f"text {i}" for i in range(151)]
    for name, n in (("less", 150), ("more", 151)):
        pl.DataFrame({"text": texts[:n]}).write_csv(tmp_path / f"{name}.csv")
    words = (tmp_path / "a.hw", "--encoder", "stub:8", "--shard")

    def said(manifest, shard):
        lines = command("embed", tmp_path / f"{manifest}.csv", *words, shard).err.splitlines()
        return [line for line in lines if "to embed" in line]

    each = load_encoder("stub:8").spec("text", "float16").item_bytes
    size = f"to store ({each} B each)"
    (line,) = said("less", "0/2")  # blocks 0 and 2
    assert line == f"stub-8/text: 150 items to embed, {150 * each / 1000:.1f} kB {size}; 86 of them in this shard"
    (line,) = said("more", "1/2")
    assert line == f"stub-8/text: 65 items to embed, {65 * each / 1000:.1f} kB {size}; 64 of them in this shard"
    assert said("less", "1/2") == []


def test_items_that_are_tried_again_are_said_to_be_embedded(images, command, tmp_path):
    """Items that failed are to be embedded when they are tried again, and only then."""
    path = sorted((images / "images").iterdir())[0]
    path.write_bytes(path.read_bytes()[:60])
    words = ("embed", images / "manifest.csv", tmp_path / "a.hw", "--encoder", "builtin:texture")
    command(*words)
    assert "to embed" not in command(*words).err
    assert "texture/image: 1 item to embed" in command(*words, "--retry-failed").err


def test_a_disk_without_room_is_refused_before_anything_is_written(images, monkeypatch):
    """What is to be stored is compared with what is free, less what is there already."""
    import shutil
    from collections import namedtuple

    free = 16 * 1000  # 16 items of texture features take more than a kilobyte each
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    with pytest.raises(DiskError, match=r"the features need 20\.2 kB, but the disk has only 16\.0 kB left"):
        embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture", dtype="float32")
    assert not (images / "a.hw").exists()
    free = 10**9
    path = sorted((images / "images").iterdir())[0]
    path.write_bytes(path.read_bytes()[:60])
    options = {"encoder": "builtin:texture", "dtype": "float32"}
    assert embed(images / "manifest.csv", images / "a.hw", **options).n_failed == 1
    free = 0
    assert embed(images / "manifest.csv", images / "a.hw", **options).n_failed == 1
    again = embed(images / "manifest.csv", images / "a.hw", **options, retry_failed=True)
    assert again.n_failed == 1  # its block has room for it already
