"""Bytes and time of a step on many ranks: a replicated queue against one in parts.

    python benchmarks/ranks.py [--ranks 1 2 4] [--rows 65536 1048576]

Processes on this machine, gloo on the loopback address. A step is forward and backward for a batch
of 1,024 rows a rank, 1 % of them positives, band [0, 0.005]. Ranks share the cores, so that time
is the CPU time of rank 0's process. Bytes are what a rank brings to the collectives of a step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from _report import RESULTS, describe, machine_facts
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss

BATCH, STEPS, POSITIVES = 1024, 7, 0.01
SURROGATES = ("trapezoid", "pairwise")


class SentBytes(TorchDispatchMode):
    """Counts collectives and the bytes that this rank brings to them."""

    calls = total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            lists = [a for a in args if isinstance(a, list) and a and torch.is_tensor(a[0])]
            self.calls += 1
            self.total += sum(tensor.nbytes for tensor in lists[-1])
        return func(*args, **(kwargs or {}))


def rows_like(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, generator=g) < POSITIVES).long()
    return torch.randn(count, 1, generator=g) + 2.5 * targets.unsqueeze(1), targets


def measure(rank: int, rows: int, surrogate: str, shard: bool) -> dict[str, Any]:
    """Run some steps over a full queue of `rows` rows and return this rank's figures."""
    loss_fn = PAUCAtBudgetLoss(
        1, queue_size=rows, surrogate=surrogate, shard_queue=shard, gather_distributed=True
    )
    held = loss_fn.queue_targets.shape[0]
    logits, targets = rows_like(held, seed=1 + rank if shard else 0)
    loss_fn.queue_scores.copy_(logits.T)
    loss_fn.queue_targets.copy_(targets)
    loss_fn.queue_iid.fill_(True)
    loss_fn.queue_weight.fill_(1.0)
    loss_fn.queue_fill.fill_(held)
    seconds = []
    for step in range(STEPS):
        logits, targets = rows_like(BATCH, seed=1000 * (step + 1) + rank)
        logits.requires_grad_()
        dist.barrier()
        start = time.process_time()
        loss_fn(logits, targets).backward()
        seconds.append(time.process_time() - start)
    with SentBytes() as sent:
        loss = loss_fn(logits, targets)
    return {
        "ms": 1e3 * statistics.median(seconds[1:]),
        "collectives": sent.calls,
        "bytes": sent.total,
        "queue_mib": sum(t.nbytes for t in loss_fn.queue) / 2**20,
        "loss": loss.item(),
    }


def work(rank: int, world: int, folder: str, all_rows: list[int]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world
    )
    settings = list(itertools.product(all_rows, SURROGATES, (False, True)))
    cells = []
    with tqdm(
        settings, desc=f"{world} rank(s)", unit="cell", disable=True if rank else None
    ) as bar:
        for rows, surrogate, shard in bar:
            queue = "parts" if shard else "whole"
            setting = {"ranks": world, "rows": rows, "surrogate": surrogate, "queue": queue}
            cells.append(setting | measure(rank, rows, surrogate, shard))
            bar.set_postfix(loss=f"{cells[-1]['loss']:.3f}")
    if rank == 0:
        with open(f"{folder}/{world}.json", "w") as file:
            json.dump(cells, file)
    dist.barrier()
    dist.destroy_process_group()


def measure_ranks(worlds: Iterable[int], rows: list[int]) -> list[dict[str, Any]]:
    """Return a cell for each number of ranks, queue size, surrogate and way to hold the queue."""
    cells = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            processes = [
                context.Process(target=work, args=(rank, world, folder, rows))
                for rank in range(world)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            with open(f"{folder}/{world}.json") as file:
                cells += json.load(file)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, nargs="+", default=[1 << 16, 1 << 20])
    arguments = parser.parse_args()
    facts = machine_facts("cpu", ["pauc"])
    cells = measure_ranks(arguments.ranks, arguments.rows)
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / "ranks-cpu.json", "w") as file:
        json.dump({"machine": facts, "cells": cells}, file, indent=1)
    print(describe(facts) + "\n")
    columns = list(cells[0])
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for cell in cells:
        shown = [f"{v:.4g}" if isinstance(v, float) else f"{v}" for v in cell.values()]
        print(f"| {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
