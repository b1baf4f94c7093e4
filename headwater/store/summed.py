"""Files that are replaced as a whole, with a checksum file beside them, such as ``samples.sum.json``.

The checksum file first lists the checksums of the old and the new file. Then the file is replaced, and the old checksum
is removed. So the file has a listed checksum at whatever point a process stops.
"""

from __future__ import annotations

from pathlib import Path

from xxhash import xxh3_128

from headwater._reading import TABLE
from headwater._schema import Word, read_as
from headwater.errors import StoreError
from headwater.store._files import digest, location, read_own, read_own_json, remove_file, write_bytes, write_json
from headwater.store.blocks import XXH3
from headwater.store.remote import remote_of

TRIES = 3
"""Times that a file and its checksum are read without a match, and without a change, before they count as damaged."""


def sum_of(path: Path) -> Path:
    """Return the path of a file's checksum file."""
    return path.with_name(f"{path.stem}.sum.json")


def write_summed(path: Path, data: bytes) -> None:
    """Replace a file and its checksum, atomically."""
    new = [_xxh3(data)]
    try:
        old = _known(path) or []
    except StoreError:
        old = []
    write_json(sum_of(path), list(dict.fromkeys([*old, *new])))
    write_bytes(path, data)
    write_json(sum_of(path), new)


def read_summed(path: Path) -> bytes:
    """Return the bytes of a file after checking its checksum; a file without a checksum is not checked.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    StoreError
        When it differs from its checksum, or the checksum cannot be read.
    """
    last, n_same = None, 0
    while n_same < TRIES:  # another process may replace the file between the two reads
        data, known = read_own(path, most=TABLE), _known(path)
        if known is None or _xxh3(data) in known:
            return data
        if any(not word.startswith(XXH3) for word in known) and digest(data) in known:  # of an earlier version
            return data
        last, n_same = (data, known), n_same + 1 if (data, known) == last else 1
        if remote := remote_of(path):
            remote.update(path.parent if path.parent != remote.folder else None)
    raise StoreError(f"{location(path)} differs from its checksum")


def has_sum(path: Path) -> bool:
    """Whether a file has a checksum."""
    return sum_of(path).exists()


def remove_summed(path: Path) -> None:
    """Remove a file and its checksum."""
    remove_file(path)
    remove_file(sum_of(path))


def _known(path: Path) -> list[str] | None:
    """Return the checksums that a file may have; None if there is no checksum file."""
    place = sum_of(path)
    try:
        known = read_as(list[Word], read_own_json(place))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{location(place)} cannot be read ({error}), so {path.name} cannot be checked") from error
    return known


def _xxh3(data: bytes) -> str:
    return f"{XXH3}{xxh3_128(data).hexdigest()}"
