"""``embed --engine ray`` with two workers against one, on two cores, with an encoder bound by the processor.

python benchmarks/ray_workers.py [--images 6144] [--side 64] [--repeats 1]

The whole command; and from the first block to the last, by the journal, which leaves out starting Ray and its workers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _timing import machine, report
from kills import write_noise


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--images", type=int, default=6_144)
    arguments.add_argument("--side", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=1)
    sizes = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise(folder, sizes.images, sizes.side)
        whole: dict[int, list[float]] = {1: [], 2: []}
        steady: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(sizes.repeats):
            for workers in whole:
                seconds, each = embed(folder, workers)
                whole[workers].append(seconds)
                steady[workers].append(each)
        two, one = (statistics.median(whole[n]) for n in (2, 1))
        report(f"embed {sizes.images:,} images, two workers, against one: the whole command", two, one, 1.7)
        two, one = (statistics.median(steady[n]) for n in (2, 1))
        report("the same without starting: time a block", two, one, 1.7)


def embed(folder: Path, workers: int) -> tuple[float, float]:
    """Return the seconds that the command takes, and those that a block takes once the first is there."""
    store = folder / "a.hw"
    shutil.rmtree(store, ignore_errors=True)
    journal = store / "journal" / "texture" / "image.jsonl"
    line = [sys.executable, "-m", "headwater", "embed", str(folder / "manifest.parquet"), str(store)]
    line += ["--encoder", "builtin:texture", "--engine", "ray", "--workers", str(workers)]
    start = time.perf_counter()
    seen: list[tuple[float, int]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        blocks = journal.read_bytes().count(b'"block"') if journal.exists() else 0
        if blocks and (not seen or blocks > seen[-1][1]):
            seen.append((time.perf_counter(), blocks))
        time.sleep(0.02)
    assert process.returncode == 0
    seconds = time.perf_counter() - start
    (first, n_first), (last, n_last) = seen[0], seen[-1]
    print(f"  {workers} workers: {seconds:.1f} s, first block after {first - start:.1f} s", flush=True)
    return seconds, (last - first) / (n_last - n_first)


if __name__ == "__main__":
    main()
