"""What storing tokens as int8 costs, against float16: space, reading, a linear probe, an attention head, retrieval.

    python benchmarks/token_types.py ../shared/data

Tokens are the 49 cells of MobileNetV2's last feature map with ImageNet weights, of ``lc25000_lung`` (tissue type,
folds by source tile) and of ``mini_mias`` (breast density, folds by patient). The probe and the neighbours are on the
mean over tokens; the attention head is ABMIL over them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _timing import machine

import headwater as hw
from headwater.evaluate import cross_validate, make_splits
from headwater.heads import MIL, LinearProbe
from headwater.retrieve.exact import unit

SETS = {"lc25000_lung": ("label", "source_tile"), "mini_mias": ("density", "patient")}
NAME = "mobilenetv2_100/image"
N_NEIGHBOURS = 10


def neighbours(means: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the numbers of the nearest images of other groups, by cosine, of shape (n, N_NEIGHBOURS)."""
    units = unit(means)[0]
    similar = units @ units.T
    similar[groups[:, None] == groups] = -2
    return np.argsort(-similar, axis=1)[:, :N_NEIGHBOURS]


def measure(store: hw.Store, label: str, group: str) -> dict[str, object]:
    """Return what a store's tokens take and give."""
    features = store.features(NAME)
    data = store.read(NAME, tokens=True)
    y, groups = (data.table[column].to_numpy().astype(str) for column in (label, group))
    splits = make_splits(y, groups=groups, n_folds=5)
    start = time.perf_counter()
    n_bytes = sum(np.asarray(values).size for _, values in data.X.blocks()) * 2
    rate = n_bytes / (time.perf_counter() - start)
    means = np.concatenate([np.asarray(values, np.float32).mean(1) for _, values in data.X.blocks()])
    head = MIL(epochs=15, hidden=(), width=64, lr=1e-3)
    found = {
        "MB": sum(p.stat().st_size for p in features.folder.glob("token*/c.*")) / 1e6,
        "read, million numbers a second": rate / 2e6,
        "probe": cross_validate(LinearProbe(), means, y, splits, groups=groups).mean["auc"],
        "attention": cross_validate(head, data.X, y, splits, groups=groups, grid=[{}]).mean["auc"],
        "neighbours": neighbours(means, groups),
    }
    return found


def main() -> None:
    data = Path(sys.argv[1])
    print(machine())
    weights = data / "weights" / "mobilenetv2_100.safetensors"
    for name, (label, group) in SETS.items():
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for dtype in ("float16", "int8"):
                store = hw.embed(
                    data / name / "manifest.csv",
                    Path(folder) / f"{dtype}.hw",
                    encoder="timm:mobilenetv2_100",
                    weights=weights,
                    tokens="all",
                    tokens_dtype=dtype,
                    precision="fp32",
                    device="cpu",
                )
                found[dtype] = measure(store, label, group)
        exact, small = found["float16"], found["int8"]
        print(f"{name}:")
        for what in ("MB", "read, million numbers a second"):
            print(f"  {what:32} float16 {exact[what]:8.0f}   int8 {small[what]:8.0f}")
        for what in ("probe", "attention"):
            print(f"  {what + ', AUC':32} float16 {exact[what]:8.4f}   int8 {small[what]:8.4f}")
        pairs = zip(exact["neighbours"], small["neighbours"], strict=True)
        same = np.mean([len(np.intersect1d(a, b)) / N_NEIGHBOURS for a, b in pairs])
        first = np.mean(exact["neighbours"][:, 0] == small["neighbours"][:, 0])
        print(f"  of {N_NEIGHBOURS} nearest images the same {100 * same:.1f} %, the nearest of all {100 * first:.1f} %")


if __name__ == "__main__":
    main()
