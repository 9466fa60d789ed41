"""The quantiles of queue and batch from one step to the next, by windows that are carried along."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import Interpolation
from pauc.queue import QueueState
from pauc.selection import interpolate
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
    select_ranks,
    window_capacities,
    window_values,
)

Groups = tuple[tuple[float, ...], ...]


class Carried(NamedTuple):
    """What is known of the rows of a queue. It belongs to that state of the queue and no other."""

    negatives: Tensor  # [C] int64, iid negatives
    windows: Windows


class Rows(NamedTuple):
    """The rows that make a difference: the batch's, which enter, and those that leave for them."""

    scores: Tensor  # [2, C, W], of those that enter and that leave; nan: no iid negative
    negatives: Tensor  # [2, C] int64, iid negatives among them
    entering: int


class Tracked(NamedTuple):
    """What a step learns of the iid negatives of queue and batch."""

    negatives: Tensor  # [C] int64, how many
    quantiles: Tensor  # [C, K], at all levels; nan for a class without
    top: Tensor  # [C, B] the queue's from the last level of the first group upwards; -inf: none
    carried: Carried  # of the queue with the batch in it


class _Sought(NamedTuple):
    position: Tensor  # [C, K] float64, descending
    above: Tensor  # [C, K] int64, the rank at or above a position
    below: Tensor  # [C, K] int64, at or below
    first: Tensor  # [G, C] int64, the least of a group's ranks
    last: Tensor  # [G, C] int64, the greatest


def held_rows(queue: QueueState, fill: int) -> QueueState:
    """Return the queue without its empty slots."""
    if fill == queue.targets.shape[0]:
        return queue
    return queue._replace(
        scores=queue.scores[:, :fill],
        targets=queue.targets[:fill],
        iid=queue.iid[:fill],
        weight=queue.weight[:fill],
    )


def changing_rows(
    scores: Tensor, targets: Tensor, iid: Tensor, held: QueueState, oldest: int, room: int
) -> Rows:
    """Return the rows ``[C, N]`` that enter, and those that leave.

    Args:
        scores, targets, iid: of the batch.
        held: from :func:`held_rows`.
        oldest: its slot that the first row leaves.
        room: how many rows enter before one leaves.
    """
    num_classes, count = scores.shape
    taken = max(count - room, 0)
    changing = scores.new_empty(2, num_classes, padded_width(count))
    changing[0, :, :count] = scores
    changing[0, :, count:] = math.nan
    changing[1, :, :taken] = _ring(held.scores, oldest, taken)
    changing[1, :, taken:] = math.nan
    out_targets, out_iid = _ring(held.targets, oldest, taken), _ring(held.iid, oldest, taken)
    negatives = [
        _keep_iid_negatives_(changing[0, :, :count], targets, iid),
        _keep_iid_negatives_(changing[1, :, :taken], out_targets, out_iid),
    ]
    return Rows(changing, torch.stack(negatives), count)


def _ring(stored: Tensor, start: int, count: int) -> Tensor:
    """Return ``count`` slots from ``start`` on, round the end."""
    size = stored.shape[-1]
    if start + count <= size:
        return stored[..., start : start + count]
    return torch.cat([stored[..., start:], stored[..., : start + count - size]], dim=-1)


def _keep_iid_negatives_(scores: Tensor, targets: Tensor, iid: Tensor) -> Tensor:
    """Put nan for all others of ``[C, N]``, in place; return how many remain, ``[C]``."""
    num_classes = scores.shape[0]
    if num_classes == 1:
        others = (targets == 1).logical_or_(~iid)
        scores.masked_fill_(others, math.nan)
        return (len(targets) - others.sum()).unsqueeze(0)
    if not bool(iid.all()):
        scores.masked_fill_(~iid, math.nan)
    scores.scatter_(0, targets.unsqueeze(0), math.nan)
    return iid.sum() - torch.bincount(targets[iid], minlength=num_classes)


def track(
    held: QueueState,
    rows: Rows,
    oldest: int,
    size: int,
    groups: Groups,
    interpolation: Interpolation,
    carried: Carried | None,
) -> Tracked:
    """Return the quantiles of the iid negatives of queue and batch.

    Args:
        held: from :func:`held_rows`.
        rows: from :func:`changing_rows`.
        oldest: the slot of the oldest row in ``held``.
        size: slots of the queue.
        groups: FPR levels, ascending in each group; a window serves a group.
        interpolation: as in :func:`pauc.band_edges`.
        carried: of the same queue in the same state, from the step before; or None.
    """
    if carried is not None and not _fits(carried.windows, held, groups, size):
        carried = None
    known = _count_negatives(held) if carried is None else carried.negatives
    negatives = known + rows.negatives[0]
    last = (negatives.unsqueeze(-1) - 1).clamp(min=0)
    sought = _seek(groups, last)
    windows, change, serves = _windows_for(
        None if carried is None else carried.windows, held, rows, sought, groups, oldest, size
    )
    lost = None if bool(serves.all()) else (~serves.all(dim=0)).nonzero().squeeze(-1)
    top = window_values(windows)[0]
    if lost is not None:
        top = _with_whole_classes(top, _reference(held, lost), lost)
    windows = enter(windows, change, rows.scores)
    high, low = _select(windows, serves, sought, groups)
    if lost is not None:
        pool = torch.cat([rows.scores[0, lost, : rows.entering], _reference(held, lost)], dim=1)
        ordered = pool.nan_to_num(nan=-math.inf).sort(dim=-1, descending=True).values
        high = high.index_copy(0, lost, ordered.gather(-1, sought.above[lost]))
        low = low.index_copy(0, lost, ordered.gather(-1, sought.below[lost]))
    quantiles = interpolate(high, low, sought.position, last, interpolation)
    quantiles = torch.where(negatives.unsqueeze(-1) > 0, quantiles, math.nan)
    after = Carried(negatives - rows.negatives[1], leave_(windows, change))
    return Tracked(negatives, quantiles, top, after)


def _fits(windows: Windows, held: QueueState, groups: Groups, size: int) -> bool:
    """Return whether windows have room for these groups, and not far too much."""
    if windows.values.dtype != held.scores.dtype or len(windows.capacity) != len(groups):
        return False
    room = zip(window_capacities(groups, size), windows.capacity.flatten().tolist(), strict=True)
    return all(wanted <= given <= 2 * wanted for wanted, given in room)


def _seek(groups: Groups, last: Tensor) -> _Sought:
    levels = [level for group in groups for level in group]
    position = last.double() * torch.tensor(levels, dtype=torch.float64, device=last.device)
    above, below = position.floor().long(), position.ceil().long()
    ends = list(accumulate(len(group) for group in groups))
    starts = [0, *ends[:-1]]
    return _Sought(position, above, below, above.T[starts], below.T[[end - 1 for end in ends]])


def _count_negatives(held: QueueState) -> Tensor:
    num_classes = held.scores.shape[0]
    if num_classes == 1:
        return (held.iid & (held.targets == 0)).sum().unsqueeze(0)
    return held.iid.sum() - torch.bincount(held.targets[held.iid], minlength=num_classes)


def _reference(held: QueueState, classes: Tensor) -> Tensor:
    """Return the scores ``[F, Q]`` of some classes, nan for all but iid negatives."""
    own = held.targets == (1 if held.scores.shape[0] == 1 else classes.unsqueeze(1))
    return torch.where(held.iid & ~own, held.scores[classes], math.nan)


def _with_whole_classes(top: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """Return ``top`` with all scores ``[F, Q]`` of some classes in place of their window."""
    wide = top.new_full((top.shape[0], max(top.shape[1], scores.shape[1])), -math.inf)
    wide[:, : top.shape[1]] = top
    wide[classes] = -math.inf
    wide[classes, : scores.shape[1]] = scores.nan_to_num(nan=-math.inf)
    return wide


def _windows_for(
    windows: Windows | None,
    held: QueueState,
    rows: Rows,
    sought: _Sought,
    groups: Groups,
    oldest: int,
    size: int,
) -> tuple[Windows, Change, Tensor]:
    """Return windows of the queue, what the step does to them, and which ``[G, C]`` will serve."""

    def build(classes: Tensor) -> Windows:
        scores = _reference(held, classes)
        pool = torch.cat([rows.scores[0, classes, : rows.entering], scores], dim=1)
        first, last = sought.first[:, classes], sought.last[:, classes]
        return build_windows(scores, pool, first, last, groups, oldest, size, capacities)

    carried = windows is not None
    if windows is not None:
        capacities = windows.capacity.flatten().tolist()
    else:
        capacities = window_capacities(groups, size)
        windows = build(torch.arange(held.scores.shape[0], device=held.scores.device))
    change = count_change(windows, rows.scores)
    serves = contains_ranks(windows, change, sought.first, sought.last)
    if carried and not bool(serves.all()):
        classes = (~serves.all(dim=0)).nonzero().squeeze(-1)
        windows = replace_classes(windows, classes, build(classes))
        recount_(change, windows, classes, rows.scores)
        serves = contains_ranks(windows, change, sought.first, sought.last)
    if not bool(serves.all()):  # so many ties that a window has no room for them
        classes = (~serves.all(dim=0)).nonzero().squeeze(-1)
        windows = forget(windows, ~serves)
        recount_(change, windows, classes, rows.scores)
    return windows, change, serves


def _select(
    windows: Windows, serves: Tensor, sought: _Sought, groups: Groups
) -> tuple[Tensor, Tensor]:
    """Return the scores ``[C, K]`` at the ranks sought, of windows with the batch in them."""
    found, level = [], 0
    for g, values in enumerate(window_values(windows)):
        span = slice(level, level + len(groups[g]))
        level = span.stop
        # Where a window does not serve, any rank will do.
        above, below = (
            torch.where(serves[g, :, None], rank[:, span] - windows.above[g, :, None], 0)
            for rank in (sought.above, sought.below)
        )
        bounds = windows.low[g], windows.high[g], windows.held[g]
        found.append(select_ranks(values, above, below, *bounds))
    highs, lows = zip(*found, strict=True)
    return torch.cat(highs, dim=-1), torch.cat(lows, dim=-1)
