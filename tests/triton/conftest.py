"""What the tests of the Triton step share: where they run, and blocks that are small.

On a CPU the kernels run by Triton's interpreter, which has to be asked for before triton is
imported: ``TRITON_INTERPRET=1 python -m pytest tests/triton``. Without that, and without a GPU, the
tests that take a step are skipped.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")


@pytest.fixture(scope="session", autouse=True)
def _needs_triton():
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")


@pytest.fixture(scope="session")
def device():
    """Where kernels can be run."""
    if DEVICE.type == "cpu" and not INTERPRETED:
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")
    if INTERPRETED:
        _patch_once()
    return DEVICE


def _patch_once() -> None:
    """Let the interpreter patch the language once a launch; it does so at each call of a function.

    That is three quarters of its time.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang
    patched: set[tuple[bool, ...]] = set()

    def patch_once(fn):
        names = list(fn.__globals__.values())
        seen = tuple(any(value is module for value in names) for module in (tl, tl.core))
        if seen in patched:
            return None  # a function that a kernel calls
        is_launch = not patched
        patched.add(seen)
        scope = patch(fn)
        if is_launch:
            restore = scope.restore

            def leave():
                patched.clear()
                restore()

            scope.restore = leave
        return scope

    interpreter._patch_lang = patch_once


@pytest.fixture
def small_blocks(device, monkeypatch):
    """Blocks so small that a few rows make several blocks and several segments."""
    del device
    from pauc.triton import entry, memory

    monkeypatch.setattr(memory, "BLOCK", 16)
    monkeypatch.setattr(memory, "MOST_SEGMENTS", 2)
    monkeypatch.setattr(entry, "BLOCK", 16)


@pytest.fixture
def everywhere(device, monkeypatch):
    """Let the backend be chosen for tensors of the tests' device, whatever that is."""
    del device
    from pauc import triton

    monkeypatch.setattr(triton, "runs_on", lambda _: True)
