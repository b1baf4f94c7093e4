"""The worst mistakes: test rows that the run was most sure of, and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.report.html.markup import Content, Html, join, paragraphs, tag
from headwater.report.html.material import Material, Subject
from headwater.report.html.origin import Origin
from headwater.report.html.pictures import inline
from headwater.report.html.words import number
from headwater.retrieve.duplicates import Whitening
from headwater.runs.predictions import output_ends, scores_of, truth_of

MOST = 12
FITTED = 600  # rows that whitening is fitted on, to find near duplicates
DIM = 128  # as for the leak check
_INTRO = {
    "regression": "The test rows with the largest errors.",
    "survival": "The rows with an event that the run ranked lowest: it took them for the safest.",
    "multilabel": "The wrong entries that the run was most sure of.",
    "ordinal": "The rows whose predicted grade is farthest from the true one, the surest first.",
}


@dataclass(frozen=True)
class Mistake:
    """A test row that was wrong: its place in the predictions, id, what it is, and what it was called."""

    row: int
    id: str
    true: str
    called: str


def once(one: Subject) -> pl.DataFrame:
    """Return the predictions with each row once: those of the first seed and draw."""
    table = one.results.predictions.with_row_index("row")
    for name in ("seed", "draw"):
        if name in table.columns:
            table = table.filter(pl.col(name) == table[name].min())
    return table


def worst(one: Subject, most: int = MOST) -> tuple[list[Mistake], int]:
    """Return the worst mistakes and how many there are; for numbers and risks all rows count."""
    table = once(one)
    ids = table["id"].cast(pl.String).to_list()
    if one.task == "regression":
        return _numbers(one, table, ids, most)
    if one.task == "survival":
        found = table.filter(pl.col("event") == 1).sort("risk", "id")
        rows = found.head(most).rows(named=True)
        return [
            Mistake(r["row"], str(r["id"]), f"event at {r['time']:g}", f"risk {number(float(r['risk']), '+')}")
            for r in rows
        ], found.height
    truth, scores = truth_of(table, one.names, one.task), scores_of(table, one.names, one.task)
    if one.task == "multilabel":
        return _labels(one, truth, scores, ids, most)
    place = {name: i for i, name in enumerate(one.names)}
    predicted = np.array([place[str(value)] for value in table["predicted"].to_list()], np.int64)
    wrong = np.flatnonzero(predicted != truth)
    sure = scores[wrong, predicted[wrong]]
    far = np.abs(predicted[wrong] - truth[wrong]) if one.task == "ordinal" else np.zeros(len(wrong))
    order = np.lexsort((wrong, -sure, -far))[:most]
    out = []
    for at in order.tolist():
        row = int(wrong[at])
        called = f"called {one.names[predicted[row]]}, probability {number(float(sure[at]))}"
        out.append(Mistake(row, ids[row], one.names[truth[row]], called))
    return out, len(wrong)


def _numbers(one: Subject, table: pl.DataFrame, ids: Sequence[str], most: int) -> tuple[list[Mistake], int]:
    """Return the largest errors; with several outputs, in units of each one's standard deviation."""
    ends = output_ends(one.names)
    true, predicted = (table.select([f"{k}{e}" for e in ends]).to_numpy().astype(float) for k in ("label", "predicted"))
    spread = true.std(0) if len(ends) > 1 else np.ones(1)
    error = (np.abs(predicted - true) / np.where(spread > 0, spread, 1)).max(1)
    out = []
    for row in np.lexsort((np.arange(len(error)), -error))[:most].tolist():
        words = [
            ", ".join(
                f"{n} {v:.4g}" if len(ends) > 1 else f"{v:.4g}"
                for n, v in zip(one.names, values[row].tolist(), strict=True)
            )
            for values in (true, predicted)
        ]
        out.append(Mistake(row, ids[row], words[0], f"predicted {words[1]}"))
    return out, len(error)


def _labels(
    one: Subject, truth: NDArray[Any], scores: NDArray[np.float64], ids: Sequence[str], most: int
) -> tuple[list[Mistake], int]:
    wrong = (scores > 0.5) != (truth == 1)
    rows, labels = np.nonzero(wrong)
    error = np.abs(scores[rows, labels] - truth[rows, labels])
    out = []
    for at in np.lexsort((rows, -error))[:most].tolist():
        row, label = int(rows[at]), int(labels[at])
        true = ", ".join(name for name, there in zip(one.names, truth[row].tolist(), strict=True) if there) or "none"
        what = "called" if truth[row, label] == 0 else "not called"
        out.append(
            Mistake(row, ids[row], true, f"{what} {one.names[label]}, probability {number(float(scores[row, label]))}")
        )
    return out, len(rows)


def mistakes(one: Subject, origin: Origin, material: Material) -> Html | None:
    """Return the worst mistakes with their pictures and columns; None if nothing was wrong."""
    found, n = worst(one)
    if not found:
        return None
    ids = [mistake.id for mistake in found]
    shown = material.pictures and origin.table is not None
    pictures = origin.pictures(ids) if shown else [None] * len(ids)
    near = _alike(one, origin, ids)
    columns = {column: origin.values(column, ids) for column in material.columns}
    figures = []
    for place, (mistake, picture) in enumerate(zip(found, pictures, strict=True)):
        name = f"Case {place + 1}"
        image = tag("div", "no picture", class_="none")
        if picture is not None:
            image = Html(f'<img alt="{name}" src="{inline(picture)}">')
        lines: list[Content] = [tag("b", f"{place + 1}. {mistake.true}"), mistake.called]
        lines += [f"{column} {values[place]}" for column, values in columns.items() if values[place]]
        if material.ids:
            lines.append(mistake.id)
        if near[place]:
            lines.append(tag("span", near[place], class_="near"))
        words = join(line if isinstance(line, Html) else tag("div", line) for line in lines)
        figures.append(tag("figure", image, tag("figcaption", words)))
    intro = _INTRO.get(one.task, "The wrong test rows that the run was most sure of.")
    count = (
        f" {n:,} of {len(once(one)):,} test rows are wrong." if one.task in ("binary", "multiclass", "ordinal") else ""
    )
    notes: list[Content] = [intro + count]
    if not material.pictures:
        notes.append("Pictures were left out (--no-pictures).")
    elif origin.note and origin.table is None:
        notes.append(origin.note)
    elif all(picture is None for picture in pictures):
        notes.append("The images are not where the store expects them, or changed since: there are no pictures.")
    bare = all(picture is None for picture in pictures)
    return join([paragraphs(notes), tag("div", *figures, class_="cases bare" if bare else "cases")])


def _alike(one: Subject, origin: Origin, ids: Sequence[str]) -> list[str]:
    """Say of each mistake which earlier ones show the same image, or a near duplicate.

    Near duplicates are those of the run's leak check: the same whitening, here fitted on other rows, and the same
    threshold.
    """
    keys = origin.image_keys(ids)
    out = [""] * len(ids)
    similar = _similarities(one, origin, ids)
    found = (one.metrics.get("leakage") or {}).get("near_duplicates") or {}
    threshold = found.get("threshold")
    for place in range(len(ids)):
        for other in range(place):
            if ids[place] == ids[other]:
                out[place] = f"the same case as {other + 1}"
                break
            if keys[place] is not None and keys[place] == keys[other]:
                out[place] = f"the same image as {other + 1}"
                break
            if similar is not None and threshold is not None and similar[place, other] > threshold:
                out[place] = f"near duplicate of {other + 1}"
                break
    return out


def _similarities(one: Subject, origin: Origin, ids: Sequence[str]) -> NDArray[np.float32] | None:
    found = (one.metrics.get("leakage") or {}).get("near_duplicates") or {}
    name = found.get("features")
    if not isinstance(name, str) or name not in origin.features or found.get("threshold") is None or len(ids) < 2:
        return None
    every = list(dict.fromkeys(once(one)["id"].cast(pl.String).to_list()))
    some = np.sort(np.random.default_rng(0).permutation(len(every))[:FITTED])
    rows = origin.raw(name, [every[row] for row in some.tolist()])
    if len(rows) < 2 or not np.isfinite(rows).all():
        return None
    units = Whitening.fit(rows, DIM).transform(origin.raw(name, ids))
    return np.asarray(units @ units.T, np.float32)
