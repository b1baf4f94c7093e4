"""Labels as they are asked for: an expression over columns, and all other labels as one."""

import json

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import HeadwaterError, InputError
from headwater.store.where import with_defined

N = 48


@pytest.fixture
def store(make_store):
    """Findings in words, of which half of the patients have one; the first column of the vectors tells it."""
    rng = np.random.default_rng(0)
    sick = np.arange(N) // 4 % 2 == 0
    X = rng.standard_normal((N, 5))
    X[:, 0] += 9 * sick
    finding = [
        ("Pneumonia, COVID-19" if i % 3 else "covid") if s else ("scar" if i % 2 else "") for i, s in enumerate(sick)
    ]
    return make_store(
        X,
        finding=[word.replace("covid", "COVID") or None for word in finding],
        size=[float(i) for i in range(N)],
        covid=[int(s) for s in sick],
        patient=[f"p{i // 4}" for i in range(N)],
        kind=[("a", "b", "c", "d")[i // 4 % 4] for i in range(N)],
    )


ASKED = {"features": "made/image", "groups": "patient", "folds": 3, "params": {"C": 0.1}}
SQL = "ill = finding LIKE '%COVID%'"


def test_an_expression_is_a_label(store, tmp_path):
    """A run on an expression is the run on a column of the same values; rows where it is unknown have no label."""
    run = hw.fit_head(store, label=SQL, out=tmp_path / "run", **ASKED)
    same = hw.fit_head(store, label="covid", where="finding IS NOT NULL", **ASKED)
    assert run.mean == same.mean
    assert run.predictions["label"].to_list() == same.predictions["label"].to_list()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["label"], config["label_sql"]) == (["ill"], {"ill": "finding LIKE '%COVID%'"})
    assert "ill" not in hw.open_store(store.path).samples.columns


def test_several_expressions_are_several_labels(store):
    run = hw.fit_head(store, label=[SQL, "large = size > 20.5"], where="finding IS NOT NULL", **ASKED)
    assert run.metrics["task"] == "multilabel"


def test_text_and_numbers(store):
    """CASE gives classes, arithmetic numbers for regression."""
    words = "CASE WHEN size < 16 THEN 'low' WHEN size < 32 THEN 'middle' ELSE 'high' END"
    run = hw.fit_head(store, label=f"level = {words}", **ASKED)
    assert run.metrics["task"] == "multiclass"
    run = hw.fit_head(
        store, label="half = size / 2", task="regression", features="made/image", groups="patient", folds=3
    )
    assert run.metrics["task"] == "regression"


def test_what_follows_knows_the_label(store, tmp_path):
    """evaluate and the report of a run find the labels of its training rows again."""
    hw.fit_head(store, label=SQL, out=tmp_path / "run", where="size < 36", **ASKED)
    found = hw.evaluate(tmp_path / "run", store, label=SQL, where="size >= 36", groups="patient")
    assert found.metrics["external"]["shared"]["groups"] == 0
    assert found.config["label_sql"] == {"ill": "finding LIKE '%COVID%'"}
    assert (
        hw.evaluate(tmp_path / "run", store, label="covid", where="size >= 36", groups="patient").mean["accuracy"] > 0.8
    )
    page = hw.report(tmp_path / "run", out=tmp_path / "r.html").path.read_text()
    assert "The label ill is defined as finding LIKE &#x27;%COVID%&#x27;" in page


VERBS = {
    "audit": lambda store, label: hw.audit(store, label=label, groups="patient"),
    "retrieval-report": lambda store, label: hw.retrieval_report(
        store, features="made/image", label=label, groups="patient", draws=100
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_other_verbs(store, verb):
    assert VERBS[verb](store, SQL).label == "ill"


def test_a_sweep(store, tmp_path):
    found = hw.sweep(
        store, features=["made/image"], label=SQL, heads="linear", groups="patient", folds=3, out=tmp_path / "s"
    )
    assert json.loads((tmp_path / "s" / "config.json").read_text())["label_sql"] == {"ill": "finding LIKE '%COVID%'"}
    assert found is not None


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("x = (SELECT 1)", "SELECT is not allowed"),
        ("x = read_csv('/etc/passwd')", "the function READ_CSV is not allowed"),
        ("x = read_parquet('a.parquet') > 1", "the function READ_PARQUET is not allowed"),
        ("x = finding; DROP TABLE a", "';' is not allowed"),
        ("x = findin LIKE '%a%'", "Did you mean 'finding'"),
        ("finding = size > 3", "there is a column 'finding' already"),
        ("x = 1", "names no column"),
        ("x = MAX(size)", "gives 1 value"),
        ("x = *", "cannot be used"),
        ("x = size >", "cannot be used"),
        ("x = LPAD(finding, 100000000000, 'x')", "LPAD is not allowed"),
        ("x = CAST(size AS DECIMAL(99, 200))", "a cast to DECIMAL is not allowed"),
        ("x = size > 100000", "nothing to learn"),
    ],
)
def test_an_expression_that_cannot_be_used(store, label, words):
    """Only an expression over the table's own columns is a label; each refusal is one line."""
    with pytest.raises(InputError) as caught:
        hw.fit_head(store, label=label, **ASKED)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_labels_of_one_name(store):
    with pytest.raises(InputError, match="two labels have one name"):
        hw.fit_head(store, label=["x = size > 3", "x = size > 4"], **ASKED)


def test_a_run_of_somebody_else_cannot_read_files(store, tmp_path):
    """The expression in a run's configuration is checked as one that is typed."""
    hw.fit_head(store, label=SQL, out=tmp_path / "run", where="size < 36", **ASKED)
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace("finding LIKE '%COVID%'", "read_csv('/etc/passwd') = 1"))
    said = []
    found = hw.evaluate(
        tmp_path / "run", store, label="covid", where="size >= 36", groups="patient", progress=said.append
    )
    assert found.metrics["external"]["shared"] is None
    assert "READ_CSV is not allowed" in " ".join(map(str, said))


def test_columns_are_defined_from_the_own_columns():
    """True and false become 1 and 0, unknown stays unknown."""
    table = pl.DataFrame({"a": [1, None, 3], "b": ["x", "y", None]})
    found = with_defined(table, {"c": "a > 2", "d": "b"})
    assert found["c"].to_list() == [0, None, 1]
    assert found["d"].to_list() == ["x", "y", None]


def test_the_command(store, command, tmp_path):
    words = ("--features", "made/image", "--groups", "patient", "--folds", "3", "--set", "C=0.1")
    done = command("fit-head", store.path, "--label", SQL, *words, "--out", tmp_path / "run")
    assert done.status == 0, done
    done = command("fit-head", store.path, "--label", "x = y", *words)
    assert "headwater: --label 'x = y' cannot be used" in done.error


# All other labels


def test_all_others_as_one(store, tmp_path):
    """``*`` is every label that is not named; the run names them all."""
    run = hw.fit_head(store, label="kind", merge={"a": "first", "*": "rest"}, out=tmp_path / "run", **ASKED)
    assert run.config["merge"] == {"a": "first", "b": "rest", "c": "rest", "d": "rest"}
    assert sorted(set(run.predictions["label"].to_list())) == ["first", "rest"]
    same = hw.fit_head(store, label="kind", merge=run.config["merge"], **ASKED)
    assert run.mean == same.mean


def test_a_target_of_another_label_is_kept(store):
    run = hw.fit_head(store, label="kind", merge={"a": "b", "*": "rest"}, **ASKED)
    assert run.config["merge"] == {"a": "b", "c": "rest", "d": "rest"}


def test_all_others_left_out(store, command, tmp_path):
    words = (
        "--features",
        "made/image",
        "--groups",
        "patient",
        "--folds",
        "3",
        "--set",
        "C=0.1",
        "--out",
        tmp_path / "r",
    )
    done = command(
        "fit-head", store.path, "--label", "kind", "--merge", "a=a", "--merge", "b=b", "--merge", "*=", *words
    )
    assert done.status == 0, done
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["n_samples"] == N // 2


def test_all_are_one(store):
    with pytest.raises(HeadwaterError, match="fewer than two labels"):
        hw.fit_head(store, label="kind", merge={"*": "rest"}, **ASKED)
