"""Measure the speed and memory of an encoder on this machine by embedding synthetic items."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headwater.embed import Content, Encoder, fill, key_of_file, unique_texts
from headwater.store import PARTS, Features, Modality, create_store, pair_key

SIDE = 768
N_WORDS = 40
SECONDS = 5.0
MOST_SECONDS = 60.0
MOST_ITEMS = 512
WORDS = (
    "the",
    "of",
    "a",
    "with",
    "no",
    "left",
    "right",
    "mass",
    "margin",
    "density",
    "tissue",
    "gland",
    "benign",
    "mild",
)


@dataclass(frozen=True)
class Measured:
    """Results of a measurement.

    Attributes
    ----------
    items_per_second
        Items read, prepared, encoded and stored per second, after a first batch.
    n_items, batch_size
        Number of items in the measurement, and number of items encoded together.
    peak_memory
        Peak bytes in use: of the GPU, or else of this process, with model and libraries; None if the system does not
        report it.
    items
        Description of the items.
    item_bytes
        Bytes that one item takes in a store; for ragged tokens, on average.
    """

    items_per_second: float
    n_items: int
    batch_size: int
    peak_memory: int | None
    items: str
    item_bytes: int


def measure(encoder: Encoder[Any], modality: Modality, batch_size: int) -> Measured:
    """Embed synthetic items of a usual size into a temporary store for a few seconds."""
    with tempfile.TemporaryDirectory(prefix="headwater-doctor-") as folder:
        first = _made(modality, Path(folder), 0, 4)
        encoder.encode(modality, [encoder.prepare(modality, first[0])])  # warm-up: imports and allocations
        started = time.perf_counter()
        ready = [encoder.prepare(modality, content) for content in first]
        encoder.encode(modality, ready)
        each = max((time.perf_counter() - started) / len(ready), 1e-6)
        n_items = max(batch_size, min(MOST_ITEMS, int(SECONDS / each)))
        n_items = min(n_items, max(1, int(MOST_SECONDS / each)))
        contents = _made(modality, Path(folder), len(first), n_items)
        store = create_store(Path(folder) / "doctor.hw")
        features = store.require_features(f"doctor/{modality}", encoder.spec(modality, "float16"), n_items)
        device = str(encoder.environment().get("device", "cpu"))
        _forget_peak(device)
        started = time.perf_counter()
        done = fill(features, encoder, contents, batch_size=batch_size)
        took = time.perf_counter() - started
        what = {
            "image": f"synthetic images of {SIDE} x {SIDE} pixels",
            "text": f"synthetic texts of {N_WORDS} words",
            "pair": f"synthetic images of {SIDE} x {SIDE} pixels with texts of {N_WORDS} words",
        }[modality]
        each = _item_bytes(features.refresh())
        return Measured(done.embedded / took, n_items, min(batch_size, n_items), _peak(device), what, each)


def _item_bytes(features: Features) -> int:
    """Return the average bytes per item in a feature set."""
    spec = features.spec
    if not spec.ragged:
        return spec.item_bytes
    n_tokens = float(np.mean([len(features.tokens[row]) for row in range(features.n_items)]))
    return round(spec.item_bytes + (n_tokens - 1) * spec.token_bytes)


def _made(modality: Modality, folder: Path, start: int, n_items: int) -> list[Content]:
    """Make distinct items, the same at every call."""
    random = np.random.default_rng(start)
    if modality == "text":
        return list(unique_texts([f"{i} {' '.join(random.choice(WORDS, N_WORDS - 1))}" for i in range(n_items)])[0])
    if modality == "pair":
        images, texts = (_made(part, folder, start, n_items) for part in PARTS["pair"])
        both = zip(images, texts, strict=True)
        return [Content(pair_key(image.key, text.key), image.source, text.text()) for image, text in both]
    contents = []
    for i in range(start, start + n_items):
        path = folder / f"{i}.jpg"
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path, quality=90)
        contents.append(Content(key_of_file(path), path))
    return contents


def _forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        sys.modules["torch"].cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return


def _peak(device: str) -> int | None:
    if device.startswith("cuda"):
        return int(sys.modules["torch"].cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
