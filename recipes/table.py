"""Write the tables of ``docs/recipes.md`` and ``docs/real_data.md`` from the results in ``recipes/results``.

    python recipes/table.py

No figure in these tables is typed: each is a field of a ``result.json`` that a recipe wrote.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from support import ROOT, Result, Row

RESULTS = Path(__file__).parent / "results"
PAGE, STUDIES_PAGE = ROOT / "docs" / "recipes.md", ROOT / "docs" / "real_data.md"
STUDIES = {
    "density": "Density of the breast",
    "patients": "Patients on both sides of a split",
    "radiographs": "Radiographs with notes",
}
"""Studies on real data, by name, in the order of their page."""
FAMILIES = {
    "A": "Breast histopathology: networks and vision-language models",
    "B": "Several labels from image and text",
    "C": "Breast density",
    "D": "Mammography with metadata as text",
}
SYSTEMS = [f"{family}{n}" for family, last in (("A", 8), ("B", 9), ("C", 5), ("D", 10)) for n in range(1, last + 1)]
"""Every published system."""

_BETWEEN = re.compile(r"(<!-- tables: written by recipes/table.py -->\n).*(<!-- end of tables -->)", re.DOTALL)


def results() -> list[Result]:
    """Return all results, in the order of the systems; of one system, small ones first."""
    found = _read("[a-d][0-9]*.json")
    return sorted(found, key=lambda result: (SYSTEMS.index(result.system), result.mode != "small", result.data))


def study_results() -> list[Result]:
    """Return the results of studies on real data, in the order of their page."""
    return sorted(_read("study_*.json"), key=lambda result: (list(STUDIES).index(result.system), result.data))


def studies(found: list[Result]) -> str:
    """Return, for each study and data set, its systems, what comparisons say, and where its report is, in Markdown."""
    parts = []
    for result in found:
        metrics = list(dict.fromkeys(row.metric for row in result.rows))
        of = {(row.at, row.metric): _own(row) for row in result.rows}
        name = f"study_{result.system}-{result.data}"
        lines = [
            f"### {STUDIES[result.system]}: {result.data}",
            "",
            f"{result.n_samples:,} images, {result.n_groups or 'no'} groups; encoder {', '.join(result.encoders)}. "
            f'<a href="_static/reports/{name}.html">Report</a>, '
            f"[script](../{result.recipe}), [result](../recipes/results/{name}.json):",
            "",
            "```text",
            result.command,
            "```",
            "",
            f"| system | {' | '.join(f'`{metric}`' for metric in metrics)} |",
            f"|---|{'---|' * len(metrics)}",
            *(
                f"| {at} | {' | '.join(of[at, metric] for metric in metrics)} |"
                for at in dict.fromkeys(row.at for row in result.rows)
            ),
            "",
            *(f"- {line}" for line in result.conclusions),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _read(pattern: str) -> list[Result]:
    return [msgspec.json.decode(path.read_bytes(), type=Result) for path in sorted(RESULTS.glob(pattern))]


def tables(found: list[Result]) -> str:
    """Return, for each family of systems, the table of figures and the table of differences, in Markdown."""
    parts = []
    for family, title in FAMILIES.items():
        here = [result for result in found if result.system.startswith(family)]
        lines = [
            f"### {family}. {title}",
            "",
            "| system | run on | | metric | published | here |",
            "|---|---|---|---|---|---|",
        ]
        for result in here:
            for n, row in enumerate(_shown(result)):
                what = (f"{_link(result)} {result.title}", _data(result)) if n == 0 else ("", "")
                lines.append(f"| {' | '.join((*what, row.at, f'`{row.metric}`', _paper(row), _own(row)))} |")
        lines += [
            "",
            "What differs from the papers:",
            "",
            "| system | run on | models | differs |",
            "|---|---|---|---|",
        ]
        for result in here:
            says = "; ".join(f"**{name}**: {words}" for name, words in result.differs.items() if words)
            models = "<br>".join(f"`{name}`" for name in result.encoders)
            lines.append(f"| {_link(result)} | {result.data} | {models} | {says} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def page_with(tables: str, page: str) -> str:
    """Return the page with these tables in the place of its own."""
    return _BETWEEN.sub(lambda match: f"{match[1]}\n{tables}\n{match[2]}", page)


def _shown(result: Result) -> list[Row]:
    """Return the rows that the paper gives; where it gives none, the first metric of each run."""
    given = [row for row in result.rows if row.published is not None]
    first = {row.at: row for row in reversed(result.rows)}
    return given or [first[at] for at in dict.fromkeys(row.at for row in result.rows)]


def _link(result: Result) -> str:
    return f"[{result.system}](../{result.recipe})"


def _data(result: Result) -> str:
    groups = "" if result.n_groups is None else f", {result.n_groups:,} groups"
    models = "" if result.mode == "small" else f" with {', '.join(f'`{name}`' for name in result.encoders)}"
    return f"{result.data}{models}: {result.n_samples:,} samples{groups}"


def _paper(row: Row) -> str:
    return "not given" if row.published is None else str(row.published)


def _own(row: Row) -> str:
    own = row.own
    between = "" if own.low is None or own.high is None else f" [{own.low:.3f}, {own.high:.3f}]"
    return f"{own.value:.3f}{between}"


if __name__ == "__main__":
    PAGE.write_text(page_with(tables(results()), PAGE.read_text()))
    STUDIES_PAGE.write_text(page_with(studies(study_results()), STUDIES_PAGE.read_text()))
