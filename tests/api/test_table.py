"""table: runs side by side, as a paper prints them; and the protocol run separately for each level."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from headwater.api import compare, fit_head, fit_separately, open_run, table
from headwater.errors import HeadError, InputError
from headwater.runs.run import read_results

N = 120


@pytest.fixture
def store(make_store, write_features):
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(N // 4), 4)
    label = rng.integers(0, 2, N // 4)[patient]
    made = make_store(
        label[:, None] + rng.standard_normal((N, 4)),
        "good/image",
        label=[("no", "yes")[k] for k in label],
        patient=patient,
        zoom=[("40", "100", "200", "it's")[i % 4] for i in range(N)],
    )
    keys = made.features("good/image").keys
    write_features(made, "bad/image", rng.standard_normal((N, 4)).astype(np.float32), keys, dtype="float32")
    return made


@pytest.fixture
def runs(store, tmp_path):
    def fit(name, **options):
        asked = {"label": "label", "groups": "patient", "params": {"C": 0.1}, "per": "patient", "by": "zoom", **options}
        return fit_head(store, features=f"{name}/image", out=tmp_path / name, **asked).path

    return [fit("good"), fit("bad")]


def test_each_number_is_that_of_its_run(runs):
    found = table(runs, metrics=["auc", "kappa"])
    for row, path in zip(found.rows, runs, strict=True):
        metrics = read_results(path).metrics
        assert (row.system, row.n) == (path.name, N)
        for name in ("auc", "kappa"):
            assert row.values[name]["mean"] == metrics["mean"][name]
            assert row.values[name]["std"] == metrics["std"][name]
            assert [row.values[name]["low"], row.values[name]["high"]] == metrics["intervals"][name]


def test_pairs_are_those_of_compare(runs):
    found = table(runs, names=["A", "B"], metrics=["auc", "f1"], pairs=True)
    assert [(pair.metric, pair.first, pair.second) for pair in found.pairs] == [("auc", "A", "B"), ("f1", "A", "B")]
    for pair in found.pairs:
        (d,) = compare(runs, metric=pair.metric).differences
        assert (pair.difference, pair.low, pair.high) == (d.difference, d.low, d.high)
        assert (pair.corrected_t, pair.wilcoxon) == (d.p["corrected_t"], d.p["wilcoxon"])
        assert pair.least_wilcoxon == d.least_p["wilcoxon"]
    at_patients = table(runs, metrics="auc", pairs=True, per=True)
    (d,) = compare(runs, metric="auc", per="patient").differences
    assert at_patients.pairs[0].difference == d.difference
    assert at_patients.rows[0].n == N // 4


def test_levels_of_a_run_are_rows(runs):
    found = table(runs, by=True)
    assert [row.level for row in found.rows[:4]] == ["40", "100", "200", "it's"]
    assert found.level_name == "zoom"
    assert sum(row.n for row in found.rows) == 2 * N


def test_a_protocol_run_separately_is_a_system_with_levels(store, tmp_path, command):
    words = ("fit-head", store.path, "--features", "good/image", "--label", "label", "--groups", "patient")
    done = command(*words, "--separately", "zoom", "--set", "C=0.1", "--folds", "3", "--out", tmp_path / "family")
    assert done.status == 0, done.err
    assert [line.split()[1] for line in done.out.splitlines()] == ["zoom", "40", "100", "200", "it's"]
    found = table([tmp_path / "family"])
    for row in found.rows:
        run = open_run(tmp_path / "family" / row.level.replace("'", "_"))
        assert run.metrics["n_samples"] == row.n == N // 4
        own = store.samples.filter(store.samples["zoom"] == row.level)
        assert set(run.predictions["id"]) == set(own["id"])


def test_what_cannot_be_run_separately(store, tmp_path, refused):
    words = ("fit-head", store.path, "--features", "good/image", "--label", "label", "--groups", "patient")
    assert "name a folder for them with --out" in refused(*words, "--separately", "zoom")
    assert "--separately: no column 'zom'. Did you mean 'zoom'?" in refused(
        *words, "--separately", "zom", "--out", tmp_path / "x"
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="holds something else"):
        fit_separately(store, "zoom", features="good/image", label="label", out=tmp_path / "file")


def test_every_format_holds_the_same_numbers(runs, command):
    found = table(runs, names=["a & b", "=c|d"], metrics=["auc"], costs=True)
    mean = found.rows[0].values["auc"]["mean"]
    rows = list(csv.DictReader(io.StringIO(found.text("csv"))))
    assert float(rows[0]["auc"]) == mean
    assert rows[1]["system"] == "'=c|d"  # no formula for a spreadsheet
    assert json.loads(found.text("json"))["rows"][0]["values"]["auc"]["mean"] == mean
    assert "=c\\|d" in found.text("md")
    assert f"{mean:.3f}" in found.text("md")
    latex = found.text("latex")
    assert "a \\& b" in latex
    assert f"{mean:.3f} $\\pm$" in latex
    printed = command("table", *runs, "--metric", "auc", "--format", "csv")
    assert float(next(csv.DictReader(io.StringIO(printed.out)))["auc"]) == mean


def test_costs_are_those_of_the_run(runs):
    row = table(runs, costs=True).rows[0]
    arrays = open_run(runs[0]).head.to_state()[1]
    assert row.costs["parameters"] == sum(array.size for array in arrays.values())
    assert 0 < row.costs["seconds"] < 600
    assert row.costs["peak_memory_bytes"] > 1e7


def test_what_has_no_table(runs, tmp_path, store):
    with pytest.raises(HeadError, match="no run here, and none in it"):
        table([tmp_path / "nothing"])
    with pytest.raises(InputError, match=r"kapa.*Did you mean 'kappa'"):
        table(runs, metrics="kapa")
    with pytest.raises(InputError, match="need as many different names"):
        table(runs, names=["one"])
    other = fit_head(store, features="good/image", label="zoom", groups="patient", params={"C": 1}, out=tmp_path / "m")
    with pytest.raises(InputError, match="different tasks"):
        table([*runs, other.path])
    with pytest.raises(InputError, match="no results by unit"):
        table([other.path], per=True)


def test_runs_on_other_samples_are_listed_but_not_compared(runs, store, tmp_path):
    part = fit_head(
        store, features="bad/image", label="label", groups="patient", where="zoom = '40'", out=tmp_path / "part"
    )
    found = table([runs[0], part.path], pairs=True)
    assert len(found.rows) == 2
    assert found.pairs == []
    assert "tested different samples" in found.notes[0]
