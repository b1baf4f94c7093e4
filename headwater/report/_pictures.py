"""Functions that draw matplotlib figures from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.report._curves import GRID, Kind, Spread, at_risk, at_steps
from headwater.report._style import COLOURS, COLUMN, GREY, new_figure

Floats = NDArray[np.float64]
MOST_BANDS = 4  # more bands are unreadable
MOST_WRITTEN = 12  # more classes leave no room for numbers in cells
FEW_POINTS = 300  # more points need transparency
AXES: Mapping[Kind, tuple[str, str, str]] = {
    "roc": ("false positive rate", "true positive rate", "AUC"),
    "precision-recall": ("recall", "precision", "AP"),
}


def curves(kind: Kind, spreads: Mapping[str, Spread], prevalence: float | None) -> Any:
    """Draw the mean curve of each class with one standard deviation over folds; with one class, each fold's curve too.

    Parameters
    ----------
    spreads
        Curves by name.
    prevalence
        Prevalence of the positive class, the precision of chance; None without a single value.
    """
    x_label, y_label, area = AXES[kind]
    below = len(spreads) > 2  # a legend of more lines would hide the curves
    figure = new_figure(COLUMN, COLUMN + (0.1 + 0.15 * len(spreads) if below else 0))
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_box_aspect(1)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.8)
    elif prevalence is not None:
        axes.axhline(prevalence, color=GREY, linestyle=":", linewidth=0.8)
    for colour, (name, found) in zip(COLOURS, spreads.items(), strict=False):
        drawn = {} if kind == "roc" else {"drawstyle": "steps-pre"}
        if len(spreads) == 1 and len(found.folds) > 1:
            for number, (x, y) in enumerate(found.folds):
                label = {"label": "each fold"} if number == 0 else {}
                axes.plot(x, y, color=GREY, linewidth=0.5, alpha=0.7, **drawn, **label)
        if len(found.folds) > 1 and len(spreads) <= MOST_BANDS:
            low, high = np.clip(found.mean - found.std, 0, 1), np.clip(found.mean + found.std, 0, 1)
            label = {"label": "± 1 s.d."} if len(spreads) == 1 else {}
            opacity = 0.2 if len(spreads) < 4 else 0.08
            axes.fill_between(GRID, low, high, color=colour, alpha=opacity, linewidth=0, **label)
        x, y = (GRID, found.mean) if len(found.folds) > 1 else found.folds[0]
        axes.plot(x, y, color=colour, label=f"{name}{' ' if name else ''}{area} {_mean_and_std(found.areas)}", **drawn)
    if below:
        figure.legend(loc="outside lower center")
    else:
        axes.legend(loc="lower right" if kind == "roc" else "lower left")
    return figure


def reliability(parts: Mapping[str, Mapping[str, Sequence[Any]]], what: str, error: str) -> Any:
    """Draw a reliability diagram: accuracy by confidence, the gap between them, and counts.

    Parameters
    ----------
    parts
        Bins from ``metrics.json``, by title, drawn side by side.
    what
        Label of the confidence axis.
    error
        Name of the calibration error.
    """
    figure = new_figure(COLUMN * (1 if len(parts) == 1 else 1.8), COLUMN * 1.15)
    grid = figure.add_gridspec(2, len(parts), height_ratios=(3, 1))
    first = min(i for bins in parts.values() for i, n in enumerate(bins["count"]) if n)
    edge = np.asarray(next(iter(parts.values()))["edge"], np.float64)
    width, left = edge[0], float(edge[first] - edge[0])
    most = max(max(bins["count"]) for bins in parts.values())
    for column, (title, bins) in enumerate(parts.items()):
        there = np.flatnonzero(np.asarray(bins["count"]) > 0)
        middle = edge[there] - width / 2
        right = np.array([bins["accuracy"][i] for i in there.tolist()], np.float64)
        sure = np.array([bins["confidence"][i] for i in there.tolist()], np.float64)
        count = np.array([bins["count"][i] for i in there.tolist()])
        upper = figure.add_subplot(grid[0, column])
        upper.bar(middle, right, 0.94 * width, color=COLOURS[0], linewidth=0, label="observed")
        upper.bar(
            middle,
            sure - right,
            0.94 * width,
            bottom=right,
            facecolor="none",
            edgecolor=COLOURS[1],
            hatch="/////",
            linewidth=0.7,
            label="gap",
        )
        upper.plot([left, 1], [left, 1], color=GREY, linestyle=":", linewidth=0.9)
        upper.set(xlim=(left, 1), ylim=(0, 1.02), title=title, xticklabels=[])
        ece = float((np.abs(right - sure) * count).sum() / count.sum())
        upper.legend(loc="upper left", title=f"{error} {ece:.3f}", title_fontsize=7, alignment="left")
        lower = figure.add_subplot(grid[1, column], sharex=None)
        lower.bar(middle, count, 0.94 * width, color=GREY, linewidth=0)
        lower.set(xlim=(left, 1), ylim=(0, 1.25 * most), xlabel=what)
        if len(there) <= 15:
            for x, n in zip(middle, count, strict=True):
                lower.annotate(f"{n}", (x, n), (0, 1.5), textcoords="offset points", ha="center", fontsize=5)
        if column == 0:
            upper.set_ylabel("accuracy")
            lower.set_ylabel("count")
        else:
            upper.set_yticklabels([])
            lower.set_yticklabels([])
    return figure


def decision_curve(found: Mapping[str, Sequence[float]]) -> Any:
    """Draw the net benefit of a model at each threshold probability, against treating all and treating nobody.

    ``found`` is the section ``decision_curve`` of ``metrics.json``.
    """
    figure = new_figure(COLUMN, 0.8 * COLUMN)
    axes = figure.add_subplot()
    x, benefit, everyone = (np.asarray(found[name]) for name in ("threshold", "net_benefit", "treat_all"))
    axes.axhline(0, color=GREY, linewidth=0.8, label="treat nobody")
    axes.plot(x, everyone, color=GREY, linestyle="--", linewidth=0.8, label="treat all")
    axes.fill_between(x, found["low"], found["high"], color=COLOURS[0], alpha=0.2, linewidth=0, label="95 %")
    axes.plot(x, benefit, color=COLOURS[0], label="model")
    top = max(float(everyone[0]), float(benefit.max()))
    of_use = x[(np.abs(benefit) > 0.02 * top) & (benefit > -0.25 * top) | (everyone > -0.25 * top)]
    end = min(1.0, 1.1 * float(of_use.max()))  # beyond, the model treats nobody, or does harm
    axes.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, end), ylim=(-0.25 * top, 1.1 * top))
    axes.legend(loc="upper right")
    return figure


def kaplan_meier(found: Mapping[str, Any], time_name: str) -> Any:
    """Draw the Kaplan-Meier curve of each group by risk with its interval, and a table of the numbers at risk.

    Parameters
    ----------
    found
        The section ``kaplan_meier`` of ``metrics.json``.
    time_name
        Label of the time axis.
    """
    groups = [group for group in found["groups"] if group["n"]]
    figure = new_figure(1.4 * COLUMN, 1.1 * COLUMN + 0.14 * len(groups))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 0.5 + 0.45 * len(groups)))
    end = max(group["times"][-1] for group in groups)
    for colour, group in zip(COLOURS, groups, strict=False):
        steps = at_steps(group)
        upper.step(steps.times, steps.survival, where="post", color=colour, label=f"{group['name']} risk")
        upper.fill_between(steps.times, steps.low, steps.high, step="post", color=colour, alpha=0.15, linewidth=0)
    ratio, p = found["hazard_ratio"], found["log_rank"]["p"]
    lines = []
    if ratio["value"] is not None:
        ends = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        lines.append(f"hazard ratio {ratio['value']:.2f}{ends}")
    if p is not None:
        lines.append("log-rank p < 0.001" if p < 0.001 else f"log-rank p {p:.3f}")
    upper.text(0.02, 0.03, "\n".join(lines), transform=upper.transAxes, va="bottom", size=7)
    upper.set(ylim=(0, 1.02), xlim=(0, 1.02 * end), ylabel="event-free share")
    upper.legend(loc="upper right")
    lower.set(ylim=(len(groups) - 0.5, -0.5), xlabel=time_name)
    lower.set_yticks(range(len(groups)), [group["name"] for group in groups])
    lower.set_title("number at risk", size=7, loc="left")
    lower.spines[:].set_visible(False)
    lower.tick_params(length=0)
    lower.tick_params(axis="y", pad=12)  # beside the number at time 0
    for at in (tick for tick in upper.get_xticks() if 0 <= tick <= end):
        for place, group in enumerate(groups):
            lower.text(at, place, f"{at_risk(group, at):,}", ha="center", va="center", size=6)
    return figure


def confusion(counts: NDArray[np.int64], names: Sequence[str]) -> Any:
    """Draw a confusion matrix: shares of the true class as colours, and counts.

    Parameters
    ----------
    counts : int64, of shape (n_classes, n_classes)
        Counts by true class and predicted class.
    names
        Names of the classes.
    """
    k = len(names)
    written = k <= MOST_WRITTEN
    side = max(1.6, 0.48 * k) if written else min(6.0, 0.16 * k)
    longest = 0.055 * min(max(map(len, names)), 24)
    figure = new_figure(side + longest + 0.9, side + longest * 0.8 + 0.6)
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    tilted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 6 else {}
    axes.set_xticks(range(k), short, **tilted)
    axes.set_yticks(range(k), short)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i, j in np.ndindex(k, k) if written else ():
        colour = "white" if shares[i, j] > 0.55 else "black" if counts[i, j] else GREY
        words = f"{counts[i, j]:,}\n{100 * shares[i, j]:.0f} %" if counts[i, j] else "0"
        axes.text(j, i, words, color=colour, ha="center", va="center", size=6)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def predicted_and_true(truth: Floats, predicted: Floats, names: Sequence[str], words: Sequence[str]) -> Any:
    """Draw predicted against true numbers, in one panel per output.

    Parameters
    ----------
    truth, predicted : float64, of shape (n, n_outputs)
    names
        Names of the outputs.
    words
        Text in each panel.
    """
    figure, panels = _panels(len(names), 1.0)
    for axes, t, p, name, line in zip(panels, truth.T, predicted.T, names, words, strict=True):
        low, high = float(min(t.min(), p.min())), float(max(t.max(), p.max()))
        margin = 0.04 * (high - low or 1)
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=GREY, linestyle=":", linewidth=0.9)
        axes.scatter(t, p, s=9, color=COLOURS[0], alpha=_opacity(len(t)), linewidths=0)
        axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}", xlim=ends, ylim=ends)
        axes.set_box_aspect(1)
        axes.text(0.03, 0.97, line, transform=axes.transAxes, va="top", size=7)
    return figure


def residuals(truth: Floats, predicted: Floats, names: Sequence[str]) -> Any:
    """Draw residuals against predicted numbers, and the distribution of residuals, in one panel per output."""
    figure, panels = _panels(len(names), 0.8)
    for axes, t, p, name in zip(panels, truth.T, predicted.T, names, strict=True):
        error = p - t
        most = 1.08 * float(np.abs(error).max() or 1)
        axes.axhline(0, color=GREY, linestyle=":", linewidth=0.9)
        axes.scatter(p, error, s=9, color=COLOURS[0], alpha=_opacity(len(t)), linewidths=0)
        axes.set(xlabel=f"predicted {name}", ylabel="predicted minus true", ylim=(-most, most))
        beside = axes.inset_axes((1.02, 0, 0.22, 1), sharey=axes)
        beside.hist(error, bins=np.linspace(-most, most, 26), orientation="horizontal", color=GREY, linewidth=0)
        for value, line in ((float(error.mean()), "-"), (float(error.mean()) - float(error.std()), "--")):
            beside.axhline(value, color=COLOURS[1], linestyle=line, linewidth=0.8)
        beside.axhline(float(error.mean()) + float(error.std()), color=COLOURS[1], linestyle="--", linewidth=0.8)
        beside.tick_params(labelleft=False, left=False, labelbottom=False, bottom=False)
        beside.spines[["left", "bottom"]].set_visible(False)
        beside.set_title(f"{error.mean():+.3g}\n± {error.std():.3g}", size=6)
    return figure


def training(curves: pl.DataFrame) -> Any:
    """Draw the loss of training and held-out rows, and the metric of held-out rows, by epoch.

    Parameters
    ----------
    curves
        ``curves.parquet`` of a run, with one row per epoch of each fold. A dot marks the selected epoch.
    """
    figure = new_figure(2 * COLUMN, 0.8 * COLUMN)
    losses, metric = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    parts = curves.partition_by([name for name in ("seed", "fold") if name in curves.columns], maintain_order=True)
    for number, part in enumerate(parts):
        fold, seed = part["fold"][0], part["seed"][0] if "seed" in curves.columns else None
        of_seed = "" if seed is None else f", seed {seed}"
        colour = GREY if fold is None else COLOURS[number % len(COLOURS)]
        epoch, stop = part["epoch"].to_numpy(), part["stop_loss"].cast(pl.Float64).to_numpy()
        losses.plot(epoch, part["train_loss"].cast(pl.Float64).to_numpy(), color=colour, linestyle=":", linewidth=0.9)
        losses.plot(epoch, stop, color=colour, label="all samples" if fold is None else f"fold {fold + 1}{of_seed}")
        metric.plot(epoch, part["stop_metric"].cast(pl.Float64).to_numpy(), color=colour)
        if np.isfinite(stop).any():
            best = int(np.nanargmin(stop))
            losses.plot(epoch[best], stop[best], "o", color=colour, markersize=4)
    losses.set(xlabel="epoch", ylabel="loss (dotted: training rows)", ylim=(0, None))
    metric.set(xlabel="epoch", ylabel="AUC of held-out rows")
    for axes in (losses, metric):
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend()
    return figure


def _mean_and_std(areas: Floats) -> str:
    return f"{areas.mean():.3f}" if len(areas) == 1 else f"{areas.mean():.3f} ± {areas.std(ddof=1):.3f}"


def _opacity(n: int) -> float:
    return 0.8 if n <= FEW_POINTS else max(0.15, 0.8 * (FEW_POINTS / n) ** 0.5)


def _panels(n: int, height: float) -> tuple[Any, list[Any]]:
    """Return a figure with n panels, at most three side by side."""
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = new_figure(COLUMN * columns, COLUMN * height * rows)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(n)]
