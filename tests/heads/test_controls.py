"""Inputs that hold nothing: shuffled rows are the same rows, and noise is the same however it is read."""

import numpy as np
import pytest

from headwater.heads import Bags, Concatenated, Masked, noise_like, shuffled
from headwater.heads.base import blocks
from headwater.heads.tokens import read_tokens

N = 40


class Texts:
    """Tokens of different lengths, item ``i`` holding the number ``i``; every tenth item has none."""

    def __init__(self, items):
        self.items = np.asarray(items)
        self.lengths = self.items % 10
        self.dtype, self.dim = np.dtype(np.float32), 3

    def __len__(self):
        return len(self.items)

    def select(self, index):
        return Texts(self.items[index])

    def padded(self, index):
        mask = np.arange(max(self.lengths[index], default=0)) < self.lengths[index][:, None]
        return np.where(mask[:, :, None], self.items[index][:, None, None], 0) * np.ones(3, np.float32), mask


def inputs():
    """One of each kind of input, item ``i`` holding the number ``i``."""
    numbers = np.arange(N, dtype=np.float32)
    mask = np.ones((N, 2), bool)
    mask[::10] = False
    return {
        "array": np.repeat(numbers[:, None], 3, 1),
        "tokens": np.broadcast_to(numbers[:, None, None], (N, 2, 3)),
        "ragged": Texts(np.arange(N)),
        "bags": Bags(np.repeat(numbers[:, None], 3, 1), [np.full(1 + i % 3, i) for i in range(N)]),
        "masked": Masked(np.broadcast_to(numbers[:, None, None], (N, 2, 3)), mask),
    }


def items(X):
    """The number that each item holds, 0 for one that is not there."""
    return read_tokens(X, np.arange(N))[0].max((1, 2))


@pytest.mark.parametrize("kind", inputs())
def test_shuffled_rows_are_the_same_rows(kind):
    """Shuffling gives every row once, elsewhere, the same way for the same seed; what is missing stays missing."""
    X = inputs()[kind]
    before, after = items(X), items(shuffled(X, 3))
    assert sorted(before) == sorted(after)
    assert (before != after).mean() > 0.7
    assert np.array_equal(after, items(shuffled(X, 3)))
    assert not np.array_equal(after, items(shuffled(X, 4)))
    assert np.array_equal(before == 0, after == 0) or kind in ("array", "tokens", "bags")  # where item 0 holds 0


@pytest.mark.parametrize("kind", inputs())
def test_noise_has_the_shape_of_what_it_stands_for(kind):
    """Noise has as many tokens as each item, in the same places, of standard deviation 1, and zero beyond them."""
    X = inputs()[kind]
    values, mask = read_tokens(X, np.arange(N))
    noise, of_noise = read_tokens(noise_like(X, 1), np.arange(N))
    assert noise.shape == values.shape
    assert (mask is None and of_noise is None) or np.array_equal(mask, of_noise)
    there = np.ones(noise.shape[:2], bool) if mask is None else mask
    # tokens of a bag's instances repeat, since its instances do
    assert abs(noise[there].std() - 1) < 0.3
    if kind != "masked":  # which hides what lies there by its mask alone
        assert not noise[~there].any()
    other = read_tokens(noise_like(X, 2), np.arange(N))[0]
    assert abs(np.corrcoef(noise[there].ravel(), other[there].ravel())[0, 1]) < 0.4


def test_noise_is_the_same_however_it_is_read():
    """A row of noise is the same alone, in any order, in slices, in blocks, and beside others."""
    noise = noise_like(np.zeros((2500, 50)), 7)
    whole = noise[:]
    rows = np.array([2400, 3, 3, 77])
    assert np.array_equal(noise[rows], whole[rows])
    assert np.array_equal(noise[5], whole[5])
    assert np.array_equal(noise[np.arange(2500) == 9], whole[9:10])
    assert np.array_equal(np.concatenate([values for _, values in blocks(noise)]), whole)
    assert np.array_equal(Concatenated([noise, noise])[rows][:, 50:], whole[rows])
    assert len(np.unique(whole)) > 0.99 * whole.size
    texts = noise_like(Texts(np.arange(N)), 7)
    assert np.array_equal(texts.padded(np.array([13]))[0][0, :3], texts.padded(np.array([9, 13]))[0][1, :3])


def test_noise_takes_no_memory():
    """Noise in the shape of features larger than memory is made row by row."""
    noise = noise_like(np.lib.stride_tricks.as_strided(np.zeros(1), (10_000_000, 4096), (0, 0)), 0)
    assert noise[np.array([9_999_999, 0])].shape == (2, 4096)
