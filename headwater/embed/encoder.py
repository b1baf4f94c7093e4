"""What an encoder is: content in, features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._schema import Size, Word
from headwater.embed.contents import Content
from headwater.sources.steps import Steps
from headwater.store import FeatureSpec, Modality

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class Encoded:
    """Features of a batch.

    Attributes
    ----------
    pooled
        float32, of shape ``(n, dim)``.
    tokens
        float32, of shape ``(n, n_tokens, token_dim)``; for texts a list of n matrices; None when not asked for.
    """

    pooled: NDArray[np.float32]
    tokens: NDArray[np.float32] | Sequence[NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class Probed:
    """An encoder that was tried and found fine.

    Attributes
    ----------
    key
        Digest of the weights, settings, versions and device that were tried.
    batch_size
        Items that were encoded together.
    """

    key: Word
    batch_size: Size
    verdict: Literal["fine"] = "fine"
    format: Literal[1] = 1


class Encoder(ABC, Generic[Prepared]):
    """Turns images, texts or both into features.

    An encoder gives an item the same vector alone, in any batch, in any order, and in any thread, up to rounding.

    Attributes
    ----------
    name
        The encoder spec that it was built from.
    modalities
        What it can encode.
    tokens
        ``"none"``, ``"all"``, or the number of tokens to pool to.
    """

    name: str
    modalities: frozenset[Modality]
    tokens: str = "none"
    steps: Steps | None = None
    """What is done to an image before all else; part of what defines the features."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to, where another than the model's own was asked for."""
    choices: Mapping[str, str] = MappingProxyType({})
    """What was asked for of ``layer``, ``pooling`` and ``prompt``."""
    threads_own_cores = False
    """Whether several threads may encode at once, each on a core of its own; else one batch is encoded at a time."""
    probes = False
    """Whether it is tried on made items when it is loaded; see `headwater.embed.probe`."""
    probed: Probed | None = None
    """That it was tried, now or earlier."""
    longest: int | None = None
    """Tokens of the longest text that a trial reads: all that it takes; None where it cuts no text."""

    @property
    def sees_images(self) -> bool:
        """Whether images are among what it encodes, alone or with a text."""
        return not self.modalities <= {"text"}

    @abstractmethod
    def spec(self, modality: Modality, dtype: str) -> FeatureSpec:
        """Return what defines this encoder's features of one modality."""

    def image_of(self, content: Content) -> Image.Image:
        """Read an image, mode RGB, and take the steps that were asked for."""
        image = content.image(None if self.steps is None else self.steps.bits)
        return image if self.steps is None else self.steps(image)

    def with_steps(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings of image preprocessing together with the steps before it, and the size that was asked for."""
        asked: dict[str, Any] = {} if self.steps is None else {"steps": list(self.steps.names)}
        if self.image_size is not None:
            asked["image_size"] = list(self.image_size)
        return {**settings, **asked}

    @abstractmethod
    def prepare(self, modality: Modality, content: Content) -> Prepared:
        """Read an item and make it ready for `encode`; called from several threads at once.

        Raises
        ------
        ImageError
            When an image cannot be read.
        """

    @abstractmethod
    def encode(self, modality: Modality, batch: Sequence[Prepared]) -> Encoded:
        """Encode prepared items."""

    def length(self, modality: Modality, prepared: Prepared) -> int:
        """Return how many tokens will be stored of a prepared item, where items differ."""
        return 0

    def cut(self, modality: Modality, content: Content, prepared: Prepared) -> bool:
        """Whether a text is longer than what the encoder reads of it, so that its end was left out."""
        return False

    def settle(self, modality: Modality, batch: Sequence[Prepared]) -> None:
        """Choose what the device is fastest and safe at, by trying it on a first batch."""

    def n_parameters(self) -> int | None:
        """Return how many parameters the model has; None for what has none, or does not say."""
        return None

    def architecture(self) -> str:
        """Return what is computed with the weights, as far as it is written down; equal for equal models."""
        return ""

    def environment(self) -> dict[str, Any]:
        """Return what is recorded with the features but does not define them: versions, device, precision."""
        return {"numpy": np.__version__}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Go on as in the environment of an earlier run, so that a run that is taken up again equals one in a piece."""


CLIP = "builtin:clip"
"""The one encoder that is built in and has weights."""

CHOICES = ("layer", "pooling", "prompt")

WHOLE = ("last", "last_hidden_state", "forward_features")
"""How specs call what an encoder gives when no layer is named."""


def default_name(encoder: str) -> str:
    """Return a name for an encoder's features.

    Examples
    --------
    >>> default_name("timm:resnet34.a1_in1k"), default_name("open_clip:ViT-B-32/laion2b_s34b_b79k")
    ('resnet34.a1_in1k', 'ViT-B-32-laion2b_s34b_b79k')
    """
    backend, _, model = encoder.partition(":")
    model = model.rpartition(":")[2] if backend == "python" else model
    model = Path(model).name if model.startswith((".", "/", "~", "local-dir:")) else model
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in model).strip("-._")
    return kept if not encoder.startswith("stub:") else f"stub-{kept}"
