"""info and verify: show what a store holds, and verify its checksums."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headwater._shown import Shown
from headwater._words import aligned, counted, size
from headwater.errors import StoreError
from headwater.retrieve import check_index
from headwater.store import FAILED, STORED, TO_DO, Features, Store, fetch_file, index_files, open_store, sample_keys

PAUSE_SECONDS = 0.2
"""Pause before an index that disagrees with its JSON file is checked again."""


@dataclass(frozen=True, repr=False)
class StoreInfo(Shown):
    """What a store holds.

    Attributes
    ----------
    path, n_samples, columns
        Path of the store, number of samples, and columns of the samples table.
    features
        For each feature set: items, stored, failed, to do, dim, dtype, tokens, encoder, bytes on disk.
    failed
        For each feature set, why samples have no features, by sample id.
    unlisted
        For each feature set, why items failed that no sample uses, by key.
    outcomes
        Columns that may be labels, but never inputs.
    groups
        Columns known to keep rows together.
    """

    path: str
    n_samples: int
    columns: list[str]
    features: dict[str, dict[str, Any]]
    failed: dict[str, dict[str, str]]
    unlisted: dict[str, dict[str, str]]
    outcomes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def lines(self, *, failed: bool = False) -> list[str]:
        """Return it in a few lines; with ``failed``, also what failed and why."""
        out = [f"{self.path}: {counted(self.n_samples, 'sample')}"]
        if self.columns:
            out.append(f"  columns: {', '.join(self.columns)}")
        for what, names in (("outcomes, never inputs", self.outcomes), ("keep together", self.groups)):
            out += [f"  {what}: {', '.join(names)}"] if names else []
        out += [f"  {line}" for line in aligned([self._cells(name) for name in self.features])]
        n_failed = len({id for why in self.failed.values() for id in why})
        for words, listed in (("failed in", self.failed), ("not in the samples, failed in", self.unlisted)):
            for name, why in listed.items() if failed else ():
                out += [f"{words} {name}:", *(f"  {line}" for line in aligned([[i, w] for i, w in why.items()]))]
        if failed and not (self.failed or self.unlisted):
            out.append("nothing failed")
        elif n_failed and not failed:
            out.append(f"{counted(n_failed, 'sample')} failed: headwater info {self.path} --failed")
        return out

    def _cells(self, name: str) -> list[str]:
        features = self.features[name]
        kind = "" if features["tokens_dtype"] == features["dtype"] else f" {features['tokens_dtype']}"
        tokens = "" if features["tokens"] == "none" else f" + tokens {features['tokens']}{kind}"
        shape = f"{features['stored']:,} x {features['dim']} {features['dtype']}{tokens}"
        failed = [f"{counted(len(self.failed[name]), 'sample')} failed"] if name in self.failed else []
        to_do = [f"{counted(features['to_do'], 'item')} to do"] if features["to_do"] else []
        return [name, shape, size(features["bytes"]), features["encoder"], ", ".join(failed + to_do)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))


def info(store: str | Path | Store) -> StoreInfo:
    """Return what a store holds."""
    opened = store if isinstance(store, Store) else open_store(store)
    features, failed, unlisted = {}, {}, {}
    for found in opened.every_features():
        name, status = found.name, found.status
        features[name] = {
            "items": found.n_items,
            "stored": int((status == STORED).sum()),
            "failed": int((status == FAILED).sum()),
            "to_do": int((status == TO_DO).sum()),
            "dim": found.spec.dim,
            "dtype": found.spec.dtype,
            "tokens": found.spec.tokens,
            "tokens_dtype": found.spec.tokens_dtype or found.spec.dtype,
            "encoder": found.spec.encoder,
            "weights": found.spec.weights,
            "bytes": found.n_bytes,
        }
        of_samples, of_none = _failures(opened, found)
        if of_samples:
            failed[name] = of_samples
        if of_none:
            unlisted[name] = of_none
    there = opened.has_samples()
    return StoreInfo(
        path=opened.location,
        n_samples=len(opened.samples) if there else 0,
        columns=opened.samples.columns if there else [],
        features=features,
        failed=failed,
        unlisted=unlisted,
        outcomes=opened.about.outcomes if there else (),
        groups=opened.about.groups if there else (),
    )


def _failures(store: Store, features: Features) -> tuple[dict[str, str], dict[str, str]]:
    """Return why samples have no features, by id, and why items failed that no sample uses, by key."""
    by_key = {features.keys[row].tobytes().hex(): why for row, why in features.failed.items()}
    if not store.has_samples():
        return {}, by_key
    modality, samples = features.spec.modality, store.samples
    keys = sample_keys(samples, modality).to_list()
    ids = samples[store.roles.id].cast(str).to_list()
    unreadable = {} if modality == "text" else store.unreadable
    if modality == "pair":
        without = set(samples.filter(pl.col("text_key").is_null())[store.roles.id].cast(str))
        unreadable = {id: why for id, why in unreadable.items() if id not in without}
    found = ((id, by_key.get(key) if key else unreadable.get(id)) for id, key in zip(ids, keys, strict=True))
    by_id = {id: why for id, why in found if why is not None}
    listed = set(keys)
    return by_id, {key: why for key, why in by_key.items() if key not in listed}


class Verified(list[str]):
    """A line for each part of a store that differs from its checksum; empty if none does.

    Attributes
    ----------
    unchecked
        A line for each part without a checksum, written by an earlier version of headwater.
    """

    def __init__(self, problems: Iterable[str], unchecked: Iterable[str] = ()) -> None:
        super().__init__(problems)
        self.unchecked = list(unchecked)

    def lines(self, store: str) -> list[str]:
        """Return it in lines."""
        older = [f"no checksum, written by an earlier version of headwater: {line}" for line in self.unchecked]
        if not self:
            return [*older, f"{store}: all checksums match"]
        mend = f"Repair it: headwater verify {store} --repair"
        return [*self, *older, f"{store}: {len(self)} of its parts differ from their checksums. {mend}"]


def verify(store: str | Path | Store) -> Verified:
    """Verify every checksum of a store and its indexes; return a line for each part that differs."""
    opened = store if isinstance(store, Store) else open_store(store)
    problems, unchecked = list(opened.verify()), opened.unchecked()
    for place in opened.indexes():
        name = place.relative_to(opened.path).as_posix()
        for last in (False, False, True):
            try:
                if not check_index(place):
                    unchecked.append(f"{name}.json")
            except StoreError as error:
                if not last:  # another process may be replacing its two files
                    time.sleep(PAUSE_SECONDS)
                    for each in index_files(place):
                        fetch_file(each)
                    continue
                if place.exists() or place.with_name(f"{place.name}.json").exists():  # not removed meanwhile
                    problems.append(str(error))
            break
    return Verified(problems, unchecked)
