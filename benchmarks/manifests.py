"""Tables of samples: a known set read from its tables, and a long manifest read, checked and stored.

The first part times ``headwater manifest rsna-mammo``, in this process, on a made-up train.csv of the published size,
without images. The second reads a CSV manifest, checks it, and writes the samples table of a store, against
``polars.read_csv`` and ``write_parquet`` of the same file. Digests of files are not part of it: they are drawn.

python benchmarks/manifests.py [--rows 1000000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from _timing import best, machine, report, take_turns

import headwater as hw
from headwater.embed.items import Items
from headwater.embed.sample_table import plan_samples, refuse_own_keys
from headwater.sources import read_manifest
from headwater.store import create_store

RSNA = 54_706


def write_rsna(folder: Path) -> None:
    """Write a train.csv of the published number of images, patients and columns."""
    rng = np.random.default_rng(0)
    patient = np.sort(np.concatenate([np.arange(11_913), rng.integers(0, 11_913, RSNA - 11_913)]))
    site = 1 + patient % 2
    density = np.where(site == 1, np.array(list("ABCD"))[patient % 4], "")
    pl.DataFrame(
        {
            "site_id": site,
            "patient_id": patient + 5,
            "image_id": 10_000_000 + np.arange(RSNA) * 37,
            "laterality": np.where(rng.random(RSNA) < 0.5, "L", "R"),
            "view": np.where(rng.random(RSNA) < 0.5, "CC", "MLO"),
            "age": rng.integers(40, 90, RSNA).astype(float),
            "cancer": (rng.random(RSNA) < 0.02).astype(int),
            "biopsy": 0,
            "invasive": 0,
            "BIRADS": np.where(site == 1, "1.0", ""),
            "implant": 0,
            "density": density,
            "machine_id": 20 + site,
            "difficult_negative_case": False,
        }
    ).write_csv(folder / "train.csv")


def write_manifest(path: Path, n: int) -> None:
    """Write a manifest of the usual columns: paths, patients with leading zeros, texts, labels, numbers."""
    rng = np.random.default_rng(0)
    number = pl.int_range(n, eager=True)
    words = np.array(["Fine even chromatin.", "Dense stroma, few cells.", 'Said to be "quiet", see note.', ""])
    table = pl.DataFrame({"number": number, "report": words[rng.integers(0, 4, n)]}).select(
        id=pl.format("s{}", "number"),
        image=pl.format("scans/{}/{}.png", pl.col("number") // 1000, "number"),
        patient=(pl.col("number") // 4).cast(pl.String).str.zfill(7),
        label=pl.Series(np.array(["benign", "malignant"])[rng.integers(0, 2, n)]),
        age=pl.Series(rng.integers(30, 90, n)),
        size=pl.Series(rng.random(n).round(3)),
        report="report",
    )
    table.write_csv(path)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--repeats", type=int, default=3)
    asked = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rsna(folder)
        seconds = best(lambda: hw.manifest("rsna-mammo", folder, out=folder / "rsna.parquet"), asked.repeats)
        print(f"manifest rsna-mammo, {RSNA:,} rows: {seconds:.2f} s (under 5 s: {'met' if seconds < 5 else 'MISSED'})")
        path = folder / "m.csv"
        write_manifest(path, asked.rows)
        store = create_store(folder / "a.hw")
        hexed = pl.Series("image_key", [f"{i:032x}" for i in range(asked.rows)])
        none = pl.Series("text_key", [None] * asked.rows, dtype=pl.String)
        items = {"image": Items((), hexed, {}), "text": Items((), none, {})}

        def ours() -> None:
            table = read_manifest(path)
            refuse_own_keys(table, path, None)
            planned = plan_samples(None, table, items)
            store.write_samples(planned.samples, planned.roles, planned.unreadable, planned.about)

        def theirs() -> None:
            pl.read_csv(path).write_parquet(folder / "m.parquet")

        mine, other = take_turns(ours, theirs, asked.repeats)
        report(f"{asked.rows:,} rows read, checked and stored, read_csv and write_parquet", mine, other, 0.2)
        print(f"  read and checked: {best(lambda: read_manifest(path), asked.repeats):.2f} s")


if __name__ == "__main__":
    main()
