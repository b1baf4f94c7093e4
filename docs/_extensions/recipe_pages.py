"""How recipes are run where the gallery is built with ``-D plot_gallery=1``."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any


def small(config: Any, script: Any) -> list[str]:
    """Return a recipe's arguments: made data and tiny models."""
    return ["--small", "--out", str(Path(mkdtemp()) / "out")]
