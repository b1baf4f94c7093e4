"""Near duplicates of a set whose copies are known: how many are flagged, at which rate of false alarms.

    python benchmarks/audit_duplicates.py ../shared/data [STORE]

The set is ``lc25000_lung``: 1,498 tiles made from 300 by turning, flipping and warping, of which ``source_tile`` tells
the origin. An image is flagged when its similarity to another of the same source tile is above the threshold; a false
pair is one of different source tiles above it. First at equal measured rates of false pairs, raw against whitened; then
at the threshold that the audit finds by itself, without labels and with the groups given. Same files count once.
Last, what `fit-head` says of this set, and how long the search takes on many rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _timing import machine
from numpy.typing import NDArray

from headwater.api import audit, embed
from headwater.errors import SplitError
from headwater.retrieve.cosine import unit
from headwater.retrieve.duplicates import Tail, Whitening, pairs_above

RATES = (1e-3, 1e-4, 1e-5)
NAME = "mobilenetv2_100/image"


def similarities(units: NDArray[np.float32], tile: NDArray[np.str_]) -> tuple[NDArray, NDArray, NDArray]:
    """Return the similarities of unrelated pairs, each image's highest to a copy, and which images have one."""
    similar = units @ units.T
    same = tile[:, None] == tile
    unrelated = similar[np.triu(~same)]
    np.fill_diagonal(same, False)
    return unrelated, np.where(same, similar, -1).max(1), same.any(1)


def main() -> None:
    data = Path(sys.argv[1])
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder) / "lung.hw"
        weights = data / "weights" / "mobilenetv2_100.safetensors"
        manifest = data / "lc25000_lung" / "manifest.csv"
        store = embed(manifest, place, encoder="timm:mobilenetv2_100", weights=weights, precision="fp32", device="cpu")
        measure(store)


def measure(store) -> None:
    read = store.read(NAME)
    _, first = np.unique(read.table["image_key"].to_numpy().astype(str), return_index=True)
    X, tile = np.asarray(read.X)[first], read.table["source_tile"].to_numpy().astype(str)[first]
    of = {"raw cosine": unit(X)[0]}
    for dim in (32, 64, 128, 256, 512):
        of[f"whitened, {dim}"] = Whitening.fit(X, dim).transform(X)
    print(f"{len(X)} images; flagged, of those that have a copy, at a measured rate of false pairs:")
    for name, units in of.items():
        unrelated, to_copy, has = similarities(units, tile)
        shares = [(to_copy[has] > np.quantile(unrelated, 1 - rate)).mean() for rate in RATES]
        print(f"  {name:<14} ({units.shape[1]})", *(f"{r:.0e}: {s:.3f}" for r, s in zip(RATES, shares)), sep="  ")
    units = of["whitened, 256"]
    unrelated, to_copy, has = similarities(units, tile)
    print("at the threshold that is found, wanted rate -> measured rate, flagged:")
    for name, groups in (("without labels", None), ("groups given", tile)):
        tail = Tail.fit(units, groups=groups)
        for rate in RATES:
            t = tail.threshold(rate)
            line = f"{rate:.0e} -> {(unrelated >= t).mean():.1e} (threshold {t:.3f}), {(to_copy[has] >= t).mean():.3f}"
            print(f"  {name:<14}  {line}")
    start = time.perf_counter()
    (found,) = audit(store, label="label", groups="none", folds=5).found
    print(f"audit: {time.perf_counter() - start:.1f} s; {found.clusters.samples} images in {found.clusters.n} clusters")
    refusals(store)
    flat()


def refusals(store) -> None:
    """Print what fit-head says of folds that keep source tiles whole, and of folds that do not."""
    from headwater.api import fit_head

    for groups in ("source_tile", "none"):
        try:
            near = fit_head(store, features=NAME, label="label", groups=groups, params={"C": 1e-2}).metrics["leakage"]
            print(f"fit-head --groups {groups}: {near['near_duplicates']}")
        except SplitError as error:
            print(f"fit-head --groups {groups}: refused: {error}")


def flat(n: int = 100_000) -> None:
    """Time the search on many rows."""
    units = unit(np.random.default_rng(0).standard_normal((n, 256), np.float32))[0]
    start = time.perf_counter()
    n_found = sum(len(i) for i, _, _ in pairs_above(units, 0.6))
    print(f"all pairs of {n:,} x 256: {time.perf_counter() - start:.0f} s, {n_found} found")


if __name__ == "__main__":
    main()
