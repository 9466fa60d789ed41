"""`BandSampler` with a hundred million rows: bytes a row, and what a batch and a refresh cost.

    python benchmarks/scale.py [--rows 100000000]

Labels of one byte, of which a thousandth is positive. Memory is the growth of the resident set over
that of the labels; times are of the CPU.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pauc import BandSampler

BATCH_SIZE = 4096
STEPS = 200


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    n_rows = parser.parse_args().rows
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(n_rows, dtype=torch.uint8)
    targets[torch.randint(n_rows, (n_rows // 1000,), generator=generator)] = 1
    before = resident_mb()

    made = time.process_time()
    sampler = BandSampler(targets, BATCH_SIZE)
    print(f"made: {time.process_time() - made:.1f} s")
    batches = iter(sampler)

    def train() -> None:
        for _ in range(STEPS):
            rows = torch.tensor(next(batches))
            sampler.update(rows, torch.randn(len(rows), generator=generator))

    print(f"a batch and its update: {seconds(train) / STEPS * 1e3:.2f} ms")
    print(f"refresh by {STEPS} recorded batches: {seconds(sampler.refresh) * 1e3:.1f} ms")
    held = resident_mb() - before
    print(f"held: {held:,.0f} MB, {held * 2**20 / n_rows:.1f} bytes a row beside the labels' own 1")

    scores = torch.randn(n_rows, generator=generator)
    print(f"refresh by scores of all rows: {seconds(lambda: sampler.refresh(scores)):.1f} s")
    print(f"{len(sampler.hard_rows):,} hard rows")
    print(f"a batch and its update: {seconds(train) / STEPS * 1e3:.2f} ms")
    print(
        f"refresh: {seconds(sampler.refresh) * 1e3:.1f} ms, {sampler._hard[0].scans} scans so far"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak of the process: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
