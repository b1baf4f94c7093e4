"""Build what is given to others: a wheel that holds the documentation, and the documentation as an archive.

``python docs/release.py dist`` writes ``dist/headwater-VERSION-py3-none-any.whl`` and
``dist/headwater-docs-VERSION.zip``. It needs pip, and what ``pip install --group docs`` installs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from headwater import __version__  # noqa: E402  (this checkout's)
from headwater.offline.documentation import ARCHIVE, pack  # noqa: E402
from headwater.offline.own_wheel import built_from  # noqa: E402


def build_site(out: Path) -> None:
    """Build the site; every warning is an error, also a name that nothing has."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html", "docs", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def release(out: Path) -> tuple[Path, Path]:
    """Write wheel and archive into a folder, and return both."""
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"headwater-docs-{__version__}.zip"
    inside = ROOT / "headwater" / ARCHIVE
    with tempfile.TemporaryDirectory() as work:
        build_site(Path(work) / "site")
        pack(Path(work) / "site", archive, archive.stem)
        try:
            shutil.copyfile(archive, inside)
            wheel = built_from(ROOT, Path(work))
        finally:
            inside.unlink(missing_ok=True)  # a checkout has its pages, and keeps no older ones
        return Path(shutil.copy(wheel, out)), archive


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/release.py DIST")
    for made in release(Path(sys.argv[1])):
        print(f"{made}  {made.stat().st_size / 1e6:.1f} MB")
