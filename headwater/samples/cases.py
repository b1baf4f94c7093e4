"""The samples of a store by one feature set, to search again and again: filters, exclusions, one result a patient.

Items are searched, not samples: samples that share an image share its item. The samples that have an item found are
looked up afterwards, so that a single search reads neither every key nor every id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._devices import Device
from headwater._missing import is_missing
from headwater.errors import InputError, nearest
from headwater.retrieve.cosine import Mask, Rows, Scores
from headwater.retrieve.exact import search
from headwater.retrieve.searcher import Searcher, row_lengths
from headwater.store import (
    KEY_COLUMNS,
    Features,
    Store,
    hex_from_keys,
    keys_from_hex,
    read_derived,
    rows_where,
    sample_keys,
    write_derived,
)

if TYPE_CHECKING:
    from headwater.retrieve.index import VectorIndex

LENGTHS = "lengths"
LEAST_KEPT = 16_384
"""Fewest items whose lengths are kept in the store; those of fewer are computed as quickly as they are read."""
CHECKED = 64  # kept lengths that are compared with their rows
MORE = 8  # factor by which more items are searched, if too few samples of those found may be shown
MARGIN = 8  # items found beyond those wanted
SUGGEST_AMONG = 10_000  # ids and values searched for a suggestion, to limit the time


@dataclass(frozen=True)
class CaseFilter:
    """Which samples a search for similar cases may find.

    Attributes
    ----------
    where
        A boolean SQL expression: only these samples are found.
    exclude_same
        For a query that is a sample: leave out samples with the same value in this column, such as the patient.
    exclude
        ``COLUMN=VALUE``, one or several: leave out samples with this value.
    one_per
        A column, such as the patient: of samples with the same value, only the most similar one is found. Samples
        without a value count each for itself.
    """

    where: str | None = None
    exclude_same: str | None = None
    exclude: str | Sequence[str] | None = None
    one_per: str | None = None


class Found(NamedTuple):
    """Samples, best first: row numbers of the table, int64, and cosine similarities, float32, of shape ``(n,)``."""

    rows: Rows
    scores: Scores


class Cases:
    """Samples with the features of one feature set; several threads may search them at once.

    It holds the table and the features as they were when it was made.

    Parameters
    ----------
    store
        An open store.
    name
        The feature set, ``NAME/MODALITY``.

    Attributes
    ----------
    features, table, roles
        The feature set; the samples table; which columns hold ids, images and texts.

    Raises
    ------
    StoreNotFound, StoreError
        When there is no such feature set, or no samples.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.features: Features = store.features(name)
        self.table = store.samples
        self.roles = store.roles

    @cached_property
    def searcher(self) -> Searcher:
        """Exact search of the items, with their lengths from the store if these are there."""
        return searcher_of(self.store, self.features)

    @cached_property
    def items(self) -> Rows:
        """The item of each sample, int64, of shape ``(n_samples,)``; -1 for none."""
        keys = sample_keys(self.table, self.features.spec.modality)
        items = np.full(len(self.table), -1, np.int64)
        present = keys.is_not_null().to_numpy()
        items[present] = self.features.rows_of(keys_from_hex(keys.drop_nulls()))
        return items

    @cached_property
    def by_item(self) -> Rows:
        """The samples that have an item, sorted by item."""
        samples = np.flatnonzero(self.items >= 0)
        return samples[np.argsort(self.items[samples], kind="stable")]

    def row_of(self, id: str) -> int:
        """Return the row of a sample.

        Raises
        ------
        InputError
            When there is no such sample.
        """
        ids = self.table[self.roles.id].cast(str)
        row = ids.index_of(id)
        if row is None:
            raise InputError(f"--id: no sample {id!r}.{nearest(id, ids.head(SUGGEST_AMONG).to_list())}")
        return row

    def item_of(self, row: int) -> int:
        """Return the item of a sample, -1 for none, without looking up those of all others."""
        columns = list(KEY_COLUMNS.values())
        keys = self.table.select(pl.col(columns).slice(row, 1).cast(pl.String))
        key = sample_keys(keys, self.features.spec.modality)
        return -1 if key[0] is None else int(self.features.rows_of(keys_from_hex(key))[0])

    def require_column(self, column: str, option: str) -> pl.Series:
        """Return a column; raise an `InputError` that lists the columns if it does not exist."""
        if column not in self.table.columns:
            there = ", ".join(self.table.columns)
            raise InputError(f"{option}: no column {column!r}.{nearest(column, self.table.columns)} Columns: {there}.")
        return self.table[column]

    def allowed(
        self,
        *,
        where: str | None = None,
        same_as: tuple[str, int] | None = None,
        exclude: Sequence[str] = (),
    ) -> Mask | None:
        """Return which samples may be found, of shape ``(n_samples,)``; None for all.

        Parameters
        ----------
        where
            A boolean SQL expression that must be true.
        same_as
            A column and the row of a sample: samples with the same value are left out, unless it is missing.
        exclude
            ``COLUMN=VALUE``: samples with this value are left out.

        Raises
        ------
        InputError
            When a column or value does not exist, or ``where`` cannot be used or is true for no sample.
        """
        mask: Mask | None = None
        if where is not None:
            mask = np.zeros(len(self.table), np.bool_)
            mask[rows_where(self.table, where)] = True
            if not (self.items[mask] >= 0).any():
                self.store.read(self.features.name, where=where)  # says why these samples have no features
        others = [self._has(*_parted(word)) for word in exclude]
        if same_as is not None:
            column, row = same_as
            values = self.require_column(column, "--exclude-same")
            value = values[row]
            if value is not None and not is_missing(str(value)):
                others.append(~values.ne_missing(value).to_numpy())
        for one in others:
            mask = ~one if mask is None else mask & ~one
        return mask

    def _has(self, column: str, value: str) -> Mask:
        """Return which samples have a value, given as a word."""
        values = self.require_column(column, "--exclude")
        if values.dtype.is_nested() or values.dtype == pl.Binary:
            raise InputError(f"--exclude {column} holds {values.dtype}, but needs text or numbers.")
        words = values.cast(pl.String).str.strip_chars()
        found = (words == value.strip()).fill_null(False)
        if values.dtype.is_numeric() and re.fullmatch(r"[+-]?\d+(\.\d+)?", value.strip()):
            found |= (values == float(value)).fill_null(False)
        if not found.any():
            there = words.drop_nulls().unique().head(SUGGEST_AMONG).to_list()
            raise InputError(f"--exclude {column}={value}: no sample has this value.{nearest(value, there)}")
        return found.to_numpy()

    def find(
        self,
        query: NDArray[Any],
        k: int,
        *,
        allowed: Mask | None = None,
        without: int | None = None,
        one_per: str | None = None,
        index: VectorIndex | None = None,
        device: Device = "auto",
    ) -> Found:
        """Find the samples that are most similar to a query.

        Parameters
        ----------
        query : float array of shape (dim,)
        k
            Number of samples; fewer are found only if no more may be.
        allowed
            From `allowed`.
        without
            Row of a sample that is not to be found, such as the query itself.
        one_per
            A column: of the samples with the same value, only the best is found. A sample without a value counts for
            itself.
        index
            An index of the features, to search instead of all items.
        device
            Where all items are compared: ``cpu``, ``cuda`` or ``auto``.

        Returns
        -------
        Found
            In the order of the table among equally similar samples.
        """
        n_items = self.features.n_items
        if not n_items:
            return Found(np.arange(0), np.zeros(0, np.float32))
        quick = allowed is None and "items" not in vars(self)
        lookup: _ByKey | _ByItem = _ByKey(self, without) if quick else _ByItem(self, allowed, without)
        wanted = min(k + MARGIN, n_items)
        while True:
            scores, items = self._near(query, wanted, lookup.of_items, index, device)
            found = self._only_first(lookup.samples(items, scores), one_per)
            if len(items) < wanted or wanted == n_items:
                break
            if len(found.rows) >= k and found.scores[k - 1] > scores[-1]:
                break  # what was not found is less similar than the last that is wanted
            if isinstance(lookup, _ByKey):  # items that no sample has, for one, must not be found again
                lookup = _ByItem(self, allowed, without)
            wanted = min(MORE * wanted, n_items)
        return Found(found.rows[:k], found.scores[:k])

    def _near(
        self, query: NDArray[Any], wanted: int, mask: Mask | None, index: VectorIndex | None, device: Device
    ) -> tuple[Scores, Rows]:
        """Return the scores and the numbers of the best items."""
        if index is not None:
            scores, items = index.search(query[None], wanted, rows=mask, device="cpu")
        elif device == "cuda":
            scores, items = search(self.features.pooled, query[None], wanted, rows=mask, device=device)
        else:
            scores, items = self.searcher.search(query[None], wanted, rows=mask)
        real = items[0] >= 0
        return scores[0][real], items[0][real]

    def _only_first(self, found: Found, column: str | None) -> Found:
        """Keep the best sample of each value of a column."""
        if column is None:
            return found
        seen: set[str] = set()
        kept = []
        values = self.require_column(column, "--one-per").gather(found.rows).to_list()
        for place, value in enumerate(values):
            word = "" if value is None else str(value).strip()
            if is_missing(word):
                kept.append(place)
            elif word not in seen:
                seen.add(word)
                kept.append(place)
        return Found(found.rows[kept], found.scores[kept])


class _ByKey:
    """The samples of a few items, found by their keys; every item is searched."""

    of_items = None

    def __init__(self, cases: Cases, without: int | None) -> None:
        self._cases, self._without = cases, without

    def samples(self, items: Rows, scores: Scores) -> Found:
        """Return the samples that have the items, in order."""
        table, features = self._cases.table, self._cases.features
        if features.spec.modality not in KEY_COLUMNS:  # keys of pairs are computed
            return _ByItem(self._cases, None, self._without).samples(items, scores)
        keys = pl.Series(hex_from_keys(features.keys[items]), dtype=pl.String)
        column = table[KEY_COLUMNS[features.spec.modality]].cast(pl.String)
        rows = column.is_in(keys.implode()).arg_true().to_numpy().astype(np.int64)
        place = {key: number for number, key in enumerate(keys.to_list())}
        of_rows = scores[[place[key] for key in column.gather(rows).to_list()]]
        return _ordered(rows, of_rows, self._without)


class _ByItem:
    """The samples of items that may be found, sorted by item; only items of such samples are searched."""

    def __init__(self, cases: Cases, allowed: Mask | None, without: int | None) -> None:
        samples = cases.by_item
        if allowed is not None:
            samples = samples[allowed[samples]]
        if without is not None:
            samples = samples[samples != without]
        self._samples = samples
        self._owners = cases.items[samples]
        self.of_items = np.bincount(self._owners, minlength=cases.features.n_items) > 0

    def samples(self, items: Rows, scores: Scores) -> Found:
        """Return the samples that have the items, in order."""
        first, stop = (np.searchsorted(self._owners, items, side) for side in ("left", "right"))
        parts = [self._samples[a:b] for a, b in zip(first.tolist(), stop.tolist(), strict=True)]
        rows = np.concatenate([*parts, self._samples[:0]])
        return _ordered(rows, np.repeat(scores, stop - first), None)


def _ordered(rows: Rows, scores: Scores, without: int | None) -> Found:
    order = np.lexsort((rows, -scores))
    if without is not None:
        order = order[rows[order] != without]
    return Found(rows[order], scores[order])


def _parted(word: str) -> tuple[str, str]:
    column, sign, value = word.partition("=")
    if not sign or not column.strip():
        raise InputError(f"--exclude {word!r}: write COLUMN=VALUE, such as patient=p12.")
    return column.strip(), value


def searcher_of(store: Store, features: Features) -> Searcher:
    """Return a searcher of a feature set, whose lengths of rows are kept in the store.

    Kept lengths are used if they were computed from these features, match their checksum, and agree with a few rows
    that are drawn at random. Otherwise they are computed and, for many items, written again where the store can be
    written. They only choose candidates: the similarity of each row found is computed from the row.
    """
    X = features.pooled
    if features.n_items < LEAST_KEPT:
        return Searcher(X)
    path, fingerprint = store.derived_path(features.name, LENGTHS), features.fingerprint
    lengths = read_derived(path, fingerprint, features.n_items)
    if lengths is not None and _agree(lengths, features):
        return Searcher(X, lengths)
    searcher = Searcher(X)
    write_derived(path, fingerprint, searcher.lengths())
    return searcher


def _agree(lengths: NDArray[np.float32], features: Features) -> bool:
    rows = np.sort(np.random.default_rng().choice(features.n_items, CHECKED, replace=False))
    expected = row_lengths(np.asarray(features.pooled[rows]))
    fit = np.isfinite(lengths).all() and (lengths >= 0).all()
    return bool(fit) and np.allclose(lengths[rows], expected, rtol=1e-4, atol=0)
