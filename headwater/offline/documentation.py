"""The documentation: a built site as one archive, which a wheel holds."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from headwater.errors import InputError

ARCHIVE = "documentation.zip"
"""The file in the package; a checkout has none."""
WHEN = (1980, 1, 1, 0, 0, 0)
"""Time of every member: the same pages make the same bytes."""
NOT_READ = {".buildinfo", ".doctrees", "objects.inv"}
"""What Sphinx leaves beside the pages."""


def pack(site: Path, archive: Path, top: str) -> None:
    """Pack a built site, below a folder of this name; the same pages make the same bytes."""
    with zipfile.ZipFile(archive, "w") as held:
        for path in sorted(site.rglob("*")):
            inside = path.relative_to(site)
            if path.is_dir() or NOT_READ & set(inside.parts):
                continue
            member = zipfile.ZipInfo(f"{top}/{inside.as_posix()}", WHEN)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            held.writestr(member, path.read_bytes(), compresslevel=9)


def archive_here() -> Path:
    """Return the archive that came with this headwater.

    Raises
    ------
    InputError
        When it came with none.
    """
    path = Path(__file__).parents[1] / ARCHIVE
    if not path.is_file():
        raise InputError(
            "this headwater has no documentation in it: it runs from, or was built from, a checkout. There, "
            "python docs/release.py dist builds a wheel that has it; docs/ holds the same pages as Markdown."
        )
    return path


def top_of(archive: Path) -> str:
    """Return the name of the folder that an archive holds, such as ``headwater-docs-0.1.0``."""
    with zipfile.ZipFile(archive) as held:
        return PurePosixPath(held.namelist()[0]).parts[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive below a folder, and return the path of its first page."""
    with zipfile.ZipFile(archive) as held:
        held.extractall(folder)
    return folder / top_of(archive) / "index.html"
