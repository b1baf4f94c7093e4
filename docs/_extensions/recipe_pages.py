"""Recipes as pages of the gallery: their order, how they are run there, and a small chart of each result."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from PIL import Image, ImageDraw, ImageFont

RESULTS = Path(__file__).parents[2] / "recipes" / "results"
INK, SOFT, LINE, HERE, THEIRS = "#1b2733", "#5b6b7b", "#d5dce3", "#1f6feb", "#d55e00"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, ROW = 800, 560, 300, 760, 70, 52


def small(config: Any, script: Any) -> list[str]:
    """Return a recipe's arguments where the gallery is built with ``-D plot_gallery=1``: made data, tiny models."""
    return ["--small", "--out", str(Path(mkdtemp()) / "out")]


class ByNumber:
    """The order of pages: studies last, and ``a2`` before ``a10``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> tuple[bool, list[str | int]]:
        """Return what a page is sorted by."""
        parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        return name.startswith("study"), parts


def chart(result: dict[str, Any]) -> Image.Image:
    """Draw the first rows of a ``result.json``: each value with its interval, and the published one, from 0 to 1."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(26)
    for share in (0.0, 0.5, 1.0):
        x = _x(share)
        draw.line([(x, TOP - 16), (x, HEIGHT - 60)], fill=LINE, width=2)
        draw.text((x, HEIGHT - 54), f"{share:g}", fill=SOFT, font=font, anchor="ma")
    draw.text((LEFT, 18), "here, 95 %", fill=HERE, font=font)
    if any(_number(row["published"]) is not None for row in result["rows"]):
        draw.text((RIGHT, 18), "published", fill=THEIRS, font=font, anchor="ra")
    for n, row in enumerate(result["rows"][: (HEIGHT - 60 - TOP) // ROW]):
        y, own = TOP + ROW * n + 12, row["own"]
        words = f"{row['at']} {row['metric'].replace('_', ' ')}".strip()
        draw.text((20, y), words if len(words) < 22 else f"{words[:20]}…", fill=INK, font=font, anchor="lm")
        if own["low"] is not None:
            draw.line([(_x(own["low"]), y), (_x(own["high"]), y)], fill=HERE, width=6)
        _dot(draw, _x(own["value"]), y, HERE)
        published = _number(row["published"])
        if published is not None:
            _dot(draw, _x(published), y, THEIRS)
    return image


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(max(share, 0.0), 1.0)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: str) -> None:
    draw.ellipse([x - 10, y - 10, x + 10, y + 10], fill=colour)


def _number(published: Any) -> float | None:
    """Return the first number of a published figure."""
    found = re.match(r"\d*\.\d+", str(published))
    return None if found is None else float(found[0])


def draw_thumbnails(app: Any) -> None:
    """Write the chart of each recipe over the picture that the gallery has for pages without figures."""
    folder = Path(app.srcdir) / "gallery" / "images" / "thumb"
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if path.stem == result["system"].lower() or path.stem.startswith("study_"):
            chart(result).resize((400, 280)).save(folder / f"sphx_glr_{Path(result['recipe']).stem}_thumb.png")


def setup(app: Any) -> dict[str, Any]:
    """Draw after the gallery has been written."""
    app.connect("builder-inited", draw_thumbnails, priority=900)
    return {"parallel_read_safe": True}
