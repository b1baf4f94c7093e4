"""A store: a table of samples, and the features of their images and texts."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._about import KEY, About
from headwater._reading import TABLE, matching, parse_json, parse_parquet
from headwater._schema import Count, Word, read_as
from headwater._shown import as_html
from headwater.errors import InputError, StoreBusy, StoreError, StoreNotFound, nearest
from headwater.store._files import (
    fetch_file,
    file_sizes,
    location,
    locked,
    make_folder,
    read_own,
    read_own_json,
    remove_file,
    remove_tree,
    remove_unfinished,
    require_own,
    sync,
    write_bytes,
    write_json,
)
from headwater.store.blocks import RaggedArray, SelectedRows, group_metadata, write_group_metadata
from headwater.store.derived import SUFFIX as DERIVED
from headwater.store.derived import is_whole
from headwater.store.features import Features
from headwater.store.file_index import NAME as FILES
from headwater.store.keys import KEY_COLUMNS, PARTS, keys_from_hex, sample_keys
from headwater.store.layout import FAILED, FOLDERS_ABOVE, STORED
from headwater.store.places import found_from, seen_from
from headwater.store.reader import FeatureReader, text_of
from headwater.store.remote import Remote, remote_of, store_folder
from headwater.store.spec import FeatureSpec
from headwater.store.summed import has_sum, read_summed, remove_summed, write_summed
from headwater.store.where import select_samples, with_defined

FORMAT = 1
OWN = ("store.json", "samples.parquet", "samples.sum.json", "files.parquet", "files.sum.json")
"""Files at the top level of a store."""
FOLDERS = ("features.zarr", "journal", "index")
BEING_COMPACTED = ".being-compacted"
"""Suffix of the name of a compacted copy of a feature set, until it replaces the original."""
OPEN_TRIES, OPEN_PAUSE_SECONDS = 40, 0.05
"""Tries to open a feature set that is being replaced, and the pause between them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Roles:
    """The columns of ids, images and texts in the samples table, and the absolute folder of relative image paths."""

    id: Word
    image: Word | None
    text: Word | None
    root: Word


N_SHOWN = 5  # rows of a table in a notebook


@dataclass(frozen=True, repr=False)
class Data:
    """Samples with their features, row by row.

    Attributes
    ----------
    inputs
        For each requested feature set, an array-like of ``n_samples`` rows, mapped, not loaded.
    table
        The samples' columns, in the same order.
    ids
        Ids of the samples, of shape ``(n_samples,)``.
    left_out
        Columns ``id`` and ``reason``: requested samples that have no features.
    present
        If samples may lack some inputs: for each input, which samples have it, bool, of shape ``(n_samples,)``.
    """

    inputs: Mapping[str, SelectedRows | RaggedArray]
    table: pl.DataFrame
    ids: NDArray[np.str_]
    left_out: pl.DataFrame
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __repr__(self) -> str:
        parts = [f"{name} {getattr(X, 'shape', (len(X), '…'))} {X.dtype}" for name, X in self.inputs.items()]
        left = f", {len(self.left_out):,} left out" if len(self.left_out) else ""
        return f"<Data: {len(self.ids):,} samples{left}; {', '.join(parts)}; {len(self.table.columns)} columns>"

    def _repr_html_(self) -> str:
        return as_html([repr(self)]) + self.table.head(N_SHOWN)._repr_html_()

    @property
    def X(self) -> SelectedRows | RaggedArray:
        """The only input.

        Raises
        ------
        InputError
            When several feature sets were read; use ``inputs`` then.
        """
        if len(self.inputs) != 1:
            raise InputError(f"several inputs were read ({', '.join(self.inputs)}). Use data.inputs[NAME].")
        return next(iter(self.inputs.values()))


class Store:
    """A store, in a folder or at a URL. Create one with `create_store`, open one with `open_store`.

    Attributes
    ----------
    path
        Folder of the store; for a store at a URL, the folder of its cache.
    defined
        SQL expressions that define further columns of samples, by their names; see `defining`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.defined: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    def _repr_html_(self) -> str:
        n = len(self.samples) if self.has_samples() else 0
        rows = [
            f"  {f.name}: {f.n_items:,} items of {f.spec.dim} {f.spec.dtype}, {f.spec.encoder.partition('?')[0]}"
            for f in self.every_features()
        ]
        return as_html([f"{self!r}: {n:,} samples", *rows])

    @property
    def location(self) -> str:
        """URL of the store, or its folder as it was given."""
        return location(self.path)

    @property
    def full_location(self) -> str:
        """URL of the store, or the absolute path of its folder."""
        return self.location if remote_of(self.path) else str(self.path.resolve())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock for changing the lists of samples and feature sets; samples are read again on next use."""
        self.require_own()
        with locked(self.path / ".lock"):
            for folder in (self.path, self._group, *matching(self._group, "*")):
                remove_unfinished(folder)
            if remote := remote_of(self.path):
                remote.update()
            self._forget_samples()
            yield

    def require_own(self) -> None:
        """Raise if a file or folder at the top level of the store is a symbolic link."""
        for name in (*OWN, *FOLDERS):
            require_own(self.path / name, 0)

    # Samples

    @property
    def samples(self) -> pl.DataFrame:
        """The samples table: all manifest columns, plus ``image_key`` and ``text_key`` (32 hex digits or null).

        Raises
        ------
        StoreError
            When it differs from its checksum, or cannot be read.
        """
        return self._table

    @cached_property
    def _table(self) -> pl.DataFrame:
        return with_defined(self._samples.table, self.defined) if self.defined else self._samples.table

    def defining(self, sql: Mapping[str, str]) -> Store:
        """Return the store with further columns of samples, each defined by an SQL expression over the others.

        Nothing is written. The expressions are checked as those of ``--where`` are, when the samples are read.

        Parameters
        ----------
        sql
            An expression for each name, such as ``{"covid": "finding LIKE '%COVID%'"}``.
        """
        if not sql:
            return self
        other = copy(self)
        other.__dict__.pop("_table", None)
        other.defined = {**self.defined, **sql}
        return other

    def with_texts(self, texts: pl.Series, keys: pl.Series) -> Store:
        """Return the store with other texts of its samples. Nothing is written.

        Parameters
        ----------
        texts, keys
            The text of each sample, in the column of texts, and its key (32 hex digits); null for a sample without one.
        """
        other = copy(self)
        other.__dict__.pop("_table", None)
        table = self._samples.table.with_columns(texts.alias(str(self.roles.text)), keys.alias(KEY_COLUMNS["text"]))
        other.__dict__["_samples"] = replace(self._samples, table=table)
        return other

    @property
    def roles(self) -> Roles:
        """The columns of ids, images and texts."""
        if isinstance(self._samples.roles, StoreError):
            raise self._samples.roles
        return self._samples.roles

    @property
    def unreadable(self) -> Mapping[str, str]:
        """By sample id, the reason why an image file could not be read and so has no key."""
        return self._samples.unreadable

    @property
    def about(self) -> About:
        """What is known of the samples' columns: which are outcomes, and which keep rows together."""
        return self._samples.about.of(self._samples.table.columns)

    @cached_property
    def _samples(self) -> _Samples:
        path = self._samples_path
        advice = "Embed the manifest again: this rewrites the table and keeps the stored features."
        try:
            table, words = parse_parquet(read_summed(path))
            for column in set(KEY_COLUMNS.values()) & set(table.columns):
                if table.schema[column] not in (pl.String, pl.Null):
                    raise ValueError(f"column {column!r} holds {table.schema[column]}")
        except FileNotFoundError as error:
            where = self.location
            raise StoreNotFound(f"{where}: no samples yet. Run: headwater embed MANIFEST {where}") from error
        except StoreError as error:
            raise StoreError(f"{error}. {advice}") from error
        except ValueError as error:
            raise StoreError(f"{location(path)}: cannot be read ({error}). {advice}") from error
        try:
            roles: Roles | StoreError = self._roles_in(table, words["headwater"])
            unreadable = read_as(dict[str, str], parse_json(words.get("unreadable", "{}")))
            about = About.from_json(words[KEY]) if KEY in words else About()
        except (KeyError, ValueError) as error:
            unreadable, about = {}, About()
            roles = StoreError(
                f"{location(path)} was written by another tool: it does not say which columns hold ids, images and "
                f"texts ({error}). {advice}"
            )
        return _Samples(table, roles, unreadable, about)

    def _roles_in(self, table: pl.DataFrame, words: str) -> Roles:
        roles = read_as(Roles, parse_json(words))
        for column in (roles.id, roles.image, roles.text, *KEY_COLUMNS.values()):
            if column is not None and column not in table.columns:
                raise ValueError(f"there is no column {column!r}")
        if table[roles.id].null_count():
            raise ValueError("ids are missing")
        return replace(roles, root=found_from(self.path, roles.root))

    @property
    def _samples_path(self) -> Path:
        return self.path / "samples.parquet"

    def has_samples(self) -> bool:
        """Whether a manifest was embedded into this store."""
        return self._samples_path.exists()

    def write_samples(
        self,
        table: pl.DataFrame,
        roles: Roles,
        unreadable: Mapping[str, str] | None = None,
        about: About | None = None,
    ) -> None:
        """Replace the samples table, atomically.

        Parameters
        ----------
        table
            One row per sample: all manifest columns, ``image_key`` and ``text_key``.
        roles
            The columns of ids, images and texts.
        unreadable
            By sample id, the reason why an image file could not be read.
        about
            What is known of the columns.
        """
        written = {**vars(roles), "root": seen_from(self.path, roles.root)}
        metadata = {"headwater": json.dumps(written), "unreadable": json.dumps(dict(unreadable or {}))}
        if about:
            metadata[KEY] = about.of(table.columns).to_json()
        data = io.BytesIO()  # in memory, since polars has no distinct error for a full disk
        table.write_parquet(data, metadata=metadata)
        write_summed(self._samples_path, data.getvalue())
        self._forget_samples()

    def read_samples_again(self) -> None:
        """Read the samples again on next use, since another process may have changed them."""
        if remote := remote_of(self.path):
            remote.update()
        self._forget_samples()

    def _forget_samples(self) -> None:
        self.__dict__.pop("_samples", None)
        self.__dict__.pop("_table", None)

    def select(self, where: str | None = None) -> pl.DataFrame:
        """Return the samples for which the boolean SQL expression ``where`` is true.

        Raises
        ------
        InputError
            When the expression cannot be used; the message lists the columns.
        """
        return select_samples(self.samples, where)

    # Features

    def feature_names(self) -> list[str]:
        """Return the names ``NAME/MODALITY`` of all feature sets, sorted."""
        found = (f"{path.parts[-3]}/{path.parts[-2]}" for path in matching(self._group, "*/*/zarr.json"))
        return sorted(name for name in found if _is_name(name))

    def features(self, name: str, *, mending: bool = False) -> Features:
        """Open the features ``NAME/MODALITY``; with ``mending``, even if their metadata are damaged.

        Raises
        ------
        StoreNotFound
            When there are no such features; the message lists the existing ones.
        StoreBusy
            When `replace_features` is replacing them, or was stopped before it finished.
        """
        for number in range(OPEN_TRIES):
            if number:
                time.sleep(OPEN_PAUSE_SECONDS)
                if remote := remote_of(self.path):
                    remote.update()
            names = self.feature_names()
            if name not in names and beside(name) not in names:
                there = ", ".join(names) or "none yet"
                raise StoreNotFound(f"{self.location}: no features {name!r}.{nearest(name, names)} There are: {there}.")
            with suppress(StoreNotFound, StoreBusy):  # replaced or removed since they were listed
                if name in names:
                    return Features(self._group / name, self._journal(name), name, mending=mending)
        raise StoreBusy(
            f"{self.location}: another process is compacting {name}. Wait for it to end; if it was stopped, run: "
            f"headwater gc {self.location} --yes"
        )

    def find_features(self, name: str) -> Features | None:
        """Open the features ``NAME/MODALITY``; return None if there are none, or another process just removed them."""
        if name not in self.feature_names():
            return None
        with suppress(StoreNotFound):
            return self.features(name)
        return None

    def every_features(self) -> Iterator[Features]:
        """Open all feature sets, one after the other; skip those that another process removes meanwhile."""
        for name in self.feature_names():
            if (features := self.find_features(name)) is not None:
                yield features

    def require_features(self, name: str, spec: FeatureSpec, n_items: int, *, alone: bool = True) -> Features:
        """Open the features ``name``, or create them; raise if they have another spec.

        ``alone`` says that only this process will write them.

        Raises
        ------
        InputError
            When ``name`` is not a valid name of features.
        SpecMismatch
            When the stored spec differs from ``spec``; the message names the fields.
        StoreBusy
            When another process is writing them.
        """
        check_name(name)
        with self.changing():
            self.check_features(name, spec, alone=alone)
            if name in self.feature_names():
                return self.features(name)
            parent = (self._group / name).parent
            require_own(parent, 1)
            for folder in (self._group, parent):  # the first is missing if creating the store was interrupted
                if not (folder / "zarr.json").exists():
                    write_group_metadata(folder, {})
            return Features.create(self._group / name, self._journal(name), name, spec, n_items)

    def remove_features(self, name: str, only_if: Callable[[FeatureReader], bool] = lambda features: True) -> None:
        """Remove a feature set; do nothing if another process has removed it meanwhile.

        If the removal is interrupted, the feature set no longer exists, and the next removal deletes the rest.

        Parameters
        ----------
        only_if
            Called with the feature set once no other process can change it or the samples; removal requires True.

        Raises
        ------
        StoreBusy
            When another process is writing it.
        """
        features = self.features(name)
        with self.changing(), ExitStack() as stack:
            if name not in self.feature_names():
                return
            writer = stack.enter_context(features.writing())
            if not only_if(writer.features):
                return
            remove_file(features.folder / "zarr.json")  # without this file the feature set does not exist
            remove_tree(features.folder)
            remove_file(features.journal.path)
            base, _, modality = name.partition("/")
            require_own(self.path / "index" / base, 1)
            for index in file_sizes(self.path / "index" / base):
                if index.name.startswith(f"{modality}."):
                    remove_file(index)

    def replace_features(self, name: str, by: str) -> None:
        """Replace one feature set, which may be missing, by another, which must be complete.

        The caller must hold the locks for writing both. After an interruption, the same call finishes the work.
        """
        source, target = self._group / by, self._group / name
        aside = target.with_name(f".{target.name}.old")
        for place in (source, target, self._journal(by), self._journal(name)):
            require_own(place, FOLDERS_ABOVE)
        with self.changing():
            make_folder(self._journal(name).parent)
            if remote := remote_of(self.path):
                self._copy_features(remote, name, by)
                return
            if target.exists() and source.exists():
                shutil.rmtree(aside, ignore_errors=True)
                target.replace(aside)  # from here on, only `by` is complete
                sync(target.parent)
            if source.exists():
                write_bytes(self._journal(name), read_own(self._journal(by), most=TABLE))
                make_folder(target.parent)
                source.replace(target)
                sync(target.parent)
            self._journal(by).unlink(missing_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            for folder in (source.parent, self._journal(by).parent):  # of a name that is no longer used
                if folder.exists() and not any(path.is_dir() or path.suffix == ".jsonl" for path in folder.iterdir()):
                    shutil.rmtree(folder)

    def _copy_features(self, remote: Remote, name: str, by: str) -> None:
        """Do the work of `replace_features` in a bucket, where objects cannot be moved.

        A feature set exists while its ``zarr.json`` exists. So the old set loses this file first, and the new one gets
        it last.
        """
        source, target = self._group / by, self._group / name
        if remote.has(source / "zarr.json"):
            remove_file(target / "zarr.json")
            remove_tree(target)
            write_bytes(self._journal(name), read_own(self._journal(by), most=TABLE))
            remote.copy_tree(source, target, last=source / "zarr.json")
            remove_file(source / "zarr.json")
        remove_tree(source)
        remove_file(self._journal(by))
        beside, own = self._journal(by).parent, self._journal(by).stem
        others = [path for path in file_sizes(beside) if path.suffix == ".jsonl" and path.stem != own]
        for folder in (source.parent, beside) if not others else ():  # of a name that is no longer used
            remove_tree(folder)

    def check_features(self, name: str, spec: FeatureSpec, *, alone: bool = True) -> None:
        """Raise the errors that `require_features` would raise, without changing anything."""
        check_name(name)
        features = self.find_features(name)
        if features is not None:
            features.spec.require_same(spec, f"{self.location}: {name}")
            if alone:
                with features.writing():
                    pass

    @property
    def _group(self) -> Path:
        return self.path / "features.zarr"

    def journal_of(self, name: str) -> Path:
        """Return the path of a feature set's journal."""
        return self._journal(name)

    def _journal(self, name: str) -> Path:
        return self.path / "journal" / f"{name}.jsonl"

    def read(
        self, *names: str, where: str | None = None, tokens: bool | Collection[str] = False, partial: bool = False
    ) -> Data:
        """Read features together with their samples.

        Parameters
        ----------
        names
            One or more feature sets, ``NAME/MODALITY``.
        where
            A boolean SQL expression over the manifest's columns, such as ``magnification = 200``.
        tokens
            Read token features instead of pooled ones: for all feature sets, or for the named ones.
        partial
            Return samples that have at least one of the feature sets, and say in ``present`` which; else only samples
            that have all. The row of a missing feature holds arbitrary values.

        Returns
        -------
        Data
            Its arrays are mapped: nothing is copied until rows are read.

        Raises
        ------
        InputError, StoreNotFound
            When ``where`` or a name cannot be used, or no sample has the features.
        """
        table = self.select(where)
        opened = {name: self.features(name) for name in names}
        reasons = {name: np.full(len(table), "", object) for name in names}
        rows = {name: self._rows(table, features, reasons[name]) for name, features in opened.items()}
        reason = np.full(len(table), "", object)
        for each in reasons.values():
            reason = np.where(reason == "", each, reason)
        there = np.stack([each == "" for each in reasons.values()])
        keep = there.any(0) if partial else there.all(0)
        ids = table[self.roles.id].to_numpy().astype(np.str_)
        left_out = pl.DataFrame({"id": ids[~keep], "reason": reason[~keep].astype(np.str_)})
        if not keep.any():
            raise InputError(f"{self.location}: no sample has {' and '.join(names)} (first sample: {reason[0]}).")
        inputs: dict[str, SelectedRows | RaggedArray] = {}
        for name, features in opened.items():
            array = (
                features.tokens if (name in tokens if isinstance(tokens, Collection) else tokens) else features.pooled
            )
            chosen = np.where(reasons[name] == "", rows[name], -1)[keep]
            if isinstance(array, RaggedArray):
                inputs[name] = array.select(chosen)
            else:
                inputs[name] = SelectedRows(array, np.maximum(chosen, 0))
        present = dict(zip(names, there[:, keep], strict=True)) if partial else {}
        return Data(inputs, table.filter(pl.Series(keep)), ids[keep], left_out, present)

    def _rows(self, table: pl.DataFrame, features: Features, reason: NDArray[Any]) -> NDArray[np.int64]:
        """Return each sample's row in ``features``; write into ``reason`` why a sample has none."""
        column = sample_keys(table, features.spec.modality)
        rows = np.full(len(table), -1, np.int64)
        present = column.is_not_null().to_numpy()
        rows[present] = features.rows_of(keys_from_hex(column.drop_nulls()))
        status = np.where(rows >= 0, features.status[rows] if features.n_items else 0, 0)
        for place in np.flatnonzero((status != STORED) & (reason == "")):
            if present[place] and status[place] == FAILED:
                reason[place] = features.failed[int(rows[place])]
            elif present[place]:
                reason[place] = f"not embedded yet in {features.name}"
            else:
                reason[place] = self._why_no_key(table, int(place), features)
        return rows

    def _why_no_key(self, table: pl.DataFrame, place: int, features: Features) -> str:
        """Say why a sample has no key: it has no image or text, its file cannot be read, or it was never embedded."""
        id = str(table[self.roles.id][place])
        for part in PARTS[features.spec.modality]:
            if table[KEY_COLUMNS[part]][place] is not None:
                continue
            role = self.roles.image if part == "image" else self.roles.text
            if role is None or not str(table[role][place] or "").strip():
                return f"no {part}"
            if part == "image" and id in self.unreadable:
                return self.unreadable[id]
        return f"not embedded yet in {features.name}"

    def verify(self) -> Iterator[str]:
        """Yield a line for everything in the store, except indexes, that differs from its checksum."""
        if remote := remote_of(self.path):
            remote.read_anew(self.path)
        self._forget_samples()
        self.require_own()
        yield from self.wrong_samples()
        yield from self._wrong_files()
        yield from (f"{location(path)} differs from its checksum: computed again" for path in self._wrong_derived())
        yield from (f"{location(path)} differs from what was written" for path in self._damaged_groups())
        for name in self.feature_names():
            try:
                features = self.find_features(name)
            except StoreBusy:
                raise
            except StoreError as error:
                yield text_of(error)
                continue
            if features is not None:  # else another process has removed it since it was listed
                yield from features.verify()

    def index_path(self, name: str, kind: str) -> Path:
        """Return the path of an index of features, of a kind such as ``hnsw``, whether or not it exists.

        Raises
        ------
        StoreError
            When a folder of the path is a symbolic link.
        """
        path = self.path / "index" / f"{name}.{kind}.faiss"
        require_own(path, FOLDERS_ABOVE)
        return path

    def derived_path(self, name: str, what: str) -> Path:
        """Return the path of numbers derived from features, such as their ``lengths``, whether or not it exists.

        Raises
        ------
        StoreError
            When a folder of the path is a symbolic link.
        """
        path = self.path / "index" / f"{name}.{what}{DERIVED}"
        require_own(path, FOLDERS_ABOVE)
        return path

    def indexes(self) -> list[Path]:
        """Return the files of all indexes; for a store at a URL, fetch them first."""
        found = {path.with_name(path.name.removesuffix(".json")) for path in file_sizes(self.path / "index")}
        found = {path for path in found if path.suffix == ".faiss" and path.name[0] != "."}
        for path in found:
            for each in index_files(path):
                fetch_file(each)
        return sorted(found)

    def unchecked(self) -> list[str]:
        """Return a line for everything that has no checksum because an earlier version of headwater wrote it."""
        found = [f"{name}" for name in ("samples.parquet", "files.parquet") if self._lacks_sum(name)]
        for name in self.feature_names():
            with suppress(StoreError):  # `verify` reports these
                found += self.features(name).unchecked
        return found

    def _lacks_sum(self, name: str) -> bool:
        return (self.path / name).exists() and not has_sum(self.path / name)

    def _wrong_files(self) -> Iterator[str]:
        """Yield a line if ``files.parquet``, the cache of file keys, is damaged."""
        try:
            read_summed(self.path / FILES)
        except FileNotFoundError:
            return
        except StoreError as error:
            yield f"{error}: files will be read again"

    def _wrong_derived(self) -> Iterator[Path]:
        """Yield each file of derived numbers that is damaged."""
        for path in sorted(matching(self.path / "index", f"*/*{DERIVED}")):
            if path.name[0] != "." and not is_whole(path):
                yield path

    def _damaged_groups(self) -> Iterator[Path]:
        """Yield each ``zarr.json`` of a group above feature sets that zarr could not open; attributes are ignored."""
        names = self.feature_names()  # without any, the store may not be fully created
        folders = {self._group, *((self._group / name).parent for name in names)} if names else set()
        for path in sorted(folder / "zarr.json" for folder in folders):
            try:
                found = read_own_json(path)
            except (OSError, ValueError):
                found = None
            if isinstance(found, dict) and {**found, "attributes": {}} == group_metadata({}):
                continue
            used = {self._group, *((self._group / name).parent for name in self.feature_names())}
            if path.parent in used:  # else another process has removed it meanwhile
                yield path

    def mend_files(self) -> Iterator[str]:
        """Remove what is damaged and only saves time, ``files.parquet`` and derived numbers; yield a line for each."""
        for line in list(self._wrong_files()):
            with self.changing():
                remove_summed(self.path / FILES)
            yield line
        for path in list(self._wrong_derived()):
            remove_file(path)
            yield f"{location(path)} removed: it was damaged, and is computed again"

    def mend_groups(self) -> Iterator[str]:
        """Rewrite damaged metadata of groups above feature sets; yield a line about each."""
        with self.changing():
            for path in list(self._damaged_groups()):
                write_group_metadata(path.parent, {})
                yield f"{location(path)}: metadata of the group rewritten"

    def wrong_samples(self) -> Iterator[str]:
        """Yield a line if the samples table is empty or damaged."""
        if not self.has_samples():
            return
        try:
            if len(self.samples) == 0:
                yield f"{self.location}: samples.parquet is empty"
            self.roles  # noqa: B018  (raises the right error)
        except StoreError as error:
            yield str(error)


@dataclass(frozen=True)
class _Samples:
    """The contents of ``samples.parquet``; if the roles cannot be read, ``roles`` is the error."""

    table: pl.DataFrame
    roles: Roles | StoreError
    unreadable: Mapping[str, str]
    about: About


def create_store(path: str | Path) -> Store:
    """Open the store at ``path``, a folder or a URL, or create an empty one.

    Raises
    ------
    StoreError
        When something else is there, or a store of a newer format.
    RemoteError
        When a bucket cannot be reached, or rejects a request.
    """
    found = find_store(path)
    if found is not None:
        return found
    folder = store_folder(path)
    make_folder(folder if folder.exists() else folder.resolve())  # the target of a link may be missing
    store = Store(folder)
    with store.changing():
        if not (folder / "store.json").exists():  # else another process has created it
            write_json(folder / "store.json", {"format": FORMAT})  # first: if the next step fails, it is done later
            write_group_metadata(folder / "features.zarr", {})
    return store


def find_store(path: str | Path) -> Store | None:
    """Open the store at ``path``, a folder or a URL; return None if there is none but one can be created.

    Raises
    ------
    StoreError
        When something else is there, or a store of a newer format.
    RemoteError
        When a bucket cannot be reached, or rejects a request.
    """
    folder = _up_to_date(path)
    if (folder / "store.json").exists():
        return _opened(folder)
    if remote_of(folder):
        return None
    if folder.is_dir() and all(p.name[0] == "." for p in folder.iterdir()):
        return None
    if (folder / "store.json").exists():  # another process has created it meanwhile
        return _opened(folder)
    if folder.exists():
        kind = "a folder with other files" if folder.is_dir() else "a file"
        raise StoreError(f"{folder} is {kind}, not a store. Give a path that does not exist yet.")
    above = next(place for place in folder.resolve().parents if place.exists())
    if not above.is_dir():
        raise StoreError(f"{folder} cannot be a store: {above} is a file, not a folder. Give another path.")
    return None


def open_store(path: str | Path) -> Store:
    """Open an existing store, in a folder or at a URL.

    Raises
    ------
    StoreNotFound
        When there is nothing at ``path``.
    StoreError
        When something else is there, or a store of a newer format.
    RemoteError
        When a bucket cannot be reached, or rejects a request.
    """
    return _opened(_up_to_date(path))


def _up_to_date(path: str | Path) -> Path:
    """Return the folder of a store; for a store at a URL, update its small cached files first."""
    folder = store_folder(path)
    if remote := remote_of(folder):
        remote.update()
    return folder


def _opened(folder: Path) -> Store:
    where = location(folder)
    try:
        version = read_as(Count, read_own_json(folder / "store.json")["format"])
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.exists() and remote_of(folder) is None and not _is_being_made(folder):
            if (folder / "store.json").exists():  # another process has created it meanwhile
                return _opened(folder)
            raise StoreError(f"{where} is not a headwater store (it has no store.json).") from error
        raise StoreNotFound(f"{where}: there is no store. Run: headwater embed MANIFEST {where}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{where}/store.json cannot be read ({error!r}). Restore it from a backup.") from error
    if version != FORMAT:
        raise StoreError(f"{where} has format {version}; this headwater reads format {FORMAT}. Upgrade headwater.")
    store = Store(folder)
    store.require_own()
    return store


def _is_being_made(folder: Path) -> bool:
    """Whether a folder is empty, or holds only the hidden files of a store that is being created, such as its lock."""
    return folder.is_dir() and all(path.name[0] == "." for path in folder.iterdir())


def index_files(path: Path) -> list[Path]:
    """Return the files of an index: its own, and the description and the marks of rows beside it."""
    return [path.with_name(path.name + end) for end in ("", ".json", ".marks")]


def beside(name: str) -> str:
    """Return the name of the feature set with which `replace_features` will replace ``name``.

    Examples
    --------
    >>> beside("clip/image")
    'clip.being-compacted/image'
    """
    base, _, modality = name.partition("/")
    return f"{base}{BEING_COMPACTED}/{modality}"


def check_name(name: str) -> None:
    """Raise `InputError` unless ``name`` is a valid name of features."""
    if not _is_name(name):
        raise InputError(
            f"{name!r} is not a name of features. Write NAME/image, NAME/text or NAME/pair, with NAME made of letters, "
            "digits, '.', '_' and '-'."
        )


def _is_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and parts[1] in PARTS and _NAME.fullmatch(parts[0]) is not None
