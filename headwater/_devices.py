"""Devices and precisions that torch computes with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from headwater._extras import need
from headwater.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of encoders, when they encode and when they are trained."""
HeadPrecision = Literal["auto", "fp32", "bf16"]
"""Precision of heads that are trained by gradient descent."""


def resolve_device(device: str) -> str:
    """Return ``cuda`` or ``cpu``.

    Raises
    ------
    InputError
        When CUDA is requested but not available.
    """
    torch = need("torch", "encoders")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise InputError("--device cuda: torch finds no CUDA device on this machine. Pass --device cpu.")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, but is {device!r}.")
    return ("cuda" if there else "cpu") if device == "auto" else device


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
