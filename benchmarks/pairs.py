"""Pairs without their matrix: time and memory, forward and backward.

    python benchmarks/pairs.py             # 10 k to 160 k positives and as many negatives: 30 s

First `pairwise_pauc`: the time must double with the scores; the pairs, of which 160 k have 25.6
billion, grow fourfold. Then a step of `smooth_ap_loss_fn`, which counts all rows for each positive,
as a native step and by operators of torch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from _allocated import allocated_peak
from _memory import keep_freed_memory
from _report import Table, describe, machine_facts
from _workload import Cell, draw_batch
from tqdm import tqdm

from pauc import enqueue, init_queue, pairwise_pauc, smooth_ap_loss_fn
from pauc.native import extension

SIZES = (10_000, 20_000, 40_000, 50_000, 80_000, 160_000)
SMOOTH_AP = ((1, 16_384), (10, 16_384), (100, 2048), (100, 16_384))  # classes, queue
MEASURED = {"ms (CPU time)": 14, "extra MB": 9, "value": 8}

Step = Callable[[], torch.Tensor]


def pairwise_step(size: int, link: str) -> Step:
    torch.manual_seed(0)
    positives = (torch.randn(size) + 1).requires_grad_()
    negatives = torch.randn(size).requires_grad_()

    def step() -> torch.Tensor:
        value = pairwise_pauc(positives, negatives, torch.tensor(0.5), link=link)
        value.backward()
        positives.grad = negatives.grad = None
        return value.detach()

    return step


def smooth_ap_step(cell: Cell) -> Step:
    generator = torch.Generator().manual_seed(0)
    empty = init_queue(cell.queue, cell.num_classes)
    queue = enqueue(empty, *draw_batch(cell, cell.queue, generator, "cpu"))
    logits, targets = draw_batch(cell, cell.batch, generator, "cpu")
    logits.requires_grad_()

    def step() -> torch.Tensor:
        loss, _ = smooth_ap_loss_fn(logits, targets, queue)
        loss.backward()
        logits.grad = None
        return loss.detach()

    return step


def measure(step: Step, repeats: int) -> list[str]:
    times = []
    for _ in tqdm(range(repeats), leave=False, disable=None):
        start = time.process_time()
        value = step()
        times.append((time.process_time() - start) * 1e3)
    return [f"{median(times):.3g}", f"{allocated_peak(step) / 1e6:.0f}", f"{value:.4f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = Table({"link": 10, "positives = negatives": 22, **MEASURED}, markdown=True)
    print(f"{describe(machine_facts('cpu', ['pauc']))}\n\n{table.header()}")
    for link in ("sigmoid", "logistic"):
        for size in SIZES:
            row = measure(pairwise_step(size, link), args.repeats)
            print(table.row([link, f"{size:,}", *row]), flush=True)

    columns = {"Smooth-AP, classes": 18, "batch + queue": 16, "by": 9}
    table = Table({**columns, **MEASURED}, markdown=True)
    print(f"\n{table.header()}")
    native = extension.ext
    for classes, queue in SMOOTH_AP:
        cell = Cell("smooth-ap", classes, 1024, queue, "pairs")
        for way, code in {"native": native, "operators": None}.items():
            extension.ext = code
            row = measure(smooth_ap_step(cell), args.repeats)
            first = [f"{classes}", f"{cell.batch:,} + {queue:,}", way]
            print(table.row([*first, *row]), flush=True)


if __name__ == "__main__":
    main()
