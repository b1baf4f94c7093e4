"""A store's samples as the page shows them: references, chosen columns, filters, and the search for similar ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from headwater._missing import is_missing
from headwater.embed import Content
from headwater.errors import ImageError, InputError, nearest
from headwater.samples.cases import Cases, Found
from headwater.samples.slide_maps import know_slide
from headwater.serve.batches import Batcher
from headwater.sources import read_image
from headwater.sources.reading import AS_DECLARED, Reading
from headwater.sources.slides import tile_at
from headwater.sources.steps import parse_steps, reading_of
from headwater.store import KEY_COLUMNS, STORED, Store

MOST_VALUES = 40  # distinct values of a column that one can filter by
SPARE = 64  # items searched beyond those wanted, so that filters seldom need another search
MASKS = 32  # filters whose samples are remembered
REFERENCE = 20  # letters of a reference
EXAMPLES = 12  # cases that the page offers to begin with
EMPTY = "(empty)"

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]


class CaseImage(Content):
    """The image of a stored case. Errors do not name its file: file names may hold patients' names or numbers."""

    def file(self) -> bytes:
        """Return the bytes of the file after checking that they match the key."""
        try:
            return super().file()
        except ImageError as error:
            raise ImageError("this case's image was moved, or changed since it was embedded.") from error

    def image(self, reading: Reading = AS_DECLARED) -> Image.Image:
        """Read the image, in mode RGB."""
        return read_image(self.file(), reading=reading)


class Wish(NamedTuple):
    """A search that waits for others to be done with it."""

    vector: Vector
    n_items: int


@dataclass(frozen=True, eq=False)
class Asked:
    """What is searched for.

    Attributes
    ----------
    vector : float64 array of shape (dim,)
    k
        How many samples.
    filters
        By column, the values that a sample may have.
    own
        The row of the sample that was asked with, which is not found.
    own_patient
        Leave out the patient of ``own``.
    one_per_patient
        Find each patient once.
    background
        Whether other searches go first.
    """

    vector: Vector
    k: int
    filters: Mapping[str, Sequence[str]]
    own: int | None = None
    own_patient: bool = True
    one_per_patient: bool = True
    background: bool = False


class Gallery:
    """A store's samples and the feature sets that may be searched; several threads may use it.

    Parameters
    ----------
    store
        An open store.
    features
        Feature sets to search in.
    show
        Columns that may be seen and filtered by.
    patient
        The column of patients, which is not shown.
    secret
        Without which nobody can tell the reference of an id.

    Raises
    ------
    InputError
        When a column or feature set does not exist.
    """

    def __init__(
        self, store: Store, features: Sequence[str], show: Sequence[str], patient: str | None, secret: bytes = b""
    ) -> None:
        self.store, self.show, self.patient, self._secret = store, tuple(show), patient, secret
        self.cases = {name: Cases(store, name) for name in features}
        first = next(iter(self.cases.values()))
        for option, column in (("--patient", patient), *(("--show", column) for column in show)):
            if column is not None:
                first.require_column(column, option)
        self.table, self.roles = first.table, first.roles
        self.patients = None if patient is None else _codes(self.table[patient])
        self._items: dict[str, NDArray[np.int64]] = {}
        self._masks: OrderedDict[tuple[Any, ...], Mask] = OrderedDict()
        self._search = {name: Batcher(self._searches(cases)) for name, cases in self.cases.items()}

    def __len__(self) -> int:
        return len(self.table)

    # Samples

    @cached_property
    def references(self) -> list[str]:
        """A short name for each sample, which tells nothing of it and stays the same when the store grows."""
        ids = self.table[self.roles.id].cast(pl.String).to_list()
        return [blake2b(id.encode(), digest_size=16, key=self._secret).hexdigest()[:REFERENCE] for id in ids]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each reference."""
        return {reference: row for row, reference in enumerate(self.references)}

    @cached_property
    def examples(self) -> list[int]:
        """Rows of a few samples to begin with, evenly spaced: each patient once, with images if any has one."""
        role, rows = self.roles.image, np.arange(len(self))
        if role is not None:
            there = self.table.select(
                (pl.col(role).is_not_null() & pl.col(KEY_COLUMNS["image"]).is_not_null()).alias("there")
            )["there"].to_numpy()
            rows = np.flatnonzero(there) if there.any() else rows
        if self.patients is not None:
            rows = rows[np.sort(np.unique(self.patients[rows], return_index=True)[1])]
        spaced = np.linspace(0, max(len(rows) - 1, 0), min(EXAMPLES, len(rows))).round().astype(int)
        return [int(row) for row in rows[spaced]]

    @cached_property
    def by_image(self) -> dict[str, int]:
        """The first row of each image, by its key in hexadecimal."""
        keys = self.table[KEY_COLUMNS["image"]].to_list()
        return {key: row for row, key in reversed(list(enumerate(keys))) if key is not None}

    def row_of(self, reference: str) -> int:
        """Return the row of a sample.

        Raises
        ------
        InputError
            When there is none of this reference.
        """
        row = self.rows.get(reference)
        if row is None:
            raise InputError("there is no such case in this store.")
        return row

    def shown(self, row: int) -> dict[str, Any]:
        """Return the chosen columns of a sample as plain JSON values."""
        values = self.table.select(pl.col(list(self.show)).slice(row, 1)).row(0, named=True) if self.show else {}
        return {name: _plain(value) for name, value in values.items()}

    def has_image(self, row: int) -> bool:
        """Whether a sample has an image."""
        role, key = self.roles.image, KEY_COLUMNS["image"]
        return role is not None and self.table[role][row] is not None and self.table[key][row] is not None

    def content(self, row: int) -> Content:
        """Return the image of a sample, which is checked against its digest when it is read.

        Raises
        ------
        InputError
            When it has none.
        """
        if not self.has_image(row):
            raise InputError("this case has no image.")
        path = Path(self.roles.root) / str(self.table[self.roles.image][row])  # type: ignore[index]
        if (tile := tile_at(path)) is not None:
            know_slide(self.store, tile.slide)
        return CaseImage(bytes.fromhex(self.table[KEY_COLUMNS["image"]][row]), path)

    def reading(self, name: str) -> Reading:
        """Return how files are read, as they were when they were embedded."""
        steps = parse_steps(self.cases[name].features.spec.preprocessing.get("steps", ()), named_by="the store")
        return reading_of(steps)

    def text(self, row: int) -> str | None:
        """Return the text of a sample."""
        role = self.roles.text
        return None if role is None or self.table[role][row] is None else str(self.table[role][row])

    def vector(self, name: str, row: int) -> Vector:
        """Return the stored feature of a sample.

        Raises
        ------
        InputError
            When it has none.
        """
        cases = self.cases[name]
        item = int(cases.items[row])
        if item < 0 or cases.features.status[item] != STORED:
            raise InputError(f"this case has no feature in {name}.")
        return np.asarray(cases.features.pooled[item], np.float64)

    # Filters

    @cached_property
    def filters(self) -> dict[str, dict[str, int]]:
        """The values of each shown column that has few, with how many samples have them, the most frequent first."""
        out = {}
        for name in self.show:
            words = _words(self.table[name])
            if words is None or words.n_unique() > MOST_VALUES:
                continue
            counts = words.value_counts(sort=True, name="n")
            out[name] = dict(zip(counts[name].to_list(), counts["n"].to_list(), strict=True))
        return out

    def allowed(self, filters: Mapping[str, Sequence[str]]) -> Mask | None:
        """Return which samples have the chosen values, of shape ``(n_samples,)``; None for all.

        Raises
        ------
        InputError
            When a column may not be filtered by, or no sample passes.
        """
        chosen = {name: tuple(sorted(values)) for name, values in filters.items() if values}
        if not chosen:
            return None
        key = tuple(sorted(chosen.items()))
        if (known := self._masks.get(key)) is not None:
            return known
        mask = np.ones(len(self.table), np.bool_)
        for name, values in chosen.items():
            if name not in self.filters:
                raise InputError(f"there is no filter {name!r}.{nearest(name, self.filters)}")
            words = _words(self.table[name])
            mask &= words.is_in(list(values)).to_numpy()  # type: ignore[union-attr]
        if not mask.any():
            raise InputError("no case passes these filters: take one of them away.")
        self._masks[key] = mask
        while len(self._masks) > MASKS:
            self._masks.popitem(last=False)
        return mask

    # Search

    def find(self, name: str, asked: Asked) -> Found:
        """Find the samples that are most similar; fewer than ``k`` only if no more may be found."""
        cases = self.cases[name]
        mask = self._mask(asked)
        few = mask is not None and mask.mean() < 0.5
        if not few:  # most items may be found: search together with other requests, then leave out
            once = asked.one_per_patient and self.patients is not None
            wanted = min(asked.k * (4 if once else 1) + SPARE, cases.features.n_items)
            scores, items = self._search[name](Wish(asked.vector, wanted), background=asked.background)
            found = self._of_items(cases, scores, items, mask, asked)
            if len(found.rows) >= asked.k or wanted == cases.features.n_items:
                return Found(found.rows[: asked.k], found.scores[: asked.k])
        column = self.patient if asked.one_per_patient else None
        return cases.find(asked.vector, asked.k, allowed=mask, without=asked.own, one_per=column)

    def _mask(self, asked: Asked) -> Mask | None:
        """Return which samples may be found."""
        mask = self.allowed(asked.filters)
        if asked.own is None or self.patients is None or not asked.own_patient or self.patients[asked.own] < 0:
            return mask
        others: Mask = self.patients != self.patients[asked.own]
        mask = others if mask is None else mask & others
        if not mask.any():
            raise InputError("no case of another patient passes these filters: take one of them away.")
        return mask

    def _of_items(
        self, cases: Cases, scores: NDArray[Any], items: NDArray[Any], mask: Mask | None, asked: Asked
    ) -> Found:
        """Return the samples of items, best first, without those that may not be found."""
        owners = self._owners(cases)
        first, stop = (np.searchsorted(owners, items, side) for side in ("left", "right"))
        parts = [cases.by_item[a:b] for a, b in zip(first.tolist(), stop.tolist(), strict=True)]
        rows = np.concatenate([*parts, cases.by_item[:0]])
        of_rows = np.repeat(scores, stop - first)
        order = np.lexsort((rows, -of_rows))
        rows, of_rows = rows[order], of_rows[order]
        keep = np.ones(len(rows), np.bool_) if mask is None else mask[rows]
        if asked.own is not None:
            keep &= rows != asked.own
        rows, of_rows = rows[keep], of_rows[keep]
        if asked.one_per_patient and self.patients is not None:
            codes = self.patients[rows]
            codes = np.where(codes < 0, -1 - np.arange(len(rows)), codes)
            _, first_of = np.unique(codes, return_index=True)
            kept = np.sort(first_of)
            rows, of_rows = rows[kept], of_rows[kept]
        return Found(rows, of_rows)

    def _owners(self, cases: Cases) -> NDArray[np.int64]:
        """Return the item of each sample in ``cases.by_item``, ascending."""
        name = cases.features.name
        if name not in self._items:
            self._items[name] = cases.items[cases.by_item]
        return self._items[name]

    @staticmethod
    def _searches(cases: Cases) -> Any:
        def searched(wishes: Sequence[Wish]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
            k = max(wish.n_items for wish in wishes)
            scores, items = cases.searcher.search(np.stack([wish.vector for wish in wishes]), k)
            out = []
            for of_wish, its in zip(scores, items, strict=True):
                real = its >= 0
                out.append((of_wish[real], its[real]))
            return out

        return searched

    def close(self) -> None:
        """End the threads that search."""
        for batcher in self._search.values():
            batcher.close()


def refined(vector: Vector, more: Sequence[Vector], less: Sequence[Vector]) -> Vector:
    """Return a query moved towards some vectors and away from others, as unit vectors.

    References
    ----------
    Rocchio, Relevance feedback in information retrieval, 1971.

    Examples
    --------
    >>> refined(np.array([2.0, 0.0]), [np.array([0.0, 1.0])], []).round(2)
    array([0.8, 0.6])
    """
    moved = _unit(vector)
    if more:
        moved = moved + MORE * np.mean([_unit(one) for one in more], axis=0)
    if less:
        moved = moved - LESS * np.mean([_unit(one) for one in less], axis=0)
    return _unit(moved)


MORE, LESS = 0.75, 0.25


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _codes(values: pl.Series) -> NDArray[np.int64]:
    """Return a number for each distinct value, -1 for missing ones."""
    words = values.cast(pl.String).str.strip_chars()
    distinct = {word: number for number, word in enumerate(words.unique().drop_nulls().to_list())}
    codes = [-1 if word is None or is_missing(word) else distinct[word] for word in words.to_list()]
    return np.array(codes, np.int64)


def _words(values: pl.Series) -> pl.Series | None:
    """Return a column as words; None if it holds lists or bytes."""
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        return None
    return values.cast(pl.String).str.strip_chars().fill_null(EMPTY).replace("", EMPTY)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
