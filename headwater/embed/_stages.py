"""Named stages of a timm model and their feature maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater.errors import EncoderError, nearest

if TYPE_CHECKING:
    from torch import Tensor

STEMS = re.compile(r"act1|bn1|stem.*|conv_stem|conv_0|features\.norm0|")
"""Names that timm gives to a feature map before the first stage."""


def stages_of(model: Any, spec: str, layer: str) -> tuple[str, ...]:
    """Return the names of a model's feature maps: ``stem`` if it has one, then ``stage1`` and so on.

    Raises
    ------
    EncoderError
        When timm gives no feature maps of this model.
    """
    info = getattr(model, "feature_info", None)
    maps: Sequence[dict[str, Any]] = getattr(info, "info", info) or ()
    if not maps or not hasattr(model, "forward_intermediates"):
        raise EncoderError(f"{spec}: --layer {layer}: timm has no feature maps for this model. Leave --layer out.")
    has_stem = bool(STEMS.fullmatch(maps[0]["module"]))
    stages = (f"stage{i}" for i in range(1, len(maps) + 1 - has_stem))
    return ("stem", *stages) if has_stem else tuple(stages)


def chosen_stages(layer: str, model: Any, spec: str) -> dict[str, int]:
    """Return the stages that ``layer`` lists, in model order, with the numbers of their feature maps.

    Raises
    ------
    EncoderError
        When it names a stage that the model does not have.
    """
    names = stages_of(model, spec, layer)
    asked = [name.strip() for name in re.split(r"[,+]", layer)]
    for name in asked:
        if name not in names:
            raise EncoderError(
                f"{spec}: --layer {layer}: there is no stage {name!r}.{nearest(name, names)} There are {names[0]} to "
                f"{names[-1]}; give one, or several such as stage2,stage4."
            )
    return {name: i for i, name in enumerate(names) if name in asked}


def see_stages(model: Any, x: Tensor, indices: list[int], pooling: str) -> tuple[Tensor, Tensor]:
    """Return the last named feature map, of shape ``(n, dim, height, width)``, and all maps pooled and concatenated."""
    torch = need("torch", "encoders")
    maps = model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True, output_fmt="NCHW")
    pooled = [one.float().amax((2, 3)) if pooling == "max" else one.float().mean((2, 3)) for one in maps]
    joined: Tensor = torch.cat(pooled, 1)
    return maps[-1], joined
