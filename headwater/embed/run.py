"""The run that fills a feature set: decode, encode and write in parallel, block by block."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater._backend import is_out_of_memory
from headwater._memory import keep_freed_memory
from headwater.embed.contents import Content, keys_of
from headwater.embed.encoder import Encoded, Encoder, Unreadable
from headwater.embed.feed import Feed, FeedName, InThreads, Ready, feeding
from headwater.errors import DeviceMemory, EncoderError, ImageError
from headwater.store import (
    STORED,
    BlockLine,
    BlockResult,
    BlockTask,
    FeatureReader,
    Features,
    FeatureSpec,
    FeatureWriter,
    Modality,
    bfloat16,
    quantised,
)

SAME_COSINE = 0.999
REMEDY = "try --dtype float32 or --precision fp32"
REMEDY_OF_TOKENS = "try --tokens-dtype bfloat16 or --precision fp32"
REMEDY_OF_NONE = "try --precision fp32"
N_PROBES = 4
TEXTS_AT_ONCE = 16
"""Number of batches of texts that are sorted by length together."""
CORE_BATCH = 8
"""Most images that one core encodes together: more are not faster, and exceed the memory that malloc keeps."""

PARTS = ("prepare", "encode", "wait", "write")
"""Parts of a run whose time is counted."""

Progress = Callable[[int, int], None]


@dataclass
class Spent:
    """Where the time of a run went.

    Attributes
    ----------
    sharing
        Number of threads that both prepare and encode, each on its own core; None if one thread encodes, while others
        prepare ahead of it.
    seconds
        Seconds of all threads together, for ``prepare`` and ``encode``; of the thread that waits for items (``wait``)
        and of the one that writes them (``write``).
    """

    sharing: int | None = None
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("prepare", "encode", "wait", "write"), 0.0)
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the time of the body."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[what] += time.perf_counter() - start

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of the threads that could have encoded, by what they did."""
        prepare, encode, wait, write = (self.seconds[what] for what in PARTS)
        if self.sharing is not None:
            return {"reading and preparing": prepare, "encoding": encode}
        return {"waiting for prepared items": wait, "encoding": encode, "waiting for the disk": write}

    @property
    def total(self) -> float:
        """Sum of these."""
        return sum(self.parts.values())

    def line(self) -> str:
        """Return their shares in a line."""
        return ", ".join(f"{100 * seconds / (self.total or 1.0):.0f} % {what}" for what, seconds in self.parts.items())


class _OneAfterTheOther:
    """Runs a call in another thread, while the caller goes on until the next; errors reach the caller."""

    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._running: Future[Any] | None = None

    def __enter__(self) -> _OneAfterTheOther:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def run(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Wait for the call before, then start this one."""
        self.finish()
        self._running = self._pool.submit(call, *arguments)

    def finish(self) -> None:
        """Wait for the last call, and raise its error."""
        if self._running is not None:
            with self._spent.on("write"):
                running, self._running = self._running, None
                running.result()


@dataclass
class EmbedResult:
    """The result of a run: items embedded, failed (with reasons), finished before (``kept``), and left to other shards.

    ``cut`` counts truncated texts; ``spent`` says where the time went, if anything was embedded here.
    """

    embedded: int = 0
    failed: list[tuple[Content, str]] = field(default_factory=list)
    kept: int = 0
    left: int = 0
    cut: int = 0
    spent: Spent | None = None


class _Rows:
    """The content of each row of a feature set that this run has."""

    def __init__(self, rows: NDArray[np.int64], contents: Sequence[Content]) -> None:
        self.rows = rows
        self._contents = contents
        self._place = np.full(rows.max() + 1, -1)
        self._place[rows] = np.arange(len(rows))

    def __getitem__(self, row: int) -> Content:
        return self._contents[int(self._place[row])]


@dataclass(frozen=True)
class _Job:
    """Some rows of a block, prepared and encoded together."""

    task: BlockTask
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Done:
    job: _Job
    encoded: Encoded | None
    good: NDArray[np.int64]
    failed: dict[int, str]
    cut: int = 0


@dataclass(frozen=True)
class Shard:
    """One of several processes that fill a feature set together: number ``index`` of ``count``."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def has(self, blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the given block numbers belong to this shard."""
        own: NDArray[np.bool_] = blocks % self.count == self.index
        return own


class Engine(Protocol):
    """Makes blocks, with threads of this process or with workers elsewhere."""

    def blocks(
        self, features: FeatureReader, tasks: Sequence[BlockTask], content_of: ContentOf, environment: str
    ) -> AbstractContextManager[Iterator[tuple[BlockLine, int]]]:
        """Yield the journal lines of written blocks, in any order, with the number of truncated texts of each."""


ContentOf = Callable[[int], Content]


def fill(
    features: Features,
    encoder: Encoder[Any],
    contents: Sequence[Content],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    stop_on_error: bool = False,
    retry_failed: bool = False,
    shard: Shard | None = None,
    engine: Engine | None = None,
    feed: FeedName = "auto",
    progress: Progress | None = None,
) -> EmbedResult:
    """Embed the contents that ``features`` lacks.

    Parameters
    ----------
    features
        The feature set; its spec must be the encoder's.
    contents
        Distinct items.
    batch_size
        Most items that are encoded together; on the CPU at most 8 images, one batch per core.
    workers
        Number of threads; None for one per core.
    stop_on_error
        Raise at the first item that cannot be read, instead of recording it as failed.
    retry_failed
        Retry items that failed in an earlier run.
    shard
        The shard of blocks that this process embeds, while other processes embed the rest.
    engine
        Makes the blocks instead of this process.
    feed
        Whether threads or processes prepare items for an encoder on a GPU; see `headwater.embed.feed`.
    progress
        Called from this thread with the numbers of items done and failed so far.

    Raises
    ------
    ImageError
        With ``stop_on_error``, for the first item that cannot be read.
    EncoderError
        When stored items, embedded again, get other vectors.
    """
    modality = features.spec.modality
    keys = keys_of(contents)
    result = EmbedResult()
    with ExitStack() as stack:
        if shard is None:
            writer = stack.enter_context(features.writing())
            planning: AbstractContextManager[None] = nullcontext()
        else:
            writer, planning = stack.enter_context(features.sharing(str(shard)))
        lengths = _lengths(encoder, modality, contents) if features.spec.ragged else None
        with planning:
            writer.features = writer.features.refresh()
            tasks = writer.plan(keys, lengths, retry_failed=retry_failed)
        result.kept = len(contents) - sum(len(task.rows) for task in tasks)
        if shard is not None:
            own = shard.has(np.array([task.block for task in tasks], np.int64))
            result.left = sum(len(task.rows) for task, mine in zip(tasks, own, strict=True) if not mine)
            tasks = [task for task, mine in zip(tasks, own, strict=True) if mine]
        n_todo = sum(len(task.rows) for task in tasks)
        if not tasks:
            return result
        content_of = _Rows(writer.features.rows_of(keys), contents)
        _settle(encoder, modality, writer.features, contents)
        _require_same_vectors(encoder, writer.features, content_of)
        writer.set_environment(encoder.environment())
        n_done = 0
        if engine is not None:
            arguments = writer.features, tasks, content_of.__getitem__, writer.environment
            lines = stack.enter_context(engine.blocks(*arguments))
            for line, cut in lines:
                rows = next(task.rows for task in tasks if task.block == line.block)
                failed = [(content_of[row], why) for row, why in line.failed.items() if row in rows]
                if failed and stop_on_error:
                    raise ImageError(failed[0][1])
                writer.record(line)
                result.failed += failed
                result.cut += cut
                n_done += len(rows)
                if progress is not None:
                    progress(n_done, len(result.failed))
            result.embedded = n_todo - len(result.failed)
            return result
        n_workers = workers or len(os.sched_getaffinity(0))
        pending: dict[int, list[_Done]] = defaultdict(list)
        size = at_once(encoder, modality, batch_size)
        jobs = _jobs(tasks, modality, size)
        some = [content_of[row] for row in tasks[0].rows[: 2 * N_PROBES].tolist()]
        source = stack.enter_context(feeding(encoder, modality, some, n_todo, size, n_workers, feed))
        spent = result.spent = Spent(n_workers if encoder.threads_own_cores else None)
        commits = stack.enter_context(_OneAfterTheOther(spent))
        with closing(_encode_all(encoder, modality, jobs, content_of, size, n_workers, source, spent)) as finished:
            for done in finished:
                if done.failed and stop_on_error:
                    raise ImageError(next(iter(done.failed.values())))
                task = done.job.task
                pending[task.block].append(done)
                if sum(len(d.job.rows) for d in pending[task.block]) == len(task.rows):
                    block = _assemble(task, pending.pop(task.block), features.spec)
                    commits.run(writer.commit, task, block)
                    result.failed += [(content_of[row], why) for row, why in block.failed.items()]
                result.cut += done.cut
                n_done += len(done.job.rows)
                if progress is not None:
                    progress(n_done, len(result.failed))
        commits.finish()
        result.embedded = n_todo - len(result.failed)
    return result


def make_block(
    encoder: Encoder[Any],
    writer: FeatureWriter,
    task: BlockTask,
    contents: Sequence[Content],
    batch_size: int,
    workers: int = 1,
) -> tuple[BlockLine, int]:
    """Encode the contents of one block's rows and write them, as `fill` does.

    Return the journal line to record, and the number of truncated texts.
    """
    modality = writer.features.spec.modality
    content_of = _Rows(task.rows, contents)
    size = at_once(encoder, modality, batch_size)
    jobs, feed = _jobs([task], modality, size), InThreads(encoder, modality)
    with closing(_encode_all(encoder, modality, jobs, content_of, size, workers, feed, Spent())) as finished:
        parts = list(finished)
    return writer.write(task, _assemble(task, parts, writer.features.spec)), sum(part.cut for part in parts)


def at_once(encoder: Encoder[Any], modality: Modality, batch_size: int) -> int:
    """Return how many items are encoded together: on one core, few images, but as many texts as allowed."""
    of_images = modality != "text" and encoder.threads_own_cores
    return min(batch_size, CORE_BATCH) if of_images else batch_size


def _lengths(encoder: Encoder[Any], modality: Modality, contents: Sequence[Content]) -> NDArray[np.int64]:
    return np.array([encoder.length(modality, encoder.prepare(modality, c)) for c in contents], np.int64)


def _jobs(tasks: Sequence[BlockTask], modality: Modality, batch_size: int) -> Iterator[_Job]:
    step = batch_size * TEXTS_AT_ONCE if modality == "text" else batch_size
    for task in tasks:
        for start in range(0, len(task.rows), step):
            yield _Job(task, task.rows[start : start + step])


def _encode_all(
    encoder: Encoder[Any],
    modality: Modality,
    jobs: Iterator[_Job],
    content_of: _Rows,
    batch_size: int,
    n_workers: int,
    feed: Feed,
    spent: Spent,
) -> Generator[_Done]:
    """Yield finished jobs in order; worker threads prepare items, and also encode them if the encoder allows it."""

    def prepare(job: _Job) -> Ready:
        with spent.on("prepare"):
            rows = job.rows.tolist()
            return feed.prepare(rows, [content_of[row] for row in rows])

    at_once = _AtOnce(batch_size)

    def encode(job: _Job, ready: Ready) -> _Done:
        items, good, failed, encoded = ready.items, list(ready.good), dict(ready.failed), None
        with spent.on("encode"):
            while len(items) and encoded is None:
                try:
                    with at_once.halved_by_lack_of_memory(encoder.name):
                        encoded = _encode_sorted(encoder, modality, items, at_once.n)
                except Unreadable as error:
                    failed |= {good[i]: f"{why}: {content_of[good[i]].source}" for i, why in error.reasons.items()}
                    kept = [i for i in range(len(items)) if i not in error.reasons]
                    items, good = [items[i] for i in kept], [good[i] for i in kept]
        feed.done(ready)
        return _Done(job, encoded, np.array(good, np.int64), failed, ready.cut)

    def both(job: _Job) -> _Done:
        return encode(job, prepare(job))

    with _one_core_a_thread(), ThreadPoolExecutor(n_workers, thread_name_prefix="embed") as pool:
        waiting: deque[tuple[_Job, Future[Any]]] = deque()
        work: Callable[[_Job], Any] = both if encoder.threads_own_cores else prepare

        def finish() -> _Done:
            job, future = waiting.popleft()
            with spent.on("wait"):
                value = future.result()
            return value if isinstance(value, _Done) else encode(job, value)

        try:
            for job in jobs:
                waiting.append((job, pool.submit(work, job)))
                if len(waiting) > 2 * n_workers:
                    yield finish()
            while waiting:
                yield finish()
        finally:
            for _, future in waiting:
                future.cancel()


@dataclass
class _AtOnce:
    """How many items are encoded together: half as many from when a GPU's memory is too small for more."""

    n: int

    @contextmanager
    def halved_by_lack_of_memory(self, name: str) -> Iterator[None]:
        """Halve the number, with a warning, if the body runs out of a GPU's memory; the body is then to be run again.

        Raises
        ------
        DeviceMemory
            When a single item is too much.
        """
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.n == 1:
                raise DeviceMemory(
                    f"{name}: the GPU's memory is too small for a single item. Lower --image-size, or pass --precision "
                    "bf16 or --device cpu; what was finished is kept."
                ) from error
            self.n //= 2
            warnings.warn(f"the GPU ran out of memory: from here on {self.n} at a time are encoded.", stacklevel=3)


@contextmanager
def _one_core_a_thread() -> Iterator[None]:
    """If torch is loaded, keep it from using all cores for each worker thread."""
    if "torch" not in sys.modules:
        yield
        return
    from headwater.embed._torch import one_thread_each

    with one_thread_each(), keep_freed_memory():
        yield


def _encode_sorted(encoder: Encoder[Any], modality: Modality, prepared: Sequence[Any], batch_size: int) -> Encoded:
    """Encode batch by batch, with items of similar length together."""
    order = np.arange(len(prepared))
    if modality == "text":
        order = np.argsort([len(p) for p in prepared], kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    parts = []
    for batch in batches:
        try:
            parts.append(encoder.encode(modality, [prepared[i] for i in batch.tolist()]))
        except Unreadable as error:
            raise Unreadable({int(batch[i]): why for i, why in error.reasons.items()}) from error
    back = np.argsort(order, kind="stable")
    pooled = np.concatenate([part.pooled for part in parts])[back]
    if parts[0].tokens is None:
        return Encoded(pooled)
    if isinstance(parts[0].tokens, np.ndarray):
        return Encoded(pooled, np.concatenate([np.asarray(part.tokens) for part in parts])[back])
    matrices = [matrix for part in parts for matrix in part.tokens or ()]
    return Encoded(pooled, [matrices[i] for i in back])


def _assemble(task: BlockTask, parts: Sequence[_Done], spec: FeatureSpec) -> BlockResult:
    """Combine the jobs of a block in the stored type; an item whose values exceed its range fails.

    Tokens that are stored as int8 or bfloat16 stay float32; the writer converts them.
    """
    dtype = spec.dtype
    token_type, largest = spec.token_type, np.inf
    if spec.quantised or spec.bfloat16:
        token_type, largest = np.dtype(np.float32), quantised.LARGEST if spec.quantised else bfloat16.LARGEST
    failed = {row: why for part in parts for row, why in part.failed.items()}
    encoded = [(part.good, part.encoded) for part in parts if part.encoded is not None]
    if not encoded:
        return BlockResult(task.rows, np.zeros((len(task.rows), 1), dtype), None, failed)
    place = {row: i for i, row in enumerate(task.rows.tolist())}
    pooled = np.full((len(task.rows), encoded[0][1].pooled.shape[1]), np.nan, dtype)
    first = encoded[0][1].tokens
    tokens: Any = None
    if isinstance(first, np.ndarray):
        tokens = np.full((len(task.rows), *first.shape[1:]), np.nan, token_type)
    elif first is not None:
        tokens = [np.empty((0, first[0].shape[1]), token_type)] * len(task.rows)
    with np.errstate(over="ignore"):
        for good, part in encoded:
            at = [place[row] for row in good.tolist()]
            pooled[at] = part.pooled
            if isinstance(tokens, list):
                for i, matrix in zip(at, part.tokens or (), strict=True):
                    tokens[i] = matrix.astype(token_type)
            elif tokens is not None:
                tokens[at] = part.tokens
    finite = np.isfinite(pooled).all(1)
    if tokens is not None:
        remedy = REMEDY_OF_TOKENS if spec.tokens_dtype in (None, "float16", "int8") else REMEDY_OF_NONE
        fits = np.array([bool((np.abs(matrix) <= largest).all() and np.isfinite(matrix).all()) for matrix in tokens])
        for row in task.rows[finite & ~fits].tolist():
            failed.setdefault(row, f"its tokens are not finite in {spec.tokens_dtype or dtype}; {remedy}")
        finite &= fits
    for row in task.rows[~finite].tolist():
        failed.setdefault(row, f"its features are not finite in {dtype}; {REMEDY}")
    return BlockResult(task.rows, pooled, tokens, failed)


def _settle(encoder: Encoder[Any], modality: Modality, features: FeatureReader, contents: Sequence[Content]) -> None:
    """Let the encoder choose its precision: that of the last run, else by testing it on some items."""
    if features.state.blocks:
        made_in = [line.environment for line in features.state.blocks.values() if line.environment]
        encoder.restore(features.state.environments.get(made_in[-1], {}) if made_in else {})
        return
    batch = []
    for content in contents[: 8 * N_PROBES]:
        try:
            batch.append(encoder.prepare(modality, content))
        except ImageError:
            continue
        if len(batch) == 2 * N_PROBES:
            break
    while batch:
        try:
            encoder.settle(modality, batch)
        except Unreadable as error:
            batch = [item for i, item in enumerate(batch) if i not in error.reasons]
        else:
            return


def _require_same_vectors(encoder: Encoder[Any], features: FeatureReader, content_of: _Rows) -> None:
    """Embed some stored items again and compare, to detect changes that the spec does not record."""
    stored = content_of.rows[features.status[content_of.rows] == STORED]
    for row in stored[np.linspace(0, len(stored) - 1, min(N_PROBES, len(stored))).astype(int)].tolist():
        try:
            prepared = encoder.prepare(features.spec.modality, content_of[row])
        except ImageError:
            continue
        now = encoder.encode(features.spec.modality, [prepared]).pooled[0].astype(np.float64)
        then = features.pooled[row].astype(np.float64)
        scale = np.linalg.norm(now) * np.linalg.norm(then)
        cosine = float(now @ then / scale) if scale else float(np.array_equal(now, then))
        if not cosine >= SAME_COSINE:  # NaN is not the same
            raise EncoderError(
                f"{features.name}: {content_of[row].source}, embedded again, differs from its stored vector (cosine "
                f"{cosine:.4f}): the encoder or its preprocessing has changed. Pass --name to start a new feature set."
            )
