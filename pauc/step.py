"""A step of the loss for a caller who carries windows from step to step.

The numbers are those of :func:`pauc.pauc_loss_terms`; the cost is that of the rows which enter and
leave, not that of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.band import assemble_band
from pauc.config import PAUCConfig
from pauc.functional import (
    PAUCTerms,
    columns_of,
    live_factor,
    pauc_loss_terms,
    reduce_entropy,
    reduce_losses,
)
from pauc.pairs import mean_link
from pauc.pool import Batch, make_batch
from pauc.queue import Entry, QueueState, compute_dtype
from pauc.selection import BandEdges, interpolate, robust_scale
from pauc.surrogates import (
    Positives,
    class_mean,
    class_sum,
    scale_gradient,
    trapezoid_contributions,
)
from pauc.windows import (
    Change,
    Windows,
    build_windows,
    contains_ranks,
    count_change,
    enter,
    forget,
    leave_,
    padded_width,
    recount_,
    replace_classes,
    select_rank,
    window_values,
)

# A band that is deeper than this share of the pool has no use for a window.
_DEEPEST = 1 / 16


class Carried(NamedTuple):
    """What the steps know of the queue's rows. Belongs to one queue at one step, and to no other."""

    key: tuple[object, ...]  # what it was made for
    negatives: Tensor  # [C] int64, iid negatives in the queue
    windows: Windows


class _Sought(NamedTuple):
    """The order statistics of a step, ``K`` levels in ``G`` groups."""

    groups: tuple[tuple[float, ...], ...]
    position: Tensor  # [C, K] float64
    above: Tensor  # [C, K] int64, the descending rank at or above the position
    below: Tensor  # [C, K] int64
    first: Tensor  # [G, C] int64, the least of a group's ranks
    last: Tensor  # [G, C] int64, the greatest


class _Rows(NamedTuple):
    """The rows of a step: ``N`` of the batch, all present and finite, and ``L`` that leave."""

    batch: Batch
    label: Tensor  # [N] int64, -1 for a negative of the one class
    scores: Tensor  # [2, C, W], of those that enter and leave; nan: no reference score
    negatives: Tensor  # [C, 2] int64, iid negatives among either


def can_carry(logits: Tensor, queue: QueueState, config: PAUCConfig, *, read_values: bool) -> bool:
    """Return whether :func:`carried_step` serves a loss with these settings and sizes."""
    columns = queue.targets.shape[0]
    return (
        read_values
        and 0 < logits.shape[0] <= columns
        and config.max_pool_size is None
        and config.budget_basis == "fpr"
        and (config.surrogate == "pairwise" or config.edge_gradient == "detached")
        and config.beta <= _DEEPEST
        and compute_dtype(logits) == queue.scores.dtype
    )


def carried_step(
    batch: Batch, queue: QueueState, config: PAUCConfig, carried: Carried | None
) -> tuple[PAUCTerms, Entry, Carried]:
    """Return the terms of a step but for the queue, what enters the queue, and what to carry on.

    Args:
        batch: checked, with finite logits only.
        queue: the state before.
        config: for which :func:`can_carry`.
        carried: from the step that led to ``queue``, or None.
    """
    fill, cursor = torch.stack([queue.fill, queue.cursor]).tolist()
    batch = _present_rows(batch)
    entry = Entry(
        scores=batch.logits.detach().T.contiguous(),
        targets=batch.targets,
        iid=batch.iid,
        weight=batch.weight,
        cursor=cursor,
    )
    num_classes, size = queue.scores.shape
    groups = _groups(config)
    rows = _rows(batch, queue, entry, fill)
    key = (groups, config.quantile_interpolation, num_classes, size, queue.scores.dtype)
    if carried is not None and carried.key != key:
        carried = None

    held_negatives = carried.negatives if carried else _count_negatives(queue, fill)
    negatives = held_negatives + rows.negatives[:, 0]
    last = (negatives.unsqueeze(-1) - 1).clamp(min=0)
    sought = _seek(groups, last)
    windows, change, serves = _windows_of(carried, queue, rows, sought, cursor, fill)
    queue_top = window_values(windows)[0]
    windows = enter(windows, change, rows.scores)
    high, low = _select(
        windows, serves, sought, lambda lost: _reference_scores(queue, rows, fill, lost)[1]
    )
    windows = leave_(windows, change)
    position = sought.position
    quantiles = interpolate(high, low, position, last, config.quantile_interpolation)
    quantiles = torch.where(negatives.unsqueeze(-1) > 0, quantiles, math.nan)

    n_knots = len(groups[0])
    knots = quantiles[:, :n_knots]
    edges = spread = BandEdges(knots[:, 0], knots[:, -1], knots)
    kind = "unit" if config.tau_scale == "unit" else "band"
    if config.tau_scale == "iqr":
        spread = BandEdges(quantiles[:, -2], quantiles[:, -1], quantiles[:, -2:])
    scale = robust_scale(knots, torch.ones_like(knots, dtype=torch.bool), kind, edges=spread)
    band = assemble_band(torch.empty(0), negatives, negatives, edges, config.temperature * scale)

    positives, total = _positives(rows, queue, config, fill)
    valid = (total > 0) & band.defined
    if config.surrogate == "trapezoid":
        knots = torch.where(band.defined.unsqueeze(-1), knots, 0.0)
        contribution = trapezoid_contributions(positives, knots, band.tau)
    else:
        contribution, any_negative = _pairwise(
            positives, rows, queue, queue_top, edges, band.tau, config, fill
        )
        valid = valid & any_negative
    pauc = class_mean(contribution, positives, num_classes, torch.where(total > 0, total, 1.0))
    losses = torch.where(valid, 1 - pauc, 0.0)
    loss, per_class = reduce_losses(losses, valid, config)
    loss = config.pauc_weight * loss
    if config.bce_weight > 0:
        loss = loss + config.bce_weight * reduce_entropy(batch, config)
    terms = PAUCTerms(loss, per_class, valid, band.degenerate, negatives, {}, queue)
    return terms, entry, Carried(key, negatives - rows.negatives[:, 1], windows)


def _seek(groups: tuple[tuple[float, ...], ...], last: Tensor) -> _Sought:
    levels = [level for group in groups for level in group]
    position = last.double() * torch.tensor(levels, dtype=torch.float64, device=last.device)
    above, below = position.floor().long(), position.ceil().long()
    ends = list(accumulate(len(group) for group in groups))
    first = torch.stack([above[:, end - len(g)] for end, g in zip(ends, groups, strict=True)])
    last = torch.stack([below[:, end - 1] for end in ends])
    return _Sought(groups, position, above, below, first, last)


def _groups(config: PAUCConfig) -> tuple[tuple[float, ...], ...]:
    """Return the FPR levels sought: a window for the band, and one for each quartile."""
    inner = config.n_knots - 2 if config.surrogate == "trapezoid" else 0
    width = config.beta - config.alpha
    band = (
        config.alpha,
        *(config.alpha + width * k / (inner + 1) for k in range(1, inner + 1)),
        config.beta,
    )
    return (band, (0.25,), (0.75,)) if config.tau_scale == "iqr" else (band,)


def _present_rows(batch: Batch) -> Batch:
    if bool(batch.present.all()):
        return batch
    rows = batch.present.nonzero().squeeze(-1)
    return Batch(*(part.index_select(0, rows) for part in batch))


def _rows(batch: Batch, queue: QueueState, entry: Entry, fill: int) -> _Rows:
    num_classes, size = queue.scores.shape
    count = batch.targets.shape[0]
    width = padded_width(count)
    leaving = _held(queue, fill)
    taken = max(count - (size - fill), 0)  # the other slots are empty: nobody leaves
    first = entry.cursor if fill == size else 0
    scores = torch.full((2, num_classes, width), math.nan, dtype=queue.scores.dtype)
    scores[0, :, :count] = entry.scores
    scores[1, :, :taken] = _ring(leaving.scores, first, taken)
    negatives = [
        _mask_own_(scores[0, :, :count], batch.targets, batch.iid),
        _mask_own_(
            scores[1, :, :taken],
            _ring(leaving.targets, first, taken),
            _ring(leaving.iid, first, taken),
        ),
    ]
    label = batch.targets - 1 if num_classes == 1 else batch.targets
    return _Rows(batch, label, scores, torch.stack(negatives, dim=-1))


def _mask_own_(scores: Tensor, targets: Tensor, iid: Tensor) -> Tensor:
    """Put nan for all but iid negatives ``[C, N]``, in place; return how many there are ``[C]``."""
    num_classes = scores.shape[0]
    if num_classes == 1:
        reference = iid & (targets == 0)
        scores.masked_fill_(~reference, math.nan)
        return reference.sum().unsqueeze(0)
    if bool(iid.all()):
        counted, rows = torch.ones_like(targets), targets.shape[0]
    else:
        scores.masked_fill_(~iid, math.nan)
        counted, rows = iid.long(), iid.sum()
    scores.scatter_(0, targets.unsqueeze(0), math.nan)
    return rows - counted.new_zeros(num_classes).index_add_(0, targets, counted)


def _bincount(targets: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    return torch.zeros(num_classes, dtype=torch.int64, device=targets.device).index_add(
        0, targets, mask.long()
    )


def _ring(stored: Tensor, start: int, count: int) -> Tensor:
    """Return ``count`` slots from ``start`` on, round the end."""
    size = stored.shape[-1]
    if start + count <= size:
        return stored[..., start : start + count]
    return torch.cat([stored[..., start:], stored[..., : start + count - size]], dim=-1)


def _held(queue: QueueState, fill: int) -> QueueState:
    return queue._replace(
        scores=queue.scores[:, :fill],
        targets=queue.targets[:fill],
        iid=queue.iid[:fill],
        weight=queue.weight[:fill],
    )


def _count_negatives(queue: QueueState, fill: int) -> Tensor:
    queue, num_classes = _held(queue, fill), queue.scores.shape[0]
    if num_classes == 1:
        return (queue.iid & (queue.targets == 0)).sum().unsqueeze(0)
    return queue.iid.sum() - _bincount(queue.targets, queue.iid, num_classes)


def _windows_of(
    carried: Carried | None,
    queue: QueueState,
    rows: _Rows,
    sought: _Sought,
    cursor: int,
    fill: int,
) -> tuple[Windows, Change, Tensor]:
    """Return windows of the queue, what the step does to them, and which ``[G, C]`` serve it."""
    columns = queue.targets.shape[0]
    reference = partial(_reference_scores, queue, rows, fill)
    oldest = cursor if fill == columns else 0
    if carried is None:
        windows = build_windows(
            *reference(None), sought.first, sought.last, sought.groups, oldest, columns
        )
    else:
        windows = carried.windows
    change = count_change(windows, rows.scores)
    serves = contains_ranks(windows, change, sought.first, sought.last)
    if carried is not None and not bool(serves.all()):
        classes = (~serves.all(dim=0)).nonzero().squeeze(-1)
        first, last = sought.first[:, classes], sought.last[:, classes]
        built = build_windows(*reference(classes), first, last, sought.groups, oldest, columns)
        windows = replace_classes(windows, classes, built)
        recount_(change, windows, classes, rows.scores)
        serves = contains_ranks(windows, change, sought.first, sought.last)
    if not bool(serves.all()):  # so many ties that a window has no room for them
        windows, classes = forget(windows, ~serves), (~serves.all(dim=0)).nonzero().squeeze(-1)
        recount_(change, windows, classes, rows.scores)
    return windows, change, serves


def _reference_scores(
    queue: QueueState, rows: _Rows, fill: int, classes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return ``[C, Q]`` of the queue and ``[C, M]`` of batch and queue; nan: no reference score."""
    held, entering = _held(queue, fill), rows.scores[0, :, : rows.batch.targets.shape[0]]
    scores, ids = held.scores, torch.arange(queue.scores.shape[0], device=queue.scores.device)
    if classes is not None:
        scores, entering, ids = scores[classes], entering[classes], ids[classes]
    own = held.targets == (1 if queue.scores.shape[0] == 1 else ids.unsqueeze(1))
    scores = torch.where(held.iid & ~own, scores, math.nan)
    return scores, torch.cat([entering, scores], dim=1)


def _select(
    windows: Windows, serves: Tensor, sought: _Sought, reference: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the scores ``[C, K]`` at the ranks sought, of the windows with the batch in them."""
    lost = None if bool(serves.all()) else (~serves.all(dim=0)).nonzero().squeeze(-1)
    highs, lows, level = [], [], 0
    for g, (group, values) in enumerate(zip(sought.groups, window_values(windows), strict=True)):
        passed, served = windows.above[g], serves[g]
        for _ in group:
            above, below = sought.above[:, level] - passed, sought.below[:, level] - passed
            if lost is not None:
                above, below = torch.where(served, above, 0), torch.where(served, below, 0)
            high, low = select_rank(
                values, above, below, windows.low[g], windows.high[g], windows.held[g]
            )
            highs.append(high)
            lows.append(low)
            level += 1
    high, low = torch.stack(highs, dim=-1), torch.stack(lows, dim=-1)
    if lost is not None:
        ordered = reference(lost).nan_to_num(nan=-math.inf).sort(dim=-1, descending=True).values
        high = high.index_copy(0, lost, ordered.gather(-1, sought.above[lost]))
        low = low.index_copy(0, lost, ordered.gather(-1, sought.below[lost]))
    return high, low


def _positives(rows, queue, config, fill):
    batch, num_classes = rows.batch, queue.scores.shape[0]
    if num_classes == 1:
        live = (batch.targets == 1).nonzero().squeeze(-1)
        scores, weight = batch.logits[:, 0].index_select(0, live), batch.weight[live]
        index = torch.zeros_like(live)
    else:
        index = batch.targets
        scores, weight = batch.logits.gather(1, index.unsqueeze(1)).squeeze(1), batch.weight
    live_total = total = class_sum(weight, index, num_classes)
    if config.pos_numerator == "pool":
        held = _held(queue, fill)
        if num_classes == 1:
            slots = (held.targets == 1).nonzero().squeeze(-1)
            old_scores = held.scores[0].index_select(0, slots)
            old_weight = held.weight.index_select(0, slots)
            old_index = torch.zeros_like(slots)
        else:
            old_index = held.targets
            old_scores, old_weight = held.scores.gather(0, old_index.unsqueeze(0))[0], held.weight
        scores, weight = torch.cat([scores, old_scores]), torch.cat([weight, old_weight])
        index = torch.cat([index, old_index])
        total = class_sum(weight, index, num_classes)
    if config.gradient_scale == "live":
        factor = live_factor(total, live_total)[index]
        scores = scale_gradient(scores, factor.to(scores.dtype))
    return Positives(scores, index, weight), total


def _pairwise(positives, rows, queue, queue_top, edges, tau, config, fill):
    upper, lower = edges.t_alpha.unsqueeze(-1), edges.t_beta.unsqueeze(-1)
    batch = rows.batch
    live = batch.logits.detach().T
    members = (live >= lower) & (live <= upper)
    if live.shape[0] == 1:
        members &= batch.targets == 0
    else:
        members.scatter_(0, batch.targets.unsqueeze(0), False)
    live_count = members.sum(dim=-1)
    columns, live_real = columns_of(members, live_count)
    live_scores = batch.logits.T.gather(1, columns)

    held_real = (queue_top >= lower) & (queue_top <= upper)
    held_count = held_real.sum(dim=-1)
    held = torch.where(held_real, queue_top, -torch.inf).topk(int(held_count.max()), dim=-1).values
    held_real = torch.arange(held.shape[1]) < held_count.unsqueeze(-1)
    extra = (~_held(queue, fill).iid).nonzero().squeeze(-1)
    count = live_count + held_count
    parts, reals = [live_scores, held], [live_real, held_real]
    if len(extra):
        more, labels = queue.scores[:, extra], queue.targets[extra]
        real = (more >= lower) & (more <= upper)
        if live.shape[0] == 1:
            real &= labels == 0
        else:
            real.scatter_(0, labels.unsqueeze(0), False)
        count = count + real.sum(dim=-1)
        parts.append(more)
        reals.append(real)
    scores, real = torch.cat(parts, dim=1), torch.cat(reals, dim=1)
    scores = torch.where(real, scores, 0.0)
    if config.gradient_scale == "live":
        factor = live_factor(count, live_count).unsqueeze(-1)
        scores = scale_gradient(scores, factor.to(scores.dtype))
    total = count.clamp(min=1).to(scores.dtype)
    contribution = mean_link(
        positives.scores,
        positives.class_index,
        scores,
        real.to(scores.dtype),
        total,
        tau,
        config.link,
    )
    return contribution, count > 0


def pauc_step(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    carried: Carried | None,
    config: PAUCConfig,
    *,
    iid_mask: Tensor | None,
    sample_weight: Tensor | None,
    validate_args: bool,
    diagnostics: bool,
) -> tuple[PAUCTerms, Entry | None, Carried | None]:
    """Return :func:`pauc.pauc_loss_terms`, what enters the queue, and what to carry on.

    Where a window is of no use, the last two are None and ``terms.queue`` is the queue afterwards;
    else it is the queue as it was.
    """
    read_values = validate_args and not torch.compiler.is_compiling()
    if not diagnostics and can_carry(logits, queue, config, read_values=read_values):
        batch = make_batch(logits, targets, queue, config, iid_mask, sample_weight, read_values)
        # A sum is finite only if all of its terms are.
        if bool(batch.logits.detach().sum().isfinite()) and bool(batch.present.any()):
            return carried_step(batch, queue, config, carried)
    terms = pauc_loss_terms(
        logits,
        targets,
        queue,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        diagnostics=diagnostics,
        **config._asdict(),
    )
    return terms, None, None
