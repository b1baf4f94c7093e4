"""One encoder's features of one modality: reading, checking and writing.

Each step of a write is durable before the next begins. A plan grows the arrays, writes the keys, then adds a line to
the journal. A block writes its chunks, its chunk of ``status``, then a line in the journal. After a crash, data are
therefore either recorded in the journal and complete, or not recorded and written again.

For the files on disk, see `headwater.store.layout`; for the locks of writers, `headwater.store.locks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from headwater._reading import matching
from headwater.store._files import make_folder, remove_file, remove_unfinished, require_own
from headwater.store.blocks import write_array_metadata, write_group_metadata
from headwater.store.check import Damage, damages
from headwater.store.journal import Journal, Layout, PlanLine
from headwater.store.keys import KEY_BYTES
from headwater.store.layout import FOLDERS_ABOVE, KEY_CHUNK, block_rows, layout_sum, spec_sum, token_arrays
from headwater.store.reader import FeatureReader
from headwater.store.remote import remote_of
from headwater.store.spec import FeatureSpec
from headwater.store.writer import FeatureWriter


class Features(FeatureReader):
    """A feature set of a store: `FeatureReader` reads it; this class creates, checks and writes it.

    Open one with ``Store.features``.
    """

    @classmethod
    def create(cls, folder: Path, journal: Path, name: str, spec: FeatureSpec, n_items: int) -> Features:
        """Create an empty feature set, with a block size chosen for ``n_items``.

        An existing journal belongs to deleted features, so it is removed.
        """
        for place in (folder, journal):
            require_own(place, FOLDERS_ABOVE)
        make_folder(journal.parent)
        remove_file(journal)
        rows = block_rows(spec, n_items)
        layout = Layout(spec=spec.to_dict(), block_rows=rows)
        write_array_metadata(folder, "keys", (0, KEY_BYTES), KEY_CHUNK, np.dtype(np.uint8))
        write_array_metadata(folder, "status", (0,), rows, np.dtype(np.uint8))
        write_array_metadata(folder, "pooled", (0, spec.dim), rows, np.dtype(spec.dtype))
        if spec.ragged:
            write_group_metadata(folder / "tokens", {})
            for part in ("offsets", "lengths"):
                write_array_metadata(folder, f"tokens/{part}", (0,), KEY_CHUNK, np.dtype(np.int64))
        elif spec.has_tokens:
            for part, shape, dtype in token_arrays(spec, 0):
                write_array_metadata(folder, part, shape, rows, dtype)
        sums = {"spec": spec_sum(layout.spec), "layout": layout_sum(rows)}
        Journal(journal).append(PlanLine(items=0, sums=sums, layout=layout))
        write_group_metadata(folder, spec.to_dict())  # last: a feature set without it does not exist
        return cls(folder, journal, name)

    # Checking

    def verify(self) -> Iterator[str]:
        """Compare everything with the journal's checksums; yield a line for each difference."""
        for damage in self.damages():
            yield damage.text

    def damages(self) -> Iterator[Damage]:
        """Compare everything with the journal; see `headwater.store.check.damages`."""
        return damages(self)

    # Writing

    @contextmanager
    def writing(self) -> Iterator[FeatureWriter]:
        """Lock this feature set for writing by this process alone.

        Raises
        ------
        StoreBusy
            When another process holds it; the message names its host and process.
        """
        with self.rights.alone():
            if (self.folder / "zarr.json").exists():  # else another process may be creating it again
                for metadata in matching(self.folder, "**/zarr.json"):
                    remove_unfinished(metadata.parent)
            yield FeatureWriter(self.refresh())

    @contextmanager
    def sharing(self, part: str) -> Iterator[tuple[FeatureWriter, AbstractContextManager[None]]]:
        """Write one shard of this feature set, while other processes write other shards with other blocks.

        Yields a writer, and a lock to hold while rows are assigned to items.

        Parameters
        ----------
        part
            The shard that this process writes, such as ``0-of-8``.

        Raises
        ------
        StoreBusy
            When a process writes without shards, writes the same shard, or uses another number of shards.
        """
        with self.rights.of_part(part):
            yield FeatureWriter(self.opened_again(shared=True)), self.rights.to_plan()

    @contextmanager
    def helping(self, right: str, block: int) -> Iterator[None]:
        """Write a block on behalf of the process that holds the lock, while it holds it; that process adds the line.

        At a URL, this first reads the versions of the block's objects, then checks the lock before each write. If
        another process has taken over the lock and written the block, the write is therefore rejected.

        Parameters
        ----------
        right
            The ``word`` of that process's `rights`.

        Raises
        ------
        StoreBusy
            When that process has lost the lock, or another process has written the block meanwhile.
        """
        if remote := remote_of(self.folder):
            remote.look_again(*self._paths_of(block))
        with self.rights.borrowed(right):
            yield

    def _paths_of(self, block: int) -> list[Path]:
        """Return the files of a block and of its status."""
        paths = [array.chunk_path(block) for array in (self.pooled, self.status_chunks)]
        if self.spec.has_tokens:
            chunks = self.token_chunks(block, self.token_chunk_rows()) if self.spec.ragged else [block]
            paths += [array.chunk_path(chunk) for array in self.token_parts.values() for chunk in chunks]
        return paths
