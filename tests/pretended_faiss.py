"""A build of FAISS for a GPU, on a machine without one: its indexes on a GPU do no more than the real ones do.

An index on the pretended GPU holds its vectors on the CPU. But it is searched without parameters, for at most 2,048
neighbours, and in at most as many lists; it has no graphs, and only codes of 8 bits in some numbers of pieces.
"""

from __future__ import annotations

import faiss

PIECES = {1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96}
MOST = 2048
SHARED_BYTES = 49_152


class Resources:
    """What `faiss.StandardGpuResources` is."""


class Options:
    """What `faiss.GpuClonerOptions` is, as far as it is used."""

    __slots__ = ("useFloat16",)

    def __init__(self):
        self.useFloat16 = False


class Gpu:
    """The pretended GPU, and all that was put on it.

    Attributes
    ----------
    memory
        Most vectors of an index that fit into its memory; None for any number.
    centres
        Indexes that were made to be trained with, in the order of their making.
    found
        Number of vectors whose nearest centre was asked for.
    trained
        Number of centres that k-means left in an index, each time one was emptied.
    copies
        Number of copies of whole indexes.
    """

    def __init__(self, memory):
        self.memory, self.centres, self.found, self.trained, self.copies = memory, [], 0, [], 0

    def hold(self, n):
        """Raise what FAISS raises if so many vectors do not fit."""
        if self.memory is not None and n > self.memory:
            raise RuntimeError(
                "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const faiss::gpu::"
                "AllocRequest&) at /faiss/gpu/StandardGpuResources.cpp:531: Error: 'err == cudaSuccess' failed: "
                "StandardGpuResources: alloc fail type FlatData dev 0 space Device stream 0x0 size 3072 bytes "
                "(cudaMalloc error out of memory [2])\n"
            )


def _refuse(said):
    raise RuntimeError(f"Error in faiss::gpu::GpuIndex at /faiss/gpu/GpuIndex.cu:1: Error: 'ok' failed: {said}")


class _Copy:
    """A copy of an index on the pretended GPU."""

    def __init__(self, native, options):
        own = faiss.downcast_index(native.index) if isinstance(native, faiss.IndexIDMap) else native
        if isinstance(own, faiss.IndexHNSW):
            _refuse("This index type is not implemented on GPU.")
        if isinstance(own, faiss.IndexIVFPQ):
            if own.pq.nbits != 8:
                _refuse("GPU: only pq.nbits == 8 is supported")
            if own.pq.M not in PIECES:
                _refuse(f"Number of bytes per encoded vector / sub-quantizers ({own.pq.M}) is not supported")
            if (2 if options.useFloat16 else 4) * own.pq.M * 256 > SHARED_BYTES:
                _refuse("Consider useFloat16LookupTables and/or reduce parameters")
        elif options.useFloat16:
            raise AssertionError("vectors lose precision")
        self._native, self._is_ivf = faiss.clone_index(native), isinstance(own, faiss.IndexIVF)

    def __setattr__(self, name, value):
        if not name.startswith("_") and not (name == "nprobe" and self._is_ivf):
            raise AssertionError(f"{name} has no effect")
        super().__setattr__(name, value)

    def search(self, x, k):
        if k > MOST:
            _refuse(f"GPU index only supports min/max-K selection up to {MOST} (requested {k})")
        if self._is_ivf:
            assert self.nprobe <= MOST
            self._native.nprobe = self.nprobe
        return self._native.search(x, k)


def install(monkeypatch, *, memory=None, n_gpus=1):
    """Let the installed FAISS be a build for a GPU that sees some; return what happens on the first."""
    gpu = Gpu(memory)

    def centres(kind):
        class Centres(kind):
            def __init__(self, resources, dim):
                assert isinstance(resources, Resources)
                super().__init__(dim)
                gpu.centres.append(self)

            def add(self, x):
                gpu.hold(len(x))
                super().add(x)

            def reset(self):
                gpu.trained.append(self.ntotal)
                super().reset()

            def search(self, x, k):
                gpu.found += len(x)
                return super().search(x, k)

        return Centres

    def to_gpu(resources, device, index, options):
        assert isinstance(resources, Resources)
        assert device == 0
        gpu.hold(index.ntotal)
        made = _Copy(index, options)
        gpu.copies += 1
        return made

    parts = {
        "StandardGpuResources": Resources,
        "GpuClonerOptions": Options,
        "GpuIndexFlatIP": centres(faiss.IndexFlatIP),
        "GpuIndexFlatL2": centres(faiss.IndexFlatL2),
        "index_cpu_to_gpu": to_gpu,
        "get_num_gpus": lambda: n_gpus,
    }
    for name, part in parts.items():
        monkeypatch.setattr(faiss, name, part, raising=False)
    return gpu
