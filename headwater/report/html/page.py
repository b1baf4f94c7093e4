"""The page: its parts in order, with style and script inside, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files

from headwater._words import counted
from headwater.report.html import drawn, several
from headwater.report.html.about import about, cautions
from headwater.report.html.audited import audit_section
from headwater.report.html.checklists import CHECKLISTS, checklist
from headwater.report.html.details import details_of
from headwater.report.html.flow import flow
from headwater.report.html.map import feature_map
from headwater.report.html.markup import Html, Section, join, paragraphs, safe, slug, table, tag
from headwater.report.html.material import LARGEST, Material, Subject
from headwater.report.html.mistakes import mistakes
from headwater.report.html.numbers import headline, results_of, tiles
from headwater.report.html.origin import Origin, origin_of
from headwater.report.html.pictures import Sheets
from headwater.report.html.words import metric_inside, number, percent, sentence, span
from headwater.runs.run import Results

FEW = 3  # cautions that stand in the summary
NUMBERS = (
    "Every number of this report stands in the files of the runs, or is what headwater compare and headwater table "
    "make of them. The pointer shows the file and key of a number in a table."
)
WITH_PICTURES = (
    "This report contains pictures of cases. Send it only to people who may see them, or make it with --no-pictures."
)
WITH_IDS = "This report contains ids of cases. Send it only to people who may see them, or make it without --ids."


def page(material: Material, systems: Mapping[str, Mapping[str, Results]]) -> str:
    """Return the report.

    Parameters
    ----------
    material
        What it prints.
    systems
        Results by system and level, for the figures of several runs.
    """
    subjects = material.subjects
    origins = {one.name: origin_of(one) for one in subjects} if len(subjects) <= LARGEST else {}
    has_pictures = material.pictures and any(o.table is not None for o in origins.values())
    sheets = Sheets()
    sections = [_summary(material, systems)]
    sections += [_run(material, one, place, origins.get(one.name), sheets) for place, one in enumerate(subjects)]
    if material.cohort is not None:
        sections.append(_cohort(material))
    if material.audited is not None:
        sections.append(audit_section(material.audited))
    if material.checklist is not None:
        title = CHECKLISTS[material.checklist][0]
        sections.append(Section(f"{title} checklist", checklist(material), id="checklist"))
    notes = [*([WITH_PICTURES] if has_pictures else []), *([WITH_IDS] if material.ids else [])]
    body = [
        tag(
            "header",
            tag("h1", material.title),
            *([tag("p", material.study["authors"])] if "authors" in material.study else []),
            tag("p", _subtitle(material)),
            *(tag("p", note, class_="note") for note in notes),
        ),
        tag("nav", tag("div", *(tag("a", s.title, href=f"#{s.id or slug(s.title)}") for s in sections))),
        tag("main", *(_marked(s, place) for place, s in enumerate(sections))),
        tag("footer", tag("p", NUMBERS)),
    ]
    style, script = (files(__package__).joinpath(name).read_text() for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(material.title)}</title>\n<style>\n{style}{sheets.style}</style>\n</head>\n<body>\n"
        f"{join(body, chr(10))}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _marked(section: Section, place: int) -> Html:
    kind = "run" if section.id.startswith("run-") else None
    return tag("section", tag("h2", section.title), section.body, id=section.id or slug(section.title), class_=kind)


def _subtitle(material: Material) -> str:
    n, outside = len(material.inner), len(material.external)
    parts = [counted(n, "run")] if n else []
    parts += [counted(outside, "test") + " on other data"] if outside else []
    version = (material.subjects[0].config.get("environment") or {}).get("headwater")
    return f"{' and '.join(parts)}, {material.subjects[0].task}" + (
        f", made with headwater {version}" if version else ""
    )


def _summary(material: Material, systems: Mapping[str, Mapping[str, Results]]) -> Section:
    parts = [tag("p", material.study["summary"])] if "summary" in material.study else []
    if len(material.subjects) == 1:
        one = material.subjects[0]
        return Section("Summary", join([*parts, tiles(one), paragraphs(_in_short(one))]), id="summary")
    if material.comparisons or material.not_compared:
        parts.append(several.conclusions(material))
    parts.append(_part("All systems", several.systems_table(material)))
    if len(material.inner) > 1:
        parts.append(_part("Systems and folds", several.figures(material, systems)))
    for compared in material.comparisons:
        parts.append(
            _part(f"Tests of each pair{f', {compared.level}' if compared.level else ''}", several.pairs(compared))
        )
    return Section("Summary", join(parts), id="summary")


def _in_short(one: Subject) -> list[str]:
    """Return two or three sentences about a run: its question and its main result."""
    question = dict(about(one, ids=False))["Question"]
    out = [" ".join(question)]
    metrics = one.metrics
    main = next(
        (n for n in ("auc", "auc_macro", "r2", "c_index", "kappa_quadratic") if metrics["mean"].get(n) is not None),
        None,
    )
    if main is not None:
        low, high = (metrics.get("intervals") or {}).get(main) or (None, None)
        interval = "" if low is None else f" ({percent(metrics)} interval {span(low, high)})"
        n = len(metrics["folds"])
        how = f"over {n} folds" if n > 1 else "on one test set"
        out.append(f"Its {metric_inside(main)} {how} is {number(metrics['mean'][main])}{interval}.")
    out = [sentence(line) for line in out]
    notes = cautions(one, ids=False)
    if len(notes) <= FEW:
        return out + [f"Caution: {sentence(note)}" for note in notes]
    return [*out, f"{counted(len(notes), 'caution')} below."]


def _run(material: Material, one: Subject, place: int, origin: Origin | None, sheets: Sheets) -> Section:
    several_ = len(material.subjects) > 1
    parts = []
    if several_:
        parts.append(tiles(one))
    described = join(
        join([tag("dt", title), tag("dd", " ".join(lines))]) for title, lines in about(one, ids=material.ids)
    )
    parts.append(_part("What was done", tag("dl", described, class_="about")))
    parts.append(_part("Flow of samples", flow(one)))
    parts.append(_part("Results", headline(one)))
    parts += [_part(title, body) for title, body in results_of(one) if body is not None]
    if figures := drawn.figures(one, place):
        parts.append(_part("Figures", figures))
    parts += [_part(title, body) for title, body in details_of(one) if body is not None]
    if origin is None:
        parts.append(
            tag("p", f"The report has more than {LARGEST} runs: worst mistakes and maps are left out.", class_="hint")
        )
    else:
        if (body := mistakes(one, origin, material)) is not None:
            parts.append(_part("Worst mistakes", body))
        if (body := feature_map(one, origin, material, sheets)) is not None:
            parts.append(_part("Map of the features", body))
    title = f"Run {one.name}" if several_ else "The run"
    return Section(title, join(parts), id=f"run-{place}")


def _part(title: str, body: Html) -> Html:
    return tag("section", tag("h3", title), body)


def _cohort(material: Material) -> Section:
    head, rows = material.cohort or ((), ())
    listed = [[tag("span", row[0].strip(), class_="in" if row[0].startswith(" ") else None), *row[1:]] for row in rows]
    made = table(list(head), listed, sortable=False)
    hint = "As headwater cohort makes it, of all selected samples, also those that were left out later."
    return Section("Cohort", join([made, tag("p", hint, class_="hint")]), id="cohort")
