"""A loss with a known gradient, as a node of the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Gradients(NamedTuple):
    """How a loss moves with the logits ``[N, C]``, each column's by its own logits alone."""

    per_class: Tensor  # [N, C], of each class's loss
    whole: Tensor | None  # [N, C], of the loss; None: `weight` times that of the classes
    valid: Tensor  # [C] bool, where a class's loss is not nan
    weight: float  # of these in the loss


def attach(
    logits: Tensor, loss: Tensor, per_class: Tensor, gradients: Gradients
) -> tuple[Tensor, Tensor]:
    """Give a gradient to the logits to the loss (``[]`` or ``[C]``) and its parts ``[C]``.

    They must be nobody else's, and are returned. Their own derivative is not known: where that is
    asked for, a RuntimeError says so.
    """
    attached: tuple[Tensor, Tensor] = _Attached.apply(  # type: ignore[no-untyped-call]
        logits, (loss, per_class), *gradients
    )
    return attached


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        values: tuple[Tensor, Tensor],  # in a tuple, since they are no inputs of the node
        per_class: Tensor,
        whole: Tensor | None,
        valid: Tensor,
        weight: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(per_class, whole, valid)
        # Not saved: its values, which may change, are of no interest.
        ctx.logits = logits
        ctx.weight = weight
        return values

    @staticmethod
    def backward(
        ctx: Any, of_loss: Tensor | None, of_parts: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        per_class, whole, valid = ctx.saved_tensors
        gradient = None
        with torch.no_grad():
            if of_loss is not None:
                by = of_loss if of_loss.ndim == 0 else _without_nan(of_loss, valid)
                gradient = per_class * (by * ctx.weight) if whole is None else whole * by
            if of_parts is not None:
                by_parts = per_class * _without_nan(of_parts, valid)
                gradient = by_parts if gradient is None else gradient + by_parts
        if gradient is not None and torch.is_grad_enabled():  # a graph of the gradient is wanted
            sources = [part for part in (of_loss, of_parts) if part is not None]
            gradient = _Last.apply(gradient, ctx.logits, *sources)  # type: ignore[no-untyped-call]
        return gradient, *(None,) * 5


def _without_nan(upstream: Tensor, valid: Tensor) -> Tensor:
    """Return 0 for a nan upstream of what is nan, where a derivative may be that."""
    return torch.where(valid | ~upstream.isnan(), upstream, 0.0)


class _Last(torch.autograd.Function):
    """Refuses to be differentiated, where autograd would take the gradient for a constant."""

    @staticmethod
    def forward(_ctx: Any, gradient: Tensor, *_sources: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(_ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "the gradient of this loss cannot be differentiated again: use pauc.pauc_loss_fn for "
            "second derivatives"
        )
