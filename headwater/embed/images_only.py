"""What encoders of images alone have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from PIL import Image

from headwater.embed._preprocess import ImagePipeline, ImagePreparer
from headwater.embed._torch import Frozen
from headwater.embed.encoder import Preparer
from headwater.embed.tunable import Tunable
from headwater.errors import EncoderError
from headwater.store import Modality

if TYPE_CHECKING:
    from torch import Tensor


class ImagesOnly(Tunable[NDArray[Any]]):
    """An encoder of images through one pipeline; a back end makes ``_pipeline`` and ``_frozen``."""

    modalities = frozenset[Modality]({"image"})
    _pipeline: ImagePipeline
    _frozen: Frozen

    def towers(self) -> Mapping[Modality, Sequence[str]]:
        """Return that the whole model sees images."""
        return {"image": ("",)}

    @property
    def resizes_to(self) -> tuple[int, int] | None:
        """Return the size of the pipeline's resizing."""
        return self._pipeline.resizes_to

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop an image."""
        return self._pipeline.prepare(image)

    def prepare_text(self, text: str) -> NDArray[Any]:
        """Refuse a text."""
        raise EncoderError(f"{self.name} reads no texts.")

    def preparer(self, modality: Modality) -> Preparer:
        """Return the pipeline, with the steps before it."""
        return ImagePreparer(self._pipeline, self.steps)

    def collate(self, modality: Modality, batch: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
        """Return pixels of shape ``(n, 3, height, width)``."""
        return (self._pipeline.batch(batch, self._frozen),)
