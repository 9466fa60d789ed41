"""A loss with a known gradient, as a node of the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Gradients(NamedTuple):
    """How a loss moves with the logits ``[N, C]``, each column's by its own logits alone."""

    per_class: Tensor  # [N, C], of each class's loss
    weight: Tensor  # [] or [C], of these in the loss
    direct: Tensor | None  # [N, C], what reaches the loss beside them


def attach(
    logits: Tensor, loss: Tensor, per_class: Tensor, gradients: Gradients
) -> tuple[Tensor, Tensor]:
    """Return the loss (``[]`` or ``[C]``) and its parts ``[C]`` with a gradient to the logits.

    There is no second derivative: autograd raises, where one is asked for.
    """
    attached: tuple[Tensor, Tensor] = _Attached.apply(logits, loss, per_class, *gradients)
    return attached


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        logits: Tensor, loss: Tensor, per_class: Tensor, *gradients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return loss.clone(), per_class.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[3:])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(
        ctx: Any, of_loss: Tensor | None, of_parts: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        per_class, weight, direct = ctx.saved_tensors
        scale = of_parts
        if of_loss is not None:
            scale = weight * of_loss if scale is None else weight * of_loss + scale
        if scale is None:
            return (None,) * 6
        gradient = per_class * scale
        if of_loss is not None and direct is not None:
            gradient += direct * of_loss
        return gradient, None, None, None, None, None
