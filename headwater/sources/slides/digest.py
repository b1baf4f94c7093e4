"""The digest of a slide: of its file, and of the files that belong to it."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from headwater._links import leads_out
from headwater._reading import open_regular, read_regular
from headwater.errors import ImageError
from headwater.sources.slides.from_dicom import header_of, is_dicom
from headwater.sources.slides.opened import require_file, state_of

_AT_ONCE = 8 << 20
_REMEMBERED = 4096
MOST_FILES = 4096
"""Most files that a slide may consist of."""

State = tuple[tuple[int, int, int], ...]
"""Size, time of change and inode of each file of a slide."""

_known: OrderedDict[tuple[str, State], bytes] = OrderedDict()
_lock = Lock()


def files_of(path: Path) -> list[Path]:
    """Return the file of a slide, and the files that belong to it, sorted by name.

    These are the folder of a MIRAX slide, the images that a Hamamatsu VMS or VMU file names, and the other resolutions
    of a DICOM slide (the files of its series in the same folder). Links that lead elsewhere do not count.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        others = [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    elif suffix in (".vms", ".vmu"):
        words = re.findall(r"=\s*([^\r\n=/\\]{1,255})", read_regular(path, most=1 << 20).decode(errors="replace"))
        others = [p for word in dict.fromkeys(words) if (p := path.parent / word.strip()).is_file()]
    elif is_dicom(path):
        others = _series(path)
    else:
        return [path]
    kept = sorted(p for p in others if p != path and not leads_out(p, path.parent))
    if len(kept) > MOST_FILES:
        raise ImageError(f"a slide of {len(kept):,} files; at most {MOST_FILES:,} are read: {path}")
    return [path, *kept]


def slide_digest(path: Path) -> bytes:
    """Return the digest of a slide: that of its bytes, or of the digests of all its files; computed once per process.

    A slide whose files have changed is read again.

    Raises
    ------
    ImageNotFound, ImageError
        When it cannot be read.
    """
    require_file(path)
    files = files_of(path)
    key = (str(path.absolute()), tuple(state_of(file) for file in files))
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    found = combined(files, [file_digest(file) for file in files])
    remember(path, found, files)
    return found


def is_known(path: Path) -> bool:
    """Whether the digest of a slide is known in this process, for its files as they are now."""
    try:
        key = (str(path.absolute()), tuple(state_of(file) for file in files_of(path)))
    except (ImageError, OSError):
        return False
    with _lock:
        return key in _known


def remember(path: Path, digest: bytes, files: list[Path] | None = None) -> None:
    """Take a slide's digest as known while its files are as they are now."""
    state = tuple(state_of(file) for file in (files_of(path) if files is None else files))
    with _lock:
        _known[(str(path.absolute()), state)] = digest
        while len(_known) > _REMEMBERED:
            _known.popitem(last=False)


def combined(files: list[Path], digests: list[bytes]) -> bytes:
    """Return the digest of a slide, given those of its files: of one file its own, else that of names and digests."""
    if len(files) == 1:
        return digests[0]
    made = blake2b(digest_size=16)
    for file, digest in zip(files, digests, strict=True):
        # the main file may be renamed together with its folder, so that only names below it count
        name = "" if file == files[0] else file.name
        made.update(len(name.encode()).to_bytes(4, "little") + name.encode() + digest)
    return made.digest()


def file_digest(path: Path) -> bytes:
    """Return the BLAKE2b-128 digest of a file of any size, read in parts.

    Raises
    ------
    ImageError
        When it cannot be read.
    """
    made = blake2b(digest_size=16)
    try:
        with open_regular(path) as file:
            while part := file.read(_AT_ONCE):
                made.update(part)
    except OSError as error:
        raise ImageError(f"cannot read slide ({error.strerror or error}): {path}") from error
    return made.digest()


def _series(path: Path) -> list[Path]:
    """Return the DICOM files of the same series in a folder."""
    own = header_of(path)
    if own is None or not own.series:
        return []
    found = []
    for other in sorted(path.parent.iterdir()):
        if other == path or other.name.startswith(".") or not other.is_file() or not os.access(other, os.R_OK):
            continue
        try:
            header = header_of(other)
        except (ImageError, OSError):
            continue
        if header is not None and header.series == own.series:
            found.append(other)
    return found
