"""Concurrent requests for the same work, done together: what arrives while a batch is computed forms the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from headwater.errors import HeadwaterError

Given = TypeVar("Given")
Made = TypeVar("Made")


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
        self._waiting: queue.SimpleQueue[tuple[Given, Future[Made]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, daemon=True, name="batches") for _ in range(workers)]
        self._lock, self._ended = threading.Lock(), False
        for thread in self._threads:
            thread.start()

    def __call__(self, item: Given) -> Made:
        """Return the result for an item, once its batch is done.

        Raises
        ------
        Ended
            After `close`.
        """
        done: Future[Made] = Future()
        with self._lock:
            if self._ended:
                raise Ended("the server is ending.")
            self._waiting.put((item, done))
        return done.result()

    def close(self) -> None:
        """Finish what was asked for, and end."""
        with self._lock:
            self._ended = True
            for _ in self._threads:
                self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            ended = False
            while len(batch) < self._most:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                    break  # each worker is told once
                batch.append(more)
            self._do(batch)
            if ended:
                return

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
