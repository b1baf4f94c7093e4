"""Read samples: manifests, images, and vectors from other tools."""

from headwater.sources._folder import images_below
from headwater.sources._listing import require_utf8_names
from headwater.sources._types import plain, typed, with_plain_types
from headwater.sources.dicom import burned_in, is_dicom_file
from headwater.sources.images import IMAGE_SUFFIXES, MAX_PIXELS, load_bytes, read_image, size_of
from headwater.sources.manifest import (
    Manifest,
    as_manifest,
    read_manifest,
    read_table,
    read_text_table,
)
from headwater.sources.synthetic import make_histology
from headwater.sources.synthetic_mammograms import make_mammography
from headwater.sources.vectors import FORMATS, Vectors, modalities_of, read_vectors

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Manifest",
    "Vectors",
    "as_manifest",
    "burned_in",
    "images_below",
    "is_dicom_file",
    "load_bytes",
    "make_histology",
    "make_mammography",
    "modalities_of",
    "plain",
    "read_image",
    "read_manifest",
    "read_table",
    "read_text_table",
    "read_vectors",
    "require_utf8_names",
    "size_of",
    "typed",
    "with_plain_types",
]
