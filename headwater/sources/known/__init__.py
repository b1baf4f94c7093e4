"""Known data sets as tables: one file per set, each met as it was published, with what goes wrong in it.

A reader is a function of the files below a folder and of options, and returns a `Known`. It knows its files by their
names, so the folder may be that of the archive, one above it, or one inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from headwater.errors import InputError, ManifestError, nearest
from headwater.sources._listing import Files
from headwater.sources.known._found import Asked, Count, Known

__all__ = ["KINDS", "Asked", "Count", "Files", "Kind", "Known", "read_known", "seems_to_be"]


@dataclass(frozen=True)
class Kind:
    """A data set that can be read.

    Attributes
    ----------
    reader
        ``module:function``, called with `Files` and `Asked`.
    title
        The name of the set in messages.
    sign
        What the paths of its files look like, as a regular expression without look-around; empty for no sign.
    looked_for
        The same in words, for messages.
    takes
        Options of `Asked` that the reader uses.
    """

    reader: str
    title: str
    sign: str
    looked_for: str
    takes: tuple[str, ...] = ()


_HERE = "headwater.sources.known"
KINDS: dict[str, Kind] = {
    "breakhis": Kind(
        f"{_HERE}.breakhis:read",
        "BreakHis",
        r"(^|/)SOB_[BM]_(A|F|PT|TA|DC|LC|MC|PC)-\d\d-\d+[A-Z]*-(40|100|200|400)-\d{3}\.(png|PNG)$",
        "files such as SOB_B_A-14-22549AB-40-001.png",
    ),
    "folder": Kind(f"{_HERE}.folder:read", "a folder of images", "", "images"),
}
"""Every data set by the word that names it."""


def read_known(kind: str, folder: str | Path, asked: Asked | None = None) -> Known:
    """Read a data set from the folder that holds it.

    Parameters
    ----------
    kind
        One of `KINDS`.
    folder
        The folder of the unpacked archive, one above it, or one inside it.
    asked
        Options of the reader.

    Returns
    -------
    Known

    Raises
    ------
    InputError
        When there is no such kind, or the reader does not take an option that was given.
    ManifestNotFound
        When there is no such folder.
    ManifestError
        When the folder does not hold this data set; the message says what was looked for, and which other set it
        seems to be.
    """
    asked = asked or Asked()
    if kind not in KINDS:
        raise InputError(f"there is no data set {kind!r}.{nearest(kind, KINDS)} There are: {', '.join(KINDS)}.")
    this = KINDS[kind]
    if asked.groups_file is not None and "groups_file" not in this.takes:
        able = [name for name, one in KINDS.items() if "groups_file" in one.takes]
        raise InputError(f"--groups-file goes with {' and '.join(able)}, not with {kind}. Leave it out.")
    if asked.part != "full" and "part" not in this.takes:
        raise InputError(f"--part goes with cbis-ddsm, not with {kind}. Leave it out.")
    files = Files.below(folder)
    module, _, name = this.reader.partition(":")
    found: Known = getattr(import_module(module), name)(files, asked)
    if found.table.is_empty():
        raise ManifestError(_not_there(kind, folder, files))
    return found


def seems_to_be(files: Files, but: str = "") -> str | None:
    """Return the data set whose files these seem to be; None if they look like none."""
    n_of = {
        name: int(files.paths.str.contains(kind.sign).sum())
        for name, kind in KINDS.items()
        if kind.sign and name != but
    }
    best = max(n_of, key=lambda name: n_of[name], default=None)
    return best if best is not None and n_of[best] else None


def _not_there(kind: str, folder: str | Path, files: Files) -> str:
    this = KINDS[kind]
    other = seems_to_be(files, but=kind)
    if other is not None:
        return f"{folder} looks like {KINDS[other].title}, not {this.title}. Run: headwater manifest {other} {folder}"
    some = files.names.head(3).to_list()
    there = f"Such files are there: {', '.join(map(repr, some))}." if some else "The folder is empty."
    return f"{folder} is not {this.title}: there are no {this.looked_for}. {there} Give the folder of the archive."
