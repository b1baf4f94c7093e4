"""Survival, from the table to runs, comparisons, sweeps, other data sets and figures."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api import fit_head, open_run
from headwater.evaluate import survival

N = 120


def made(seed=0, n=N):
    """Vectors that show a hazard dimly, two rows a patient, whose follow-up is the same."""
    rng = np.random.default_rng(seed)
    hazard = np.repeat(rng.standard_normal(n // 2), 2)
    months = np.repeat(rng.exponential(12 * np.exp(-1.2 * hazard[::2])), 2) + 0.1
    until = np.repeat(rng.uniform(4, 40, n // 2), 2)
    X = rng.standard_normal((n, 8))
    X[:, 0] += 2 * hazard
    died = (months <= until).astype(int)
    time = np.minimum(months, until).round(2)
    return X, {
        "months": time,
        "died": died,
        "died_word": ["yes" if d else "no" for d in died],
        "died_bool": [bool(d) for d in died],
        "status": ["dead" if d else "alive" for d in died],
        "patient": [f"p{seed}-{i // 2}" for i in range(n)],
        "site": [("north", "south")[i // 2 % 2] for i in range(n)],
        "gap": [None if i in (4, 5) else float(t) for i, t in enumerate(time)],
        "unknown": [None if i in (4, 5) else int(d) for i, d in enumerate(died)],
        "zero": [0.0 if i == 3 else float(t) for i, t in enumerate(time)],
        "below": [-1.0 if i == 3 else float(t) for i, t in enumerate(time)],
        "odd": [np.inf if i == 3 else float(t) for i, t in enumerate(time)],
        "words": ["soon" if i == 3 else str(t) for i, t in enumerate(time)],
        "none": [0] * n,
        "all": [1] * n,
        "two": [i % 3 for i in range(n)],
    }


@pytest.fixture
def times(make_store):
    X, columns = made()
    return make_store(X, **columns)


ASKED = {"features": "made/image", "task": "survival", "time": "months", "event": "died", "groups": "patient"}


def fitted(store, **more):
    return fit_head(store, **{**ASKED, "params": {"C": [0.001, 0.1]}, **more})


def test_a_run_predicts_risks(command, times, tmp_path):
    """A run holds each sample's time, event and risk, and the concordances of these in each fold."""
    out = tmp_path / "run"
    words = ["--time", "months", "--event", "died", "--groups", "patient", "--out", out]
    done = command("fit-head", times.path, "--features", "made/image", "--task", "survival", *words)
    assert done.status == 0, done.err
    assert "survival, 120 samples" in done.out
    run = open_run(out)
    metrics, table = run.metrics, run.predictions
    assert (metrics["task"], metrics["outputs"]) == ("survival", ["months", "died"])
    assert run.config["label"] == ["months", "died"]
    assert "classes" not in metrics
    assert "class_counts" not in metrics
    assert metrics["followed"]["events"] == table["event"].sum()
    assert metrics["mean"]["c_index"] > 0.65
    for fold in metrics["folds"]:
        part = table.filter(pl.col("fold") == fold["fold"])
        found = survival.score(part.select("time", "event").to_numpy(), part["risk"].to_numpy())
        assert {name: fold[name] for name in survival.METRICS} == pytest.approx(found)
    low, high = metrics["intervals"]["c_index"]
    assert low < metrics["mean"]["c_index"] < high
    assert metrics["selection"]["by"].startswith("minus the cross-validated log partial likelihood")
    data = times.read("made/image")
    own = run.head.predict_survival(data.X, [1.0, 10.0])
    assert ((own >= 0) & (own <= 1)).all()
    assert (own[:, 1] < own[:, 0]).all()
    assert json.loads((out / "metrics.json").read_text())["task"] == "survival"


def test_stratified_whole_groups(times):
    """Patients stay whole, and every fold has about its share of the events."""
    run = fitted(times)
    events = run.predictions.group_by("fold").agg(pl.col("event").mean(), pl.col("group").unique())
    shares = events["event"].to_numpy()
    assert np.abs(shares - run.predictions["event"].mean()).max() < 0.1
    assert sum(map(len, events["group"].to_list())) == N // 2


@pytest.mark.parametrize("event", ["died_word", "died_bool"])
def test_words_of_events(times, event):
    """Booleans, and yes and no, mean the same as 1 and 0."""
    assert fitted(times, event=event).predictions["risk"].equals(fitted(times).predictions["risk"])
