"""The exception tree.

HeadwaterError
├── InputError (ValueError)            an argument or option that cannot be used
├── UnknownOption (TypeError)          a keyword argument that a function does not have
├── ManifestError (ValueError)         the user's table
│   └── ManifestNotFound (FileNotFoundError)
├── VectorsError (ValueError)          vectors made elsewhere that cannot be imported
│   └── VectorsNotFound (FileNotFoundError)
├── ImageError (ValueError)            an image that cannot be read
│   └── ImageNotFound (FileNotFoundError)
├── StoreError (ValueError)            what is on disk is not what it should be
│   ├── StoreNotFound (FileNotFoundError)
│   ├── SpecMismatch                   features of different specs would be mixed
│   └── StoreBusy (RuntimeError)       another process writes the same features
├── DiskError (OSError)                the disk is full or cannot be written
├── RemoteError (OSError)              a bucket cannot be reached or rejects a request
├── EncoderError (ValueError)          an encoder that cannot be built or cannot encode its input
├── HeadError (ValueError)             a head that cannot be fitted or loaded
├── SplitError (ValueError)            a split that cannot be made
├── MissingExtra (ImportError)         an optional dependency is not installed
└── NotSupported (ImportError)         headwater does not run on this system

Each error is also a builtin error, so code that does not know headwater can catch it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

# How NumPy 2 prints a scalar: np.str_('a'), np.float64(1.0), np.True_.
_SCALAR = re.compile(
    r"""\bnp\.(?:(?:str|bytes)_|longdouble|(?:u?int|float|complex)\d+|(?:datetime|timedelta)64)
    \(( b?'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | [^()'"]* )(?:,\s*'\w+')?\) | \bnp\.(True|False)_(?!\w)""",
    re.VERBOSE,
)

_CREDENTIALS = re.compile(r"(?<=:/)(/?)[^/\\s@'\"]+@(?=[^/\\s])")


def without_credentials(words: str) -> str:
    """Return words with the credentials before an ``@`` in URLs replaced by ``…``.

    Examples
    --------
    >>> without_credentials("s3://KEY:SECRET@bucket/a.hw: no store here")
    's3://…@bucket/a.hw: no store here'
    """
    return _CREDENTIALS.sub(r"\1…@", words)


class HeadwaterError(Exception):
    """Base of every error that the user can fix: the message says what went wrong, where, and what to do.

    Values are printed as Python writes them, ``'a'``, not as NumPy does, ``np.str_('a')``. Credentials in URLs are
    left out.
    """

    def __str__(self) -> str:
        words = _SCALAR.sub(lambda found: found[1] or found[2] or "", super().__str__())
        return without_credentials(words)


class InputError(HeadwaterError, ValueError):
    """An argument or option that cannot be used."""


class UnknownOption(HeadwaterError, TypeError):
    """A keyword argument that a function does not have."""


class ManifestError(HeadwaterError, ValueError):
    """The manifest cannot be used as it is."""


class ManifestNotFound(ManifestError, FileNotFoundError):
    """There is no manifest at this path."""


class VectorsError(HeadwaterError, ValueError):
    """Vectors that another tool made cannot be imported."""


class VectorsNotFound(VectorsError, FileNotFoundError):
    """There are no vectors at this path."""


class ImageError(HeadwaterError, ValueError):
    """An image cannot be read."""


class ImageNotFound(ImageError, FileNotFoundError):
    """There is no image file at this path."""


class StoreError(HeadwaterError, ValueError):
    """What is on disk is not what it should be."""


class StoreNotFound(StoreError, FileNotFoundError):
    """There is no store, or no such features in it."""


class SpecMismatch(StoreError):
    """Features of different specs would be mixed; the message names the fields that differ."""


class StoreBusy(StoreError, RuntimeError):
    """Another process is writing the same features."""


class DiskError(HeadwaterError, OSError):
    """The disk is full or cannot be written."""


class RemoteError(HeadwaterError, OSError):
    """A bucket cannot be reached, or rejects a request."""


class EncoderError(HeadwaterError, ValueError):
    """An encoder cannot be built, or cannot encode its input."""


class HeadError(HeadwaterError, ValueError):
    """A head cannot be fitted, saved or loaded."""


class SplitError(HeadwaterError, ValueError):
    """Rows cannot be split as asked."""


class DeviceMemory(HeadwaterError, MemoryError):
    """A device's memory is too small for what was asked."""


class MissingExtra(HeadwaterError, ImportError):
    """An optional dependency is not installed."""


class NotSupported(HeadwaterError, ImportError):
    """Headwater does not run on this system."""


def how_to_make(path: str | os.PathLike[str], command: str) -> str:
    """Say which command to run to create a missing path; where something else is there, ask for another path.

    Examples
    --------
    >>> how_to_make("runs/new", "headwater fit-head …")
    'Run: headwater fit-head … --out runs/new'
    >>> how_to_make("/", "headwater fit-head …")
    'Give a directory that headwater fit-head … --out wrote.'
    """
    place = Path(path)
    try:
        taken = any(place.iterdir()) if place.is_dir() else os.path.lexists(place)
    except OSError:
        taken = True
    return f"Give a directory that {command} --out wrote." if taken else f"Run: {command} --out {os.fspath(path)}"


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'X'?`` for the closest of ``allowed``, or an empty string.

    Examples
    --------
    >>> nearest("densty", ["density", "patient"])
    " Did you mean 'density'?"
    >>> nearest("zzz", ["density", "patient"])
    ''
    """
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
