"""Tables as Markdown, LaTeX or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from headwater.errors import InputError, nearest

if TYPE_CHECKING:
    import polars as pl

Format = Literal["md", "csv", "latex", "json"]
FORMATS = get_args(Format)


def require_format(form: str) -> None:
    """Refuse an unknown format."""
    if form not in FORMATS:
        raise InputError(f"--format {form!r}: must be one of {', '.join(FORMATS)}.{nearest(form, FORMATS)}")


def plain_cell(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


_FORMULA, _NUMBER = r"^[=+\-@\t\r]", r"^[+\-](?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?$"


def csv_bytes(table: pl.DataFrame) -> bytes:
    """Return a table as a CSV file without formulas; lists become text with semicolons.

    Cells that a spreadsheet would take for a formula get an apostrophe; numbers with a sign do not.
    """
    import io

    import polars as pl

    flat = [
        pl.col(name).list.eval(pl.element().cast(pl.String)).list.join("; ")
        for name, dtype in table.schema.items()
        if isinstance(dtype, pl.List)
    ]
    flattened = table.with_columns(flat)
    plain = [
        pl.when(pl.col(name).str.contains(_FORMULA) & ~pl.col(name).str.contains(_NUMBER))
        .then("'" + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name, dtype in flattened.schema.items()
        if dtype == pl.String
    ]
    out = io.BytesIO()
    flattened.with_columns(plain).rename(plain_cell).write_csv(out)
    return out.getvalue()


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the head first, as a table in Markdown."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]) + "\n"


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "±": "$\\pm$",
    "–": "--",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
}


def latex(cells: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the head first, as a table in LaTeX, with the lines of booktabs."""

    def escaped(cell: str) -> str:
        return "".join(_LATEX.get(c, c) for c in cell.replace("\\", "/"))

    rows = [f"{' & '.join(map(escaped, row))} \\\\" for row in cells]
    body = "\n".join(rows[1:])
    columns = "l" * 2 + "r" * (len(cells[0]) - 2)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{rows[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
