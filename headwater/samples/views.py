"""Views: several images of one case as separate inputs, such as the views of an exam."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.samples.bags import agreed, bags_of
from headwater.samples.columns import full_column
from headwater.samples.contents import modality_of
from headwater.store import KEY_COLUMNS, Data

MOST = 16  # views; a column with more values is probably not a view


def view_name(view: str, name: str) -> str:
    """Return the name of the input of one view, such as ``CC:NAME/image``."""
    return f"{view}:{name}"


def viewed(
    data: Data, cases: str, views: str, used: Sequence[str], *, partial: bool, wanted: Sequence[str] = ()
) -> Data:
    """Return one row per case, with an input for each view of its images.

    Parameters
    ----------
    data
        The samples, each of one view.
    cases
        The column whose values define cases.
    views
        The column with each sample's view.
    used
        Columns that are the same in all samples of a case.
    partial
        Whether a case may lack some of the views; otherwise such cases are left out.
    wanted
        The views to read, in that order, as in a run; samples of other views are ignored. Default: all views, sorted.

    Raises
    ------
    InputError
        When a case has several images of one view, or several texts, or when there are fewer than 2 or more than 16
        views.
    """
    of_sample = full_column(data, views, "--views").astype(np.str_)
    if wanted:
        data, of_sample = _of_those(data, of_sample, views, wanted)
    names, members, first = bags_of(data, cases, used)
    levels = np.array(wanted) if wanted else np.unique(of_sample)
    number = np.array([levels.tolist().index(view) for view in of_sample.tolist()], np.int64)
    if not 2 <= len(levels) <= MOST:
        raise InputError(
            f"--views {views}: has {len(levels)} values, such as {str(levels[0])!r}, but needs 2 to {MOST} views. Pass "
            "the column with each sample's view."
        )
    place = np.full((len(names), len(levels)), -1)
    for case, rows in enumerate(members):
        counts = np.bincount(number[rows], minlength=len(levels))
        if counts.max() > 1:
            both = [str(one) for one in data.ids[rows[number[rows] == counts.argmax()]][:2]]
            raise InputError(
                f"--views {views}: {cases} {str(names[case])!r} has {counts.max()} samples of "
                f"{str(levels[counts.argmax()])!r}, such as {both[0]!r} and {both[1]!r}. Select one with --where."
            )
        place[case, number[rows]] = rows
    keep = np.flatnonzero((place >= 0).all(1) | partial)
    if not len(keep):
        raise InputError(f"--views {views}: no {cases} has all of {', '.join(levels.tolist())}.")
    lacks = [
        {"id": str(names[case]), "reason": f"no {views} {levels[place[case].argmin()]}"}
        for case in np.setdiff1d(np.arange(len(names)), keep).tolist()
    ]
    place = place[keep]
    inputs, present = {}, {}
    for name, X in data.inputs.items():
        has = data.present.get(name, np.ones(len(data.ids), np.bool_))
        if modality_of(name) == "text":
            rows, there = _one_text(data, cases, names, members, has)
            inputs[name] = X.select(rows[keep])
            present[name] = there[keep]
            continue
        for view, level in enumerate(levels.tolist()):
            rows = place[:, view]
            inputs[view_name(level, name)] = X.select(np.maximum(rows, 0))
            present[view_name(level, name)] = (rows >= 0) & has[rows]
    left = pl.DataFrame(lacks, schema={"id": pl.String, "reason": pl.String})
    left_out = pl.concat([part.cast(pl.String) for part in (data.left_out, left)])
    return Data(inputs, first[keep], names[keep], left_out, present if partial else {})


def views_of(inputs: Iterable[str]) -> list[str]:
    """Return the views in the names of inputs, in order."""
    return list(dict.fromkeys(name.rpartition(":")[0] for name in inputs if ":" in name))


def _of_those(
    data: Data, of_sample: NDArray[np.str_], views: str, wanted: Sequence[str]
) -> tuple[Data, NDArray[np.str_]]:
    """Return the samples of some views; refuse views that do not occur."""
    there = np.unique(of_sample).tolist()
    if lacking := [view for view in wanted if view not in there]:
        raise InputError(
            f"the run reads views {', '.join(wanted)} of {views!r}, but this store lacks {lacking[0]!r}. It has: "
            f"{', '.join(there[:MOST])}."
        )
    keep = np.flatnonzero(np.isin(of_sample, list(wanted)))
    inputs = {name: X.select(keep) for name, X in data.inputs.items()}
    present = {name: part[keep] for name, part in data.present.items()}
    return Data(inputs, data.table[keep], data.ids[keep], data.left_out, present), of_sample[keep]


def _one_text(
    data: Data,
    cases: str,
    names: NDArray[np.str_],
    members: Sequence[NDArray[np.int64]],
    has: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each case a sample with its text, and whether there is one."""
    agreed(data.table[KEY_COLUMNS["text"]], members, cases, names)
    rows = np.array([mine[has[mine].argmax()] for mine in members], np.int64)
    return rows, has[rows]
