"""Reading 200,000 x 1,024 float16, warm: a random gather against zarr-python and Lance, a whole read against numpy.

python benchmarks/store_read.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import zarr
from _timing import best, machine, report

from headwater.store import BlockResult, FeatureSpec, create_store

N, D, N_GATHERED = 200_000, 1024, 4096


def main() -> None:
    print(machine())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D), np.float32).astype(np.float16)
    keys = rng.integers(0, 256, (N, 16), np.uint8)
    rows = rng.permutation(N)[:N_GATHERED]
    with tempfile.TemporaryDirectory() as folder:
        store = create_store(Path(folder) / "a.hw")
        features = store.require_features("f/image", FeatureSpec(encoder="stub:1024", modality="image", dim=D), N)
        with features.writing() as writer:
            for task in writer.plan(keys):
                writer.commit(task, BlockResult(task.rows, x[task.rows]))
        pooled = features.refresh().pooled
        array = zarr.open_array(str(features.folder / "pooled"), mode="r")
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), D)
        lance.write_dataset(pa.table({"v": vectors}), f"{folder}/l.lance")
        dataset = lance.dataset(f"{folder}/l.lance")
        np.save(f"{folder}/x.npy", x)

        assert np.array_equal(pooled[rows], x[rows])
        assert np.array_equal(array.oindex[rows[:50]], x[rows[:50]])
        gather = best(lambda: pooled[rows], 20)
        report("gather 4,096 rows, zarr-python", gather, best(lambda: array.oindex[rows], 3), 30)
        report("gather 4,096 rows, Lance", gather, best(lambda: dataset.take(rows), 5), 10)
        out = best(lambda: np.asarray(pooled), 5)
        report(
            "whole read, numpy.load(mmap_mode='r') copied",
            out,
            best(lambda: np.array(np.load(f"{folder}/x.npy", mmap_mode="r")), 5),
            0.8,
        )


if __name__ == "__main__":
    main()
