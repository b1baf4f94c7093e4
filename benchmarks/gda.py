"""All shrinkages and folds of the ``gda`` head, against the formula of the paper's code in plain NumPy.

``headwater`` decomposes the covariance of each fold once, and makes folds from what all rows have in common. The other
side computes the covariance of each fold once, and inverts it for each setting: by ``numpy.linalg.pinv`` as the authors
do, and by the faster ``numpy.linalg.inv``, which they do not use. Both sides predict the held-out rows.

    python benchmarks/gda.py [large] [small] [labels]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
from _timing import best, machine, report, take_turns

from headwater.heads import GDA

Array = np.ndarray
N_FOLDS = 5
SHRINKAGES = list(dict.fromkeys(params["shrinkage"] for params in GDA().default_grid()))
TARGET = 5


def rows(n: int, d: int, k: int, seed: int = 0) -> tuple[Array, Array]:
    """Correlated features of k classes, with a power-law spectrum, and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    U = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.7
    U += 0.3 * rng.standard_normal((k, d))[y] * np.arange(1, d + 1) ** -0.7
    return (U @ np.linalg.qr(rng.standard_normal((d, d)))[0] + 0.05).astype(np.float32), y


def folds(n: int) -> list[tuple[Array, Array]]:
    of = np.random.default_rng(1).permutation(n) % N_FOLDS
    return [(np.flatnonzero(of != f), np.flatnonzero(of == f)) for f in range(N_FOLDS)]


def unit(X: Array) -> Array:
    wide = X.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def ours(X: Array, y: Array, splits: Sequence[tuple[Array, Array]]) -> list[Array]:
    fits = [(train, {"shrinkage": s}) for train, _ in splits for s in SHRINKAGES]
    heads = GDA(class_weight="balanced", device="cpu").fit_many(X, y, fits)
    return GDA.predict_proba_many(heads, X, [test for _, test in splits for _ in SHRINKAGES])


def theirs(
    X: Array, y: Array, splits: Sequence[tuple[Array, Array]], inverse: Callable[[Array], Array], some: Sequence[object]
) -> list[Array]:
    """The formula of the paper's code: class means, covariance, precision, weights and offsets."""
    out = []
    Z = unit(X)
    for train, test in splits:
        vectors, labels = Z[train], y[train]
        classes = np.unique(labels)
        mus = np.stack([vectors[labels == c].mean(0) for c in classes])
        centred = np.concatenate([vectors[labels == c] - mus[i] for i, c in enumerate(classes)])
        n, d = centred.shape
        unbiased = np.cov(centred.T)
        for shrinkage in some:
            if shrinkage == "ks":
                precision = d * inverse((n - 1) * unbiased + np.trace(unbiased) * np.eye(d))
            else:
                cov = unbiased * ((n - 1) / n)
                precision = inverse((1 - shrinkage) * cov + shrinkage * np.trace(cov) / d * np.eye(d))
            W = precision @ mus.T
            b = np.log(1 / len(classes)) - np.einsum("kd,dk->k", mus, W) / 2
            logits = Z[test] @ W + b
            exps = np.exp(logits - logits.max(1, keepdims=True))
            out.append(exps / exps.sum(1, keepdims=True))
    return out


def compared(n: int, d: int, k: int, some: Sequence[object], repeats: int) -> None:
    X, y = rows(n, d, k)
    splits = folds(n)
    share = len(SHRINKAGES) / len(some)
    what = f"17 shrinkages x 5 folds, {n:,} x {d}, {k} classes"
    timed = "" if share == 1 else f", timed on {len(some)} of 17 shrinkages and scaled"
    mine, other = take_turns(
        lambda: ours(X, y, splits), lambda: theirs(X, y, splits, np.linalg.pinv, some), repeats=repeats
    )
    report(f"{what}, against pinv as the authors{timed}", mine, other * share, TARGET)
    mine, other = take_turns(
        lambda: ours(X, y, splits), lambda: theirs(X, y, splits, np.linalg.inv, SHRINKAGES), repeats=repeats
    )
    report(f"{what}, against inv", mine, other, TARGET)
    found = np.stack(ours(X, y, splits)).reshape(N_FOLDS, len(SHRINKAGES), -1, k)
    expected = np.stack(theirs(X, y, splits, np.linalg.inv, SHRINKAGES)).reshape(found.shape)
    print(f"  largest difference of a probability: {np.abs(found - expected).max():.1e} (at most 1e-6)", flush=True)


def large() -> None:
    compared(5000, 768, 3, [SHRINKAGES[0], SHRINKAGES[8], "ks"], 2)


def small() -> None:
    compared(360, 512, 3, SHRINKAGES, 3)


def labels() -> None:
    """40 labels from one decomposition, against one head for each label."""
    X, _ = rows(5000, 768, 2)
    Y = (X @ np.random.default_rng(2).standard_normal((768, 40)) > 0.5).astype(int)
    splits = folds(len(X))
    fits = [(train, {"shrinkage": s}) for train, _ in splits for s in SHRINKAGES]
    together = best(lambda: GDA(device="cpu").fit_many(X, Y, fits), 1)
    alone = best(lambda: GDA(device="cpu").fit_many(X, Y[:, 0], fits), 1) * 40
    report("17 shrinkages x 5 folds, 5,000 x 768, 40 labels, against 40 heads (one timed)", together, alone, None)


if __name__ == "__main__":
    print(machine())
    every = {f.__name__: f for f in (large, small, labels)}
    for name in sys.argv[1:] or every:
        every[name]()
