"""Numbers that are computed from a feature set and kept in the store, one for each row, such as the lengths of rows.

They only save time, and may be removed at any time. A file says which features it was computed from and has a checksum
of its own. One that is stale, damaged or no regular file counts as missing, and is computed and written again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwater._reading import parse_json
from headwater.errors import DiskError, StoreError
from headwater.store._files import digest, make_folder, read_own, write_bytes
from headwater.store.remote import remote_of

FORMAT = 1
SUFFIX = ".rows"
TYPE = np.dtype("<f4")
_HEAD = 512  # bytes of the first line, padded with blanks


def read_derived(path: Path, fingerprint: str, n_rows: int) -> NDArray[np.float32] | None:
    """Return the numbers in a file, float32, of shape ``(n_rows,)``; None if they must be computed again.

    Parameters
    ----------
    fingerprint
        The fingerprint of the features now.
    """
    found = _read(path, n_rows)
    return None if found is None or found[0] != fingerprint else found[1]


def write_derived(path: Path, fingerprint: str, values: NDArray[np.float32]) -> bool:
    """Write numbers, atomically; return whether they were written.

    They are not where the store cannot be written, or is at a URL.
    """
    if remote_of(path) is not None:
        return False
    data = np.ascontiguousarray(values, TYPE).tobytes()
    head = json.dumps({"format": FORMAT, "fingerprint": fingerprint, "sum": digest(data)}).encode()
    with suppress(DiskError, StoreError, OSError):
        make_folder(path.parent)
        write_bytes(path, head.ljust(_HEAD - 1) + b"\n" + data)
        return True
    return False


def is_whole(path: Path) -> bool:
    """Whether the numbers in a file are those that were written."""
    return _read(path, None) is not None


def _read(path: Path, n_rows: int | None) -> tuple[str, NDArray[np.float32]] | None:
    try:
        most = (path.lstat().st_size if n_rows is None else _HEAD + TYPE.itemsize * n_rows) if path.exists() else 0
        data = read_own(path, most=most)
        head = parse_json(data[:_HEAD])
        if head["format"] != FORMAT or digest(data[_HEAD:]) != head["sum"]:
            return None
        values = np.frombuffer(data, TYPE, offset=_HEAD)
        if n_rows is not None and len(values) != n_rows:
            return None
        return str(head["fingerprint"]), values.astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return None
