"""Where the Triton step may run, and what to say of it."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from importlib.util import find_spec

import torch

# The oldest whose compiler was tried on the kernels.
OLDEST = (3, 3)


@cache
def is_installed() -> bool:
    """Return whether there is a triton that the kernels can use, without importing it."""
    if find_spec("triton") is None:
        return False
    try:
        version = metadata.version("triton").split(".")
    except metadata.PackageNotFoundError:  # under another name, of a version that is not known
        return False
    return (int(version[0]), int(version[1])) >= OLDEST


def runs_on(device: torch.device) -> bool:
    """Return whether steps on a device are launched as Triton kernels."""
    return device.type == "cuda" and is_installed()


def state() -> str:
    """Return whether triton is there, and when it is used."""
    return (
        "there, for CUDA tensors"
        if is_installed()
        else f"absent: there is no triton of {OLDEST[0]}.{OLDEST[1]} or later"
    )
