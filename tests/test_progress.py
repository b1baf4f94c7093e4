"""Progress: lines and counted events for one callable, and how a terminal and a file show them."""

import time

import pytest

from headwater import _progress
from headwater._progress import Event, Terminal, counting, progress_to, silent


def test_a_counted_step_is_events_of_text_and_numbers():
    """Each event is a line, and says how far the step is; the last one ends it."""
    seen = []
    with counting(seen.append, "embed a/image", 4) as update:
        for done in range(1, 5):
            time.sleep(_progress.EVENT_EVERY)
            update(done, failed=done // 4)
    assert [event.done for event in seen] == [0, 1, 2, 3, 4]
    assert all(isinstance(event, str) and (event.step, event.total) == ("embed a/image", 4) for event in seen)
    assert "4/4" in seen[-1]
    assert "1 failed" in seen[-1]
    assert [event.ended for event in seen] == [False] * 4 + [True]


def test_events_do_not_flood():
    """Of many quick updates the first and the last are told."""
    seen = []
    with counting(seen.append, "step", 10_000) as update:
        for done in range(1, 10_001):
            update(done)
    assert seen[-1].done == 10_000
    assert len(seen) < 100


def test_a_step_that_breaks_off_ends():
    """A bar is closed also where the work raises."""
    seen = []

    def work():
        with counting(seen.append, "step", 4) as update:
            update(1)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert seen[-1].ended
    assert sum(event.ended for event in seen) == 1


def test_a_step_of_nothing_is_not_told():
    """No event is sent where there is nothing to do."""
    seen = []
    with counting(seen.append, "step", 0) as update:
        update(0)
    assert seen == []


def test_where_events_go():
    """None and False are silence, True is a terminal, a callable is itself."""
    assert progress_to(None) is silent
    assert progress_to(False) is silent
    assert isinstance(progress_to(True), Terminal)
    assert progress_to(print) is print


def test_a_file_gets_a_line_now_and_then(capsys, monkeypatch):
    """Without a terminal a long step is a line when it ends; a short one is none; other lines come as they are."""
    show = Terminal()
    show("a line with \x1b[31m colour")
    for done in (0, 1, 2):
        show(Event(f"quick: {done}/2", "quick", done, 2, ended=done == 2))
    monkeypatch.setattr(_progress, "AT_ONCE", 0.0)
    for done in (0, 1, 2):
        show(Event(f"slow: {done}/2", "slow", done, 2, ended=done == 2))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("a line with")
    assert "\x1b" not in lines[0]
    assert lines[1:] == ["slow: 2/2"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    """On a terminal a counted step is a bar with its name, and the next line stands below it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    show = Terminal()
    for done in (0, 3):
        show(Event("", "embed a/image", done, 3, unit="items", ended=done == 3))
    show("done")
    shown = capsys.readouterr().err
    assert "embed a/image" in shown
    assert shown.rstrip().endswith("done")
