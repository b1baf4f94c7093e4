"""Tokens in a byte a number: what comes back is near enough, and comes back the same however often it is copied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SpecMismatch
from headwater.store import BlockResult, FeatureSpec, QuantisedArray, create_store, open_store, quantise
from headwater.store.quantised import LARGEST, LEAST

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
    return made.with_tokens_as("int8")


def keys_of(n):
    return np.stack([np.frombuffer((i * 2654435761 + 1).to_bytes(16, "little"), np.uint8) for i in range(n)])


def tokens_of(row, n=N_TOKENS):
    return np.random.default_rng(row).standard_normal((n, TOKEN_DIM)).astype(np.float32) * 10.0 ** (row % 5 - 2)


def lengths_of(n):
    return np.arange(n) % 4


def fill(features, n, order=1, failed=()):
    """Store items whose tokens are a function of the row."""
    with features.writing() as writer:
        ragged = writer.features.spec.ragged
        for task in writer.plan(keys_of(n), lengths_of(n) if ragged else None)[::order]:
            tokens = [tokens_of(r, r % 4 if ragged else N_TOKENS) for r in task.rows.tolist()]
            why = {r: "truncated image" for r in task.rows.tolist() if r in failed}
            pooled = np.zeros((len(task.rows), DIM), np.float16)
            writer.commit(task, BlockResult(task.rows, pooled, tokens if ragged else np.stack(tokens), why))
    return features.refresh()


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "a.hw")


def back(values, scales):
    return values.astype(np.float32) * scales.astype(np.float32)[..., None]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-9, 6.9), st.sampled_from([1, 3, 64]))
def test_numbers_come_back_within_half_a_scale(seed, exponent, dim):
    """Over the whole range of sizes; and what came back is quantised to the same bytes again."""
    tokens = np.random.default_rng(seed).uniform(-1, 1, (7, 3, dim)).astype(np.float32) * 10.0**exponent
    values, scales = quantise(tokens)
    assert (values.dtype, scales.dtype) == (np.int8, np.float16)
    found = back(values, scales)
    half = scales.astype(np.float64)[..., None] / 2
    assert (np.abs(found - tokens) <= half * (1 + 1e-5)).all()
    largest = np.abs(tokens).max(-1)
    assert (scales <= np.maximum(largest / 127 * (1 + 2e-3), LEAST)).all()
    again = quantise(found)
    assert np.array_equal(again[0], values)
    assert np.array_equal(again[1], scales)


def test_the_ends_of_the_range():
    """Zeros, the largest that can be stored, and no tokens at all."""
    values, scales = quantise(np.array([[0.0, 0.0], [LARGEST, -LARGEST]], np.float32))
    assert back(values, scales).tolist() == [[0.0, 0.0], [LARGEST, -LARGEST]]
    assert quantise(np.empty((0, 3, 8), np.float32))[0].shape == (0, 3, 8)


@pytest.mark.parametrize("ragged", [False, True])
def test_stored_tokens_read_back(store, ragged):
    """By row, by slice, by blocks and as a whole; not a number where an item failed."""
    features = fill(store.require_features("f/image", spec(ragged), N), N, failed={7})
    for row in (0, 1, 63, 64, 130, 199):
        expected = back(*quantise(tokens_of(row, row % 4 if ragged else N_TOKENS)))
        found = features.tokens[row]
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)
    assert np.isnan(features.tokens[7]).all()
    assert list(features.verify()) == []
    if ragged:
        padded, there = features.tokens.padded([3, 7, 2])
        assert np.array_equal(padded[2][:2], features.tokens[2])
        assert there.sum(1).tolist() == [3, 3, 2]
        return
    assert isinstance(features.tokens, QuantisedArray)
    assert features.tokens.shape == (N, N_TOKENS, TOKEN_DIM)
    whole = np.asarray(features.tokens)
    assert np.array_equal(features.tokens[60:70], whole[60:70], equal_nan=True)
    assert np.array_equal(features.tokens[[199, 0, 130]], whole[[199, 0, 130]])
    assert np.array_equal(np.concatenate([part for _, part in features.tokens.blocks()]), whole, equal_nan=True)


@pytest.mark.parametrize("ragged", [False, True])
def test_plain_zarr_reads_numbers_and_scales(store, ragged):
    """Opened with zarr alone, numbers times scales are the tokens."""
    import zarr

    features = fill(store.require_features("f/image", spec(ragged), N), N)
    group = zarr.open_group(store.path / "features.zarr", mode="r")["f/image"]
    if ragged:
        at, n = group["tokens/offsets"][199], group["tokens/lengths"][199]
        found = back(group["tokens/values"][at : at + n], group["tokens/scales"][at : at + n])
    else:
        assert group["token_scales"].shape == (N, N_TOKENS)
        found = back(group["tokens"][199], group["token_scales"][199])
    assert np.array_equal(found, features.tokens[199])


@pytest.mark.parametrize("ragged", [False, True])
def test_order_and_growth_leave_no_trace(tmp_path, ragged):
    """Blocks in another order, and rows that come later, end in the same values."""
    one, other, grown = (create_store(tmp_path / name) for name in "abc")
    fill(one.require_features("f/image", spec(ragged), N), N)
    fill(other.require_features("f/image", spec(ragged), N), N, order=-1)
    assert files_of(one.path / "features.zarr") == files_of(other.path / "features.zarr")
    features = fill(fill(grown.require_features("f/image", spec(ragged), N), 90), N)
    for row in range(N):
        assert np.array_equal(features.tokens[row], one.features("f/image").tokens[row])
    assert list(features.verify()) == []


@pytest.mark.parametrize(
    ("ragged", "part"), [(False, "tokens/c.1.0.0"), (False, "token_scales/c.1.0"), (True, "tokens/scales/c.0")]
)
def test_one_flipped_byte_is_found(store, ragged, part):
    """In numbers and in scales."""
    features = fill(store.require_features("f/image", spec(ragged), N), N)
    path = features.folder / part
    data = bytearray(path.read_bytes())
    data[6] ^= 1
    path.write_bytes(data)
    (line,) = open_store(store.path).features("f/image").verify()
    assert part.rpartition("/")[0] in line


def test_other_specs_are_as_they_were(store):
    """A set without quantised tokens says nothing of them, so that its checksum is what it was; one with is another."""
    plain = spec().with_tokens_as(None)
    assert "tokens_dtype" not in plain.to_dict()
    assert plain.with_tokens_as("float16") == plain
    assert FeatureSpec.from_dict(spec().to_dict()) == spec()
    assert plain.item_bytes - spec().item_bytes == N_TOKENS * (TOKEN_DIM - 2)
    store.require_features("f/image", plain, N)
    with pytest.raises(SpecMismatch, match="tokens_dtype: stored None, now 'int8'"):
        store.require_features("f/image", spec(), N)
