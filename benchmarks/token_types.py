"""What storing tokens as bfloat16 or int8 costs, against float16: space, reading, a probe, attention, retrieval.

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
from headwater.retrieve.cosine import unit

SETS = {"lc25000_lung": ("label", "source_tile"), "mini_mias": ("density", "patient")}
NAME = "mobilenetv2_100/image"
N_NEIGHBOURS = 10
TYPES = ("float16", "bfloat16", "int8")


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
            for dtype in TYPES:
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
        print(f"{name}:")
        for what, digits in (("MB", 0), ("read, million numbers a second", 0), ("probe", 4), ("attention", 4)):
            print(f"  {what:32}" + "".join(f" {dtype} {found[dtype][what]:8.{digits}f}  " for dtype in TYPES))
        for dtype in TYPES[1:]:
            pairs = list(zip(found["float16"]["neighbours"], found[dtype]["neighbours"], strict=True))
            same = np.mean([len(np.intersect1d(a, b)) / N_NEIGHBOURS for a, b in pairs])
            first = np.mean([a[0] == b[0] for a, b in pairs])
            shares = f"{100 * same:.1f} %, the nearest {100 * first:.1f} %"
            print(f"  {dtype}: of {N_NEIGHBOURS} nearest images the same {shares}")


if __name__ == "__main__":
    main()
