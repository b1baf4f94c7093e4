"""Grades, from the table to runs, comparisons, sweeps, figures and other data sets."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from headwater.api import compare, embed, evaluate, fit_head, open_run, sweep
from headwater.errors import InputError
from headwater.evaluate.measured import METRICS
from headwater.heads import Ordinal
from headwater.report.figures import plot

DATA = Path(__file__).parents[3] / "shared" / "data"
N = 120
WORDS = ("low", "middle", "high")
ORDER = ",".join(WORDS)


def made(seed=0, n=N):
    """Vectors in which a grade is seen dimly, three rows a patient."""
    rng = np.random.default_rng(seed)
    latent = np.repeat(rng.standard_normal(n // 3), 3)
    grade = np.digitize(latent + 0.3 * rng.logistic(size=n), [-0.5, 0.5]).tolist()
    X = rng.standard_normal((n, 10))
    X[:, 0] += 2 * latent
    return X, {
        "grade": [WORDS[g] for g in grade],
        "number": grade,
        "letter": ["BCD"[g] for g in grade],
        "roman": [("grade I", "grade II", "grade III")[g] for g in grade],
        "initial": ["FGD"[g] for g in grade],
        "rare": ["A" if i < 6 else "BC"[g > 0] for i, g in enumerate(grade)],  # of two patients
        "rarest": ["A" if i < 3 else "BC"[g > 0] for i, g in enumerate(grade)],
        "two": [("low", "high")[g > 0] for g in grade],
        "several": [["a", "b"] if g else ["b", "c"] for g in grade],
        "some": [None if i % 10 == 0 else g for i, g in enumerate(grade)],
        "patient": [f"p{seed}-{i // 3}" for i in range(n)],
        "site": [("north", "south")[i // 3 % 2] for i in range(n)],
    }


@pytest.fixture
def store(make_store):
    X, columns = made()
    return make_store(X, **columns)


@pytest.fixture
def fit(command, store, tmp_path):
    """Return a function that runs fit-head --task ordinal and reads the run directory back."""

    def run(*words, label="grade", order=ORDER, out="run"):
        asked = ["--features", "made/image", "--label", label, "--task", "ordinal", "--groups", "patient"]
        asked += [] if order is None else ["--order", order]
        done = command("fit-head", store.path, *asked, *words, "--out", tmp_path / out)
        assert done.status == 0, done.err
        return done, open_run(tmp_path / out)

    return run


def test_a_run_of_grades(fit, store):
    """Scores are those of the head fitted on each fold's training rows, and metrics those of scikit-learn."""
    done, run = fit("--set", "C=0.1")
    assert "ordinal, 120 samples" in done.out
    assert "grades: low < middle < high" in done.out
    assert "at least" in done.out
    metrics, table = run.metrics, run.predictions
    assert (metrics["task"], metrics["classes"]) == ("ordinal", list(WORDS))
    assert (run.config["task"], run.config["head"], run.config["order"]) == ("ordinal", "ordinal", list(WORDS))
    assert set(metrics["mean"]) == {*METRICS["ordinal"], "classes_present"}
    assert [c["name"] for c in metrics["class_counts"]] == list(WORDS)
    assert list(metrics["cuts"]) == ["middle", "high"]
    data = store.read("made/image")
    X, y, place = np.asarray(data.X[:]), data.table["grade"].to_numpy(), {str(i): n for n, i in enumerate(data.ids)}
    for fold in metrics["folds"]:
        here = table.filter(pl.col("fold") == fold["fold"])
        rows = np.array([place[i] for i in here["id"]])
        head = Ordinal(C=0.1, order=WORDS).fit(np.delete(X, rows, 0), np.delete(y, rows))
        expected = head.predict_proba(X[rows])[:, [1, 2, 0]]  # classes_ are sorted: high, low, middle
        assert here.select([f"score_{w}" for w in WORDS]).to_numpy() == pytest.approx(expected, abs=1e-3)
        truth, called = ([WORDS.index(word) for word in here[c]] for c in ("label", "predicted"))
        assert fold["kappa_quadratic"] == pytest.approx(cohen_kappa_score(truth, called, weights="quadratic"))
        assert fold["mae_grades"] == pytest.approx(mean_absolute_error(truth, called))
    assert run.head.grades_.tolist() == list(WORDS)


@pytest.mark.parametrize(
    ("label", "grades"),
    [("number", [0, 1, 2]), ("letter", ["B", "C", "D"]), ("roman", ["grade I", "grade II", "grade III"])],
)
def test_names_that_show_their_order(fit, label, grades):
    """Numbers, letters and Roman numerals need no --order, and give what named grades give."""
    _, run = fit("--set", "C=0.1", label=label, order=None)
    assert run.metrics["classes"] == grades
    _, named = fit("--set", "C=0.1", out="named")
    for name in ("kappa_quadratic", "rps", "auc_cuts", "spearman"):
        assert run.mean[name] == pytest.approx(named.mean[name], abs=1e-4)


def test_an_order_in_reverse_is_the_mirror_image(fit):
    """What depends on distances alone is the same from both ends."""
    _, run = fit("--set", "C=0.1")
    _, other = fit("--set", "C=0.1", order="high,middle,low", out="other")
    assert other.metrics["classes"] == ["high", "middle", "low"]
    for name in ("kappa_quadratic", "mae_grades", "rps", "auc_cuts", "spearman"):
        assert run.mean[name] == pytest.approx(other.mean[name], abs=1e-3)


@pytest.mark.parametrize("head", ["linear", "knn", "gda", "xgboost", "ordinal"])
def test_every_classifier_may_be_judged_by_order(fit, head):
    """Heads that see classes without an order get the metrics of grades too."""
    _, run = fit(
        "--head",
        head,
        *(("--set", "n_rounds=40", "--set", "max_depth=2", "--set", "lr=0.3") if head == "xgboost" else ()),
    )
    assert run.config["head"] == head
    assert run.mean["kappa_quadratic"] > 0.3
    scores = run.predictions.select([f"score_{w}" for w in WORDS]).to_numpy()
    assert scores.sum(1) == pytest.approx(np.ones(N), abs=1e-3)


def test_noise_is_chance(make_store, tmp_path):
    X, columns = made(n=300)
    store = make_store(np.random.default_rng(5).standard_normal(X.shape), path="noise.hw", **columns)
    run = fit_head(store, features="made/image", label="number", task="ordinal", groups="patient")
    assert abs(run.mean["kappa_quadratic"]) < 0.2
    assert run.mean["auc_cuts"] == pytest.approx(0.5, abs=0.12)


def test_a_grade_that_test_folds_lack(fit):
    """With two patients of a grade, most folds test none of it: their metrics are of the grades that are there."""
    done, run = fit(label="rare", order=None)
    assert run.mean["classes_present"] == pytest.approx((2 * 3 + 3 * 2) / 5)
    assert run.metrics["n_folds"]["auc_cuts"] == 2
    assert run.mean["auc_cuts_present"] > 0.5
    assert np.isfinite(run.mean["kappa_quadratic"])
    assert "over the classes present in the test rows" in done.out


def test_calibration_sets_units_and_levels(fit):
    """What other classifications report is reported of grades."""
    done, run = fit(
        *("--calibrate", "temperature", "--conformal", "0.2", "--per", "patient", "--aggregate", "noisy-or"),
        *("--by", "site", "--seeds", "2"),
    )
    metrics = run.metrics
    assert metrics["conformal"]["mean"]["coverage"] > 0.65
    assert metrics["per"]["n_units"] == N // 3
    assert list(metrics["per"]["cuts"]) == ["middle", "high"]
    assert set(metrics["by"]["levels"]) == {"north", "south"}
    assert metrics["by"]["levels"]["north"]["gap"]["kappa_quadratic"]["value"] is not None
    highest = run.predictions.group_by("unit").agg(
        pl.col("label").replace_strict(WORDS, range(3), return_dtype=pl.Int64).max().alias("grade")
    )
    of_unit = {row["unit"]: row["unit_label"] for row in run.predictions.iter_rows(named=True)}
    assert all(of_unit[row["unit"]] == WORDS[row["grade"]] for row in highest.iter_rows(named=True))
    assert "(noisy-or of the samples' scores)" in done.out


def test_controls_shots_and_samples_without_a_grade(fit):
    _, run = fit("--controls", "--set", "C=0.1")
    assert run.metrics["controls"]["random features"]["difference"]["kappa_quadratic"]["low"] > 0
    _, run = fit("--shots", "5", label="some", order=None, out="few")
    assert run.metrics["left_out"] == {"no some": 12}
    assert run.metrics["mean"]["kappa_quadratic"] > 0


def test_compare_and_plot(fit, tmp_path):
    """Runs of grades are compared by the quadratic kappa; figures are in the order of grades."""
    _, first = fit("--set", "C=0.1", out="first")
    _, second = fit("--head", "linear", "--set", "C=0.1", out="second")
    found = compare([first.path, second.path])
    assert found.metric == "kappa_quadratic"
    (d,) = found.differences
    assert d.difference == pytest.approx(first.mean["kappa_quadratic"] - second.mean["kappa_quadratic"])
    assert compare([first.path, second.path], metric="rps").differences[0].low is not None
    drawn = plot(first.path, formats=("svg",))
    assert {path.stem for path in drawn.files} >= {"confusion", "roc"}
    auto = fit_head(
        first.config["store"], features="made/image", label="grade", groups="patient", out=tmp_path / "auto"
    )
    with pytest.raises(InputError, match="different task: ordinal and multiclass"):
        compare([first.path, auto.path])


def test_another_data_set(fit, make_store, tmp_path):
    """A saved head grades other samples, in its order, also where they lack a grade."""
    _, run = fit("--set", "C=0.1", "--keep-folds")
    X, columns = made(seed=1)
    keep = np.array([g != "high" for g in columns["grade"]])
    some = {name: [v for v, k in zip(values, keep, strict=True) if k] for name, values in columns.items()}
    other = make_store(X[keep], path="other.hw", first_key=1000, **some)
    found = evaluate(run.path, other, label="grade", groups="patient", out=tmp_path / "found")
    assert (found.metrics["task"], found.metrics["classes"]) == ("ordinal", list(WORDS))
    expected = run.head.predict_proba(X[keep].astype(np.float32))[:, [1, 2, 0]]
    assert found.predictions.select([f"score_{w}" for w in WORDS]).to_numpy() == pytest.approx(expected, abs=1e-6)
    assert found.metrics["external"]["folds"]
    assert np.isfinite(found.mean["kappa_quadratic"])
    assert found.mean["auc_cuts"] is None
    assert np.isfinite(found.mean["auc_cuts_present"])


def test_a_sweep_of_grades(store, command, tmp_path):
    """Cells are ranked by the quadratic kappa; the same command finds them finished, and another order is refused."""
    asked = ["sweep", store.path, "--features", "made/image", "--label", "grade", "--groups", "patient"]
    asked += ["--task", "ordinal", "--heads", "ordinal", "--heads", "linear", "--out", tmp_path / "sweep"]
    done = command(*asked, "--order", ORDER)
    assert done.status == 0, done.err
    assert "kappa_quadratic" in done.out
    leaderboard = pl.read_parquet(tmp_path / "sweep" / "leaderboard.parquet")
    assert set(leaderboard["head"]) == {"ordinal", "linear"}
    again = command(*asked, "--order", ORDER)
    assert again.status == 0, again.err
    assert "holds a sweep with other order" in command(*asked, "--order", "high,middle,low").error
    found = sweep(store, features=["made/image"], label="number", groups="patient", task="ordinal", out=tmp_path / "s")
    assert found.leaderboard["head"].to_list() == ["ordinal"]


def test_from_python(store):
    """An order is a sequence of any names, or text."""
    asked = {"features": "made/image", "groups": "patient", "params": {"C": 0.1}, "task": "ordinal"}
    first = fit_head(store, label="number", order=[0, 1, 2], **asked)
    second = fit_head(store, label="number", order="0, 1, 2", **asked)
    assert first.mean == second.mean
    assert json.loads(json.dumps(first.metrics))["classes"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "grade", "--task", "ordinal"], "(high, low, middle) do not show their order. Pass --order"),
        (["--label", "initial", "--task", "ordinal"], "(D, F, G) do not show their order"),
        (["--label", "rarest", "--task", "ordinal"], "has no training rows of class A"),
        (["--label", "two", "--task", "ordinal"], "two classes need no order: leave --task ordinal out"),
        (["--label", "several", "--task", "ordinal"], "needs one grade per sample"),
        (["--label", "grade", "--task", "ordinal", "--order", "low,high"], "lacks the grade 'middle'"),
        (["--label", "grade", "--task", "ordinal", "--order", ORDER + ",top"], "no sample has grade 'top'"),
        (["--label", "grade", "--task", "ordinal", "--order", "low,low,middle,high"], "names 'low' twice"),
        (["--label", "grade", "--order", ORDER], "--order goes with --task ordinal"),
        (["--label", "grade", "--head", "ordinal"], "pass --task ordinal too"),
        (["--label", "grade", "--task", "ordinal", "--set", 'order=["a"]'], "leave it out, and pass --order"),
        (["--label", "number", "--task", "ordinal", "--positive", "1"], "--task ordinal has more: leave it out"),
        (["--label", "number", "--task", "ordinal", "--sensitivity", "0.9"], "this is an ordinal task"),
        (["--label", "number", "--task", "ordinal", "--prevalence", "0.1"], "this is an ordinal task"),
        (["--label", "number", "--task", "ordinal", "--head", "ridge"], "predicts numbers, not classes"),
    ],
)
def test_what_is_refused(refused, store, tmp_path, words, message):
    """What cannot be is refused with one line, before anything is written."""
    asked = ["fit-head", store.path, "--features", "made/image", "--groups", "patient", "--out", tmp_path / "run"]
    assert message in refused(*asked, *words)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the real data are not here")
def test_density_of_real_mammograms(tmp_path):
    """Three grades of density are ordered by what the texture encoder sees, above chance in both cuts."""
    store = embed(DATA / "mini_mias" / "manifest.csv", tmp_path / "m.hw", encoder="builtin:texture")
    order = ("fatty", "fatty-glandular", "dense-glandular")
    run = fit_head(
        store, features="texture/image", label="density", groups="patient", task="ordinal", order=order, seed=0
    )
    assert run.metrics["intervals"]["kappa_quadratic"][0] > 0.2
    assert min(cut["intervals"]["auc"][0] for cut in run.metrics["cuts"].values()) > 0.6
