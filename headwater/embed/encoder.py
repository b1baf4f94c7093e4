"""The interface of encoders: contents in, features out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._schema import Size, Word
from headwater.embed.contents import Content
from headwater.embed.known import known_of
from headwater.errors import ImageError
from headwater.sources.images import LONGEST, PYRAMID, is_strip
from headwater.sources.slides import is_slide_name
from headwater.sources.steps import Steps, reading_of
from headwater.store import FeatureSpec, Modality

Prepared = TypeVar("Prepared")
Preparer = Callable[[Content], NDArray[Any]]
"""Reads and prepares an item; can be pickled, for other processes."""


@dataclass(frozen=True)
class Encoded:
    """Features of a batch.

    Attributes
    ----------
    pooled
        float32, of shape ``(n, dim)``.
    tokens
        float32, of shape ``(n, n_tokens, token_dim)``; for texts a list of n matrices; None if not requested.
    """

    pooled: NDArray[np.float32]
    tokens: NDArray[np.float32] | Sequence[NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class Probed:
    """The result of a test that an encoder has passed.

    Attributes
    ----------
    key
        Digest of the weights, settings, versions and device that were tested.
    batch_size
        Number of items that were encoded together.
    """

    key: Word
    batch_size: Size
    verdict: Literal["fine"] = "fine"
    format: Literal[1] = 1


A_SLIDE = (
    "this is a whole slide, of which one vector would show little; cut it into tiles with headwater tiles, or pass "
    "--step resize=HxW if one vector is meant"
)


class Unreadable(ImageError):
    """Some items of a batch turn out to be unreadable when they are encoded: why, by their place in the batch."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


class Encoder(ABC, Generic[Prepared]):
    """Turns images, texts or both into features.

    Up to rounding, an encoder gives an item the same vector alone, in any batch, in any order, and in any thread.

    Attributes
    ----------
    name
        The encoder spec that it was built from.
    modalities
        The modalities that it can encode.
    tokens
        ``"none"``, ``"all"``, or the number of tokens to pool to.
    """

    name: str
    modalities: frozenset[Modality]
    tokens: str = "none"
    steps: Steps | None = None
    """Steps applied to an image before the preprocessing; part of the spec."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are resized to, if not the model's own size."""
    choices: Mapping[str, str] = MappingProxyType({})
    """The ``layer``, ``pooling`` and ``prompt`` that were requested."""
    threads_own_cores = False
    """Whether several threads may encode at once, each on its own core; else one batch is encoded at a time."""
    probes = False
    """Whether it is tested on synthetic items when it is loaded; see `headwater.embed.probe`."""
    probed: Probed | None = None
    """Result of the test, now or earlier."""
    longest: int | None = None
    """Tokens of the longest text in the test, at most what the encoder reads; None if it truncates no text."""
    recorded: Mapping[str, str] = MappingProxyType({})
    """What is recorded with the features besides the environment: the name of a known encoder, and a named folder."""

    @property
    def sees_images(self) -> bool:
        """Whether it encodes images, alone or with a text."""
        return not self.modalities <= {"text"}

    @property
    def resizes_to(self) -> tuple[int, int] | None:
        """Least height and width that it resizes an image to, before it crops; None if that is not known."""
        return None

    @abstractmethod
    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return the spec of this encoder's features of one modality."""

    def image_of(self, content: Content) -> Image.Image:
        """Read an image in mode RGB and apply the requested steps."""
        return seen_by(content, self.steps)

    def with_steps(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Add the requested steps and image size to settings of image preprocessing."""
        asked: dict[str, Any] = {} if self.steps is None else {"steps": list(self.steps.names)}
        if self.image_size is not None:
            asked["image_size"] = list(self.image_size)
        return {**settings, **asked}

    @abstractmethod
    def prepare(self, modality: Modality, content: Content) -> Prepared:
        """Read an item and prepare it for `encode`; called from several threads at once.

        Raises
        ------
        ImageError
            When an image cannot be read.
        """

    def preparer(self, modality: Modality) -> Preparer | None:
        """Return a function that prepares items as `prepare` does, in other processes; None if only this one can."""
        return None

    @abstractmethod
    def encode(self, modality: Modality, batch: Sequence[Prepared]) -> Encoded:
        """Encode prepared items.

        Raises
        ------
        Unreadable
            When items that are decoded only here cannot be read.
        """

    def length(self, modality: Modality, prepared: Prepared) -> int:
        """Return how many tokens of a prepared item will be stored, if items have different numbers."""
        return 0

    def cut(self, modality: Modality, content: Content, prepared: Prepared) -> bool:
        """Whether a text was longer than the encoder reads, so its end was truncated."""
        return False

    def settle(self, modality: Modality, batch: Sequence[Prepared]) -> None:
        """Choose the fastest precision that is safe on the device, by testing it on a first batch."""

    def n_parameters(self) -> int | None:
        """Return the number of parameters of the model; None if it has none, or the number is unknown."""
        return None

    def architecture(self) -> str:
        """Return a description of the model's layers and configuration; equal models have equal descriptions."""
        return ""

    def environment(self) -> dict[str, Any]:
        """Return versions, device and precision, which are recorded with the features but are not part of the spec."""
        return {"numpy": np.__version__}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Use the settings of an earlier run's environment, so that a resumed run equals an uninterrupted one."""


def seen_by(content: Content, steps: Steps | None) -> Image.Image:
    """Read an image in mode RGB, and apply the steps that an encoder was given."""
    meant = content.tile is not None or (steps is not None and steps.resizes)
    if not meant and isinstance(content.source, Path) and is_slide_name(content.source):
        raise ImageError(f"{A_SLIDE}: {content.source}")
    image = content.image(reading_of(steps))
    if not meant and image.info.get(PYRAMID):
        raise ImageError(f"{A_SLIDE}: {content.source}")
    if is_strip(*image.size):
        raise ImageError(
            f"the image has {image.width} x {image.height} pixels, so it is more than {LONGEST} times as long as wide, "
            "and resizing its shorter side would make it enormous; cut it into parts"
        )
    return image if steps is None else steps(image)


CLIP = "builtin:clip"
"""The only built-in encoder with weights."""

CHOICES = ("layer", "pooling", "prompt")

WHOLE = ("last", "last_hidden_state", "forward_features")
"""Values of a spec's ``layer`` that stand for the encoder's default."""


def default_name(encoder: str) -> str:
    """Return the default name of an encoder's features.

    Examples
    --------
    >>> default_name("timm:resnet34.a1_in1k"), default_name("open_clip:ViT-B-32/laion2b_s34b_b79k")
    ('resnet34.a1_in1k', 'ViT-B-32-laion2b_s34b_b79k')
    """
    if (known := known_of(encoder)) is not None:
        return known.name
    backend, _, model = encoder.partition(":")
    model = model if backend == "python" else re.sub(r"(@[^/]*)?(\?.*)?$", "", model)
    model = model.rpartition(":")[2] if backend == "python" else model
    model = Path(model).name if model.startswith((".", "/", "~", "local-dir:")) else model
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in model).strip("-._")
    return kept if not encoder.startswith("stub:") else f"stub-{kept}"
