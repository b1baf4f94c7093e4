"""Steps applied to an image before the encoder's preprocessing (``--step``); they are part of the spec."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from headwater._checks import whole_in
from headwater.errors import ImageError, InputError, nearest
from headwater.sources.images import read_image
from headwater.sources.mammogram import BACKGROUND, breast_box, dark_to_zero, facing_left
from headwater.sources.manifest import MANIFEST_SUFFIXES, read_manifest
from headwater.sources.reading import AS_DECLARED, WANTED, Reading
from headwater.sources.stain import MACENKO_REFERENCE, Colours, Stains, macenko, macenko_of, reinhard, reinhard_of

Change = Callable[[Image.Image], Image.Image]
Found = TypeVar("Found", Stains, Colours)
KINDS = ("background", "breast", "orient", "resize", "macenko", "reinhard", "mammogram", *WANTED, "jpeg")
WRITTEN = {
    "jpeg": "jpeg=torch",
    "background": "background=40",
    "orient": "orient=left",
    "resize": "resize=1520x912",
    "reinhard": "reinhard=FILE",
}
REFERENCED = {"macenko": 8, "reinhard": 6}  # length of a reference
LOOKED_AT = 256  # most images of a manifest that a reference is estimated from
BY_TORCH = "jpeg=torch"
MAMMOGRAM = (f"background={BACKGROUND}", "breast", "orient=left")


@dataclass(frozen=True)
class Steps:
    """Steps that change an image, one after the other.

    Attributes
    ----------
    names
        The steps as given, with shorthands spelled out and files replaced by the numbers estimated from them.
    reading
        What the first steps say about reading files.
    """

    names: tuple[str, ...]
    changes: tuple[Change, ...]
    reading: Reading = AS_DECLARED

    @property
    def resizes(self) -> bool:
        """Whether images are resized, so that it is meant that large ones become small."""
        return any(name.startswith("resize=") for name in self.names)

    @property
    def jpeg_by_torch(self) -> bool:
        """Whether torch decodes JPEG files, on the encoder's device."""
        return BY_TORCH in self.names

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_steps, (self.names,)  # by their names, since functions made on the spot cannot be pickled

    def for_size(self, size: tuple[int, int] | None) -> Steps:
        """Return the same steps with ``decode=auto`` replaced by the size that an encoder needs.

        Parameters
        ----------
        size
            Least height and width to which the encoder resizes; None if it does not say.

        Raises
        ------
        InputError
            When the size is not known, or steps crop the image before it is resized.
        """
        if self.reading.decode != "auto":
            return self
        resized = next((name for name in self.names if name.startswith("resize=")), None)
        if any(name == "breast" for name in self.names):
            raise InputError("--step decode=auto cannot know how much breast leaves. Pass decode=half instead.")
        least = None if size is None else f"{size[0]}x{size[1]}"
        least = least if resized is None else resized.removeprefix("resize=")
        if least is None:
            raise InputError("--step decode=auto: this encoder does not say what size it needs. Pass decode=half.")
        made = parse_steps([f"decode={least}" if name == "decode=auto" else name for name in self.names])
        return self if made is None else made

    def __call__(self, image: Image.Image) -> Image.Image:
        """Apply the steps to an image of mode RGB."""
        for change in self.changes:
            image = change(image)
        return image


def reading_of(steps: Steps | None) -> Reading:
    """Return how files are read before steps are applied."""
    return AS_DECLARED if steps is None else steps.reading


def parse_steps(words: Sequence[str], *, named_by: str | None = None) -> Steps | None:
    """Parse steps, to be applied in the given order; return None if there are none.

    ``bits=N``
        Samples of 16-bit files use N bits, 9 to 16: white is 2 ** N - 1, not 65,535. DICOM files declare their bits.
    ``window=voi``, ``window=minmax``, ``window=full``, ``window=CENTER,WIDTH``
        Values of DICOM files that become black and white: those that the file names (the default), the lowest and
        highest of each image, all that the stored bits can hold, or a window.
    ``decode=half``, ``decode=quarter``, ``decode=HxW``, ``decode=auto``
        Decode JPEG 2000 in DICOM files at a half or a quarter of its sides, or at the lowest resolution of at least
        H x W pixels; ``auto`` takes the size that the encoder resizes to. By default, in full.
    ``jpeg=torch``
        JPEG files are decoded by TorchCodec and resized by torch, on the encoder's device: data-centre GPUs have
        decoders for it. It goes without other steps. Other files, and JPEG files that are turned or not RGB or grey,
        are read as usual.
    ``background=V``
        Set pixels whose lightest channel is darker than V (1 to 255) to 0.
    ``breast``
        Crop to the largest bright region: the breast, without labels and markers.
    ``orient=left``
        Mirror an image whose right half is brighter.
    ``mammogram``
        These three, with ``background=40``.
    ``resize=HxW``
        Resize to H x W pixels, without keeping the aspect ratio.
    ``macenko``, ``macenko=FILE``
        Normalise haematoxylin and eosin to the method's published reference, or to the stains of an image.
    ``reinhard=FILE``
        Normalise the colours of tissue to their mean and standard deviation in an image.

    The first three apply while a file is read, so they come before all others. Those that name the default
    (``window=voi``, ``decode=full``) are left out of the spec.

    FILE may also be a manifest or a folder. The reference is then the mean stain colour, and the median of all other
    numbers, over at most 256 evenly spaced images. Give a manifest of the training rows. Nothing is fitted to the
    images that are changed, so no information passes between test rows.

    Parameters
    ----------
    named_by
        The store or run that names the steps. It may come from somebody else, so its steps must not name files. None if
        the user names the steps.

    Raises
    ------
    InputError
        For an unknown step, or an invalid value.

    Examples
    --------
    >>> parse_steps(["mammogram", "resize=1520x912"]).names
    ('background=40', 'breast', 'orient=left', 'resize=1520x912')
    """
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{named_by or '--step'}: steps must be words such as resize=1520x912, not {words!r}.")
    spelled = [part for word in words for part in (MAMMOGRAM if word == "mammogram" else (word,))]
    if named_by is not None and (files := [word for word in spelled if _names_file(word)]):
        raise InputError(f"{named_by}: the step {files[0]!r} would read a file. Pass --step yourself.")
    first = [word for word in spelled if word.partition("=")[0] in WANTED]
    if spelled[: len(first)] != first:
        kind = first[-1].partition("=")[0]
        raise InputError(f"--step {kind}=… applies when files are read. Give it once, before all other steps.")
    reading = Reading.of(first)
    spelled = [*reading.words, *spelled[len(first) :]]
    if BY_TORCH in spelled and len(spelled) > 1:
        raise InputError(f"--step {BY_TORCH} decodes on the encoder's device, where no other step is. Pass it alone.")
    made = [_step(word) for word in spelled]
    return Steps(tuple(name for name, _ in made), tuple(change for _, change in made), reading) if made else None


def _names_file(word: str) -> bool:
    """Whether a step's reference is a file, not the numbers estimated from one."""
    kind, _, value = word.partition("=")
    return kind in REFERENCED and bool(value) and not _numbers(value, REFERENCED[kind])


def _step(word: str) -> tuple[str, Change]:
    kind, _, value = word.partition("=")
    if kind in WANTED and value:
        return word, lambda image: image  # applied when the file is read
    if word == BY_TORCH:
        return word, lambda image: image  # applied when the file is decoded
    if kind == "background" and (level := whole_in(value)) and level < 256:
        return word, lambda image: dark_to_zero(image, level)
    if word == "breast":
        return word, lambda image: image.crop(breast_box(image))
    if word == "orient=left":
        return word, facing_left
    if kind == "resize" and (size := re.fullmatch(r"([1-9][0-9]{0,6})x([1-9][0-9]{0,6})", value)):
        height, width = int(size[1]), int(size[2])
        return word, lambda image: image.resize((width, height), Image.Resampling.BICUBIC)
    if word == "macenko":
        return word, lambda image: macenko(image, MACENKO_REFERENCE)
    if kind == "macenko":
        numbers = value if _numbers(value, 8) else _fitted(word, value, macenko_of, Stains.typical)
        stains = Stains.of(_numbers(numbers, 8))
        return f"macenko={numbers}", lambda image: macenko(image, stains)
    if kind == "reinhard" and value:
        numbers = value if _numbers(value, 6) else _fitted(word, value, reinhard_of, Colours.typical)
        colours = Colours.of(_numbers(numbers, 6))
        return f"reinhard={numbers}", lambda image: reinhard(image, colours)
    if kind in KINDS:
        wants = {**WANTED, **WRITTEN}.get(kind, kind)
        raise InputError(f"--step {word!r}: write it as {wants}.")
    raise InputError(f"--step {word!r}.{nearest(kind, KINDS)} There are: {', '.join(KINDS)}.")


def _numbers(value: str, n: int) -> list[float]:
    """Return the numbers of a reference that was written as numbers; an empty list for anything else."""
    parts = value.split(",")
    return [float(part) for part in parts] if len(parts) == n and all(map(_is_number, parts)) else []


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", word) is not None


def _fitted(
    word: str, path: str, of: Callable[[Image.Image], Found], typical: Callable[[Sequence[Found]], Found]
) -> str:
    """Return the reference of an image, or the typical one of a manifest or folder.

    It is returned as numbers, so that the step can be repeated without the images.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"--step {word}: no such file.")
    if place.is_file() and place.suffix.lower() not in MANIFEST_SUFFIXES:
        reference = of(read_image(place))
    else:
        reference = typical(_of_each(word, place, of))
    return ",".join(f"{number:.6g}" for number in reference.numbers())


def _of_each(word: str, manifest: Path, of: Callable[[Image.Image], Found]) -> list[Found]:
    """Return the references of images of a manifest; skip images from which none can be estimated."""
    images = [image for image in read_manifest(manifest).image_paths() if image is not None]
    if not images:
        raise InputError(f"--step {word}: the manifest has no images.")
    some = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int))]
    found, why = [], ""
    for image in some:
        try:
            found.append(of(read_image(image)))
        except ImageError as error:
            why = f"{image}: {error}"
    if not found:
        raise InputError(f"--step {word}: no reference can be estimated from any of {len(some)} images ({why}).")
    return found
