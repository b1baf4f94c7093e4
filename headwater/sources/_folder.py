"""A folder of images as a table: one subfolder per class, perhaps within one per part of a split, or no subfolders."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import polars as pl

from headwater._words import counted
from headwater.errors import ManifestError
from headwater.sources._listing import SHOWN_NAMES, Files, require_utf8_names
from headwater.sources.dicom import is_dicom_file
from headwater.sources.images import IMAGE_SUFFIXES

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Subfolders that are parts of a split, not classes, by their names in lower case."""
_SUFFIXES = rf"(?i)({'|'.join(sorted(s.replace('.', chr(92) + '.') for s in IMAGE_SUFFIXES))})$"


def read_folder(folder: Path) -> pl.DataFrame:
    """List the images of a folder as ``id``, ``image`` and, if they lie in subfolders, ``label``, perhaps ``split``.

    Raises
    ------
    ManifestError
        When there are no images, when some lie in subfolders and others do not, or when names are not in UTF-8.
    """
    files = Files.below(folder)
    require_utf8_names(files.odd, folder)
    images = images_in(files)
    loose = images.filter(~images.str.contains("/", literal=True))
    if 0 < len(loose) < len(images):
        shown = ", ".join(map(repr, loose.head(SHOWN_NAMES).to_list()))
        n = len(loose)
        are = "images are" if n > 1 else "image is"
        raise ManifestError(
            f"{folder}: {n:,} {are} not in a subfolder ({shown}), {counted(len(images) - n, 'other')} in subfolders. "
            "Put every image into one subfolder per class, or all of them into one folder, or write a manifest file."
        )
    if images.is_empty():
        raise _no_images(folder, files)
    return as_table(images)


def images_in(files: Files) -> pl.Series:
    """Return the relative paths of the images among some files, sorted."""
    return files.paths.filter(files.paths.str.contains(_SUFFIXES))


def as_table(images: pl.Series) -> pl.DataFrame:
    """Return relative paths of images as ``id``, ``image`` and, if all lie in subfolders, ``label``.

    If all subfolders are parts of a split, such as ``train`` and ``test``, they are ``split`` (``train``, ``val`` or
    ``test``), and ``label`` is the folder inside, if there is one.

    An id is the path without its suffix, or with it if two files differ only in their suffix.
    """
    stem = pl.col("image").str.replace(r"\.[^./]*$", "")
    folders = [pl.col("image").str.extract(rf"^(?:[^/]+/){{{depth}}}([^/]+)/", 1) for depth in range(2)]
    table = (
        images.alias("image")
        .to_frame()
        .select(
            pl.when(stem.is_unique()).then(stem).otherwise("image").alias("id"),
            "image",
            folders[0].alias("label"),
            folders[1].alias("inner"),
        )
    )
    if table["label"].null_count() or table.is_empty():
        return table.drop("label", "inner")
    if not set(table["label"].str.to_lowercase().unique()) <= set(SPLITS):
        return table.drop("inner")
    split = pl.col("label").str.to_lowercase().replace_strict(SPLITS, return_dtype=pl.String).alias("split")
    table = table.select("id", "image", pl.col("inner").alias("label"), split)
    return table.drop("label") if table["label"].null_count() == table.height else table


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted; hidden ones are left out.

    Raises
    ------
    ManifestError
        When there are none, or their names are not in UTF-8.
    """
    files = Files.below(folder)
    require_utf8_names(files.odd, folder)
    found = images_in(files)
    if found.is_empty():
        raise _no_images(folder, files)
    return [folder / path for path in found.to_list()]


def dicom_without_suffix(files: Files) -> str | None:
    """Return the first file that has no suffix, or a UID as its name, if it is DICOM; no other is looked into."""
    bare = files.paths.filter(files.names.str.contains(r"^([^.]+|[0-9.]+)$"))
    return str(bare[0]) if len(bare) and is_dicom_file(files.root / bare[0]) else None


def _no_images(folder: Path, files: Files) -> ManifestError:
    if first := dicom_without_suffix(files):
        run = f"headwater manifest dicom {quote(str(folder))} -o FILE"
        return ManifestError(f"{folder}: there are no images with a suffix, but {first!r} is DICOM. Run: {run}")
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    return ManifestError(f"{folder}: there are no images. Supported suffixes are {known}.")
