"""The whole process of `headwater fit-head`, against a plain scikit-learn script that does the same.

    python benchmarks/fit_head.py

8,000 stored rows of 768, nested: 5 outer x 4 inner folds x 17 penalties, patients kept whole. headwater also selects on
all rows and fits the head that it saves; the script does not. Then `headwater --help` against importing typer and rich.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from _timing import best, machine, report
from linear_sweep import features, scores

from headwater.embed import unique_texts
from headwater.store import BlockResult, FeatureSpec, Roles, create_store, hex_from_keys

SCRIPT = """
import warnings
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
warnings.simplefilter("ignore")
X = np.load("x.npy").astype(np.float32)
table = pl.read_csv("manifest.csv")
y, g = table["label"].to_numpy(), table["patient"].to_numpy()
aucs = []
for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(X, y, g):
    inner = list(StratifiedGroupKFold(4, shuffle=True, random_state=0).split(X[train], y[train], g[train]))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": np.logspace(-6, 2, 17)}
    search = GridSearchCV(model, grid, cv=inner, scoring="neg_log_loss", n_jobs=2).fit(X[train], y[train])
    aucs.append(roc_auc_score(y[test], search.predict_proba(X[test])[:, 1]))
print(np.mean(aucs))
"""


def make_store(folder: Path) -> None:
    """Write a store, and the same features as a .npy file beside a manifest."""
    X = features().astype(np.float16)
    y = (scores(X.astype(np.float32), 1)[:, 0] > 0).astype(int)
    patient = np.random.default_rng(2).integers(0, 82, len(X))
    table = pl.DataFrame({"id": [f"s{i}" for i in range(len(X))], "patient": patient, "label": y})
    table.write_csv(folder / "manifest.csv")
    np.save(folder / "x.npy", X)
    contents, _ = unique_texts(table["id"].to_list())
    keys = np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)
    store = create_store(folder / "a.hw")
    made = store.require_features("f/text", FeatureSpec(encoder="stub:768", modality="text", dim=768), len(X))
    with made.writing() as writer:
        for task in writer.plan(keys):
            writer.commit(task, BlockResult(task.rows, X[task.rows]))
    samples = table.with_columns(image_key=pl.lit(None, pl.String), text_key=pl.Series(hex_from_keys(keys)))
    store.write_samples(samples, Roles(id="id", image=None, text="id", root=str(folder)))


def main() -> None:
    print(machine())
    headwater = str(Path(sys.executable).with_name("headwater"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder)
        command = [headwater, "fit-head", "a.hw", "--features", "f/text", "--label", "label", "--groups", "patient"]

        def ours() -> None:
            shutil.rmtree(folder / "run", ignore_errors=True)
            done = subprocess.run([*command, "--out", "run"], cwd=folder, check=True, capture_output=True, text=True)
            print("  headwater:", next(line.strip() for line in done.stdout.splitlines() if "auc" in line))

        mine = best(ours, 3)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, check=True, capture_output=True, text=True)
        print("  scikit-learn: auc", done.stdout.strip())
        report("fit-head, whole process, nested", mine, time.perf_counter() - start, 12)
        code = "import sys, runpy; sys.argv = ['headwater', *sys.argv[1:]]\nfrom headwater.cli import main\n"
        code += "try: main()\nexcept SystemExit: pass\nprint('torch imported:', 'torch' in sys.modules)"
        seen = subprocess.run(
            [sys.executable, "-c", code, *command[1:]], cwd=folder, check=True, capture_output=True, text=True
        )
        print(" ", seen.stdout.splitlines()[-1])

    help_time = best(lambda: subprocess.run([headwater, "--help"], check=True, capture_output=True), 10)
    bare = best(lambda: subprocess.run([sys.executable, "-c", "import typer, rich.console"], check=True), 10)
    print(f"headwater --help: {help_time / bare:.2f} times importing typer and rich.console (at most 2.5)")


if __name__ == "__main__":
    main()
