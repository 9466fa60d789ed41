"""Order statistics of a queue from step to step, without another look at its rows.

A step replaces few of the queue's rows, so a quantile moves by few ranks. A window keeps, for each
class, the reference scores between two bounds around a quantile, and the number of those above. Rows
that enter and leave bring both up to date, and the quantile of queue and batch is found among the
scores in the window: exactly, or the counts say that it has left the window. Then the window is
built anew from all rows. So what a window holds never changes a result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """Windows ``G`` of the rows of a queue. ``C`` classes.

    A window's scores are a ring, oldest first: the places from ``start`` on, ``held`` of them,
    modulo its capacity. The other places are -inf.
    """

    low: Tensor  # [G, C]; nan, as in `high`, for a window that could not hold its scores
    high: Tensor  # [G, C]
    above: Tensor  # [G, C] int64, reference scores above `high`
    start: Tensor  # [G, C] int64
    held: Tensor  # [G, C] int64
    values: Tensor  # [C, sum of capacities], the windows side by side
    capacity: Tensor  # [G, 1] int64


class Change(NamedTuple):
    """What a step does to the windows; the first half of its rows enters, the second leaves."""

    inside: Tensor  # [G, C, 2] int64, how many
    above: Tensor  # [G, C, 2] int64
    entry: Tensor  # [E] int64, places in the rows [C, 2 N] of entries, by window, class and half
    group: Tensor  # [E] int64, (window * C + class) * 2 + half of each


def _margin(levels: tuple[float, ...], columns: int) -> int:
    """Return how many ranks a window reaches beyond the levels in it, on either side.

    The rank of a fixed score wanders by half a root of the columns; four roots, and more where
    there are many, leave room for a model that learns.
    """
    wander = max(4 * math.sqrt(columns), columns / 64)
    return math.ceil(max(16, min(levels[-1] * columns, wander)))


def _capacity(levels: tuple[float, ...], columns: int) -> int:
    span = (levels[-1] - levels[0]) * columns
    return math.ceil(1.5 * (2 * _margin(levels, columns) + span)) + 8


def build_windows(
    queue_scores: Tensor,
    pool_scores: Tensor,
    first: Tensor,
    last: Tensor,
    groups: tuple[tuple[float, ...], ...],
    oldest: int,
    columns: int,
) -> Windows:
    """Return windows of a queue around the ranks that a step looks for.

    Args:
        queue_scores: ``[C, Q]``, nan for what is no reference score.
        pool_scores: ``[C, M]`` alike, queue and batch; the bounds are chosen among these.
        first, last: ``[G, C]``, the least and the greatest of the descending ranks sought.
        groups: the levels of each window.
        oldest: slot of the queue.
        columns: of the pool, about; decides how much a window holds.
    """
    classes = pool_scores.shape[0]
    count = (~pool_scores.isnan()).sum(dim=-1, keepdim=True)
    ordered = pool_scores.nan_to_num(nan=-math.inf).sort(dim=-1, descending=True).values
    margin = torch.tensor([_margin(levels, columns) for levels in groups], device=count.device)
    upper, lower = first.T - margin, last.T + margin
    high = torch.where(upper < 0, math.inf, ordered.gather(-1, upper.clamp(min=0)))
    deepest = pool_scores.shape[1] - 1
    low = torch.where(lower >= count, -math.inf, ordered.gather(-1, lower.clamp(max=deepest)))
    low, high = low.T, high.T

    capacities = [_capacity(levels, columns) for levels in groups]
    capacity = torch.tensor(capacities, device=count.device).unsqueeze(-1)
    rows = queue_scores.unsqueeze(0)
    inside = (rows >= low.unsqueeze(-1)) & (rows <= high.unsqueeze(-1))
    held = inside.sum(dim=-1)
    fits = held <= capacity
    inside &= fits.unsqueeze(-1)
    held = torch.where(fits, held, 0)
    window, class_index, slot = inside.nonzero(as_tuple=True)
    group = window * classes + class_index
    # Slots from the oldest on come before the slots in front of it.
    newer = inside[..., :oldest].sum(dim=-1).flatten()
    place = torch.arange(len(slot), device=slot.device) - _starts(held.flatten())[group]
    place = (place - newer[group]) % held.flatten()[group]
    values = queue_scores.new_full((classes, sum(capacities)), -math.inf)
    offset = _starts(capacity.flatten())
    values[class_index, offset[window] + place] = queue_scores[class_index, slot]
    return Windows(
        low=torch.where(fits, low, math.nan),
        high=torch.where(fits, high, math.nan),
        above=(rows > high.unsqueeze(-1)).sum(dim=-1),
        start=torch.zeros_like(held),
        held=held,
        values=values,
        capacity=capacity,
    )


def forget(windows: Windows, lost: Tensor) -> Windows:
    """Return windows of which some, ``[G, C]`` bool, hold nothing."""
    return windows._replace(
        low=torch.where(lost, math.nan, windows.low),
        high=torch.where(lost, math.nan, windows.high),
        held=torch.where(lost, 0, windows.held),
    )


def replace_classes(windows: Windows, classes: Tensor, new: Windows) -> Windows:
    """Return windows in which those of some classes, an index ``[F]``, are new ones."""
    changed = {
        name: getattr(windows, name).index_copy(1, classes, getattr(new, name))
        for name in ("low", "high", "above", "start", "held")
    }
    return windows._replace(**changed, values=windows.values.index_copy(0, classes, new.values))


def count_change(windows: Windows, rows: Tensor) -> Change:
    """Return where rows ``[C, 2 N]`` lie; nan for what is no reference score."""
    classes, columns = rows.shape[0], rows.shape[1] // 2
    rows = rows.view(1, classes, 2, columns)
    low, high = windows.low[..., None, None], windows.high[..., None, None]
    above = (rows > high).sum(dim=-1)
    inside = (rows >= low) & (rows <= high)
    flat = inside.flatten().nonzero().squeeze(-1)
    return Change(inside.sum(dim=-1), above, flat % rows.numel(), flat // columns)


def contains_ranks(windows: Windows, change: Change, first: Tensor, last: Tensor) -> Tensor:
    """Return ``[G, C]`` bool: the ranks ``[G, C]`` of queue and batch lie within the window."""
    above = windows.above + change.above[..., 0]
    held = windows.held + change.inside[..., 0]
    known = windows.low <= windows.high
    # No reference row: nothing is sought.
    within = (first >= above) & (last < above + held) | (held + above + last == 0)
    return known & within & (held <= windows.capacity)


def enter(windows: Windows, change: Change, rows: Tensor) -> Windows:
    """Return the windows with the entering half of ``rows`` in them, which must fit."""
    values = windows.values.clone()
    chosen, place = _places(windows, change, 0, windows.start + windows.held)
    values.view(-1)[place] = rows.view(-1)[change.entry[chosen]]
    return windows._replace(
        values=values,
        held=windows.held + change.inside[..., 0],
        above=windows.above + change.above[..., 0],
    )


def leave_(windows: Windows, change: Change) -> Windows:
    """Return the windows without the leaving half; their values are overwritten."""
    _, place = _places(windows, change, 1, windows.start)
    windows.values.view(-1)[place] = -math.inf
    return windows._replace(
        start=(windows.start + change.inside[..., 1]) % windows.capacity,
        held=windows.held - change.inside[..., 1],
        above=windows.above - change.above[..., 1],
    )


def _places(windows: Windows, change: Change, half: int, base: Tensor) -> tuple[Tensor, Tensor]:
    """Return which entries are of a half, and their places in the flat values from ``base`` on."""
    classes, width = windows.values.shape
    chosen = (change.group % 2 == half).nonzero().squeeze(-1)
    group = change.group[chosen] // 2
    window, class_index = group // classes, group % classes
    counts = change.inside[..., half].flatten()
    order = torch.arange(len(chosen), device=base.device) - _starts(counts)[group]
    capacity = windows.capacity.flatten()
    place = (base.flatten()[group] + order) % capacity[window]
    return chosen, class_index * width + _starts(capacity)[window] + place


def window_values(windows: Windows) -> tuple[Tensor, ...]:
    """Return the scores of each window, ``[C, capacity]``."""
    return windows.values.split(windows.capacity.flatten().tolist(), dim=-1)


def select_ranks(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores at the descending ranks ``[2, C, K]`` in ``values`` ``[C, B]``."""
    shallowest, deepest = torch.stack(ranks.aminmax()).tolist()
    top = values.topk(deepest + 1, dim=-1, sorted=False).values
    ordered = top.topk(deepest + 1 - shallowest, dim=-1, largest=False).values
    above, below = deepest - ranks
    return ordered.gather(-1, above), ordered.gather(-1, below)


def _starts(counts: Tensor) -> Tensor:
    return counts.cumsum(0) - counts
