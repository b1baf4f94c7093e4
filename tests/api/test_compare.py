"""compare: runs on the same samples side by side, with every test that applies to them."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api.compare import compare
from headwater.api.fit import fit_head
from headwater.errors import InputError

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
    assert real.p_holm > real.p["bootstrap"]
    assert found.friedman_p < 0.1


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
    width = [found.differences[0].high - found.differences[0].low for found in (with_groups, without)]
    assert width[0] > width[1]


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
    assert "95 % intervals by drawing groups again" in done.out
    assert "bad-label-patient-0 - good-label-patient-0" in done.out
    assert "(least 0.062)" in done.out
    value = json.loads(command("compare", *paths, "--metric", "accuracy", "--json").out)
    assert set(value["differences"][0]["p"]) == {"bootstrap", "corrected_t", "wilcoxon"}
    assert "no McNemar test" in value["notes"][0]


def test_runs_that_cannot_be_compared(runs, two_features):
    """Other samples, labels, tasks and metrics are refused with one line."""
    good = runs("good")
    with pytest.raises(InputError, match="different task: binary and multiclass"):
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
    assert "DeLong: 1 of 4 folds left out, without both classes" in found.notes
    assert 0 <= found.differences[0].p["delong"] <= 1
