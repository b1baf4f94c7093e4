"""wheelhouse: headwater and all that it needs, as a folder to install from without a network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from headwater._options import as_tuple
from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._words import counted, size
from headwater._writable import require_writable
from headwater.errors import InputError, nearest
from headwater.offline.documentation import archive_here, top_of
from headwater.offline.house import INSTALL, REQUIREMENTS, SUMS, WHEELS, install_text, requirements, sums
from headwater.offline.own_wheel import own_wheel
from headwater.offline.packages import extras_of, fetch, read_wheel
from headwater.offline.target import Target, target_of


@dataclass(frozen=True, repr=False)
class Wheelhouse(Shown):
    """A folder to install headwater from.

    Attributes
    ----------
    path
        The folder.
    target
        The machines that it is for.
    extras
        The extras of headwater that it holds.
    packages
        Version of each package.
    n_bytes
        Size of all files together.
    docs
        Name of the archive of the documentation; None if this headwater has none.
    """

    path: Path
    target: Target
    extras: tuple[str, ...]
    packages: dict[str, str]
    n_bytes: int
    docs: str | None

    def lines(self) -> list[str]:
        """Return what the folder holds, and what to do with it."""
        docs = f"with the documentation, {self.docs}"
        if self.docs is None:
            docs = "without the documentation: this headwater runs from a checkout, which has none built"
        return [
            f"{counted(len(self.packages), 'wheel')}, {size(self.n_bytes)}, in {self.path}",
            f"for {self.target}",
            docs,
            f"Copy the folder there, and run: pip install -r {self.path.name}/{REQUIREMENTS}   ({INSTALL} says more)",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "path": str(self.path),
            "python": self.target.version,
            "glibc": f"{self.target.glibc[0]}.{self.target.glibc[1]}",
            "machine": self.target.machine,
            "extras": list(self.extras),
            "packages": self.packages,
            "n_bytes": self.n_bytes,
            "docs": self.docs,
        }


def wheelhouse(
    out: str | Path,
    *,
    extras: str | Sequence[str] = (),
    python: str | None = None,
    glibc: str | None = None,
    machine: str | None = None,
    progress: Progress | bool | None = None,
) -> Wheelhouse:
    """Fetch headwater and every package that it needs, to install them on a machine without a network.

    pip fetches them, from the index that it is set up to use (``PIP_INDEX_URL``).

    Parameters
    ----------
    out
        The folder to write: ``wheels/``, ``requirements.txt`` with the digest of each, ``SHA256SUMS``, ``INSTALL.txt``,
        and the documentation as an archive. An earlier wheelhouse there is replaced.
    extras
        Extras of headwater, such as ``["encoders", "plots"]``.
    python, glibc, machine
        Of the other machine: version of Python, version of the C library, and processor. Default: as here.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Raises
    ------
    InputError
        When the folder holds something else, headwater has no such extra, or pip cannot fetch a package.
    """
    say = progress_to(progress)
    folder = require_writable(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not _is_wheelhouse(folder)):
        raise InputError(f"--out {folder} holds something else. Give a folder that does not exist yet.")
    target = target_of(python, glibc, machine)
    chosen = tuple(dict.fromkeys(as_tuple(extras)))
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as work:
        beside = Path(work) / folder.name
        (beside / WHEELS).mkdir(parents=True)
        own = own_wheel(Path(work))
        known = extras_of(own)
        for extra in chosen:
            if extra not in known:
                raise InputError(f"--extra {extra}.{nearest(extra, known)} There are: {', '.join(known)}.")
        say(f"pip fetches what headwater needs{' for ' + ', '.join(chosen) if chosen else ''}: {target}")
        wheels = fetch(own, chosen, beside / WHEELS, target, say)
        docs = _docs(beside)
        (beside / REQUIREMENTS).write_text(requirements(wheels, target))
        (beside / INSTALL).write_text(install_text(read_wheel(own).version, chosen, target, docs))
        (beside / SUMS).write_text(sums(beside))
        n_bytes = sum(path.stat().st_size for path in beside.rglob("*") if path.is_file())
        if folder.is_dir():
            shutil.rmtree(folder)
        beside.replace(folder)
    return Wheelhouse(folder, target, chosen, {wheel.name: wheel.version for wheel in wheels}, n_bytes, docs)


def _is_wheelhouse(folder: Path) -> bool:
    """Whether a folder holds what a wheelhouse does, and nothing else: it is deleted when it is written again."""
    names = {path.name for path in folder.iterdir()}
    parts = {WHEELS, REQUIREMENTS, INSTALL, SUMS}
    others = {name for name in names - parts if not fnmatch(name, "headwater-docs-*.zip")}
    return parts <= names and not others and all(path.suffix == ".whl" for path in (folder / WHEELS).iterdir())


def _docs(folder: Path) -> str | None:
    """Copy the archive of the documentation, and return its name; None if this headwater has none."""
    try:
        archive = archive_here()
    except InputError:
        return None
    name = f"{top_of(archive)}.zip"
    shutil.copyfile(archive, folder / name)
    return name
