"""What is declared: every dependency has a lowest version that is tested, and none with a known vulnerability."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = PROJECT["project"]["dependencies"]
EXTRAS = [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
FIXED = {
    "pillow": (12, 3),  # CVE-2026-25990, CVE-2026-40192, CVE-2026-54058
    "scikit-learn": (1, 5),  # CVE-2024-5206
    "torch": (2, 12, 1),  # CVE-2025-32434, CVE-2026-24747, CVE-2025-3000
    "transformers": (5, 10),  # CVE-2026-4372, CVE-2026-5241, CVE-2026-9856
    "ray": (2, 55),  # CVE-2025-62593, CVE-2026-41486
    "pyarrow": (23, 0, 1),  # CVE-2026-25087
}
"""The first version that has no known vulnerability that its advisories name."""
LOWEST = pytest.mark.skipif(not (ROOT / ".ci" / "lowest").exists(), reason="a source distribution has no .ci")


def version(requirement):
    match = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\d.]+)", requirement)
    return match and (match[1], tuple(int(part) for part in match[2].split(".")))


@pytest.mark.parametrize("requirement", [line for line in (*CORE, *EXTRAS) if not line.startswith("headwater")])
def test_every_dependency_has_a_lowest_version(requirement):
    """A bound from below is given, and it excludes the versions whose advisories are known."""
    name, lowest = version(requirement)
    assert lowest >= FIXED.get(name, ())


@LOWEST
def test_the_lowest_versions_are_those_declared():
    """The stage that tests them takes each from its declaration, and refuses one that has no bound."""
    lowest = runpy.run_path(str(ROOT / ".ci" / "lowest"))["lowest"]
    assert [re.split("==", line)[0] for line in lowest(CORE)] == [re.split(r"[\[>]", line)[0] for line in CORE]
    assert lowest(["ray[data]>=2.55", "a.b-c>=1"]) == ["ray==2.55", "a.b-c==1"]
    with pytest.raises(ValueError, match="give it a lower bound"):
        lowest(["numpy"])
