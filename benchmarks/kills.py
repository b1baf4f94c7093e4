"""``kill -9`` at random instants of ``headwater embed``, every other one while it writes; the same command goes on.

python benchmarks/kills.py [--kills 200] [--images 320] [--encoder builtin:texture] [--seed 0]

Just before each kill a reader looks at the store, and after it the store must open, ``verify`` must find nothing, and
readers must see each block whole or not at all, with the values of a run that nobody disturbed. A store that is
finished must equal that run's, array file by array file, to the bit; then a new one is begun. Exits with 1 on any
violation. ``--encoder stub:8 --images 5000`` spends more of its time in writing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np
import polars as pl
from _timing import machine
from PIL import Image

from headwater.api import verify
from headwater.errors import HeadwaterError
from headwater.store import find_store

NAME = "f/image"
TOO_MANY = 20
"""Violations after which no more is tried."""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--images", type=int, default=320)
    arguments.add_argument("--encoder", default="builtin:texture")
    arguments.add_argument("--seed", type=int, default=0)
    sizes = arguments.parse_args()
    print(machine())
    instants = random.Random(sizes.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise(folder, sizes.images)
        whole, store = folder / "whole.hw", folder / "a.hw"
        start = time.perf_counter()
        if start_embed(folder, whole, sizes.encoder).wait():
            sys.exit("the run that nobody disturbs failed")
        seconds = time.perf_counter() - start
        expected, pooled = files_of(whole), np.array(find_store(whole).features(NAME).pooled)
        print(f"undisturbed: {seconds:.1f} s, {find_store(whole).features(NAME).n_blocks} blocks", flush=True)

        wrong: list[str] = []
        kills = finished = 0
        stored: list[int] = []
        while kills < sizes.kills:
            process = start_embed(folder, store, sizes.encoder)
            longest = seconds
            if kills % 2:  # most of a short run is its start: every other kill is while it writes
                until_it_writes(process, store)
                longest = seconds / 10
            try:
                process.wait(instants.uniform(0, longest))
            except subprocess.TimeoutExpired:
                wrong += [f"before kill {kills + 1}: {line}" for line in misread(store, pooled)[0]]
            process.kill()
            status = process.wait()
            if status == -signal.SIGKILL:
                kills += 1
                found, n_stored = misread(store, pooled)
                wrong += [f"kill {kills}: {line}" for line in found + damages(store)]
                stored.append(n_stored)
            elif status == 0:
                finished += 1
                wrong += [f"store {finished}: {line}" for line in differing(expected, files_of(store))]
                shutil.rmtree(store)
            else:
                said = (folder / "stderr").read_text().splitlines()[-1:]
                wrong.append(f"after kill {kills}: embed ended with status {status}: {''.join(said)}")
                shutil.rmtree(store, ignore_errors=True)
            if len(wrong) > TOO_MANY:
                break
            if kills % 20 == 0 and status:
                print(f"  {kills} kills, {finished} stores finished, {len(wrong)} violations", flush=True)
        if store.exists():  # the last one is finished as well
            finished += 1
            if status := start_embed(folder, store, sizes.encoder).wait():
                wrong.append(f"at the end: embed ended with status {status}")
            wrong += [f"store {finished}: {line}" for line in differing(expected, files_of(store))]
    print(
        f"{kills} kills (seed {sizes.seed}): {sum(n == 0 for n in stored)} before anything was stored, "
        f"{sum(n > 0 for n in stored)} with blocks stored, of {len(set(stored) - {0})} different sizes"
    )
    print(f"{finished} stores finished, each compared with the undisturbed run, {len(expected)} files to the bit")
    for line in wrong:
        print(f"VIOLATION {line}")
    print(f"violations: {len(wrong)} (at most 0: {'met' if not wrong else 'MISSED'})")
    sys.exit(bool(wrong))


def write_noise(folder: Path, n: int, side: int = 64) -> None:
    """Write PNG files of noise and a manifest."""
    random_of = np.random.default_rng(0)
    (folder / "images").mkdir()
    names = [f"images/{i:06d}.png" for i in range(n)]
    for image in names:
        pixels = random_of.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / image, compress_level=1)
    pl.DataFrame({"image": names}).write_parquet(folder / "manifest.parquet")


def start_embed(folder: Path, store: Path, encoder: str) -> subprocess.Popen[bytes]:
    """Start the command in a process of its own; what it says of errors is in ``stderr``."""
    line = [sys.executable, "-m", "headwater", "embed", str(folder / "manifest.parquet"), str(store)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line += ["--encoder", encoder, "--name", NAME.partition("/")[0]]
    with (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=errors, env=environment)


def until_it_writes(process: subprocess.Popen[bytes], store: Path) -> None:
    """Wait until the journal has another line, or the command is over."""
    journal = store / "journal" / f"{NAME}.jsonl"
    size = journal.stat().st_size if journal.exists() else 0
    while process.poll() is None and (journal.stat().st_size if journal.exists() else 0) == size:
        time.sleep(0.002)


def misread(path: Path, pooled: np.ndarray) -> tuple[list[str], int]:
    """Return what a reader sees that is wrong, and how many rows it sees."""
    try:
        store = find_store(path)
        if store is None or NAME not in store.feature_names():
            return [], 0
        features = store.features(NAME)
        there = features.status == 1
        seen = np.array(features.pooled).view(np.uint16)
        if not np.array_equal(seen[there], pooled[: len(there)][there].view(np.uint16)):
            return ["rows that are stored are not those of the undisturbed run"], 0
        if not np.isnan(seen[~there].view(np.float16)).all():
            return ["rows that are not stored hold something"], 0
        starts = range(0, len(there), features.block_rows)
        if any(len(set(there[start : start + features.block_rows].tolist())) > 1 for start in starts):
            return ["half a block is stored"], 0
    except HeadwaterError as error:
        return [f"a reader failed: {error}"], 0
    return [], int(there.sum())


def damages(path: Path) -> list[str]:
    """Return what ``verify`` finds, where there is a store."""
    try:
        return [] if find_store(path) is None else verify(path)
    except HeadwaterError as error:
        return [f"verify failed: {error}"]


def files_of(store: Path) -> dict[str, str]:
    """Return the checksum of each file of the arrays."""
    folder = store / "features.zarr"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): blake2b(path.read_bytes()).hexdigest() for path in paths}


def differing(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the files that differ, are missing or are too many."""
    names = sorted({*expected, *found})
    return [f"{name} differs from the undisturbed run" for name in names if expected.get(name) != found.get(name)]


if __name__ == "__main__":
    main()
