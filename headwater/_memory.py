"""Keep freed memory for the next batch on the CPU, instead of returning it to the system after every layer."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
_MOST = (1 << 31) - 1
_USUAL_TRIM, _USUAL_PAD, _USUAL_MMAP = 64 << 20, 128 << 10, 32 << 20
_lock = threading.Lock()
_holders: list[object] = []  # bodies that run now, in any thread, since malloc's settings are those of the process


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Make the C library reuse freed memory while the body runs, instead of returning it to the system.

    glibc maps every allocation of more than 32 MB anew, and the kernel clears it page by page. This takes half of the
    time of a MobileNet on one core, and an eighth of the time of 64 networks of 256 units that train together. Nothing
    changes without glibc, or where the user has tuned malloc. Memory is returned when the last of several such bodies
    ends.
    """
    libc = ctypes.CDLL(None)
    tuned = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if tuned or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    holder = object()
    with _lock:
        _holders.append(holder)
        libc.mallopt(_MMAP_THRESHOLD, _MOST)
        libc.mallopt(_TRIM_THRESHOLD, _MOST)
        libc.mallopt(_TOP_PAD, 256 << 20)  # threads other than the first use this setting
    try:
        yield
    finally:
        with _lock:
            _holders.remove(holder)
            if not _holders:
                libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
                libc.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
                libc.mallopt(_TOP_PAD, _USUAL_PAD)
                libc.malloc_trim(0)


def peak_memory() -> int | None:
    """Return the most bytes of main memory that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
