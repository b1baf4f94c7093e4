"""The wheel of the headwater that runs: packed again from the files that were installed, or built from a checkout.

A user who installed headwater has no checkout. Everything that a wheel holds is installed, though, and ``RECORD`` lists
it with digests.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import zipfile
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from headwater.errors import InputError

OF_INSTALLERS = {"INSTALLER", "REQUESTED", "direct_url.json", "RECORD", "uv_cache.json"}
"""Files beside ``METADATA`` that the installer wrote, not the wheel."""
WHEN = (1980, 1, 1, 0, 0, 0)
"""Time of every member: the same files make the same bytes."""


def own_wheel(folder: Path) -> Path:
    """Write the wheel of this headwater into a folder.

    Raises
    ------
    InputError
        When headwater was not installed from a wheel, or its files were changed since.
    """
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():
        return built_from(root, folder)
    try:
        found = distribution("headwater")
    except PackageNotFoundError as error:
        raise InputError(f"headwater runs from {root}, where nothing was installed. Install it by pip.") from error
    return repacked(found, folder)


def built_from(root: Path, folder: Path) -> Path:
    """Build the wheel of a checkout; pip fetches what builds it."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    made = list(folder.glob("headwater-*.whl"))
    if done.returncode or len(made) != 1:
        said = (done.stderr.strip() or "no wheel came out").splitlines()[-1]
        raise InputError(f"the wheel of the checkout {root} could not be built: {said}")
    return made[0]


def repacked(found: Distribution, folder: Path) -> Path:
    """Pack the installed files of a distribution as the wheel that they came from; each is compared with its digest."""
    listed = [path for path in found.files or () if not str(path).startswith(("..", "/"))]
    kept = [path for path in listed if path.suffix != ".pyc" and not _is_of_installer(path)]
    tag = _tag(found)
    if not kept or tag is None:
        raise InputError("headwater was installed without the list of its files. Install it again by pip.")
    wheel = folder / f"{found.name}-{found.version}-{tag}.whl"
    record = f"{found.name}-{found.version}.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as held:
        for path in sorted(kept):
            try:
                data = Path(str(path.locate())).read_bytes()
            except OSError as error:
                raise InputError(f"{path.locate()} cannot be read. Install headwater again.") from error
            made = _digest(data)
            if path.hash is None or made != f"{path.hash.mode}={path.hash.value}":
                raise InputError(f"{path.locate()} was changed since it was installed. Install headwater again.")
            lines.append(f"{path.as_posix()},{made},{len(data)}")
            _add(held, path.as_posix(), data)
        _add(held, record, "".join(f"{line}\n" for line in [*lines, f"{record},,"]).encode())
    return wheel


def _is_of_installer(path: PurePosixPath) -> bool:
    return path.parent.suffix == ".dist-info" and path.name in OF_INSTALLERS


def _tag(found: Distribution) -> str | None:
    lines = (found.read_text("WHEEL") or "").splitlines()
    return next((line.partition(": ")[2].strip() for line in lines if line.startswith("Tag: ")), None)


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()


def _add(held: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, WHEN)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    held.writestr(member, data)
