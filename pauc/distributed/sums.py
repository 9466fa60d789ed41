"""The sums by class that the ranks exchange where each holds a part of the queue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import PAUCConfig
from pauc.core.band import Band, reference_rows
from pauc.core.batch import Batch
from pauc.core.explained import Entropies, entropies_of
from pauc.core.pool import Pool
from pauc.core.step import class_weight
from pauc.core.surrogates import Positives, class_sum
from pauc.distributed.opposite import BandNegatives, MovingEdges
from pauc.distributed.ranks import Ranks


class Totals(NamedTuple):
    """Sums over the pools of all ranks, ``[C]`` float64 each."""

    negatives: Tensor  # iid negatives
    reference: Tensor
    weight: Tensor  # of the numerator positives
    live_weight: Tensor
    poisoned: Tensor  # rows of the batches with a non-finite logit
    present_weight: Tensor  # what the present rows of the batches weigh


class Sums(NamedTuple):
    """Sums over the pools of all ranks, ``[C]`` float64 each, and the gradient of one of them."""

    contribution: Tensor  # of the numerator positives
    square: Tensor
    entropy: Tensor
    band_negatives: Tensor  # iid negatives in the band
    gradient: Tensor  # [n, C], of `contribution` by this rank's batch


def add_up_rows(pool: Pool, batch: Batch, config: PAUCConfig, ranks: Ranks) -> Totals:
    """Exchange what the rows of all ranks add up to."""
    iid_negatives = pool.iid_negatives()
    reference = reference_rows(pool, iid_negatives, config)
    weight = pool.numerator_weight(config.pos_numerator).double()
    live_weight = pool.numerator_weight("live").double()
    own = Totals(
        negatives=iid_negatives.sum(dim=-1),
        reference=reference.sum(dim=-1),
        weight=class_weight(pool, weight),
        live_weight=class_weight(pool, live_weight),
        poisoned=(~batch.logits.detach().isfinite()).sum(dim=0),
        present_weight=batch.present_weight(),
    )
    return Totals(*ranks.sum(torch.stack([part.double() for part in own])).unbind())


def add_up_entropies(pool: Pool, ranks: Ranks) -> Entropies:
    """Exchange what the weight of the pairs is computed from, where that is what is explained."""
    return Entropies(*ranks.sum(torch.stack(entropies_of(pool))).unbind())


def add_up_positives(
    leaf: Tensor,
    pool: Pool,
    band: Band,
    positives: Positives,
    contribution: Tensor,
    opposite: BandNegatives | MovingEdges,
    entropy: Tensor,
    ranks: Ranks,
) -> Sums:
    """Exchange the sums over positives with their gradient by what they are compared with."""
    index, num_classes = positives.class_index, leaf.shape[1]
    summed = class_sum(contribution * positives.weight, index, num_classes)
    wanted = [part for part in (leaf, opposite.leaf) if part.requires_grad]
    gradients = torch.autograd.grad(summed.sum(), wanted, materialize_grads=True) if wanted else ()
    square = class_sum(contribution.detach() ** 2 * positives.weight, index, num_classes)
    in_band = (pool.iid_negatives() & band.contains(pool.scores)).sum(dim=-1)
    columns = torch.stack([summed, square, entropy, in_band], dim=1).detach()
    to_add = [part.double() for part in (columns, opposite.to_add, *gradients[1:])]
    packed = ranks.sum(torch.cat(to_add, dim=1))

    summed, square, entropy, in_band = packed[:, :4].unbind(dim=1)
    gradient = gradients[0].T if gradients else torch.zeros_like(leaf).T
    if len(gradients) == 2:
        total, by_opposite = torch.split(
            packed[:, 4:], [part.shape[1] for part in to_add[1:]], dim=1
        )
        by_pool = opposite.own_gradient(by_opposite, total, pool, ranks.rank)
        gradient = gradient + by_pool[:, : len(leaf)]
    return Sums(summed, square, entropy, in_band, gradient.T)
