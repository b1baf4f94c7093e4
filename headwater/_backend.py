"""Where arrays are computed: by NumPy on the CPU, or by another array library on its device."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import NDArray

from headwater._devices import Device, cuda_there, resolve_device
from headwater._extras import need
from headwater.errors import DeviceMemory

T = TypeVar("T")
Where = TypeVar("Where")
Array = Any
REMEDY = "Free some of it"
WORTHWHILE = 1e12
"""Least number of floating-point operations for which ``auto`` takes a GPU: below it, starting CUDA takes longer than
the CPU's cores take for all of them (benchmarks/gpu.py measures both)."""


@dataclass(frozen=True)
class Backend:
    """An array library, and the device that its arrays are on.

    Attributes
    ----------
    xp
        The library, with the functions of the Python array API standard.
    device
        The device, as the library names it; None for NumPy.
    """

    xp: Any
    device: Any = None

    @classmethod
    def of(cls, X: Any) -> Backend | None:
        """Return the backend of an array of another library; None for NumPy's arrays and for array-likes."""
        if isinstance(X, np.ndarray) or hasattr(X, "blocks") or not hasattr(X, "__dlpack__"):
            return None
        return cls(array_namespace(X), device_of(X))

    @property
    def is_numpy(self) -> bool:
        """Whether arrays are NumPy's."""
        return self.device is None

    def put(self, values: Any, dtype: Any = None) -> Array:
        """Return values as an array of this backend, of their own type unless another is given."""
        return self.xp.asarray(values, dtype=dtype, **({} if self.is_numpy else {"device": self.device}))

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array of zeros."""
        return self.xp.zeros(shape, dtype=dtype, **({} if self.is_numpy else {"device": self.device}))

    def free_bytes(self) -> int | None:
        """Return the free memory of a CUDA device; None elsewhere."""
        return free_bytes(self.device) if str(self.device).startswith("cuda") else None


NUMPY = Backend(np)
"""NumPy follows the array API standard itself. The namespace of array_api_compat would import all of its submodules."""


def free_bytes(device: Any = None) -> int:
    """Return the memory of a CUDA device, by default the current one, that is free or kept by torch for later use."""
    torch = need("torch", "encoders")
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def to_numpy(array: Array) -> NDArray[Any]:
    """Return an array of any library as NumPy's."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def backend_for(device: Device, work: float) -> Backend:
    """Return where to compute: for ``auto``, on a GPU if there is one and the work is worthwhile.

    Parameters
    ----------
    device
        ``auto``, ``cpu`` or ``cuda``.
    work
        About how many floating-point operations there are to do.

    Raises
    ------
    InputError
        When CUDA is requested but not available.
    """
    if device == "auto":
        device = "cuda" if work >= WORTHWHILE and cuda_there() else "cpu"
    return on_cuda() if resolve_device(device) == "cuda" else NUMPY


def on_cuda() -> Backend:
    """Return the backend of torch on the CUDA device in use."""
    torch = need("torch", "encoders")
    return Backend(need("array_api_compat.torch", "encoders"), torch.device("cuda", torch.cuda.current_device()))


def computed(compute: Callable[[Backend], T], device: Device, *, work: float, what: str, X: Any = None) -> T:
    """Compute where `backend_for` says; if a GPU runs out of memory under ``auto``, compute on the CPU, with a warning.

    An array X of another library than NumPy is computed with where it is.

    Parameters
    ----------
    compute
        Computes on a backend. It is called a second time, with NumPy, if the GPU's memory is too small.
    device, work
        See `backend_for`.
    what
        What is computed, for messages, such as "linear heads".
    X
        The array to compute with, if it may be one of another library.

    Raises
    ------
    DeviceMemory
        When a GPU that was requested runs out of memory.
    """
    own = Backend.of(X)
    backend = own or backend_for(device, work)
    if backend.is_numpy:
        return compute(backend)
    with full_precision():
        return or_on_cpu(compute, backend, NUMPY, requested=device != "auto" or own is not None, what=what)


def on_device(compute: Callable[[str], T], device: Device, *, what: str, remedy: str = REMEDY) -> T:
    """Call a function with ``cuda`` or ``cpu``, as `resolve_device` says, with `or_on_cpu` if memory runs out."""
    where = resolve_device(device)
    if where == "cpu":
        return compute("cpu")
    return or_on_cpu(compute, where, "cpu", requested=device != "auto", what=what, remedy=remedy)


def or_on_cpu(
    compute: Callable[[Where], T], gpu: Where, cpu: Where, *, requested: bool, what: str, remedy: str = REMEDY
) -> T:
    """Compute on a GPU; if its memory is too small and it was not requested, compute on the CPU, with a warning.

    Raises
    ------
    DeviceMemory
        When a GPU that was requested runs out of memory; the message says what is computed and the remedy.
    """
    try:
        return compute(gpu)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if requested:
            raise DeviceMemory(f"{what}: the GPU ran out of memory. {remedy}, or pass --device cpu.") from error
    warnings.warn(f"{what}: the GPU ran out of memory, so the CPU computes.", stacklevel=3)
    return compute(cpu)


def product(values: Any, matrix: NDArray[np.float64], device: Device) -> NDArray[np.float64]:
    """Multiply rows of features ``(n, d)`` with a matrix ``(d, k)`` in float64, where `computed` says."""
    work = 2.0 * values.shape[0] * matrix.size

    def multiplied(backend: Backend) -> NDArray[np.float64]:
        rows = backend.xp.astype(backend.put(values), backend.xp.float64)
        return to_numpy(rows @ backend.put(matrix, backend.xp.float64))

    return computed(multiplied, device, work=work, what="predictions", X=values)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, XGBoost or FAISS says that a GPU's memory is too small."""
    if "StandardGpuResources: alloc fail" in str(error):  # a plain RuntimeError of FAISS
        return True
    known = type(error).__name__ in ("OutOfMemoryError", "AcceleratorError", "XGBoostError")
    return known and bool(re.search("out of memory|memory_?alloc", str(error), re.IGNORECASE))


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices at full precision while the body runs, not with the 10 bits of TF32."""
    torch = need("torch", "encoders")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
