"""What models of several families share: sizes, weights of which none is idle, image processors, how they are saved."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SIDE = 64
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
DROPS = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
PIXELS = {"image_size": SIDE, "patch_size": 16}


@dataclass(frozen=True)
class Tiny:
    """A tiny encoder on disk."""

    spec: str
    modalities: tuple[str, ...]
    folder: Path | None = None
    options: dict = field(default_factory=dict)


def scatter(model):
    """Give every parameter and statistic a value of its own, by a fixed seed, so that none is idle."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or tensor.ndim == 0:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + noise.abs())
            elif tensor.ndim == 1:
                tensor.add_(0.1 * noise)
            else:
                tensor.copy_(noise / max(np.prod(tensor.shape[1:]), 16) ** 0.5)
    return model


def build_hub(folder, model, processor=None, tokenizer=None):
    """Save a transformers model with its image processor and tokenizer."""
    for part in (scatter(model), processor, tokenizer):
        if part is not None:
            part.save_pretrained(folder)
    modalities = tuple(m for m, p in (("image", processor), ("text", tokenizer)) if p is not None)
    return Tiny(f"hf:{folder}", modalities, folder)


def processor_of(kind):
    """Return a transformers image processor for images of `SIDE` pixels."""
    import transformers

    size = {"shortest_edge": SIDE + 8} if kind in ("CLIP", "Bit") else {"height": SIDE, "width": SIDE}
    crop = {"crop_size": {"height": SIDE, "width": SIDE}} if kind in ("CLIP", "Bit") else {}
    if kind == "ConvNext":
        size, crop = {"shortest_edge": SIDE}, {"crop_pct": 0.9}
    return getattr(transformers, f"{kind}ImageProcessor")(size=size, **crop)
