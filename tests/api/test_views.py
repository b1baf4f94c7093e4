"""Views of a case, such as CC and MLO of a breast, each an input of its own."""

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import InputError

N = 400  # cases


def columns():
    """Cases in shuffled order, three of them without MLO; what is to be told is in how both views go together."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, N))
    rows = [(case, view) for case in range(N) for view in ("CC", "MLO") if view == "CC" or case >= 3]
    order = rng.permutation(len(rows))
    rows = [rows[i] for i in order]
    X = rng.normal(0, 0.3, (len(rows), 6))
    for row, (case, view) in zip(X, rows, strict=True):
        row[0] += (a if view == "CC" else b)[case] * 2 - 1
    label = np.where(a == b, "same", "other")
    table = {
        "exam": [f"e{case:03d}" for case, _ in rows],
        "view": [view for _, view in rows],
        "label": [str(label[case]) for case, _ in rows],
        "patient": [f"p{case // 2:02d}" for case, _ in rows],
        "grade": [f"g{case // 2 % 2}" for case, _ in rows],
        "site": ["x"] * len(rows),
    }
    return X, table


@pytest.fixture
def exams(make_store):
    X, table = columns()
    return make_store(X, **table)


OPTIONS = {"features": "made/image", "label": "label", "groups": "patient", "bags": "exam", "views": "view", "folds": 3}
SMALL = {"hidden": [32], "lr": 0.01, "epochs": 60, "weight_decay": 0.01, "dropout": 0.0, "patience": 20}


def test_both_views_tell_what_neither_does(exams, tmp_path):
    """A perceptron over the views of an exam learns how they go together; each alone is at chance."""
    run = hw.fit_head(exams, **OPTIONS, head="mlp", params=SMALL, controls=True, out=tmp_path / "run")
    assert run.mean["auc"] > 0.9
    alone = {name: c for name, c in run.metrics["controls"].items() if name.endswith("alone")}
    assert list(alone) == ["CC:made/image alone", "MLO:made/image alone"]
    assert all(c["mean"]["auc"] < 0.65 for c in alone.values())
    assert set(run.predictions["id"]) == {f"e{case:03d}" for case in range(3, N)}
    assert run.config["views"] == "view"
    left = run.metrics["left_out"]
    assert left["no view MLO"] == 3


def test_rows_of_views_are_the_images_of_the_case(exams):
    """Each input's row is the vector of that case's image of that view."""
    X, table = columns()
    run = hw.fit_head(exams, **OPTIONS, params={"C": 1.0})
    head = run.head
    frame = pl.DataFrame(table).with_row_index("row")
    both = frame.filter(view="CC").join(frame.filter(view="MLO"), on="exam", suffix="_mlo").sort("exam")
    joined = np.hstack([X[both["row"].to_numpy()], X[both["row_mlo"].to_numpy()]]).astype(np.float32)
    assert head.coef_.shape[-1] == 12
    alone = hw.heads.LinearProbe(C=1.0).fit(joined, both["label"].to_numpy())
    np.testing.assert_allclose(head.predict_proba(joined), alone.predict_proba(joined), atol=1e-4)


def test_a_view_may_be_missing(exams):
    """With --missing keep, a head with a mask takes a case without one of its views."""
    params = {
        "epochs": 2,
        "warmup": 0.5,
        "width": 8,
        "heads": 2,
        "blocks": 1,
        "hidden": [8],
        "tokenizer": "pooled-linear",
    }
    run = hw.fit_head(exams, **OPTIONS, head="co-attention", params=params, missing="keep")
    assert len(run.predictions) == N


def test_a_run_on_views_is_evaluated_elsewhere(exams, make_store, tmp_path):
    """The other store's cases are made by the same columns; its feature set may have another name."""
    run = hw.fit_head(exams, **OPTIONS, head="mlp", params=SMALL, out=tmp_path / "run")
    X, table = columns()
    table["patient"] = [f"q{p}" for p in table["patient"]]
    other = make_store(X, name="away/image", path="other.hw", first_key=1000, **table)
    there = hw.evaluate(run, other, features="away/image", label="label", groups="patient")
    assert there.mean["auc"] > 0.95
    assert len(there.predictions) == N - 3
    plain = make_store(X, path="plain.hw", first_key=2000, **{k: v for k, v in table.items() if k != "view"})
    with pytest.raises(InputError, match="--views of the run: no column 'view'"):
        hw.evaluate(run, plain, label="label", groups="patient")


def test_views_of_another_store_are_the_runs_own(exams, make_store, tmp_path):
    """Evaluated elsewhere, views are found by name: others are passed over, and one that is not there is an error."""
    run = hw.fit_head(exams, **OPTIONS, params={"C": 1.0}, out=tmp_path / "run")
    assert run.config["view_levels"] == ["CC", "MLO"]
    X, table = columns()
    table["patient"] = [f"q{p}" for p in table["patient"]]
    same = hw.evaluate(run, make_store(X, path="same.hw", first_key=1000, **table), label="label", groups="patient")
    more = {k: [*v, *v[:5]] for k, v in table.items()}
    more["view"][-5:] = ["AT"] * 5  # would come first
    store = make_store(np.vstack([X, X[:5]]), path="more.hw", first_key=3000, **more)
    found = hw.evaluate(run, store, label="label", groups="patient")
    assert found.predictions["score_same"].to_numpy() == pytest.approx(same.predictions["score_same"].to_numpy())
    table["view"] = [{"CC": "right", "MLO": "left"}[view] for view in table["view"]]
    store = make_store(X, path="named.hw", first_key=5000, **table)
    with pytest.raises(
        InputError, match=r"the run reads views CC, MLO of 'view', but this store lacks 'CC'\. It has: left, right"
    ):
        hw.evaluate(run, store, label="label", groups="patient")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bags": None}, "--views view goes with --bags COL"),
        ({"head": "mil"}, "--head mil goes without --views view"),
        ({"views": "patient"}, "has 200 values"),
        ({"views": "site"}, "has 1 values"),
        ({"bags": "patient", "label": "grade"}, "has 2 samples of 'CC'"),
        ({"views": "vew"}, "Did you mean 'view'"),
    ],
)
def test_what_cannot_be_is_refused(exams, options, message):
    """One line that says what to do."""
    with pytest.raises(InputError, match=message):
        hw.fit_head(exams, **{**OPTIONS, **options})


def test_a_sweep_over_views(exams, tmp_path):
    """Heads of several inputs are tried on one feature set of several views."""
    found = hw.sweep(
        exams,
        features=["made/image"],
        label="label",
        groups="patient",
        bags="exam",
        views="view",
        folds=2,
        heads=["linear", "mlp"],
        params={"mlp": SMALL},
        out=tmp_path / "sweep",
    )
    best = found.leaderboard.row(0, named=True)
    assert best["head"] == "mlp"
    assert best["auc"] > 0.9
