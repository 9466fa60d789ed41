"""A loss whose gradient is known beforehand, as a node of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pauc.core.again import differentiable_gradient
from pauc.core.outcome import Outcome


class Gradients(NamedTuple):
    """The derivatives by the logits ``[N, C]``; a class's loss depends on its own column alone."""

    per_class: Tensor  # [N, C], of each class's loss
    whole: Tensor | None  # [N, C], of the whole loss; None: it is `weight * per_class`
    valid: Tensor  # [C] bool, where a class's loss is not nan
    weight: float  # of each class's loss in the whole loss


def attach(
    logits: Tensor,
    loss: Tensor,
    per_class: Tensor,
    gradients: Gradients,
    again: Callable[[], tuple[Tensor, Outcome]] | None,
) -> None:
    """Make the loss (``[]`` or ``[C]``) and its parts ``[C]`` functions of the logits, in place.

    Args:
        logits: what the gradient goes to.
        loss, per_class: fresh tensors that nobody else holds.
        gradients: their derivatives.
        again: returns the logits, and the same loss and parts computed from them by operators, for
            a gradient that is itself to be differentiated; None: a second derivative is refused.
    """
    # Past the `apply` of Function itself, which looks for transforms of torch.func in each argument
    # and takes as long as the rest: native code has declined those. In tuples, autograd takes no
    # tensor for an input.
    apply: Callable[..., Any] = super(torch.autograd.Function, _Attached).apply
    apply(logits, (loss, per_class), (again, gradients))


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        _logits: Tensor,
        values: tuple[Tensor, Tensor],
        way_back: tuple[Callable[[], tuple[Tensor, Outcome]] | None, Gradients],
    ) -> tuple[Tensor, Tensor]:
        ctx.again, gradients = way_back
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients[:3])
        ctx.weight = gradients.weight
        return values

    @staticmethod
    def backward(
        ctx: Any, of_loss: Tensor | None, of_parts: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # First, since this is where torch refuses a graph that has been freed.
        per_class, whole, valid = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            return differentiable_gradient(ctx.again, of_loss, of_parts), None, None
        # Drop the closure: it holds the batch, and a sum of losses would keep every batch alive.
        ctx.again = None
        gradients = Gradients(per_class, whole, valid, ctx.weight)
        return pull(gradients, of_loss, of_parts), None, None


def pull(gradients: Gradients, of_loss: Tensor | None, of_parts: Tensor | None) -> Tensor | None:
    """Return the gradient ``[N, C]`` for those of the loss and of its parts, None where both are.

    The factors may be nan for a class whose own loss is nan: they are taken for 0.
    """
    per_class, whole, valid, weight = gradients
    gradient = None
    if of_loss is not None:
        by = of_loss if of_loss.ndim == 0 else _without_nan(of_loss, valid)
        gradient = per_class * (by * weight) if whole is None else whole * by
    if of_parts is not None:
        by_parts = per_class * _without_nan(of_parts, valid)
        gradient = by_parts if gradient is None else gradient + by_parts
    return gradient


def _without_nan(upstream: Tensor, valid: Tensor) -> Tensor:
    """Return the upstream gradient, 0 where it is nan because the class's own loss is nan."""
    return torch.where(valid | ~upstream.isnan(), upstream, 0.0)
