"""Peak memory of one training step beyond what was held before it.

On CUDA the allocator keeps the figure. On a CPU no single counter can be trusted, so the *greater*
of two lower bounds is taken, each of which covers the other's blind spot:

- The running sum of PyTorch's allocation events (`torch.profiler`). Exact to the byte and
  repeatable, but blind to what a kernel takes from `malloc` on its own: `topk` of one row of
  1,048,576 values shows as 0.06 MiB and takes 16.
- The growth of the process' resident set to its high-water mark, which the kernel resets on request
  (`/proc/self/clear_refs`, Linux). Sees everything, but misses tensors that land in pages freed
  before. glibc is therefore told to `mmap` every block from 64 KiB up, and so to give it back at
  once. That slows each step a lot, so it happens in a child process, away from the timings.

Where both see the same tensors they agree within 3 % from 5 MiB up (peer, binary cells: 41.9 and
41.8 MiB at a queue of 1,048,576, with pairs 635.3 and 635.6). With many classes the peer's tensors
are small and the resident set misses half of them; there the events decide.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from _allocated import allocated_peak
from _workload import (
    CONTENDERS,
    Cell,
    draw_batch,
    fill_queue,
    make_loss,
    training_step,
)

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MMAP_FROM_BYTES = 64 * 1024


def keep_freed_memory() -> None:
    """Let `malloc` reuse freed blocks instead of giving them back to the system (glibc only).

    By default glibc decides from what the process freed before, so a timing would depend on the
    cells that came first. With 1,000 classes and a fresh heap the peer spends 16 of its 22 seconds
    a step in 9 million page faults; in a heap that `pauc` has used before, none. Without those
    faults both are at their best.
    """
    _mallopt(M_MMAP_MAX, 0)
    _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _mallopt(parameter: int, value: int) -> None:
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if set_option is not None:
            set_option(parameter, value)


def step_peaks(cell: Cell, device: str, *, validate: bool, seed: int) -> dict[str, int]:
    """Bytes by contender, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(
            _measure, cell, device, validate, seed, torch.get_num_threads()
        ).result()


def peak_of_steps(step_on_new_rows: Callable[[], Callable[[], object]]) -> int:
    """Bytes of a step on a CPU, from a process that measures nothing else afterwards."""
    _mallopt(M_MMAP_MAX, 1 << 16)
    _mallopt(M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
    # In this order: the first step of a process also loads code, which only the second counts.
    return max(allocated_peak(step_on_new_rows()), _resident_peak(step_on_new_rows()))


def _measure(cell: Cell, device: str, validate: bool, seed: int, threads: int) -> dict[str, int]:
    torch.set_num_threads(threads)
    _mallopt(M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
    return {name: _contender_peak(name, cell, device, validate, seed) for name in CONTENDERS}


def _contender_peak(contender: str, cell: Cell, device: str, validate: bool, seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    loss = make_loss(contender, cell, device, validate=validate)
    fill_queue(loss, draw_batch(cell, cell.queue, generator, device))

    def step_on_new_rows() -> Callable[[], object]:
        batch = draw_batch(cell, cell.batch, generator, device)
        return lambda: training_step(loss, batch)

    if device != "cpu":
        step_on_new_rows()()
        return _cuda_peak(step_on_new_rows())
    return peak_of_steps(step_on_new_rows)


def _resident_peak(step: Callable[[], object]) -> int:
    """0, the trivial lower bound, where the system has no resettable high-water mark."""
    if sys.platform != "linux":
        return 0
    # What lies freed in the heap would be used again, and not seen.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    step()
    return max(0, status_bytes("VmHWM") - before)


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _cuda_peak(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)
