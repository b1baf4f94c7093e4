"""Embedding by the workers of a Ray cluster: one actor per GPU, or per CPU."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from headwater._devices import Precision
from headwater._extras import need
from headwater.embed.choice import EncoderChoice
from headwater.embed.contents import as_content
from headwater.embed.load import load_encoder
from headwater.embed.run import ContentOf, make_block
from headwater.embed.weights import first_line
from headwater.errors import EncoderError, StoreBusy
from headwater.store import BlockLine, BlockTask, FeatureReader, FeatureWriter, Store, open_store

RETRIES = 4
"""Times that a block whose worker died is given to another worker before the run fails."""


@dataclass(frozen=True)
class Recipe:
    """How a worker builds the encoder; see `headwater.embed.load_encoder`."""

    encoder: EncoderChoice
    device: str
    precision: Precision


@dataclass(frozen=True)
class RayEngine:
    """Ray Data over blocks: each worker loads the encoder, reads files, encodes, and writes blocks to the store.

    Images must have the same paths on every node, for example on a shared file system. So must the store, unless it is
    at a URL; workers then write to the bucket, with a cache on each node. Only this process writes the journal: a block
    whose worker died before it returned its line is embedded again by another worker.

    Attributes
    ----------
    recipe
        How workers build the encoder.
    address
        Address of a running cluster; None uses the one that the environment names, or starts one on this machine.
    n_workers
        Number of actors; None for one per GPU (``cuda``) or CPU.
    batch_size
        As in `headwater.embed.fill`.

    References
    ----------
    https://docs.ray.io/en/latest/data/batch_inference.html
    """

    recipe: Recipe
    address: str | None = None
    n_workers: int | None = None
    batch_size: int = 32

    @contextmanager
    def blocks(
        self, features: FeatureReader, tasks: Sequence[BlockTask], content_of: ContentOf, environment: str
    ) -> Iterator[Iterator[tuple[BlockLine, int]]]:
        """Yield the journal lines of blocks that workers have written, with the number of truncated texts of each."""
        ray = need("ray", "ray")
        mine = not ray.is_initialized()
        if mine:
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise EncoderError(
                    f"--ray-address {self.address}: no Ray cluster can be reached ({error}). Check the address."
                ) from error
        try:
            yield self._lines(features, tasks, content_of, environment)
        finally:
            if mine:
                ray.shutdown()

    def _lines(
        self, features: FeatureReader, tasks: Sequence[BlockTask], content_of: ContentOf, environment: str
    ) -> Iterator[tuple[BlockLine, int]]:
        ray, data = need("ray", "ray"), need("ray.data", "ray")
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        on_gpu = self.recipe.device == "cuda"
        there = ray.cluster_resources().get("GPU" if on_gpu else "CPU", 0)
        n_workers = self.n_workers or int(there)
        if n_workers < 1:
            raise EncoderError(
                f"the Ray cluster has no {'GPU' if on_gpu else 'CPU'}. Start workers, or pass --device cpu."
            )
        known = features.refresh().state.environments[environment]
        store = Store(features.folder.parents[2]).location
        arguments = (self.recipe, store, features.name, features.rights.word, environment)
        made_by = {
            "fn_constructor_args": (*arguments, dict(known), self.batch_size),
            "num_cpus": 0 if on_gpu else 1,
            "num_gpus": 1 if on_gpu else None,
        }
        left = {task.block: task for task in tasks}
        lost = 0
        while left:
            rows = [_row(task, content_of) for task in left.values()]
            try:
                refused = None
                for made in _made(rows, min(n_workers, len(rows)), made_by):
                    if isinstance(made, StoreBusy):
                        features.rights.require()  # otherwise another worker, presumed dead, has written the block
                        refused = made
                        continue
                    line, cut = made
                    del left[line.block]
                    lost = 0
                    yield line, cut
                lost += 1
                if refused is not None and lost > RETRIES:
                    raise refused
            except need("ray.exceptions", "ray").RayError as error:
                lost += 1
                if isinstance(error, need("ray.exceptions", "ray").RayTaskError) or lost > RETRIES:
                    cause = error.__cause__ or error
                    raise EncoderError(f"a Ray worker failed ({first_line(cause)}).") from error


def _row(task: BlockTask, content_of: ContentOf) -> dict[str, Any]:
    """Return the data that a worker needs for a block."""
    contents = [content_of(row) for row in task.rows.tolist()]
    row = {
        "block": task.block,
        "rows": task.rows.tolist(),
        "keys": [content.key.hex() for content in contents],
        "sources": [str(content.source) for content in contents],
    }
    if contents[0].words is not None:
        row["words"] = [content.words for content in contents]
    return row


def _made(
    rows: list[dict[str, Any]], n_workers: int, made_by: Mapping[str, Any]
) -> Iterator[tuple[BlockLine, int] | StoreBusy]:
    """Yield the journal line of each block with the number of truncated texts, or a StoreBusy if the store rejected it.

    Raises a RayError if a worker is lost that Ray does not replace.
    """
    data = need("ray.data", "ray")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # these two options have no other way in
        done = data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker, concurrency=n_workers, max_restarts=-1, max_task_retries=RETRIES, **made_by
        )
    for found in done.iter_rows():
        if found["refused"]:
            yield StoreBusy(found["refused"])
        else:
            yield BlockLine.from_dict(json.loads(found["line"])), int(found["cut"])


class Worker:
    """An actor: it loads the encoder once, and embeds a block for each row."""

    def __init__(
        self,
        recipe: Recipe,
        store: str,
        name: str,
        right: str,
        environment: str,
        known: dict[str, Any],
        batch_size: int,
    ) -> None:
        self.encoder = load_encoder(recipe.encoder, device=recipe.device, precision=recipe.precision)
        self.encoder.restore(known)
        self.right = right
        self.features = open_store(store).features(name)
        self.writer = FeatureWriter(self.features, environment)
        spec = self.writer.features.spec
        own = self.encoder.spec(spec.modality, spec.dtype).with_tokens_as(spec.tokens_dtype).with_tiles(spec.tiles)
        own.require_same(spec, f"{name}, by a worker,")
        self.batch_size = batch_size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed and write one block, or return why the store rejects it."""
        modality = self.writer.features.spec.modality
        words = row["words"] if modality == "pair" else repeat(None, len(row["keys"]))
        contents = [
            as_content(modality, bytes.fromhex(key), source, text)
            for key, source, text in zip(row["keys"], row["sources"], words, strict=True)
        ]
        task = BlockTask(int(row["block"]), np.array(row["rows"], np.int64))
        try:
            with self.features.helping(self.right, task.block):
                line, cut = make_block(self.encoder, self.writer, task, contents, self.batch_size)
        except StoreBusy as error:
            return {"line": "", "cut": 0, "refused": str(error)}
        return {"line": json.dumps(line.to_dict()), "cut": cut, "refused": ""}
