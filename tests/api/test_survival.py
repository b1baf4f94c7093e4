"""Survival, from the table to runs, comparisons, sweeps, other data sets and figures."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api import compare, evaluate, explain, fit_head, open_run, sweep
from headwater.errors import HeadError, InputError, SplitError
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
        "ward": [f"w{i // 4}" for i in range(n)],
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time": None}, r"--task survival needs --time COL and --event COL: pass --time COL too"),
        ({"event": None}, r"pass --event COL too"),
        ({"event": "months"}, r"--time and --event name the same column, 'months'"),
        ({"task": "auto", "label": "died"}, r"--time goes with --task survival"),
        ({"task": "auto", "time": None, "event": None, "label": "died", "risk_groups": 3}, "--risk-groups goes with"),
        ({"task": "auto", "time": None, "event": None}, r"--label COL, the column to predict, is missing"),
        ({"label": "died"}, r"--label: --task survival predicts --time and --event. Leave --label out"),
        ({"event": "status"}, r"--event status holds 'dead|alive' \(sample 's?\d+'.*write a column of 0 and 1"),
        ({"event": "two"}, r"--event two holds 2 \(sample"),
        ({"event": "none"}, r"--event none is 0 in all 120 samples: no event was seen"),
        ({"time": "zero"}, r"--time zero is not above 0 in 1 sample, such as '.*' \(0\)"),
        ({"time": "below"}, r"--time below is not above 0 in 1 sample, such as '.*' \(-1\)"),
        ({"time": "odd"}, r"--time odd is not finite in 1 sample"),
        ({"time": "words"}, r"--time words holds text such as 'soon'"),
        ({"time": "site"}, r"--time site holds text such as 'north'"),
        ({"time": "month"}, r"--time: no column 'month'\. Did you mean 'months'"),
        ({"event": "dead"}, r"--event: no column 'dead'"),
        ({"calibrate": "isotonic"}, r"--calibrate is for classes, but --task survival predicts risks: leave it out"),
        ({"sensitivity": 0.9}, r"--sensitivity is for classes"),
        ({"specificity": 0.9}, r"--specificity is for classes"),
        ({"conformal": 0.1}, r"--conformal is for classes"),
        ({"shots": 3}, r"--shots is for classes"),
        ({"positive": "1"}, r"--positive is for classes"),
        ({"prevalence": 0.1}, r"--prevalence is for classes"),
        ({"merge": {"a": "b"}}, r"--merge is for classes, but --task survival predicts risks"),
        ({"label_separator": ";"}, r"--label-separator is for classes"),
        ({"risk_groups": 4}, r"--risk-groups must be 2 \(at the median\) or 3 \(at the terciles\), but is 4"),
        ({"per": "patient", "aggregate": "max"}, r"--aggregate max is for class scores: use mean to aggregate risks"),
        ({"head": "linear"}, r"head 'linear' does not take censored times"),
        ({"task": "auto", "time": None, "event": None, "label": "died", "head": "cox"}, r"'cox' predicts survival"),
    ],
)
def test_what_makes_no_sense_is_refused(times, options, words):
    """Missing, invalid and contradicting options and columns are refused in a line that says what to do."""
    with pytest.raises((InputError, HeadError), match=words):
        fitted(times, **options, **({} if options.get("task") else {"params": {}}))


def test_events_without_times_are_refused_and_unknown_samples_left_out(times, make_store):
    """An event without a time is refused; samples whose event or time is unknown are left out and counted."""
    X, columns = made()
    died = np.array(columns["died"])
    i = int(np.flatnonzero(died)[0])
    times = [None if k == i else float(t) for k, t in enumerate(columns["months"])]
    store = make_store(X, **{**columns, "lost": times})
    with pytest.raises(InputError, match=r"--time lost is empty in 1 sample with an event"):
        fitted(store, time="lost")
    run = fitted(store, event="unknown")
    assert run.metrics["left_out"] == {"no unknown": 2}
    assert run.metrics["n_samples"] == N - 2
    censored = int(np.flatnonzero(died == 0)[0])
    gaps = [None if k == censored else float(t) for k, t in enumerate(columns["months"])]
    run = fitted(make_store(X, path="gaps.hw", **{**columns, "lost": gaps}), time="lost")
    assert run.metrics["left_out"] == {"no lost": 1}


def test_no_event_in_the_training_rows_of_a_fold(make_store):
    """A split all of whose events are test rows is refused, and so is selection with one event."""
    X, columns = made()
    side = ["test" if d else "train" for d in columns["died"]]
    store = make_store(X, **{**columns, "side": side})
    with pytest.raises(SplitError, match=r"fold 0 has no training rows with an event"):
        fitted(store, groups="none", split="side")
    one = [int(i == 7) for i in range(N)]
    with pytest.raises(SplitError, match=r"no training rows with an event|only one training row has an event"):
        fitted(make_store(X, path="one.hw", **{**columns, "one": one}), event="one", groups="none")


def test_without_censoring_and_with_a_holdout(times):
    """Every sample may have the event; a holdout and given parameters work as for other tasks."""
    run = fitted(times, event="all", holdout=0.3, params={"C": 0.1})
    assert run.metrics["followed"]["events"] == N
    assert run.metrics["followed"]["median_follow_up"] is None
    assert run.metrics["mean"]["c_index"] > 0.6


def test_results_by_patient(times):
    """A patient has the mean risk of its samples; samples of a patient must agree on time and event."""
    run = fitted(times, per="patient")
    per, table = run.metrics["per"], run.predictions
    assert per["n_units"] == N // 2
    assert set(per["intervals"]) == {"c_index", "c_index_uno"}
    means = table.group_by("unit", maintain_order=True).agg(pl.col("risk").mean(), pl.col("unit_risk").first())
    assert means["unit_risk"].to_numpy() == pytest.approx(means["risk"].to_numpy())
    with pytest.raises(InputError, match=r"--per ward: \w+ has rows with time .* event \d and with time"):
        fitted(times, per="ward", groups="none")


def test_runs_are_compared(make_store):
    """Two survival runs are compared by the paired difference of concordances, over folds and by resampling."""
    X, columns = made()
    store = make_store(X, **columns)
    noise = make_store(np.random.default_rng(9).standard_normal(X.shape), path="noise.hw", **columns)
    first, second = fitted(store), fitted(noise)
    found = compare([first, second])
    assert (found.metric, found.drawn) == ("c_index", "group")
    (change,) = found.differences
    assert change.difference == pytest.approx(first.mean["c_index"] - second.mean["c_index"])
    assert change.test == "corrected_t"
    assert 0 < change.p["bootstrap"] < 0.05
    assert compare([first, second], metric="c_index_uno").differences[0].difference > 0
    assert compare([first, second], per="patient").per == "patient"
    with pytest.raises(InputError, match="For survival runs there are: c_index, c_index_uno"):
        compare([first, second], metric="auc")


def test_a_sweep_ranks_by_concordance(times, tmp_path):
    """A sweep of survival has cox as its head, and ranks by the concordance."""
    asked = {name: value for name, value in ASKED.items() if name != "features"}
    done = sweep(times, features=["made/image"], out=tmp_path / "sweep", params={"cox": {"C": [0.01, 0.1]}}, **asked)
    assert (done.found["metric"], done.leaderboard["head"].to_list()) == ("c_index", ["cox"])
    assert done.found["picked"]["by"].startswith("loss by the partial likelihood")


def test_another_data_set(make_store, tmp_path, command):
    """evaluate reports the drop in concordance, and the curves of the run's own risk groups, without fitting."""
    X, columns = made()
    fitted(make_store(X, **columns), out=tmp_path / "run", keep_folds=True, per="patient")
    X, columns = made(seed=1)
    other = make_store(X, path="other.hw", first_key=500, **{**columns, "days": columns["months"] * 30})
    found = evaluate(tmp_path / "run", other, time="days", event="died_word", groups="patient", per="patient")
    assert found.metrics["mean"]["c_index"] > 0.65
    assert set(found.metrics["external"]["metrics"]) == {"c_index", "c_index_uno"}
    assert found.metrics["external"]["per"]["metrics"]["c_index"]["external"]["value"] > 0.65
    assert [group["n"] for group in found.metrics["kaplan_meier"]["groups"]] != [0, 0]
    run = open_run(tmp_path / "run")
    at = run.decision["risk_groups"]["thresholds"]
    assert found.metrics["kaplan_meier"]["thresholds"] == [at]
    high = (found.predictions["risk"] > at[0]).sum()
    assert found.metrics["kaplan_meier"]["groups"][1]["n"] == high
    done = command("evaluate", tmp_path / "run", other.path, "--time", "days", "--event", "died", "--groups", "patient")
    assert done.status == 0, done.err
    for options, words in (
        ({"label": "died"}, "is a survival run. Pass --time COL and --event COL"),
        ({"time": "days"}, "--event COL is missing"),
        ({"time": "days", "event": "died", "mapping": {"a": "b"}}, "--map is for classes, but the run predicts risks"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate(tmp_path / "run", other, groups="patient", **options)


def test_groups_by_risk(times, tmp_path, command):
    """Groups by risk are cut at out-of-fold risks of training rows; metrics.json has their curves, plot draws them."""
    run = fitted(times, out=tmp_path / "run", risk_groups=3, by="site")
    found, table = run.metrics["kaplan_meier"], run.predictions
    assert found["cut_at"] == "terciles"
    assert [group["name"] for group in found["groups"]] == ["low", "middle", "high"]
    assert sum(group["n"] for group in found["groups"]) == N
    low, high = found["groups"][0], found["groups"][2]
    assert low["n"] == sum(
        (table.filter(pl.col("fold") == fold)["risk"] <= at[0]).sum() for fold, at in enumerate(found["thresholds"])
    )
    assert high["events"] / high["n"] > low["events"] / low["n"]
    assert found["hazard_ratio"]["low"] > 1
    assert found["log_rank"]["p"] < 0.01
    assert not found["rows_independent"]
    lines = "\n".join(open_run(tmp_path / "run").lines())
    assert "groups by risk, cut at the terciles of training rows" in lines
    assert "treat rows as independent" in lines
    done = command("plot", tmp_path / "run", "--dpi", "60")
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "figures" / "kaplan_meier.png").stat().st_size > 5000
    plain = fitted(times, groups="none")
    assert plain.metrics["kaplan_meier"]["cut_at"] == "median"
    assert plain.metrics["kaplan_meier"]["rows_independent"]


def test_several_seeds_controls_and_trials(times):
    """Repeated cross-validation, controls and a finer grid work for survival too."""
    run = fitted(times, seeds=2, folds=3, controls=True, params={}, fine=True)
    assert len(run.metrics["folds"]) == 6
    assert sum(group["n"] for group in run.metrics["kaplan_meier"]["groups"]) == N
    assert run.metrics["controls"]["shuffled"]["mean"]["c_index"] < run.metrics["mean"]["c_index"]


def test_another_data_set_without_events(make_store, tmp_path):
    """A data set in which nobody had the event has no concordance, and curves that stay at 1."""
    X, columns = made()
    fitted(make_store(X, **columns), out=tmp_path / "run")
    other = make_store(X, path="other.hw", first_key=500, **columns)
    found = evaluate(tmp_path / "run", other, time="months", event="none", groups="patient")
    assert found.metrics["mean"] == {"c_index": None, "c_index_uno": None}
    assert found.metrics["intervals"]["c_index"] is None
    assert found.metrics["kaplan_meier"]["log_rank"]["p"] is None
    assert all(value == 1 for group in found.metrics["kaplan_meier"]["groups"] for value in group["survival"])
    assert "0 events" in "\n".join(found.lines())


def test_weak_heads_and_explain(times):
    """The strongest penalty gives groups and curves too; explain, which shows classes, refuses survival."""
    run = fitted(times, params={"C": 1e-9})
    assert sum(group["n"] for group in run.metrics["kaplan_meier"]["groups"]) == N
    assert 0.2 < run.mean["c_index"] < 0.9
    with pytest.raises(InputError, match="explain needs a run that predicts classes, but this run predicts risks"):
        explain(run, id="r000")
