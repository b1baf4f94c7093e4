"""Linear sweep, 20 penalties x 5 patient folds on 8,000 x 768, against scikit-learn's grid search.

    python benchmarks/linear_sweep.py [binary|tight|multiclass|multilabel|nested|large ...]

Objectives of every fold and penalty are compared, in float64, on the standardised training rows. What scikit-learn
needs minutes to hours for is timed on a part of the sweep and scaled; the printed line says so.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings

import numpy as np
from _timing import machine, report, take_turns
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.model_selection import cross_validate as sklearn_cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headwater.evaluate import cross_validate, make_splits
from headwater.heads import LinearProbe

N, D, N_PATIENTS, N_FOLDS = 8000, 768, 82, 5
CS = np.logspace(-6, 2, 20)
EVERY = range(len(CS))


def features(seed: int = 0) -> np.ndarray:
    """Correlated features: a power-law spectrum in a random basis."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((N, D)) * np.arange(1, D + 1) ** -0.7
    return (U @ np.linalg.qr(rng.standard_normal((D, D)))[0]).astype(np.float32)


def scores(X: np.ndarray, k: int, seed: int = 1) -> np.ndarray:
    """Noisy linear scores for k outputs, of shape (n, k)."""
    rng = np.random.default_rng(seed)
    Z = (X - X.mean(0)) / X.std(0)
    return Z @ rng.standard_normal((D, k)) / np.sqrt(D) + 0.5 * rng.standard_normal((N, k))


def folds(y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    patients = np.random.default_rng(2).integers(0, N_PATIENTS, N)
    return list(StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=0).split(np.zeros(N), y, patients))


def objective(Z: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, C: float) -> float:
    """scikit-learn's objective in float64; coef is for the standardised Z."""
    logits = Z @ coef.T.astype(np.float64) + intercept
    if len(coef) == 1:
        loss = np.logaddexp(0, -np.where(y == 1, 1, -1) * logits[:, 0]).sum()
    else:
        top = logits.max(1)
        loss = (np.log(np.exp(logits - top[:, None]).sum(1)) + top - logits[np.arange(len(y)), y]).sum()
    return float(C * loss + 0.5 * (coef.astype(np.float64) ** 2).sum())


def compare_objectives(X, y, splits, heads, tol: float, some=EVERY, dtype=np.float32) -> float:
    """Return the largest relative excess of our objective over scikit-learn's, over the first fold's penalties."""
    train = splits[0][0]
    scaler = StandardScaler().fit(X[train].astype(np.float64))
    Z = scaler.transform(X[train].astype(np.float64))
    worst = -np.inf
    for i in some:
        model = LogisticRegression(C=CS[i], tol=tol, max_iter=1000 if tol > 1e-6 else 20_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(Z.astype(dtype), y[train])
        theirs = objective(Z, y[train], model.coef_, model.intercept_, CS[i])
        head = heads[i]
        ours = objective(Z, y[train], head.coef_ * scaler.scale_, head.intercept_ + head.coef_ @ scaler.mean_, CS[i])
        worst = max(worst, (ours - theirs) / theirs)
    return worst


def fits_of(splits):
    return [(train, {"C": float(C)}) for train, _ in splits for C in CS]


def grid_search(X, y, splits, tol: float, some=CS, max_iter: int = 1000):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=max_iter, tol=tol))
    search = GridSearchCV(model, {"logisticregression__C": list(some)}, cv=splits, n_jobs=2, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(X, y)


def binary() -> None:
    X = features()
    y = (scores(X, 1)[:, 0] > 0).astype(int)
    splits = folds(y)
    probe = LinearProbe()
    probe.fit_many(X, y, fits_of(splits))
    ours, theirs = take_turns(
        lambda: probe.fit_many(X, y, fits_of(splits)), lambda: grid_search(X, y, splits, 1e-4), repeats=3
    )
    report("binary, scikit-learn at its default tolerance", ours, theirs, 25)
    excess = compare_objectives(X, y, splits, probe.fit_many(X, y, fits_of(splits)), 1e-4)
    print(f"  objective over scikit-learn's, largest of 20 penalties: {excess:+.1e} relative (at most 0)", flush=True)


def tight() -> None:
    """To objectives that agree to 1e-6, which scikit-learn reaches on float64 rows only."""
    X = features()
    y = (scores(X, 1)[:, 0] > 0).astype(int)
    splits = folds(y)
    probe = LinearProbe(tol=1e-8)
    some = [0, 4, 8, 12, 16, 19]
    print("  scikit-learn timed on 6 of the 20 penalties, times 20 / 6")
    for rows, wanted in ((X.astype(np.float64), 100), (X, None)):
        ours, theirs = take_turns(
            lambda: probe.fit_many(X, y, fits_of(splits)),
            lambda rows=rows: grid_search(rows, y, splits, 1e-8, CS[some], max_iter=20_000),
            repeats=1,
        )
        report(f"binary, scikit-learn at tol 1e-8, {rows.dtype}", ours, theirs * len(CS) / len(some), wanted)
    heads = probe.fit_many(X, y, fits_of(splits))
    for dtype in (np.float64, np.float32):
        excess = compare_objectives(X, y, splits, heads, 1e-8, some, dtype)
        print(f"  objective over scikit-learn's in {dtype.__name__}, largest of 6 penalties: {excess:+.1e} relative")


def multiclass() -> None:
    X = features()
    y = scores(X, 8).argmax(1)
    splits = folds(y)
    probe = LinearProbe()
    some = CS[[0, 6, 12, 19]]
    ours, theirs = take_turns(
        lambda: probe.fit_many(X, y, fits_of(splits)), lambda: grid_search(X, y, splits, 1e-4, some), repeats=1
    )
    print("  scikit-learn timed on 4 of the 20 penalties, times 20 / 4")
    report("8 classes, scikit-learn at its default tolerance", ours, theirs * len(CS) / len(some), 25)
    heads = probe.fit_many(X, y, fits_of(splits))
    excess = compare_objectives(X, y, splits, heads, 1e-4, some=(0, 6, 12, 19))
    print(f"  objective over scikit-learn's, largest of 4 penalties: {excess:+.1e} relative (at most 0)", flush=True)


def multilabel() -> None:
    X = features()
    Y = (scores(X, 40) > 0.8).astype(int)
    splits = folds(Y[:, 0])
    probe = LinearProbe()
    start = time.perf_counter()
    probe.fit_many(X, Y, fits_of(splits))
    ours = time.perf_counter() - start
    some = CS[[0, 10, 19]]

    def one(train: np.ndarray, C: float) -> None:
        model = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=C, max_iter=1000)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X[train], Y[train][:, :4])

    start = time.perf_counter()
    Parallel(n_jobs=2)(delayed(one)(train, C) for train, _ in splits[:2] for C in some)
    theirs = (time.perf_counter() - start) * (len(CS) / len(some)) * (N_FOLDS / 2) * (40 / 4)
    print("  scikit-learn timed on 3 penalties, 2 folds and 4 labels, times 20 / 3 x 5 / 2 x 40 / 4")
    report("40 labels, OneVsRestClassifier", ours, theirs, 25)


def nested() -> None:
    """Select among 20 penalties on 4 inner folds of each of 5 outer folds, refit and score: the whole protocol."""
    X = features()
    y = (scores(X, 1)[:, 0] > 0).astype(int)
    splits = make_splits(y, n_folds=N_FOLDS)
    outer = [(split.train, split.test) for split in splits]
    grid = [{"C": float(C)} for C in CS]
    found = {}

    def ours() -> None:
        found["ours"] = cross_validate(LinearProbe(), X, y, splits, grid=grid, n_inner_folds=4).mean["log_loss"]

    def theirs() -> None:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        inner = StratifiedKFold(4, shuffle=True, random_state=0)
        search = GridSearchCV(model, {"logisticregression__C": list(CS)}, cv=inner, scoring="neg_log_loss")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            scored = sklearn_cross_validate(search, X, y, cv=outer, scoring="neg_log_loss", n_jobs=2)
        found["theirs"] = -scored["test_score"].mean()

    ours()
    report("nested, 5 x 4 x 20 and refits, cross_validate(GridSearchCV)", *take_turns(ours, theirs, repeats=1), 25)
    print(f"  log loss {found['ours']:.4f} against {found['theirs']:.4f}; ours also fits a head on all rows")


def large() -> None:
    """45 penalties x 5 folds on 100,000 x 1,024; scikit-learn on a tenth of the rows, times ten."""
    n, d = 100_000, 1024
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), np.float32) * np.arange(1, d + 1, dtype=np.float32) ** -0.5
    y = (X @ rng.standard_normal(d).astype(np.float32) + rng.standard_normal(n) > 0).astype(int)
    Cs = np.logspace(-6, 2, 45)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(np.zeros(n), y))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    LinearProbe().fit_many(X, y, [(train, {"C": float(C)}) for train, _ in splits for C in Cs])
    ours = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    some = np.arange(0, n, 10)
    part = list(StratifiedKFold(5, shuffle=True, random_state=0).split(np.zeros(len(some)), y[some]))
    start = time.perf_counter()
    grid_search(X[some], y[some], part, 1e-4, Cs)
    report("45 penalties x 5 folds, 100,000 x 1,024", ours, 10 * (time.perf_counter() - start), 25)
    print(f"  memory grew by {grown / X.nbytes:.2f} times the features, whatever the penalties and folds")


if __name__ == "__main__":
    print(machine())
    every = {f.__name__: f for f in (binary, tight, multiclass, multilabel, nested, large)}
    for name in sys.argv[1:] or every:
        every[name]()
