"""Style and output of figures; the same run gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater._extras import need

# Colour-blind safe colours of Okabe and Ito, Color universal design, 2008, with brown for yellow, invisible on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A4B00")
GREY = "#8C8C8C"
COLUMN = 3.35  # inches: width of a journal column
SETTINGS: Mapping[str, Any] = {
    "text.parse_math": False,  # class names may contain $
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same everywhere
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
    "svg.hashsalt": "headwater",  # ids are random otherwise
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Use this style, and restore matplotlib's settings afterwards."""
    with need("matplotlib", "plots").rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, of a size in inches, without a window."""
    need("matplotlib", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, folder: Path, name: str, suffixes: Sequence[str], dpi: int) -> list[Path]:
    """Write a figure in each format, without a date in its metadata."""
    paths = []
    for suffix in suffixes:
        path = folder / f"{name}.{suffix}"
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(path, dpi=dpi, metadata=metadata, facecolor="white")
        paths.append(path)
    return paths
