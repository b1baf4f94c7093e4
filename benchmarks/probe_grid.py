"""The linear probe of self-supervised encoders: a grid of SGD heads against the exact solver.

    python benchmarks/probe_grid.py

The usual recipe (DINOv2's) trains a linear head for each of 13 learning rates and 4 ways of pooling (the class token of
the last layer or of four, with and without the mean of the patch tokens) by SGD with momentum for 12,500 steps of 128
rows, all heads at once on each batch, and keeps the best on held-out rows. Here the rows are made: 8,000 to train and
2,000 to hold out, 10 classes, 384 columns for each part. The exact solver takes the same inputs, with 17 penalties in
place of learning rates. Encoding is not counted on either side. ``--steps N`` takes fewer and scales the time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from _timing import machine, report

from headwater.heads import LinearProbe

N, N_TEST, D, K, STEPS, BATCH = 8000, 2000, 384, 10, 12_500, 128
RATES = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]


def parts() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the four pooled inputs and the labels."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((K, D)) * 0.09
    y = rng.integers(0, K, N + N_TEST)
    token = [mean[y] * s + rng.standard_normal((len(y), D)) for s in (1.0, 0.7, 0.5, 0.4)]
    patches = 0.8 * mean[y] + rng.standard_normal((len(y), D))
    pooled = {
        "last": token[:1],
        "last + patches": [token[0], patches],
        "last 4": token,
        "last 4 + patches": [*token, patches],
    }
    return {name: np.concatenate(list_, 1).astype(np.float32) for name, list_ in pooled.items()}, y


def sgd(inputs: dict[str, np.ndarray], y: np.ndarray, steps: int) -> float:
    """Train all heads side by side, as the published loop does; return the best accuracy on the rows held out."""
    torch.manual_seed(0)
    X = {name: torch.from_numpy(x) for name, x in inputs.items()}
    target = torch.from_numpy(y)
    heads = {(name, lr): torch.nn.Linear(x.shape[1], K) for name, x in X.items() for lr in RATES}
    for head in heads.values():
        torch.nn.init.normal_(head.weight, 0, 0.01)
        torch.nn.init.zeros_(head.bias)
    groups = [{"params": head.parameters(), "lr": lr} for (_, lr), head in heads.items()]
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(0, N, (BATCH,))
        losses = [
            torch.nn.functional.cross_entropy(head(X[name][rows]), target[rows]) for (name, _), head in heads.items()
        ]
        optimiser.zero_grad()
        sum(losses).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        right = [(head(X[name][N:]).argmax(1) == target[N:]).float().mean() for (name, _), head in heads.items()]
    return float(max(right))


def exact(inputs: dict[str, np.ndarray], y: np.ndarray) -> float:
    probe = LinearProbe()
    best = 0.0
    for X in inputs.values():
        rows, test = np.arange(N), np.arange(N, N + N_TEST)
        heads = probe.fit_many(X, y, [(rows, params) for params in probe.default_grid()])
        scores = LinearProbe.predict_proba_many(heads, X, [test] * len(heads))
        best = max(best, *(float((p.argmax(1) == y[test]).mean()) for p in scores))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    print(machine())
    inputs, y = parts()
    exact({"last": inputs["last"]}, y)  # warm
    start = time.perf_counter()
    mine = exact(inputs, y)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    other = sgd(inputs, y, steps)
    theirs = (time.perf_counter() - start) * STEPS / steps
    report(f"13 rates x 4 ways of pooling, SGD heads ({steps} of {STEPS} steps timed)", ours, theirs, 20)
    print(f"  best accuracy on the rows held out {mine:.4f} against {other:.4f} after {steps} steps")


if __name__ == "__main__":
    main()
