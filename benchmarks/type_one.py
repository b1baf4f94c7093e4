"""How often tests tell two equally good procedures apart: two feature sets that carry the same signal.

    python benchmarks/type_one.py [DATA_SETS]

Each data set has 60 patients with one image each. Both feature sets show the label with the same strength, each with
noise of its own, so that linear probes on them, selected and fitted anew in each fold as `fit-head` does it, are
equally good. Counted are p values of their mean AUC, as `compare` computes them, below 0.05; for DeLong and the
bootstrap also for two fixed models on one test set, which is what these are made for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np

from headwater.evaluate import cross_validate, make_splits
from headwater.evaluate.bootstrap import FoldScores, difference
from headwater.evaluate.paired import Paired
from headwater.evaluate.statistics import compare_aucs, delong, wilcoxon
from headwater.heads import LinearProbe

N_PATIENTS, N_COLUMNS, SIGNAL = 60, 300, 0.05
GRID = [{"C": C} for C in (1e-4, 1e-2, 1.0)]
TESTS = ("corrected t", "bootstrap", "DeLong", "Wilcoxon")


def features(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return columns that show the label, each a little."""
    return (rng.standard_normal((len(y), N_COLUMNS)) + SIGNAL * (2 * y[:, None] - 1)).astype(np.float32)


def p_values(n_folds: int, seed: int) -> dict[str, float]:
    """Return the p of each test of two procedures on one data set."""
    rng = np.random.default_rng([seed, n_folds])
    y = rng.permutation(np.arange(N_PATIENTS) % 2)
    splits = make_splits(y, n_folds=n_folds, seed=seed)
    models = []
    for _ in range(2):
        outcome = cross_validate(LinearProbe(), features(y, rng), y, splits, grid=GRID, seed=seed)
        tested = [(fold.split, fold.scores) for fold in outcome.folds]
        models.append([FoldScores(y[s.test], scores, s.test, len(s.train)) for s, scores in tested])
    return {**_of(models, seed), "Wilcoxon": wilcoxon(*Paired.of("binary", models, n_draws=0).folds("auc")).p}


def p_of_fixed(n_folds: int, seed: int) -> dict[str, float]:
    """Return the p of each test of two fixed, equally good models on one test set of one data set."""
    rng = np.random.default_rng([seed, 0])
    y = rng.permutation(np.arange(N_PATIENTS) % 2)
    models = []
    for _ in range(2):
        p = 1 / (1 + np.exp(-1.5 * y - rng.standard_normal(N_PATIENTS)))
        models.append([FoldScores(y, np.column_stack([1 - p, p]), np.arange(N_PATIENTS))])
    return _of(models, seed)


def _of(models: list[list[FoldScores]], seed: int) -> dict[str, float]:
    paired = Paired.of("binary", models, n_draws=1000, seed=seed)
    rows = models[0]
    truth = np.concatenate([fold.truth for fold in rows])
    scores = np.stack([np.concatenate([fold.scores[:, 1] for fold in model]) for model in models])
    fold = np.repeat(np.arange(len(rows)), [len(f.truth) for f in rows])
    found = paired.difference("auc", 0, 1)
    resampled = difference(*paired.drawn["auc"])
    own = {} if found.test == "bootstrap" else {"corrected t": found.p}
    return {**own, "bootstrap": resampled.p, "DeLong": compare_aucs(delong(truth, scores, folds=fold)).p}


def type_one(n_sets: int, n_folds: int | None) -> Mapping[str, float]:
    """Return the share of data sets in which each test has p below 0.05; of fixed models where ``n_folds`` is None."""
    once = p_of_fixed if n_folds is None else p_values
    found = [once(n_folds or 0, seed) for seed in range(n_sets)]
    return {test: float(np.mean([p[test] < 0.05 for p in found])) for test in TESTS if test in found[0]}


def main() -> None:
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"p below 0.05 of two equally good procedures, {N_PATIENTS} patients, {n_sets:,} data sets\n")
    print(f"| | {' | '.join(TESTS)} |\n|{'---|' * (1 + len(TESTS))}")
    for name, n_folds in (("5 folds", 5), ("10 folds", 10), ("fixed models, one test set", None)):
        found = type_one(n_sets, n_folds)
        print(f"| {name} | {' | '.join(f'{found[t]:.3f}' if t in found else '–' for t in TESTS)} |", flush=True)


if __name__ == "__main__":
    main()
