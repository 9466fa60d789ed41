"""Which backend computes a step: the choice stands here and nowhere else.

A *backend* turns a batch, a queue and a checked config into an :class:`pauc.core.outcome.Outcome`:
the loss, what stands behind it, and the rows that are to enter the queue. :mod:`pauc.core` computes
everything, in torch operators, and is what the others are checked against. :mod:`pauc.native` is
one call for a step on a CPU, and :mod:`pauc.triton` a step of the partial AUC in kernels for CUDA;
both may decline, and then ``core`` takes the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pauc import native, triton
from pauc.config import LossConfig
from pauc.core.batch import Rows, check_rows
from pauc.core.dispatch import core_refusal, core_step
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState
from pauc.devices import may_look


class Plan(NamedTuple):
    """A checked config, and what the backends make of it, for every step with that config."""

    config: LossConfig
    native: native.NativeOptions | None  # None: the native step does not support the config
    operator: bool = False  # whether the native step can be an operator of a graph
    triton: triton.TritonOptions | None = None  # None: the Triton step does not support the config


def plan_step(config: LossConfig) -> Plan:
    """Return the plan for a checked config.

    Raises:
        NotImplementedError: an option that no backend supports, which is a defect of this package.
    """
    refusal = core_refusal(config)
    if refusal is not None:
        raise NotImplementedError(f"no backend of pauc computes this: {refusal}")
    if torch.compiler.is_compiling():  # tensors among the options must not be read
        return Plan(config, None, native.has_operator(config))
    options = native.native_options(config)
    return Plan(config, options, options is not None, triton.triton_options(config))


def take_step(
    rows: Rows,
    queue: QueueState,
    plan: Plan,
    *,
    bounds: Tensor | None = None,
    validate_args: bool = True,
    are_checked: bool = False,
    diagnostics: bool = False,
    queue_moves: bool = False,
) -> tuple[Outcome, Tensor | None]:
    """Return the outcome of a step, and bounds for the next one.

    Args:
        rows: the batch, as the caller gave it.
        queue: before the step.
        plan: of the config.
        bounds: from an earlier step, whose owner lets go of them. They say where the native step
            looks for scores first: they change what a step costs, never what comes out.
        validate_args: look at values, to refuse what is not legal, counters of the queue included,
            and to size work arrays. On an accelerator the device looks, and sizes do not depend on
            values, so that the host need not wait.
        are_checked: the rows have passed all checks on the ranks that brought them.
        diagnostics: also compute ``stats``.
        queue_moves: the rows will enter this very queue, so that nothing can be computed again.

    Raises:
        TypeError, ValueError: rows that do not fit together, or illegal values.
    """
    if not are_checked:
        check_rows(rows, queue)
    check_values = validate_args and not are_checked
    compiling = torch.compiler.is_compiling()
    if plan.triton is not None and not diagnostics and not compiling:
        found = _triton_step(rows, queue, plan, check_values, queue_moves)
        if found is not None:
            return found, bounds
    taken: tuple[Outcome, Tensor | None] | None = None
    if plan.native is not None and not compiling:
        again = None if queue_moves else _by_operators(rows, queue, plan.native.config)
        flags = {"check_values": check_values, "diagnostics": diagnostics}
        taken = native.take_step(rows, queue, bounds, plan.native, again, **flags)
    if taken is None and plan.operator and not diagnostics:
        taken = native.take_watched_step(
            rows, queue, bounds, plan.config, check_values=check_values
        )
    if taken is not None:
        return taken
    outcome = core_step(
        rows,
        queue,
        plan.config,
        check_values=check_values and not compiling,
        read_values=validate_args and not compiling and may_look(rows.logits.device),
        diagnostics=diagnostics,
    )
    return outcome, bounds


def fitting_bounds(bounds: Tensor | None, queue: QueueState) -> Tensor | None:
    """Return bounds for steps with a queue like this: those given, if they fit, or fresh ones.

    None where no backend looks for any.
    """
    if native.extension.ext is None or not queue.scores.is_cpu:
        return None
    with torch.inference_mode(False):  # they will be written in training, too
        return native.fitting(bounds, queue)


def _triton_step(
    rows: Rows, queue: QueueState, plan: Plan, check_values: bool, queue_moves: bool
) -> Outcome | None:
    """Return what Triton kernels compute; None where they do not run, or decline."""
    if plan.triton is None or not triton.runs_on(rows.logits.device):
        return None
    from pauc.triton.step import take_step  # here: `import pauc` must not import triton

    again = None if queue_moves else _by_operators(rows, queue, plan.config)
    return take_step(rows, queue, plan.triton, again, check_values=check_values)


def _by_operators(rows: Rows, queue: QueueState, config: LossConfig) -> Callable[..., Outcome]:
    """Return how to compute the loss of some logits as a graph with all its derivatives."""

    def compute(logits: Tensor) -> Outcome:
        again = rows._replace(logits=logits)
        return core_step(again, queue, config, check_values=False, read_values=False)

    return compute


def show_config() -> None:
    """Print which backends are there, and why one is not."""
    states = {"core": "torch operators, any device"}
    states |= {"native": native.state(), "triton": triton.state()}
    for name, state in states.items():
        print(f"{name:<8}{state}")
