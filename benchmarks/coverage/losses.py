"""One small function a loss: the task and its parameters in, something to call each step out.

`band` and `band_from` are multiples of the task's budget, so that an arm means the same at any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pauc import PAUCAtBudgetLoss, PAUCSchedule, RecallAtQuantileLoss, SmoothAPLoss


class Task(NamedTuple):
    """What a loss may know about the run."""

    n_rows: int
    n_positives: int
    batch_size: int
    steps: int  # of the whole training
    budget: float  # as FPR
    queue_size: int
    positive_rate: float  # of the batches
    iid_share: float  # of the batches


class Step(NamedTuple):
    """What a loss is given each step."""

    logits: Tensor  # [N, 1]
    targets: Tensor  # int64 [N]
    rows: Tensor  # int64 [N], their place among the training rows
    iid: Tensor | None  # bool [N]
    number: int  # from 0


Objective = Callable[[Step], Tensor]
WARM_SHARE = 0.3  # of the steps on class-weighted BCE first, where a loss wants a warm-up


def bce(task: Task, *, weight_power: float = 0.0) -> Objective:
    """Positives weigh (negatives / positives) ** weight_power: 0 is plain, 1 balances classes."""
    ratio = (task.n_rows - task.n_positives) / task.n_positives
    module = WeightedBCE(ratio**weight_power)
    return lambda step: module(step.logits, step.targets)


class WeightedBCE(nn.Module):
    """Of logits ``[N, 1]`` and targets ``[N]``, the shapes that ranking losses take."""

    def __init__(self, positive_weight: float) -> None:
        super().__init__()
        self.register_buffer("positive_weight", torch.tensor(positive_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits[:, 0], targets.to(logits.dtype), pos_weight=self.get_buffer("positive_weight")
        )


def focal(task: Task, *, alpha: float = 0.25, gamma: float = 2.0) -> Objective:  # noqa: ARG001
    from imbalanced_losses import SigmoidFocalLoss

    module = SigmoidFocalLoss(alpha=alpha, gamma=gamma)
    return lambda step: module(step.logits, step.targets[:, None].to(step.logits.dtype))


def mini_batch(task: Task, *, band: float = 1.0, margin: float = 1.0) -> Objective:
    """ "MB": squared hinge over the positives and the top-beta negatives of the batch alone."""

    def loss(step: Step) -> Tensor:
        scores, is_positive = step.logits[:, 0], step.targets == 1
        negatives = scores[~is_positive]
        hard = negatives.topk(math.ceil(band * task.budget * len(negatives))).values
        gaps = scores[is_positive][:, None] - hard
        return (margin - gaps).relu().square().sum() / max(gaps.numel(), 1)

    return loss


def pauc(task: Task, *, band: float = 1.0, band_from: float = 0.0, **options: Any) -> Objective:
    module = PAUCAtBudgetLoss(
        1,
        alpha=band_from * task.budget,
        beta=band * task.budget,
        queue_size=task.queue_size,
        **options,
    )
    return lambda step: module(step.logits, step.targets, iid_mask=step.iid)


def preset(task: Task, **overrides: Any) -> Objective:
    """What a person gets who knows the budget and what is in a batch."""
    module = PAUCAtBudgetLoss.for_budget(
        task.budget,
        batch_size=task.batch_size,
        positive_rate=task.positive_rate,
        iid_share=task.iid_share,
        **overrides,
    )
    return lambda step: module(step.logits, step.targets, iid_mask=step.iid)


def peer_pauc(task: Task, *, warm: bool, band: float = 1.0, **options: Any) -> Objective:
    """The nearest package's loss; warm: BCE first, then temperature 0.5 -> 0.1."""
    from imbalanced_losses import PAUCAtBudgetLoss as Peer

    main = Peer(1, beta=band * task.budget, queue_size=task.queue_size, **options)
    if warm:
        return _warmed(task, main, temp_start=0.5, temp_end=0.1)
    return lambda step: main(step.logits, step.targets, iid_mask=step.iid)


def smooth_ap(task: Task, *, temp_end: float = 0.01) -> Objective:
    from imbalanced_losses import SmoothAPLoss

    main = SmoothAPLoss(1, queue_size=task.queue_size)
    return _warmed(task, main, temp_start=0.5, temp_end=temp_end)


def recall_at_quantile(task: Task, *, band: float = 1.0, temp_end: float = 0.005) -> Objective:
    from imbalanced_losses import RecallAtQuantileLoss

    main = RecallAtQuantileLoss(1, quantile=band * task.budget, queue_size=task.queue_size)
    return _warmed(task, main, temp_start=10 * temp_end, temp_end=temp_end)


def _warmed(task: Task, main: nn.Module, *, temp_start: float, temp_end: float) -> Objective:
    """As that package's documentation recommends, with its own wrapper."""
    from imbalanced_losses import LossWarmupWrapper

    warm_steps = int(WARM_SHARE * task.steps)
    wrapper = LossWarmupWrapper(
        warmup_loss=WeightedBCE((task.n_rows - task.n_positives) / task.n_positives),
        main_loss=main,
        warmup_steps=warm_steps,
        temp_start=temp_start,
        temp_end=temp_end,
        temp_decay_steps=task.steps - warm_steps,
    )

    def loss(step: Step) -> Tensor:
        wrapper.on_train_batch_start(step.number)
        result: Tensor = wrapper(step.logits, step.targets)
        return result

    return loss


def our_smooth_ap(task: Task, *, temperature: float = 0.01) -> Objective:
    """Ours, in raw logit units as published; 4,096 rows, for its cost grows with their square."""
    rows = min(task.queue_size, 4096)
    main = SmoothAPLoss(1, queue_size=rows, tau_scale="unit", temperature=temperature)
    return _scheduled(task, main, temperature_start=0.5)


def our_recall(task: Task, *, band: float = 1.0) -> Objective:
    main = RecallAtQuantileLoss(1, quantile=band * task.budget, queue_size=task.queue_size)
    return _scheduled(task, main, temperature_start=1.0)


def _scheduled(task: Task, main: SmoothAPLoss | RecallAtQuantileLoss, **moves: Any) -> Objective:
    """Plain BCE first, then the loss, colder and colder."""
    warm_steps = int(WARM_SHARE * task.steps)
    schedule = PAUCSchedule(
        main, warmup_steps=warm_steps, anneal_steps=task.steps - warm_steps, **moves
    )

    def loss(step: Step) -> Tensor:
        result: Tensor = main(step.logits, step.targets, iid_mask=step.iid)
        schedule.step()
        return result

    return loss


def libauc(task: Task, *, name: str, **options: Any) -> Objective:
    """LibAUC's losses, alone: on sigmoid scores and iid batches, without its sampler and optimizer.

    A batch without positives, which its losses refuse, gives a zero.
    """
    from libauc.losses import auc

    if name == "pAUC_CVaR_Loss":
        options |= {"pos_len": task.n_positives, "beta": task.budget}
    module = getattr(auc, name)(data_len=task.n_rows, device="cpu", **options)

    def loss(step: Step) -> Tensor:
        if not bool((step.targets == 1).any()):
            return step.logits.sum() * 0
        result: Tensor = module(step.logits.sigmoid(), step.targets, step.rows)
        return result

    return loss


LOSSES: dict[str, Callable[..., Objective]] = {
    function.__name__: function
    for function in (
        bce,
        focal,
        mini_batch,
        pauc,
        preset,
        peer_pauc,
        smooth_ap,
        recall_at_quantile,
        our_smooth_ap,
        our_recall,
        libauc,
    )
}
