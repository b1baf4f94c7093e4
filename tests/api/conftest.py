"""Data that several files share."""

from tests.gallery import filled, gallery, images, paint, quick_texture, store

__all__ = ["filled", "gallery", "images", "paint", "quick_texture", "store"]
