"""index: an index of stored features, for faster and approximate search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headwater._devices import Device, require_device
from headwater._progress import Progress, counting, progress_to
from headwater.errors import InputError, StoreBusy, StoreError, nearest
from headwater.retrieve.index import Kind, VectorIndex, build_index, trains_on_gpu
from headwater.retrieve.persist import load_index, read_index_info, read_marks, save_index
from headwater.retrieve.tuning import N_QUERIES, recall_at_10, tuned
from headwater.retrieve.update import row_marks, update_index
from headwater.samples.cases import searcher_of
from headwater.store import Features, Store, fetch_file, index_files, open_store, send_file

How = Literal["built", "updated", "kept"]


@dataclass(frozen=True)
class IndexSummary:
    """An index, and how it was made.

    Attributes
    ----------
    path, kind, n_vectors
        Its file, its kind, and the number of vectors that it finds.
    recall_at_10
        Measured recall among the ten nearest, against exact search.
    n_queries
        Number of stored vectors that the recall was measured with.
    breadth
        How widely it searches to reach the recall that was asked for; None for a default. See
        `headwater.retrieve.VectorIndex`.
    how
        Whether it was ``built``, ``updated``, or was up to date and ``kept``.
    n_added, n_removed
        Numbers of vectors that an update added and removed.
    """

    path: str
    kind: str
    n_vectors: int
    recall_at_10: float
    n_queries: int = N_QUERIES
    breadth: int | None = None
    how: How = "built"
    n_added: int = 0
    n_removed: int = 0

    def line(self) -> str:
        """Return it in one line."""
        out = f"{self.kind} index of {self.n_vectors:,} items, recall@10 {self.recall_at_10:.3f}"
        if self.breadth is not None:
            out += f" (breadth {self.breadth:,}, measured on {self.n_queries} other queries)"
        changes = {"built": "", "kept": ", was up to date", "updated": ""}[self.how]
        if self.how == "updated":
            changes = f", updated: {self.n_added:,} added, {self.n_removed:,} removed"
        return f"{out}{changes}, in {self.path}"


def index(
    store: str | Path | Store,
    *,
    features: str,
    kind: str = "hnsw",
    recall: float | None = None,
    anew: bool = False,
    seed: int = 0,
    device: Device = "auto",
    progress: Progress | bool | None = None,
) -> IndexSummary:
    """Build a FAISS index of stored features, or bring one up to date, and measure its recall against exact search.

    An index that is there already is updated: items that are new are added, and those that are gone are not found any
    more. It is built anew if it is damaged, was written by an earlier version, or has changed too much.

    Parameters
    ----------
    kind
        ``flat``, ``ivf``, ``hnsw`` or ``ivfpq``.
    recall
        Search as widely as needed for this recall among the ten nearest, above 0 and at most 1. The breadth is chosen
        with stored vectors as queries, and the recall measured with others. By default the recall that an index to
        update was built for, if any, else a default breadth.
    anew
        Build it anew, even if there is one.
    device
        Where an ``ivf`` or ``ivfpq`` index is trained, and recall is measured: ``cpu``, ``cuda``, or ``auto`` for a GPU
        if there is one and it is worthwhile. The other kinds are built on the CPU. Any machine can search the index.

    Raises
    ------
    InputError
        When the kind does not exist, needs more items, or cannot reach the recall; when a GPU is requested, but cannot
        be used.
    MissingExtra
        When faiss is not installed.
    """
    require_kind(kind)
    if recall is not None and not 0 < recall <= 1:
        raise InputError(f"--recall must be above 0 and at most 1, but is {recall}.")
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")
    require_device(device)  # refuses a GPU that is not there, before anything is read
    trains_on_gpu(kind, 0, 0, device)  # type: ignore[arg-type]  # refuses one that FAISS cannot use
    opened = store if isinstance(store, Store) else open_store(store)
    found = opened.features(features)
    path = opened.index_path(features, kind)
    say = progress_to(progress)
    old = None if anew else _existing(path)
    target = recall if recall is not None or old is None else old.target
    marks = old.marks if old is not None and old.fingerprint == found.fingerprint else None
    made: VectorIndex | None = None
    how: How = "built"
    n_added = n_removed = 0
    if old is not None and marks is not None:
        made, how = old.index, "kept"
    elif old is not None:
        marks = row_marks(found.pooled, found.keys)
        with counting(say, f"update index {features}", 0) as update:
            updated = update_index(old.index, old.marks, found.pooled, marks, lambda done, _: update(done, 0))
        if updated is not None:
            made, how, n_added, n_removed = updated.index, "updated", updated.n_added, updated.n_removed
    if made is None:
        made = _built(found, kind, seed, device, say)
    if marks is None:
        marks = row_marks(found.pooled, found.keys)
    searcher = searcher_of(opened, found)
    if target is not None:
        made, measured = tuned(made, searcher, target, seed=seed, device=device)
    else:
        measured = recall_at_10(made, searcher, seed=seed, device=device)
    if how == "kept" and old is not None and (made.breadth, target) == (old.index.breadth, old.target):
        return _summary(opened, path, made, measured, how)
    with opened.changing():  # lock: the files of an index must match
        if features not in opened.feature_names():
            raise StoreBusy(f"{opened.location}: another process has removed {features}.")
        save_index(made, path, fingerprint=found.fingerprint, recall_at_10=measured, target=target, marks=marks)
        for written in index_files(path):
            send_file(written)
    return _summary(opened, path, made, measured, how, n_added, n_removed)


def _summary(
    store: Store, path: Path, made: VectorIndex, recall: float, how: How, n_added: int = 0, n_removed: int = 0
) -> IndexSummary:
    where = f"{store.location}/{path.relative_to(store.path).as_posix()}"
    n = made.n_vectors
    return IndexSummary(where, made.kind, n, recall, min(N_QUERIES, n), made.breadth, how, n_added, n_removed)


@dataclass(frozen=True, eq=False)
class _Existing:
    """An index on disk that can be updated."""

    index: VectorIndex
    marks: NDArray[np.uint64]
    fingerprint: str
    target: float | None


def _existing(path: Path) -> _Existing | None:
    """Return an index that is there and whole, and has marks; else None."""
    if not all(fetch_file(each) for each in index_files(path)):
        return None
    try:
        info, marks = read_index_info(path), read_marks(path)
        index = load_index(path)
        if marks is None or read_index_info(path) != info:  # another process has replaced it meanwhile
            return None
        return _Existing(index, marks, info.fingerprint, info.target)
    except StoreError:
        return None


def _built(features: Features, kind: str, seed: int, device: Device, say: Progress) -> VectorIndex:
    with counting(say, f"index {features.name}", features.n_items) as update:
        return build_index(
            features.pooled,
            kind,  # type: ignore[arg-type]
            seed=seed,
            progress=lambda done, _: update(done, 0),
            device=device,
        )


def require_kind(kind: str) -> None:
    """Raise `InputError` unless the kind of index exists."""
    kinds = get_args(Kind)
    if kind not in kinds:
        raise InputError(f"unknown kind of index {kind!r}.{nearest(kind, kinds)} There are: {', '.join(kinds)}.")
