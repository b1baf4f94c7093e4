"""The locks that decide who may write a feature set; `Store.changing` locks the lists of a store itself.

Either one process writes alone and holds ``NAME.lock`` beside the journal. Or the shards of a run write together: each
holds ``NAME.I-of-N.lock`` and writes its own blocks and journal lines. The first shard assigns rows, and holds
``NAME.plan.lock`` meanwhile.

On a disk, the shards share ``NAME.lock`` by ``flock``. A bucket has no shared locks: a shard takes its lock, then
checks the single writer's and those of shards of other numbers; a single writer takes its lock, then checks those of
all shards. Since each process checks after its own lock is visible, two conflicting processes never both go on, though
both may be rejected. Late writes from a process that has lost its lock are rejected: an object is replaced only if it
is still the version that the writer knows, and a journal line is added only if the journal still records its block, or
the rows, as the writer knows them.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NoReturn

from headwater.errors import StoreBusy
from headwater.store._files import has_other_names, lease, locked, make_folder, open_to_change
from headwater.store.lease import Held
from headwater.store.remote import remote_of

SIGNATURE = 500
"""Most bytes of a lock file that are read to find its holder."""


class Rights:
    """The locks of one feature set.

    Parameters
    ----------
    journal
        Journal of the feature set; the locks are beside it.
    name
        Name of the feature set, for messages.
    """

    def __init__(self, journal: Path, name: str) -> None:
        self.name = name
        self._alone = journal.with_suffix(".lock")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of a single writer.

        Raises
        ------
        StoreBusy
            When another process writes; the message names its host and process.
        """
        with self._taken(fcntl.LOCK_EX) as lock, _signed(lock, _who()):
            yield

    @contextmanager
    def of_part(self, part: str) -> Iterator[None]:
        """Hold the lock of one shard, such as ``0-of-8``; other shards may write at the same time.

        Raises
        ------
        StoreBusy
            When a process writes without shards, writes the same shard, or uses another number of shards.
        """
        mine = self._alone.with_suffix(f".{part}.lock")
        count = part.rpartition("-")[2]
        with (
            self._taken(fcntl.LOCK_SH),
            self._same_division(count),
            open_to_change(mine) as lock,
            ExitStack() as stack,
        ):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stack.enter_context(lease(mine, wait=False))
            except (BlockingIOError, Held) as error:
                who = error.holder if isinstance(error, Held) else _signature(lock)
                raise StoreBusy(
                    f"shard {part} of {self.name} is being written by {who}. Wait for it to end, or stop it, then run "
                    "the same command again."
                ) from error
            self._refuse_others(mine)
            with _signed(lock, _who()):
                yield

    def to_plan(self) -> AbstractContextManager[None]:
        """Return the lock to hold while a shard assigns rows."""
        return locked(self._alone.with_suffix(".plan.lock"))

    @property
    def word(self) -> str:
        """The word of the single writer's lock that this process holds, for `borrowed`; empty on a disk."""
        remote = remote_of(self._alone)
        return "" if remote is None else remote.word_of(self._alone)

    def require(self) -> None:
        """Make sure that this process still holds its locks.

        Raises
        ------
        StoreBusy
            When it has lost a lock of a store at a URL.
        """
        if remote := remote_of(self._alone):
            remote.require_leases()

    def borrowed(self, word: str) -> AbstractContextManager[object]:
        """Write on behalf of the process that gave ``word``, while it holds the lock; see `word`.

        Raises
        ------
        StoreBusy
            When that process has lost the lock; raised by the next write.
        """
        remote = remote_of(self._alone)
        return nullcontext() if remote is None else remote.borrowed(self._alone, word)

    @contextmanager
    def _taken(self, kind: int) -> Iterator[BinaryIO]:
        """Hold the lock of writers, exclusively or shared, by ``kind``."""
        path = self._alone
        make_folder(path.parent)
        with open_to_change(path) as lock, ExitStack() as stack:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                if kind == fcntl.LOCK_EX:
                    stack.enter_context(lease(path, wait=False))
                    self._refuse_others(path)
            except BlockingIOError as error:
                if kind == fcntl.LOCK_EX:
                    self._refuse_others(path)  # at a URL, this finds the holder, such as a shard on this machine
                self._refuse_busy(_signature(lock), error)
            except Held as error:
                self._refuse_busy(error.holder, error)
            yield lock

    @contextmanager
    def _same_division(self, count: str) -> Iterator[None]:
        """Exclude shards of another number, since they would divide the blocks differently."""
        path = self._alone.with_suffix(".shards.lock")
        with open_to_change(path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the first shard sets the number
                _sign(lock, count)
            except BlockingIOError:
                pass
            fcntl.flock(lock, fcntl.LOCK_SH)
            running = _signature(lock)
            if running != count:
                self._refuse_division(running)
            yield

    def _refuse_others(self, mine: Path) -> None:
        """Raise, for a store at a URL, if others hold locks that exclude ``mine``, which this process already holds."""
        remote = remote_of(self._alone)
        if remote is None:
            return

        def n_parts(path: Path) -> str | None:
            found = re.fullmatch(rf"{re.escape(self._alone.stem)}\.\d+-of-(\d+)\.lock", path.name)
            return None if found is None else found[1]

        def require_free(path: Path) -> None:
            try:
                remote.require_free(path)
            except Held as error:
                if self._alone not in (mine, path):
                    self._refuse_division(str(n_parts(path)), error)
                self._refuse_busy(error.holder, error)

        others = [p for p in remote.taken(self._alone.parent) if p == self._alone or n_parts(p) is not None]
        others = [path for path in others if path != mine and n_parts(path) != n_parts(mine)]
        with ThreadPoolExecutor(len(others) or 1) as pool:  # checking whether a holder is dead takes a while
            list(pool.map(require_free, others))

    def _refuse_division(self, running: str, error: Exception | None = None) -> NoReturn:
        raise StoreBusy(
            f"{self.name} is being written by a run of {running} shards. Use the same number of shards, or wait for "
            "the run to end."
        ) from error

    def _refuse_busy(self, who: str, error: Exception) -> NoReturn:
        raise StoreBusy(
            f"{self.name} is being written by {who or 'another process'}. Wait for it to end, or stop it, then run the "
            "same command again."
        ) from error


@contextmanager
def _signed(lock: BinaryIO, words: str) -> Iterator[None]:
    """Write the holder into a lock file while the lock is held."""
    _sign(lock, words)
    try:
        yield
    finally:
        _sign(lock, "")


def _sign(lock: BinaryIO, words: str) -> None:
    """Replace the contents of a lock file; a file with hard links is left alone, since a link may be another's file."""
    if has_other_names(lock):
        return
    lock.seek(0)
    lock.truncate()
    lock.write(words.encode())
    lock.flush()


def _signature(lock: BinaryIO) -> str:
    """Return the contents of a lock file on one line."""
    lock.seek(0)
    return " ".join(lock.read(SIGNATURE).decode(errors="replace").split())


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
