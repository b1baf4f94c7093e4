"""Tokens as bfloat16: the range of float32, rounded as torch rounds, in two bytes that any zarr reader can open."""

import json

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SpecMismatch
from headwater.store import Bfloat16Array, BlockResult, FeatureSpec, create_store, mend, open_store, to_bfloat16
from headwater.store.bfloat16 import LARGEST, to_float32

DIM, TOKEN_DIM, N_TOKENS, N = 4, 16, 5, 200


def spec(ragged=False):
    made = FeatureSpec(
        encoder="stub:4",
        modality="image",
        dim=DIM,
        tokens="all",
        n_tokens=None if ragged else N_TOKENS,
        token_dim=TOKEN_DIM,
    )
    return made.with_tokens_as("bfloat16")


def keys_of(n):
    return np.stack([np.frombuffer((i * 2654435761 + 1).to_bytes(16, "little"), np.uint8) for i in range(n)])


def tokens_of(row, n=N_TOKENS):
    """Numbers far beyond float16's among them."""
    return np.random.default_rng(row).standard_normal((n, TOKEN_DIM)).astype(np.float32) * 10.0 ** (row % 9 - 2)


def rounded(tokens):
    return torch.from_numpy(tokens).to(torch.bfloat16).float().numpy()


def fill(features, n, order=1, failed=()):
    """Store items whose tokens are a function of the row."""
    with features.writing() as writer:
        ragged = writer.features.spec.ragged
        for task in writer.plan(keys_of(n), np.arange(n) % 4 if ragged else None)[::order]:
            tokens = [tokens_of(r, r % 4 if ragged else N_TOKENS) for r in task.rows.tolist()]
            why = {r: "truncated image" for r in task.rows.tolist() if r in failed}
            pooled = np.zeros((len(task.rows), DIM), np.float16)
            writer.commit(task, BlockResult(task.rows, pooled, tokens if ragged else np.stack(tokens), why))
    return features.refresh()


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "a.hw")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=1, max_size=40))
def test_numbers_are_rounded_as_torch_rounds_them(numbers):
    """To the nearest, ties to even, over the whole range; and what came back is stored as the same bits."""
    exact = np.array(numbers, np.float32)
    bits = to_bfloat16(exact)
    assert bits.dtype == np.uint16
    assert np.array_equal(to_float32(bits), rounded(exact))
    assert np.array_equal(to_bfloat16(to_float32(bits)), bits)


def test_every_bfloat16_comes_back():
    """Each of the 65,536: infinities as they are, what is no number as none."""
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    numbers = to_float32(bits)
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(numbers, expected, equal_nan=True)
    again = to_bfloat16(numbers)
    there = ~np.isnan(numbers)
    assert np.array_equal(again[there], bits[there])
    assert np.isnan(to_float32(again[~there])).all()
    assert to_bfloat16(np.empty((0, 3, 8), np.float32)).shape == (0, 3, 8)


@pytest.mark.parametrize("ragged", [False, True])
def test_stored_tokens_read_back(store, ragged):
    """By row, by slice, by blocks and as a whole; not a number where an item failed."""
    features = fill(store.require_features("f/image", spec(ragged), N), N, failed={7})
    for row in (0, 1, 63, 64, 130, 199):
        found = features.tokens[row]
        assert found.dtype == np.float32
        assert np.array_equal(found, rounded(tokens_of(row, row % 4 if ragged else N_TOKENS)))
    assert np.isnan(features.tokens[7]).all()
    assert list(features.verify()) == []
    if ragged:
        padded, there = features.tokens.padded([3, 7, 2])
        assert np.array_equal(padded[2][:2], features.tokens[2])
        assert there.sum(1).tolist() == [3, 3, 2]
        return
    assert isinstance(features.tokens, Bfloat16Array)
    assert features.tokens.shape == (N, N_TOKENS, TOKEN_DIM)
    whole = np.asarray(features.tokens)
    assert np.array_equal(features.tokens[60:70], whole[60:70], equal_nan=True)
    assert np.array_equal(features.tokens[[199, 0, 130]], whole[[199, 0, 130]])
    assert np.array_equal(np.concatenate([part for _, part in features.tokens.blocks()]), whole, equal_nan=True)


@pytest.mark.parametrize("ragged", [False, True])
def test_what_is_not_yet_written_is_no_number(store, ragged):
    """Neither in blocks that are not there nor in rows that joined a block later."""
    features = store.require_features("f/image", spec(ragged), N)
    with features.writing() as writer:
        tasks = writer.plan(keys_of(N), np.full(N, 2) if ragged else None)
        task = tasks[1]
        some = type(task)(task.block, task.rows[::2])
        tokens = [tokens_of(r, 2 if ragged else N_TOKENS) for r in some.rows.tolist()]
        pooled = np.zeros((len(some.rows), DIM), np.float16)
        writer.commit(some, BlockResult(some.rows, pooled, tokens if ragged else np.stack(tokens)))
    features = features.refresh()
    first = int(task.rows[0])
    assert np.isfinite(features.tokens[first]).all()
    assert np.isnan(features.tokens[first + 1]).all()
    assert np.isnan(features.tokens[0]).all()


def test_other_tools_read_the_bits(store):
    """The array says of what they are; torch takes them as they lie."""
    features = fill(store.require_features("f/image", spec(), N), N, failed={7})
    array = zarr.open_array(features.folder / "tokens", mode="r")
    assert (array.dtype, array.attrs["bits_of"]) == (np.dtype(np.uint16), "bfloat16")
    seen = torch.from_numpy(array[:]).view(torch.bfloat16).float().numpy()
    assert np.array_equal(seen, np.asarray(features.tokens), equal_nan=True)


@pytest.mark.parametrize("ragged", [False, True])
def test_the_order_of_blocks_leaves_no_trace(tmp_path, ragged):
    """A set that grows, or is made from its end, holds the same bytes."""
    found = []
    for order in (1, -1):
        store = create_store(tmp_path / f"{order}.hw")
        features = fill(store.require_features("f/image", spec(ragged), N), N, order)
        found.append({p.relative_to(store.path): p.read_bytes() for p in sorted(features.folder.rglob("c.*"))})
    assert found[0] == found[1]


def test_the_type_is_part_of_the_spec(store):
    """Features with other tokens do not join them; and what is stored takes two bytes a number."""
    features = fill(store.require_features("f/image", spec(), N), N)
    assert features.spec.item_bytes == 17 + 2 * DIM + N_TOKENS * 2 * TOKEN_DIM
    with pytest.raises(SpecMismatch, match="tokens_dtype: stored 'bfloat16', now 'int8'"):
        open_store(store.path).require_features("f/image", spec().with_tokens_as("int8"), N)


def test_metadata_of_ragged_tokens_is_mended(store):
    """What another tool left out of an array's attributes is found, and put back."""
    features = fill(store.require_features("f/image", spec(ragged=True), N), N)
    path = features.folder / "tokens" / "values" / "zarr.json"
    before = path.read_bytes()
    path.write_text(json.dumps({**json.loads(before), "attributes": {}}))
    assert ["tokens/values/zarr.json differs from what was written" in line for line in features.verify()] == [True]
    list(mend(features, features.keys, lambda: None))
    assert path.read_bytes() == before
    assert list(features.refresh().verify()) == []
