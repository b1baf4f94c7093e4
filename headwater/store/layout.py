"""The layout of a feature set on disk: its arrays, the number of items per block, and their checksums.

Below ``features.zarr/NAME/MODALITY``::

    keys           [n_items, 16] uint8     content keys; row i of every array belongs to keys[i]
    status         [n_items] uint8         0 to do, 1 stored, 2 failed
    pooled         [n_items, dim]
    tokens         [n_items, n_tokens, token_dim]                     images
    tokens/values  [n_all, token_dim], tokens/offsets, tokens/lengths  [n_items]     texts
    token_scales   [n_items, n_tokens], or tokens/scales  [n_all]                     where tokens are int8
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from headwater.store._files import digest
from headwater.store.blocks import Array
from headwater.store.quantised import SCALE
from headwater.store.spec import FeatureSpec

TO_DO, STORED, FAILED = 0, 1, 2
KEY_CHUNK = 65_536
BLOCK_BYTES = 64 << 20
MOST_ROWS = 16_384
MOST_BLOCK_BYTES = 1 << 36
"""Most bytes of a block; a journal that gives more is damaged or was forged."""
FOLDERS_ABOVE = 2
"""Number of folders between the store's folder and that of a feature set, or a journal."""
PLANNED = ("keys", "tokens/offsets", "tokens/lengths")
"""Arrays that are written when rows are assigned to items; the last two only for ragged tokens."""


def spec_sum(spec: Mapping[str, Any]) -> str:
    """Return the checksum of a spec, given as plain JSON values."""
    return digest(json.dumps(spec, sort_keys=True).encode())


def layout_sum(rows: int) -> str:
    """Return the checksum of the number of items per block."""
    return digest(str(rows).encode())


def block_rows(spec: FeatureSpec, n_items: int) -> int:
    """Return the number of items per block: a power of two, for about 32 blocks a run, of at most about 64 MB each."""
    number = np.dtype(spec.dtype).itemsize
    item_bytes = spec.dim * number
    if spec.has_tokens:  # before they are quantised
        item_bytes += (spec.n_tokens or 256) * (spec.token_dim or 0) * max(number, spec.token_type.itemsize)
    wanted = min(max(n_items // 32, 64), MOST_ROWS, max(BLOCK_BYTES // item_bytes, 16))
    return 1 << (wanted.bit_length() - 1)


def token_arrays(spec: FeatureSpec, n: int) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Return folder, shape and type of the arrays for the tokens of ``n`` items, or for ``n`` ragged tokens."""
    shape = (n,) if spec.ragged else (n, int(spec.n_tokens or 0))
    parts = [("tokens/values" if spec.ragged else "tokens", (*shape, int(spec.token_dim or 0)), spec.token_type)]
    if spec.quantised:
        parts.append(("tokens/scales" if spec.ragged else "token_scales", shape, SCALE))
    return parts


def as_words(keys: Array) -> Array:
    """View content keys (uint8, ``(n, 16)``) as one sortable word each."""
    return np.ascontiguousarray(keys).view("S16").reshape(-1)


def end_of(offsets: Array, lengths: Array) -> int:
    """Return the row after the last token."""
    return int(offsets[-1] + lengths[-1]) if len(offsets) else 0
