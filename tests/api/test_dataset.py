"""Stored features as a data set of PyTorch."""

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import InputError
from headwater.store import BlockShuffle

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny, picture):
    """Return a store of 150 images and texts with tokens."""
    folder = tmp_path_factory.mktemp("dataset")
    rows = [{"id": str(i), "image": f"{i}.png", "text": "a gland" + " mass" * (i % 7) + f" {i}"} for i in range(150)]
    for i, row in enumerate(rows):
        picture(folder / f"{i}.png", i, (24, 20))
        row["label"] = "xy"[i % 2]
    pl.DataFrame(rows).write_csv(folder / "m.csv")
    options = {"encoder": tiny("hf-clip").spec, "tokens": "all", "device": "cpu", "precision": "fp32"}
    hw.embed(folder / "m.csv", folder / "a.hw", name="small", tokens_dtype="int8", **options)
    return hw.embed(folder / "m.csv", folder / "a.hw", name="c", **options)


def epoch(dataset, number, start=0, workers=0):
    dataset.set_epoch(number, start)
    return list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers))


def rows_of(batches):
    return torch.cat([batch["rows"] for batch in batches])


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("c/image", False), ("c/image", True), ("c/text", True), ("small/image", True), ("small/text", True)],
)
def test_batches_hold_what_is_stored(store, name, tokens):
    """Each row comes once an epoch, with its values, its mask and its label."""
    dataset = hw.torch_dataset(store, name, tokens=tokens, label="label", batch_size=32, window=2)
    data = store.read(name, tokens=tokens)
    batches = epoch(dataset, 0)
    assert len(batches) == len(dataset) == 5
    assert sorted(rows_of(batches).tolist()) == list(range(150))
    for batch in batches:
        for i, row in enumerate(batch["rows"].tolist()):
            values = batch["values"][i].numpy()
            if "mask" in batch:
                values = values[batch["mask"][i].numpy()]
            np.testing.assert_array_equal(values, np.asarray(data.inputs[name][row]))
            assert batch["label"][i] == data.table["label"][row]


def test_an_epoch_depends_on_seed_and_number_alone(store):
    """The same epoch comes again, from any batch on, by any number of workers; another is in another order."""
    dataset = hw.torch_dataset(store, "c/image", batch_size=16, seed=3)
    first = rows_of(epoch(dataset, 0))
    assert torch.equal(rows_of(epoch(dataset, 0)), first)
    assert torch.equal(rows_of(epoch(dataset, 0, start=4)), first[64:])
    assert torch.equal(rows_of(epoch(dataset, 0, workers=2)), first)
    assert not torch.equal(rows_of(epoch(dataset, 1)), first)


def test_rows_are_mixed_within_a_window_of_blocks():
    """A batch reaches over no more blocks than the window, and rows of a window are mixed."""
    blocks = np.repeat(np.arange(32), 64)
    order = BlockShuffle(blocks, batch_size=64, window=4, seed=0)
    for i, rows in enumerate(order.batches(epoch=0)):
        assert len(np.unique(blocks[rows])) <= 4, i
        assert (np.diff(rows) != 1).mean() > 0.9
    assert order.n_batches == 32


def test_settings_that_cannot_be_are_refused(store):
    """No batch is empty, and a column must be there."""
    with pytest.raises(InputError, match="at least 1"):
        hw.torch_dataset(store, "c/image", batch_size=0)
    with pytest.raises(InputError, match="Did you mean 'label'"):
        hw.torch_dataset(store, "c/image", label="labl")


def test_blocks_are_asked_for_before_they_are_used():
    """Whatever batch an epoch is taken up at, each block that is used from there on was asked for by then."""
    blocks = np.repeat(np.arange(10), 7)
    order = BlockShuffle(blocks, batch_size=4, window=3, seed=1)
    for start in range(order.n_batches):
        needed = order.needed(epoch=2, start=start)
        assert [batch for batch, _ in needed] == sorted(batch for batch, _ in needed)
        by = {block: batch for batch, block in needed}
        for number, rows in enumerate(order.batches(2, start), start):
            assert all(by[block] <= number for block in blocks[rows].tolist())
    assert [batch for batch, _ in order.needed(epoch=2)][:6] == [0, 0, 0, 0, 1, 3]
