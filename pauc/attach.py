"""A loss with a known gradient, as a node of the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Gradients(NamedTuple):
    """How a loss moves with the logits ``[N, C]``, each column's by its own logits alone."""

    per_class: Tensor  # [N, C], of each class's loss
    valid: Tensor  # [C] bool, where that is not nan
    weight: float  # of these in the loss
    direct: Tensor | None  # [N, C], what reaches the loss beside them


def attach(
    logits: Tensor, loss: Tensor, per_class: Tensor, gradients: Gradients
) -> tuple[Tensor, Tensor]:
    """Return the loss (``[]`` or ``[C]``) and its parts ``[C]`` with a gradient to the logits.

    Its own derivative is not known: where that is asked for, a RuntimeError says so.
    """
    attached: tuple[Tensor, Tensor] = _Attached.apply(  # type: ignore[no-untyped-call]
        logits, loss, per_class, *gradients
    )
    return attached


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        loss: Tensor,
        per_class: Tensor,
        gradient: Tensor,
        valid: Tensor,
        weight: float,
        direct: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, valid, direct)
        # Not saved: its values, which may change, are of no interest.
        ctx.logits = logits
        ctx.weight = weight
        return loss.clone(), per_class.clone()

    @staticmethod
    def backward(
        ctx: Any, of_loss: Tensor | None, of_parts: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        per_class, valid, direct = ctx.saved_tensors
        with torch.no_grad():
            scale = of_parts
            if of_loss is not None:
                scale = ctx.weight * of_loss if scale is None else ctx.weight * of_loss + scale
            if scale is None:
                return (None,) * 7
            if scale.ndim > 0:  # of what is nan, a derivative may be nan
                scale = torch.where(valid, scale, 0.0)
            gradient = per_class * scale
            if of_loss is not None and direct is not None:
                gradient += direct * of_loss
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            sources = [part for part in (of_loss, of_parts) if part is not None]
            gradient = _Last.apply(gradient, ctx.logits, *sources)  # type: ignore[no-untyped-call]
        return gradient, *(None,) * 6


class _Last(torch.autograd.Function):
    """Refuses to be differentiated, where autograd would take the gradient for a constant."""

    @staticmethod
    def forward(_ctx: Any, gradient: Tensor, *_sources: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(_ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "the gradient of this loss cannot be differentiated again: use pauc.pauc_loss_fn, or "
            "the module with validate_args=False, for second derivatives"
        )
