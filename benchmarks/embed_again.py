"""A second ``embed`` over 100,000 small image files that have not changed, against ``find -ls`` over them.

python benchmarks/embed_again.py [--files 100000] [--repeats 3]

The whole command; and of it the part that looks at the files, in this process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import polars as pl
from _timing import machine, medians
from PIL import Image

from headwater.embed.items import items_of
from headwater.sources import read_manifest
from headwater.store import FileIndex

FOLDERS = 100


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--files", type=int, default=100_000)
    arguments.add_argument("--repeats", type=int, default=3)
    sizes = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, sizes.files)
        line = ["embed", str(folder / "manifest.parquet"), str(folder / "a.hw"), "--encoder", "stub:8"]

        def embed() -> None:
            subprocess.run([sys.executable, "-m", "headwater", *line], capture_output=True, check=True)

        def find() -> None:
            subprocess.run(["find", str(folder / "images"), "-ls"], stdout=subprocess.DEVNULL, check=True)

        def look() -> None:
            items = items_of(table, "image", None, "stop", False, FileIndex(folder / "a.hw"))
            assert len(items.contents) == sizes.files

        time.sleep(2.1)  # a file that has just changed is read again, as its time might not tell of another change
        start = time.perf_counter()
        embed()
        print(f"first run, {sizes.files:,} files: {time.perf_counter() - start:.1f} s")
        table = read_manifest(folder / "manifest.parquet")
        times = medians({"embed": embed, "look": look, "find": find}, sizes.repeats)
        for what, side in (("the whole command", "embed"), ("its look at the files", "look")):
            times_as_long = times[side] / times["find"]
            verdict = "met" if times_as_long <= 3 else "MISSED"
            print(
                f"second embed, {what}: {times[side]:.2f} s against {times['find']:.2f} s for find -ls, "
                f"{times_as_long:.1f} times as long (at most 3: {verdict})"
            )


def write_images(folder: Path, n: int) -> None:
    """Write small PNG files that differ in their tail, and a manifest."""
    data = BytesIO()
    Image.new("RGB", (8, 8), "plum").save(data, "png")
    for number in range(FOLDERS):
        (folder / "images" / f"{number:02d}").mkdir(parents=True)
    names = [f"images/{i % FOLDERS:02d}/{i:07d}.png" for i in range(n)]
    for i, image in enumerate(names):
        (folder / image).write_bytes(data.getvalue() + i.to_bytes(4, "little"))
    pl.DataFrame({"image": names}).write_parquet(folder / "manifest.parquet")


if __name__ == "__main__":
    main()
