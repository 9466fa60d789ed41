"""The quantiles of queue and batch from one step to the next, by windows that are carried along."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import Interpolation
from pauc.held import Carried, Held, Rows, ring
from pauc.selection import interpolate
from pauc.surrogates import Positives
from pauc.windows import (
    Change,
    Windows,
    build_windows,
    contains_ranks,
    count_change,
    enter,
    forget,
    is_held_in,
    leave,
    recount_,
    replace_classes,
    window_room,
)

Groups = tuple[tuple[float, ...], ...]


class Tracked(NamedTuple):
    """What a step learns of the iid negatives of queue and batch."""

    negatives: Tensor  # [C] int64, how many
    quantiles: Tensor  # [K, C], at all levels; 0 for a class without
    top: Tensor  # [C, B] the queue's from the last level of the first group upwards; -inf: none
    windows: Windows  # of the queue with the batch in it
    newest: int  # number of its newest row


class _Sought(NamedTuple):
    position: Tensor  # [K, C] float64, descending
    ranks: Tensor  # [K, C, 2] int64, at or above a position, and at or below
    first: Tensor  # [G, C] int64, the least of a group's ranks
    last: Tensor  # [G, C] int64, the greatest


def carry_on(held: Held, rows: Rows, live: Positives, tracked: Tracked) -> Carried:
    """Return what to carry on when the batch, of which ``live`` are positives, has entered."""
    gone = rows.leaving.positives
    positives = (
        torch.cat([old[gone:], new]) for old, new in zip(held.positives, live, strict=True)
    )
    return Carried(
        negatives=tracked.negatives - rows.leaving.negatives,
        positives=Positives(*positives),
        others=held.others + rows.entering.others - rows.leaving.others,
        windows=tracked.windows,
        newest=tracked.newest,
    )


def track(held: Held, rows: Rows, groups: Groups, interpolation: Interpolation) -> Tracked:
    """Return the quantiles of the iid negatives of queue and batch.

    Args:
        held: from :func:`held_rows`.
        rows: from :func:`changing_rows`.
        groups: FPR levels, ascending in each group; a window serves a group. Groups but the first
            are of one level.
        interpolation: as in :func:`pauc.band_edges`.
    """
    negatives = held.negatives + rows.entering.negatives
    last = (negatives - 1).clamp(min=0)
    sought = _seek(groups, last)
    windows, change, lost = _windows_for(held, rows, sought, groups)
    is_held = is_held_in(windows)
    top = torch.where(is_held[0], windows.values[0], -math.inf)
    if lost is not None:
        top = _with_whole_classes(top, _reference(held, lost), lost)
    number, newest = held.newest + 1, held.newest + rows.number
    windows = enter(windows, is_held, change, rows.scores[0], number)
    high, low = _select(windows, sought)
    if lost is not None:
        pool = torch.cat([rows.scores[0, lost], _reference(held, lost)], dim=1)
        ordered = pool.nan_to_num(nan=-math.inf).sort(dim=-1, descending=True).values.T
        above, below = sought.ranks[:, lost].unbind(-1)
        high = high.index_copy(1, lost, ordered.gather(0, above))
        low = low.index_copy(1, lost, ordered.gather(0, below))
    quantiles = interpolate(high, low, sought.position, last, interpolation)
    if lost is not None:
        quantiles = torch.where(negatives > 0, quantiles, 0.0)
    windows = leave(windows, change, newest - held.size + 1)
    return Tracked(negatives, quantiles, top, windows, newest)


def _seek(groups: Groups, last: Tensor) -> _Sought:
    levels = [[level] for group in groups for level in group]
    position = last * torch.tensor(levels, dtype=torch.float64, device=last.device)
    ranks = torch.stack([position.floor(), position.ceil()], dim=-1).long()
    above, below = ranks.unbind(-1)
    end = len(groups[0])
    return _Sought(position, ranks, torch.cat([above[:1], above[end:]]), below[end - 1 :])


def _reference(held: Held, classes: Tensor) -> Tensor:
    """Return the scores ``[F, Q]`` of some classes, nan for all but iid negatives."""
    rows = held.rows
    own = rows.targets == (1 if rows.scores.shape[0] == 1 else classes.unsqueeze(1))
    return torch.where(rows.iid & ~own, rows.scores[classes], math.nan)


def _with_whole_classes(top: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """Return ``top`` with all scores ``[F, Q]`` of some classes in place of their window."""
    wide = top.new_full((top.shape[0], max(top.shape[1], scores.shape[1])), -math.inf)
    wide[:, : top.shape[1]] = top
    wide[classes] = -math.inf
    wide[classes, : scores.shape[1]] = scores.nan_to_num(nan=-math.inf)
    return wide


def _windows_for(
    held: Held, rows: Rows, sought: _Sought, groups: Groups
) -> tuple[Windows, Change, Tensor | None]:
    """Return windows of the queue, what the step does to them, and the classes they do not serve.

    Those are None, or an index ``[F]``.
    """
    room = window_room(groups, held.size)

    def build(classes: Tensor) -> Windows:
        count = held.rows.targets.shape[0]
        age = torch.arange(count, dtype=torch.int32, device=classes.device)
        age = ring(age, (count - held.oldest) % max(count, 1), count)
        return build_windows(
            _reference(held, classes),
            age + (held.newest + 1 - count),
            rows.scores[0, classes, : rows.number],
            sought.first[:, classes],
            sought.last[:, classes],
            groups,
            room,
            held.size,
        )

    def check() -> Tensor | None:
        serves = contains_ranks(change, sought.first, sought.last)
        return None if bool(serves.all()) else serves

    windows = held.windows
    fits = windows is not None and _fits(windows, held, room)
    if windows is None or not fits:
        windows = build(torch.arange(held.rows.scores.shape[0], device=rows.scores.device))
    change = count_change(windows, rows.scores)
    serves = check()
    if serves is not None and fits:
        classes = (~serves.all(dim=0)).nonzero().squeeze(-1)
        windows = replace_classes(windows, classes, build(classes))
        recount_(change, windows, classes, rows.scores)
        serves = check()
    if serves is None:
        return windows, change, None
    # So many ties that a window has no room for them, or no negatives at all.
    lost = (~serves.all(dim=0)).nonzero().squeeze(-1)
    windows = forget(windows, ~serves)
    recount_(change, windows, lost, rows.scores)
    return windows, change, lost


def _fits(windows: Windows, held: Held, room: tuple[int, ...]) -> bool:
    """Return whether windows have room for these groups, and not far too much."""
    if windows.values.dtype != held.rows.scores.dtype or len(windows.room) != len(room):
        return False
    if windows.values.shape[-1] > 4 * max(room):  # ties have entered
        return False
    return all(
        wanted <= given <= 2 * wanted for wanted, given in zip(room, windows.room, strict=True)
    )


def _select(windows: Windows, sought: _Sought) -> tuple[Tensor, Tensor]:
    """Return the scores ``[K, C]`` at the ranks sought, of windows with the batch in them."""
    groups, classes, width = windows.values.shape
    start = torch.arange(0, groups * classes * width, width, device=windows.values.device)
    start = start.view(groups, classes)
    more = len(sought.ranks) - groups  # levels of the first window beyond the last one
    # Ranks count downwards from the greatest of all, places upwards from the least in the window,
    # whose rank, less its place, is `least`.
    least = start + windows.beyond[1] - 1
    least = torch.cat([least[:1].expand(more, -1), least]).unsqueeze(-1)
    # Where a window does not serve, any place will do.
    places = (least - sought.ranks).clamp_(0, windows.values.numel() - 1)
    high, low = windows.values.take(places).unbind(-1)
    return high, low
