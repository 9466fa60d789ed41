"""How much of the labels the scores explain: the weight of the pairs beside a cross-entropy.

A heavy weight from the first step on holds random scores fast, and where classes overlap it learns
noise by heart. What the pool's own scores explain tells both cases from those where it pays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pauc.core.pool import Pool
from pauc.core.queue import is_multilabel

# Where classes overlap, a third to a half is explained in the end. Its cube is near nothing there,
# and most of the weight where nine tenths are; the square still cost on such data.
POWER = 3


class Entropies(NamedTuple):
    """Sums over rows, which add up over the pools of several ranks; ``[C]`` float64 each."""

    cross: Tensor  # of the cross-entropies by weight
    positive: Tensor  # what the positives weigh
    present: Tensor  # what all rows weigh


def entropies_of(pool: Pool) -> Entropies:
    """Return the sums over a pool's rows, hard negatives included; without gradient."""
    weight = pool.weight.expand_as(pool.absent).masked_fill(pool.absent, 0.0)
    positive = ~pool.other
    if pool.scores.shape[0] > 1 and not is_multilabel(pool.targets):
        classes = torch.arange(len(pool.scores), device=weight.device).unsqueeze(1)
        positive = positive & (pool.targets == classes)
    return sum_entropies(
        pool.scores.detach(), positive.view_as(pool.scores), weight.view(-1, pool.rows)
    )


def sum_entropies(scores: Tensor, positive: Tensor, weight: Tensor) -> Entropies:
    """Return the sums over rows: scores and positives ``[C, M]``, weights ``[C or 1, M]``.

    A row of weight 0 may have any score, since absent rows do.
    """
    counted = weight > 0
    margin = torch.where(counted, torch.where(positive, scores, -scores), 0.0)
    weight = weight.expand_as(scores)
    cross = -(logsigmoid(margin) * weight).sum(dim=1, dtype=torch.float64)
    of_positives = (weight * positive).sum(dim=1, dtype=torch.float64)
    return Entropies(cross, of_positives, weight.sum(dim=1, dtype=torch.float64))


def explained_weight(sums: Entropies) -> Tensor:
    """Return ``[C]`` in [0, 1]: the cube of the share of the labels' entropy that is explained.

    The share is ``1 - cross-entropy / entropy`` (McFadden 1974), and 0 where scores say less than
    the rate of positives alone, or where one of both classes is missing.
    """
    rate = sums.positive / torch.where(sums.present > 0, sums.present, 1.0)
    entropy = -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate)) * sums.present
    share = 1 - sums.cross / torch.where(entropy > 0, entropy, 1.0)
    return torch.where(entropy > 0, share, 0.0).clamp(min=0) ** POWER
