"""Which samples exist, and the pixels and words each of them holds."""

from headwater.sources.images import IMAGE_SUFFIXES, MAX_PIXELS, load_bytes, read_image
from headwater.sources.manifest import Manifest, read_manifest
from headwater.sources.synthetic import make_histology

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Manifest",
    "load_bytes",
    "make_histology",
    "read_image",
    "read_manifest",
]
