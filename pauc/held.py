"""The rows of a queue that a step looks at: those that leave, and what is known of the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.queue import Entry, QueueState
from pauc.surrogates import Positives
from pauc.windows import Windows, padded_width


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
    newest: int  # number of the newest row; the one before it has one less


class Carried(NamedTuple):
    """What is known of the rows of a queue. It belongs to that state of the queue and no other."""

    negatives: Tensor
    positives: Positives
    others: int
    windows: Windows
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
    number: int  # how many enter


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
    return Held(queue, cursor, oldest, size, negatives, positives, others, None, fill - 1)


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
