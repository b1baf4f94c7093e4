"""index: an index of stored features, for faster and approximate search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from headwater._devices import Device, require_device
from headwater._progress import Progress, counting, progress_to
from headwater.errors import InputError, StoreBusy, nearest
from headwater.retrieve import Kind, build_index, recall_at_10, save_index, trains_on_gpu
from headwater.store import Store, open_store, send_file


@dataclass(frozen=True)
class IndexSummary:
    """An index: its file, kind, number of vectors, and recall@10 against exact search."""

    path: str
    kind: str
    n_vectors: int
    recall_at_10: float


def index(
    store: str | Path | Store,
    *,
    features: str,
    kind: str = "hnsw",
    seed: int = 0,
    device: Device = "auto",
    progress: Progress | bool | None = None,
) -> IndexSummary:
    """Build a FAISS index of stored features and measure its recall against exact search.

    Parameters
    ----------
    kind
        ``flat``, ``ivf``, ``hnsw`` or ``ivfpq``.
    device
        Where an ``ivf`` or ``ivfpq`` index is trained, and recall is measured: ``cpu``, ``cuda``, or ``auto`` for a GPU
        if there is one and it is worthwhile. The other kinds are built on the CPU. Any machine can search the index.

    Raises
    ------
    InputError
        When the kind does not exist, or needs more items; when a GPU is requested, but cannot be used.
    MissingExtra
        When faiss is not installed.
    """
    require_kind(kind)
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")
    require_device(device)  # refuses a GPU that is not there, before anything is read
    trains_on_gpu(kind, 0, 0, device)  # type: ignore[arg-type]  # refuses one that FAISS cannot use
    opened = store if isinstance(store, Store) else open_store(store)
    found = opened.features(features)
    with counting(progress_to(progress), f"index {features}", found.n_items) as update:
        built = build_index(
            found.pooled,
            kind,  # type: ignore[arg-type]
            seed=seed,
            progress=lambda done, _: update(done, 0),
            device=device,
        )
    recall = recall_at_10(built, found.pooled, seed=seed, device=device)
    path = opened.index_path(features, kind)
    with opened.changing():  # lock: the two files of an index must match
        if features not in opened.feature_names():
            raise StoreBusy(f"{opened.location}: another process has removed {features}.")
        save_index(built, path, fingerprint=found.fingerprint, recall_at_10=recall)
        for written in (path, path.with_name(f"{path.name}.json")):
            send_file(written)
    where = f"{opened.location}/{path.relative_to(opened.path).as_posix()}"
    return IndexSummary(where, kind, built.n_vectors, recall)


def require_kind(kind: str) -> None:
    """Raise `InputError` unless the kind of index exists."""
    kinds = get_args(Kind)
    if kind not in kinds:
        raise InputError(f"unknown kind of index {kind!r}.{nearest(kind, kinds)} There are: {', '.join(kinds)}.")
