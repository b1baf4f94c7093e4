"""text: a copy of a manifest with sentences from its columns, what is kept of the template, and what is refused."""

import json

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater._about import KEY, About, about_file
from headwater._reading import parse_parquet
from headwater.errors import InputError, ManifestError, ManifestNotFound
from headwater.sources import read_manifest
from headwater.sources.manifest import read_rows

TEMPLATE = """
outcomes = ["stage"]
sentences = [["Age {age}.", "{age} old."], "Density {density}."]
[columns.age]
unit = "years"
"""


@pytest.fixture
def exams(tmp_path):
    """A manifest whose template says age and density; stage and label are to be predicted."""
    (tmp_path / "t.toml").write_text(TEMPLATE)
    table = pl.DataFrame(
        {
            "id": [f"e{i}" for i in range(40)],
            "image": [f"scans/{i}.png" for i in range(39)] + [None],
            "patient": [f"p{i // 2}" for i in range(40)],
            "age": [None if i % 4 else 50 + i for i in range(40)],
            "density": ["A", "B"] * 20,
            "stage": [1, 2] * 20,
            "label": ([0] * 2 + [1] * 2) * 10,
            "site": ["north"] * 20 + ["south"] * 20,
        }
    )
    path = tmp_path / "exams.csv"
    table.write_csv(path)
    about_file(path).write_text(About("set", outcomes=("label",), groups=("patient",)).to_json())
    return path


def written(exams, name="out.csv", **options):
    return hw.text(exams, template=exams.with_name("t.toml"), out=exams.with_name(name), **options)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_copy_has_texts_and_says_how_they_were_made(exams, name):
    """The copy is the manifest with one more column; it names outcomes, and keeps the template and its columns."""
    made = written(exams, name)
    found = read_manifest(exams.with_name(name), image="image", text="report")
    before = read_rows(exams)
    assert found.table.drop("report").equals(before.table)
    assert found.texts() == made.table["report"].to_list()
    assert found.texts()[0] in ("Age 50 years. Density A.", "50 years old. Density A.")
    assert found.about.outcomes == ("label", "stage")
    assert found.about.groups == ("patient",)
    kept = found.about.texts["report"]
    assert (kept.columns, kept.template) == (("age", "density"), TEMPLATE)
    words = (
        parse_parquet(exams.with_name(name).read_bytes())[1][KEY]
        if name.endswith("parquet")
        else about_file(exams.with_name(name)).read_text()
    )
    assert json.loads(words)["texts"]["report"]["digest"] == made.made.digest == kept.digest


def test_the_command_says_what_is_missing(exams, command):
    """The command counts missing values, shows a text, and says what to run next."""
    out = exams.with_name("o.parquet")
    done = command("text", exams, "--template", exams.with_name("t.toml"), "-o", out, "--label", "label")
    assert done.status == 0, done.err
    assert "40 samples, 14 distinct texts in column 'report'" in done.out
    assert "30 missing (75 %)" in done.out
    assert f"manifest in {out}. Embed it with --text report" in done.out
    found = json.loads(command("text", exams, "--template", exams.with_name("t.toml"), "-o", out, "--json").out)
    assert found["columns"] == ["age", "density"]


def test_paths_of_images_lead_to_the_same_files(exams, tmp_path):
    """A copy in another folder has paths that lead to the same images."""
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there" / "o.csv", tmp_path / "o.csv"):
        hw.text(exams, template=exams.with_name("t.toml"), out=out)
        paths = read_manifest(out, text="report").image_paths()
        assert paths[:2] == [tmp_path / "scans" / "0.png", tmp_path / "scans" / "1.png"]
        assert paths[-1] is None


def test_paths_of_masks_lead_to_the_same_files(tmp_path):
    """Masks beside images are found from the copy too, and absolute paths stay as they are."""
    (tmp_path / "t.toml").write_text('sentences = ["Age {age}."]')
    table = pl.DataFrame({"image": ["a.png", f"{tmp_path}/b.png"], "mask": ["m.png", None], "age": [1, 2]})
    table.write_csv(tmp_path / "m.csv")
    made = hw.text(tmp_path / "m.csv", template=tmp_path / "t.toml", out=tmp_path / "there" / "o.parquet").table
    assert made["image"].to_list() == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    assert made["mask"].to_list() == [f"{tmp_path}/m.png", None]


def test_texts_can_be_made_again_and_only_they(exams):
    """A column that a template made is replaced; another column is not."""
    written(exams)
    again = exams.with_name("out.csv")
    hw.text(again, template=exams.with_name("t.toml"), out=exams.with_name("again.csv"))
    with pytest.raises(InputError, match="has this column already"):
        written(exams, column="density")
    with pytest.raises(InputError, match="is the manifest itself"):
        hw.text(exams, template=exams.with_name("t.toml"), out=exams)


@pytest.mark.parametrize(
    ("sentence", "options", "words"),
    [
        ("{label}", {}, "field label: this column is an outcome of set"),
        ("{stage}", {}, "among its outcomes"),
        ("{site}", {"label": "site"}, "which is the --label to predict"),
        ("{agee}", {}, "Did you mean 'age'?"),
        ("{age}", {"label": "gone"}, "--label: no column 'gone'"),
        ("{age}", {"groups": "gone"}, "--groups: no column 'gone'"),
        ("{age}", {"site": "gone"}, "--site: no column 'gone'"),
        ("{age}", {"column": "age"}, "has this column already"),
    ],
)
def test_what_is_to_be_predicted_is_refused(exams, sentence, options, words):
    """Outcomes of a known set, of the template, and the label are no fields; nothing is written then."""
    exams.with_name("t.toml").write_text(f'outcomes = ["stage"]\nsentences = ["x {sentence}"]')
    with pytest.raises(InputError) as caught:
        written(exams, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not exams.with_name("out.csv").exists()


@pytest.mark.parametrize(("by", "words"), [("label", "is an outcome of set"), ("site", "vary_by is the --label")])
def test_no_wording_tells_the_label(exams, by, words):
    """A wording that is chosen by an outcome, or by the label, is refused: it would tell them."""
    exams.with_name("t.toml").write_text(f'vary_by = "{by}"\nsentences = [["{{age}}.", "{{age}} old."]]')
    with pytest.raises(InputError, match=words):
        written(exams, label="site")


def test_outcomes_of_a_template_stay_outcomes(exams):
    """A column that the template names as an outcome is refused as texts later."""
    written(exams)
    with pytest.raises(InputError, match="stage: this column is an outcome"):
        hw.embed(exams.with_name("out.csv"), exams.with_name("s.hw"), encoder="builtin:ngram", text="stage")


def test_one_template_for_tables_of_different_columns(exams, command):
    """A column that the template calls optional and the table lacks is unknown; the command says so."""
    exams.with_name("t.toml").write_text('optional = ["implant"]\nsentences = ["Age {age}.", "Implant: {implant}."]')
    made = written(exams, "o.parquet")
    assert made.table["report"][0] == "Age 50. Implant: unknown."
    assert made.made.columns == ("age",)
    assert made.absent == ("implant",)
    done = command("text", exams, "--template", exams.with_name("t.toml"), "-o", exams.with_name("o.parquet"))
    assert "implant" in done.out
    assert "no such column" in done.out


def test_a_table_without_images_will_do(tmp_path):
    """Rows need neither image nor text; a folder or a missing file is refused."""
    (tmp_path / "t.toml").write_text('sentences = ["Age {age}."]')
    pl.DataFrame({"age": [1, 2]}).write_csv(tmp_path / "a.csv")
    made = hw.text(tmp_path / "a.csv", template=tmp_path / "t.toml", out=tmp_path / "b.csv")
    assert made.table.columns == ["id", "age", "report"]
    assert read_manifest(tmp_path / "b.csv").texts() == ["Age 1.", "Age 2."]
    with pytest.raises(ManifestError, match="is a folder"):
        hw.text(tmp_path, template=tmp_path / "t.toml")
    with pytest.raises(ManifestNotFound, match=r"Did you mean 'a.csv'\?"):
        hw.text(tmp_path / "aa.csv", template=tmp_path / "t.toml")


def test_negative_numbers_beside_na_stay_numbers(tmp_path):
    """A CSV copy changes no number, though a column beside NA is text and a minus sign begins a formula."""
    (tmp_path / "t.toml").write_text('sentences = ["Score {score:.1f}."]')
    (tmp_path / "a.csv").write_text("id,score,note\n1,-2.5,=1+1\n2,NA,-x\n3,+4,ok\n")
    hw.text(tmp_path / "a.csv", template=tmp_path / "t.toml", out=tmp_path / "b.csv")
    found = read_manifest(tmp_path / "b.csv", text="report").table
    assert found["score"].to_list() == ["-2.5", "NA", "+4"]
    assert found["report"].to_list() == ["Score -2.5.", "Score unknown.", "Score 4.0."]
    assert found["note"].to_list() == ["'=1+1", "'-x", "ok"]


# Missing values that predict


def made_rows(tmp_path, rng, n=160, of_label=0.0, of_site=0.0):
    """Rows whose values are missing in 30 %, more often for one label or site."""
    label, site = np.repeat(rng.integers(0, 2, n // 2), 2), np.repeat(rng.integers(0, 2, n // 2), 2)
    share = 0.3 + of_label * (label - 0.5) + of_site * (site - 0.5)
    cells = {c: [None if gone else "x" for gone in rng.random(n) < share] for c in ("smoker", "family", "biopsy")}
    path = tmp_path / "rows.parquet"
    pl.DataFrame(
        {
            "id": [f"{i}" for i in range(n)],
            "patient": [f"p{i // 2}" for i in range(n)],
            "site": np.array(["north", "south"])[site],
            "label": label,
            **cells,
        }
    ).write_parquet(path)
    (tmp_path / "t.toml").write_text('sentences = ["{smoker}, {family}, {biopsy}."]')
    return path


def probes(path):
    made = hw.text(path, template=path.with_name("t.toml"), label="label", groups="patient")
    return {probe.target: probe for probe in made.probes}, made.warnings


def test_missing_values_that_predict_are_said(tmp_path):
    """A warning names the label, or the site, that missing values predict, and only it."""
    rng = np.random.default_rng(0)
    found, said = probes(made_rows(tmp_path, rng, of_label=0.4))
    assert found["label"].predicts
    assert not found["site"].predicts
    assert len(said) == 1
    assert said[0].startswith("missing values alone predict label (AUC 0.")
    assert "\n" not in said[0]
    found, said = probes(made_rows(tmp_path, np.random.default_rng(3), of_site=0.4))
    assert [name for name, probe in found.items() if probe.predicts] == ["site"]
    assert said[0].startswith("missing values alone predict site")


def test_noise_is_seldom_said(tmp_path):
    """Of 60 labels and sites that missing values have nothing to do with, at most 5 % are said to be predicted."""
    rng = np.random.default_rng(1)
    alarms = [probe.predicts for _ in range(30) for probe in probes(made_rows(tmp_path, rng, n=80))[0].values()]
    assert len(alarms) == 60
    assert np.mean(alarms) <= 0.05


def test_nothing_missing_is_not_probed(tmp_path):
    """Without missing values, or with one class, nothing is measured and nothing said."""
    path = made_rows(tmp_path, np.random.default_rng(0))
    pl.read_parquet(path).with_columns(
        smoker=pl.lit("x"), family=pl.lit("x"), biopsy=pl.lit(None, pl.String)
    ).write_parquet(path)
    assert probes(path) == ({}, [])


def test_a_label_of_patients_needs_groups(tmp_path):
    """As fit-head, the measurement is refused if the manifest has patients and no groups were named."""
    path = made_rows(tmp_path, np.random.default_rng(0))
    with pytest.raises(InputError, match="pass --groups patient"):
        hw.text(path, template=path.with_name("t.toml"), label="label")
