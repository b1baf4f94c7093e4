"""Progress of long work: events, sent to one callable, and how a terminal shows them.

Every verb takes ``progress``: None for no output, True for standard error, or a callable that receives each line, such
as ``print`` or ``lines.append``. A line about a counted step is an `Event`, a string that also holds the numbers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

from headwater._words import printable

PLAIN_EVERY = 30.0  # seconds between plain lines
AT_ONCE = 1.0  # seconds; a shorter step prints no line
EVENT_EVERY = 0.1  # seconds between events of one step


class Event(str):
    """A line about the work; for a counted step, also how much of it is done.

    Attributes
    ----------
    step
        The counted step, such as ``"embed clip/image"``; None for any other line.
    done, total, failed
        Number of finished units, of all units, and of failed ones.
    unit
        What is counted, such as ``"items"``.
    left
        Estimated seconds left, where the caller has a better estimate than the rate so far; else None.
    ended
        Whether the step is over.
    """

    __slots__ = ("done", "ended", "failed", "left", "step", "total", "unit")

    step: str | None
    done: int
    total: int
    failed: int
    unit: str
    left: float | None
    ended: bool

    def __new__(
        cls,
        text: str,
        step: str | None = None,
        done: int = 0,
        total: int = 0,
        failed: int = 0,
        unit: str = "",
        left: float | None = None,
        ended: bool = False,
    ) -> Self:
        event = super().__new__(cls, text)
        event.step, event.done, event.total, event.failed = step, done, total, failed
        event.unit, event.left, event.ended = unit, left, ended
        return event


Progress = Callable[[str], Any]
"""Takes lines about the work; a line about a counted step is an `Event`."""


class Update(Protocol):
    """Takes the number done, the number of these that failed, and the caller's own estimate of the seconds left."""

    def __call__(self, done: int, failed: int = 0, left: float | None = None) -> None: ...


def progress_to(progress: Progress | bool | None) -> Progress:
    """Return the callable that receives events: the given one, the terminal for True, `silent` for None or False."""
    if progress is True:
        return Terminal()
    if not progress:
        return silent
    return progress


def silent(event: str) -> None:
    """Show nothing."""


@contextmanager
def counting(progress: Progress, step: str, total: int, *, unit: str = "items") -> Iterator[Update]:
    """Send events about a counted step.

    Yields a function of the numbers done and failed so far. It sends at most one event every tenth of a second, and
    one when all are done. A step of 0 units sends none.
    """
    if total == 0 or progress is silent:
        yield lambda done, failed=0, left=None: None
        return
    start = last = time.monotonic()
    now = Event(f"{step}: 0/{total:,}", step, total=total, unit=unit)
    progress(now)

    def update(done: int, failed: int = 0, left: float | None = None) -> None:
        nonlocal last, now
        moment = time.monotonic()
        rate = done / max(moment - start, 1e-9)
        seconds = (total - done) / rate if left is None and rate else left
        words = f", {span(seconds)} left" if done < total and seconds is not None else ""
        failures = f", {failed:,} failed" if failed else ""
        text = f"{step}: {done:,}/{total:,} ({_rate(rate, unit)}{words}{failures})"
        now = Event(text, step, done, total, failed, unit, left, ended=done == total)
        if moment - last >= EVENT_EVERY or done == total:
            last = moment
            progress(now)

    try:
        yield update
    finally:
        if not now.ended:
            progress(Event(now, step, now.done, total, now.failed, unit, ended=True))


class Terminal:
    """Shows events on standard error: lines as they are, counted steps as a bar, or without a tty as plain lines."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._step: str | None = None
        self._start = self._last = 0.0

    def __call__(self, event: str) -> None:
        """Show an event, or a line."""
        if not isinstance(event, Event) or event.step is None:
            self._close()
            print(printable(event), file=sys.stderr, flush=True)
            return
        if sys.stderr.isatty():
            self._draw(event)
        else:
            self._now_and_then(event)
        if event.ended:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._step = None

    def _now_and_then(self, event: Event) -> None:
        moment = time.monotonic()
        if event.step != self._step:
            self._step, self._start, self._last = event.step, moment, moment
        if moment - self._last < PLAIN_EVERY and (event.done < event.total or moment - self._start < AT_ONCE):
            return
        self._last = moment
        print(printable(event), file=sys.stderr, flush=True)

    def _draw(self, event: Event) -> None:
        if event.step != self._step:
            self._close()
            self._step, self._start = event.step, time.monotonic()
            self._bar = _bar()
            self._task = self._bar.add_task(event.step, total=event.total, rate="", failures="", left=None)
            self._bar.start()
        rate = _rate(event.done / max(time.monotonic() - self._start, 1e-9), event.unit)
        failures = f"[red]{event.failed} failed" if event.failed else ""
        self._bar.update(self._task, completed=event.done, rate=rate, left=event.left, failures=failures)


def _bar() -> Any:
    """Return a rich progress bar with the rate, the time left and the number of failures."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _Remaining(TimeRemainingColumn):
        """The time left: the caller's estimate, else the one from the rate so far."""

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
    return Progress(*columns, console=Console(stderr=True))


def span(seconds: float) -> str:
    """Write a duration.

    Examples
    --------
    >>> span(75), span(600), span(9000)
    ('75 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _rate(rate: float, unit: str) -> str:
    """Write a rate; below 0.1 per second, write the seconds per unit instead.

    Examples
    --------
    >>> _rate(1234.5, "items"), _rate(0.02, "cells")
    ('1,234.5 items/s', '50 s for each of the cells')
    """
    return f"{1 / rate:,.0f} s for each of the {unit}" if 0 < rate < 0.1 else f"{rate:,.1f} {unit}/s"
