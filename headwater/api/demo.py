"""demo: the whole of it, on images made on the spot, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headwater.api._numbers import plus_minus
from headwater.api.embed import embed
from headwater.api.fit import fit_head
from headwater.api.run import Run
from headwater.api.similar import Hit, similar
from headwater.errors import InputError
from headwater.sources.synthetic import make_histology

INPUTS = {
    "image": ["texture/image"],
    "text": ["ngram/text"],
    "image + text": ["texture/image", "ngram/text"],
}


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made: where it lies, a run for each kind of input, and similar cases of one sample."""

    out: Path
    runs: dict[str, Run]
    query: str
    query_label: str
    hits: list[Hit]

    def lines(self) -> list[str]:
        """Return the table a newcomer reads."""
        first = next(iter(self.runs.values())).metrics
        out = [
            f"Benign or malignant? {first['n_samples']} synthetic histology images, "
            f"{len(first['folds'])} folds that keep each patient whole:",
            "",
            f"  {'features':<14}{'accuracy':>16}{'F1':>16}{'AUC':>16}",
        ]
        for name, run in self.runs.items():
            cells = [plus_minus(run.mean, run.std, m) for m in ("accuracy", "f1_macro", "auc")]
            out.append(f"  {name:<14}" + "".join(f"{cell:>16}" for cell in cells))
        same = sum(hit.row["label"] == self.query_label for hit in self.hits)
        out += [
            "",
            f"Most similar to {self.query} ({self.query_label}) in other patients: "
            f"{same} of {len(self.hits)} are {self.query_label} too.",
        ]
        out += [f"  {hit.rank}. {hit.id}  {hit.score:.3f}  {hit.row['label']}" for hit in self.hits[:3]]
        return out


def demo(
    out: str | Path, *, n_patients: int = 24, seed: int = 0, progress: Callable[[str], None] | None = None
) -> DemoResult:
    """Make a small histology set, embed its images and captions, fit heads, and look for similar cases.

    Parameters
    ----------
    out
        The folder to write to: ``images/``, ``manifest.csv``, ``demo.hw`` and ``runs/``. One that this made earlier
        is made anew.
    n_patients, seed
        Of the images.
    progress
        Called with a line about each step.

    Raises
    ------
    InputError
        When ``out`` holds something else.
    """
    say = progress or (lambda line: None)
    folder = Path(out)
    marker = folder / "made-by-headwater-demo"
    if (folder.is_dir() and any(folder.iterdir()) and not marker.exists()) or folder.is_file():
        raise InputError(f"--out {folder} holds something else. Give a folder that does not exist yet.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()
    say("painting images of made-up tissue")
    manifest = make_histology(folder, n_patients=n_patients, seed=seed)
    store = folder / "demo.hw"
    say("embed --encoder builtin:texture   (images)")
    embed(manifest, store, encoder="builtin:texture")
    say("embed --encoder builtin:ngram   (captions)")
    embed(manifest, store, encoder="builtin:ngram", text="caption")
    runs = {}
    for name, features in INPUTS.items():
        say(f"fit-head --features {' '.join(features)} --label label --groups patient")
        runs[name] = fit_head(
            store,
            features=features,
            label="label",
            groups="patient",
            seed=seed,
            out=folder / "runs" / name.replace(" + ", "-and-"),
        )
    query = runs["image"].predictions.sort("id").row(0, named=True)
    say(f"similar --id {query['id']} --exclude-same patient")
    hits = similar(store, features="texture/image", id=query["id"], k=10, exclude_same="patient")
    return DemoResult(folder, runs, query["id"], query["label"], hits)
