"""Locks in a bucket: an object that says who holds the lock, renewed by its holder as long as it lives.

Each change of the object is a conditional write, which the server refuses when another one came first: to make it,
there must be none; to renew, free or take over, it must still be the one that was seen. The object stays when it is
free.

Several may hold locks that go together, and not with others, such as those of shards and that of a lone writer: each
takes its own first and looks at the others' then, so that of two at least one sees the other. What a dead process held
is freed rather than passed over: should it live after all, it finds that its lock is lost.
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
"""What the object of a lock holds that nobody does."""
SECONDS = 60.0
"""How long a lock is held after it was last renewed; it is renewed four times as often."""
POLL_SECONDS = 0.5


class Held(Exception):
    """Another process holds the lock; ``holder`` names it and its host."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Objects(Protocol):
    """What a lock needs of a bucket."""

    def read_tagged(self, name: str) -> tuple[str, bytes] | None: ...
    def write_if(self, name: str, data: bytes, tag: str | None) -> str | None: ...


class Lease:
    """A lock that this process holds, as long as it is renewed in time."""

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
        """Whether nobody can have taken the lock over yet, with a quarter of its time to spare."""
        return not self._lost and time.time() - self._renewed < 0.75 * SECONDS

    def acquire(self, *, wait: bool) -> None:
        """Take the lock, when it is free or its holder is dead.

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
        """Free the lock; where the bucket cannot be reached any more, it frees itself in time."""
        self._released.set()
        self._thread.join()
        if self._tag is not None and not self._lost:
            with suppress(RemoteError):
                self._objects.write_if(self.name, FREE, self._tag)

    def _take(self) -> bool:
        """Write this process into the object, unless another live one stands there or is quicker."""
        found = self._objects.read_tagged(self.name)
        if found is not None and not _is_free(found[1]) and not _is_dead(self._objects, self.name, *found):
            return False
        return self._write(None if found is None else found[0])

    def _write(self, tag: str | None) -> bool:
        """Claim the lock, which must still be the one that was seen.

        A claim may arrive though its answer is lost; sent again, as libraries do by themselves, it is refused. What
        stands there then is this process's own.
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
        """Return who holds the lock; None when it has just become free."""
        found = self._objects.read_tagged(self.name)
        return None if found is None or _is_free(found[1]) else _holder_in(found[1])

    def _keep(self) -> None:
        while not self._released.wait(SECONDS / 4):
            with suppress(RemoteError):  # the next try may reach it, or the lock is lost in time
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
    """A lock that another process holds, for which this one works; it is looked at whenever it is asked for."""

    def __init__(self, objects: Objects, name: str, word: str) -> None:
        self.name = name
        self._objects = objects
        self._word = word

    @property
    def held(self) -> bool:
        """Whether nobody has taken the lock over, and it was not given back."""
        found = self._objects.read_tagged(self.name)
        return found is not None and _parsed(found[1]).get("lease") == self._word


def require_free(objects: Objects, name: str) -> None:
    """Make sure that nobody holds a lock; one of a dead process is freed.

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
    """Whether the holder does not live: a process of this machine that is gone, or one that does not renew."""
    claim = _parsed(data)
    if claim.get("machine") == _machine():
        return not _is_alive(claim)
    if time.time() - float(claim.get("renewed", 0)) < SECONDS:
        return False
    time.sleep(SECONDS / 2)  # clocks differ: one that lives renews it meanwhile
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
        "once": uuid.uuid4().hex,  # so that no two claims are the same object
    }
    return json.dumps(claim).encode()


def _parsed(data: bytes) -> dict[str, Any]:
    """Return what a lock's object says; one that cannot be read is nobody's."""
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
    """Whether the process of a claim made on this machine lives, and is not another one of the same number."""
    started = _started(int(claim.get("process", 0)))
    return started is not None and started == claim.get("started")


def _started(process: int) -> str | None:
    """Return when a process of this machine began, in ticks since the machine did; None when there is none such."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie is dead


def _machine() -> str:
    """Return a word for the machine, as it was started, and the processes that can see each other on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return uuid.uuid4().hex  # of no machine that can be told: only time tells whether its processes live
