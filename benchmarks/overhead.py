"""Which share of a training step the loss takes, beside small models that are in use.

A step is forward, loss, backward and optimizer on data in memory. The same model is stepped with
binary cross-entropy and with the partial AUC (module, queue included), in turns, and the parts are
timed apart: the model alone is a step whose loss is the mean of the logits.

    python benchmarks/overhead.py                         # a minute
    python benchmarks/overhead.py --threads 1 --clock cpu
    python benchmarks/overhead.py --compiled              # torch.compile beside eager, in turns

Columns are explained in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from _memory import keep_freed_memory
from _report import Table, describe, machine_facts, write_json
from torch import Tensor, nn
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
COLUMNS = {
    "model": 16,
    "batch + queue": 14,
    "loss": 37,
    "step ms": 8,
    "of that the loss": 16,
    "BCE step ms": 11,
    "times BCE's step": 16,
}
# Of `--compiled`: the median of a step, and the least, which other load on the machine moves less.
COMPILED_COLUMNS = {
    "model": 16,
    "loss": 24,
    "eager ms": 14,
    "one graph ms": 14,
    "graph / eager": 14,
    "loss outside ms": 15,
    "BCE graph / eager": 18,
}
RESULTS = Path(__file__).parent / "results" / "compiled-cpu.json"
POSITIVE_RATE = 0.02
SIGNAL = 0.3  # what a positive's features have more, in standard deviations
BUDGET = 0.005
PAIRS: dict[str, Any] = {
    "beta": 0.02,
    "bce_weight": 0.1,
    "surrogate": "pairwise",
    "link": "logistic",
    "gradient_scale": "live",
    "tau_scale": "unit",
    "temperature": 1.0,
}
SHOWN = ", diagnostics"  # behind the name of a loss that returns them at every step
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Setting(NamedTuple):
    name: str
    make_model: Callable[[], nn.Module]
    features: tuple[int, ...]
    batch: int
    queue: int


def recipe(setting: Setting) -> PAUCAtBudgetLoss:
    facts = {"batch_size": setting.batch, "positive_rate": POSITIVE_RATE}
    return PAUCAtBudgetLoss.for_budget(BUDGET, **facts)  # with a queue of its own choice


LOSSES: dict[str, Callable[[Setting], PAUCAtBudgetLoss]] = {
    "for_budget": recipe,
    "pairs": lambda setting: PAUCAtBudgetLoss(1, queue_size=setting.queue, **PAIRS),
    "the defaults (trapezoid)": lambda setting: PAUCAtBudgetLoss(1, queue_size=setting.queue),
}


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


# Of `--compiled`: hardly more than the loss, and a model that is soon through.
COMPILED_SETTINGS = [
    Setting("Linear 1-1", lambda: nn.Linear(1, 1), (1,), 1024, 16_384),
    SETTINGS[0],
]


def mean_of_logits(logits: Tensor, _targets: Tensor) -> Tensor:
    return logits.mean()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())


def with_diagnostics(loss: PAUCAtBudgetLoss) -> LossFunction:
    return lambda logits, targets: loss(logits, targets, return_diagnostics=True)[0]


def make_step(
    setting: Setting, loss: LossFunction, kind: str = "eager"
) -> Callable[[Tensor, Tensor], None]:
    """Return a training step: "eager", model and loss as one "graph", or the loss "outside"."""
    torch.manual_seed(0)
    model = setting.make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scores = torch.compile(model) if kind == "outside" else model

    def loss_of(features: Tensor, targets: Tensor) -> Tensor:
        return loss(scores(features), targets)

    forward = torch.compile(loss_of, fullgraph=True) if kind == "graph" else loss_of

    def step(features: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        forward(features, targets).backward()
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
    """Return the median milliseconds of a step with each loss."""
    losses: dict[str, LossFunction] = {"model": mean_of_logits, "bce": cross_entropy}
    for name, make in LOSSES.items():
        losses[name] = make(setting)
        losses[name + SHOWN] = with_diagnostics(make(setting))
    steps = {name: make_step(setting, loss) for name, loss in losses.items()}
    times = take_in_turns(setting, steps, seconds, clock)
    return {name: median(each) for name, each in times.items()}


Key = TypeVar("Key")


def take_in_turns(
    setting: Setting,
    steps: dict[Key, Callable[[Tensor, Tensor], None]],
    seconds: float,
    clock: Callable[[], float],
) -> dict[Key, list[float]]:
    """Return the milliseconds of each kind of step on the same batches, from a full queue on."""
    generator = torch.Generator().manual_seed(0)
    times: dict[Key, list[float]] = {name: [] for name in steps}
    warm = -(-setting.queue // setting.batch) + 3  # until the queue is full
    taken, deadline = 0, float("inf")
    bar = tqdm(desc=setting.name, unit=" batches", leave=False, disable=None)
    while time.perf_counter() < deadline:
        batch = draw(setting, generator)
        first = taken % len(
            steps
        )  # in turns: the first of a batch finds the fewest things in place
        for name, step in [*steps.items()][first:] + [*steps.items()][:first]:
            start = clock()
            step(*batch)
            if taken >= warm:
                times[name].append((clock() - start) * 1e3)
        taken += 1
        bar.update()
        if taken == warm:
            deadline = time.perf_counter() + seconds
    bar.close()
    return times


def measure_compiled(
    setting: Setting, seconds: float, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Return for each loss the median and the least milliseconds of each kind of step."""
    steps = {}
    for name in ("BCE", *LOSSES):
        for kind in ("eager", "graph", "outside"):
            loss: LossFunction = cross_entropy
            if name != "BCE":
                loss = LOSSES[name](setting)
            steps[name, kind] = make_step(setting, loss, kind)
    times = take_in_turns(setting, steps, seconds, clock)
    return [
        {
            "model": setting.name,
            "loss": name,
            "kind": kind,
            "median": median(each),
            "min": min(each),
        }
        for (name, kind), each in times.items()
    ]


def compiled_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """Return a row for each loss: median (least)."""
    of = {(result["loss"], result["kind"]): result for result in results}

    def ratio(name: str) -> str:
        graph, eager = of[name, "graph"], of[name, "eager"]
        return f"{graph['median'] / eager['median']:.2f} ({graph['min'] / eager['min']:.2f})"

    def ms(name: str, kind: str) -> str:
        return f"{of[name, kind]['median']:.2f} ({of[name, kind]['min']:.2f})"

    return [
        [results[0]["model"], name, ms(name, "eager"), ms(name, "graph"), ratio(name),
         ms(name, "outside"), ratio("BCE")]
        for name in LOSSES
    ]  # fmt: skip


def rows(setting: Setting, ms: dict[str, float]) -> list[list[str]]:
    queues = {name: make(setting).queue_size for name, make in LOSSES.items()}
    return [
        [
            setting.name,
            f"{setting.batch:,} + {queues[name.removesuffix(SHOWN)]:,}",
            name,
            f"{ms[name]:.2f}",
            f"{(ms[name] - ms['model']) / ms[name]:.0%}",
            f"{ms['bce']:.2f}",
            f"{ms[name] / ms['bce']:.2f}",
        ]
        for name in (name + shown for name in LOSSES for shown in ("", SHOWN))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--compiled", action="store_true", help="torch.compile beside eager")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    facts = {**machine_facts("cpu", ["pauc"]), "clock": args.clock}
    table = Table(COMPILED_COLUMNS if args.compiled else COLUMNS, markdown=True)
    print(f"{describe(facts)}\n\n{table.header()}")
    kept = []
    for setting in COMPILED_SETTINGS if args.compiled else SETTINGS:
        if args.compiled:
            results = measure_compiled(setting, args.seconds, CLOCKS[args.clock])
            kept += results
            write_json(RESULTS, {"machine": facts, "results": kept})
            lines = compiled_rows(results)
        else:
            ms = measure(setting, args.seconds, CLOCKS[args.clock])
            kept.append({"model": setting.name, **ms})
            lines = rows(setting, ms)
        for line in lines:
            print(table.row(line), flush=True)
    if args.json:
        write_json(args.json, {"machine": facts, "milliseconds": kept})


if __name__ == "__main__":
    main()
