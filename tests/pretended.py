"""A device that is not the CPU, on a machine without one: its tensors may not meet those of the CPU, as on a GPU.

Tensors of the pretended device hold their values on the CPU, and torch runs every operation on these. But an operation
that mixes both kinds of tensors raises the error that it raises on a GPU, and so does turning one into a NumPy array.
The device is called ``meta``, since torch asks a driver about each call with a CUDA tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import array_api_compat.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from headwater import _backend, _devices

DEVICE = torch.device("meta")
MAY_MIX = ("copy_", "_to_copy", "index", "lift")
"""Operations that a GPU does with a tensor on the CPU too, such as an index."""


class _Pretended(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=DEVICE, **layout)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, None)


class _Mode(TorchDispatchMode):
    def __init__(self, memory):
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, self.memory)


def _run(function, args, kwargs, memory):
    leaves = tree_leaves((args, kwargs))
    here = [part for part in leaves if isinstance(part, _Pretended)]
    others = [part for part in leaves if type(part) is torch.Tensor and part.dim()]
    name = function.__name__
    if here and others and not name.startswith(MAY_MIX):
        raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
    target = kwargs.get("device")
    on_device = bool(here) if target is None else torch.device(target) == DEVICE
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}

    def inner(part):
        return part.inner if isinstance(part, _Pretended) else part

    same = {id(part.inner): part for part in here}
    out = function(*tree_map(inner, args), **tree_map(inner, kwargs))

    def outer(part):
        if not isinstance(part, torch.Tensor):
            return part
        if on_device and memory is not None and part.numel() * part.element_size() > memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return same.get(id(part), _Pretended(part) if on_device else part)

    return tree_map(outer, out)


@contextmanager
def pretended(memory: int | None = None) -> Iterator[torch.device]:
    """Make `DEVICE` usable while the body runs; a tensor of more than ``memory`` bytes does not fit into it."""
    with _Mode(memory):
        yield DEVICE


def in_place_of_cuda(monkeypatch) -> None:
    """Let ``cuda`` be there, and stand for the pretended device wherever a backend is chosen."""
    monkeypatch.setattr(_devices, "_driver_there", lambda: True)
    monkeypatch.setattr(_devices, "_missing_cuda", lambda: None)
    monkeypatch.setattr(_backend, "on_cuda", lambda: _backend.Backend(array_api_compat.torch, DEVICE))
