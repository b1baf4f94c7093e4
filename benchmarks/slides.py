"""How fast tiles of a slide come into `embed`: against OpenSlide's `read_region` alone, with the same threads.

The plain side reads each region at the level that is read here, and resizes it where that is needed; nothing is
checked, converted or written. Ours is the run of `embed` without its encoder: from the contents of a table of tiles to
committed blocks, by an encoder whose forward costs nothing. Both start warm, and take turns. The time of masks and
tables of tiles, and of digests, stands beside it. A slide of 40,000 x 30,000 pixels is made for it.

Run: python benchmarks/slides.py [--slide FILE] [--threads N] [--tiles N] [--repeats N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import polars as pl
import tifffile
from _timing import machine, medians
from numpy.typing import NDArray
from PIL import Image

from headwater import api
from headwater.embed import Content, Encoded, Encoder, distinct, fill
from headwater.embed.items import slides_seen
from headwater.sources import read_manifest
from headwater.sources.slides import digest, open_slide, tile_at, tile_key
from headwater.store import FeatureSpec, Modality, create_store

TILE = 256


class Nothing(Encoder[NDArray[np.uint8]]):
    """An encoder that reads a tile as a model's input, and whose forward costs nothing."""

    name = "nothing"
    modalities = frozenset[Modality]({"image"})

    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        return FeatureSpec(encoder=self.name, modality=modality, dim=8, dtype=dtype)

    def prepare(self, modality: Modality, content: Content) -> NDArray[np.uint8]:
        return np.asarray(self.image_of(content))

    def encode(self, modality: Modality, batch: Sequence[NDArray[np.uint8]]) -> Encoded:
        return Encoded(np.stack([item[0, :8, 0] for item in batch]).astype(np.float32))


def make_slide(path: Path, width: int, height: int, n_levels: int = 5) -> None:
    """Write a tiled pyramid of JPEG tiles, tile by tile: an ellipse of textured tissue on glass."""
    random = np.random.default_rng(0)
    small = random.normal(0, 40, (256, 256, 3)) + np.array([190, 110, 165])
    base = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).resize((2048, 2048), Image.Resampling.BICUBIC)

    def tiles_of(level: int) -> Iterator[NDArray[np.uint8]]:
        w, h, scale = width >> level, height >> level, 2**level
        side = 2048 // scale
        texture = np.asarray(base.resize((side, side), Image.Resampling.BOX))
        texture = np.tile(texture, (-(-(TILE + side) // side), -(-(TILE + side) // side), 1))
        for y in range(0, h, TILE):
            for x in range(0, w, TILE):
                part = texture[y % side : y % side + TILE, x % side : x % side + TILE]
                yy, xx = np.mgrid[y : y + TILE, x : x + TILE]
                inside = ((xx / w - 0.5) / 0.35) ** 2 + ((yy / h - 0.5) / 0.35) ** 2 < 1
                yield np.where(inside[..., None], part, 243).astype(np.uint8)

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(n_levels):
            file.write(
                tiles_of(level),
                shape=(height >> level, width >> level, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                subfiletype=int(level > 0),
                resolution=(40_000 / 2**level, 40_000 / 2**level),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def contents_of(table: Path) -> Sequence[Content]:
    """Return the contents of a table of tiles, with the digests of their slides known."""
    places = read_manifest(table).image_places()
    tiles = [tile_at(place) for place in places]
    seen, _ = slides_seen(sorted({str(tile.slide) for tile in tiles}), 1, lambda event: None, None)
    keys = [tile_key(seen[str(tile.slide)].digest, tile.region) for tile in tiles]
    return distinct(pl.Series(keys, dtype=pl.Binary), places, "image", slides=seen)


def cpu_of(side: Callable[[], object]) -> float:
    """Return the seconds that all threads compute in a call, which other work on the machine hardly changes."""
    begin = time.process_time()
    side()
    return time.process_time() - begin


def compared(slide: Path, mpp: float, n_tiles: int, n_threads: int, repeats: int) -> dict[str, Any]:
    """Time tiles of a slide into a store, against OpenSlide alone."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        made = api.tiles(slide, Path(folder, "tiles.parquet"), mpp=mpp, mpp_of_slide=None)
        seconds = time.perf_counter() - begin
        n_all = len(made.table)
        chosen = made.table[np.unique(np.linspace(0, n_all - 1, min(n_tiles, n_all)).astype(int)).tolist()]
        chosen.write_parquet(Path(folder, "tiles.parquet"))
        begin = time.perf_counter()
        digest.file_digest(slide)
        hashing = time.perf_counter() - begin
        contents = contents_of(Path(folder, "tiles.parquet"))
        plain, opened = openslide.OpenSlide(str(slide)), open_slide(slide)
        regions = list(chosen.select("x", "y", "level", "width", "size").iter_rows())

        def region(of: tuple[int, int, int, int, int]) -> int:
            x, y, level, width, size = of
            n = round(width / opened.levels[level].downsample)
            image = plain.read_region((x, y), level, (n, n))
            return (image if n == size else image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)).width

        def bare() -> None:
            plain.set_cache(openslide.OpenSlideCache(128 << 20))
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(region, regions, chunksize=32))

        runs = iter(range(1000))

        def ours() -> None:
            opened._handle.set_cache(openslide.OpenSlideCache(128 << 20))
            store = create_store(Path(folder, f"{next(runs)}.hw"))
            features = store.require_features("nothing/image", Nothing().spec("image", "float16"), len(contents))
            result = fill(features, Nothing(), contents, batch_size=32, workers=n_threads)
            assert result.embedded == len(contents)

        times = medians({"bare": bare, "ours": ours}, repeats)
        cpu = {name: min(cpu_of(side) for _ in range(repeats)) for name, side in (("bare", bare), ("ours", ours))}
        return {
            "slide": f"{opened.width:,} x {opened.height:,}",
            "mpp": mpp,
            "level": int(chosen["level"][0]),
            "n_tiles": n_all,
            "n_read": len(contents),
            "seconds_of_mask_and_table": round(seconds, 3),
            "seconds_of_digest": round(hashing, 3),
            "bytes": slide.stat().st_size,
            "openslide_per_second": round(len(contents) / times["bare"], 1),
            "embed_per_second": round(len(contents) / times["ours"], 1),
            "ratio": round(times["bare"] / times["ours"], 3),
            "ratio_of_cpu_time": round(cpu["bare"] / cpu["ours"], 3),
        }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--slide", type=Path, action="append", default=[])
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--tiles", type=int, default=1500)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    print(machine())
    found = []
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder, "big.tif")
        begin = time.perf_counter()
        make_slide(big, 40_000, 30_000)
        print(f"slide made in {time.perf_counter() - begin:.0f} s, {big.stat().st_size / 1e6:.0f} MB")
        for slide, mpp in [*((slide, 0.5) for slide in asked.slide), (big, 0.25), (big, 0.5), (big, 0.7)]:
            found.append(compared(slide, mpp, asked.tiles, asked.threads, asked.repeats))
            print(json.dumps(found[-1]))
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": machine(), "threads": asked.threads, "found": found}, indent=1))


if __name__ == "__main__":
    main()
