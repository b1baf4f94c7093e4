"""A warning for images that are much larger than what an encoder sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater._words import counted
from headwater.embed.constant_features import spread
from headwater.embed.contents import Content
from headwater.embed.encoder import Encoder
from headwater.errors import ImageError
from headwater.sources.images import MAX_PIXELS, size_of_file
from headwater.store import FeatureSpec

TIMES = 10
"""How many times the encoder's input an image's shorter side may be before it is said."""
LOOKED_AT = 1000
"""Most images whose size is looked at."""


def warn_of_large(spec: FeatureSpec, encoder: Encoder[Any], contents: Sequence[Content]) -> str | None:
    """Return a warning if images are more than `TIMES` as large as the encoder's input, and no step resizes them."""
    side = input_side(spec.preprocessing)
    if spec.modality == "text" or side is None or (encoder.steps is not None and encoder.steps.resizes):
        return None
    looked = large = 0
    largest = (0, 0)
    for i in spread(len(contents), LOOKED_AT).tolist():
        content = contents[i]
        if content.tile is not None:
            continue
        try:
            size = size_of_file(Path(content.source))
        except ImageError:
            continue
        if size[0] * size[1] > MAX_PIXELS:
            continue  # it was refused
        looked += 1
        if min(size) > TIMES * side:
            large += 1
            largest = max(largest, size, key=min)
    if not large:
        return None
    of = f"{large:,} of {counted(looked, 'image')}" if looked == len(contents) else f"{large:,} of {looked:,} looked at"
    return (
        f"{of} are more than {TIMES} times as large as the {side} pixels that the encoder sees, up to "
        f"{largest[0]:,} x {largest[1]:,}: each becomes one vector, and small structures are lost. Cut slides into "
        "tiles with headwater tiles; --step resize=HxW says that it is meant."
    )


def input_side(preprocessing: Mapping[str, Any]) -> int | None:
    """Return the shorter side of what an encoder sees, from the settings of its preprocessing; None if unknown.

    Examples
    --------
    >>> input_side({"input_size": [3, 224, 224]}), input_side({"size": {"shortest_edge": 256}}), input_side({})
    (224, 256, None)
    """
    for name in ("image_size", "input_size", "crop_size", "size", "sides"):
        value = preprocessing.get(name)
        if isinstance(value, Mapping):
            value = list(value.values())
        elif name == "input_size" and isinstance(value, Sequence):
            value = value[1:]
        elif name == "sides" and isinstance(value, Sequence):
            value = value[:1]
        numbers = [value] if isinstance(value, int) else list(value) if isinstance(value, Sequence) else []
        sides = [int(n) for n in numbers if isinstance(n, int | float) and not isinstance(n, bool) and n > 0]
        if sides:
            return min(sides)
    return None
