"""20 XGBoost settings x 5 folds on 2,000 x 256, columns put into bins once a fold, against GridSearchCV.

    python benchmarks/boosting_sweep.py [--rows 2000] [--columns 256]

Both boost for the same rounds with the same parameters but for the bins of a column, without rows held out: headwater's
default is 64, XGBoost's 256 (``--max-bin 256`` for the same). Both fit two at once, on a thread each.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _timing import machine, report
from linear_sweep import features, scores
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from xgboost import XGBClassifier

from headwater.heads import XGBoost

ROUNDS = 50
SETTINGS = [{"max_depth": depth, "lr": lr} for depth in (2, 3, 4, 5) for lr in (0.02, 0.05, 0.1, 0.2, 0.3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--max-bin", type=int, default=XGBoost().max_bin)
    options = parser.parse_args()
    X = np.ascontiguousarray(features()[: options.rows, : options.columns])
    y = (scores(features(), 1)[: options.rows, 0] > 0).astype(int)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
    head = XGBoost(ROUNDS, colsample=0.5, patience=None, max_bin=options.max_bin)
    head.fit_many(X, y, [(splits[0][0], SETTINGS[0])])
    start = time.perf_counter()
    heads = head.fit_many(X, y, [(train, setting) for train, _ in splits for setting in SETTINGS])
    tests = [test for _, test in splits for _ in SETTINGS]
    chances = XGBoost.predict_proba_many(heads, X, tests)
    ours = time.perf_counter() - start
    mine = np.mean([np.mean(p.argmax(1) == y[test]) for p, test in zip(chances, tests, strict=True)])
    model = XGBClassifier(n_estimators=ROUNDS, colsample_bytree=0.5, tree_method="hist", n_jobs=1)
    grid = {"max_depth": [2, 3, 4, 5], "learning_rate": [0.02, 0.05, 0.1, 0.2, 0.3]}
    start = time.perf_counter()
    search = GridSearchCV(model, grid, cv=splits, n_jobs=2, refit=False).fit(X, y)
    theirs = time.perf_counter() - start
    print(machine())
    report(f"20 XGBoost settings x 5 folds, {options.rows} x {options.columns}", ours, theirs, 2)
    print(f"  mean accuracy {mine:.4f} against {search.cv_results_['mean_test_score'].mean():.4f}")


if __name__ == "__main__":
    main()
