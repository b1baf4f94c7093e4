"""Who may write a feature set.

One process alone, which holds ``NAME.lock`` beside the journal; or the parts of a run, each of which holds
``NAME.I-of-N.lock``, gives out rows under ``NAME.plan.lock`` unless another part has, and writes blocks and lines of
its own.

On a disk, the parts share ``NAME.lock`` by ``flock``. In a bucket nothing is shared: a part takes its lock, then looks
at the lone writer's and at those of other numbers of parts; a lone writer takes its own, then looks at all parts'. Each
looks when its own lock is there to be seen, so never do both go on, though both may be refused. What a process that
lost its lock unaware still sends is refused, since objects are written only over the version that their writer knows,
and lines of the journal only where it says of their blocks, or of the rows, what their writer knew.
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
"""Bytes of a lock that are read to see who holds it."""


class Rights:
    """The locks of one feature set.

    Parameters
    ----------
    journal
        Its journal, beside which they are.
    name
        What it is called, for messages.
    """

    def __init__(self, journal: Path, name: str) -> None:
        self.name = name
        self._alone = journal.with_suffix(".lock")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the right to write alone.

        Raises
        ------
        StoreBusy
            When another process writes; the message names its host and process.
        """
        with self._taken(fcntl.LOCK_EX) as lock, _signed(lock, _who()):
            yield

    @contextmanager
    def of_part(self, part: str) -> Iterator[None]:
        """Hold the right to write one part, such as ``0-of-8``, beside others.

        Raises
        ------
        StoreBusy
            When another process writes alone, or writes the same part, or shards of another number of parts write.
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
                raise StoreBusy(f"part {part} of {self.name} is being written by {who}.") from error
            self._refuse_others(mine)
            with _signed(lock, _who()):
                yield

    def to_plan(self) -> AbstractContextManager[None]:
        """Return the lock to hold while a part gives out rows."""
        return locked(self._alone.with_suffix(".plan.lock"))

    @property
    def word(self) -> str:
        """A word for the right to write alone that this process holds, for `borrowed`; empty on a disk."""
        remote = remote_of(self._alone)
        return "" if remote is None else remote.word_of(self._alone)

    def require(self) -> None:
        """Make sure that the locks that this process took are still its own.

        Raises
        ------
        StoreBusy
            When one of a store at a URL was lost.
        """
        if remote := remote_of(self._alone):
            remote.require_leases()

    def borrowed(self, word: str) -> AbstractContextManager[object]:
        """Write for the process that a word is of, as long as it has the right; see `word`.

        Raises
        ------
        StoreBusy
            At a write, when that process has it no more.
        """
        remote = remote_of(self._alone)
        return nullcontext() if remote is None else remote.borrowed(self._alone, word)

    @contextmanager
    def _taken(self, kind: int) -> Iterator[BinaryIO]:
        """Hold the lock of writers, alone or together with others of the kind."""
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
                    self._refuse_others(path)  # at a URL, the parts of this machine have names
                self._refuse_busy(_signature(lock), error)
            except Held as error:
                self._refuse_busy(error.holder, error)
            yield lock

    @contextmanager
    def _same_division(self, count: str) -> Iterator[None]:
        """Keep out shards of another number of parts, whose blocks would be others."""
        path = self._alone.with_suffix(".shards.lock")
        with open_to_change(path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the first of them says how many there are
                _sign(lock, count)
            except BlockingIOError:
                pass
            fcntl.flock(lock, fcntl.LOCK_SH)
            running = _signature(lock)
            if running != count:
                self._refuse_division(running)
            yield

    def _refuse_others(self, mine: Path) -> None:
        """Refuse to go on, at a URL, where others hold locks that do not go with ``mine``, which is held by now."""
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
        with ThreadPoolExecutor(len(others) or 1) as pool:  # each that is dead is watched for a while
            list(pool.map(require_free, others))

    def _refuse_division(self, running: str, error: Exception | None = None) -> NoReturn:
        raise StoreBusy(f"{self.name} is being written by shards of {running} parts: join them, or wait.") from error

    def _refuse_busy(self, who: str, error: Exception) -> NoReturn:
        raise StoreBusy(
            f"{self.name} is being written by {who or 'another process'}. Wait for it to end, or stop it, then run the "
            "same command again."
        ) from error


@contextmanager
def _signed(lock: BinaryIO, words: str) -> Iterator[None]:
    """Let a lock say who holds it, as long as it is held."""
    _sign(lock, words)
    try:
        yield
    finally:
        _sign(lock, "")


def _sign(lock: BinaryIO, words: str) -> None:
    """Replace what a lock says; one of several names, of which another may be anybody's file, is left as it is."""
    if has_other_names(lock):
        return
    lock.seek(0)
    lock.truncate()
    lock.write(words.encode())
    lock.flush()


def _signature(lock: BinaryIO) -> str:
    """Return what a lock says, on one line."""
    lock.seek(0)
    return " ".join(lock.read(SIGNATURE).decode(errors="replace").split())


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
