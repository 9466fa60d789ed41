"""What diagnostics, each option and each loss cost beside the plain step, in one run.

A step is a forward pass, a backward pass to the logits and the enqueueing of the batch. All
settings take turns on the same fresh batches, each with its own queue, so that a busy machine slows
all of them alike. A setting's plain step has the same surrogate and the defaults otherwise.

    python benchmarks/options.py                          # a minute
    python benchmarks/options.py --threads 1 --clock cpu --json benchmarks/results/options-cpu.json
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from _memory import keep_freed_memory
from _report import Table, describe, machine_facts, write_json
from _workload import Cell, draw_batch
from torch import Tensor, nn
from tqdm import tqdm

import pauc
from pauc import (
    PAUCAtBudgetLoss,
    RecallAtQuantileLoss,
    SmoothAPLoss,
    init_queue,
    pauc_loss_fn,
)
from pauc.native import extension
from pauc.presets import preset_for_budget

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
COLUMNS = {"setting": 46, "ms (quartiles)": 24, "times the plain step": 20}
PAIRS = {"surrogate": "pairwise", "beta": 0.02}
# What `for_budget` chooses for a budget of 0.5 %, 1,024 rows and a rate of 1 %.
RECIPE = preset_for_budget(0.005, batch_size=1024, positive_rate=0.01).options
CAP = 4096  # of `max_pool_size`
Step = Callable[[Tensor, Tensor], Tensor]


class Setting(NamedTuple):
    name: str
    plain: str  # the setting that it is compared with
    make: Callable[[Cell], Step]


def module(
    options: dict[str, Any], kind: type[nn.Module] = PAUCAtBudgetLoss, *, diagnostics: bool = False
) -> Callable[[Cell], Step]:
    """Return what makes the step of a module with a full queue."""

    def make(cell: Cell) -> Step:
        loss = kind(cell.num_classes, queue_size=cell.queue, **options)
        with torch.no_grad():
            loss(*draw_batch(cell, cell.queue, torch.Generator().manual_seed(0), "cpu"))
        if not diagnostics:
            return loss
        return lambda logits, targets: loss(logits, targets, return_diagnostics=True)[0]

    return make


def function(options: dict[str, Any]) -> Callable[[Cell], Step]:
    """Return what makes the step of the function on one full queue."""

    def make(cell: Cell) -> Step:
        rows = draw_batch(cell, cell.queue, torch.Generator().manual_seed(0), "cpu")
        _, queue = pauc_loss_fn(*rows, init_queue(cell.queue, cell.num_classes))
        return lambda logits, targets: pauc_loss_fn(logits, targets, queue, **options)[0]

    return make


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


SETTINGS = [
    Setting("trapezoid", "trapezoid", module({})),
    Setting("trapezoid, diagnostics", "trapezoid", module({}, diagnostics=True)),
    Setting("edge_gradient=implicit", "trapezoid", module({"edge_gradient": "implicit"})),
    Setting("budget_basis=population", "trapezoid", module({"budget_basis": "population"})),
    Setting(f"max_pool_size={CAP}", "trapezoid", module({"max_pool_size": CAP})),
    Setting("RecallAtQuantileLoss", "trapezoid", module({}, RecallAtQuantileLoss)),
    Setting(
        "RecallAtQuantileLoss, diagnostics",
        "trapezoid",
        module({}, RecallAtQuantileLoss, diagnostics=True),
    ),
    Setting("pairs", "pairs", module(PAIRS)),
    Setting("for_budget", "pairs", module(RECIPE)),
    Setting("pairs, diagnostics", "pairs", module(PAIRS, diagnostics=True)),
    Setting("pairs, population", "pairs", module({**PAIRS, "budget_basis": "population"})),
    Setting(f"pairs, max_pool_size={CAP}", "pairs", module({**PAIRS, "max_pool_size": CAP})),
    Setting("SmoothAPLoss", "trapezoid", module({}, SmoothAPLoss)),
    Setting("pauc_loss_fn", "pauc_loss_fn", function({})),
    Setting(
        "pauc_loss_fn, beta and temperature as tensors",
        "pauc_loss_fn",
        function({"beta": number(0.005), "temperature": number(0.1)}),
    ),
]


def measure(cell: Cell, seconds: float, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the milliseconds of the steps of each setting, steps taken in turns."""
    steps = {setting.name: setting.make(cell) for setting in SETTINGS}
    generator = torch.Generator().manual_seed(1)
    times: dict[str, list[float]] = {name: [] for name in steps}
    deadline = time.perf_counter() + seconds
    bar = tqdm(desc=cell.size, unit=" batches", leave=False, disable=None)
    gc.disable()  # a collection would fall to one setting and not to the others
    while time.perf_counter() < deadline or len(times["pairs"]) < 20:
        batch = draw_batch(cell, cell.batch, generator, "cpu")
        for name, step in steps.items():
            logits = batch.logits.clone().requires_grad_()
            start = clock()
            step(logits, batch.targets).backward()
            times[name].append((clock() - start) * 1e3)
        bar.update()
    gc.enable()
    bar.close()
    return {name: each[5:] for name, each in times.items()}  # the first ones find their bounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--sizes", nargs="+", default=["1,1024,16384", "10,1024,16384"])
    parser.add_argument("--operators", action="store_true", help="without native code")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    facts = machine_facts("cpu", ["pauc"]) | {"clock": args.clock}
    print(describe(facts))
    if args.operators:
        extension.ext = None
        print("by operators of torch")
    else:
        pauc.show_config()
    results = {}
    for size in args.sizes:
        cell = Cell("options", *map(int, size.split(",")), surrogate="")
        times = measure(cell, args.seconds, CLOCKS[args.clock])
        middle = {name: median(each) for name, each in times.items()}
        ratios = {s.name: middle[s.name] / middle[s.plain] for s in SETTINGS}
        results[cell.size] = {
            name: {"ms_q25_median_q75": quantiles(times[name]), "times_plain": ratios[name]}
            for name in times
        }
        table = Table(COLUMNS, markdown=True)
        print(f"\nclasses x batch + queue: {cell.size}\n\n{table.header()}")
        for name, each in times.items():
            low, mid, high = quantiles(each)
            print(table.row([name, f"{mid:.3f} ({low:.3f} to {high:.3f})", f"{ratios[name]:.2f}"]))
    if args.json:
        write_json(args.json, {"machine": facts, "seconds": args.seconds, "results": results})


if __name__ == "__main__":
    main()
