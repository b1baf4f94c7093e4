"""Side-by-side timing: the sides take turns in one run, and the best of each counts, or the median where it says so."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path


def best(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the least wall-clock time of several calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def take_turns(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Return the least time of each, calls alternating so that both meet the same machine."""
    mine, other = [], []
    for _ in range(repeats):
        mine.append(best(ours, 1))
        other.append(best(theirs, 1))
    return min(mine), min(other)


def medians(
    sides: Mapping[str, Callable[[], object]], repeats: int, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Return the median time of each side in seconds, calls alternating; ``before`` each, what is not timed."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            before()
            times[name].append(best(side, 1))
    return {name: statistics.median(each) for name, each in times.items()}


def machine() -> str:
    """Return a line on where and when this was measured."""
    with Path("/proc/cpuinfo").open() as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return f"{date.today()}, {len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


def report(what: str, ours: float, theirs: float, target: float | None, unit: str = "s") -> None:
    """Print a ratio, beside what it should be at least."""
    ratio = theirs / ours
    verdict = "" if target is None else f" (at least {target}x: {'met' if ratio >= target else 'MISSED'})"
    print(f"{what}: {ours:.4g} {unit} against {theirs:.4g} {unit}, {ratio:.1f}x{verdict}", flush=True)
