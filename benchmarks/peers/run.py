"""Measure headwater beside the tools that one would use instead, on the same images, encoder and machine.

    python benchmarks/peers/run.py --work DIR [--only plain eva clip_zero_shot clip_probe] [--repeats N]

The first run makes an environment for each peer under DIR (about 6 GB each), and the data. Later runs find them there.
Sides take turns, N times; the page reports the least time. Results go to ``results.json``, one entry per comparison, so
that one comparison can be measured again; then the tables of ``docs/peers.md`` are written again.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from measure import Done, cores, disk, progress, run, run_until
from page import write_page
from PIL import Image, ImageOps
from prepare import FOLDS, part, prepare, tar_files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "peers.md"
PYTHON = sys.executable
OURS = {"PYTHONPATH": str(ROOT)}
NAME = "mobilenetv2_100"
VERSION = {name: importlib.metadata.version(name).split("+")[0] for name in ("torch", "torchvision", "open_clip_torch")}
TORCH = [f"torch=={VERSION['torch']}", f"torchvision=={VERSION['torchvision']}"]
REQUIREMENTS = {
    # jsonargparse 4.53.0, which pip would take, refuses `criterion: torch.nn.CrossEntropyLoss` of eva's configurations
    "eva": [*TORCH, "kaiko-eva[vision]==0.4.5", "jsonargparse[omegaconf]==4.50.0"],
    # clip_benchmark imports requests, which it does not require, and ends with a TypeError under numpy 2.4
    "clip": [
        *TORCH,
        "clip-benchmark==1.6.2",
        "requests",
        "numpy<2.4",
        f"open_clip_torch=={VERSION['open_clip_torch']}",
    ],
}
SHOWN = (
    "torch", "torchvision", "timm", "numpy", "scikit-learn", "open_clip_torch", "kaiko-eva", "lightning",
    "jsonargparse", "clip-benchmark", "webdataset",
)  # fmt: skip


@dataclass
class Side:
    """One tool in one comparison.

    Parameters
    ----------
    commands
        Name, command and environment of each step, run one after another.
    made
        Files and folders that a first run starts without.
    scores
        Returns ``accuracy`` and ``balanced_accuracy``, from what the commands wrote.
    features
        Returns the stored vectors in the order of the manifest, or None where none are stored.
    may_fail
        Steps whose failure in a second run is a finding, not an error of this script.
    """

    folder: Path
    commands: dict[str, tuple[list[str], dict[str, str]]]
    made: list[Path]
    scores: Callable[[], dict[str, float]]
    features: Callable[[], np.ndarray | None]
    may_fail: tuple[str, ...] = ()
    first: list[dict[str, Any]] = field(default_factory=list)
    second: list[dict[str, Any]] = field(default_factory=list)

    def clean(self) -> None:
        """Take away what an earlier run made."""
        for path in self.made:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def all(self, when: str, strict: bool = True) -> dict[str, Any]:
        """Run every step; return what each took."""
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = {}
        for name in self.commands:
            done = self.step(name, when)
            if done.code and (strict or name not in self.may_fail):
                raise SystemExit(f"{self.folder.name}: {name} ended with {done.code}: {done.output[-2000:]}")
            steps[name] = took(done)
        return steps

    def step(self, name: str, when: str) -> Done:
        """Run one step."""
        command, more = self.commands[name]
        done = run(command, self.folder, more, self.folder / f"{name}.{when}.log")
        print(f"  {self.folder.name} {name} ({when}): {done.wall_s:.1f} s, code {done.code}", flush=True)
        return done


def took(done: Done) -> dict[str, Any]:
    """Return the figures of a step."""
    figures: dict[str, Any] = {"wall_s": round(done.wall_s, 2), "cpu_s": round(done.cpu_s, 2)}
    figures["memory_mb"] = round(done.memory_mb)
    if done.code:
        figures |= {"code": done.code, "error": done.last_error}
    return figures


def take_turns(headwater: Side, peer: Side, repeats: int) -> None:
    """Run both, in turn, each from nothing and then once more as it is."""
    for _ in range(repeats):
        for side in (headwater, peer):
            side.clean()
            side.first.append(side.all("first"))
            side.second.append(side.all("second", strict=False))


def summary(side: Side) -> dict[str, Any]:
    """Return all figures of a side that has taken its turns."""
    space, files = disk(*[path for path in side.made if path.exists()])
    found: dict[str, Any] = {"first": side.first, "second": side.second, **side.scores()}
    found |= {"disk_mb": round(space, 2), "files": files}
    return found


def after_replacing(side: Side, images: Path) -> dict[str, Any]:
    """Replace an image below the folder of images, give the same commands again, and compare the stored features."""
    before = side.features()
    with replaced(images):
        steps = side.all("changed", strict=False)
        after = side.features()
    errors = [step["error"] for step in steps.values() if "error" in step]
    return {"embedded_again": not same(before, after), "errors": errors}


@contextmanager
def replaced(images: Path) -> Iterator[None]:
    """Replace the first image by its mirror image, and the tar files by ones that hold it; at the end, put it back."""
    file = min(images.iterdir())
    content = file.read_bytes()
    try:
        ImageOps.flip(Image.open(file)).save(file, quality=95)
        tar_files(images.parent)
        yield
    finally:
        file.write_bytes(content)
        tar_files(images.parent)


def same(a: np.ndarray, b: np.ndarray | None) -> bool:
    """Whether two arrays hold the same bytes."""
    return b is not None and a.shape == b.shape and a.tobytes() == b.tobytes()


def least_cosine(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    """Return the least cosine between vectors of the same image."""
    if a is None or b is None:
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def killed(side: Side, name: str, reached: Callable[[str], bool], again: Sequence[str] | None = None) -> dict[str, Any]:
    """Kill a step at some point of a first run, then give the same commands again.

    Parameters
    ----------
    reached
        Whether the time to kill has come, given the output so far.
    again
        Steps to run afterwards; default: all.
    """
    side.clean()
    command, more = side.commands[name]
    was = run_until(command, side.folder, more, side.folder / f"{name}.killed.log", reached)
    left_mb, left_files = disk(*[path for path in side.made if path.exists()])
    after = {}
    for step in again or list(side.commands):
        done = side.step(step, "after")
        after[step] = took(done)
        counted = re.search(r"([\d,]+) items embedded, ([\d,]+) already stored", done.output)
        if counted:
            after[step] |= dict(zip(("embedded", "kept"), (int(n.replace(",", "")) for n in counted.groups())))
    return {"killed": was, "left_mb": round(left_mb, 2), "left_files": left_files, "after": after}


def headwater_side(work: Path, name: str, encoder: list[str], last: dict[str, list[str]], run_name: str) -> Side:
    """Return headwater's side: ``embed``, then what is done with the features."""
    folder, data = work / "runs" / f"headwater-{name}", work / "data"
    command = [PYTHON, "-m", "headwater"]
    commands = {"embed": ([*command, "embed", str(data / "manifest.csv"), "a.hw", *encoder], OURS)}
    for step, options in last.items():
        commands[step] = (
            [*command, step, "a.hw", *options, "--label", "label", "--groups", "source_tile", "--out", "run"],
            OURS,
        )

    def scores() -> dict[str, float]:
        metrics = json.loads((folder / "run" / "metrics.json").read_text())
        return {key: metrics["mean"][key] for key in ("accuracy", "balanced_accuracy")}

    def features() -> np.ndarray:
        program = (
            "import sys, numpy as np, headwater as hw; "
            f"np.save('features.npy', hw.open_store('a.hw').read('{run_name}/image').X)"
        )
        done = run([PYTHON, "-c", program], folder, OURS, folder / "read.log")
        if done.code:
            raise SystemExit(done.output)
        return np.load(folder / "features.npy")

    return Side(folder, commands, [folder / "a.hw", folder / "run"], scores, features)


def rows_of(work: Path) -> list[dict[str, str]]:
    """Return the manifest."""
    with (work / "data" / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def blocks_at_least(folder: Path, share: float, n_items: int) -> Callable[[str], bool]:
    """Return whether headwater's journal names this share of the items' blocks of 64."""
    journal = folder / "a.hw" / "journal"
    return lambda _: sum(f.read_bytes().count(b"\n") for f in journal.rglob("*.jsonl")) >= share * n_items / 64


def plain(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare with a script of timm and scikit-learn."""
    data, folder = work / "data", work / "runs" / "plain"
    ours = timm_side(work, "plain")
    command = [PYTHON, str(HERE / "plain.py"), str(data / "manifest.csv"), str(data / "mobilenetv2.safetensors")]
    result = folder / "result.json"

    def scores() -> dict[str, float]:
        return {key: float(np.mean(values)) for key, values in json.loads(result.read_text()).items()}

    peer = Side(
        folder,
        {"script": ([*command, "features.npy", "result.json"], {})},
        [folder / "features.npy", result],
        scores,
        lambda: np.load(folder / "features.npy"),
    )
    take_turns(ours, peer, options.repeats)
    agreement = least_cosine(ours.features(), peer.features())
    found = {"headwater": summary(ours), "peer": summary(peer)}
    found["headwater"]["replaced_image"] = after_replacing(ours, data / "images")
    found["peer"]["replaced_image"] = after_replacing(peer, data / "images")
    n = len(rows_of(work))
    found["headwater"]["killed"] = {"embedding": killed(ours, "embed", blocks_at_least(ours.folder, 0.5, n))}
    found["peer"]["killed"] = {"embedding": killed(peer, "script", lambda text: progress(text, n) >= 0.5)}
    return found | {"least_cosine": agreement}


def timm_side(work: Path, name: str) -> Side:
    """Return headwater with MobileNetV2 from timm."""
    encoder = ["--encoder", f"timm:{NAME}", "--weights", str(work / "data" / "mobilenetv2.safetensors")]
    return headwater_side(work, name, encoder, {"fit-head": ["--features", f"{NAME}/image"]}, NAME)


def eva(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare with kaiko-eva's offline classification."""
    data, folder = work / "data", work / "runs" / "eva"
    ours = timm_side(work, "eva")
    program = str(work / "eva" / "bin" / "eva")
    more = {
        "PYTHONPATH": str(HERE),
        "WEIGHTS": str(data / "mobilenetv2.safetensors"),
        "MANIFEST": str(data / "manifest.csv"),
        "EMBEDDINGS_ROOT": str(folder / "embeddings"),
        "OUTPUT_ROOT": str(folder / "logs"),
        "N_RUNS": "1",
        "MAX_STEPS": str(options.eva_steps),
        "WORKERS": str(cores()),
    }
    steps = {step: ([program, step, "--config", str(HERE / "eva.yaml")], more) for step in ("predict", "fit")}
    embeddings, logs = folder / "embeddings", folder / "logs"
    rows = rows_of(work)

    def results() -> dict[str, Any]:
        latest = max(logs.glob("*/results.json"), key=lambda file: file.stat().st_mtime)
        metrics = json.loads(latest.read_text())["metrics"]
        return {k: v["mean"] for part_ in metrics.values() for each in part_ for k, v in each.items()}

    def features() -> np.ndarray:
        import torch

        files = [embeddings / Path(row["image"]).with_suffix(".pt") for row in rows]
        return np.stack([torch.load(file)[0].numpy().ravel() for file in files])

    def scores() -> dict[str, float]:
        return {"balanced_accuracy": results()["test/MulticlassAccuracy"]}

    peer = Side(folder, steps, [embeddings, logs], scores, features, may_fail=("predict",))
    take_turns(ours, peer, options.repeats)
    agreement = least_cosine(ours.features(), peer.features())
    found = {"headwater": summary(ours), "peer": summary(peer)}
    found["peer"]["validation_balanced_accuracy"] = results()["val/MulticlassAccuracy"]
    found["steps"] = options.eva_steps
    # the same five test folds: one `eva fit` each, on a manifest of the stored embeddings with other splits
    tested = []
    for fold in range(FOLDS):
        with (embeddings / f"fold{fold}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["origin", "embeddings", "target", "split"])
            labels = sorted({row["label"] for row in rows})
            for row in rows:
                stored = str(Path(row["image"]).with_suffix(".pt"))
                writer.writerow([row["image"], stored, labels.index(row["label"]), part(int(row["fold"]), fold)])
        peer.commands[f"fit fold {fold}"] = (steps["fit"][0], more | {"EMBEDDINGS_MANIFEST": f"fold{fold}.csv"})
        done = peer.step(f"fit fold {fold}", "first")
        if done.code:
            raise SystemExit(done.output[-2000:])
        tested.append({"wall_s": round(done.wall_s, 2), "balanced_accuracy": results()["test/MulticlassAccuracy"]})
        del peer.commands[f"fit fold {fold}"]
    found["peer"]["folds"] = tested
    n = len(rows)

    def stored(share: float) -> Callable[[str], bool]:
        return lambda _: sum(1 for _ in embeddings.rglob("*.pt")) >= share * n

    # from here on, `fit` need not take all steps: does it start, and on which features?
    peer.commands["fit"] = (steps["fit"][0], more | {"MAX_STEPS": "40"})
    found["peer"]["replaced_image"] = after_replacing(peer, data / "images")
    found["peer"]["killed"] = {}
    for name, share in (("embedding", 0.5), ("embedding, near its end", 0.93)):
        at = killed(peer, "predict", stored(share))
        with (embeddings / "manifest.csv").open() as file:
            listed = [row for row in csv.DictReader(file) if row["split"] in ("train", "val", "test")]
        at["manifest_rows"] = len(listed)
        at["manifest_test_rows"] = sum(row["split"] == "test" for row in listed)
        at["whole_test_rows"] = sum(row["split"] == "test" for row in rows)
        found["peer"]["killed"][name] = at
    return found | {"least_cosine": agreement}


def clip_zero_shot(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare zero-shot classification with CLIP_benchmark's."""
    data, folder = work / "data", work / "runs" / "clip_zero_shot"
    encoder = ["--encoder", f"open_clip:local-dir:{data / 'clip'}", "--name", "clip"]
    prompts = ["--features", "clip", "--prompts", str(data / "prompts.toml")]
    ours = headwater_side(work, "clip_zero_shot", encoder, {"zero-shot": prompts}, "clip")
    command = [
        str(work / "clip" / "bin" / "clip_benchmark"), "eval", "--task", "zeroshot_classification",
        "--dataset", "wds/all", "--dataset_root", str(data / "wds" / "{dataset}"), "--split", "test",
        "--model", f"local-dir:{data / 'clip'}", "--pretrained", "", "--num_workers", str(cores()),
        "--output", "result.json",
    ]  # fmt: skip
    result = folder / "result.json"

    def scores() -> dict[str, float]:
        metrics = json.loads(result.read_text())["metrics"]
        return {"accuracy": metrics["acc1"], "balanced_accuracy": metrics["mean_per_class_recall"]}

    peer = Side(folder, {"eval": (command, {})}, [result], scores, lambda: None)
    take_turns(ours, peer, options.repeats)
    return {"headwater": summary(ours), "peer": summary(peer)}


def clip_probe(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare with CLIP_benchmark's linear probe, five folds, without its demand for a GPU."""
    data = work / "data"
    encoder = ["--encoder", f"open_clip:local-dir:{data / 'clip'}", "--name", "clip"]
    ours = headwater_side(work, "clip_probe", encoder, {"fit-head": ["--features", "clip/image"]}, "clip")
    peer = probe_side(work, "clip_probe", [f"lung{fold}" for fold in range(FOLDS)])
    one = probe_side(work, "clip_probe_one_fold", ["lung0"])
    command, more = one.commands["eval"]
    stock = [str(work / "clip" / "bin" / "clip_benchmark"), *command[2:]]
    one.folder.mkdir(parents=True, exist_ok=True)
    as_installed = took(run(stock, one.folder, more, one.folder / "stock.log"))
    take_turns(ours, peer, options.repeats)
    found = {"headwater": summary(ours), "peer": summary(peer)}
    found["peer"]["as_installed"] = as_installed
    # the rest shows in one fold as well as in five
    one.clean()
    one.all("first")
    found["peer"]["replaced_image"] = after_replacing(one, data / "images")

    def between(_: str) -> bool:
        return any(one.folder.rglob("targets_val.pt")) and not any(one.folder.rglob("targets_test.pt"))

    found["peer"]["killed"] = {
        "embedding training images": killed(one, "eval", lambda text: batches(text) >= 2),
        "embedding test images": killed(one, "eval", between),
    }
    return found


def probe_side(work: Path, name: str, folds: list[str]) -> Side:
    """Return CLIP_benchmark's linear probe on some of the data sets."""
    data, folder = work / "data", work / "runs" / name
    # --no_amp: on a CPU, mixed precision gives bfloat16 features, which its probe cannot join
    command = [
        str(work / "clip" / "bin" / "python"), str(HERE / "clip_cpu.py"), "eval", "--task", "linear_probe",
        "--dataset", *[f"wds/{fold}" for fold in folds], "--dataset_root", str(data / "wds" / "{dataset}"),
        "--train_split", "train", "--val_split", "val", "--split", "test", "--model", f"local-dir:{data / 'clip'}",
        "--pretrained", "", "--no_amp", "--num_workers", str(cores()), "--feature_root", "features",
        "--output", "{dataset}.json",
    ]  # fmt: skip

    def scores() -> dict[str, float]:
        metrics = [json.loads((folder / f"{fold}.json").read_text())["metrics"] for fold in folds]
        return {
            "accuracy": float(np.mean([each["lp_acc1"] for each in metrics])),
            "balanced_accuracy": float(np.mean([each["lp_mean_per_class_recall"] for each in metrics])),
        }

    def features() -> np.ndarray:
        """Return all bytes of the stored features: their order is that of the workers, so rows are not compared."""
        files = sorted((folder / "features").rglob("features_*.pt"))
        return np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)

    made = [folder / "features", *[folder / f"{fold}.json" for fold in folds]]
    return Side(folder, {"eval": (command, {})}, made, scores, features, may_fail=("eval",))


def batches(output: str) -> int:
    """Return how many batches a progress bar without a total counted last."""
    found = re.findall(r"(\d+)it \[", output)
    return int(found[-1]) if found else 0


COMPARISONS = {"plain": plain, "eva": eva, "clip_zero_shot": clip_zero_shot, "clip_probe": clip_probe}


def environments(work: Path) -> None:
    """Make an environment for each peer, unless it holds what is required."""
    for name, required in REQUIREMENTS.items():
        folder, marker = work / name, work / f"{name}.installed.json"
        if marker.exists() and json.loads(marker.read_text()) == required:
            continue
        print(f"installing {', '.join(required)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *required], check=True)
        marker.write_text(json.dumps(required))


def versions(work: Path) -> dict[str, dict[str, str]]:
    """Return the versions of the main packages in each environment."""
    program = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    pythons = {"headwater and plain": PYTHON} | {name: str(work / name / "bin" / "python") for name in REQUIREMENTS}
    found = {}
    for name, python in pythons.items():
        text = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout
        there = {key.lower().replace("-", "_"): version for key, version in json.loads(text).items()}
        found[name] = {
            key: there[key.lower().replace("-", "_")] for key in SHOWN if key.lower().replace("-", "_") in there
        }
    return found


def machine() -> dict[str, Any]:
    """Return where and when this is measured, and how busy the machine is."""
    with Path("/proc/cpuinfo").open() as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    flags = Path("/proc/cpuinfo").read_text()
    return {
        "date": str(date.today()),
        "processor": model,
        "bf16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for environments, data and runs")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="holds lc25000_lung and weights"
    )
    parser.add_argument("--only", nargs="+", choices=[*COMPARISONS, "none"], default=list(COMPARISONS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--eva-steps", type=int, default=1000, help="training steps of eva's head (it publishes 12,500)"
    )
    parser.add_argument(
        "--images", type=int, help="use about this many images only, to try the script; with a --work of its own"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    environments(work)
    prepare(work, options.data.resolve(), options.images)
    results = json.loads(options.results.read_text()) if options.results.exists() else {"comparisons": {}}
    for name in options.only:
        if name == "none":
            continue
        print(name, flush=True)
        where = machine()
        found = COMPARISONS[name](work, options)
        results["comparisons"][name] = {"machine": where, "repeats": options.repeats, **found}
        results["versions"] = versions(work)
        text = json.dumps(results, indent=1)
        options.results.write_text(text.replace(str(work), "WORK").replace(str(ROOT), ".") + "\n")
    if options.results == RESULTS:
        write_page(results, PAGE)


if __name__ == "__main__":
    main()
