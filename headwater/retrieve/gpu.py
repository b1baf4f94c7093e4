"""FAISS on a GPU: whether it is used, k-means and the choice of lists there, and copies of indexes to search."""

from __future__ import annotations

import re
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from headwater._backend import WORTHWHILE, is_out_of_memory
from headwater._devices import Device
from headwater.errors import InputError
from headwater.retrieve.library import CPU, faiss_library, load_faiss

MOST_FOUND = 2048
"""Most neighbours, and most lists, that FAISS selects on a GPU."""


def uses_gpu(device: Device, work: float) -> bool:
    """Whether FAISS computes on a GPU: for ``auto``, if it can use one and the work is worthwhile.

    Parameters
    ----------
    device
        ``auto``, ``cpu`` or ``cuda``.
    work
        About how many floating-point operations there are to do.

    Raises
    ------
    InputError
        When a GPU is requested, but the installed build of FAISS cannot use one, or sees none.
    """
    if device not in get_args(Device):
        raise InputError(f"device must be auto, cpu or cuda, but is {device!r}.")
    if device == "cpu" or (device == "auto" and work < WORTHWHILE):
        return False
    faiss = load_faiss()
    has_gpu = hasattr(faiss, "StandardGpuResources")
    if has_gpu and faiss.get_num_gpus() > 0:
        return True
    if device == "auto":
        return False
    builds = faiss_library().builds
    named = " and ".join(f"{name} {found}" for name, found in builds.items())
    if has_gpu:
        what = f"{named} sees no GPU. See what nvidia-smi says: the driver may be too old for this build"
    else:
        removed = " ".join(builds) or CPU
        what = f"{named} uses only the CPU. Run on Linux: pip uninstall -y {removed} && pip install 'headwater[gpu]'"
    raise InputError(f"--device cuda: {what}, or pass --device cpu.")


class Lists:
    """The centres of an IVF index on a GPU: they are trained there, and vectors find their lists there.

    The index itself stays on the CPU. So it may hold more than the GPU's memory does, its codes may have any length,
    and it is saved as it is.
    """

    def __init__(self, native: Any) -> None:
        faiss = load_faiss()
        self._native = native
        self._resources = faiss.StandardGpuResources()
        self._centres = faiss.GpuIndexFlatIP(self._resources, native.d)

    def train(self, sample: NDArray[np.float32]) -> None:
        """Train the index, with all of its k-means on the GPU."""
        faiss, native = load_faiss(), self._native
        pq: Any = getattr(native, "pq", None)
        pieces = None if pq is None else faiss.GpuIndexFlatL2(self._resources, pq.dsub)
        try:
            native.clustering_index = self._centres
            if pieces is not None:
                pq.assign_index = pieces
            native.train(sample)
        finally:
            native.clustering_index = None
            self._centres.this.own(True)  # FAISS's wrapper gave it up when it became a part of another object
            if pieces is not None:
                pq.assign_index = None
                pieces.this.own(True)
        self._centres.reset()
        self._centres.add(native.quantizer.reconstruct_n(0, native.nlist))

    def add(self, vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Add vectors to the index, each to the list whose centre the GPU finds nearest."""
        pointer = load_faiss().swig_ptr
        lists = np.ascontiguousarray(self._centres.search(vectors, 1)[1][:, 0])
        self._native.add_core(len(vectors), pointer(vectors), pointer(ids), pointer(lists))


def copy_on_gpu(native: Any, *, half: bool) -> Any:
    """Return a copy of an index on the first GPU.

    Parameters
    ----------
    half
        Whether tables of similarities are float16, as many pieces of product quantization need.

    Raises
    ------
    InputError
        When FAISS cannot have such an index on a GPU.
    """
    faiss = load_faiss()
    options = faiss.GpuClonerOptions()
    options.useFloat16 = half
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, native, options)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        said = re.split(r" failed: |\.\w+:\d+: ", str(error).splitlines()[0])[-1].rstrip(
            ". "
        )  # without functions and files
        raise InputError(f"device='cuda': FAISS cannot search this index on a GPU: {said}. Pass 'cpu'.") from error
