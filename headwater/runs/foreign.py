"""Runs that were edited or damaged: errors from their values become one line that names the run."""

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
"""Errors that values of an unexpected type or size cause in later code."""


@contextmanager
def run_errors(*paths: Any) -> Iterator[None]:
    """Turn errors caused by the values of runs on disk into a `HeadError`; for runs in memory they are bugs."""
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
            f"{where}: cannot use the contents of this run ({type(error).__name__}: {words[:200]}). Its files were "
            "edited, are damaged, or come from another version: make the run again. headwater --debug … shows where."
        ) from error


def reads_runs(verb: Callable[Given, Made]) -> Callable[Given, Made]:
    """Wrap a verb whose first argument is one or more runs in `run_errors`."""

    @wraps(verb)
    def guarded(*args: Given.args, **options: Given.kwargs) -> Made:
        first = args[0] if args else next(iter(options.values()), None)
        with run_errors(*(first if isinstance(first, (list, tuple)) else [first])):
            return verb(*args, **options)

    return guarded
