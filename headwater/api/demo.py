"""demo: all main commands on synthetic images of tissue, or of mammograms, without a network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from headwater._checks import one_of
from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._writable import require_writable
from headwater.api.demo_mammography import N_PATIENTS, MammographyDemo, demonstrate
from headwater.api.embed import embed
from headwater.api.fine_tune import fine_tune
from headwater.api.fit import fit_head
from headwater.api.report import report
from headwater.api.similar import Hit, similar
from headwater.api.zero_shot import zero_shot
from headwater.errors import InputError
from headwater.runs.positive import positive_in_run
from headwater.runs.printed import plus_minus, positive_lines
from headwater.runs.run import Run
from headwater.sources.synthetic import make_histology

DemoKind = Literal["histology", "mammography"]
INPUTS = {
    "image": ["texture/image"],
    "text": ["ngram/text"],
    "image + text": ["texture/image", "ngram/text"],
}
PROMPTS = """templates = ["{} breast tissue", "a microscope image of {} tissue"]

[classes]
benign = "benign"
malignant = "malignant"
"""
# Methods with one small dual encoder, from no training to full fine-tuning.
HEADS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "linear probe, image": ("linear", ["clip/image"], {}),
    "fusion of image and text": ("linear", ["clip/image", "clip/text"], {}),
    "co-attention over tokens": (
        "co-attention",
        ["clip/image", "clip/text"],
        {"width": 64, "blocks": 1, "epochs": 12, "patience": 3, "hidden": [64]},
    ),
}
TUNED = {"LoRA, image": "lora", "full tuning, image": "full"}


@dataclass(frozen=True, repr=False)
class DemoResult(Shown):
    """The result of the demonstration: its folder, a run for each row of its tables, and similar cases of one sample.

    Attributes
    ----------
    runs
        Runs by kind of input, with encoders that need no weights.
    ladder
        Runs by method, with ``builtin:clip``; empty if torch or transformers is not installed.
    seconds
        Duration of each method.
    report
        The report of ``runs``, an HTML file; None if matplotlib is not installed.
    """

    out: Path
    runs: dict[str, Run]
    ladder: dict[str, Run]
    seconds: dict[str, float]
    query: str
    query_label: str
    hits: list[Hit]
    report: Path | None = None

    def lines(self) -> list[str]:
        """Return the printed tables."""
        first = next(iter(self.runs.values())).metrics
        out = [
            f"Benign or malignant? {first['n_samples']} synthetic histology images, "
            f"{len(first['folds'])} folds by patient:",
            *positive_lines(positive_in_run(first)),
            "",
            f"  {'features':<14}{'accuracy':>16}{'F1':>16}{'AUC':>16}",
        ]
        for name, run in self.runs.items():
            cells = [plus_minus(run.mean, run.std, m) for m in ("accuracy", "f1_macro", "auc")]
            out.append(f"  {name:<14}" + "".join(f"{cell:>16}" for cell in cells))
        if self.ladder:
            out += [
                "",
                "With the small dual encoder that comes with headwater (trained on synthetic tissue only):",
                "",
            ]
            out.append(f"  {'builtin:clip':<26}{'accuracy':>16}{'F1':>16}{'AUC':>16}{'seconds':>10}")
            for name, run in self.ladder.items():
                cells = [plus_minus(run.mean, run.std, m) for m in ("accuracy", "f1_macro", "auc")]
                out.append(f"  {name:<26}" + "".join(f"{cell:>16}" for cell in cells) + f"{self.seconds[name]:>10.0f}")
        else:
            out += [
                "",
                "To add zero-shot, co-attention, LoRA and full tuning, run: pip install 'headwater[encoders]'",
            ]
        same = sum(hit.row["label"] == self.query_label for hit in self.hits)
        out += [
            "",
            f"Most similar to {self.query} ({self.query_label}) in other patients: "
            f"{same} of {len(self.hits)} are {self.query_label} too.",
        ]
        out += [f"  {hit.rank}. {hit.id}  {hit.score:.3f}  {hit.row['label']}" for hit in self.hits[:3]]
        store = self.out / "demo.hw"
        if self.report is None:
            out += ["", "To add a report of these runs, run: pip install 'headwater[plots]'"]
        else:
            out += ["", f"A report of the first three runs, to open in a browser or to send: {self.report}"]
        out += [
            "",
            f"All results are in {self.out}. Next steps:",
            f"  headwater serve {store} --run {self.out}/runs/image   (a page of similar cases, in a browser)",
            f"  headwater info {store}",
            f"  headwater fit-head {store} --features texture/image --label subtype --groups patient",
            f"  headwater compare {self.out}/runs/image {self.out}/runs/text",
            "With your own images: write a CSV with the columns image, label and patient, and run",
            "  headwater embed scans.csv scans.hw --encoder timm:resnet34.a1_in1k",
        ]
        return out


def demo(
    out: str | Path,
    *,
    kind: DemoKind = "histology",
    n_patients: int | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> DemoResult | MammographyDemo:
    """Make a small synthetic set of images and texts, embed both, and fit heads.

    Parameters
    ----------
    out
        The folder to write: ``images/``, ``manifest.csv``, ``demo.hw``, ``runs/`` and, if matplotlib is installed,
        ``report.html``. The folder of an earlier demonstration is replaced.
    kind
        ``histology``, with captions, a ladder of methods, and similar cases; or ``mammography``, with sentences from
        metadata, and an ablation of them.
    n_patients, seed
        Number of patients, and random seed of the images. Default: 24 patients, or 60 for mammography.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Raises
    ------
    InputError
        When ``out`` holds something else.
    """
    say = progress_to(progress)
    one_of("--kind", kind, get_args(DemoKind))
    folder = require_writable(out)
    marker = folder / "made-by-headwater-demo"
    if (folder.is_dir() and any(folder.iterdir()) and not marker.exists()) or folder.is_file():
        raise InputError(f"--out {folder} holds something else. Give a folder that does not exist yet.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()
    if kind == "mammography":
        return demonstrate(folder, N_PATIENTS if n_patients is None else n_patients, seed, say)
    return _histology(folder, 24 if n_patients is None else n_patients, seed, say)


def _histology(folder: Path, n_patients: int, seed: int, say: Callable[[str], None]) -> DemoResult:
    """Make stained tissue with captions, embed both, fit heads, and find similar cases."""
    say("making synthetic histology images")
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
    ladder, seconds = _ladder(folder, manifest, store, seed, say) if _has_torch() else ({}, {})
    query = runs["image"].predictions.sort("id").row(0, named=True)
    say(f"similar --id {query['id']} --exclude-same patient")
    hits = similar(store, features="texture/image", id=query["id"], k=10, exclude_same="patient")
    return DemoResult(folder, runs, ladder, seconds, query["id"], query["label"], hits, _report(folder, runs, say))


def _report(folder: Path, runs: dict[str, Run], say: Callable[[str], None]) -> Path | None:
    """Write a report of the runs by kind of input; None if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    say("report runs/image runs/text runs/image-and-text --column subtype --column magnification --by laboratory")
    paths = [run.path for run in runs.values() if run.path is not None]
    return report(
        paths,
        out=folder / "report.html",
        names=list(runs),
        checklist="claim",
        columns=["subtype", "magnification"],
        by="laboratory",
    ).path


def _has_torch() -> bool:
    return all(find_spec(name) is not None for name in ("torch", "transformers", "peft", "accelerate"))


def _ladder(
    folder: Path, manifest: Path, store: Path, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Run], dict[str, float]]:
    """Run every method from prompts to full fine-tuning with one encoder, on the same folds."""
    runs, seconds = {}, {}
    prompts = folder / "prompts.toml"
    prompts.write_text(PROMPTS)
    say("embed --encoder builtin:clip --tokens all   (images and captions)")
    embed(manifest, store, encoder="builtin:clip", name="clip", text="caption", tokens="all", precision="fp32")
    began = time.monotonic()
    say("zero-shot --features clip --prompts prompts.toml")
    name = "zero-shot, two prompts"
    runs[name] = zero_shot(store, features="clip", prompts=prompts, label="label", out=folder / "runs" / "zero-shot")
    seconds[name] = time.monotonic() - began
    for name, (head, features, params) in HEADS.items():
        began = time.monotonic()
        say(f"fit-head --features {' '.join(features)} --head {head}")
        runs[name] = fit_head(
            store,
            features=features,
            label="label",
            head=head,
            params=params,
            groups="patient",
            seed=seed,
            out=folder / "runs" / f"clip-{name.partition(',')[0].replace(' ', '-')}",
        )
        seconds[name] = time.monotonic() - began
    for name, train in TUNED.items():
        began = time.monotonic()
        say(f"fine-tune --encoder builtin:clip --train {train}")
        runs[name] = fine_tune(
            manifest,
            encoder="builtin:clip",
            image="image",
            label="label",
            train=train,
            groups="patient",
            seed=seed,
            epochs=4,
            patience=2,
            augment=["flip", "rotate"],
            refit=False,
            precision="fp32",
            out=folder / "runs" / f"clip-{train}",
        )
        seconds[name] = time.monotonic() - began
    return runs, seconds
