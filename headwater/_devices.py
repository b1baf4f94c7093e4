"""Devices and precisions that torch computes with."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from headwater._extras import need
from headwater.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of encoders, when they encode and when they are trained."""
HeadPrecision = Literal["auto", "fp32", "bf16"]
"""Precision of heads that are trained by gradient descent."""
_OF_DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")
"""Files of drivers on Linux: of NVIDIA's, of Windows' under WSL, and of AMD's."""


def resolve_device(device: str) -> str:
    """Return ``cuda`` or ``cpu``; ``auto`` is a GPU if there is one.

    Raises
    ------
    InputError
        When CUDA is requested but not available; the message says what was found, and what to do.
    """
    if device not in get_args(Device):
        raise InputError(f"device must be auto, cpu or cuda, but is {device!r}.")
    if device == "cpu" or (device == "auto" and not cuda_there()):
        return "cpu"
    if device == "cuda" and (missing := _missing_cuda()) is not None:
        raise InputError(f"--device cuda: {missing}, or pass --device cpu.")
    return "cuda"


def require_device(device: str) -> None:
    """Raise `InputError` for an unknown device, and for CUDA where it is not available; import torch only for CUDA."""
    if device not in ("auto", "cpu"):
        resolve_device(device)


def cuda_there() -> bool:
    """Whether torch can use a CUDA device; torch is imported only where there may be one."""
    return _driver_there() and find_spec("torch") is not None and _missing_cuda() is None


def _driver_there() -> bool:
    """Whether a GPU's driver may be there; on Linux it shows in files, so that torch need not be imported."""
    return "torch" in sys.modules or sys.platform != "linux" or any(map(os.path.exists, _OF_DRIVERS))


def _missing_cuda() -> str | None:
    """Say why torch cannot use a CUDA device, and what to do; None if it can."""
    torch = need("torch", "encoders")
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built for the CPU. Install a build for CUDA (pytorch.org)"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs. Set it to 0 for the first"
    built = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
    if not any(map(os.path.exists, _OF_DRIVERS)):
        return f"{built} finds no GPU, and no GPU driver is installed. Install NVIDIA's driver if there is a GPU"
    return f"{built} finds no GPU. See what nvidia-smi says: the driver may be too old for this torch"


def fast_at_bf16(device: str) -> bool:
    """Whether plain bf16 is faster than fp32 on this device."""
    torch = need("torch", "encoders")
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(re.search(r"avx512_bf16|amx_bf16", _cpu_flags()))


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
