"""Every line printed about a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater._missing import of_no_label
from headwater._words import aligned, counted, indented
from headwater.evaluate.bootstrap import default_metric
from headwater.evaluate.intervals import LEVEL
from headwater.evaluate.measured import NEAREST_IS_BEST
from headwater.evaluate.positive import Positive
from headwater.evaluate.stated import Clue
from headwater.heads.controls import LONE
from headwater.runs.positive import positive_in_run

SHOWN = 40  # classes that are printed
MAIN_METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
    "multiclass": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
    "multilabel": ("auc_macro", "auc_micro", "f1_macro", "f1_micro", "hamming"),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
    "survival": ("c_index", "c_index_uno"),
    "ordinal": (
        *("kappa_quadratic", "mae_grades", "auc_cuts", "accuracy", "balanced_accuracy"),
        *("off_by_two", "spearman", "rps"),
    ),
}
N_TOP = 3
TOP_METRICS = ("top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3")  # for N_TOP labels each


def run_lines(metrics: Mapping[str, Any], separator: str | None = None) -> list[str]:
    """Return the results of a run in a few lines: the head line, the table of the main metrics, and all that follows.

    Parameters
    ----------
    metrics
        Contents of ``metrics.json``.
    separator
        What separates several labels in a cell, if the run was given one.
    """
    metrics = _with_level(metrics)
    mean: Mapping[str, float | None] = metrics["mean"]
    n_folds = len(metrics["folds"])
    folds = f"mean ± standard deviation over {over(metrics['folds'])}" if n_folds > 1 else "one test set"
    out = [f"{metrics['task']}, {counted(metrics['n_samples'], 'sample')}, {folds}"]
    out += positive_lines(positive_in_run(metrics))
    if metrics["task"] == "ordinal":
        out.append(f"grades: {' < '.join(map(str, metrics['classes']))}")
    main = MAIN_METRICS[metrics["task"]]
    if metrics.get("labels_per_sample") == {"least": N_TOP, "most": N_TOP}:
        main += TOP_METRICS
    names = [name for name in main if mean.get(name) is not None]
    out += indented(metric_rows(metrics, names, n_folds))
    out += _over_present(metrics, main, n_folds)
    if len(names) < len(main):
        out.append(_undefined(metrics, [name for name in main if name not in names]))
    out += class_metric_lines(metrics)
    out += cut_lines(metrics, n_folds)
    out += survival_lines(metrics)
    if "by_output" in metrics:
        out += ["", *output_lines(metrics["by_output"], main, n_folds)]
    if "by" in metrics:
        levels = metrics["by"]["levels"]
        table = [[metrics["by"]["column"], "samples", *names[:4]]]
        table += [
            [level, f"{part['n_samples']:,}", *(over_folds(part, n, n_folds) for n in names[:4])]
            for level, part in levels.items()
        ]
        out += ["", *indented(table), *_gap_lines(metrics)]
    if "external" in metrics:
        out += ["", *against_internal(metrics["external"], main)]
        if "folds" in metrics["external"]:
            out += ["", *_fold_head_lines(metrics["external"]["folds"], names)]
        if "per" in metrics["external"]:
            unit = metrics["external"]["per"]["column"]
            out += [
                "",
                f"by {unit}",
                *against_internal({**metrics["external"], **metrics["external"]["per"]}, main)[1:],
            ]
        out += at_threshold_lines(metrics["external"])
    if "frozen" in metrics:
        out += ["", *against_frozen(metrics)]
    out += decision_lines(metrics, n_folds, main)
    out += edge_lines(metrics.get("selection") or {})
    out += lines_of_texts((metrics.get("leakage") or {}).get("texts"))
    if "text_template" in metrics:
        made = metrics["text_template"]
        out.append(f"texts of {made['column']} say {', '.join(made['columns'])} (template {made['digest'][:8]})")
    if "controls" in metrics:
        out += ["", *control_lines(metrics)]
    if "ablation" in metrics:
        out += ["", *ablation_lines(metrics["ablation"])]
    if "transduction" in metrics:
        out += ["", *together_lines(metrics["transduction"], mean, names)]
    out += sample_lines(metrics, separator)
    return out


def _with_level(section: Mapping[str, Any], level: float | None = None) -> dict[str, Any]:
    """Return the contents of ``metrics.json`` with the level of its intervals in every section that has some."""
    of_run = section.get("level", LEVEL) if level is None else level
    within = {
        name: _with_level(part, of_run)
        for name, part in section.items()
        if isinstance(part, Mapping) and name not in ("external", "frozen", "ablation", "controls")
    }
    return {**section, **within, **({"level": of_run} if "intervals" in section else {})}


def _percent(section: Mapping[str, Any]) -> str:
    """Return the confidence level of a section's intervals, in percent."""
    return f"{section.get('level', LEVEL):.0%}"


def _over_present(metrics: Mapping[str, Any], main: Sequence[str], n_folds: int) -> list[str]:
    """Report means over the classes or labels present in the test rows, if some fold lacks one."""
    mean: Mapping[str, float | None] = metrics["mean"]
    partly = [name for name in main if metrics.get("n_folds", {}).get(name, n_folds) < n_folds]
    names = [f"{name}_present" for name in partly if mean.get(f"{name}_present") is not None]
    if not names:
        return []
    what = "labels" if metrics["task"] == "multilabel" else "classes"
    n_present, n = mean[f"{what}_present"], len(metrics["classes"])
    of_folds = " in a fold, on average" if n_folds > 1 else ""
    title = f"over the {what} present in the test rows ({n_present:g} of {n}{of_folds})"
    return [title, *indented(metric_rows(metrics, names, n_folds))]


def _undefined(metrics: Mapping[str, Any], names: Sequence[str]) -> str:
    """Say why metrics are undefined."""
    kinds = {"multilabel": "with and without every label", "regression": "of different labels and predictions"}
    kinds["survival"] = "with an event, and others followed for longer"
    every = kinds.get(metrics["task"], "of every class")
    why = "no fold has them" if len(metrics["folds"]) > 1 else "some are absent"
    if absent := metrics.get("classes_without_samples"):
        why = f"there are none of {', '.join(map(repr, absent))}"
    return f"not defined: {', '.join(names)} (they need test samples {every}, but {why})"


def positive_lines(positive: Positive | None) -> list[str]:
    """Name the positive class.

    Examples
    --------
    >>> positive_lines(Positive("malignant", "names")), positive_lines(None)
    (['positive class: malignant'], [])
    """
    if positive is None:
        return []
    why = " (the last in sorted order; --positive CLASS names another)" if positive.by == "order" else ""
    return [f"positive class: {positive.name}{why}"]


def repr_of(number: float) -> str:
    """Format a number for ``--set``: integers without a decimal point, nothing rounded.

    Examples
    --------
    >>> repr_of(1024), repr_of(100.0), repr_of(3.16e-08)
    ('1024', '100', '3.16e-08')
    """
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def edge_lines(selection: Mapping[str, Any], option: str = "--set ") -> list[str]:
    """List the parameters selected at an end of their grid, with values to try beyond it.

    Examples
    --------
    >>> edge = {"param": "C", "value": 100.0, "end": "highest", "grid": 1e-06, "n_folds": 4, "of": 5}
    >>> print(edge_lines({"at_edge": [{**edge, "beyond": [100.0, 316.0, 1000.0]}]})[0])
    C: the highest of its grid, 100, was the best in 4 of 5 folds: try --set C=[100,316,1000] too
    """
    return [
        f"{edge['param']}: the {edge['end']} of its grid, {edge['value']:g}, was the best in {edge['n_folds']} of "
        f"{edge['of']} folds: try {option}{edge['param']}=[{','.join(map(repr_of, edge['beyond']))}] too"
        for edge in selection.get("at_edge") or ()
    ]


def over(folds: Sequence[Mapping[str, Any]]) -> str:
    """Say what a mean is taken over: folds, seeds and draws.

    Examples
    --------
    >>> over([{"fold": 0}, {"fold": 1}])
    '2 folds'
    >>> over([{"fold": 0, "seed": 0}, {"fold": 1, "seed": 0}, {"fold": 0, "seed": 1}, {"fold": 1, "seed": 1}])
    '2 folds x 2 seeds'
    """
    there = [name for name in ("fold", "seed", "draw") if name in folds[0]]
    return " x ".join(counted(len({fold[name] for fold in folds}), name) for name in there)


def plus_minus(means: Mapping[str, float | None], stds: Mapping[str, float | None], name: str) -> str:
    """Format a mean and its standard deviation; a dash when undefined."""
    mean, std = means.get(name), stds.get(name)
    if mean is None:
        return "–"
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def over_folds(part: Mapping[str, Any], name: str, n_folds: int) -> str:
    """Format a mean and its standard deviation, and the number of folds if some have no value."""
    n = part.get("n_folds", {}).get(name, n_folds)
    of_folds = f" ({n} of {counted(n_folds, 'fold')})" if 0 < n < n_folds else ""
    return plus_minus(part["mean"], part["std"], name) + of_folds


def interval_words(low: float | None, high: float | None, sign: str = "") -> str:
    """Format an interval; a dash when there is none."""
    return "–" if low is None or high is None or low != low or high != high else f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def number_words(value: float | None, sign: str = "") -> str:
    """Format a number; a dash when undefined."""
    return "–" if value is None or value != value else f"{value:{sign}.3f}"


def p_words(p: float | None, least: float | None = None) -> str:
    """Format a p value, with the least attainable one if that exceeds 0.01."""
    if p is None or p != p:
        return "–"
    word = "<0.001" if p < 0.001 else f"{p:.3f}"
    return f"{word} (least possible {least:.2g})" if least is not None and least > 0.01 else word


def decision_lines(metrics: Mapping[str, Any], n_folds: int, main: Sequence[str]) -> list[str]:
    """Report calibration, thresholds, prediction sets and results by unit.

    Parameters
    ----------
    metrics
        Contents of ``metrics.json``.
    n_folds
        Number of folds, over all seeds and draws.
    main
        Metrics to print for units.
    """
    out = []
    if "calibration" in metrics:
        part = metrics["calibration"]
        table = [["", "before", "after"]]
        for name in part["calibrated"]["mean"]:
            cells = [plus_minus(p["mean"], p["std"], name) for p in (part["uncalibrated"], part["calibrated"])]
            table.append([name, *cells])
        if "ece_pooled" in part["uncalibrated"] and n_folds > 1:
            pooled = part["uncalibrated"]["ece_pooled"], metrics["ece_pooled"]
            table.append(["ece, all folds pooled", *(f"{value:.3f}" for value in pooled)])
        out += ["", f"calibrated ({part['method']}, fitted on training rows)", *indented(table)]
    out += _calibration_lines(metrics.get("calibration_pooled"))
    out += _prevalence_lines(metrics.get("prevalence"), "where its probability is above 0.5")
    out += _threshold_and_set_lines(metrics, n_folds)
    if "per" in metrics:
        part = metrics["per"]
        names = [name for name in main if part["mean"].get(name) is not None]
        out += ["", f"{counted(part['n_units'], part['column'])} ({part['aggregate']} of the samples' scores)"]
        out += indented(metric_rows(part, names, n_folds))
        out += class_metric_lines(part)
        out += cut_lines(part, n_folds)
        out += _prevalence_lines(part.get("prevalence"), "where its probability is above 0.5")
        out += _threshold_and_set_lines(part, n_folds)
    return out


def output_lines(by_output: Mapping[str, Any], main: Sequence[str], n_folds: int) -> list[str]:
    """Make a table of each output's metrics."""
    rows = [["output", *main]]
    rows += [[name, *(over_folds(part, metric, n_folds) for metric in main)] for name, part in by_output.items()]
    return indented(rows)


def _threshold_and_set_lines(metrics: Mapping[str, Any], n_folds: int) -> list[str]:
    """Report the results of the threshold and of prediction sets."""
    out = []
    if "threshold" in metrics:
        part = metrics["threshold"]
        out += ["", f"threshold for a {part['target']} of {part['at']:g}, chosen on training rows"]
        out += indented(metric_rows(part, list(part["mean"]), n_folds))
        out += _prevalence_lines(part.get("at_prevalence"), "at these thresholds")
        if few := part.get("too_few"):
            which = "with" if part["target"] == "sensitivity" else "without"
            out.append(
                f"warning: a {part['target']} of {part['at']:g} needs at least {few['needed']:,} groups (such as "
                f"patients) {which} {part['positive']} to choose a threshold on, but a fold has {few['groups']:,}"
            )
    if "conformal" in metrics:
        part = metrics["conformal"]
        each = " of each class" if part["per_class"] else ""
        what = "of a sample's labels" if "missed" in part["mean"] else each.strip()
        out += [
            "",
            f"prediction sets that may miss {100 * part['alpha']:g} % {what}".rstrip() + ", fitted on training rows",
        ]
        names = list(part["mean"])
        rows = [["", *names], ["all", *(over_folds(part, name, n_folds) for name in names)]]
        if "intervals" in part:
            rows.append([_percent(part), *(_interval_cell(part["intervals"], name)[0] for name in names)])
        for level, of_level in part.get("by", {}).items():
            rows.append([level, *(over_folds(of_level, name, n_folds) for name in names)])
        out += indented(rows)
    return out


def _calibration_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Report the calibration of all test rows, with the ideal value beside it; no lines for older runs."""
    if found is None or all(found[name] is None for name in found["intervals"]):
        return []
    rows = [["", "", _percent(found), "ideal"]]
    for name, ends in found["intervals"].items():
        best = NEAREST_IS_BEST[name]
        shown = interval_words(*(ends or (None, None)))
        rows.append(
            [name.removeprefix("calibration_").replace("_", " "), number_words(found[name]), shown, f"{best:g}"]
        )
    return ["", "calibration of all test samples", *indented(rows)]


def _prevalence_lines(found: Mapping[str, Any] | None, called: str) -> list[str]:
    """Say what results mean at a stated prevalence; no lines without one."""
    if found is None:
        return []
    rows = [["", "", _percent(found)]]
    for name, ends in found["intervals"].items():
        value = found[name]
        per_thousand = name in ("recall_rate", "detection_rate")
        factor, word = (1000, f"{name} per 1,000") if per_thousand else (1, name)
        cells = [None if v is None else factor * v for v in (value, *(ends or (None, None)))]
        digits = ".1f" if per_thousand else ".3f"
        shown = ["–" if v is None else f"{v:{digits}}" for v in cells]
        rows.append([word, shown[0], f"[{shown[1]}, {shown[2]}]"])
    return ["", f"at a prevalence of {found['prevalence']:g}, {called}", *indented(rows)]


def metric_rows(part: Mapping[str, Any], names: Sequence[str], n_folds: int) -> list[list[str]]:
    """Make a table of metrics: the mean over folds, with its confidence interval; older runs have no intervals."""
    shown = part.get("intervals")
    rows = [[name, over_folds(part, name, n_folds), *_interval_cell(shown, name)] for name in names]
    return [["", "", _percent(part)], *rows] if shown else rows


def _interval_cell(shown: Mapping[str, Any] | None, name: str) -> list[str]:
    """Return the cell of an interval, ``[low, high]``; no cell for a run without intervals."""
    if shown is None:
        return []
    found = shown.get(name)
    if isinstance(found, Mapping):  # of an older run
        found = [found["low"], found["high"]]
    return ["–"] if found is None else [interval_words(*found)]


def _gap_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Make a table of the main metric of each subgroup, and its gap from the rest; none of older runs."""
    metric = default_metric(metrics["task"], [metrics["mean"]])
    levels = metrics["by"]["levels"]
    rows = []
    for level, part in levels.items():
        gap = part.get("gap", {}).get(metric)
        if gap is not None and gap["value"] is not None:
            shown = [number_words(part["mean"].get(metric)), *_interval_cell(part["intervals"], metric)]
            rows.append([level, *shown, number_words(gap["value"], "+"), interval_words(gap["low"], gap["high"], "+")])
    if not rows or len(levels) < 2:
        return []
    return [
        "",
        *indented([[metrics["by"]["column"], metric, _percent(metrics), "minus the rest", _percent(metrics)], *rows]),
    ]


def class_metric_lines(part: Mapping[str, Any]) -> list[str]:
    """Make a table of the metrics of each class against the rest; none for two classes, whose metrics say the same."""
    found = part.get("per_class", {})
    if len(found) < 3:
        return []
    names = ("precision", "recall", "f1", "auc")
    groups = {str(c["name"]): c["n_groups"] for c in part.get("class_counts", ()) if c["n_groups"] is not None}
    rows = [["class", "samples", *(["groups"] if groups else []), *names]]
    for name, of_class in list(found.items())[:SHOWN]:
        cells = [
            " ".join([number_words(of_class["mean"].get(m)), *_interval_cell(of_class.get("intervals"), m)])
            for m in names
        ]
        counts = [of_class["support"], *([groups.get(name, 0)] if groups else [])]
        rows.append([name, *(f"{n:,}" for n in counts), *cells])
    more = len(found) - SHOWN
    return ["", *indented(rows), *([f"  … and {more:,} more, in metrics.json"] if more > 0 else [])]


def cut_lines(part: Mapping[str, Any], n_folds: int) -> list[str]:
    """Make a table of the AUC at each cut between grades; no lines for other tasks."""
    if "cuts" not in part:
        return []
    rows = [["at least", "samples", "auc", _percent(part)]]
    for name, found in list(part["cuts"].items())[:SHOWN]:
        cell = over_folds(found, "auc", n_folds)
        rows.append([name, f"{found['support']:,}", cell, *_interval_cell(found["intervals"], "auc")])
    return ["", *indented(rows)]


def survival_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Report events, follow-up, and the groups by risk of a survival run; no lines of other runs."""
    if (of := metrics.get("followed")) is None:
        return []
    follow = of["median_follow_up"]
    reached = "not reached" if follow is None else f"{follow:.4g}"
    out = [f"{counted(of['events'], 'event')}; median follow-up {reached}, longest {of['longest']:.4g}"]
    if (found := metrics.get("kaplan_meier")) is None:
        return out
    rows = [["risk", "samples", "events", "median survival", f"{found['level']:.0%}"]]
    for group in found["groups"]:
        middle = "not reached" if group["median"] is None else f"{group['median']:.4g}"
        ends = ["–" if end is None else f"{end:.4g}" for end in group["median_interval"]]
        rows.append([group["name"], f"{group['n']:,}", f"{group['events']:,}", middle, f"[{', '.join(ends)}]"])
    out += ["", f"groups by risk, cut at the {found['cut_at']} of training rows", *indented(rows)]
    ratio = found["hazard_ratio"]
    cells = [number_words(ratio["value"]), interval_words(ratio["low"], ratio["high"])]
    out.append(f"  hazard ratio, {ratio['of']}: {' '.join(cells)}; log-rank p {p_words(found['log_rank']['p'])}")
    if not found["rows_independent"]:
        out.append("  curves and log-rank p treat rows as independent, but these belong to groups: use --per")
    return out


def missing_line(name: str, found: Mapping[str, int]) -> str:
    """List what the cells with a missing value contain, and how often.

    Examples
    --------
    >>> missing_line("grade", {"NA": 3, "": 1})
    'grade: NA in 3, empty in 1'
    """
    return f"{name}: " + ", ".join(f"{word or 'empty'} in {n:,}" for word, n in found.items())


def class_lines(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make a table of classes with their numbers of samples and groups."""
    grouped = any(part["n_groups"] is not None for part in counts)
    rows = [["class", "samples", *(["groups"] if grouped else [])]]
    for part in counts[:SHOWN]:
        numbers = [part["n_samples"], *([part["n_groups"]] if grouped else [])]
        rows.append([part["name"], *(f"{n:,}" for n in numbers)])
    more = len(counts) - SHOWN
    lines = [f"  {line}" for line in aligned(rows)]
    return [*lines, f"  … and {more:,} more, in metrics.json"] if more > 0 else lines


def sample_lines(metrics: Mapping[str, Any], separator: str | None = None) -> list[str]:
    """List the classes, what was left out or is missing, and warnings, such as names that seem to mean the same.

    Parameters
    ----------
    metrics
        Contents of ``metrics.json``; older runs may lack some of it.
    separator
        Text that separates several labels in one cell, if any.
    """
    counts = metrics.get("class_counts", ())
    out = ["", *class_lines(counts)] if counts and not class_metric_lines(metrics) else []
    left_out, missing = metrics["left_out"], metrics.get("missing_values", {})
    lines = [f"left out: {counted(n, 'sample')} ({why})" for why, n in left_out.items()]
    lines += [f"missing: {missing_line(column, found)}" for column, found in missing.items()]
    if any(word for found in missing.values() for word in found):
        lines.append("--missing-values changes which words count as missing")
    if separator and any(f"no {column}" in left_out for column in missing):
        lines.append(of_no_label(separator))
    lines += [f"warning: {line}" for line in metrics.get("warnings", ())]
    return [*out, *([""] if out and lines else []), *lines]


LEAST_REPEATED = 5  # repeated texts needed before "each has only one label" is worth reporting


def words_of_clue(clue: Clue) -> str:
    """Describe a clue to the label in the texts, and how well it predicts.

    Examples
    --------
    >>> words_of_clue(Clue("word", "spiculated", False, "malignant", 0.8125, False))
    "the word 'spiculated' alone predicts malignant with AUC 0.812 on test samples"
    """
    if clue.kind == "number":
        return f"{100 * clue.auc:.0f} % of test texts contain the sample's value of {clue.label}"
    lack = "the lack of " if clue.absent else ""
    kind = "name" if clue.kind == "name" else "words" if " " in clue.words else "word"
    what = f"the {kind} {clue.words!r}"
    return f"{lack}{what} alone predicts {clue.label} with AUC {clue.auc:.3f} on test samples"


def lines_of_texts(texts: Mapping[str, Any] | None) -> list[str]:
    """Say how far texts state the label, from that section of ``metrics.json``; no lines if there is no clue."""
    if not texts:
        return []
    clues = [Clue(**texts[kind]) for kind in ("name", "word", "number") if texts.get(kind)]
    best = max(clues, key=lambda clue: clue.auc, default=None)
    out = [] if best is None else [f"texts: {words_of_clue(best)}"]
    n, alike = texts["n_repeated"], texts["n_repeated_one_label"]
    if n >= LEAST_REPEATED and alike == n:
        out.append(f"texts: {n:,} texts occur in several samples, each with one label only")
    return out


def against_frozen(metrics: Mapping[str, Any]) -> list[str]:
    """Make a table of frozen and tuned features, and say in one line whether fine-tuning helped."""
    found = metrics["frozen"]
    rows = [["", "frozen", "tuned", "added"]]
    for name, added in found["added_by_tuning"].items():
        rows.append([name, f"{found['mean'][name]:.3f}", f"{metrics['mean'][name]:.3f}", _signed(added)])
    by = f"resampling {found['drawn']}" if found.get("test") != "corrected_t" else "the corrected t-test over folds"
    title = f"compared with the same head on frozen features, {found['level']:.0%} intervals by {by}"
    if not any(metrics["training"]["epochs_taken"]):
        kept = "no epoch lowered the loss on the held-out rows, so every fold keeps the original encoder; the results"
        return [title, *indented(rows), f"{kept} differ only because the tuned head was fitted without these rows"]
    return [title, *indented(rows), worth(found["added_by_tuning"])]


def worth(added: Mapping[str, Mapping[str, float | None]]) -> str:
    """Say whether fine-tuning helped, by the AUC where there is one.

    Examples
    --------
    >>> worth({"auc": {"value": 0.021, "low": -0.004, "high": 0.05}})
    'no clear effect of fine-tuning: auc +0.021 [-0.004, +0.050] includes 0'
    """
    name = next((name for name in ("auc", "auc_macro") if name in added), next(iter(added), None))
    if name is None or added[name]["low"] is None or added[name]["high"] is None:
        return "effect of fine-tuning unknown: no metric is defined on every fold"
    low, high = added[name]["low"] or 0.0, added[name]["high"] or 0.0
    if low > 0:
        return f"fine-tuning helped: {name} {_signed(added[name])}"
    if high < 0:
        return f"fine-tuning made it worse: {name} {_signed(added[name])}"
    return f"no clear effect of fine-tuning: {name} {_signed(added[name])} includes 0"


def _signed(found: Mapping[str, float | None]) -> str:
    words = ["–" if v is None else f"{v:+.3f}" for v in (found["value"], found["low"], found["high"])]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def control_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Make a table of the run and its controls, and compare the run with the best relevant control.

    Parameters
    ----------
    metrics
        Contents of ``metrics.json``.
    """
    controls, metric = metrics["controls"], default_metric(metrics["task"], [metrics["mean"]])
    inputs = next(part["inputs"] for part in controls.values() if part["kind"] == "shuffled")
    run = " + ".join(inputs)
    made = {name: part for name, part in controls.items() if "not_made" not in part}
    own = plus_minus(metrics["mean"], metrics["std"], metric)
    table = [["control", metric, "run minus control", "95 %"], ["(the run)", own, "", ""]]
    for name, part in made.items():
        words = name if part["head"] != LONE or part["kind"] != "alone" else f"{name} ({LONE})"
        table.append([words, plus_minus(part["mean"], part["std"], metric), *_change(part["difference"][metric])])
    out = indented(table)
    wanted = "alone" if len(inputs) > 1 else "shuffled"
    rivals = {n: p for n, p in made.items() if p["kind"] == wanted and p["mean"].get(metric) is not None}
    if rivals:
        name = max(rivals, key=lambda n: rivals[n]["mean"][metric])
        out.append(_verdict(run, name, rivals[name]["difference"][metric]))
    out += [f"control {name} skipped: {part['not_made']}" for name, part in controls.items() if "not_made" in part]
    seed = next((part["difference_of_seed"] for part in made.values() if "difference_of_seed" in part), None)
    if seed is not None:
        out.append(f"differences and intervals are for seed {seed}")
    return out


def _verdict(run: str, control: str, change: Mapping[str, float | None]) -> str:
    by, interval = _change(change)
    low, high = change["low"], change["high"]
    unsure = low is None or high is None or low <= 0 <= high
    return f"{run} over {control}: {by} {interval}{', which could be 0' if unsure else ''}"


def _change(change: Mapping[str, float | None]) -> list[str]:
    value, low, high = change["value"], change["low"], change["high"]
    if value is None or low is None or high is None:
        return ["–", ""]
    return [f"{value:+.3f}", f"[{low:+.3f}, {high:+.3f}]"]


def _fold_head_lines(found: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Make a table of how the heads of the run's folds do on the other data set."""
    n = len(found["each"])
    rows = [[name, over_folds(found, name, n)] for name in names]
    return [f"the heads of the run's {n} folds on this data set, mean ± standard deviation", *indented(rows)]


def against_internal(external: Mapping[str, Any], main: Sequence[str]) -> list[str]:
    """Make a table of a head's main results on the other data set beside the estimate on its own."""
    drawn = " and ".join(dict.fromkeys(f"{unit}s" for unit in external["drawn"].values()))
    rows = [["", "internal", "external", "drop"]]
    shown = [name for name in (*main, *(f"{m}_present" for m in main)) if name in external["metrics"]]
    for name, found in ((name, external["metrics"][name]) for name in shown):
        cells = [
            "–" if found[part]["value"] is None else _with_interval(found[part], "+" if part == "drop" else "")
            for part in ("internal", "external", "drop")
        ]
        rows.append([name, *cells])
    title = f"compared with {external['run']}, {external['level']:.0%} intervals by resampling {drawn}"
    return [title, *indented(rows)]


def at_threshold_lines(external: Mapping[str, Any]) -> list[str]:
    """Report the results at the run's own threshold."""
    if "threshold" not in external:
        return []
    found = external["threshold"]
    names = ("sensitivity", "specificity", "ppv", "npv")
    numbers = ", ".join(f"{name} {found[name]:.3f}" for name in names if found.get(name) is not None)
    return [f"at the run's threshold, chosen for a {found['target']} of {found['at']:g}: {numbers}"]


def _with_interval(found: Mapping[str, float | None], sign: str) -> str:
    low, high = ("–" if v is None else f"{v:{sign}.3f}" for v in (found["low"], found["high"]))
    return f"{found['value']:{sign}.3f} [{low}, {high}]"


def ablation_lines(found: Mapping[str, Any]) -> list[str]:
    """Make a table of prompt wordings, the best first."""
    metric, level = found["metric"], f"{100 * found['level']:g} %"
    title = (
        f"prompt wordings by {metric}; differences from all prompts, {level} intervals by resampling {found['drawn']}s"
    )
    rows: list[Sequence[str]] = [["wording", metric, "difference", level, "p Holm"]]
    for entry in found["wordings"]:
        value, change = entry["metrics"][metric], entry.get("differences", {}).get(metric)
        cells = ["–" if value is None else f"{value:.3f}", "", "", ""]
        if change is not None:
            p = "<0.001" if change["p_holm"] < 0.001 else f"{change['p_holm']:.3f}"
            cells[1:] = [f"{change['difference']:+.3f}", f"[{change['low']:+.3f}, {change['high']:+.3f}]", p]
        rows.append([entry["name"], *cells])
    return [title, *indented(rows), f"{counted(found['n_comparisons'], 'comparison')}: {found['warning']}"]


def together_lines(found: Mapping[str, Any], mean: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    """Say what a run saw of its test samples, and, where known, what that changed."""
    out = [f"transductive: the head saw {found['sees']}"]
    if "zero_shot" in found:
        rows = [["", "one by one", "together"]]
        rows += [[name, f"{found['zero_shot'][name]:.3f}", f"{mean[name]:.3f}"] for name in names]
        rest = "" if found["converged"] else "; the iterations did not converge"
        out += [*indented(rows), f"{found['changed']:.1%} of the samples changed class{rest}"]
    return out
