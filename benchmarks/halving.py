"""Selection with successive halving: a nested perceptron against a plain PyTorch loop, and a sweep with and without.

    python benchmarks/halving.py nested [--columns 768] [--timed 12]
    python benchmarks/halving.py sweep --data shared/data/covid_cxr
    python benchmarks/halving.py right [--sets 40] [--first 0] [--kinds wide weak narrow "four classes" noise]

``nested``: 12 settings on 360 rows of two inputs, 3 folds of 4 inner folds, as a whole process, with halving and
without, against the loop of PyTorch's tutorials with the same rows, settings, early stopping and best parameters kept.
The loop is timed on the 12 settings of as many inner folds as ``--timed`` asks for, and scaled to all networks.

``sweep``: linear, prototypes, mlp, xgboost and co-attention on chest radiographs and their notes. Settings of mlp and
co-attention are halved.

``right``: held-out log loss of both on made sets, and the nested AUC on sets of noise.
"""

from __future__ import annotations

import argparse
import copy
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _timing import machine, report

ROWS, FOLDS, INNER = 360, 3, 4
SETTINGS = [
    {"lr": lr, "weight_decay": decay, "dropout": dropout}
    for lr in (1e-4, 1e-3, 1e-2)
    for decay in (1e-2, 1.0)
    for dropout in (0.0, 0.5)
]


def made(columns):
    """Return two inputs of patients with three rows each, and their labels and patients."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, ROWS // 3).repeat(3)
    strengths = {"image": 0.12, "text": 0.06}
    X = {
        name: (rng.standard_normal((ROWS, columns)) + of * rng.standard_normal(columns) * y[:, None]).astype(np.float32)
        for name, of in strengths.items()
    }
    return X, y, np.arange(ROWS) // 3


def nested(columns, halving):
    """Select, fit and test; what the timed process does."""
    from headwater.evaluate import cross_validate, make_splits
    from headwater.heads import MLP

    X, y, groups = made(columns)
    splits = make_splits(y, groups=groups, n_folds=FOLDS)
    found = cross_validate(MLP(), X, y, splits, grid=SETTINGS, groups=groups, n_inner_folds=INNER, halving=halving)
    print(f"log loss {found.mean['log_loss']:.4f}, AUC {found.mean['auc']:.4f}")


def plain(Z, y, train, stop, *, lr, weight_decay, dropout):
    """Train one network as PyTorch's tutorials do, with early stopping; return the number of its epochs."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(Z.shape[1], 512), nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    loader = DataLoader(TensorDataset(Z[train], y[train]), batch_size=256, shuffle=True)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, 0.1, total_iters=len(loader))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 99 * len(loader))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [warm, cosine], [len(loader)])
    loss_of = nn.BCEWithLogitsLoss()
    best, least, since = None, np.inf, 0
    for _epoch in range(100):
        model.train()
        for x, t in loader:
            optimiser.zero_grad()
            loss_of(model(x)[:, 0], t).backward()
            optimiser.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            loss = float(loss_of(model(Z[stop])[:, 0], y[stop]))
        since += 1
        if loss < least:
            best, least, since = copy.deepcopy(model.state_dict()), loss, 0
        elif since >= 10:
            break
    model.load_state_dict(best)
    return _epoch + 1


def run_nested(columns, timed):
    import torch

    from headwater.evaluate import inner_splits, make_splits
    from headwater.heads._stopping import rows_to_stop_by

    def ours(*words):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, __file__, "process", "--columns", str(columns), *words], check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        computed = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(f"  {words or 'halving'}: {computed:.1f} s of computing", flush=True)
        return np.array([time.perf_counter() - start, computed]), done.stdout.decode().strip()

    with_halving, said = ours()
    without, said_without = ours("--no-halving")
    X, y, groups = made(columns)
    joined = np.concatenate(list(X.values()), 1)
    rows = make_splits(y, groups=groups, n_folds=FOLDS)[0].train
    inner = inner_splits(y[rows], groups[rows], INNER, 0)
    targets = torch.from_numpy(y.astype(np.float32))
    epochs, start = [], np.array([time.perf_counter(), time.process_time()])
    for number in range(timed):
        inside = rows[inner[number // len(SETTINGS) % INNER].train]
        stop = inside[rows_to_stop_by(y[inside], groups[inside], 0.15, 0)]
        train = np.setdiff1d(inside, stop)
        Z = torch.from_numpy((joined - joined[train].mean(0)) / joined[train].std(0))
        epochs.append(plain(Z, targets, train, stop, **SETTINGS[number % len(SETTINGS)]))
    n = (FOLDS + 1) * (INNER * len(SETTINGS) + 1)
    theirs = (np.array([time.perf_counter(), time.process_time()]) - start) * n / timed
    print(machine(), f"{torch.get_num_threads()} threads")
    print(f"  plain loop timed on {timed} of {n} networks, {np.mean(epochs):.0f} epochs each")
    for i, what in enumerate(("whole process", "seconds of computing, on cores that others use too")):
        report(f"nested perceptron, 12 settings, {ROWS} rows of 2 x {columns}, {what}", with_halving[i], theirs[i], 15)
        report("the same with halving off", without[i], theirs[i], None)
    print(f"  {said}; with halving off {said_without}")


def run_sweep(data):
    import torch  # noqa: F401  # so that neither side pays for loading it
    import xgboost  # noqa: F401
    from grouped import with_covid

    import headwater as hw

    with tempfile.TemporaryDirectory() as folder:
        store, manifest = Path(folder) / "covid.hw", with_covid(data / "manifest.csv", Path(folder))
        for encoder in ("builtin:texture", "builtin:ngram"):
            hw.embed(manifest, store, encoder=encoder, text="notes")
        times, lines = {}, {}
        for halving in (True, False):
            start = np.array([time.perf_counter(), time.process_time()])
            done = hw.sweep(
                store,
                features=["texture/image:pooled+ngram/text:pooled"],
                heads=["linear", "prototypes", "mlp", "xgboost", "co-attention"],
                params={"co-attention": {"lr": [1e-4, 5e-4, 2e-3], "dropout": [0.1, 0.3]}},
                label="covid",
                allow_leakage="notes may name the finding; both sides have them",
                groups="patient",
                halving=halving,
                out=Path(folder) / str(halving),
            )
            times[halving] = np.array([time.perf_counter(), time.process_time()]) - start
            picked = done.found["picked"]
            lines[halving] = (
                f"picked {picked['cells']}: AUC {picked['mean']['auc']:.4f} ± {picked['std']['auc']:.4f}, "
                f"log loss {picked['mean']['log_loss']:.4f} ± {picked['std']['log_loss']:.4f}"
            )
    print(machine())
    for i, what in enumerate(("whole sweep", "seconds of computing, on cores that others use too")):
        report(f"sweep of five heads on radiographs and notes, {what}", times[True][i], times[False][i], 2.5)
    print(f"  {lines[True]}\n  with halving off {lines[False]}")


def run_right(sets, first, only):
    from headwater.evaluate import cross_validate, make_splits
    from headwater.heads import MLP

    kinds = {  # columns, classes, strength
        "wide": (256, 2, 0.25),
        "weak": (256, 2, 0.07),
        "narrow": (8, 2, 0.5),
        "four classes": (64, 4, 0.5),
        "noise": (32, 2, 0.0),
    }
    print(machine())
    for kind in only or kinds:
        columns, classes, strength = kinds[kind]
        found = {True: [], False: []}
        for seed in range(first, first + sets):
            rng = np.random.default_rng(seed)
            y = rng.permutation(np.arange(240) % classes)
            X = rng.standard_normal((240, columns)) + strength * rng.standard_normal((classes, columns))[y]
            splits = make_splits(y, n_folds=3, seed=seed)
            for halving, outcomes in found.items():
                head = MLP(hidden=(64,), seed=seed)
                outcome = cross_validate(
                    head, X.astype(np.float32), y, splits, grid=SETTINGS, seed=seed, halving=halving
                )
                outcomes.append([outcome.mean["log_loss"], outcome.mean["auc"]])
        on, off = np.array(found[True]), np.array(found[False])
        loss, auc = (on - off).T
        print(
            f"{kind}: log loss {on[:, 0].mean():.4f} against {off[:, 0].mean():.4f} with halving off, difference "
            f"{loss.mean():+.4f} ± {loss.std(ddof=1) / sets**0.5:.4f}; AUC {on[:, 1].mean():.4f} ± "
            f"{on[:, 1].std(ddof=1) / sets**0.5:.4f} against {off[:, 1].mean():.4f}, difference {auc.mean():+.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["nested", "sweep", "right", "process"])
    parser.add_argument("--columns", type=int, default=768, help="of each of the two inputs")
    parser.add_argument("--timed", type=int, default=12, help="networks that the plain loop is timed on")
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first set")
    parser.add_argument("--kinds", nargs="*", help="of sets; all by default")
    parser.add_argument("--data", type=Path, default=Path("shared/data/covid_cxr"))
    parser.add_argument("--no-halving", action="store_true")
    options = parser.parse_args()
    if options.part == "process":
        nested(options.columns, not options.no_halving)
    elif options.part == "nested":
        run_nested(options.columns, options.timed)
    elif options.part == "sweep":
        run_sweep(options.data)
    else:
        run_right(options.sets, options.first, options.kinds)


if __name__ == "__main__":
    main()
