"""One training run: a model, an arm's loss, a fixed number of steps."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

import pauc
from pauc.metrics import coverage_at_budget, tpr_at_fpr

from .arms import Arm
from .batches import BATCHINGS, steps_per_epoch
from .losses import LOSSES, Step, Task

BUDGETS_BPS = (100, 50, 10)  # every run is measured at all of them
EVAL_ROWS = 65_536


class Best(NamedTuple):
    """The epoch to keep."""

    tpr: float
    epoch: int  # from 1
    weights: dict[str, Any]


class Part(Protocol):
    @property
    def features(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...


@dataclass(frozen=True)
class Training:
    """Equal for all arms of a table, but for what tuning chose."""

    epochs: int
    batch_size: int
    widths: tuple[int, ...]
    lr: float = 1e-3
    weight_decay: float = 0.0  # decoupled, as in AdamW
    decay: float = 1.0  # the learning rate ends, along a cosine, at this share of its start


@dataclass(frozen=True)
class Run:
    """Everything that defines a run; its dict is what the store hashes."""

    data: dict[str, Any]
    arm: str
    loss: str
    params: dict[str, Any]
    batching: str
    budget_bps: float
    queue_size: int
    training: Training
    seed: int
    study: str = field(default="arms")

    @property
    def config(self) -> dict[str, Any]:
        return asdict(self)


def make_run(
    arm: Arm,
    data: dict[str, Any],
    training: Training,
    *,
    seed: int,
    budget_bps: float,
    queue_size: int,
    study: str = "arms",
) -> Run:
    return Run(
        data, arm.name, arm.loss, arm.params, arm.batching, budget_bps, queue_size, training,
        seed, study,
    )  # fmt: skip


def fit(run: Run, train: Part, validation: Part | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model, and what there is to say of its training.

    With validation rows, the model is that of the epoch with the best TPR at the budget on them.
    """
    torch.manual_seed(run.seed)
    training = run.training
    model = mlp(train.features.shape[1], training.widths)
    steps = training.epochs * steps_per_epoch(len(train.targets), training.batch_size)
    positives = int(train.targets.sum())
    batching = BATCHINGS[run.batching](train.targets, training.batch_size, run.seed)
    task = Task(
        len(train.targets),
        positives,
        training.batch_size,
        steps,
        run.budget_bps / 1e4,
        run.queue_size,
        batching.positive_rate,
        batching.iid_share,
    )
    objective = LOSSES[run.loss](task, **run.params)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, weight_decay=training.weight_decay
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine(step / steps, training.decay)
    )

    started, number = time.process_time(), 0
    best = Best(-1.0, 0, {})
    with tqdm(total=steps, desc=f"{run.arm} seed {run.seed}", leave=False, disable=None) as bar:
        for epoch in range(training.epochs):
            scores, targets = [], []
            for rows, iid in batching.epoch():
                y = train.targets[rows]
                logits = model(train.features[rows])
                value = descend(optimizer, objective(Step(logits, y, rows, iid, number)))
                rate.step()
                batching.seen(rows, logits.detach())
                scores.append(logits.detach()[:, 0])
                targets.append(y)
                number += 1
                bar.update()
            caught = tpr_on(torch.cat(scores), torch.cat(targets), task.budget)
            if validation is not None:
                held_out = score(model, validation.features)
                reached = tpr_on(held_out, validation.targets, task.budget)
                if reached > best.tpr:  # a tie goes to the earlier epoch
                    best = Best(reached, epoch + 1, copy.deepcopy(model.state_dict()))
            bar.set_postfix_str(f"loss {value:.3g}, TPR at budget {caught:.3f} (training rows)")
    if validation is not None:
        model.load_state_dict(best.weights)
    facts: dict[str, Any] = {"steps": number, "last_loss": value, "training_tpr": caught}
    facts["kept_epoch"] = best.epoch or training.epochs
    facts["cpu_seconds"] = round(time.process_time() - started, 1)
    facts["versions"] = {"torch": torch.__version__, "pauc": pauc.__version__}
    return model, facts


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def mlp(n_inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(n_inputs, width), nn.ReLU()]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, 1))


def cosine(progress: float, end: float) -> float:
    return end + (1 - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def tpr_on(scores: Tensor, targets: Tensor, budget: float) -> float:
    if not bool(scores.isfinite().all()):
        return 0.0
    return tpr_at_fpr(scores, targets, budget).item()


@torch.no_grad()
def score(model: nn.Module, features: Tensor) -> Tensor:
    chunks = features.split(EVAL_ROWS)  # type: ignore[no-untyped-call]
    return torch.cat([model(chunk)[:, 0] for chunk in chunks])


def measure(scores: Tensor, targets: Tensor) -> dict[str, Any]:
    """Coverage (of the top of all rows) and TPR (at an FPR) at every budget, keyed by bps.

    A model with a nan score ranks nothing, so it catches nothing.
    """
    diverged = bool(scores.isnan().any())
    usable = torch.zeros_like(scores) if diverged else scores
    budgets = [bps / 1e4 for bps in BUDGETS_BPS]
    both = {"coverage": coverage_at_budget, "tpr": tpr_at_fpr}
    values = {
        name: dict(
            zip(map(str, BUDGETS_BPS), metric(usable, targets, budgets).tolist(), strict=True)
        )
        for name, metric in both.items()
    }
    return {**values, "diverged": diverged}
