"""Pairs without their matrix: time and memory of `pairwise_pauc`, forward and backward.

    python benchmarks/pairs.py             # 10 k to 160 k positives and as many negatives: 20 s

The time must double with the scores; the pairs, of which 160 k have 25.6 billion, grow fourfold.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from statistics import median

import torch
from _allocated import allocated_peak
from _memory import keep_freed_memory
from _report import Table, describe, machine_facts
from tqdm import tqdm

from pauc import pairwise_pauc

SIZES = (10_000, 20_000, 40_000, 50_000, 80_000, 160_000)
COLUMNS = {"link": 10, "positives = negatives": 22, "ms (CPU time)": 14, "extra MB": 9, "value": 8}


def step(positives: torch.Tensor, negatives: torch.Tensor, link: str) -> torch.Tensor:
    value = pairwise_pauc(positives, negatives, torch.tensor(0.5), link=link)
    value.backward()
    positives.grad = negatives.grad = None
    return value.detach()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = Table(COLUMNS, markdown=True)
    print(f"{describe(machine_facts('cpu', ['pauc']))}\n\n{table.header()}")
    for link in ("sigmoid", "logistic"):
        for size in SIZES:
            torch.manual_seed(0)
            positives = (torch.randn(size) + 1).requires_grad_()
            negatives = torch.randn(size).requires_grad_()
            times = []
            for _ in tqdm(range(args.repeats), desc=f"{link} {size:,}", leave=False, disable=None):
                start = time.process_time()
                value = step(positives, negatives, link)
                times.append((time.process_time() - start) * 1e3)
            peak = allocated_peak(partial(step, positives, negatives, link))
            row = [f"{median(times):.0f}", f"{peak / 1e6:.0f}", f"{value:.4f}"]
            print(table.row([link, f"{size:,}", *row]), flush=True)


if __name__ == "__main__":
    main()
