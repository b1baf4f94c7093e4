"""Check metadata, keys, blocks and status of a feature set against its journal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headwater.errors import StoreBusy, StoreError
from headwater.store._files import location, read_own_json
from headwater.store.blocks import array_metadata, group_metadata
from headwater.store.keys import KEY_BYTES
from headwater.store.layout import FAILED, KEY_CHUNK, PLANNED, STORED, TO_DO, end_of, token_arrays
from headwater.store.reader import FeatureReader, text_of
from headwater.store.remote import remote_of


@dataclass(frozen=True)
class Damage:
    """A part of a feature set that differs from what was written.

    Attributes
    ----------
    kind
        ``metadata`` (a ``zarr.json``), ``planned`` (keys, or offsets and lengths of ragged tokens), ``block`` or
        ``status``.
    part
        Folder of the array.
    text
        A line that describes the damage.
    block
        Number of the block, if one is damaged.
    """

    kind: str
    part: str
    text: str
    block: int | None = None


def damages(features: FeatureReader) -> Iterator[Damage]:
    """Compare metadata, keys, blocks and status with the journal; yield every difference.

    Several threads read the blocks. For a store at a URL, blocks are fetched from the bucket, not from the cache.

    Raises
    ------
    StoreBusy
        When the difference arose because another process has changed the feature set, or is removing it.
    """
    for damage in _damages(features):
        if damage.block is None:
            features.require_unchanged(lambda now: now.plan == features.state.plan)
        else:
            features.require_same(damage.block)
        yield damage


def _damages(features: FeatureReader) -> Iterator[Damage]:
    if remote := remote_of(features.folder):
        remote.read_anew(features.folder)
    for mapped in ("keys", "pooled", "tokens", "token_parts", "token_places"):
        features.__dict__.pop(mapped, None)
    said = set()
    for part in PLANNED if features.spec.ragged else PLANNED[:1]:
        try:
            if features.n_items:
                features.planned(part).require_right(0)
        except StoreBusy:
            raise
        except StoreError as error:
            said.add(text_of(error))
            yield Damage("planned", part, text_of(error))
    yield from (damage for damage in wrong_metadata(features) if damage.text not in said)
    lines = list(features.state.blocks.values())
    if features.spec.ragged and lines:
        try:
            features.token_parts  # noqa: B018  (computed once, before threads use it)
        except StoreError:  # damaged offsets or lengths have been reported already
            lines = [replace(line, sums=_without_ragged(line.sums)) for line in lines]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        differing = pool.map(lambda line: list(features.differences(line)), lines)
        for line, texts in zip(lines, differing, strict=True):
            yield from (Damage("block", "", text, line.block) for text in texts)
    for block, text in wrong_status(features):
        yield Damage("status", "status", text, block)


def expected_metadata(features: FeatureReader) -> dict[str, dict[str, Any]]:
    """Return the expected contents of each ``zarr.json``, by folder, computed from the journal and the spec."""
    n, spec, rows = features.n_items, features.spec, features.block_rows
    byte, whole, dtype = np.dtype(np.uint8), np.dtype(np.int64), np.dtype(spec.dtype)
    found = {
        "": group_metadata(spec.to_dict()),
        "keys": array_metadata("keys", (n, KEY_BYTES), KEY_CHUNK, byte),
        "status": array_metadata("status", (n,), rows, byte),
        "pooled": array_metadata("pooled", (n, spec.dim), rows, dtype),
    }
    if spec.ragged:
        found["tokens"] = group_metadata({})
        for part in ("offsets", "lengths"):
            found[f"tokens/{part}"] = array_metadata(f"tokens/{part}", (n,), KEY_CHUNK, whole)
    elif spec.has_tokens:
        found |= {part: array_metadata(part, shape, rows, kind) for part, shape, kind in token_arrays(spec, n)}
    if spec.ragged and n:
        with suppress(StoreError):  # damaged offsets or lengths are reported elsewhere
            chunk = features.token_chunk_rows()
            parts = token_arrays(spec, end_of(*features.token_places))
            found |= {part: array_metadata(part, shape, chunk, kind) for part, shape, kind in parts}
    return found


def wrong_metadata(features: FeatureReader) -> Iterator[Damage]:
    """Yield each ``zarr.json`` that differs; a shape may also be the one that the array is growing to."""
    every = expected_metadata(features)
    if features.spec.ragged and features.n_items:
        try:
            features.token_chunk_rows(), features.token_places
        except StoreError as error:
            yield Damage("planned", "tokens/values", text_of(error))
    for part, expected in every.items():
        path = features.folder / part / "zarr.json"
        try:
            found = read_own_json(path)
        except (OSError, ValueError) as error:
            yield Damage("metadata", part, f"{features.name}: {location(path)} cannot be read ({error})")
            continue
        if not isinstance(found, dict):
            found = {}
        if "dimension_names" not in found:  # written before arrays had them
            expected = {name: value for name, value in expected.items() if name != "dimension_names"}
        if found != expected and not _is_ahead(features, part, found, expected):
            yield Damage("metadata", part, f"{features.name}: {location(path)} differs from what was written")


def _is_ahead(features: FeatureReader, part: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether metadata give the number of rows that the array is growing to, and are otherwise as expected."""
    growing = features.state.plan.growing
    if growing is None or "shape" not in expected:
        return False
    ahead = growing[1] if part in ("tokens/values", "tokens/scales") else growing[0]
    return found == {**expected, "shape": [ahead, *expected["shape"][1:]]}


def wrong_status(features: FeatureReader) -> Iterator[tuple[int, str]]:
    """Yield each block with an item that is recorded in the journal but not in ``status``.

    The reverse is no damage: a killed run may have written ``status`` before the journal.
    """
    for block, line in features.state.blocks.items():
        start = block * features.block_rows
        try:
            found, said = features.status_chunks.chunk(block), features.status[start : start + features.block_rows]
        except StoreBusy:
            raise
        except StoreError as error:
            yield block, text_of(error)
            continue
        if bool(((said == STORED) & (found != STORED)).any() or ((said == FAILED) & (found == TO_DO)).any()):
            yield block, f"{features.name}: block {line.block} of status differs from the journal"
        elif bool((found > FAILED).any()):
            yield block, f"{features.name}: block {line.block} of status holds values other than 0, 1 and 2"


def _without_ragged(sums: Mapping[str, str]) -> dict[str, str]:
    return {part: expected for part, expected in sums.items() if not part.startswith("tokens/")}
