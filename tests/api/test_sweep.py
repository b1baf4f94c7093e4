"""sweep: rows are runs, the honest number is honest, and what was finished is kept."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from headwater.api import compare, fit_head, open_run, sweep
from headwater.api.sweep import COSTS, _seconds_left
from headwater.errors import InputError, MissingExtra
from headwater.evaluate import inner_splits
from headwater.evaluate.statistics import holm
from headwater.heads import HEADS, REGRESSORS, SURVIVAL, LinearProbe, head_class

N = 96
SETS = ["good/image", "fair/image", "good/image+fair/image"]
PROTOCOL = {"label": "label", "groups": "patient", "folds": 3}


@pytest.fixture
def two(make_store, write_features):
    """A store of two inputs that tell a label, the second not for all samples; four rows a patient."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, N)
    fold = np.arange(N) // 4 % 3
    X = rng.standard_normal((N, 6))
    X[:, 0] += 1.5 * label
    store = make_store(
        X,
        "good/image",
        label=label,
        poisoned=np.where(fold == 2, 1 - label, label),
        patient=[f"p{i // 4:02d}" for i in range(N)],
        fold=fold,
        a=label,
        b=(X[:, 1] > 0).astype(int),
    )
    Z = rng.standard_normal((N - 8, 4)) + 0.7 * label[: N - 8, None]
    keys = np.asarray(store.features("good/image").keys)[: N - 8]
    write_features(store, "fair/image", Z.astype(np.float32), keys, dtype="float32")
    return store


@pytest.fixture
def swept(two, tmp_path):
    """A sweep of three inputs and two heads."""
    return sweep(two, features=SETS, heads=["linear", "prototypes"], out=tmp_path / "sweep", **PROTOCOL)


def test_what_per_names_is_kept_whole(two, tmp_path):
    """Every cell divides what ``per`` names nowhere: the sweep is that with ``groups`` of the same column."""
    asked = {"features": "good/image", "label": "label", "heads": ["linear", "knn"], "folds": 3, "per": "patient"}
    whole, found = (sweep(two, groups=groups, out=tmp_path / groups, **asked) for groups in ("patient", "none"))
    assert found.leaderboard.equals(whole.leaderboard)
    assert found.found["picked"] == whole.found["picked"]


def test_rows_are_runs(two, swept, tmp_path):
    """A row of the leaderboard is what fit-head gives with the same options, on the samples that all cells share."""
    assert len(swept.leaderboard) == 6
    for row in swept.leaderboard.iter_rows(named=True):
        features = row["features"].split("+")
        others = [name for name in ("good/image", "fair/image") if name not in features]
        out = tmp_path / "runs" / row["cell"]
        run = fit_head(two, features=features, head=row["head"], samples_with=others, out=out, **PROTOCOL)
        cell = tmp_path / "sweep" / "runs" / row["cell"]
        assert open_run(cell).config == open_run(out).config
        for name in ("metrics.json", "predictions.parquet", "head.safetensors", "trials.parquet"):
            assert (cell / name).read_bytes() == (out / name).read_bytes(), name
        assert run.metrics["n_samples"] == N - 8
        assert (row["auc"], row["auc_std"]) == (run.mean["auc"], run.std["auc"])


def test_order_and_differences(swept):
    """Rows are sorted by the metric; differences to the best are those of compare, p being corrected for them all."""
    rows = swept.leaderboard
    assert rows["auc"].is_sorted(descending=True)
    best = open_run(swept.path / "runs" / rows["cell"][0])
    p = []
    for row in rows[1:].iter_rows(named=True):
        found = compare([open_run(swept.path / "runs" / row["cell"]), best])
        change = found.differences[0]
        assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx(
            (change.difference, change.low, change.high)
        )
        assert row["difference"] == pytest.approx(row["auc"] - rows["auc"][0])
        interval = next(iter(found.runs.values()))
        assert (row["low"], row["high"]) == pytest.approx((interval["low"], interval["high"]))
        p.append(change.p["corrected_t"])
    assert swept.found["test"] == "corrected_t"
    assert rows["p_holm"][1:].to_list() == pytest.approx(holm(p).tolist())
    by_loss = sweep_again(swept, metric="log_loss").leaderboard
    assert by_loss["log_loss"].is_sorted()


def sweep_again(swept, **options):
    """Call for a finished sweep once more."""
    store = json.loads((swept.path / "config.json").read_text())["store"]  # as seen from the run
    return sweep(
        swept.path / store, features=SETS, heads=["linear", "prototypes"], out=swept.path, **PROTOCOL, **options
    )


def test_the_honest_number(two, tmp_path):
    """Picking by inner folds gives what loops over cells, settings, outer and inner folds give by hand."""
    grid = [0.001, 0.1]
    found = sweep(
        two,
        features=["good/image", "fair/image"],
        params={"linear": {"C": grid}},
        out=tmp_path / "sweep",
        **PROTOCOL,
    ).found["picked"]
    data = two.read("good/image", "fair/image")
    y, groups = data.table["label"].to_numpy(), data.table["patient"].to_numpy()
    outer = StratifiedGroupKFold(3, shuffle=True, random_state=0).split(y, y, groups)
    for fold, (train, test) in enumerate(outer):
        losses = {}
        for name, X in data.inputs.items():
            for C in grid:
                inner = [(train[s.train], train[s.test]) for s in inner_splits(y[train], groups[train], 4, 0)]
                scores = [LinearProbe(C).fit(X[a], y[a]).predict_proba(X[b]) for a, b in inner]
                losses[name, C] = log_loss(np.concatenate([y[b] for _, b in inner]), np.concatenate(scores))
        name, C = min(losses, key=losses.get)
        X = data.inputs[name]
        auc = roc_auc_score(y[test], LinearProbe(C).fit(X[train], y[train]).predict_proba(X[test])[:, 1])
        picked = found["folds"][fold]
        assert picked["cell"] == f"{name.replace('/', '-')}.linear"
        assert picked["inner_loss"] == pytest.approx(losses[name, C], rel=1e-4)
        assert picked["auc"] == pytest.approx(auc)
    assert found["mean"]["auc"] == pytest.approx(np.mean([fold["auc"] for fold in found["folds"]]))


def test_where_nothing_is_to_be_found(make_store, write_features, tmp_path):
    """On many inputs of noise the best of the leaderboard looks good, and the number picked by inner folds does not."""
    rng = np.random.default_rng(1)
    store = make_store(rng.standard_normal((60, 3)), "n0/image", label=rng.integers(0, 2, 60))
    keys = np.asarray(store.features("n0/image").keys)
    for i in range(1, 12):
        write_features(store, f"n{i}/image", rng.standard_normal((60, 3)).astype(np.float32), keys, dtype="float32")
    done = sweep(
        store,
        features=[f"n{i}/image" for i in range(12)],
        params={"linear": {"C": 1.0}},
        label="label",
        folds=5,
        out=tmp_path / "sweep",
    )
    assert done.leaderboard["auc"][0] > 0.6
    assert done.found["picked"]["mean"]["auc"] < 0.6
    assert any("The best of 12 is optimistic" in line for line in done.lines())


def test_selection_sees_no_test_row(two, tmp_path):
    """With the labels of a fold's test rows turned round, the same settings are tried with the same losses for that
    fold, by a grid and by Optuna; for the others they are not."""
    for trials in (None, 20):
        tried = [
            sweep(
                two,
                features=["good/image"],
                heads=["prototypes", "knn"],  # whose fits are the same to the bit in any company
                label=label,
                groups="patient",
                split="fold",
                trials=trials,
                out=tmp_path / f"{label}-{trials}",
            ).trials.sort("cell", "fold", "trial")
            for label in ("label", "poisoned")
        ]
        same = [pl.DataFrame.equals(*(table.filter(pl.col("fold") == fold) for table in tried)) for fold in range(3)]
        assert same == [False, False, True]
        assert tried[0].group_by("cell", "fold").len()["len"].unique().sort().to_list() == (
            [20] if trials else [18, 36]
        )


def test_every_trial_is_kept(swept):
    """trials.parquet has a row for each setting, cell and fold, and for the saved head, the chosen ones marked."""
    trials = pl.read_parquet(swept.path / "trials.parquet")
    assert trials.columns == [
        "cell",
        "features",
        "head",
        "fold",
        "trial",
        "params",
        "loss",
        "dropped_at_epoch",
        "selected",
    ]
    assert len(trials) == 3 * (17 + 18) * 4
    chosen = trials.filter("selected")
    assert len(chosen) == 6 * 4
    for row in chosen.drop_nulls("fold").iter_rows(named=True):
        run = open_run(swept.path / "runs" / row["cell"])
        assert run.metrics["folds"][row["fold"]]["params"] == json.loads(row["params"])
    assert pl.read_csv(swept.path / "leaderboard.csv")["cell"].equals(swept.leaderboard["cell"])


def test_settings_are_dropped_on_the_way(two, tmp_path):
    """Cells of networks say which setting was dropped when; ``halving=False`` trains every setting to the end."""
    asked = {"features": "good/image", "heads": ["linear", "mlp"], **PROTOCOL}
    params = {"mlp": {"hidden": [[4], [8]], "epochs": 12, "lr": [0.01, 0.1]}}
    done = {on: sweep(two, params=params, halving=on, out=tmp_path / str(on), **asked) for on in (True, False)}
    at = {on: found.trials.filter(pl.col("head") == "mlp") for on, found in done.items()}
    assert at[False]["dropped_at_epoch"].is_null().all()
    for _, of_fold in at[True].group_by("fold"):
        assert sorted(of_fold["dropped_at_epoch"].fill_null(0).to_list()) in ([0, 3, 3, 4], [0, 0, 3, 4])
        assert of_fold.filter("selected")["dropped_at_epoch"].to_list() == [None]
        kept = of_fold.filter(pl.col("dropped_at_epoch").is_null())
        assert of_fold.filter("selected")["loss"].item() == kept["loss"].min()
        full = at[False].filter(pl.col("fold").eq_missing(of_fold["fold"][0]))
        same = kept.join(full, on="params", suffix="_full")
        assert same["loss"].to_numpy() == pytest.approx(same["loss_full"].to_numpy(), abs=2e-2)  # bf16
    for on, found in done.items():
        assert found.trials.filter(pl.col("head") == "linear")["dropped_at_epoch"].is_null().all()
        run = open_run(found.path / "runs" / "good-image.mlp")
        assert run.config["halving"] is on
        told = run.metrics["selection"]["halving"]
        assert ([(at["share_of_epochs_after_warmup"], at["settings_kept"]) for at in told["at"]] if on else told) == (
            [(0.125, 2), (0.25, 1)] if on else None
        )
    with pytest.raises(InputError, match="other halving"):
        sweep(two, params=params, halving=True, out=tmp_path / "False", **asked)


def test_a_sweep_from_before_halving_goes_on(two, tmp_path):
    """A sweep that an older version wrote is continued: it trained every setting to the end, and says nothing of it."""
    asked = {"features": "good/image", "heads": "linear", "out": tmp_path / "old", **PROTOCOL}
    done = sweep(two, **asked)
    for path in [done.path / "config.json", *done.path.glob("runs/*/config.json")]:
        config = json.loads(path.read_text())
        del config["halving"]
        path.write_text(json.dumps(config))
    for path in done.path.glob("runs/*/trials.parquet"):
        pl.read_parquet(path).drop("dropped_at_epoch").write_parquet(path)
    written = {path: path.stat().st_mtime_ns for path in done.path.glob("runs/*/metrics.json")}
    again = sweep(two, **asked)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert again.trials.equals(done.trials)


def test_killed_in_the_middle(two, swept, tmp_path, files_of):
    """A sweep that was killed and called again leaves the files of one that ran through, to the byte."""
    out = tmp_path / "killed"
    words = [w for f in SETS for w in ("--features", f)] + ["--heads", "linear", "--heads", "prototypes"]
    words += ["--label", "label", "--groups", "patient", "--folds", "3", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "headwater", "sweep", str(two.path), *words])
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/[!.]*/metrics.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in out.glob("runs/[!.]*/metrics.json")}
    assert 0 < len(finished) < 6
    (out / "runs" / ".left-behind.1.tmp").mkdir()
    sweep(two, features=SETS, heads=["linear", "prototypes"], out=out, **PROTOCOL)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished cell was run again"
    found, wanted = files_of(out), files_of(swept.path)
    assert {f: b for f, b in found.items() if not f.endswith("cost.json")} == {
        f: b for f, b in wanted.items() if not f.endswith("cost.json")
    }
    assert set(found) == set(wanted)


def test_another_sweep_in_its_place(two, swept, files_of):
    """Other options, other labels, or something that is no sweep: refused with one line, nothing being changed."""
    before = files_of(swept.path)
    again = {"features": SETS, "heads": ["linear", "prototypes"], "out": swept.path, **PROTOCOL}
    for change, said in (({"seed": 1}, "other seed"), ({"heads": "linear"}, "other heads, cells"), ({}, None)):
        if said:
            with pytest.raises(InputError, match=said):
                sweep(two, **{**again, **change})
    two.write_samples(two.samples.with_columns(label=1 - pl.col("label")), two.roles)
    with pytest.raises(InputError, match="other samples"):
        sweep(two, **again)
    assert files_of(swept.path) == before
    for taken in (swept.path / "runs", swept.path / "runs" / swept.leaderboard["cell"][0]):
        with pytest.raises(InputError, match="not a sweep"):
            sweep(two, **{**again, "out": taken})


def test_seeds_and_labels(two, tmp_path):
    """Several seeds: a trial and a choice for each; several labels: ranked by the macro AUC."""
    done = sweep(
        two,
        features=["good/image", "fair/image"],
        label=["a", "b"],
        groups="patient",
        folds=2,
        seeds=2,
        params={"linear": {"C": [0.01, 1.0]}},
        out=tmp_path / "sweep",
    )
    assert done.found["metric"] == "auc_macro"
    assert [(fold["seed"], fold["fold"]) for fold in done.found["picked"]["folds"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert "intervals and differences are for seed 0" in done.lines()
    for fold in done.found["picked"]["folds"]:
        mine = done.trials.filter((pl.col("seed") == fold["seed"]) & (pl.col("fold") == fold["fold"]))
        assert mine.row(mine["loss"].arg_min(), named=True)["cell"] == fold["cell"]


def test_the_command(two, command, tmp_path):
    """Options as words: sets joined by +, parameters a head, a file of them; the table, and JSON for scripts."""
    (tmp_path / "grid.toml").write_text("[prototypes]\ntemperature = [0.1, 1.0]\n")
    both = "good/image:pooled+fair/image:pooled"
    words = ("sweep", two.path, "--features", "good/image", "--features", both, "--label", "label")
    words += ("--groups", "patient", "--folds", "2", "--heads", "linear", "--heads", "prototypes")
    words += ("--heads", "co-attention", "--set", "co-attention.epochs=2", "--set", "co-attention.width=8")
    words += ("--set", "linear.C=[0.1,1]", "--grid", tmp_path / "grid.toml", "--out", tmp_path / "sweep")
    done = command(*words)
    assert done.status == 0, done.err
    assert "selected by inner folds: auc" in done.out
    assert "skipped: good/image with co-attention (it needs 2 inputs)" in done.out
    value = json.loads(command(*words, "--json").out)
    settings = {row["head"]: row["settings"] for row in value["leaderboard"]}
    assert settings == {"linear": 2, "prototypes": 2, "co-attention": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "C=1"), "write HEAD.PARAM=VALUE"),
        (("--set", "mlp.lr=1"), "--set: 'mlp' is not in --heads"),
        (("--set", "linear.tool=1"), "no parameter 'tool'. Did you mean 'tol'"),
        (("--set", 'linear.C=["a"]'), "--set linear.C=['a']: C must be a number"),
        (("--grid", "none.toml"), "no such file"),
        (("--heads", "liner"), "Did you mean 'linear'"),
        (("--heads", "co-attention"), "nothing to sweep: co-attention needs two inputs"),
        (("--features", "good/image+good/image"), "several different ones joined by +"),
        (("--features", "god/image"), "Did you mean"),
        (("--folds", "100"), "good-image.linear: 100 folds requested"),
    ],
)
def test_refusals(two, command, tmp_path, words, said):
    """What cannot be swept is refused with one line."""
    features = () if "--features" in words else ("--features", "good/image")
    done = command(
        "sweep", two.path, *features, "--label", "label", "--groups", "patient", *words, "--out", tmp_path / "sweep"
    )
    assert done.status == 1
    assert said in done.error


def test_without_optuna(two, tmp_path, monkeypatch):
    """Where Optuna is not installed, --trials says what to type, before anything is fitted."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"headwater\[sweep\]"):
        sweep(two, features=["good/image"], trials=3, out=tmp_path / "sweep", **PROTOCOL)
    assert not Path(tmp_path / "sweep").exists()


def test_every_head_has_its_place():
    """The order of cells knows every kind of head that can be swept: what wants prompts is refused by name."""
    with_prompts = {kind for kind in HEADS if kind.startswith("zero-shot") or head_class(kind).needs_texts}
    assert set(COSTS) == (set(HEADS) | set(REGRESSORS) | set(SURVIVAL)) - with_prompts


def test_a_refused_sweep_leaves_the_way_free(two, tmp_path, command):
    """What is refused before anything was run can be corrected with the same --out."""
    words = ("sweep", two.path, "--features", "good/image", "--label", "label", "--groups", "patient", "--folds", "3")
    assert command(*words, "--positive", "nonsense", "--out", tmp_path / "s").status == 1
    assert command(*words, "--metric", "f1_micro", "--out", tmp_path / "t").status == 1  # of several labels
    assert not (tmp_path / "t").exists()
    assert command(*words, "--out", tmp_path / "s").status == 0
    again = command(*words, "--seed", "3", "--out", tmp_path / "s")
    assert "holds a sweep with other seed" in again.error


def test_what_is_left_costs_more():
    """After nine cheap cells in 18 seconds, one that costs 230 times as much is not thought to take two."""
    taken = [("linear", 2.0)] * 9
    assert _seconds_left(taken, ["mlp"]) == pytest.approx(460)
    assert _seconds_left([*taken, ("mlp", 100.0)], ["mlp", "linear"]) == pytest.approx(102)
    assert _seconds_left(taken, []) == 0


def test_the_time_left_is_said(two, tmp_path, capsys, monkeypatch):
    """Without a terminal a line says how long the cells that are left take, by their kinds."""
    monkeypatch.setattr("headwater._progress.PLAIN_EVERY", 0.0)
    monkeypatch.setattr("headwater._progress.EVENT_EVERY", 0.0)
    sweep(two, features=["good/image"], heads=["prototypes", "knn"], out=tmp_path / "sweep", progress=True, **PROTOCOL)
    assert re.search(r"sweep: 1/2 \(.*, [\d,.]+ (s|min) left\)", capsys.readouterr().err)


def test_the_end_of_a_grid_is_said(two, tmp_path, command):
    """In the table of a sweep with the head's name, and beside the run of a cell, with values that --set takes."""
    done = command(
        *("sweep", two.path, "--features", "good/image", "--set", "linear.C=[1e-9,1e-8,1e-7]"),
        *("--label", PROTOCOL["label"], "--groups", PROTOCOL["groups"], "--out", tmp_path / "s"),
    )
    assert re.search(r"C: the highest of its grid, 1e-07, .*: try --set linear.C=\[1e-07,1e-06,1e-05,", done.out)
    run = open_run(next((tmp_path / "s" / "runs").iterdir()))
    (edge,) = run.metrics["selection"]["at_edge"]
    assert any("try --set C=[1e-07,1e-06" in line for line in run.lines())
    again = fit_head(two, features="good/image", params={"C": edge["beyond"]}, **PROTOCOL)
    assert min(fold["params"]["C"] for fold in again.metrics["folds"]) > 1e-7


def test_heads_that_want_prompts(two, tmp_path):
    """A head that weighs images against texts is refused before anything is fitted."""
    with pytest.raises(InputError, match="fit-head --prompts"):
        sweep(two, features=["good/image"], heads=["linear", "tip-adapter"], out=tmp_path / "sweep", **PROTOCOL)
    assert not (tmp_path / "sweep").exists()


def test_each_value_of_a_parameter_is_a_row(two, tmp_path, refused):
    """With ``report_each`` the values of a list are runs of their own; each is what a fit with that value gives."""
    asked = {"features": ["good/image"], "label": "label", "groups": "patient", "heads": ["linear", "knn"]}
    params = {"knn": {"k": [1, 9]}, "linear": {"C": [0.01, 1.0]}}
    made = sweep(two, **asked, params=params, report_each="knn.k", out=tmp_path / "s")
    rows = {row["head"]: row for row in made.leaderboard.to_dicts()}
    assert set(rows) == {"linear", "knn-k-1", "knn-k-9"}
    for k in (1, 9):
        alone = fit_head(two, features="good/image", label="label", groups="patient", head="knn", params={"k": k})
        assert rows[f"knn-k-{k}"]["auc"] == pytest.approx(alone.mean["auc"])
        run = open_run(tmp_path / "s" / "runs" / f"good-image.knn-k-{k}")
        assert run.config["params"]["k"] == k
    words = ("sweep", two.path, "--features", "good/image", "--label", "label", "--groups", "patient")
    why = refused(*words, "--heads", "knn", "--report-each", "k", "--out", tmp_path / "t")
    assert "--report-each k: give its values as a list" in why
