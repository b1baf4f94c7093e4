"""Content keys of images and texts, which the samples table holds, and of pairs, which are computed from them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.errors import StoreError
from headwater.store.spec import Modality

KEY_BYTES = 16
KEY_COLUMNS: dict[Modality, str] = {"image": "image_key", "text": "text_key"}
"""Key columns of the samples table. Pairs have none: their keys are computed from these two."""
PARTS: dict[Modality, tuple[Modality, ...]] = {"image": ("image",), "text": ("text",), "pair": ("image", "text")}
"""The parts of an item of each modality."""


def pair_key(image: bytes, text: bytes) -> bytes:
    """Return the key of an image and a text together: the BLAKE2b-128 digest of both keys, 16 bytes.

    Raises
    ------
    ValueError
        When a key does not have 16 bytes.
    """
    if len(image) != KEY_BYTES or len(text) != KEY_BYTES:
        raise ValueError(f"keys must have {KEY_BYTES} bytes, but these have {len(image)} and {len(text)}")
    return blake2b(image + text, digest_size=KEY_BYTES).digest()


def sample_keys(table: pl.DataFrame, modality: Modality) -> pl.Series:
    """Return the key of each sample for a modality, as 32 hex digits; null where it has none.

    A sample has a pair key if it has both an image and a text.

    Parameters
    ----------
    table
        With columns ``image_key`` and ``text_key``; for images or texts alone, only theirs is needed.

    Examples
    --------
    >>> table = pl.DataFrame({"image_key": ["00" * 16, None], "text_key": ["ff" * 16] * 2})
    >>> sample_keys(table, "pair").to_list()
    ['ac2b8b37d9f3851f8370a32f8fd17c15', None]
    """
    if modality in KEY_COLUMNS:
        return table[KEY_COLUMNS[modality]]
    pairs = table.select(pl.concat_str(*(KEY_COLUMNS[part] for part in PARTS[modality])))["image_key"].to_list()
    # one digest per row: most pairs are distinct, and finding repeated ones takes longer than the digests
    keys = [None if pair is None else blake2b(bytes.fromhex(pair), digest_size=KEY_BYTES).hexdigest() for pair in pairs]
    return pl.Series(f"{modality}_key", keys, dtype=pl.String)


def keys_from_hex(column: pl.Series) -> NDArray[np.uint8]:
    """Convert a column of content keys in hex to uint8, of shape ``(n, 16)``.

    Raises
    ------
    StoreError
        When a value is not 32 hex digits.
    """
    words = column.to_list()
    try:
        if any(len(word) != 2 * KEY_BYTES for word in words):
            raise ValueError("keys have 32 digits")
        return np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(-1, KEY_BYTES)
    except ValueError as error:
        raise StoreError(
            f"column {column.name!r} of the samples holds a value that is not a key ({error}). Embed the manifest "
            "again."
        ) from error


def hex_from_keys(keys: NDArray[np.uint8]) -> list[str]:
    """Convert content keys (uint8, ``(n, 16)``) to 32 hex digits each."""
    text = keys.tobytes().hex()
    return [text[i : i + 2 * KEY_BYTES] for i in range(0, len(text), 2 * KEY_BYTES)]
