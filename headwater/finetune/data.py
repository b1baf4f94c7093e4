"""Batches of images and texts for end-to-end training, prepared ahead of use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._extras import need
from headwater.embed.contents import Content
from headwater.embed.tunable import TorchFeatures, Tunable
from headwater.store import Modality

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.int64]
Augment = Callable[[Image.Image, np.random.Generator], Image.Image]
AHEAD = 3  # batches prepared ahead


@dataclass(frozen=True, eq=False)
class Stored:
    """Features of contents by a frozen encoder, computed once.

    Attributes
    ----------
    values
        Pooled features of shape ``(n_contents, d)``, or tokens: an array ``(n_contents, t, d)``, or a matrix per
        content.
    """

    values: Any

    def of(self, numbers: Sequence[int]) -> list[NDArray[np.float32]]:
        """Return tokens ``(t, d)`` of some contents; a vector is one token."""
        found = (np.asarray(self.values[i], np.float32) for i in numbers)
        return [values[None] if values.ndim == 1 else values for values in found]


@dataclass(frozen=True, eq=False)
class InputSource:
    """One input of the head: the contents of each row, and their encoder.

    Attributes
    ----------
    name
        Name of the feature set that the encoder would store: ``NAME/MODALITY``.
    encoder, modality
        The encoder, and the modality that it reads.
    contents
        Distinct images, texts or pairs.
    members
        For each row, the indices of its contents: one, or the instances of a bag.
    tokens
        Whether the head takes tokens; otherwise it takes one vector per content.
    augment
        Random augmentation of images in training.
    stored
        Features by a frozen encoder.
    """

    name: str
    encoder: Tunable[Any]
    modality: Modality
    contents: Sequence[Content]
    members: Sequence[Rows]
    tokens: bool
    augment: Augment | None = None
    stored: Stored | None = None

    def prepare(self, row: int, random: np.random.Generator | None) -> list[Any]:
        """Return a row's items, ready to be collated; thread-safe."""
        numbers = self.members[row].tolist()
        if self.stored is not None:
            return self.stored.of(numbers)
        if random is None or self.augment is None:
            return [self.encoder.prepare(self.modality, self.contents[i]) for i in numbers]
        images = [self.augment(self.encoder.image_of(self.contents[i]), random) for i in numbers]
        seen = zip(images, numbers, strict=True)
        return [self.encoder.prepare_seen(self.modality, image, self.contents[i]) for image, i in seen]

    def collate(self, rows: Sequence[list[Any]]) -> Part:
        """Return prepared rows as tensors on the device."""
        torch = need("torch", "encoders")
        lengths = [len(items) for items in rows]
        if self.stored is None:
            items = [item for items in rows for item in items]
            return Part(self.encoder.collate(self.modality, items), lengths)
        each = [torch.from_numpy(np.concatenate(items)) for items in rows]
        values = torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
        mask = torch.arange(values.shape[1]) < torch.tensor([len(v) for v in each])[:, None]
        device = self.encoder.device
        return Part((values.to(device), mask.to(device)), lengths)

    def tokens_of(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return tokens ``(b, t, d)`` of a batch, with gradients, and the mask of existing tokens."""
        torch = need("torch", "encoders")
        if self.stored is not None:
            values, mask = part.inputs
            return values, mask
        found: TorchFeatures = self.encoder.features(self.encoder.module, self.modality, part.inputs)
        if self.tokens and found.tokens is not None:
            every = torch.ones(found.tokens.shape[:2], dtype=torch.bool, device=found.tokens.device)
            return found.tokens, every if found.mask is None else found.mask
        pooled: Any = found.pooled
        values = torch.nn.utils.rnn.pad_sequence(pooled.split(part.lengths), batch_first=True)
        lengths = torch.tensor(part.lengths, device=values.device)
        return values, torch.arange(values.shape[1], device=values.device) < lengths[:, None]


@dataclass(frozen=True, eq=False)
class Part:
    """A batch of one source: tensors, and the number of items of each row."""

    inputs: tuple[Tensor, ...]
    lengths: list[int]


def batches(
    sources: Sequence[InputSource],
    parts: Sequence[Rows],
    *,
    seed: Sequence[int] | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Rows, list[Part]]]:
    """Yield batches of rows with their tensors; later batches are prepared in other threads.

    Parameters
    ----------
    parts
        The rows of each batch.
    seed
        Seed of the augmentation, which depends only on it and on the row; None for no augmentation.
    workers
        Number of threads. Default: one per core.
    """

    def prepare(row: int) -> list[list[Any]]:
        random = None if seed is None else np.random.default_rng([*seed, row])
        return [source.prepare(row, random) for source in sources]

    for rows, prepared in zip(parts, in_order(prepare, [rows.tolist() for rows in parts], workers), strict=True):
        yield rows, [source.collate([row[i] for row in prepared]) for i, source in enumerate(sources)]


def in_order(
    function: Callable[[int], Any], parts: Sequence[Sequence[int]], workers: int | None
) -> Iterator[list[Any]]:
    """Yield a function's results for the numbers of each part; later parts are computed in other threads."""
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        coming: deque[list[Future[Any]]] = deque()
        try:
            for part in parts:
                coming.append([pool.submit(function, number) for number in part])
                if len(coming) > AHEAD:
                    yield [future.result() for future in coming.popleft()]
            while coming:
                yield [future.result() for future in coming.popleft()]
        finally:
            for future in (future for futures in coming for future in futures):
                future.cancel()
