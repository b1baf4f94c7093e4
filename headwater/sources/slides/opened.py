"""Open slides once for a process, whose threads share them; a bounded number stays open."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from headwater._reading import open_regular
from headwater.errors import ImageError, ImageNotFound
from headwater.sources._places import why_not_found
from headwater.sources.slides import from_dicom, from_openslide, from_tiff
from headwater.sources.slides.base import Slide

MOST_OPEN = 16
"""Slides that a process keeps open; each takes some file handles, and what its format keeps in memory."""

State = tuple[int, int, int]


class _Opened:
    """The slides that this process has open, the last used last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slides: OrderedDict[tuple[str, State], Slide] = OrderedDict()

    def get(self, name: str, state: State) -> Slide:
        key = (name, state)
        with self.lock:
            if key in self.slides:
                self.slides.move_to_end(key)
                return self.slides[key]
        path = Path(name)
        require_file(path)
        slide = _open(path)
        with self.lock:
            slide = self.slides.setdefault(key, slide)
            self.slides.move_to_end(key)
            while len(self.slides) > MOST_OPEN:
                self.slides.popitem(last=False)  # closed when the last thread that reads from it is done
        return slide


_opened = _Opened()
_before_forks: list[_Opened] = []


def _in_child() -> None:
    """Start anew in a forked process: its parent's handles share a position in the file with the parent's.

    A fork while another thread reads may leave a lock of OpenSlide itself held for ever: fork before, or spawn.
    They are kept, since closing them here could wait for a lock that another thread held at the fork.
    """
    global _opened
    _before_forks.append(_opened)
    _opened = _Opened()
    from_openslide._cache.cache_clear()


os.register_at_fork(after_in_child=_in_child)


def open_slide(path: str | os.PathLike[str]) -> Slide:
    """Open a whole-slide image, or return it if it is open already; a file that has changed is opened again.

    OpenSlide reads it if it can. Otherwise, tifffile reads a tiled TIFF, and pydicom the frames of a DICOM slide.

    Raises
    ------
    ImageNotFound
        When there is no such file.
    ImageError
        When it is not a slide, or damaged.
    MissingExtra
        When the extra ``slides`` is not installed.
    """
    name = os.path.abspath(path)  # noqa: PTH100  (done for each tile: paths as objects would take longer)
    return _opened.get(name, state_of(name))


def state_of(path: str | os.PathLike[str]) -> State:
    """Return size, time of change and inode of a file; the size is -1 if it is missing."""
    try:
        stat = os.stat(path)  # noqa: PTH116  (for the same reason)
    except (OSError, ValueError):
        return -1, -1, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def require_file(path: Path) -> None:
    """Raise unless a path is that of a regular file that may be read.

    Raises
    ------
    ImageNotFound, ImageError
        With the path.
    """
    try:
        open_regular(path).close()
    except (FileNotFoundError, NotADirectoryError) as error:
        why = why_not_found(path)
        raise ImageNotFound(f"slide not found: {path}{f' ({why})' if why else ''}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read slide ({getattr(error, 'strerror', None) or error}): {path}") from error


def _open(path: Path) -> Slide:
    by_openslide = from_openslide.opened(path)
    found: Slide | None = by_openslide
    if by_openslide is not None and by_openslide.is_plain_tiff and len(by_openslide.levels) == 1:
        with suppress(ImageError):  # OpenSlide sees no levels in sub-images
            other = from_tiff.opened(path)
            found = other if other is not None and len(other.levels) > 1 else found
    found = found or from_tiff.opened(path) or from_dicom.opened(path)
    if found is None and path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        raise ImageError(f"incomplete slide: the folder {path.stem!r} that belongs beside it is missing: {path}")
    if found is None:
        raise ImageError(f"not a whole-slide image of a supported format: {path}")
    return found
