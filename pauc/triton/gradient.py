"""A loss whose gradient is known beforehand, as a node of the graph; its backward is one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pauc.core.again import differentiable_gradient, unless_changed
from pauc.core.batch import Rows
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState
from pauc.triton.entry import TritonEntry
from pauc.triton.kernels.reduce import chain
from pauc.triton.memory import BLOCK, LAUNCH, Found


def attach(
    rows: Rows,
    queue: QueueState,
    entry: TritonEntry,
    found: Found,
    has_entropy: bool,
    again: Callable[[Tensor], Outcome] | None,
) -> None:
    """Make the loss and its parts functions of the logits, in place.

    ``again`` computes the same by operators, for a gradient that is itself to be differentiated;
    None: a second derivative is refused.
    """
    recompute = unless_changed(again, rows, rows.logits, queue)
    # The gradient of the cross-entropy is computed on the way back, from these.
    batch = entry.logits, entry.targets, entry.weight
    known = found.gradient, found.factor, found.valid, found.shares, found.earned
    _Attached.apply(  # type: ignore[no-untyped-call]
        rows.logits, (found.loss, found.per_class), recompute, entry.ignore_index, entry.labels,
        *known, *(batch if has_entropy else (None,) * 3),
    )  # fmt: skip


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        values: tuple[Tensor, Tensor],  # in a tuple, so that autograd takes them for no inputs
        again: Callable[[], tuple[Tensor, Outcome]] | None,
        ignore_index: int,
        labels: str,
        *known: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*known)
        ctx.again = again
        ctx.dtype = logits.dtype
        ctx.ignore_index, ctx.labels = ignore_index, labels
        return values

    @staticmethod
    def backward(
        ctx: Any, of_loss: Tensor | None, of_parts: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            return differentiable_gradient(ctx.again, of_loss, of_parts), *(None,) * 12
        # Drop the closure: it holds the batch, and a sum of losses would keep every batch alive.
        ctx.again = None
        if of_loss is None and of_parts is None:
            return (None,) * 13
        gradient, factor, valid, shares, earned, *batch = ctx.saved_tensors
        result = torch.empty_like(gradient, dtype=ctx.dtype)
        count, by_class = gradient.numel(), of_loss is not None and of_loss.ndim > 0
        chain[(-(-count // BLOCK),)](
            gradient, factor, valid, of_loss, of_parts, *batch, shares, earned, result,
            count, gradient.shape[1], of_loss.stride(0) if by_class and of_loss is not None else 0,
            0 if of_parts is None else of_parts.stride(0), ctx.ignore_index,
            BLOCK=BLOCK, BY_CLASS=by_class, LABELS=ctx.labels,
            ENTROPY=batch[0] is not None, **LAUNCH,
        )  # fmt: skip
        return result, *(None,) * 12
