"""fit-head: what a run directory holds, on which rows its numbers stand, and what each option does to them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from headwater.api import embed, fit_head, open_run
from headwater.errors import InputError
from headwater.evaluate.measured import METRICS
from headwater.experiment.head import HeadChoice
from headwater.store import open_store

DATA = Path(__file__).parents[3] / "shared" / "data"
BINARY = {*METRICS["binary"]}
MULTICLASS = {*METRICS["multiclass"], "classes_present"}
MULTILABEL = {*METRICS["multilabel"], "labels_present"}
N = 90


@pytest.fixture
def noisy(make_store):
    """A store of vectors in which three kinds, two findings and a grade are seen dimly; three rows a patient."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, N)
    findings = rng.random((N, 3)) < (0.3, 0.5, 0.4)
    X = rng.standard_normal((N, 12))
    X[:, :3] += 1.2 * np.eye(3)[kind]
    X[:, 3:6] += 1.5 * findings
    words = np.array(["calcification", "cyst", "mass"])
    return make_store(
        X,
        kind=[("ash", "beech", "cedar")[k] for k in kind],
        grade=["high" if k == 2 else "low" for k in kind],
        number=kind,
        share=kind.astype(float),
        sure=kind == 1,
        patient=[f"p{i // 3}" for i in range(N)],
        site=[("north", "south", None)[i // 3 % 3] for i in range(N)],
        year=[(2009, 2010, 2011)[i % 3] for i in range(N)],
        age=list(range(N)),
        fold=[i // 3 % 3 for i in range(N)],
        part=[("train", "val", "test")[i // 3 % 3] for i in range(N)],
        mass=findings[:, 2].astype(int),
        cyst=findings[:, 1],
        findings=["; ".join(words[row]) or "none" for row in findings],
        listed=[words[row].tolist() for row in findings],
        some=[None if i % 10 == 0 else ("", "a", "b", " ", "a", "b")[i % 6] for i in range(N)],
    )


@pytest.fixture
def fit(command, noisy, tmp_path):
    """Return a function that runs fit-head and reads the run directory back."""

    def run(*words, label="kind", groups="patient", features=("made/image",), out="run"):
        asked = [*(w for f in features for w in ("--features", f)), "--groups", groups]
        asked += ["--label", label] if label else []
        done = command("fit-head", noisy.path, *asked, *words, "--out", tmp_path / out)
        assert done.status == 0, done.err
        return json.loads((tmp_path / out / "metrics.json").read_text()), open_run(tmp_path / out)

    return run


# What a run holds


@pytest.mark.parametrize(
    ("label", "task", "metrics"), [("grade", "binary", BINARY), ("kind", "multiclass", MULTICLASS)]
)
def test_metrics(fit, label, task, metrics):
    """metrics.json holds task, samples, each fold with its sizes, parameters and metrics, mean and deviation."""
    found, _ = fit(label=label)
    assert found["task"] == task
    assert found["n_samples"] == N
    assert [fold["fold"] for fold in found["folds"]] == [0, 1, 2, 3, 4]
    for fold in found["folds"]:
        assert set(fold) == {"fold", "n_train", "n_test", "params"} | metrics
        assert fold["n_train"] + fold["n_test"] == N
        assert set(fold["params"]) == {"C"}
    assert set(found["mean"]) == set(found["std"]) == metrics
    for name in metrics:
        values = [fold[name] for fold in found["folds"]]
        assert found["mean"][name] == pytest.approx(np.mean(values))
        assert found["std"][name] == pytest.approx(np.std(values, ddof=1))


def test_numbers_say_over_how_many_folds_they_are(command, make_store, tmp_path):
    """A metric that some folds lack is counted in metrics.json and in print, of each level too, beside one of all."""
    rng = np.random.default_rng(0)
    y = np.array(["rare"] * 3 + ["often"] * 37)
    store = make_store(rng.standard_normal((40, 4)), label=y.tolist(), half=["ab"[i % 2] for i in range(40)])
    words = ("fit-head", store.path, "--features", "made/image", "--label", "label", "--groups", "none")
    done = command(*words, "--folds", "5", "--by", "half", "--out", tmp_path / "run", "--set", "C=1")
    run = open_run(tmp_path / "run")
    assert run.metrics["n_folds"]["auc"] == 3
    assert run.metrics["n_folds"]["accuracy"] == 5
    levels = run.metrics["by"]["levels"]
    assert sum(part["n_folds"]["auc"] for part in levels.values()) == 3
    lines = {line.split()[0]: line for line in reversed(done.out.splitlines()) if line.strip()}
    assert "(3 of 5 folds)  [" in lines["auc"]
    assert "of 5 folds" not in lines["accuracy"]
    assert f"({levels['a']['n_folds']['balanced_accuracy']} of 5 folds)" in lines["a"]


def test_metrics_that_no_fold_has(command, make_store):
    """A metric that is not defined in any fold is named, with the reason."""
    X = np.random.default_rng(0).standard_normal((30, 3))
    store = make_store(X, label=["a"] * 2 + ["b"] * 28, fold=[0, 1] + [2, 3] * 14)
    words = ("--features", "made/image", "--label", "label", "--groups", "none", "--split", "fold", "--set", "C=1")
    out = command("fit-head", store.path, *words).out.splitlines()
    why = "they need test samples of every class, but no fold has them"
    assert f"not defined: balanced_accuracy, f1_macro, auc ({why})" in out


def test_metrics_say_how_parameters_were_chosen(fit):
    """metrics.json says by what, on which rows, and among which settings parameters were selected."""
    selection = fit()[0]["selection"]
    assert selection["by"] == "log_loss"
    assert "own training rows" in selection["rows"]
    assert selection["inner_folds"] == 4
    assert selection["grouped"] is True
    assert [set(params) for params in selection["grid"]] == [{"C"}] * 17


def test_predictions(fit):
    """Every sample is predicted exactly once, in the fold that tested it, and the metrics are of the predictions."""
    metrics, run = fit(label="grade")
    table = pl.read_parquet(run.path / "predictions.parquet")
    assert table.columns == ["id", "fold", "label", "predicted", "group", "score_high", "score_low"]
    assert sorted(table["id"]) == [f"r{i:03d}" for i in range(N)]
    assert np.allclose(table["score_high"] + table["score_low"], 1)
    for fold in metrics["folds"]:
        rows = table.filter(fold=fold["fold"])
        y, p = rows["label"].to_numpy(), rows["score_low"].to_numpy()
        assert len(rows) == fold["n_test"]
        assert fold["accuracy"] == pytest.approx(accuracy_score(y, rows["predicted"]))
        assert fold["auc"] == pytest.approx(roc_auc_score(y == "low", p))
        assert fold["log_loss"] == pytest.approx(log_loss(y == "low", p))


def test_predictions_carry_the_labels_of_the_samples(fit, noisy):
    """The label beside a prediction is the one that the samples table has for that id."""
    _, run = fit()
    known = dict(noisy.samples.select("id", "kind").rows())
    assert [known[id] for id in run.predictions["id"]] == run.predictions["label"].to_list()


def test_groups_are_never_divided(fit, noisy):
    """All samples of a patient are tested in one fold."""
    _, run = fit()
    patient = dict(noisy.samples.select("id", "patient").rows())
    folds = {}
    for id, fold in run.predictions.select("id", "fold").rows():
        folds.setdefault(patient[id], set()).add(fold)
    assert len(folds) == N // 3
    assert all(len(seen) == 1 for seen in folds.values())


def test_identical_contents_in_several_groups(command, make_store, tmp_path):
    """Images that stand in samples of more than one patient are counted, and what that means is said on the way."""
    store = make_store(np.random.default_rng(0).standard_normal((40, 3)), label=["a", "b"] * 20, who=range(40))
    keys = store.samples["image_key"].to_list()
    who = [i // 4 for i in range(40)]
    keys[1], keys[4], keys[5], keys[39] = keys[0], keys[0], keys[8], keys[8]  # twice in patient 0, and in 1, 2 and 9
    columns = {"image_key": pl.Series(keys), "who": pl.Series(who)}
    store.write_samples(store.samples.with_columns(**columns), store.roles)
    words = ("fit-head", store.path, "--features", "made/image", "--label", "label", "--set", "C=1", "--groups")
    done = command(*words, "who", "--allow-leakage", "a test", "--out", tmp_path / "run")
    assert "identical images in more than one who: 2. The same image can then be on both sides of a split" in done.err
    assert open_run(tmp_path / "run").metrics["leakage"]["identical_across_groups"] == {"image": 2}
    assert "more than one" not in command(*words, "none", "--allow-leakage", "a test").err


def test_config_holds_what_is_needed_to_repeat_it(fit, noisy):
    """config.json holds every argument, the features with their specs, and the versions."""
    config = fit("--seed", "3", "--where", "age >= 0", "--by", "year")[1].config
    assert (config["head"], config["label"], config["groups"], config["seed"]) == ("linear", ["kind"], "patient", 3)
    assert (config["where"], config["by"], config["folds"], config["split"]) == ("age >= 0", "year", 5, None)
    assert config["store"] == str(noisy.path.resolve())
    assert config["features"]["made/image"]["encoder"] == "test:made"
    assert config["features"]["made/image"]["fingerprint"] == noisy.features("made/image").fingerprint
    assert {"python", "headwater", "numpy"} <= set(config["environment"])


def test_the_head_of_a_run_predicts(fit, noisy):
    """The head that a run keeps, read back, gives probabilities in the order of the run's classes."""
    metrics, run = fit()
    data = noisy.read("made/image")
    p = run.head.predict_proba(np.asarray(data.X[:]))
    assert run.head.classes_.tolist() == metrics["classes"] == ["ash", "beech", "cedar"]
    assert np.mean(run.head.classes_[p.argmax(1)] == data.table["kind"].to_numpy()) > 0.6


def test_the_same_command_gives_the_same_run(fit):
    """Run again, even over the old run, every number is the same; another seed gives other folds."""
    one, two, other = fit(out="a")[1], fit(out="a")[1], fit("--seed", "1", out="b")[1]
    assert one.metrics == two.metrics
    assert one.predictions.equals(two.predictions)
    assert not one.predictions["id"].equals(other.predictions["id"])


def test_the_report(command, noisy, tmp_path):
    """A person reads the task, the samples, a line a metric, and where the run is."""
    words = ("fit-head", noisy.path, "--features", "made/image", "--label", "kind", "--groups", "patient")
    out = command(*words, "--out", tmp_path / "run").out.splitlines()
    assert out[0] == f"multiclass, {N} samples, mean ± standard deviation over 5 folds"
    assert out[-1] == f"run in {tmp_path / 'run'}"
    assert any(line.startswith("  accuracy") and "±" in line for line in out)
    assert "--out RUN" in command(*words).out.splitlines()[-1]


def test_a_run_in_the_current_folder(command, noisy, tmp_path, monkeypatch):
    """A run can be written where one is, if that folder is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = ("fit-head", noisy.path, "--features", "made/image", "--label", "kind", "--groups", "patient")
    assert command(*words, "--out", ".").status == 0
    assert open_run(".").metrics["n_samples"] == N
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "made.hw"]


def test_json(command, noisy):
    """With --json, standard output is the metrics as JSON without NaN, and what is said on the way goes elsewhere."""
    words = ("fit-head", noisy.path, "--features", "made/image", "--label", "kind", "--groups", "patient", "--json")
    done = command(*words, "--folds", "30")  # folds of one patient: some metrics are not defined

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    metrics = json.loads(done.out, parse_constant=refuse)
    assert metrics["n_samples"] == N
    assert None in {fold["auc"] for fold in metrics["folds"]}
    assert f"{N} samples with made/image" in done.err


# Options


def test_where(fit, noisy):
    """With --where, only the samples for which it holds are fitted on and predicted."""
    metrics, run = fit("--where", "age < 60 AND year <> 2011")
    chosen = noisy.samples.filter((pl.col("age") < 60) & (pl.col("year") != 2011))["id"]
    assert metrics["n_samples"] == len(chosen) == 40
    assert sorted(run.predictions["id"]) == sorted(chosen)


def test_by(fit, noisy):
    """With --by, each value's own test rows are scored, missing values among them, numbers in their order."""
    metrics, run = fit("--by", "site")
    levels = metrics["by"]["levels"]
    assert metrics["by"]["column"] == "site"
    assert {name: part["n_samples"] for name, part in levels.items()} == {"(empty)": 30, "north": 30, "south": 30}
    table = run.predictions.join(noisy.samples.select("id", "site"), on="id").filter(site="north")
    by_fold = [accuracy_score(f["label"], f["predicted"]) for _, f in table.group_by("fold", maintain_order=True)]
    assert levels["north"]["mean"]["accuracy"] == pytest.approx(np.mean(by_fold))
    assert levels["north"]["folds"] == len(by_fold)
    assert list(fit("--by", "year")[0]["by"]["levels"]) == ["2009", "2010", "2011"]
    assert list(fit("--by", "some")[0]["by"]["levels"]) == ["(empty)", "a", "b"]


def test_by_is_printed(command, noisy):
    """The report has a line for each value, under a heading."""
    words = ("--features", "made/image", "--label", "kind", "--groups", "patient", "--by", "site")
    out = command("fit-head", noisy.path, *words).out.splitlines()
    heading = next(i for i, line in enumerate(out) if line.split()[:2] == ["site", "samples"])
    assert [line.split()[:2] for line in out[heading + 1 : heading + 4]] == [
        ["(empty)", "30"],
        ["north", "30"],
        ["south", "30"],
    ]


def test_split_by_train_and_test(fit, noisy):
    """A column of train, val and test makes one fold: the rows of test are predicted, all others trained on."""
    metrics, run = fit("--split", "part")
    assert [(fold["n_train"], fold["n_test"]) for fold in metrics["folds"]] == [(60, 30)]
    assert sorted(run.predictions["id"]) == sorted(noisy.samples.filter(part="test")["id"])
    assert metrics["std"]["accuracy"] is None


def test_split_by_fold_numbers(fit, noisy):
    """A column of fold numbers makes those folds."""
    _, run = fit("--split", "fold")
    fold = dict(noisy.samples.select("id", "fold").rows())
    assert [fold[id] for id in run.predictions["id"]] == run.predictions["fold"].to_list()


def test_holdout(fit):
    """A holdout predicts that share of the samples once."""
    metrics, run = fit("--holdout", "0.3")
    assert len(metrics["folds"]) == 1
    assert abs(len(run.predictions) - 0.3 * N) <= 3


def test_a_parameter_that_is_given_is_not_selected(fit):
    """With --set C, nothing is selected: each fold uses it, and metrics.json says so."""
    metrics, _ = fit("--set", "C=0.1")
    assert metrics["selection"]["by"] is None
    assert [fold["params"] for fold in metrics["folds"]] == [{"C": 0.1}] * 5
    other, _ = fit("--set", "C=1e-9", out="other")
    assert other["mean"]["log_loss"] > metrics["mean"]["log_loss"]


def test_other_parameters_leave_the_grid_alone(fit):
    """With --set of something else, C is selected still."""
    metrics, _ = fit("--set", "standardize=false")
    assert all(fold["params"].keys() == {"standardize", "C"} for fold in metrics["folds"])
    assert metrics["selection"]["by"] == "log_loss"


def test_several_features_stand_side_by_side(command, store, tmp_path):
    """Several --features make one head over all their columns, on the samples that have them all."""
    words = ("--features", "ngram/text", "--features", "texture/image", "--label", "grade", "--groups", "patient")
    assert command("fit-head", store, *words, "--out", tmp_path / "run").status == 0
    run = open_run(tmp_path / "run")
    dims = [open_store(store).features(name).spec.dim for name in ("ngram/text", "texture/image")]
    assert run.head.n_features_in_ == sum(dims)
    assert run.mean["accuracy"] == 1


def test_features_of_some_samples(make_store, write_features, command):
    """A sample that lacks one of several features is left out, and the reason says which."""
    rng = np.random.default_rng(0)
    store = make_store(rng.standard_normal((40, 4)), label=["a", "b"] * 20)
    keys = store.features("made/image").keys
    write_features(store, "more/image", rng.standard_normal((30, 3)).astype(np.float16), keys[:30])
    words = ("--features", "made/image", "--features", "more/image", "--label", "label")
    done = command("fit-head", store.path, *words)
    assert "left out: 10 samples (not embedded yet in more/image)" in done.out


# Labels


@pytest.mark.parametrize(("label", "classes"), [("number", [0, 1, 2]), ("share", [0, 1, 2]), ("sure", [False, True])])
def test_labels_of_other_types(fit, label, classes):
    """Whole numbers, floats that are whole and truth values are classes, and come back as such."""
    metrics, run = fit(label=label)
    assert metrics["classes"] == classes
    assert run.predictions["label"].unique().sort().to_list() == classes
    assert {f"score_{c}" for c in classes} < set(run.predictions.columns)


def test_samples_without_a_label_are_left_out(fit):
    """An empty or blank label leaves its sample out, counted and named by the column."""
    metrics, run = fit(label="some", groups="none")
    n_missing = sum(i % 10 == 0 or i % 3 == 0 for i in range(N))
    assert metrics["n_samples"] == N - n_missing == len(run.predictions)
    assert metrics["left_out"] == {"no some": n_missing}


def test_several_label_columns(fit, noisy):
    """Several --label columns of 0 and 1 make a task of several labels, each called by its column."""
    metrics, run = fit("--label", "mass", "--label", "cyst", label=None)
    assert metrics["task"] == "multilabel"
    assert metrics["classes"] == ["mass", "cyst"]
    assert set(metrics["mean"]) == MULTILABEL
    assert run.predictions.columns == ["id", "fold", "label", "predicted", "group", "score_mass", "score_cyst"]
    expected = {
        id: [name for name, on in (("mass", mass), ("cyst", cyst)) if on]
        for id, mass, cyst in noisy.samples.select("id", "mass", "cyst").rows()
    }
    assert dict(run.predictions.select("id", "label").rows()) == expected
    for name in ("mass", "cyst"):
        high = run.predictions[f"score_{name}"] > 0.5
        assert [name in labels for labels in run.predictions["predicted"]] == high.to_list()


def test_labels_in_one_column(fit):
    """A separator, or a column of lists, makes as many labels as there are different words."""
    split, run = fit("--label-separator", ";", label="findings")
    assert split["classes"] == ["calcification", "cyst", "mass", "none"]
    assert split["left_out"] == {}
    assert {word for words in run.predictions["label"] for word in words} == set(split["classes"])
    listed, _ = fit(label="listed", out="listed")
    assert listed["task"] == "multilabel"
    assert listed["classes"] == ["calcification", "cyst", "mass"]
    assert listed["mean"]["auc_macro"] > 0.7


def test_a_cell_without_labels(command, make_store, tmp_path):
    """An empty cell leaves its sample out; the separator alone says that the sample has none of the labels."""
    cells = ["a", "a;b", "b", ";", None, " "] * 8
    store = make_store(np.random.default_rng(0).standard_normal((48, 3)), tags=cells)
    words = ("fit-head", store.path, "--features", "made/image", "--label", "tags", "--label-separator", ";")
    assert command(*words, "--set", "C=1", "--out", tmp_path / "run").status == 0
    run = open_run(tmp_path / "run")
    assert run.metrics["left_out"] == {"no tags": 16}
    assert sorted(map(tuple, run.predictions["label"].unique())) == [(), ("a",), ("a", "b"), ("b",)]


def test_the_python_call_is_the_command(noisy):
    """From Python, nothing is written when no place is given, and the numbers are the command's."""
    run = fit_head(noisy, features="made/image", label="kind", groups="patient")
    assert run.path is None
    assert run.mean["accuracy"] == pytest.approx(np.mean([f["accuracy"] for f in run.metrics["folds"]]))
    with pytest.raises(InputError, match="--seed"):
        fit_head(noisy, features="made/image", label="kind", groups="patient", seed=-1)


def test_labels_of_test_rows_do_not_reach_their_fold(make_store):
    """With the labels of one fold's test rows permuted, that fold's parameters and its predictions stay as they are."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 80)
    X = rng.standard_normal((80, 6)) + y[:, None] * 0.5
    columns = {"fold": [i % 4 for i in range(80)], "label": [("a", "b")[c] for c in y]}
    poisoned = [("b", "a")[c] if i % 4 == 2 else ("a", "b")[c] for i, c in enumerate(y)]
    store = make_store(X, **columns, poisoned=poisoned)
    honest, other = (
        fit_head(store, features="made/image", label=label, split="fold", groups="none")
        for label in ("label", "poisoned")
    )
    assert honest.metrics["folds"][2]["params"] == other.metrics["folds"][2]["params"]
    assert [f["params"] for f in honest.metrics["folds"]] != [f["params"] for f in other.metrics["folds"]]
    scores = [run.predictions.filter(fold=2)["score_b"].to_numpy() for run in (honest, other)]
    assert np.abs(scores[0] - scores[1]).max() < 1e-4


# Real data


@pytest.fixture(scope="module")
def mini_mias(tmp_path_factory):
    """The mini-MIAS mammograms through MobileNetV2."""
    pytest.importorskip("timm")
    if not (DATA / "mini_mias").exists():
        pytest.skip("the mini-MIAS mammograms are not here")
    return embed(
        DATA / "mini_mias" / "manifest.csv",
        tmp_path_factory.mktemp("mias") / "mias.hw",
        encoder="timm:mobilenetv2_100",
        weights=DATA / "weights" / "mobilenetv2_100.safetensors",
        device="cpu",
        precision="fp32",
    )


def test_breast_density(mini_mias):
    """Breast density of mini-MIAS, patients kept whole, is told as well as the reference pipeline does."""
    run = fit_head(mini_mias, features="mobilenetv2_100/image", label="density", groups="patient", folds=5)
    assert run.metrics["n_samples"] == 322
    assert Counter(run.predictions["label"]).keys() == {"dense-glandular", "fatty", "fatty-glandular"}
    assert run.mean["accuracy"] == pytest.approx(0.693, abs=0.03)


def test_folds_that_divide_patients_flatter(mini_mias):
    """Where a patient's breasts may stand on both sides of a split, density is told better, as the reference says."""
    options = {"features": "mobilenetv2_100/image", "label": "density", "folds": 5}
    whole = fit_head(mini_mias, groups="patient", **options)
    divided = fit_head(mini_mias, groups="none", allow_leakage="to see what it does", **options)
    assert divided.mean["accuracy"] == pytest.approx(0.724, abs=0.03)
    assert divided.mean["accuracy"] > whole.mean["accuracy"]
    assert divided.mean["auc"] > whole.mean["auc"]


def test_similar_cases_of_other_patients(mini_mias):
    """Of no mammogram does a search that leaves its patient out find one of the same patient."""
    from headwater.api import similar

    for id, patient in mini_mias.samples.select("id", "patient").rows():
        hits = similar(mini_mias, features="mobilenetv2_100/image", id=id, k=5, exclude_same="patient")
        assert len(hits) == 5
        assert all(hit.row["patient"] != patient for hit in hits)


def test_a_list_of_values_is_searched(fit, noisy):
    """A list is searched where the parameter is none itself, crossed with other lists and with what is left of the
    head's own grid; what is tried stands in trials.parquet, and the setting of the lowest loss is the one reported."""
    metrics, run = fit("--set", "C=[0.01,0.1]", "--set", "standardize=[true,false]")
    grid = metrics["selection"]["grid"]
    assert grid == [{"C": c, "standardize": s} for c in (0.01, 0.1) for s in (True, False)]
    tried = run.trials
    assert len(tried) == 4 * 6
    assert tried["fold"].null_count() == 4
    for fold in metrics["folds"]:
        mine = tried.filter(pl.col("fold") == fold["fold"])
        assert json.loads(mine.row(mine["loss"].arg_min(), named=True)["params"]) == fold["params"]
        assert mine.filter("selected")["loss"].to_list() == [mine["loss"].min()]
    metrics, _ = fit("--set", "standardize=[true,false]", out="crossed")
    assert len(metrics["selection"]["grid"]) == 34
    metrics, run = fit("--set", "C=1", out="given")
    assert run.trials is None
    for words, expected in (
        (("hidden=[8,8]",), [{}]),
        (("hidden=[[8],[8,8]]",), [{"hidden": [8]}, {"hidden": [8, 8]}]),
        (("hidden=[8]", 'class_weight=["balanced",null]'), [{"class_weight": "balanced"}, {"class_weight": None}]),
    ):
        params = dict(word.split("=") for word in ("lr=0.01", *words))
        chosen = HeadChoice.of("mlp", {name: json.loads(value) for name, value in params.items()})
        assert chosen.searches(0).to_dict() == {"grid": expected}


def test_samples_that_have_other_features_too(noisy, write_features):
    """With samples_with, a run is about the samples that have those features as well, and reads its own."""
    keys = np.asarray(noisy.features("made/image").keys)[:60]
    write_features(noisy, "other/image", np.zeros((60, 2), np.float32), keys, dtype="float32")
    run = fit_head(noisy, features="made/image", label="kind", groups="patient", samples_with="other/image")
    assert run.metrics["n_samples"] == 60
    same = fit_head(noisy, features="made/image", label="kind", groups="patient", where="age < 60")
    assert run.metrics["mean"] == same.metrics["mean"]
    assert run.config["features"].keys() == {"made/image"}
