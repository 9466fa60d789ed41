"""Where the Triton step may run, and what to say of it."""

from __future__ import annotations

import os
from functools import cache
from importlib import metadata
from importlib.util import find_spec

import torch

# The oldest whose compiler was tried on the kernels.
OLDEST = (3, 3)
# Kernels that have run on no GPU are not put into everyone's training. Where this variable is 1
# they are taken; it goes when benchmarks/gpu.sh has passed on one.
ASKED_BY = "PAUC_TRITON"


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
    return device.type == "cuda" and _is_asked_for() and is_installed()


@cache
def _is_asked_for() -> bool:
    return os.environ.get(ASKED_BY) == "1"


def state() -> str:
    """Return whether triton is there, and when it is used."""
    if not is_installed():
        return f"absent: there is no triton of {OLDEST[0]}.{OLDEST[1]} or later"
    if not _is_asked_for():
        return f"there, for CUDA tensors where {ASKED_BY}=1 asks for it: it has run on no GPU yet"
    return "there, for CUDA tensors"
