"""compare: tests of the difference between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import require_number
from headwater._shown import Shown
from headwater._words import aligned, counted, indented
from headwater.errors import InputError
from headwater.evaluate import bootstrap as draw
from headwater.evaluate import statistics
from headwater.evaluate.aggregate import Aggregation, require_aggregation
from headwater.evaluate.bootstrap import N_DRAWS, require_draws
from headwater.evaluate.fold_means import json_safe, natural
from headwater.evaluate.intervals import LEVEL, require_level
from headwater.evaluate.measured import NEAREST_IS_BEST, require_metric, sign_of
from headwater.evaluate.paired import Paired
from headwater.evaluate.positive import Positive, negative_first
from headwater.runs.foreign import reads_runs
from headwater.runs.positive import positive_in_run
from headwater.runs.predictions import (
    REPEATS,
    at_units,
    codes_of,
    folds_of,
    label_columns,
    names_key,
    names_of,
    rows_trained,
    scores_of,
    truth_of,
)
from headwater.runs.printed import interval_words, number_words, p_words, positive_lines
from headwater.runs.run import Run, open_run
from headwater.samples.linked import linked

OTHER_FOLDS = (
    "folds differ between the runs: there are no tests over folds, and each run has the mean over its own folds. To "
    "test the procedures, fit both with the same --folds, --seed and --groups"
)
DIVIDED = (
    "on both sides of its splits, such as patients whose other images were trained on; its value may be too high for "
    "new patients"
)
UNKNOWN_ROWS = "metrics.json lacks the number of training rows; the corrected t-test assumes all rows outside the fold"
Outcome = Literal["undefined", "differ", "alike", "unclear", "corrected", "better", "worse"]
ALPHA = 0.05
"""The level of Holm's correction above which a difference between two of several runs is not called clear."""
PROCEDURES = (
    "p corrected t compares two procedures that are trained anew in each fold. The other tests compare fixed models on "
    "these rows or folds; as tests of procedures their p values are too small (page 'Evaluation' of the documentation)"
)


@dataclass(frozen=True)
class Difference:
    """The difference between two runs.

    Attributes
    ----------
    first, second
        Names of the runs.
    difference
        The metric of the first minus that of the second, as the mean over folds.
    low, high
        Its confidence interval.
    test
        The test behind the interval and ``p_holm``: ``corrected_t`` if both runs were trained anew in each of the same
        folds, ``bootstrap`` if they are fixed models on one test set, or have different folds.
    p
        Two-sided p value of each test that applies: ``bootstrap``, ``delong`` and ``mcnemar`` on rows, ``wilcoxon`` and
        ``corrected_t`` over folds.
    least_p
        The least attainable p of a test, if data of this size limit it.
    p_holm
        The p value of ``test``, corrected for the number of pairs; None with one pair, or without a p.
    verdict
        What the interval says: that one run is better, that it is not inferior by more than the margin, or neither.
    divided
        The run that had groups on both sides of its splits, if the other kept them whole; else None.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    test: str
    p: Mapping[str, float]
    least_p: Mapping[str, float]
    p_holm: float | None
    verdict: str = ""
    divided: str | None = None


@dataclass(frozen=True)
class Subgroup:
    """The metric in one subgroup of the samples.

    Attributes
    ----------
    level
        The subgroup: a value of the runs' ``--by`` column.
    n_samples
        Number of its samples.
    runs
        For each run ``value``, ``low``, ``high`` in the subgroup, and ``gap``, ``gap_low``, ``gap_high``: the metric of
        the subgroup minus that of all other samples.
    gap_differences
        For each pair of runs, the gap of the first minus that of the second, with ``low`` and ``high``. Models are
        fixed, and groups are resampled.
    """

    level: str
    n_samples: int
    runs: Mapping[str, Mapping[str, float | None]]
    gap_differences: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, repr=False)
class Compared(Shown):
    """The result of a comparison of runs.

    Attributes
    ----------
    metric, level, n_draws
        The metric, the confidence level, and the number of resamples.
    drawn
        The unit of resampling: ``"group"`` or ``"sample"``.
    runs
        For each run its ``value``, ``low``, ``high``.
    differences
        The difference of each pair of runs.
    friedman_p, friedman_least_p
        p value of the Friedman test over folds that three or more runs do not differ, and the least attainable p; None
        for two runs.
    notes
        Tests that were not possible, and why.
    positive
        The positive class of a binary task; else None.
    per
        The units that were compared, such as ``"patient"``; None for samples.
    margin
        The margin of non-inferiority; None if none was given.
    subgroups
        The metric in each subgroup of the runs' ``--by`` column, if the runs have one.
    """

    metric: str
    level: float
    n_draws: int
    drawn: str
    n_samples: int
    runs: Mapping[str, Mapping[str, float]]
    differences: Sequence[Difference]
    friedman_p: float | None
    friedman_least_p: float | None
    notes: Sequence[str]
    positive: Positive | None = None
    per: str | None = None
    margin: float | None = None
    subgroups: Sequence[Subgroup] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        named = None if self.positive is None else self.positive.name
        return {
            **vars(self),
            "positive": named,
            "runs": {name: json_safe(of) for name, of in self.runs.items()},
            "differences": [_without_nan(vars(d)) for d in self.differences],
            "subgroups": [vars(one) for one in self.subgroups],
        }

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        share = f"{100 * self.level:g} %"
        by = f"{share} intervals by resampling {self.drawn}s"
        out = [f"{self.metric}, {counted(self.n_samples, self.per or 'sample')}; {by}"]
        if any(d.test == "corrected_t" for d in self.differences):
            out[0] += "; intervals of differences by the corrected t-test over folds"
        out += positive_lines(self.positive)
        table = [["run", self.metric, share]]
        table += [[n, number_words(v["value"]), interval_words(v["low"], v["high"])] for n, v in self.runs.items()]
        out += [f"  {line}" for line in aligned(table)]
        tests = list(dict.fromkeys(name for d in self.differences for name in d.p))
        head = ["difference", "", share, *(f"p {name.replace('_', ' ')}" for name in tests)]
        head += ["p Holm"] if len(self.differences) > 1 else []
        rows = [head]
        for d in self.differences:
            row = [f"{d.first} - {d.second}", number_words(d.difference, "+"), interval_words(d.low, d.high, "+")]
            row += [p_words(d.p.get(name), d.least_p.get(name)) for name in tests]
            rows.append([*row, p_words(d.p_holm)] if len(self.differences) > 1 else row)
        out += ["", *(f"  {line}" for line in aligned(rows))]
        if self.friedman_p is not None:
            p = p_words(self.friedman_p, self.friedman_least_p)
            out.append(f"test that no run differs from the others, by ranks over folds (Friedman): p {p}")
        out += ["", *(d.verdict for d in self.differences), *self._subgroup_lines()]
        return [*out, *([""] if self.notes else []), *self.notes]

    def _subgroup_lines(self) -> list[str]:
        """Make a table of each subgroup's metric and gap, and one of the differences between the gaps of runs."""
        if not self.subgroups:
            return []
        share = f"{100 * self.level:g} %"
        rows: list[Sequence[str]] = [["subgroup", "samples", "run", self.metric, share, "minus the rest", share]]
        for one in self.subgroups:
            for name, of in one.runs.items():
                value = [number_words(of["value"]), interval_words(of["low"], of["high"])]
                gap = [number_words(of["gap"], "+"), interval_words(of["gap_low"], of["gap_high"], "+")]
                rows.append([one.level, f"{one.n_samples:,}", name, *value, *gap])
        changes: list[Sequence[str]] = [["subgroup", "gap of", "", share]]
        for one in self.subgroups:
            for pair, of in one.gap_differences.items():
                changes.append(
                    [one.level, pair, number_words(of["value"], "+"), interval_words(of["low"], of["high"], "+")]
                )
        return ["", *indented(rows), "", *indented(changes)]


@reads_runs
def compare(
    runs: Sequence[str | Path | Run],
    *,
    metric: str | None = None,
    per: str | None = None,
    aggregate: Aggregation | None = None,
    margin: float | None = None,
    positive: str | None = None,
    level: float = LEVEL,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Compared:
    """Compare runs on the same test samples: intervals, paired differences, and every test that applies.

    Parameters
    ----------
    runs
        Two or more runs, or their paths.
    metric
        A metric of the task. Default: the AUC (macro, for several labels), over the classes or labels present in the
        test rows if no fold has all of them; r2 for regression. Besides the metrics that a run reports, any
        ``sensitivity_at_N_specificity``, ``specificity_at_N_sensitivity`` and ``auc_above_N_specificity``.
    per
        Compare units rather than samples: the runs' ``per`` or ``groups`` column, such as the patient.
    aggregate
        How a unit's scores are combined. Default: as the runs do, or else ``"mean"``.
    margin
        The largest loss that would not matter, above 0, in the metric's own units: a run is not inferior to another if
        the interval of the difference excludes a larger loss.
    positive
        The positive class of a binary task. Default: that of the first run.
    level
        Confidence level of the intervals.
    n_draws
        Number of bootstrap resamples.
    seed
        Random seed of the bootstrap.

    Returns
    -------
    Compared

    Raises
    ------
    InputError
        When runs predict different targets or have different test samples.
    """
    if len(runs) < 2:
        raise InputError("at least two runs are needed to compare.")
    require_draws(n_draws)
    require_level(level)
    if margin is not None:
        require_number("--margin", margin, above=0)
    if aggregate is not None and per is None:
        raise InputError("--aggregate goes with --per, the units to aggregate to.")
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    names = _names(opened)
    if per is not None:
        opened = [_at_units(run, name, per, aggregate) for run, name in zip(opened, names, strict=True)]
    task = opened[0].metrics["task"]
    metric = metric or draw.default_metric(task, [run.mean for run in opened])
    require_metric(task, metric)
    tables = _aligned(opened, names)
    which = positive_in_run(opened[0].metrics, positive)
    classes = names_of(opened[0].metrics)
    if which is not None:
        classes = negative_first(classes, str(which.name))
    truth = truth_of(tables[0], classes, task)
    grouped = any("group" in table.columns for table in tables)
    groups = _groups(tables)
    fold_of = np.stack([table["fold"].to_numpy() for table in tables])
    same_folds = bool((fold_of == fold_of[0]).all())
    scores = [scores_of(table, classes, task) for table in tables]
    models = []
    for run, table, values in zip(opened, tables, scores, strict=True):
        parts = folds_of(table)
        trained = rows_trained(run.metrics, table, parts)
        every_fold = zip(parts, trained, strict=True)
        models.append([draw.FoldScores(truth[rows], values[rows], groups[rows], n) for rows, n in every_fold])
    paired = Paired.of(task, models, metrics=[metric], n_draws=n_draws, seed=seed, same_folds=same_folds)
    found: dict[str, dict[str, float]] = {}
    for i, name in enumerate(names):
        low, high = paired.interval(metric, i, level)
        found[name] = {"value": float(paired.drawn[metric][i, 0]), "low": low, "high": high}

    on_rows = _Rows(task, metric, truth, scores, groups if grouped else None, fold_of)
    over_folds = _Folds(paired, metric)
    pairs = _Pairs(names, paired, metric, level, on_rows, over_folds)
    differences = [pairs.difference(i, j) for i, j in combinations(range(len(names)), 2)]
    if len(differences) > 1:
        adjusted = statistics.holm([d.p[d.test] for d in differences])
        differences = [
            replace(d, p_holm=None if np.isnan(q) else float(q)) for d, q in zip(differences, adjusted, strict=True)
        ]
    friedman = over_folds.friedman() if len(names) > 2 else None
    friedman_p, friedman_least_p = (None, None) if friedman is None else (friedman.p, friedman.least_p)
    notes = [] if same_folds else [OTHER_FOLDS]
    divided = _divided(names, tables, groups) if grouped else {}
    notes += [f"{name}: {counted(n, 'group')} {DIVIDED}" for name, n in divided.items()]
    notes += on_rows.notes + over_folds.notes
    if over_folds.n > 1:
        notes += [f"{name}: {UNKNOWN_ROWS}" for name, of in zip(names, models, strict=True) if of[0].n_train is None]
        notes.append(PROCEDURES)
    differences = [_said(d, metric, margin, divided) for d in differences]
    subgroups = _subgroups(tables, names, models, paired, draw.Draws(level, n_draws, seed))
    counts = (metric, level, n_draws, "group" if grouped else per or "sample", len(truth))
    return Compared(
        *counts,
        found,
        differences,
        friedman_p,
        friedman_least_p,
        notes,
        positive=which,
        per=per,
        margin=margin,
        subgroups=subgroups,
    )


def _without_nan(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with None for NaN, which JSON lacks, also in dictionaries of them."""
    return {
        name: _without_nan(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and np.isnan(value)
        else value
        for name, value in found.items()
    }


def outcome_of(d: Difference, metric: str) -> Outcome:
    """Return what the interval of a difference shows, without a margin.

    ``better`` and ``worse`` are about the first run. ``corrected`` is a difference whose interval excludes 0, but not
    after correction for the number of pairs. ``differ`` and ``alike`` are for metrics that are best between their
    extremes.

    Examples
    --------
    >>> outcome_of(Difference("a", "b", 0.02, 0.01, 0.03, "bootstrap", {}, {}, None), "auc")
    'better'
    >>> outcome_of(Difference("a", "b", 0.02, 0.01, 0.03, "bootstrap", {}, {}, 0.2), "auc")
    'corrected'
    """
    if np.isnan(d.low) or np.isnan(d.high):
        return "undefined"
    apart = d.low > 0 or d.high < 0
    if metric in NEAREST_IS_BEST:
        return "differ" if apart else "alike"
    if not apart:
        return "unclear"
    if d.p_holm is not None and not np.isnan(d.p_holm) and d.p_holm >= ALPHA:
        return "corrected"
    return "better" if (d.low > 0) == (sign_of(metric) > 0) else "worse"


def verdict(d: Difference, metric: str, margin: float | None = None) -> str:
    """Say in a sentence what the interval of a difference shows.

    Examples
    --------
    >>> d = Difference("a", "b", -0.01, -0.03, 0.01, "bootstrap", {}, {}, None)
    >>> verdict(d, "auc")
    'no clear difference between a and b: auc -0.010 [-0.030, +0.010] includes 0'
    >>> verdict(d, "auc", 0.05)
    'a is not inferior to b by more than 0.05: auc -0.010 [-0.030, +0.010]'
    """
    found = outcome_of(d, metric)
    if found == "undefined":
        return f"{d.first} and {d.second} cannot be compared: {metric} is not defined"
    numbers = f"{metric} {number_words(d.difference, '+')} {interval_words(d.low, d.high, '+')}"
    if found in ("differ", "alike"):
        differ = "differ" if found == "differ" else "do not clearly differ"
        return f"{d.first} and {d.second} {differ}: {numbers} (best is {NEAREST_IS_BEST[metric]:g})"
    low, high = (d.low, d.high) if sign_of(metric) > 0 else (-d.high, -d.low)
    if found == "corrected" and margin is None:
        return (
            f"no clear difference between {d.first} and {d.second} after correction for the number of pairs: {numbers}"
        )
    better, worse = f"{d.first} is better than {d.second}: {numbers}", f"{d.first} is worse than {d.second}: {numbers}"
    if low > 0:
        return better
    if margin is None:
        return worse if high < 0 else f"no clear difference between {d.first} and {d.second}: {numbers} includes 0"
    if low > -margin:
        less = "worse, but " if high < 0 else ""
        return f"{d.first} is {less}not inferior to {d.second} by more than {margin:g}: {numbers}"
    if high < -margin:
        return f"{d.first} is inferior to {d.second} by more than {margin:g}: {numbers}"
    loss = f"{-margin * sign_of(metric):+g}"
    return f"{d.first} may be inferior to {d.second} by more than {margin:g}: {numbers} includes {loss}"


def _at_units(run: Run, name: str, per: str, how: Aggregation | None) -> Run:
    """Return a run with predictions of units in place of samples."""
    config, table = run.config, run.predictions
    if per == config.get("per") and "unit" in table.columns:
        column = "unit"
    elif per == config.get("groups") and "group" in table.columns:
        column = "group"
    else:
        known = dict.fromkeys(c for c in (config.get("per"), config.get("groups")) if c not in (None, "none"))
        there = f"It knows {' and '.join(known)}" if known else "It knows none"
        raise InputError(
            f"--per {per}: {name} does not say which {per} a sample is of. {there}. Fit it with --per {per}."
        )
    how = how or config.get("aggregate") or "mean"
    require_aggregation(how, run.metrics["task"])
    units = at_units(table, run.metrics, column, per, how)
    return replace(run, predictions=units, metrics={**run.metrics, "folds": _trained_units(run, units, column)})


def _trained_units(run: Run, units: pl.DataFrame, column: str) -> list[dict[str, Any]]:
    """Return the folds of a run with numbers of training units, for the ratio of test to training data.

    Where the run does not say how many they are, each fold's training rows are taken to have as many rows per unit as
    its test rows.
    """
    folds = list(run.metrics["folds"])
    if column == "unit" and "per" in run.metrics:
        return list(run.metrics["per"]["folds"])
    rows_of, units_of = (dict(table["fold"].value_counts().iter_rows()) for table in (run.predictions, units))
    out = []
    for fold in folds:
        n, key = fold.get("n_train"), fold.get("fold")
        if isinstance(n, int) and key in units_of:
            fold = {**fold, "n_train": max(1, round(n * units_of[key] / rows_of[key]))}
        out.append(fold)
    return out


def _groups(tables: Sequence[pl.DataFrame]) -> NDArray[np.int64]:
    """Return a group for each row, so that no run's groups are divided; a row is its own group if no run has any."""
    columns = [codes_of(table["group"]) for table in tables if "group" in table.columns]
    if columns and all(np.array_equal(column, columns[0]) for column in columns):
        return columns[0]
    rows = np.arange(len(tables[0]))
    return codes_of(linked(pl.Series(rows), [pl.Series(column) for column in columns])) if columns else rows


def _divided(names: Sequence[str], tables: Sequence[pl.DataFrame], groups: NDArray[np.int64]) -> dict[str, int]:
    """Return how many groups were divided between folds, for each run that divided any."""
    found = {}
    for name, table in zip(names, tables, strict=True):
        keys = [key for key in REPEATS if key in table.columns and key != "fold"]
        folds = table.select(*keys, "fold", group=groups).group_by(*keys, "group").agg(pl.col("fold").n_unique())
        n = folds.filter(pl.col("fold") > 1)["group"].n_unique()
        if n:
            found[name] = n
    return found


def _said(d: Difference, metric: str, margin: float | None, divided: Mapping[str, int]) -> Difference:
    """Return a difference with its verdict, which names the run that divided groups if the other did not."""
    those = [name for name in (d.first, d.second) if name in divided]
    words = verdict(d, metric, margin)
    if len(those) != 1:
        return replace(d, verdict=words)
    return replace(d, verdict=f"{words}; {divided_words(those[0])}", divided=those[0])


def divided_words(name: str) -> str:
    """Return the caution about a run that divided groups."""
    return f"but {name} had groups on both sides of its splits, which inflates its value"


def _subgroups(
    tables: Sequence[pl.DataFrame],
    names: Sequence[str],
    models: Sequence[Sequence[draw.FoldScores]],
    paired: Paired,
    draws: draw.Draws,
) -> list[Subgroup]:
    """Compare the runs in each subgroup of their ``--by`` column; none if a run has none, or another."""
    if any("level" not in table.columns or not table["level"].equals(tables[0]["level"]) for table in tables):
        return []
    (metric,) = paired.drawn
    levels = tables[0]["level"].to_numpy().astype(str)
    of_folds = [[levels[rows] for rows in folds_of(table)] for table in tables]
    found = []
    for level in sorted(set(levels.tolist()), key=natural):
        inside, outside = (
            paired.of_some(
                [[np.flatnonzero((of == level) == side) for of in folds] for folds in of_folds], models, draws
            )
            for side in (True, False)
        )
        gaps = inside.drawn[metric] - outside.drawn[metric]
        runs = {}
        for i, name in enumerate(names):
            low, high = inside.interval(metric, i, draws.level)
            gap_low, gap_high = draw.interval(gaps[i, 1:], draws.level)
            value = {"value": float(inside.drawn[metric][i, 0]), "low": low, "high": high}
            runs[name] = json_safe({**value, "gap": float(gaps[i, 0]), "gap_low": gap_low, "gap_high": gap_high})
        changes = {}
        for i, j in combinations(range(len(names)), 2):
            low, high = draw.interval((gaps[i] - gaps[j])[1:], draws.level)
            change = {"value": float(gaps[i, 0] - gaps[j, 0]), "low": low, "high": high}
            changes[f"{names[i]} - {names[j]}"] = json_safe(change)
        found.append(Subgroup(level, int((levels == level).sum()), runs, changes))
    return found


class _Rows:
    """Tests on rows."""

    def __init__(
        self,
        task: str,
        metric: str,
        truth: NDArray[Any],
        scores: Sequence[NDArray[np.float64]],
        groups: NDArray[np.int64] | None,
        folds: NDArray[np.int64],
    ) -> None:
        self.notes: list[str] = []
        self._aucs: statistics.AUCs | None = None
        self._right: list[NDArray[np.bool_]] | None = None
        if task == "binary" and metric == "auc":
            try:
                self._aucs = statistics.delong(truth == 1, np.stack([s[:, 1] for s in scores]), groups, folds)
                if left_out := int(self._aucs.left_out.max()):
                    n_folds = len(np.unique(folds[0]))
                    self.notes.append(
                        f"DeLong: {left_out} of {counted(n_folds, 'fold')} left out, which lack one of the classes"
                    )
            except InputError as error:
                self.notes.append(f"no DeLong test: {error}")
        independent = groups is None or len(np.unique(groups)) == len(groups)
        if metric == "accuracy" and independent:
            self._right = [s.argmax(1) == truth for s in scores]
        elif metric == "accuracy":
            self.notes.append("no McNemar test: it assumes independent rows, but these belong to groups")

    def tests(self, i: int, j: int) -> tuple[dict[str, float], dict[str, float]]:
        if self._aucs is not None:
            found = statistics.compare_aucs(self._aucs, i, j)
            return {"delong": found.p}, {"delong": found.least_p} if found.least_p else {}
        if self._right is not None:
            found = statistics.mcnemar(self._right[i], self._right[j])
            return {"mcnemar": found.p}, {"mcnemar": found.least_p}
        return {}, {}


class _Folds:
    """Tests over folds; none if there is one test set, or folds differ between runs."""

    def __init__(self, paired: Paired, metric: str) -> None:
        self.paired = paired
        self.values = paired.folds(metric)  # (models, folds)
        self.n = self.values.shape[1]
        self.sign = sign_of(metric)
        n_folds = paired.values[metric].shape[1] if paired.values else 0
        self.notes = []
        if self.n < n_folds:
            self.notes.append(f"{metric} is defined in {self.n} of {n_folds} folds: tests over folds use these")

    def tests(self, i: int, j: int) -> tuple[dict[str, float], dict[str, float]]:
        if self.n < 2:
            return {}, {}
        first, second = self.values[i], self.values[j]
        ranks = statistics.wilcoxon(first, second)
        t = statistics.corrected_t(first, second, self.paired.ratio(i, j))
        least = {"wilcoxon": ranks.least_p}
        return {"corrected_t": t.p, "wilcoxon": ranks.p}, least | ({"corrected_t": t.least_p} if t.least_p else {})

    def friedman(self) -> statistics.Comparison | None:
        return statistics.friedman(self.sign * self.values.T).test if self.n > 1 else None


@dataclass(frozen=True, eq=False)
class _Pairs:
    """All pairs of runs."""

    names: Sequence[str]
    paired: Paired
    metric: str
    level: float
    rows: _Rows
    folds: _Folds

    def difference(self, i: int, j: int) -> Difference:
        """Return the difference of two runs by every test that applies, the main one first."""
        change = self.paired.difference(self.metric, i, j, self.level)
        drawn = self.paired.drawn[self.metric]
        on_rows, least_on_rows = self.rows.tests(i, j)
        over_folds, least_over_folds = self.folds.tests(i, j)
        resampled = draw.p_of_difference((drawn[i] - drawn[j])[1:])
        p = {change.test: change.p, "bootstrap": resampled, **on_rows, **over_folds}
        least = {**least_on_rows, **least_over_folds}
        numbers = (change.value, change.low, change.high, change.test)
        return Difference(self.names[i], self.names[j], *numbers, p, least, None)


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the shortest path suffixes that are unique among the runs."""
    paths = [Path(f"run {i + 1}") if run.path is None else run.path.resolve() for i, run in enumerate(runs)]
    if len(set(paths)) < len(paths):
        raise InputError("a run is compared with itself: name each run once.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _alike(one: Any, other: Any, task: str) -> bool:
    """Whether two runs have the same task or classes, whichever of two classes is positive."""
    if task == "binary" and isinstance(one, list) and isinstance(other, list):
        return sorted(map(str, one)) == sorted(map(str, other))
    return bool(one == other)


def _aligned(runs: Sequence[Run], names: Sequence[str]) -> list[pl.DataFrame]:
    """Return the predictions of all runs in the order of the first; refuse different targets or samples."""
    first = runs[0]
    order = first.predictions["id"]
    tables = []
    for run, name in zip(runs, names, strict=True):
        for what in ("task", names_key(first.metrics["task"])):
            if not _alike(run.metrics[what], first.metrics[what], first.metrics["task"]):
                advice = " Fit both with the same --task." if what == "task" else ""
                raise InputError(
                    f"{names[0]} and {name} have different {what}: {first.metrics[what]} and {run.metrics[what]}."
                    + advice
                )
        if run.predictions["id"].is_duplicated().any():
            raise InputError(
                f"{name} tested samples more than once, with several seeds or draws. Its folds share samples, so they "
                "cannot be resampled as independent. Compare runs of one seed."
            )
        mine = set(run.predictions["id"])
        if mine != set(order):
            only, more = len(set(order) - mine), len(mine - set(order))
            raise InputError(
                f"{names[0]} and {name} tested different samples ({only} and {more} that the other lacks): fit both on "
                "the same samples, with --where if necessary."
            )
        table = pl.DataFrame({"id": order}).join(run.predictions, on="id", how="left", maintain_order="left")
        labels = label_columns(names_of(first.metrics), first.metrics["task"])
        if not table.select(labels).equals(first.predictions.select(labels)):
            raise InputError(f"{names[0]} and {name} have different labels for the same samples.")
        tables.append(table)
    return tables
