"""64 MLP settings x 5 folds on 8,000 x 768, trained together, against a plain PyTorch loop, one after the other.

    python benchmarks/mlp_sweep.py [--hidden 256 ...] [--epochs 5] [--device cpu] [--settings 64] [--fold-by-fold]

The plain loop is the one of PyTorch's tutorials: a DataLoader over a TensorDataset, nn.Sequential, torch.optim.AdamW,
standardised once a fold. It is timed on a few of the networks and scaled. Both train for the same epochs, in the same
batches' size, without stopping early, and the accuracy on the test folds of both is printed.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from _timing import machine, medians, report
from linear_sweep import features, folds, scores
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from headwater.heads import MLP, mlp

SETTINGS = [
    {"lr": lr, "weight_decay": decay, "dropout": dropout}
    for lr in (1e-4, 3e-4, 1e-3, 3e-3)
    for decay in (1e-3, 1e-2, 1e-1, 1.0)
    for dropout in (0.0, 0.1, 0.3, 0.5)
]


def plain(X, y, train, test, hidden, epochs, batch_size, device, *, lr, weight_decay, dropout):
    """Train one network as PyTorch's tutorials do; return its accuracy on the test rows."""
    torch.manual_seed(0)
    mean, std = X[train].mean(0), X[train].std(0)
    Z = torch.from_numpy((X - mean) / std)
    labels = torch.from_numpy(y.astype(np.float32))
    layers, d = [], X.shape[1]
    for h in hidden:
        layers += [nn.Linear(d, h), nn.ReLU(), nn.Dropout(dropout)]
        d = h
    model = nn.Sequential(*layers, nn.Linear(d, 1)).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    loader = DataLoader(TensorDataset(Z[train], labels[train]), batch_size=batch_size, shuffle=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(loader))
    loss_of = nn.BCEWithLogitsLoss()
    for _ in range(epochs):
        for x, t in loader:
            optimiser.zero_grad()
            loss_of(model(x.to(device))[:, 0], t.to(device)).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        return float(((model(Z[test].to(device))[:, 0] > 0).cpu().numpy() == y[test]).mean())


def compare_folds(head, X, y, fits):
    """Print seconds of all folds in one model, and of one fold after the other, the middle of three runs each."""

    def with_room_for(n_bytes):
        def run():
            mlp.TOGETHER_ON_CPU = n_bytes
            head.fit_many(X, y, fits)

        return run

    rooms = {"together": 1 << 40, "by fold": 1, "usual": mlp.TOGETHER_ON_CPU}
    times = medians({name: with_room_for(n_bytes) for name, n_bytes in rooms.items()}, 3)
    words = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
    print(f"{machine()}\n  hidden {head.hidden}, {len(fits)} networks in 5 folds, {head.epochs} epochs: {words}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[256])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", type=int, default=64, help="how many of the 64")
    parser.add_argument("--fold-by-fold", action="store_true", help="also train one fold after the other, and compare")
    parser.add_argument("--timed", type=int, default=6, help="networks that the plain loop is timed on")
    options = parser.parse_args()
    settings = SETTINGS[:: len(SETTINGS) // options.settings][: options.settings]
    X = features()
    y = (scores(X, 1)[:, 0] > 0).astype(int)
    splits = folds(y)
    head = MLP(
        hidden=tuple(options.hidden),
        epochs=options.epochs,
        batch_size=options.batch_size,
        warmup=0.0,
        patience=None,
        device=options.device,
    )
    head.fit_many(X, y, [(splits[0][0], SETTINGS[0])])
    plain(X, y, *splits[0], options.hidden, 1, options.batch_size, options.device, **SETTINGS[0])
    start = time.perf_counter()
    fits = [(train, setting) for train, _ in splits for setting in settings]
    fitted = head.fit_many(X, y, fits)
    ours = time.perf_counter() - start
    if options.fold_by_fold:
        compare_folds(head, X, y, fits)
        return
    chosen = np.linspace(0, len(SETTINGS) * len(splits) - 1, options.timed).astype(int)
    start = time.perf_counter()
    theirs = [
        plain(
            X,
            y,
            *splits[i // 64],
            options.hidden,
            options.epochs,
            options.batch_size,
            options.device,
            **SETTINGS[i % 64],
        )
        for i in chosen.tolist()
    ]
    seconds = (time.perf_counter() - start) * len(SETTINGS) * len(splits) / options.timed
    print(machine())
    print(
        f"  hidden {options.hidden}, {options.epochs} epochs; the plain loop timed on {options.timed} of 320 networks"
    )
    report("64 MLP settings x 5 folds", ours, seconds, 5 if options.device == "cpu" else 30)
    mine = [np.mean(fitted[i].predict(X[splits[i // 64][1]]) == y[splits[i // 64][1]]) for i in chosen]
    print(f"  accuracy of these: {np.mean(mine):.4f} against {np.mean(theirs):.4f}")


if __name__ == "__main__":
    main()
