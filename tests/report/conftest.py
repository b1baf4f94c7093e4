"""A study that several files share: a store of images and captions, and a run of every task on it."""

import numpy as np
import polars as pl
import pytest

from headwater.api import audit, embed, evaluate, fit_head
from tests.gallery import N, gallery, paint

__all__ = ["gallery", "paint"]

EVIL = """<script>alert("1")</script>' onload="x" javascript:url(http://evil.example/)&amp;"""
"""A name that would run, load or break something wherever it is not escaped."""
QUICK = {"folds": 3, "groups": "patient", "params": {"C": 0.1}}


def table_of_study(gallery):
    """The gallery's manifest with a column for each task, and a cell without a label."""
    rng = np.random.default_rng(0)
    table = pl.read_csv(gallery / "manifest.csv")
    high = (table["grade"] == "high").to_numpy() ^ (rng.random(N) < 0.2)  # else nothing would be wrong
    return table.with_columns(
        image=str(gallery) + "/" + pl.col("image"),
        grade=pl.Series(np.where(high, "high", "low")),
        density=pl.Series([("fatty", "mixed", "dense")[i % 2 + (i // 4) % 2] for i in range(N)]),
        stage=pl.Series([("I", "II", "III")[min(2, i % 2 + (i // 8) % 2)] for i in range(N)]),
        months=pl.Series((rng.exponential(10, N) + np.where(high, 0, 8)).round(2)),
        died=pl.Series((rng.random(N) < 0.7).astype(int)),
        size=pl.Series(np.where(high, 10.0, 6.0) + rng.standard_normal(N)),
        spot=pl.Series([None if i == 3 else ("yes", "no")[i % 2] for i in range(N)]),
        evil=pl.Series([EVIL if i % 2 else "plain" for i in range(N)]),
        evil_site=pl.Series([f"{EVIL} {i % 8 // 4}" for i in range(N)]),
    )


@pytest.fixture(scope="session")
def study_store(gallery, tmp_path_factory):
    """A store of the study: texture of images, n-grams of captions; nobody writes to it."""
    folder = tmp_path_factory.mktemp("study")
    table_of_study(gallery).write_csv(folder / "manifest.csv")
    for encoder in ("builtin:texture", "builtin:ngram"):
        embed(folder / "manifest.csv", folder / "study.hw", encoder=encoder)
    return folder / "study.hw"


@pytest.fixture(scope="session")
def audited(study_store):
    """An audit of the store by site."""
    return audit(study_store, features="texture/image", label="grade", groups="patient", folds=3, by="evil_site")


@pytest.fixture(scope="session")
def runs(study_store, tmp_path_factory):
    """Runs of every task, by name; nobody writes to them."""
    folder = tmp_path_factory.mktemp("runs")
    image, both = "texture/image", ["texture/image", "ngram/text"]
    full = {"calibrate": "temperature", "sensitivity": 0.8, "conformal": 0.2, "by": "site", "positive": "high"}
    asked = {
        "image": {"features": image, "label": "grade", **QUICK, **full, "per": "patient"},
        "text": {"features": "ngram/text", "label": "grade", **QUICK, "positive": "high"},
        "both": {"features": both, "label": "grade", **QUICK, "positive": "high", "controls": True},
        "multiclass": {"features": image, "label": "density", **QUICK},
        "multilabel": {"features": image, "label": "tags", "label_separator": ";", **QUICK},
        "ordinal": {"features": image, "label": "stage", "task": "ordinal", "folds": 3, "groups": "patient"},
        "regression": {"features": image, "label": "size", "task": "regression", "folds": 3, "groups": "patient"},
        "outputs": {"features": image, "label": ["size", "age"], "task": "regression", "folds": 3, "groups": "patient"},
        "survival": {"features": image, "task": "survival", "time": "months", "event": "died", "folds": 3},
        "missing": {"features": image, "label": "spot", "where": "age < 70", **QUICK},
        "evil": {"features": image, "label": "evil", "by": "evil_site", "where": f"evil_site <> '{'<b>'}'", **QUICK},
        "north": {"features": image, "label": "grade", "where": "site = 'north'", "positive": "high", **QUICK},
    }
    asked["survival"]["groups"] = "patient"
    for name, options in asked.items():
        fit_head(study_store, **options, out=folder / name)
    evaluate(
        folder / "north", study_store, label="grade", groups="patient", where="site = 'south'", out=folder / "south"
    )
    return {name: folder / name for name in [*asked, "south"]}
