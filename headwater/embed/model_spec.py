"""An encoder spec in parts: the library, the model, what the model is built with, and how images are prepared.

The long form of a spec ends in ``?KEY=VALUE&KEY=VALUE``, as in
``timm:hf-hub:ORG/NAME@REVISION?architecture=vit_large_patch16_224&init_values=1e-05&resize=224&…``. It holds all that a
library would otherwise read from a configuration on the hub, so that it means the same on a machine without a network.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headwater._extras import need
from headwater.errors import EncoderError, nearest

Value = bool | int | float | str

NAMES = {
    "architecture": re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?"),
    "file": re.compile(r"[\w-][\w.-]*\.(safetensors|bin|pt|pth)", re.ASCII),
}
WHOLE = {
    "img_size": (16, 2048),
    "patch_size": (4, 64),
    "depth": (1, 128),
    "num_heads": (1, 128),
    "embed_dim": (8, 8192),
    "reg_tokens": (0, 64),
}
REAL = {"init_values": (0.0, 1.0), "mlp_ratio": (0.25, 16.0)}
FLAGS = ("dynamic_img_size", "no_embed_class")
LAYERS = {
    "mlp_layer": {"SwiGLUPacked": "timm.layers:SwiGLUPacked"},
    "act_layer": {"SiLU": "torch.nn:SiLU"},
}
ARGUMENTS = (*NAMES, *WHOLE, *REAL, *FLAGS, *LAYERS)
"""What a timm model is built with. Anything else that timm would take is refused: a store may name the spec."""
TRANSFORM = ("resize", "crop", "interpolation", "mean", "std")
INTERPOLATIONS = ("bilinear", "bicubic")
KEYS = {"timm": (*ARGUMENTS, *TRANSFORM), "open_clip": TRANSFORM, "hf": TRANSFORM}
MOST_PIXELS = 4096
MOST_PARAMETERS = 8e9
"""Parameters of the largest model that a spec may describe, estimated before it is built."""


@dataclass(frozen=True)
class Transform:
    """How an image becomes the input of an encoder.

    Attributes
    ----------
    resize
        Pixels of the shorter side, as ``(n,)``; or height and width, whatever the image's shape.
    crop
        Pixels of the square that is cut from the centre; None if nothing is cut.
    interpolation
        ``bilinear`` or ``bicubic``, with antialiasing.
    mean, std
        Subtracted from, and divided into, each colour of the image in the range 0 to 1.
    """

    resize: tuple[int, ...]
    crop: int | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the encoder sees."""
        if self.crop is not None:
            return self.crop, self.crop
        return self.resize[0], self.resize[-1]

    def at(self, size: tuple[int, int] | None) -> Transform:
        """Return the transform for another size: a square keeps the margin in proportion, other shapes are not cut."""
        if size is None:
            return self
        height, width = size
        if height != width or self.crop is None:
            return replace(self, resize=size, crop=None)
        resize = tuple(round(side * height / self.crop) for side in self.resize)
        return replace(self, resize=resize, crop=height)

    def settings(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "resize": list(self.resize),
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def steps(self) -> Any:
        """Return torchvision's own steps."""
        transforms = need("torchvision.transforms", "encoders")
        mode = transforms.InterpolationMode(self.interpolation)
        size = self.resize[0] if len(self.resize) == 1 else list(self.resize)
        steps = [transforms.Resize(size, interpolation=mode)]
        steps += [] if self.crop is None else [transforms.CenterCrop(self.crop)]
        return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(self.mean, self.std)])

    def __str__(self) -> str:
        cut = "" if self.crop is None else f", central {self.crop}"
        sides = " x ".join(map(str, self.resize))
        numbers = "; ".join(f"{name} {shown(values)}" for name, values in (("mean", self.mean), ("std", self.std)))
        return f"resized to {sides} ({self.interpolation}){cut}; {numbers}"


@dataclass(frozen=True)
class ModelSpec:
    """An encoder spec in parts.

    Attributes
    ----------
    backend
        ``timm``, ``open_clip``, ``hf``, or another part before the first colon.
    name
        What stands between the colon and the question mark.
    arguments
        What the model is built with; keys are among `ARGUMENTS`.
    transform
        How images are prepared; None for what comes with the model.

    Examples
    --------
    >>> spec = ModelSpec.parse("timm:hf-hub:a/b@c?init_values=1.0e-5&architecture=vit_small_patch16_224")
    >>> str(spec)
    'timm:hf-hub:a/b@c?architecture=vit_small_patch16_224&init_values=1e-05'
    >>> spec.plain, spec.repository
    ('timm:hf-hub:a/b@c', ('a/b', 'c'))
    """

    backend: str
    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    transform: Transform | None = None

    @classmethod
    def parse(cls, spec: str) -> ModelSpec:
        """Read a spec, with or without its long form.

        Raises
        ------
        EncoderError
            When a key is unknown for this library, or a value is out of range.
        """
        backend, _, rest = spec.partition(":")
        name, mark, words = rest.partition("?")
        if backend not in KEYS or not mark or os.path.lexists(rest):
            return cls(backend, rest)
        whole = cls(backend, name)
        values: dict[str, str] = {}
        for word in words.split("&"):
            key, _, value = word.partition("=")
            if key not in KEYS[backend]:
                raise whole._refusal(f"{key[:80]!r} is unknown.{nearest(key, KEYS[backend])}")
            if key in values:
                raise whole._refusal(f"{key} is given twice")
            values[key] = value
        arguments = {key: whole._value(key, value) for key, value in values.items() if key not in TRANSFORM}
        if backend == "timm" and set(arguments) and "architecture" not in arguments:
            raise whole._refusal("these arguments need architecture=MODEL, a model of timm")
        whole._require_small(arguments)
        transform = {key: value for key, value in values.items() if key in TRANSFORM}
        return cls(backend, name, arguments, whole._transform(transform) if transform else None)

    def __str__(self) -> str:
        said: dict[str, Any] = dict(self.arguments)
        if self.transform is not None:
            said |= {key: value for key, value in self.transform.settings().items() if value is not None}
            said["resize"] = "x".join(map(str, self.transform.resize))
        words = "&".join(f"{key}={_written(value)}" for key, value in sorted(said.items()))
        return self.plain + (f"?{words}" if words else "")

    @property
    def plain(self) -> str:
        """The spec without its long form."""
        return f"{self.backend}:{self.name}"

    @property
    def repository(self) -> tuple[str, str | None] | None:
        """The model's ``ORG/NAME`` on the hub with its revision; None if the spec names no model on the hub."""
        place = self.name.removeprefix("hf-hub:") if self.backend in ("timm", "open_clip") else self.name
        if self.backend not in KEYS or (self.backend != "hf" and place == self.name) or os.path.lexists(place):
            return None
        found = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", place)
        return None if found is None else (found[1], found[2])

    def built_with(self) -> dict[str, Any]:
        """Return the arguments of timm's ``create_model``, classes of layers included."""
        said = {key: value for key, value in self.arguments.items() if key not in NAMES}
        for key in LAYERS:
            if key in said:
                module, _, attribute = LAYERS[key][str(said[key])].partition(":")
                said[key] = getattr(need(module, "encoders"), attribute)
        return said

    def _refusal(self, what: str) -> EncoderError:
        return EncoderError(f"{self.plain}?…: {what}{'' if what.endswith(('?', '.')) else '.'}")

    def _value(self, key: str, word: str) -> Value:
        if key in NAMES:
            if not NAMES[key].fullmatch(word):
                raise self._refusal(f"{key}={word[:80]!r} is not a name of a{' file' if key == 'file' else ' model'}")
            return word
        if key in FLAGS:
            if word not in ("true", "false"):
                raise self._refusal(f"{key} must be true or false, but is {word[:80]!r}")
            return word == "true"
        if key in LAYERS:
            if word not in LAYERS[key]:
                raise self._refusal(f"{key} must be {' or '.join(LAYERS[key])}, but is {word[:80]!r}")
            return word
        low, high = WHOLE.get(key) or REAL[key]
        number = self._number(key, word)
        if not low <= number <= high or (key in WHOLE and number != int(number)):
            raise self._refusal(f"{key} must be {'a whole number ' * (key in WHOLE)}from {low} to {high}, not {word}")
        return int(number) if key in WHOLE else number

    def _number(self, key: str, word: str) -> float:
        try:
            if len(word) > 40:
                raise ValueError
            number = float(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._refusal(f"{key}: {word[:40]!r} is not a number")
        return number

    def _require_small(self, arguments: Mapping[str, Any]) -> None:
        """Raise for a model that would not fit into memory, before it is built."""
        depth, width, ratio = (arguments.get(key, usual) for key, usual in SIZES.items())
        if depth * width**2 * (4 + 3 * ratio) > MOST_PARAMETERS:
            raise self._refusal(f"a model of depth {depth} and embed_dim {width} is larger than any that is known")

    def _transform(self, words: Mapping[str, str]) -> Transform:
        """Return the transform that keys describe."""
        if lacking := [key for key in TRANSFORM if key not in words and key != "crop"]:
            raise self._refusal(f"a transform needs {', '.join(lacking)} too")
        resize = self._pixels("resize", words["resize"].split("x"))
        crop = self._pixels("crop", [words["crop"]])[0] if "crop" in words else None
        if crop is not None and crop > min(resize):
            raise self._refusal(f"crop={crop} is larger than resize={words['resize']}")
        if len(resize) == 1 and crop is None:
            raise self._refusal("resize=N needs crop=N too, or write resize=HxW")
        if words["interpolation"] not in INTERPOLATIONS:
            raise self._refusal(f"interpolation must be {' or '.join(INTERPOLATIONS)}")
        return Transform(
            resize,
            crop,
            words["interpolation"],
            self._colours("mean", words["mean"]),
            self._colours("std", words["std"]),
        )

    def _pixels(self, key: str, words: list[str]) -> tuple[int, ...]:
        if len(words) > 2 or not all(re.fullmatch(r"[0-9]{1,4}", word) for word in words):
            raise self._refusal(f"{key} must be pixels, N or HxW")
        sides = tuple(int(word) for word in words)
        if not all(8 <= side <= MOST_PIXELS for side in sides):
            raise self._refusal(f"{key} must be from 8 to {MOST_PIXELS} pixels")
        return sides

    def _colours(self, key: str, word: str) -> tuple[float, float, float]:
        numbers = [self._number(key, part) for part in word.split(",")[:4]]
        if len(numbers) != 3 or not all((1e-3 if key == "std" else 0) <= number <= 1 for number in numbers):
            raise self._refusal(f"{key} must be three numbers from 0 to 1, such as 0.5,0.5,0.5")
        return numbers[0], numbers[1], numbers[2]


SIZES = {"depth": 24, "embed_dim": 1024, "mlp_ratio": 4.0}
"""Sizes of a model that a spec does not give, for the estimate of its parameters."""


def _written(value: Any) -> str:
    """Return a value as it stands in a spec; equal values are written alike."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(repr, value)) if isinstance(value, list) else str(value)


def shown(value: Any) -> str:
    """Return a value for a message: numbers of a sequence between commas."""
    return ", ".join(f"{part:g}" for part in value) if isinstance(value, (list, tuple)) else _written(value)
