"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import show

PRIVACY = "Privacy"


def report(
    runs: Annotated[list[Path], o.typer.Argument(metavar="RUN …", help="Runs, or folders of runs such as a family's.")],
    out: Annotated[Path, option(panel=o.OUTPUT, metavar="FILE.html", help="The file to write.")],
    name: Annotated[
        list[str] | None, option(panel=o.REPORT, metavar="NAME", help="What to call each run, in order; repeat.")
    ] = None,
    checklist: Annotated[
        Literal["claim", "tripod-ai", "stard-ai"] | None,
        option(panel=o.REPORT, help="Answer the items of a reporting checklist from the runs' files."),
    ] = None,
    study: Annotated[
        Path | None,
        option(panel=o.REPORT, metavar="FILE.toml", help="What the authors write: title, summary, items by number."),
    ] = None,
    column: Annotated[
        list[str] | None,
        option(panel=o.REPORT, metavar="COL", help="Describe this column of the samples, such as age; repeat."),
    ] = None,
    by: Annotated[
        str | None, option(panel=o.REPORT, metavar="COL", help="Divide that table, and colour the map, by this column.")
    ] = None,
    audit: Annotated[
        Path | None,
        option(panel=o.REPORT, metavar="FILE.json", help="Show what an audit found: the output of audit --json."),
    ] = None,
    pictures: Annotated[
        bool, option("--pictures/--no-pictures", panel=PRIVACY, help="Show small pictures of cases.")
    ] = True,
    ids: Annotated[
        bool, option("--ids", panel=PRIVACY, help="Show ids of cases and names of groups, not numbers.")
    ] = False,
    open_: Annotated[bool, option("--open", panel=o.OUTPUT, help="Open it in a browser.")] = False,
    json: o.Json = False,
) -> None:
    """Write a report of runs as one HTML file.

    For a supervisor or a reviewer: what was done, results with intervals, figures, the worst mistakes, comparisons in
    words. The file holds everything itself and asks nothing of a network.

    Example:
      headwater report runs/image runs/image-and-text --out report.html --checklist claim
    """
    from headwater import api

    found = api.report(
        runs,
        out=out,
        names=name or None,
        checklist=checklist,
        study=study,
        columns=column or None,
        by=by,
        audit=audit,
        pictures=pictures,
        ids=ids,
    )
    show(found.lines(), found.to_dict(), json)
    if open_:
        import webbrowser

        webbrowser.open(found.path.resolve().as_uri())
