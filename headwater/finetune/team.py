"""The processes that train together: one, or several with one device each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from headwater._devices import fast_at_bf16, resolve_device
from headwater._extras import need

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as TorchType

TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Team:
    """Processes started by ``accelerate launch`` (or ``torchrun``), or a single process.

    Parameters
    ----------
    device
        ``auto``, ``cpu`` or ``cuda``; each of several processes uses its own GPU.

    Attributes
    ----------
    device
        ``cpu`` or ``cuda``.
    size, rank
        Number of processes, and the index of this one.
    """

    def __init__(self, device: str) -> None:
        self.device = resolve_device(device)
        self._accelerator = need("accelerate", "encoders").Accelerator(cpu=self.device == "cpu")
        self.size: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def dtype(self, precision: str) -> TorchType:
        """Return the type of activations and matrix products."""
        torch = need("torch", "encoders")
        if precision == "auto":
            precision = "bf16" if self.device == "cuda" and fast_at_bf16(self.device) else "fp32"
        named: TorchType = getattr(torch, TYPES[precision])
        return named

    def computing(self, precision: str) -> AbstractContextManager[None]:
        """Compute activations and matrix products in a precision."""
        torch = need("torch", "encoders")
        dtype = self.dtype(precision)
        found: AbstractContextManager[None] = torch.autocast(self.device, dtype=dtype, enabled=dtype != torch.float32)
        return found

    def wrapped(self, module: Any) -> Any:
        """Return a module whose gradients are averaged over processes."""
        if self.size == 1:
            return module
        parallel = need("torch.nn.parallel", "encoders").DistributedDataParallel
        ids = None if self.device == "cpu" else [need("torch", "encoders").cuda.current_device()]
        # a batch may not use all parameters of a head, such as the embedding of a missing input
        return parallel(module, device_ids=ids, find_unused_parameters=True)

    def apart(self, wrapped: Any) -> AbstractContextManager[None]:
        """Do not synchronise gradients between processes until the last part of a step."""
        found: AbstractContextManager[None] = self._accelerator.no_sync(wrapped)
        return found

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a number over processes."""
        reduced: Tensor = self._accelerator.reduce(value, reduction="mean")
        return reduced

    def add_gradients(self, parameters: Sequence[Any]) -> None:
        """Add up gradients over processes, in place."""
        torch = need("torch", "encoders")
        for parameter in parameters if self.size > 1 else ():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def gathered(self, value: Any) -> list[Any]:
        """Return every process's value, in their order."""
        found: list[Any] = need("accelerate.utils", "encoders").gather_object([value])
        return found

    def wait(self) -> None:
        """Wait for the others."""
        self._accelerator.wait_for_everyone()
