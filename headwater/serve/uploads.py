"""Images that people upload: kept in memory for a while, under a random handle, and decoded in a bounded pool."""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from headwater.embed.contents import Content, HeldImage, content_key
from headwater.errors import HeadwaterError, ImageError
from headwater.sources import read_image, size_of
from headwater.sources.reading import AS_DECLARED, Reading

PREVIEW = 1600  # longest side of what the page shows of an upload, in pixels
MOST_BYTES, MOST_UPLOADS = 1 << 30, 1000  # of all uploads together
AT_ONCE, WAITING = 2, 16  # images that are decoded, and that may wait for it
PIXELS = 400_000_000  # of all images that are decoded at once for encoders and pictures
STORED = PIXELS // 16  # taken for an image of the store, whose file is not read before
Made = TypeVar("Made")


class Busy(HeadwaterError):
    """Too many images wait to be decoded."""


class Gone(HeadwaterError):
    """An upload has expired, or never was."""


@dataclass(frozen=True)
class Upload:
    """An uploaded image.

    Attributes
    ----------
    content
        The image as it was uploaded, known by the digest of its bytes.
    width, height
        In pixels.
    preview
        A JPEG file for the page.
    since
        Monotonic seconds at which it was last used.
    """

    content: HeldImage
    width: int
    height: int
    preview: bytes
    since: float


class Pool:
    """Run calls in a few threads; refuse more than may wait."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="decode")
        self._room = threading.BoundedSemaphore(at_once + waiting)

    def __call__(self, call: Callable[[], Made]) -> Made:
        """Return what a call returns.

        Raises
        ------
        Busy
            When too many wait already.
        """
        if not self._room.acquire(blocking=False):
            raise Busy("too many images are being read at this moment. Try again in a few seconds.")
        try:
            return self._pool.submit(call).result()
        finally:
            self._room.release()


class Room:
    """Limits the pixels of images that are decoded at once; what does not fit waits.

    Parameters
    ----------
    pixels
        Most pixels together. A larger image is decoded alone.
    """

    def __init__(self, pixels: int = PIXELS) -> None:
        self._most = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def of(self, content: Content | None) -> Iterator[None]:
        """Wait until there is room for an image, and hold it."""
        pixels = min(_pixels_of(content), self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def _pixels_of(content: Content | None) -> int:
    if isinstance(content, HeldImage):
        width, height = size_of(content.data)
        return width * height
    return STORED if content is not None and isinstance(content.source, Path) else 0


class Uploads:
    """Uploads by their handles.

    Parameters
    ----------
    max_pixels
        Most pixels of an image, which is checked before it is decoded.
    keep
        Seconds after its last use for which an upload is kept.
    reading
        How files are read for previews; see `headwater.sources.read_image`.
    """

    def __init__(self, max_pixels: int, keep: float, pool: Pool | None = None, reading: Reading = AS_DECLARED) -> None:
        self._max_pixels, self._keep, self._reading = max_pixels, keep, reading
        self._held: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()
        self.pool = Pool() if pool is None else pool

    def __len__(self) -> int:
        return len(self._held)

    def add(self, data: bytes) -> tuple[str, Upload]:
        """Decode an image and keep it; return its handle.

        Raises
        ------
        ImageError
            When it cannot be read, or is too large.
        Busy
            When too many images wait.
        """
        if not data:
            raise ImageError("the upload is empty: choose an image file.")
        upload = self.pool(lambda: self._read(data))
        handle = secrets.token_urlsafe(18)
        with self._lock:
            self._held[handle] = upload
            self._forget()
        return handle, upload

    def get(self, handle: str) -> Upload:
        """Return an upload.

        Raises
        ------
        Gone
            When there is none of this handle any more.
        """
        with self._lock:
            self._forget()
            found = self._held.get(handle)
            if found is None:
                raise Gone("the uploaded image is no longer kept: choose it again.")
            self._held.move_to_end(handle)
            self._held[handle] = Upload(found.content, found.width, found.height, found.preview, time.monotonic())
            return found

    def _read(self, data: bytes) -> Upload:
        image = read_image(data, max_pixels=self._max_pixels, reading=self._reading)
        width, height = image.size
        preview = jpeg_of(image, PREVIEW)
        return Upload(HeldImage(content_key(data), "the upload", None, data), width, height, preview, time.monotonic())

    def _forget(self) -> None:
        """Drop what has expired, and the oldest of what takes too much memory."""
        now = time.monotonic()
        total = sum(len(upload.content.data) + len(upload.preview) for upload in self._held.values())
        for handle, upload in list(self._held.items()):
            few = total <= MOST_BYTES and len(self._held) <= MOST_UPLOADS
            if now - upload.since < self._keep and (few or len(self._held) == 1):
                break  # the rest were used later
            total -= len(upload.content.data) + len(upload.preview)
            del self._held[handle]


def jpeg_of(image: Image.Image, side: int) -> bytes:
    """Return an image as a JPEG file, at most ``side`` pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=88)
    return out.getvalue()


def cropped(
    content: HeldImage, region: tuple[float, float, float, float], max_pixels: int, reading: Reading = AS_DECLARED
) -> HeldImage:
    """Return a part of an image as an image of its own.

    Parameters
    ----------
    region
        Left, top, right and bottom, as shares of width and height.
    reading
        How files are read.

    Raises
    ------
    ImageError
        When the part has no pixels.
    """
    image = read_image(content.data, max_pixels=max_pixels, reading=reading)
    box = tuple(round(share * side) for share, side in zip(region, (image.width, image.height) * 2, strict=True))
    left, top, right, bottom = box
    if right - left < 2 or bottom - top < 2:
        raise ImageError("the chosen region is too small: draw a larger one.")
    out = io.BytesIO()
    image.crop((left, top, right, bottom)).save(out, "PNG")
    data = out.getvalue()
    return HeldImage(content_key(data), "a region", None, data)
