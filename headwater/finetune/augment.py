"""Random augmentation of training images, in families that can be enabled separately.

Changes depend only on the given generator, so that an image is augmented in the same way in any batch and with any
number of threads. Pixels are changed by torchvision and scikit-image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from headwater._extras import need
from headwater.errors import InputError, nearest

Family = Literal["colour", "stain", "flip", "rotate", "affine", "crop", "elastic", "erase"]
FAMILIES = get_args(Family)
GEOMETRY: tuple[Family, ...] = ("flip", "rotate", "affine", "crop")
GROUPS = {"geometry": GEOMETRY}


@dataclass(frozen=True)
class Augmentation:
    """Families of random changes, made in the order of `FAMILIES`.

    Attributes
    ----------
    families
        ``colour``: brightness and contrast by factors of 0.8 to 1.2, saturation of 0.8 to 1.2, hue by up to 0.05 of a
        turn. ``stain``: each of the stains haematoxylin, eosin and rest by a factor of 0.9 to 1.1 and an offset of up
        to 0.02 in optical density. ``flip``: left to right, and top to bottom, each in half of the cases. ``rotate``:
        by 0, 90, 180 or 270 degrees. ``affine``: rotation of up to 20 degrees, translation of up to 0.1 percent, scale
        of 0.8 to 1.2, shear of up to 20 degrees. ``crop``: a part of 50 to 100 percent of the area. ``elastic``:
        displacements with an alpha of 10 and a sigma of 5 pixels. ``erase``: in half of the cases a rectangle of 2 to
        20 percent of the area becomes grey.

    References
    ----------
    Tellez et al., Quantifying the effects of data augmentation and stain color normalization in convolutional neural
    networks for computational pathology, 2019 (stain); Simard et al., Best practices for convolutional neural networks,
    2003 (elastic); Zhong et al., Random erasing data augmentation, 2020 (erase).
    """

    families: tuple[Family, ...]

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Return a randomly augmented image of mode RGB."""
        for family in FAMILIES:
            if family in self.families:
                image = CHANGES[family](image, random)
        return image


def parse_augmentation(names: Sequence[str]) -> Augmentation | None:
    """Return the named families; ``geometry`` stands for four. None without names.

    Raises
    ------
    InputError
        For an unknown name.

    Examples
    --------
    >>> parse_augmentation(["colour", "geometry"]).families
    ('colour', 'flip', 'rotate', 'affine', 'crop')
    """
    chosen: list[str] = []
    for name in names:
        if name not in FAMILIES and name not in GROUPS:
            allowed = (*FAMILIES, *GROUPS)
            raise InputError(f"--augment {name!r}.{nearest(name, allowed)} There are: {', '.join(allowed)}.")
        chosen += GROUPS.get(name, (name,))
    families = tuple(family for family in FAMILIES if family in chosen)
    return Augmentation(families) if families else None


def _colour(image: Image.Image, random: np.random.Generator) -> Image.Image:
    f = _functional()
    image = f.adjust_brightness(image, random.uniform(0.8, 1.2))
    image = f.adjust_contrast(image, random.uniform(0.8, 1.2))
    image = f.adjust_saturation(image, random.uniform(0.8, 1.2))
    changed: Image.Image = f.adjust_hue(image, random.uniform(-0.05, 0.05))
    return changed


def _stain(image: Image.Image, random: np.random.Generator) -> Image.Image:
    from skimage.color import hed2rgb, rgb2hed

    stains = rgb2hed(np.asarray(image))
    changed = hed2rgb(stains * random.uniform(0.9, 1.1, 3) + random.uniform(-0.02, 0.02, 3))
    return Image.fromarray((np.clip(changed, 0, 1) * 255).round().astype(np.uint8))


def _flip(image: Image.Image, random: np.random.Generator) -> Image.Image:
    across, down = random.random(2) < 0.5
    if across:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down else image


def _rotate(image: Image.Image, random: np.random.Generator) -> Image.Image:
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[int(random.integers(4))]
    return image if turn is None else image.transpose(turn)


def _affine(image: Image.Image, random: np.random.Generator) -> Image.Image:
    f = _functional()
    width, height = image.size
    moved: Image.Image = f.affine(
        image,
        angle=random.uniform(-20, 20),
        translate=[round(random.uniform(-0.001, 0.001) * side) for side in (width, height)],
        scale=random.uniform(0.8, 1.2),
        shear=[random.uniform(-20, 20), 0.0],
        interpolation=f.InterpolationMode.BILINEAR,
        fill=_edge(image),
    )
    return moved


def _crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Crop a part of the area, with about the image's aspect ratio."""
    width, height = image.size
    share, stretch = random.uniform(0.5, 1.0), math.exp(random.uniform(-math.log(4 / 3), math.log(4 / 3)))
    w = min(width, max(1, round(width * math.sqrt(share * stretch))))
    h = min(height, max(1, round(height * math.sqrt(share / stretch))))
    left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
    return image.crop((left, top, left + w, top + h))


def _elastic(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Displace pixels by smooth random fields."""
    from scipy.ndimage import gaussian_filter

    f, torch = _functional(), need("torch", "encoders")
    width, height = image.size
    fields = [gaussian_filter(random.uniform(-1, 1, (height, width)), 5.0) * 10.0 for _ in range(2)]
    # in torchvision's units, in which an image is 2 wide and 2 high
    shift = np.stack([fields[0] * 2 / width, fields[1] * 2 / height], -1)[None].astype(np.float32)
    bent: Image.Image = f.elastic(
        image, torch.from_numpy(shift), interpolation=f.InterpolationMode.BILINEAR, fill=_edge(image)
    )
    return bent


def _erase(image: Image.Image, random: np.random.Generator) -> Image.Image:
    if random.random() < 0.5:
        return image
    width, height = image.size
    area, stretch = random.uniform(0.02, 0.2), math.exp(random.uniform(-math.log(3), math.log(3)))
    w = min(width, max(1, round(width * math.sqrt(area * stretch))))
    h = min(height, max(1, round(height * math.sqrt(area / stretch))))
    left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
    image = image.copy()
    image.paste((128, 128, 128), (left, top, left + w, top + h))
    return image


def _edge(image: Image.Image) -> list[int]:
    """Return the median colour of the border, as an estimate of the background, such as glass or air."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return [int(v) for v in np.median(border, axis=0)]


def _functional() -> Any:
    return need("torchvision.transforms.v2.functional", "encoders")


CHANGES = {
    "colour": _colour,
    "stain": _stain,
    "flip": _flip,
    "rotate": _rotate,
    "affine": _affine,
    "crop": _crop,
    "elastic": _elastic,
    "erase": _erase,
}
