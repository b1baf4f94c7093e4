"""samples replaces a store's table without an encoder, and audit writes groups into it."""

import json
import shlex

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater._about import KEY, About, about_file
from headwater.api.samples import ReplacedSamples
from headwater.embed.known import KNOWN
from headwater.errors import HeadwaterError, InputError, ManifestError
from headwater.samples.linked import linked


@pytest.fixture
def scans(tmp_path, picture):
    """A store of six images with labels, and its manifest."""
    rows = [{"id": f"s{i}", "image": f"{i}.png", "label": "ab"[i % 2], "patient": f"p{i // 2}"} for i in range(6)]
    for i in range(6):
        picture(tmp_path / f"{i}.png", i)
    pl.DataFrame(rows).write_csv(tmp_path / "m.csv")
    hw.embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder="builtin:texture")
    return tmp_path


def written(folder, table, name="n.csv"):
    table.write_csv(folder / name)
    return folder / name


def test_new_columns_and_fewer_rows(scans, monkeypatch):
    """New labels and fewer rows replace the table; no encoder runs, and no file is read again."""
    before = hw.open_store(scans / "a.hw").read("texture/image")
    table = pl.read_csv(scans / "m.csv").with_columns(grade=pl.Series([3, 1, 2, 3, 1, 2])).head(5)
    monkeypatch.setattr("headwater.embed.plan.load_encoder", None)
    monkeypatch.setattr("headwater.embed.items.key_of_file", None)
    # files that were just written are read again, since a later change might keep their times
    monkeypatch.setattr("headwater.store.file_index.SETTLED_NS", -(10**12))
    done = hw.samples(scans / "a.hw", written(scans, table))
    assert (done.n_samples, done.changes.unlisted, done.missing) == (5, 1, {"texture/image": []})
    data = hw.open_store(scans / "a.hw").read("texture/image")
    assert data.table["grade"].to_list() == [3, 1, 2, 3, 1]
    np.testing.assert_array_equal(data.X[np.arange(5)], before.X[np.arange(5)])


def test_moved_and_renamed_files_keep_their_features(scans):
    """Samples find their features by content, whatever their files are called."""
    (scans / "moved").mkdir()
    for i in range(6):
        (scans / f"{i}.png").rename(scans / "moved" / f"x{i}.png")
    table = pl.read_csv(scans / "m.csv").with_columns(image=pl.format("moved/x{}.png", pl.int_range(6)))
    done = hw.samples(scans / "a.hw", written(scans, table))
    assert done.missing == {"texture/image": []}
    assert done.changes.moved == 6


def test_samples_without_features_are_named(scans, picture, command):
    """New images and unreadable ones are in the table, and are named."""
    picture(scans / "new.png", 99)
    (scans / "bad.png").write_bytes(b"no image")
    rows = pl.DataFrame(
        {"id": ["n", "b"], "image": ["new.png", "gone.png"], "label": ["a", "b"], "patient": ["p9", "p9"]}
    )
    table = pl.concat([pl.read_csv(scans / "m.csv"), rows])
    done = command("samples", scans / "a.hw", written(scans, table))
    assert done.status == 0, done
    assert "texture/image: 2 samples without features: 'n', 'b'" in done.out
    assert f"headwater embed {scans / 'n.csv'} {scans / 'a.hw'} --encoder builtin:texture" in done.out
    assert "gone.png" in done.out
    data = hw.open_store(scans / "a.hw").read("texture/image")
    assert len(data.ids) == 6
    assert json.loads(command("samples", scans / "a.hw", scans / "m.csv", "--json").out)["n_samples"] == 6


def test_the_manifest_of_something_else_is_refused(scans, picture):
    picture(scans / "new.png", 99)
    table = pl.DataFrame({"id": ["n"], "image": ["new.png"]})
    before = hw.open_store(scans / "a.hw").samples
    with pytest.raises(ManifestError, match="none of its 1 sample has features"):
        hw.samples(scans / "a.hw", written(scans, table))
    assert hw.open_store(scans / "a.hw").samples.equals(before)
    with pytest.raises(HeadwaterError, match="there is no store"):
        hw.samples(scans / "none.hw", scans / "m.csv")
    with pytest.raises(TypeError, match="imgae"):
        hw.samples(scans / "a.hw", scans / "m.csv", imgae="image")


def test_imported_vectors_keep_their_keys(make_store, tmp_path):
    """Samples of vectors that came without images are known by their ids."""
    store = make_store(np.random.default_rng(0).standard_normal((4, 3)), label=["a", "b"] * 2)
    roles = type(store.roles)("id", None, None, "/")
    store.write_samples(store.samples.drop("image"), roles)
    pl.DataFrame({"id": ["r000", "r002"], "text": ["x", "y"], "grade": [1, 2]}).write_csv(tmp_path / "n.csv")
    done = hw.samples(store.path, tmp_path / "n.csv")
    assert done.missing == {"made/image": []}
    assert hw.open_store(store.path).read("made/image").table["grade"].to_list() == [1, 2]


# Outcomes


def about(**more):
    return About(kind="x", outcomes=("label", "gone"), groups=("patient",), **more)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_outcomes_rest_with_the_samples(scans, suffix):
    """What a manifest says of its columns is kept by the store, and by a replaced table."""
    table = pl.read_csv(scans / "m.csv")
    path = scans / f"n{suffix}"
    if suffix == ".csv":
        table.write_csv(path)
        about_file(path).write_text(about().to_json())
    else:
        table.write_parquet(path, metadata={KEY: about().to_json()})
    assert not hw.open_store(scans / "a.hw").about
    hw.samples(scans / "a.hw", path)
    assert hw.open_store(scans / "a.hw").about.outcomes == ("label",)
    hw.embed(path, scans / "b.hw", encoder="builtin:texture")
    assert hw.open_store(scans / "b.hw").about == About(kind="x", outcomes=("label",), groups=("patient",))
    assert "  outcomes, never inputs: label" in hw.info(scans / "b.hw").lines()


def test_a_known_group_is_asked_for(make_store):
    """A group that has another name than a patient, such as the video, is asked for all the same."""
    store = make_store(
        np.random.default_rng(0).standard_normal((12, 3)), label=["a", "b"] * 6, video=list("aabbccddeeff")
    )
    asked = {"features": "made/image", "label": "label", "folds": 2, "params": {"C": 0.1}}
    assert hw.fit_head(store, **asked).config["groups"] in (None, "none")
    store.write_samples(store.samples, store.roles, about=About(groups=("video",)))
    with pytest.raises(InputError, match="pass --groups video"):
        hw.fit_head(store, **asked)


def test_an_outcome_is_no_text(scans, refused):
    """A column that is an outcome is refused as text by every verb that reads a manifest."""
    about_file(scans / "m.csv").write_text(about().to_json())
    line = refused("embed", scans / "m.csv", scans / "t.hw", "--encoder", "builtin:ngram", "--text", "label")
    assert "--text label: this column is an outcome of x" in line


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "outcomes are no list": '{"outcomes": "label"}',
    "outcomes are numbers": '{"outcomes": [1]}',
    "counts are no pairs": '{"counts": {"a": 3}}',
    "too deep": "[" * 5000 + "]" * 5000,
    "too large": '{"kind": "' + "x" * (2 << 20) + '"}',
    "a surrogate": '{"kind": "\\ud800"}',
}


@pytest.mark.parametrize("harm", BROKEN)
def test_a_description_that_cannot_be_read(scans, harm):
    """A broken description is an error of one line, not a table without outcomes."""
    about_file(scans / "m.csv").write_text(BROKEN[harm])
    with pytest.raises(ManifestError, match=r"m\.csv\.about\.json: cannot be read") as caught:
        hw.samples(scans / "a.hw", scans / "m.csv")
    assert "\n" not in str(caught.value)
    pl.read_csv(scans / "m.csv").write_parquet(scans / "m.parquet", metadata={KEY: BROKEN[harm]})
    with pytest.raises(ManifestError, match=r"m\.parquet: cannot be parsed"):
        hw.samples(scans / "a.hw", scans / "m.parquet")


def test_a_description_that_is_no_file(scans):
    about_file(scans / "m.csv").mkdir()
    with pytest.raises(ManifestError, match="cannot be read"):
        hw.samples(scans / "a.hw", scans / "m.csv")


# Groups of duplicates


@pytest.fixture
def copies(make_store):
    """Forty photographs, each three times with a little noise, of patients that share no photograph but two."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((60, 24))
    X = np.concatenate([base + 0.01 * rng.standard_normal(base.shape) for _ in range(3)])
    source = np.tile(np.arange(60), 3)
    patient = [f"p{i}" for i in range(len(X))]
    patient[1] = "p0"  # the patient of photographs 0 and 1 links their copies
    return make_store(X, source=source.tolist(), patient=patient, label=["a", "b"] * 90), source


def test_clusters_become_a_column(copies, command):
    """Each photograph's copies are one group; fit-head takes the column."""
    store, _ = copies
    done = command("audit", store.path, "--groups", "none", "--groups-out", "source2")
    assert done.status == 0, done
    assert "groups in column source2: 60 of 180 samples, the largest of 3: pass --groups source2" in done.out
    table = hw.open_store(store.path).samples
    assert table.group_by("source2").agg(pl.col("source").n_unique())["source"].max() == 1
    assert table["source2"].n_unique() == 60
    assert table["source2"][0] == "r000"
    assert hw.open_store(store.path).about.made == {"source2": "audit"}
    run = hw.fit_head(store.path, features="made/image", label="label", groups="source2", folds=3, params={"C": 0.1})
    assert run.config["groups"] == "source2"


def test_patients_are_joined_with_clusters(copies):
    """With groups, what shares a patient or a cluster is one group; another audit may write it again."""
    store, _ = copies
    made = hw.audit(store.path, groups="patient", groups_out="together").groups_out
    assert (made.n_groups, made.largest) == (59, 6)
    again = hw.audit(store.path, groups="none", groups_out="together").groups_out
    assert (again.n_groups, again.largest) == (60, 3)


def test_samples_that_are_not_audited(copies):
    """Samples that --where leaves out are groups of their own, or of their patient."""
    store, _ = copies
    made = hw.audit(store.path, groups="none", where="source < 30", groups_out="some").groups_out
    assert made.n_groups == 30 + 90


@pytest.mark.parametrize(("name", "words"), [("label", "a column 'label' already"), (" ", "empty"), ("id", "already")])
def test_a_column_that_is_there(copies, name, words):
    store, _ = copies
    before = store.samples
    with pytest.raises(InputError, match=words):
        hw.audit(store.path, groups="none", groups_out=name)
    assert hw.open_store(store.path).samples.equals(before)


def test_one_large_group_is_warned_of(make_store):
    """A threshold that links everything gives one group, which is said."""
    rng = np.random.default_rng(0)
    store = make_store(rng.standard_normal((40, 8)))
    found = hw.audit(store.path, threshold=0.01, groups_out="g")
    assert found.groups_out.largest > 20
    assert any("one group holds" in line for line in found.lines())


def test_linked_is_the_transitive_closure():
    """Against a plain search over all samples."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = int(rng.integers(1, 30))
        columns = [
            pl.Series([None if rng.random() < 0.3 else int(v) for v in rng.integers(0, 12, n)], dtype=pl.Int64)
            for _ in range(2)
        ]
        found = linked(pl.Series([f"s{i}" for i in range(n)]), columns).to_list()
        part = list(range(n))
        for _ in range(n):
            for column in columns:
                values = column.to_list()
                for i in range(n):
                    for j in range(n):
                        if values[i] is not None and values[i] == values[j]:
                            part[i] = part[j] = min(part[i], part[j])
        assert found == [f"s{i}" for i in part]
    assert linked(pl.Series(["a", "b"]), []).to_list() == ["a", "b"]


def test_the_command_that_adds_features_can_be_pasted(scans, picture, command):
    """It names the feature set, and quotes places; the long form of an encoder would end at its first ``&``."""
    picture(scans / "new.png", 99)
    (scans / "a folder").mkdir()
    hw.embed(scans / "m.csv", scans / "a folder/a.hw", encoder="builtin:texture", name="mine")
    table = pl.concat(
        [
            pl.read_csv(scans / "m.csv"),
            pl.DataFrame([("s9", "new.png", "a", "p9")], schema=["id", "image", "label", "patient"], orient="row"),
        ]
    )
    lines = hw.samples(scans / "a folder/a.hw", written(scans, table)).lines()
    (line,) = (line for line in lines if line.endswith(" adds them"))
    words = shlex.split(line.removesuffix(" adds them"))
    assert command(*words[1:]).status == 0
    assert hw.samples(scans / "a folder/a.hw", scans / "n.csv").missing == {"mine/image": []}
    known = ReplacedSamples("s", "m", 1, None, {"mine/image": ["x"]}, {"mine/image": str(KNOWN["virchow2"].spec)}, {})
    assert "--encoder virchow2 --name mine" in known.lines()[1]
