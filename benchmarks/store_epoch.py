"""An epoch of token features in batches of 256, blocks shuffled, all in the page cache: ``torch_dataset`` against h5py,
Lance, zarr-python and a ``.pt`` file an item. Each reads the same rows in the same order.

python benchmarks/store_epoch.py [--items 5000] [--tokens 64] [--dim 768] [--repeats 3]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import lance
import numpy as np
import pyarrow as pa
import torch
import zarr
from _stores import NAME, make_store
from _timing import machine, medians, report

import headwater as hw
from headwater.store import BlockShuffle

BATCH = 256
Reader = Callable[[np.ndarray], torch.Tensor]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--items", type=int, default=5_000)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--dim", type=int, default=768)
    arguments.add_argument("--repeats", type=int, default=3)
    sizes = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder / "a.hw", sizes.items, 8, sizes.tokens, sizes.dim)
        tokens: Any = store.features(NAME).tokens
        dataset = hw.torch_dataset(store, NAME, tokens=True, batch_size=BATCH)
        order = BlockShuffle(np.arange(sizes.items) // tokens.chunk_rows, BATCH)
        others = {
            "h5py": in_h5(folder, tokens),
            "Lance": in_lance(folder, tokens),
            "zarr-python, an item a chunk": in_zarr(folder, tokens),
            ".pt files": in_files(folder, tokens),
        }

        def epoch(read: Reader) -> Callable[[], None]:
            def run() -> None:
                for rows in order.batches(0):
                    read(rows)

            return run

        def ours() -> None:
            for _ in dataset:
                pass

        rows = next(order.batches(0))
        assert np.array_equal(next(iter(dataset))["rows"], rows)
        for read in (lambda rows: next(iter(dataset))["values"], *others.values()):
            assert np.array_equal(read(rows).numpy().view(np.uint16), tokens[rows].view(np.uint16))
        times = medians({"store": ours, **{name: epoch(read) for name, read in others.items()}}, sizes.repeats)
        size = tokens.dtype.itemsize * int(np.prod(tokens.shape)) / 2**20
        print(f"{size:,.0f} MB, {size / times['store']:,.0f} MB/s from the store")
        for name in others:
            report(f"an epoch, {name}", times["store"], times[name], 20 if name == ".pt files" else 1)


def each(values: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield items with their numbers."""
    for number in range(len(values)):
        yield number, values[number]


def in_h5(folder: Path, values: Any) -> Reader:
    """One contiguous data set, read row by row into the batch: its own selection by a list of rows takes longer."""
    file = h5py.File(folder / "x.h5", "w")
    data = file.create_dataset("x", values.shape, values.dtype)
    for rows, block in values.blocks():
        data[rows] = block

    def read(rows: np.ndarray) -> torch.Tensor:
        out = np.empty((len(rows), *values.shape[1:]), values.dtype)
        for place, row in enumerate(rows.tolist()):
            data.read_direct(out, np.s_[row], np.s_[place])
        return torch.from_numpy(out)

    return read


def in_lance(folder: Path, values: Any) -> Reader:
    """A column of lists of a fixed length."""
    _, t, d = values.shape

    def batches() -> Iterator[pa.RecordBatch]:
        for _, block in values.blocks():
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), t * d)
            yield pa.record_batch({"v": column})

    schema = pa.schema({"v": pa.list_(pa.float16(), t * d)})
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(folder / "l.lance"))
    dataset = lance.dataset(str(folder / "l.lance"))

    def read(rows: np.ndarray) -> torch.Tensor:
        column = dataset.take(rows)["v"].combine_chunks()
        return torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).reshape(-1, t, d).copy())

    return read


def in_zarr(folder: Path, values: Any) -> Reader:
    """Chunks of one item, not compressed: what zarr-python reads fastest in this order."""
    shape = values.shape
    array = zarr.create_array(folder / "x.zarr", shape=shape, chunks=(1, *shape[1:]), dtype="float16", compressors=None)
    for rows, block in values.blocks():
        array[rows] = block

    def read(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.oindex[rows])

    return read


def in_files(folder: Path, values: Any) -> Reader:
    """One file an item."""
    (folder / "pt").mkdir()
    for number, item in each(values):
        torch.save(torch.from_numpy(item.copy()), folder / "pt" / f"{number}.pt")

    def read(rows: np.ndarray) -> torch.Tensor:
        return torch.stack([torch.load(folder / "pt" / f"{row}.pt", weights_only=True) for row in rows.tolist()])

    return read


if __name__ == "__main__":
    main()
