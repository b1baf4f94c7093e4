"""Why there is no file at a path: what is written otherwise there, or is no path at all."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path, PurePosixPath

_URL = re.compile(r"(?:^|/)([a-z][a-z0-9+]{1,9}):/", re.IGNORECASE)
_DRIVE = re.compile(r"(?:^|/)[A-Za-z]:[\\/]")
_QUOTES = "'\"\u2018\u2019\u201c\u201d"
_SHOWN = 80  # characters of a name


def why_not_found(path: str | os.PathLike[str]) -> str:
    r"""Say in a few words what is the matter with a path at which there is no file; nothing where that is not known.

    Examples
    --------
    >>> why_not_found("scans\\\\1.png")
    'folders are parted by backslashes: write / instead'
    >>> why_not_found("s3://bucket/1.png")
    's3:// is a URL: only files can be read here'
    """
    text = os.fspath(path)
    if found := _URL.search(text):
        return f"{found[1]}:// is a URL: only files can be read here"
    if _DRIVE.search(text):
        return "a path of Windows, with a drive: write it as it is on this machine"
    if "\\" in text:
        return "folders are parted by backslashes: write / instead"
    if any(part.startswith("~") for part in PurePosixPath(text).parts):
        return "~ stands for no folder here: write the whole path"
    if "$" in text and os.path.expandvars(text) != text:
        return "variables such as $HOME are not filled in: write the whole path"
    try:
        return _nearest(Path(text))
    except (OSError, ValueError):  # a folder that cannot be listed, a null character
        return ""


def _nearest(path: Path) -> str:
    """Look for the first part of a path that is not there, and for one that is written almost so."""
    here = Path(path.anchor) if path.is_absolute() else Path()
    parts = path.parts[1:] if path.is_absolute() else path.parts
    if path.parent.is_dir():  # as mostly: there may be a million of them
        here, parts = path.parent, (path.name,)
    for number, part in enumerate(parts):
        if os.path.lexists(here / part):
            here = here / part
            if not here.exists():
                return f"{_named(part)} is a link that leads nowhere"
            continue
        if not here.is_dir():
            return f"{_named(here.name)} is a file, not a folder"
        by_name, by_stem = _names_in(str(here), here.stat().st_mtime_ns)
        if there := by_name.get(_folded(part)):
            return _difference(part, there)
        if number < len(parts) - 1:
            return f"there is no folder {_named(part)} in {here}"
        other = part and (by_stem.get(part) or by_stem.get(part.rpartition(".")[0] or part))
        return f"there is {_named(other)}, which ends otherwise" if other else ""
    return ""


@lru_cache(maxsize=16)
def _names_in(folder: str, changed: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names in a folder by what is common to ways to write them, and by what they are without an ending.

    ``changed`` is when the folder was last changed, after which it is listed anew.
    """
    names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208  (names are all that is needed)
    stems = {name.rpartition(".")[0]: name for name in names if not name.startswith(".")}
    return {_folded(name): name for name in names}, stems


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip(f" \t\r\n\u00a0\ufeff{_QUOTES}")


def _difference(asked: str, there: str) -> str:
    """Say how a name that was asked for differs from the one that is there."""
    named = _named(there)
    if asked.strip(" \t\r\n\u00a0\ufeff") == there:
        return f"blanks stand before or after the name: write {named}"
    if unicodedata.normalize("NFC", asked) == unicodedata.normalize("NFC", there):
        form = "composed" if unicodedata.normalize("NFC", there) == there else "decomposed"
        return f"the file's name has {form} letters (Unicode), the table's has not: write both alike"
    if asked.strip(_QUOTES) == there:
        return f"the name stands in quotation marks: write {named}"
    what = "case" if asked.casefold() == there.casefold() else "case, blanks or letters"
    return f"there is {named}, which differs in {what}"


def _named(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…")
