"""Vectors that another tool made: find their files and samples, and read their rows block by block.

::

    clip-retrieval   DIR/img_emb/*.npy, DIR/text_emb/*.npy, DIR/metadata/*.parquet
    npy              a .npy or .npz file, and a table of its rows
    hdf5             a .h5 file, or a folder with one per slide: features or feats, and coords
    pt, safetensors  a file of tensors, or a folder with one per slide
    parquet, lance   a table with a column of vectors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._reading import open_regular
from headwater.errors import InputError, VectorsError, VectorsNotFound, nearest
from headwater.sources._arrays import Held, arrays_of, reading
from headwater.sources._bounds import files_in, require_own, require_parquet_room
from headwater.sources._columns import lance_part, parquet_part
from headwater.sources._parts import BLOCK, SHOWN, Part, chosen, listed
from headwater.sources.manifest import Manifest, as_manifest, read_table

SUFFIXES: dict[str, tuple[str, ...]] = {
    "npy": (".npy", ".npz"),
    "hdf5": (".h5", ".hdf5"),
    "pt": (".pt", ".pth"),
    "safetensors": (".safetensors",),
    "parquet": (".parquet",),
    "lance": (".lance",),
}
FORMATS = ("clip-retrieval", *SUFFIXES)
BY_SLIDE = ("hdf5", "pt", "safetensors")  # a folder of these holds one file per slide
SLIDE_COLUMNS = ("slide", "slide_id")
CLIP_FOLDERS = {"image": "img_emb", "text": "text_emb"}


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors in files, with their samples.

    Attributes
    ----------
    format
        One of `FORMATS`.
    source
        The file or folder that was given.
    array
        Name of the array or column that holds the vectors; empty if it has no name, or not the same in all files.
    parts
        The files, in order.
    samples
        One row per vector, in the same order.
    """

    format: str
    source: Path
    array: str
    parts: Sequence[Part]
    samples: Manifest

    @property
    def shape(self) -> tuple[int, int]:
        """Number and length of the vectors."""
        return sum(part.n_rows for part in self.parts), self.parts[0].dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that the vectors are stored as: float16 if all files have it, else float32."""
        return np.dtype(np.float16 if all(part.dtype == np.float16 for part in self.parts) else np.float32)

    def digest(self) -> str:
        """Return the BLAKE2b-128 digest of the file, as 32 hex digits; for several files, of their digests in order."""
        digests = [_digest_of(file) for part in self.parts for file in part.files()]
        return (digests[0] if len(digests) == 1 else blake2b(b"".join(digests), digest_size=16).digest()).hex()

    def gather(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[Any]]:
        """Yield the rows for each array of row numbers, of shape ``(n, dim)``, in the files' own type.

        One file is open at a time.
        """
        starts = np.cumsum([0, *(part.n_rows for part in self.parts)])
        at, opened = -1, None
        for rows in batches:
            out = np.empty((len(rows), self.shape[1]), np.result_type(*(part.dtype for part in self.parts)))
            of_part = np.searchsorted(starts, rows, side="right") - 1
            for number in np.unique(of_part).tolist():
                if number != at or opened is None:
                    at, opened = number, reading(self.parts[number].path, self.parts[number].open)
                places = np.flatnonzero(of_part == number)
                local = rows[places] - starts[number]
                first, last = int(local.min()), int(local.max()) + 1
                out[places] = self.parts[number].rows(opened, first, last)[local - first]
            yield out

    def require_numbers(self, dtype: np.dtype[Any], progress: Callable[[int, int], None]) -> None:
        """Read all vectors once, and raise unless every number is finite, also after conversion to ``dtype``.

        Raises
        ------
        VectorsError
            The message gives row numbers, from 1, and ids.
        """
        n, bad, large = self.shape[0], [], []
        batches = [np.arange(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
        for rows, values in zip(batches, self.gather(batches), strict=True):
            finite = np.isfinite(values).all(1)
            bad += rows[~finite].tolist()
            with np.errstate(over="ignore"):
                fits = np.isfinite(values.astype(dtype)).all(1)
            large += rows[finite & ~fits].tolist()
            progress(int(rows[-1]) + 1, 0)
        if bad:
            raise VectorsError(
                f"{self.source}: NaN or infinite numbers in {self.named(bad)}. Leave these rows out, or compute them "
                "again."
            )
        if large:
            raise VectorsError(
                f"{self.source}: numbers too large for {dtype.name} in {self.named(large)}. Pass --dtype float32."
            )

    def named(self, rows: Sequence[int]) -> str:
        """List row numbers, from 1, with their ids."""
        ids = self.samples.table[self.samples.id]
        words = [f"{row + 1} ({ids[row]!r})" for row in rows[:SHOWN]]
        more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
        return f"row{'s' if len(rows) > 1 else ''} {', '.join(words)}{more}"


def modalities_of(source: Path) -> list[str]:
    """Return the modalities in a clip-retrieval folder; for any other source, images."""
    return [m for m, folder in CLIP_FOLDERS.items() if (source / folder).is_dir()] or ["image"]


def read_vectors(
    source: str | Path,
    modality: str,
    *,
    format: str = "auto",
    id: str | None = None,
    table: str | Path | None = None,
    vectors: str | None = None,
) -> Vectors:
    """Find the vectors of a source and their samples; no vector is read yet.

    Parameters
    ----------
    source
        A file or folder; see the top of this module.
    modality
        ``image`` or ``text``, which selects a folder of clip-retrieval.
    format
        One of `FORMATS`, or ``auto``.
    id
        Column of ids. Without it, ids are found or made as by `read_manifest`. For slides, ids are made from the slide
        and the position of the patch, and this is the table's column of slides, by default ``slide`` or ``slide_id``.
    table
        A table with one row per vector, in the same order; for slides, with one row per slide.
    vectors
        The array or column that holds the vectors, if a file has several.

    Raises
    ------
    VectorsError, VectorsNotFound, ManifestError, InputError
        Each with one line that says what, where and what to do.
    """
    source = Path(source)
    if not source.exists():
        siblings = [p.name for p in source.parent.iterdir()] if source.parent.is_dir() else []
        raise VectorsNotFound(f"vectors not found: {source}.{nearest(source.name, siblings)}")
    if not source.is_dir():
        require_own(source, source)
    kind = _format_of(source) if format == "auto" else format
    if kind not in FORMATS:
        raise InputError(f"--format {format!r}.{nearest(format, FORMATS)} There are: auto, {', '.join(FORMATS)}.")
    if kind == "clip-retrieval":
        found, columns = _clip_retrieval(source, modality)
        parts, array = found, ""
    else:
        parts, array = _parts_of(source, kind, vectors)
        columns = _joined([part.columns for part in parts])
    _require_one_width(parts)
    if kind in BY_SLIDE and (source.is_dir() or "slide" in columns.columns):
        samples = _of_slides(columns, source, table, id)
    else:
        samples = _of_rows(columns, source, table, id, sum(part.n_rows for part in parts))
    return Vectors(kind, source, array, parts, samples)


def _format_of(source: Path) -> str:
    """Recognise the format by a file's suffix, or by the files in a folder."""
    names = [source.name] if source.is_file() or source.suffix == ".lance" else [p.name for p in source.iterdir()]
    if source.is_dir() and any(folder in names for folder in CLIP_FOLDERS.values()):
        return "clip-retrieval"
    if "h5_files" in names:  # the layout of CLAM
        return "hdf5"
    suffixes = {Path(name).suffix.lower() for name in names}
    kinds = [kind for kind, known in SUFFIXES.items() if suffixes & set(known)]
    if len(kinds) == 1:
        return kinds[0]
    what = f"holds vectors in several formats ({', '.join(kinds)})" if kinds else "holds no vectors in a known format"
    raise VectorsError(f"{source}: {what}. Pass a file, or --format, one of {', '.join(FORMATS)}.")


def _parts_of(source: Path, kind: str, vectors: str | None) -> tuple[list[Part], str]:
    """Return the files of a source as parts, and the name of the array that holds the vectors."""
    if kind == "lance":
        for file in files_in(source):
            require_own(file, source)
        return [part := lance_part(source, vectors)], part.array
    folder = source / "h5_files" if kind == "hdf5" and (source / "h5_files").is_dir() else source
    files = [source] if source.is_file() else [p for p in _natural(folder) if p.suffix.lower() in SUFFIXES[kind]]
    if not files or any(p.suffix.lower() not in SUFFIXES[kind] for p in files):
        raise VectorsError(f"{source}: --format {kind} reads {' or '.join(SUFFIXES[kind])} files. Give such files.")
    for file in files:
        require_own(file, source)
    if kind == "parquet":
        parts = [parquet_part(file, vectors) for file in files]
    elif kind == "npy" and source.is_dir() and len(files) > 1:
        raise VectorsError(
            f"{source}: holds {len(files)} files of arrays ({listed([f.name for f in files])}). Pass one."
        )
    else:
        parts = [_array_part(file, vectors, by_slide=source.is_dir()) for file in files]
    names = {part.array for part in parts}
    return parts, parts[0].array if len(names) == 1 and source.suffix.lower() != ".npy" else ""


def _array_part(path: Path, asked: str | None, by_slide: bool) -> Part:
    """Return the vectors of a file of arrays, with its other columns and, for patches of a slide, their positions."""
    arrays = arrays_of(path)
    could = {n: n != "coords" and _is_vectors(a, by_slide) for n, a in arrays.items()}
    if asked is None and not any(could.values()):
        there = ", ".join(f"{n!r} ({a.dtype} {tuple(a.shape)})" for n, a in list(arrays.items())[:SHOWN]) or "nothing"
        raise VectorsError(
            f"{path}: there is no floating-point array of shape (n, d) or (1, n, d). There are: {there}. Pass "
            "--vectors NAME."
        )
    name = chosen(could, asked, path)
    held = arrays[name]
    ndim = len(held.shape)
    if (
        not (ndim == 2 or (ndim == 3 and held.shape[0] == 1) or (ndim == 1 and by_slide))
        or held.dtype.kind not in "fiu"
    ):
        raise VectorsError(
            f"{path}: {name!r} holds {held.dtype} {tuple(held.shape)}, not numbers of shape (n, d) or (1, n, d). "
            "Pass --vectors NAME."
        )
    n_rows, dim = (1, held.shape[0]) if ndim == 1 else held.shape[-2:]
    if not dim:
        raise VectorsError(f"{path}: {name!r} holds vectors of length 0. Pass --vectors NAME.")
    columns: dict[str, Any] = {}
    coords = arrays.get("coords")
    if by_slide or coords is not None:
        columns["slide"] = [path.stem] * n_rows
    if coords is not None and ndim > 1:
        columns |= _places_of(path, coords, n_rows)
    for other, values in arrays.items():
        if other not in (name, "coords", "slide") and len(values.shape) == 1 and values.shape[0] == n_rows and ndim > 1:
            columns[other.rpartition("/")[2]] = _column_of(path, values)
    if "ids" in columns:
        ids = columns.pop("ids")
        columns = {"id": ids, **columns}  # if both exist, "ids" is the other tool's own copy
    table = reading(path, lambda: pl.DataFrame(columns))
    return Part(path, name, n_rows, dim, held.dtype, ndim, lambda: arrays_of(path)[name], table)


def _places_of(path: Path, coords: Held, n_rows: int) -> dict[str, NDArray[Any]]:
    """Return the columns ``x`` and ``y`` of coordinates, of shape ``(n, 2)`` or ``(1, n, 2)``."""
    shape = coords.shape[1:] if len(coords.shape) == 3 and coords.shape[0] == 1 else coords.shape
    if len(shape) != 2 or shape[1] < 2 or coords.dtype.kind not in "fiu":
        raise VectorsError(
            f"{path}: 'coords' holds {coords.dtype} {tuple(coords.shape)}, not numbers of shape (n, 2). Write the file "
            "again."
        )
    if shape[0] != n_rows:
        raise VectorsError(f"{path}: there are {shape[0]:,} coords for {n_rows:,} vectors. Write the file again.")
    places = reading(path, lambda: np.asarray(coords[:]).reshape(shape))
    return {"x": places[:, 0], "y": places[:, 1]}


def _column_of(path: Path, values: Held) -> Any:
    """Return a column of a file, with bytes decoded to text."""

    def read() -> Any:
        found = np.asarray(values[:])
        if found.dtype.kind not in "OS":
            return found
        words = [word.decode() if isinstance(word, bytes) else word for word in found.tolist()]
        for word in words:
            str(word).encode()  # raises for an unpaired surrogate, which HDF5 text can hold
        return words

    return reading(path, read)


def _is_vectors(array: Held, by_slide: bool) -> bool:
    shape = array.shape
    square = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    return array.dtype.kind == "f" and (square or (by_slide and len(shape) == 1))


def _clip_retrieval(source: Path, modality: str) -> tuple[list[Part], pl.DataFrame]:
    """Return clip-retrieval's embeddings of a modality, and the metadata of each."""
    folder = source / CLIP_FOLDERS[modality]
    files = [p for p in _natural(folder) if p.suffix == ".npy"] if folder.is_dir() else []
    if not files:
        raise VectorsError(
            f"{folder}: there are no .npy files. Pass --modality {'text' if modality == 'image' else 'image'}."
        )
    for file in files:
        require_own(file, source)
    parts = [_array_part(file, None, by_slide=False) for file in files]
    about = (
        [p for p in _natural(source / "metadata") if p.suffix == ".parquet"] if (source / "metadata").is_dir() else []
    )
    if not about:
        return parts, pl.DataFrame()
    if len(about) != len(files):
        raise VectorsError(
            f"{source}: there are {len(files)} files of embeddings, but {len(about)} of metadata. Create both again."
        )
    for file in about:
        require_own(file, source)
        require_parquet_room(file)
    tables = [read_table(file) for file in about]
    for part, file, table in zip(parts, about, tables, strict=True):
        if part.n_rows != len(table):
            raise VectorsError(
                f"{file}: has {len(table):,} rows, but {part.path.name} has {part.n_rows:,} vectors. Create both again."
            )
    return parts, _joined(tables)


def _natural(folder: Path) -> list[Path]:
    """List a folder in natural order, ``img_emb_2`` before ``img_emb_10``."""
    names = [p for p in folder.iterdir() if not p.name.startswith(".")]
    return sorted(
        names, key=lambda p: [(word.zfill(20) if word.isdigit() else word) for word in re.split(r"(\d+)", p.name)]
    )


def _joined(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return (
        pl.concat([t for t in tables if t.width], how="diagonal_relaxed") if any(t.width for t in tables) else tables[0]
    )


def _require_one_width(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts:
        if part.dim != first.dim:
            raise VectorsError(
                f"{part.path}: has vectors of {part.dim} numbers, but {first.path.name} of {first.dim}. Import files "
                "of one encoder only."
            )
    if not first.dim or not any(part.n_rows for part in parts):
        raise VectorsError(f"{first.path}: holds no vectors.")


def _of_rows(columns: pl.DataFrame, source: Path, table: str | Path | None, id: str | None, n_rows: int) -> Manifest:
    """Return the samples of vectors, from a table with one row per vector."""
    path = source
    if table is not None:
        path = Path(table)
        columns = read_table(path, id)
        if len(columns) != n_rows:
            raise VectorsError(
                f"{path}: has {len(columns):,} rows, but {source} has {n_rows:,} vectors. Give a table in which row i "
                "belongs to vector i."
            )
    if not columns.width:
        columns = pl.DataFrame({"id": [str(row + 1) for row in range(n_rows)]})
    root = path if path.is_dir() and path.suffix != ".lance" else path.parent
    return as_manifest(columns, path, root.absolute(), id)


def _of_slides(columns: pl.DataFrame, source: Path, table: str | Path | None, id: str | None) -> Manifest:
    """Return patches as samples, with the columns of a table of slides."""
    if table is not None:
        rows = read_table(Path(table), id)
        id = id or next((column for column in SLIDE_COLUMNS if column in rows.columns), None)
        about = as_manifest(rows, Path(table), Path(table).parent, id)
        slides = columns["slide"].unique(maintain_order=True)
        unknown = slides.filter(~slides.is_in(about.ids)).to_list()
        if unknown:
            raise VectorsError(
                f"{table}: column {about.id!r} lacks {len(unknown)} of the {len(slides)} slides of {source}: "
                f"{listed(unknown)}. Add them, or pass --id COLUMN."
            )
        more = [c for c in about.table.columns if c != about.id and c not in columns.columns]
        of_slide = about.table.select(pl.col(about.id).alias("slide"), *more)
        columns = columns.join(of_slide, on="slide", how="left", maintain_order="left")
    there = all(column in columns.columns and columns[column].dtype.is_numeric() for column in ("x", "y"))
    place = [_place(x, y) for x, y in columns.select("x", "y").rows()] if there else [None] * len(columns)
    counts: dict[str, int] = {}
    ids = []
    for slide, at in zip(columns["slide"], place, strict=True):
        counts[slide] = counts.get(slide, 0) + 1
        ids.append(f"{slide}_{at if at is not None else counts[slide]}")
    if not there and max(counts.values()) == 1:  # one vector per slide
        ids = columns["slide"].to_list()
    made = pl.DataFrame({"id": ids}).hstack(columns.drop("id", strict=False))
    samples = as_manifest(made, source, source.absolute().parent, "id")
    return replace(samples, image=None, text=None)  # the table's images and texts belong to slides, not to patches


def _place(x: float | None, y: float | None) -> str | None:
    """Write a position, whole numbers without a decimal point."""
    return (
        None if x is None or y is None else "_".join(str(int(v)) if float(v).is_integer() else repr(v) for v in (x, y))
    )


def _digest_of(path: Path) -> bytes:
    with open_regular(path) as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).digest()  # type: ignore[arg-type]
