"""Locks in a bucket: each is an object that names its holder and is renewed as long as the holder lives.

Every change of the object is a conditional write, which the server rejects if another write came first. To create the
object, there must be none; to renew, free or take over the lock, it must still be the version that was read. A free
lock keeps its object.

Some locks exclude each other, such as those of shards and that of a single writer. A process first takes its own lock,
then checks the others, so of two processes at least one sees the other. The lock of a dead process is freed, not
ignored: if the process is alive after all, it finds that it has lost its lock.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from headwater.errors import RemoteError

FREE = b"{}"
"""Contents of the object of a free lock."""
SECONDS = 60.0
"""How long a lock stays valid after it was renewed; it is renewed every quarter of this time."""
POLL_SECONDS = 0.5


class Held(Exception):
    """Another process holds the lock; ``holder`` names the process and its host."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Objects(Protocol):
    """The operations that a lock needs from a bucket."""

    def read_tagged(self, name: str) -> tuple[str, bytes] | None: ...
    def write_if(self, name: str, data: bytes, tag: str | None) -> str | None: ...


class Lease:
    """A lock that this process holds as long as it renews it in time."""

    def __init__(self, objects: Objects, name: str) -> None:
        self.name = name
        self.word = uuid.uuid4().hex
        self._objects = objects
        self._tag: str | None = None
        self._claims: deque[bytes] = deque(maxlen=8)
        self._renewed = 0.0
        self._lost = False
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {name}", daemon=True)

    @property
    def held(self) -> bool:
        """Whether no other process can have taken over the lock yet, with a quarter of its time to spare."""
        return not self._lost and time.time() - self._renewed < 0.75 * SECONDS

    def acquire(self, *, wait: bool) -> None:
        """Take the lock if it is free or its holder is dead.

        Raises
        ------
        Held
            When another process holds it and ``wait`` is not set.
        """
        while not self._take():
            holder = self._holder()
            if holder is None:
                continue
            if not wait:
                raise Held(holder)
            time.sleep(POLL_SECONDS)
        self._thread.start()

    def release(self) -> None:
        """Free the lock; if the bucket cannot be reached, the lock expires."""
        self._released.set()
        self._thread.join()
        if self._tag is not None and not self._lost:
            with suppress(RemoteError):
                self._objects.write_if(self.name, FREE, self._tag)

    def _take(self) -> bool:
        """Claim the lock unless a live process holds it or claims it first."""
        found = self._objects.read_tagged(self.name)
        if found is not None and not _is_free(found[1]) and not _is_dead(self._objects, self.name, *found):
            return False
        return self._write(None if found is None else found[0])

    def _write(self, tag: str | None) -> bool:
        """Claim the lock if its object is still the version ``tag``.

        A claim may succeed although its response is lost. When a library sends it again, the server rejects it. The
        object then holds a claim of this process, which counts.
        """
        claim, sent = _claim(self.word), time.time()
        self._claims.append(claim)
        written = self._objects.write_if(self.name, claim, tag)
        if written is None:
            found = self._objects.read_tagged(self.name)
            if found is None or found[1] not in self._claims:
                return False
            written, sent = found[0], float(_parsed(found[1])["renewed"])
        self._tag, self._renewed = written, sent
        return True

    def _holder(self) -> str | None:
        """Return the holder of the lock; None when it has just become free."""
        found = self._objects.read_tagged(self.name)
        return None if found is None or _is_free(found[1]) else _holder_in(found[1])

    def _keep(self) -> None:
        while not self._released.wait(SECONDS / 4):
            with suppress(RemoteError):  # the next try may succeed; otherwise the lock expires
                if not self._write(self._tag):
                    self._lost = True
                    return


@contextmanager
def leased(objects: Objects, name: str, *, wait: bool) -> Iterator[Lease]:
    """Hold the lock ``name``; see `Lease.acquire`."""
    lease = Lease(objects, name)
    lease.acquire(wait=wait)
    try:
        yield lease
    finally:
        lease.release()


class Borrowed:
    """A lock that another process holds, for which this process works; each query reads it from the bucket."""

    def __init__(self, objects: Objects, name: str, word: str) -> None:
        self.name = name
        self._objects = objects
        self._word = word

    @property
    def held(self) -> bool:
        """Whether that process still holds the lock."""
        found = self._objects.read_tagged(self.name)
        return found is not None and _parsed(found[1]).get("lease") == self._word


def require_free(objects: Objects, name: str) -> None:
    """Make sure that no process holds a lock; the lock of a dead process is freed.

    Raises
    ------
    Held
        When a process holds it.
    """
    while (found := objects.read_tagged(name)) is not None and not _is_free(found[1]):
        if not _is_dead(objects, name, *found):
            raise Held(_holder_in(found[1]))
        objects.write_if(name, FREE, found[0])


def _is_dead(objects: Objects, name: str, tag: str, data: bytes) -> bool:
    """Whether the holder is dead: a process of this machine that is gone, or one that does not renew its lock."""
    claim = _parsed(data)
    if claim.get("machine") == _machine():
        return not _is_alive(claim)
    if time.time() - float(claim.get("renewed", 0)) < SECONDS:
        return False
    time.sleep(SECONDS / 2)  # clocks differ: a live holder renews its lock in this time
    found = objects.read_tagged(name)
    return found is not None and found[0] == tag


def _claim(word: str) -> bytes:
    claim = {
        "lease": word,  # the same as long as it is held
        "holder": f"process {os.getpid()} on {socket.gethostname()}",
        "machine": _machine(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "renewed": time.time(),
        "once": uuid.uuid4().hex,  # so that no two claims are equal
    }
    return json.dumps(claim).encode()


def _parsed(data: bytes) -> dict[str, Any]:
    """Return the claim in a lock's object; an object that cannot be read counts as free."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _holder_in(data: bytes) -> str:
    return str(_parsed(data).get("holder", "another process"))


def _is_free(data: bytes) -> bool:
    return not _parsed(data)


def _is_alive(claim: dict[str, Any]) -> bool:
    """Whether the process of a claim made on this machine lives, and is not a later process with the same number."""
    started = _started(int(claim.get("process", 0)))
    return started is not None and started == claim.get("started")


def _started(process: int) -> str | None:
    """Return the start time of a process on this machine, in ticks since boot; None if it does not run."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie is dead


def _machine() -> str:
    """Return an identifier of this boot of the machine and of the process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return uuid.uuid4().hex  # unknown machine: whether its processes live shows only by renewal
