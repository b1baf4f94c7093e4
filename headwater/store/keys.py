"""Keys of contents: of images and texts, which samples have columns of, and of an image and its text together."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import StoreError
from headwater.store.spec import Modality

KEY_BYTES = 16
KEY_COLUMNS: dict[Modality, str] = {"image": "image_key", "text": "text_key"}
"""Columns of the samples table. Pairs have none: their keys are made of these two."""
PARTS: dict[Modality, tuple[Modality, ...]] = {"image": ("image",), "text": ("text",), "pair": ("image", "text")}
"""What an item of each modality is made of."""


def pair_key(image: bytes, text: bytes) -> bytes:
    """Return the key of an image and a text together: the BLAKE2b-128 digest of both keys, 16 bytes.

    Raises
    ------
    ValueError
        When a key is not of 16 bytes.
    """
    if len(image) != KEY_BYTES or len(text) != KEY_BYTES:
        raise ValueError(f"keys are of {KEY_BYTES} bytes, but these are of {len(image)} and {len(text)}")
    return blake2b(image + text, digest_size=KEY_BYTES).digest()


def sample_keys(table: pl.DataFrame, modality: Modality) -> pl.Series:
    """Return the key that each sample has of a modality, as 32 hex digits, null where it has none.

    A pair has one where there are both an image and a text.

    Parameters
    ----------
    table
        With columns ``image_key`` and ``text_key``; for images or texts alone, with theirs.

    Examples
    --------
    >>> table = pl.DataFrame({"image_key": ["00" * 16, None], "text_key": ["ff" * 16] * 2})
    >>> sample_keys(table, "pair").to_list()
    ['ac2b8b37d9f3851f8370a32f8fd17c15', None]
    """
    if modality in KEY_COLUMNS:
        return table[KEY_COLUMNS[modality]]
    pairs = table.select(pl.concat_str(*(KEY_COLUMNS[part] for part in PARTS[modality])))["image_key"].to_list()
    # each row by itself: most pairs are distinct, and to find those that are not takes longer than to digest them
    keys = [None if pair is None else blake2b(bytes.fromhex(pair), digest_size=KEY_BYTES).hexdigest() for pair in pairs]
    return pl.Series(f"{modality}_key", keys, dtype=pl.String)


def keys_from_hex(column: pl.Series) -> NDArray[np.uint8]:
    """Return the content keys in a column of 32 hex digits, uint8, of shape ``(n, 16)``.

    Raises
    ------
    StoreError
        When the column holds something else.
    """
    words = column.to_list()
    try:
        if any(len(word) != 2 * KEY_BYTES for word in words):
            raise ValueError("keys have 32 digits")
        return np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(-1, KEY_BYTES)
    except ValueError as error:
        raise StoreError(
            f"column {column.name!r} of the samples holds what is no key ({error}). Embed the manifest again."
        ) from error


def hex_from_keys(keys: NDArray[np.uint8]) -> list[str]:
    """Return content keys (uint8, ``(n, 16)``) as 32 hex digits each."""
    text = keys.tobytes().hex()
    return [text[i : i + 2 * KEY_BYTES] for i in range(0, len(text), 2 * KEY_BYTES)]
