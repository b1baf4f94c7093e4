"""fit-head --controls: chance where inputs say nothing, and the numbers of runs made by hand."""

import json

import numpy as np
import pytest

from headwater.api import compare, fit_head, open_run

N = 240
XOR = {"hidden": [16], "lr": 0.02, "epochs": 40, "patience": None, "batch_size": 64, "precision": "fp32"}
CONTROLS = ["made/image alone", "other/image alone", "shuffled pairs", "random features"]


@pytest.fixture
def pairs(make_store, write_features):
    """A store of two inputs: ``odd`` is in their pairing alone, ``seen`` is in one of them."""
    rng = np.random.default_rng(0)
    a, b = rng.choice([-1.0, 1.0], (2, N))
    X, Z = rng.standard_normal((2, N, 3)) * 0.3
    X[:, 0] += a
    Z[:, 0] += b
    store = make_store(
        X, odd=(a * b > 0).astype(int), seen=(a > 0).astype(int), patient=[f"p{i // 2}" for i in range(N)]
    )
    keys = store.features("made/image").keys
    write_features(store, "other/image", Z.astype(np.float32), np.asarray(keys), dtype="float32")
    write_features(store, "part/image", Z[: N // 2].astype(np.float32), np.asarray(keys)[: N // 2], dtype="float32")
    return store


def test_only_the_pairing_says_anything(pairs):
    """Where a label is in which image goes with which text, each control is at chance and the run is not."""
    run = fit_head(
        pairs,
        features=["made/image", "other/image"],
        label="odd",
        groups="patient",
        head="mlp",
        params=XOR,
        controls=True,
    )
    controls = run.metrics["controls"]
    assert run.mean["auc"] > 0.9
    assert list(controls) == CONTROLS
    for control in controls.values():
        assert abs(control["mean"]["auc"] - 0.5) < 0.15
        assert control["difference"]["auc"]["low"] > 0.2
        assert control["difference"]["auc"]["value"] == pytest.approx(run.mean["auc"] - control["mean"]["auc"])


def test_controls_are_runs_made_by_hand(pairs, tmp_path):
    """An input alone is the run of it, and its paired difference is what compare says of the two."""
    both = fit_head(
        pairs,
        features=["other/image", "made/image"],
        label="seen",
        groups="patient",
        folds=3,
        controls=True,
        out=tmp_path / "both",
    )
    alone = fit_head(pairs, features="made/image", label="seen", groups="patient", folds=3, out=tmp_path / "alone")
    control = json.loads((tmp_path / "both" / "metrics.json").read_text())["controls"]["made/image alone"]
    assert control["mean"] == alone.metrics["mean"]
    assert control["std"] == alone.metrics["std"]
    for metric in ("auc", "log_loss"):
        found = compare([both, alone], metric=metric).differences[0]
        assert control["difference"][metric] == {
            "value": found.difference,
            "low": found.low,
            "high": found.high,
            "p": found.p["corrected_t"],
            "test": "corrected_t",
        }
    shuffled = both.metrics["controls"]["shuffled pairs"]["mean"]["auc"]
    assert shuffled < 0.7, "the second input, which holds the label, is the one that is shuffled"


def test_of_one_input(pairs, command):
    """Of one input, it is shuffled itself, and a line says what the run has over that."""
    words = ("--features", "made/image", "--label", "seen", "--groups", "patient", "--set", "C=1", "--controls")
    done = command("fit-head", pairs.path, *words)
    assert done.status == 0
    assert "made/image over shuffled: +0." in done.out
    controls = json.loads(command("fit-head", pairs.path, *words, "--json").out)["controls"]
    assert list(controls) == ["shuffled", "random features"]
    assert all(abs(control["mean"]["auc"] - 0.5) < 0.15 for control in controls.values())


def test_a_head_that_needs_two_inputs(pairs, command, tmp_path):
    """Beside co-attention an input alone is seen by self-attention, which is said."""
    quick = {"width": 8, "heads": 2, "blocks": 1, "hidden": [8], "epochs": 2, "precision": "fp32", "lr": 0.01}
    words = [word for name, value in quick.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    features = ("--features", "made/image:pooled", "--features", "other/image:pooled")
    done = command(
        *("fit-head", pairs.path, *features, "--label", "seen", "--groups", "patient", "--folds", "2"),
        *("--head", "co-attention", "--controls", "--out", tmp_path / "run", *words),
    )
    assert done.status == 0, done.err
    controls = open_run(tmp_path / "run").metrics["controls"]
    assert [control["head"] for control in controls.values()] == ["self-attention"] * 2 + ["co-attention"] * 2
    assert "made/image alone (self-attention)" in done.out


def test_an_input_that_some_samples_lack(pairs):
    """Where samples may lack an input, there is no control of it alone, and a line says why; others are made."""
    run = fit_head(
        pairs,
        features=["made/image:pooled", "part/image:pooled"],
        label="seen",
        groups="patient",
        folds=2,
        head="merged-attention",
        params={"width": 8, "heads": 2, "blocks": 1, "hidden": [8], "epochs": 2, "precision": "fp32"},
        missing="keep",
        controls=True,
    )
    assert run.metrics["n_samples"] == N
    assert run.metrics["controls"]["part/image alone"]["not_made"] == "some samples have no part/image"
    assert "mean" in run.metrics["controls"]["shuffled pairs"]
    assert "control part/image alone skipped: some samples have no part/image" in run.lines()


def test_seeds(pairs):
    """With several seeds, means are over all of them, and differences are said to be those of the first."""
    run = fit_head(
        pairs,
        features="made/image",
        label="seen",
        groups="patient",
        folds=2,
        seeds=2,
        params={"C": 1.0},
        controls=True,
    )
    first = [
        fit_head(
            pairs,
            features="made/image",
            label="seen",
            groups="patient",
            folds=2,
            seed=seed,
            params={"C": 1.0},
            controls=seed == 0,
        )
        for seed in (0, 1)
    ]
    control = run.metrics["controls"]["random features"]
    assert control["n_folds"]["auc"] == 4
    assert control["difference"] == first[0].metrics["controls"]["random features"]["difference"]
    assert control["difference_of_seed"] == 0
    assert "differences and intervals are for seed 0" in run.lines()
