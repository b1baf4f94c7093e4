"""Real near duplicates: tiles of LC25000, whose copies are known by the tile that they were made from."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.api import audit, embed, fit_head
from headwater.errors import SplitError
from headwater.retrieve.cosine import unit
from headwater.retrieve.duplicates import Tail, Whitening

DATA = Path(__file__).parents[3] / "shared" / "data"
NAME = "mobilenetv2_100/image"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Every image of 150 source tiles through MobileNetV2."""
    pytest.importorskip("timm")
    if not (DATA / "lc25000_lung").exists():
        pytest.skip("the tiles of LC25000 are not here")
    folder = tmp_path_factory.mktemp("tiles")
    table = pl.read_csv(DATA / "lc25000_lung" / "manifest.csv")
    some = table["source_tile"].unique().sort()[::2]
    table = table.filter(pl.col("source_tile").is_in(some.to_list()))
    root = str((DATA / "lc25000_lung").resolve())
    table.with_columns(image=root + "/" + pl.col("image")).write_csv(folder / "manifest.csv")
    weights = DATA / "weights" / "mobilenetv2_100.safetensors"
    where = folder / "tiles.hw"
    return embed(folder / "manifest.csv", where, encoder="timm:mobilenetv2_100", weights=weights, device="cpu")


def test_whitening_tells_copies_apart(tiles):
    """At one false pair in 10,000, whitening flags at least half as many again as raw cosine of what has a copy."""
    data = tiles.read(NAME)
    X, tile = np.asarray(data.X), data.table["source_tile"].to_numpy().astype(str)
    same = tile[:, None] == tile
    flagged = {}
    for name, units in (("raw", unit(X)[0]), ("whitened", Whitening.fit(X).transform(X))):
        similar = units @ units.T
        threshold = np.quantile(similar[np.triu(~same)], 1 - 1e-4)
        copies = same & ~np.eye(len(X), dtype=bool)
        flagged[name] = (similar >= threshold)[copies].sum(), np.where(copies, similar, -1).max(1) >= threshold
    share = {name: found[1][copies.any(1)].mean() for name, found in flagged.items()}
    assert share["whitened"] > 0.5
    assert share["whitened"] > 1.5 * share["raw"]


@pytest.mark.parametrize("known", [False, True])
def test_the_threshold_that_is_found(tiles, known):
    """Without knowing which are copies, the measured rate of false pairs is the wanted one within a factor of five."""
    data = tiles.read(NAME)
    X, tile = np.asarray(data.X), data.table["source_tile"].to_numpy().astype(str)
    units = Whitening.fit(X).transform(X)
    unrelated = (units @ units.T)[np.triu(tile[:, None] != tile)]
    tail = Tail.fit(units, groups=tile if known else None)
    for rate in (1e-3, 1e-4):
        assert rate / 5 < (unrelated >= tail.threshold(rate)).mean() < 5 * rate


def test_audit_finds_them(tiles):
    """The clusters that are found hold many of the images, and hardly one of them joins different source tiles."""
    (found,) = audit(tiles, groups="source_tile").found
    assert found.clusters.samples > 300
    assert found.near.across_groups < 0.1 * found.near.n
    assert found.across_groups_rate < 1e-4


def test_fit_head_refuses_a_split_that_ignores_them(tiles):
    """Folds that keep source tiles whole are fitted; folds that do not are refused."""
    run = fit_head(tiles, features=NAME, label="label", groups="source_tile", params={"C": 1e-2})
    assert not run.metrics["leakage"]["identical_across_splits"]["image"]
    near = run.metrics["leakage"]["near_duplicates"]
    assert near["n_with_copies"] < 0.05 * near["n_looked_up"]
    with pytest.raises(SplitError, match=r"\d+ of \d+ test images have near duplicates in training"):
        fit_head(tiles, features=NAME, label="label", groups="none", params={"C": 1e-2})


def test_folds_that_divide_copies_flatter(tiles):
    """Accuracy among copies of what was trained on is what the reference says it is: far above that on new tiles."""
    options = {"features": NAME, "label": "label", "folds": 5}
    whole = fit_head(tiles, groups="source_tile", **options)
    divided = fit_head(tiles, groups="none", allow_leakage="to see what it does", **options)
    assert divided.mean["accuracy"] > whole.mean["accuracy"] + 0.01
    assert divided.mean["auc"] > whole.mean["auc"]
