"""fit-head beyond folds: calibration, thresholds, prediction sets, exams, seeds and few shots, on rows nothing saw."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score, roc_auc_score

from headwater.api import compare, fit_head, open_run
from headwater.errors import InputError
from headwater.evaluate import inner_splits
from headwater.evaluate.calibration import calibrator_from_dict, fit_calibrator
from headwater.experiment.head import HeadChoice
from headwater.heads import LinearProbe

N = 160


@pytest.fixture
def breasts(make_store):
    """A store in which a finding and a density are seen dimly; four images a patient, two of each breast."""
    rng = np.random.default_rng(0)
    patient = np.arange(N) // 4
    density = rng.integers(0, 3, N // 4)[patient]
    finding = rng.random(N) < 0.3 + 0.2 * (density == 2)
    X = rng.standard_normal((N, 8))
    X[:, 0] += 1.5 * finding
    X[:, 1:4] += np.eye(3)[density]
    fold = np.arange(N) // 4 % 4
    return make_store(
        X,
        finding=[("benign", "malignant")[f] for f in finding.astype(int)],
        poisoned=[("benign", "malignant")[f] for f in np.where(fold == 2, ~finding, finding).astype(int)],
        density=[("a", "b", "c")[d] for d in density],
        patient=[f"p{p:02d}" for p in patient],
        breast=[f"p{i // 4:02d}-{'LR'[i // 2 % 2]}" for i in range(N)],
        view=[("CC", "MLO")[i % 2] for i in range(N)],
        fold=fold,
        x=finding.astype(int),
        z=(X[:, 5] > 0).astype(int),
    )


@pytest.fixture
def fit(breasts, tmp_path):
    """Return a function that fits a head on the store and reads the run back."""

    def run(label="finding", groups="patient", out="run", **options):
        fit_head(breasts, features="made/image", label=label, groups=groups, out=tmp_path / out, **options)
        return open_run(tmp_path / out)

    return run


def folds_of(run):
    """The predictions of each fold, in order."""
    return [part for _, part in run.predictions.group_by("fold", maintain_order=True)]


# Calibration


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibrated_metrics(fit, method):
    """Metrics and predictions are of calibrated scores; what they were before stands beside them."""
    plain, run = fit(out="plain"), fit(calibrate=method)
    section = run.metrics["calibration"]
    for fold, before, entry, part, old in zip(
        run.metrics["folds"], plain.metrics["folds"], section["folds"], folds_of(run), folds_of(plain), strict=True
    ):
        truth, p = part["label"] == "malignant", part["score_malignant"]
        assert fold["log_loss"] == pytest.approx(log_loss(truth, p))
        assert fold["brier"] == pytest.approx(brier_score_loss(truth, p))
        assert entry["calibrated"] == {name: pytest.approx(fold[name]) for name in ("log_loss", "ece", "brier")}
        assert entry["uncalibrated"] == {name: pytest.approx(before[name]) for name in ("log_loss", "ece", "brier")}
        order = np.argsort(old["score_malignant"].to_numpy())
        assert (np.diff(p.to_numpy()[order]) >= -1e-12).all()  # both methods keep the order
    assert section["uncalibrated"]["mean"]["log_loss"] == pytest.approx(plain.mean["log_loss"])
    assert section["calibrated"]["mean"]["log_loss"] == pytest.approx(run.mean["log_loss"])
    assert sum(run.metrics["reliability"]["count"]) == sum(section["uncalibrated"]["reliability"]["count"]) == N


def test_calibrators_are_fitted_to_out_of_fold_scores(fit, breasts):
    """A fold's temperature is the one fitted, by hand, to the scores of inner folds of its training rows."""
    run = fit(calibrate="temperature", split="fold", params={"C": 10.0})
    plain = fit(split="fold", params={"C": 10.0}, out="plain")
    data = breasts.read("made/image")
    X, y = np.asarray(data.X[:]), data.table["finding"].to_numpy()
    patient, fold = data.table["patient"].to_numpy(), data.table["fold"].to_numpy()
    for number, (part, old) in enumerate(zip(folds_of(run), folds_of(plain), strict=True)):
        train = np.flatnonzero(fold != number)
        rows, scores = [], []
        for inner in inner_splits(y[train], patient[train], 4, 0):
            head = LinearProbe(C=10.0).fit(X[train[inner.train]], y[train[inner.train]])
            rows.append(train[inner.test])
            scores.append(head.predict_proba(X[train[inner.test]]))
        truth = (y[np.concatenate(rows)] == "malignant").astype(int)
        fitted = fit_calibrator("temperature", "binary", truth, np.concatenate(scores).astype(float))
        expected = fitted(old.select("score_benign", "score_malignant").to_numpy())
        assert np.allclose(part["score_malignant"], expected[:, 1], atol=2e-3)


def test_the_calibrator_of_the_saved_head(fit, tmp_path):
    """decision.json holds it as plain JSON; a run without one over it leaves none behind."""
    run = fit(calibrate="isotonic", label="density")
    kept = json.loads((tmp_path / "run" / "decision.json").read_text())
    assert run.decision == kept
    assert kept["classes"] == ["a", "b", "c"]
    found = calibrator_from_dict(kept["calibrator"])(np.full((1, 3), 1 / 3))
    assert found.shape == (1, 3)
    assert found.sum() == pytest.approx(1)
    assert fit(label="density").decision == {}
    assert not (tmp_path / "run" / "decision.json").exists()


def test_labels_of_test_rows_reach_no_calibrator_threshold_or_set(fit):
    """With the labels of one fold's test rows turned round, its scores, threshold and sets stay as they are."""
    options = {"split": "fold", "calibrate": "isotonic", "sensitivity": 0.9, "conformal": 0.2, "head": "prototypes"}
    honest, poisoned = (fit(label=label, out=label, **options) for label in ("finding", "poisoned"))
    thresholds = [[f["threshold"] for f in run.metrics["threshold"]["folds"]] for run in (honest, poisoned)]
    assert thresholds[0][2] == thresholds[1][2]
    assert thresholds[0] != thresholds[1]
    parts = [run.predictions.filter(fold=2).select("id", "set", "score_malignant") for run in (honest, poisoned)]
    assert parts[0].equals(parts[1])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_several_labels_are_calibrated_each(fit, method):
    """A task of several labels has log loss, calibration error and Brier score before and after."""
    run = fit(label=["x", "z"], calibrate=method)
    for key in ("uncalibrated", "calibrated"):
        assert set(run.metrics["calibration"][key]["mean"]) == {"log_loss", "ece", "brier"}
    assert sum(run.metrics["reliability"]["count"]) == 2 * N


# Thresholds


@pytest.mark.parametrize(("target", "at"), [("sensitivity", 0.9), ("specificity", 0.8)])
def test_threshold(fit, target, at):
    """Each fold's shares are those of its test rows at its threshold; on average the target is nearly met."""
    run = fit(**{target: at})
    section = run.metrics["threshold"]
    for fold, part in zip(section["folds"], folds_of(run), strict=True):
        truth, called = part["label"] == "malignant", part["score_malignant"] >= fold["threshold"]
        assert fold["sensitivity"] == pytest.approx(recall_score(truth, called))
        assert fold["specificity"] == pytest.approx(recall_score(~truth, ~called))
    assert section["mean"]["sensitivity"] == pytest.approx(np.mean([f["sensitivity"] for f in section["folds"]]))
    assert section["mean"][target] == pytest.approx(at, abs=0.1)
    assert run.decision["threshold"] | {"threshold": 0} == {
        "target": target,
        "at": at,
        "positive": "malignant",
        "threshold": 0,
    }


# Prediction sets


def test_prediction_sets(fit):
    """predictions.parquet lists each sample's set, and coverage and size are counted from it, by level too."""
    run = fit(label="density", conformal=0.2, by="view")
    section = run.metrics["conformal"]
    for fold, part in zip(section["folds"], folds_of(run), strict=True):
        sets = part["set"].to_list()
        assert fold["coverage"] == pytest.approx(np.mean([y in s for y, s in zip(part["label"], sets, strict=True)]))
        assert fold["mean_size"] == pytest.approx(np.mean([len(s) for s in sets]))
        assert fold["single"] == pytest.approx(np.mean([len(s) == 1 for s in sets]))
    assert section["mean"]["coverage"] == pytest.approx(0.8, abs=0.1)
    assert set(section["by"]) == {"CC", "MLO"}
    assert np.mean([section["by"][v]["mean"]["coverage"] for v in ("CC", "MLO")]) == pytest.approx(
        section["mean"]["coverage"]
    )
    assert len(set(run.decision["conformal"]["least"])) == 1
    assert len(set(fit(label="density", conformal=0.2, conformal_per_class=True).decision["conformal"]["least"])) == 3


@pytest.mark.parametrize("per", [None, "breast"])
def test_shares_at_a_threshold_have_intervals(fit, per, command):
    """Sensitivity, specificity, predictive values and coverage, of images and of breasts: by patient, never a point."""
    run = fit(sensitivity=0.9, conformal=0.1, per=per)
    for part in (run.metrics, *([run.metrics["per"]] if per else [])):
        for name in ("sensitivity", "specificity", "ppv", "npv", "recall_rate", "detection_rate"):
            low, high = part["threshold"]["intervals"][name]
            assert low <= part["threshold"]["mean"][name] <= high
            assert 0 <= low < high <= 1
        for name, (low, high) in part["conformal"]["intervals"].items():
            assert low <= part["conformal"]["mean"][name] <= high
            assert low < high
    low, high = run.metrics["threshold"]["intervals"]["sensitivity"]
    assert f"[{low:.3f}, {high:.3f}]" in "\n".join(run.lines())
    by_row = fit(sensitivity=0.9, conformal=0.1, groups="none", out="rows").metrics["conformal"]
    assert by_row["intervals"]["coverage"] != run.metrics["conformal"]["intervals"]["coverage"]


# Units that are kept whole


@pytest.fixture
def signed(make_store):
    """A store in which nothing can be learned, but images of a woman look alike; some cassettes hold two women."""
    rng = np.random.default_rng(0)
    woman = np.repeat(np.arange(24), 6)
    X = 3 * rng.standard_normal((24, 16))[woman] + 0.3 * rng.standard_normal((len(woman), 16))
    image = np.arange(len(woman))
    return make_store(
        X,
        woman=[f"w{w:02d}" for w in woman],
        exam=[f"e{w:02d}-{i % 2}" for i, w in zip(image, woman, strict=True)],
        slide=[f"s{i // 2:02d}" for i in image],
        cassette=[f"c{w // 2}" if i % 6 == 0 else f"o{w}" for i, w in zip(image, woman, strict=True)],
        label=np.array(["b", "m"])[woman % 2],
        part=np.array(["train", "test"])[(woman // 2 % 3 == 0).astype(int)],
    )


WHOLE = {
    "selection": {},
    "calibration": {"calibrate": "temperature"},
    "threshold": {"sensitivity": 0.9},
    "prediction sets": {"conformal": 0.1},
    "all of them, on a split": {"calibrate": "isotonic", "specificity": 0.8, "conformal": 0.2, "split": "part"},
    "hold-out": {"holdout": 0.3, "sensitivity": 0.9},
    "early stopping": {"head": "mlp", "params": {"hidden": [8], "epochs": 30, "patience": 3}},
    "few shots": {"shots": 8, "draws": 2},
    "seeds": {"seeds": 2, "conformal": 0.1},
    "controls": {"controls": True},
    "bags": {"bags": "slide", "head": "mil", "params": {"epochs": 3, "patience": 2}},
    "neighbours, aggregated": {"head": "knn", "aggregate": "max", "sensitivity": 0.9},
}


@pytest.mark.parametrize("options", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("finer", ["none", "exam"])
def test_units_are_as_whole_as_groups(signed, options, finer):
    """``per`` without groups, or with finer ones, divides a woman nowhere: all is as with ``groups`` of women."""
    if finer == "exam" and "bags" in options:
        finer = "slide"
    asked = {"features": "made/image", "label": "label", "per": "woman", "folds": None, **options}
    asked |= {"inner_folds": 3, "folds": None if {"split", "holdout"} & set(options) else 3}
    whole = fit_head(signed, groups="woman", **asked)
    found = fit_head(signed, groups=finer, **asked)
    for part in ("folds", "threshold", "conformal", "calibration", "per", "controls", "selection"):
        assert found.metrics.get(part) == whole.metrics.get(part), part
    assert found.predictions.equals(whole.predictions)
    assert found.decision == whole.decision


def test_a_patient_signature_promises_nothing(signed):
    """On women it never saw, a threshold or a set from divided women would reach nothing of what was asked."""
    asked = {"features": "made/image", "label": "label", "split": "part", "per": "woman", "groups": "none"}
    run = fit_head(signed, sensitivity=0.9, conformal=0.1, **asked)
    assert run.metrics["threshold"]["mean"]["sensitivity"] > 0.5
    assert run.metrics["conformal"]["mean"]["coverage"] > 0.5


def test_groups_and_units_that_cross_are_kept_whole_together(signed):
    """Neither a woman nor a cassette that holds two is divided by any fold."""
    run = fit_head(signed, features="made/image", label="label", groups="woman", per="cassette", folds=3)
    table = run.predictions.join(signed.samples.select("id", "woman", "cassette"), on="id")
    for column in ("woman", "cassette"):
        assert table.group_by(column).agg(pl.col("fold").n_unique())["fold"].max() == 1


# Exams and patients


@pytest.mark.parametrize("how", ["mean", "max", "noisy-or"])
def test_metrics_of_exams(fit, how):
    """Metrics of breasts are those of their images' probabilities brought together by hand."""
    run = fit(per="breast", aggregate=how, sensitivity=0.9)
    section = run.metrics["per"]
    assert section["n_units"] == N // 2
    brought = {"mean": pl.element().mean(), "max": pl.element().max(), "noisy-or": 1 - (1 - pl.element()).product()}
    for fold, part in zip(section["folds"], folds_of(run), strict=True):
        breast = part["group"] + "-" + part["id"].str.slice(1).cast(pl.Int64).map_elements(lambda i: "LR"[i // 2 % 2])
        units = part.with_columns(breast=breast).group_by("breast").agg("score_malignant", "label")
        p = units["score_malignant"].list.eval(brought[how]).list.first().to_numpy()
        truth = units["label"].list.contains("malignant").to_numpy()
        assert fold["n_test"] == len(units) == len(part) / 2
        assert fold["auc"] == pytest.approx(roc_auc_score(truth, p))
        assert fold["accuracy"] == pytest.approx(accuracy_score(truth, p > 0.5))
    assert set(section["mean"]) == set(run.mean)
    assert {"sensitivity", "threshold"} <= set(section["threshold"]["mean"])
    assert run.decision["per"]["aggregate"] == how


# Seeds and draws


def test_seeds(fit):
    """All folds of all seeds are reported, each seed's being those of a run with that seed; the head is the first's."""
    run = fit(seeds=3, seed=5, calibrate="temperature")
    alone = [fit(seed=seed, calibrate="temperature", out=f"s{seed}") for seed in (5, 6, 7)]
    assert [(f["seed"], f["fold"]) for f in run.metrics["folds"]] == [(s, f) for s in (5, 6, 7) for f in range(5)]
    assert [m["seed"] for m in run.metrics["by_seed"]] == [5, 6, 7]
    for found, one in zip(run.metrics["by_seed"], alone, strict=True):
        assert found["mean"] == pytest.approx(one.mean)
        mine = run.predictions.filter(seed=found["seed"]).drop("seed")
        assert mine.equals(one.predictions)
    aucs = [f["auc"] for f in run.metrics["folds"]]
    assert run.mean["auc"] == pytest.approx(np.mean(aucs))
    assert run.std["auc"] == pytest.approx(np.std(aucs, ddof=1))
    assert np.array_equal(run.head.coef_, alone[0].head.coef_)
    assert run.decision == alone[0].decision
    assert run.lines()[0].endswith("over 5 folds x 3 seeds")


def test_seeds_of_networks_train_together(fit):
    """Networks of all seeds are one batch, drawn by their own seeds: each seed's are those of a run with that seed."""
    options = {"head": "mlp", "params": {"hidden": [8], "epochs": 5, "lr": [0.01, 0.1], "precision": "fp32"}}
    run = fit(seeds=2, seed=3, **options)
    for found, seed in zip(run.metrics["by_seed"], (3, 4), strict=True):
        alone = fit(seed=seed, out=f"s{seed}", **options)
        mine = run.predictions.filter(seed=seed)
        assert mine["id"].equals(alone.predictions["id"])
        assert mine["score_malignant"].to_numpy() == pytest.approx(
            alone.predictions["score_malignant"].to_numpy(), abs=1e-4
        )
        assert found["mean"]["auc"] == pytest.approx(alone.mean["auc"], abs=1e-3)
    one, other = (run.predictions.filter(seed=seed).sort("id")["score_malignant"].to_numpy() for seed in (3, 4))
    assert one != pytest.approx(other, abs=1e-3)


def test_a_head_that_draws_gets_the_seed():
    """A head with a seed of its own is given the protocol's, unless it was set; others are left alone."""
    assert HeadChoice.of("mlp", {}).head(3).seed == 3
    assert HeadChoice.of("mlp", {"seed": 1}).head(3).seed == 1
    assert not hasattr(HeadChoice.of("linear", {}).head(3), "seed")


def test_runs_of_several_seeds_are_not_compared(fit):
    """compare refuses folds that share samples, whichever run has them."""
    one, several = fit(out="a"), fit(seeds=2, out="b")
    for runs in ([one, several], [several, one]):
        with pytest.raises(ValueError, match="more than once, with several seeds or draws"):
            compare(runs)


def test_shots(fit, breasts):
    """Each draw trains on so many rows a class of other patients, and tests the same rows as the other draws."""
    run = fit(label="density", shots=6, draws=3)
    assert [(f["fold"], f["draw"]) for f in run.metrics["folds"]] == [(f, d) for f in range(5) for d in range(3)]
    assert all(f["n_train"] == 18 for f in run.metrics["folds"])
    for part in folds_of(run):
        ids = [p["id"].to_list() for _, p in part.group_by("draw", maintain_order=True)]
        assert ids[0] == ids[1] == ids[2]
    assert [m["draw"] for m in run.metrics["by_draw"]] == [0, 1, 2]
    assert run.mean["auc"] < fit(label="density", out="all").mean["auc"]
    assert "18 rows" in run.metrics["selection"]["saved_head"]
    assert run.lines()[0].endswith("over 5 folds x 3 draws")


def test_config_and_print(fit, command, breasts, tmp_path):
    """The command takes what Python takes, writes it down, and prints a part for each."""
    words = ("--features", "made/image", "--label", "finding", "--groups", "patient", "--seeds", "2", "--shots", "20")
    more = ("--draws", "2", "--calibrate", "temperature", "--sensitivity", "0.9", "--conformal", "0.2")
    last = ("--conformal-per-class", "--per", "breast", "--aggregate", "noisy-or", "--by", "view")
    done = command("fit-head", breasts.path, *words, *more, *last, "--out", tmp_path / "cli")
    assert done.status == 0, done.err
    run = open_run(tmp_path / "cli")
    expected = {
        "seeds": 2,
        "shots": 20,
        "draws": 2,
        "calibrate": "temperature",
        "sensitivity": 0.9,
        "specificity": None,
        "conformal": 0.2,
        "conformal_per_class": True,
        "per": "breast",
        "aggregate": "noisy-or",
    }
    assert {name: run.config[name] for name in expected} == expected
    for line in (
        "binary, 160 samples, mean ± standard deviation over 5 folds x 2 seeds x 2 draws",
        "calibrated (temperature, fitted on training rows)",
        "threshold for a sensitivity of 0.9, chosen on training rows",
        "prediction sets that may miss 20 % of each class, fitted on training rows",
        "80 breasts (noisy-or of the samples' scores)",
    ):
        assert line in done.out.splitlines()
    python = fit(
        seeds=2,
        shots=20,
        draws=2,
        calibrate="temperature",
        sensitivity=0.9,
        conformal=0.2,
        conformal_per_class=True,
        per="breast",
        aggregate="noisy-or",
        by="view",
    )
    assert python.metrics == run.metrics


def test_three_labels_a_sample(make_store, command):
    """Where each sample has three labels, what its three highest scores say is printed too."""
    rng = np.random.default_rng(0)
    tags = [";".join(sorted(rng.choice(["a", "b", "c", "d", "e"], 3, replace=False))) for _ in range(60)]
    store = make_store(rng.standard_normal((60, 4)), tags=tags, more=["a", *tags[1:]])
    words = ("--features", "made/image", "--label-separator", ";", "--groups", "none", "--set", "C=1", "--label")
    three, other = (command("fit-head", store.path, *words, label).out for label in ("tags", "more"))
    assert [line.split()[0] for line in three.splitlines() if "top3" in line] == [
        f"top3_{what}" for what in ("f1_micro", "f1_macro", "hamming", "1", "2", "3")
    ]
    assert "top3" not in other


# Refusals


@pytest.mark.parametrize(
    ("label", "words", "expected"),
    [
        ("finding", ("--calibrate", "isotonc"), "Did you mean 'isotonic'?"),
        ("finding", ("--sensitivity", "1.2"), "--sensitivity 1.2: must be above 0 and at most 1"),
        ("finding", ("--sensitivity", "nan"), "--sensitivity nan: must be above 0 and at most 1"),
        ("finding", ("--sensitivity", "0.9", "--specificity", "0.9"), "--sensitivity goes without --specificity"),
        ("density", ("--sensitivity", "0.9"), "--sensitivity needs two classes, but this is a multiclass task"),
        ("finding", ("--conformal", "0"), "--conformal 0: must be between 0 and 1"),
        ("finding", ("--conformal-per-class",), "goes with --conformal"),
        ("finding", ("--conformal", "0.1", "--shots", "5"), "--conformal with --shots goes with --conformal-per-class"),
        ("finding", ("--draws", "3"), "--draws goes with --shots"),
        ("finding", ("--aggregate", "max"), "--aggregate goes with --per"),
        ("finding", ("--per", "breast", "--aggregate", "men"), "Did you mean 'mean'?"),
        ("finding", ("--per", "brest"), "--per: no column 'brest'. Did you mean 'breast'?"),
        ("density", ("--per", "breast", "--aggregate", "noisy-or"), "with more than two classes use mean or max"),
        ("density", ("--per", "view"), "--per view: together with --groups it connects all samples"),
        ("finding", ("--shots", "90"), "48 training rows of class malignant, but --shots 90 needs that many of each"),
        ("finding", ("--shots", "1"), "class benign is in only one training group"),
        ("finding", ("--seeds", "2", "--split", "fold"), "so all repetitions would be identical. Leave --seeds out"),
        ("finding", ("--seeds", "2", "--head", "mlp", "--set", "seed=1"), "--set seed=… goes without --seeds"),
    ],
)
def test_options_that_cannot_be(refused, breasts, tmp_path, label, words, expected):
    """Options that contradict each other, the task or the data end with one line."""
    asked = ("--features", "made/image", "--label", label, "--groups", "patient", "--out", tmp_path / "run")
    assert expected in refused("fit-head", breasts.path, *asked, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--conformal", "0.1", "--conformal-per-class"),
        ("--shots", "5"),
        ("--sensitivity", "0.9"),
        ("--prevalence", "0.1"),
    ],
)
def test_options_that_several_labels_have_no_use_for(refused, breasts, words):
    """What needs one class a sample is refused for several labels."""
    asked = ("--features", "made/image", "--label", "x", "--label", "z", "--groups", "patient")
    assert "multilabel task" in refused("fit-head", breasts.path, *asked, *words)


def test_a_class_that_training_rows_lack(refused, make_store):
    """A given split that trains without one of the classes is refused, with the class."""
    part = ["train", "test"] * 20
    store = make_store(np.eye(40), label=[("a", "b")[p == "test" and i > 20] for i, p in enumerate(part)], part=part)
    asked = ("--features", "made/image", "--label", "label", "--split", "part", "--set", "C=1")
    assert "no training rows of class b" in refused("fit-head", store.path, *asked)


def test_exams_whose_images_disagree(refused, make_store):
    """Of more than two classes, an exam whose images have different ones is named."""
    X = np.random.default_rng(0).standard_normal((60, 3))
    store = make_store(X, label=[("a", "b", "c")[i % 3] for i in range(60)], exam=[f"e{i // 2:02d}" for i in range(60)])
    asked = ("--features", "made/image", "--label", "label", "--groups", "exam", "--per", "exam", "--set", "C=1")
    assert "--per exam: e00 has rows of a and of b." in refused("fit-head", store.path, *asked)


def test_a_unit_that_is_whole_anyway_is_not_asked_about(breasts):
    """`--per patient` keeps patients whole: `--groups` may be left out though there is a column of patients."""
    run = fit_head(breasts, features="made/image", label="finding", per="patient", folds=3)
    assert run.predictions.group_by("group").agg(pl.col("fold").n_unique())["fold"].max() == 1
    with pytest.raises(InputError, match="pass --groups patient"):
        fit_head(breasts, features="made/image", label="finding", per="breast", folds=3)


def test_too_few_patients_for_a_threshold_are_said(fit):
    """A sensitivity that needs more patients of the class than there are is warned of, with their number."""
    few = fit(sensitivity=0.999)
    found = few.metrics["threshold"]["too_few"]
    assert found["needed"] == 999
    assert 0 < found["groups"] < 999
    line = "warning: a sensitivity of 0.999 needs at least 999 groups (such as patients) with malignant to choose a "
    assert any(said.startswith(f"{line}threshold on, but a fold has ") for said in few.lines())
    enough = fit(sensitivity=0.5, out="enough")
    assert "too_few" not in enough.metrics["threshold"]
