"""The quantiles of queue and batch from one step to the next, by windows that are carried along."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import Interpolation
from pauc.queue import Entry, QueueState
from pauc.ranks import select_ranks
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
    in_order,
    leave_,
    padded_width,
    recount_,
    replace_classes,
    window_room,
)

Groups = tuple[tuple[float, ...], ...]


class Held(NamedTuple):
    """The rows of a queue, without its empty slots, and what can be known of them beforehand."""

    rows: QueueState
    cursor: int  # the slot where the next row goes
    oldest: int  # slot
    size: int  # slots of the queue
    negatives: Tensor  # [C] int64, iid negatives
    positives: Positives  # oldest first
    others: int  # rows that are not iid
    windows: Windows | None
    quantiles: Tensor | None  # [K, C], of the step before
    newest: int  # number of the newest row; the one before it has one less


class Carried(NamedTuple):
    """What is known of the rows of a queue. It belongs to that state of the queue and no other."""

    negatives: Tensor
    positives: Positives
    others: int
    windows: Windows
    quantiles: Tensor
    newest: int


class Side(NamedTuple):
    """How many rows there are of a kind."""

    negatives: Tensor  # [C] int64, iid ones
    positives: int
    others: int  # not iid


class Rows(NamedTuple):
    """The rows that make a difference: the batch's, which enter, and those that leave for them."""

    scores: Tensor  # [2, C, W], of those that enter and that leave; nan: no iid negative
    entering: Side
    leaving: Side
    count: int  # how many enter


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


def held_rows(queue: QueueState, carried: Carried | None) -> Held:
    """Return what a queue holds; ``carried`` spares the look at its rows."""
    size, fill, cursor = queue.targets.shape[0], int(queue.fill), int(queue.cursor)
    oldest = cursor if fill == size else 0
    if fill < size:
        queue = queue._replace(
            scores=queue.scores[:, :fill],
            targets=queue.targets[:fill],
            iid=queue.iid[:fill],
            weight=queue.weight[:fill],
        )
    # Numbers are int32; that they begin again changes nothing but the cost of a step.
    if carried is not None and carried.newest < 2**30:
        return Held(queue, cursor, oldest, size, *carried)
    num_classes, others = queue.scores.shape[0], fill - int(queue.iid.sum())
    iid = None if others == 0 else queue.iid
    negatives = fill - others - _count_positives(queue.targets, iid, num_classes)
    positives = _held_positives(queue, oldest)
    return Held(queue, cursor, oldest, size, negatives, positives, others, None, None, fill - 1)


def _held_positives(held: QueueState, oldest: int) -> Positives:
    targets, weight = (ring(t, oldest, t.shape[0]) for t in (held.targets, held.weight))
    if held.scores.shape[0] > 1:
        scores = held.scores.gather(0, held.targets.unsqueeze(0)).squeeze(0)
        return Positives(ring(scores, oldest, len(scores)), targets, weight)
    places = (targets == 1).nonzero().squeeze(-1)
    slots = (places + oldest) % max(len(targets), 1)
    return Positives(
        held.scores.squeeze(0).index_select(0, slots),
        torch.zeros_like(places),
        weight.index_select(0, places),
    )


def _count_positives(targets: Tensor, iid: Tensor | None, num_classes: int) -> Tensor:
    """Return ``[C]``: how many iid rows are a positive of each class."""
    if iid is not None:
        targets = targets[iid]
    if num_classes == 1:
        return targets.sum().view(1)
    return torch.bincount(targets, minlength=num_classes)


def ring(stored: Tensor, start: int, count: int) -> Tensor:
    """Return ``count`` slots from ``start`` on, round the end."""
    beyond = start + count - stored.shape[-1]
    if beyond <= 0:
        return stored.narrow(-1, start, count)
    return torch.cat([stored[..., start:], stored[..., :beyond]], dim=-1)


def changing_rows(entry: Entry, all_iid: bool, held: Held) -> Rows:
    """Return the rows that enter, ``all_iid`` or not, and those that leave."""
    num_classes, count = entry.scores.shape
    taken = max(held.rows.targets.shape[0] + count - held.size, 0)
    changing = entry.scores.new_full((2, num_classes, padded_width(count)), math.nan)
    iid = None if held.others == 0 else ring(held.rows.iid, held.oldest, taken)
    out = ring(held.rows.scores, held.oldest, taken), ring(held.rows.targets, held.oldest, taken)
    return Rows(
        changing,
        _put(changing[0], entry.scores, entry.targets, None if all_iid else entry.iid),
        _put(changing[1], *out, iid),
        count,
    )


def _put(into: Tensor, scores: Tensor, targets: Tensor, iid: Tensor | None) -> Side:
    """Write scores ``[C, N]`` to the first columns, nan for those of no iid negative."""
    num_classes, count = scores.shape
    into = into.narrow(1, 0, count)
    into.copy_(scores)
    if num_classes == 1:
        places = targets.nonzero().squeeze(-1)
        into.index_fill_(1, places, math.nan)
        positives = len(places)
    else:
        into.scatter_(0, targets.unsqueeze(0), math.nan)
        positives = count
    others = 0
    if iid is not None:
        into.masked_fill_(~iid, math.nan)
        others = count - int(iid.sum())
    return Side(count - others - _count_positives(targets, iid, num_classes), positives, others)


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
        quantiles=tracked.quantiles,
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
    top = windows.values[0]
    if lost is not None:
        top = _with_whole_classes(top, _reference(held, lost), lost)
    number, newest = held.newest + 1, held.newest + rows.count
    windows = enter(windows, change, rows.scores[0], number, rows.count)
    high, low = _select(windows, sought, lost, held.quantiles)
    if lost is not None:
        pool = torch.cat([rows.scores[0, lost], _reference(held, lost)], dim=1)
        ordered = pool.nan_to_num(nan=-math.inf).sort(dim=-1, descending=True).values.T
        above, below = sought.ranks[:, lost].unbind(-1)
        high = high.index_copy(1, lost, ordered.gather(0, above))
        low = low.index_copy(1, lost, ordered.gather(0, below))
    quantiles = interpolate(high, low, sought.position, last, interpolation)
    if lost is not None:
        quantiles = torch.where(negatives > 0, quantiles, 0.0)
    windows = leave_(windows, change, newest - held.size + 1)
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
            rows.scores[0, classes, : rows.count],
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


def _select(
    windows: Windows, sought: _Sought, lost: Tensor | None, guess: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the scores ``[K, C]`` at the ranks sought, of windows with the batch in them."""
    more = len(sought.ranks) - len(windows.values)  # levels of the first window beyond the last one

    def of_levels(of_windows: Tensor) -> Tensor:
        first = of_windows[:1]
        return torch.cat([first] * more + [of_windows])

    values = of_levels(windows.values)
    ranks = sought.ranks - of_levels(windows.beyond[0]).unsqueeze(-1)
    if lost is not None:  # where a window does not serve, any rank will do
        ranks = ranks.clamp(0, values.shape[-1] - 1)
    if in_order(windows):
        high, low = values.gather(-1, ranks).unbind(-1)
        return high, low
    above, below = ranks.flatten(0, 1).unbind(-1)
    upper, lower = (of_levels(bound).view(-1) for bound in windows.bounds)
    held = of_levels(windows.beyond[1] - windows.beyond[0]).view(-1)
    if guess is not None:
        guess = guess.reshape(-1) if guess.shape == sought.position.shape else None
    high, low = select_ranks(values.flatten(0, 1), above, below, lower, upper, held, guess)
    return high.view_as(sought.position), low.view_as(sought.position)
