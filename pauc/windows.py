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

# Up to so many columns, bytes can count 8 of them at a time; beyond, in chunks of up to 1024.
_ONE_CHUNK, _CHUNK, _UNIT = 1984, 1024, 64
_SPARE = 1.3  # room in a window beyond the scores that it holds at first
_NOBODY = torch.iinfo(torch.int32).min  # in place of a row's number, where there is no score


class Windows(NamedTuple):
    """Windows ``G`` of the rows of a queue. ``C`` classes.

    Rows are numbered as they enter. Scores stay in their places when their row leaves, until the
    next rows enter.
    """

    # [2, G, C]: beyond the first, a score is above the window; beyond the second, in it or above.
    bounds: Tensor  # nan for a window that could not hold its scores
    beyond: Tensor  # [2, G, C] int64, the reference scores beyond each bound
    values: Tensor  # [G, C, B] ascending, among them the scores in the window
    numbers: Tensor  # [G, C, B] int32, of their rows
    oldest: int  # a value whose row's number is below it is not, or no longer, in the window
    room: tuple[int, ...]  # G, how many scores a window may hold


class Change(NamedTuple):
    """What a step does to the windows, for rows that enter (index 0) and that leave (index 1)."""

    mask: Tensor  # [2, 2, G, C, W] bool, which scores are beyond which bound
    counts: Tensor  # [2, 2, G, C] int64, how many
    entered: Tensor  # [2, G, C] int64, how many of queue and batch


def _margin(levels: tuple[float, ...], columns: int) -> int:
    """Return how many ranks a window reaches beyond the levels in it, on either side.

    The rank of a fixed score wanders by half a root of the columns. Two roots, and more where there
    are many, leave room for a model that learns.
    """
    wander = max(2 * math.sqrt(columns), columns / 64)
    return math.ceil(max(16, min(levels[-1] * columns, wander)))


def window_room(groups: tuple[tuple[float, ...], ...], columns: int) -> tuple[int, ...]:
    """Return how many scores the windows may hold, for a pool of about so many columns."""
    reach = (2 * _margin(g, columns) + (g[-1] - g[0]) * columns for g in groups)
    return tuple(math.ceil(_SPARE * scores) for scores in reach)


def padded_width(count: int) -> int:
    """Return a number of columns from ``count`` on that :func:`count_true` takes."""
    return -(-count // _UNIT) * _UNIT


def count_true(mask: Tensor) -> Tensor:
    """Return the number of True in the last dimension, of a width from :func:`padded_width`.

    Eight columns at a time, as the bytes of an int64; many times faster than a sum of bool.
    """
    width = mask.shape[-1]
    chunk = width if width <= _ONE_CHUNK else math.gcd(width, _CHUNK)
    words = mask.view(torch.int64).view(*mask.shape[:-1], -1, chunk // 8)
    return words.sum(dim=-1).view(torch.uint8).sum(dim=-1)


def count_change(windows: Windows, rows: Tensor) -> Change:
    """Return where the rows ``[2, C, W]`` that enter and leave lie; nan: no reference score.

    ``W`` is from :func:`padded_width`.
    """
    mask = rows[:, None, None] > windows.bounds.unsqueeze(-1)
    counts = count_true(mask)
    return Change(mask, counts, windows.beyond + counts[0])


def contains_ranks(change: Change, first: Tensor, last: Tensor) -> Tensor:
    """Return ``[G, C]`` bool: the ranks ``[G, C]`` of queue and batch lie within the window."""
    above, within = change.entered
    serves: Tensor = (first >= above) & (last < within)
    return serves


def build_windows(
    reference: Tensor,
    numbers: Tensor,
    batch: Tensor,
    first: Tensor,
    last: Tensor,
    groups: tuple[tuple[float, ...], ...],
    room: tuple[int, ...],
    columns: int,
) -> Windows:
    """Return windows of a queue around the ranks that a step looks for.

    Args:
        reference: ``[C, Q]``, the queue's scores, nan for what is no reference score.
        numbers: ``[Q]`` int32, of its rows.
        batch: ``[C, N]``, the scores that enter, alike.
        first, last: ``[G, C]``, the least and the greatest of the descending ranks sought among
            both.
        groups: the levels of each window.
        room: how much each holds, from :func:`window_room`.
        columns: of the pool, about; decides how far a window reaches.
    """
    pool = torch.cat([reference, batch], dim=1).nan_to_num(nan=-math.inf)
    count = (pool > -math.inf).sum(dim=-1)
    ordered, place = pool.sort(dim=-1, descending=True)
    margin = torch.tensor([[_margin(levels, columns)] for levels in groups], device=pool.device)
    upper, lower = first - margin, last + margin

    def score_at(rank: Tensor) -> Tensor:
        return ordered.gather(-1, rank.T.clamp(0, pool.shape[1] - 1)).T

    high = torch.where(upper < 0, math.inf, score_at(upper))
    low = torch.where(lower >= count, -math.inf, score_at(lower))
    bounds = torch.stack([high, low.nextafter(low.new_tensor(-math.inf))])
    start, end = (pool > bounds.unsqueeze(-1)).sum(dim=-1)
    fits = end - start <= torch.tensor(room, device=pool.device).unsqueeze(-1)
    bounds = torch.where(fits, bounds, math.nan)
    width = max(1, int(torch.where(fits, end - start, 0).max()))
    rank = start.unsqueeze(-1) + torch.arange(width - 1, -1, -1, device=pool.device)
    inside = (rank < end.unsqueeze(-1)) & fits.unsqueeze(-1)
    rank = rank.clamp(max=pool.shape[1] - 1)
    place = place.expand(len(groups), -1, -1).gather(-1, rank)
    numbers = torch.cat([numbers, numbers.new_full((batch.shape[1],), _NOBODY)])
    return Windows(
        bounds,
        beyond=(reference > bounds.unsqueeze(-1)).sum(dim=-1),
        values=ordered.expand(len(groups), -1, -1).gather(-1, rank),
        numbers=torch.where(inside, numbers[place], _NOBODY),
        oldest=_NOBODY + 1,
        room=room,
    )


def forget(windows: Windows, lost: Tensor) -> Windows:
    """Return windows of which some, ``[G, C]`` bool, hold nothing."""
    return windows._replace(
        bounds=torch.where(lost, math.nan, windows.bounds),
        beyond=torch.where(lost, 0, windows.beyond),
        numbers=torch.where(lost.unsqueeze(-1), _NOBODY, windows.numbers),
    )


def replace_classes(windows: Windows, classes: Tensor, new: Windows) -> Windows:
    """Return windows in which those of some classes, an index ``[F]``, are new ones."""
    width = max(windows.values.shape[-1], new.values.shape[-1])

    def replace(name: str, padding: float) -> Tensor:
        wide = [
            torch.nn.functional.pad(
                getattr(part, name), (0, width - part.values.shape[-1]), value=padding
            )
            for part in (windows, new)
        ]
        return wide[0].index_copy(1, classes, wide[1])

    return Windows(
        bounds=windows.bounds.index_copy(2, classes, new.bounds),
        beyond=windows.beyond.index_copy(2, classes, new.beyond),
        values=replace("values", math.inf),
        numbers=replace("numbers", _NOBODY),
        oldest=windows.oldest,
        room=windows.room,
    )


def recount_(change: Change, windows: Windows, classes: Tensor, rows: Tensor) -> None:
    """Bring a change up to date after the windows of some classes, an index ``[F]``, are new."""
    bounds, beyond = windows.bounds[..., classes], windows.beyond[..., classes]
    new = count_change(windows._replace(bounds=bounds, beyond=beyond), rows[:, classes])
    change.mask.index_copy_(3, classes, new.mask)
    change.counts.index_copy_(3, classes, new.counts)
    change.entered.index_copy_(2, classes, new.entered)


def is_held_in(windows: Windows) -> Tensor:
    """Return ``[G, C, B]`` bool: which values are scores in the window."""
    return windows.numbers >= windows.oldest


def enter(windows: Windows, is_held: Tensor, change: Change, rows: Tensor, number: int) -> Windows:
    """Return the windows with the rows ``[C, W]`` that enter in them, from ``number`` on.

    ``is_held`` is from :func:`is_held_in`. What enters is put in order and merged with what is
    held: the place of either is the number of scores of both kinds before it.
    """
    above, within = change.counts[0]
    new, numbers = _columns_inside(change.mask[0], within - above, rows, number)
    new, order = new.sort(dim=-1)
    before = torch.nn.functional.pad(is_held.cumsum(dim=-1), (1, 0))
    position = torch.searchsorted(windows.values, new)
    passed = torch.zeros_like(before).scatter_add_(-1, position, torch.ones_like(position))
    place = passed.cumsum_(dim=-1).add_(before)[..., :-1]
    new_place = before.gather(-1, position).add_(torch.arange(new.shape[-1], device=new.device))
    # One column more, for all that is no score in the window.
    end = max(1, int((change.entered[1] - change.entered[0]).max()))
    place = torch.where(is_held, place, end)
    new_place.clamp_(max=end)

    def merge(old: Tensor, entering: Tensor, padding: float) -> Tensor:
        merged = old.new_full((*old.shape[:-1], end + 1), padding)
        merged.scatter_(-1, place, old).scatter_(-1, new_place, entering)
        merged[..., end] = padding
        return merged

    return windows._replace(
        beyond=change.entered,
        values=merge(windows.values, new, math.inf),
        numbers=merge(windows.numbers, numbers.gather(-1, order), _NOBODY),
    )


def _columns_inside(
    mask: Tensor, counts: Tensor, rows: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """Return the entering scores in a window, padded by inf, and their numbers, ``[G, C, *]``."""
    groups, classes, columns = mask.shape[1:]
    width = max(1, int(counts.max()))
    above, within = mask
    flat = (above ^ within).view(-1).nonzero().squeeze(-1)
    counts = counts.reshape(-1)
    window = flat // columns
    # What is inside comes by window and column; where a window starts, the next block of places.
    shift = torch.arange(0, len(counts) * width, width, device=rows.device)
    shift -= counts.cumsum(0) - counts
    place = shift.index_select(0, window) + torch.arange(len(flat), device=rows.device)
    values = rows.new_full((groups, classes, width), math.inf)
    numbers = torch.full_like(values, _NOBODY, dtype=torch.int32)
    values.view(-1).index_copy_(0, place, rows.view(-1).index_select(0, flat % rows.numel()))
    numbers.view(-1).index_copy_(0, place, (flat % columns + number).int())
    return values, numbers


def leave(windows: Windows, change: Change, first: int) -> Windows:
    """Return the windows without the rows below number ``first``."""
    return windows._replace(beyond=windows.beyond - change.counts[1], oldest=first)
