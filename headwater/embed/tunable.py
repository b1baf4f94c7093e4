"""The interface of encoders that can be trained: torch modules with differentiable features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from PIL import Image

from headwater.embed._torch import Frozen, to_numpy
from headwater.embed.contents import Content
from headwater.embed.encoder import Encoded, Encoder, Prepared
from headwater.store import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

    from headwater.embed.adapter import Adapter


@dataclass(frozen=True, eq=False)
class TorchFeatures:
    """Features of a batch, with their gradients.

    Attributes
    ----------
    pooled
        Of shape ``(n, dim)``.
    tokens
        Of shape ``(n, n_tokens, token_dim)``; None if not requested.
    mask
        True for tokens that exist, bool, of shape ``(n, n_tokens)``; None if all exist.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


def encoded(found: TorchFeatures) -> Encoded:
    """Return features as arrays; tokens with a mask become one matrix per item."""
    pooled = to_numpy(found.pooled)
    if found.tokens is None:
        return Encoded(pooled)
    tokens = to_numpy(found.tokens)
    if found.mask is None:
        return Encoded(pooled, tokens)
    return Encoded(pooled, [values[there] for values, there in zip(tokens, found.mask.cpu().numpy(), strict=True)])


class Tunable(Encoder[Prepared], Generic[Prepared]):
    """An encoder whose features can be differentiated with respect to its parameters.

    `encode` computes `features` of the collated batch without gradients.

    Attributes
    ----------
    tuned
        The adapter applied to the weights; None if there is none.
    """

    probes = True
    tuned: Adapter | None = None

    library: ClassVar[str]
    """Name of the package that the model comes from; its version is recorded."""
    _frozen: Frozen

    @property
    def module(self) -> nn.Module:
        """The whole model, on its device."""
        return self._frozen.module

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self._frozen.device

    @property
    def weights(self) -> str:
        """BLAKE2b-128 digest of the parameters and buffers before an adapter was applied."""
        return self._frozen.digest

    @abstractmethod
    def towers(self) -> Mapping[Modality, Sequence[str]]:
        """Return, for each modality, the names of the submodules that compute its features; "" for the whole module."""

    @abstractmethod
    def prepare_image(self, image: Image.Image) -> Prepared:
        """Prepare an image of mode RGB for `collate`; called from several threads at once."""

    @abstractmethod
    def prepare_text(self, text: str) -> Prepared:
        """Prepare a text for `collate`."""

    @abstractmethod
    def collate(self, modality: Modality, batch: Sequence[Prepared]) -> tuple[Tensor, ...]:
        """Return prepared items as tensors on the device; the first axis is the items."""

    @abstractmethod
    def features(self, module: nn.Module, modality: Modality, inputs: tuple[Tensor, ...]) -> TorchFeatures:
        """Return features of a collated batch, computed by ``module``, which is or wraps the model."""

    def checkpoint_gradients(self) -> bool:
        """Turn on gradient checkpointing, which recomputes activations; return whether the model supports it."""
        module = self.module
        for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable", "set_grad_checkpointing"):
            if callable(enable := getattr(module, name, None)):
                enable()
                return True
        return False

    def prepare(self, modality: Modality, content: Content) -> Prepared:
        """Read an item and prepare it."""
        if self.steps is not None and self.steps.jpeg_by_torch and (prepare := self.preparer(modality)) is not None:
            return prepare(content)  # type: ignore[return-value]
        return self.prepare_image(self.image_of(content)) if modality == "image" else self.prepare_text(content.text())

    def prepare_seen(self, modality: Modality, image: Image.Image, content: Content) -> Prepared:
        """Prepare an item whose image was read before, and may have been augmented."""
        return self.prepare_image(image)

    def encode(self, modality: Modality, batch: Sequence[Prepared]) -> Encoded:
        """Encode prepared items."""
        return encoded(self._frozen.run(self.features, modality, self.collate(modality, batch)))

    def settle(self, modality: Modality, batch: Sequence[Prepared]) -> None:
        """Choose bf16 if it is safe."""
        self._frozen.settle(lambda model: self.features(model, modality, self.collate(modality, batch)).pooled)

    def n_parameters(self) -> int:
        """Return the number of parameters of the model."""
        return self._frozen.n_parameters

    def architecture(self) -> str:
        """Return the layers of the model, and its configuration if it has one."""
        return f"{self.module}\n{getattr(self.module, 'config', '')}"

    def environment(self) -> dict[str, Any]:
        """Return versions, device and precision, and what was recorded of the encoder's name and folder."""
        return {**self._frozen.environment(self.library), **self.recorded}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Use the precision of an earlier run."""
        self._frozen.restore(environment)
