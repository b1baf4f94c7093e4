"""compare: runs on the same samples side by side, with every test that applies to them."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.api import evaluate
from headwater.api.compare import Difference, compare, verdict
from headwater.api.fit import fit_head
from headwater.api.report import report
from headwater.errors import InputError
from headwater.evaluate.bootstrap import FoldScores
from headwater.evaluate.measured import METRICS
from headwater.evaluate.paired import Paired
from headwater.evaluate.statistics import corrected_t, corrected_t_interval, holm
from headwater.runs.run import Run

N = 120


@pytest.fixture
def two_features(make_store, write_features):
    """A store of features that tell the label well, noise, and some that are alike within a patient's three rows."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(N // 3), 3)
    label = rng.integers(0, 2, N // 3)[patient]
    kind = np.where(rng.random(N) < 0.3, "c", np.where(label == 1, "a", "b"))
    good = label[:, None] * 2.0 + rng.standard_normal((N, 4))
    store = make_store(good, "good/image", label=label, patient=patient, kind=kind)
    keys = store.features("good/image").keys
    others = {
        "bad/image": rng.standard_normal((N, 4)),
        "fair/image": label[:, None] + 1.5 * rng.standard_normal((N // 3, 4))[patient],
    }
    for name, X in others.items():
        write_features(store, name, X.astype(np.float32), keys, dtype="float32")
    return store


@pytest.fixture
def runs(two_features, tmp_path):
    """Return a function that fits a head on some features, and gives the run."""

    def fit(name, label="label", groups="patient", **options):
        out = tmp_path / "runs" / f"{name}-{label}-{groups}-{len(options)}"
        return fit_head(two_features, features=f"{name}/image", label=label, groups=groups, out=out, **options)

    return fit


def test_a_real_difference_and_none(runs):
    """Features that tell the label differ from noise by every test; a run of the same features does not."""
    good, bad, again = runs("good"), runs("bad"), runs("good", inner_folds=3)
    found = compare([good, bad, again])
    real, none = found.differences[0], found.differences[1]
    assert real.difference > 0.2
    assert real.low > 0
    assert max(real.p["bootstrap"], real.p["delong"], real.p["corrected_t"]) < 0.05
    assert real.p["wilcoxon"] == real.least_p["wilcoxon"] == 0.0625
    assert none.low <= 0 <= none.high
    assert none.p["bootstrap"] > 0.2
    assert real.p_holm > real.p["corrected_t"]
    assert found.friedman_p < 0.1
    (line,) = [line for line in found.lines() if "Friedman" in line]
    assert line.startswith("test that no run differs")


def test_values_are_those_of_the_runs(runs):
    """What stands beside an interval is the mean over folds that the run reported."""
    good, bad = runs("good"), runs("bad")
    for metric in ("auc", "accuracy", "log_loss"):
        found = compare([good, bad], metric=metric)
        for value, run in zip(found.runs.values(), (good, bad), strict=True):
            assert value["value"] == pytest.approx(run.mean[metric])
            assert value["low"] <= value["value"] <= value["high"]


def test_patients_are_what_is_drawn(runs):
    """A run with groups is compared by groups; its interval is wider than by rows."""
    with_groups = compare([runs("fair"), runs("bad")])
    assert with_groups.drawn == "group"
    rows = [run.predictions.drop("group") for run in (runs("fair"), runs("bad"))]
    ungrouped = [
        type(run)(**{**vars(run), "predictions": table}) for run, table in zip((runs("fair"), runs("bad")), rows)
    ]
    without = compare(ungrouped)
    assert without.drawn == "sample"
    width = [next(v["high"] - v["low"] for v in found.runs.values()) for found in (with_groups, without)]
    assert width[0] > 1.2 * width[1]


def test_groups_that_one_run_knows_are_drawn_for_all(runs, tmp_path):
    """A run without groups beside one with them: patients are resampled, and the run that divided them is named."""
    known, unknown = runs("fair"), runs("fair", groups="none", allow_leakage="to measure it")
    for both in ([known, unknown], [unknown, known]):
        found = compare(both)
        assert found.drawn == "group"
        alone = compare([known, runs("bad")]).runs["fair-label-patient-0"]
        assert found.runs["fair-label-patient-0"] == pytest.approx(alone, abs=0.02)
        assert found.differences[0].divided == "fair-label-none-1"
        assert "but fair-label-none-1 had groups on both sides" in found.differences[0].verdict
        [note] = [note for note in found.notes if "groups on both sides" in note]
        assert note.startswith("fair-label-none-1: ")
        assert "40" in note
    page = report([known.path, unknown.path], names=["whole", "apart"], out=tmp_path / "r.html").path.read_text()
    assert "but apart had groups on both sides" in page
    plain = compare([known, runs("bad")])
    assert plain.differences[0].divided is None
    assert not [note for note in plain.notes if "both sides" in note]


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, True)])
def test_equal_models_seldom_differ_if_any_run_knows_the_patients(known):
    """Two equally good models, whose scores are alike within a patient: 5 % of intervals exclude 0, not a quarter."""
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(40), 5)

    def model(name, label, has_groups):
        score = (label - 0.5) + rng.standard_normal(40)[patient] + 0.3 * rng.standard_normal(200)
        share = 1 / (1 + np.exp(-score))
        table = pl.DataFrame(
            {
                "id": [str(i) for i in range(200)],
                "fold": np.zeros(200, int),
                "label": label.astype(str),
                "predicted": (score > 0).astype(int).astype(str),
                "score_0": 1 - share,
                "score_1": share,
                **({"group": patient.astype(str)} if has_groups else {}),
            }
        )
        metrics = {"task": "binary", "classes": ["0", "1"], "folds": [{}], "mean": {"accuracy": 0.5}, "std": {}}
        return Run(Path(name), {"label": ["y"]}, metrics, table, None)

    wrong = 0
    for _ in range(200):
        label = rng.integers(0, 2, 40)[patient]
        both = [model(name, label, has) for name, has in zip("ab", known, strict=True)]
        [found] = compare(both, metric="accuracy", n_draws=400).differences
        wrong += not found.low <= 0 <= found.high
    assert 0.01 <= wrong / 200 <= 0.11


def test_groups_of_different_columns_are_joined(runs):
    """Of a run by patient and one by exam, what is drawn keeps both whole, in whatever order they are given."""
    fine, coarse = runs("fair"), runs("fair", inner_folds=3)
    wide = coarse.predictions.with_columns(group=pl.col("group").cast(pl.Int64) // 2)
    coarse = type(coarse)(**{**vars(coarse), "predictions": wide})
    first, second, without = compare([fine, coarse]), compare([coarse, fine]), compare([fine, runs("bad")])
    name = "fair-label-patient-0"
    assert first.runs[name] == second.runs[name]
    assert first.runs[name]["value"] == without.runs[name]["value"]
    assert first.runs[name]["low"] != without.runs[name]["low"]
    assert [note for note in first.notes if "both sides" in note], "folds of patients divide exams' groups here"


def test_what_counts_for_procedures_is_the_corrected_t(runs):
    """Runs trained anew in each fold: interval and Holm's p are of the corrected t, and the others stand beside it."""
    both = [runs("good"), runs("fair"), runs("bad")]
    found = compare(both)
    of_folds = [[fold["auc"] for fold in run.metrics["folds"]] for run in both]
    for change, (i, j) in zip(found.differences, ((0, 1), (0, 2), (1, 2)), strict=True):
        assert change.test == next(iter(change.p)) == "corrected_t"
        ratio = np.mean([fold["n_test"] / fold["n_train"] for fold in both[0].metrics["folds"]])
        assert change.p["corrected_t"] == pytest.approx(corrected_t(of_folds[i], of_folds[j], ratio).p)
        interval = corrected_t_interval(of_folds[i], of_folds[j], ratio)
        assert (change.low, change.high) == pytest.approx(interval)
        assert (change.p["corrected_t"] < 0.05) == (not change.low <= 0 <= change.high)
    assert [d.p_holm for d in found.differences] == pytest.approx(holm([d.p["corrected_t"] for d in found.differences]))
    assert "p corrected t compares two procedures" in found.notes[-1]


def test_what_counts_for_fixed_models_is_the_bootstrap(runs, two_features, tmp_path):
    """One test set: nothing was trained anew, and groups are drawn again."""
    both = [runs(name, holdout=0.4) for name in ("good", "bad")]
    (change,) = compare(both).differences
    assert change.test == "bootstrap"
    assert set(change.p) == {"bootstrap", "delong"}
    outside = [
        evaluate(run, two_features, label="label", groups="patient", allow_leakage="a test", features=name)
        for run, name in zip(both, ("good/image", "bad/image"), strict=True)
    ]
    assert compare(outside).differences[0].test == "bootstrap"


@pytest.mark.parametrize(
    "options", [{"shots": 8}, {"shots": 3, "folds": 4, "params": {"C": 0.1}}, {"folds": 3}, {"folds": 10}]
)
def test_the_corrected_t_knows_the_rows_that_were_trained_on(runs, options):
    """Few-shot runs train on far fewer rows than the rest of the samples, and their variance is larger for it."""
    first, second = runs("fair", **options), runs("bad", **options)
    folds = first.metrics["folds"]
    ratio = np.mean([fold["n_test"] / fold["n_train"] for fold in folds])
    if "shots" in options:
        assert all(fold["n_train"] == 2 * options["shots"] for fold in folds)
    values = [[fold["auc"] for fold in run.metrics["folds"]] for run in (first, second)]
    expected = corrected_t(*values, ratio).p
    assert compare([first, second]).differences[0].p["corrected_t"] == pytest.approx(expected)


def test_of_two_runs_the_one_trained_on_fewer_rows_decides(runs):
    """Beside a run on all rows, a few-shot run is no steadier than it is beside another."""
    few, all_rows = runs("fair", shots=4), runs("bad")
    values = [[fold["auc"] for fold in run.metrics["folds"]] for run in (few, all_rows)]
    ratio = np.mean([fold["n_test"] / fold["n_train"] for fold in few.metrics["folds"]])
    assert compare([few, all_rows]).differences[0].p["corrected_t"] == pytest.approx(corrected_t(*values, ratio).p)


def test_runs_that_do_not_say_how_many_rows_they_trained_on(runs):
    """Those of an older version: all other rows are taken, and the note says so."""
    both = [runs("good"), runs("fair")]
    expected = compare(both)
    old = []
    for run in both:
        folds = [{k: v for k, v in fold.items() if k != "n_train"} for fold in run.metrics["folds"]]
        old.append(type(run)(**{**vars(run), "path": None, "metrics": {**run.metrics, "folds": folds}}))
    found = compare(old)
    assert found.differences[0].p == pytest.approx(expected.differences[0].p)
    assert sum("metrics.json lacks the number of training rows" in note for note in found.notes) == 2


def test_a_metric_that_no_fold_has_stops_nothing(runs):
    """Of a class that is never tested, the mean over classes is not defined, and nor is any p; others are."""
    three = [runs(name, "kind") for name in ("good", "fair", "bad")]
    never = []
    for run in three:
        table = run.predictions.with_columns(label=pl.col("label").replace({"c": "b"}))
        never.append(type(run)(**{**vars(run), "path": None, "predictions": table}))
    found = compare(never, metric="balanced_accuracy")
    assert all(np.isnan(d.p["bootstrap"]) and d.p_holm is None for d in found.differences)
    assert all(d.p_holm is not None for d in compare(never, metric="accuracy").differences)
    assert "–" in "\n".join(found.lines())


def test_a_perfect_run_is_not_certain(runs):
    """All patients told apart: the interval is of how often so many would be, and not a point."""
    perfect = shifted(runs("good"), lambda z, f: z)
    label = perfect.predictions["label"].to_numpy()
    table = perfect.predictions.with_columns(score_0=pl.Series(0.9 - 0.8 * label), score_1=pl.Series(0.1 + 0.8 * label))
    perfect = type(perfect)(**{**vars(perfect), "predictions": table})
    n_patients = table["group"].n_unique()
    for metric in ("auc", "accuracy", "balanced_accuracy", "f1_macro"):
        found = compare([perfect, runs("bad")], metric=metric).runs["run 1"]
        assert found["value"] == found["high"] == 1
        assert 0.7 < found["low"] < 0.95
    of_accuracy = compare([perfect, runs("bad")], metric="accuracy").runs["run 1"]
    assert of_accuracy["low"] == pytest.approx(0.025 ** (1 / n_patients))


def test_labels_that_no_fold_tests(make_store, write_features, tmp_path, command):
    """Of many labels one has no sample in some folds: means over the tested labels are reported and compared."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 3)
    each = rng.random((40, 5)) < [0.5, 0.4, 0.5, 0.3, 0.0]
    each[0, 4] = True
    tags = [";".join(f"l{c}" for c in np.flatnonzero(each[p])) or ";" for p in patient]
    X = each[patient] + rng.standard_normal((120, 5))
    store = make_store(X, "good/image", tags=tags, patient=patient)
    noise = rng.standard_normal((120, 5)).astype(np.float32)
    write_features(store, "bad/image", noise, store.features("good/image").keys, dtype="float32")
    asked = {"label": "tags", "label_separator": ";", "groups": "patient", "folds": 4, "params": {"C": 0.1}}
    both = [fit_head(store, features=f"{name}/image", out=tmp_path / name, **asked) for name in ("good", "bad")]
    assert both[0].mean["auc_macro"] is None or both[0].metrics["n_folds"]["auc_macro"] < 4
    assert both[0].metrics["n_folds"]["auc_macro_present"] == 4
    assert 4 <= both[0].mean["labels_present"] < 5
    printed = "\n".join(both[0].lines())
    shown = f"({both[0].mean['labels_present']:g} of 5 in a fold, on average)"
    assert f"over the labels present in the test rows {shown}" in printed
    assert f"auc_macro_present  {both[0].mean['auc_macro_present']:.3f}" in printed
    found = compare(both, metric="auc_macro_present")
    assert [v["value"] for v in found.runs.values()] == pytest.approx([r.mean["auc_macro_present"] for r in both])
    assert found.differences[0].p["corrected_t"] < 0.05
    none = {name: None if name == "auc_macro" else value for name, value in both[0].mean.items()}
    lacking = type(both[0])(**{**vars(both[0]), "metrics": {**both[0].metrics, "mean": none}})
    assert compare([lacking, both[1]]).metric == "auc_macro_present"


def test_several_classes_and_labels(runs, two_features):
    """Tasks of several classes are compared too."""
    found = compare([runs("good", "kind"), runs("bad", "kind")], metric="f1_macro")
    assert found.differences[0].difference > 0
    assert "delong" not in found.differences[0].p


def test_the_command(runs, command, tmp_path):
    """The table, and JSON for scripts."""
    runs("good"), runs("bad")
    paths = sorted((tmp_path / "runs").iterdir())
    done = command("compare", *paths)
    assert done.status == 0
    assert "95 % intervals by resampling groups" in done.out
    assert "bad-label-patient-0 - good-label-patient-0" in done.out
    assert "(least possible 0.062)" in done.out
    value = json.loads(command("compare", *paths, "--metric", "accuracy", "--json").out)
    assert set(value["differences"][0]["p"]) == {"bootstrap", "corrected_t", "wilcoxon"}
    assert "no McNemar test" in value["notes"][0]


def test_runs_that_cannot_be_compared(runs, two_features):
    """Other samples, labels, tasks and metrics are refused with one line."""
    good = runs("good")
    with pytest.raises(InputError, match=r"different task: binary and multiclass\. Fit both with the same --task"):
        compare([good, runs("good", "kind")])
    with pytest.raises(InputError, match=r"tested different samples \(\d+ and 0"):
        compare([good, runs("good", where="patient < 20")])
    with pytest.raises(InputError, match="Did you mean 'auc'"):
        compare([good, runs("bad")], metric="aucs")
    with pytest.raises(InputError, match="at least two runs"):
        compare([good])
    with pytest.raises(InputError, match="compared with itself"):
        compare([good, good])
    flipped = type(good)(
        **{**vars(good), "path": None, "predictions": good.predictions.with_columns(label=1 - pl.col("label"))}
    )
    with pytest.raises(InputError, match="different labels"):
        compare([good, flipped])


def shifted(run, change):
    """A copy of a run in which each fold's scores are changed by a function of the logit and the fold."""
    a, b = (
        np.clip(run.predictions["score_0"].to_numpy(), 1e-9, 1),
        np.clip(run.predictions["score_1"].to_numpy(), 1e-9, 1),
    )
    p = 1 / (1 + np.exp(-change(np.log(b / a), run.predictions["fold"].to_numpy())))
    table = run.predictions.with_columns(score_0=pl.Series(1 - p), score_1=pl.Series(p))
    return type(run)(**{**vars(run), "path": None, "predictions": table})


@pytest.mark.parametrize(
    "change", [lambda z, f: z + f, lambda z, f: z - 2 * f, lambda z, f: z / (1 + f), lambda z, f: z + 3 * (f == 1)]
)
def test_equal_rankings_in_each_fold_do_not_differ(runs, change):
    """Scores of another scale in each fold: the AUC of every fold is the same, and so says every test."""
    run = runs("fair")
    found = compare([run, shifted(run, change)]).differences[0]
    assert found.difference == pytest.approx(0)
    assert min(found.p.values()) == 1


def test_other_folds_leave_tests_on_rows(runs):
    """Runs of other splits are compared by the mean over their own folds, which is said."""
    first, other = runs("good"), runs("bad", seed=5)
    found = compare([first, other])
    assert set(found.differences[0].p) == {"bootstrap", "delong"}
    assert "folds differ" in found.notes[0]
    values = [value["value"] for value in found.runs.values()]
    assert values == pytest.approx([run.mean["auc"] for run in (first, other)])


def test_a_fold_of_one_class_is_said(two_features, tmp_path):
    """DeLong's test leaves such folds out, and the note says how many."""
    label = two_features.samples["label"].to_numpy()
    patient = two_features.samples["patient"].to_numpy()
    part = np.where((label == 0) & (patient < 12), 0, 1 + patient % 3)
    samples = two_features.samples.with_columns(part=pl.Series(part))
    two_features.write_samples(samples, two_features.roles)
    both = [
        fit_head(
            two_features, features=f"{name}/image", label="label", groups="patient", split="part", out=tmp_path / name
        )
        for name in ("fair", "bad")
    ]
    found = compare(both)
    assert "DeLong: 1 of 4 folds left out, which lack one of the classes" in found.notes
    assert 0 <= found.differences[0].p["delong"] <= 1


def test_units_are_compared_by_their_own_scores(runs, two_features):
    """At patient level the value is that of the aggregated scores, stored or made from the samples'."""
    stored = [runs(name, per="patient") for name in ("good", "bad")]
    plain = [runs(name) for name in ("good", "bad")]
    of_stored, of_plain = (compare(both, per="patient") for both in (stored, plain))
    assert of_stored.per == "patient"
    assert of_stored.n_samples == N // 3
    for value, other, run in zip(of_stored.runs.values(), of_plain.runs.values(), stored, strict=True):
        assert value["value"] == pytest.approx(run.metrics["per"]["mean"]["auc"])
        assert value["value"] == pytest.approx(other["value"])
    table = stored[0].predictions
    once = table.unique(["fold", "unit"], maintain_order=True)
    assert once.height == N // 3
    mean = table.group_by("unit", maintain_order=True).agg(pl.col("score_1").mean())
    assert once["unit_score_1"].to_list() == pytest.approx(mean["score_1"].to_list())
    highest = compare(plain, per="patient", aggregate="max")
    assert highest.runs != of_plain.runs


def test_the_corrected_t_of_units_counts_units(runs):
    """A fold's share of patients, not a ratio of patients to images, enters the variance."""
    of_units = compare([runs(name, per="patient") for name in ("good", "bad")], per="patient").differences[0]
    of_groups = compare([runs(name) for name in ("good", "bad")], per="patient").differences[0]
    folds = [runs(name, per="patient").metrics["per"]["folds"] for name in ("good", "bad")]
    values = [[fold["auc"] for fold in of] for of in folds]
    ratio = np.mean([fold["n_test"] / fold["n_train"] for fold in folds[0]])
    assert 0.2 < ratio < 0.3
    assert of_units.p["corrected_t"] == pytest.approx(corrected_t(*values, ratio).p)
    assert of_groups.p["corrected_t"] == pytest.approx(of_units.p["corrected_t"], rel=0.05)


def test_units_that_cross_subgroups_belong_to_none(runs):
    """A patient with images of several kinds has no kind; and a single subgroup has no rest to compare with."""
    both = [runs(name, by="kind") for name in ("good", "bad")]
    assert compare(both, per="patient").subgroups == []
    only = [runs(name, by="kind", where="kind = 'c'") for name in ("good", "bad")]
    (one,) = compare(only, metric="accuracy", n_draws=200).subgroups
    assert all(of["gap"] is None for of in one.runs.values())


def test_units_that_a_run_does_not_know_are_refused(runs):
    with pytest.raises(InputError, match=r"--per kind: .* It knows patient\. Fit it with --per kind"):
        compare([runs("good"), runs("bad")], per="kind")
    with pytest.raises(InputError, match="--aggregate goes with --per"):
        compare([runs("good"), runs("bad")], aggregate="max")


@pytest.mark.parametrize("margin", [0, -0.05, float("nan"), float("inf")])
def test_a_margin_is_above_zero(runs, margin):
    with pytest.raises(InputError, match="--margin must be a finite number above 0"):
        compare([runs("good"), runs("bad")], margin=margin)


CASES = [
    ("auc", (0.02, 0.01, 0.03), None, "a is better than b"),
    ("auc", (-0.02, -0.03, -0.01), None, "a is worse than b"),
    ("auc", (0.0, -0.03, 0.03), None, "no clear difference"),
    ("auc", (-0.01, -0.03, 0.01), 0.05, "not inferior to b by more than 0.05"),
    ("auc", (-0.02, -0.03, -0.01), 0.05, "worse, but not inferior"),
    ("auc", (-0.02, -0.06, 0.02), 0.05, "may be inferior"),
    ("auc", (-0.1, -0.12, -0.08), 0.05, "is inferior to b by more than 0.05"),
    ("log_loss", (0.1, 0.05, 0.15), None, "a is worse than b"),
    ("log_loss", (-0.1, -0.15, -0.05), None, "a is better than b"),
    ("log_loss", (0.01, -0.01, 0.03), 0.05, "not inferior to b"),
    ("log_loss", (0.01, -0.01, 0.06), 0.05, r"may be inferior .* includes \+0.05"),
    ("calibration_slope", (0.3, 0.1, 0.5), None, r"a and b differ.*best is 1"),
    ("auc", (float("nan"),) * 3, None, "cannot be compared"),
]


@pytest.mark.parametrize(("metric", "numbers", "margin", "words"), CASES)
def test_a_verdict_follows_the_interval(metric, numbers, margin, words):
    d = Difference("a", "b", *numbers, "bootstrap", {}, {}, None)
    assert re.search(words, verdict(d, metric, margin))


def test_noninferiority_of_equal_models_is_shown_as_often_as_it_should():
    """A loss of just the margin is called non-inferior in at most one of forty data sets, give or take."""
    shown = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        truth = np.arange(300) % 2
        right = [rng.random(300) < p for p in (0.75, 0.8)]
        folds = [[FoldScores(truth, np.eye(2)[np.where(r, truth, 1 - truth)], np.arange(300))] for r in right]
        d = Paired.of("binary", folds, metrics=["accuracy"], n_draws=300, seed=seed).difference("accuracy", 0, 1)
        words = verdict(Difference("a", "b", d.value, d.low, d.high, d.test, {}, {}, None), "accuracy", 0.05)
        shown += "not inferior" in words or "better" in words
    assert shown / 80 < 0.1


@pytest.mark.parametrize("metric", METRICS["binary"])
def test_every_metric_of_a_run_can_be_compared(runs, metric):
    found = compare([runs("good"), runs("fair")], metric=metric, n_draws=200)
    for value, name in zip(found.runs.values(), ("good", "fair"), strict=True):
        mean = runs(name).mean[metric]  # None where no fold has it, as the slope of separated classes
        assert value["value"] == pytest.approx(np.nan if mean is None else mean, nan_ok=True)
    assert found.differences[0].verdict
    json.dumps(found.to_dict(), allow_nan=False)


def test_any_operating_point_can_be_compared(runs):
    both = [runs("good"), runs("fair")]
    easy, hard = (compare(both, metric=f"sensitivity_at_{n}_specificity").runs for n in (50, 97.5))
    assert all(easy[name]["value"] >= hard[name]["value"] for name in easy)
    with pytest.raises(InputError, match="sensitivity_at_N_specificity"):
        compare(both, metric="sensitivity_at_0_specificity")


def test_subgroups_and_their_gaps_are_compared(runs):
    both = [runs(name, by="kind") for name in ("good", "bad")]
    found = compare(both, metric="accuracy", n_draws=300)
    assert [one.level for one in found.subgroups] == ["a", "b", "c"]
    assert sum(one.n_samples for one in found.subgroups) == N
    for one in found.subgroups:
        for run, of in zip(both, one.runs.values(), strict=True):
            assert of["value"] == pytest.approx(run.metrics["by"]["levels"][one.level]["mean"]["accuracy"])
            assert of["gap"] == pytest.approx(run.metrics["by"]["levels"][one.level]["gap"]["accuracy"]["value"])
        (change,) = one.gap_differences.values()
        first, second = one.runs.values()
        assert change["value"] == pytest.approx(first["gap"] - second["gap"])
    json.dumps(found.to_dict(), allow_nan=False)
    assert "gap of" in "\n".join(found.lines())
