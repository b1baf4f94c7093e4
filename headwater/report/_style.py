"""How figures look, and how they are written: the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater._extras import need

# Okabe and Ito, Color universal design, 2008, which colour-blind readers tell apart; brown for yellow, lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A4B00")
GREY = "#8C8C8C"
COLUMN = 3.35  # inches: a column of a journal
SETTINGS: Mapping[str, Any] = {
    "text.parse_math": False,  # a class may be called $5 and $6
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "headwater",  # else ids are drawn at random
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style, and leave matplotlib's own settings as they were."""
    with need("matplotlib", "plots").rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, in inches, that belongs to no window."""
    need("matplotlib", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, folder: Path, name: str, suffixes: Sequence[str], dpi: int) -> list[Path]:
    """Write a figure in each format, without a date in it."""
    paths = []
    for suffix in suffixes:
        path = folder / f"{name}.{suffix}"
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(path, dpi=dpi, metadata=metadata, facecolor="white")
        paths.append(path)
    return paths
