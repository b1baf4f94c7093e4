"""The journal: one line a finished block, and one for each plan and environment.

The journal is the truth about a feature set. It is only ever appended to, a line at a time, each made durable
before the next step; a block or an item that it does not speak of does not exist. A last line without its
newline is a write that a crash cut short, and is passed over. Each line begins with a checksum of the rest of it.

Of a store at a URL the journal is one object, and an append a write on the condition that it is still the one that was
read; when it is not, it is read again and added to. So no line is lost, whoever writes at the same time. A line is
refused when the journal has come to say something else of the same block, or of the rows, than its writer knew: that
writer lost its lock unaware.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headwater.errors import StoreBusy, StoreError
from headwater.store._files import digest, disk_errors, location, locked, sync
from headwater.store.remote import Remote, remote_of

SUM_DIGITS = 16
KNOWN = {"items", "sums", "block", "stored", "failed", "environment", "is"}
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """Rows were given out: ``items`` rows exist from now on.

    ``sums`` holds the checksum of each array that is known when rows are given out (keys; for ragged tokens
    their lengths and offsets), over the rows ``0 .. items``.
    """

    items: int
    sums: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BlockLine:
    """A block was written.

    ``stored`` are half-open ranges of rows; a checksum in ``sums`` covers the bytes of these rows, in order, of one
    array. A later line of the same block may add stored rows, never change one, so that the older line stays true of
    the newer chunk until the newer line is there. ``failed`` says why each failed row failed.
    """

    block: int
    stored: Ranges
    sums: Mapping[str, str]
    failed: Mapping[int, str] = field(default_factory=dict)
    environment: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "block": self.block,
            "stored": [list(r) for r in self.stored],
            "sums": dict(self.sums),
            "failed": {str(row): reason for row, reason in self.failed.items()},
            "environment": self.environment,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BlockLine:
        """Rebuild a line from `to_dict`."""
        return cls(
            block=value["block"],
            stored=tuple((start, stop) for start, stop in value["stored"]),
            sums=value["sums"],
            failed={int(row): reason for row, reason in value["failed"].items()},
            environment=value["environment"],
        )


@dataclass(frozen=True)
class JournalState:
    """What the lines of a journal add up to."""

    plan: PlanLine = PlanLine(items=0, sums={})
    blocks: dict[int, BlockLine] = field(default_factory=dict)
    environments: dict[str, Mapping[str, Any]] = field(default_factory=dict)


class Journal:
    """The journal of one feature set, at ``path``; ``shared`` with other processes that add to it at the same time."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self.shared = shared
        self._known = b"", JournalState()
        """What was read before lines were last added to an object, and what it added up to."""

    def read(self) -> JournalState:
        """Return the state that all whole lines add up to; an absent journal is an empty one.

        Raises
        ------
        StoreError
            When a line other than a cut-off last one cannot be read.
        """
        return self._added_up(self._bytes())

    def _added_up(self, text: bytes, state: JournalState | None = None, first: int = 1) -> JournalState:
        """Add lines, of which ``first`` is the number of the first, to a state that is used up by that."""
        state = JournalState() if state is None else state
        plan = state.plan
        for number, line in enumerate(text.split(b"\n")[:-1], start=first):
            try:
                value = parsed(line)
                if "block" in value:
                    state.blocks[value["block"]] = BlockLine.from_dict(value)
                elif "items" in value:
                    plan = PlanLine(items=value["items"], sums=value["sums"])
                elif "environment" in value:
                    state.environments[value["environment"]] = value["is"]
                else:
                    raise KeyError("block")
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{location(self.path)}: line {number} cannot be read ({error}). Restore the file from a backup, "
                    "or delete these features and embed again."
                ) from error
        return replace(state, plan=plan)

    def _state_of(self, text: bytes) -> JournalState:
        """Return what a journal adds up to that has mostly been read before: only what is new of it is read."""
        known, state = self._known
        self._known = b"", JournalState()  # for when a line cannot be read
        if not text.startswith(known):
            known, state = b"", JournalState()
        state = self._added_up(text[len(known) :], state, known.count(b"\n") + 1)
        self._known = text, state
        return state

    def _bytes(self) -> bytes:
        """Return the whole file, of a store at a URL as the bucket has it now; an absent one is empty."""
        if remote := remote_of(self.path):
            return remote.read(self.path) or b""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def append(self, *lines: PlanLine | BlockLine, after: JournalState | None = None) -> None:
        """Add lines, durably.

        Parameters
        ----------
        after
            What the journal said when the lines were made.

        Raises
        ------
        StoreBusy
            When the journal, of a store at a URL, says something else by now about the same blocks or the rows.
        """

        def check(now: JournalState) -> None:
            for line in lines:
                if after is None:
                    continue
                if isinstance(line, PlanLine):
                    what, changed = "given out rows", now.plan != after.plan
                else:
                    number = line.block
                    what, changed = f"made block {number}", now.blocks.get(number) != after.blocks.get(number)
                if changed:
                    raise StoreBusy(
                        f"{location(self.path)}: another process has {what} meanwhile. Run the same command again."
                    )

        values = [
            {"items": line.items, "sums": dict(line.sums)} if isinstance(line, PlanLine) else line.to_dict()
            for line in lines
        ]
        self._append(*values, check=check)

    def append_environment(self, environment: Mapping[str, Any]) -> str:
        """Add an environment, unless the journal has it, and return its name."""
        name = digest(json.dumps(environment, sort_keys=True).encode())[:8]
        if name not in self.read().environments:
            self._append({"environment": name, "is": dict(environment)})
        return name

    def _append(self, *values: Mapping[str, Any], check: Callable[[JournalState], object] = lambda state: None) -> None:
        lines, remote = b"".join(map(written, values)), remote_of(self.path)
        alone = not self.shared or (remote is not None and remote.has_conditions)
        with nullcontext() if alone else locked(self.path.with_suffix(".append.lock")):
            if remote is None:
                self._append_alone(lines)
            else:
                self._append_to_object(remote, lines, check)

    def _append_to_object(self, remote: Remote, lines: bytes, check: Callable[[JournalState], object]) -> None:
        tried: bytes | None = None

        def added(before: bytes) -> bytes | None:
            nonlocal tried
            if tried is not None and lines in before[len(tried) :]:
                return None  # they were written, and the answer was lost
            tried = before[: before.rfind(b"\n") + 1]
            check(self._state_of(tried))
            return tried + lines

        remote.change(self.path, added)

    def _append_alone(self, lines: bytes) -> None:
        new = not self.path.exists()
        with disk_errors(self.path), self.path.open("ab") as file:
            start = self._cut_unfinished()
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, start)
                raise
        if new:
            sync(self.path.parent)

    def _cut_unfinished(self) -> int:
        """Drop a last line that a crash cut short; return the length of what remains, in bytes."""
        with self.path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            keep = end
            while keep:
                start = max(0, keep - 65536)
                file.seek(start)
                newline = file.read(keep - start).rfind(b"\n")
                if newline >= 0:
                    keep = start + newline + 1
                    break
                keep = start
            if keep < end:
                file.truncate(keep)
            return keep


def written(value: Mapping[str, Any]) -> bytes:
    """Return a line of the journal, its checksum first."""
    rest = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()[1:]
    return b'{"sum":"' + digest(rest)[:SUM_DIGITS].encode() + b'",' + rest + b"\n"


def parsed(line: bytes) -> dict[str, Any]:
    """Return what a line says.

    Raises
    ------
    ValueError
        When it is not JSON, or differs from its checksum; one that was written without a checksum cannot.
    """
    value: dict[str, Any] = json.loads(line)
    start = len(b'{"sum":"') + SUM_DIGITS + len(b'",')
    if line.startswith(b'{"sum":"'):
        whole = digest(line[start:])[:SUM_DIGITS] == value["sum"]
    else:
        whole = set(value) <= KNOWN  # written before lines had checksums
    if not whole:
        raise ValueError("it differs from its checksum")
    return value
