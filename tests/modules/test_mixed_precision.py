"""Half precision as people use it: autocast around the model, a gradient scaler around the step."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn

from pauc import PAUCAtBudgetLoss
from pauc.metrics import partial_auc, tpr_at_fpr

RECIPE = {
    "surrogate": "pairwise",
    "link": "logistic",
    "gradient_scale": "live",
    "tau_scale": "unit",
    "temperature": 1.0,
    "bce_weight": 0.1,
}
VARIANTS = {
    "recipe": RECIPE,
    "pairwise": {"surrogate": "pairwise"},
    "trapezoid": {},
    "implicit edges": {"edge_gradient": "implicit", "gradient_scale": "live", "n_knots": 4},
}
N_FEATURES, SHIFT = 10, 3.0


def rows_like(count: int, generator: torch.Generator, share: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two normal populations SHIFT apart, whose ROC curve is known: the binormal one."""
    targets = (torch.rand(count, generator=generator) < share).long()
    features = torch.randn(count, N_FEATURES, generator=generator)
    features += targets.unsqueeze(1) * SHIFT / math.sqrt(N_FEATURES)
    return features, targets


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_inside_the_autocast_region_the_loss_is_what_it_is_outside(options, half):
    """No operation of the loss is cast down: loss, gradients and queue agree to the last bit."""
    g = torch.Generator().manual_seed(0)
    inside, outside = (PAUCAtBudgetLoss(1, beta=0.2, queue_size=256, **options) for _ in range(2))
    for _ in range(3):
        features, targets = rows_like(200, g, share=0.3)
        net = nn.Linear(N_FEATURES, 1)
        with torch.autocast("cpu", dtype=half):
            logits = net(features).detach()
        assert logits.dtype == half
        here, there = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        with torch.autocast("cpu", dtype=half):
            loss = inside(here, targets)
        same = outside(there, targets)
        loss.backward()
        same.backward()
        assert loss.dtype == same.dtype == torch.float32
        assert torch.equal(loss, same)
        assert here.grad.dtype == half
        assert torch.equal(here.grad, there.grad)
        assert (here.grad != 0).any()
    assert inside.queue_scores.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(inside.queue, outside.queue, strict=True))


class Trainer:
    """A model with autocast and a scaler, one step at a time."""

    def __init__(self, device: str, half: torch.dtype, *, init_scale: float = 2.0**10) -> None:
        torch.manual_seed(0)
        self.device, self.half = device, half
        self.net = nn.Linear(N_FEATURES, 1).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler(device, init_scale=init_scale)
        self.loss_fn = PAUCAtBudgetLoss(1, beta=0.2, queue_size=512, **RECIPE).to(device)

    def step(self, features: Tensor, targets: Tensor) -> float:
        with torch.autocast(self.device, dtype=self.half):
            logits = self.net(features.to(self.device))
            loss = self.loss_fn(logits, targets.to(self.device))
        assert logits.dtype == self.half
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.net.parameters()]).cpu()


MACHINES = [
    ("cpu", torch.bfloat16),
    ("cpu", torch.float16),
    pytest.param(
        "cuda",
        torch.float16,
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    ),
]


@pytest.mark.parametrize(("device", "half"), MACHINES)
def test_a_step_with_an_infinite_logit_is_skipped_and_leaves_no_trace(device, half):
    """The queue and all later steps are those of a run that never met the row."""
    spoiled, clean = Trainer(device, half), Trainer(device, half)
    g = torch.Generator().manual_seed(0)
    for step in range(8):
        features, targets = rows_like(100, g, share=0.3)
        if step != 4:
            assert spoiled.step(features, targets) == clean.step(features, targets)
            continue
        before, scale = spoiled.weights(), spoiled.scaler.get_scale()
        features[7] = math.inf
        assert not math.isfinite(spoiled.step(features, targets))
        assert torch.equal(spoiled.weights(), before)
        assert spoiled.scaler.get_scale() == scale / 2
        # What the clean run does with that batch: its other rows are remembered, no step is made.
        features[7], targets[7] = 0, -100  # so many rows again, for the same kernels
        with torch.no_grad(), torch.autocast(device, dtype=half):
            clean.loss_fn(clean.net(features.to(device)), targets.to(device))
    assert torch.equal(spoiled.weights(), clean.weights())
    assert not torch.equal(spoiled.weights(), before)
    assert bool(spoiled.loss_fn.queue_scores.isfinite().all())
    for a, b in zip(spoiled.loss_fn.queue, clean.loss_fn.queue, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("device", "half"), [m for m in MACHINES if m != MACHINES[0]])
def test_a_scale_that_overflows_float16_comes_down_and_training_goes_on(device, half):
    """The loss is finite and its gradient is not: weights stay, the rows are valid and stay too."""
    trainer = Trainer(device, half, init_scale=2.0**30)
    g = torch.Generator().manual_seed(0)
    before, skipped = trainer.weights(), 0
    for _ in range(40):
        assert math.isfinite(trainer.step(*rows_like(100, g, share=0.3)))
        skipped += torch.equal(trainer.weights(), before)
    assert 0 < skipped < 40
    assert trainer.scaler.get_scale() == 2.0 ** (30 - skipped)
    assert not torch.equal(trainer.weights(), before)
    assert int(trainer.loss_fn.queue_fill) == 512


def caught(half: torch.dtype | None) -> tuple[float, float]:
    """TPR and partial AUC on held-out rows after a short training; None trains in float32."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Linear(N_FEATURES, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    loss_fn = PAUCAtBudgetLoss(1, beta=0.04, queue_size=4096, **RECIPE)
    for _ in range(300):
        features, targets = rows_like(512, g)
        with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
            loss = loss_fn(net(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, targets = rows_like(100_000, g)
    with torch.no_grad():
        scores = net(features)
    return (
        tpr_at_fpr(scores, targets, 0.01).item(),
        partial_auc(scores, targets, beta=0.01).item(),
    )


def test_bfloat16_training_ends_where_float32_ends():
    """Both end at the best ROC curve that there is, TPR = Phi(shift + Phi^-1(FPR)).

    Tolerances: TPR of 5,000 held-out positives has a standard error of 0.006, and the threshold,
    from 950 negatives above it, one of 0.011 in TPR. Three times both together is 0.04. Against
    each other, on the same held-out rows, the sampling cancels but for what the models differ in.
    """
    normal = NormalDist()
    best = normal.cdf(SHIFT + normal.inv_cdf(0.01))
    (tpr, pauc), (half_tpr, half_pauc) = caught(None), caught(torch.bfloat16)
    assert tpr == pytest.approx(best, abs=0.04)
    assert half_tpr == pytest.approx(best, abs=0.04)
    assert half_tpr == pytest.approx(tpr, abs=0.02)
    assert half_pauc == pytest.approx(pauc, abs=0.02)
