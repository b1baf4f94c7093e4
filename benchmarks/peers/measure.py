"""Run a command and measure it: wall time, processor time, peak memory of all its processes; or kill it half-way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY = 0.2
"""Seconds between two looks at the memory of the processes."""


@dataclass(frozen=True)
class Done:
    """What a command took, and what it said.

    ``memory_mb`` is the largest sum of the proportional set sizes of all processes: pages that several of them share
    count once. ``cpu_s`` is the processor time of those that have ended and were waited for.
    """

    code: int
    wall_s: float
    cpu_s: float
    memory_mb: float
    output: str

    @property
    def last_error(self) -> str:
        """The last line that names an error, or the last line."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"([\w.]+Error\b|error:|Error:)", line)]
        return (errors or lines or [""])[-1][:300]


def run(command: Sequence[str], folder: Path, more: Mapping[str, str], log: Path) -> Done:
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments.
    folder
        Where it runs.
    more
        Environment variables, in addition to those of `environment`.
    log
        File for its output.
    """
    peak = [0.0]
    before = os.times()
    began = time.perf_counter()
    with log.open("w") as file:
        process = start(command, folder, more, file)
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, over))
        watcher.start()
        code = process.wait()
        wall = time.perf_counter() - began
        over.set()
        watcher.join()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Done(code, wall, cpu, peak[0], log.read_text(errors="replace"))


def run_until(
    command: Sequence[str], folder: Path, more: Mapping[str, str], log: Path, reached: Callable[[str], bool]
) -> bool:
    """Run a command and kill all its processes with SIGKILL as soon as ``reached(output)``.

    Returns
    -------
    bool
        Whether it was killed; it may have ended before.
    """
    with log.open("w") as file:
        process = start(command, folder, more, file)
        while process.poll() is None:
            if reached(log.read_text(errors="replace")):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.02)
    return False


def start(command: Sequence[str], folder: Path, more: Mapping[str, str], file: object) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment() | dict(more),
        stdout=file,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    """Return the environment of every command: as many threads as cores, no network, nothing of the caller's Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"OMP_NUM_THREADS": str(cores()), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def progress(output: str, of: int | None = None) -> float:
    """Return the share that a progress bar showed last, from ``12/24`` or ``1,176/1,483``; 0 if none is there.

    Parameters
    ----------
    of
        Only bars with this total count.
    """
    found = [(int(a.replace(",", "")), int(b.replace(",", ""))) for a, b in re.findall(r"([\d,]+)/([\d,]+)\b", output)]
    shares = [done / total for done, total in found if total and (of is None or total == of)]
    return shares[-1] if shares else 0.0


def disk(*paths: Path) -> tuple[float, int]:
    """Return what files and folders occupy, in MB of 10**6 bytes of allocated blocks, and the number of files."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files) / 1e6, len(files)


def _watch(pid: int, peak: list[float], over: threading.Event) -> None:
    """Keep the largest memory of a process and its descendants, in MB."""
    while not over.wait(EVERY):
        try:
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        total = 0
        for process in family:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak[0] = max(peak[0], total / 1e6)
