"""Launches, host waits and the memory floor of a training step on CUDA; for `benchmarks/gpu.sh`.

Counts by PyTorch's profiler the kernels and copies that a step of `pauc` and of its peer put on the
device, and how often the host waited for it. Measures the device's bandwidth by a copy, and from it
the time in which the pool could be read once. The figures are added to the file that
`speed.py --device cuda` has written, which must be there.

    python benchmarks/launches.py benchmarks/results/speed-cuda.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from _workload import CONTENDERS, Cell, all_cells, draw_batch, fill_queue, make_loss, training_step
from torch.profiler import ProfilerActivity, profile

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
COPIED_BYTES = 2**28
COPIES = 20


def count_step(cell: Cell, contender: str) -> dict[str, int]:
    """What one step puts on the device, after some that are not counted."""
    generator = torch.Generator().manual_seed(0)
    loss = make_loss(contender, cell, "cuda")
    fill_queue(loss, draw_batch(cell, cell.queue, generator, "cuda"))
    batch = draw_batch(cell, cell.batch, generator, "cuda")
    for _ in range(3):
        training_step(loss, batch)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        training_step(loss, batch)
    events = profiler.events() or []
    on_device = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    waits = sum(e.name in WAITS for e in events)
    # The profiler itself waits once when it ends.
    return {"launches": len(on_device), "host_waits": max(waits - 1, 0)}


def bandwidth() -> float:
    """Return bytes a second of a copy on the device, read and written."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(COPIES):
        target.copy_(source)
    torch.cuda.synchronize()
    return 2 * COPIED_BYTES * COPIES / (time.perf_counter() - start)


def pool_bytes(cell: Cell) -> int:
    """Scores of all rows in float32, and the targets, flags and weights of a row."""
    return (cell.batch + cell.queue) * (4 * cell.num_classes + 8 + 1 + 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, help="of speed.py --device cuda")
    path = parser.parse_args().json
    report: dict[str, Any] = json.loads(path.read_text())
    speed = bandwidth()
    report["machine"]["measured_bytes_per_second"] = speed
    timed = {result["name"]: result for result in report["results"]}
    for cell in all_cells():
        if cell.name not in timed:
            continue
        result = timed[cell.name]
        # The peer is left out where one of its steps takes seconds.
        names = CONTENDERS if cell.num_classes < 1000 else ("pauc",)
        result["on_device"] = {name: count_step(cell, name) for name in names}
        result["floor_ms"] = 1e3 * pool_bytes(cell) / speed
        ours = result["ms_q25_median_q75"]["pauc"][1]
        print(
            f"{cell.name:<22}{ours:9.3f} ms, floor {result['floor_ms']:.4f} ms, "
            f"{result['on_device']}",
            flush=True,
        )
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
