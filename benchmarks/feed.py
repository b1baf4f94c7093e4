"""How fast images are read, decoded and transformed for an encoder: `embed`'s feed against plain processes.

The plain side is as many processes as cores, each of which opens files with Pillow and applies timm's transform, as the
workers of a torch DataLoader do; no process hands anything over. Ours hands every prepared image to the loop that would
give it to the encoder, whose forward here costs nothing. Both start warm, and take turns.

Run: python benchmarks/feed.py [--cores N] [--repeats N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import timm
import torch
from _timing import machine
from PIL import Image

from headwater.embed import Content, key_of_file, load_encoder
from headwater.embed.feed import feeding

MODEL = "vit_base_patch16_224"
HOW = ("threads", "processes")
KINDS = {"tiles of 224": (224, 1500), "photographs of 2,000": (2000, 64)}


def make_images(folder: Path, side: int, n: int) -> list[Path]:
    """Save distinct smooth noisy JPEG files of quality 90."""
    random = np.random.default_rng(0)
    files = []
    for i in range(n):
        coarse = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + random.normal(
            0, 6, (side, side, 1)
        )
        file = folder / f"{i:05}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        files.append(file)
    return files


def plain_process() -> None:
    """Prepare a process of the plain side."""
    global TRANSFORM
    torch.set_num_threads(1)
    model = timm.create_model(MODEL)
    TRANSFORM = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def plain(paths: list[str]) -> int:
    """Decode and transform some files, and keep nothing."""
    return sum(TRANSFORM(Image.open(path).convert("RGB")).shape[0] for path in paths)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(timm.create_model(MODEL).state_dict(), weights)
        encoder = load_encoder(f"timm:{MODEL}", weights=weights, device="cpu", probing="anew")
        for kind, (side, n) in KINDS.items():
            place = Path(folder) / str(side)
            place.mkdir()
            files = make_images(place, side, n)
            rows[kind] = compared(encoder, files, asked.cores, asked.repeats)
            theirs, *ours = (n / seconds for seconds in rows[kind].values())
            said = ", ".join(f"{how} {rate:,.0f} ({rate / theirs:.2f}x)" for how, rate in zip(HOW, ours, strict=True))
            print(f"{kind}: images/s: plain {theirs:,.0f}, {said}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "cores": asked.cores, "rows": rows}, indent=2))


def compared(encoder, files: list[Path], cores: int, repeats: int) -> dict[str, float]:
    """Return the least seconds of the plain side and of both of ours, which take turns."""
    contents = [Content(key_of_file(file), file) for file in files]
    jobs = [contents[i : i + 32] for i in range(0, len(contents), 32)]
    parts = [[str(file) for file in files[i : i + 16]] for i in range(0, len(files), 16)]
    least = dict.fromkeys(("plain_s", "threads_s", "processes_s"), np.inf)
    encoder.threads_own_cores = False  # as on a GPU
    with ExitStack() as stack:
        processes = stack.enter_context(ProcessPoolExecutor(cores, initializer=plain_process))
        threads = stack.enter_context(ThreadPoolExecutor(cores))
        feeds = {
            kind: stack.enter_context(feeding(encoder, "image", contents, len(contents), 32, cores, kind))
            for kind in ("threads", "processes")
        }
        torch.set_num_threads(1)

        def timed(name: str, work: Callable[[], object]) -> None:
            start = time.perf_counter()
            work()
            least[name] = min(least[name], time.perf_counter() - start)

        def fed(feed) -> None:
            def one(job) -> None:
                ready = feed.prepare(range(len(job)), job)
                assert len(ready.items) == len(job)
                feed.done(ready)

            list(threads.map(one, jobs))

        list(processes.map(plain, parts[: 2 * cores]))
        fed(feeds["processes"])
        for _ in range(repeats):
            timed("plain_s", lambda: list(processes.map(plain, parts)))
            for kind, feed in feeds.items():
                timed(f"{kind}_s", lambda feed=feed: fed(feed))
    return least


if __name__ == "__main__":
    main()
