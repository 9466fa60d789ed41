"""One training run of the wide study: a problem, an arm, a seed, a learning rate."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pauc
from pauc import BandSampler, PAUCAtBudgetLoss
from pauc.metrics import partial_auc, tpr_at_fpr

from .problems import Data, Problem

BUDGET = 0.005
FPRS = (0.001, 0.005, 0.01)
CHOICE_BAND = 0.02  # the epoch is chosen by the partial AUC up to here, on validation rows
EMA_DECAY = 0.99
Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Arm(NamedTuple):
    loss: str  # "bce", "focal" or "preset"
    sampler: dict[str, float] | None = None  # options of BandSampler; None: shuffled rows
    from_log_odds: bool = False  # where the last layer's bias starts; else the layer's default
    weight_power: float = 0.0  # positives weigh (negatives / positives) ** it
    averaged: bool = False  # the model that is kept is the moving average of the weights
    members: int = 1  # models of one seed each, whose probabilities are averaged
    options: Mapping[str, Any] = {}  # of the preset, in place of what it chooses


class Epoch(NamedTuple):
    """What the model of an epoch says of the rows that were not trained on."""

    epoch: int
    chosen_by: float
    validation: Tensor  # scores
    test: Tensor


def run(problem: Problem, data: Data, arm: Arm, *, seed: int, lr_factor: float) -> dict[str, Any]:
    """Return what the best epoch reaches on the test rows, and what there is to say of the run.

    An ensemble takes the best epoch of each member.
    """
    started = time.process_time()
    seeds = [seed] if arm.members == 1 else range(arm.members * seed, arm.members * (seed + 1))
    trained = [_train(problem, data, arm, seed=each, lr_factor=lr_factor) for each in seeds]
    best, last_loss = trained[0]
    if arm.members > 1:
        best = _scored(data, best.epoch, *_mean_of([member for member, _ in trained]))
    return {
        "chosen_by": best.chosen_by,
        "epoch": best.epoch,
        "tpr": tpr_on_test(best.test, data),
        "last_loss": last_loss,
        "cpu_seconds": round(time.process_time() - started, 1),
        "versions": {"torch": torch.__version__, "pauc": pauc.__version__},
    }


def tpr_on_test(scores: Tensor, data: Data) -> dict[str, float]:
    """Return the TPR at each FPR of the study, which is named by a string."""
    tpr = tpr_at_fpr(scores, data.targets[data.test], FPRS).tolist()
    return dict(zip(map(str, FPRS), tpr, strict=True))


def _mean_of(members: list[Epoch]) -> tuple[Tensor, Tensor]:
    """Return the mean probabilities of the members (Lakshminarayanan et al. 2017)."""
    of_each = [(member.validation.sigmoid(), member.test.sigmoid()) for member in members]
    validation, test = zip(*of_each, strict=True)
    return torch.stack(validation).mean(0), torch.stack(test).mean(0)


def _train(
    problem: Problem, data: Data, arm: Arm, *, seed: int, lr_factor: float
) -> tuple[Epoch, float]:
    """Return the best epoch, and the last value of the loss."""
    torch.manual_seed(seed)
    model, targets = problem.model(), data.targets[data.train]
    steps = math.ceil(len(targets) / problem.batch_size)
    sampler = None
    if arm.sampler is not None:
        sampler = BandSampler(
            targets, problem.batch_size, num_batches=steps, seed=seed, **arm.sampler
        )
    rate = targets.double().mean().item() if sampler is None else sampler.positive_rate
    if arm.from_log_odds and not problem.starts_at_zero:
        nn.init.constant_(_last_bias(model), math.log(rate / (1 - rate)))
    objective = make_objective(arm, problem.batch_size, rate, sampler)
    optimizer = torch.optim.Adam(model.parameters(), problem.lr * lr_factor, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, problem.epochs * steps)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    best: Epoch | None = None
    for epoch in range(1, problem.epochs + 1):
        for rows in _batches(sampler, len(targets), problem.batch_size):
            logits = model(data.inputs[data.train[rows]])
            mask = None if sampler is None else sampler.iid_mask
            loss = objective(logits, targets[rows], mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            if arm.averaged:
                average.update_parameters(model)
            if sampler is not None:
                sampler.update(rows, logits.detach())
        if sampler is not None:
            sampler.refresh()
        if epoch % problem.every == 0:
            kept = _with_statistics(average, model) if arm.averaged else model
            found = _measured(kept, data, epoch)
            best = found if best is None or found.chosen_by > best.chosen_by else best
    assert best is not None
    return best, loss.item()


def make_objective(
    arm: Arm, batch_size: int, rate: float, sampler: BandSampler | None
) -> Objective:
    if arm.loss == "preset":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            facts: dict[str, Any] = {"batch_size": batch_size, "positive_rate": rate}
            if sampler is not None:
                facts = {"sampler": sampler}
            return PAUCAtBudgetLoss.for_budget(BUDGET, **facts, **arm.options)
    if arm.loss == "focal":
        return _focal
    weight = torch.tensor(((1 - rate) / rate) ** arm.weight_power)
    return lambda logits, targets, _: F.binary_cross_entropy_with_logits(
        logits[:, 0], targets.float(), pos_weight=weight
    )


def _focal(logits: Tensor, targets: Tensor, _: Tensor | None) -> Tensor:
    """Lin et al. (2017) with gamma 2 and no class weight."""
    margin = torch.where(targets == 1, logits[:, 0], -logits[:, 0])
    return -(F.logsigmoid(margin) * margin.neg().sigmoid().square()).mean()


def _batches(sampler: BandSampler | None, n_rows: int, batch_size: int) -> Iterator[Tensor]:
    if sampler is None:
        yield from torch.randperm(n_rows).split(batch_size)  # type: ignore[no-untyped-call]
    else:
        yield from map(torch.tensor, sampler)


def _last_bias(model: nn.Module) -> nn.Parameter:
    return [value for name, value in model.named_parameters() if name.endswith("bias")][-1]


def _with_statistics(average: AveragedModel, model: nn.Module) -> nn.Module:
    """Return the averaged model with the model's batch norm statistics, which are averages, too."""
    pairs = zip(average.module.buffers(), model.buffers(), strict=True)
    for mine, theirs in pairs:
        mine.copy_(theirs)
    return average.module


@torch.no_grad()
def _measured(model: nn.Module, data: Data, epoch: int) -> Epoch:
    model.eval()
    validation, test = (_scores(model, data, rows) for rows in (data.validation, data.test))
    model.train()
    return _scored(data, epoch, validation, test)


def _scored(data: Data, epoch: int, validation: Tensor, test: Tensor) -> Epoch:
    chosen_by = partial_auc(validation, data.targets[data.validation], beta=CHOICE_BAND).item()
    return Epoch(epoch, chosen_by, validation, test)


def _scores(model: nn.Module, data: Data, rows: Tensor) -> Tensor:
    """Return scores in float64, whose probabilities near 1 still differ."""
    parts = rows.split(8192)  # type: ignore[no-untyped-call]
    return torch.cat([model(data.inputs[part])[:, 0] for part in parts]).double()
