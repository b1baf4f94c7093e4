"""Items read and prepared ahead of an encoder: by threads of this process, or by processes that share memory with it.

Decoding and resizing release Python's lock, but what lies between holds it, so that beyond a few cores more threads
prepare no more images. Processes do. They are forked from one helper that has imported what they need, write prepared
images into memory that this process maps, and send only row numbers and reasons of failures.
"""

from __future__ import annotations

import mmap
import os
import pickle
import queue
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as pipe
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater.embed.contents import Content
from headwater.embed.encoder import Encoder, Preparer
from headwater.errors import EncoderError, ImageError, InputError
from headwater.store import Modality

FeedName = Literal["auto", "threads", "processes"]
LEAST_WORKERS = 6
"""Fewest workers for which ``auto`` takes processes: an estimate, since two cores alone could be measured."""
LEAST_ITEMS = 10_000
"""Fewest items for which ``auto`` takes processes, whose start takes some seconds."""
ALIGNED = 4096  # bytes that places in shared memory are multiples of


@dataclass(frozen=True, eq=False)
class Ready:
    """Items that were prepared together.

    Attributes
    ----------
    items
        Prepared items that could be read; valid until `Feed.done` is called.
    good
        Their rows.
    failed
        Why each other row could not be read.
    cut
        Number of truncated texts.
    place
        Where they lie in shared memory; None elsewhere.
    """

    items: Sequence[Any]
    good: Sequence[int]
    failed: Mapping[int, str] = field(default_factory=dict)
    cut: int = 0
    place: int | None = None


class Feed(Protocol):
    """Prepares items; called from several threads at once."""

    def prepare(self, rows: Sequence[int], contents: Sequence[Content]) -> Ready:
        """Read and prepare contents, which have these rows."""
        ...

    def done(self, ready: Ready) -> None:
        """Say that prepared items are no longer needed."""
        ...


@dataclass(frozen=True)
class InThreads:
    """Prepares items in the thread that asks."""

    encoder: Encoder[Any]
    modality: Modality

    def prepare(self, rows: Sequence[int], contents: Sequence[Content]) -> Ready:
        """Read and prepare contents, which have these rows."""
        items, good, failed, cut = [], [], {}, 0
        for row, content in zip(rows, contents, strict=True):
            try:
                items.append(self.encoder.prepare(self.modality, content))
                good.append(row)
                cut += self.encoder.cut(self.modality, content, items[-1])
            except ImageError as error:
                failed[row] = str(error)
        return Ready(items, good, failed, cut)

    def done(self, ready: Ready) -> None:
        """Do nothing: items are freed like any object."""


@contextmanager
def feeding(
    encoder: Encoder[Any],
    modality: Modality,
    sample: Sequence[Content],
    n_items: int,
    batch_size: int,
    n_workers: int,
    kind: FeedName = "auto",
) -> Iterator[Feed]:
    """Start a feed, and stop it at the end.

    Parameters
    ----------
    encoder, modality
        What items are prepared for.
    sample
        Some of the contents, of which the first that can be read shows how much memory an item takes.
    n_items
        Number of items to prepare, for ``auto``.
    batch_size
        Most items prepared together.
    n_workers
        Number of threads that will ask, and of processes.
    kind
        ``threads``; ``processes`` where they can feed this encoder; or ``auto`` for processes where they are faster.
    """
    why = _why_not(encoder, modality)
    many = n_workers >= LEAST_WORKERS and n_items >= LEAST_ITEMS
    preparer = None if kind == "threads" or why is not None else encoder.preparer(modality)
    first = None if preparer is None or not (many or kind == "processes") else _first(preparer, sample)
    if preparer is None or first is None:
        yield InThreads(encoder, modality)
        return
    with InProcesses(InThreads(encoder, modality), preparer, first, batch_size, n_workers) as feed:
        yield feed


def require_feed(kind: FeedName, encoder: Encoder[Any], modalities: Sequence[Modality]) -> None:
    """Raise `InputError` if processes are requested, but cannot prepare items of any of these modalities."""
    reasons = [_why_not(encoder, modality) for modality in modalities]
    if kind == "processes" and reasons and None not in reasons:
        raise InputError(f"--feed processes: {reasons[0]}. Leave --feed out.")


def _why_not(encoder: Encoder[Any], modality: Modality) -> str | None:
    """Say why processes cannot feed an encoder; None if they can."""
    if not hasattr(os, "memfd_create") or not sys.executable:
        return "this system cannot start them"
    if encoder.steps is not None and encoder.steps.jpeg_by_torch:
        return "torch decodes images on the encoder's device, so that they are only read here"
    if encoder.threads_own_cores:
        return f"{encoder.name} encodes on the CPU, in the threads that prepare"
    if encoder.preparer(modality) is None:
        return f"only this process can prepare a {modality} for {encoder.name}"
    return None


def _first(preparer: Preparer, sample: Sequence[Content]) -> NDArray[Any] | None:
    for content in sample:
        with suppress(ImageError):
            return preparer(content)
    return None


class InProcesses:
    """Prepares items in processes, each for one thread at a time.

    An item of another shape or type than ``like`` is sent instead of shared. If a process is lost, such as for lack of
    memory, the thread that waits for it prepares the items itself, and those after them.

    Parameters
    ----------
    fallback
        Prepares items in place of lost processes.
    preparer
        Prepares one content; it is pickled.
    like
        A prepared item.
    batch_size
        Most items prepared together.
    n_workers
        Number of processes.
    """

    def __init__(
        self, fallback: InThreads, preparer: Preparer, like: NDArray[Any], batch_size: int, n_workers: int
    ) -> None:
        self._fallback = fallback
        self._shape, self._dtype = like.shape, like.dtype
        self._size = -(-like.nbytes * batch_size // ALIGNED) * ALIGNED
        n_places = 2 * n_workers + 2  # of those in preparation, and of those that wait for the encoder
        memory = os.memfd_create("headwater-feed")
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._workers: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._mine: list[Connection] = []
        try:
            os.ftruncate(memory, self._size * n_places)
            self._memory = np.frombuffer(mmap.mmap(memory, self._size * n_places), np.uint8)
            theirs = [self._new_worker() for _ in range(n_workers)]
            try:
                self._helper = _start(preparer, memory, [end.fileno() for end in theirs])
            finally:
                for end in theirs:
                    end.close()
        finally:
            os.close(memory)
        for place in range(n_places):
            self._places.put(place)

    def _new_worker(self) -> Connection:
        mine, theirs = pipe()
        self._mine.append(mine)
        self._workers.put(mine)
        return theirs

    def __enter__(self) -> InProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        for end in self._mine:
            end.close()  # at which the processes end
        try:
            self._helper.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._helper.kill()
            self._helper.wait()

    def prepare(self, rows: Sequence[int], contents: Sequence[Content]) -> Ready:
        """Let a process read and prepare contents, which have these rows."""
        worker = self._workers.get()
        if worker is None:
            self._workers.put(None)
            return self._fallback.prepare(rows, contents)
        place = self._places.get()
        try:
            worker.send((place * self._size, self._shape, self._dtype.str, list(contents)))
            good, failed, items = worker.recv()
        except (EOFError, OSError):
            self._workers.put(None)
            self._places.put(place)
            return self._fallback.prepare(rows, contents)
        self._workers.put(worker)
        if isinstance(items, str):
            self._places.put(place)
            raise EncoderError(f"{self._fallback.encoder.name}: an image cannot be prepared:\n{items}")
        shared = items is None
        if shared:
            items = _places(self._memory, place * self._size, len(good), self._shape, self._dtype)
        else:
            self._places.put(place)
        reasons = {rows[i]: why for i, why in failed.items()}
        return Ready(items, [rows[i] for i in good], reasons, 0, place if shared else None)

    def done(self, ready: Ready) -> None:
        """Let a process write where these items lie."""
        if ready.place is not None:
            self._places.put(ready.place)


def _start(preparer: Preparer, memory: int, ends: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start the helper, which forks a process for each of some ends of pipes."""
    code = "from headwater.embed.feed import serve; serve()"
    words = [sys.executable, "-P", "-c", code, str(memory), *map(str, ends)]
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    helper = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[memory, *ends], env=environment
    )
    assert helper.stdin is not None
    with suppress(BrokenPipeError), helper.stdin:  # a helper that ends at once shows in its pipes
        helper.stdin.write(pickle.dumps(preparer))
    return helper


# In the helper, and in the processes that it forks


def serve() -> None:
    """Fork a process for each end of a pipe that was named on the command line, and wait for all of them."""
    descriptor, *ends = map(int, sys.argv[1:])
    preparer = pickle.loads(sys.stdin.buffer.read())
    memory = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    children = []
    for end in ends:
        child = os.fork()
        if child == 0:
            for other in ends:
                if other != end:
                    os.close(other)
            with suppress(KeyboardInterrupt):
                _work(preparer, memory, Connection(end))
            os._exit(0)
        children.append(child)
    for end in ends:
        os.close(end)
    with suppress(KeyboardInterrupt):
        for child in children:
            os.waitpid(child, 0)


def _work(preparer: Preparer, memory: NDArray[np.uint8], end: Connection) -> None:
    """Prepare what comes, until the other end is closed."""
    while True:
        try:
            start, shape, dtype, contents = end.recv()
        except (EOFError, OSError):
            return
        try:
            reply: Any = _prepared(preparer, contents, _places(memory, start, len(contents), shape, np.dtype(dtype)))
        except Exception:  # noqa: BLE001  (whatever it is, the other end says it)
            reply = [], {}, traceback.format_exc()
        with suppress(OSError):
            end.send(reply)


def _prepared(
    preparer: Preparer, contents: Sequence[Content], places: NDArray[Any]
) -> tuple[list[int], dict[int, str], list[NDArray[Any]] | None]:
    """Prepare contents, and write them one after the other; return the items instead if they do not fit there."""
    items: list[NDArray[Any]] = []
    good: list[int] = []
    failed: dict[int, str] = {}
    for i, content in enumerate(contents):
        try:
            item = preparer(content)
        except ImageError as error:
            failed[i] = str(error)
            continue
        if item.shape == places.shape[1:] and item.dtype == places.dtype:
            places[len(good)] = item
            item = places[len(good)]
        items.append(item)
        good.append(i)
    alike = all(item.base is places for item in items)
    return good, failed, None if alike else [np.array(item) for item in items]


def _places(memory: NDArray[np.uint8], start: int, n: int, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the places of n items in shared memory, as one array."""
    size = n * int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(memory[start : start + size], dtype).reshape(n, *shape)
