"""Concurrent requests for the same work, done together: what arrives while a batch is computed forms the next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from headwater.errors import HeadwaterError

Given = TypeVar("Given")
Made = TypeVar("Made")
FEW = 8  # items at once in the background, so that others need not wait long
PAUSE = 0.05  # seconds without another item before the background's turn: who asks one after the other goes first


class Ended(HeadwaterError):
    """The server is ending."""


class Batcher(Generic[Given, Made]):
    """Compute items of several threads together.

    Parameters
    ----------
    work
        Returns a result for each of some items, in order.
    most
        Most items at once.
    workers
        Threads that compute batches, each its own.
    """

    def __init__(self, work: Callable[[Sequence[Given]], Sequence[Made]], most: int = 32, workers: int = 1) -> None:
        self._work, self._most = work, most
        self._waiting: deque[tuple[Given, Future[Made]]] = deque()
        self._background: deque[tuple[Given, Future[Made]]] = deque()
        self._changed, self._ended = threading.Condition(), False
        self._threads = [threading.Thread(target=self._run, daemon=True, name="batches") for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def __call__(self, item: Given, *, background: bool = False) -> Made:
        """Return the result for an item, once its batch is done.

        Parameters
        ----------
        item
            What to compute.
        background
            Whether others go first: such items are computed, a few at once, while nothing else waits.

        Raises
        ------
        Ended
            After `close`.
        """
        done: Future[Made] = Future()
        with self._changed:
            if self._ended:
                raise Ended("the server is ending.")
            (self._background if background else self._waiting).append((item, done))
            self._changed.notify()
        return done.result()

    def close(self) -> None:
        """Finish what was asked for, and end."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._do(batch)

    def _next(self) -> list[tuple[Given, Future[Made]]]:
        """Wait for items, and return those to compute together; none at the end."""
        with self._changed:
            while not (self._waiting or self._background or self._ended):
                self._changed.wait()
            if not (self._waiting or self._ended):
                self._changed.wait_for(lambda: self._waiting or self._ended, PAUSE)
            items, most = (self._waiting, self._most) if self._waiting else (self._background, FEW)
            return [items.popleft() for _ in range(min(most, len(items)))]

    def _do(self, batch: list[tuple[Given, Future[Made]]]) -> None:
        """Compute a batch; if that fails, each item alone, so that one does not spoil the others."""
        try:
            made = self._work([item for item, _ in batch])
            if len(made) != len(batch):
                raise RuntimeError(f"{len(made)} results for {len(batch)} items")
        except BaseException as error:  # noqa: BLE001  (it is the caller's; a library written in Rust raises others too)
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for one in batch:
                    self._do([one])
            return
        for (_, done), result in zip(batch, made, strict=True):
            done.set_result(result)
