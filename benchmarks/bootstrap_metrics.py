"""Bootstrap by patient of 12 metrics of 4 models and their 6 paired differences, against scikit-learn in a loop.

    python benchmarks/bootstrap_metrics.py [ROWS] [PATIENTS]

The loop draws patients, repeats their rows, and calls a function of scikit-learn for each metric and model. It is timed
on a part of the resamples and scaled; both sides give the same numbers for the same resamples.
"""

from __future__ import annotations

import sys
import time
import warnings
from itertools import combinations

import numpy as np
import sklearn.metrics as sk

from headwater.evaluate.bootstrap import FoldScores, bootstrap, difference

N_DRAWS, TIMED, MODELS = 2000, 50, 4
METRICS = {
    "accuracy": lambda y, p: sk.accuracy_score(y, p > 0.5),
    "balanced_accuracy": lambda y, p: sk.balanced_accuracy_score(y, p > 0.5),
    "precision": lambda y, p: sk.precision_score(y, p > 0.5, zero_division=0),
    "recall": lambda y, p: sk.recall_score(y, p > 0.5),
    "f1": lambda y, p: sk.f1_score(y, p > 0.5),
    "f1_macro": lambda y, p: sk.f1_score(y, p > 0.5, average="macro"),
    "kappa": lambda y, p: sk.cohen_kappa_score(y, p > 0.5),
    "auc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "auc_above_90_specificity": lambda y, p: sk.roc_auc_score(y, p, max_fpr=0.1),
    "log_loss": lambda y, p: sk.log_loss(y, np.column_stack([1 - p, p])),
    "brier": sk.brier_score_loss,
}


def main() -> None:
    n, n_patients = (int(word) for word in (*sys.argv[1:], 10_000, 1000)[:2])
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, n_patients, n))
    patient = np.unique(patient, return_inverse=True)[1]
    n_patients = int(patient.max()) + 1
    truth = rng.integers(0, 2, n_patients)[patient]
    logits = [1.5 * (truth - 0.5) + rng.standard_normal(n) for _ in range(MODELS)]
    scores = [1 / (1 + np.exp(-line)) for line in logits]
    models = [[FoldScores(truth, np.column_stack([1 - p, p]), patient)] for p in scores]
    bootstrap("binary", models, metrics=METRICS, n_draws=100)  # imports and caches

    started = time.perf_counter()
    drawn = bootstrap("binary", models, metrics=METRICS, n_draws=N_DRAWS, seed=1)
    for name in METRICS:
        for i, j in combinations(range(MODELS), 2):
            difference(drawn[name][i], drawn[name][j])
    ours = time.perf_counter() - started

    counts = np.random.default_rng(1).multinomial(n_patients - 1, [1 / n_patients] * n_patients, N_DRAWS)
    rows_of = [np.flatnonzero(patient == one) for one in range(n_patients)]
    started = time.perf_counter()
    loop = np.empty((len(METRICS), MODELS, TIMED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for draw in range(TIMED):
            rows = np.concatenate([np.tile(rows_of[one], times) for one, times in enumerate(counts[draw]) if times])
            for m, metric in enumerate(METRICS.values()):
                for i, p in enumerate(scores):
                    loop[m, i, draw] = metric(truth[rows], p[rows])
    theirs = (time.perf_counter() - started) * N_DRAWS / TIMED
    apart = max(np.abs(loop[m] - drawn[name][:, 1 : 1 + TIMED]).max() for m, name in enumerate(METRICS))
    print(f"{n:,} rows, {n_patients:,} patients, {N_DRAWS:,} resamples, {len(METRICS)} metrics, {MODELS} models")
    print(f"headwater {ours:.2f} s, scikit-learn in a loop {theirs:.1f} s (timed on {TIMED}): {theirs / ours:.0f}x")
    print(f"largest difference of a number: {apart:.1e}")


if __name__ == "__main__":
    main()
