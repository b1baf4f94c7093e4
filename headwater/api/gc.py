"""gc: drop features that no sample uses, and named feature sets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._reading import matching
from headwater._shown import Shown
from headwater._words import counted, size
from headwater.errors import InputError, StoreError, StoreNotFound, nearest
from headwater.store import (
    BEING_COMPACTED,
    BlockResult,
    FeatureReader,
    RaggedArray,
    Rights,
    Store,
    beside,
    damages,
    keys_from_hex,
    open_store,
    remove_file,
    sample_keys,
    write_bytes,
)


@dataclass(frozen=True, repr=False)
class Dropped(Shown):
    """What was dropped, or would be.

    Attributes
    ----------
    done
        Whether it was dropped.
    sets
        Bytes of each feature set that is dropped completely, because it was named or no sample uses it.
    items
        For each other feature set with unused items, their number, and their share of the bytes.
    """

    path: str
    done: bool
    sets: dict[str, int] = field(default_factory=dict)
    items: dict[str, tuple[int, int]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return it in lines."""
        if not self.sets and not self.items:
            return [f"{self.path}: a sample uses every stored item, so there is nothing to drop"]
        word = "dropped" if self.done else "would drop"
        out = [f"{word} {name}: all of it, {size(n_bytes)}" for name, n_bytes in self.sets.items()]
        out += [f"{word} {counted(n, 'item')} of {name}, {size(b)}" for name, (n, b) in self.items.items()]
        return out if self.done else [*out, "nothing was changed: pass --yes to drop"]


def gc(store: str | Path | Store, *, drop: Sequence[str] = (), yes: bool = False) -> Dropped:
    """Report features that no sample uses and, with ``yes``, drop them.

    The kept items of a feature set are copied to a new set, which then replaces the old one. If the process stops, one
    of the two is complete, and the same command continues.

    Parameters
    ----------
    store
        A store, or its path.
    drop
        Feature sets, ``NAME/MODALITY``, to drop completely.
    yes
        Drop them, rather than only report them.

    Raises
    ------
    InputError
        When the feature set does not exist, or the store has no samples to tell what is used.
    StoreBusy
        When another process is writing a feature set.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    if yes:
        _finish(opened)
    names = opened.feature_names()
    for name in drop:
        if name not in names:
            raise InputError(f"--drop {name}: no such features.{nearest(name, names)} There are: {', '.join(names)}.")
    if not opened.has_samples() and not drop:
        raise InputError(
            f"{opened.location}: no samples, so it is unknown which items are used. Name features with --drop."
        )
    sets = {name: opened.features(name).n_bytes for name in drop}
    known = set(sets)
    items: dict[str, tuple[int, int]] = {}
    for features in opened.every_features() if opened.has_samples() else ():
        name = features.name
        if name in known or name.partition("/")[0].endswith(BEING_COMPACTED):
            continue
        unused = ~_used(opened, features)
        if unused.all():
            sets[name] = features.n_bytes
        elif unused.any():
            items[name] = int(unused.sum()), round(features.n_bytes * float(unused.mean()))
    if yes:
        for name in sets:
            with suppress(StoreNotFound):  # if another process has dropped it
                if name in known:
                    opened.remove_features(name)
                else:  # unless another process has embedded a manifest since
                    opened.remove_features(name, only_if=lambda features: not _used(opened, features).any())
        for name in items:
            with suppress(StoreNotFound):
                _compact(opened, name)
    return Dropped(opened.location, yes, sets, items)


def _used(store: Store, features: FeatureReader) -> NDArray[np.bool_]:
    """Return which items a sample uses, of shape ``(n_items,)``."""
    keys = keys_from_hex(sample_keys(store.samples, features.spec.modality).drop_nulls().unique())
    rows = features.rows_of(keys) if len(keys) else np.empty(0, np.int64)
    used = np.zeros(features.n_items, bool)
    used[rows[rows >= 0]] = True
    return used


def _compact(store: Store, name: str) -> None:
    """Copy the used items into a new feature set, and replace the old one with it.

    Raises
    ------
    StoreError
        When a block differs from its checksum; a copy would hide that.
    """
    copy = beside(name)
    with store.features(name).writing() as own:  # the lock keeps others from adding to it or compacting it
        features = own.features
        if copy in store.feature_names():  # left by a stopped process
            store.remove_features(copy)
        store.read_samples_again()  # another process may have embedded a manifest that uses more
        if damage := next(damages(features), None):
            raise StoreError(f"{damage.text}. Repair it first: headwater verify {store.location} --repair")
        kept = np.flatnonzero(_used(store, features) & (features.status > 0))
        target = store.require_features(copy, features.spec, len(kept))
        tokens: Any = features.tokens if features.spec.has_tokens else None
        lengths = tokens.lengths[kept] if isinstance(tokens, RaggedArray) else None
        with target.writing() as writer:
            for task in writer.plan(features.keys[kept], lengths):
                rows = kept[task.rows]
                made_in = features.state.blocks[int(rows[0]) // features.block_rows].environment
                writer.set_environment(features.state.environments.get(made_in, {}))
                matrices: Any = None
                if isinstance(tokens, RaggedArray):
                    matrices = [np.asarray(tokens[int(row)]) for row in rows]
                elif tokens is not None:
                    matrices = np.asarray(tokens[rows])
                failed = {
                    int(new): features.failed[int(old)]
                    for new, old in zip(task.rows, rows, strict=True)
                    if int(old) in features.failed
                }
                writer.commit(task, BlockResult(task.rows, np.asarray(features.pooled[rows]), matrices, failed))
            write_bytes(_whole(store, copy), b"")  # marks the copy as complete
            store.replace_features(name, copy)
        remove_file(_whole(store, copy))


def _whole(store: Store, copy: str) -> Path:
    return store.journal_of(copy).with_suffix(".whole")


def _finish(store: Store) -> None:
    """Replace feature sets by copies that were complete when an earlier run was stopped.

    Raises
    ------
    StoreBusy
        When another process is doing so.
    """
    for marker in sorted(matching(store.path / "journal", f"*{BEING_COMPACTED}/*.whole")):
        name = f"{marker.parent.name.removesuffix(BEING_COMPACTED)}/{marker.stem}"
        with Rights(store.journal_of(name), name).alone():
            if marker.exists():
                store.replace_features(name, f"{marker.parent.name}/{marker.stem}")
                remove_file(marker)
