"""Progress on a terminal, and plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_EVERY = 30.0  # seconds between plain lines
AT_ONCE = 1.0  # a step that takes less needs no line


class Update(Protocol):
    """Takes how many are done and how many of these failed; and the seconds left, where the caller knows better."""

    def __call__(self, done: int, failed: int = 0, left: float | None = None) -> None: ...


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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _Remaining(TimeRemainingColumn):
        """What the caller said of the time left, or else what the rate so far says."""

        def render(self, task: Task) -> Text:
            left = task.fields["left"]
            return super().render(task) if left is None else Text(f"about {span(left)} left", "progress.remaining")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        _Remaining(),
        TextColumn("{task.fields[failures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="", failures="", left=None)
        start = time.monotonic()

        def update(done: int, failed: int = 0, left: float | None = None) -> None:
            rate = _rate(done / max(time.monotonic() - start, 1e-9), unit)
            bar.update(task, completed=done, rate=rate, left=left, failures=f"[red]{failed} failed" if failed else "")

        yield update


def _silent(done: int, failed: int = 0, left: float | None = None) -> None:
    """Show nothing."""


def _plain(what: str, total: int, unit: str) -> Update:
    start = last = time.monotonic()

    def update(done: int, failed: int = 0, left: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_EVERY and (done < total or now - start < AT_ONCE):
            return
        last = now
        rate = done / max(now - start, 1e-9)
        failures = f", {failed:,} failed" if failed else ""
        seconds = (total - done) / rate if left is None and rate else left
        words = f", {span(seconds)} left" if done < total and seconds is not None else ""
        print(f"{what}: {done:,}/{total:,} ({_rate(rate, unit)}{words}{failures})", file=sys.stderr, flush=True)

    return update


def span(seconds: float) -> str:
    """Write how long something takes.

    Examples
    --------
    >>> span(75), span(600), span(9000)
    ('75 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _rate(rate: float, unit: str) -> str:
    """Write how fast steps go; slow ones by what each takes.

    Examples
    --------
    >>> _rate(1234.5, "items"), _rate(0.02, "cells")
    ('1,234.5 items/s', '50 s for each of the cells')
    """
    return f"{1 / rate:,.0f} s for each of the {unit}" if 0 < rate < 0.1 else f"{rate:,.1f} {unit}/s"
