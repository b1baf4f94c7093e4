"""The script that a machine with a GPU runs unattended works here, at tiny sizes, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_row_is_measured(tmp_path):
    """Each part gives rows with two positive sides, and nothing is left out."""
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left"] == {}
    assert len(found["rows"]) >= 10
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_a_row_without_time_is_said(tmp_path):
    """Rows for which no time is left are named, and those before are kept."""
    command = [
        sys.executable,
        str(SCRIPT),
        "--tiny",
        "--device",
        "cpu",
        "--minutes",
        "0",
        "--rows",
        "perceptrons",
        "feed",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "feed: not measured (no time was left)" in done.stdout
