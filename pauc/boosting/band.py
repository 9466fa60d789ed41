"""Which negatives lie in the band: quantiles of weighted scores over all workers, without a sort.

Without weights the edges are those of :func:`pauc.band_edges`. With weights, the ``n`` negatives
stand for ``n`` rows of one weight, the mean: the row of rank ``r`` is the one in which the middle
of the ``r``-th such part of the whole weight lies. So weights may have any scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.boosting.workers import Alone
from pauc.config import Interpolation
from pauc.core.quantiles import interpolate
from pauc.native.boosting import marked_rows
from pauc.native.order import ascending_order

_SAMPLE = 16_384
# Weights that add up to the middle of a part but for rounding reach it, whatever their scale is.
_ROUNDING = 1e-12


class Band(NamedTuple):
    """Negatives, in the order of rows: memory is read and written in it, as arrays are long."""

    at: Tensor  # [B] int64: their rows, ascending
    order: Tensor  # [B] int64: puts them in ascending order of their scores


def band_of(
    scores: Tensor,
    negative: Tensor,
    weight: Tensor | None,
    alpha: float,
    beta: float,
    interpolation: Interpolation,
    workers: Alone,
) -> Band:
    """Return the negatives that lie between the band's edges, edges included.

    Args:
        scores: ``[N]`` float64.
        negative: ``[N]`` bool, the negatives of weight above 0.
        weight: ``[N]`` float64; None: ones.
        alpha, beta, interpolation: as in :func:`pauc.band_edges`, of the negatives of all workers.
        workers: which must have a negative among them.
    """
    negatives = int(negative.count_nonzero())
    mass = float(negatives) if weight is None else float(weight[negative].sum())
    count, total = workers.total(_numbers(negatives, mass)).tolist()
    unit = total / count
    position = _numbers(alpha, beta) * (count - 1)
    ranks = torch.cat([position.floor(), position.ceil()])
    depth = int(ranks.max()) + 1
    middle = (ranks + 0.5) * (unit * (1 + _ROUNDING))
    while True:
        at = _at_least(scores, negative, min(depth, negatives))
        near, heavy = scores[at], None if weight is None else weight[at]
        order = ascending_order(near)
        top, reached = _joint_top(near, heavy, order.flip(0)[:depth], depth, workers)
        if depth >= count or float(reached[-1]) > float(middle.max()):
            break
        depth = min(int(count), 2 * depth)  # of heavy weight are others
    rows = torch.searchsorted(reached, middle.to(reached.device), right=True)
    high, low = top[rows.clamp(max=len(top) - 1)].view(2, 2)
    position = position.to(high.device)
    edges = interpolate(high, low, position, torch.full_like(position, count - 1), interpolation)
    inside = (near >= edges[1]) & (near <= edges[0])
    place = inside.cumsum(0) - 1
    below, above = (int(out.count_nonzero()) for out in (near < edges[1], near > edges[0]))
    return Band(at[marked_rows(inside)], place[order[below : len(order) - above]])


def _numbers(*values: float) -> Tensor:
    """Return float64 numbers on the CPU, whatever the default device is."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _joint_top(
    scores: Tensor, weight: Tensor | None, first: Tensor, depth: int, workers: Alone
) -> tuple[Tensor, Tensor]:
    """Return the ``depth`` largest scores of all workers, descending, and the weight down to each.

    ``first`` are those of the own scores that may be among them, in descending order.
    """
    own = scores[first]
    heavy = torch.ones_like(own) if weight is None else weight[first]
    (top, heavy), _ = workers.join(own, heavy)
    if len(top) > len(own):
        top, order = top.topk(min(depth, len(top)))
        heavy = heavy[order]
    return top, heavy.cumsum(0)


def _at_least(scores: Tensor, negative: Tensor, depth: int) -> Tensor:
    """Return the ``depth`` highest negatives, all that tie with these, and perhaps more.

    A sample tells a score below which none of them lies. Where it is mistaken, all are looked at.
    """
    stride = max(1, len(scores) // _SAMPLE)
    sample = torch.where(negative[::stride], scores[::stride], -math.inf)
    share = depth / stride
    place = min(len(sample), math.ceil(share + 4 * math.sqrt(share) + 4))
    lowest = sample.kthvalue(len(sample) - place + 1).values
    at = _from(scores, negative, lowest)
    if len(at) >= depth:
        return at
    lowest = torch.where(negative, scores, -math.inf).topk(depth).values[-1]
    return _from(scores, negative, lowest)


def _from(scores: Tensor, negative: Tensor, lowest: Tensor) -> Tensor:
    return marked_rows((scores >= lowest).logical_and_(negative))
