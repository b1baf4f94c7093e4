"""Runs that somebody else wrote, or changed: what goes wrong with their values becomes a line that names the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from headwater.errors import HeadError, HeadwaterError

Given = ParamSpec("Given")
Made = TypeVar("Made")
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""What values of another kind than was written end in, somewhere."""


@contextmanager
def run_errors(*paths: Any) -> Iterator[None]:
    """Turn what goes wrong with the values of runs into a `HeadError`; of runs that are not on disk it is a defect."""
    try:
        yield
    except HeadwaterError:
        raise
    except _WRONG as error:
        where = ", ".join(str(path) for path in paths if isinstance(path, (str, Path)))
        if not where:
            raise
        words = " ".join(str(error).split())
        raise HeadError(
            f"{where}: what is written there cannot be used ({type(error).__name__}: {words[:200]}). It was changed by "
            "hand, is damaged, or is of another version: make the run again. headwater --debug … shows where."
        ) from error


def reads_runs(verb: Callable[Given, Made]) -> Callable[Given, Made]:
    """Let a verb, whose first argument is a run or are runs, answer as `run_errors` does."""

    @wraps(verb)
    def guarded(*args: Given.args, **options: Given.kwargs) -> Made:
        first = args[0] if args else next(iter(options.values()), None)
        with run_errors(*(first if isinstance(first, (list, tuple)) else [first])):
            return verb(*args, **options)

    return guarded
