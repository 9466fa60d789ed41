"""Memory over a long run: 10,000 training steps of a tiny model with the queue's loss.

    python benchmarks/memory.py                   # four cells, some minutes
    python benchmarks/memory.py --steps 1000

Each cell runs in a process of its own. At a tenth, half and all of the steps it writes what the
process holds: resident memory and its peak, and the tensors that Python can reach. After each step
the graph of the step must be gone, and no buffer may require a gradient, or the run stops.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from _memory import status_bytes
from _report import Table, describe, machine_facts
from _witness import with_witness
from torch import Tensor, nn
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss

BATCH, FEATURES, POSITIVE_RATE = 512, 20, 0.02
QUEUES = {1: 16_384, 10: 2048}  # by number of classes
LOSSES = ("trapezoid, the defaults", "pairwise, for_budget")
COLUMNS = {
    "loss": 24,
    "classes": 7,
    "queue": 6,
    "step": 6,
    "resident MB": 11,
    "peak MB": 8,
    "live tensors": 12,
    "their MB": 8,
}


class Held(NamedTuple):
    """What the process holds after a step."""

    step: int
    resident: int  # bytes, as those below
    peak: int
    tensors: int
    tensor_bytes: int


def make_loss(name: str, classes: int) -> PAUCAtBudgetLoss:
    if name.startswith("trapezoid"):
        return PAUCAtBudgetLoss(classes, queue_size=QUEUES[classes])
    return PAUCAtBudgetLoss.for_budget(
        0.005,
        batch_size=BATCH,
        positive_rate=POSITIVE_RATE,
        num_classes=classes,
        queue_size=QUEUES[classes],
    )


def draw_rows(classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normal features, whose first ones tell of the class."""
    features = torch.randn(BATCH, FEATURES, generator=generator)
    if classes == 1:
        targets = (torch.rand(BATCH, generator=generator) < POSITIVE_RATE).long()
        features[:, 0] += 2 * targets
    else:
        targets = torch.randint(classes, (BATCH,), generator=generator)
        features[torch.arange(BATCH), targets] += 2
    return features, targets


def run(name: str, classes: int, steps: int) -> list[Held]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model, loss = nn.Linear(FEATURES, classes), make_loss(name, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = []
    for step in tqdm(range(1, steps + 1), desc=f"{name}, {classes}", leave=False, disable=None):
        features, targets = draw_rows(classes, generator)
        logits, node = with_witness(model(features))
        value = loss(logits, targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        del logits, value
        if node() is not None:
            raise RuntimeError(f"the graph of step {step} is still there")
        if any(buffer.requires_grad for buffer in loss.buffers()):
            raise RuntimeError(f"a buffer requires a gradient after step {step}")
        if step in (steps // 10, steps // 2, steps):
            found.append(hold(step))
    return found


def hold(step: int) -> Held:
    gc.collect()
    # Not isinstance, which asks an object for its class; some of torch.distributed warn then.
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return Held(
        step,
        status_bytes("VmRSS"),
        status_bytes("VmHWM"),
        len(tensors),
        sum(storages.values()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(COLUMNS, markdown=True)
    print(f"{describe(machine_facts('cpu', ['pauc']))}\n\n{table.header()}")
    context = multiprocessing.get_context("spawn")
    for name in LOSSES:
        for classes, queue in QUEUES.items():
            with ProcessPoolExecutor(1, mp_context=context) as executor:
                found = executor.submit(run, name, classes, args.steps).result()
            for held in found:
                megabytes = [f"{held.resident / 1e6:.1f}", f"{held.peak / 1e6:.1f}"]
                live = [f"{held.tensors}", f"{held.tensor_bytes / 1e6:.2f}"]
                row = [name, f"{classes}", f"{queue:,}", f"{held.step:,}", *megabytes, *live]
                print(table.row(row), flush=True)


if __name__ == "__main__":
    main()
