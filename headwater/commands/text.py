"""The command that writes texts from metadata: text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import show


def text(
    manifest: Annotated[
        Path, o.typer.Argument(metavar="MANIFEST", help="CSV, TSV, Parquet or JSON lines, with the metadata.")
    ],
    template: Annotated[
        Path, option(panel=o.DATA, metavar="FILE.toml", help="The sentences, with columns as fields: 'Age {age}.'")
    ],
    out: Annotated[
        Path, option("--out", "-o", panel=o.OUTPUT, metavar="FILE", help="The manifest to write, .csv or .parquet.")
    ],
    column: Annotated[str, option(panel=o.DATA, metavar="COL", help="Name of the new column.")] = "report",
    id: o.IdColumn = None,
    label: Annotated[
        str | None,
        option(
            panel=o.DATA,
            metavar="COL",
            help="Column to predict: refused as a field, and missing values must not predict it.",
        ),
    ] = None,
    groups: o.Groups = None,
    site: Annotated[
        str | None,
        option(panel=o.DATA, metavar="COL", help="Hospital or scanner: a warning if missing values tell it."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Write sentences from the columns of a table.

    They become a new column in a copy of the manifest, which embed reads as texts. Columns that hold outcomes are
    refused. No language model is used.

    Example:
      headwater text exams.csv --template report.toml -o exams-with-reports.csv --label cancer --groups patient
      headwater embed exams-with-reports.csv exams.hw --encoder builtin:ngram --text report
    """
    from headwater import api

    done = api.text(manifest, template=template, out=out, column=column, id=id, label=label, groups=groups, site=site)
    show(done.lines(), done.to_dict(), json)
