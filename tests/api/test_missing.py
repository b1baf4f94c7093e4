"""Missing values are no class, group or number; every run says what is missing, and which classes there are."""

import json
import re

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater._missing import words_of
from headwater.api import audit, evaluate, fit_head, open_run, sweep
from headwater.errors import InputError
from headwater.runs.printed import class_lines
from headwater.samples.classes import alike
from headwater.samples.missing import MissingRule

N = 60
CLASS = (np.arange(N) // 3) % 2
PATIENT = [f"p{i // 3:02d}" for i in range(N)]


@pytest.fixture
def made(make_store):
    """Return a function that makes a store of columns beside the patient: two classes that the vectors tell apart."""
    X = np.random.default_rng(0).standard_normal((N, 6)) + CLASS[:, None]

    def making(path="made.hw", **columns):
        return make_store(X + len(path) / 100, path=path, first_key=1000 * len(path), patient=PATIENT, **columns)

    return making


def fit(store, **options):
    params = {"alpha": 1.0} if options.get("task") == "regression" else {"C": 0.1}
    asked = {"features": "made/image", "groups": "patient", "folds": 2, "params": params}
    return fit_head(store, **{**asked, **options})


def some(word, n=6, names=("0", "1")):
    """The classes as words, the first of them another word."""
    return [word if i < n else names[k] for i, k in enumerate(CLASS)]


@pytest.mark.parametrize("word", ["NA", "N/A", "NaN", "null", "nan", "NULL", "n/a", " NA ", "", "   "])
@pytest.mark.parametrize("names", [("0", "1"), ("benign", "malignant")])
def test_a_missing_label_is_no_class(made, word, names):
    """Labels 0, 1 and NA are two classes; the samples without one are left out, counted, and said."""
    store = made(grade=some(word, names=names))
    run = fit(store, label="grade")
    assert run.metrics["task"] == "binary"
    whole = fit(made(path="whole.hw", grade=[names[k] for k in CLASS]), label="grade").metrics["classes"]
    assert [str(c) for c in run.metrics["classes"]] == [str(c) for c in whole] == list(names)
    assert run.metrics["left_out"] == {"no grade": 6}
    assert run.metrics["missing_values"] == {"grade": {word.strip(): 6}}
    lines = "\n".join(run.lines())
    assert "left out: 6 samples (no grade)" in lines
    assert f"missing: grade: {word.strip() or 'empty'} in 6" in lines


@pytest.mark.parametrize("word", ["none", "unknown", "-", "2", "missing", "N"])
def test_words_that_mean_something_are_classes(made, word):
    """None, unknown, a dash and the like are never taken for missing values, unless that is asked for."""
    store = made(grade=some(word))
    run = fit(store, label="grade")
    assert len(run.metrics["classes"]) == 3
    assert run.metrics["missing_values"] == {}
    assert fit(store, label="grade", missing_values=[word]).metrics["task"] == "binary"


def test_which_words_are_missing_is_chosen(made, command, tmp_path):
    """--missing-values takes the place of the usual words, and an empty one leaves empty cells alone."""
    grades = ["unknown" if i in (0, 9, 30) else "NA" if i in (1, 12, 40) else g for i, g in enumerate(some("", 0))]
    grades[20] = ""
    store = made(grade=grades)
    asked = ("fit-head", store.path, "--features", "made/image", "--label", "grade", "--groups", "patient")
    asked += ("--folds", "2", "--set", "C=0.1", "--json")

    def found(*words):
        done = command(*asked, *words)
        assert done.status == 0, done.err
        metrics = json.loads(done.out)
        return [str(c) for c in metrics["classes"]], metrics["left_out"]["no grade"]

    assert found() == (["0", "1", "unknown"], 4)
    assert found("--missing-values", "NA, unknown") == (["0", "1"], 7)
    assert found("--missing-values", "UNKNOWN") == (["0", "1", "NA"], 4)
    assert found("--missing-values", "") == (["0", "1", "NA", "unknown"], 1)
    command(*asked[:-1], "--missing-values", "NA,unknown", "--out", tmp_path / "run")
    assert open_run(tmp_path / "run").config["missing_values"] == ["NA", "unknown"]


@pytest.mark.parametrize(("option", "column"), [("groups", "who"), ("per", "unit"), ("groups", "patient_id")])
@pytest.mark.parametrize("word", ["NA", "nan", " N/A", "", "null"])
def test_a_missing_group_or_unit_is_refused_with_its_count(made, option, column, word):
    """NA is no patient: the message counts the samples, and the --where that it gives leaves just them out."""
    store = made(grade=some("0", 0), **{column: [word if i < 4 else p for i, p in enumerate(PATIENT)]})
    with pytest.raises(InputError, match=rf"--{option} {column} is empty in 4 samples") as caught:
        fit(store, label="grade", **{option: column})
    where = re.search(r"--where ('|\")(.*)\1", str(caught.value))[2]
    assert fit(store, label="grade", where=where, **{option: column}).metrics["n_samples"] == N - 4
    if word.strip():
        assert word.strip() in str(caught.value)
        assert "--missing-values" in str(caught.value)
        assert fit(store, label="grade", missing_values="", **{option: column}).metrics["n_samples"] == N


@pytest.mark.parametrize("column", ["country", "site", "Site ID", "country_code", "hospital"])
def test_na_is_a_country(made, column):
    """In a column of sites or countries NA is a name, for --by and --groups; where it is the label it is missing."""
    values = ["NA" if i % 6 < 3 else "DE" for i in range(N)]
    store = made(grade=[str((i // 2) % 2) for i in range(N)], **{column: values})
    run = fit(store, label="grade", by=column)
    assert set(run.metrics["by"]["levels"]) == {"NA", "DE"}
    assert set(fit(store, label="grade", groups=column).predictions["group"]) == {"NA", "DE"}
    with pytest.raises(InputError, match="is 'DE' in all"):
        fit(store, label=column)


def test_levels_of_by_are_empty_where_they_are_missing(made):
    """A missing value of --by is the level (empty), and blanks at the ends make no level of their own."""
    stains = ["NA", "", "H&E", "H&E ", " IHC", "IHC"] * 10
    run = fit(made(grade=some("0", 0), stain=stains), label="grade", by="stain")
    assert {k: v["n_samples"] for k, v in run.metrics["by"]["levels"].items()} == {"(empty)": 20, "H&E": 20, "IHC": 20}
    assert run.metrics["missing_values"] == {"stain": {"NA": 10, "": 10}}


@pytest.mark.parametrize("word", ["NA", "N/A", "nan", "null", "", " "])
def test_a_missing_number_is_left_out(made, word):
    """In a regression the same words are missing, in a column that is text for their sake, exponents and all."""
    values = [word if i < 5 else f"{1 + i / 7:.6e}" for i in range(N)]
    run = fit(made(size=values), label="size", task="regression")
    assert run.metrics["left_out"] == {"no size": 5}
    assert run.predictions["label"].min() == pytest.approx(1 + 5 / 7)
    as_floats = [None if i < 5 else float("nan") if i < 8 else 1 + i / 7 for i in range(N)]
    run = fit(made(path="floats.hw", size=as_floats), label="size", task="regression")
    assert run.metrics["left_out"] == {"no size": 8}


def test_words_among_numbers_are_refused(made):
    """A word that is no missing value is still refused in a regression."""
    with pytest.raises(InputError, match=r"label column 'size' holds text such as 'unknown' .*, but --task regression"):
        fit(made(size=["unknown", *map(str, range(N - 1))]), label="size", task="regression")


def test_blanks_at_the_ends_make_no_class_and_no_group(made):
    """``benign`` and ``benign `` are one class, ``p1`` and ``p1 `` one group."""
    store = made(
        grade=[f"{' ' * (i % 2)}{'ab'[k]}{' ' * (i % 3)}" for i, k in enumerate(CLASS)],
        who=[f"{p}{' ' * (i % 3)}" for i, p in enumerate(PATIENT)],
    )
    run = fit(store, label="grade", groups="who")
    assert run.metrics["classes"] == ["a", "b"]
    assert set(run.predictions["group"]) == set(PATIENT)
    assert run.metrics["warnings"] == []


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("benign", "Benign"),
        ("benign", "BENIGN"),
        ("ductal carcinoma", "ductal  carcinoma"),
        ("ductal carcinoma", "ductalcarcinoma"),
        ("caf\u00e9", "cafe\u0301"),
        ("Stra\u00dfe", "STRASSE"),
        ("1", "1.0"),
    ],
)
def test_names_that_differ_in_writing_alone_are_warned_of(made, command, first, other):
    """Names that differ by case, blanks or writing are classes of their own; the --merge that is said mends them."""
    grades = [other if i < 4 else (first, "malignant")[k] for i, k in enumerate(CLASS)]
    store = made(grade=grades)
    asked = (
        "fit-head",
        store.path,
        "--features",
        "made/image",
        "--label",
        "grade",
        "--groups",
        "patient",
        "--folds",
        2,
    )
    done = command(*asked, "--set", "C=0.1")
    assert f"--merge '{other}={first}'" in done.out
    assert f"--merge '{other}={first}'" in done.err
    merged = command(*asked, "--set", "C=0.1", "--merge", f"{other}={first}", "--json")
    metrics = json.loads(merged.out)
    assert [str(c) for c in metrics["classes"]] == sorted([first, "malignant"])
    assert metrics["warnings"] == []


def test_names_that_differ_in_more_are_not_warned_of():
    """Leading zeros, letters and signs tell names apart."""
    assert alike(["001", "1", "benign", "benign?", "a b", "ac", "1.5", "15", "-1"]) == []
    assert alike(["p1", "P1", "p1", "p2"]) == [["p1", "P1"]]


def test_groups_that_differ_by_case_are_warned_of(made):
    """Groups and levels that differ by case or blanks alone are named; they stay what they are."""
    who = [p.upper() if i % 3 == 2 else p for i, p in enumerate(PATIENT)]
    said = []
    run = fit(made(grade=some("0", 0), who=who), label="grade", groups="who", progress=said.append)
    assert "--groups who: values differ only in case" in run.metrics["warnings"][0]
    assert any("--groups who" in line for line in said)


def table_in(lines):
    """The table of classes in printed lines, as rows of cells."""
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["class", "samples"])
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start:]]
    return rows[: next((i for i, row in enumerate(rows) if row == [""] or len(row) != len(rows[0])), len(rows))]


@pytest.mark.parametrize("names", [("a", "b"), ("0", "1"), ("a", "b", "c")])
def test_every_run_prints_its_classes(made, names):
    """Classes stand with the number of their samples and groups in the lines and in metrics.json."""
    grade = [names[(i // 3) % len(names)] for i in range(N)]
    run = fit(made(grade=grade), label="grade")
    expected = []
    for name in names:
        rows = [i for i, g in enumerate(grade) if g == name]
        expected.append({"name": name, "n_samples": len(rows), "n_groups": len({PATIENT[i] for i in rows})})
    assert run.metrics["class_counts"] == expected
    assert [row[:3] for row in table_in(run.lines())] == [
        ["class", "samples", "groups"],
        *([part["name"], str(part["n_samples"]), str(part["n_groups"])] for part in expected),
    ]
    without = fit(made(path="alone.hw", grade=grade), label="grade", groups="none")
    assert table_in(without.lines())[0] == ["class", "samples"]


def test_labels_of_several_are_counted_too(made):
    """Of several labels each stands with the samples and groups that have it."""
    tags = [["x;y", "y", ";", "NA", "x; NA ;z", ""][i % 6] for i in range(N)]
    run = fit(made(tags=tags), label="tags", label_separator=";")
    counts = {part["name"]: part["n_samples"] for part in run.metrics["class_counts"]}
    assert counts == {"x": 20, "y": 20, "z": 10}
    assert run.metrics["left_out"] == {"no tags": 20}
    assert run.metrics["missing_values"] == {"tags": {"NA": 10, "": 10}}
    assert any("write ';' alone for a sample without labels" in line for line in run.lines())
    lists = [
        {"x;y": ["x", "y"], ";": [], "NA": ["NA"], "x; NA ;z": ["x", "NA", "z"], "": None}.get(t, [t]) for t in tags
    ]
    again = fit(made(path="lists.hw", tags=lists), label="tags")
    assert again.metrics["class_counts"] == run.metrics["class_counts"]
    columns = {name: [None if t in ("NA", "") else str(int(name in t)) for t in tags] for name in "xyz"}
    columns["x"] = [value or "NA" for value in columns["x"]]
    third = fit(made(path="columns.hw", **columns), label=["x", "y", "z"])
    assert third.metrics["class_counts"] == run.metrics["class_counts"]
    with pytest.raises(InputError, match="write ';' alone for a sample without labels"):
        fit(made(path="none.hw", tags=["NA"] * N), label="tags", label_separator=";")


def test_an_evaluation_prints_its_classes_and_what_is_missing(made, tmp_path, command):
    """evaluate has the same table, and NA of the other data set is no class that the run lacks."""
    fit(made(grade=some("0", 0, ("a", "b"))), label="grade", out=tmp_path / "run")
    other = made(path="other store.hw", grade=some("NA", 6, ("a", "b ")))
    run = evaluate(tmp_path / "run", other, label="grade", groups="patient", n_draws=100)
    assert run.metrics["left_out"] == {"no grade": 6}
    assert table_in(run.lines()) == [["class", "samples", "groups"], ["a", "27", "9"], ["b", "27", "9"]]
    kept = evaluate(
        tmp_path / "run", other, label="grade", groups="none", n_draws=100, missing_values="", mapping={"NA": "a"}
    )
    assert kept.metrics["n_samples"] == N


def test_a_sweep_prints_the_classes_once(made, tmp_path):
    """A sweep says which classes its cells have, and what is missing."""
    store = made(grade=some("N/A", 6, ("a", "b")))
    done = sweep(
        store,
        features=["made/image"],
        label="grade",
        heads=["prototypes", "linear"],
        params={"linear": {"C": 0.1}},
        groups="patient",
        folds=2,
        out=tmp_path / "sweep",
    )
    assert table_in(done.lines()) == [["class", "samples", "groups"], ["a", "27", "9"], ["b", "27", "9"]]
    assert any("N/A in 6" in line for line in done.lines())


def test_fine_tuning_prints_its_classes(tmp_path, tiny, picture):
    """fine-tune has the same table, and leaves out samples whose label is missing."""
    pytest.importorskip("torch")
    rows = ["id,image,patient,grade"]
    for i in range(16):
        picture(tmp_path / f"{i}.png", i)
        rows.append(f"r{i},{i}.png,{i // 2:03d},{'NA' if i < 2 else i // 2 % 2}")
    (tmp_path / "m.csv").write_text("\n".join([*rows, ""]))
    quick = {"folds": 2, "epochs": 1, "device": "cpu", "precision": "fp32", "params": {"C": 0.01}, "refit": False}
    run = hw.fine_tune(tmp_path / "m.csv", encoder=tiny("timm-conv").spec, label="grade", groups="patient", **quick)
    assert run.metrics["classes"] == [0, 1]
    assert table_in(run.lines()) == [["class", "samples", "groups"], ["0", "6", "3"], ["1", "8", "4"]]
    assert any("NA in 2" in line for line in run.lines())


def test_audit_leaves_out_what_has_no_label(made):
    """audit takes the same words for missing."""
    found = audit(made(grade=some("NA", 6, ("a", "b"))), label="grade", groups="patient")
    assert found.n_left_out == 6


def test_bags_agree_but_for_what_is_missing(made):
    """Samples of one bag whose label is NA or has blanks agree with the others of it."""
    grade = [["NA", "a ", "a"][i % 3] if k == 0 else "b" for i, k in enumerate(CLASS)]
    run = fit(made(grade=grade), label="grade", bags="patient", groups="none", head="mil", params={"epochs": 2})
    assert run.metrics["n_samples"] == 20
    assert [part["name"] for part in run.metrics["class_counts"]] == ["a", "b"]


def test_a_run_of_an_older_headwater_is_printed(made, tmp_path):
    """A run that says nothing of its classes, or of what is missing, is opened and printed all the same."""
    fit(made(grade=some("NA", 6, ("a", "b"))), label="grade", out=tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    for name in ("class_counts", "missing_values", "warnings"):
        del metrics[name]
    path.write_text(json.dumps(metrics))
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "missing_values"}))
    lines = open_run(tmp_path / "run").lines()
    assert any("left out: 6 samples (no grade)" in line for line in lines)
    assert not any("class  " in line for line in lines)
    other = made(path="other store.hw", grade=some("a", 0, ("a", "b")))
    assert evaluate(tmp_path / "run", other, label="grade", groups="patient", n_draws=100).metrics["n_samples"] == N


def test_many_classes_are_printed_in_part():
    """Of very many classes the first are printed, and how many more there are."""
    counts = [{"name": f"c{i}", "n_samples": 3, "n_groups": 1} for i in range(50)]
    assert class_lines(counts)[-1] == "  … and 10 more, in metrics.json"
    assert len(class_lines(counts[:40])) == 41


def test_words_are_read_in_two_ways():
    """A list, or one text with commas, say the same; nothing at all is the usual words."""
    assert words_of("NA, unknown,,") == words_of(["NA", "unknown"]) == ("NA", "unknown")
    assert words_of(None) == ("NA", "N/A", "NaN", "null")
    assert words_of("") == words_of([]) == ()
    rule = MissingRule(labels=("grade",), others=("id", "who", None), ids="who")
    table = pl.DataFrame({"grade": ["NA"], "id": ["NA"], "who": ["NA"]})
    assert rule.tidied(table).row(0) == (None, "NA", "NA")


def test_patients_that_are_all_missing_ask_for_no_groups(made):
    """A patient column in which NA alone repeats names no patient twice, and is no reason to ask for --groups."""
    store = made(grade=some("0", 0), **{"subject": ["NA" if i < 9 else f"q{i}" for i in range(N)]})
    samples = store.samples.drop("patient")
    with store.changing():
        store.write_samples(samples, store.roles)
    assert fit(store, label="grade", groups=None).metrics["n_samples"] == N
