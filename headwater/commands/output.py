"""What a command prints: lines for people, JSON for scripts, progress on standard error; and how it fails."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NoReturn

from headwater._shown import without_nan
from headwater._words import printable

DEBUG = "HEADWATER_DEBUG"
"""Environment variable: when set to anything, an error is shown with its traceback, as by ``--debug``."""


def show(lines: list[str], value: Any, as_json: bool) -> None:
    """Print lines, or the value as JSON."""
    if as_json:
        import json

        print(json.dumps(without_nan(value), indent=2, ensure_ascii=False, default=str, allow_nan=False))
    else:
        print("\n".join(map(printable, lines)))


def fail(line: str, status: int) -> NoReturn:
    """Print one line on standard error and end the process."""
    if os.environ.get(DEBUG) and sys.exc_info()[0] is not None:
        traceback.print_exc()
    from headwater.errors import without_credentials

    print(f"headwater: {printable(without_credentials(' '.join(line.split())))}", file=sys.stderr)
    sys.exit(status)


def warn_of_code(trusted: bool) -> None:
    """Warn that code of a model will run."""
    if trusted:
        words = (
            "headwater: --trust-remote-code: code that came with the model will run with your rights: it can read, "
            "change and send whatever you can."
        )
        print(words, file=sys.stderr, flush=True)
