"""On a system that headwater does not run on, the import says so."""

import subprocess
import sys

import pytest

CODE = """
import sys
sys.platform = "win32"
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
try:
    {statement}
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import headwater",
        "import headwater.cli",
        "import headwater.store",
        "from headwater import embed",
        "from headwater.api import fit_head",
    ],
)
def test_windows(statement):
    """Whatever is imported first, one line says what is lacking and what to do."""
    code = CODE.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NotSupported headwater does not run on Windows")
    assert done.stdout.count("\n") == 1
    assert "WSL" in done.stdout
    assert not done.stderr
