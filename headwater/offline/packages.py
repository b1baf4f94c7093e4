"""The wheels that another machine needs: fetched by pip, and checked to be all of them.

pip decides the conditions of requirements (``; python_version < "3.12"``) by the Python that it runs on, also when it
fetches for another. Here the closure is therefore walked with the conditions of the target, and pip is asked again for
whatever lacks.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from hashlib import file_digest
from pathlib import Path

from headwater._words import cut
from headwater.errors import InputError
from headwater.offline.target import Target

MOST_ROUNDS = 10


@dataclass(frozen=True)
class Wheel:
    """A wheel on disk.

    Attributes
    ----------
    name
        The package, as it is compared: lower case, with hyphens.
    version
        Its version.
    requires
        What it needs, one requirement an entry, with extras and conditions.
    """

    path: Path
    name: str
    version: str
    requires: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of the file, in hex."""
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()


def fetch(own: Path, extras: Iterable[str], folder: Path, target: Target, say: Callable[[str], object]) -> list[Wheel]:
    """Fetch every wheel that a target needs for a wheel with extras, and return those, sorted by name.

    Parameters
    ----------
    own
        The wheel whose requirements are to be met.
    extras
        Its extras.
    folder
        An empty folder for the wheels; the given one is copied there.
    target
        The machine to install on.
    say
        Takes lines about the work.

    Raises
    ------
    InputError
        When pip cannot fetch a package for the target.
    """
    wanted = f"{own}[{','.join(sorted(extras))}]" if extras else str(own)
    asked = [wanted]
    for _ in range(MOST_ROUNDS):
        _download(asked, folder, target)
        held = {wheel.name: wheel for wheel in map(read_wheel, sorted(folder.glob("*.whl")))}
        needed, unmet = closure(held, read_wheel(own).name, extras, target)
        if not unmet:
            for wheel in held.values():
                if wheel.name not in needed:  # pip fetched it for a condition that holds here alone
                    wheel.path.unlink()
            return [held[name] for name in sorted(needed)]
        say(f"also needed there: {', '.join(unmet)}")
        for name in {requirement_of(line)[0] for line in unmet} & set(held):
            held[name].path.unlink()  # of a version that does not do
        asked += unmet
    raise InputError(f"pip found no versions that go together for {target}: {', '.join(unmet)} cannot be met.")


def closure(held: dict[str, Wheel], root: str, extras: Iterable[str], target: Target) -> tuple[set[str], list[str]]:
    """Return the names of the wheels that a target needs, and the requirements that none of those at hand meets.

    Parameters
    ----------
    held
        Wheels by name.
    root, extras
        The package to install, and its extras.
    target
        The machine whose conditions count.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    needed: set[str] = set()
    unmet: dict[str, None] = {}
    waiting, seen = [(root, ""), *((root, extra) for extra in extras)], set()
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in seen or package not in held:
            continue
        seen.add((package, extra))
        needed.add(package)
        for line in held[package].requires:
            one = Requirement(line)
            if one.marker is not None and not one.marker.evaluate({**target.markers, "extra": extra}):
                continue
            name = canonicalize_name(one.name)
            there = held.get(name)
            if there is None or not one.specifier.contains(there.version, prereleases=True):
                inside = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
                unmet[f"{one.name}{inside}{one.specifier}"] = None
            waiting += [(name, ""), *((name, wanted) for wanted in one.extras)]
    return needed, list(unmet)


def requirement_of(line: str) -> tuple[str, str]:
    """Return the name, as it is compared, and the versions of a requirement.

    Examples
    --------
    >>> requirement_of("Ray_Data>=2")
    ('ray-data', '>=2')
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    one = Requirement(line)
    return canonicalize_name(one.name), str(one.specifier)


def read_wheel(path: Path) -> Wheel:
    """Read what a wheel says of itself."""
    from packaging.utils import canonicalize_name

    with zipfile.ZipFile(path) as file:
        inside = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        about = HeaderParser().parsestr(file.read(inside).decode())
    return Wheel(path, canonicalize_name(about["Name"]), about["Version"], tuple(about.get_all("Requires-Dist", [])))


def extras_of(path: Path) -> list[str]:
    """Return the extras that a wheel offers."""
    with zipfile.ZipFile(path) as file:
        inside = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        return HeaderParser().parsestr(file.read(inside).decode()).get_all("Provides-Extra", [])


def _download(requirements: Iterable[str], folder: Path, target: Target) -> None:
    """Let pip fetch wheels, and what they require, into a folder."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--dest", str(folder), "--find-links", str(folder)]
    command += ["--python-version", target.version, "--implementation", "cp"]
    command += [word for tag in target.platforms for word in ("--platform", tag)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in said):
        raise InputError(f"pip is not installed for {sys.executable}. Run: {sys.executable} -m ensurepip")
    why = next((line for line in said if "No matching distribution" in line), said[-1] if said else "no reason given")
    raise InputError(f"pip could not fetch the wheels for {target}: {cut(why, 300)}")
