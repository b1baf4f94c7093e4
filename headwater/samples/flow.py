"""The flow of samples into a fit: those listed, selected, left out and used, and their groups, such as patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from headwater.samples.columns import without_blanks
from headwater.sources import plain
from headwater.store import Data


def flow_of(
    listed: pl.DataFrame,
    selected: pl.DataFrame,
    data: Data,
    *,
    ids: str,
    groups: str | None,
    bags: str | None = None,
    kind: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Count samples, and their groups, from the table to the fit; for ``metrics.json``.

    Parameters
    ----------
    listed, selected
        All samples of the table, and those that ``--where`` selects.
    data
        The rows that are used, with what was left out.
    ids
        The column of the samples' ids.
    groups
        The column of groups, such as the patient; None without one.
    bags
        The column that defines rows of several samples; None if each sample is a row.
    kind
        Turns the reason of one sample into one that many share.

    Returns
    -------
    dict
        ``group`` is the column of groups. ``listed``, ``selected`` and ``used`` hold ``samples`` and ``groups``, which
        is None without groups; ``used`` also ``rows``. ``left_out`` lists each ``reason`` in the order in which samples
        were left out, with its ``samples``, their ``groups``, and ``whole_groups``: the groups of these that have no
        sample left.
    """
    group = groups if groups in selected.columns else None
    of_bags = None if bags is None else selected[bags].cast(pl.String)
    table = pl.DataFrame({"id": selected[ids].cast(pl.String)})
    if group is not None:
        table = table.with_columns(group=without_blanks(plain(selected[group])).cast(pl.String))
    reasons = data.left_out.select(pl.col("id").cast(pl.String), pl.col("reason").cast(pl.String))
    reasons = reasons.unique("id", keep="first", maintain_order=True)
    found = table.join(reasons, on="id", how="left", maintain_order="left")
    if of_bags is not None:  # a bag that was left out takes its samples along
        of_bag = pl.DataFrame({"id": of_bags}).join(reasons, on="id", how="left", maintain_order="left")["reason"]
        found = found.with_columns(reason=pl.coalesce(found["reason"], of_bag))
    order = {name: number for number, name in enumerate(dict.fromkeys(map(kind, reasons["reason"].to_list())))}
    found = found.with_columns(reason=pl.Series([None if r is None else kind(r) for r in found["reason"].to_list()]))
    used = found.filter(pl.col("reason").is_null())
    left = _groups(used)
    out = []
    for reason in order:
        part = found.filter(pl.col("reason") == reason)
        of_part = _groups(part)
        whole = None if of_part is None or left is None else len(of_part - left)
        out.append({"reason": reason, **_counted(part), "whole_groups": whole})
    return {
        "group": group,
        "listed": _counted(_with_groups(listed, ids, group)),
        "selected": _counted(found),
        "left_out": out,
        "used": {**_counted(used), "rows": len(data.ids)},
    }


def _with_groups(table: pl.DataFrame, ids: str, group: str | None) -> pl.DataFrame:
    out = pl.DataFrame({"id": table[ids].cast(pl.String)})
    return out if group is None else out.with_columns(group=without_blanks(plain(table[group])).cast(pl.String))


def _groups(table: pl.DataFrame) -> set[str] | None:
    return set(table["group"].drop_nulls().to_list()) if "group" in table.columns else None


def _counted(table: pl.DataFrame) -> dict[str, int | None]:
    groups = table["group"].drop_nulls().n_unique() if "group" in table.columns else None
    return {"samples": len(table), "groups": groups}
