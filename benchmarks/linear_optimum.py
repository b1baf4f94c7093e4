"""How far the linear probe stops above its optimum, and what that does to probabilities of new rows.

    python benchmarks/linear_optimum.py

Made features of a few strong directions, so that rows are nearly separable and weak penalties leave little of the
objective. The optimum is the same probe run on to a tolerance of 1e-13.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from headwater.heads import LinearProbe

SHAPES = {"780 x 1024, 2 classes": (780, 1024, 2, 200), "780 x 1024, 3 classes": (780, 1024, 3, 200)}
SHAPES |= {"780 x 1024, 8 classes": (780, 1024, 8, 200), "1,500 x 512, 20 classes": (1500, 512, 20, 100)}
PENALTIES = (1.0, 100.0, 1e4, 1e6)


def made(n: int, d: int, k: int, rank: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features, float32, of shape ``(n, d)``, and classes."""
    rng = np.random.default_rng(0)
    scale = 1 / np.arange(1, rank + 1) ** 0.7
    hidden = rng.standard_normal((n, rank)) * scale
    X = np.maximum(hidden @ rng.standard_normal((rank, d)) + 0.2, 0) + 0.05 * rng.random((n, d))
    logits = hidden @ rng.standard_normal((rank, k)) / np.linalg.norm(scale)
    return X.astype(np.float32), (logits + 0.8 * rng.standard_normal((n, k))).argmax(1)


def main() -> None:
    print("| | C | above the optimum | probabilities of new rows apart, at most | warned |\n|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        X, y = made(*shape)
        train, new = np.arange(len(y)) % 5 != 0, np.arange(len(y)) % 5 == 0
        for C in PENALTIES:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", ConvergenceWarning)
                head = LinearProbe(C=C).fit(X[train], y[train])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                best = LinearProbe(C=C, tol=1e-13, max_iter=20_000).fit(X[train], y[train])
            excess = 100 * (head.objective_ / best.objective_ - 1)
            apart = np.abs(head.predict_proba(X[new]) - best.predict_proba(X[new])).max()
            print(f"| {name} | {C:g} | {excess:.3f} % | {apart:.3f} | {'yes' if said else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
