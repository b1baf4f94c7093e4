"""The demonstration on synthetic mammograms: images, sentences from metadata, and both together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headwater._shown import Shown
from headwater.api.embed import embed
from headwater.api.fit import fit_head
from headwater.api.report import report
from headwater.api.text import text
from headwater.runs.printed import control_lines, plus_minus
from headwater.runs.run import Run
from headwater.sources.synthetic_mammograms import make_mammography

N_PATIENTS = 60
INPUTS = {
    "image": ["texture/image"],
    "text": ["ngram/text"],
    "image + text": ["texture/image", "ngram/text"],
}


@dataclass(frozen=True, repr=False)
class MammographyDemo(Shown):
    """The result of the demonstration on mammograms: its folder, and a run for each row of its table.

    Attributes
    ----------
    runs
        Runs by kind of input; that of both has controls, and an ablation of each covariate.
    warnings
        Warnings about the texts.
    report
        The report of the runs, an HTML file; None if matplotlib is not installed.
    """

    out: Path
    runs: dict[str, Run]
    warnings: list[str]
    report: Path | None = None

    def lines(self) -> list[str]:
        """Return the printed tables."""
        both = self.runs["image + text"]
        n, n_folds = both.metrics["n_samples"], len(both.metrics["folds"])
        out = [f"Cancer in this breast? {n} synthetic mammograms, {n_folds} folds by patient:", ""]
        out.append(f"  {'features':<14}{'accuracy':>16}{'F1':>16}{'AUC':>16}")
        for name, run in self.runs.items():
            cells = [plus_minus(run.mean, run.std, m) for m in ("accuracy", "f1_macro", "auc")]
            out.append(f"  {name:<14}" + "".join(f"{cell:>16}" for cell in cells))
        out += ["", "Image and text, with an input alone, shuffled, random, or texts without a column:", ""]
        out += control_lines(both.metrics)
        out += ["", *(f"warning: {line}" for line in self.warnings)] if self.warnings else []
        if self.report is None:
            out += ["", "To add a report of these runs, run: pip install 'headwater[plots]'"]
        else:
            out += ["", f"A report of the three runs, to open in a browser or to send: {self.report}"]
        return [
            *out,
            "",
            f"All results are in {self.out}. The page 'A mammography study' of the documentation explains each "
            "step. Next steps:",
            f"  headwater info {self.out}/demo.hw",
            f"  headwater fit-head {self.out}/demo.hw --features texture/image --label density --task ordinal --groups "
            "patient",
            f"  headwater compare {self.out}/runs/image {self.out}/runs/image-and-text",
        ]


def demonstrate(folder: Path, n_patients: int, seed: int, say: Callable[[str], None]) -> MammographyDemo:
    """Make mammograms and sentences from their metadata, embed both, and fit heads.

    Parameters
    ----------
    folder
        Where to write; it exists and is empty.
    n_patients, seed
        Number of patients, and random seed of the images.
    say
        Called with a line about each step.
    """
    say("making synthetic mammograms")
    manifest = make_mammography(folder, n_patients=n_patients, seed=seed)
    say("text manifest.csv --template report.toml --label label --groups patient")
    made = folder / "with-reports.parquet"
    texts = text(manifest, template=folder / "report.toml", out=made, label="label", groups="patient")
    store = folder / "demo.hw"
    say("embed --encoder builtin:texture   (images)")
    embed(made, store, encoder="builtin:texture", text="report")
    say("embed --encoder builtin:ngram   (texts)")
    embed(made, store, encoder="builtin:ngram", text="report")
    runs = {}
    for name, features in INPUTS.items():
        several = len(features) > 1
        say(f"fit-head --features {' '.join(features)} --label label --groups patient{' --text-ablation' * several}")
        runs[name] = fit_head(
            store,
            features=features,
            label="label",
            groups="patient",
            controls="ablation" if several else None,
            seed=seed,
            out=folder / "runs" / name.replace(" + ", "-and-"),
        )
    return MammographyDemo(folder, runs, texts.warnings, _report(folder, runs, say))


def _report(folder: Path, runs: dict[str, Run], say: Callable[[str], None]) -> Path | None:
    """Write a report of the runs by kind of input; None if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    say("report runs/image runs/text runs/image-and-text --column age --column density --by site")
    paths = [run.path for run in runs.values() if run.path is not None]
    columns = ["age", "density"]
    return report(
        paths, out=folder / "report.html", names=list(runs), checklist="claim", columns=columns, by="site"
    ).path
