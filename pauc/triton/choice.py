"""Where the Triton step may run, and what to say of it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch


@cache
def is_installed() -> bool:
    """Return whether triton can be imported, without importing it."""
    return find_spec("triton") is not None


def runs_on(device: torch.device) -> bool:
    """Return whether steps on a device are launched as Triton kernels."""
    return device.type == "cuda" and is_installed()


def state() -> str:
    """Return whether triton is there, and when it is used."""
    return "there, for CUDA tensors" if is_installed() else "absent: triton is not installed"
