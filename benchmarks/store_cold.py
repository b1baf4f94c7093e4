"""An epoch of token features larger than memory, from a cold page cache, against ``dd`` of the same chunk files.

python benchmarks/store_cold.py [--gb 8] [--memory-gb 4] [--tokens 64] [--dim 768] [--repeats 3]

Each side is a process of its own whose memory, page cache included, a control group limits (version 1 or 2, made below
this process's own). Where no group can be made, nothing limits the cache but that the files are put out of it before
each run, and the output says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _stores import NAME, chunk_files, forget, make_store
from _timing import best, machine, report

EPOCH = """
import time
import headwater as hw
dataset = hw.torch_dataset({store!r}, {name!r}, tokens=True, batch_size=256, window={window})
start = time.perf_counter()
n = sum(len(batch["values"]) for batch in dataset)
print(time.perf_counter() - start)
assert n == {n}, n
"""
GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def limited(n_bytes: int) -> Iterator[Path | None]:
    """Make a control group of so much memory, into which a process goes by writing 0; None where there can be none."""
    group = _group(n_bytes)
    try:
        yield None if group is None else group / "cgroup.procs"
    finally:
        if group is not None:
            group.rmdir()


def _group(n_bytes: int) -> Path | None:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controllers not in ("memory", ""):
            continue
        above = GROUPS / ("memory" if controllers else "") / path.lstrip("/")
        group = above / f"headwater-{os.getpid()}"
        try:
            group.mkdir()
            limit = "memory.limit_in_bytes" if controllers else "memory.max"
            (group / limit).write_text(str(n_bytes))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return group
    return None


def run(line: list[str], procs: Path | None) -> str:
    """Run a command inside the group, and return what it prints."""
    enter = [] if procs is None else ["sh", "-c", f'echo 0 > {procs} && exec "$@"', "sh"]
    return subprocess.run([*enter, *line], check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--gb", type=float, default=8)
    arguments.add_argument("--memory-gb", type=float, default=4)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--dim", type=int, default=768)
    arguments.add_argument("--window", type=int, default=16)
    arguments.add_argument("--repeats", type=int, default=3)
    sizes = arguments.parse_args()
    print(machine())
    n = int(sizes.gb * 2**30) // (2 * sizes.tokens * sizes.dim)
    with tempfile.TemporaryDirectory() as name, limited(int(sizes.memory_gb * 2**30)) as procs:
        store = make_store(Path(name) / "a.hw", n, 8, sizes.tokens, sizes.dim)
        features = store.features(NAME)
        files = chunk_files(features.folder / "tokens")
        total = sum(path.stat().st_size for path in files)
        code = EPOCH.format(store=str(store.path), name=NAME, window=sizes.window, n=n)
        how = f"a control group of {sizes.memory_gb:g} GB" if procs is not None else "nothing (no control group here)"
        print(f"{total / 2**30:.2f} GB in {len(files)} files; memory limited by {how}; cache emptied before each run")
        copy = 'for file in "$@"; do dd if="$file" of=/dev/null bs=1M 2> /dev/null || exit 1; done'
        times: dict[str, list[float]] = {"store": [], "dd": []}
        for _ in range(sizes.repeats):
            forget(store.path)
            times["store"].append(float(run([sys.executable, "-c", code], procs)))
            forget(store.path)
            times["dd"].append(best(lambda: run(["sh", "-c", copy, "sh", *map(str, files)], procs), 1))
        epoch, copied = (statistics.median(each) for each in times.values())
        report("an epoch larger than memory, dd", epoch, copied, 0.7)
        rates = [total / seconds / 2**20 for seconds in (epoch, copied)]
        print(f"  {rates[0]:,.0f} MB/s, shuffled over {sizes.window} blocks, against {rates[1]:,.0f} MB/s")


if __name__ == "__main__":
    main()
