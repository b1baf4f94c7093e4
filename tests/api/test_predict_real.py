"""predict and bundle on real images, with a real encoder: through a store, from files, and where there is no store."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headwater as hw

DATA = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = DATA / "weights" / "mobilenetv2_100.safetensors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="the real data are not here"),
]
ENCODER = {"encoder": "timm:mobilenetv2_100", "weights": WEIGHTS, "name": "m"}


def scores(table):
    return table.select(sorted(name for name in table.columns if name.startswith("score_"))).to_numpy()


def parts(name, column, n, tmp_path):
    """Write manifests of two parts of a data set, which share no patient."""
    table = pl.read_csv(DATA / name / "manifest.csv", infer_schema_length=None)
    table = table.with_columns(image=pl.lit(f"{DATA / name}/") + pl.col("image"))
    patients = table["patient"].unique(maintain_order=True)
    first = patients.gather_every(2)
    for part, rows in (
        ("old", table["patient"].is_in(first.implode())),
        ("new", ~table["patient"].is_in(first.implode())),
    ):
        table.filter(rows).head(n).write_csv(tmp_path / f"{part}.csv")
    return column


CASES = {
    "mini_mias": ("density", ["m/image"], {"calibrate": "temperature", "conformal": 0.1}, {}),
    "covid_cxr": (
        "finding",
        ["m/image", "ngram/text"],
        {"merge": {"SARS": "other", "Pneumocystis": "other", "Streptococcus": "other"}, "positive": "COVID-19"},
        {"where": "modality = 'X-ray' AND finding IN ('COVID-19', 'SARS', 'Pneumocystis', 'Streptococcus')"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_second_data_set(name, tmp_path):
    label, features, options, chosen = CASES[name]
    parts(name, label, 110, tmp_path)
    for part in ("old", "new"):
        hw.embed(tmp_path / f"{part}.csv", tmp_path / f"{part}.hw", **ENCODER)
        if len(features) > 1:
            hw.embed(tmp_path / f"{part}.csv", tmp_path / f"{part}.hw", encoder="builtin:ngram", text="notes")
    asked = {"features": features, "label": label, "groups": "patient", "folds": 3, "params": {"C": 1e-3}}
    allowed = {"allow_leakage": "notes name findings"} if len(features) > 1 else {}
    hw.fit_head(tmp_path / "old.hw", **asked, **options, **chosen, **allowed, out=tmp_path / "run")
    mapping = {"mapping": options["merge"]} if "merge" in options else {}
    external = {"label": label, "groups": "patient", **chosen, **mapping, **allowed}
    tested = hw.evaluate(tmp_path / "run", tmp_path / "new.hw", **external).predictions
    stored = hw.predict(tmp_path / "run", tmp_path / "new.hw", **chosen).table
    both = stored.join(tested, on="id", suffix="_tested", maintain_order="left")
    assert len(both) == len(tested) > 30
    for column in (c for c in stored.columns if c.startswith("score_")):
        np.testing.assert_allclose(both[column], both[f"{column}_tested"], atol=1e-6)
    columns = hw.ManifestColumns(text="notes") if len(features) > 1 else None
    files = hw.predict(tmp_path / "run", tmp_path / "new.csv", columns=columns, **chosen).table
    assert files["id"].to_list() == stored["id"].to_list()
    np.testing.assert_allclose(scores(files), scores(stored), atol=1e-3)
    hw.bundle(tmp_path / "run", tmp_path / "b.zip", with_weights=True)
    for gone in ("old.hw", "new.hw", "run"):
        shutil.rmtree(tmp_path / gone)
    bundled = hw.predict(tmp_path / "b.zip", tmp_path / "new.csv", columns=columns, **chosen).table
    np.testing.assert_allclose(scores(bundled), scores(files), atol=1e-5)
    assert bundled["unlike_training"].to_list() == pytest.approx(files["unlike_training"].to_list(), abs=1e-6)
    assert 0 <= (files["unlike_training"] > 95).mean() < 0.25


def test_images_of_another_organ_are_unlike(tmp_path):
    """Histology, asked of a head on mammograms."""
    parts("mini_mias", "density", 110, tmp_path)
    hw.embed(tmp_path / "old.csv", tmp_path / "old.hw", **ENCODER)
    hw.fit_head(
        tmp_path / "old.hw",
        features="m/image",
        label="density",
        groups="patient",
        params={"C": 1e-3},
        folds=3,
        out=tmp_path / "run",
    )
    images = sorted((DATA / "glas" / "images").glob("*.jpg"))[:8]
    assert (hw.predict(tmp_path / "run", image=images).table["unlike_training"] > 99).all()
