"""torch_dataset: stored features as a PyTorch data set, for custom training loops."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater._memory import keep_freed_memory
from headwater.errors import InputError
from headwater.samples.columns import full_column, require_column
from headwater.samples.label_sql import defined_labels
from headwater.samples.missing import MissingRule
from headwater.store import BlockShuffle, RaggedArray, Store, open_store


def torch_dataset(
    store: str | Path | Store,
    features: str,
    *,
    label: str | None = None,
    tokens: bool = False,
    where: str | None = None,
    batch_size: int = 256,
    window: int = 16,
    seed: int = 0,
) -> Any:
    """Return an iterable data set of batches, for ``DataLoader(dataset, batch_size=None, num_workers=...)``.

    Rows are shuffled within a window of ``window`` blocks. The blocks of the next window are read ahead, so about two
    windows should fit into memory. The batches of an epoch depend only on seed and epoch, not on the number of workers.

    Parameters
    ----------
    store, features
        A store, or its path, and a feature set, ``NAME/MODALITY``.
    label
        A column to return with each batch.
    tokens
        Read tokens instead of pooled features.
    where
        A boolean SQL expression over the manifest's columns.
    batch_size, window, seed
        Rows per batch, blocks shuffled together, and the seed of the order.

    Returns
    -------
    torch.utils.data.IterableDataset
        Yields dicts: ``rows``, int64, of shape ``(b,)``; ``values``, of shape ``(b, d)`` or ``(b, t, d)``; ``mask``,
        bool, of shape ``(b, t)``, for ragged tokens; and ``label``, a list, if a label was named.
        ``set_epoch(epoch, start)`` sets the epoch, and the batch to start from. ``table`` and ``ids`` are the samples
        that ``rows`` index.

    Raises
    ------
    InputError, StoreError
        When the column or feature set does not exist.
    """
    if batch_size < 1 or window < 1:
        raise InputError(f"batch_size ({batch_size}) and window ({window}) must be at least 1.")
    opened = store if isinstance(store, Store) else open_store(store)
    if label is not None:
        (label,), sql = defined_labels([label])
        opened = opened.defining(sql)
        require_column(opened, label, "label")
    data = opened.read(features, where=where, tokens=tokens)
    X: Any = data.inputs[features]
    ragged = isinstance(X, RaggedArray)
    chunks = X.values if ragged else X.array
    blocks = (X.offsets if ragged else X.index) // chunks.chunk_rows
    order = BlockShuffle(blocks, batch_size, window, seed)
    rule = MissingRule(labels=() if label is None else (label,))
    missing = rule.found(data.table)
    data = rule.applied(data)
    labels = None if label is None else full_column(data, label, "label", missing)
    torch = need("torch", "encoders")

    class Batches(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        """Batches of stored features, in an order determined by seed and epoch."""

        def __init__(self) -> None:
            self.ids, self.table = data.ids, data.table
            self.epoch = self.start = 0

        def set_epoch(self, epoch: int, start: int = 0) -> None:
            """Set the next epoch, and the batch to start from."""
            self.epoch, self.start = epoch, start

        def __len__(self) -> int:
            return order.n_batches - self.start

        def __iter__(self) -> Iterator[dict[str, Any]]:
            info = torch.utils.data.get_worker_info()
            worker, n_workers = (0, 1) if info is None else (info.id, info.num_workers)
            coming = deque(order.needed(self.epoch, self.start))
            number = self.start + (worker - self.start) % n_workers
            ahead = ThreadPoolExecutor(1)
            with keep_freed_memory():  # reuse the memory of the previous batch
                try:
                    for rows in order.batches(self.epoch, self.start, worker, n_workers):
                        while coming and coming[0][0] <= number:
                            ahead.submit(chunks.ask_for, coming.popleft()[1])
                        yield self.batch(rows)
                        number += n_workers
                finally:
                    ahead.shutdown(cancel_futures=True)

        def batch(self, rows: NDArray[np.int64]) -> dict[str, Any]:
            """Return the batch of some rows."""
            found: dict[str, Any] = {"rows": torch.from_numpy(rows)}
            if ragged:
                values, mask = X.padded(rows)
                found |= {"values": torch.from_numpy(values), "mask": torch.from_numpy(mask)}
            else:
                found["values"] = torch.from_numpy(X[rows])
            return found if labels is None else {**found, "label": labels[rows].tolist()}

    return Batches()
