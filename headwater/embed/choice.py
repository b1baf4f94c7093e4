"""Options for the choice of an encoder and for running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from headwater._checks import one_of, require_whole, whole_in
from headwater._devices import Device, Precision
from headwater._extras import need
from headwater.embed.feed import FeedName
from headwater.embed.known import KNOWN, known_of
from headwater.embed.known.entry import Licence
from headwater.embed.model_spec import ModelSpec
from headwater.embed.run import Shard
from headwater.errors import InputError

OnError = Literal["skip", "stop"]
EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder and everything that decides which features it makes.

    Attributes
    ----------
    spec
        ``timm:MODEL``, ``torchvision:MODEL``, ``open_clip:MODEL/WEIGHTS``, ``open_clip:hf-hub:ORG/NAME``,
        ``hf:ORG/NAME``, ``hf:DIRECTORY``, ``python:FILE.py:CLASS``, ``python:NAME`` of an installed package,
        ``builtin:clip``, ``builtin:texture``, ``builtin:ngram``, ``stub:DIM``; or ``joined:RUN``, two encoders joined
        by contrastive training. The name of a known encoder, such as ``uni2-h``, is replaced by the spec that it stands
        for, and its pooling is taken unless another is given.
    weights
        A local state dict (safetensors or a torch file) to load instead of the named weights; or a folder with the
        files of a model on the hub.
    adapter
        A run of `fine_tune`, or a folder saved by peft; the trained adapter is applied to the weights.
    tokens
        ``"none"``, ``"all"``, or the number of tokens to pool to.
    layer
        The layer whose features are taken: for timm one or several stages (``stage2,stage4``); for a vision-language
        decoder ``last`` or the number of a layer.
    pooling
        How tokens become one vector, instead of the model's own pooling: ``cls``, ``mean``, ``cls+mean``, ``max`` or
        ``last``; for a decoder see `headwater.embed.from_decoder.DecoderEncoder`.
    prompt
        The words around ``{image}``, ``{text}`` or both that a decoder reads.
    image_size
        Height and width (``HxW``), or one number for both, to which images are resized instead of the model's own
        size; position embeddings are interpolated. An adapter has its own image size, layer, pooling and prompt.
    steps
        Steps applied to an image before the encoder's preprocessing; see `headwater.sources.steps.parse_steps`.
    trust_remote_code
        Allow code that comes with a model, or that a run or store names, to run with all your rights.
    licence
        ``commercial`` refuses an encoder whose licence is not known to allow commercial use; ``any`` refuses none.
    """

    spec: str
    weights: str | Path | None = None
    adapter: str | Path | None = None
    tokens: str = "none"
    layer: str | None = None
    pooling: str | None = None
    prompt: str | None = None
    image_size: str | int | Sequence[int] | None = None
    steps: Sequence[str] = ()
    trust_remote_code: bool = False
    licence: Licence = "any"

    def __post_init__(self) -> None:
        for name in ("tokens", "layer"):
            if isinstance(value := getattr(self, name), Integral):  # a number may be given as one
                object.__setattr__(self, name, str(value))
        known = KNOWN.get(str(self.spec))
        if known is not None and known.spec is not None:
            object.__setattr__(self, "spec", str(known.spec))
        elif ":" in str(self.spec).partition("?")[0]:
            object.__setattr__(self, "spec", str(ModelSpec.parse(self.spec)))  # the same, however it was written
        if self.pooling is None and (known := known_of(self.spec)) is not None:  # the same, by name or in the long form
            object.__setattr__(self, "pooling", known.pooling)
        if isinstance(size := self.image_size, np.ndarray | np.integer):
            found = size.tolist()
            object.__setattr__(self, "image_size", tuple(found) if isinstance(found, list) else found)


@dataclass(frozen=True)
class Execution:
    """How an encoder is run over a manifest; these options do not change the spec of the features.

    Attributes
    ----------
    precision
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    device
        ``auto``, ``cpu`` or ``cuda``.
    batch_size
        Number of items encoded together.
    workers
        Number of threads that read files, or of workers of a Ray cluster. None for one per core.
    feed
        ``threads`` or ``processes`` that read and prepare images for an encoder on a GPU, or ``auto`` for processes
        where there are enough cores and images.
    on_error
        ``skip`` records an item that cannot be read as failed and continues; ``stop`` raises, also for an item that
        failed in an earlier run and is not retried.
    retry_failed
        Retry items that failed before.
    rehash
        Read files again even if size, time of change and inode are unchanged.
    shard
        ``I/N``: embed shard ``I`` (from 0) of ``N``, while other processes embed the other shards.
    engine
        ``local``, or ``ray`` for the workers of a Ray cluster.
    ray_address
        Address of a running cluster; without it, one is started on this machine.
    """

    precision: Precision = "auto"
    device: Device = "auto"
    batch_size: int = 32
    workers: int | None = None
    feed: FeedName = "auto"
    on_error: OnError = "skip"
    retry_failed: bool = False
    rehash: bool = False
    shard: str | None = None
    engine: EngineName = "local"
    ray_address: str | None = None

    @property
    def part(self) -> Shard | None:
        """The shard of blocks that this process embeds; None for all blocks."""
        if self.shard is None:
            return None
        index, count = (whole_in(word) for word in self.shard.partition("/")[::2])
        if index is None or count is None or index >= count:
            raise InputError(f"--shard {self.shard!r} must be I/N, with I from 0 to N - 1, such as 0/8.")
        return Shard(index, count)

    def refuse(self) -> None:
        """Raise `InputError` for invalid options, and `MissingExtra` if Ray is requested but not installed."""
        one_of("--on-error", self.on_error, get_args(OnError))
        one_of("--device", self.device, get_args(Device))
        one_of("--precision", self.precision, get_args(Precision))
        one_of("--feed", self.feed, get_args(FeedName))
        one_of("--engine", self.engine, get_args(EngineName))
        part = self.part
        if self.engine == "ray":
            need("ray", "ray")
            if part is not None:
                raise InputError("--engine ray divides the blocks itself. Leave --shard out.")
            if self.feed == "processes":
                raise InputError("--engine ray has its own workers. Leave --feed out.")
        elif self.ray_address is not None:
            raise InputError("--ray-address goes with --engine ray.")
        require_whole("--batch-size", self.batch_size, 1)
        if self.workers is not None:
            require_whole("--workers", self.workers, 1)


def encoder_choice(encoder: str | EncoderChoice) -> EncoderChoice:
    """Return an `EncoderChoice`, made from a spec if only that is given."""
    return encoder if isinstance(encoder, EncoderChoice) else EncoderChoice(encoder)
