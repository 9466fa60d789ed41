"""How a step and `BandSampler` grow with rows, classes and ranks; what a second thread would give.

    python benchmarks/scale.py step [--update-readme]      # some minutes, 3 GB
    python benchmarks/scale.py sampler [--rows 100000000]  # a minute, 2.2 GB

`step`: forward, backward and entry of a batch. One thread, CPU time, the best of several steps, so
that a busy machine disturbs little. *Held* is the queue, *extra* the most that a step takes beyond
it (`_memory.py`). The exponent is the slope of the logarithm over the last three sizes, where a
step's fixed price matters least.

`sampler`: labels of one byte, of which a thousandth is positive. Memory is the growth of the
resident set over that of the labels; times are of the CPU.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _memory import keep_freed_memory, peak_of_steps
from _report import HERE, RESULTS, Table, describe, machine_facts, replace_in_readme, write_json
from _workload import Cell, draw_batch, fill_queue, training_step
from ranks import measure_ranks
from torch import nn
from tqdm import tqdm

from pauc import BandSampler, PAUCAtBudgetLoss, SmoothAPLoss

LOSSES = ("trapezoid", "pairwise", "smooth-ap")
ROWS = (1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)  # of the queue, one class
CLASSES = (1, 10, 100, 1000, 10_000)  # a batch of 256 rows, a queue of 1,024
RANKS, RANK_ROWS = (1, 2, 4), 1 << 16
SPLIT_ROWS = (1 << 20, 1 << 22)
SECONDS, LEAST_STEPS, MOST_STEPS = 1.0, 4, 100
BATCH_SIZE, SAMPLER_STEPS = 4096, 200


def make_loss(cell: Cell) -> nn.Module:
    if cell.surrogate == "smooth-ap":
        return SmoothAPLoss(cell.num_classes, queue_size=cell.queue)
    return PAUCAtBudgetLoss(cell.num_classes, queue_size=cell.queue, surrogate=cell.surrogate)


def filled_loss(cell: Cell, generator: torch.Generator) -> nn.Module:
    loss = make_loss(cell)
    fill_queue(loss, draw_batch(cell, cell.queue, generator, "cpu"))
    return loss


def best_ms(step: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the best of several steps, the first of which is not counted."""
    step()
    times: list[float] = []
    while len(times) < LEAST_STEPS or (sum(times) < SECONDS and len(times) < MOST_STEPS):
        start = clock()
        step()
        times.append(clock() - start)
    return 1e3 * min(times)


def measure(cell: Cell) -> dict[str, float]:
    torch.set_num_threads(1)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    loss = filled_loss(cell, generator)
    batches = [draw_batch(cell, cell.batch, generator, "cpu") for _ in range(4)]

    def step() -> None:
        batches.append(batches.pop(0))
        training_step(loss, batches[0])

    ms = best_ms(step, time.process_time)
    held = sum(part.nbytes for part in loss.queue) / 2**20
    return {"ms": ms, "held_mib": held, "extra_mib": peak_of_steps(lambda: step) / 2**20}


def measure_split(rows: int, surrogate: str) -> dict[str, float]:
    """Return the wall clock of a step, and of two steps at once on halves of its pool.

    A native step lets go of the interpreter's lock, so that the halves run in two threads. Together
    they read what the whole step reads: what they gain is the most that a split can gain.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    ms = []
    for parts in (1, 2):
        cell = Cell("split", 1, 4096 // parts, rows // parts, surrogate)
        losses = [filled_loss(cell, generator) for _ in range(parts)]
        batches = [draw_batch(cell, cell.batch, generator, "cpu") for _ in range(parts)]
        with ThreadPoolExecutor(parts) as threads:

            def step(losses: list[nn.Module] = losses, batches: list[Any] = batches) -> None:
                list(threads.map(training_step, losses, batches))

            ms.append(best_ms(step, time.perf_counter))
    return {"whole_ms": ms[0], "halves_ms": ms[1]}


def exponent(sizes: Iterable[int], values: Iterable[float]) -> float:
    """Return the slope of log value by log size over the last three points, by least squares."""
    x, y = ([math.log(v) for v in part][-3:] for part in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def with_exponents(axis: str, loss: str, points: list[dict[str, float]]) -> dict[str, Any]:
    sizes = [int(point[axis]) for point in points]
    slopes = {
        f"exponent_{name}": exponent(sizes, [point[name] for point in points])
        for name in ("ms", "extra_mib")
        if name in points[0]
    }
    return {"axis": axis, "loss": loss, "points": points, **slopes}


def cells_of(axis: str, loss: str) -> list[tuple[int, Cell]]:
    if axis == "rows":
        return [(rows, Cell(axis, 1, 1024, rows, loss)) for rows in ROWS]
    return [(classes, Cell(axis, classes, 256, 1024, loss)) for classes in CLASSES]


def measure_here() -> dict[str, Any]:
    """Return what one process measures: rows and classes, and the halves of a pool."""
    series = []
    for axis in ("rows", "classes"):
        for loss in LOSSES:
            bar = tqdm(cells_of(axis, loss), desc=f"{axis}, {loss}", disable=None)
            points = [{axis: size} | measure(cell) for size, cell in bar]
            series.append(with_exponents(axis, loss, points))
            print(series[-1], flush=True)
    split = [
        {"rows": size, "loss": loss} | measure_split(size, loss)
        for size in SPLIT_ROWS
        for loss in LOSSES
    ]
    return {"series": series, "split": split}


def measure_many_ranks() -> list[Any]:
    cells = measure_ranks(RANKS, [RANK_ROWS])
    series = []
    for surrogate in LOSSES[:2]:
        for queue in ("whole", "parts"):
            points = [c for c in cells if (c["surrogate"], c["queue"]) == (surrogate, queue)]
            series.append(with_exponents("ranks", surrogate, points) | {"queue": queue})
    return series


def measure_all() -> dict[str, Any]:
    facts = machine_facts("cpu", ["pauc"])
    found = measure_here()
    return {
        "machine": facts,
        "series": found["series"] + measure_many_ranks(),
        "split": found["split"],
    }


def tables_of(content: dict[str, Any]) -> str:
    """Return the figures as Markdown: a line for each series, a column for each size."""
    parts = [describe(content["machine"])]
    for axis in ("rows", "classes", "ranks"):
        series = [s for s in content["series"] if s["axis"] == axis]
        sizes = [point[axis] for point in series[0]["points"]]
        heading = {f"ms by {axis}": 24} | {f"{size:,}": 11 for size in sizes} | {"exponent": 9}
        table = Table(heading, markdown=True)
        parts.append(f"\n{table.header()}")
        for name, unit in (("ms", "ms"), ("extra_mib", "extra MiB"), ("held_mib", "held MiB")):
            for s in series:
                if name not in s["points"][0] or (name == "held_mib" and s is not series[0]):
                    continue
                label = f"{s['loss']}{', ' + s['queue'] if 'queue' in s else ''}, {unit}"
                if name == "held_mib":
                    label = "the queue, MiB"
                slope = s.get(f"exponent_{name}")
                values = [f"{point[name]:.3g}" for point in s["points"]]
                parts.append(table.row([label, *values, "" if slope is None else f"{slope:.2f}"]))
    table = Table({"rows, loss": 24, "whole ms": 9, "halves ms": 9, "gain": 6}, markdown=True)
    parts.append(f"\n{table.header()}")
    for s in content["split"]:
        whole, halves = s["whole_ms"], s["halves_ms"]
        shown = [f"{whole:.2f}", f"{halves:.2f}", f"{whole / halves:.2f}"]
        parts.append(table.row([f"{s['rows']:,}, {s['loss']}", *shown]))
    return "\n".join(parts)


def draw(content: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    for column, axis in zip(axes.T, ("rows", "classes", "ranks"), strict=True):
        for s in content["series"]:
            if s["axis"] != axis:
                continue
            label = f"{s['loss']}, {s['queue']} queue" if "queue" in s else s["loss"]
            sizes = [point[axis] for point in s["points"]]
            memory = "queue_mib" if axis == "ranks" else "extra_mib"
            for ax, name in zip(column, ("ms", memory), strict=True):
                ax.loglog(sizes, [point[name] for point in s["points"]], "o-", label=label)
                ax.grid(visible=True, which="major", alpha=0.3)
                ax.set_xlabel(axis)
                held = axis == "ranks"
                ax.set_ylabel("ms a step" if name == "ms" else "MiB held" if held else "MiB extra")
        column[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def run_step(arguments: argparse.Namespace) -> None:
    content = measure_all()
    write_json(RESULTS / "scale-cpu.json", content)
    draw(content, HERE / "scale.png")
    text = tables_of(content)
    print(text)
    if arguments.update_readme:
        replace_in_readme("scale-cpu", text)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def run_sampler(arguments: argparse.Namespace) -> None:
    n_rows = arguments.rows
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
        for _ in range(SAMPLER_STEPS):
            rows = torch.tensor(next(batches))
            sampler.update(rows, torch.randn(len(rows), generator=generator))

    print(f"a batch and its update: {seconds(train) / SAMPLER_STEPS * 1e3:.2f} ms")
    print(f"refresh by {SAMPLER_STEPS} recorded batches: {seconds(sampler.refresh) * 1e3:.1f} ms")
    held = resident_mb() - before
    print(f"held: {held:,.0f} MB, {held * 2**20 / n_rows:.1f} bytes a row beside the labels' own 1")

    scores = torch.randn(n_rows, generator=generator)
    print(f"refresh by scores of all rows: {seconds(lambda: sampler.refresh(scores)):.1f} s")
    print(f"{len(sampler.hard_rows):,} hard rows")
    print(f"a batch and its update: {seconds(train) / SAMPLER_STEPS * 1e3:.2f} ms")
    refresh = seconds(sampler.refresh) * 1e3
    print(f"refresh: {refresh:.1f} ms, {sampler._hard.drawn[0].scans} scans so far")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak of the process: {peak:,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    step = commands.add_parser("step")
    step.add_argument("--update-readme", action="store_true")
    step.set_defaults(run=run_step)
    sampler = commands.add_parser("sampler")
    sampler.add_argument("--rows", type=int, default=100_000_000)
    sampler.set_defaults(run=run_sampler)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
