"""Reading 200,000 x 1,024 float16, warm: a random gather against zarr-python and Lance, a whole read against numpy.

python benchmarks/store_read.py [--before CHECKOUT]

Then what it costs that each block is compared with its checksum when it is first read: the first and the second gather
of a new process with the check, without it (``HEADWATER_CHECK=off``), and, with ``--before``, by the headwater of
another checkout; and the bytes that the first gather compares, against `verify`'s rate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import zarr
from _timing import best, machine, report

from headwater.store import BlockResult, FeatureSpec, create_store

N, D, N_GATHERED = 200_000, 1024, 4096
GATHER = """
import sys, time
import numpy as np
from headwater.store import open_store
rng = np.random.default_rng(0)
rows = rng.permutation({n})[:{rows}]
pooled = open_store(sys.argv[1]).features("f/image").pooled
times = []
for _ in range(6):
    start = time.perf_counter()
    pooled[rows]
    times.append(time.perf_counter() - start)
print(times[0], min(times[1:]))
"""
VERIFY = """
import sys, time
from headwater.store import open_store
features = open_store(sys.argv[1]).features("f/image")
start = time.perf_counter()
assert list(features.verify()) == []
print(time.perf_counter() - start, 0)
"""


def timed(code: str, store: Path, before: Path | None = None, **environment: str) -> tuple[float, float]:
    """Return the two least of what three new processes print."""
    folder = Path(__file__).parents[1] if before is None else before
    found = []
    for _ in range(3):
        line = [sys.executable, "-c", code, str(store)]
        settings = {**os.environ, "PYTHONPATH": str(folder), **environment}
        out = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, env=settings, cwd=folder).stdout
        found.append([float(word) for word in out.split()])
    return min(first for first, _ in found), min(second for _, second in found)


def checked_reads(store: Path, block_rows: int, before: Path | None) -> None:
    """Print what checking costs, of a gather of few rows from every block and of one row."""
    verify, _ = timed(VERIFY, store)
    size = N * D * 2
    print(f"verify: {verify * 1e3:.0f} ms, {size / verify / 1e9:.1f} GB/s on all cores")
    for rows in (N_GATHERED, 1):
        code = GATHER.format(n=N, rows=rows)
        checked, unchecked = timed(code, store), timed(code, store, HEADWATER_CHECK="off")
        sides = [("checked", checked), ("HEADWATER_CHECK=off", unchecked)]
        if before is not None:
            sides.append(("the code before", timed(code, store, before)))
        for name, (first, second) in sides:
            print(f"{rows:>5,} rows, {name}: first gather {first * 1e3:.2f} ms, then {second * 1e3:.3f} ms")
        touched = size if rows > 1 else block_rows * D * 2
        cost = checked[0] - unchecked[0]
        rate = touched / cost / 1e9
        print(f"      the check took {cost * 1e3:.1f} ms for {touched / 1e6:.0f} MB: {rate:.1f} GB/s on one core")
        report(f"second gather of {rows:,}, without the check", checked[1], unchecked[1], 0.9)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--before", type=Path, help="another checkout, whose headwater reads the same store")
    before = arguments.parse_args().before
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
        checked_reads(store.path, features.block_rows, before)


if __name__ == "__main__":
    main()
