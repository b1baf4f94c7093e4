"""How long a report takes, and how large it is: of one run of 10,000 images, and of three runs compared.

    python benchmarks/report.py [ROWS]

Images are JPEG files of 512 x 512 pixels that show squares of random colours, embedded by an encoder whose features
say little; five rows a patient. The report holds everything: curves, tables, pictures of the worst mistakes, and the
map with its pictures. `import headwater` and matplotlib are loaded before the clock starts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

import headwater as hw

ROWS, SIDE, A_PATIENT = 10_000, 512, 5


def study(folder: Path, rows: int) -> Path:
    """Write images and a manifest, embed them, and return the store."""
    rng = np.random.default_rng(0)
    label = np.repeat(rng.integers(0, 2, rows // A_PATIENT + 1), A_PATIENT)[:rows]
    (folder / "images").mkdir()

    def paint(row: int) -> None:
        own = np.random.default_rng(row)
        squares = own.integers(0, 256, (16, 16, 3), np.uint8)
        picture = Image.fromarray(squares).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        picture.save(folder / "images" / f"{row}.jpg", quality=80)

    with ThreadPoolExecutor(2) as team:
        list(team.map(paint, range(rows)))
    table = pl.DataFrame(
        {
            "id": [f"s{row}" for row in range(rows)],
            "image": [f"images/{row}.jpg" for row in range(rows)],
            "patient": [f"p{row // A_PATIENT}" for row in range(rows)],
            "label": np.array(["benign", "malignant"])[label],
            "site": [("north", "south")[row // A_PATIENT % 2] for row in range(rows)],
        }
    )
    table.write_csv(folder / "manifest.csv")
    hw.embed(folder / "manifest.csv", folder / "study.hw", encoder="stub:768")
    return folder / "study.hw"


def timed(runs: list[Path], out: Path) -> str:
    """Return the seconds and megabytes of a report."""
    began = time.perf_counter()
    made = hw.report(runs, out=out, columns="site", by="site", checklist="claim")
    return f"{time.perf_counter() - began:.1f} s, {made.n_bytes / 1e6:.1f} MB"


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = study(folder, rows)
        runs = []
        for C in (0.0001, 0.001, 0.01):
            out = folder / f"C={C}"
            asked = {"features": "stub-768/image", "label": "label", "groups": "patient", "by": "site"}
            hw.fit_head(store, **asked, params={"C": C}, calibrate="temperature", sensitivity=0.9, out=out)
            runs.append(out)
        hw.report(runs[0], out=folder / "warm.html", pictures=False)
        print(f"one run of {rows:,} rows: {timed(runs[:1], folder / 'one.html')}")
        print(f"three runs of {rows:,} rows, compared: {timed(runs, folder / 'three.html')}")


if __name__ == "__main__":
    main()
