"""Order statistics of a queue from step to step, without another look at its rows.

A step replaces few of the queue's rows, so a quantile moves by few ranks. A window keeps, for each
class, the reference scores between two bounds around a quantile, and the number of those above.
Rows that enter and leave bring both up to date, and the quantile of queue and batch is found among
the scores in the window: exactly, or the counts say that it has left the window. Then the window is
built anew from all rows. So windows change what a step costs, and never what comes out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Up to so many columns, bytes can count 8 of them at a time; beyond, in chunks.
_ONE_CHUNK, _CHUNK = 1984, 1024
# How deep a rank may lie below the bound that the search has found for it, and its steps.
_NEAR, _SEARCH = 8, 4
# Room in a window beyond the scores that it holds at first.
_SPARE = 1.3
_FEW = 8192  # scores that are rather put in order


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
    """What a step does to the windows, for rows that enter (index 0) and that leave (index 1)."""

    mask: Tensor  # [2, G, C, W] bool, which scores are in a window
    inside: Tensor  # [2, G, C] int64, how many
    above: Tensor  # [2, G, C] int64


def _margin(levels: tuple[float, ...], columns: int) -> int:
    """Return how many ranks a window reaches beyond the levels in it, on either side.

    The rank of a fixed score wanders by half a root of the columns. Two roots, and more where there
    are many, leave room for a model that learns.
    """
    wander = max(2 * math.sqrt(columns), columns / 64)
    return math.ceil(max(16, min(levels[-1] * columns, wander)))


def window_capacities(groups: tuple[tuple[float, ...], ...], columns: int) -> list[int]:
    """Return how many scores the windows hold, for a pool of about so many columns."""
    reach = [2 * _margin(g, columns) + (g[-1] - g[0]) * columns for g in groups]
    return [padded_width(math.ceil(_SPARE * scores)) for scores in reach]


def build_windows(
    queue_scores: Tensor,
    pool_scores: Tensor,
    first: Tensor,
    last: Tensor,
    groups: tuple[tuple[float, ...], ...],
    oldest: int,
    columns: int,
    capacities: list[int],
) -> Windows:
    """Return windows of a queue around the ranks that a step looks for.

    Args:
        queue_scores: ``[C, Q]``, nan for what is no reference score.
        pool_scores: ``[C, M]`` alike, queue and batch; the bounds are chosen among these.
        first, last: ``[G, C]``, the least and the greatest of the descending ranks sought.
        groups: the levels of each window.
        oldest: slot of the queue.
        columns: of the pool, about; decides how far a window reaches.
        capacities: how much each holds, from :func:`window_capacities`.
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


def padded_width(count: int) -> int:
    """Return a number of columns from ``count`` on that :func:`_count` takes."""
    unit = 64 if count <= _ONE_CHUNK else _CHUNK
    return -(-count // unit) * unit


def _count(mask: Tensor) -> Tensor:
    """Return the number of True in the last dimension.

    Eight columns at a time, as the bytes of an int64; many times faster than a sum of bool.
    """
    words = mask.view(torch.int64)
    if mask.shape[-1] > _ONE_CHUNK:
        words = words.reshape(*words.shape[:-1], -1, _CHUNK // 8)
    else:
        words = words.unsqueeze(-2)
    return words.sum(dim=-1).view(torch.uint8).sum(dim=-1)


def count_change(windows: Windows, rows: Tensor) -> Change:
    """Return where the rows ``[2, C, W]`` that enter and leave lie; nan: no reference score.

    ``W`` is from :func:`padded_width`.
    """
    rows = rows.unsqueeze(1)
    low, high = windows.low.unsqueeze(-1), windows.high.unsqueeze(-1)
    mask = (rows >= low) & (rows <= high)
    return Change(mask, _count(mask), _count(rows > high))


def recount_(change: Change, windows: Windows, classes: Tensor, rows: Tensor) -> None:
    """Bring a change up to date after the windows of some classes, an index ``[F]``, are new."""
    few = windows._replace(low=windows.low[:, classes], high=windows.high[:, classes])
    for part, new in zip(change, count_change(few, rows[:, classes]), strict=True):
        part.index_copy_(2, classes, new)


def contains_ranks(windows: Windows, change: Change, first: Tensor, last: Tensor) -> Tensor:
    """Return ``[G, C]`` bool: the ranks ``[G, C]`` of queue and batch lie within the window."""
    above = windows.above + change.above[0]
    held = windows.held + change.inside[0]
    known = windows.low <= windows.high
    # No reference row: nothing is sought.
    within = (first >= above) & (last < above + held) | (held + above + last == 0)
    return known & within & (held <= windows.capacity)


def enter(windows: Windows, change: Change, rows: Tensor) -> Windows:
    """Return the windows with the rows ``[2, C, W]`` that enter in them, which must fit."""
    # Of rows [C, W] in each window; what is inside comes by window, class and age.
    flat = change.mask[0].view(-1).nonzero().squeeze(-1)
    entering = rows[0].view(-1).index_select(0, flat % rows[0].numel())
    end = windows.start + windows.held
    place = _places(windows, change.inside[0], flat // rows.shape[-1], end)
    values = windows.values.clone()
    values.view(-1)[place] = entering
    return windows._replace(
        values=values,
        held=windows.held + change.inside[0],
        above=windows.above + change.above[0],
    )


def leave_(windows: Windows, change: Change) -> Windows:
    """Return the windows without the rows that leave, their oldest; values are overwritten."""
    counts = change.inside[1]
    groups = torch.arange(counts.numel(), device=counts.device)
    place = _places(windows, counts, groups.repeat_interleave(counts.view(-1)), windows.start)
    windows.values.view(-1).index_fill_(0, place, -math.inf)
    return windows._replace(
        start=(windows.start + counts) % windows.capacity,
        held=windows.held - counts,
        above=windows.above - change.above[1],
    )


def _places(windows: Windows, counts: Tensor, group: Tensor, base: Tensor) -> Tensor:
    """Return the places in the flat values of ``counts`` ``[G, C]`` entries from ``base`` on."""
    classes, width = windows.values.shape
    shift = base.view(-1) - _starts(counts.view(-1))
    origin = torch.arange(0, classes * width, width, device=base.device)
    origin = (origin + _starts(windows.capacity)).view(-1)
    order = torch.arange(len(group), device=base.device) + shift.index_select(0, group)
    capacity = windows.capacity.expand(-1, classes).reshape(-1)
    order %= capacity.index_select(0, group)
    return order.add_(origin.index_select(0, group))


def window_values(windows: Windows) -> tuple[Tensor, ...]:
    """Return the scores of each window, ``[C, capacity]``."""
    return torch.split(windows.values, windows.capacity.flatten().tolist(), dim=-1)


def select_ranks(
    values: Tensor, above: Tensor, below: Tensor, low: Tensor, high: Tensor, held: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the scores at the descending ranks ``above`` and ``below`` ``[C, K]`` in ``[C, B]``.

    ``below`` is ``above`` or one more, below ``held``, the number of finite scores, which lie
    between ``low`` and ``high``.
    """
    if values.numel() <= _FEW:
        return _select_in_order(values, above, below)
    found = [
        _search(values, *ranks, low, high, held)
        for ranks in zip(above.unbind(-1), below.unbind(-1), strict=True)
    ]
    highs, lows = zip(*found, strict=True)
    return torch.stack(highs, dim=-1), torch.stack(lows, dim=-1)


def _search(
    values: Tensor, above: Tensor, below: Tensor, low: Tensor, high: Tensor, held: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what :func:`select_ranks` does for one rank ``[C]``, by a search for bounds."""
    upper, passed = _bound_near(values, above, low, high, held)
    candidates = torch.where(values <= upper.unsqueeze(-1), values, -math.inf)
    top = candidates.topk(_NEAR, dim=-1).values
    place = torch.stack([above, below], dim=-1) - passed.unsqueeze(-1)
    high, low = top.gather(-1, place.clamp(max=_NEAR - 1)).unbind(-1)
    far = (place[:, 1] >= _NEAR).nonzero().squeeze(-1)
    if len(far):
        exact = _select_in_order(values[far], above[far, None], below[far, None])
        high = high.index_copy(0, far, exact[0].squeeze(-1))
        low = low.index_copy(0, far, exact[1].squeeze(-1))
    return high, low


def _bound_near(
    values: Tensor, rank: Tensor, low: Tensor, high: Tensor, held: Tensor
) -> tuple[Tensor, Tensor]:
    """Return bounds ``[C]`` at or above the scores at a rank, and how many scores exceed them.

    In a window, scores are about evenly spread, so that a few steps of interpolation come close.
    """
    upper, lower = torch.minimum(high, values.amax(dim=-1)), low
    passed, reached = torch.zeros_like(rank), held
    for _ in range(_SEARCH):
        share = (rank - _NEAR // 2 - passed).clamp(min=0) / (reached - passed).clamp(min=1)
        bound = torch.lerp(upper, lower, share.to(values.dtype))
        bound = torch.where(bound > -math.inf, bound, upper)  # no use without an end below
        count = _count(values > bound.unsqueeze(-1))
        beyond = count > rank
        lower, reached = torch.where(beyond, bound, lower), torch.where(beyond, count, reached)
        upper, passed = torch.where(beyond, upper, bound), torch.where(beyond, passed, count)
    return upper, passed


def _select_in_order(values: Tensor, above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`select_ranks` does, by putting the ranks in order that any class wants."""
    least, deepest = torch.stack([above.min(), below.max()]).tolist()
    top = values.topk(deepest + 1, dim=-1, sorted=False).values
    ordered = top.topk(deepest + 1 - least, dim=-1, largest=False).values
    high, low = ordered.gather(-1, deepest - torch.cat([above, below], dim=-1)).chunk(2, dim=-1)
    return high, low


def _starts(counts: Tensor) -> Tensor:
    """Return the sums over what comes before in the first dimension."""
    return counts.cumsum(0) - counts
