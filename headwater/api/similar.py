"""similar: the samples most similar to a sample, an image, a text, or an image and a text together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._checks import refuse_idle
from headwater._devices import Device, require_device
from headwater._options import as_tuple, with_options
from headwater._words import aligned, cut
from headwater._writable import require_writable
from headwater.api import _queries
from headwater.errors import InputError, StoreNotFound
from headwater.samples.cases import CaseFilter, Cases
from headwater.store import KEY_COLUMNS, Store, fetch_file, open_store

OWN = ("rank", "score", "id")
MOST = 40  # printed characters of a cell
PICTURES = (".html", ".htm", ".png")
"""Endings of the files that `similar` writes."""


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


def similar(
    store: str | Path | Store,
    *,
    features: str,
    id: str | None = None,
    image: str | Path | None = None,
    text: str | None = None,
    weight: float | None = None,
    k: int = 10,
    only: CaseFilter | None = None,
    index: str | None = None,
    weights: str | Path | None = None,
    device: Device = "auto",
    trust_remote_code: bool = False,
    out: str | Path | None = None,
    **options: Any,
) -> list[Hit]:
    """Find the samples with the most similar features, by cosine, to a sample, an image, a text, or both of these.

    Parameters
    ----------
    store
        A store, or its path.
    features
        The features to search in, ``NAME/MODALITY``.
    id, image, text
        The query: a sample of the store, an image file, a text, or an image and a text together. For pair features,
        pass an image and a text together.
    weight
        With an image and a text: the weight of the image, from 0 to 1, default 0.5; the text has the rest. Samples are
        then ordered by the weighted mean of their similarities to both. Not for pair features, whose encoder reads
        image and text together.
    k
        How many to find; fewer only if no more may be found.
    only
        Which samples may be found.
    index
        Search in an index of this kind, built by `headwater.api.index`, rather than exactly. Filters and exclusions
        hold as in exact search, and never leave fewer than ``k``.
    weights, trust_remote_code
        For loading the encoder, if the query must be embedded.
    device
        Where the query is embedded and compared: ``cpu``, ``cuda`` or ``auto``. An index is searched on the CPU, which
        is fast enough for one query.
    out
        A file for the results with their pictures: ``.html``, one file that needs no other, or ``.png``.
    options
        Any field of `headwater.CaseFilter` by its name, such as ``exclude_same="patient"``, ``one_per="patient"``,
        ``exclude="site=north"`` or ``where="age > 50"``.

    Raises
    ------
    InputError, StoreError
        When the query is invalid; the message says why.
    """
    target = None if out is None else _sheet_file(out)
    only = with_options("similar", options, only or CaseFilter())
    exclude_same, one_per = only.exclude_same, only.one_per
    _require_query(features, id, image, text, weight)
    if id is not None:
        idle = {"--weights": weights is not None, "--trust-remote-code": trust_remote_code}
        refuse_idle(idle, "goes with --image or --text: no encoder is loaded for a sample of the store.")
    if exclude_same is not None and id is None:
        raise InputError(
            "--exclude-same goes with --id: only a sample of the store has columns. Use --exclude COL=VALUE."
        )
    require_device(device)  # refuses a GPU that is not there, before anything is read
    if k < 1:
        raise InputError(f"-k must be at least 1, but is {k}.")
    if index is not None:
        from headwater.api.index import require_kind

        require_kind(index)
    cases = Cases(store if isinstance(store, Store) else open_store(store), features)
    for option, column in (("--exclude-same", exclude_same), ("--one-per", one_per)):
        if column is not None:
            cases.require_column(column, option)
    own = None if id is None else cases.row_of(id)
    if own is not None:
        query = _queries.of_sample(cases, own)
    else:
        query = _embedded(cases, image, text, weight, weights, device, trust_remote_code)
    same_as = None if exclude_same is None or own is None else (exclude_same, own)
    allowed = cases.allowed(where=only.where, same_as=same_as, exclude=as_tuple(only.exclude))
    found = cases.find(
        query,
        k,
        allowed=allowed,
        without=own,
        one_per=one_per,
        index=None if index is None else _loaded(cases, index),
        device=device,
    )
    hits = _hits(cases, found.rows, found.scores)
    if target is not None:
        _write_sheet(target, cases, found.rows, hits, id, image, text)
    return hits


def _require_query(
    features: str, id: str | None, image: str | Path | None, text: str | None, weight: float | None
) -> None:
    """Raise `InputError` unless there is one query, of the right parts."""
    of_pairs = features.endswith("/pair")
    if of_pairs and ((image is None) != (text is None) or (id is None) == (image is None)):
        raise InputError(
            f"{features} are features of image-text pairs: pass both --image and --text, or --id of a sample."
        )
    if (id is None) == (image is None and text is None):
        raise InputError("pass one query: --id, --image or --text, or --image and --text together.")
    if weight is None:
        return
    if of_pairs or image is None or text is None:
        raise InputError("--weight goes with --image and --text together, on features of a dual encoder, not of pairs.")
    if not 0 <= weight <= 1:
        raise InputError(f"--weight must be from 0 (only the text) to 1 (only the image), but is {weight}.")


def _embedded(
    cases: Cases,
    image: str | Path | None,
    text: str | None,
    weight: float | None,
    weights: str | Path | None,
    device: str,
    trust_remote_code: bool,
) -> NDArray[Any]:
    """Return the vector of an image, a text, or both."""
    store, features, how = cases.store, cases.features, (weights, device, trust_remote_code)
    if features.spec.modality == "pair":
        return _queries.of_pair(store, features, Path(str(image)), str(text), *how)
    seen = None if image is None else _queries.of_image(store, features, Path(image), *how)
    read = None if text is None else _queries.of_text(store, features, text, *how)
    if seen is not None and read is not None:
        return _queries.mixed(seen, read, _queries.DEFAULT_WEIGHT if weight is None else weight)
    return seen if read is None else read  # type: ignore[return-value]  # one of them is there


def _loaded(cases: Cases, kind: str) -> Any:
    """Load an index of the features."""
    from headwater.retrieve import load_index

    store, features = cases.store, cases.features
    path = store.index_path(features.name, kind)
    if not (fetch_file(path) and fetch_file(path.with_name(f"{path.name}.json"))):
        raise StoreNotFound(
            f"{features.name}: no {kind} index. Run: headwater index {store.location} --features {features.name} "
            f"--kind {kind}"
        )
    return load_index(path, fingerprint=features.fingerprint)


def _hits(cases: Cases, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Hit]:
    hits = []
    for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1):
        values = cases.table.row(row, named=True)
        shown = {column: value for column, value in values.items() if column not in KEY_COLUMNS.values()}
        hits.append(Hit(rank, score, str(values[cases.roles.id]), shown))
    return hits


def _sheet_file(out: str | Path) -> Path:
    path = require_writable(out)
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"--out {path}: give a file that ends in .html or .png.")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder. Give a file.")
    return path


def _write_sheet(
    target: Path,
    cases: Cases,
    rows: NDArray[np.int64],
    hits: Sequence[Hit],
    id: str | None,
    image: str | Path | None,
    text: str | None,
) -> None:
    """Write the pictures of the query and of the hits."""
    from headwater.report.sheet import Tile, write_sheet
    from headwater.samples.pictures import picture_of_file, picture_of_sample

    asked = [word for word in (None if image is None else Path(image).name, text) if word is not None]
    picture = None
    if id is not None:
        picture = picture_of_sample(cases, cases.row_of(id))
    elif image is not None:
        picture = picture_of_file(Path(image))
    tiles = [Tile("query" if id is None else id, "query", {} if id else {"query": " + ".join(asked)}, picture)]
    for row, hit in zip(rows.tolist(), hits, strict=True):
        columns = {c: str(v) for c, v in hit.row.items() if v is not None and c != cases.roles.id}
        tiles.append(Tile(hit.id, f"{hit.rank}: {hit.score:.4f}", columns, picture_of_sample(cases, row)))
    write_sheet(target, f"Similar cases by {cases.features.name}", tiles)
