"""report: one HTML file of runs, which says what their files say, and nothing that they do not."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.api import compare, embed, fine_tune, fit_head, report, zero_shot
from headwater.api.report import _comparisons, _systems
from headwater.report.html.words import HEADLINE, metric_name, number, span
from tests.report.conftest import EVIL

ONE = ("image", "text", "multiclass", "multilabel", "ordinal", "regression", "outputs", "survival", "missing", "south")
VOID = {"meta", "img", "br", "input", "circle", "path", "use", "rect", "image"}


class Parsed(HTMLParser):
    """A page: tags in order, attributes by tag, and texts; it notes tags that do not close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.ids, self.open, self.script, self.wrong = [], [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.script += data
        elif inside != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def page(tmp_path):
    """Return a function that writes a report and parses it."""

    def make(*paths, **options):
        out = tmp_path / "report.html"
        report(list(paths), out=out, **options)
        text = out.read_text()
        parsed = Parsed(text)
        assert not parsed.wrong
        assert parsed.open == []
        assert len(set(parsed.ids)) == len(parsed.ids)
        parsed.source = text
        return parsed

    return make


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def copied(run, tmp_path, change=None):
    """Return a copy of a run with changed metrics; its store is still found."""
    folder = shutil.copytree(run, tmp_path / f"copy-{run.name}")
    config = json.loads((run / "config.json").read_text())
    if "store" in config:
        config["store"] = str((run / config["store"]).resolve())
    (folder / "config.json").write_text(json.dumps(config))
    if change is not None:
        metrics = metrics_of(run)
        change(metrics)
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.mark.parametrize("name", ONE)
def test_headline_numbers_are_those_of_the_run(runs, page, name):
    """Each headline number and its interval stand in metrics.json, and the page prints all that are there."""
    metrics = metrics_of(runs[name])
    found = page(runs[name], pictures=False)
    cells = {(attrs.get("title"), attrs.get("data-v")) for tag, attrs in found.tags if tag == "td"}
    shown = 0
    for metric in HEADLINE[metrics["task"]]:
        value = metrics["mean"].get(metric)
        if value is None:
            continue
        shown += 1
        assert (f"metrics.json: mean.{metric}", f"{value:.10g}") in cells
        assert f"{metric_name(metric)}" in found.text
        assert number(value) in found.text
        low, high = metrics["intervals"][metric] or (None, None)
        assert span(low, high) in found.text
    assert shown >= 2


def test_every_number_in_a_table_names_a_key_that_holds_it(runs, page):
    """Whatever cell of a run's tables names a key of metrics.json shows the value of that key."""
    metrics = metrics_of(runs["image"])
    found = page(runs["image"], pictures=False)
    checked = 0
    for tag, attrs in found.tags:
        source = attrs.get("title") or ""
        if tag != "td" or not source.startswith("metrics.json: ") or "data-v" not in attrs:
            continue
        value = metrics
        for part in source.removeprefix("metrics.json: ").split("."):
            if not isinstance(value, dict) or part not in value:
                value = None
                break
            value = value[part]
        while isinstance(value, dict) and "value" in value:
            value = value["value"]
        if isinstance(value, list):  # an interval, sorted by its lower end
            value = value[0]
        if isinstance(value, (int, float)):
            assert attrs["data-v"] == f"{value:.10g}", source
            checked += 1
    assert checked > 60


def test_what_an_audit_found_is_shown(runs, page, audited, tmp_path):
    """Each number of the audit is printed with its key, from the result as from its JSON, and names are escaped."""
    found = json.loads(json.dumps(audited.to_dict()))
    (tmp_path / "audit.json").write_text(json.dumps(found))
    shown = page(runs["text"], pictures=False, audit=audited)
    assert page(runs["text"], pictures=False, audit=tmp_path / "audit.json").source == shown.source
    cells = {(attrs.get("title"), attrs.get("data-v")) for tag, attrs in shown.tags if tag == "td"}
    (site,) = found["sites"]
    for key in ("robustness", "by_chance", "same_site", "same_label"):
        assert (f"audit: sites[0].{key}", f"{site[key]:.10g}") in cells
        assert number(site[key]) in shown.text
    assert span(*site["interval"]) in shown.text
    assert ("audit: found[0].clusters.n", f"{found['found'][0]['clusters']['n']:.10g}") in cells
    for place, one in enumerate(found["site_labels"]):
        for label, n in one["labels"].items():
            assert (f"audit: site_labels[{place}].labels.{label}", f"{n:.10g}") in cells
    assert "<script>alert" not in shown.source
    assert "onload" not in {name for _, attrs in shown.tags for name in attrs}


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([0.1, 0.2], "lie near others of the same evil_site more than"),
        ([0.8, 0.9], "the grade decides more than the evil_site"),
        ([0.2, 0.9], "neither the grade nor the evil_site clearly decides"),
    ],
)
def test_the_conclusion_of_an_audit_follows_its_interval(runs, page, audited, tmp_path, interval, words):
    """The sentence compares the interval with chance."""
    found = json.loads(json.dumps(audited.to_dict()))
    found["sites"][0] |= {"interval": interval, "by_chance": 0.5}
    (tmp_path / "audit.json").write_text(json.dumps(found))
    assert words in page(runs["text"], pictures=False, audit=tmp_path / "audit.json").text


def test_what_is_in_the_text_changes_with_the_file(runs, page, tmp_path):
    """Numbers are read, not remembered: a changed file gives a changed page."""

    def change(metrics):
        metrics["mean"]["auc"] = 0.12345
        metrics["intervals"]["auc"] = [0.11111, 0.22222]
        metrics["leakage"]["groups_across_splits"] = 77

    found = page(copied(runs["image"], tmp_path, change), pictures=False)
    for words in ("0.123", "0.111 to 0.222", "77 patients on both sides"):
        assert words in found.text


@pytest.mark.parametrize("name", [*ONE, "both", "evil"])
def test_it_asks_for_nothing(runs, page, name):
    """No address of the page leads out of it, and its policy forbids what it does not hold."""
    found = page(runs[name])
    for tag, attrs in found.tags:
        for key in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
            if (value := attrs.get(key)) is not None:
                assert value.startswith(("#", "data:image/")), (tag, key, value[:60])
        assert tag not in ("link", "iframe", "object", "embed", "form", "base", "audio", "video", "foreignobject")
        assert not [key for key in attrs if key.startswith("on")]
        for target in re.findall(r"url\(([^)]*)\)", attrs.get("style") or ""):
            assert target.strip("'\"").startswith(("#", "data:image/"))
    css = re.search(r"<style>(.*?)</style>", found.source, re.S)[1]
    assert all(target.startswith("data:image/jpeg;base64,") for target in re.findall(r"url\(([^)]*)\)", css))
    assert "@import" not in css
    (policy,) = [attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert "fetch" not in found.script
    assert "http" not in found.script
    assert len(found.script.splitlines()) <= 150


@pytest.mark.parametrize("ids", [False, True])
def test_what_comes_from_files_is_text(runs, page, tmp_path, ids):
    """Class names, values of columns, paths, ids, words of study.toml: nothing becomes a tag or an attribute."""
    run = copied(runs["evil"], tmp_path)
    named = run.rename(tmp_path / "a<img src=x onerror=alert(1)>b")
    config = json.loads((named / "config.json").read_text())
    config["environment"]["headwater"] = EVIL
    config["features"]["texture/image"]["encoder"] = EVIL
    (named / "config.json").write_text(json.dumps(config))
    metrics = metrics_of(named)
    metrics["warnings"] = [EVIL]
    metrics["left_out"] = {EVIL: 2}
    metrics["flow"]["left_out"] = [{"reason": EVIL, "samples": 2, "groups": 1, "whole_groups": 0}]
    metrics["leakage"]["allowed"] = EVIL
    (named / "metrics.json").write_text(json.dumps(metrics))
    table = pl.read_parquet(named / "predictions.parquet")
    (tmp_path / "study.toml").write_text(f"title = '''{EVIL}'''\nsummary = '''{EVIL}'''\n1 = '''{EVIL}'''\n")
    found = page(
        named,
        names=[EVIL],
        columns=["evil", "age"],
        by="evil_site",
        ids=ids,
        checklist="claim",
        study=tmp_path / "study.toml",
    )
    assert [tag for tag, _ in found.tags].count("script") == 1
    plain = page(runs["image"], columns=["site"], by="site", checklist="claim")
    assert {key for _, attrs in found.tags for key in attrs} <= {key for _, attrs in plain.tags for key in attrs}
    assert found.script == plain.script
    assert EVIL.split("'")[0] in found.text
    assert table.height > 0


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    """Two reports of the same runs are one file."""
    given = {"checklist": "claim", "columns": ["age", "site"], "by": "site", "ids": True}
    for name in ("one", "two"):
        report([runs["image"], runs["both"], runs["south"]], out=tmp_path / f"{name}.html", **given)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_it_fits_into_a_mail(runs, tmp_path):
    """Reports of one and of four runs stay below a few megabytes, pictures included."""
    one = report(runs["image"], out=tmp_path / "one.html")
    four = report([runs[name] for name in ("image", "text", "both", "south")], out=tmp_path / "four.html")
    assert one.n_bytes == (tmp_path / "one.html").stat().st_size < 2e6
    assert four.n_bytes < 5e6


def test_ids_only_when_asked(runs, page, tmp_path):
    """Neither ids of samples nor names of patients are in the file without --ids, in whatever form."""

    def change(metrics):
        metrics["warnings"] = ["--groups patient: values differ only in case, blanks or spelling: 'p7' and 'P7'"]

    run = copied(runs["image"], tmp_path, change)
    plain = page(run, checklist="claim", columns=["age"])
    assert not re.search(r"\bs\d\d\b", plain.text)
    assert not [a for _, a in plain.tags if re.search(r"\b(s\d\d|p\d+)\b", a.get("data-w") or "")]
    assert "'p7'" not in plain.source
    assert "seem to differ only in spelling" in plain.text
    named = page(run, ids=True)
    assert re.search(r"\bs\d\d\b", named.text)
    assert "contains ids" in named.text
    assert "contains ids" not in plain.text


def test_no_pictures(runs, page):
    """With pictures the report says so at its top; without, it holds none."""
    with_them = page(runs["image"])
    assert "contains pictures" in with_them.text
    assert [a for t, a in with_them.tags if t == "img"]
    assert with_them.source.count("background-image: url(data:image/jpeg") == 1
    without = page(runs["image"], pictures=False)
    assert "contains pictures" not in without.text
    assert "data:image/jpeg" not in without.source
    assert not [a for t, a in without.tags if t == "img"]
    assert "--no-pictures" in without.text


def test_maps_of_the_same_samples_share_their_pictures(runs, page):
    """The pictures of a map stand once in the page, however many runs tested these samples."""
    found = page(runs["image"], runs["text"], runs["both"])
    assert found.source.count("background-image: url(data:image/jpeg") == 1
    assert found.source.count('<i class="sheet0">') == 3


def test_without_the_store(runs, page, tmp_path):
    """If the store is gone, mistakes are numbered without pictures, and the report says so."""
    run = shutil.copytree(runs["image"], tmp_path / "elsewhere" / "far" / "away" / "run")
    found = page(run, ids=True)
    assert "cannot be read where the run expects it" in found.text
    assert not [a for t, a in found.tags if t == "img"]
    assert "Worst mistakes" in found.text
    assert str(tmp_path) not in found.source


@pytest.fixture
def copies(gallery, tmp_path):
    """A run whose samples s00, s08 and s16 are wrong; s08 is the image of s00, and s16 nearly."""
    shutil.copytree(gallery, tmp_path / "gallery")
    images = tmp_path / "gallery" / "images"
    shutil.copy(images / "00.png", images / "08.png")
    with Image.open(images / "00.png") as image:
        image.putpixel((0, 0), (9, 9, 9))
        image.save(images / "16.png")
    embed(tmp_path / "gallery" / "manifest.csv", tmp_path / "gallery.hw", encoder="builtin:texture")
    asked = {"label": "grade", "groups": "patient", "folds": 3, "params": {"C": 0.1}, "positive": "high"}
    run = tmp_path / "run"
    fit_head(
        tmp_path / "gallery.hw", features="texture/image", **asked, allow_leakage="copies were made for this", out=run
    )
    table = pl.read_parquet(run / "predictions.parquet")
    sure = {"s00": 0.95, "s08": 0.9, "s16": 0.85}
    wrong = pl.col("id").is_in(list(sure))
    label = pl.col("label")
    table = table.with_columns(
        predicted=pl.when(wrong).then(pl.lit("high")).otherwise(label),
        score_high=pl.when(wrong)
        .then(pl.col("id").replace_strict(sure, default=None))
        .otherwise(pl.when(label == "high").then(0.8).otherwise(0.2)),
    ).with_columns(score_low=1 - pl.col("score_high"))
    table.write_parquet(run / "predictions.parquet")
    return run


def test_copies_among_mistakes_are_told(copies, page):
    """Mistakes that show the same image say so, and those that nearly do."""
    found = page(copies)
    assert "3 of 48 test rows are wrong" in found.text
    assert found.text.count("the same image as 1") == 1
    assert found.text.count("near duplicate of 1") == 1
    assert "copies were made for this" in found.text


def test_without_the_images(copies, page):
    """If the images are gone or were replaced, mistakes and the map are there, without pictures."""
    images = copies.parent / "gallery" / "images"
    for path in images.iterdir():
        path.unlink()
    (images / "00.png").write_bytes(b"another file")
    found = page(copies)
    assert "there are no pictures" in found.text
    assert "Map of the features" in found.text
    assert "data:image/jpeg" not in found.source


def test_worst_mistakes_are_the_surest_wrong_ones(runs, page):
    """The mistakes are the wrong test rows by descending probability of the predicted class."""
    table = pl.read_parquet(runs["text"] / "predictions.parquet")
    wrong = table.filter(pl.col("label") != pl.col("predicted"))
    sure = wrong.select(pl.max_horizontal("score_low", "score_high")).to_series().sort(descending=True)
    found = page(runs["text"])
    text = found.text[found.text.index("Worst mistakes") :]
    shown = re.findall(r"probability (\d\.\d{3})", text)
    assert shown == [number(p) for p in sure.head(12).to_list()]
    assert f"{wrong.height} of {table.height} test rows are wrong" in found.text


def test_flow_of_samples(runs, page):
    """The diagram holds the counts of metrics.json, by sample and by patient."""
    flow = metrics_of(runs["missing"])["flow"]
    assert flow["listed"] == {"samples": 48, "groups": 12}
    assert flow["selected"] == {"samples": 40, "groups": 10}
    assert flow["left_out"] == [{"reason": "no spot", "samples": 1, "groups": 1, "whole_groups": 0}]
    assert flow["used"] == {"samples": 39, "groups": 10, "rows": 39}
    text = page(runs["missing"]).text
    for words in ("48 samples", "12 patients", "Not selected (age < 70)", "8 samples", "no spot", "39 samples"):
        assert words in text


def test_a_run_of_an_earlier_version(runs, page, tmp_path):
    """A run without the flow by patient, intervals or leak check still gets a report, which says what is missing."""

    def change(metrics):
        for name in ("flow", "intervals", "level", "leakage", "decision_curve", "calibration_pooled", "per_class"):
            metrics.pop(name, None)

    found = page(copied(runs["text"], tmp_path, change))
    assert "earlier version" in found.text
    assert "39 samples" not in found.text


@pytest.mark.parametrize(("high", "said"), [(0.2, True), (0.4, False)])
def test_a_calibration_error_above_its_interval_is_explained(runs, page, tmp_path, high, said):
    """Its interval is corrected for the bias of the value, which a reader would take for a mistake."""

    def change(metrics):
        metrics["mean"]["ece"] = 0.3
        metrics["intervals"]["ece"] = [0.1, high]

    found = page(copied(runs["text"], tmp_path, change))
    assert ("ECE is too high in small folds" in found.text) == said


def test_several_runs(runs, page):
    """The table of systems, the tests of pairs and their conclusions are those that table and compare return."""
    names = ["picture", "words", "picture and words"]
    paths = [runs[name] for name in ("image", "text", "both")]
    found = page(*paths, names=names)
    compared = compare(paths)
    for d in compared.differences:
        assert number(d.difference, "+") in found.text
        assert span(d.low, d.high, "+") in found.text
    assert "Adding the text to the image" in found.text
    assert "Adding the image to the text" in found.text
    for name in names:
        assert f"Run {name}" in found.text
    assert "Tests of each pair" in found.text


def test_a_conclusion_says_what_compare_says(runs):
    """A pair is called clear in words if and only if compare calls it clear."""
    systems = _systems([runs["image"], runs["text"]], None)
    ((comparison,), apart) = _comparisons(systems)
    assert apart == []
    ((title, numbers),) = comparison.sentences
    (d,) = comparison.found["differences"]
    clear = d["low"] > 0 or d["high"] < 0
    assert ("No clear difference" not in title) == clear
    assert number(d["difference"], "+") in numbers


def test_tests_on_other_data_stand_apart(runs, page):
    """A run of evaluate is shown with its drop and is not compared with the run that it tests."""
    found = page(runs["north"], runs["south"])
    assert "1 run and 1 test on other data" in found.text
    assert "Compared with its own data" in found.text
    drop = metrics_of(runs["south"])["external"]["metrics"]["auc"]["drop"]
    assert number(drop["value"], "+") in found.text
    assert "Tests of each pair" not in found.text


def test_a_family_of_runs(study_store, page, tmp_path):
    """Each run of a family is a level: of the table, and with a section of its own."""
    from headwater.api import fit_separately

    asked = {"label": "grade", "groups": "patient", "folds": 2, "params": {"C": 0.1}, "positive": "high"}
    for name, features in (("a", "texture/image"), ("b", "ngram/text")):
        fit_separately(study_store, "site", features=features, **asked, out=tmp_path / name)
    found = page(tmp_path / "a", tmp_path / "b")
    for words in ("Run a, north", "Run b, south", "Tests of each pair, north"):
        assert words in found.text


def test_seeds_are_not_compared(study_store, page, tmp_path):
    """Runs of several seeds, whose folds share samples, are shown and not compared."""
    asked = {"label": "grade", "groups": "patient", "folds": 2, "params": {"C": 0.1}, "seeds": 2}
    for name, features in (("a", "texture/image"), ("b", "ngram/text")):
        fit_head(study_store, features=features, **asked, out=tmp_path / name)
    assert "tested samples more than once" in page(tmp_path / "a", tmp_path / "b").text


def test_columns_of_the_samples(runs, page):
    """Named columns are described as cohort does, stand beside mistakes, and colour the map."""
    found = page(runs["text"], columns=["age", "site"], by="site")
    assert "age, median (quartiles; range)" in found.text
    assert [a for t, a in found.tags if t == "option"]
    assert "site north" in found.text


def test_a_tuned_run_and_one_by_prompts(study_store, page, tmp_path):
    """A run that trained its encoder has its losses and what was added, and one by prompts says that nothing was."""
    asked = {"label": "grade", "groups": "patient", "folds": 2, "positive": "high"}
    fine_tune(
        study_store.parent / "manifest.csv",
        encoder="builtin:clip",
        image="image",
        train="lora",
        epochs=1,
        refit=False,
        precision="fp32",
        out=tmp_path / "tuned",
        **asked,
    )
    found = page(tmp_path / "tuned")
    for words in (
        "frozen encoder",
        "Training: the loss",
        "further trained here",
        "48 samples",
        "features are not stored",
    ):
        assert words in found.text
    assert [a for t, a in found.tags if t == "img"]
    store = shutil.copytree(study_store, tmp_path / "study.hw")
    embed(study_store.parent / "manifest.csv", store, encoder="builtin:clip", name="clip")
    (tmp_path / "prompts.toml").write_text('[classes]\nlow = "low"\nhigh = "high"\n')
    zero_shot(store, features="clip", prompts=tmp_path / "prompts.toml", label="grade", out=tmp_path / "prompted")
    found = page(tmp_path / "prompted")
    assert "Nothing was fitted" in found.text
    assert "Map of the features" in found.text


def test_bags(study_store, page, tmp_path):
    """A row of several images is called a bag, and its samples are counted in the flow."""
    fit_head(
        study_store,
        features="texture/image",
        label="site",
        head="mil",
        bags="patient",
        folds=2,
        params={"epochs": 2, "precision": "fp32"},
        out=tmp_path / "bags",
    )
    found = page(tmp_path / "bags")
    assert "A row is a bag" in found.text
    assert "48 samples, as 12 bags" in found.text
    assert len([a for t, a in found.tags if t == "circle"]) == 12


def test_the_map_holds_every_row_once(runs, page):
    """The map of a small run has a point for each test row, within the drawing."""
    found = page(runs["image"], pictures=False)
    points = [a for t, a in found.tags if t == "circle"]
    assert len(points) == pl.read_parquet(runs["image"] / "predictions.parquet").height
    places = np.array([(float(p["cx"]), float(p["cy"])) for p in points])
    assert (places >= 0).all()
    assert (places <= (900, 560)).all()
