"""What folds that keep patients whole report, against folds that do not, on real sets.

    python benchmarks/grouped.py ../shared/data

A linear probe on MobileNetV2's features with ImageNet weights (fp32), 17 penalties chosen inside the training rows,
five folds. The reference of each row is scikit-learn's ``LogisticRegression`` on the same features, selected in the
same way over folds of its own; it is listed, with the sets, in the README beside them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from _timing import machine

import headwater as hw

NAME = "mobilenetv2_100/image"
ROWS = (
    ("mini_mias", "density", "patient", None, (0.693, 0.846), (0.724, 0.860)),
    ("glas", "label", "patient", None, (0.888, 0.975), (0.939, 0.984)),
    ("lc25000_lung", "label", "source_tile", None, (0.932, 0.986), (0.968, 0.997)),
    ("covid_cxr", "covid", "patient", "modality = 'X-ray'", (0.801, 0.543), (0.794, 0.667)),
)


def main() -> None:
    data = Path(sys.argv[1])
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for name, label, group, where, *expected in ROWS:
            manifest = data / name / "manifest.csv"
            if label == "covid":
                manifest = with_covid(manifest, Path(folder))
            store = hw.embed(
                manifest,
                Path(folder) / f"{name}.hw",
                encoder="timm:mobilenetv2_100",
                weights=data / "weights" / "mobilenetv2_100.safetensors",
                precision="fp32",
                device="cpu",
            )
            for groups, (accuracy, auc) in zip((group, "none"), expected, strict=True):
                reason = "measured beside folds that keep groups whole" if groups == "none" else None
                run = hw.fit_head(
                    store, features=NAME, label=label, groups=groups, where=where, folds=5, allow_leakage=reason
                )
                print(
                    f"  {name:13} {groups:12} accuracy {run.mean['accuracy']:.3f} (reference {accuracy:.3f})  "
                    f"AUC {run.mean['auc']:.3f} (reference {auc:.3f})",
                    flush=True,
                )


def with_covid(manifest: Path, folder: Path) -> Path:
    """Write the manifest anew with whether the finding names COVID-19."""
    import polars as pl

    table = pl.read_csv(manifest, infer_schema_length=None)
    found = pl.col("finding").str.contains("COVID-19")
    image = str(manifest.parent.resolve()) + "/" + pl.col("image")
    path = folder / "covid.csv"
    table.with_columns(covid=pl.when(found).then(pl.lit("yes")).otherwise(pl.lit("no")), image=image).write_csv(path)
    return path


if __name__ == "__main__":
    main()
