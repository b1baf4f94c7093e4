"""plot: which figures a run gets, and that what they show is what the run says."""

import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from headwater.api import evaluate, fit_head
from headwater.errors import HeadError, InputError, MissingExtra
from headwater.report import plot, plot_systems
from headwater.report._curves import GRID, spread
from headwater.report._style import style
from headwater.report.figures import figures_of
from headwater.report.systems import losses
from headwater.runs.run import read_results

N = 72


@pytest.fixture
def store(make_store):
    rng = np.random.default_rng(0)
    kind = np.arange(N) // 3 % 3
    X = rng.standard_normal((N, 6))
    X[:, :3] += 1.5 * np.eye(3)[kind]
    marks = rng.random((N, 9)) < 0.4
    return make_store(
        X,
        kind=[("benign", "in situ", "invasive carcinoma")[k] for k in kind],
        grade=[("low", "high")[int(k == 2)] for k in kind],
        size=(X[:, 0] * 3 + 10).tolist(),
        weight=(X[:, 1] * 300).tolist(),
        marks=[";".join(f"m{j}" for j in np.flatnonzero(row)) or ";" for row in marks],
        patient=[f"p{i // 3}" for i in range(N)],
    )


@pytest.fixture
def fit(store, tmp_path):
    """Return a function that fits a run of three folds, quickly."""

    def run(label, **options):
        params = {} if options.get("task") else {"C": 0.1}
        asked = {"features": "made/image", "groups": "patient", "folds": 3, "params": params, **options}
        return fit_head(store, label=label, out=tmp_path / "run", **asked)

    return run


CLASSES = ["reliability", "roc", "precision_recall", "confusion"]
TWO_CLASSES = [*CLASSES[:3], "decision_curve", "confusion"]


@pytest.mark.parametrize(
    ("label", "options", "expected"),
    [
        ("grade", {"calibrate": "temperature"}, TWO_CLASSES),
        ("kind", {"seeds": 2}, CLASSES),
        ("marks", {"label_separator": ";"}, CLASSES[:3]),
        ("size", {"task": "regression"}, ["predicted", "residuals"]),
        (["size", "weight"], {"task": "regression"}, ["predicted", "residuals"]),
    ],
)
def test_each_task_has_its_figures(fit, command, label, options, expected):
    """A run is drawn as PNG and SVG, in its own directory, by what it predicts."""
    run = fit(label, **options)
    done = command("plot", run.path, "--dpi", "60", "--json")
    assert done.status == 0, done.err
    folder = run.path / "figures"
    assert json.loads(done.out)["files"] == [f"{name}.{suffix}" for name in expected for suffix in ("png", "svg")]
    there = {path.name for path in folder.iterdir()}
    assert there == {f"{name}.{suffix}" for name in expected for suffix in ("png", "svg")}
    for name in expected:
        pixels = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        assert min(pixels.shape) > 100
        assert len(np.unique(pixels)) > 20
        assert (pixels[[0, -1]] == 255).all(), "something touches the edge"
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")


def test_drawing_again_changes_no_byte(fit):
    """Figures hold no date and nothing random: the same run gives the same files."""
    run = fit("size", task="regression")
    first, second = (
        {path.name: path.read_bytes() for path in plot(run.path, out=run.path.parent / out, dpi=60).files}
        for out in ("a", "b")
    )
    assert first == second


def test_one_test_set_is_drawn_without_a_spread(fit, make_store, tmp_path):
    """A run of one fold, and an evaluation on another data set, have curves but no spread."""
    run = fit("grade", folds=None, holdout=0.4)
    rng = np.random.default_rng(1)
    other = make_store(rng.standard_normal((40, 6)), path="o.hw", first_key=900, grade=["low", "high"] * 20)
    tested = evaluate(run, other, label="grade", n_draws=100, out=tmp_path / "far")
    for path in (run.path, tested.path):
        assert len(plot(path, formats=["svg"]).files) == 5


def test_a_new_run_takes_old_figures_away(fit):
    """Figures of an earlier run in the same directory say nothing of the new one, and go."""
    run = fit("grade")
    plot(run.path, formats=["svg"])
    fit("kind")
    assert not (run.path / "figures").exists()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_curves_have_the_areas_they_are_summed_up_by(seed, ties):
    """Each fold's curve encloses scikit-learn's AUC or average precision, and the mean curve theirs on average."""
    rng = np.random.default_rng(seed)
    truths = [np.arange(60) < n for n in (20, 30, 7)]
    scores = [(t + rng.normal(0, 1, 60)).round(0 if ties else 9) for t in truths]
    roc, pr = spread("roc", truths, scores), spread("precision-recall", truths, scores)
    for (x, y), area, t, s in zip(roc.folds, roc.areas, truths, scores, strict=True):
        assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(t, s))
        assert area == pytest.approx(roc_auc_score(t, s))
    assert np.trapezoid(roc.mean, GRID) == pytest.approx(roc.areas.mean(), abs=0.02)
    for (x, y), area, t, s in zip(pr.folds, pr.areas, truths, scores, strict=True):
        assert (np.diff(np.r_[0, x]) * y).sum() == pytest.approx(average_precision_score(t, s))
        assert area == pytest.approx(average_precision_score(t, s))
    assert pr.mean[1:].mean() == pytest.approx(pr.areas.mean(), abs=0.02)


def test_folds_of_one_side_have_no_curve():
    """A fold without positives is left out, and where all are, there is no figure; one fold has no spread."""
    truth, score = np.array([True, False]), np.array([0.7, 0.4])
    found = spread("roc", [truth, ~truth & truth], [score, score])
    assert len(found.folds) == 1
    assert np.isnan(found.std).all()
    assert spread("roc", [truth | True], [score]) is None


def drawn(run):
    """The figures of a run, not written, by name."""
    with style():
        return dict(figures_of(read_results(run.path), None))


def test_a_reliability_diagram_shows_the_bins(fit):
    """Bars are as high as the share that is right, counts are those of the bins, and the ECE is that of the bins."""
    run = fit("grade")
    bins = run.metrics["reliability"]
    upper, lower = drawn(run)["reliability"].axes
    there = [i for i, n in enumerate(bins["count"]) if n]
    n = len(there)
    assert [bar.get_height() for bar in upper.patches[:n]] == pytest.approx([bins["accuracy"][i] for i in there])
    assert [bar.get_height() for bar in lower.patches] == [bins["count"][i] for i in there]
    assert [text.get_text() for text in lower.texts] == [str(bins["count"][i]) for i in there]
    gaps = [abs(bins["accuracy"][i] - bins["confidence"][i]) * bins["count"][i] for i in there]
    assert upper.get_legend().get_title().get_text() == f"ECE, all folds pooled {sum(gaps) / N:.3f}"
    assert run.metrics["ece_pooled"] == pytest.approx(sum(gaps) / N)
    one_set = fit("grade", folds=None, holdout=0.4)
    assert drawn(one_set)["reliability"].axes[0].get_legend().get_title().get_text().startswith("ECE 0")


def test_calibration_is_drawn_before_and_after(fit):
    """A calibrated run has both reliability diagrams beside each other, the reported one last."""
    run = fit("grade", calibrate="temperature")
    before, _, after, _ = drawn(run)["reliability"].axes
    assert (before.get_title(), after.get_title()) == ("uncalibrated", "temperature")
    found = [bar.get_height() for bar in after.patches]
    assert found[: len(found) // 2] == pytest.approx(
        [a for a in run.metrics["reliability"]["accuracy"] if a is not None]
    )


def test_areas_and_confusions_are_those_of_the_run(fit):
    """Areas in legends are those of metrics.json, and a confusion has the true class in its row."""
    run = fit("grade", where="grade = 'high' OR kind = 'benign'")
    figures, table = drawn(run), run.predictions
    words = [text.get_text() for text in figures["roc"].axes[0].get_legend().get_texts()]
    assert f"low AUC {run.mean['auc']:.3f} ± {run.std['auc']:.3f}" in words
    words = [text.get_text() for text in figures["precision_recall"].axes[0].get_legend().get_texts()]
    assert f"low AP {run.mean['average_precision']:.3f} ± {run.std['average_precision']:.3f}" in words
    order = ("high", "low")
    counts = [len(table.filter(label=true, predicted=taken)) for true in order for taken in order]
    assert counts[1] != counts[2], "else a turned matrix would look the same"
    matrix = figures["confusion"].axes[0]
    assert [int(text.get_text().split("\n")[0]) for text in matrix.texts] == counts
    assert [label.get_text() for label in matrix.get_yticklabels()] == list(order)
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == ("predicted", "true")


def test_numbers_are_where_they_belong(fit):
    """Points are true numbers across and predicted ones up; residuals are predicted less true."""
    run = fit(["size", "weight"], task="regression")
    figures, table = drawn(run), run.predictions
    for panel, name in zip(figures["predicted"].axes, ("size", "weight"), strict=True):
        points = np.column_stack([table[f"label_{name}"], table[f"predicted_{name}"]])
        assert np.asarray(panel.collections[0].get_offsets()) == pytest.approx(points)
        assert panel.get_xlabel() == f"true {name}"
        assert f"MAE {run.metrics['by_output'][name]['mean']['mae']:.3g}" in panel.texts[0].get_text()
    panel = figures["residuals"].axes[1]
    errors = np.column_stack(
        [table["predicted_weight"], (table["predicted_weight"] - table["label_weight"]).to_numpy()]
    )
    assert np.asarray(panel.collections[0].get_offsets()) == pytest.approx(errors)


def test_what_cannot_be_drawn(refused, fit, tmp_path, monkeypatch):
    """No run, a file in the way, an unknown format and a missing matplotlib are refused in a line."""
    assert "no run here" in refused("plot", tmp_path / "none")
    run = fit("grade")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("plot", run.path, "--out", tmp_path / "file")
    with pytest.raises(InputError, match="'gif' must be one of png, svg, pdf"):
        plot(run.path, formats=["gif"])
    with pytest.raises(HeadError, match="no run here"):
        plot(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"headwater\[plots\]"):
        plot(run.path)
    assert not (run.path / "figures").exists()


def test_training_is_drawn(fit):
    """Of a run with curves, losses of training and held-out rows are drawn for each fold, the epoch taken marked."""
    run = fit("grade")
    import polars as pl

    curves = pl.DataFrame(
        {
            "fold": [0, 0, 0, None, None],
            "epoch": [0, 1, 2, 0, 1],
            "train_loss": [None, 0.7, 0.5, None, 0.6],
            "stop_loss": [0.8, 0.6, 0.9, None, None],
            "stop_metric": [0.5, 0.8, 0.7, None, None],
            "lr": [None, 1e-4, 5e-5, None, 1e-4],
            "seconds": [0.1] * 5,
        }
    )
    curves.write_parquet(run.path / "curves.parquet")
    with style():
        figures = dict(figures_of(read_results(run.path), None))
    axes = figures["training"].axes[0]
    (marked,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (1, 0.6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["fold 1", "all samples"]


def test_losses_of_several_systems_are_not_behind_their_legend(fit):
    """A system has one colour and one name; held-out rows are dashed, and epochs are whole numbers."""
    import polars as pl

    found = read_results(fit("grade").path)
    curves = pl.DataFrame(
        {"fold": [0, 0, 0], "epoch": [0, 1, 2], "train_loss": [None, 0.7, 0.5], "stop_loss": [0.8, 0.6, 0.9]}
    )
    found = replace(found, curves=curves)
    with style():
        figure = losses({name: dict.fromkeys(("40", "100", "200"), found) for name in ("probe", "LoRA")})
        figure.canvas.draw()
        (axes,), (legend,) = figure.axes, figure.legends
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        names = [text.get_text() for text in legend.get_texts()]
        assert names == [f"{name}, {level}" for name in ("probe", "LoRA") for level in ("40", "100", "200")]
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"] * 6
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_several_runs_are_drawn_side_by_side(fit, store, command, tmp_path):
    """Runs and families of runs: bars by level, box plots over folds, and the classes."""
    import shutil

    first = fit("grade", by="kind").path
    shutil.copytree(first, tmp_path / "other")
    out = tmp_path / "figures"
    done = command("plot", first, tmp_path / "other", "--name", "A", "--name", "B", "--out", out, "--dpi", "60")
    assert done.status == 0, done.err
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{suffix}" for name in ("systems", "folds", "classes") for suffix in ("png", "svg")
    }
    drawn = (out / "systems.svg").read_bytes()
    assert plot_systems([first, tmp_path / "other"], names=["A", "B"], out=out, dpi=60).files
    assert (out / "systems.svg").read_bytes() == drawn, "drawing again changes no byte"
    assert plot_systems([first.parent], out=out, metric="kappa", dpi=60).files
    for words, why in (
        (("plot", first, tmp_path / "other"), "--out: name a folder"),
        (("plot", first, "--metric", "auc"), "--metric goes with several runs"),
        (("plot", first, tmp_path / "other", "--out", out, "--metric", "acc"), "'acc'"),
        (("plot", first, tmp_path / "other", "--out", out, "--positive", "low"), "--positive goes with a single run"),
    ):
        assert why in command(*words).error
