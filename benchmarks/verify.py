"""``headwater verify``, the whole command, against ``b2sum`` of the files that it reads, everything in the page cache.

python benchmarks/verify.py [--mb 4096] [--dim 1024] [--repeats 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _stores import make_store
from _timing import machine, medians, report


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--mb", type=int, default=4096)
    arguments.add_argument("--dim", type=int, default=1024)
    arguments.add_argument("--repeats", type=int, default=3)
    sizes = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        store = make_store(Path(name) / "a.hw", sizes.mb * 2**20 // (2 * sizes.dim), sizes.dim)
        files = [str(path) for path in sorted(store.path.rglob("*")) if path.is_file()]

        def run(*line: str) -> None:
            subprocess.run(line, stdout=subprocess.DEVNULL, check=True)

        sides = {
            "verify": lambda: run(sys.executable, "-m", "headwater", "verify", str(store.path)),
            "b2sum": lambda: run("b2sum", *files),
            "b2sum, two at once": lambda: subprocess.run(
                ["xargs", "-0", "-n", "8", "-P", "2", "b2sum"],
                input="\0".join(files).encode(),
                stdout=subprocess.DEVNULL,
                check=True,
            ),
        }
        sides["verify"]()
        times = medians(sides, sizes.repeats)
        report(f"verify {sizes.mb:,} MB, b2sum", times["verify"], times["b2sum"], 0.9)
        report("the same, b2sum on two cores", times["verify"], times["b2sum, two at once"], None)


if __name__ == "__main__":
    main()
