"""Read whole-slide images: regions of a pyramid, thumbnails, tissue masks, and tables of tiles."""

from headwater.sources.slides.base import MOST_SIDE, Level, Slide
from headwater.sources.slides.digest import slide_digest
from headwater.sources.slides.found import SLIDE_SUFFIXES, is_slide_name, slides_in
from headwater.sources.slides.grid import Grid, tile_table
from headwater.sources.slides.opened import open_slide, state_of
from headwater.sources.slides.place import Region, Tile, tile_at, tile_key
from headwater.sources.slides.tissue import tissue_mask

__all__ = [
    "MOST_SIDE",
    "SLIDE_SUFFIXES",
    "Grid",
    "Level",
    "Region",
    "Slide",
    "Tile",
    "is_slide_name",
    "open_slide",
    "slide_digest",
    "slides_in",
    "state_of",
    "tile_at",
    "tile_key",
    "tile_table",
    "tissue_mask",
]
