"""Arrays in safetensors files, which hold no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._reading import open_regular


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file by name.

    Raises
    ------
    OSError
        When there is no such file, or it is not a regular one.
    ValueError
        When it is not in this format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with open_regular(path):  # refuses pipes, on which the library would wait
        pass
    try:
        found: dict[str, NDArray[Any]] = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    except (TypeError, AttributeError, KeyError) as error:  # NumPy has no bfloat16, nor numbers of 8 bits with a point
        raise ValueError(f"it holds numbers of a kind that is not read ({error})") from error
    return found


def as_safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as the bytes of a safetensors file."""
    from safetensors.numpy import save

    # the library ignores strides
    found: bytes = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    return found
