"""The files of a wheelhouse beside its wheels: pinned requirements with digests, checksums, and what to do there."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

from headwater.offline.packages import Wheel
from headwater.offline.target import Target

WHEELS, REQUIREMENTS, SUMS, INSTALL = "wheels", "requirements.txt", "SHA256SUMS", "INSTALL.txt"

_INSTALL = """headwater {version}{extras}, with every package that it needs, to install without a network.
For: {target}.

1. Look whether this machine is one of these:

     python{python} --version; uname -m; ldd --version | head -1

2. Compare every file with its checksum, in this folder. It prints nothing if all are whole:

     sha256sum --quiet -c SHA256SUMS

3. Install. pip takes nothing from elsewhere, and compares each wheel with its digest in requirements.txt:

     python{python} -m venv ~/headwater
     . ~/headwater/bin/activate
     pip install -r requirements.txt

4. Try it, on made-up images:

     headwater demo
{docs}"""
_DOCS = """
The documentation: run

     headwater docs

or unpack {name} and open index.html in a browser.
"""


def requirements(wheels: Iterable[Wheel], target: Target) -> str:
    """Return the requirements file: each package with its version and digest, found in the folder alone."""
    lines = [
        f"# For {target}.",
        "# Install with: pip install -r requirements.txt",
        "--no-index",
        f"--find-links {WHEELS}",
        "--only-binary :all:",
        *(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels),
    ]
    return "\n".join(lines) + "\n"


def install_text(version: str, extras: Iterable[str], target: Target, docs: str | None) -> str:
    """Return what to do on the other machine."""
    named = ", ".join(sorted(extras))
    return _INSTALL.format(
        version=version,
        extras=f" with {named}" if named else "",
        target=target,
        python=target.version,
        docs="" if docs is None else _DOCS.format(name=docs),
    )


def sums(folder: Path) -> str:
    """Return the checksums of every file in a folder, as ``sha256sum -c`` reads them."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SUMS:
            with path.open("rb") as file:
                lines.append(f"{file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    return "".join(lines)
