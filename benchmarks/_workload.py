"""What the speed benchmark runs: the cells, their data, and one training step of each contender."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

CONTENDERS = {"pauc": "pauc", "peer": "imbalanced_losses"}  # name in the tables -> package
SURROGATES = ("trapezoid", "pairwise")
POSITIVE_RATE = 0.01  # binary cells
# The default band starts at the 99.5 % quantile of the negatives, 2.58 for standard normal scores:
# with this shift about half of the positives reach it, so the surrogates are not saturated.
POSITIVE_SHIFT = 2.5


@dataclass(frozen=True)
class Cell:
    """One line of the table: a problem size with a surrogate."""

    family: str
    num_classes: int
    batch: int
    queue: int
    surrogate: str
    min_reps: int = 5

    @property
    def name(self) -> str:
        return f"{self.family}-{self.surrogate}"

    @property
    def size(self) -> str:
        return f"{self.num_classes:,} x {self.batch:,} + {self.queue:,}"


class Batch(NamedTuple):
    logits: Tensor  # [N, C] float32
    targets: Tensor  # [N] int64


class StepOutcome(NamedTuple):
    loss: Tensor  # [] detached
    grad: Tensor  # [N, C]


def all_cells() -> list[Cell]:
    """Every cell, small ones first."""
    sizes = [
        ("binary-16k", 1, 1024, 16_384, 5),
        ("binary-131k", 1, 1024, 131_072, 5),
        ("binary-1m", 1, 4096, 1_048_576, 5),
        ("classes-10", 10, 1024, 16_384, 5),
        ("classes-100", 100, 1024, 16_384, 5),
        # The peer needs 6 to 20 seconds a step here: three repetitions have to do.
        ("classes-1000", 1000, 1024, 8192, 3),
    ]
    return [
        Cell(family, classes, batch, queue, surrogate, min_reps)
        for family, classes, batch, queue, min_reps in sizes
        for surrogate in SURROGATES
    ]


def draw_batch(cell: Cell, rows: int, generator: torch.Generator, device: str) -> Batch:
    """Standard normal logits; the logit of a row's own class (binary: of a positive) is shifted up.

    Drawn on the CPU whatever the device, so that every device sees the same numbers.
    """
    logits = torch.randn(rows, cell.num_classes, generator=generator)
    if cell.num_classes == 1:
        targets = (torch.rand(rows, generator=generator) < POSITIVE_RATE).long()
        logits[:, 0] += POSITIVE_SHIFT * targets
    else:
        targets = torch.randint(cell.num_classes, (rows,), generator=generator)
        logits[torch.arange(rows), targets] += POSITIVE_SHIFT
    return Batch(logits.to(device), targets.to(device))


def make_loss(contender: str, cell: Cell, device: str, *, validate: bool = True) -> nn.Module:
    """The contender's module with its defaults; `validate` reaches `pauc` alone."""
    loss_class = importlib.import_module(CONTENDERS[contender]).PAUCAtBudgetLoss
    options = {"validate_args": validate} if contender == "pauc" else {}
    module: nn.Module = loss_class(
        cell.num_classes, queue_size=cell.queue, surrogate=cell.surrogate, **options
    )
    return module.to(device)


@torch.no_grad()
def fill_queue(loss: nn.Module, batch: Batch) -> None:
    """Fill the queue in one forward pass: `batch` has as many rows as the queue."""
    loss(batch.logits, batch.targets)


def training_step(loss: nn.Module, batch: Batch) -> StepOutcome:
    """Forward, backward to the logits, and (inside the forward) the rows' way into the queue."""
    logits = batch.logits.detach().requires_grad_()
    value = loss(logits, batch.targets)
    value.backward()
    assert logits.grad is not None
    return StepOutcome(value.detach(), logits.grad)
