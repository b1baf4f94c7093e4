"""Checklists: each answered item quotes a value and its key, and changes with the file that it came from."""

import json
import re

import pytest

from headwater.api import report
from headwater.report.html.checklists import CHECKLISTS
from tests.report.test_report import Parsed, copied, metrics_of

FULL = ("7", "9", "13", *map(str, range(20, 30)), "32", "33", "35", "36")
"""Items of CLAIM that the files of a full run answer."""


@pytest.fixture
def items(tmp_path):
    """Return a function that makes a report and returns the answers of its checklist: text and sources by item."""

    def make(paths, checklist="claim", **options):
        out = tmp_path / "report.html"
        made = report(paths, out=out, checklist=checklist, pictures=False, **options)
        text = out.read_text()
        section = text[text.index('id="checklist"') :]
        found = {}
        for body in re.findall(r"<tbody>(.*?)</tbody>", section, re.S):
            rows = [
                [Parsed(cell).text for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
                for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
            ]
            found[rows[0][0]] = ("\n".join(row[2] for row in rows), [row[3] for row in rows])
        assert list(found) == [item.number for item in CHECKLISTS[checklist][1]]
        answered = [name for name, (words, _) in found.items() if words != "to be written by the authors"]
        assert answered == list(made.answered)
        return found

    return make


@pytest.mark.parametrize("checklist", CHECKLISTS)
def test_every_item_is_there_once(checklist):
    """Items have numbers and names of their own."""
    every = CHECKLISTS[checklist][1]
    assert len({item.number for item in every}) == len({item.name for item in every}) == len(every)


def test_claim_of_a_full_run(runs, items):
    """The files of a full run and of a test on other data answer what they can, each with a file and a key."""
    found = items([runs["image"], runs["south"]])
    for number in FULL:
        words, sources = found[number]
        assert words != "to be written by the authors", number
        assert all(re.search(r"\.(json|parquet): \S|^(compare|cohort): \S", source) for source in sources), number
    for number in ("1", "14", "40"):
        assert found[number] == ("to be written by the authors", [""])


def test_claim_32_needs_a_test_on_other_data(runs, items):
    """Without a run of evaluate the external test is a gap; with one, it holds its value and drop."""
    assert items([runs["image"]])["32"][0] == "to be written by the authors"
    drop = metrics_of(runs["south"])["external"]["metrics"]["auc"]["drop"]["value"]
    assert f"{abs(drop):.3f}" in items([runs["image"], runs["south"]])["32"][0]


CHANGES = {
    "13": (lambda m: m.update(left_out={"unreadable": 83}), "83 samples"),
    "20": (lambda m: m["folds"][0].update(n_train=8301), "8,301"),
    "21": (lambda m: m["leakage"].update(groups_across_splits=83), "83"),
    "22": (lambda m: m.update(classes=["low", "high"]), "low and high"),
    "25": (lambda m: m["folds"][0].update(params={"C": 83}), "C 83"),
    "26": (lambda m: m["selection"].update(by="brier", rows="other rows"), "Brier score, on other rows"),
    "28": (lambda m: m["mean"].update(kappa=0.83, auc=None), "accuracy"),
    "29": (lambda m: m.update(level=0.83), "83 %"),
    "30": (lambda m: m["by"]["levels"]["north"]["mean"].update(auc=0.8383), "0.838"),
    "33": (lambda m: m["flow"]["listed"].update(samples=8383), "8,383 samples"),
    "35": (lambda m: m["mean"].update(auc=0.8383), "0.838"),
    "36": (lambda m: m["intervals"].update(auc=[0.8383, 0.8484]), "0.838 to 0.848"),
}


@pytest.mark.parametrize("number", CHANGES)
def test_an_item_changes_with_the_file(runs, items, tmp_path, number):
    """The answer of an item is what the run's metrics.json says at the moment."""
    change, expected = CHANGES[number]
    before = items([runs["image"]])[number][0]
    after = items([copied(runs["image"], tmp_path, change)])[number][0]
    if number != "22":
        assert before != after
    assert expected in after


def test_items_change_with_the_configuration(runs, items, tmp_path):
    """Sources, preprocessing, versions and weights are those of config.json."""
    run = copied(runs["image"], tmp_path)
    config = json.loads((run / "config.json").read_text())
    spec = config["features"]["texture/image"]
    spec["preprocessing"] = {"sides": [83, 38]}
    spec["weights"] = "w" * 12
    spec["fingerprint"] = "f" * 12
    config["environment"]["numpy"] = "8.3"
    config["groups"] = "woman"
    (run / "config.json").write_text(json.dumps(config))
    found = items([run])
    for number, words in {"7": "f" * 12, "9": "83, 38", "21": "one woman", "23": "numpy 8.3", "24": "w" * 12}.items():
        assert words in found[number][0]


def test_what_the_authors_write(runs, items, tmp_path):
    """study.toml fills gaps, and stands beside what files say."""
    study = tmp_path / "study.toml"
    study.write_text('title = "Breast density"\n14 = "Two readers."\n7 = "One hospital."\n"42" = "None."\n')
    found = items([runs["image"]], study=study)
    assert found["14"] == ("Two readers.", ["study.toml: 14"])
    assert found["42"][0] == "None."
    assert found["7"][0].endswith("One hospital.")
    assert "config.json: store" in found["7"][1]
    assert "Breast density" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("checklist", CHECKLISTS)
@pytest.mark.parametrize("name", ["multiclass", "multilabel", "ordinal", "regression", "outputs", "survival", "south"])
def test_every_task(runs, items, checklist, name):
    """Every checklist is filled for every task."""
    found = items([runs[name]], checklist)
    assert sum(words != "to be written by the authors" for words, _ in found.values()) >= 10


def test_stard_counts(runs, items):
    """The table of the index test against the reference standard holds the counts of predictions.parquet."""
    words = items([runs["image"]], "stard-ai")["23"][0]
    counts = [int(n) for n in re.findall(r"(\d+) called", words)]
    assert sum(counts) == metrics_of(runs["image"])["n_samples"]


def test_demographics_need_columns(runs, items):
    """Columns of the samples answer the item on demographics."""
    assert items([runs["image"]])["34"][0] == "to be written by the authors"
    assert "age, median" in items([runs["image"]], columns=["age"])["34"][0]
