"""How fast are texts from metadata beside a plain Python loop, and how often are missing values warned of on noise?

    python benchmarks/text_template.py [rows] [tables]

The first part writes texts of five columns with `str.format`, row by row, and with the template. The second draws
tables in which values are missing at random, and counts how often they are said to predict the label.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import polars as pl

from headwater.experiment.missingness import probe_missing
from headwater.sources.sentences import write_texts
from headwater.sources.synthetic_mammograms import TEMPLATE
from headwater.sources.template import parse_template

PLAIN = (
    "The patient is {age}. The breasts are {density}. Implant: {implant}. Family: {family_history}. {previous_biopsy}."
)
SIZES = ((80, 0.3, 2), (240, 0.2, 4), (400, 0.1, 4), (1000, 0.3, 4), (60, 0.3, 1))


def table_of(n: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return metadata of n images, a fifth of it missing."""
    columns = {
        "age": rng.integers(40, 85, n).tolist(),
        "density": rng.choice(list("ABCD"), n).tolist(),
        "implant": (rng.random(n) < 0.05).tolist(),
        "family_history": (rng.random(n) < 0.2).tolist(),
        "previous_biopsy": (rng.random(n) < 0.2).tolist(),
    }
    table = pl.DataFrame(
        {"exam": [f"e{i // 4}" for i in range(n)], "label": [0] * n, "finding": ["none"] * n, **columns}
    )
    gone = [pl.when(pl.Series(rng.random(n) < 0.2)).then(None).otherwise(pl.col(c)).alias(c) for c in columns]
    return table.with_columns(gone)


def speed(n: int) -> None:
    """Time both ways on the same table."""
    table = table_of(n, np.random.default_rng(0))
    ids = [f"i{i}" for i in range(n)]
    template = parse_template(TEMPLATE)
    took = []
    for _ in range(3):
        start = time.perf_counter()
        [
            PLAIN.format(**{k: "unknown" if v is None else v for k, v in row.items()})
            for row in table.iter_rows(named=True)
        ]
        middle = time.perf_counter()
        write_texts(template, table, ids)
        took.append((middle - start, time.perf_counter() - middle))
    plain, own = np.min(took, axis=0)
    print(
        f"{n:,} texts: str.format {plain:.2f} s, template {own:.2f} s, {n / own:,.0f} a second, ratio {own / plain:.1f}"
    )


def alarms(n_tables: int) -> None:
    """Count warnings on noise, for tables of several sizes, values missing by group."""
    template = parse_template('sentences = ["{a}, {b}, {c}, {d}"]')
    for n, share, per in SIZES:
        rng, said = np.random.default_rng(0), []
        for _ in range(n_tables):
            m = n // per
            y = np.repeat(rng.random(m) < 0.3, per).astype(int)
            gone = {c: np.repeat(rng.random(m) < share, per) for c in "abcd"}
            cells = pl.DataFrame({c: [None if one else "x" for one in of] for c, of in gone.items()})
            probe = probe_missing(template, cells, "y", y, np.repeat(np.arange(m), per).astype(str))
            said.append(probe is not None and probe.predicts)
        print(
            f"{n:,} rows of {n // per} patients, {share:.0%} missing: {np.mean(said):.1%} of {n_tables} tables warned"
        )


if __name__ == "__main__":
    speed(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    alarms(int(sys.argv[2]) if len(sys.argv) > 2 else 150)
