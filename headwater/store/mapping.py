"""Memory-mapping of files without keeping them open, so that a process can map more files than it may open."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def mapped(file: BinaryIO) -> NDArray[np.uint8]:
    """Map a file for reading; the file may then be closed.

    Python's `mmap` keeps a file descriptor of its own (until 3.13, which has ``trackfd``), and a process is often
    allowed only 1,024.

    Parameters
    ----------
    file
        An open file.

    Returns
    -------
    uint8, of shape (n_bytes,), read-only : unmapped when the array and all views of it are gone

    Raises
    ------
    ValueError
        When the file is empty.
    OSError
        When the system cannot map it.
    """
    n_bytes = os.fstat(file.fileno()).st_size
    if not n_bytes:
        raise ValueError("an empty file cannot be mapped.")
    address = _libc.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_ubyte * n_bytes).from_address(address)
    weakref.finalize(
        memory, _libc.munmap, address, n_bytes
    ).atexit = False  # never at exit, since other objects may still read
    return np.frombuffer(memoryview(memory).toreadonly(), np.uint8)
