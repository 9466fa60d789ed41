"""The operator of a step with its gradient, and the gradient with its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pauc.core.again import NO_SECOND_DERIVATIVE
from pauc.core.batch import Rows
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState
from pauc.native.gradient import Gradients, pull
from pauc.native.operator import SCHEMA, Found, define

# Computes the outcome by operators, from logits, the other rows and the queue.
Again = Callable[..., Outcome]

_DATA = len(Rows._fields) + len(QueueState._fields)  # the arguments that are rows and queue


class DifferentiableStep(Function):
    """The operator with its gradient.

    Its arguments are an :data:`Again`, or None to refuse second derivatives, and those of the
    operator.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(_again: Again | None, *given: Any) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.ops.pauc.native_step(*given)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.again, *given = inputs
        found = Found(*output)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*found[2:])
        # Only to compute the loss again: the batch's rows enter the queue before the backward pass.
        data = () if ctx.again is None else given[:_DATA]
        ctx.save_for_backward(found.slopes, found.whole, found.valid, *data)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = ctx.again, *factors[:2], *ctx.saved_tensors
        gradient = _Slopes.apply(*arguments)  # type: ignore[no-untyped-call]
        return None, gradient, *(None,) * (_DATA + 3)


class _Slopes(Function):
    """The gradient; its own is computed by operators, where it is wanted."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        _again: Again | None,
        of_loss: Tensor | None,
        of_parts: Tensor | None,
        slopes: Tensor,
        whole: Tensor,
        valid: Tensor,
        *_data: Any,
    ) -> Tensor | None:
        return pull(Gradients(slopes, whole, valid, 1.0), of_loss, of_parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None) -> None:
        del output  # torch calls by these names
        ctx.again, of_loss, of_parts, _, _, _, *data = inputs
        ctx.save_for_backward(of_loss, of_parts, *data)

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.again is None:
            raise RuntimeError(NO_SECOND_DERIVATIVE)
        *factors, logits = ctx.saved_tensors[:3]
        others = ctx.saved_tensors[3:]
        asked = [k for k, factor in enumerate(factors) if factor is not None]

        def values(logits: Tensor) -> tuple[Tensor, ...]:
            outcome = ctx.again(logits, *others)
            return tuple([(outcome.loss, outcome.per_class)[k] for k in asked])

        def gradient(logits: Tensor, *factors: Tensor) -> Tensor:
            pulled: Tensor = torch.func.vjp(values, logits)[1](factors)[0]
            return pulled

        back = torch.func.vjp(gradient, logits, *(factors[k] for k in asked))[1]
        by_logits, *by_asked = back(by)
        by_factors: list[Tensor | None] = [None, None]
        for k, found in zip(asked, by_asked, strict=True):
            by_factors[k] = found
        return None, *by_factors, None, None, None, by_logits, *(None,) * (_DATA - 1)


def _take_step(*given: Any) -> tuple[Tensor, ...]:
    if given[0].requires_grad and torch.is_grad_enabled():
        found: tuple[Tensor, ...] = DifferentiableStep.apply(None, *given)  # type: ignore[no-untyped-call]
        return found
    return DifferentiableStep.forward(None, *given)


# For a compiler: it does not look inside of an operator, and the graph that it makes of one that is
# composed of others holds those. A gradient that is registered would cost a look at each run.
define("differentiable_native_step", SCHEMA, _take_step, "CompositeImplicitAutograd")
