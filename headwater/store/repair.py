"""Repair of a feature set: rewrite what can be restored; drop damaged blocks from the journal, to be embedded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from headwater._reading import TABLE
from headwater.errors import StoreError
from headwater.store._files import location, read_own, read_unchecked, write_bytes, write_json
from headwater.store.blocks import has_digest
from headwater.store.check import Damage, damages, expected_metadata
from headwater.store.features import Features
from headwater.store.journal import BlockLine, Journal, is_whole, parsed
from headwater.store.keys import KEY_BYTES
from headwater.store.layout import KEY_CHUNK, as_words
from headwater.store.locks import Rights
from headwater.store.reader import FeatureReader


def mend(
    damaged: Features, known_keys: NDArray[np.uint8], before_forgetting: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Repair what `Features.damages` finds; yield a line for each repair.

    Metadata and status are rewritten from the journal. Damaged blocks are dropped from the journal, and the next run
    embeds them again. A single damaged key is restored from ``known_keys``.

    Parameters
    ----------
    damaged
        The feature set.
    known_keys
        Content keys of the store's samples, uint8, of shape ``(n, 16)``.
    before_forgetting
        Called before a block is dropped; raises if it could not be embedded again.

    Raises
    ------
    StoreError
        When the damage cannot be repaired.
    StoreBusy
        When another process writes these features.
    """
    with damaged.writing() as writer:
        features = writer.features
        found = list(damages(features))
        for damage in found:  # first, since the other repairs need the keys
            if damage.kind == "planned":
                _mend_planned(features, damage, known_keys)
                yield f"{features.name}: {damage.part} restored"
        if any(damage.kind == "planned" for damage in found):
            features = writer.features = features.refresh()
        for damage in found:
            if damage.kind == "metadata":
                write_json(features.folder / damage.part / "zarr.json", expected_metadata(features)[damage.part])
                yield f"{features.name}: metadata of {damage.part or 'the group'} rewritten"
            elif damage.kind == "status" and damage.block is not None:
                start = damage.block * features.block_rows
                status = features.status[start : start + features.block_rows]
                features.status_chunks.write_chunk(damage.block, status)
                yield f"{features.name}: status of block {damage.block} rewritten"
            elif damage.block is not None and features.state.blocks[damage.block].stored:  # once per block
                before_forgetting()
                made_in = features.state.blocks[damage.block].environment  # it must be embedded again in the same one
                writer.record(BlockLine(block=damage.block, stored=(), sums={}, environment=made_in))
                yield f"{features.name}: block {damage.block} dropped, to be embedded again"


def _mend_planned(features: FeatureReader, damage: Damage, known_keys: NDArray[np.uint8]) -> None:
    """Restore a single damaged key from the known keys."""
    expected = features.state.plan.sums[damage.part]
    helpless = StoreError(
        f"{damage.text}, and cannot be repaired. Restore it from a backup, or remove {location(features.folder)} and "
        f"{location(features.journal.path)} and embed again."
    )
    if damage.part != "keys":
        raise helpless
    array = features.array("keys", (features.n_items, KEY_BYTES), KEY_CHUNK, np.uint8)
    try:
        data = b"".join(read_unchecked(array.chunk_path(chunk)) for chunk in range(array.n_chunks))
    except FileNotFoundError as error:
        raise helpless from error
    if len(data) != array.n_chunks * KEY_CHUNK * KEY_BYTES:
        raise helpless
    keys = np.frombuffer(data, np.uint8).reshape(-1, KEY_BYTES)[: features.n_items].copy()
    wanted = as_words(known_keys)
    strange = np.flatnonzero(~np.isin(as_words(keys), wanted))
    missing = known_keys[~np.isin(wanted, as_words(keys))]
    if len(strange) != 1:
        raise helpless
    for candidate in missing:
        keys[strange[0]] = candidate
        if has_digest(expected, [keys], [(0, len(keys))]):
            chunk = int(strange[0]) // KEY_CHUNK
            array.write_chunk(chunk, keys[chunk * KEY_CHUNK : (chunk + 1) * KEY_CHUNK])
            return
    raise helpless


def salvage_journal(journal: Journal, name: str) -> list[str]:
    """Remove the lines of a feature set's journal that cannot be read; return a message about each.

    The original journal is kept beside it, with the suffix ``.damaged``. The blocks of removed lines are embedded
    again.

    Raises
    ------
    StoreError
        When the last line that assigns rows cannot be read: then it is unknown which item has which row.
    StoreBusy
        When another process writes these features.
    """
    if not journal.path.exists():
        return []
    with Rights(journal.path, name).alone():  # so that no other process adds a line
        return _salvaged(journal)


def _salvaged(journal: Journal) -> list[str]:
    kept, said = [], []
    lost_plan = 0
    text = read_own(journal.path, most=TABLE)
    *lines, tail = text.split(b"\n")
    if is_whole(tail):
        lines.append(tail)
    elif is_whole(tail[:-1]):
        lines.append(tail[:-1])
        said.append(f"{location(journal.path)}: the newline of the last line restored")
    for number, line in enumerate(lines, start=1):
        try:
            value = parsed(line)
        except ValueError:
            said.append(f"{location(journal.path)}: line {number} removed; what it recorded is embedded again")
            if b'"block"' not in line and b'"is"' not in line:  # probably a plan line
                lost_plan = number
            continue
        if "items" in value:
            lost_plan = 0  # a later plan covers all rows
        kept.append(line)
    if lost_plan:
        raise StoreError(
            f"{location(journal.path)}: line {lost_plan}, which assigns rows to items, cannot be read. Restore the "
            "file from a backup, or remove these features and embed again."
        )
    if said:
        write_bytes(journal.path.with_suffix(".damaged"), text)
        write_bytes(journal.path, b"".join(line + b"\n" for line in kept))
    return said
