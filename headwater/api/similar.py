"""similar and index: nearest neighbours of a sample, an image or a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import refuse_idle
from headwater._devices import Device, require_device
from headwater._missing import is_missing
from headwater._progress import Progress, counting, progress_to
from headwater._words import aligned, cut
from headwater.embed import Content, content_key, key_of_file
from headwater.embed.texts import STORED, encoder_of, features_of_query, require_dual
from headwater.errors import InputError, StoreBusy, StoreNotFound, nearest
from headwater.retrieve import Kind, build_index, load_index, recall_at_10, save_index, search, trains_on_gpu
from headwater.samples.columns import require_column
from headwater.store import (
    KEY_COLUMNS,
    Features,
    SelectedRows,
    Store,
    fetch_file,
    keys_from_hex,
    open_store,
    pair_key,
    sample_keys,
    send_file,
)

OWN = ("rank", "score", "id")
MOST = 40  # printed characters of a cell
SUGGEST_AMONG = 10_000  # ids searched for a suggestion, to limit the time


@dataclass(frozen=True)
class Hit:
    """One similar sample.

    Attributes
    ----------
    rank
        Rank, from 1.
    score
        Cosine similarity.
    id
        The sample.
    row
        All columns of the sample except the keys.
    """

    rank: int
    score: float
    id: str
    row: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a column named like a field of the hit is called ``manifest_…``."""
        own = {"rank": self.rank, "score": self.score, "id": self.id}
        names = _column_names(self.row)
        columns = {names[c]: value for c, value in self.row.items() if not (c == "id" and value == self.id)}
        return own | columns


def _column_names(columns: Iterable[str]) -> dict[str, str]:
    """Return the manifest's column names, renamed if they clash with a hit's own rank, score and id.

    Examples
    --------
    >>> _column_names(["label", "score"])
    {'label': 'label', 'score': 'manifest_score'}
    """
    names: dict[str, str] = {}
    columns = list(columns)
    for column in columns:
        name = column
        while name in OWN or (name != column and name in columns):
            name = f"manifest_{name}"
        names[column] = name
    return names


def hit_lines(hits: Sequence[Hit], *, width: int | None = None) -> list[str]:
    """Return a table of hits to print, with long cells shortened and lines cut to ``width``."""
    if not hits:
        return ["nothing found"]
    columns = [
        c for c in hits[0].row if any(h.row[c] is not None for h in hits) and not all(h.row[c] == h.id for h in hits)
    ]
    names = _column_names(hits[0].row)
    table = [[*OWN, *(names[c] for c in columns)]]
    table += [[str(h.rank), f"{h.score:.4f}", h.id, *(cut(h.row[c], MOST) for c in columns)] for h in hits]
    return aligned(table, width=width)


@dataclass(frozen=True)
class IndexSummary:
    """An index: its file, kind, number of vectors, and recall@10 against exact search."""

    path: str
    kind: str
    n_vectors: int
    recall_at_10: float


def similar(
    store: str | Path | Store,
    *,
    features: str,
    id: str | None = None,
    image: str | Path | None = None,
    text: str | None = None,
    k: int = 10,
    where: str | None = None,
    exclude_same: str | None = None,
    index: str | None = None,
    weights: str | Path | None = None,
    device: Device = "auto",
    trust_remote_code: bool = False,
) -> list[Hit]:
    """Find the samples with the most similar features, by cosine, to a sample, an image or a text.

    Parameters
    ----------
    store
        A store, or its path.
    features
        The features to search in, ``NAME/MODALITY``.
    id, image, text
        The query, one of them: a sample of the store, an image file, or a text. For pair features, pass an image and a
        text together.
    k
        How many to find.
    where
        A boolean SQL expression: only these samples are found.
    exclude_same
        With ``id``: leave out samples with the same value in this column, such as the patient.
    index
        Search in an index of this kind, built by `headwater.api.index`, rather than exactly.
    weights, trust_remote_code
        For loading the encoder, if the query must be embedded.
    device
        Where the query is embedded and compared: ``cpu``, ``cuda`` or ``auto``. An index is searched on the CPU, which
        is fast enough for one query.

    Raises
    ------
    InputError, StoreError
        When the query is invalid; the message says why.
    """
    of_pairs = features.endswith("/pair")
    if of_pairs and ((image is None) != (text is None) or (id is None) == (image is None)):
        raise InputError(
            f"{features} are features of image-text pairs: pass both --image and --text, or --id of a sample."
        )
    if not of_pairs and sum(q is not None for q in (id, image, text)) != 1:
        raise InputError("pass one query: --id, --image or --text.")
    if id is not None:
        idle = {"--weights": weights is not None, "--trust-remote-code": trust_remote_code}
        refuse_idle(idle, "goes with --image or --text: no encoder is loaded for a sample of the store.")
    if exclude_same is not None and id is None:
        raise InputError("--exclude-same goes with --id: only a sample of the store has columns.")
    require_device(device)  # refuses a GPU that is not there, before anything is read
    if k < 1:
        raise InputError(f"-k must be at least 1, but is {k}.")
    opened = store if isinstance(store, Store) else open_store(store)
    found = opened.features(features)
    if exclude_same is not None:
        require_column(opened, exclude_same, "--exclude-same")
    if index is not None:
        require_kind(index)
    own = None if id is None else _sample(opened, id)
    data = opened.read(features, where=where)
    if own is not None:
        query = _query_of_sample(opened, found, own)
    elif of_pairs:
        query = _query_of_pair(opened, found, Path(str(image)), str(text), weights, device, trust_remote_code)
    elif image is not None:
        query = _query_of_image(opened, found, Path(image), weights, device, trust_remote_code)
    else:
        query = _query_of_text(opened, found, str(text), weights, device, trust_remote_code)
    allowed = np.ones(len(data.ids), bool) if id is None else data.ids != id
    if exclude_same is not None and own is not None:
        value = own[exclude_same]
        if value is not None and not is_missing(str(value)):
            allowed &= data.table[exclude_same].ne_missing(value).to_numpy()
    X = data.inputs[features]
    assert isinstance(X, SelectedRows)
    if index is None:
        scores, rows = search(X, query[None], k, rows=allowed, device=device)
    else:
        scores, rows = _search_index(opened, found, index, X.index, query, k, allowed)
    hits = []
    for rank, (score, row) in enumerate(zip(scores[0].tolist(), rows[0].tolist(), strict=True), start=1):
        if row < 0:
            break
        values = data.table.row(row, named=True)
        shown = {c: v for c, v in values.items() if c not in ("image_key", "text_key")}
        hits.append(Hit(rank, score, str(data.ids[row]), shown))
    return hits


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


def _search_index(
    store: Store,
    features: Features,
    kind: str,
    items: NDArray[np.int64],
    query: NDArray[Any],
    k: int,
    allowed: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search an index of items; return the samples that hold them, ties in sample order."""
    path = store.index_path(features.name, kind)
    if not (fetch_file(path) and fetch_file(path.with_name(f"{path.name}.json"))):
        raise StoreNotFound(
            f"{features.name}: no {kind} index. Run: headwater index {store.location} --features {features.name} "
            f"--kind {kind}"
        )
    opened = load_index(path, fingerprint=features.fingerprint)
    samples = np.flatnonzero(allowed)
    samples = samples[np.argsort(items[samples], kind="stable")]
    owners = items[samples]  # ascending, so that the samples of an item are adjacent
    scores, found = opened.search(query[None], k, rows=np.bincount(owners, minlength=features.n_items) > 0)
    real = found[0] >= 0
    first, stop = (np.searchsorted(owners, found[0][real], side) for side in ("left", "right"))
    parts = [samples[a:b] for a, b in zip(first.tolist(), stop.tolist(), strict=True)]
    rows, of_rows = np.concatenate([*parts, samples[:0]]), np.repeat(scores[0][real], stop - first)
    order = np.lexsort((rows, -of_rows))[:k]
    return of_rows[None, order], rows[None, order]


def _sample(store: Store, id: str) -> dict[str, Any]:
    ids = store.samples[store.roles.id].cast(str)
    place = ids.index_of(id)
    if place is None:
        raise InputError(f"--id: no sample {id!r}.{nearest(id, ids.head(SUGGEST_AMONG).to_list())}")
    return store.samples.row(place, named=True)


def _query_of_sample(store: Store, features: Features, sample: dict[str, Any]) -> NDArray[Any]:
    keys = pl.DataFrame({c: sample[c] for c in KEY_COLUMNS.values()}, dict.fromkeys(KEY_COLUMNS.values(), pl.String))
    key = sample_keys(keys, features.spec.modality)[0]
    row = -1 if key is None else int(features.rows_of(keys_from_hex(pl.Series([key])))[0])
    if row < 0 or features.status[row] != STORED:
        id = str(sample[store.roles.id])
        why = features.failed.get(row) or (store.unreadable.get(id) if key is None else None)
        raise InputError(f"sample {id!r} has no features in {features.name}{f': {why}' if why else ''}.")
    vector: NDArray[Any] = features.pooled[row]
    return vector


def _query_of_image(
    store: Store, features: Features, path: Path, weights: str | Path | None, device: str, trust_remote_code: bool
) -> NDArray[Any]:
    """Return the stored features of an image file, or embed it."""
    name = f"{features.name.split('/')[0]}/image"
    if features.name != name:
        require_dual(store, name, features.name)
    return _query_of_content(
        store, store.features(name), Content(key_of_file(path), path), weights, device, trust_remote_code
    )


def _query_of_pair(
    store: Store,
    features: Features,
    path: Path,
    text: str,
    weights: str | Path | None,
    device: str,
    trust_remote_code: bool,
) -> NDArray[Any]:
    """Return the stored features of an image-text pair, or embed it."""
    _refuse_blank(text)
    content = Content(pair_key(key_of_file(path), content_key(text.encode())), path, text)
    return _query_of_content(store, features, content, weights, device, trust_remote_code)


def _query_of_content(
    store: Store,
    features: Features,
    content: Content,
    weights: str | Path | None,
    device: str,
    trust_remote_code: bool,
) -> NDArray[Any]:
    """Return the stored features of a content, or embed it."""
    row = int(features.rows_of(np.frombuffer(content.key, np.uint8)[None])[0])
    if row >= 0 and features.status[row] == STORED:
        found: NDArray[Any] = features.pooled[row]
        return found
    encoder = encoder_of(store, features.name, weights=weights, device=device, trust_remote_code=trust_remote_code)
    modality = features.spec.modality
    embedded: NDArray[Any] = encoder.encode(modality, [encoder.prepare(modality, content)]).pooled[0]
    return embedded


def _query_of_text(
    store: Store, features: Features, text: str, weights: str | Path | None, device: str, trust_remote_code: bool
) -> NDArray[Any]:
    """Return the stored features of a text, or embed it."""
    name = f"{features.name.split('/')[0]}/text"
    _refuse_blank(text)
    if features.name != name and name in store.feature_names():
        require_dual(store, features.name, name)
    return features_of_query(store, name, text, weights=weights, device=device, trust_remote_code=trust_remote_code)


def _refuse_blank(text: str) -> None:
    if not text.strip():
        raise InputError("--text is empty: pass the text to search for.")
