"""The machine that packages are to be installed on: which Python, processor and C library it has."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass

from headwater.errors import InputError

OLDEST_GLIBC = 5
OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
LOWEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Target:
    """A machine with Linux and CPython.

    Attributes
    ----------
    python
        Version of Python, such as ``(3, 12)``.
    glibc
        Version of the C library, such as ``(2, 28)``.
    machine
        The processor, as ``uname -m`` prints it, such as ``x86_64``.
    """

    python: tuple[int, int]
    glibc: tuple[int, int]
    machine: str

    def __str__(self) -> str:
        return f"Python {self.version}, {self.machine}, glibc {self.glibc[0]}.{self.glibc[1]} or later"

    @property
    def version(self) -> str:
        """The version of Python, such as ``3.12``."""
        return f"{self.python[0]}.{self.python[1]}"

    @property
    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, the best first.

        Examples
        --------
        >>> Target((3, 12), (2, 17), "x86_64").platforms[:3]
        ['manylinux_2_17_x86_64', 'manylinux2014_x86_64', 'manylinux_2_16_x86_64']
        """
        tags = []
        for minor in range(self.glibc[1], OLDEST_GLIBC - 1, -1):
            tags += [f"manylinux_2_{minor}", OLD_NAMES.get(minor, "")]
        return [f"{tag}_{self.machine}" for tag in (*filter(None, tags), "linux")]

    @property
    def markers(self) -> dict[str, str]:
        """What the conditions of requirements are evaluated with."""
        return {
            "python_version": self.version,
            "python_full_version": f"{self.version}.0" if self != here() else platform.python_version(),
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "implementation_name": "cpython",
        }


def here() -> Target:
    """Return this machine; one without glibc counts as having 2.17, on which most wheels run."""
    library, version = platform.libc_ver()
    found = _numbers(version) if library == "glibc" else None
    return Target(sys.version_info[:2], found or (2, 17), platform.machine())


def target_of(python: str | None, glibc: str | None, machine: str | None) -> Target:
    """Return the machine that options describe; what they leave out is as here.

    Raises
    ------
    InputError
        When a version cannot be read, or headwater does not run with it.
    """
    mine = here()
    versions = []
    for option, word, own in (("--python", python, mine.python), ("--glibc", glibc, mine.glibc)):
        found = own if word is None else _numbers(word)
        if found is None:
            raise InputError(f"{option} {word!r} is not a version. Write one such as {own[0]}.{own[1]}.")
        versions.append(found)
    if versions[0] < LOWEST_PYTHON:
        raise InputError(f"--python {python}: headwater needs Python 3.11 or later.")
    if versions[1][0] != 2 or versions[1][1] < OLDEST_GLIBC:
        raise InputError(f"--glibc {glibc}: there are no wheels for it. ldd --version prints one such as 2.28.")
    if machine is not None and not re.fullmatch(r"[a-z0-9_]+", machine):
        raise InputError(f"--machine {machine!r} is not a processor. uname -m prints it, such as x86_64.")
    return Target(versions[0], versions[1], machine or mine.machine)


def _numbers(word: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version.

    Examples
    --------
    >>> _numbers("3.12.4"), _numbers("3"), _numbers("new")
    ((3, 12), None, None)
    """
    match = re.match(r"(\d{1,3})\.(\d{1,3})(?:\.|$)", word, re.ASCII)
    return (int(match[1]), int(match[2])) if match else None
