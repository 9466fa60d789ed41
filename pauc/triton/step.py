"""The launches of a step, in order; and its loss as a node of the graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pauc.core.batch import Rows
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState
from pauc.triton.entry import TritonEntry, make_entry
from pauc.triton.gradient import attach
from pauc.triton.kernels import pairs, reduce, select, trapezoid
from pauc.triton.memory import (
    LAUNCH,
    TILE,
    Found,
    Scratch,
    Shape,
    levels_on,
    make_found,
    make_scratch,
    make_shape,
    next_power,
)
from pauc.triton.options import TritonOptions
from pauc.triton.readable import has_memory, is_readable

# A step that might have more pairs declines: the series of pauc/pairs/blocks.py are linear in the
# number of scores. How many there are is not read; this bounds them by shapes. A guess, since it
# was never measured on a GPU.
MOST_PAIRS = 2**34

# Computes the outcome for some logits by torch operators.
ByOperators = Callable[[Tensor], Outcome]


def take_step(
    rows: Rows,
    queue: QueueState,
    options: TritonOptions,
    again: ByOperators | None,
    *,
    check_values: bool,
) -> Outcome | None:
    """Return the outcome of a step, or None: the step is declined.

    The host reads nothing and waits for nothing. Illegal targets and weights, and counters that no
    queue has, end in an assertion on the device, which names them; the process cannot use the
    device after that.

    Args:
        rows: have passed :func:`pauc.core.batch.check_rows`.
        queue: before the step.
        options: of the config.
        again: computes the loss as a graph, for second derivatives; None: those are refused.
        check_values: look at targets and weights.
    """
    if not is_readable(rows, queue):
        return None
    count, classes = rows.logits.shape
    shape = make_shape(count, classes, queue.weight.shape[0], options)
    if options.pairwise and _most_pairs(shape, options) > MOST_PAIRS:
        return None
    device = rows.logits.device
    found = make_found(shape, options, device)
    # Under a transform of torch.func, new tensors are wrappers even where the rows are not.
    if not has_memory(found.gradient):
        return None
    scratch = make_scratch(shape, device)
    labels = "multilabel" if queue.multilabel else "binary" if classes == 1 else "index"
    entry = make_entry(rows, scratch.admission, options.ignore_index, labels)
    _launch(entry, queue, shape, scratch, found, options, check_values)
    if check_values:
        torch._assert_async(found.legal, _complaint(entry))
    if rows.logits.requires_grad and torch.is_grad_enabled():
        attach(rows, queue, entry, found, options.bce_weight != 0, again)
    flags = found.valid.view(torch.bool), found.degenerate.view(torch.bool)
    return Outcome(found.loss, found.per_class, *flags, found.ref_count, {}, entry)


def _most_pairs(shape: Shape, options: TritonOptions) -> float:
    """Return a bound on a class's pairs: half of the pool positives, half negatives."""
    pool = shape.rows + shape.size
    width = options.levels[options.knots - 1] - options.levels[0]
    return shape.classes * width * pool**2 / 4


def _complaint(entry: TritonEntry) -> str:
    """Return what must hold, in fewer characters than a device assertion takes (256)."""
    legal = f"whole numbers in 0..{_largest(entry)} or ignore_index={entry.ignore_index}"
    weights = "; sample_weight finite and non-negative" if entry.weight is not None else ""
    return f"targets must be {legal}{weights}; the queue's counters those of a queue"


def _largest(entry: TritonEntry) -> int:
    return entry.logits.shape[1] - 1 if entry.labels == "index" else 1


def _launch(
    entry: TritonEntry,
    queue: QueueState,
    shape: Shape,
    scratch: Scratch,
    found: Found,
    options: TritonOptions,
    check_values: bool,
) -> None:
    """Launch what finds the loss and the gradient: six kernels, pairwise seven."""
    levels = levels_on(options.levels, found.loss.device)
    fixed: dict[str, int | str | bool] = {
        "SEGMENT": shape.segment,
        "BLOCK": shape.block,
        "LABELS": entry.labels,
        **LAUNCH,
    }
    order: dict[str, int | str] = {"KIND": options.interpolation, "EACH": options.ranks_each}
    _select(entry, queue, shape, scratch, options, levels, check_values, fixed, order)
    fixed |= {
        **order,
        "SCALE": options.scale,
        "POOLED": options.pooled,
        "SEGMENTS": shape.padded_segments,
    }
    surrogate = _pairwise if options.pairwise else _trapezoid
    surrogate(entry, queue, shape, scratch, found, options, levels, fixed)
    C = shape.classes
    reduce.reduce_classes[(1,)](
        scratch.partial, scratch.totals, scratch.numbers, scratch.sums, scratch.usable,
        scratch.poison, scratch.bad, found.loss, found.per_class, found.valid, found.factor,
        found.shares, found.earned, found.legal,
        C, shape.segments, shape.parts, options.pauc_weight, options.bce_weight,
        CLASSES=min(next_power(C), 32), PARTS=min(next_power(shape.parts), 128),
        REDUCTION=options.reduction, ENTROPY=options.bce_weight != 0, **LAUNCH,
    )  # fmt: skip


def _select(
    entry: TritonEntry,
    queue: QueueState,
    shape: Shape,
    scratch: Scratch,
    options: TritonOptions,
    levels: Tensor,
    check_values: bool,
    fixed: dict[str, int | str | bool],
    order: dict[str, int | str],
) -> None:
    """Launch the four passes over the digits of the pool's scores."""
    held_iid = queue.iid.view(torch.uint8)
    N, C, Q, R, S = shape.rows, shape.classes, shape.size, shape.ranks, shape.segments
    select.first_digits[(S, C)](
        entry.logits, entry.targets, entry.iid, entry.weight,
        queue.scores, queue.targets, held_iid, queue.weight, queue.cursor, queue.fill, queue.step,
        scratch.hist, scratch.sums, scratch.poison, scratch.admission, scratch.bad,
        N, C, Q, R, S, options.ignore_index, _largest(entry), CHECK=check_values,
        ENTROPY=options.bce_weight != 0, EXPLAINED=options.explained, **fixed,
    )  # fmt: skip
    for number in (1, 2, 3):
        select.next_digits[(S, C, R)](
            entry.logits, entry.targets, entry.iid,
            queue.scores, queue.targets, held_iid, queue.fill,
            levels, scratch.hist, scratch.prefix, scratch.rank,
            N, C, Q, R, options.ignore_index,
            PASS=number, **fixed, **order,
        )  # fmt: skip


def _trapezoid(
    entry: TritonEntry,
    queue: QueueState,
    shape: Shape,
    scratch: Scratch,
    found: Found,
    options: TritonOptions,
    levels: Tensor,
    fixed: dict[str, int | str | bool],
) -> None:
    N, C, Q, R, S = shape.rows, shape.classes, shape.size, shape.ranks, shape.segments
    trapezoid.trapezoid[(S, C)](
        entry.logits, entry.targets, entry.weight,
        queue.scores, queue.targets, queue.weight, queue.fill,
        levels, scratch.hist, scratch.prefix, scratch.rank, scratch.sums, scratch.poison,
        scratch.usable, found.degenerate, found.ref_count, scratch.totals, scratch.numbers,
        scratch.partial, found.gradient,
        N, C, Q, R, S, options.knots, options.ignore_index, options.temperature,
        LIVE=options.live_gradient, **fixed,
    )  # fmt: skip


def _pairwise(
    entry: TritonEntry,
    queue: QueueState,
    shape: Shape,
    scratch: Scratch,
    found: Found,
    options: TritonOptions,
    levels: Tensor,
    fixed: dict[str, int | str | bool],
) -> None:
    N, C, Q, R, S = shape.rows, shape.classes, shape.size, shape.ranks, shape.segments
    device = found.loss.device
    listed = torch.empty(C * S * shape.segment, dtype=torch.int32, device=device)
    counts = torch.empty(3 * C * S, dtype=torch.int32, device=device)
    taus = torch.empty(C, dtype=torch.float32, device=device)
    pairs.list_rows[(S, C)](
        entry.logits, entry.targets, entry.weight,
        queue.scores, queue.targets, queue.weight, queue.fill,
        levels, scratch.hist, scratch.prefix, scratch.rank, scratch.sums, scratch.poison,
        scratch.usable, found.degenerate, found.ref_count, scratch.totals, taus,
        listed, counts, found.gradient,
        N, C, Q, R, S, options.knots, options.ignore_index, options.temperature,
        **fixed,
    )  # fmt: skip
    pairs.sum_pairs[(shape.parts, C)](
        entry.logits, entry.weight, queue.scores, queue.weight, queue.fill,
        scratch.sums, listed, counts, scratch.usable, taus, scratch.numbers,
        scratch.partial, found.gradient, N, C, Q, S, shape.parts,
        SEGMENT=shape.segment, SEGMENTS=shape.padded_segments, TILE=TILE,
        POOLED=options.pooled, LIVE=options.live_gradient, LOGISTIC=options.logistic, **LAUNCH,
    )  # fmt: skip
