"""Writing 1 GB of float16 features durably: plan, blocks with their checksums and the journal, against ``numpy.save``
and fsync of the same array.

python benchmarks/store_write.py [--mb 1024] [--dim 1024] [--repeats 5] [--no-sync]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from hashlib import blake2b
from pathlib import Path

import numpy as np
from _stores import NAME, noise, random_keys, spec_of
from _timing import machine, medians, report

from headwater.store import BlockResult, create_store


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--mb", type=int, default=1024)
    arguments.add_argument("--dim", type=int, default=1024)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--no-sync", action="store_true", help="let neither side ask the disk for durability")
    sizes = arguments.parse_args()
    if sizes.no_sync:
        os.fsync = lambda descriptor: None
    print(machine())
    n = sizes.mb * 2**20 // (2 * sizes.dim)
    x, keys = noise(0, n, sizes.dim), random_keys(n)

    with tempfile.TemporaryDirectory() as folder:
        path, file = Path(folder) / "a.hw", Path(folder) / "x.npy"

        def ours() -> None:
            features = create_store(path).require_features(NAME, spec_of(sizes.dim), n)
            with features.writing() as writer:
                tasks = writer.plan(keys)
                blocks = ((task, BlockResult(task.rows, x[task.rows[0] : task.rows[-1] + 1])) for task in tasks)
                for _ in writer.commit_all(blocks):
                    pass

        def theirs() -> None:
            with file.open("wb") as out:
                np.save(out, x)
                out.flush()
                os.fsync(out.fileno())

        def with_checksum() -> None:
            theirs()
            blake2b(x, digest_size=16).hexdigest()

        def clear() -> None:
            shutil.rmtree(path, ignore_errors=True)
            file.unlink(missing_ok=True)
            os.sync()

        theirs()  # a machine that is new to a page is slower at it, whoever asks first
        times = medians({"store": ours, "numpy": theirs, "checked": with_checksum}, sizes.repeats, clear)
        report(f"write {sizes.mb:,} MB durably, numpy.save and fsync", times["store"], times["numpy"], 0.8)
        report("the same, and then a BLAKE2b checksum of it", times["store"], times["checked"], None)
        rates = {name: sizes.mb / seconds for name, seconds in times.items()}
        print("  " + ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in rates.items()))


if __name__ == "__main__":
    main()
