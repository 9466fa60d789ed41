"""Gradient accumulation as the recipes have it: the gradient of the whole batch, by parts."""

from __future__ import annotations

import torch
from torch import nn

from pauc import PAUCAtBudgetLoss


def test_the_gradient_by_micro_batches_is_that_of_the_whole_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    x, y = torch.randn(400, 8, dtype=torch.float64), (torch.rand(400) < 0.1).long()

    def make_loss():
        # Pairs from the first step on: BCE by parts is the BCE of the whole.
        return PAUCAtBudgetLoss.for_budget(
            0.05, batch_size=400, positive_rate=0.1, weight_scale="unit"
        )

    whole_loss, loss_fn = make_loss(), make_loss()
    whole_loss(model(x), y).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(64)])
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_fn(logits, y), logits)
    for part, own in zip(x.split(64), gradient.split(64), strict=True):
        model(part).backward(own)
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-10, atol=1e-14)
    assert int(loss_fn.queue_fill) == int(whole_loss.queue_fill)

    model.zero_grad()
    by_parts = make_loss()  # what the recipe is for: a loss of each part is another loss
    for part, labels in zip(x.split(64), y.split(64), strict=True):
        (by_parts(model(part), labels) * len(part) / len(x)).backward()
    assert not torch.allclose(model[0].weight.grad, expected[0], rtol=1e-2)
