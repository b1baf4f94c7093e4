"""Write ``docs/peers.md`` from ``peers.md`` and ``results.json``: each figure of it stands in one of its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TEXT = Path(__file__).parent / "peers.md"
BLOCK = re.compile(r"<!-- table (\w+) of benchmarks/peers/results\.json -->\n.*?<!-- end of table -->", re.S)
NAMES = {
    "plain": ("timm and scikit-learn", "script"),
    "eva": ("kaiko-eva", "eva"),
    "clip_zero_shot": ("CLIP_benchmark, zero-shot", "CLIP_benchmark"),
    "clip_probe": ("CLIP_benchmark, linear probe", "CLIP_benchmark, without its demand for a GPU"),
}


def write_page(results: Mapping[str, Any], page: Path) -> None:
    """Write the page again."""
    page.write_text(filled(TEXT.read_text(), results))


def filled(text: str, results: Mapping[str, Any]) -> str:
    """Return the text of a page with its tables made from the results."""

    def table(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- table {name} of benchmarks/peers/results.json -->\n{TABLES[name](results)}\n<!-- end of table -->"

    return BLOCK.sub(table, text)


def sides(results: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """Return comparison, its title, tool and figures, for each side of each comparison."""
    there = []
    for key, (title, tool) in NAMES.items():
        if key in results["comparisons"]:
            comparison = results["comparisons"][key]
            there += [(key, title, "headwater", comparison["headwater"]), (key, title, tool, comparison["peer"])]
    return there


def figures(results: Mapping[str, Any]) -> str:
    """Time, memory and disk of the first run, and of the same commands again."""
    rows = []
    for _, title, tool, side in sides(results):
        again = seconds(least(side["second"], "wall_s")) + (" (with an error)" if errors(side["second"]) else "")
        rows.append(
            [
                title if tool == "headwater" else "",
                tool,
                seconds(least(side["first"], "wall_s")),
                again,
                seconds(least(side["first"], "cpu_s")),
                f"{max(step['memory_mb'] for run in side['first'] for step in run.values()):,} MB",
                f"{side['disk_mb']:.1f} MB, {side['files']:,} {'file' if side['files'] == 1 else 'files'}",
            ]
        )
    head = ["compared with", "tool", "first run", "the same again", "processor time", "peak memory", "disk"]
    return markdown(head, rows)


def steps(results: Mapping[str, Any]) -> str:
    """The same for each command."""
    rows = []
    for _, title, tool, side in sides(results):
        for name in side["first"][0]:
            first = min(run[name]["wall_s"] for run in side["first"])
            second = min(run[name]["wall_s"] for run in side["second"])
            said = next((run[name]["error"] for run in side["second"] if "error" in run[name]), "")
            rows.append([title, tool, f"`{name}`", seconds(first), seconds(second), short(said)])
    return markdown(["compared with", "tool", "command", "first run", "the same again", "error"], rows)


def scores(results: Mapping[str, Any]) -> str:
    """Accuracy of each side, by the same test folds where the tool has them."""
    rows = []
    for key, title, tool, side in sides(results):
        within = "all images" if key == "clip_zero_shot" else "the five test folds"
        if "folds" in side:
            values = [fold["balanced_accuracy"] for fold in side["folds"]]
            rows.append([title, tool, within, "", share(sum(values) / len(values))])
            rows.append([title, tool, "test images of the first fold", "", share(side["balanced_accuracy"])])
            validation = share(side["validation_balanced_accuracy"])
            rows.append([title, tool, "validation images, on which it chose its epoch", "", validation])
        else:
            rows.append([title, tool, within, share(side["accuracy"]), share(side["balanced_accuracy"])])
    return markdown(["compared with", "tool", "measured on", "accuracy", "balanced accuracy"], rows)


def agreement(results: Mapping[str, Any]) -> str:
    """How far both sides' vectors of the same image are apart."""
    rows = [
        [NAMES[key][0], f"{comparison['least_cosine']:.5f}"]
        for key, comparison in results["comparisons"].items()
        if comparison.get("least_cosine") is not None
    ]
    return markdown(["compared with", "least cosine of the two vectors of an image"], rows)


def kills(results: Mapping[str, Any]) -> str:
    """What is left after ``kill -9``, and what the same commands then do."""
    rows, seen = [], False
    for _, _, tool, side in sides(results):
        if tool == "headwater" and seen:
            continue
        for when, kill in side.get("killed", {}).items():
            seen = seen or tool == "headwater"
            left = f"{kill['left_files']:,} {'file' if kill['left_files'] == 1 else 'files'}"
            if "manifest_rows" in kill:
                rows_ = f"{kill['manifest_rows']:,} in its table, {kill['manifest_test_rows']} of"
                left += f" ({rows_} {kill['whole_test_rows']} test images)"
            then = "; ".join(said(name, step) for name, step in kill["after"].items())
            rows.append([tool, when, left, then])
    return markdown(["tool", "killed while", "left on disk", "the same commands again"], rows)


def said(name: str, step: Mapping[str, Any]) -> str:
    """Return what a command did after a kill."""
    if "kept" in step:
        return f"`{name}`: {step['kept']:,} images kept, {step['embedded']:,} embedded, {seconds(step['wall_s'])}"
    if "error" in step:
        return f"`{name}`: error: {short(step['error'])}"
    return f"`{name}`: success, {seconds(step['wall_s'])}"


def replaced(results: Mapping[str, Any]) -> str:
    """Whether a tool notices that an image file is another one than when its features were stored."""
    rows, seen = [], False
    for _, _, tool, side in sides(results):
        if "replaced_image" not in side or (tool == "headwater" and seen):
            continue
        seen = seen or tool == "headwater"
        found = side["replaced_image"]
        does = "embeds the image again" if found["embedded_again"] else "uses the old features"
        if found["errors"]:
            does += f"; error: {short(found['errors'][0])}"
        rows.append([tool, does])
    return markdown(["tool", "given the same commands after an image was replaced"], rows)


def machine(results: Mapping[str, Any]) -> str:
    """Where and when each comparison was measured."""
    rows = []
    for key, comparison in results["comparisons"].items():
        at = comparison["machine"]
        where = f"{at['cores']} cores of {at['processor']}{', with bf16' if at['bf16'] else ''}, {at['memory_gb']} GB"
        rows.append(
            [NAMES[key][0], at["date"], where, at["python"], str(comparison["repeats"]), f"{at['load_before']:.1f}"]
        )
    return markdown(["compared with", "date", "machine", "Python", "repeats", "load average before"], rows)


def versions(results: Mapping[str, Any]) -> str:
    """The packages of each environment."""
    rows = [[name, ", ".join(f"{k} {v}" for k, v in there.items())] for name, there in results["versions"].items()]
    return markdown(["environment", "packages"], rows)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "figures": figures,
    "steps": steps,
    "scores": scores,
    "agreement": agreement,
    "kills": kills,
    "replaced": replaced,
    "machine": machine,
    "versions": versions,
}


def least(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the least sum over the commands of a run."""
    return min(sum(step[key] for step in run.values()) for run in runs)


def errors(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a command of some run failed."""
    return any("error" in step for run in runs for step in run.values())


def seconds(value: float) -> str:
    """Return a time with as many digits as it deserves."""
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def share(value: float) -> str:
    """Return a score."""
    return f"{value:.3f}"


def short(text: str, most: int = 110) -> str:
    """Return an error in one cell of a table."""
    text = text.replace("|", "/").replace("<", "").replace(">", "").strip()
    return f"`{text[:most].replace('`', '')}{'…' if len(text) > most else ''}`" if text else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
