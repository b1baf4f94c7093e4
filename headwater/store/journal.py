"""The journal: one line for each finished block, each plan and each environment.

The journal decides what a feature set holds: a block or an item that it does not record does not exist. It is only
appended to, and each line is durable before the next step. Each line begins with a checksum of its rest. A last line
cut short by a crash is ignored. A complete last line counts, with or without its newline. A complete line followed by
a byte other than a newline is damaged.

In a store at a URL, the journal is one object. An append is a conditional write: it succeeds only if the object is
still the version that was read; otherwise the object is read again and the append repeated. So no line is lost when
several processes write at once. A line is rejected if another process has meanwhile recorded the same block, or
assigned rows. This happens when the writer has lost its lock without noticing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from headwater._reading import TABLE, parse_json
from headwater._schema import Count, Word, read_as
from headwater.errors import StoreBusy, StoreError
from headwater.store._files import (
    digest,
    disk_errors,
    has_other_names,
    location,
    locked,
    open_to_change,
    read_own,
    sync,
    write_bytes,
)
from headwater.store.remote import Remote, remote_of

SUM_DIGITS = 16
BEGINS = b'{"sum":"'
KNOWN = {"items", "sums", "block", "stored", "failed", "environment", "is"}
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a feature set is laid out on disk; it never changes.

    Attributes
    ----------
    spec
        The result of `headwater.store.spec.FeatureSpec.to_dict`.
    block_rows
        Items per block.
    token_rows
        Rows per chunk of ragged tokens; None without ragged tokens, or before the first plan.
    """

    spec: dict[str, Any]
    block_rows: Count
    token_rows: Count | None = None


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """Rows were assigned to items: ``items`` rows exist from now on.

    Attributes
    ----------
    sums
        Checksums of the arrays that are written when rows are assigned (keys; for ragged tokens also lengths and
        offsets), over the rows ``0 .. items``; of the spec; and of the number of items per block.
    growing
        While arrays grow for the next plan: the numbers of items and of ragged token rows after it, which a
        ``zarr.json`` may already give. None otherwise.
    layout
        None in lines that earlier versions wrote.
    """

    items: Count
    sums: dict[str, str]
    growing: tuple[Count, Count] | None = None
    layout: Layout | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        more: dict[str, Any] = {} if self.growing is None else {"growing": list(self.growing)}
        if self.layout is not None:
            more["layout"] = vars(self.layout)
        return {"items": self.items, "sums": self.sums, **more}


@dataclass(frozen=True, kw_only=True)
class BlockLine:
    """A block was written.

    Attributes
    ----------
    block
        Number of the block.
    stored
        Half-open ranges of rows, ascending.
    sums
        For each array, the checksum of the bytes of these rows, in order. A later line of the same block may add stored
        rows but never changes one. So the older checksum still matches the newer chunk until the newer line is written.
    failed
        Reason for each failed row.
    environment
        Name of the environment line of this block.
    """

    block: Count
    stored: tuple[tuple[Count, Count], ...]
    sums: dict[str, str]
    failed: dict[int, str] = field(default_factory=dict)
    environment: Word = ""

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
        """Rebuild a line from `to_dict`; raise a ValueError if the values are invalid."""
        return read_as(cls, value)


@dataclass(frozen=True, kw_only=True)
class EnvironmentLine:
    """The environment in which blocks were made, under the name that their lines give."""

    environment: Word
    is_: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JournalState:
    """The state that results from all lines of a journal."""

    plan: PlanLine = PlanLine(items=0, sums={})
    blocks: dict[int, BlockLine] = field(default_factory=dict)
    environments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    n_unchecked: int = 0
    """Lines without a checksum, which earlier versions wrote."""


class Journal:
    """The journal of one feature set, at ``path``; ``shared`` if other processes add lines at the same time."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self.shared = shared
        self._known = b"", JournalState()
        """The bytes of the object before the last append, and the state that results from them."""

    def read(self) -> JournalState:
        """Return the state that results from all complete lines; a missing journal counts as empty.

        Raises
        ------
        StoreError
            When a line cannot be read, unless it is a last line that was cut short.
        """
        return self._added_up(self._bytes())

    def _added_up(self, text: bytes, state: JournalState | None = None, first: int = 1) -> JournalState:
        """Add lines, numbered from ``first``, to a state, which is changed in place."""
        state = JournalState() if state is None else state
        plan, n_unchecked = state.plan, state.n_unchecked
        *lines, tail = text.split(b"\n")
        if tail and is_whole(tail):
            lines.append(tail)
        number = first - 1
        for number, line in enumerate(lines, start=first):
            try:
                value = parsed(line)
                n_unchecked += "sum" not in value
                if "block" in value:
                    made = read_as(BlockLine, value)
                    state.blocks[made.block] = made
                elif "items" in value:
                    plan = read_as(PlanLine, value)
                elif "environment" in value:
                    made_in = read_as(EnvironmentLine, {**value, "is_": value.get("is")})
                    state.environments[made_in.environment] = made_in.is_
                else:
                    raise ValueError("its kind is unknown")
            except (ValueError, TypeError) as error:
                raise self._unreadable(number, error) from error
        if tail and lines[-1:] != [tail] and is_whole(tail[:-1]):
            raise self._unreadable(number + 1, ValueError("it does not end in a newline"))
        return replace(state, plan=plan, n_unchecked=n_unchecked)

    def _unreadable(self, number: int, error: Exception) -> StoreError:
        return StoreError(
            f"{location(self.path)}: line {number} cannot be read ({error}). Run: headwater verify STORE --repair, or "
            "restore the file from a backup."
        )

    def _state_of(self, text: bytes) -> JournalState:
        """Return the state of a journal; only the bytes added since the last call are parsed."""
        known, state = self._known
        self._known = b"", JournalState()  # in case a line cannot be read
        if not text.startswith(known):
            known, state = b"", JournalState()
        state = self._added_up(text[len(known) :], state, known.count(b"\n") + 1)
        self._known = text, state
        return state

    def _bytes(self) -> bytes:
        """Return the whole file, for a store at a URL as it now is in the bucket; empty if it is missing."""
        if remote := remote_of(self.path):
            return remote.read(self.path) or b""
        try:
            return read_own(self.path, most=TABLE)
        except FileNotFoundError:
            return b""

    def append(self, *lines: PlanLine | BlockLine, after: JournalState | None = None) -> None:
        """Add lines, durably.

        Parameters
        ----------
        after
            The state of the journal when the lines were made.

        Raises
        ------
        StoreBusy
            When another process has meanwhile recorded the same blocks or assigned rows, in a store at a URL.
        """

        def check(now: JournalState) -> None:
            for line in lines:
                if after is None:
                    continue
                if isinstance(line, PlanLine):
                    what, changed = "assigned rows", now.plan != after.plan
                else:
                    number = line.block
                    what, changed = f"written block {number}", now.blocks.get(number) != after.blocks.get(number)
                if changed:
                    raise StoreBusy(
                        f"{location(self.path)}: another process has {what} meanwhile. Run the same command again."
                    )

        self._append(*(line.to_dict() for line in lines), check=check)

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
                return None  # an earlier try wrote them, but its response was lost
            end = before.rfind(b"\n") + 1
            tried = before + b"\n" if is_whole(before[end:]) else before[:end]
            check(self._state_of(tried))
            return tried + lines

        remote.change(self.path, added)

    def _append_alone(self, lines: bytes) -> None:
        new = not self.path.exists()
        with disk_errors(self.path), self._opened() as file:
            start = _end_of_whole_lines(file)
            end = file.seek(0, os.SEEK_END)
            file.seek(start)
            if is_whole(tail := file.read(end - start)):  # complete except for its newline
                lines, start = b"\n" + lines, start + len(tail)
            file.truncate(start)
            file.seek(start)
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), start)
                raise
        if new:
            sync(self.path.parent)

    def _opened(self) -> BinaryIO:
        """Open the file to be changed; a file with hard links, as ``cp -al`` makes them, is copied first."""
        file = open_to_change(self.path)
        if not has_other_names(file):
            return file
        with file:
            write_bytes(self.path, file.read())
        return open_to_change(self.path)


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Return the number of bytes up to and including the last newline of a file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def is_whole(line: bytes) -> bool:
    """Whether bytes are a complete line with a matching checksum."""
    if not line.startswith(BEGINS):
        return False
    try:
        parsed(line)
    except ValueError:
        return False
    return True


def written(value: Mapping[str, Any]) -> bytes:
    """Return a line of the journal, its checksum first."""
    rest = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()[1:]
    return BEGINS + digest(rest)[:SUM_DIGITS].encode() + b'",' + rest + b"\n"


def parsed(line: bytes) -> dict[str, Any]:
    """Return the values of a line.

    Raises
    ------
    ValueError
        When the line is not a JSON object, or differs from its checksum; lines of earlier versions have none.
    """
    value = parse_json(line)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    start = len(BEGINS) + SUM_DIGITS + len(b'",')
    if line.startswith(BEGINS):
        whole = digest(line[start:])[:SUM_DIGITS] == value["sum"]
    else:
        whole = set(value) <= KNOWN  # written before lines had checksums
    if not whole:
        raise ValueError("it differs from its checksum")
    return value
