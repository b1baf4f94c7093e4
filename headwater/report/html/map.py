"""A map of the features in two dimensions, coloured by label, group, site or mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate.fold_means import natural
from headwater.report.html.markup import Html, safe, tag
from headwater.report.html.material import Material, Subject
from headwater.report.html.mistakes import once
from headwater.report.html.origin import Origin
from headwater.report.html.pictures import COLUMNS, SIDE, Sheets
from headwater.report.html.words import number
from headwater.runs.predictions import scores_of

MOST = 1500  # points of a map
MOST_PICTURES = 240  # of them with a picture
LEAST = 8  # rows for a map
COLOURS = 8
WIDTH, HEIGHT, MARGIN = 900.0, 560.0, 18.0
LETTERS = "abcdef"
MANY = "Each colour stands for several of them."


@dataclass(frozen=True, eq=False)
class Colouring:
    """A way to colour the points: its name, the colour of each, and what colours mean."""

    name: str
    colours: NDArray[np.int64]
    legend: Sequence[str]
    note: str = ""


def feature_map(one: Subject, origin: Origin, material: Material, sheets: Sheets) -> Html | None:
    """Return the map of a run's features; None if they cannot be read or are too few."""
    table = once(one).sort("id")  # so that runs on the same samples draw the same ones
    ids = table["id"].cast(pl.String).to_list()
    if not origin.features or len(ids) < LEAST:
        return tag("p", origin.note) if origin.note else None
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(ids))[:MOST])
    table = table[chosen]
    ids = [ids[row] for row in chosen.tolist()]
    X = origin.vectors(ids)
    if X is None or not np.isfinite(X).all():
        return None
    places, method = _projected(X)
    colourings = _colourings(one, origin, material, table, ids)
    pictured, sheet = _pictured(one, origin, ids, rng, sheets) if material.pictures else ({}, "")
    words = _words(one, table, ids, show_ids=material.ids)
    points = []
    for row, (x, y) in enumerate(places.tolist()):
        kinds = " ".join(f"{LETTERS[k]}{c.colours[row]}" for k, c in enumerate(colourings) if c.colours[row] >= 0)
        picture = f' data-p="{pictured[row]}"' if row in pictured else ""
        points.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{kinds}"{picture} data-w="{safe(words[row])}"/>'
        )
    drawn = Html(
        f'<svg class="map" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" data-by="a" role="img" '
        f'aria-label="Map of the features">{"".join(points)}</svg>'
    )
    legends = [_legend(c, LETTERS[k], hidden=k > 0) for k, c in enumerate(colourings)]
    tip = tag(
        "div",
        tag("i", class_=sheet or None),
        tag("span"),
        class_="tip",
        hidden=True,
        data_side=SIDE,
        data_columns=COLUMNS,
    )
    choices = [tag("option", c.name, value=LETTERS[k]) for k, c in enumerate(colourings)]
    tools = tag("div", tag("label", "Colour by ", tag("select", *choices)), class_="tools")
    n = len(once(one))
    of = f"{len(ids):,} of {n:,} test rows, drawn at random" if len(ids) < n else f"{n:,} test rows"
    lines = [
        f"{method} of the features that the model reads, each scaled to length 1: {of}. Rows that are close look "
        "alike to the encoder. Axes have no unit."
    ]
    if pictured:
        lines.append("Points with a dark edge show their picture when the pointer is on them.")
    if origin.changed:
        lines.append(f"The store's {', '.join(origin.changed)} changed since the run read it.")
    hint = tag("p", " ".join(lines), class_="hint")
    return tag("div", tools, drawn, *legends, tip, hint, class_="mapbox")


def _projected(X: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Return the place of each row on the map, and the name of the method: UMAP if it is installed, else PCA."""
    if find_spec("umap") is not None:
        found = (
            import_module("umap")
            .UMAP(n_neighbors=min(15, len(X) - 1), metric="cosine", random_state=0, n_jobs=1)
            .fit_transform(X)
        )
        method = "UMAP"
    else:
        from sklearn.decomposition import PCA

        found, method = (
            PCA(2, svd_solver="randomized", random_state=0).fit_transform(X.astype(np.float64)),
            "Principal components (PCA)",
        )
    found = np.asarray(found, np.float64)
    low, high = found.min(0), found.max(0)
    share = (found - low) / np.where(high > low, high - low, 1)
    size = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    return np.stack([MARGIN + share[:, 0] * size[0], HEIGHT - MARGIN - share[:, 1] * size[1]], 1), method


def _colourings(
    one: Subject, origin: Origin, material: Material, table: pl.DataFrame, ids: Sequence[str]
) -> list[Colouring]:
    out = [_label(one, table)]
    if one.task in ("binary", "multiclass", "ordinal"):
        right = (table["label"].cast(pl.String) == table["predicted"].cast(pl.String)).to_list()
        out.append(Colouring("right or wrong", np.array([0 if yes else 1 for yes in right]), ["right", "wrong"]))
    if "level" in table.columns:
        out.append(_categories(str(one.config.get("by") or "subgroup"), table["level"].cast(pl.String).to_list()))
    for column in dict.fromkeys([*([material.by] if material.by else []), *material.columns]):
        numbers = origin.numbers(column, ids)
        if numbers is not None and len(np.unique(numbers[np.isfinite(numbers)])) > COLOURS:
            out.append(_quarters(column, numbers))
        elif any(values := origin.values(column, ids)):
            out.append(_categories(column, values))
    if "group" in table.columns:
        out.append(_groups(one, table["group"].cast(pl.String).to_list(), show=material.ids))
    seen: dict[str, Colouring] = {}
    for c in out:
        seen.setdefault(c.name, c)
    return list(seen.values())[: len(LETTERS)]


def _label(one: Subject, table: pl.DataFrame) -> Colouring:
    if one.task == "regression":
        first = next(c for c in table.columns if c.startswith("label"))
        return _quarters(one.names[0], table[first].to_numpy().astype(float))
    if one.task == "survival":
        events = table["event"].to_numpy().astype(int)
        return Colouring("event", np.where(events == 1, 1, 0), ["censored", "event"])
    name = one.labels[0] if len(one.labels) == 1 else "label"
    values = table["label"].to_list()
    if one.task == "multilabel":
        return _categories(name, [", ".join(map(str, row)) if row else "none" for row in values])
    return _categories(name, [str(value) for value in values], order=one.names)


def _categories(name: str, values: Sequence[str], order: Sequence[str] | None = None) -> Colouring:
    """Colour up to seven values; the rarest share the eighth colour."""
    counts = {word: values.count(word) for word in dict.fromkeys(values)}
    known = [w for w in (order or sorted(counts, key=natural)) if w in counts]
    if len(known) > COLOURS:
        common = sorted(known, key=lambda w: (-counts[w], natural(w)))[: COLOURS - 1]
        known = [w for w in known if w in common]
        legend = [*known, "others"]
    else:
        legend = list(known)
    place = {word: number for number, word in enumerate(known)}
    return Colouring(
        name, np.array([place.get(word, COLOURS - 1) for word in values]), [word or "(empty)" for word in legend]
    )


def _quarters(name: str, values: NDArray[np.float64]) -> Colouring:
    """Colour numbers by quarters of the rows."""
    there = values[np.isfinite(values)]
    cuts = np.unique(np.quantile(there, (0.25, 0.5, 0.75))) if len(there) else np.zeros(0)
    place = np.where(np.isfinite(values), np.searchsorted(cuts, values, "right"), -1)
    ends = [f"{cut:.4g}" for cut in cuts]
    legend = [f"below {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"{ends[-1]} or more"] if ends else []
    return Colouring(name, place.astype(np.int64), legend)


def _groups(one: Subject, values: Sequence[str], *, show: bool) -> Colouring:
    codes = np.unique(np.array(values), return_inverse=True)[1]
    names = sorted(set(values))
    few = len(names) <= COLOURS
    legend = (names if show else [f"{number + 1}" for number in range(len(names))]) if few else []
    return Colouring(one.group or "group", codes % COLOURS, legend, "" if few else MANY)


def _legend(c: Colouring, letter: str, *, hidden: bool) -> Html:
    keys = [tag("span", tag("i", class_=f"key{place}"), word) for place, word in enumerate(c.legend)]
    if len(c.legend) == COLOURS and c.legend[-1] == "others":
        keys[-1] = tag("span", tag("i", class_=f"key{COLOURS - 1}"), "others")
    return tag("div", *keys, *([c.note] if c.note else []), class_="legend", data_of=letter, hidden=hidden)


def _words(one: Subject, table: pl.DataFrame, ids: Sequence[str], *, show_ids: bool) -> list[str]:
    """Return what each point is."""
    ends: list[str] = []
    if one.task in ("binary", "multiclass", "ordinal"):
        scores = scores_of(table, one.names, one.task).max(1)
        for true, called, p in zip(
            table["label"].to_list(), table["predicted"].to_list(), scores.tolist(), strict=True
        ):
            ends.append(f"{true}, called {called} ({number(p)})")
    elif one.task == "multilabel":
        ends = [", ".join(map(str, row)) if row else "none" for row in table["label"].to_list()]
    elif one.task == "survival":
        ends = [f"{'event' if e else 'censored'} at {t:g}" for t, e in zip(table["time"], table["event"], strict=True)]
    else:
        ends = [
            f"{one.names[0]} {value:.4g}" for value in table[next(c for c in table.columns if c.startswith("label"))]
        ]
    return [f"{id}: {words}" if show_ids else words for id, words in zip(ids, ends, strict=True)]


def _pictured(
    one: Subject, origin: Origin, ids: Sequence[str], rng: np.random.Generator, sheets: Sheets
) -> tuple[dict[int, int], str]:
    """Return the place of some points' pictures on a sheet, and the sheet's class."""
    rows = np.sort(rng.permutation(len(ids))[:MOST_PICTURES]).tolist()
    chosen = [ids[row] for row in rows]
    place = str(one.config.get("store") or one.config.get("manifest"))
    return sheets.of((place, str(one.config.get("bags")), *chosen), rows, lambda: origin.pictures(chosen))
