"""fit-head on texts of a template: controls, an ablation of each covariate, refusals and warnings."""

import importlib.util
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import headwater as hw
from headwater.errors import InputError

N = 120
TEMPLATE = """
order = "shuffled"
seed = 3
sentences = [["Age {age}.", "She is {age}."], "Family history: {family}.", "Hair {hair}."]
[columns.age]
bins = [{ below = 55, word = "under fifty-five" }, { word = "fifty-five or older" }]
"""
ASKED = {"label": "label", "groups": "patient", "folds": 3, "params": {"C": 1.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exams whose age says most, the family history some and the hair nothing of the label; images say nothing."""
    folder = tmp_path_factory.mktemp("exams")
    rng = np.random.default_rng(0)
    label = np.repeat(rng.integers(0, 2, N // 2), 2)
    for i in range(N):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    age = np.where(rng.random(N) < 0.85, label, 1 - label) * 10 + 50
    family = np.where(rng.random(N) < 0.65, label, 1 - label).astype(bool)
    table = pl.DataFrame(
        {
            "id": [f"e{i}" for i in range(N)],
            "image": [f"{i}.png" for i in range(N)],
            "patient": [f"p{i // 2}" for i in range(N)],
            "age": [None if gone else int(a) for a, gone in zip(age, rng.random(N) < 0.1)],
            "family": pl.Series(family.tolist()),
            "hair": rng.choice(["brown", "fair", "grey"], N),
            "label": label,
        }
    )
    table.write_csv(folder / "exams.csv")
    (folder / "t.toml").write_text(TEMPLATE)
    store_of(folder / "exams.csv", folder / "t.toml", folder / "s.hw")
    return folder


def store_of(manifest, template, store):
    """Write texts, and embed them and the images."""
    made = manifest.with_name(f"{store.stem}.parquet")
    hw.text(manifest, template=template, out=made)
    hw.embed(made, store, encoder="stub:6", name="stub6", image="image", text="report")
    hw.embed(made, store, encoder="builtin:ngram", image="image", text="report")
    return store


def test_an_ablation_is_runs_made_by_hand(folder, tmp_path):
    """Without a covariate, numbers are those of a run on texts in which it is missing in each row, made by hand."""
    run = hw.fit_head(folder / "s.hw", features="ngram/text", controls="ablation", out=tmp_path / "whole", **ASKED)
    controls = run.metrics["controls"]
    assert list(controls) == ["shuffled", "random features", "without age", "without family", "without hair"]
    whole = hw.open_run(tmp_path / "whole")
    for column in ("age", "hair"):
        blank = pl.read_csv(folder / "exams.csv").with_columns(pl.lit(None).alias(column))
        blank = blank.with_columns("/" + pl.lit(str(folder)).str.strip_prefix("/") + "/" + pl.col("image"))
        blank.write_csv(tmp_path / f"{column}.csv")
        store = store_of(tmp_path / f"{column}.csv", folder / "t.toml", tmp_path / f"{column}.hw")
        alone = hw.fit_head(store, features="ngram/text", out=tmp_path / column, **ASKED)
        made = controls[f"without {column}"]
        assert (made["kind"], made["column"]) == ("without", column)
        assert made["mean"] == alone.metrics["mean"]
        found = hw.compare([whole, alone], metric="auc").differences[0]
        assert made["difference"]["auc"]["value"] == found.difference
        assert (made["difference"]["auc"]["low"], made["difference"]["auc"]["high"]) == (found.low, found.high)
    assert controls["without age"]["difference"]["auc"]["value"] > 0.05
    assert abs(controls["without hair"]["difference"]["auc"]["value"]) < 0.05
    assert any("without age" in line for line in run.lines())


def test_a_second_ablation_embeds_nothing(folder):
    """The features of texts without a covariate are stored, and the run is the same."""
    runs = [hw.fit_head(folder / "s.hw", features="ngram/text", controls="ablation", **ASKED) for _ in range(1)]
    before = hw.open_store(folder / "s.hw").features("ngram/text").n_items
    runs.append(hw.fit_head(folder / "s.hw", features="ngram/text", controls="ablation", **ASKED))
    assert hw.open_store(folder / "s.hw").features("ngram/text").n_items == before
    assert runs[0].metrics["controls"] == runs[1].metrics["controls"]


def test_fusion_with_texts_of_a_template_has_controls(folder, command, tmp_path):
    """Each input alone and shuffled pairs stand beside every fusion, unless they are declined."""
    words = [word for name in ("stub6/image", "ngram/text") for word in ("--features", name)]
    words += ["--label", "label", "--groups", "patient", "--folds", "3", "--set", "C=1", "--json"]
    done = command("fit-head", folder / "s.hw", *words, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert list(found["controls"]) == ["stub6/image alone", "ngram/text alone", "shuffled pairs"]
    assert found["text_template"]["columns"] == ["age", "family", "hair"]
    assert "controls" not in json.loads(command("fit-head", folder / "s.hw", *words, "--no-controls").out)
    lines = hw.open_run(tmp_path / "run").lines()
    assert any(line.startswith("texts of report say age, family, hair (template ") for line in lines)
    alone = hw.fit_head(folder / "s.hw", features="ngram/text", **ASKED)
    assert "controls" not in alone.metrics
    assert alone.metrics["mean"] == found["controls"]["ngram/text alone"]["mean"]
    asked = ("--text-ablation", "--folds", "2", "--no-controls")
    done = command("fit-head", folder / "s.hw", *words, *asked)
    assert list(json.loads(done.out)["controls"])[-3:] == ["without age", "without family", "without hair"]


def test_a_column_that_is_not_there_is_not_ablated(folder, tmp_path):
    """Texts without an optional column that the table lacks would be the same texts."""
    (tmp_path / "t.toml").write_text('optional = ["density"]\nsentences = ["Age {age}.", "Density {density}."]')
    store = store_of(folder / "exams.csv", tmp_path / "t.toml", tmp_path / "optional.hw")
    run = hw.fit_head(store, features="ngram/text", controls="ablation", **ASKED)
    assert [name for name in run.metrics["controls"] if name.startswith("without")] == ["without age"]
    assert run.metrics["text_template"]["columns"] == ["age"]
    assert "missing_values" in run.metrics["text_template"]


def test_a_label_that_texts_say_is_refused(folder):
    """A label that stands in the texts, or is made from one, is refused without a reason."""
    for label in ("hair", "old = age > 54"):
        with pytest.raises(InputError, match=r"texts of column 'report' say (hair|age)\. .*--allow-leakage REASON"):
            hw.fit_head(folder / "s.hw", features="ngram/text", **{**ASKED, "label": label})
    hw.fit_head(folder / "s.hw", features="stub6/image", **{**ASKED, "label": "hair"})
    run = hw.fit_head(folder / "s.hw", features="ngram/text", allow_leakage="a test", **{**ASKED, "label": "hair"})
    assert run.mean["auc"] > 0.99


def test_an_ablation_needs_texts_of_a_template(folder, tmp_path):
    """Images alone, texts that were changed by hand, and unknown words are refused by one line."""
    with pytest.raises(InputError, match="needs texts that a template made"):
        hw.fit_head(folder / "s.hw", features="stub6/image", controls="ablation", **ASKED)
    with pytest.raises(InputError, match="controls must be"):
        hw.fit_head(folder / "s.hw", features="stub6/image", controls="ablate", **ASKED)
    hw.text(folder / "exams.csv", template=folder / "t.toml", out=tmp_path / "made.csv")
    table = pl.read_csv(tmp_path / "made.csv")
    table.with_columns(report=pl.col("report").replace({table["report"][0]: "Something else."})).write_csv(
        tmp_path / "made.csv"
    )
    hw.embed(tmp_path / "made.csv", tmp_path / "s.hw", encoder="builtin:ngram", image="image", text="report")
    with pytest.raises(InputError, match=r"differ from what the template writes, such as that of 'e0'"):
        hw.fit_head(tmp_path / "s.hw", features="ngram/text", controls="ablation", **ASKED)


def test_missing_values_that_predict_the_label_are_said_at_fit(folder, tmp_path):
    """A run on texts whose missing values give the label away has a warning; the first store's run has none."""
    table = pl.read_csv(folder / "exams.csv")
    gone = pl.when((pl.col("label") == 1) & (pl.int_range(pl.len()) % 3 > 0)).then(None)
    table.with_columns(
        hair=gone.otherwise(pl.col("hair")),
        image=pl.lit(f"{folder}/") + pl.col("image"),
        site=pl.int_range(pl.len()) // 4 % 2,
    ).write_csv(tmp_path / "a.csv")
    store = store_of(tmp_path / "a.csv", folder / "t.toml", tmp_path / "a.hw")
    run = hw.fit_head(store, features="ngram/text", **ASKED)
    (line,) = run.metrics["warnings"]
    assert line.startswith("missing values alone predict label (AUC 0.")
    assert f"warning: {line}" in run.lines()
    probes = {probe["target"]: probe for probe in run.metrics["text_template"]["missing_values"]}
    assert probes["label"]["predicts"]
    assert set(probes) == {"label", "site"}
    assert not hw.fit_head(folder / "s.hw", features="ngram/text", **ASKED).metrics["warnings"]


def test_a_template_in_a_store_that_is_no_template(folder, tmp_path):
    """A store from somebody else, whose template is broken, is refused by one line."""
    store = hw.open_store(store_of(folder / "exams.csv", folder / "t.toml", tmp_path / "b.hw"))
    about = store.about
    broken = {"report": type(about.texts["report"])(("age",), "sentences = ['{age:>9999999}']")}
    store.write_samples(store.samples, store.roles, {}, type(about)(texts=broken))
    with pytest.raises(InputError, match=r"b.hw: the template of column 'report': sentence 1: the form"):
        hw.fit_head(tmp_path / "b.hw", features="ngram/text", **ASKED)


def test_fine_tuning_on_texts_that_say_the_label_is_refused(folder):
    """fine-tune refuses such a label as fit-head does, before an encoder is loaded."""
    with pytest.raises(InputError, match="texts of column 'report' say hair"):
        hw.fine_tune(folder / "s.parquet", encoder="builtin:clip", label="hair", text="report", groups="patient")


def test_another_template_is_said_by_evaluate(folder, tmp_path):
    """evaluate warns if the texts of the other data set were made by another template, or by none."""
    run = hw.fit_head(folder / "s.hw", features="ngram/text", out=tmp_path / "run", **ASKED)
    table = pl.read_csv(folder / "exams.csv").with_columns(
        pl.col("id") + "x", pl.col("patient") + "x", image=pl.lit(f"{folder}/") + pl.col("image")
    )
    table.write_csv(tmp_path / "other.csv")
    (tmp_path / "t2.toml").write_text(TEMPLATE.replace("Hair", "Her hair is"))
    store = store_of(tmp_path / "other.csv", tmp_path / "t2.toml", tmp_path / "o.hw")
    asked = {"label": "label", "groups": "patient", "allow_leakage": "a test"}
    found = hw.evaluate(run, store, **asked)
    (line,) = [line for line in found.metrics["warnings"] if "by another one" in line]
    assert f"warning: {line}" in found.lines()
    same = hw.evaluate(run, folder / "s.hw", **asked)
    assert not [line for line in same.metrics["warnings"] if "template" in line]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_report_says_how_texts_were_made(folder, tmp_path):
    """A report names the template's columns, and has a row for each covariate that was left out."""
    hw.fit_head(folder / "s.hw", features="ngram/text", controls="ablation", out=tmp_path / "run", **ASKED)
    page = hw.report(tmp_path / "run", out=tmp_path / "r.html", pictures=False).path.read_text()
    assert "from the columns age, family, hair" in page
    assert "without family" in page


VIEWED = """order = "shuffled"
vary_by = "patient"
sentences = [["Age {age}.", "Aged {age}."], "Hair {hair}."]"""


def test_views_of_an_exam(folder, tmp_path):
    """An ablation keeps the rows of exams whose views are inputs of their own."""
    table = pl.read_csv(folder / "exams.csv").with_columns(
        image=pl.lit(f"{folder}/") + pl.col("image"), view=pl.int_range(pl.len()) % 2
    )
    table = table.with_columns(pl.col("label", "age", "hair").first().over("patient"))
    table.write_csv(tmp_path / "v.csv")
    (tmp_path / "v.toml").write_text(VIEWED)
    store = store_of(tmp_path / "v.csv", tmp_path / "v.toml", tmp_path / "v.hw")
    run = hw.fit_head(
        store,
        features=["stub6/image", "ngram/text"],
        bags="patient",
        views="view",
        controls="ablation",
        **{**ASKED, "groups": None},
    )
    assert run.metrics["n_samples"] == N // 2
    controls = run.metrics["controls"]
    assert controls["without age"]["mean"]["auc"] < run.mean["auc"] - 0.05
    assert controls["without hair"]["inputs"] == list(controls["shuffled pairs"]["inputs"])
