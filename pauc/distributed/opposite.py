"""What the positives of a shard are compared with: thresholds, or all ranks' band negatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.config import PAUCConfig
from pauc.core.band import Band
from pauc.core.edge_gradient import knot_shares
from pauc.core.pool import Pool
from pauc.core.step import columns_of, live_factor
from pauc.core.surrogates import Positives
from pauc.distributed.ranks import Ranks
from pauc.pairs.operator import mean_link


class BandNegatives(NamedTuple):
    """What positives are compared with by pairs: the negatives in the band of all ranks.

    ``B`` places for each of ``W`` ranks.
    """

    leaf: Tensor  # [C, W B], their scores
    counts: Tensor  # [C, W B], 0 for padding
    total: Tensor  # [C]
    columns: Tensor  # [C, B], where this rank's are in its pool
    factor: Tensor  # [C, B], what scales their gradient; 0 for padding
    to_add: Tensor  # [C, 0], no more to be added up over the ranks

    def own_gradient(self, gradient: Tensor, _total: Tensor, pool: Pool, rank: int) -> Tensor:
        """Return ``[C, M]`` from the gradient by ``leaf`` of all ranks' sums."""
        places = self.columns.shape[1]
        own = gradient[:, rank * places :][:, :places] * self.factor
        return own.new_zeros(pool.scores.shape).scatter_add(1, self.columns, own)


class MovingEdges(NamedTuple):
    """What positives are compared with by the trapezoid: thresholds, which rows may move."""

    leaf: Tensor  # [C, K]
    shares: Tensor  # [C, K, M], how much each row of this rank moves a threshold, up to a constant
    to_add: Tensor  # [C, K], sums of the shares, to be added up over the ranks

    def own_gradient(self, gradient: Tensor, total: Tensor, _pool: Pool, _rank: int) -> Tensor:
        """Return ``[C, M]`` from the gradient by ``leaf`` and the shares of all ranks."""
        per_share = torch.where(total > 0, gradient / total, 0.0)
        return (per_share.unsqueeze(-1) * self.shares).sum(dim=1)


def moving_edges(pool: Pool, band: Band, config: PAUCConfig) -> MovingEdges:
    """Return the knots; their shares are empty unless they move with the scores."""
    knots = torch.where(band.defined.unsqueeze(-1), band.edges.knots, 0.0)
    shares = pool.scores.new_zeros(knots.shape[0], 0, 0)
    if config.edge_gradient == "implicit":
        # No shift before the exponential: a knot is a score or lies between two.
        shares = torch.stack([s.double().exp() for s in knot_shares(pool, band, config)], dim=1)
        knots = knots.requires_grad_(torch.is_grad_enabled())
    return MovingEdges(leaf=knots, shares=shares, to_add=shares.sum(dim=-1))


def exchange_band_negatives(
    pool: Pool, band: Band, config: PAUCConfig, ranks: Ranks
) -> BandNegatives:
    """Exchange the negatives in the band: first how many, then their scores."""
    members = pool.negatives() & band.contains(pool.scores)
    live = members & pool.live
    counts = ranks.gather(torch.stack([members.sum(dim=-1), live.sum(dim=-1)]))
    total, live_total = counts.sum(dim=0)
    per_rank, places = counts[:, 0].T, int(counts[:, 0].max())
    columns, real = columns_of(members, members.sum(dim=-1))
    columns, real = (pad(part, (0, places - part.shape[1])) for part in (columns, real))
    own = torch.where(real, pool.scores.detach().gather(1, columns), 0.0)
    scores = ranks.gather(own).transpose(0, 1).reshape(own.shape[0], -1)
    is_row = torch.arange(places, device=own.device) < per_rank.unsqueeze(-1)
    factor = torch.ones_like(total)
    if config.gradient_scale == "live":
        factor = live_factor(total, live_total)
    return BandNegatives(
        leaf=scores.requires_grad_(torch.is_grad_enabled()),
        counts=is_row.reshape(own.shape[0], -1).to(own.dtype),
        total=total,
        columns=columns,
        factor=real * factor.unsqueeze(-1),
        to_add=own[:, :0],
    )


def pair_contributions(
    positives: Positives, negatives: BandNegatives, band: Band, config: PAUCConfig
) -> Tensor:
    """Return ``[P]``: each positive's mean link over the band negatives of all ranks."""
    return mean_link(
        positives.scores,
        positives.class_index,
        negatives.leaf,
        negatives.counts,
        negatives.total.clamp(min=1).to(band.tau.dtype),
        band.tau,
        config.link,
    )
