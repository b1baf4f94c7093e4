"""docs: the documentation that comes with headwater, unpacked to be read in a browser."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater._shown import Shown
from headwater._writable import require_writable
from headwater.errors import InputError
from headwater.offline.documentation import archive_here, top_of, unpack
from headwater.store.cache import cache_folder


@dataclass(frozen=True, repr=False)
class Documentation(Shown):
    """The documentation on disk.

    Attributes
    ----------
    path
        Its first page, an HTML file.
    """

    path: Path

    def lines(self) -> list[str]:
        """Return where it is."""
        return [str(self.path)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"path": str(self.path)}


def docs(out: str | Path | None = None) -> Documentation:
    """Unpack the documentation of this version; it is read, and searched, without a network.

    Parameters
    ----------
    out
        The folder to write, which must be empty or not exist. Default: a folder in headwater's cache.

    Raises
    ------
    InputError
        When this headwater has no documentation in it, or the folder holds something else.
    """
    given = None if out is None else require_writable(out)
    archive = archive_here()
    folder = given or require_writable(Path(cache_folder()) / "docs" / top_of(archive))
    if given and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise InputError(f"--out {folder} holds something else. Give a folder that does not exist yet.")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".docs.", dir=folder.absolute().parent) as work:
        made = unpack(archive, Path(work)).parent
        if folder.is_dir():
            shutil.rmtree(folder)
        made.replace(folder)
    return Documentation(folder / "index.html")
