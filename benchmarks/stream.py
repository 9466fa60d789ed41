"""Covertype as a stream: `BandStream` beside `BandSampler` in as many steps; rows a second.

    python benchmarks/stream.py [--seeds 2] [--epochs 3]

All train the examples' model with `for_budget` in as many steps; the TPR at the budget is on
validation rows. The stream sees the rows in an order of its own for each pass, in blocks of 4,096.
A stream chooses its hard negatives anew in each step, from 2 % of the negatives. So does the
sampler of the second row; the first has the defaults, 5 % and a refresh an epoch.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pauc import BandSampler, BandStream, PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from covertype import Part, load, mlp

BUDGET = 0.005
BATCH_SIZE = 1024


class Shuffled:
    """The rows in blocks, in a new order each time."""

    def __init__(self, part: Part, seed: int) -> None:
        self.part, self.generator = part, torch.Generator().manual_seed(seed)

    def __iter__(self):  # type: ignore[no-untyped-def]
        order = torch.randperm(len(self.part.targets), generator=self.generator)
        for rows in order.split(4096):
            yield self.part.features[rows], self.part.targets[rows]


class Kind(NamedTuple):
    """What draws the batches, and which negatives are hard."""

    name: str
    stream: bool
    hard_fraction: float
    refresh_steps: int | None  # None: an epoch of them


KINDS = (
    Kind("BandSampler, defaults", False, 0.05, None),
    Kind("BandSampler, as the stream", False, 0.02, 1),
    Kind("BandStream", True, 0.02, 1),
)


def fit(part: Part, seed: int, steps: int, kind: Kind) -> torch.nn.Module:
    torch.manual_seed(seed)
    model, n_rows = mlp(), len(part.targets)
    sampler = BandSampler(
        part.targets, BATCH_SIZE, num_batches=steps, seed=seed, hard_fraction=kind.hard_fraction
    )
    loss_fn = PAUCAtBudgetLoss.for_budget(
        BUDGET,
        batch_size=BATCH_SIZE,
        positive_rate=sampler.positive_rate,
        iid_share=sampler.iid_share,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    options = {"batched": True, "num_batches": steps, "seed": seed, "max_age": n_rows}
    source = BandStream(Shuffled(part, seed), BATCH_SIZE, **options)  # type: ignore[arg-type]

    def step(features: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        logits = model(features)
        optimizer.zero_grad()
        loss_fn(logits, targets, iid_mask=mask).backward()
        optimizer.step()
        return logits.detach()

    if kind.stream:
        for (features, targets), mask, ids in source:
            source.update(ids, step(features, targets, mask))
        return model
    for number, batch in enumerate(sampler, start=1):
        rows = torch.tensor(batch)
        logits = step(part.features[rows], part.targets[rows], sampler.iid_mask)
        sampler.update(rows, logits)
        if number % (kind.refresh_steps or n_rows // BATCH_SIZE) == 0:
            sampler.refresh()
    return model


def rows_a_second(part: Part, batch_size: int, update: bool) -> float:
    """Return the fresh rows that pass in a second of CPU time."""
    source = list(zip(part.features.split(8192), part.targets.split(8192), strict=True))
    stream = BandStream(source, batch_size, batched=True)
    start = time.process_time()
    for (features, _), _mask, ids in stream:
        if update:
            stream.update(ids, features[:, 0])
    return len(part.targets) / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        data = load(seed=seed)
        steps = args.epochs * (len(data.train.targets) // BATCH_SIZE)
        for kind in KINDS:
            model = fit(data.train, seed, steps, kind)
            with torch.no_grad():
                scores = model(data.validation.features)
            tpr = tpr_at_fpr(scores, data.validation.targets, BUDGET).item()
            print(f"seed {seed}, {kind.name}: TPR {tpr:.3f} at FPR {BUDGET:.1%}", flush=True)
    for batch_size in (1024, 8192):
        for update in (False, True):
            rate = rows_a_second(data.train, batch_size, update)
            with_update = "with" if update else "without"
            print(f"batches of {batch_size}, {with_update} update: {rate / 1e6:.1f} M rows/s")


if __name__ == "__main__":
    main()
