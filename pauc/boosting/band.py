"""Which negatives lie in the band: quantiles of weighted scores over all workers, without a sort.

Without weights the edges are those of :func:`pauc.band_edges`. With weights, the ``n`` negatives
stand for ``n`` rows of one weight, the mean: the row of rank ``r`` is the one in which the middle
of the ``r``-th such part of the whole weight lies. So weights may have any scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.boosting.workers import Alone
from pauc.config import Interpolation
from pauc.core.quantiles import interpolate

_SAMPLE = 16_384


def band_of(
    scores: Tensor,
    weight: Tensor | None,
    alpha: float,
    beta: float,
    interpolation: Interpolation,
    workers: Alone,
) -> Tensor:
    """Return ``[B]`` int64: the rows that lie between the band's edges, edges included.

    Args:
        scores: ``[N]`` float64, -inf for a row that is no negative or has no weight.
        weight: ``[N]`` float64; None: ones.
        alpha, beta, interpolation: as in :func:`pauc.band_edges`, of the negatives of all workers.
        workers: which must have a negative among them.
    """
    negatives = int((scores > -math.inf).sum())
    mass = float(negatives) if weight is None else float(weight[scores > -math.inf].sum())
    count, total = workers.total(torch.tensor([negatives, mass], dtype=torch.float64)).tolist()
    unit = total / count
    position = torch.tensor([alpha, beta], dtype=torch.float64) * (count - 1)
    ranks = torch.cat([position.floor(), position.ceil()])
    at, top, reached = _top(
        scores, weight, negatives, int(count), float(ranks.max()) + 1, unit, workers
    )
    middle = ((ranks + 0.5) * unit).to(reached.device)
    rows = torch.searchsorted(reached, middle, right=True)
    high, low = top[rows.clamp(max=len(top) - 1)].view(2, 2)
    position = position.to(high.device)
    edges = interpolate(high, low, position, torch.full_like(position, count - 1), interpolation)
    own = scores[at]
    return at[(own >= edges[1]) & (own <= edges[0])]


def _top(
    scores: Tensor,
    weight: Tensor | None,
    negatives: int,
    count: int,
    needed: float,
    unit: float,
    workers: Alone,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the own top rows, the largest scores of all workers, and the weight down to each.

    The scores descend, and so many are given that their weight reaches ``needed - 1/2`` units. Own
    rows that have one of these scores are among the own top rows.
    """
    depth = math.ceil(needed)
    while True:
        at = _at_least(scores, min(depth, negatives))
        own = scores[at].topk(min(depth, len(at)))
        heavy = torch.ones_like(own.values) if weight is None else weight[at[own.indices]]
        (top, heavy), _ = workers.join(own.values, heavy)
        top, order = top.topk(min(depth, len(top)))
        reached = heavy[order].cumsum(0)
        if depth >= count or float(reached[-1]) > (needed - 0.5) * unit:
            return at, top, reached
        depth = min(count, 2 * depth)


def _at_least(scores: Tensor, depth: int) -> Tensor:
    """Return the rows of the ``depth`` largest scores, all that tie with these, and perhaps more.

    A sample tells a score below which none of them lies. Where it is mistaken, all are looked at.
    """
    stride = max(1, len(scores) // _SAMPLE)
    sample = scores[::stride]
    share = depth / stride
    place = min(len(sample), math.ceil(share + 4 * math.sqrt(share) + 4))
    at = _from(scores, sample.topk(place).values[-1])
    return at if len(at) >= depth else _from(scores, scores.topk(depth).values[-1])


def _from(scores: Tensor, lowest: Tensor) -> Tensor:
    """Return the rows with a score of at least ``lowest``, none of them -inf."""
    return (scores >= lowest.clamp(min=torch.finfo(scores.dtype).min)).nonzero().squeeze(1)
