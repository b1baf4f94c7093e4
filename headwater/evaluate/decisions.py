"""Results of a run beyond its metrics: calibration, a threshold, prediction sets, and results at unit level.

All of them are fitted on out-of-fold scores of training rows, fold by fold, and evaluated on the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate import Fold, Outcome, OutOfFold, score
from headwater.evaluate._recalibration import Recalibration
from headwater.evaluate._weightings import Weightings
from headwater.evaluate.aggregate import Units, UnitScores, aggregated
from headwater.evaluate.calibration import (
    Method,
    calibration_error,
    cross_calibrated,
    ece_of,
    fit_calibrator,
    reliability,
)
from headwater.evaluate.clinical import Called, decision_curve, prior_shift
from headwater.evaluate.conformal import (
    PredictionSets,
    coverage,
    fit_label_sets,
    fit_sets,
    label_coverage,
    missed_labels,
)
from headwater.evaluate.estimates import Ends, Estimates, Resampling, ends_of
from headwater.evaluate.fold_means import json_safe, natural, numbered, summary
from headwater.evaluate.intervals import LEVEL, mean_share_interval
from headwater.evaluate.measured import METRICS, WITHOUT_CLASSES
from headwater.evaluate.options import Protocol
from headwater.evaluate.outcome import rescored
from headwater.evaluate.regression import of_each_output
from headwater.evaluate.risk_groups import NAMES, cuts, of_outcome
from headwater.evaluate.thresholds import Target, at_threshold, choose_threshold, needed_groups

Measure = Callable[[Fold, NDArray[np.bool_]], dict[str, float]]  # metrics of some of a fold's test rows
INSIDE = "out-of-fold scores of each fold's own training rows"


@dataclass(frozen=True, eq=False)
class Decisions:
    """Results beyond the metrics.

    Attributes
    ----------
    outcome
        The outcome with the scores used for decisions: calibrated ones, if requested.
    metrics
        Parts of ``metrics.json``, by their keys.
    decision
        Contents of ``decision.json``, which turn scores of the saved head into decisions.
    sets
        Prediction sets of each fold's test rows, bool, of shape ``(n_test, n_classes)``.
    per
        The scores of units, if requested.
    """

    outcome: Outcome
    metrics: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)
    sets: Sequence[NDArray[np.bool_]] | None = None
    per: UnitScores | None = None


def decisions_of(
    outcome: Outcome,
    y: NDArray[Any],
    protocol: Protocol,
    *,
    levels: NDArray[Any] | None = None,
    units: Units | None = None,
    names: Sequence[str] | None = None,
    resampling: Resampling | None = None,
    fitted_to: str = INSIDE,
) -> Decisions:
    """Compute everything that a protocol requests beyond the metrics.

    Parameters
    ----------
    outcome, y
        The outcome of cross-validation, and the labels.
    protocol
        What to compute.
    levels
        The value of ``--by`` for each row.
    units
        The units of ``--per``.
    names
        Names of the labels, if a row may have several.
    resampling
        How intervals are made; by default rows are independent.
    fitted_to
        What the out-of-fold scores are of, in words, for the report.
    """
    resampling = Resampling.of(len(y)) if resampling is None else resampling
    metrics: dict[str, Any] = {}
    decision: dict[str, Any] = {}
    if protocol.calibrate is not None:
        outcome, metrics["calibration"], decision["calibrator"] = _calibrated(
            outcome, y, protocol.calibrate, resampling
        )
    if outcome.task not in WITHOUT_CLASSES:
        metrics |= _reliability(outcome, y)
    if outcome.task == "binary":
        metrics |= _clinical(outcome, y, protocol.prevalence, resampling)
        metrics["calibration_pooled"] = _pooled_calibration(outcome, y, resampling)
    sets = _decide(outcome, y, protocol, metrics, decision, levels, resampling)
    if outcome.task == "survival" and outcome.inside is not None:
        n_groups = protocol.n_risk_groups
        chosen = [cuts(_inside(fold), n_groups) for fold in outcome.folds]
        found = of_outcome(outcome, y, resampling.groups, chosen, resampling.level)
        metrics["kaplan_meier"] = {"chosen_on": INSIDE, **found}
        decision["risk_groups"] = {
            "names": list(NAMES[n_groups]),
            "thresholds": cuts(outcome.inside, n_groups).tolist(),
        }
    per = None
    if units is not None:
        of_units, labels = aggregated(outcome, y, units, protocol.how)
        per = UnitScores(units, of_units, labels)
        of_unit = resampling.at(np.unique(units.codes, return_index=True)[1])
        words = outcome.classes.tolist() if names is None else names
        metrics["per"] = _per(of_units, labels, units, protocol, words, of_unit)
        decided: dict[str, Any] = {}
        _decide(of_units, labels, protocol, metrics["per"], decided, None, of_unit)
        if outcome.task == "binary":
            metrics["per"] |= _clinical(of_units, labels, protocol.prevalence, of_unit)
        if decided:
            decision["per"] = {"column": units.column, "aggregate": protocol.how, **decided}
    if protocol.prevalence is not None:
        shift = _logit_shift(outcome, y, protocol.prevalence)
        study = float((outcome.truth(y) == 1).mean())
        decision["prior"] = {"study": study, "stated": protocol.prevalence, "logit_shift": shift}
    for section in ("calibration", "threshold", "conformal"):
        for part in (metrics, metrics.get("per", {})):
            if section in part:
                part[section]["chosen_on" if section == "threshold" else "fitted_to"] = fitted_to
    if decision:
        decision["fitted_to"] = "out-of-fold scores of the rows that the saved head was fitted on"
    return Decisions(outcome, metrics, decision, sets, per)


def by_levels(outcome: Outcome, values: NDArray[Any], y: NDArray[Any], resampling: Resampling) -> dict[str, Any]:
    """Compute metrics of each level's test rows, in each fold that has any, with intervals and gaps."""

    def measure(fold: Fold, here: NDArray[np.bool_]) -> dict[str, float]:
        return score(outcome.task, y[fold.split.test[here]], fold.scores[here], classes=outcome.classes)

    found = dict(_levels(outcome, values, [measure] * len(outcome.folds)))
    estimates = Estimates(outcome, y, resampling).levels(values)
    return {level: {**part, **estimates[level]} for level, part in found.items()}


def by_outputs(outcome: Outcome, y: NDArray[Any], names: Sequence[str], resampling: Resampling) -> dict[str, Any]:
    """Return the metrics of each output of a regression, by its name."""
    truth = outcome.truth(y)
    folds = [of_each_output(truth[fold.split.test], fold.scores) for fold in outcome.folds]
    out = {}
    for c, name in enumerate(names):
        of_output = [{metric: float(values[c]) for metric, values in found.items()} for found in folds]
        alone = replace(outcome, folds=[replace(fold, scores=fold.scores[:, [c]]) for fold in outcome.folds])
        out[name] = {**summary(of_output), "intervals": Estimates(alone, truth[:, c], resampling).metrics()}
    return out


def means_of_repeats(outcome: Outcome) -> dict[str, Any]:
    """Return the mean over folds for each seed, and for each draw, if there are several."""
    out: dict[str, Any] = {}
    for name in ("seed", "draw"):
        numbers = dict.fromkeys(getattr(fold.split, name) for fold in outcome.folds)
        if len(numbers) > 1:
            of_number = {n: [f.metrics for f in outcome.folds if getattr(f.split, name) == n] for n in numbers}
            out[f"by_{name}"] = [{name: n, "mean": summary(found)["mean"]} for n, found in of_number.items()]
    return out


# Each part


def _calibrated(
    outcome: Outcome, y: NDArray[Any], method: Method, resampling: Resampling
) -> tuple[Outcome, dict[str, Any], dict[str, Any]]:
    """Return the outcome with calibrated scores, errors before and after, and the saved head's calibrator."""
    truth = outcome.truth(y)

    def inside(rows: OutOfFold) -> OutOfFold:
        """Calibrate out-of-fold scores by cross-fitting, so that they are comparable to test scores."""
        scores = cross_calibrated(method, outcome.task, truth[rows.rows], rows.scores, rows.fold)
        return replace(rows, scores=scores)

    folds = []
    for fold in outcome.folds:
        rows = _inside(fold)
        fitted = fit_calibrator(method, outcome.task, truth[rows.rows], rows.scores)
        folds.append(rescored(fold, outcome, y, fitted(fold.scores), inside(rows)))
    own = _inside(outcome)
    calibrator = fit_calibrator(method, outcome.task, truth[own.rows], own.scores)
    after = replace(outcome, folds=folds, inside=inside(own))
    errors = [
        [calibration_error(outcome.task, truth[f.split.test], f.scores) for f in found.folds]
        for found in (outcome, after)
    ]
    intervals = [_of_losses(Estimates(found, y, resampling).metrics()) for found in (outcome, after)]
    section = {
        "method": method,
        "fitted_to": INSIDE,
        "folds": [
            {**numbered(fold, outcome), "uncalibrated": before, "calibrated": now}
            for fold, before, now in zip(folds, *errors, strict=True)
        ],
        "uncalibrated": {**summary(errors[0]), "intervals": intervals[0], **_reliability(outcome, y)},
        "calibrated": {**summary(errors[1]), "intervals": intervals[1]},
    }
    return after, section, calibrator.to_dict()


def _clinical(outcome: Outcome, y: NDArray[Any], prevalence: float | None, resampling: Resampling) -> dict[str, Any]:
    """Return the decision curve of all test rows, and, for a stated prevalence, what a positive result means there."""
    rows = np.concatenate([fold.split.test for fold in outcome.folds])
    positive, groups = outcome.truth(y)[rows] == 1, resampling.groups[rows]
    score = np.concatenate([fold.scores[:, 1] for fold in outcome.folds])
    if positive.all() or not positive.any():
        return {}
    if prevalence is None:
        return {"decision_curve": decision_curve(positive, score, groups, level=resampling.level)}
    shifted = _shifted(score, _logit_shift(outcome, y, prevalence))
    curve = decision_curve(positive, shifted, groups, prevalence, resampling.level)
    return {
        "decision_curve": curve,
        "prevalence": _at_prevalence(positive, score > 0.5, groups, prevalence, resampling),
    }


def _logit_shift(outcome: Outcome, y: NDArray[Any], prevalence: float) -> float:
    """Return what corrects the logit of the scores for a prevalence.

    Scores of a head with class weights, or trained on equal shots, are not right on average even in the study. The
    shift first makes them so, on out-of-fold scores where there are any, and then moves them to the prevalence.
    """
    truth = outcome.truth(y) == 1
    if outcome.inside is not None:
        rows, scores = outcome.inside.rows, outcome.inside.scores[:, 1]
    else:
        rows = np.concatenate([fold.split.test for fold in outcome.folds])
        scores = np.concatenate([fold.scores[:, 1] for fold in outcome.folds])
    off = float(Recalibration(truth[rows], scores, Weightings.once(len(rows))).in_the_large[0])
    return (0.0 if np.isnan(off) else off) + prior_shift(float(truth.mean()), prevalence)


def _at_prevalence(
    positive: NDArray[np.bool_],
    called: NDArray[np.bool_],
    groups: NDArray[np.int64],
    prevalence: float,
    resampling: Resampling,
) -> dict[str, Any]:
    """Return predictive values, recall rate and detection rate of all test rows at a prevalence."""
    found = Called(positive, called, groups, prevalence).rates(resampling.level)
    return {
        "prevalence": prevalence,
        **json_safe({name: value for name, (value, _) in found.items()}),
        "intervals": {name: ends_of(ends) for name, (_, ends) in found.items()},
    }


def _shifted(score: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Return probabilities with a logit moved by ``shift``."""
    odds = np.exp(shift)
    moved: NDArray[np.float64] = score * odds / (score * odds + 1 - score)
    return moved


def _of_losses(intervals: Mapping[str, Ends]) -> dict[str, Ends]:
    """Return the intervals of the losses that calibration should lower, as far as the task's metrics have them."""
    return {name: intervals[name] for name in ("log_loss", "ece", "brier") if name in intervals}


def _reliability(outcome: Outcome, y: NDArray[Any]) -> dict[str, Any]:
    """Return reliability bins and calibration error of all test rows pooled; ``ece`` itself is a mean over folds."""
    truth = np.concatenate([outcome.truth(y)[fold.split.test] for fold in outcome.folds])
    bins = reliability(outcome.task, truth, np.concatenate([fold.scores for fold in outcome.folds]))
    return {"reliability": bins, "ece_pooled": ece_of(bins)}


def _pooled_calibration(outcome: Outcome, y: NDArray[Any], resampling: Resampling) -> dict[str, Any]:
    """Return slope and intercepts of all test rows pooled: in a small fold the classes are often separated."""
    rows = np.concatenate([fold.split.test for fold in outcome.folds])
    scores = np.concatenate([fold.scores for fold in outcome.folds])
    whole = replace(outcome.folds[0].split, train=np.arange(0), test=rows)
    pooled = Estimates(replace(outcome, folds=[Fold(whole, {}, scores, {})]), y, resampling)
    found = pooled.metrics([name for name in METRICS["binary"] if name.startswith("calibration_")])
    return {**json_safe(pooled.values(found)), "intervals": found}


def _decide(
    outcome: Outcome,
    y: NDArray[Any],
    protocol: Protocol,
    metrics: dict[str, Any],
    decision: dict[str, Any],
    levels: NDArray[Any] | None,
    resampling: Resampling,
) -> Sequence[NDArray[np.bool_]] | None:
    """Add a threshold and prediction sets to metrics and decision; return the sets."""
    groups = resampling.groups
    if protocol.target is not None:
        metrics["threshold"], decision["threshold"] = _threshold(outcome, y, *protocol.target, groups)
        thresholds = [fold["threshold"] for fold in metrics["threshold"]["folds"]]
        metrics["threshold"]["intervals"] = _threshold_intervals(outcome, y, thresholds, groups)
        if protocol.prevalence is not None:
            rows = np.concatenate([fold.split.test for fold in outcome.folds])
            called = [fold.scores[:, 1] >= at for fold, at in zip(outcome.folds, thresholds, strict=True)]
            positive = outcome.truth(y)[rows] == 1
            if positive.any() and not positive.all():
                found_at = _at_prevalence(
                    positive, np.concatenate(called), groups[rows], protocol.prevalence, resampling
                )
                metrics["threshold"]["at_prevalence"] = found_at
    if protocol.conformal is None:
        return None
    found = _conformal(outcome, y, protocol.conformal, protocol.conformal_per_class, levels, groups)
    metrics["conformal"], decision["conformal"], sets = found
    metrics["conformal"]["intervals"] = _set_intervals(outcome, y, sets, resampling)
    return sets


def _threshold_intervals(
    outcome: Outcome, y: NDArray[Any], thresholds: Sequence[float], groups: NDArray[np.int64]
) -> dict[str, Ends]:
    """Return confidence intervals of the folds' results at their thresholds."""
    positive = [outcome.truth(y)[fold.split.test] == 1 for fold in outcome.folds]
    called = [fold.scores[:, 1] >= at for fold, at in zip(outcome.folds, thresholds, strict=True)]
    not_called, negative = ([~part for part in parts] for parts in (called, positive))
    shares = {
        "sensitivity": (called, positive),
        "specificity": (not_called, negative),
        "ppv": (positive, called),
        "npv": (negative, not_called),
        "recall_rate": (called, [part | True for part in called]),
        "detection_rate": ([c & p for c, p in zip(called, positive, strict=True)], [part | True for part in called]),
    }
    return {name: _interval(outcome, *share, groups) for name, share in shares.items()}


def _interval(
    outcome: Outcome,
    right: Sequence[NDArray[np.bool_]],
    chosen: Sequence[NDArray[np.bool_]],
    groups: NDArray[np.int64],
) -> Ends:
    """Return the interval of a proportion as a mean over folds: the share ``right`` of the ``chosen`` test rows."""
    ends = np.cumsum([0, *map(len, right)])
    folds = [np.arange(start, end) for start, end in pairwise(ends)]
    tested = np.concatenate([groups[fold.split.test] for fold in outcome.folds])
    return ends_of(mean_share_interval(np.concatenate(right), np.concatenate(chosen), tested, folds, LEVEL))


def _threshold(
    outcome: Outcome, y: NDArray[Any], target: Target, at: float, groups: NDArray[np.int64]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return each fold's threshold with its results on the test rows, and the saved head's threshold."""
    positive = outcome.truth(y) == 1

    def choose(rows: OutOfFold) -> float:
        return choose_threshold(positive[rows.rows], rows.scores[:, 1], target=target, at=at, groups=groups[rows.rows])

    found = []
    for fold in outcome.folds:
        threshold = choose(_inside(fold))
        found.append({"threshold": threshold, **at_threshold(positive[fold.split.test], fold.scores[:, 1], threshold)})
    what = {"target": target, "at": at, "positive": outcome.classes.tolist()[1]}
    section = {
        **what,
        "chosen_on": INSIDE,
        "folds": [{**numbered(f, outcome), **json_safe(v)} for f, v in zip(outcome.folds, found, strict=True)],
        **summary(found),
    }
    of_class = positive if target == "sensitivity" else ~positive
    chosen_on = [_inside(fold).rows for fold in outcome.folds]
    n_groups, needed = min(len(np.unique(groups[rows[of_class[rows]]])) for rows in chosen_on), needed_groups(at)
    if n_groups < needed:
        section["too_few"] = {"groups": n_groups, "needed": needed}
    return section, {**what, "threshold": choose(_inside(outcome))}


def _conformal(
    outcome: Outcome,
    y: NDArray[Any],
    alpha: float,
    per_class: bool,
    levels: NDArray[Any] | None,
    groups: NDArray[np.int64],
) -> tuple[dict[str, Any], dict[str, Any], list[NDArray[np.bool_]]]:
    """Return the results of each fold's prediction sets on its test rows, the saved head's rule, and the sets."""
    truth = outcome.truth(y)

    several = outcome.task == "multilabel"
    measure = label_coverage if several else coverage

    def rule(rows: OutOfFold) -> PredictionSets:
        if several:
            return fit_label_sets(truth[rows.rows], rows.scores, alpha, groups[rows.rows])
        return fit_sets(truth[rows.rows], rows.scores, alpha, per_class=per_class, groups=groups[rows.rows])

    sets = [rule(_inside(fold))(fold.scores) for fold in outcome.folds]
    found = [measure(truth[f.split.test], s) for f, s in zip(outcome.folds, sets, strict=True)]
    what = {"alpha": alpha, "per_class": per_class}
    section = {
        **what,
        "fitted_to": INSIDE,
        "folds": [{**numbered(f, outcome), **v} for f, v in zip(outcome.folds, found, strict=True)],
        **summary(found),
    }
    if levels is not None:
        section["by"] = dict(_levels(outcome, levels, [_coverage_of(s, truth, measure) for s in sets]))
    return section, {**what, **rule(_inside(outcome)).to_dict()}, sets


def _coverage_of(
    sets: NDArray[np.bool_],
    truth: NDArray[np.int64],
    measure: Callable[[NDArray[np.int64], NDArray[np.bool_]], dict[str, float]],
) -> Measure:
    return lambda fold, here: measure(truth[fold.split.test[here]], sets[here])


def _set_intervals(
    outcome: Outcome, y: NDArray[Any], sets: Sequence[NDArray[np.bool_]], resampling: Resampling
) -> dict[str, Ends]:
    """Return the intervals of what prediction sets miss or hold, of their size, and of the shares of empty ones."""
    truth = [outcome.truth(y)[fold.split.test] for fold in outcome.folds]
    pairs = list(zip(truth, sets, strict=True))
    if outcome.task == "multilabel":
        of_rows = {"missed": [missed_labels(t, s) for t, s in pairs]}
    else:
        of_rows = {"coverage": [s[np.arange(len(s)), t].astype(np.float64) for t, s in pairs]}
        of_rows["single"] = [(s.sum(1) == 1).astype(np.float64) for s in sets]
    of_rows["mean_size"] = [s.sum(1).astype(np.float64) for s in sets]
    of_rows["empty"] = [(s.sum(1) == 0).astype(np.float64) for s in sets]
    return Estimates(outcome, y, resampling).means(of_rows)


def _per(
    outcome: Outcome,
    y: NDArray[Any],
    units: Units,
    protocol: Protocol,
    names: Sequence[Any],
    resampling: Resampling,
) -> dict[str, Any]:
    """Return the metrics of units, in the same form as those of rows."""
    estimates = Estimates(outcome, y, resampling)
    folds = [
        {**numbered(f, outcome), "n_train": len(f.split.train), "n_test": len(f.split.test), **json_safe(f.metrics)}
        for f in outcome.folds
    ]
    return {
        "column": units.column,
        "aggregate": protocol.how,
        "n_units": len(y),
        "folds": folds,
        **summary([fold.metrics for fold in outcome.folds]),
        "intervals": estimates.metrics(),
        **({} if outcome.task in WITHOUT_CLASSES else {"per_class": estimates.classes(names)}),
        **({"cuts": estimates.cuts(names)} if outcome.task == "ordinal" else {}),
    }


def _levels(
    outcome: Outcome, values: NDArray[Any], measures: Sequence[Measure]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compute metrics of each level's test rows, with each fold's own function, in each fold that has any."""
    for level in sorted(set(values.tolist()), key=natural):
        found, rows = [], []
        for fold, measure in zip(outcome.folds, measures, strict=True):
            here = values[fold.split.test] == level
            if here.any():
                rows.append(fold.split.test[here])
                found.append(measure(fold, here))
        n_samples = len(np.unique(np.concatenate(rows))) if rows else 0
        yield str(level), {"n_samples": n_samples, "folds": len(found), **summary(found)}


def _inside(found: Fold | Outcome) -> OutOfFold:
    if found.inside is None:
        raise RuntimeError("cross_validate was not asked for out-of-fold scores")  # a bug, not a user's mistake
    return found.inside


# In words
