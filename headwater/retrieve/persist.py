"""An index on disk: the file that FAISS writes, and a JSON file beside it that describes it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater._reading import open_regular, read_json, read_regular
from headwater._schema import Count, Size, Word, read_as
from headwater.errors import DiskError, StoreError, StoreNotFound
from headwater.retrieve.index import Kind, VectorIndex
from headwater.retrieve.library import load_faiss

FORMAT = 1
MARK = np.dtype("<u8")
LINKS = 8192
"""Most bytes per vector of an index, besides its numbers."""
LEAST_BYTES = 1 << 28
"""Most bytes of an index without vectors."""
OPTIONAL: dict[str, Any] = {"breadth": None, "n_dead": 0, "target": None, "marks": None}
"""Entries that earlier versions did not write, and what a missing one means."""
_REBUILD = "Build it again: headwater index"


@dataclass(frozen=True)
class IndexInfo:
    """The description of an index, which is written beside it.

    Attributes
    ----------
    kind
        "flat", "ivf", "hnsw" or "ivfpq".
    dim
        Length of the vectors.
    n_rows
        Number of rows of the features, usable or not.
    n_vectors
        Number of rows in the index.
    fingerprint
        Identifies the features that the index was built from.
    recall_at_10
        Recall measured after building, from 0 to 1; None if it was not measured.
    checksum
        BLAKE2b-128 digest of the FAISS file, 32 hex digits.
    breadth, n_dead
        See `VectorIndex`.
    target
        The recall that the breadth was chosen for; None if none was asked for.
    marks
        Digest of the file of marks beside the index; None without one. See `headwater.retrieve.update`.
    """

    kind: Kind
    dim: Size
    n_rows: Count
    n_vectors: Count
    fingerprint: Word
    recall_at_10: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    checksum: Word
    breadth: Size | None = None
    n_dead: Count = 0
    target: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    marks: Word | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with a checksum of their own; options that are not used are left out."""
        own = {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value != OPTIONAL[name]}
        values = {"format": FORMAT, **own}
        return {**values, "sum": _sum_of(values)}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> IndexInfo:
        """Rebuild a description from `to_dict`.

        Raises
        ------
        ValueError
            When the format or the kind is unknown, entries are missing, unknown or out of range, or they differ from
            their checksum; earlier versions wrote no checksum.
        """
        fields = dict(entries)
        if "sum" in fields and fields.pop("sum") != _sum_of(fields):
            raise ValueError("it differs from its checksum")
        if (version := fields.pop("format", None)) != FORMAT:
            raise ValueError(f"format must be {FORMAT}, but is {version!r}")
        fields = {**OPTIONAL, **fields}
        if difference := fields.keys() ^ cls.__dataclass_fields__.keys():
            raise ValueError(f"entries are missing or unknown: {', '.join(sorted(difference))}")
        if fields["kind"] not in get_args(Kind):
            raise ValueError(f"there is no kind {fields['kind']!r}")
        return read_as(cls, fields)


def _sum_of(entries: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(entries, sort_keys=True).encode(), digest_size=16).hexdigest()


def save_index(
    index: VectorIndex,
    path: str | os.PathLike[str],
    *,
    fingerprint: str,
    recall_at_10: float | None = None,
    target: float | None = None,
    marks: NDArray[np.uint64] | None = None,
) -> IndexInfo:
    """Write an index to ``path`` and its description to ``path`` + ``.json``.

    Each file is first written under a temporary name, then renamed, so it is complete or missing. If a crash leaves a
    new index with the description of the old one, the checksum does not match, and loading raises an error.

    Parameters
    ----------
    index
        The index to write.
    path
        The FAISS file to write; an existing one is replaced. Its directory is created if missing.
    fingerprint
        A word that changes when the features change; `load_index` compares it.
    recall_at_10
        The result of `headwater.retrieve.recall_at_10`.
    target
        The recall that the index was tuned for.
    marks : uint64 array of shape (n_rows,), optional
        The marks of the rows, with which the index can be updated; written to ``path`` + ``.marks``.

    Returns
    -------
    IndexInfo
        The description that was written beside the index.

    Raises
    ------
    DiskError
        When the disk is full or cannot be written.
    """
    place = Path(path)
    half = place.with_name(f".{place.name}.{secrets.token_hex(8)}.part")
    side = _side(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        load_faiss().write_index(index.native, os.fspath(half))
        info = IndexInfo(
            kind=index.kind,
            dim=index.dim,
            n_rows=index.n_rows,
            n_vectors=index.n_vectors,
            fingerprint=fingerprint,
            recall_at_10=recall_at_10,
            checksum=_checksum(half),
            breadth=index.breadth,
            n_dead=index.n_dead,
            target=target,
            marks=None if marks is None else _digest(_bytes_of(marks)),
        )
        half.replace(place)
        if marks is not None:
            half.write_bytes(_bytes_of(marks))
            half.replace(marks_of(place))
        else:
            marks_of(place).unlink(missing_ok=True)
        half.write_text(json.dumps(info.to_dict(), indent=2) + "\n", encoding="utf-8")
        half.replace(side)
    except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError when a write fails
        raise DiskError(f"{place}: the index cannot be written: {_first_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # an error of the disk has been raised already
            half.unlink()
    return info


def read_index_info(path: str | os.PathLike[str]) -> IndexInfo:
    """Read the description of the index at ``path``, without loading the index.

    Raises
    ------
    StoreNotFound
        When there is no index.
    StoreError
        When the JSON beside it cannot be read.
    """
    side = _side(Path(path))
    try:
        entries = read_json(side, follow=False)
        if not isinstance(entries, dict):
            raise ValueError("it is not a JSON object")
        return IndexInfo.from_dict(entries)
    except FileNotFoundError:
        raise StoreNotFound(f"{os.fspath(path)}: there is no index. Build it: headwater index") from None
    except OSError as error:
        raise StoreError(f"{side}: cannot be read: {error.strerror}. {_REBUILD}") from error
    except ValueError as error:
        raise StoreError(f"{side}: not the description of an index: {_first_line(error)}. {_REBUILD}") from error


def load_index(path: str | os.PathLike[str], *, fingerprint: str | None = None) -> VectorIndex:
    """Load the index that `save_index` wrote.

    Parameters
    ----------
    path
        The FAISS file. It is checked against its checksum before FAISS reads it.
    fingerprint
        Fingerprint of the features to be searched; not compared when left out.

    Raises
    ------
    StoreNotFound
        When there is no index.
    StoreError
        When the index was built from other features, is damaged, or cannot be read by this version of FAISS.
    MissingExtra
        When FAISS is not installed.
    """
    place = Path(path)
    info = read_index_info(place)
    if fingerprint is not None and fingerprint != info.fingerprint:
        raise StoreError(
            f"{place}: the index was built from other features ({info.fingerprint}) than these ({fingerprint}). Bring "
            "it up to date: headwater index"
        )
    _require_right(place, info)
    try:
        native = load_faiss().read_index(os.fspath(place))
    except RuntimeError as error:
        raise StoreError(f"{place}: FAISS cannot read the index: {_first_line(error)}. {_REBUILD}") from error
    if (native.d, native.ntotal) != (info.dim, info.n_vectors + info.n_dead):
        raise StoreError(f"{place}: the index does not match the JSON file beside it. {_REBUILD}")
    return VectorIndex(info.kind, info.dim, info.n_rows, native, info.breadth, info.n_dead)


def read_marks(path: str | os.PathLike[str]) -> NDArray[np.uint64] | None:
    """Return the marks of the rows of the index at ``path``, of shape ``(n_rows,)``; None without them.

    Raises
    ------
    StoreNotFound, StoreError
        As `read_index_info` does, and when the marks are damaged.
    """
    place = Path(path)
    info = read_index_info(place)
    if info.marks is None:
        return None
    try:
        data = read_regular(marks_of(place), most=MARK.itemsize * info.n_rows, follow=False)
    except OSError as error:
        raise StoreError(f"{marks_of(place)}: cannot be read: {error.strerror}. {_REBUILD}") from error
    if len(data) != MARK.itemsize * info.n_rows or _digest(data) != info.marks:
        raise StoreError(f"{marks_of(place)}: it is damaged. {_REBUILD}")
    return np.frombuffer(data, MARK).astype(np.uint64)


def marks_of(path: Path) -> Path:
    """Return the path of the marks of an index."""
    return path.with_name(path.name + ".marks")


def _bytes_of(marks: NDArray[np.uint64]) -> bytes:
    return np.ascontiguousarray(marks, MARK).tobytes()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def check_index(path: str | os.PathLike[str]) -> bool:
    """Compare an index and its description with their checksums; this does not need FAISS.

    Returns
    -------
    bool
        Whether the description has a checksum of its own; earlier versions wrote none.

    Raises
    ------
    StoreNotFound, StoreError
        As `load_index` does.
    """
    place = Path(path)
    _require_right(place, read_index_info(place))
    read_marks(place)
    return "sum" in read_json(_side(place), follow=False)


def _require_right(place: Path, info: IndexInfo) -> None:
    try:
        n_bytes = place.stat().st_size
        if (
            n_bytes > (info.n_rows + info.n_dead) * (8 * info.dim + LINKS) + LEAST_BYTES
        ):  # a sparse file of terabytes takes no space, but hours to read
            raise StoreError(f"{place}: the index is damaged: it has {n_bytes:,} bytes. {_REBUILD}")
        found = _checksum(place)
    except FileNotFoundError:
        raise StoreNotFound(f"{place}: there is no index. Build it: headwater index") from None
    except OSError as error:
        raise StoreError(f"{place}: cannot be read: {error.strerror}. {_REBUILD}") from error
    if found != info.checksum:
        raise StoreError(f"{place}: the index is damaged: its checksum is {found}, not {info.checksum}. {_REBUILD}")


def _side(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _checksum(path: Path) -> str:
    with open_regular(path, follow=False) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
