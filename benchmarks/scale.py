"""From 10,000 to 10,000,000 items of small vectors: time an item, peak memory, and opening the store.

python benchmarks/scale.py [--items 10000 100000 1000000] [--dim 8] [--large]

``--large`` adds 10,000,000. Each measurement is a process of its own. Items are planned and committed block by block.
The peak is what the kernel counted (VmHWM), beyond that of a process that only holds the item table (keys, and the
order in which they are found). ``embed`` is the verb, with the stub encoder over texts, 1,000,000 at most.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _timing import machine

START = """
import sys, time
sys.path.insert(0, {here!r})
import numpy as np
from pathlib import Path
from _stores import NAME, noise, random_keys, spec_of
from headwater.store import BlockResult, create_store, open_store
n, dim, path = {n}, {dim}, Path("a.hw")
def done(seconds):
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
    print(seconds, int(peak) / 1024)
start = time.perf_counter()
"""
TABLE = """
keys = random_keys(n)
known = keys.copy()
found, order, rows = known[np.argsort(known.view("S16").reshape(-1))], np.arange(n), np.arange(n)
done(0)
"""
WRITE = """
keys = random_keys(n)
vectors = noise(0, 16_384, dim)  # as many as a block may have
start = time.perf_counter()
features = create_store(path).require_features(NAME, spec_of(dim), n)
with features.writing() as writer:
    for task in writer.plan(keys):
        writer.commit(task, BlockResult(task.rows, vectors[: len(task.rows)]))
done(time.perf_counter() - start)
"""
EMBED = """
import polars as pl
import headwater as hw
import headwater.api
ids = pl.Series("id", range(n)).cast(pl.String)
pl.DataFrame({"id": ids, "text": "report " + ids}).write_parquet("m.parquet")
start = time.perf_counter()
hw.embed("m.parquet", "e.hw", encoder=f"stub:{dim}", text="text")
done(time.perf_counter() - start)
"""
OPEN = """
wanted = random_keys(n)[:: max(1, n // 1000)][:1000]
start = time.perf_counter()
rows = open_store(path).features(NAME).rows_of(wanted)
seconds = time.perf_counter() - start
assert (rows == np.arange(n)[:: max(1, n // 1000)][:1000]).all()
done(seconds)
"""


ONE = """
start = time.perf_counter()
features = open_store(path).features(NAME)
row = features.pooled[n // 2]
done(time.perf_counter() - start)
"""


def measure(code: str, n: int, dim: int, folder: str) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB that a process prints."""
    start = START.format(here=str(Path(__file__).parent), n=n, dim=dim)
    line = [sys.executable, "-c", start + code]
    out = subprocess.run(line, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return float(out[0]), float(out[1])


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments.add_argument("--dim", type=int, default=8)
    arguments.add_argument("--large", action="store_true")
    sizes = arguments.parse_args()
    print(machine())
    each: dict[str, dict[int, float]] = {"writer": {}, "embed": {}}
    beyond = {}
    opened = one = 0.0
    for n in sorted(sizes.items) + ([10_000_000] if sizes.large else []):
        with tempfile.TemporaryDirectory() as folder:
            _, table = measure(TABLE, n, sizes.dim, folder)
            seconds, peak = measure(WRITE, n, sizes.dim, folder)
            opened, _ = min(measure(OPEN, n, sizes.dim, folder) for _ in range(3))
            one, _ = min(measure(ONE, n, sizes.dim, folder) for _ in range(3))
            each["writer"][n], beyond[n] = seconds / n, peak - table
            if n <= 1_000_000:
                each["embed"][n] = measure(EMBED, n, sizes.dim, folder)[0] / n
        rates = ", ".join(f"{1 / of[n]:,.0f} a second by the {name}" for name, of in each.items() if n in of)
        print(f"{n:>10,} items: {rates}; opened in {opened:.3f} s", flush=True)
        print(f"{'':>10}  peak {peak:.0f} MB, {beyond[n]:.0f} MB beyond the item table's", flush=True)
    for name, of in each.items():
        least, most = min(of), max(of)
        slower = of[most] / of[least]
        verdict = _verdict(slower <= 1.2)
        print(f"time an item by the {name}, {most:,} against {least:,}: {slower:.2f} times (at most 1.2: {verdict})")
    most = max(beyond)
    print(f"opening {most:,} items and finding 1,000: {opened:.3f} s (under a second: {_verdict(opened < 1)})")
    print(
        f"opening {most:,} items and reading one, its block checked: {one:.3f} s (under a second: {_verdict(one < 1)})"
    )
    grown = beyond[most] - beyond[min(beyond)]
    print(f"memory beyond the item table: {grown:+.0f} MB (at most 100: {_verdict(grown <= 100)})")


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
