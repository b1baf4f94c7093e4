"""Numbers to predict, from the table to runs, comparisons, sweeps and other data sets."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.preprocessing import StandardScaler

from headwater.api import compare, embed, evaluate, fit_head, open_run, sweep
from headwater.errors import InputError

DATA = Path(__file__).parents[3] / "shared" / "data"
N = 90
METRICS = {"r2", "mae", "rmse", "pearson", "spearman"}


def made(seed=0, n=N, offset=0.0):
    """Vectors in which an age and a density are seen dimly, three rows a patient."""
    rng = np.random.default_rng(seed)
    age = np.repeat(rng.normal(60, 10, n // 3), 3) + rng.normal(0, 2, n)
    density = rng.exponential(0.2, n)
    X = rng.standard_normal((n, 10))
    X[:, 0] += (age - 60) / 10
    X[:, 1] += density * 5
    return X, {
        "age": age + offset,
        "density": density,
        "patient": [f"p{seed}-{i // 3}" for i in range(n)],
        "site": [("north", "south")[i // 3 % 2] for i in range(n)],
        "some": [None if i % 10 == 0 else float(a) for i, a in enumerate(age)],
        "odd": [np.nan if i in (3, 4) else np.inf if i == 5 else float(a) for i, a in enumerate(age)],
        "kind": ["7" if i else "unknown" for i in range(n)],
        "same": [1.5] * n,
        "sure": [i % 2 == 0 for i in range(n)],
    }


@pytest.fixture
def ages(make_store):
    X, columns = made()
    return make_store(X, **columns)


@pytest.fixture
def fit(command, ages, tmp_path):
    """Return a function that runs fit-head --task regression and reads the run directory back."""

    def run(*words, label="age", out="run"):
        labels = [word for name in ([label] if isinstance(label, str) else label) for word in ("--label", name)]
        asked = ["--features", "made/image", *labels, "--task", "regression", "--groups", "patient"]
        done = command("fit-head", ages.path, *asked, *words, "--out", tmp_path / out)
        assert done.status == 0, done.err
        return done, open_run(tmp_path / out)

    return run


def test_a_run_predicts_numbers(fit, ages):
    """A run holds each sample's number and what was predicted, by scikit-learn's ridge, with the metrics of these."""
    done, run = fit("--set", "alpha=3.0")
    assert "regression, 90 samples" in done.out
    metrics, table = run.metrics, run.predictions
    assert (metrics["task"], metrics["outputs"]) == ("regression", ["age"])
    assert "classes" not in metrics
    assert "reliability" not in metrics
    assert (run.config["task"], run.config["head"], run.config["outputs"]) == ("regression", "ridge", ["age"])
    assert set(metrics["mean"]) == METRICS
    assert table.columns == ["id", "fold", "label", "predicted", "group"]
    data = ages.read("made/image")
    X, y, place = np.asarray(data.X[:]), data.table["age"].to_numpy(), {str(i): n for n, i in enumerate(data.ids)}
    for fold in metrics["folds"]:
        here = table.filter(pl.col("fold") == fold["fold"])
        rows = np.array([place[i] for i in here["id"]])
        train = np.setdiff1d(np.arange(N), rows)
        scaler = StandardScaler().fit(X[train])
        expected = Ridge(3.0).fit(scaler.transform(X[train]), y[train]).predict(scaler.transform(X[rows]))
        assert here["predicted"].to_numpy() == pytest.approx(expected, rel=1e-6)
        assert here["label"].to_numpy() == pytest.approx(y[rows])
        assert fold["mae"] == pytest.approx(mean_absolute_error(y[rows], expected))
        assert fold["pearson"] == pytest.approx(pearsonr(y[rows], expected)[0])
    assert run.head.predict(X).shape == (N,)


@pytest.mark.parametrize("head", ["ridge", "knn", "xgboost"])
def test_heads_and_their_grids(fit, head):
    """Every head of numbers learns what is there, its settings selected by squared error inside the training rows."""
    words = ["--set", "n_rounds=20", "--set", "max_depth=[2,3]", "--set", "n_threads=1"] if head == "xgboost" else []
    _, run = fit("--head", head, *words)
    assert run.metrics["mean"]["r2"] > 0.1
    assert run.metrics["selection"]["by"] == "mean_squared_error"
    assert run.trials is not None


def test_several_outputs(fit):
    """Several columns are predicted together, and reported together and one by one."""
    done, run = fit("--by", "site", label=["age", "density"])
    assert run.metrics["outputs"] == ["age", "density"]
    table = run.predictions
    assert table.columns == [
        "id",
        "fold",
        "label_age",
        "predicted_age",
        "label_density",
        "predicted_density",
        "group",
        "level",
    ]
    of_age = [
        r2_score(part["label_age"], part["predicted_age"]) for part in table.partition_by("fold", maintain_order=True)
    ]
    by_output = run.metrics["by_output"]
    assert by_output["age"]["mean"]["r2"] == pytest.approx(np.mean(of_age))
    both = [by_output[name]["mean"]["r2"] for name in ("age", "density")]
    assert run.metrics["mean"]["r2"] == pytest.approx(np.mean(both))
    assert set(run.metrics["by"]["levels"]) == {"north", "south"}
    assert "density" in done.out


def test_seeds_and_patients(fit):
    """--seeds repeats splits, and --per reports patients by the mean of their samples."""
    _, run = fit("--seeds", "2", "--per", "patient")
    assert len(run.metrics["folds"]) == 10
    assert run.metrics["per"]["n_units"] == N // 3
    assert [part["seed"] for part in run.metrics["by_seed"]] == [0, 1]


def test_controls_of_numbers(fit):
    """Random features predict no number: a run is above its controls, with an interval."""
    done, run = fit("--controls", "--set", "alpha=10.0")
    assert run.metrics["controls"]["random features"]["difference"]["r2"]["low"] > 0
    assert "run minus control" in done.out


def test_samples_without_a_number_are_left_out(fit):
    """An empty cell is no number: the sample is left out, and counted."""
    _, run = fit(label="some")
    assert run.metrics["left_out"] == {"no some": 9}
    assert run.metrics["n_samples"] == 81


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "odd"], "'odd' is not finite in 1 sample: 'r005' (inf)"),
        (["--label", "odd", "--missing-values", ""], "3 samples: 'r003' (nan), 'r004' (nan), 'r005' (inf)"),
        (["--label", "kind"], "holds text such as 'unknown' (sample 'r000')"),
        (["--label", "sure"], "holds Boolean"),
        (["--label", "same"], "is 1.5 in all 90 samples"),
        (["--label", "age", "--head", "linear"], "predicts classes, not numbers. For regression there are: ridge"),
        (["--label", "age", "--calibrate", "temperature"], "--calibrate is for classes"),
        (["--label", "age", "--sensitivity", "0.9"], "--sensitivity is for classes"),
        (["--label", "age", "--conformal", "0.1"], "--conformal is for classes"),
        (["--label", "age", "--shots", "4"], "--shots is for classes"),
        (
            ["--label", "age", "--per", "patient", "--aggregate", "max"],
            "--aggregate max is for class scores: use mean to aggregate numbers",
        ),
        (["--label", "age", "--label-separator", ";"], "--label-separator is for classes"),
        (["--label", "age", "--merge", "a=b"], "--merge is for classes"),
    ],
)
def test_what_is_refused(refused, ages, tmp_path, words, message):
    """What is no number, and what is about classes alone, is refused in one line."""
    asked = ["--features", "made/image", "--task", "regression", "--groups", "patient", "--out", tmp_path / "run"]
    assert message in refused("fit-head", ages.path, *asked, *words)


def test_measurements_point_to_regression(refused, ages, tmp_path):
    """A measurement that is taken for classes is refused with what to pass, and so is a head of numbers."""
    asked = ["fit-head", ages.path, "--features", "made/image", "--groups", "patient", "--out", tmp_path / "run"]
    assert "--task regression" in refused(*asked, "--label", "age")
    assert "Pass --task regression" in refused(*asked, "--label", "site", "--head", "ridge")
    assert "Did you mean 'regression'? There are: auto, regression, survival, ordinal." in refused(
        *asked, "--label", "site", "--task", "regresion"
    )


def test_runs_are_compared(fit):
    """compare gives intervals by patient and paired differences of any metric, and no test that is about classes."""
    fit("--set", "alpha=10.0", "--folds", "3", out="a")
    _, worse = fit("--set", "alpha=1e6", "--folds", "3", out="b")
    found = compare([worse.path.parent / "a", worse.path], n_draws=200)
    assert (found.metric, found.drawn) == ("r2", "group")
    (change,) = found.differences
    assert change.low < change.difference < change.high
    assert change.difference == pytest.approx(found.runs["a"]["value"] - found.runs["b"]["value"])
    assert set(change.p) == {"bootstrap", "corrected_t", "wilcoxon"}
    errors = compare([worse.path.parent / "a", worse.path], n_draws=200, metric="mae")
    assert errors.differences[0].high < 0
    with pytest.raises(InputError, match="For regression runs there are: r2, mae, rmse"):
        compare([worse.path.parent / "a", worse.path], metric="auc")
    _, other = fit(label="density", out="c")
    with pytest.raises(InputError, match="different outputs"):
        compare([worse.path, other.path])


def test_another_data_set(fit, make_store, command, tmp_path, refused):
    """evaluate predicts the numbers of another data set by the saved head, and says how much worse it is there."""
    _, run = fit()
    X, columns = made(seed=1, offset=5.0)
    other = make_store(X, path="other.hw", first_key=1000, **columns)
    made_run = evaluate(run.path, other, label="age", groups="patient", n_draws=200, out=tmp_path / "far")
    expected = run.head.predict(np.asarray(other.read("made/image").X[:]))
    assert made_run.predictions["predicted"].to_numpy() == pytest.approx(expected)
    assert made_run.metrics["mean"]["mae"] == pytest.approx(mean_absolute_error(columns["age"], expected))
    drop = made_run.metrics["external"]["metrics"]["mae"]["drop"]
    assert drop["value"] == pytest.approx(made_run.metrics["mean"]["mae"] - run.metrics["mean"]["mae"])
    assert open_run(tmp_path / "far").config["outputs"] == ["age"]
    refuse = ["evaluate", run.path, other.path, "--groups", "patient"]
    assert "--map is for classes" in refused(*refuse, "--label", "age", "--map", "a=b")
    assert "the run predicts age" in refused(*refuse, "--label", "age", "--label", "density")


def test_a_sweep_of_numbers(ages, tmp_path):
    """A sweep ranks heads of numbers by r2, or by an error with the lowest first, and picks by inner squared error."""
    asked = {"features": "made/image", "label": "age", "task": "regression", "groups": "patient", "folds": 3}
    found = sweep(ages, **asked, heads=["knn", "ridge"], out=tmp_path / "sweep")
    assert found.found["metric"] == "r2"
    assert "squared error" in found.found["picked"]["by"]
    assert found.leaderboard["r2"].is_sorted(descending=True)
    by_error = sweep(ages, **asked, heads=["knn", "ridge"], metric="mae", out=tmp_path / "sweep")
    assert by_error.leaderboard["mae"].is_sorted()
    picked = by_error.found["picked"]["folds"]
    assert all(
        fold["inner_loss"] == pytest.approx(min(losses))
        for fold, losses in zip(picked, _inner_losses(tmp_path / "sweep"), strict=True)
    )
    assert sweep(ages, **asked, out=tmp_path / "one").leaderboard["head"].to_list() == ["ridge"]


def _inner_losses(folder):
    trials = pl.read_parquet(folder / "trials.parquet").filter(pl.col("fold").is_not_null())
    return [part["loss"].to_list() for part in trials.partition_by("fold", maintain_order=True)]


def test_explain_is_about_classes(fit, refused):
    """explain refuses a run that predicts numbers."""
    _, run = fit("--set", "alpha=1.0")
    assert "predicts numbers" in refused("explain", run.path, "--id", "r000")


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "covid_cxr").exists(), reason="needs shared data: covid_cxr")
def test_ages_of_patients_on_radiographs(tmp_path):
    """On chest radiographs the age of a patient is predicted from texture, patients whole; its number is in years."""
    table = pl.read_csv(DATA / "covid_cxr" / "manifest.csv", infer_schema_length=None).head(90)
    paths = [str(DATA / "covid_cxr" / p) for p in table["image"]]
    table.with_columns(image=pl.Series(paths)).write_csv(tmp_path / "some.csv")
    embed(tmp_path / "some.csv", tmp_path / "cxr.hw", encoder="builtin:texture")
    run = fit_head(
        tmp_path / "cxr.hw",
        features="texture/image",
        label="age",
        task="regression",
        groups="patient",
        allow_leakage="near duplicates of one patient",
        out=tmp_path / "run",
    )
    assert 3 < run.mean["mae"] < 40
    assert json.loads((tmp_path / "run" / "head.json").read_text())["task"] == "regression"
