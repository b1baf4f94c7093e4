"""Peak memory: embedding 1,000,000 items against 10,000, and the linear sweep against the size of its features.

    python benchmarks/memory.py

Each measurement is a process of its own; the peak is what the kernel counted (VmHWM, mapped pages included).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from _timing import machine

PEAK = """
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
"""
TABLE = """
import polars as pl
from headwater.sources import read_manifest
from headwater.embed import unique_texts
m = read_manifest("m{n}.parquet", text="text")
if {embed}:
    import headwater as hw
    hw.embed("m{n}.parquet", "s{n}.hw", encoder="stub:64", text="text")
else:
    import numpy as np
    import headwater.api
    from headwater.store import hex_from_keys
    texts = m.texts(); contents, place = unique_texts(texts)
    keys = np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)
    column = pl.Series("text_key", hex_from_keys(keys))
print(peak())
"""
SWEEP = """
import sys
sys.path.insert(0, {here!r})
import numpy as np
from headwater.heads import LinearProbe
from linear_sweep import fits_of, folds
class Blocks:
    def __init__(self, x): self.x, self.shape, self.dtype = x, x.shape, x.dtype
    def __getitem__(self, rows): return self.x[rows]
    def blocks(self):
        for i in range(0, len(self.x), 4096):
            yield slice(i, min(i + 4096, len(self.x))), np.asarray(self.x[i : i + 4096])
x = Blocks(np.load("x.npy", mmap_mode="r"))
y = np.load("y.npy")
splits = folds(y) if len(y) == 8000 else [(np.flatnonzero(np.arange(len(y)) % 5 != f), 0) for f in range(5)]
before = peak()
LinearProbe({args}).fit_many(x, y, fits_of(splits))
print(peak() - before)
"""


def peak(code: str, folder: str) -> float:
    """Return what a process prints last: its peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def embed() -> None:
    import polars as pl

    with tempfile.TemporaryDirectory() as folder:
        used, table = {}, {}
        for n in (10_000, 1_000_000):
            ids = pl.Series("id", range(n)).cast(pl.String)
            pl.DataFrame({"id": ids, "text": "report " + ids}).write_parquet(f"{folder}/m{n}.parquet")
            table[n] = peak(TABLE.format(n=n, embed=False), folder)
            used[n] = peak(TABLE.format(n=n, embed=True), folder)
        small, large = (used[n] - table[n] for n in (10_000, 1_000_000))
        print(f"embed, stub: 10,000 items {used[10_000]:.0f} MB, 1,000,000 items {used[1_000_000]:.0f} MB")
        print(f"  item table alone: {table[10_000]:.0f} MB, {table[1_000_000]:.0f} MB")
        print(f"  difference beyond the item table: {large - small:.0f} MB (at most 100)")


def sweep() -> None:
    import numpy as np
    from linear_sweep import features, scores

    with tempfile.TemporaryDirectory() as folder:
        X = features()
        y = (scores(X, 1)[:, 0] > 0).astype(int)
        X = np.tile(X, (5, 1)) + np.random.default_rng(3).standard_normal((40_000, 768), np.float32) * X.std(0) / 2
        np.save(f"{folder}/x.npy", X.astype(np.float16))
        np.save(f"{folder}/y.npy", np.tile(y, 5))
        size, mapped = X.nbytes / 2**20, X.nbytes / 2 / 2**20
        parameters = 100 * 769 * 4 * 2 * 12 / 2**20  # L-BFGS keeps ten pairs of vectors, an iterate and a gradient
        code = SWEEP.replace("{here!r}", repr(str(Path(__file__).parent)))
        for what, args in (("kept in memory", ""), ("streamed", "max_bytes=0")):
            used = peak(code.replace("{args}", args), folder)
            # the source's own pages are counted too: mapped, clean, the kernel's to take back
            ratio = (used - parameters - mapped) / size
            print(f"linear sweep, 40,000 x 768 ({size:.0f} MB in float32), {what}: {used:.0f} MB")
            print(f"  beyond parameters and the mapped source: {ratio:.2f} times the float32 size (at most 1.5)")


if __name__ == "__main__":
    print(machine())
    embed()
    sweep()
