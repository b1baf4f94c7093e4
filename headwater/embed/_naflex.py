"""Images as patches in their own aspect ratio, as SigLIP 2 reads them: a grid of at most a fixed number of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.embed.pooling import pool_grid

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.embed._torch import Frozen


def takes_patches(processor: Any) -> bool:
    """Whether an image processor makes patches, instead of pixels of one size."""
    return "spatial_shapes" in getattr(processor, "model_input_names", ())


def patches_of(made: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the patches that a processor made from one image, of shape ``(rows, columns, dim)``, without padding."""
    rows, columns = (int(n) for n in made["spatial_shapes"][0])
    return np.asarray(made["pixel_values"][0][: rows * columns], np.float32).reshape(rows, columns, -1)


PATCHES = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
"""Names of the tensors of a batch, in the order of `padded_patches`."""


def padded_patches(batch: Sequence[NDArray[np.float32]], n_patches: int, frozen: Frozen) -> dict[str, Tensor]:
    """Return a batch for the model: patches padded to ``n_patches``, their mask, and the shapes of the grids."""
    torch = need("torch", "encoders")
    pixels = np.zeros((len(batch), n_patches, batch[0].shape[2]), np.float32)
    mask = np.zeros((len(batch), n_patches), np.int64)
    for row, grid in enumerate(batch):
        real = grid.shape[0] * grid.shape[1]
        pixels[row, :real], mask[row, :real] = grid.reshape(real, -1), 1
    shapes = np.array([grid.shape[:2] for grid in batch], np.int64)
    return {
        "pixel_values": torch.from_numpy(pixels).to(frozen.device),  # the model casts them itself
        "pixel_attention_mask": torch.from_numpy(mask).to(frozen.device),
        "spatial_shapes": torch.from_numpy(shapes).to(frozen.device),
    }


def see_patches(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return pooled features and hidden states of a dual encoder, or of its vision model alone."""
    out = model.get_image_features(**inputs) if hasattr(model, "get_image_features") else model(**inputs)
    return out.pooler_output, out.last_hidden_state


def pooled_tokens(hidden: Tensor, shapes: Tensor, n_tokens: int) -> Tensor:
    """Average each image's grid of tokens down to ``n_tokens``; the result has shape ``(n, n_tokens, dim)``."""
    torch = need("torch", "encoders")
    parts = []
    for states, (rows, columns) in zip(hidden, shapes.tolist(), strict=True):
        parts.append(pool_grid(states[: rows * columns].reshape(1, rows, columns, -1), n_tokens))
    pooled: Tensor = torch.cat(parts)
    return pooled
