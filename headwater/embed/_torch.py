"""Torch modules that only ever predict: loaded, frozen, moved and run in one place."""

from __future__ import annotations

import copy
import platform
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater._extras import need
from headwater.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch import dtype as TorchType

    from headwater.embed.encoder import Precision

SAFE_COSINE = 0.999


def resolve_device(device: str) -> str:
    """Return ``cuda`` or ``cpu``.

    Raises
    ------
    EncoderError
        When CUDA is asked for and not there.
    """
    torch = need("torch", "encoders")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise EncoderError("--device cuda: torch sees no CUDA device here. Pass --device cpu.")
    if device not in ("auto", "cpu", "cuda"):
        raise EncoderError(f"device must be auto, cpu or cuda, but is {device!r}.")
    return ("cuda" if there else "cpu") if device == "auto" else device


class Frozen:
    """A module in evaluation mode, without gradients, on its device and in its precision.

    Parameters
    ----------
    module
        Any torch module, its parameters in float32.
    device
        ``auto``, ``cpu`` or ``cuda``.
    precision
        ``fp32``, ``bf16``, ``fp16``; ``auto`` starts in fp32 until `settle` has tried bf16.
    """

    def __init__(self, module: nn.Module, device: str, precision: Precision) -> None:
        self.device = resolve_device(device)
        self.digest = digest_of(module)
        self.module = module.eval().requires_grad_(False).to(self.device)
        if self.device == "cpu" or _has_convolutions(module):
            self.module = self.module.to(memory_format=_torch().channels_last)
        self.asked = precision
        self.precision = "fp32"
        if precision not in ("auto", "fp32", "bf16", "fp16"):
            raise EncoderError(f"precision must be auto, fp32, bf16 or fp16, but is {precision!r}.")
        if precision not in ("auto", "fp32"):
            self.cast(precision)

    @property
    def dtype(self) -> TorchType:
        """The floating-point type that the module computes in."""
        torch = _torch()
        types: dict[str, TorchType] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return types[self.precision]

    def cast(self, precision: str) -> None:
        """Compute in ``precision`` from now on."""
        self.precision = precision
        self.module = self.module.to(self.dtype)

    def run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call ``function(module, *inputs)`` without gradients."""
        with _torch().inference_mode():
            return function(self.module, *inputs)

    def settle(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        """Go over to bf16, when that was left open, is fast here, and changes no pooled vector by much."""
        if self.asked != "auto" or self.precision != "fp32" or not fast_at_bf16(self.device):
            return
        torch = _torch()
        exact = self.run(function, *inputs).float()
        full = self.module
        self.module = copy.deepcopy(full)
        self.cast("bf16")
        near = self.run(function, *(x.to(self.dtype) if x.is_floating_point() else x for x in inputs)).float()
        cosine = torch.nn.functional.cosine_similarity(exact, near, dim=1)
        if not bool((cosine >= SAFE_COSINE).all()):
            self.module, self.precision = full, "fp32"

    def environment(self) -> dict[str, Any]:
        """Return versions, device and precision."""
        torch = _torch()
        name = torch.cuda.get_device_name() if self.device == "cuda" else platform.machine()
        return {"torch": torch.__version__, "device": f"{self.device} ({name})", "precision": self.precision}

    def restore(self, environment: Mapping[str, Any]) -> None:
        """Take over the precision of an earlier run, when it was left open."""
        earlier = environment.get("precision", "fp32")
        if self.asked == "auto" and earlier != self.precision:
            self.cast(earlier)
        if self.asked == "auto":
            self.asked = earlier


_one_thread = threading.local()


def use_one_thread() -> None:
    """Let this thread's torch operations run on this thread alone."""
    if not getattr(_one_thread, "set", False):
        _torch().set_num_threads(1)
        _one_thread.set = True


def fast_at_bf16(device: str) -> bool:
    """Whether plain bf16 is faster than fp32 on this device."""
    torch = _torch()
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(re.search(r"avx512_bf16|amx_bf16", _cpu_flags()))


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a state dict: safetensors, or a torch file without anything but tensors.

    Raises
    ------
    EncoderError
        When the file is missing or cannot be read.
    """
    path = Path(path)
    torch = _torch()
    if not path.is_file():
        raise EncoderError(f"--weights {path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = need("safetensors.torch", "encoders").load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise EncoderError(f"--weights {path}: cannot be read as weights ({_first_line(error)}).") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def fit_weights(module: nn.Module, state: Mapping[str, Any], source: str, optional: Sequence[str] = ()) -> None:
    """Load ``state`` into ``module``.

    Parameters
    ----------
    optional
        Prefixes of tensors that may be in ``state`` without being in ``module``, such as a classifier's.

    Raises
    ------
    EncoderError
        When tensors are missing, left over or of another shape; the message names them.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    extra = [n for n in state if n not in own and not n.startswith(tuple(optional))]
    shapes = [
        f"{n} {tuple(state[n].shape)} where {tuple(own[n].shape)} belongs"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("tensors missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise EncoderError(f"{source}: the weights do not fit this model: {'; '.join(problems)}.")
    module.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False)


def digest_of(module: nn.Module) -> str:
    """Return the BLAKE2b-128 digest of a module's parameters and buffers, names and shapes included."""
    state = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(_torch().uint8).numpy().data)
    return state.hexdigest()


def to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor as float32 on the CPU."""
    values: NDArray[np.float32] = tensor.float().cpu().numpy()
    return values


def _has_convolutions(module: nn.Module) -> bool:
    return any(isinstance(part, _torch().nn.Conv2d) for part in module.modules())


def _torch() -> Any:
    return need("torch", "encoders")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
