"""The call of the native step: what it reads and writes, and its loss as a node of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.checks import check_targets
from pauc.config import SmoothAPConfig
from pauc.core.again import unless_changed
from pauc.core.batch import Rows
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState, check_counters, is_multilabel
from pauc.native import extension
from pauc.native.entry import NativeEntry, make_entry
from pauc.native.gradient import Gradients, attach
from pauc.native.measures import Measures, new_measures, stats_of
from pauc.native.options import NativeOptions
from pauc.native.readable import addresses, have_memory, is_readable

WINDOWS = 4  # as MAX_WINDOWS of csrc/batch.h

# Computes the outcome for some logits by torch operators.
ByOperators = Callable[[Tensor], Outcome]


class _Found(NamedTuple):
    """What the native code writes. ``N`` rows, ``C`` classes."""

    loss: Tensor  # [], with reduction="none" [C]
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool
    ref_count: Tensor  # [C] int64
    gradient: Tensor  # [N, C] of `per_class`
    whole: Tensor | None  # [N, C] of `loss`; None: one factor times `gradient`
    measured: Measures  # none unless diagnostics are wanted


class Computed(NamedTuple):
    """What a call of the native code has found, and from which rows."""

    entry: NativeEntry
    found: _Found
    weight: float  # of each class's loss in the whole loss
    bounds: Tensor  # for the next step


def take_step(
    rows: Rows,
    queue: QueueState,
    bounds: Tensor | None,
    options: NativeOptions,
    again: ByOperators | None,
    *,
    check_values: bool,
    diagnostics: bool = False,
) -> tuple[Outcome, Tensor] | None:
    """Return the outcome of a step and bounds for the next, or None: the step is declined.

    A step is declined where native code cannot read the tensors, where operators are watched (a
    trace, a transform of ``torch.func``), where there are more pairs than it is fast for, and where
    a value is not legal, so that one place words the errors.

    Args:
        rows: have passed :func:`pauc.core.batch.check_rows`.
        queue: before the step.
        bounds: of an earlier step; they are written to.
        options: of the config. Diagnostics of Smooth-AP are declined.
        again: computes the loss as a graph, for second derivatives; None: those are refused.
        check_values: look at targets and weights.
        diagnostics: also compute ``stats``.

    Raises:
        ValueError: the queue's counters cannot be those of a queue.
    """
    if extension.ext is None or not is_readable(rows, queue):
        return None
    if diagnostics and isinstance(options.config, SmoothAPConfig):
        return None  # nobody has written those in C++
    scores = rows.logits
    if scores.dtype != queue.scores.dtype:
        scores = scores.to(queue.scores.dtype)  # attached, so that the gradient finds its way back
    flags = {"check_values": check_values, "diagnostics": diagnostics}
    computed = compute(rows, scores, queue, bounds, options, **flags)
    if computed is None:
        check_counters(queue)  # even where values are not checked: here the reading is free
        return None
    entry, found, weight, bounds = computed
    if scores.requires_grad and torch.is_grad_enabled():
        gradients = Gradients(found.gradient, found.whole, found.valid, weight)
        recompute = None if again is None else unless_changed(again, rows, scores, queue)
        attach(scores, found.loss, found.per_class, gradients, recompute)
    stats = stats_of(found.measured, found.ref_count, options) if diagnostics else {}
    return Outcome(*found[:5], stats, entry), bounds


def compute(
    rows: Rows,
    scores: Tensor,
    queue: QueueState,
    bounds: Tensor | None,
    options: NativeOptions,
    *,
    check_values: bool,
    diagnostics: bool = False,
) -> Computed | None:
    """Return what the native code finds, or None: it declines.

    Args:
        rows, queue: have memory on the CPU; the queue is sound and contiguous.
        scores: the logits in the queue's dtype.
        others: as for :func:`take_step`.

    Raises:
        ValueError: an illegal target that is no int64.
    """
    if check_values and rows.targets.dtype != torch.int64:
        targets = rows.targets if queue.multilabel else rows.targets.reshape(-1)
        check_targets(targets, rows.logits.shape[1], options.ignore_index)
    entry = make_entry(rows, scores, options.ignore_index)
    bounds = fitting(bounds, queue)
    found = _allocate(entry, options, diagnostics)
    weight = _call(entry, queue, bounds, found, options, check_values)
    return None if weight is None else Computed(entry, found, weight, bounds)


def fitting(bounds: Tensor | None, queue: QueueState) -> Tensor:
    """Return bounds of the queue's shape and dtype; nan where none are known."""
    shape = queue.scores.shape[0], WINDOWS, 2
    if bounds is not None and bounds.shape == shape and bounds.dtype == queue.scores.dtype:
        return bounds
    return queue.scores.new_full(shape, math.nan)


def _allocate(entry: NativeEntry, options: NativeOptions, diagnostics: bool) -> _Found:
    # By one function, whose code is in the caches from the second call on.
    new = entry.scores.new_empty
    shape = entry.scores.shape
    by_class = shape[1:]
    return _Found(
        loss=new(by_class if options.by_class else ()),
        per_class=new(by_class),
        valid=new(by_class, dtype=torch.bool),
        degenerate=new(by_class, dtype=torch.bool),
        ref_count=new(by_class, dtype=torch.int64),
        gradient=new(shape),
        whole=new(shape) if options.has_whole else None,
        measured=new_measures(entry.scores) if diagnostics else Measures(None, None),
    )


def _call(
    entry: NativeEntry,
    queue: QueueState,
    bounds: Tensor,
    found: _Found,
    options: NativeOptions,
    check_values: bool,
) -> float | None:
    """Return the weight of the classes' losses in the loss, or None if the step is declined."""
    # Under a transform of torch.func, new tensors are wrappers even where the rows are not.
    if not have_memory(found.gradient, bounds):
        return None
    weight: float | None = extension.ext.step(
        entry.scores.dtype == torch.float64,
        check_values,
        (*entry.scores.shape, queue.weight.shape[0], is_multilabel(queue.targets)),
        entry.ignore_index,
        options.numbers,
        options.levels,
        addresses(*entry[:4], *queue, bounds, *found[:7], *found.measured),
    )
    return weight
