"""Reporting checklists: which items a run's files answer, and which the authors must write.

Items are numbered as in the published checklists, with short names of our own. CLAIM: Mongan, Moy and Kahn, Radiology:
Artificial Intelligence 2(2):e200029, 2020. TRIPOD+AI: Collins et al., BMJ 385:e078378, 2024. STARD-AI: Sounderajah et
al., Nature Medicine, 2025; items are numbered as in STARD 2015, which it extends, and what it adds stands at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headwater.errors import InputError, nearest
from headwater.report.html import facts as f
from headwater.report.html import result_facts as r
from headwater.report.html.facts import Fact
from headwater.report.html.markup import Html, code, join, tag
from headwater.report.html.material import Material
from headwater.report.html.words import listed

Answer = Callable[[Material], Sequence[Fact]]


@dataclass(frozen=True)
class Item:
    """An item: its number, its name, and how a run answers it; None if only the authors can."""

    number: str
    name: str
    answer: Answer | None = None


CLAIM = (
    Item("1", "Title names the AI method"),
    Item("2", "Structured summary"),
    Item("3", "Background and intended role"),
    Item("4", "Aims and hypotheses"),
    Item("5", "Prospective or retrospective"),
    Item("6", "Goal of the study"),
    Item("7", "Sources of the data", f.sources),
    Item("8", "Eligibility of patients"),
    Item("9", "Preprocessing", f.preprocessing),
    Item("10", "Subset of the data", f.subset),
    Item("11", "Definition of the variables"),
    Item("12", "De-identification"),
    Item("13", "Missing data", f.missing),
    Item("14", "Reference standard"),
    Item("15", "Why this reference standard"),
    Item("16", "Who annotated"),
    Item("17", "Tools of annotation"),
    Item("18", "Agreement of annotators"),
    Item("19", "Intended sample size"),
    Item("20", "How data were divided", f.partitions),
    Item("21", "Level at which parts are disjoint", f.disjoint),
    Item("22", "Model", f.model),
    Item("23", "Software", f.software),
    Item("24", "Initial parameters", f.initial),
    Item("25", "Training", f.training),
    Item("26", "Choice of the final model", f.selection),
    Item("27", "Ensembles", f.ensembles),
    Item("28", "Measures of performance", r.measures),
    Item("29", "Uncertainty and tests", r.uncertainty),
    Item("30", "Robustness", r.robustness),
    Item("31", "Explanation of predictions"),
    Item("32", "Test on external data", r.external),
    Item("33", "Flow of participants", r.flow),
    Item("34", "Demographics", r.demographics),
    Item("35", "Performance", r.performance),
    Item("36", "Estimates with their precision", r.precision),
    Item("37", "Analysis of failures", r.failures),
    Item("38", "Limitations"),
    Item("39", "Meaning for practice"),
    Item("40", "Registration"),
    Item("41", "Access to the protocol"),
    Item("42", "Funding"),
)
TRIPOD = (
    Item("1", "Title"),
    Item("2", "Abstract"),
    Item("3a", "Clinical context"),
    Item("3b", "Target population and users"),
    Item("3c", "Known inequalities"),
    Item("4", "Aims"),
    Item("5a", "Sources of the data", f.sources),
    Item("5b", "Dates of the data"),
    Item("6a", "Setting and centres"),
    Item("6b", "Eligibility"),
    Item("6c", "Treatments"),
    Item("7", "Preparation of the data", f.preprocessing),
    Item("8a", "Outcome", f.outcome),
    Item("8b", "Assessors of the outcome"),
    Item("8c", "Blinding for the outcome"),
    Item("9a", "Choice of predictors", f.predictors),
    Item("9b", "Definition of predictors", f.initial),
    Item("9c", "Assessors of predictors"),
    Item("10", "Sample size"),
    Item("11", "Missing data", f.missing),
    Item("12a", "Division of the data", f.partitions),
    Item("12b", "Handling of predictors", f.preprocessing),
    Item("12c", "Model, tuning and internal validation", f.model_and_selection),
    Item("12d", "Clusters, such as centres", f.disjoint),
    Item("12e", "Measures of performance", r.measures),
    Item("12f", "Updating of the model"),
    Item("12g", "Predictions in the evaluation", f.applied),
    Item("13", "Class imbalance", r.imbalance),
    Item("14", "Fairness", r.robustness),
    Item("15", "Output and thresholds", f.output),
    Item("16", "Training against evaluation data", r.external),
    Item("17", "Ethical approval"),
    Item("18a", "Funding"),
    Item("18b", "Conflicts of interest"),
    Item("18c", "Protocol"),
    Item("18d", "Registration"),
    Item("18e", "Sharing of data"),
    Item("18f", "Sharing of code", f.software),
    Item("19", "Involvement of patients"),
    Item("20a", "Flow of participants", r.flow),
    Item("20b", "Characteristics of participants", r.demographics),
    Item("20c", "Comparison with development data"),
    Item("21", "Participants and events by analysis", r.events),
    Item("22", "Full specification of the model", f.specification),
    Item("23a", "Performance with intervals", r.precision),
    Item("23b", "Heterogeneity between clusters", r.subgroups),
    Item("24", "Results of updating"),
    Item("25", "Interpretation"),
    Item("26", "Limitations"),
    Item("27a", "Handling of poor inputs"),
    Item("27b", "Interaction with users"),
    Item("27c", "Next steps"),
)
STARD = (
    Item("1", "Title names a measure of accuracy"),
    Item("2", "Structured summary"),
    Item("3", "Background and role of the index test"),
    Item("4", "Aims and hypotheses"),
    Item("5", "Prospective or retrospective"),
    Item("6", "Eligibility"),
    Item("7", "How participants were identified"),
    Item("8", "Setting, places and dates"),
    Item("9", "Consecutive, random or convenience series"),
    Item("10a", "Index test", f.model),
    Item("10b", "Reference standard", f.outcome),
    Item("11", "Why this reference standard"),
    Item("12a", "Cut-offs of the index test", f.output),
    Item("12b", "Cut-offs of the reference standard"),
    Item("13a", "Blinding of the index test"),
    Item("13b", "Blinding of the reference standard"),
    Item("14", "Methods of estimation and comparison", r.uncertainty),
    Item("15", "Indeterminate results"),
    Item("16", "Missing data", f.missing),
    Item("17", "Variability and subgroups", r.robustness),
    Item("18", "Intended sample size"),
    Item("19", "Flow of participants", r.flow),
    Item("20", "Characteristics of participants", r.demographics),
    Item("21a", "Severity in those with the condition"),
    Item("21b", "Other diagnoses in those without it"),
    Item("22", "Time between tests"),
    Item("23", "Index test against reference standard", r.cross_table),
    Item("24", "Accuracy with its precision", r.precision),
    Item("25", "Adverse events"),
    Item("26", "Limitations"),
    Item("27", "Meaning for practice"),
    Item("28", "Registration"),
    Item("29", "Access to the protocol"),
    Item("30", "Funding"),
    Item("ai-data", "AI: sources and preparation of the data", f.prepared_sources),
    Item("ai-parts", "AI: training and test data", f.partitions_and_levels),
    Item("ai-version", "AI: version of model and software", f.versions),
    Item("ai-external", "AI: test on external data", r.external),
    Item("ai-fairness", "AI: bias and fairness", r.subgroups),
    Item("ai-failures", "AI: analysis of errors", r.failures),
    Item("ai-access", "AI: access to code and data"),
)
CHECKLISTS: Mapping[str, tuple[str, Sequence[Item]]] = {
    "claim": ("CLAIM", CLAIM),
    "tripod-ai": ("TRIPOD+AI", TRIPOD),
    "stard-ai": ("STARD-AI", STARD),
}
OWN = ("title", "authors", "summary")
"""Keys of ``study.toml`` that are no items."""
GAP = "to be written by the authors"


def require_checklist(name: str | None) -> None:
    """Refuse an unknown checklist."""
    if name is not None and name not in CHECKLISTS:
        raise InputError(f"--checklist {name!r}.{nearest(name, CHECKLISTS)} There are: {', '.join(CHECKLISTS)}.")


def require_study(study: Mapping[str, object], checklist: str | None, path: str) -> dict[str, str]:
    """Return what the authors wrote, by item; refuse keys that are no items, and values that are no text."""
    known = [*OWN, *([item.number for item in CHECKLISTS[checklist][1]] if checklist else [])]
    for key, value in study.items():
        if key not in known:
            if checklist is None and key not in OWN:
                raise InputError(f"--study {path}: {key!r} is an item of a checklist: pass --checklist too.")
            raise InputError(f"--study {path}: no item {key!r}.{nearest(key, known)} There are: {', '.join(known)}.")
        if not isinstance(value, str):
            raise InputError(f"--study {path}: {key} must be text in quotation marks, but is {value!r:.60}.")
    return {key: str(value).strip() for key, value in study.items() if str(value).strip()}


def answers(material: Material) -> list[tuple[Item, Sequence[Fact], str | None]]:
    """Return each item with what the files say of it, and what the authors wrote."""
    _, items = CHECKLISTS[material.checklist or ""]
    return [
        (item, item.answer(material) if item.answer is not None else (), material.study.get(item.number))
        for item in items
    ]


def checklist(material: Material) -> Html:
    """Return the checklist as a table, with the gaps by name."""
    rows, gaps, from_files = [], [], 0
    for item, facts, written in answers(material):
        parts = [(fact.text, fact.place(material)) for fact in facts]
        from_files += bool(parts)
        if written is not None:
            parts.append((written, f"study.toml: {item.number}"))
        if not parts:
            gaps.append(item.number)
        rows.append(tag("tbody", *_rows(item, parts)))
    name, items = CHECKLISTS[material.checklist or ""]
    line = (
        f"{len(items) - len(gaps)} of {len(items)} items of {name} are answered, {from_files} of them from the runs' "
        f"files, with the file and key of each answer. "
    )
    line += f"Gaps, {GAP}: {listed(gaps)}." if gaps else "None is left open."
    heads = ("item", "what it asks for", "answer", "from")
    head = tag("thead", tag("tr", *(tag("th", word, scope="col") for word in heads)))
    made = tag("div", tag("table", head, *rows, class_="checklist"), class_="wide")
    return join([tag("p", line), made])


def _rows(item: Item, parts: Sequence[tuple[str, str]]) -> list[Html]:
    """Return a row for each answer to an item; the first has its number and name."""
    if not parts:
        cells = [tag("td", item.number), tag("td", item.name), tag("td", GAP, class_="answer gap"), tag("td")]
        return [tag("tr", *cells)]
    out = []
    for place, (text, source) in enumerate(parts):
        first = [tag("td", item.number if place == 0 else ""), tag("td", item.name if place == 0 else "")]
        more = [tag("td", text, class_="answer"), tag("td", code(source), class_="from")]
        kinds = [*(["more"] if place else []), *(["on"] if place < len(parts) - 1 else [])]
        out.append(tag("tr", *first, *more, class_=" ".join(kinds) or None))
    return out
