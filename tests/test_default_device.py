"""No public function takes torch's default dtype or default device: they are those of its rows."""

from __future__ import annotations

import pytest
import torch

from pauc import (
    PAUCAtBudgetLoss,
    PAUCSchedule,
    RecallAtQuantileLoss,
    SmoothAPLoss,
    band_edges,
    enqueue,
    init_queue,
    pairwise_pauc,
    pauc_loss_fn,
    pauc_loss_terms,
    queue_rows,
    recall_at_quantile_terms,
    recommend_queue_size,
    resize_queue,
    robust_scale,
    select_threshold,
    smooth_ap_terms,
    trapezoid_pauc,
)
from pauc.boosting import PartialAUCMetric, band_objective, log_odds
from pauc.intervals import (
    bootstrap_interval,
    partial_auc_interval,
    tpr_at_fpr_interval,
    wilson_interval,
)
from pauc.metrics import coverage_at_budget, partial_auc, roc_curve_in_band, tpr_at_fpr

pytestmark = [
    pytest.mark.usefixtures("each_path"),
    pytest.mark.filterwarnings("ignore:(PAUCAtBudgetLoss|RecallAtQuantileLoss|SmoothAPLoss)"),
]

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(60, 1, generator=G)
TARGETS = torch.arange(60) % 3 // 2
QUEUE = enqueue(init_queue(50, 1), LOGITS, TARGETS)
SCORES = LOGITS[:, 0]
NEGATIVES = (TARGETS == 0).unsqueeze(0)


def trained(kind):
    def run(loss):
        loss.reset_queue()
        outputs = [loss(LOGITS, TARGETS, return_diagnostics=True) for _ in range(3)]
        states = [loss.state_dict(), loss.double().state_dict(), loss.float().state_dict()]
        return [outputs, states]

    loss = kind(1, queue_size=50)
    return lambda: run(loss)


def scheduled():
    loss = PAUCAtBudgetLoss(1, queue_size=50)
    schedule = PAUCSchedule(loss, warmup_steps=1, blend_steps=2)
    start = schedule.state_dict()

    def run():
        schedule.load_state_dict(start)
        loss.reset_queue()
        values = []
        for _ in range(4):
            values.append(loss(LOGITS, TARGETS))
            schedule.step()
        return values

    return run


def pairs(**options):
    return lambda: pauc_loss_fn(LOGITS, TARGETS, QUEUE, beta=0.3, surrogate="pairwise", **options)


CALLS = {
    "trapezoid": lambda: pauc_loss_terms(LOGITS, TARGETS, QUEUE, beta=0.3, diagnostics=True),
    "implicit": lambda: pauc_loss_fn(LOGITS, TARGETS, QUEUE, edge_gradient="implicit"),
    "pairwise": pairs(),
    "bce": pairs(bce_weight=1.0, gradient_scale="live"),
    "capped": pairs(max_pool_size=40),
    "unread": pairs(validate_args=False),
    "population": pairs(budget_basis="population"),
    "precision": pairs(budget_basis="precision", precision=0.5, base_rate=0.4),
    "recall": lambda: recall_at_quantile_terms(LOGITS, TARGETS, QUEUE, diagnostics=True),
    "ap": lambda: smooth_ap_terms(LOGITS, TARGETS, QUEUE, diagnostics=True),
    "module": trained(PAUCAtBudgetLoss),
    "recall module": trained(RecallAtQuantileLoss),
    "ap module": trained(SmoothAPLoss),
    "schedule": scheduled(),
    "enqueue": lambda: enqueue(QUEUE, LOGITS, TARGETS),
    "resize": lambda: [resize_queue(QUEUE, 20), queue_rows(QUEUE)],
    "size": lambda: torch.tensor(recommend_queue_size(0.01), device="cpu", dtype=torch.float32),
    "edges": lambda: band_edges(SCORES.unsqueeze(0), NEGATIVES, 0.1, 0.4),
    "trapezoid by hand": lambda: trapezoid_pauc(
        SCORES[TARGETS == 1], SCORES[:2].sort(descending=True).values, LOGITS[3, 0].abs()
    ),
    "pairs by hand": lambda: pairwise_pauc(
        SCORES[TARGETS == 1], SCORES[TARGETS == 0], LOGITS[3, 0].abs()
    ),
    "scale": lambda: robust_scale(SCORES.unsqueeze(0), NEGATIVES, "iqr"),
    "metrics": lambda: [
        tpr_at_fpr(SCORES, TARGETS, [0.1, 0.2]),
        tpr_at_fpr(SCORES, TARGETS, 0.1),
        partial_auc(SCORES, TARGETS, 0.0, 0.3),
        coverage_at_budget(SCORES, TARGETS, 0.1),
        roc_curve_in_band(SCORES, TARGETS, 0.0, 0.5),
    ],
    "boosting": lambda: [
        band_objective(SCORES, TARGETS, beta=0.5),
        band_objective(SCORES, TARGETS, beta=0.5, sample_weight=SCORES.exp()),
        band_objective(torch.stack([SCORES, -SCORES], 1), TARGETS, beta=0.5),
        torch.from_numpy(band_objective(SCORES.numpy(), TARGETS.numpy(), beta=0.5)[0]),
        log_odds(TARGETS),
        log_odds(TARGETS, num_class=2),
        PartialAUCMetric(0.5)(TARGETS.numpy(), SCORES.numpy())[1],
    ],
    "intervals": lambda: [
        tpr_at_fpr_interval(SCORES, TARGETS, 0.1, n_resamples=100, seed=0),
        partial_auc_interval(SCORES, TARGETS, 0.0, 0.3),
        bootstrap_interval(
            lambda s, t: float(partial_auc(s, t)), SCORES, TARGETS, n_resamples=50, seed=0
        ),
        wilson_interval(3, 10),
    ],
    "threshold": lambda: [
        torch.tensor(point, device="cpu", dtype=torch.float64)
        for point in (
            select_threshold(SCORES, TARGETS, 0.1),
            select_threshold(SCORES, TARGETS, 0.2, confidence=0.9),
        )
    ],
}


def tensors(found):
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, float):
        return [torch.tensor(found, dtype=torch.float64, device="cpu")]
    parts = found.values() if isinstance(found, dict) else found
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("call", CALLS)
def test_the_defaults_of_torch_change_nothing(call):
    expected = tensors(CALLS[call]())
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        found = tensors(CALLS[call]())
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
        assert torch.equal(one.nan_to_num(9), other.nan_to_num(9))


def test_only_a_constructor_takes_the_default_device():
    with torch.device("meta"):
        assert init_queue(4, 1).scores.is_meta
        assert PAUCAtBudgetLoss(1).queue_scores.is_meta
        assert init_queue(4, 1, device="cpu").scores.is_cpu
