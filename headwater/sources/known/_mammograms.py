"""Columns that all sets of mammograms share: ``patient``, ``exam``, ``breast``, ``laterality`` and ``view``."""

from __future__ import annotations

import polars as pl

SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}


def laterality(column: str) -> pl.Expr:
    """Return the side of the body as ``L`` or ``R``; null for anything else."""
    return (
        pl.col(column)
        .str.to_uppercase()
        .replace_strict(SIDES, default=None, return_dtype=pl.String)
        .alias("laterality")
    )


def breast(of: str) -> pl.Expr:
    """Return a name for each breast of a patient or an exam."""
    return pl.format("{}-{}", of, "laterality").alias("breast")
