"""One native step, for an environment that has a wheel and torch, and nothing else of the tests."""

import torch

import pauc
from pauc.native import extension

pauc.show_config()
assert extension.ext is not None, "the wheel has no native code"
loss_fn = pauc.PAUCAtBudgetLoss(1, beta=0.5, queue_size=64)
logits = torch.randn(100, 1, requires_grad=True)
loss = loss_fn(logits, torch.arange(100) % 2)
loss.backward()
assert loss_fn._bounds is not None, "the step was not native"
assert logits.grad is not None
assert bool(logits.grad.any())
print(f"a native step: loss {loss.item():.4f}")
