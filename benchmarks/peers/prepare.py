"""Write what all tools read: the images with their folds, the weights, a dual encoder, and tar files."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

HERE = Path(__file__).parent
FOLDS = 5
SHARDS = 2
TEMPLATES = ["a histology image of {}", "{} of the lung", "H&E stain, {}"]


def prepare(work: Path, source: Path, n_images: int | None = None) -> Path:
    """Write the folder ``data`` of the work folder, unless it is whole; return it.

    ``manifest.csv`` has the columns of the source, ``fold`` (the five outer folds that headwater makes of source tiles)
    and ``split``: fold 0 tests, fold 1 validates, the others train. With ``n_images``, about that many are used.
    """
    folder = work / "data"
    if (folder / "whole").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "images").mkdir()
    with (source / "lc25000_lung" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: max(1, len(rows) // (n_images or len(rows)))]
    y = np.array([row["label"] for row in rows])
    groups = np.array([row["source_tile"] for row in rows])
    for fold, (_, test) in enumerate(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(y, y, groups)):
        for index in test:
            rows[index] |= {"fold": str(fold), "split": part(fold, 0)}
    for row in rows:
        shutil.copyfile(source / "lc25000_lung" / row["image"], folder / row["image"])
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    strip_weights(source / "weights" / "mobilenetv2_100.safetensors", folder / "mobilenetv2.safetensors")
    subprocess.run(
        [sys.executable, HERE / "make_clip.py", manifest, folder / "mobilenetv2.safetensors", folder / "clip"],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # on a busy machine, threads wait for each other
    )
    classes = sorted(set(y))
    words = [f'"{name}" = ["{name}"]' for name in classes]
    (folder / "prompts.toml").write_text(f"templates = {TEMPLATES}\n\n[classes]\n" + "\n".join(words) + "\n")
    tar_files(folder)
    (folder / "whole").touch()
    return folder


def part(fold: int, tested: int) -> str:
    """Return what a fold is for when another is tested."""
    return {0: "test", 1: "val"}.get((fold - tested) % FOLDS, "train")


def strip_weights(source: Path, target: Path) -> None:
    """Copy the weights without the classifier, since eva refuses tensors that the encoder does not have."""
    from safetensors.torch import load_file, save_file

    save_file({k: v for k, v in load_file(source).items() if not k.startswith("classifier")}, target)


def tar_files(folder: Path) -> None:
    """Write data sets in the form that CLIP_benchmark reads: all images, and one for each tested fold."""
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    shutil.rmtree(folder / "wds", ignore_errors=True)
    for name in ["all", *(f"lung{tested}" for tested in range(FOLDS))]:
        root = folder / "wds" / name
        splits: dict[str, list[dict[str, str]]] = (
            {"test": rows} if name == "all" else {"train": [], "val": [], "test": []}
        )
        if name != "all":
            for row in rows:
                splits[part(int(row["fold"]), int(name[4:]))].append(row)
        for split, members in splits.items():
            (root / split).mkdir(parents=True)
            (root / split / "nshards.txt").write_text(str(SHARDS))
            for shard in range(SHARDS):
                with tarfile.open(root / split / f"{shard}.tar", "w") as tar:
                    for row in members[shard::SHARDS]:
                        add(tar, f"{row['id']}.jpg", (folder / row["image"]).read_bytes())
                        add(tar, f"{row['id']}.cls", str(classes.index(row["label"])).encode())
        (root / "classnames.txt").write_text("\n".join(classes) + "\n")
        words = "\n".join(template.replace("{}", "{c}") for template in TEMPLATES)
        (root / "zeroshot_classification_templates.txt").write_text(words + "\n")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar file."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
