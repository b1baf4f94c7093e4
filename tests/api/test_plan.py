"""embed --dry-run: what would be done, and what would be refused; nothing is written."""

import json

import polars as pl
import pytest

import headwater as hw
from headwater.api import embed
from headwater.errors import SpecMismatch


def dry(images, **options):
    return embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture", dry_run=True, **options)


def test_a_plan_makes_no_store(images):
    """Of a store that is not there, all items are new; it is not made."""
    plan = dry(images)
    assert not plan.exists
    assert not (images / "a.hw").exists()
    found = plan.to_dict()["features"]["texture/image"]
    assert (found["n_items"], found["n_to_embed"], found["n_stored"]) == (16, 16, 0)
    assert found["n_bytes"] == 16 * plan.features["image"].spec.item_bytes


def test_what_is_planned_is_what_is_done(images, paint, files_of):
    """The counts of a plan are those of the run that follows; planning leaves every file as it was."""
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    paint(images / "images" / "new.png", 1000)
    table = pl.read_csv(images / "manifest.csv")
    added = table.head(1).with_columns(id=pl.lit("new"), image=pl.lit("images/new.png"))
    pl.concat([table.head(10), added.cast(table.schema)]).write_csv(images / "manifest.csv")
    before = files_of(images / "a.hw")
    plan = dry(images)
    assert files_of(images / "a.hw") == before
    planned = plan.to_dict()
    done = embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture").to_dict()
    assert planned["changes"] == done["changes"]
    assert planned["changes"]["new"] == 1
    of = planned["features"]["texture/image"], done["features"]["texture/image"]
    assert (of[0]["n_to_embed"], of[0]["n_stored"]) == (of[1]["embedded"], of[1]["kept"])
    assert of[0]["n_to_embed"] == 1


def test_failures_are_part_of_a_plan(images):
    """Items that cannot be read, and those that failed before, are told apart from those to embed."""
    (images / "images" / "00.png").unlink()
    plan = dry(images).to_dict()["features"]["texture/image"]
    assert len(plan["unreadable"]) == 1
    assert plan["n_to_embed"] == plan["n_items"] == 15
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    (images / "images" / "03.png").write_bytes(b"no image")
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    plan = dry(images).to_dict()["features"]["texture/image"]
    assert (plan["n_failed_before"], plan["n_to_embed"]) == (1, 0)
    assert dry(images, retry_failed=True).to_dict()["features"]["texture/image"]["n_to_embed"] == 1


def test_all_that_stands_in_the_way_is_told(images):
    """A plan lists each refusal that the run would end in; the run raises the first."""
    embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture")
    (images / "images" / "00.png").unlink()
    options = {"dtype": "float32", "on_error": "stop"}
    assert [type(error).__name__ for error in dry(images, **options).refusals] == ["SpecMismatch", "ImageNotFound"]
    with pytest.raises(SpecMismatch):
        embed(images / "manifest.csv", images / "a.hw", encoder="builtin:texture", **options)


def test_a_full_disk_is_told(images, monkeypatch):
    """Too little space is a refusal of the plan too."""
    monkeypatch.setattr("headwater.embed.plan.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1})())
    assert [type(error).__name__ for error in dry(images).refusals] == ["DiskError"]


def test_an_unreadable_image_with_stop(images):
    """With --on-error stop, the plan says which image would stop the run, and plans all the same."""
    (images / "images" / "00.png").unlink()
    plan = dry(images, on_error="stop")
    assert [type(error).__name__ for error in plan.refusals] == ["ImageNotFound"]
    assert "00.png" in str(plan.refusals[0])
    assert "image" in plan.features


def test_from_the_command_line(command, images):
    """--dry-run prints the plan, --json as JSON; status 1 where the run would be refused, and nothing is written."""
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture", "--dry-run")
    done = command(*words)
    assert done.status == 0
    assert "texture/image: 16 items to embed, " in done.out
    assert json.loads(command(*words, "--json").out)["exists"] is False
    assert not (images / "a.hw").exists()
    command(*words[:-1])
    refused = command(*words, "--dtype", "float32")
    assert refused.status == 1
    assert "stored 'float16', now 'float32'" in refused.out


def test_values_by_name_or_whole(images):
    """The same plan comes of values and of their fields by name."""
    by_name = dry(images, name="t", image="image", batch_size=4)
    whole = dry(
        images,
        storage=hw.Storage(name="t"),
        columns=hw.ManifestColumns(image="image"),
        execution=hw.Execution(batch_size=4),
    )
    assert by_name.to_dict() == whole.to_dict()
    assert list(by_name.to_dict()["features"]) == ["t/image"]


def test_nothing_that_can_be_read(images, command):
    """Where no image can be read, a dry run names one and ends as the run does, with status 1."""
    for image in (images / "images").glob("*.png"):
        image.unlink()
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    done = command(*words, "--dry-run")
    assert done.status == 1
    assert "image file not found: " in done.out
    assert "00.png" in done.out
    assert command(*words).status == 1
