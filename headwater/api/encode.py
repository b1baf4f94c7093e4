"""encode: encode images or texts to an array, without a store."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._checks import refuse_idle, require_whole
from headwater._devices import Precision
from headwater._options import with_options
from headwater._progress import Progress, counting, progress_to
from headwater.embed import Content, Encoder, load_encoder
from headwater.embed.choice import EncoderChoice, encoder_choice
from headwater.embed.contents import HeldImage, content_key
from headwater.errors import ImageError, InputError
from headwater.sources import load_bytes
from headwater.store import Modality

Item = str | os.PathLike[str] | Image.Image | NDArray[Any]


def encode(
    items: Item | Sequence[Item],
    *,
    encoder: str | EncoderChoice | Encoder[Any],
    modality: Modality | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 32,
    progress: Progress | bool | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Encode images or texts, and return their pooled features; nothing is stored.

    Parameters
    ----------
    items
        Texts; or images: paths, PIL images, or arrays, uint8 of shape ``(height, width)``, ``(height, width, 3)`` or
        ``(height, width, 4)``, or uint16 of shape ``(height, width)``. A single item gives one vector; a column, an
        array of strings or an array of four dimensions holds several items.
    encoder
        An encoder spec, such as ``builtin:texture`` or ``timm:MODEL``; a `headwater.EncoderChoice`; or an encoder from
        `headwater.embed.load_encoder`.
    modality
        ``"image"`` or ``"text"``. By default, strings are texts if the encoder reads texts, and paths otherwise;
        everything else is an image.
    device, precision
        As for `headwater.embed.load_encoder`; not with an encoder that is already loaded.
    batch_size
        Items per batch.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.EncoderChoice` by its name, such as ``weights`` or ``pooling``; not with an encoder that
        is already loaded.

    Returns
    -------
    float32 array of shape (n_items, dim), or (dim,) for one item

    Raises
    ------
    InputError
        When items are neither images nor texts, are mixed, or are of a kind that the encoder does not read.
    ImageError
        When an image cannot be read; the message names it.
    EncoderError
        When the encoder does not exist.

    Examples
    --------
    >>> encode(["benign tissue", "malignant mass"], encoder="builtin:ngram").shape
    (2, 512)
    """
    alone = _is_one(items)
    listed: list[Any] = [items] if alone else _listed(items)
    built = _loaded(encoder, device, precision, options)
    require_whole("batch_size", batch_size, 1)
    if not listed:
        raise InputError("nothing to encode: pass one image or text, or a list of them.")
    kind = _modality(listed, built, modality)
    contents = [_content(item, kind, number) for number, item in enumerate(listed)]
    parts = []
    with counting(progress_to(progress), f"encode {kind}s", len(contents)) as update:
        for start in range(0, len(contents), batch_size):
            batch = [built.prepare(kind, content) for content in contents[start : start + batch_size]]
            if start == 0:
                built.settle(kind, batch)
            parts.append(np.asarray(built.encode(kind, batch).pooled, np.float32))
            update(start + len(batch))
    found = np.concatenate(parts)
    return found[0] if alone else found


def _loaded(
    encoder: str | EncoderChoice | Encoder[Any], device: str, precision: Precision, options: Mapping[str, Any]
) -> Encoder[Any]:
    """Load the encoder; one that is already loaded takes no options."""
    if not isinstance(encoder, Encoder):
        choice = with_options("encode", options, encoder_choice(encoder))
        return load_encoder(choice, device=device, precision=precision)
    with_options("encode", options, EncoderChoice(encoder.name))
    idle = {"device": device != "auto", "precision": precision != "auto", **dict.fromkeys(options, True)}
    refuse_idle(idle, "goes with the spec of an encoder, but this one is already loaded: give it to load_encoder.")
    return encoder


def _is_one(items: Any) -> bool:
    """Whether something is one item: a text, a path, an image, or an array of pixels."""
    pixels = isinstance(items, np.ndarray) and items.dtype.kind in "uifb" and items.ndim in (2, 3)
    return pixels or isinstance(items, str | os.PathLike | Image.Image)


def _listed(items: Any) -> list[Any]:
    """Return the items of a list, a column, or an array of strings or of images."""
    if isinstance(items, bytes) or not hasattr(items, "__iter__"):
        raise InputError(f"items are a {type(items).__name__}: pass images or texts, one or a list of them.")
    words = isinstance(items, np.ndarray) and items.dtype.kind in "US"
    listed = list(items.reshape(-1).tolist() if words else items)
    none = [item is None or (isinstance(item, float) and item != item) for item in listed]
    if any(none):
        raise InputError(
            f"{sum(none)} of {len(listed)} items are empty, such as number {none.index(True)}: leave them out."
        )
    return listed


def _modality(items: Sequence[Any], encoder: Encoder[Any], asked: Modality | None) -> Modality:
    """Return whether items are images or texts; refuse what the encoder does not read."""
    words = [isinstance(item, str) for item in items]
    if asked is None:
        if any(words) and not all(words) and "text" in encoder.modalities:
            raise InputError("some items are strings and some are not: encode texts and images separately.")
        asked = "text" if all(words) and "text" in encoder.modalities else "image"
    if asked not in ("image", "text"):
        raise InputError(f"modality must be image or text, but is {asked!r}.")
    if asked not in encoder.modalities:
        reads = " and ".join(sorted(f"{kind}s" for kind in encoder.modalities))
        raise InputError(f"{encoder.name} encodes {reads}, but these are {asked}s.")
    if asked == "text" and not all(words):
        raise InputError("texts must be strings: decode or convert the items first.")
    if asked == "text":
        for number, item in enumerate(items):
            if not item.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in item):
                raise InputError(
                    f"item {number} is not valid text: it holds a lone surrogate (half a character). Decode it again."
                )
    return asked


def _content(item: Any, kind: Modality, number: int) -> Content:
    """Return an item in the form the encoder takes."""
    if kind == "text":
        return Content(content_key(item.encode()), item)
    if isinstance(item, str | os.PathLike):
        data, source = load_bytes(Path(item)), str(item)
    elif isinstance(item, Image.Image):
        data, source = _as_png(item, number), f"item {number}"
    elif isinstance(item, np.ndarray):
        data, source = _as_png(_picture(item, number), number), f"item {number}"
    else:
        raise InputError(f"item {number} is a {type(item).__name__}: pass a path, a PIL image, an array or a text.")
    return HeldImage(content_key(data), source, None, data)


def _picture(pixels: NDArray[Any], number: int) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        return Image.fromarray(pixels)
    if pixels.dtype != np.uint8 or not shaped or not pixels.size:
        raise ImageError(
            f"item {number} is an array of {pixels.dtype} and shape {pixels.shape}. Pass uint8 of shape (height, "
            "width), (height, width, 3) or (height, width, 4), or uint16 of shape (height, width)."
        )
    return Image.fromarray(pixels)


def _as_png(image: Image.Image, number: int) -> bytes:
    """Return an image as the bytes of a file, so that bit depth and transparency are handled as for files."""
    out = io.BytesIO()
    try:
        image.save(out, "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF")
    except (OSError, ValueError) as error:
        raise ImageError(f"item {number} has PIL mode {image.mode}: convert it to RGB first.") from error
    return out.getvalue()
