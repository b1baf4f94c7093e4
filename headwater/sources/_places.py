"""Find out why there is no file at a path, such as a name that is spelled differently or a URL."""

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
    r"""Say in a few words why there is no file at a path; an empty string if the reason is unknown.

    Examples
    --------
    >>> why_not_found("scans\\\\1.png")
    'the path has backslashes: write / instead'
    >>> why_not_found("s3://bucket/1.png")
    's3:// is a URL: only local files can be read'
    """
    text = os.fspath(path)
    if found := _URL.search(text):
        return f"{found[1]}:// is a URL: only local files can be read"
    if _DRIVE.search(text):
        return "this is a Windows path with a drive: write the path on this machine"
    if "\\" in text:
        return "the path has backslashes: write / instead"
    if any(part.startswith("~") for part in PurePosixPath(text).parts):
        return "~ is not expanded: write the whole path"
    if "$" in text and os.path.expandvars(text) != text:
        return "variables such as $HOME are not expanded: write the whole path"
    try:
        return _nearest(Path(text))
    except (OSError, ValueError):  # a folder that cannot be listed, a null character
        return ""


def _nearest(path: Path) -> str:
    """Find the first part of a path that does not exist, and a similar name in its place."""
    here = Path(path.anchor) if path.is_absolute() else Path()
    parts = path.parts[1:] if path.is_absolute() else path.parts
    if path.parent.is_dir():  # the usual case, and fast: there may be a million paths
        here, parts = path.parent, (path.name,)
    for number, part in enumerate(parts):
        if os.path.lexists(here / part):
            here = here / part
            if not here.exists():
                return f"{_named(part)} is a link to a missing file"
            continue
        if not here.is_dir():
            return f"{_named(here.name)} is a file, not a folder"
        by_name, by_stem = _names_in(str(here), here.stat().st_mtime_ns)
        if there := by_name.get(_folded(part)):
            return _difference(part, there)
        if number < len(parts) - 1:
            return f"there is no folder {_named(part)} in {here}"
        other = part and (by_stem.get(part) or by_stem.get(part.rpartition(".")[0] or part))
        return f"there is {_named(other)}, with another suffix" if other else ""
    return ""


@lru_cache(maxsize=16)
def _names_in(folder: str, changed: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names in a folder, by normalised spelling and by stem.

    ``changed`` is the folder's time of change, so that a changed folder is listed again.
    """
    names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208  (names are all that is needed)
    stems = {name.rpartition(".")[0]: name for name in names if not name.startswith(".")}
    return {_folded(name): name for name in names}, stems


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip(f" \t\r\n\u00a0\ufeff{_QUOTES}")


def _difference(asked: str, there: str) -> str:
    """Say how the requested name differs from the existing one."""
    named = _named(there)
    if asked.strip(" \t\r\n\u00a0\ufeff") == there:
        return f"there are blanks before or after the name: write {named}"
    if unicodedata.normalize("NFC", asked) == unicodedata.normalize("NFC", there):
        form = "composed" if unicodedata.normalize("NFC", there) == there else "decomposed"
        return f"only the file's name has {form} letters (Unicode), not the table's: use the same form in both"
    if asked.strip(_QUOTES) == there:
        return f"the name is in quotation marks: write {named}"
    what = "case" if asked.casefold() == there.casefold() else "case, blanks or letters"
    return f"there is {named}, which differs in {what}"


def _named(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…")
