"""samples: replace the table of samples of a store by another manifest, without running an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater._shown import Shown
from headwater._words import counted
from headwater.embed.items import SHOWN, items_of
from headwater.embed.known import known_of
from headwater.embed.plan import ManifestColumns
from headwater.embed.sample_table import Changes, plan_samples, refuse_own_keys
from headwater.errors import ManifestError
from headwater.store import (
    PARTS,
    STORED,
    FileIndex,
    Modality,
    Store,
    keys_from_hex,
    open_store,
    sample_keys,
    store_folder,
)


@dataclass(frozen=True, repr=False)
class ReplacedSamples(Shown):
    """What became of a store's samples.

    Attributes
    ----------
    store, manifest
        Both places.
    n_samples
        Rows of the new table.
    changes
        How the samples differ from the previous ones; None if there were none.
    missing
        For each feature set, the ids of samples that it holds nothing for.
    encoders
        For each feature set, the encoder that would fill it.
    unreadable
        By sample id, why an image cannot be read.
    """

    store: str
    manifest: str
    n_samples: int
    changes: Changes | None
    missing: Mapping[str, Sequence[str]] = field(repr=False)
    encoders: Mapping[str, str] = field(repr=False)
    unreadable: Mapping[str, str] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "changes": None if self.changes is None else asdict(self.changes)}

    def lines(self) -> list[str]:
        """Return what changed, and which samples have no features."""
        out = [] if self.changes is None else self.changes.lines()
        for name, ids in self.missing.items():
            if ids:
                some = ", ".join(map(repr, ids[:SHOWN])) + (", …" if len(ids) > SHOWN else "")
                out.append(f"{name}: {counted(len(ids), 'sample')} without features: {some}")
                places = f"{quote(self.manifest)} {quote(self.store)}"
                words = f"--encoder {quote(_named(self.encoders[name]))} --name {quote(name.rpartition('/')[0])}"
                out.append(f"  headwater embed {places} {words} adds them")
        out += [f"  {id}: {why}" for id, why in list(self.unreadable.items())[:SHOWN]]
        return [*out, f"{counted(self.n_samples, 'sample')}, in {self.store}"]


def _named(spec: str) -> str:
    """Return what ``--encoder`` takes for a spec: the name of a known encoder, which stands for its pooling too."""
    known = known_of(spec)
    return spec if known is None else known.name


def samples(
    store: str | Path | Store,
    manifest: str | Path,
    *,
    columns: ManifestColumns | None = None,
    workers: int | None = None,
    rehash: bool = False,
    progress: Progress | bool | None = None,
    **options: Any,
) -> ReplacedSamples:
    """Replace a store's table of samples by a manifest; the stored features stay as they are, and no encoder runs.

    Use it for new labels, new groups, or fewer rows. Samples find their features by content: files that look unchanged
    since they were embedded are not read again, others are. `embed` does the same, and encodes what is new.

    Parameters
    ----------
    store
        A store, or its path.
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder of images.
    columns
        The roles of the manifest's columns.
    workers
        Threads that read files. Default: one per core.
    rehash
        Read files again that look unchanged.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.ManifestColumns` by its name.

    Returns
    -------
    ReplacedSamples

    Raises
    ------
    ManifestError, StoreError, InputError
        Each with one line that says what, where and what to do. A manifest none of whose samples has features in the
        store is refused.
    """
    columns = with_options("samples", options, columns or ManifestColumns())
    report = progress_to(progress)
    opened = store if isinstance(store, Store) else open_store(store)
    opened.require_own()
    table = columns.read(manifest)
    refuse_own_keys(table, manifest, opened)
    sets = {name: opened.features(name) for name in opened.feature_names()}
    read = {part for one in sets.values() for part in PARTS.get(one.spec.modality, (one.spec.modality,))}
    has: dict[Modality, str | None] = {"image": table.image, "text": table.text}
    index = FileIndex(store_folder(opened.location))
    wanted = [part for part, column in has.items() if column is not None and (part in read or not sets)]
    items = {part: items_of(table, part, workers, "skip", report, None if rehash else index) for part in wanted}
    planned = plan_samples(opened, table, items)
    missing: dict[str, list[str]] = {}
    for name, one in sets.items():
        keys = sample_keys(planned.samples, one.spec.modality)
        there = keys.is_not_null().to_numpy()
        rows = np.full(len(keys), -1, np.int64)
        rows[there] = one.rows_of(keys_from_hex(keys.drop_nulls()))
        stored = (rows >= 0) & (np.append(one.status, 0)[rows] == STORED)
        missing[name] = planned.samples[table.id].filter(~stored).to_list()
    if sets and all(len(ids) == table.n_samples for ids in missing.values()):
        raise ManifestError(
            f"{manifest}: none of its {counted(table.n_samples, 'sample')} has features in {opened.location}. Embed "
            "it, or give the manifest of this store."
        )
    with opened.changing():
        planned = plan_samples(opened, table, items)  # again: another process may have written since
        opened.write_samples(planned.samples, planned.roles, planned.unreadable, planned.about)
        index.save()
    encoders = {name: one.spec.encoder for name, one in sets.items()}
    place = opened.location
    return ReplacedSamples(
        place, str(manifest), table.n_samples, planned.changes, missing, encoders, planned.unreadable
    )
