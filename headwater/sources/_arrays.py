"""Lazy access to arrays in NumPy, HDF5, torch and safetensors files that other tools wrote."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater._reading import open_regular
from headwater.errors import VectorsError
from headwater.sources._bounds import require_packed_room, require_room

Read = TypeVar("Read")


class Held(Protocol):
    """An array in a file, with its shape and type; rows are read on access."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


def arrays_of(path: Path) -> dict[str, Held]:
    """Return the arrays of a file by name, without reading them; nothing is unpickled.

    Raises
    ------
    VectorsError
        When the file cannot be read, needs unpickling, declares more data than it can hold, or keeps its numbers in
        another file.
    """
    return reading(path, lambda: _opened(path))


def reading(path: Path, read: Callable[[], Read]) -> Read:
    """Call ``read`` and return its result; turn its exceptions into a one-line error.

    Raises
    ------
    VectorsError
        When the file cannot be read.
    """
    try:
        return read()
    except (VectorsError, ImportError):
        raise
    except pickle.UnpicklingError as error:
        raise VectorsError(
            f"{path}: the file holds other objects than tensors, and headwater unpickles none. Save only the tensors."
        ) from error
    except UnicodeError as error:
        raise VectorsError(f"{path}: cannot be read (it holds text not in UTF-8). Save it as UTF-8.") from error
    except ValueError as error:
        pickled = any(words in str(error) for words in ("allow_pickle", "Python objects"))
        why = "it holds Python objects, and headwater unpickles none" if pickled else _first_line(error)
        raise VectorsError(f"{path}: cannot be read ({why}). Save plain arrays of numbers.") from error
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise VectorsError(f"{path}: cannot be read ({_first_line(error)}). Write the file again.") from error


def _opened(path: Path) -> dict[str, Held]:
    open_regular(path).close()
    arrays = _OPENERS[path.suffix.lower()](path)
    require_room(path, sum(_n_bytes(array) for array in arrays.values()))
    return arrays


def _n_bytes(array: Held) -> int:
    """Return the bytes that an array takes in memory; an array without columns counts one byte per row."""
    return max(math.prod(array.shape) * array.dtype.itemsize, *array.shape, 0)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _npy(path: Path) -> dict[str, Held]:
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return {path.stem: array}


@dataclass(frozen=True)
class _Member:
    """An array of an .npz file, which is decompressed when it is read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: Any) -> Any:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)[rows]


def _npz(path: Path) -> dict[str, Held]:
    require_packed_room(path)
    found: dict[str, Held] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0
                shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
            name = member.removesuffix(".npy")
            found[name] = _Member(path, name, shape, dtype)
    return found


@dataclass(frozen=True)
class _Dataset:
    """A dataset of an HDF5 file, opened only for reading, since a folder of slides may hold thousands of files."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: Any) -> Any:
        with need("h5py", "bridges").File(self.path, "r") as file:
            dataset = file[self.name]
            return (dataset.asstr() if self.dtype.kind == "O" else dataset)[rows]


def _hdf5(path: Path) -> dict[str, Held]:
    """Return the datasets of a file that hold numbers or text, by name; links are not followed."""
    h5py = need("h5py", "bridges")
    found: dict[str, Held] = {}

    def note(name: str, node: Any) -> None:
        text = h5py.check_string_dtype(node.dtype) is not None if isinstance(node, h5py.Dataset) else False
        if isinstance(node, h5py.Dataset) and node.shape is not None and (text or node.dtype.kind in "fiub"):
            if node.external or node.is_virtual:
                raise VectorsError(f"{path}: {name!r} keeps its numbers in another file. Save them in this file.")
            if node.chunks:  # decompressed one at a time
                require_room(path, math.prod(node.chunks) * node.dtype.itemsize)
            found[name] = _Dataset(path, name, tuple(node.shape), np.dtype(object) if text else node.dtype)
            require_room(path, math.prod(node.shape) * node.dtype.itemsize)

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found


def _torch(path: Path) -> dict[str, Held]:
    require_packed_room(path)
    torch = need("torch", "encoders")
    with warnings.catch_warnings():  # about another pickle protocol; unreadable files raise errors
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, torch.Tensor):
        loaded = {path.stem: loaded}
    if not isinstance(loaded, dict):
        raise VectorsError(f"{path}: holds a {type(loaded).__name__}. Save a tensor or a dict of tensors.")
    found: dict[str, Held] = {}
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor):
            found[str(name)] = _from_torch(value, f"{path}: {str(name)!r}")
        elif isinstance(value, list) and value and all(isinstance(word, str) for word in value):
            found[str(name)] = np.array(value, object)
    return found


def _from_torch(tensor: Any, what: str) -> NDArray[Any]:
    """Return a tensor as an array; bfloat16, which NumPy lacks, becomes float32."""
    tensor = tensor.detach()
    n_bytes = max(tensor.numel() * tensor.element_size(), *tensor.shape, 0)
    if n_bytes > tensor.untyped_storage().nbytes():
        raise VectorsError(
            f"{what} has shape {tuple(tensor.shape)}, but the file stores fewer numbers. Save a copy: tensor.clone()."
        )
    numbers: NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return numbers


@dataclass(frozen=True)
class _Slice:
    """A tensor of a memory-mapped safetensors file."""

    slice: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: Any) -> Any:
        return self.slice[rows]


_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16"}
_TYPES |= {"I8": "int8", "U8": "uint8", "BOOL": "bool"}


def _safetensors(path: Path) -> dict[str, Held]:
    from safetensors import safe_open

    file: Any = safe_open(path, framework="np")
    found: dict[str, Held] = {}
    for name in file.keys():  # noqa: SIM118  (not a dict)
        part = file.get_slice(name)
        kind = part.get_dtype()
        if kind == "BF16":
            need("torch", "encoders")
            of_torch: Any = safe_open(path, framework="pt")
            found[name] = _from_torch(of_torch.get_tensor(name), f"{path}: {name!r}")
        elif kind in _TYPES:
            found[name] = _Slice(part, tuple(part.get_shape()), np.dtype(_TYPES[kind]))
    return found


_OPENERS: dict[str, Callable[[Path], dict[str, Held]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
}
