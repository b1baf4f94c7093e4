"""Contents to embed: distinct images, texts and pairs, each identified by a digest of its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from headwater.errors import ImageError
from headwater.sources import load_bytes, read_image
from headwater.sources.reading import AS_DECLARED, Reading
from headwater.store import Modality, pair_key


def content_key(data: bytes) -> bytes:
    """Return the BLAKE2b-128 digest of an item's bytes: its key, 16 bytes."""
    return blake2b(data, digest_size=16).digest()


@dataclass(frozen=True)
class Content:
    """One item: its key, and its image file or text.

    Attributes
    ----------
    key
        `content_key` of the file's bytes, or of the text in UTF-8; for a pair, `headwater.store.pair_key` of both.
    source
        The image file, or the text itself; for a pair, the image file.
    words
        The text of a pair; else None.
    """

    key: bytes
    source: Path | str
    words: str | None = None

    def image(self, reading: Reading = AS_DECLARED) -> Image.Image:
        """Read the image, in mode RGB; for ``reading``, see `headwater.sources.read_image`.

        Raises
        ------
        ImageError
            When it cannot be read, or its content no longer matches the key.
        """
        data = self.file()
        try:
            return read_image(data, reading=reading)
        except ImageError as error:
            raise ImageError(f"{error}: {self.source}") from error

    def file(self) -> bytes:
        """Return the bytes of the image file after checking that they match the key."""
        data = load_bytes(Path(self.source))
        found = content_key(data)
        if self.words is not None:
            found = pair_key(found, content_key(self.words.encode()))
        if found != self.key:
            raise ImageError(f"the file changed while it was being embedded: {self.source}")
        return data

    def text(self) -> str:
        """Return the text."""
        return str(self.source) if self.words is None else self.words


@dataclass(frozen=True)
class HeldImage(Content):
    """An image in memory: ``data`` holds the bytes of an image file, ``source`` says where they came from."""

    data: bytes = b""

    def file(self) -> bytes:
        return self.data


class Contents(Sequence[Content]):
    """Many contents, stored as columns; each `Content` is created on access.

    Parameters
    ----------
    keys
        Keys, uint8, of shape ``(n, 16)``.
    sources
        The image files or the texts: strings, of length n; for pairs, the image files.
    modality
        Modality of the contents.
    words
        The texts of pairs: strings, of length n.
    """

    def __init__(
        self, keys: NDArray[np.uint8], sources: pl.Series, modality: Modality, words: pl.Series | None = None
    ) -> None:
        self.keys = keys
        self.sources = sources
        self.modality: Modality = modality
        self.words = words

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Content: ...
    @overload
    def __getitem__(self, index: slice) -> Contents: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Content | Contents:
        if isinstance(index, slice):
            words = None if self.words is None else self.words[index]
            return Contents(self.keys[index], self.sources[index], self.modality, words)
        words = None if self.words is None else self.words[int(index)]
        return as_content(self.modality, self.keys[index].tobytes(), self.sources[int(index)], words)

    def __iter__(self) -> Iterator[Content]:
        words = repeat(None, len(self)) if self.words is None else self.words.to_list()
        for key, source, text in zip(self.keys, self.sources.to_list(), words, strict=True):
            yield as_content(self.modality, key.tobytes(), source, text)


def as_content(modality: Modality, key: bytes, source: str, words: str | None = None) -> Content:
    """Return a content from a source given as a string."""
    return Content(key, source if modality == "text" else Path(source), words)


def keys_of(contents: Sequence[Content]) -> NDArray[np.uint8]:
    """Return the keys of contents, uint8, of shape ``(n, 16)``."""
    if isinstance(contents, Contents):
        return contents.keys
    return np.frombuffer(b"".join(content.key for content in contents), np.uint8).reshape(-1, 16)


def distinct(keys: pl.Series, sources: pl.Series, modality: Modality, words: pl.Series | None = None) -> Contents:
    """Return the distinct contents among rows with a key (binary), in order of first occurrence."""
    columns = {"key": keys, "source": sources} | ({} if words is None else {"words": words})
    first = pl.DataFrame(columns).drop_nulls("key").unique("key", keep="first", maintain_order=True)
    packed = b"".join(first["key"].to_list())
    texts = None if words is None else first["words"]
    return Contents(np.frombuffer(packed, np.uint8).reshape(-1, 16), first["source"], modality, texts)


def unique_texts(texts: Sequence[str | None]) -> tuple[Contents, NDArray[np.int64]]:
    """Return the distinct texts as contents, and each text's position among them; -1 for None."""
    keys = [None if text is None else content_key(text.encode()) for text in texts]
    return _placed(keys, texts, "text")


def unique_images(paths: Sequence[Path | None], keys: Sequence[bytes | None]) -> tuple[Contents, NDArray[np.int64]]:
    """Return the distinct images as contents, and each path's position among them; -1 without a key."""
    known = [None if path is None else key for path, key in zip(paths, keys, strict=True)]
    return _placed(known, [None if path is None else str(path) for path in paths], "image")


def _placed(
    keys: Sequence[bytes | None], sources: Sequence[str | None], modality: Modality
) -> tuple[Contents, NDArray[np.int64]]:
    column = pl.Series(keys, dtype=pl.Binary)
    contents = distinct(column, pl.Series(sources, dtype=pl.String), modality)
    numbers = pl.DataFrame(
        {"key": [key.tobytes() for key in contents.keys], "place": np.arange(len(contents), dtype=np.int64)},
        schema={"key": pl.Binary, "place": pl.Int64},
    )
    rows = pl.DataFrame({"key": column}).join(numbers, on="key", how="left", maintain_order="left")
    return contents, rows["place"].fill_null(-1).to_numpy()


def key_of_file(path: Path) -> bytes:
    """Return the content key of an image file."""
    return content_key(load_bytes(path))
