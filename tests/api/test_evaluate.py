"""evaluate: a fitted head on another data set, its labels mapped, its drop with an interval, itself untouched."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

import headwater as hw
from headwater.api import embed, evaluate, fit_head, open_run
from headwater.evaluate import bootstrap as draw
from headwater.evaluate.calibration import calibrator_from_dict
from headwater.evaluate.intervals import evidence_of

N = 120


def vectors(seed, n=N, classes=3, shift=0.0):
    """Vectors in which one of some classes is seen, and which it is."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.standard_normal((n, 10)) + 1.5 * np.eye(10)[y] + shift, y


@pytest.fixture
def inside(make_store):
    """The data set that heads are fitted on: three kinds, two grades, two findings, three rows a patient."""
    X, y = vectors(0)
    return make_store(X, path="inside.hw", **columns(y))


@pytest.fixture
def outside(make_store):
    """Another data set, of other images, whose labels have other names too."""
    X, y = vectors(1, n=90)
    theirs = [("esche", "buche", "zeder")[k] if i else "unklar" for i, k in enumerate(y)]
    return make_store(X, path="outside.hw", first_key=N, theirs=theirs, **columns(y))


def columns(y):
    return {
        "kind": [("ash", "beech", "cedar")[k] for k in y],
        "grade": ["high" if k == 2 else "low" for k in y],
        "number": y.tolist(),
        "first": (y == 0).astype(int),
        "last": (y == 2).astype(int),
        "listed": [[name for name, on in (("first", k == 0), ("last", k == 2)) if on] for k in y],
        "who": [f"p{i // 3}" for i in range(len(y))],
        "site": [("north", "south")[i // 3 % 2] for i in range(len(y))],
    }


def fitted(store, tmp_path, label="kind", head="linear", **settings):
    given = {"features": "made/image", "groups": "who", "params": {"C": 1.0} if head == "linear" else {}, **settings}
    return fit_head(store, label=label, head=head, out=tmp_path / "run", **given)


# Untouched


def test_the_head_is_untouched(inside, outside, tmp_path, files_of, command):
    """The run stays as it is, the head's files are copied bit by bit, and the scores are those of the loaded head."""
    run = fitted(inside, tmp_path)
    before = files_of(tmp_path / "run"), files_of(outside.path)
    words = ("evaluate", run.path, outside.path, "--label", "kind", "--groups", "who", "--out", tmp_path / "out")
    done = command(*words)
    assert done.status == 0, done.err
    assert (files_of(tmp_path / "run"), files_of(outside.path)) == before
    for name in ("head.json", "head.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (run.path / name).read_bytes()
    made = open_run(tmp_path / "out")
    data = outside.read("made/image")
    scores = open_run(run.path).head.predict_proba(np.asarray(data.X))
    np.testing.assert_allclose(made.predictions.select("^score_.*$").to_numpy(), scores, atol=1e-6)
    assert made.predictions["id"].to_list() == data.ids.tolist()
    truth = np.array(["ash", "beech", "cedar"])
    assert made.metrics["mean"]["accuracy"] == accuracy_score(data.table["kind"], truth[scores.argmax(1)])
    assert made.metrics["mean"]["auc"] == pytest.approx(
        roc_auc_score(data.table["kind"], scores, multi_class="ovr"), abs=1e-6
    )
    assert made.config["command"] == "evaluate"
    assert made.metrics["selection"]["note"] == "nothing was fitted: every sample is a test sample"
    assert command(*words).status == 0  # over itself


@pytest.mark.parametrize("settings", [{"seeds": 2}, {"shots": 8, "draws": 3}, {"folds": 3}])
def test_the_estimate_within_is_the_mean_that_the_run_reports(inside, outside, tmp_path, settings):
    """Scores of different fits are never ranked together, be they of folds, seeds or draws."""
    run = fitted(inside, tmp_path, label="grade", **settings)
    found = evaluate(run, outside, label="grade", groups="who", n_draws=100).metrics["external"]["metrics"]
    for metric in ("auc", "accuracy"):
        assert found[metric]["internal"]["value"] == pytest.approx(run.mean[metric])


@pytest.mark.parametrize("head", ["linear", "knn", "prototypes", "gda", "mlp", "xgboost"])
@pytest.mark.parametrize("label", ["kind", "grade", "number"])
def test_every_head(inside, outside, tmp_path, head, label):
    """Heads of every kind are read back and tested on the other data set about as well as on their own."""
    if head == "mlp":
        pytest.importorskip("torch")
    if head == "xgboost":
        pytest.importorskip("xgboost")
    params = {"mlp": {"hidden": [16], "lr": 1e-2, "epochs": 15}, "linear": {"C": 1.0}}.get(head, {})
    run = fitted(inside, tmp_path, label, head, params=params, folds=2)
    made = evaluate(run.path, outside, label=label, groups="who")
    accuracy = made.metrics["external"]["metrics"]["accuracy"]
    assert accuracy["external"]["value"] == pytest.approx(accuracy["internal"]["value"], abs=0.2)
    assert made.metrics["classes"] == run.metrics["classes"]
    assert set(made.predictions["predicted"]) <= set(run.metrics["classes"])


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_several_inputs(inside, outside, tmp_path, write_features, head):
    """Of several inputs each goes where it went, also where the other store calls them otherwise and orders them so."""
    if head == "mlp":
        pytest.importorskip("torch")
    params = {"linear": {"C": 1.0}, "mlp": {"hidden": [16], "lr": 1e-2, "epochs": 15, "fusion": "gated"}}[head]
    for store, name in ((inside, "more/image"), (outside, "aaa/image")):
        found = store.features("made/image")
        write_features(store, name, np.asarray(found.pooled)[:, ::-1][:, :7].copy(), found.keys, dtype="float32")
    features = ["made/image", "more/image"]
    run = fit_head(inside, features=features, label="kind", head=head, params=params, groups="who", out=tmp_path / "r")
    made = evaluate(run, outside, label="kind", features=["made/image", "aaa/image"], groups="who")
    whole = {
        name: np.asarray(outside.read(theirs).X)
        for name, theirs in zip(features, ("made/image", "aaa/image"), strict=True)
    }
    X = whole if head == "mlp" else np.concatenate(list(whole.values()), axis=1)
    expected = open_run(tmp_path / "r").head.predict_proba(X)
    np.testing.assert_allclose(made.predictions.select("^score_.*$").to_numpy(), expected, atol=1e-5)
    assert list(made.config["features"]) == ["made/image", "aaa/image"]


def test_a_calibrated_run_with_a_threshold(inside, outside, tmp_path):
    """The saved head's calibrator is applied to its scores, and its threshold to these; both go with the new run."""
    run = fitted(inside, tmp_path, "grade", calibrate="temperature", sensitivity=0.9, positive="low")
    made = evaluate(run.path, outside, label="grade", groups="who", out=tmp_path / "out")
    head, decision = open_run(run.path).head, open_run(run.path).decision
    data = outside.read("made/image")
    raw = np.asarray(head.predict_proba(np.asarray(data.X)), np.float64)
    calibrated = calibrator_from_dict(decision["calibrator"])(raw)
    assert np.abs(calibrated - raw).max() > 1e-3  # else nothing would tell them apart
    np.testing.assert_allclose(made.predictions.select("^score_.*$").to_numpy(), calibrated, atol=1e-6)
    positive = data.table["grade"].to_numpy() == "low"
    above = calibrated[:, 1] >= decision["threshold"]["threshold"]
    found = made.metrics["external"]["threshold"]
    assert found["sensitivity"] == pytest.approx(above[positive].mean())
    assert found["specificity"] == pytest.approx((~above[~positive]).mean())
    assert open_run(tmp_path / "out").decision == decision


def test_a_run_on_bags(inside, outside, tmp_path):
    """A head on bags is tested on bags, by the same column, each with the label that its samples share."""
    pytest.importorskip("torch")
    params = {"epochs": 5, "width": 16}
    run = fitted(inside, tmp_path, "site", "mil", params=params, groups=None, bags="who", folds=3)
    made = evaluate(run.path, outside, label="site")
    truth = dict(outside.samples.group_by("who").agg(pl.col("site").first()).iter_rows())
    assert dict(made.predictions.select("id", "label").iter_rows()) == truth
    assert made.metrics["n_samples"] == len(truth)


def test_zero_shot_runs(store, tmp_path):
    """A head made of prompts reads the images alone, and was fitted on nothing that could be shared."""
    prompts = tmp_path / "prompts.toml"
    prompts.write_text("[classes]\nlow = 'smooth'\nhigh = 'rough'")
    run = hw.zero_shot(store, features="stub-16", prompts=prompts, label="grade", out=tmp_path / "run")
    made = evaluate(run.path, store, label="grade", groups="patient")
    np.testing.assert_allclose(made.predictions["score_low"], run.predictions["score_low"], rtol=1e-5)
    assert made.metrics["external"]["shared"] == {}
    drop = made.metrics["external"]["metrics"]["auc"]["drop"]
    assert abs(drop["value"]) < 1e-3


# Labels


def test_labels_are_mapped(inside, outside, tmp_path, command):
    """Labels get the run's classes by --map, and those mapped to nothing leave their samples out, counted."""
    run = fitted(inside, tmp_path)
    maps = [w for m in ("esche=ash", "buche=beech", "zeder=cedar", "unklar=") for w in ("--map", m)]
    words = ("evaluate", run.path, outside.path, "--label", "theirs", "--groups", "who", "--out", tmp_path / "out")
    done = command(*words, *maps)
    assert done.status == 0, done.err
    made = open_run(tmp_path / "out")
    assert made.metrics["left_out"] == {"left out by --map": 1}
    assert made.metrics["n_samples"] == 89
    plain = evaluate(run, outside, label="kind", groups="who", where="theirs <> 'unklar'")
    assert made.predictions.equals(plain.predictions)
    assert made.config["map"] == {"esche": "ash", "buche": "beech", "zeder": "cedar", "unklar": None}
    folded = evaluate(run, outside, label="kind", mapping={"ash": "beech"}, groups="who")
    assert set(folded.predictions["label"]) == {"beech", "cedar"}


def test_labels_that_the_run_merged_are_merged_again(inside, outside, tmp_path):
    """Labels become those that the run made of them, unless --map says otherwise; what it left out is left out."""
    run = fitted(inside, tmp_path, merge={"beech": "tree", "cedar": "tree"})
    made = evaluate(run, outside, label="kind", groups="who")
    assert made.predictions["label"].to_list() == [
        "ash" if kind == "ash" else "tree" for kind in outside.samples["kind"].to_list()
    ]
    by_hand = evaluate(run, outside, label="kind", groups="who", mapping={"beech": "tree", "cedar": "tree"})
    assert made.predictions.equals(by_hand.predictions)
    other = evaluate(run, outside, label="kind", groups="who", mapping={"cedar": "ash"})
    assert (other.predictions["label"] == "tree").sum() == (outside.samples["kind"] == "beech").sum()
    without = fitted(inside, tmp_path / "without", merge={"cedar": None})
    found = evaluate(without, outside, label="kind", groups="who")
    assert found.metrics["left_out"] == {"left out by the run's --merge": (outside.samples["kind"] == "cedar").sum()}
    listed = fitted(inside, tmp_path / "listed", ["first", "last"], where="kind <> 'beech'")
    assert evaluate(listed, outside, label=["first", "last"], groups="who").metrics["n_samples"] == 90


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "label 'buche' is not one of the run's classes (ash, beech, cedar): pass --map 'buche=CLASS'"),
        (("--map", "bche=beech"), "--map bche=beech: no sample has label 'bche'. Did you mean 'buche'?"),
        (("--map", "buche=beach"), "the run has no class 'beach'. Did you mean 'beech'?"),
        (("--map", "buche"), "write LABEL=CLASS"),
        (("--map", "buche=ash", "--map", "buche=ash"), "buche was mapped before"),
        (("--map", "buche=", "--map", "esche=", "--map", "zeder=", "--map", "unklar="), "none is left"),
    ],
)
def test_maps_that_cannot_be_used(inside, outside, tmp_path, refused, words, expected):
    """An unknown label, class or form of a mapping is named, with what to write."""
    run = fitted(inside, tmp_path)
    asked = ("evaluate", run.path, outside.path, "--label", "theirs", "--groups", "who")
    assert expected in refused(*asked, *words, "--out", tmp_path / "out")


def test_one_class_alone(inside, outside, tmp_path):
    """A data set of one class can be tested: what needs the others is null, and so is its drop."""
    run = fitted(inside, tmp_path, "grade")
    made = evaluate(run, outside, label="grade", where="grade = 'low'", groups="who")
    found = made.metrics["external"]["metrics"]
    assert found["accuracy"]["external"]["value"] > 0.5
    assert found["auc"]["external"]["value"] is found["auc"]["drop"]["value"] is None
    assert "auc" in "\n".join(made.lines())


def test_several_labels(inside, outside, tmp_path):
    """Labels of columns, or of a column of lists, are put in the order of the run's; one that is not here is 0."""
    run = fitted(inside, tmp_path, ["first", "last"])
    columns = evaluate(run, outside, label=["last", "first"], groups="who")
    listed = evaluate(run, outside, label="listed", groups="who")
    assert columns.predictions.equals(listed.predictions)
    data = outside.read("made/image")
    scores = run.head.predict_proba(np.asarray(data.X))
    aucs = [roc_auc_score(data.table[name], scores[:, i]) for i, name in enumerate(("first", "last"))]
    assert columns.metrics["external"]["metrics"]["auc_macro"]["external"]["value"] == pytest.approx(np.mean(aucs))
    with pytest.raises(ValueError, match="the run has several labels per sample, but --label gives one label"):
        evaluate(run, outside, label="kind", groups="who")


# The drop


def test_drop_and_its_interval(inside, outside, tmp_path):
    """The drop is the run's own mean less the value here, its interval from those of two bootstraps by patient."""
    run = fitted(inside, tmp_path, "grade")
    found = evaluate(run, outside, label="grade", groups="who", n_draws=500, seed=3).metrics["external"]
    assert found["drawn"] == {"internal": "group", "external": "group"}
    for name in ("accuracy", "auc", "log_loss", "brier"):
        parts = found["metrics"][name]
        sign = -1 if name in ("log_loss", "brier") else 1
        assert parts["internal"]["value"] == pytest.approx(run.mean[name])
        assert parts["drop"]["value"] == pytest.approx(sign * (parts["internal"]["value"] - parts["external"]["value"]))
        for part in parts.values():
            assert part["low"] < part["value"] < part["high"]
        widths = {part: numbers["high"] - numbers["low"] for part, numbers in parts.items()}
        # Variances of independent estimates add up.
        assert widths["drop"] == pytest.approx(np.hypot(widths["internal"], widths["external"]), rel=0.15)
    rows = outside.read("made/image")
    truth = (rows.table["grade"] == "low").to_numpy().astype(np.int64)
    scores = run.head.predict_proba(np.asarray(rows.X)).astype(np.float64)
    who = np.unique(rows.table["who"].to_numpy().astype(str), return_inverse=True)[1]
    drawn = draw.bootstrap("binary", [[draw.FoldScores(truth, scores, who)]], n_draws=500, seed=4)["auc"][0]
    low, high = draw.metric_interval(drawn, evidence_of("binary", truth, who, [np.arange(len(who))])["auc"])
    auc = found["metrics"]["auc"]["external"]
    assert (low, high) == pytest.approx((auc["low"], auc["high"]), abs=1e-6)


def test_a_real_drop_is_seen(inside, make_store, tmp_path, command):
    """Where the other data set is of another kind, the drop is above 0 with its whole interval, in print too."""
    run = fitted(inside, tmp_path)
    X, y = vectors(5)
    rolled = make_store(np.roll(X, 1, axis=1), path="rolled.hw", first_key=500, **columns(y))
    words = ("evaluate", run.path, rolled.path, "--label", "kind", "--groups", "who")
    drop = json.loads(command(*words, "--json").out)["external"]["metrics"]["accuracy"]["drop"]
    assert drop["low"] > 0.1
    out = command(*words).out
    line = next(line for line in out.splitlines() if line.startswith("  accuracy") and line.count("[") == 3)
    assert f"{drop['value']:+.3f} [{drop['low']:+.3f}, {drop['high']:+.3f}]" in line
    assert "95% intervals by resampling groups" in out


def test_by_and_where(inside, outside, tmp_path):
    """Results are given for each level of a column, and for some of the samples alone."""
    run = fitted(inside, tmp_path)
    made = evaluate(run, outside, label="kind", groups="who", by="site")
    levels = made.metrics["by"]["levels"]
    north = evaluate(run, outside, label="kind", groups="who", where="site = 'north'")
    assert levels["north"]["mean"]["accuracy"] == north.mean["accuracy"]
    assert levels["north"]["n_samples"] + levels["south"]["n_samples"] == 90


# What is refused


def test_data_that_the_head_was_fitted_on(inside, tmp_path, refused, command):
    """Images and patients that the head was fitted on are counted and refused, or allowed for a reason that is kept."""
    run = fitted(inside, tmp_path, where="site = 'north'")
    words = ("evaluate", run.path, inside.path, "--label", "kind", "--groups", "who")
    error = refused(*words, "--out", tmp_path / "out")
    assert "among 120 samples there are 60 samples whose image the head was fitted on and 20 who values" in error
    assert command(*words, "--where", "site = 'south'").status == 0
    assert command(*words, "--allow-leakage", "to see", "--out", tmp_path / "out").status == 0
    external = open_run(tmp_path / "out").metrics["external"]
    assert external["shared"] == {"image": 60, "groups": 20}
    assert external["allowed"] == "to see"
    assert "needs a reason" in refused(*words, "--allow-leakage", "")


def test_data_that_cannot_be_compared(inside, outside, tmp_path, command):
    """Where the run's own store is gone, it is said that nothing could be checked, and metrics.json has null."""
    run = fitted(inside, tmp_path)
    inside.path.rename(tmp_path / "moved.hw")
    done = command("evaluate", run.path, outside.path, "--label", "kind", "--groups", "who", "--out", tmp_path / "out")
    assert done.status == 0
    assert "cannot check whether the head was fitted on any of these samples: " in done.err
    assert open_run(tmp_path / "out").metrics["external"]["shared"] is None


def test_some_texts_are_the_same_anywhere(gallery, images, tmp_path):
    """A few reports of the same words are counted; where most are the same, the data are."""
    own = embed(gallery / "manifest.csv", tmp_path / "own.hw", encoder="builtin:ngram")
    run = fit_head(own, features="ngram/text", label="grade", groups="patient", params={"C": 1.0}, out=tmp_path / "run")
    table = pl.read_csv(images / "manifest.csv")
    few = pl.concat([table["caption"][:4], pl.Series([f"other words {i}" for i in range(12)])])
    table.with_columns(caption=few).write_csv(images / "few.csv")
    theirs = embed(images / "few.csv", tmp_path / "few.hw", encoder="builtin:ngram")
    assert evaluate(run, theirs, label="grade", groups="patient").metrics["external"]["shared"] == {"text": 4}
    same = embed(images / "manifest.csv", tmp_path / "same.hw", encoder="builtin:ngram")
    with pytest.raises(ValueError, match="16 samples whose text the head was fitted on"):
        evaluate(run, same, label="grade", groups="patient")


def test_features_of_another_spec(inside, make_store, tmp_path, refused, write_features):
    """Features of another spec are refused with the fields that differ; under another name they are suggested."""
    run = fitted(inside, tmp_path)
    X, y = vectors(7)
    wide = make_store(np.concatenate([X, X], 1), path="wide.hw", first_key=500, **columns(y))
    error = refused("evaluate", run.path, wide.path, "--label", "kind", "--groups", "who")
    assert "(dim: 10 in the run, 20 here)" in error
    other = make_store(X, name="other/image", path="other.hw", first_key=500, **columns(y))
    words = ("evaluate", run.path, other.path, "--label", "kind", "--groups", "who")
    assert "no features 'made/image', which the run reads. Pass --features other/image." in refused(*words)
    assert "names 2 feature sets" in refused(*words, "--features", "other/image", "--features", "other/image")
    keys = other.features("other/image").keys
    write_features(other, "made/image", X.astype(np.float16), keys, dtype="float16", pooling="mean")
    error = refused(*words)
    assert "pooling: 'default' in the run, 'mean' here; dtype: 'float32' in the run, 'float16' here" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--label", "knd"), "--label: no column 'knd'. Did you mean 'kind'?"),
        (("--label", "kind", "--groups", "wo"), "--groups: no column 'wo'"),
        (("--label", "kind", "--by", "sit"), "--by: no column 'sit'"),
        (("--label", "kind", "--draws", "5"), "--draws must be at least 100"),
        (("--label", "kind", "--level", "95"), "--level must be between 0 and 1"),
        (("--label", "kind", "--out", "run"), "which must stay as it is"),
        (("--label", "first", "--label", "last"), "the run has one label per sample, but --label gives several labels"),
    ],
)
def test_what_cannot_be_evaluated(inside, outside, tmp_path, refused, monkeypatch, words, expected):
    """An option that cannot be used is named with what to do, and the run stays as it is."""
    run = fitted(inside, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert expected in refused("evaluate", run.path, outside.path, *words)


def test_an_evaluation_is_not_evaluated(inside, outside, tmp_path, refused):
    """An evaluation has no estimate within its own data: the run that it is of is named."""
    run = fitted(inside, tmp_path)
    evaluate(run, outside, label="kind", groups="who", out=tmp_path / "out")
    error = refused("evaluate", tmp_path / "out", outside.path, "--label", "kind")
    assert error.endswith(f"out is itself an evaluation. Pass the run that it evaluates: {run.path}.")


def test_the_verb_is_the_package(inside, outside, tmp_path):
    """headwater.evaluate is called, and holds splits and metrics as before."""
    run = fitted(inside, tmp_path)
    assert hw.evaluate(run, outside, label="kind", groups="who").mean["accuracy"] > 0.5
    assert hw.evaluate.make_splits(["a", "b"] * 4, n_folds=2)[0].fold == 0
