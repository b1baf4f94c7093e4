"""Fewer tokens of many."""

import pytest
import torch

from headwater.embed.pooling import grid_of, grid_of_sequence, pool_grid, pool_sequence
from headwater.errors import EncoderError


def test_a_grid_by_hand():
    """Four cells of a 4 x 4 grid are the means of its quarters, row by row."""
    grid = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert pool_grid(grid, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_a_grid_is_torchs():
    """Cells of uneven size are those of torch's adaptive pooling, feature by feature."""
    grid = torch.randn(2, 7, 5, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), (3, 2))
    torch.testing.assert_close(pool_grid(grid, 6), expected.permute(0, 2, 3, 1).reshape(2, 6, 3))


def test_as_many_as_there_are():
    """Pooling to the number of tokens that there are changes nothing."""
    grid = torch.randn(2, 4, 6, 3)
    torch.testing.assert_close(pool_grid(grid, 24), grid.flatten(1, 2))


@pytest.mark.parametrize(
    ("n_tokens", "shape", "expected"),
    [(1, (7, 7), (1, 1)), (4, (7, 7), (2, 2)), (6, (8, 12), (2, 3)), (6, (12, 8), (3, 2)), (7, (14, 14), (1, 7))],
)
def test_a_grid_keeps_its_shape(n_tokens, shape, expected):
    assert sorted(grid_of(n_tokens, *shape)) == sorted(expected)
    assert n_tokens == 7 or grid_of(n_tokens, *shape) == expected


def test_a_grid_fits_whenever_it_can():
    """No cell is asked for where the grid has no row or column of its own: 12 cells of 2 x 10 are 2 x 6."""
    assert grid_of(12, 2, 10) == (2, 6)
    with pytest.raises(EncoderError, match=r"--tokens 50 is too many: this encoder has 7 x 7 = 49 tokens\."):
        grid_of(50, 7, 7)


def test_a_sequence():
    """A text that is longer than asked is averaged, a shorter one is left alone."""
    tokens = torch.arange(12.0).reshape(6, 2)
    assert pool_sequence(tokens, 3).tolist() == [[1, 2], [5, 6], [9, 10]]
    assert pool_sequence(tokens, 6) is tokens
    assert pool_sequence(tokens, 9) is tokens


def test_the_grid_of_a_sequence():
    assert grid_of_sequence(12, (3, 4)) == (3, 4)
    assert grid_of_sequence(16, (3, 4)) == (4, 4)
    assert grid_of_sequence(11, (3, 4)) == (1, 11)
