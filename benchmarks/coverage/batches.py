"""Which rows a step sees. An arm names one of `BATCHINGS`; all give the same number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Drawn(NamedTuple):
    rows: Tensor  # int64 [N] into the training rows
    iid: Tensor | None  # bool [N], False for rows that were added by class or score; None: all iid


class Batching(Protocol):
    iid_share: float  # of the rows of a batch
    positive_rate: float  # of a batch, on average

    def epoch(self) -> Iterator[Drawn]: ...

    def seen(self, rows: Tensor, logits: Tensor) -> None:
        """Told after each step what the rows scored."""


class Shuffled:
    """A new permutation an epoch, from the global generator; the last batch may be short."""

    def __init__(self, targets: Tensor, batch_size: int, seed: int) -> None:  # noqa: ARG002
        self.n_rows, self.batch_size = len(targets), batch_size
        self.iid_share, self.positive_rate = 1.0, targets.double().mean().item()

    def epoch(self) -> Iterator[Drawn]:
        for rows in torch.randperm(self.n_rows).split(self.batch_size):  # type: ignore[no-untyped-call]
            yield Drawn(rows, None)

    def seen(self, rows: Tensor, logits: Tensor) -> None:
        pass


class Banded:
    """`pauc.BandSampler`; with its defaults half iid, the rest positives and hard rows."""

    def __init__(self, targets: Tensor, batch_size: int, seed: int, **options: float) -> None:
        from pauc import BandSampler

        steps = steps_per_epoch(len(targets), batch_size)
        self.sampler = BandSampler(targets, batch_size, num_batches=steps, seed=seed, **options)
        self.iid_share = self.sampler.iid_share
        self.positive_rate = self.sampler.positive_rate

    def epoch(self) -> Iterator[Drawn]:
        for rows in self.sampler:
            yield Drawn(torch.as_tensor(rows), self.sampler.iid_mask)
        self.sampler.refresh()

    def seen(self, rows: Tensor, logits: Tensor) -> None:
        self.sampler.update(rows, logits)


BATCHINGS: dict[str, Callable[[Tensor, int, int], Batching]] = {
    "shuffled": Shuffled,
    "banded": Banded,
    # For classes that overlap: few rows come again and again, and not the hardest alone.
    "gentle": partial(Banded, iid_share=0.9, positive_share=0.05, hard_fraction=0.1),
}


def steps_per_epoch(n_rows: int, batch_size: int) -> int:
    return math.ceil(n_rows / batch_size)
