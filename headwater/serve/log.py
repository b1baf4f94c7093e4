"""What is written down: a line for each query, and the readers' own calls, as a table that headwater reads."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater._reading import read_regular
from headwater._tables import plain_cell
from headwater._writable import require_writable
from headwater.store import Store

AUDIT, CALLS, SECRET = "audit.jsonl", "calls.csv", "secret"
SECRET_BYTES = 32
COLUMNS = ("id", "image", "image_key", "reader", "own_call", "finding", "probability", "agreement", "run", "time")


class Log:
    """Appends to the files of a folder; several threads may.

    Parameters
    ----------
    folder
        Where the files are; made when something is first written.
    store
        The store, to which calls are related.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = require_writable(folder, "--log")
        self._root = str(store.roles.root)
        self._lock = threading.Lock()

    def secret(self) -> bytes:
        """Return random bytes, the same in each call and each start, that nobody else may read."""
        path = self.folder / SECRET
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            made = path.with_name(f"{SECRET}.{secrets.token_hex(8)}")
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            try:
                os.link(made, path)  # whole or not at all, and never in place of another
            finally:
                made.unlink()
        return read_regular(path, most=SECRET_BYTES)

    def query(self, entry: Mapping[str, Any]) -> None:
        """Write a line about a query: when, its digest, and what was shown."""
        line = json.dumps({"time": _now(), **entry}, ensure_ascii=False)
        self._append(AUDIT, line + "\n")

    def call(self, entry: Mapping[str, Any]) -> None:
        """Write a reader's call; images are named relative to the folder of the log, so that `embed` finds them."""
        row = {"time": _now(), **entry}
        if row.get("image"):
            row["image"] = os.path.relpath(Path(self._root) / str(row["image"]), self.folder.absolute())
        self._append(CALLS, _csv_line([row.get(name) for name in COLUMNS]), head=_csv_line(COLUMNS))

    def _append(self, name: str, text: str, head: str = "") -> None:
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / name
            new = not path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # for its owner alone
            with os.fdopen(descriptor, "a", encoding="utf-8", newline="") as file:
                file.write(head + text if new else text)


def _csv_line(cells: Sequence[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(["" if cell is None else plain_cell(str(cell)) for cell in cells])
    return out.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
