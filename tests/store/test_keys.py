"""Keys of samples: of an image, of a text, and of both together."""

from hashlib import blake2b

import polars as pl
import pytest

from headwater.store import pair_key, sample_keys

IMAGE, TEXT = bytes(range(16)), bytes(range(16, 32))


def test_the_key_of_a_pair_is_a_digest_of_both_keys():
    """Image first, text second: the BLAKE2b-128 digest of the 32 bytes."""
    assert pair_key(IMAGE, TEXT) == blake2b(IMAGE + TEXT, digest_size=16).digest()
    assert pair_key(IMAGE, TEXT) != pair_key(TEXT, IMAGE)
    with pytest.raises(ValueError, match="16 bytes"):
        pair_key(IMAGE, TEXT[:8])


def test_keys_of_samples():
    """Images and texts have a column each; a pair has a key where a sample has both, and no column."""
    image, text = [IMAGE.hex(), IMAGE.hex(), None, IMAGE.hex()], [TEXT.hex(), None, TEXT.hex(), IMAGE.hex()]
    table = pl.DataFrame({"image_key": image, "text_key": text})
    assert sample_keys(table, "image").to_list() == image
    assert sample_keys(table, "text").to_list() == text
    keys = sample_keys(table, "pair")
    expected = [pair_key(IMAGE, TEXT).hex(), None, None, pair_key(IMAGE, IMAGE).hex()]
    assert (keys.name, keys.dtype, keys.to_list()) == ("pair_key", pl.String, expected)


def test_keys_of_no_pair():
    """Samples without images, or none at all, have no pairs."""
    none = pl.Series("text_key", [None, None], dtype=pl.String)
    table = pl.DataFrame([pl.Series("image_key", [IMAGE.hex()] * 2), none])
    assert sample_keys(table, "pair").to_list() == [None, None]
    assert sample_keys(table[:0], "pair").dtype == pl.String


def test_equal_pairs_have_equal_keys():
    """A pair that stands in many rows has one key, whatever stands between."""
    rows = [(i % 3, i % 2) for i in range(60)]
    table = pl.DataFrame({"image_key": [f"{i:032x}" for i, _ in rows], "text_key": [f"{t:032x}" for _, t in rows]})
    keys = sample_keys(table, "pair").to_list()
    of = {row: pair_key(row[0].to_bytes(16, "big"), row[1].to_bytes(16, "big")).hex() for row in rows}
    assert keys == [of[row] for row in rows]
