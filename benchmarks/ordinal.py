"""A sweep of proportional odds for grades, against statsmodels' OrderedModel with the same penalty.

    python benchmarks/ordinal.py [ROWS] [COLUMNS]

5 folds x 4 inner folds x 20 penalties, and one fit of each fold with its best penalty. statsmodels fits one model at a
time, in float64, standardised on its training rows, by L-BFGS with the analytic gradient of the same log-likelihood
(OrderedModel has no penalty, and its own gradient takes a numerical derivative for each column: `--plain` times one
such fit too). Its time is measured on a part of the fits, spread over folds and penalties, and scaled.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold
from statsmodels.miscmodels.ordinal_model import OrderedModel

from headwater.heads import Ordinal

PENALTIES = [float(C) for C in np.logspace(-5, 1, 20)]
TIMED = 10  # fits of statsmodels


def made(n: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw correlated columns, and four grades that follow a part of them."""
    X = rng.standard_normal((n, d)) @ (np.eye(d) + 0.3 * rng.standard_normal((d, d)) / d**0.5)
    latent = X[:, :40] @ rng.standard_normal(40) / 4
    return X.astype(np.float32), np.digitize(latent + rng.logistic(size=n), np.quantile(latent, [0.2, 0.6, 0.9]))


class Penalised(OrderedModel):
    """OrderedModel whose log-likelihood has the penalty ``‖w‖² / (2 C)``, with its analytic gradient."""

    C = 1.0

    def loglike(self, params: np.ndarray) -> float:
        w = params[: self.k_vars]
        return float(super().loglike(params) - w @ w / (2 * self.C))

    def score(self, params: np.ndarray) -> np.ndarray:
        d = self.k_vars
        eta, ends = self.exog @ params[:d], self.transform_threshold_params(params)
        above, below = ends[self.endog + 1] - eta, ends[self.endog] - eta
        p = np.maximum(expit(above) - expit(below), 1e-300)
        up, down = (expit(z) * expit(-z) / p for z in (above, below))
        of_ends = np.bincount(self.endog + 1, up, len(ends)) - np.bincount(self.endog, down, len(ends))
        inner = of_ends[1:-1]
        steps = np.concatenate([[1.0], np.exp(params[d + 1 :])])
        return np.concatenate([self.exog.T @ (down - up) - params[:d] / self.C, inner[::-1].cumsum()[::-1] * steps])


def fitted(X: np.ndarray, y: np.ndarray, C: float) -> tuple[float, float]:
    """Fit statsmodels' model; return seconds, and the objective ``C * sum of losses + ‖w‖² / 2``."""
    began = time.perf_counter()
    Z = X.astype(np.float64)
    Z = (Z - Z.mean(0)) / Z.std(0)
    model = Penalised(y, Z, distr="logit")
    model.C = C
    found = model.fit(method="lbfgs", disp=0, maxiter=2000, skip_hessian=True, pgtol=1e-5, factr=1e7)
    return time.perf_counter() - began, -C * model.loglike(found.params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=5000)
    parser.add_argument("columns", type=int, nargs="?", default=512)
    parser.add_argument("--plain", action="store_true", help="also time one fit of OrderedModel by itself")
    asked = parser.parse_args()
    X, y = made(asked.rows, asked.columns, np.random.default_rng(0))
    outer = [train for train, _ in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y)]
    inner = [
        rows[train]
        for rows in outer
        for train, _ in StratifiedKFold(4, shuffle=True, random_state=0).split(rows, y[rows])
    ]
    fits = [(rows, {"C": C}) for rows in inner for C in PENALTIES]
    Ordinal().fit_many(X[:500], y[:500], [(np.arange(400), {"C": 1.0})])  # imports

    began = time.perf_counter()
    heads = Ordinal(tol=1e-6).fit_many(X, y, fits)
    heads += Ordinal(tol=1e-6).fit_many(X, y, [(rows, {"C": 0.01}) for rows in outer])
    ours = time.perf_counter() - began
    fits += [(rows, {"C": 0.01}) for rows in outer]

    chosen = np.linspace(0, len(fits) - 1, TIMED).round().astype(int)
    taken, apart = [], []
    for i in chosen:
        rows, params = fits[i]
        seconds, objective = fitted(X[rows], y[rows], params["C"])
        constant = -params["C"] * sum(n * np.log(n / len(rows)) for n in np.bincount(y[rows]))
        taken.append(seconds)
        apart.append((heads[i].objective_ - objective) / constant)
    theirs = float(np.mean(taken)) * len(fits)
    print(f"{asked.rows:,} x {asked.columns}, 4 grades, {len(fits)} fits")
    print(f"headwater {ours:.1f} s, statsmodels {theirs:.0f} s (timed on {TIMED}): {theirs / ours:.0f}x")
    share = "share of that of constant predictions"
    print(f"objective minus statsmodels', as a {share}: from {min(apart):.1e} to {max(apart):.1e}")
    if asked.plain:
        Z = X[inner[0]].astype(np.float64)
        began = time.perf_counter()
        OrderedModel(y[inner[0]], (Z - Z.mean(0)) / Z.std(0), distr="logit").fit(
            method="bfgs", disp=0, skip_hessian=True
        )
        print(f"OrderedModel by itself, one fit without a penalty: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
