"""Time and memory of one training step: `pauc` against the package `imbalanced-losses`.

A step is a forward pass, a backward pass to the logits and the enqueueing of the batch. Both
libraries get the same rows, first to fill the queue and then step by step, and take turns, so that
a busy machine slows both. Their losses and gradients are compared at each step: a figure for work
that was not the same would mean nothing.

    python benchmarks/speed.py                              # all cells, about 10 minutes on 2 cores
    python benchmarks/speed.py --cells binary-16k --seconds 3
    python benchmarks/speed.py --device cuda --markdown

Columns and floors are explained in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from _memory import keep_freed_memory, step_peaks
from _report import (
    RESULTS,
    Table,
    describe,
    machine_facts,
    replace_in_readme,
    write_json,
)
from _workload import (
    CONTENDERS,
    Batch,
    Cell,
    StepOutcome,
    all_cells,
    draw_batch,
    fill_queue,
    make_loss,
    training_step,
)
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

LOSS_RTOL = 1e-4  # float32 sums over up to 50 million pairs, in another order
GRAD_RTOL = 1e-3  # relative to the gradient's norm; a row at the band's edge may differ
MAX_REPS = 300
SEED = 0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
COLUMNS = {
    "cell": 22,
    "classes x batch + queue": 23,
    "pauc ms (quartiles)": 23,
    "peer ms (quartiles)": 26,
    "peer / pauc": 11,
    "pool pass ms": 12,
    "BCE ms": 7,
    "pauc MiB": 8,
    "peer MiB": 8,
    "loss": 8,
    "rel. diff.": 10,
    "reps": 4,
}
T = TypeVar("T")


class DisagreementError(RuntimeError):
    """The two libraries did not compute the same thing."""


@dataclass
class Result:
    """Raw timings of a cell, what was computed meanwhile, and the memory of a step."""

    cell: Cell
    ms: dict[str, list[float]] = field(default_factory=dict)  # contenders and floors
    loss: float = float("nan")  # pauc's, last step
    loss_rel_diff: float = 0.0  # greatest over the steps
    grad_rel_diff: float = 0.0
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def add_time(self, name: str, seconds: float) -> None:
        self.ms.setdefault(name, []).append(round(seconds * 1e3, 5))

    def add_outcomes(self, ours: StepOutcome, peer: StepOutcome) -> None:
        """Compare one step's outcomes, and raise where they differ."""
        self.loss = ours.loss.item()
        loss_diff = relative_difference(ours.loss, peer.loss)
        grad_diff = relative_difference(ours.grad, peer.grad)
        # Written so that nan fails.
        if not (loss_diff <= LOSS_RTOL and grad_diff <= GRAD_RTOL):
            raise DisagreementError(
                f"{self.cell.name}: loss {self.loss:.8g} against the peer's {peer.loss.item():.8g} "
                f"(relative difference {loss_diff:.2g}, allowed {LOSS_RTOL:g}); gradients differ "
                f"by {grad_diff:.2g} of their norm (allowed {GRAD_RTOL:g})"
            )
        self.loss_rel_diff = max(self.loss_rel_diff, loss_diff)
        self.grad_rel_diff = max(self.grad_rel_diff, grad_diff)

    def median(self, name: str) -> float:
        return quantiles(self.ms[name])[1]

    @property
    def ratio(self) -> float:
        return self.median("peer") / self.median("pauc")

    def row(self) -> list[str]:
        return [
            self.cell.name,
            self.cell.size,
            *(spread(self.ms[name]) for name in CONTENDERS),
            short(self.ratio),
            short(self.median("pool pass")),
            short(self.median("bce")),
            *(
                short(self.peak_bytes[name] / 2**20) if self.peak_bytes else "-"
                for name in CONTENDERS
            ),
            f"{self.loss:.4f}",
            f"{self.loss_rel_diff:.0e}",
            str(len(self.ms["pauc"])),
        ]

    def as_json(self) -> dict[str, Any]:
        summary = {name: quantiles(times) for name, times in self.ms.items()}
        return {
            "name": self.cell.name,
            "ratio": self.ratio,
            "ms_q25_median_q75": summary,
            **asdict(self),
        }


def relative_difference(ours: Tensor, peer: Tensor) -> float:
    return float((ours - peer).norm() / peer.norm())


def quantiles(times: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    values: list[float] = torch.tensor(times, dtype=torch.float64).quantile(levels).tolist()
    return values


def spread(times: list[float]) -> str:
    low, median, high = map(short, quantiles(times))
    return f"{median} ({low} to {high})"


def short(value: float) -> str:
    """Three digits, without an exponent for large values."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def timed(work: Callable[[], T], device: str, clock: str) -> tuple[T, float]:
    """The work's result, and its seconds on the clock until the device is done."""
    now = CLOCKS[clock]
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = now()
    outcome = work()
    wait()
    return outcome, now() - start


def make_floors(cell: Cell, device: str) -> dict[str, Callable[[Batch], object]]:
    """Two amounts of work that no loss of this kind avoids, to see what is left to gain."""
    pool = torch.randn(cell.num_classes, cell.batch + cell.queue, device=device)

    def pool_pass(_: Batch) -> Tensor:
        return pool.amax(-1)

    def binary_cross_entropy(batch: Batch) -> Tensor:
        logits = batch.logits.detach().requires_grad_()
        if cell.num_classes == 1:
            labels = batch.targets[:, None].float()
        else:
            labels = F.one_hot(batch.targets, cell.num_classes).float()
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return {"pool pass": pool_pass, "bce": binary_cross_entropy}


class Race:
    """A cell in progress: the contenders with full queues, their floors, and the timings so far."""

    def __init__(self, cell: Cell, device: str, clock: str, *, validate: bool) -> None:
        self.cell, self.device, self.clock = cell, device, clock
        self.generator = torch.Generator().manual_seed(SEED)
        self.losses = {
            name: make_loss(name, cell, device, validate=validate) for name in CONTENDERS
        }
        self.floors = make_floors(cell, device)
        self.result = Result(cell)
        rows = draw_batch(cell, cell.queue, self.generator, device)
        for loss in self.losses.values():
            fill_queue(loss, rows)

    def round(self, *, count: bool = True) -> None:
        """One step of each contender on the same new rows, then the floors."""
        batch = draw_batch(self.cell, self.cell.batch, self.generator, self.device)
        outcomes = {
            name: self._timed(partial(training_step, loss, batch))
            for name, loss in self.losses.items()
        }
        floors = {name: self._timed(partial(work, batch)) for name, work in self.floors.items()}
        self.result.add_outcomes(outcomes["pauc"][0], outcomes["peer"][0])
        if count:
            for name, (_, seconds) in (outcomes | floors).items():
                self.result.add_time(name, seconds)

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        return timed(work, self.device, self.clock)

    def run(self, seconds: float, on_round: Callable[[int], object]) -> Result:
        """Rounds until the time is up, but no fewer than the cell wants."""
        self.round(count=False)  # warm-up
        deadline = time.perf_counter() + seconds
        for rep in range(1, MAX_REPS + 1):
            self.round()
            on_round(rep)
            if rep >= self.cell.min_reps and time.perf_counter() > deadline:
                break
        return self.result


def run_cell(cell: Cell, args: argparse.Namespace, bar: tqdm[Any]) -> Result:
    bar.set_description(cell.name)
    race = Race(cell, args.device, args.clock, validate=args.validate)
    result = race.run(args.seconds, lambda rep: bar.set_postfix_str(f"step {rep}"))
    if args.memory:
        bar.set_postfix_str("memory")
        result.peak_bytes = step_peaks(cell, args.device, validate=args.validate, seed=SEED)
    return result


def run_all(cells: list[Cell], args: argparse.Namespace, facts: dict[str, Any]) -> list[Result]:
    """Run the cells; the row is printed and the file written as soon as a cell is done."""
    table = Table(COLUMNS, markdown=args.markdown)
    results: list[Result] = []
    print(f"{describe(facts)}\n\n{table.header()}", flush=True)
    with tqdm(cells, unit="cell", leave=False, disable=None) as bar:
        for cell in bar:
            results.append(run_cell(cell, args, bar))
            tqdm.write(table.row(results[-1].row()))
            if args.json:
                write_json(args.json, as_json(results, args, facts))
    return results


def as_json(
    results: list[Result], args: argparse.Namespace, facts: dict[str, Any]
) -> dict[str, Any]:
    settings = {
        name: getattr(args, name) for name in ("device", "seconds", "validate", "system_malloc")
    }
    return {
        "machine": facts,
        "settings": settings,
        "results": [result.as_json() for result in results],
    }


def readme_text(results: list[Result], facts: dict[str, Any]) -> str:
    table = Table(COLUMNS, markdown=True)
    rows = "\n".join(table.row(result.row()) for result in results)
    return f"{describe(facts)}\n\n{table.header()}\n{rows}"


def select(cells: list[Cell], patterns: list[str]) -> list[Cell]:
    """Cells whose name contains one of the patterns, in which `*` stands for anything."""
    chosen = [
        cell for cell in cells if any(fnmatch(cell.name, f"*{pattern}*") for pattern in patterns)
    ]
    if not chosen:
        names = " ".join(cell.name for cell in cells)
        raise SystemExit(f"no cell matches {' '.join(patterns)}; there are {names}")
    return chosen


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cells", nargs="+", metavar="PATTERN", help="only cells whose name contains a PATTERN")
    add("--seconds", type=float, default=10.0, help="timing budget per cell (default %(default)g)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--threads", type=int, help="torch.set_num_threads (default: PyTorch's own choice)")
    add(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: the process' CPU time, with --threads 1 on a CPU that others use too",
    )
    add(
        "--no-validate", dest="validate", action="store_false", help="pauc with validate_args=False"
    )
    add("--system-malloc", action="store_true", help="leave glibc's memory settings as they are")
    add("--no-memory", dest="memory", action="store_false", help="skip the memory of a step")
    add(
        "--json",
        type=Path,
        metavar="PATH",
        help="raw timings (default for a run of all cells: benchmarks/results/speed-DEVICE.json)",
    )
    add("--markdown", action="store_true", help="print the table as markdown")
    add("--update-readme", action="store_true", help="put the table into benchmarks/README.md")
    args = parser.parse_args()
    if args.json is None and args.cells is None:
        args.json = RESULTS / f"speed-{args.device}.json"
    return args


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.system_malloc:
        keep_freed_memory()
    cells = select(all_cells(), args.cells or ["*"])
    facts = machine_facts(args.device, ["pauc", "imbalanced-losses"]) | {"clock": args.clock}
    results = run_all(cells, args, facts)
    if args.update_readme:
        replace_in_readme(f"speed-{args.device}", readme_text(results, facts))


if __name__ == "__main__":
    main()
