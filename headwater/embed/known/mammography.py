"""Encoders of mammograms. None of them is a model of timm or transformers."""

from __future__ import annotations

from headwater.embed.known import snippets
from headwater.embed.known.entry import Known

HUB = "https://huggingface.co/shawn24/Mammo-CLIP"


def _mammo_clip(number: int, dim: int) -> Known:
    return Known(
        name=f"mammo-clip-b{number}",
        about=f"University of Pittsburgh, EfficientNet-B{number}, from mammograms with reports",
        subject="mammography",
        dim=dim,
        pixels=(1520, 912),
        licence="CC-BY-NC-SA-4.0",
        commercial=False,
        source=HUB,
        weights_file={2: "b2-model-best-epoch-10.tar", 5: "b5-model-best-epoch-7.tar"}[number],
        trap="The checkpoint is a pickle, which headwater does not read; grey images are repeated to three channels.",
        snippet=snippets.mammo_clip(number, dim),
    )


ENTRIES = (_mammo_clip(2, 1408), _mammo_clip(5, 2048))
