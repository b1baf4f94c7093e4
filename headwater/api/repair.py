"""repair: mend what differs from its checksum, or embed it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._progress import Progress, counting, progress_to
from headwater._shown import Shown
from headwater._words import counted
from headwater.api.inspect import verify
from headwater.embed import Content, Encoder, fill
from headwater.embed.texts import encoder_of
from headwater.errors import StoreError
from headwater.retrieve import check_index
from headwater.store import (
    PARTS,
    TO_DO,
    Journal,
    Modality,
    Store,
    index_files,
    keys_from_hex,
    mend,
    open_store,
    remove_file,
    salvage_journal,
    sample_keys,
)


@dataclass(frozen=True, repr=False)
class Repaired(Shown):
    """The result of a repair of a store.

    Attributes
    ----------
    found
        What differed from its checksum.
    done
        What was repaired.
    left
        What still differs.
    """

    found: list[str]
    done: list[str]
    left: list[str]

    def lines(self) -> list[str]:
        """Return it in lines."""
        if not self.found:
            return ["all checksums match: there is nothing to repair"]
        after = self.left or ["all checksums match now"]
        return [*self.found, *(f"repaired: {line}" for line in self.done), *after]


@dataclass(frozen=True)
class Encoding:
    """How damaged blocks are encoded again; see `headwater.api.embed`."""

    weights: str | Path | None = None
    device: str = "auto"
    batch_size: int = 32
    workers: int | None = None
    trust_remote_code: bool = False


def repair(
    store: str | Path | Store, encoding: Encoding | None = None, *, progress: Progress | bool | None = None
) -> Repaired:
    """Repair what differs from its checksum in a store: only damaged blocks are embedded again, from the files.

    Parameters
    ----------
    store
        A store, or its path.
    encoding
        How to run the encoder.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Raises
    ------
    StoreError
        When damage cannot be repaired from the remaining parts; the message says what to do.
    EncoderError
        When the encoder differs from the one that made these features.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    found = list(verify(opened))
    if not found and not any(opened.features(name).forgotten for name in opened.feature_names()):
        return Repaired([], [], [])
    if wrong := list(opened.wrong_samples()):
        raise StoreError(wrong[0])
    done = [*opened.mend_files(), *opened.mend_groups(), *_drop_damaged_indexes(opened)]
    for name in opened.feature_names():
        lost = salvage_journal(Journal(opened.journal_of(name)), name)
        done += lost
        features = opened.features(name, mending=True)
        known = np.zeros((0, 16), np.uint8)
        if opened.has_samples():
            known = keys_from_hex(sample_keys(opened.samples, features.spec.modality).drop_nulls().unique())
        load = cache(partial(_ready, opened, name, encoding or Encoding()))
        imported = features.spec.encoder.startswith("imported:")  # forgotten here; `import` stores it again
        done += mend(features, known, load if opened.has_samples() and not imported else lambda: None)
        features = features.refresh()
        # items never embedded stay pending, unless lost journal lines make them indistinguishable from lost ones
        to_do = np.flatnonzero(features.status == TO_DO)
        if not lost:
            to_do = to_do[np.isin(to_do // features.block_rows, features.forgotten)]
        if len(to_do) and opened.has_samples():
            done += _embed_again(opened, name, to_do, load(), encoding or Encoding(), progress_to(progress))
    return Repaired(found, done, list(verify(opened)))


def _drop_damaged_indexes(store: Store) -> Iterator[str]:
    """Remove damaged indexes, and yield a line for each with the command that builds it again."""
    for place in store.indexes():
        try:
            check_index(place)
        except StoreError:
            for path in index_files(place):
                remove_file(path)
            name = place.relative_to(store.path / "index").as_posix().removesuffix(".faiss")
            features, _, kind = name.rpartition(".")
            yield f"index of {features} removed. Build it again: headwater index {store.location} --features " + (
                f"{features} --kind {kind}"
            )


def _ready(store: Store, name: str, encoding: Encoding) -> Encoder[Any]:
    """Return the encoder for embedding again, if the images still exist.

    Raises
    ------
    StoreError
        When none of the images exists: dropping blocks would lose their undamaged items too.
    """
    contents = _contents(store, store.features(name, mending=True).spec.modality)
    files = [content.source for content in contents if isinstance(content.source, Path)]
    if files and not any(file.exists() for file in files):
        raise StoreError(
            f"{store.location}: the images of {name} are missing, such as {files[0]}. Put them back, or run headwater "
            f"embed MANIFEST {store.location} with the manifest next to the images (nothing is embedded twice). Then "
            "run --repair again. Nothing was dropped."
        )
    trust = encoding.trust_remote_code
    return encoder_of(store, name, weights=encoding.weights, device=encoding.device, trust_remote_code=trust)


def _embed_again(
    store: Store, name: str, to_do: NDArray[np.int64], encoder: Encoder[Any], encoding: Encoding, progress: Progress
) -> list[str]:
    """Embed some rows of a feature set again, from the samples' contents."""
    features = store.features(name)
    wanted = {features.keys[row].tobytes() for row in to_do.tolist()}
    contents = [content for content in _contents(store, features.spec.modality) if content.key in wanted]
    with counting(progress, f"embed {name}", len(contents)) as update:
        result = fill(
            features,
            encoder,
            contents,
            batch_size=encoding.batch_size,
            workers=encoding.workers,
            progress=update,
        )
    lines = [f"{name}: {counted(result.embedded, 'item')} embedded again"] if result.embedded else []
    lines += [f"{name}: {content.source} failed ({why})" for content, why in result.failed]
    if lost := len(wanted) - len(contents):
        lines.append(f"{name}: {counted(lost, 'item')} lost, since no sample has the content any more")
    return lines


def _contents(store: Store, modality: Modality) -> list[Content]:
    """Return the distinct contents of the samples in the store."""
    roles, samples = store.roles, store.samples
    held = {"image": roles.image, "text": roles.text}
    columns = [column for part in PARTS[modality] if (column := held[part]) is not None]
    if len(columns) < len(PARTS[modality]):
        return []
    rows = zip(
        sample_keys(samples, modality).to_list(), *(samples[column].to_list() for column in columns), strict=True
    )
    there = {key: cells for key, *cells in rows if key is not None}
    if modality == "text":
        return [Content(bytes.fromhex(key), cell) for key, (cell,) in there.items()]
    return [Content(bytes.fromhex(key), Path(roles.root, cell), *words) for key, (cell, *words) in there.items()]
