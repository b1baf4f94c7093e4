"""Matplotlib figures as SVG inside a page: its font, its colours in light and dark, and ids of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from headwater._extras import need
from headwater.report._style import COLOURS, COLUMN, GREY, SETTINGS
from headwater.report.figures import figures_of
from headwater.report.html.markup import Html, join, tag
from headwater.report.html.material import Subject
from headwater.report.html.numbers import FEW
from headwater.report.html.words import metric_name
from headwater.report.systems import bars, boxes
from headwater.runs.positive import positive_in_run
from headwater.runs.run import Results

INK, PAPER = "#1b1f24", "#ffffff"
MOST_POINTS = 1500  # more are drawn as pixels: a path for each would be megabytes
VARIABLES = {INK: "ink", PAPER: "paper", GREY.lower(): "grey"}
VARIABLES |= {colour.lower(): f"c{place}" for place, colour in enumerate(COLOURS)}
"""The variable of the page's style for each colour of a figure."""
STYLE: Mapping[str, Any] = {
    **SETTINGS,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlecolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "savefig.transparent": True,
}
CAPTIONS: Mapping[str, str] = {
    "training": "Training: the loss of training and held-out rows by epoch. A dot marks the epoch that was kept.",
    "kaplan_meier": "Kaplan-Meier curves of the groups by predicted risk, with intervals and numbers at risk.",
    "predicted": "Predicted against true numbers. Each dot is a test row; on the dotted line they are equal.",
    "residuals": "Predicted minus true numbers, and their distribution with mean and standard deviation.",
    "roc": "ROC curve: true against false positives at every threshold; mean over folds with one standard deviation.",
    "precision_recall": "Precision against recall at every threshold; mean over folds with one standard deviation.",
    "reliability": "Reliability: how often the predicted class is right at each confidence. On the dotted line, "
    "confidence and share agree.",
    "decision_curve": "Decision curve: the net benefit of treating those above a threshold probability, against "
    "treating all and treating nobody.",
    "confusion": "Confusion matrix: shares of the true class.",
}
_HEAD = re.compile(r"^.*?(?=<svg)", re.S)
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", re.S)
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', re.S)
_ID = re.compile(r'\bid="([^"]+)"')
_PLAIN_ID = re.compile(r' id="[A-Za-z]+[0-9]*[A-Za-z]*_[0-9]+"')  # of groups, to which nothing refers
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_IN_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s*\n\s*")
_FONT = re.compile(r"font: (?:(\d+(?:\.\d+)?)px) '?DejaVu Sans'?[^;\"]*")


def figures(one: Subject, number: int) -> Html:
    """Return the figures of a run, each with its caption; ``number`` is the run's, which makes ids unique."""
    with need("matplotlib", "plots").rc_context(STYLE):
        drawn = []
        made = dict(figures_of(one.results, positive_in_run(one.metrics)))
        for name, figure in sorted(made.items(), key=lambda item: list(CAPTIONS).index(item[0])):
            if name == "confusion" and 2 <= len(one.names) <= FEW:
                continue  # stands as a table
            drawn.append(_framed(figure, f"r{number}-{name}", CAPTIONS.get(name, name)))
    return tag("div", *drawn, class_="figures") if drawn else Html("")


def systems(found: Mapping[str, Mapping[str, Results]], metric: str, column: str | None) -> Html:
    """Return bars with intervals, and box plots over folds, of several systems by level."""
    word = metric_name(metric)
    with need("matplotlib", "plots").rc_context(STYLE):
        made = bars(found, metric, column), boxes(found, metric)
        for figure in made:
            figure.axes[0].set_ylabel(word)
        captions = (
            f"{word} of each system with its interval.",
            f"{word} over the folds of each system; a dot is a fold.",
        )
        drawn = [_framed(*each) for each in zip(made, ("systems", "folds"), captions, strict=True)]
    return tag("div", *drawn, class_="figures")


def _framed(figure: Any, name: str, caption: str) -> Html:
    broad = figure.get_size_inches()[0] > 1.5 * COLUMN
    return tag("figure", svg(figure, name, caption), tag("figcaption", caption), class_="broad" if broad else None)


def svg(figure: Any, name: str, title: str) -> Html:
    """Return a matplotlib figure as an SVG element.

    Parameters
    ----------
    figure
        The figure, drawn with `STYLE`.
    name
        Put before all its ids, so that figures of one page do not share any.
    title
        What a screen reader says.
    """
    for axes in figure.axes:
        for points in axes.collections:
            offsets = getattr(points, "get_offsets", lambda: ())()
            if len(offsets) > MOST_POINTS:
                points.set_rasterized(True)
        for line in axes.lines:
            if len(line.get_xdata()) > 20 * MOST_POINTS:
                line.set_rasterized(True)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True, dpi=200)
    text = _DROPPED.sub("", _HEAD.sub("", file.getvalue()))
    text = _SPACE.sub(" ", text).replace("> <", "><").strip()
    text = _IN_TAG.sub(lambda found: _tag(found[0], name), text)
    width, height = (float(side) for side in _SIZE.match(text)[1].split()[2:])  # type: ignore[index]
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width:g} '
        f'{height:g}" class="fig" style="max-width:{1.55 * width:.0f}px" role="img" aria-label="'
    )
    return join([Html(start), title, Html(f'">{text[text.index(">") + 1 :]}')])


def _variable(found: re.Match[str]) -> str:
    name = VARIABLES.get(found[0].lower())
    return found[0] if name is None else f"var(--{name})"


def _tag(text: str, name: str) -> str:
    """Return a tag of an SVG with colours that follow the page, and with ids of its own; texts between tags stay."""
    text = _COLOUR.sub(_variable, text)
    text = _FONT.sub(r"font-size: \1px", text)
    if text.startswith("<g "):
        text = _PLAIN_ID.sub("", text)
    text = _ID.sub(rf'id="{name}-\1"', text)
    return text.replace('xlink:href="#', f'xlink:href="#{name}-').replace("url(#", f"url(#{name}-")
