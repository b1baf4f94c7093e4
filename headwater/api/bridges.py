"""import: store vectors from another tool as features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._progress import Progress, counting, progress_to
from headwater._words import counted
from headwater.embed import content_key
from headwater.embed.items import keys_of_files
from headwater.errors import InputError, VectorsError, nearest
from headwater.sources import Vectors, modalities_of, read_vectors, require_utf8_names
from headwater.store import (
    KEY_COLUMNS,
    BlockResult,
    FeatureSpec,
    Modality,
    Roles,
    Store,
    check_name,
    create_store,
    find_store,
)

DTYPES = ("auto", "float16", "float32")
SAME = 0.999  # least cosine of two vectors of one content, as when a feature set grows
PAIRS = 4096  # pairs of such vectors compared at once
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Filled:
    """The result of an import into one feature set.

    Attributes
    ----------
    imported, kept
        Items stored by this import, and items stored before.
    by_content
        Samples whose key is the digest of their content; for the others it is made from the id.
    """

    imported: int
    kept: int
    by_content: int


class Imported(Store):
    """A store, and the result of an import into it.

    Attributes
    ----------
    n_vectors
        Number of samples with imported vectors; for ``prompts``, number of texts.
    results
        The result for each feature set.
    columns
        Columns added to the samples.
    """

    def __init__(self, path: Path, n_vectors: int, prompts: bool = False) -> None:
        super().__init__(path)
        self.n_vectors = n_vectors
        self.prompts = prompts
        self.results: dict[str, Filled] = {}
        self.columns: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        features = {name: asdict(done) for name, done in self.results.items()}
        return {"store": self.location, "n_vectors": self.n_vectors, "columns": self.columns, "features": features}

    def lines(self) -> list[str]:
        """Return the results in a few lines."""
        out = []
        for name, done in self.results.items():
            there = f", {done.kept:,} already stored" if done.kept else ""
            keys = f"; {done.by_content:,} identified by content" if done.by_content else "; identified by id"
            out.append(f"{name}: {counted(done.imported, 'item')} imported{there}{keys}")
        return [*out, f"{counted(self.n_vectors, 'prompt' if self.prompts else 'sample')}, in {self.location}"]


def import_features(
    source: str | Path,
    store: str | Path,
    *,
    name: str,
    modality: str | None = None,
    format: str = "auto",
    id: str | None = None,
    table: str | Path | None = None,
    vectors: str | None = None,
    dtype: str = "auto",
    prompts: bool = False,
    progress: Progress | bool | None = None,
) -> Imported:
    """Store vectors from another tool as features ``NAME/MODALITY``; the same call continues a stopped import.

    The first import creates the samples. Later imports, and imports into an embedded store, match samples by id and
    must have the same ids.

    Parameters
    ----------
    source
        A file or folder; see `headwater.sources.vectors`.
    store
        Path of the store, which need not exist yet.
    name
        Name of the features. ``NAME/image`` and ``NAME/text`` are taken as features of one dual encoder.
    modality
        ``image`` or ``text``. Default: the modalities in a clip-retrieval folder, else ``image``.
    format, id, table, vectors
        See `headwater.sources.read_vectors`.
    dtype
        Stored type; ``auto`` keeps float16 and float32, and converts everything else to float32.
    prompts
        The vectors belong to texts that are not samples, such as prompts of `zero_shot`; samples stay unchanged.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Raises
    ------
    VectorsError, ManifestError, InputError, StoreError, DiskError
        Each with one line that says what, where and what to do.
    """
    for option, value, allowed in (("--modality", modality, tuple(KEY_COLUMNS)), ("--dtype", dtype, DTYPES)):
        if value is not None and value not in allowed:
            raise InputError(f"{option} {value!r}.{nearest(value, allowed)} There are: {', '.join(allowed)}.")
    if prompts and modality != "text":
        raise InputError("--prompts goes with --modality text: only texts can be prompts.")
    folder = Path(source)
    require_utf8_names([str(path) for path in folder.iterdir()] if folder.is_dir() else [str(folder)], folder)
    found = find_store(store)
    wanted = cast("list[Modality]", [modality] if modality is not None else modalities_of(Path(source)))
    report = progress_to(progress)
    planned = []
    for each in wanted:
        check_name(f"{name}/{each}")
        read = read_vectors(source, each, format=format, id=id, table=table, vectors=vectors)
        planned.append(_planned(read, f"{name}/{each}", each, found, dtype, prompts, report))
    target = Imported(create_store(store).path, planned[0].vectors.shape[0], prompts)
    if not prompts:
        with target.changing():
            target.columns = _write_samples(target, planned)
    for plan in planned:
        target.results[plan.name] = _write_features(target, plan, report)
    return target


@dataclass(frozen=True, eq=False)
class _Plan:
    """Validated vectors, with the name and spec of their feature set and a key for each."""

    vectors: Vectors
    name: str
    spec: FeatureSpec
    keys: list[bytes]
    by_content: int


def _planned(
    vectors: Vectors, name: str, modality: Modality, store: Store | None, dtype: str, prompts: bool, progress: Progress
) -> _Plan:
    """Validate everything before vectors are stored; nothing is written."""
    kept = vectors.dtype if dtype == "auto" else np.dtype(dtype)
    settings = {"source": vectors.source.resolve().name} | ({"vectors": vectors.array} if vectors.array else {})
    spec = FeatureSpec(
        encoder=f"imported:{vectors.format}",
        modality=modality,
        weights=vectors.digest(),
        preprocessing=settings,
        dim=vectors.shape[1],
        dtype=kept.name,
    )
    samples = vectors.samples
    known: dict[str, str] = {}
    if store is not None:
        store.check_features(name, spec)
        if store.has_samples() and not prompts:
            _require_same_ids(store, vectors)
            ids = store.samples[store.roles.id].cast(pl.String)
            known = {
                i: key for i, key in zip(ids, store.samples[KEY_COLUMNS[modality]], strict=True) if key is not None
            }
    with counting(progress, f"read {name}", vectors.shape[0], unit="vectors") as update:
        vectors.require_numbers(kept, update)
    contents = _content_keys(vectors, modality, progress)
    if prompts and None in contents:
        raise VectorsError(
            f"{vectors.source}: no text in {vectors.named([contents.index(None)])}. Prompts are identified by their "
            "text: pass --table FILE with a column called text."
        )
    made = [content_key(f"imported:{i}".encode()) for i in samples.ids]
    keys = [
        bytes.fromhex(known[i]) if i in known else content or own
        for i, content, own in zip(samples.ids, contents, made, strict=True)
    ]
    _require_one_vector(vectors, keys)
    return _Plan(vectors, name, spec, keys, sum(key != own for key, own in zip(keys, made, strict=True)))


def _require_same_ids(store: Store, vectors: Vectors) -> None:
    """Raise `InputError`, naming some ids, unless vectors and store have the same samples."""
    there, here = store.samples[store.roles.id].cast(pl.String), pl.Series(vectors.samples.ids, dtype=pl.String)
    parts = []
    for words, ids in (
        ("only there", here.filter(~here.is_in(there.implode()))),
        ("only in the store", there.filter(~there.is_in(here.implode()))),
    ):
        if len(ids):
            parts.append(f"{len(ids):,} {words}, such as {', '.join(map(repr, ids.head(3).to_list()))}")
    if parts:
        raise InputError(
            f"{vectors.source}: ids differ from the samples of {store.location}: {'; '.join(parts)}. Pass --id COLUMN, "
            "import into another store, or pass --prompts for texts that are not samples."
        )


def _content_keys(vectors: Vectors, modality: Modality, progress: Progress) -> list[bytes | None]:
    """Return the key of each sample's content if available: from the export, its image file, or its text."""
    samples, column = vectors.samples, KEY_COLUMNS[modality]
    if column in samples.table.columns:
        written = samples.table[column].cast(pl.String).to_list()
        wrong = [row for row, key in enumerate(written) if key is not None and not _KEY.fullmatch(key)]
        if wrong:
            raise VectorsError(
                f"{vectors.source}: column {column!r} holds no digest of 32 hex digits in {vectors.named(wrong)}. "
                "headwater reserves this name for digests: rename the column."
            )
        return [None if key is None else bytes.fromhex(key) for key in written]
    if modality == "text":
        return [None if text is None else content_key(text.encode()) for text in samples.texts()]
    places = samples.image_places()
    there = [place for place in places.drop_nulls().unique().sort() if Path(place).is_file()]
    found, _ = keys_of_files(pl.Series(there, dtype=pl.String), None, progress, None)
    key_of = dict(zip(there, found.to_list(), strict=True))
    return [key_of.get(place) for place in places]


def _require_one_vector(vectors: Vectors, keys: Sequence[bytes]) -> None:
    """Raise unless rows with the same content have the same vector."""
    first: dict[bytes, int] = {}
    repeats = np.array(
        [(row, first[key]) for row, key in enumerate(keys) if first.setdefault(key, row) != row], np.int64
    )
    for start in range(0, len(repeats), PAIRS):
        pairs = repeats[start : start + PAIRS]
        one, other = (v.astype(np.float64) for v in vectors.gather([pairs[:, 0], pairs[:, 1]]))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        differ = ((one * other).sum(1) < SAME * lengths) | ((lengths == 0) & (one != other).any(1))
        if differ.any():
            row, before = pairs[int(np.flatnonzero(differ)[0])].tolist()
            raise VectorsError(
                f"{vectors.source}: the same content but different vectors in {vectors.named([before, row])}. Import "
                "vectors of one encoder only."
            )


def _write_samples(store: Store, plans: Sequence[_Plan]) -> list[str]:
    """Write the samples, or add keys and columns to existing ones; return the added columns."""
    manifest = plans[0].vectors.samples
    table = manifest.table.drop([c for c in KEY_COLUMNS.values() if c in manifest.table.columns])
    if store.has_samples():
        roles, before = store.roles, store.samples
        new = [c for c in table.columns if c != manifest.id and c not in before.columns]
        order = pl.DataFrame({"_id": before[roles.id].cast(pl.String)})
        rows = order.join(table.select(pl.col(manifest.id).alias("_id"), *new), on="_id", maintain_order="left")
        samples = before.hstack(rows.drop("_id"))
    else:
        before, new = None, table.columns
        roles = Roles(id=manifest.id, image=None, text=None, root=str(manifest.root))
        samples = table.with_columns(pl.lit(None, pl.String).alias(c) for c in KEY_COLUMNS.values())
    image, text, root = roles.image, roles.text, roles.root
    for plan in plans:
        column, of = KEY_COLUMNS[plan.spec.modality], plan.vectors.samples
        keys = dict(zip(of.ids, plan.keys, strict=True))
        hexed = [keys[i].hex() for i in samples[roles.id].cast(pl.String)]
        samples = samples.with_columns(pl.Series(column, hexed, dtype=pl.String))
        if plan.spec.modality == "text":
            text = text or of.text
        elif image is None and any(path is not None and path.is_file() for path in of.image_paths()):
            image, root = of.image, str(of.root)
    settled = Roles(id=roles.id, image=image, text=text, root=root)
    if before is None or settled != roles or not samples.equals(before):
        about = manifest.about if before is None else store.about.joined(manifest.about)
        store.write_samples(samples, settled, {} if before is None else store.unreadable, about)
    return new


def _write_features(store: Store, plan: _Plan, progress: Progress) -> Filled:
    """Write the missing items of a feature set, block by block."""
    first = {key: row for row, key in reversed(list(enumerate(plan.keys)))}
    rows: NDArray[np.int64] = np.sort(np.fromiter(first.values(), np.int64, len(first)))
    keys = np.frombuffer(b"".join(plan.keys[row] for row in rows.tolist()), np.uint8).reshape(-1, 16)
    features = store.require_features(plan.name, plan.spec, len(keys))
    done = 0
    with (
        features.writing() as writer,
        counting(progress, f"import {plan.name}", len(keys)) as update,
    ):
        tasks = writer.plan(keys)
        if tasks:
            made_by = {"headwater": version("headwater"), "source_file": str(plan.vectors.source.resolve())}
            writer.set_environment(made_by)
        row_of = np.empty(writer.features.n_items, np.int64)
        row_of[writer.features.rows_of(keys)] = rows
        batches = [row_of[task.rows] for task in tasks]
        read = zip(tasks, plan.vectors.gather(batches), strict=True)
        blocks = ((task, BlockResult(task.rows, values.astype(plan.spec.dtype))) for task, values in read)
        for task in writer.commit_all(blocks):
            done += len(task.rows)
            update(done, 0)
    return Filled(done, len(keys) - done, plan.by_content)
