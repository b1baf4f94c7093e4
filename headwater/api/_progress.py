"""Progress on a terminal, and plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY = 30.0  # seconds between plain lines
AT_ONCE = 1.0  # a step that takes less needs no line

Update = Callable[[int, int], None]


def note(words: str, *, show: bool = True) -> None:
    """Say something before a long step begins."""
    if show:
        print(words, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(what: str, total: int, *, unit: str = "items", show: bool = True) -> Iterator[Update]:
    """Show how far a long step is: a bar with rate and time left, or a line now and then without a terminal.

    Yields a function of the numbers done and failed so far.
    """
    if not show or total == 0:
        yield _silent
        return
    if not sys.stderr.isatty():
        yield _plain(what, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="", failures="")
        start = time.monotonic()

        def update(done: int, failed: int = 0) -> None:
            rate = _rate(done / max(time.monotonic() - start, 1e-9), unit)
            bar.update(task, completed=done, rate=rate, failures=f"[red]{failed} failed" if failed else "")

        yield update


def _silent(done: int, failed: int = 0) -> None:
    """Show nothing."""


def _plain(what: str, total: int, unit: str) -> Update:
    start = last = time.monotonic()

    def update(done: int, failed: int = 0) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_EVERY and (done < total or now - start < AT_ONCE):
            return
        last = now
        rate = done / max(now - start, 1e-9)
        failures = f", {failed:,} failed" if failed else ""
        left = f", {(total - done) / rate:,.0f} s left" if done < total and rate else ""
        print(f"{what}: {done:,}/{total:,} ({_rate(rate, unit)}{left}{failures})", file=sys.stderr, flush=True)

    return update


def _rate(rate: float, unit: str) -> str:
    """Write how fast steps go; slow ones by what each takes.

    Examples
    --------
    >>> _rate(1234.5, "items"), _rate(0.02, "cells")
    ('1,234.5 items/s', '50 s for each of the cells')
    """
    return f"{1 / rate:,.0f} s for each of the {unit}" if 0 < rate < 0.1 else f"{rate:,.1f} {unit}/s"
