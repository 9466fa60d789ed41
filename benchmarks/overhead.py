"""Which share of a training step the loss takes, beside small models that are in use.

A step is forward, loss, backward and optimizer on data in memory. The same model is stepped with
binary cross-entropy and with the partial AUC (module, queue included), in turns, and the parts are
timed apart: the model alone is a step whose loss is the mean of the logits.

    python benchmarks/overhead.py                         # a minute
    python benchmarks/overhead.py --threads 1 --clock cpu

Columns are explained in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _memory import keep_freed_memory
from _report import Table, describe, machine_facts
from torch import Tensor, nn
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
COLUMNS = {
    "model": 16,
    "batch + queue": 14,
    "loss": 34,
    "step ms": 8,
    "of that the loss": 16,
    "BCE step ms": 11,
    "times BCE's step": 16,
}
POSITIVE_RATE = 0.02
SIGNAL = 0.3  # what a positive's features have more, in standard deviations
# The recipe of the README, and the plain definition.
LOSSES = {
    "pairwise, logistic, live, unit": {
        "beta": 0.02,
        "bce_weight": 0.1,
        "surrogate": "pairwise",
        "link": "logistic",
        "gradient_scale": "live",
        "tau_scale": "unit",
        "temperature": 1.0,
    },
    "the defaults (trapezoid)": {},
}
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Setting(NamedTuple):
    name: str
    make_model: Callable[[], nn.Module]
    features: tuple[int, ...]
    batch: int
    queue: int


def mlp() -> nn.Module:
    """The quickstart's model."""
    return nn.Sequential(
        nn.Linear(54, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)
    )


def convolutions() -> nn.Module:
    """Three layers of 3 x 3 on 32 x 32 pixels."""
    layers: list[nn.Module] = []
    for width, following in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(width, following, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 1))


SETTINGS = [
    Setting("MLP 54-128-64-1", mlp, (54,), 1024, 16_384),
    Setting("convolutions", convolutions, (3, 32, 32), 256, 16_384),
]


def mean_of_logits(logits: Tensor, _targets: Tensor) -> Tensor:
    return logits.mean()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())


def make_step(setting: Setting, loss: LossFunction) -> Callable[[Tensor, Tensor], None]:
    torch.manual_seed(0)
    model = setting.make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(features: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        loss(model(features), targets).backward()
        optimizer.step()

    return step


def draw(setting: Setting, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows of which the positives can be told from the negatives in part.

    Of noise, a model learns to give all rows one score, which no loss that ranks is used on.
    """
    features = torch.randn(setting.batch, *setting.features, generator=generator)
    targets = (torch.rand(setting.batch, generator=generator) < POSITIVE_RATE).long()
    features += SIGNAL * targets.view(-1, *(1 for _ in setting.features))
    return features, targets


def measure(setting: Setting, seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median milliseconds of a step with each loss, steps taken in turns."""
    losses: dict[str, LossFunction] = {"model": mean_of_logits, "bce": cross_entropy}
    for name, options in LOSSES.items():
        losses[name] = PAUCAtBudgetLoss(1, queue_size=setting.queue, **options)
    steps = {name: make_step(setting, loss) for name, loss in losses.items()}
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    warm = -(-setting.queue // setting.batch) + 3  # until the queue is full
    taken, deadline = 0, float("inf")
    bar = tqdm(desc=setting.name, unit=" batches", leave=False, disable=None)
    while time.perf_counter() < deadline:
        batch = draw(setting, generator)
        for name, step in steps.items():
            start = clock()
            step(*batch)
            if taken >= warm:
                times[name].append((clock() - start) * 1e3)
        taken += 1
        bar.update()
        if taken == warm:
            deadline = time.perf_counter() + seconds
    bar.close()
    return {name: median(each) for name, each in times.items()}


def rows(setting: Setting, ms: dict[str, float]) -> list[list[str]]:
    return [
        [
            setting.name,
            f"{setting.batch:,} + {setting.queue:,}",
            name,
            f"{ms[name]:.2f}",
            f"{(ms[name] - ms['model']) / ms[name]:.0%}",
            f"{ms['bce']:.2f}",
            f"{ms[name] / ms['bce']:.2f}",
        ]
        for name in LOSSES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    table = Table(COLUMNS, markdown=True)
    print(f"{describe(machine_facts('cpu', ['pauc']))}, clock {args.clock}\n\n{table.header()}")
    for setting in SETTINGS:
        for row in rows(setting, measure(setting, args.seconds, CLOCKS[args.clock])):
            print(table.row(row), flush=True)


if __name__ == "__main__":
    main()
