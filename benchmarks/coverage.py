"""How often 95 % intervals hold the truth: data sets are simulated whose AUC and accuracy are known.

    python benchmarks/coverage.py [DATA_SETS]

Scores are normal in each class, and fixed models score the patients of one test set or of five folds. What is counted
are intervals of the metrics that `compare`, `evaluate` and `sweep` print, of DeLong's AUC, and, for comparison, the
percentile interval of the same draws and DeLong's normal interval.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from headwater.evaluate.bootstrap import FoldScores, interval
from headwater.evaluate.paired import Paired
from headwater.evaluate.statistics import delong

N_DRAWS = 400
AUCS, PATIENTS, POSITIVE, FOLDS = (0.6, 0.85, 0.98), (40, 82), (0.5, 0.25), (1, 5)
METHODS = ("auc", "DeLong", "accuracy", "balanced accuracy", "percentile", "DeLong, normal")


class Design(NamedTuple):
    """What is simulated; images of a patient share ``icc`` of the variance of their scores within a class."""

    auc: float
    n_patients: int
    positive: float
    n_folds: int = 1
    n_images: int = 1
    icc: float = 0.5


def simulated(design: Design, rng: np.random.Generator) -> list[FoldScores]:
    """Draw a data set, in folds that hold their share of each class."""
    n_positive = round(design.positive * design.n_patients)
    label = (np.arange(design.n_patients) < n_positive).astype(np.int64)
    fold = np.arange(design.n_patients) % design.n_folds
    patient = np.repeat(np.arange(design.n_patients), design.n_images)
    shared = rng.standard_normal(design.n_patients)[patient] * design.icc**0.5
    own = rng.standard_normal(len(patient)) * (1 - design.icc) ** 0.5
    logit = _apart(design) * (label[patient] - 0.5) + shared + own
    p = 1 / (1 + np.exp(-logit))
    scores = np.column_stack([1 - p, p])
    rows = [np.flatnonzero(fold[patient] == f) for f in range(design.n_folds)]
    return [FoldScores(label[patient][r], scores[r], patient[r]) for r in rows]


def covered(design: Design, n_sets: int, seed: int = 0) -> dict[str, float]:
    """Return the share of simulated data sets whose interval holds the truth, for each method."""
    rng = np.random.default_rng(seed)
    right = float(norm.cdf(_apart(design) / 2))
    truth = {"accuracy": right, "balanced accuracy": right}
    held: dict[str, list[bool]] = {name: [] for name in METHODS}
    for number in range(n_sets):
        folds = simulated(design, rng)
        for name, (low, high) in _intervals(folds, number).items():
            held[name].append(low <= truth.get(name, design.auc) <= high)
    return {name: float(np.mean(each)) for name, each in held.items()}


def _apart(design: Design) -> float:
    return float(2**0.5 * norm.ppf(design.auc))


def _intervals(folds: list[FoldScores], seed: int) -> dict[str, tuple[float, float]]:
    found = Paired.of("binary", [folds], n_draws=N_DRAWS, seed=seed)
    truth, scores, groups = (
        np.concatenate([getattr(f, name) for f in folds]) for name in ("truth", "scores", "groups")
    )
    fold = np.repeat(np.arange(len(folds)), [len(f.truth) for f in folds])
    aucs = delong(truth == 1, scores[:, 1], groups, fold)
    half = 1.959964 * float(aucs.covariance[0, 0]) ** 0.5
    return {
        "auc": found.interval("auc", 0),
        "DeLong": aucs.interval(),
        "accuracy": found.interval("accuracy", 0),
        "balanced accuracy": found.interval("balanced_accuracy", 0),
        "percentile": interval(found.drawn["auc"][0, 1:]),
        "DeLong, normal": (float(aucs.auc[0]) - half, float(aucs.auc[0]) + half),
    }


def main() -> None:
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"95 % intervals, {n_sets:,} simulated data sets each: bootstrap / DeLong\n")
    heads = [*(f"AUC {auc}" for auc in AUCS), "accuracy", "balanced accuracy", "percentile", "DeLong, normal"]
    print(f"| patients | positive | folds | images | {' | '.join(heads)} |\n|{'---|' * (4 + len(heads))}")
    plain = [(n, p, k, 1) for n, p, k in product(PATIENTS, POSITIVE, FOLDS)]
    for design in plain + [(n, 0.5, k, 4) for n, k in product(PATIENTS, FOLDS)]:
        found = [covered(Design(auc, *design), n_sets) for auc in AUCS]
        print(row(design, found), flush=True)


def row(design: tuple[float, ...], found: Sequence[Mapping[str, float]]) -> str:
    """Write a row of the table: of each AUC, and of the highest what other metrics and other intervals give."""
    cells = [f"{of['auc']:.3f} / {of['DeLong']:.3f}" for of in found]
    cells += [f"{found[-1][name]:.3f}" for name in METHODS[2:]]
    return f"| {' | '.join([*map(str, design), *cells])} |"


if __name__ == "__main__":
    main()
