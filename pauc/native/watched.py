"""A step where somebody watches operators: a compiler, a transform of ``torch.func``, a tracer.

There, the native code is called as an operator of torch, whose rules they find.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from pauc.config import LossConfig
from pauc.core.batch import Rows
from pauc.core.dispatch import core_step
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState, compute_dtype
from pauc.native import extension
from pauc.native.differentiable import Again, DifferentiableStep
from pauc.native.operator import Found, encode
from pauc.native.options import native_options
from pauc.native.readable import is_dual, is_sound, is_watched

_TYPES = (Tensor, Parameter, FakeTensor)


class OperatorEntry(NamedTuple):
    """A batch whose rows an operator lets into a queue; ``N`` rows, ``C`` classes."""

    scores: Tensor  # [N, C] dtype of the queue's, detached
    targets: Tensor  # [N] or [N, 1]; multi-label [N, C]
    iid: Tensor | None  # [N] bool
    weight: Tensor | None  # [N]
    ignore_index: int

    def into(self, queue: QueueState, *, in_place: bool = False) -> QueueState:
        """Return the queue with the rows in it; ``in_place``, only their slots are written."""
        if in_place and all(part.is_contiguous() for part in queue):
            torch.ops.pauc.native_enter_(*self[:4], *queue, self.ignore_index)
            return queue
        return QueueState(*torch.ops.pauc.native_enter(*self[:4], *queue, self.ignore_index))


def has_operator(config: LossConfig) -> bool:
    """Return whether the operator computes a config; numbers of a graph may be tensors."""
    defaults = type(config)._field_defaults
    numbers = {
        name: defaults[name]
        for name, value in zip(type(config)._fields, config, strict=True)
        if isinstance(value, Tensor)
    }
    return native_options(config._replace(**numbers)) is not None


def take_watched_step(
    rows: Rows,
    queue: QueueState,
    bounds: Tensor | None,
    config: LossConfig,
    *,
    check_values: bool,
) -> tuple[Outcome, Tensor | None] | None:
    """Return the outcome of a step and bounds for the next, or None: the step is declined.

    It is declined where nobody watches, and where the operator has no rule for what they do:
    forward-mode derivatives, traces of TorchScript, and graphs that are exported, which are to run
    where this package is not.

    Args:
        rows: have passed :func:`pauc.core.batch.check_rows`.
        queue: before the step.
        bounds: of an earlier step, for a compiler; they are not written to.
        config: checked.
        check_values: look at targets and weights; a graph does so whenever it runs.

    Raises:
        ValueError: an illegal value; in a graph, when it runs.
    """
    compiling = torch.compiler.is_compiling()
    if extension.ext is None or not (compiling or is_watched(rows, queue)):
        return None
    if not _has_rules(rows, queue, config):
        return None
    scores = rows.logits.to(queue.scores.dtype)
    _, targets, iid_mask, weight = rows
    others = targets, iid_mask, None if weight is None else weight.detach()
    guess = bounds if compiling else None  # a transform's tensors must not outlive it
    given = scores, *others, *queue, guess, *encode(config), check_values
    if compiling:
        found = Found(*torch.ops.pauc.differentiable_native_step(*given))
    else:
        found = Found(*DifferentiableStep.apply(_again(config), *given))  # type: ignore[no-untyped-call]
    entry = OperatorEntry(scores.detach(), *others, config.ignore_index)
    return Outcome(*found[:5], {}, entry), found.bounds if compiling else bounds


def _has_rules(rows: Rows, queue: QueueState, config: LossConfig) -> bool:
    """Return whether the operator can stand for the operators that would compute this step."""
    logits = rows.logits
    if torch.compiler.is_compiling():
        # A compiler knows an operator's gradient, and a transform inside of its graph does not.
        if torch._C._are_functorch_transforms_active() or _is_exporting():
            return False
        if any(isinstance(value, Tensor) and value.requires_grad for value in config):
            return False  # the operator has no gradient by its options
    elif (
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or is_dual(logits)
        or _is_transformed_without_rule()
        # A transform may differentiate by it, or map over it.
        or any(isinstance(value, Tensor) for value in config)
    ):
        return False
    return (
        all(part is None or (type(part) in _TYPES and part.is_cpu) for part in (*rows, *queue))
        and compute_dtype(logits, queue.scores) == queue.scores.dtype
        and is_sound(queue)
    )


def _is_transformed_without_rule() -> bool:
    """Return whether a transform of ``torch.func`` is around this call that knows no operator.

    Forward-mode derivatives and functionalization do not; gradients and ``vmap`` do.
    """
    kinds = torch._C._functorch.TransformType
    levels = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() not in (kinds.Grad, kinds.Vmap) for level in levels)


def _is_exporting() -> bool:
    """Return whether :func:`torch.export.export` makes the graph; torch before 2.7 cannot tell."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def _again(config: LossConfig) -> Again:
    def compute(logits: Tensor, *others: Any) -> Outcome:
        rows = Rows(logits, *others[: len(Rows._fields) - 1])
        queue = QueueState(*others[len(Rows._fields) - 1 :])
        return core_step(rows, queue, config, check_values=False, read_values=False)

    return compute
