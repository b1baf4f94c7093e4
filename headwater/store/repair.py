"""Mending a feature set: what can be told from the rest is written anew, what cannot is forgotten, to be made again."""

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
from headwater.store.reader import FeatureReader
from headwater.store.rights import Rights


def mend(
    damaged: Features, known_keys: NDArray[np.uint8], before_forgetting: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Mend what `Features.damages` finds, and yield a line about each thing that was done.

    Metadata and status are written as the journal has them. Damaged blocks are forgotten: the next run makes them.
    One damaged key is found again among ``known_keys``.

    Parameters
    ----------
    damaged
        The feature set.
    known_keys
        Content keys of the store's samples, uint8, of shape ``(n, 16)``.
    before_forgetting
        Called before the first block is forgotten; raises when it could not be made again.

    Raises
    ------
    StoreError
        When what is damaged cannot be told from the rest.
    StoreBusy
        When another process writes these features.
    """
    with damaged.writing() as writer:
        features = writer.features
        found = list(damages(features))
        for damage in found:  # first, since all else goes by it
            if damage.kind == "planned":
                _mend_planned(features, damage, known_keys)
                yield f"{features.name}: {damage.part} restored"
        if any(damage.kind == "planned" for damage in found):
            features = writer.features = features.refresh()
        for damage in found:
            if damage.kind == "metadata":
                write_json(features.folder / damage.part / "zarr.json", expected_metadata(features)[damage.part])
                yield f"{features.name}: metadata of {damage.part or 'the group'} written anew"
            elif damage.kind == "status" and damage.block is not None:
                start = damage.block * features.block_rows
                status = features.status[start : start + features.block_rows]
                features.status_chunks.write_chunk(damage.block, status)
                yield f"{features.name}: status of block {damage.block} written anew"
            elif damage.block is not None and features.state.blocks[damage.block].stored:  # once, whatever differs
                before_forgetting()
                made_in = features.state.blocks[damage.block].environment  # in which it is to be made again
                writer.record(BlockLine(block=damage.block, stored=(), sums={}, environment=made_in))
                yield f"{features.name}: block {damage.block} forgotten, to be made again"


def _mend_planned(features: FeatureReader, damage: Damage, known_keys: NDArray[np.uint8]) -> None:
    """Find the one key that is damaged among those that are known."""
    expected = features.state.plan.sums[damage.part]
    helpless = StoreError(
        f"{damage.text}, and cannot be told from the rest. Restore it from a backup, or remove "
        f"{location(features.folder)} and {location(features.journal.path)} and embed again."
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
    """Leave out the lines of a feature set's journal that cannot be read; return a line about each, none when all can.

    The journal as it was is kept beside it, under ``.damaged``. What left-out lines spoke of is made again.

    Raises
    ------
    StoreError
        When the last line that gave out rows is among them: which item has which row is then not known.
    StoreBusy
        When another process writes these features.
    """
    if not journal.path.exists():
        return []
    with Rights(journal.path, name).alone():  # nobody adds a line meanwhile
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
            said.append(f"{location(journal.path)}: line {number} left out, what it spoke of is made again")
            if b'"block"' not in line and b'"is"' not in line:  # else it was one of a plan, as far as can be seen
                lost_plan = number
            continue
        if "items" in value:
            lost_plan = 0  # a later plan speaks of all rows
        kept.append(line)
    if lost_plan:
        raise StoreError(
            f"{location(journal.path)}: line {lost_plan}, which gave out rows, cannot be read. Restore the file from a "
            "backup, or remove these features and embed again."
        )
    if said:
        write_bytes(journal.path.with_suffix(".damaged"), text)
        write_bytes(journal.path, b"".join(line + b"\n" for line in kept))
    return said
