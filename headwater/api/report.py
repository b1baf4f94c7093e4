"""report: finished runs as one HTML file, for a supervisor or a reviewer."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater._checks import require_names
from headwater._extras import need
from headwater._reading import read_json, read_regular
from headwater._shown import Shown, without_nan
from headwater._words import counted, size
from headwater._writable import require_writable
from headwater.api._conclusions import conclusion, named
from headwater.api.audit import Audit
from headwater.api.cohort import cohort
from headwater.api.compare import compare
from headwater.api.table import table
from headwater.errors import HeadError, HeadwaterError, InputError, nearest
from headwater.report.html.audited import Audited, audited_of
from headwater.report.html.checklists import CHECKLISTS, answers, require_checklist, require_study
from headwater.report.html.material import Comparison, Material, Subject
from headwater.report.html.origin import origin_of
from headwater.report.html.page import page
from headwater.runs.families import family_of, names_of_systems
from headwater.runs.foreign import reads_runs
from headwater.runs.run import Results, open_run, read_results

TITLE = "Report"
MOST_STUDY = 1 << 20  # bytes of study.toml


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """A written report.

    Attributes
    ----------
    path
        The HTML file.
    n_bytes
        Its size.
    runs
        Names of the runs.
    checklist
        Name of the checklist that was filled; None for none.
    answered, gaps
        Items that were answered, and that the authors must write, by number.
    """

    path: Path
    n_bytes: int
    runs: Sequence[str]
    checklist: str | None = None
    answered: Sequence[str] = ()
    gaps: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "path": str(self.path), "runs": list(self.runs)}

    def lines(self) -> list[str]:
        """Return the result in a few lines."""
        out = [f"report of {counted(len(self.runs), 'run')} in {self.path} ({size(self.n_bytes)})"]
        if self.checklist is not None:
            of = len(self.answered) + len(self.gaps)
            name = CHECKLISTS[self.checklist][0]
            out.append(f"{name}: {len(self.answered)} of {of} items answered; by the authors: {', '.join(self.gaps)}")
        return out


@reads_runs
def report(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    names: Sequence[str] | None = None,
    checklist: str | None = None,
    study: str | Path | None = None,
    columns: str | Sequence[str] | None = None,
    by: str | None = None,
    audit: str | Path | Audit | None = None,
    pictures: bool = True,
    ids: bool = False,
) -> Report:
    """Write a report of finished runs: one HTML file that needs no other and asks for nothing.

    It prints what stands in the runs' files, and what `compare`, `table` and `audit` return; it computes no result of
    its own.
    For each run: what was done in sentences, the flow of samples, results with intervals, each class, figures,
    calibration, subgroups, the worst mistakes, and a map of the features. For several runs: a table, box plots over
    folds, and a conclusion in words for each pair. The same runs and store give the same bytes.

    Parameters
    ----------
    runs
        A run, or several: directories of `fit_head`, `fine_tune`, `zero_shot` and `evaluate`, or of families of runs.
        Runs of `evaluate` are shown as tests on other data, and compared only among themselves.
    out
        The file to write, which ends in ``.html``; replaced if it is there.
    names
        What to call each run, in order. Default: the shortest unique ends of their paths.
    checklist
        ``"claim"``, ``"tripod-ai"`` or ``"stard-ai"``: answer its items, as far as the runs' files do.
    study
        A TOML file with what the authors write: ``title``, ``authors``, ``summary``, and items of the checklist by
        number.
    columns
        Columns of the samples, such as age and sex: described in a table, shown with the worst mistakes, and colours of
        the map.
    by
        A column, such as the site: colours of the map, and columns of the table that describes ``columns``.
    audit
        What `audit` found in the runs' store: its result, or a JSON file that ``headwater audit --json`` wrote.
    pictures
        Whether to show small pictures of cases.
    ids
        Whether to show ids of cases and names of groups; otherwise they are numbered.

    Returns
    -------
    Report

    Raises
    ------
    InputError, HeadError, MissingExtra
        When a run is not there or has no test results, runs have other test samples, a checklist or an item is unknown,
        or matplotlib is not installed.
    """
    target = require_writable(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {target}: give a file that ends in .html.")
    if target.is_dir():
        raise InputError(f"--out {target} is a folder. Give a file.")
    require_checklist(checklist)
    written = {} if study is None else _study(Path(study), checklist)
    audited = None if audit is None else _audited(audit)
    chosen = require_names("--column", columns) if columns else ()
    if by is not None and not isinstance(by, str):
        raise InputError(f"by: give the name of one column, but this is {by!r:.60}.")
    paths = [Path(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    if not paths:
        raise InputError("name at least one run.")
    need("matplotlib", "plots")
    systems = _systems(paths, names)
    subjects = _subjects(systems)
    _require_columns(subjects[0], {"--column": chosen, "--by": () if by is None else (by,)})
    found = table([str(path) for path in paths], names=list(systems), intervals=True, costs=True)
    comparisons, apart = _comparisons(systems)
    material = Material(
        title=written.get("title") or _title(subjects),
        subjects=subjects,
        table={**found.to_dict(), "level_name": found.level_name},
        comparisons=comparisons,
        not_compared=apart,
        checklist=checklist,
        study=written,
        columns=chosen,
        by=by,
        cohort=_cohort(subjects[0], chosen, by),
        audited=audited,
        pictures=pictures,
        ids=ids,
    )
    results = {name: {level: one for level, (_, one) in levels.items()} for name, levels in systems.items()}
    inner = {name: levels for name, levels in results.items() if not _external(levels)}
    data = page(material, inner or results).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    items = answers(material) if checklist else []
    return Report(
        target,
        len(data),
        [one.name for one in subjects],
        checklist,
        [item.number for item, facts, by_hand in items if facts or by_hand is not None],
        [item.number for item, facts, by_hand in items if not facts and by_hand is None],
    )


Systems = dict[str, dict[str, tuple[Path, Results]]]
"""Path and results of each run by system and level."""


def _systems(paths: Sequence[Path], names: Sequence[str] | None) -> Systems:
    """Read the runs; refuse what has no test results."""
    called = names_of_systems(paths, names)
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a run is named twice: name each run once.")
    systems: Systems = {}
    for name, path in zip(called, paths, strict=True):
        systems[name] = {level: (one, read_results(one)) for level, one in family_of(path).items()}
        for one, results in systems[name].values():
            if results.metrics["task"] == "retrieval":
                raise InputError(
                    f"{one} is a run of contrast, which has no predictions of cases: report takes runs of fit-head, "
                    "fine-tune, zero-shot and evaluate."
                )
            if not results.metrics.get("folds"):
                raise HeadError(f"{one}: metrics.json has no folds, so there are no test results. Make the run again.")
    tasks = sorted({results.metrics["task"] for levels in systems.values() for _, results in levels.values()})
    if len(tasks) > 1:
        raise InputError(f"the runs have different tasks ({', '.join(tasks)}): make a report of each.")
    return systems


def _external(levels: Mapping[str, Any]) -> bool:
    """Whether the runs of a system are tests on other data."""
    every = [one[1] if isinstance(one, tuple) else one for one in levels.values()]
    return all(one.config["command"] == "evaluate" for one in every)


def _subjects(systems: Systems) -> list[Subject]:
    """Return all runs, those on other data last."""
    every = [
        Subject(f"{name}, {level}" if level else name, path, results)
        for name, levels in systems.items()
        for level, (path, results) in levels.items()
    ]
    return sorted(every, key=lambda one: one.is_external)


def _title(subjects: Sequence[Subject]) -> str:
    labels = list(dict.fromkeys(label for one in subjects for label in one.labels))
    what = " and ".join(labels) if len(labels) <= 3 else f"{len(labels)} labels"
    if subjects[0].task == "survival":
        what = f"survival, {subjects[0].config.get('event')}"
    return f"{TITLE}: {what}" if labels or subjects[0].task == "survival" else TITLE


def _comparisons(systems: Systems) -> tuple[list[Comparison], list[str]]:
    """Compare all systems at each level: those that were fitted, or, if there are none, tests on other data."""
    inner = {name: levels for name, levels in systems.items() if not _external(levels)}
    compared = inner or systems
    out, apart = [], []
    for level in dict.fromkeys(level for levels in compared.values() for level in levels):
        there = {name: levels[level] for name, levels in compared.items() if level in levels}
        if len(there) < 2:
            continue
        again = [name for name, (_, r) in there.items() if r.predictions["id"].is_duplicated().any()]
        if again:
            apart.append(f"{', '.join(again)} tested samples more than once, with several seeds or draws.")
        once = {name: one for name, one in there.items() if name not in again}
        if len(once) < 2:
            continue
        found = named(compare([open_run(path) for path, _ in once.values()]), list(once))
        configs = {name: results.config for name, (_, results) in once.items()}
        sentences = [conclusion(d, found, configs) for d in found.differences]
        plain = {**found.to_dict(), "differences": [vars(d) for d in found.differences]}
        out.append(Comparison(level, without_nan(plain), sentences))
    return out, apart


def _require_columns(one: Subject, given: Mapping[str, Sequence[str]]) -> None:
    """Refuse columns that the first run's samples lack; if their table is gone, there is nothing to look up."""
    samples = origin_of(one).table if any(given.values()) else None
    if samples is None:
        return
    for option, names in given.items():
        for name in names:
            if name not in samples.columns:
                there = ", ".join(samples.columns)
                raise InputError(f"{option}: no column {name!r}.{nearest(name, samples.columns)} Columns: {there}.")


def _cohort(
    one: Subject, columns: Sequence[str], by: str | None
) -> tuple[Sequence[str], Sequence[Sequence[str]]] | None:
    """Describe columns of the first run's store; None without columns, or where the store cannot be read."""
    if not columns or one.config.get("store") is None:
        return None
    config = one.config
    try:
        found = cohort(
            config["store"],
            list(columns),
            by=by,
            groups=config.get("groups") or "none",
            where=config.get("where"),
            missing_values=config.get("missing_values"),
        )
    except InputError:
        raise
    except HeadwaterError:
        return None
    head, *rows = found.cells()
    return head, rows


def _audited(given: str | Path | Audit) -> Audited:
    """Return what an audit found."""
    if isinstance(given, Audit):
        return audited_of(json.loads(json.dumps(given.to_dict())))
    try:
        return audited_of(read_json(given))
    except FileNotFoundError as error:
        raise InputError(f"--audit {given}: no such file.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"--audit {given}: not the result of an audit ({error}). Make it by headwater audit STORE --json > FILE."
        ) from error


def _study(path: Path, checklist: str | None) -> dict[str, str]:
    """Read what the authors wrote."""
    try:
        found = tomllib.loads(read_regular(path, most=MOST_STUDY).decode())
    except FileNotFoundError as error:
        raise InputError(f"--study {path}: no such file.") from error
    except (OSError, ValueError) as error:
        raise InputError(f'--study {path}: cannot be read as TOML ({error}). Write lines such as 42 = "…".') from error
    return require_study(found, checklist, str(path))
