"""Contents to embed: distinct images, texts and pairs, each identified by a digest of its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import SupportsIndex, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from headwater.errors import ImageError
from headwater.sources import load_bytes, read_image
from headwater.sources.reading import AS_DECLARED, Reading
from headwater.sources.slides import Tile, open_slide, slide_digest, state_of, tile_at, tile_key
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
        The image file, or the text itself; for a pair, the image file. A tile of a slide is written
        ``SLIDE#tile=X,Y,WIDTH,SIZE``.
    words
        The text of a pair; else None.
    """

    key: bytes
    source: Path | str
    words: str | None = None

    @cached_property
    def tile(self) -> Tile | None:
        """The region of a slide that the image is; None for a file of its own."""
        return tile_at(self.source) if isinstance(self.source, Path) else None

    def image(self, reading: Reading = AS_DECLARED) -> Image.Image:
        """Read the image, in mode RGB; for ``reading``, see `headwater.sources.read_image`.

        Raises
        ------
        ImageError
            When it cannot be read, or its content no longer matches the key.
        """
        if (tile := self.tile) is not None:
            self._require_same(tile_key(self._digest(tile.slide), tile.region))
            return open_slide(tile.slide).region(*tile.region)
        data = self.file()
        try:
            return read_image(data, reading=reading)
        except ImageError as error:
            raise ImageError(f"{error}: {self.source}") from error

    def file(self) -> bytes:
        """Return the bytes of the image file after checking that they match the key; of a tile, a PNG file of it."""
        if self.tile is not None:
            png = io.BytesIO()
            self.image().save(png, "PNG", compress_level=1)
            return png.getvalue()
        data = load_bytes(Path(self.source))
        self._require_same(content_key(data))
        return data

    def _require_same(self, image: bytes) -> None:
        """Raise unless the key is that of an image with this key, and of the text beside it."""
        found = image if self.words is None else pair_key(image, content_key(self.words.encode()))
        if found != self.key:
            raise ImageError(f"the file changed while it was being embedded: {self.source}")

    def _digest(self, slide: Path) -> bytes:
        """Return the digest of a slide as it is now."""
        return slide_digest(slide)

    def text(self) -> str:
        """Return the text."""
        return str(self.source) if self.words is None else self.words


@dataclass(frozen=True)
class SlideSeen:
    """A slide's digest, and the state of its file (see `headwater.sources.slides.state_of`) when it was computed."""

    digest: bytes
    state: tuple[int, int, int]


@dataclass(frozen=True)
class SlideTile(Content):
    """A tile whose slide was read before, so that no process reads a whole slide again that has not changed."""

    seen: SlideSeen | None = None

    def _digest(self, slide: Path) -> bytes:
        if self.seen is not None and self.seen.state == state_of(slide):
            return self.seen.digest
        return slide_digest(slide)


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
    slides
        Slides that were read to compute the keys of tiles, by path.
    """

    def __init__(
        self,
        keys: NDArray[np.uint8],
        sources: pl.Series,
        modality: Modality,
        words: pl.Series | None = None,
        slides: Mapping[str, SlideSeen] | None = None,
    ) -> None:
        self.keys = keys
        self.sources = sources
        self.modality: Modality = modality
        self.words = words
        self.slides = slides or {}

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Content: ...
    @overload
    def __getitem__(self, index: slice) -> Contents: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Content | Contents:
        if isinstance(index, slice):
            words = None if self.words is None else self.words[index]
            return Contents(self.keys[index], self.sources[index], self.modality, words, self.slides)
        words = None if self.words is None else self.words[int(index)]
        return as_content(self.modality, self.keys[index].tobytes(), self.sources[int(index)], words, self.slides)

    def __iter__(self) -> Iterator[Content]:
        words = repeat(None, len(self)) if self.words is None else self.words.to_list()
        for key, source, text in zip(self.keys, self.sources.to_list(), words, strict=True):
            yield as_content(self.modality, key.tobytes(), source, text, self.slides)


def as_content(
    modality: Modality,
    key: bytes,
    source: str,
    words: str | None = None,
    slides: Mapping[str, SlideSeen] = MappingProxyType({}),
) -> Content:
    """Return a content from a source given as a string; ``slides`` are those that were read to compute keys."""
    if modality == "text":
        return Content(key, source, words)
    if slides and (tile := tile_at(source)) is not None:
        return SlideTile(key, Path(source), words, slides.get(str(tile.slide)))
    return Content(key, Path(source), words)


def keys_of(contents: Sequence[Content]) -> NDArray[np.uint8]:
    """Return the keys of contents, uint8, of shape ``(n, 16)``."""
    if isinstance(contents, Contents):
        return contents.keys
    return np.frombuffer(b"".join(content.key for content in contents), np.uint8).reshape(-1, 16)


def distinct(
    keys: pl.Series,
    sources: pl.Series,
    modality: Modality,
    words: pl.Series | None = None,
    slides: Mapping[str, SlideSeen] | None = None,
) -> Contents:
    """Return the distinct contents among rows with a key (binary), in order of first occurrence."""
    columns = {"key": keys, "source": sources} | ({} if words is None else {"words": words})
    first = pl.DataFrame(columns).drop_nulls("key").unique("key", keep="first", maintain_order=True)
    packed = b"".join(first["key"].to_list())
    texts = None if words is None else first["words"]
    return Contents(np.frombuffer(packed, np.uint8).reshape(-1, 16), first["source"], modality, texts, slides)


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
    """Return the content key of an image file, or of a tile."""
    if (tile := tile_at(path)) is not None:
        return tile_key(slide_digest(tile.slide), tile.region)
    return content_key(load_bytes(path))
