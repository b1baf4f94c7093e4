"""How often the 95 % interval of each metric that a run reports holds the truth, on simulated data sets.

    python benchmarks/coverage_metrics.py [DATA_SETS]

A fixed model scores the patients of one test set; scores are normal in each class, and images of a patient share half
of their variance. The truth of a metric is its value on 400,000 patients.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from headwater.evaluate.estimates import Estimates, Resampling
from headwater.evaluate.measured import METRICS, Task, measured
from headwater.evaluate.outcome import Fold, Outcome
from headwater.evaluate.splits import Split

N_TRUTH = 400_000
N_DRAWS = 500


class Design(NamedTuple):
    """What is simulated: patients, images of each, share of the last class, and how far classes are apart."""

    n_patients: int
    n_images: int
    positive: float
    apart: float
    k: int = 2


def simulated(design: Design, rng: np.random.Generator, n_patients: int, n_images: int) -> tuple[np.ndarray, ...]:
    """Draw classes, scores that are overconfident by a factor of 1.4, and the patient of each image."""
    if design.k == 1:  # numbers, and predictions of them
        own, patient = rng.standard_normal(n_patients), np.repeat(np.arange(n_patients), n_images)
        shared, noise = (rng.standard_normal(n) / 2**0.5 for n in (n_patients, len(patient)))
        return own[patient, None], (own * design.apart + shared)[patient, None] + noise[:, None], patient
    shares = [(1 - design.positive) / (design.k - 1)] * (design.k - 1) + [design.positive]
    label = rng.choice(design.k, n_patients, p=shares)
    patient = np.repeat(np.arange(n_patients), n_images)
    noise = rng.standard_normal((n_patients, design.k))[patient] + rng.standard_normal((len(patient), design.k))
    logits = 1.4 * design.apart * np.eye(design.k)[label[patient]] + noise / 2**0.5
    raw = np.exp(logits - logits.max(1, keepdims=True))
    return label[patient], raw / raw.sum(1, keepdims=True), patient


def covered(design: Design, n_sets: int, seed: int = 0) -> dict[str, float]:
    """Return the share of data sets whose interval holds the truth, for each metric.

    No interval counts as a miss, except where the classes are separated, so that there is no calibration slope.
    """
    rng = np.random.default_rng(seed)
    task: Task = {1: "regression", 2: "binary"}.get(design.k, "multiclass")
    names = METRICS[task]
    y, scores, _ = simulated(design, rng, N_TRUTH, 1)
    truth = {name: float(value[0]) for name, value in measured(task, y, scores, None, names).items()}
    held: dict[str, list[bool]] = defaultdict(list)
    for number in range(n_sets):
        y, scores, patient = simulated(design, rng, design.n_patients, design.n_images)
        if design.k > 1 and len(np.unique(y)) < design.k:
            continue
        fold = Fold(Split(0, np.arange(0), np.arange(len(y))), {}, scores, {})
        outcome = Outcome(task, np.arange(design.k), [fold], None, {}, {})
        found = Estimates(outcome, y, Resampling(patient, n_draws=N_DRAWS, seed=number)).metrics()
        for name, ends in found.items():
            if name.startswith("calibration") and ends is None:
                continue  # the classes are separated
            held[name].append(ends is not None and ends[0] <= truth[name] <= ends[1])
    return {name: float(np.mean(held[name])) for name in names}


def main() -> None:
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for k, designs in (
        (1, [(40, 1, 1.0, 1.0), (40, 4, 1.0, 1.0), (40, 1, 1.0, 0.2), (300, 2, 1.0, 1.0)]),
        (2, [(40, 1, 0.5, 1.2), (40, 4, 0.5, 1.2), (80, 1, 0.25, 1.2), (80, 4, 0.25, 2.2), (300, 2, 0.25, 1.2)]),
        (3, [(60, 1, 0.33, 1.5), (60, 4, 0.33, 1.5), (300, 2, 0.2, 1.5)]),
    ):
        found = [covered(Design(*design, k), n_sets) for design in designs]
        heads = [f"{n} patients, {m} image{'s' * (m > 1)}, {share:.0%}" for n, m, share, _ in designs]
        print(f"\n| {n_sets:,} data sets each | {' | '.join(heads)} |\n|{'---|' * (1 + len(designs))}")
        for name in found[0]:
            print(f"| {name} | {' | '.join(f'{of[name]:.3f}' for of in found)} |", flush=True)


if __name__ == "__main__":
    main()
