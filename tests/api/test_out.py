"""--out that cannot be written is refused by every verb before anything is done, and nothing is left behind."""

import inspect
import os
import stat

import numpy as np
import pytest
import typer.main

import headwater.api as api
from headwater import report
from headwater._writable import require_writable
from headwater.cli import app
from headwater.errors import InputError

N = 24


@pytest.fixture
def there(make_store, tmp_path):
    """A store, a run on it, and places at which nothing can be written."""
    store = make_store(np.random.default_rng(0).standard_normal((N, 4)), label=["a", "b"] * 12)
    asked = {"features": "made/image", "label": "label", "folds": 2, "params": {"C": 0.1}}
    api.fit_head(store, **asked, out=tmp_path / "run")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return store


PLACES = {
    "below a file": "file/run",
    "far below a file": "file/a/b/run",
    "a link that leads nowhere": "link",
    "a loop of links": "loop/run",
    "a name that is too long": "a" * 300,
    "a folder whose name is too long": f"{'b' * 300}/run",
    "a name that is too long to be written beside": "c" * 250,
    "a place of the system": "/proc/headwater/run",
    "a null character": "a\0b",
}
VERBS = {
    "fit-head": lambda store, run, out: api.fit_head(store, features="gone/image", label="label", out=out),
    "fit-separately": lambda store, run, out: api.fit_separately(
        store, "label", features="gone/image", label="label", out=out
    ),
    "zero-shot": lambda store, run, out: api.zero_shot(store, features="x", prompts="no.toml", label="label", out=out),
    "evaluate": lambda store, run, out: api.evaluate(run, store, label="gone", out=out),
    "sweep": lambda store, run, out: api.sweep(store, features=["gone/image"], label="label", out=out),
    "fine-tune": lambda store, run, out: api.fine_tune("no.csv", encoder="stub:4", label="label", out=out),
    "contrast": lambda store, run, out: api.contrast("no.csv", encoder="stub:4", out=out),
    "demo": lambda store, run, out: api.demo(out),
    "plot": lambda store, run, out: report.plot(run, out=out),
    "report": lambda store, run, out: api.report("gone", out=out),
    "bundle": lambda store, run, out: api.bundle(run, out),
    "predict": lambda store, run, out: api.predict(run, image="gone.png", out=out),
    "explain": lambda store, run, out: api.explain(run, id="gone", out=out),
    "audit": lambda store, run, out: api.audit(store, features="gone/image", out=out),
    "retrieval-report": lambda store, run, out: api.retrieval_report(
        store, features="gone/image", label="label", out=out
    ),
    "similar": lambda store, run, out: api.similar(store, features="gone/image", id="gone", out=out),
    "text": lambda store, run, out: api.text("gone.csv", template="gone.toml", out=out),
    "manifest": lambda store, run, out: api.manifest("folder", "gone", out=out),
    "tiles": lambda store, run, out: api.tiles("gone.svs", out),
    "wheelhouse": lambda store, run, out: api.wheelhouse(out, extras="gone"),
    "docs": lambda store, run, out: api.docs(out),
    "export": lambda store, run, out: api.export_features(store, out, features="gone/image"),
}


def everything(folder):
    """Every path below a folder."""
    return sorted(os.fspath(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", VERBS)
def test_what_cannot_be_written_is_refused_first(there, tmp_path, verb, place):
    """Each verb refuses such a place before it looks at anything else, and leaves nothing there."""
    if verb == "plot":
        pytest.importorskip("matplotlib")
    before = everything(tmp_path)
    with pytest.raises(InputError) as caught:
        VERBS[verb](there, tmp_path / "run", PLACES[place] if place.startswith("a place") else tmp_path / PLACES[place])
    message = str(caught.value)
    assert "\n" not in message
    wrong = " is not a path (embedded null byte)" if place == "a null character" else " cannot be written ("
    assert wrong in message
    assert "Give another path." in message
    assert everything(tmp_path) == before


def test_every_verb_with_an_out_is_among_these():
    """A command that takes --out, or OUT, is in the list above."""
    group = typer.main.get_command(app)
    with_out = {name for name, command in group.commands.items() if any(p.name == "out" for p in command.params)}
    assert with_out <= set(VERBS)
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    public = {name for name in functions if "out" in inspect.signature(getattr(api, name)).parameters}
    assert {name.removesuffix("_features").replace("_", "-") for name in public} <= set(VERBS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_may_not_be_written_to(there, tmp_path, verb):
    """A folder without the right to write is refused as well."""
    shut = tmp_path / "shut"
    shut.mkdir()
    shut.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(InputError, match="Permission denied"):
        VERBS[verb](there, tmp_path / "run", shut / "run")


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    """A new path, a path in folders that are not there yet, and a folder that is there pass, and nothing is made."""
    (tmp_path / "run").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "run")
    before = everything(tmp_path)
    for path in ("new", "a/b/c/new.csv", "run", "to", "to/new", "run/../new"):
        require_writable(tmp_path / path)
    assert everything(tmp_path) == before
    assert not (tmp_path / "a").exists()


IMAGES = "give the file an image extension, such as .png"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("heat.txt", IMAGES),
        ("heat", IMAGES),
        ("", "is a folder"),
    ],
)
def test_a_heat_map_that_is_no_picture_is_refused_first(there, tmp_path, name, words):
    """explain looks at the ending of its picture before all else."""
    with pytest.raises(InputError, match=words):
        api.explain(tmp_path / "run", id="gone", out=tmp_path / name)


@pytest.mark.parametrize("verb", VERBS)
def test_a_url_is_no_place_for_a_run(there, tmp_path, verb, monkeypatch):
    """A run, a table or a figure at a URL is refused, and no folder called ``s3:`` is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a URL"):
        VERBS[verb](there, tmp_path / "run", "s3://bucket/run")
    assert not list(tmp_path.glob("s3*"))
