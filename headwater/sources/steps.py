"""What is done to an image before an encoder sees it, named in a word each and part of what defines the features."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from headwater.errors import InputError, nearest
from headwater.sources.images import read_image
from headwater.sources.mammogram import BACKGROUND, breast_box, dark_to_zero, facing_left
from headwater.sources.stain import MACENKO_REFERENCE, Colours, Stains, macenko, macenko_of, reinhard, reinhard_of

Change = Callable[[Image.Image], Image.Image]
KINDS = ("background", "breast", "orient", "resize", "macenko", "reinhard", "mammogram")
WRITTEN = {
    "background": "background=40",
    "orient": "orient=left",
    "resize": "resize=1520x912",
    "reinhard": "reinhard=FILE",
}
MAMMOGRAM = (f"background={BACKGROUND}", "breast", "orient=left")


@dataclass(frozen=True)
class Steps:
    """Changes of an image, made one after the other.

    Attributes
    ----------
    names
        As they were asked for, a shorthand spelled out, files by the numbers that were taken from them.
    """

    names: tuple[str, ...]
    changes: tuple[Change, ...]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return an image of mode RGB, changed."""
        for change in self.changes:
            image = change(image)
        return image


def parse_steps(words: Sequence[str]) -> Steps | None:
    """Read steps, in the order in which they are to be made; None for none.

    ``background=V``
        Pixels darker than V (0 to 255, of the lightest channel) become 0.
    ``breast``
        Crop to the largest bright region: the breast, without labels and markers.
    ``orient=left``
        Mirror an image whose mass lies on the right.
    ``mammogram``
        These three, with ``background=40``.
    ``resize=HxW``
        To that many pixels, whatever the shape was.
    ``macenko``, ``macenko=FILE``
        Bring haematoxylin and eosin to the method's published reference, or to those of an image.
    ``reinhard=FILE``
        Bring the colours of tissue to the mean and spread of those of an image.

    Nothing is fitted to the images that are changed, so that a test row learns nothing from another.

    Raises
    ------
    InputError
        For a step that there is not, or a value that it cannot have.

    Examples
    --------
    >>> parse_steps(["mammogram", "resize=1520x912"]).names
    ('background=40', 'breast', 'orient=left', 'resize=1520x912')
    """
    spelled = [part for word in words for part in (MAMMOGRAM if word == "mammogram" else (word,))]
    made = [_step(word) for word in spelled]
    return Steps(tuple(name for name, _ in made), tuple(change for _, change in made)) if made else None


def _step(word: str) -> tuple[str, Change]:
    kind, _, value = word.partition("=")
    if kind == "background" and value.isdigit() and 0 < int(value) < 256:
        return word, lambda image: dark_to_zero(image, int(value))
    if word == "breast":
        return word, lambda image: image.crop(breast_box(image))
    if word == "orient=left":
        return word, facing_left
    if kind == "resize" and (size := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", value)):
        height, width = int(size[1]), int(size[2])
        return word, lambda image: image.resize((width, height), Image.Resampling.BICUBIC)
    if word == "macenko":
        return word, lambda image: macenko(image, MACENKO_REFERENCE)
    if kind == "macenko":
        numbers = value if _numbers(value, 8) else _written(macenko_of(_reference(word, value)).numbers())
        stains = Stains.of(_numbers(numbers, 8))
        return f"macenko={numbers}", lambda image: macenko(image, stains)
    if kind == "reinhard" and value:
        numbers = value if _numbers(value, 6) else _written(reinhard_of(_reference(word, value)).numbers())
        colours = Colours.of(_numbers(numbers, 6))
        return f"reinhard={numbers}", lambda image: reinhard(image, colours)
    if kind in KINDS:
        wants = WRITTEN.get(kind, kind)
        raise InputError(f"--step {word!r}: write it as {wants}.")
    raise InputError(f"--step {word!r}.{nearest(kind, KINDS)} There are: {', '.join(KINDS)}.")


def _written(numbers: Sequence[float]) -> str:
    """Write the numbers of a reference, so that the step can be taken again without the image that they came from."""
    return ",".join(f"{number:.6g}" for number in numbers)


def _numbers(value: str, n: int) -> list[float]:
    """Return the numbers of a reference that was written so; none for anything else."""
    parts = value.split(",")
    return [float(part) for part in parts] if len(parts) == n and all(map(_is_number, parts)) else []


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", word) is not None


def _reference(word: str, path: str) -> Image.Image:
    if not Path(path).is_file():
        raise InputError(f"--step {word}: no such file.")
    return read_image(path)
