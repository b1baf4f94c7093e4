"""Cox heads, 20 penalties x 5 folds x 4 inner folds on 5,000 x 512, against scikit-survival, on one core each.

    python benchmarks/cox.py [ridge] [newton] [net] [metrics]

``ridge`` compares with the path of ``CoxnetSurvivalAnalysis`` with almost no L1 penalty, ``newton`` with
``CoxPHSurvivalAnalysis``, and ``net`` the elastic net with the same path. Times have no ties, so that Efron's and
Breslow's likelihood are the same. What takes scikit-survival long is timed on a part and scaled; the printed line says
so. Objectives of one inner fold are compared in float64. ``metrics`` times 2,000 resamples of 1,000 patients.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from _timing import best, machine, report
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv
from threadpoolctl import threadpool_limits

from headwater._survival import log_partial_likelihood
from headwater.evaluate import inner_splits, make_splits
from headwater.evaluate._weightings import Weightings
from headwater.evaluate.survival import weighted
from headwater.heads import Cox

N, D = 5000, 512
CS = np.logspace(-5, 0, 20)


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with a power-law spectrum, and times of which about 40 % are censored."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((N, D)) * np.arange(1, D + 1) ** -0.7
    X = (U @ np.linalg.qr(rng.standard_normal((D, D)))[0]).astype(np.float32)
    Z = (X - X.mean(0)) / X.std(0)
    hazard = Z @ rng.standard_normal(D) / np.sqrt(D)
    time, until = rng.exponential(np.exp(-hazard)), rng.exponential(1.5, N)
    return X, np.column_stack([np.minimum(time, until), time <= until])


def inner_rows(y: np.ndarray) -> list[np.ndarray]:
    """Return the training rows of the inner folds of all outer folds."""
    outer = make_splits(y, n_folds=5, survival=True)
    return [
        split.train[inner.train] for split in outer for inner in inner_splits(y[split.train], None, 4, 0, survival=True)
    ]


def structured(y: np.ndarray) -> np.ndarray:
    return Surv.from_arrays(y[:, 1] > 0, y[:, 0])


def standardised(X: np.ndarray) -> np.ndarray:
    X = X.astype(np.float64)
    return (X - X.mean(0)) / X.std(0)


def path(X: np.ndarray, y: np.ndarray, l1_ratio: float, Cs: np.ndarray = CS) -> np.ndarray:
    """Return the weights of scikit-survival's path, of shape (d, n_penalties), the weakest penalty last."""
    model = CoxnetSurvivalAnalysis(alphas=1 / (Cs * len(y)), l1_ratio=l1_ratio, max_iter=100_000)
    return model.fit(standardised(X), structured(y)).coef_


def objective(Z: np.ndarray, y: np.ndarray, weights: np.ndarray, C: float, l1_ratio: float) -> float:
    penalty = (1 - l1_ratio) / 2 * weights @ weights + l1_ratio * np.abs(weights).sum()
    return float(-log_partial_likelihood(y, (Z @ weights)[None])[0] + penalty / C)


def compare(heads: list[Cox], X: np.ndarray, y: np.ndarray, theirs: np.ndarray, l1_ratio: float) -> None:
    """Print the largest excess of our objective over theirs on one inner fold."""
    Z, scale = standardised(X), X.astype(np.float64).std(0)
    excess = []
    for head, weights in zip(heads, theirs.T, strict=True):
        mine, other = (objective(Z, y, w, head.C, l1_ratio) for w in (head.coef_ * scale, weights))
        excess.append((mine - other) / other)
    print(
        f"  objective over scikit-survival's, largest of {len(heads)} penalties: {max(excess):+.1e} relative",
        flush=True,
    )


def ours(
    X: np.ndarray, y: np.ndarray, parts: list[np.ndarray], l1_ratio: float = 0.0, Cs: np.ndarray = CS
) -> tuple[list[Cox], float]:
    head = Cox(l1_ratio=l1_ratio, n_threads=1)
    start = time.perf_counter()
    heads = head.fit_many(X, y, [(part, {"C": float(C)}) for part in parts for C in Cs])
    return heads, time.perf_counter() - start


def ridge() -> None:
    X, y = rows()
    parts = inner_rows(y)
    heads, mine = ours(X, y, parts)
    start = time.perf_counter()
    for part in parts[:2]:
        theirs = path(X[part], y[part], 1e-6)
    other = (time.perf_counter() - start) * len(parts) / 2
    print("  scikit-survival timed on 2 of the 20 inner folds, times 10")
    report(f"{len(heads)} ridge fits, CoxnetSurvivalAnalysis", mine, other, 5)
    compare(heads[len(CS) : 2 * len(CS)], X[parts[1]], y[parts[1]], theirs, 0.0)


def newton() -> None:
    X, y = rows()
    parts = inner_rows(y)
    _, mine = ours(X, y, parts)
    Z, target = standardised(X[parts[0]]), structured(y[parts[0]])
    some = CS[[4, 15]]
    start = time.perf_counter()
    for C in some:
        CoxPHSurvivalAnalysis(alpha=1 / C, ties="efron").fit(Z, target)
    other = (time.perf_counter() - start) / len(some) * len(parts) * len(CS)
    print("  scikit-survival timed on 2 of the 400 fits, times 200")
    report("400 ridge fits, CoxPHSurvivalAnalysis", mine, other, 5)


def net() -> None:
    X, y = rows()
    parts = inner_rows(y)
    some = CS[8:]  # weaker penalties than those that leave out every column
    heads, mine = ours(X, y, parts[:2], 0.5, some)
    start = time.perf_counter()
    for part in parts[:2]:
        theirs = path(X[part], y[part], 0.5, some)
    report("2 inner folds x 12 penalties, elastic net", mine, time.perf_counter() - start, None)
    compare(heads[len(some) :], X[parts[1]], y[parts[1]], theirs, 0.5)


def metrics() -> None:
    n, draws = 1000, 2000
    rng = np.random.default_rng(0)
    risk = rng.standard_normal(n)
    time_of = rng.exponential(np.exp(-risk))
    y = np.column_stack([time_of + 0.01, rng.random(n) < 0.6])
    counts = rng.multinomial(n, [1 / n] * n, draws).astype(float)
    mine = best(lambda: weighted(y, risk, Weightings.of_rows(counts), ("c_index",)))

    def loop() -> None:
        for one in counts[:20]:
            r = np.repeat(np.arange(n), one.astype(int))
            concordance_index_censored(y[r, 1] > 0, y[r, 0], risk[r])

    print("  scikit-survival timed on 20 of the resamples, times 100")
    report("C of 2,000 resamples of 1,000 patients", mine, best(loop, 1) * draws / 20, None)


if __name__ == "__main__":
    print(machine())
    warnings.filterwarnings("ignore", category=FutureWarning)
    every = {f.__name__: f for f in (ridge, newton, net, metrics)}
    with threadpool_limits(1):
        for name in sys.argv[1:] or every:
            every[name]()
