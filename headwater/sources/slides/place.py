"""Where a tile is: a slide and a region of it, written as one text, and the key of its content."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

_TILE = re.compile(r"(.+)#tile=(0|[1-9]\d{0,9}),(0|[1-9]\d{0,9}),([1-9]\d{0,9}),([1-9]\d{0,5})", re.DOTALL)


class Region(NamedTuple):
    """A square of a slide: its corner and side in level-0 pixels, and the side in pixels that it is resized to."""

    x: int
    y: int
    width: int
    size: int


@dataclass(frozen=True)
class Tile:
    """A region of a slide.

    Examples
    --------
    >>> str(Tile(Path("a.svs"), Region(0, 448, 448, 224)))
    'a.svs#tile=0,448,448,224'
    """

    slide: Path
    region: Region

    def __str__(self) -> str:
        return f"{self.slide}#tile={','.join(map(str, self.region))}"


def tile_at(place: str | os.PathLike[str]) -> Tile | None:
    """Return the tile that a text such as ``a.svs#tile=X,Y,WIDTH,SIZE`` names; None for any other text.

    Examples
    --------
    >>> tile_at("a.svs#tile=0,448,448,224").region
    Region(x=0, y=448, width=448, size=224)
    >>> tile_at("a.svs"), tile_at("a.svs#tile=-1,0,448,224")
    (None, None)
    """
    text = os.fspath(place)
    if "#tile=" not in text or (found := _TILE.fullmatch(text)) is None:
        return None
    return Tile(Path(found[1]), Region(*(int(number) for number in found.groups()[1:])))


def tile_key(slide: bytes, region: Region) -> bytes:
    """Return the key of a tile: the BLAKE2b-128 digest of its slide's digest and its region, 16 bytes."""
    return blake2b(slide + b"tile:" + ",".join(map(str, region)).encode(), digest_size=16).digest()
