"""Files of somebody else's are opened in one way, which waits for nothing and reads only so much."""

import io
import os
import socket
from pathlib import Path

import polars as pl
import pytest

from headwater._reading import DEEPEST, open_regular, parse_json, parse_parquet, read_json, read_regular


def test_a_regular_file_is_read(tmp_path):
    """Its bytes come back, and so they do through a link."""
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "a") == read_regular(tmp_path / "b") == b"abc"


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have 108 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("make", [fifo, bound_socket, device, folder])
def test_anything_else_is_refused_at_once(tmp_path, make):
    """A pipe, a socket, a device or a folder is an OSError with a reason, not a wait."""
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"pipe, a socket or a device|Is a directory"):
        open_regular(tmp_path / "x")


def test_a_link_is_refused_where_it_is_not_to_be_followed(tmp_path):
    """A link to a regular file is no file of the folder that it is in."""
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic link"):
        read_regular(tmp_path / "b", follow=False)


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
    """A terabyte that takes no space is not read."""
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes or more; at most 64 are read"):
        read_regular(tmp_path / "x", most=64)


def test_a_file_that_is_said_to_be_empty_is_read_only_so_far():
    """Files of /proc have a size of 0 and bytes all the same."""
    with pytest.raises(OSError, match="9 bytes or more; at most 8 are read: '/proc/self/status'"):
        read_regular("/proc/self/status", most=8)


@pytest.mark.parametrize("n", [DEEPEST + 1, 2000, 200_000])
def test_deep_json_is_a_value_error(tmp_path, n):
    """However deep it is nested, no RecursionError comes out."""
    (tmp_path / "x.json").write_text('{"a":' * n + "1" + "}" * n)
    with pytest.raises(ValueError, match="levels deep"):
        read_json(tmp_path / "x.json")


def test_json_of_the_deepest_level_is_read():
    """The limit itself is allowed."""
    assert parse_json("[" * DEEPEST + "]" * DEEPEST) is not None


@pytest.mark.parametrize("kind", ["cut", "empty", "words", "flipped", "bomb", "lists", "one long text"])
def test_parquet_that_cannot_be_read_is_a_value_error(kind):
    """Whatever is in place of a table, or one of more rows than its bytes can be of, is a ValueError of one line."""
    table = pl.DataFrame({"id": [f"r{i}" for i in range(100)]})
    if kind == "bomb":
        table = pl.DataFrame({"id": pl.repeat(0, 30_000_000, eager=True)})
    elif kind == "lists":
        table = pl.DataFrame({"id": ["a"] * 10, "of": [[0] * 3_000_000] * 10})
    elif kind == "one long text":
        table = pl.DataFrame({"id": pl.repeat("x" * 1_000_000, 3_000, eager=True)})
    data = io.BytesIO()
    table.write_parquet(data)
    whole = data.getvalue()
    flipped = bytearray(whole)
    flipped[-20] ^= 0xFF
    given = {"cut": whole[:-10], "empty": b"", "words": b"id\n1", "flipped": bytes(flipped)}.get(kind, whole)
    with pytest.raises(ValueError, match=r".+") as caught:
        parse_parquet(given)
    assert "\n" not in str(caught.value)
