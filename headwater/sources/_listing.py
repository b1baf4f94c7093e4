"""The files below a folder, by their relative paths."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from headwater._words import counted
from headwater.errors import ManifestError, ManifestNotFound, nearest
from headwater.sources._places import why_not_found

MOST_FILES = 5_000_000
"""Most files below a folder: a data set is named by its own folder, not by that of the disk."""
MOST_OF_A_NAME = 16
"""Most files of one name that are looked into."""
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LITTER = ("__MACOSX",)
SHOWN_NAMES = 3  # most file names that a message lists


@dataclass(frozen=True, eq=False)
class Files:
    """The files below a folder.

    Attributes
    ----------
    root
        The folder, absolute.
    paths
        Paths relative to it, with ``/`` between folders, sorted; hidden files are left out.
    odd
        Names that hold bytes that are not UTF-8, or control characters such as a newline; such files are left out.
    """

    root: Path
    paths: pl.Series
    odd: Sequence[str] = field(default_factory=tuple)

    @classmethod
    def below(cls, folder: str | os.PathLike[str]) -> Files:
        """List a folder and its subfolders; a folder that links lead to several times is listed once.

        It is listed at its own place if that lies below the folder, else at the first link by name.

        Raises
        ------
        ManifestNotFound
            When there is no such folder.
        ManifestError
            When it is a file, cannot be listed, or holds more than `MOST_FILES` files.
        """
        root = Path(folder).absolute()
        if not root.exists():
            siblings = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
            known = f" ({why})" if (why := why_not_found(root)) else ""
            raise ManifestNotFound(f"folder not found: {folder}{known}.{nearest(root.name, siblings)}")
        if not root.is_dir():
            raise ManifestError(f"{folder} is a file, not a folder. Unpack it, and give the folder.")
        paths: list[str] = []
        odd: list[str] = []
        seen: set[tuple[int, int]] = set()
        waiting = [""]
        linked: list[str] = []  # listed last: whatever order a disk has, the result is one
        try:
            while waiting or linked:
                if not waiting:
                    linked.sort(reverse=True)
                here = waiting.pop() if waiting else linked.pop()
                there = os.path.join(root, here)  # noqa: PTH118  (a million paths)
                place = os.stat(there)  # noqa: PTH116
                if (place.st_dev, place.st_ino) in seen:
                    continue
                seen.add((place.st_dev, place.st_ino))
                with os.scandir(there) as entries:
                    for entry in entries:
                        name = entry.name
                        if name.startswith(".") or name in _LITTER:
                            continue
                        is_folder, is_file = _kind_of(entry)
                        if not (is_folder or is_file):
                            continue
                        if _ODD.search(name):
                            odd.append(f"{here}{name}")
                        elif is_folder:
                            (linked if entry.is_symlink() else waiting).append(f"{here}{name}/")
                        else:
                            paths.append(f"{here}{name}")
                if len(paths) > MOST_FILES:
                    raise ManifestError(
                        f"{folder} holds more than {MOST_FILES:,} files. Give the folder of the data set itself."
                    )
        except OSError as error:
            raise ManifestError(f"{error.filename or folder}: cannot be listed ({error.strerror or error}).") from error
        return cls(root, pl.Series("image", sorted(paths), dtype=pl.String), tuple(sorted(odd)))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> pl.Series:
        """The file names, without folders."""
        return self.paths.str.extract(r"([^/]*)$", 1)

    @cached_property
    def full(self) -> pl.Series:
        """The absolute paths, since the folder that was named may say which part of a set it is."""
        full = pl.lit(f"{self.root.as_posix().rstrip('/')}/") + pl.col("image")
        return self.paths.to_frame().select(full.alias("full"))["full"]

    def matching(self, pattern: str) -> pl.DataFrame:
        """Return the files whose absolute path matches a pattern: ``image``, ``full`` and each named group."""
        parts = self.full.str.extract_groups(pattern).struct.unnest()
        table = pl.DataFrame([self.paths, self.full, *parts.get_columns()])
        return table.filter(self.full.str.contains(pattern))

    def called(self, name: str, *, above: bool = True) -> list[Path]:
        """Return the files with this name, in any case, at most `MOST_OF_A_NAME`.

        Those below the folder come first, the nearest one before others; then those in one of the two folders above it.

        Parameters
        ----------
        above
            Whether to look above the folder: a table there belongs to this folder only if its images lie in it.
        """
        lower = self.names.str.to_lowercase() == name.lower()
        below = sorted(self.paths.filter(lower).to_list(), key=lambda path: (path.count("/"), path))
        found = [self.root / path for path in below]
        for folder in list(self.root.parents)[:2] if above else []:
            try:
                found += sorted(p for p in folder.iterdir() if p.name.lower() == name.lower() and p.is_file())
            except OSError:
                continue
        return found[:MOST_OF_A_NAME]

    def odd_line(self) -> list[str]:
        """Warn of names that were left out."""
        if not self.odd:
            return []
        shown = ", ".join(ascii(name) for name in self.odd[:3])
        more = f" and {len(self.odd) - 3:,} more" if len(self.odd) > 3 else ""
        n = counted(len(self.odd), "file")
        return [f"{n} left out, whose names are not in UTF-8 or hold control characters: {shown}{more}. Rename them"]


def _kind_of(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a folder, and whether it is a file; a link in a loop, or to nothing, is neither."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def require_utf8_names(names: Sequence[str], path: Path) -> None:
    """Raise if file names are not in UTF-8, as on a system with another encoding.

    Raises
    ------
    ManifestError
        The message shows the bytes of the names.
    """
    if newlines := [name for name in names if _is_text(name) and _ODD.search(name)]:
        shown = ", ".join(map(ascii, newlines[:SHOWN_NAMES]))
        raise ManifestError(
            f"{_printable(path)}: file names hold a newline or another control character: {shown}. Rename them."
        )
    odd = [name for name in names if not _is_text(name)]
    if odd:
        shown = ", ".join(str(os.fsencode(name)) for name in odd[:SHOWN_NAMES])
        more = f" and {len(odd) - SHOWN_NAMES:,} more" if len(odd) > SHOWN_NAMES else ""
        raise ManifestError(
            f"{_printable(path)}: file names are not in UTF-8: {shown}{more}. Rename them, for example with convmv."
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(path: Path) -> str:
    r"""Return a path that can be printed anywhere; bytes that are not UTF-8 are written like ``\xe9``."""
    return os.fsencode(path).decode(errors="backslashreplace")
