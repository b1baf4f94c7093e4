"""Whether what is asked for on training patients is reached on new ones, who are kept whole by `--per` alone.

    python benchmarks/new_patients.py [DATA_SETS]

Each data set has 80 patients with four images each, which look alike within a patient; half of the patients are new.
With noise there is nothing to learn, and with a signal the label shows dimly. `fit-head` is asked for a sensitivity of
0.9 and for prediction sets that miss a tenth, with `--per patient` and no groups. Counted is what the new patients
give, on average over data sets: of images, and of patients.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

import headwater as hw

N_PATIENTS, N_IMAGES, N_COLUMNS = 80, 4, 16
SIGNALS = {"noise": 0.0, "signal": 0.5}
COUNTED = ("AUC", "sensitivity", "coverage", "AUC of patients", "sensitivity of patients", "coverage of patients")


def stored(folder: Path, signal: float, seed: int) -> Path:
    """Write a store of one data set, and return where it is."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(N_PATIENTS), N_IMAGES)
    label = rng.permutation(np.arange(N_PATIENTS) % 2)
    look = rng.standard_normal((N_PATIENTS, N_COLUMNS)) + signal * (label[:, None] - 0.5)
    X = look[patient] + 0.3 * rng.standard_normal((len(patient), N_COLUMNS))
    table = pl.DataFrame(
        {
            "id": [f"s{i}" for i in range(len(patient))],
            "patient": patient,
            "label": np.array(["benign", "malignant"])[label[patient]],
            "part": np.array(["train", "test"])[(patient % 4 // 2)],
        }
    )
    table.write_csv(folder / f"{seed}.csv")
    np.save(folder / f"{seed}.npy", X.astype(np.float32))
    path = folder / f"{seed}.hw"
    hw.import_features(folder / f"{seed}.npy", path, table=folder / f"{seed}.csv", name="made", id="id")
    return path


def reached(signal: float, n_sets: int) -> dict[str, float]:
    """Return what new images and patients give, mean over data sets."""
    with tempfile.TemporaryDirectory() as folder:
        found = [dict(_of(stored(Path(folder), signal, seed))) for seed in range(n_sets)]
    return {name: float(np.mean([one[name] for one in found])) for name in COUNTED}


def _of(store: Path) -> Iterator[tuple[str, float]]:
    run = hw.fit_head(
        store,
        features="made/image",
        label="label",
        groups="none",
        per="patient",
        split="part",
        sensitivity=0.9,
        conformal=0.1,
    )
    for what, part in (("", run.metrics), (" of patients", run.metrics["per"])):
        yield f"AUC{what}", part["mean"]["auc"]
        yield f"sensitivity{what}", part["threshold"]["mean"]["sensitivity"]
        yield f"coverage{what}", part["conformal"]["mean"]["coverage"]


def main() -> None:
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print(f"on new patients, mean over {n_sets} data sets\n")
    print(f"| | {' | '.join(COUNTED)} |\n|{'---|' * (1 + len(COUNTED))}")
    for name, signal in SIGNALS.items():
        found = reached(signal, n_sets)
        print(f"| {name} | {' | '.join(f'{found[c]:.3f}' for c in COUNTED)} |", flush=True)


if __name__ == "__main__":
    main()
