"""The positive class is the same one in everything that a run reports, keeps and prints."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score

from headwater.api import compare, evaluate, fit_head, open_run, zero_shot
from headwater.report import plot

N = 160


def columns(n=N, seed=0):
    """Cancers, dimly seen, among three times as many healthy; the same as 0/1, and as names that say it."""
    rng = np.random.default_rng(seed)
    cancer = rng.random(n) < 0.27
    X = rng.standard_normal((n, 6))
    X[:, 0] += 1.7 * cancer
    words = {
        "state": ("healthy", "cancer"),
        "truth": (0, 1),
        "finding": ("benign", "malignant"),
        "kind": ("normal", "cancer"),
    }
    table = {name: [pair[int(c)] for c in cancer] for name, pair in words.items()}
    return X, {**table, "patient": [f"p{i // 2}" for i in range(n)], "three": [f"c{i % 3}" for i in range(n)]}


@pytest.fixture
def store(make_store):
    X, table = columns()
    return make_store(X, **table)


def found_of(name, table):
    """The share of a class that is called so."""
    return (table["predicted"] == name).filter(table["label"] == name).mean()


@pytest.mark.parametrize(
    "options",
    [
        {"sensitivity": 0.9},
        {"specificity": 0.8, "calibrate": "isotonic"},
        {"sensitivity": 0.9, "calibrate": "temperature", "conformal": 0.2},
        {"sensitivity": 0.9, "per": "patient", "aggregate": "max"},
        {"sensitivity": 0.8, "per": "patient", "aggregate": "noisy-or", "head": "knn"},
        {"controls": True, "head": "prototypes"},
        {"by": "three"},
    ],
)
def test_a_named_class_is_as_if_it_were_1(store, tmp_path, options):
    """Whatever is reported of cancer among cancer and healthy equals what is reported of 1 among 0 and 1."""
    more = {"features": "made/image", "groups": "patient", "folds": 3, **options}
    named = fit_head(store, label="state", positive="cancer", out=tmp_path / "named", **more)
    numbered = fit_head(store, label="truth", out=tmp_path / "numbered", **more)
    assert named.metrics["classes"] == ["healthy", "cancer"]
    assert named.metrics["positive"] == {"name": "cancer", "by": "option"}
    for name in ("recall", "precision", "f1", "auc", "average_precision", "brier", "ece"):
        assert named.mean[name] == pytest.approx(numbered.mean[name], abs=1e-5), name
    for section in ("threshold", "per"):
        if section in numbered.metrics:
            mean = named.metrics[section]["mean"]
            assert mean == pytest.approx(numbered.metrics[section]["mean"], abs=1e-5), section
    if "per" in options:
        mean = named.metrics["per"]["threshold"]["mean"]
        assert mean == pytest.approx(numbered.metrics["per"]["threshold"]["mean"], abs=1e-5)
    scores = named.predictions["score_cancer"].to_numpy()
    np.testing.assert_allclose(scores, numbered.predictions["score_1"].to_numpy(), atol=1e-5)
    if "threshold" in named.decision:
        assert named.decision["threshold"]["positive"] == "cancer"
        assert named.decision["threshold"]["threshold"] == pytest.approx(
            numbered.decision["threshold"]["threshold"], abs=1e-5
        )


def test_metrics_are_those_of_the_named_class(store):
    """Against scikit-learn, from the predictions that are written."""
    run = fit_head(store, features="made/image", label="state", groups="patient", positive="cancer", holdout=0.4)
    table = run.predictions
    truth, called = table["label"].to_numpy() == "cancer", table["predicted"].to_numpy() == "cancer"
    assert run.mean["recall"] == pytest.approx(recall_score(truth, called))
    assert run.mean["precision"] == pytest.approx(precision_score(truth, called))
    expected = average_precision_score(truth, table["score_cancer"].to_numpy())
    assert run.mean["average_precision"] == pytest.approx(expected)


def test_the_sensitivity_that_was_asked_for_is_that_of_the_cancers(make_store):
    """On patients that nothing saw: of 20 data sets, on average, as many cancers are found as were asked for."""
    found = []
    for seed in range(20):
        X, table = columns(400, seed)
        store = make_store(X, path=f"{seed}.hw", **table)
        run = fit_head(
            store, features="made/image", label="state", groups="patient", positive="cancer", sensitivity=0.9, folds=3
        )
        limit = {f["fold"]: f["threshold"] for f in run.metrics["threshold"]["folds"]}
        cancers = run.predictions.filter(run.predictions["label"] == "cancer")
        found += [p >= limit[f] for f, p in cancers.select("fold", "score_cancer").iter_rows()]
    assert np.mean(found) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("option", ["--sensitivity", "--specificity"])
def test_a_target_needs_a_positive_class(store, tmp_path, refused, option):
    """Where the names do not say which class it is, it must be named; nothing is fitted before."""
    words = ("fit-head", store.path, "--features", "made/image", "--groups", "patient", option, "0.9")
    message = refused(*words, "--label", "state", "--out", tmp_path / "r")
    assert f"{option} needs to know the positive class" in message
    assert "--positive 'cancer' or --positive 'healthy'" in message
    assert "no such class" in refused(*words, "--label", "state", "--positive", "tumor")


@pytest.mark.parametrize("label", ["finding", "truth", "kind"])
def test_names_that_say_it_need_no_option(store, label):
    run = fit_head(store, features="made/image", label=label, groups="patient", sensitivity=0.9, folds=2)
    assert run.metrics["positive"]["by"] == "names"
    positive = {"finding": "malignant", "truth": 1, "kind": "cancer"}[label]
    assert run.metrics["threshold"]["positive"] == run.metrics["classes"][1] == positive


@pytest.mark.parametrize("one", [1, 1.0, np.int64(1), np.float32(1), "1", " 1 "])
def test_the_class_as_it_is(store, tmp_path, one):
    """From Python a class may be the number that it is."""
    more = {"features": "made/image", "label": "truth", "groups": "patient", "folds": 2, "head": "prototypes"}
    run = fit_head(store, positive=one, out=tmp_path / "r", **more)
    assert run.metrics["classes"] == [0, 1]
    other = fit_head(store, positive=0, out=tmp_path / "s", **more)
    assert other.metrics["classes"] == [1, 0]
    assert compare([run, other], positive=0).positive.name == 0


def test_other_tasks_have_none(store, refused):
    words = ("fit-head", store.path, "--features", "made/image", "--groups", "patient", "--positive", "c0")
    assert "this is a multiclass task" in refused(*words, "--label", "three")
    assert "--positive is for classes" in refused(*words, "--label", "truth", "--task", "regression")


def test_another_data_set(store, make_store, tmp_path, refused):
    """The run's positive class holds elsewhere; another may be asked for, unless a threshold is of the first."""
    X, table = columns(90, 7)
    other = make_store(X, path="other.hw", first_key=1000, **table)
    more = {"features": "made/image", "label": "state", "groups": "patient", "positive": "cancer"}
    fit_head(store, calibrate="isotonic", sensitivity=0.9, out=tmp_path / "limit", **more)
    found = evaluate(tmp_path / "limit", other, label="state", groups="patient")
    assert any(
        line.startswith("at the run's threshold, chosen for a sensitivity of 0.9: sens") for line in found.lines()
    )
    table = found.predictions
    truth, score = table["label"].to_numpy() == "cancer", table["score_cancer"].to_numpy()
    assert found.mean["recall"] == pytest.approx((score > 0.5)[truth].mean())
    limit = open_run(tmp_path / "limit").decision["threshold"]["threshold"]
    assert found.metrics["external"]["threshold"]["sensitivity"] == pytest.approx((score >= limit)[truth].mean())
    words = ("evaluate", tmp_path / "limit", other.path, "--label", "state", "--groups", "patient")
    said = "--positive healthy: the run's threshold is for cancer and does not apply to healthy"
    assert said in refused(*words, "--positive", "healthy")
    fit_head(store, out=tmp_path / "plain", **more)
    turned = evaluate(tmp_path / "plain", other, label="state", groups="patient", positive="healthy")
    straight = evaluate(tmp_path / "plain", other, label="state", groups="patient")
    assert turned.metrics["classes"] == straight.metrics["classes"][::-1] == ["cancer", "healthy"]
    table = turned.predictions
    assert turned.mean["recall"] == pytest.approx(found_of("healthy", table))
    assert turned.mean["auc"] == pytest.approx(straight.mean["auc"])
    np.testing.assert_allclose(table["score_cancer"].to_numpy(), straight.predictions["score_cancer"].to_numpy())


def test_every_output_names_it(store, make_store, tmp_path, command):
    """fit-head, sweep, evaluate, compare and plot print the positive class, and say so where only the order tells."""
    X, table = columns(90, 7)
    other = make_store(X, path="other.hw", first_key=1000, **table)
    what = ("--features", "made/image", "--label", "state", "--groups", "patient")
    for run, head in (("a", "linear"), ("b", "prototypes")):
        words = ("fit-head", store.path, *what, "--head", head, "--positive", "cancer", "--out", tmp_path / run)
        assert "positive class: cancer\n" in command(*words).out
    commands = [
        (
            "sweep",
            store.path,
            *what,
            "--heads",
            "linear",
            "--heads",
            "prototypes",
            "--positive",
            "cancer",
            "--out",
            tmp_path / "s",
        ),
        ("evaluate", tmp_path / "a", other.path, "--label", "state", "--groups", "patient"),
        ("compare", tmp_path / "a", tmp_path / "b"),
    ]
    for words in commands:
        assert "positive class: cancer\n" in command(*words).out, words
    assert json.loads(command(*commands[2], "--json").out)["positive"] == "cancer"
    assert compare([tmp_path / "a", tmp_path / "b"], positive="healthy").positive.name == "healthy"
    pytest.importorskip("matplotlib")
    assert "positive class: cancer\n" in command("plot", tmp_path / "a").out
    assert plot(tmp_path / "a", positive="healthy", formats=["svg"]).positive.name == "healthy"
    silent = command("fit-head", store.path, *what).out
    assert "positive class: healthy (the last in sorted order; --positive CLASS names another)\n" in silent


def test_runs_with_the_other_positive_class_are_compared(store, tmp_path):
    """Whichever class is positive, the same scores have no difference."""
    more = {"features": "made/image", "label": "state", "groups": "patient"}
    for positive in ("cancer", "healthy"):
        fit_head(store, positive=positive, out=tmp_path / positive, **more)
    for metric in ("auc", "brier", "f1_macro", "log_loss"):
        found = compare([tmp_path / "cancer", tmp_path / "healthy"], metric=metric)
        assert found.positive.name == "cancer"
        assert found.differences[0].difference == pytest.approx(0, abs=1e-6)


def test_prompts_score_the_named_class(make_store, write_features, tmp_path):
    """zero-shot, its wordings and what classifying together changed are of that class; the head stays sorted."""
    from headwater.embed import unique_texts

    rng = np.random.default_rng(0)
    X, table = columns(60)
    store = make_store(X, **table)
    texts = ["scan of healthy", "scan of cancer", "picture of healthy", "picture of cancer"]
    contents, _ = unique_texts(texts)
    keys = np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)
    write_features(store, "made/text", rng.standard_normal((4, 6)), keys, dtype="float32", logit_scale=20.0)
    prompts = tmp_path / "p.toml"
    prompts.write_text(
        'templates = ["scan of {}", "picture of {}"]\n[classes]\nhealthy = ["healthy"]\ncancer = ["cancer"]\n'
    )
    more = {"features": "made", "prompts": prompts, "label": "state", "positive": "cancer"}
    run = zero_shot(store, ablate=True, groups="patient", **more)
    assert run.lines()[1] == "positive class: cancer"
    table = run.predictions
    recall = found_of("cancer", table)
    assert run.mean["recall"] == pytest.approx(recall)
    ensemble = next(w for w in run.metrics["ablation"]["wordings"] if w["kind"] == "ensemble")
    assert ensemble["metrics"]["recall"] == pytest.approx(recall)
    together = zero_shot(store, transductive=True, **more)
    assert together.metrics["transduction"]["zero_shot"]["recall"] == pytest.approx(recall)
    written = zero_shot(store, out=tmp_path / "z", **more)
    assert open_run(written.path).head.classes_.tolist() == ["cancer", "healthy"]
    X, table = columns(60, 3)
    elsewhere = evaluate(
        tmp_path / "z", make_store(X, path="e.hw", first_key=500, **table), label="state", groups="patient"
    )
    table = elsewhere.predictions
    assert elsewhere.mean["recall"] == pytest.approx(found_of("cancer", table))


def test_runs_that_do_not_say_it(tmp_path):
    """Of runs that were made before, the last class is positive; each output says so, of tuned encoders too."""
    with tarfile.open(Path(__file__).parents[1] / "data" / "first.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("linear", "mlp", "zero-shot", "evaluated", "fine-tuned", "xgboost"):
        run = open_run(tmp_path / "first" / "runs" / name)
        assert run.lines()[1].startswith("positive class: malignant"), name
