"""Which files are slides: by their names, in folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headwater.errors import ImageError
from headwater.sources.slides.from_dicom import header_of

ONLY_SLIDES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".czi"})
"""Suffixes, in lower case, of files that nothing but slides has."""

SLIDE_SUFFIXES = ONLY_SLIDES | {".tif", ".tiff", ".dcm"}
"""Suffixes of files that count as slides in a folder."""


def is_slide_name(path: Path) -> bool:
    """Whether a file can only be a slide, judged by its name."""
    return path.suffix.lower() in ONLY_SLIDES


def slides_in(folder: Path) -> list[Path]:
    """Return the slides in a folder and its subfolders, sorted; hidden ones are left out.

    Of a DICOM series in one folder, whose files are the resolutions of one slide, the file with most pixels stands for
    all. DICOM files that are no slides are left out.
    """
    series: dict[tuple[Path, str], tuple[int, Path]] = {}
    found = []
    for path in sorted(_below(folder)):
        if path.suffix.lower() != ".dcm":
            found.append(path)
            continue
        try:
            header = header_of(path)
        except ImageError:
            found.append(path)  # opening it says what is wrong
            continue
        if header is None or not header.is_slide:
            continue
        key = path.parent, header.series or path.name
        pixels = header.size[0] * header.size[1] if header.is_volume else 0
        if key not in series or pixels > series[key][0]:
            series[key] = pixels, path
    return sorted([*found, *(path for _, path in series.values())])


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        elif path.suffix.lower() in SLIDE_SUFFIXES and path.is_file():
            yield path
