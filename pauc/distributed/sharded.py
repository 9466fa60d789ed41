"""The loss over a queue in parts: every rank keeps its own rows, no rank sees the whole pool.

A rank works on its own batch and its own part of the queue. What it needs of the others are sums
by class, order statistics of all rows, found by counting digits, and the negatives in the band.
Each positive then has its contribution on its own rank, and the sums over positives are added up.
Their gradient is taken inside the forward pass, because a negative's gradient is a sum over the
positives of all ranks: so it travels with the sums, and the backward pass has no exchange.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.config import PAUCConfig
from pauc.core.band import Band, assemble_band, knot_shares
from pauc.core.diagnostics import count_live_positives, where_valid
from pauc.core.pool import Batch, Pool, make_pool
from pauc.core.quantiles import BandEdges, knot_levels, robust_scale
from pauc.core.queue import QueueState, enqueue
from pauc.core.step import PAUCTerms, blend, columns_of, has_entropy, live_factor, reduce_classes
from pauc.core.surrogates import Positives, class_sum, scale_gradient, trapezoid_contributions
from pauc.distributed.quantiles import quantiles_of_all
from pauc.pairs.operator import mean_link

if TYPE_CHECKING:
    from pauc.distributed.gather import Ranks


class _Totals(NamedTuple):
    """Sums over the pools of all ranks, ``[C]`` float64 each."""

    negatives: Tensor  # iid negatives
    reference: Tensor
    weight: Tensor  # of the numerator positives
    live_weight: Tensor
    poisoned: Tensor  # rows of the batches with a non-finite logit
    rows: Tensor  # present rows of the batches, which only multi-label classes differ in


class _Sums(NamedTuple):
    """Sums over the pools of all ranks, ``[C]`` float64 each, and the gradient of one of them."""

    contribution: Tensor  # of the numerator positives
    square: Tensor
    entropy: Tensor
    band_negatives: Tensor  # iid negatives in the band
    gradient: Tensor  # [n, C], of `contribution` by this rank's batch


class _Negatives(NamedTuple):
    """The negatives in the band of all ranks; ``B`` places for each of ``W`` ranks."""

    leaf: Tensor  # [C, W B], their scores
    counts: Tensor  # [C, W B], 0 for padding
    total: Tensor  # [C]
    columns: Tensor  # [C, B], where this rank's are in its pool
    factor: Tensor  # [C, B], what scales their gradient; 0 for padding
    to_add: Tensor  # [C, 0]

    def own_gradient(self, gradient: Tensor, _total: Tensor, pool: Pool, rank: int) -> Tensor:
        """Return ``[C, M]`` from the gradient by ``leaf`` of all ranks' sums."""
        places = self.columns.shape[1]
        own = gradient[:, rank * places :][:, :places] * self.factor
        return own.new_zeros(pool.scores.shape).scatter_add(1, self.columns, own)


class _Edges(NamedTuple):
    """The thresholds, where they move with the rows near them."""

    leaf: Tensor  # [C, K]
    shares: Tensor  # [C, K, M], of this rank's rows, up to a constant
    to_add: Tensor  # [C, K], their sums

    def own_gradient(self, gradient: Tensor, total: Tensor, _pool: Pool, _rank: int) -> Tensor:
        """Return ``[C, M]`` from the gradient by ``leaf`` and the shares of all ranks."""
        per_share = torch.where(total > 0, gradient / total, 0.0)
        return (per_share.unsqueeze(-1) * self.shares).sum(dim=1)


def check_shardable(config: PAUCConfig) -> None:
    """Raise unless the queue may be sharded with these options."""
    if config.max_pool_size is not None:
        raise ValueError(
            "shard_queue=True takes no max_pool_size, since no rank's pool grows with the ranks; "
            f"got max_pool_size={config.max_pool_size}"
        )


def loss_of_shards(
    batch: Batch,
    queue: QueueState,
    config: PAUCConfig,
    ranks: Ranks,
    read_values: bool,
    diagnostics: bool,
) -> PAUCTerms:
    """Return the loss over the pools of all ranks, the same on each.

    Args:
        batch: this rank's rows, checked.
        queue: this rank's part of the queue.
        config: for which :func:`check_shardable` does not raise.
        ranks: of which each calls this function.
        read_values: size work arrays by what is in them.
        diagnostics: as for :func:`pauc.pauc_loss_terms`; ``pauc`` and
            ``realised_fpr`` are nan, since they would take the order of all ranks' rows and of all
            parts of the queue, ``grad_pos_count`` is this rank's.
    """
    leaf = batch.logits.detach().requires_grad_(torch.is_grad_enabled())
    pool = make_pool(batch._replace(logits=leaf), queue)
    totals = _totals(pool, batch, config, ranks)
    band = _band(pool, totals, config, ranks)
    positives = _positives(pool, totals, config, read_values)
    entropy = batch.cross_entropy() * (batch.present_rows() / totals.rows.clamp(min=1))
    valid = (totals.weight > 0) & band.defined
    opposite: _Negatives | _Edges
    if config.surrogate == "trapezoid":
        opposite = _edges(pool, band, config)
        contribution = trapezoid_contributions(positives, opposite.leaf, band.tau)
    else:
        opposite = _band_negatives(pool, band, config, ranks)
        valid = valid & (opposite.total > 0)
        contribution = _pair_contributions(positives, opposite, band, config)
    sums = _add_up(leaf, pool, band, positives, contribution, opposite, entropy, ranks)

    divisor = torch.where(totals.weight > 0, totals.weight, 1.0)
    value = sums.contribution / divisor
    pauc = value + _attach(sums.gradient / divisor, batch.logits)
    poisoned = totals.poisoned > 0
    pauc = torch.where(poisoned, math.nan, pauc).to(leaf.dtype)
    loss, per_class, valid = reduce_classes(pauc, valid | poisoned, batch, config)
    attached = (sums.entropy + (entropy - entropy.detach())).to(loss.dtype)
    loss = blend(loss, attached if has_entropy(config) else None, config)

    stats = {}
    if diagnostics:
        variance = (sums.square / divisor - value**2).clamp(min=0)
        stats = _diagnose(pool, band, variance, sums.band_negatives, valid)
    new_queue = enqueue(
        queue,
        leaf.detach(),
        batch.targets,
        iid_mask=batch.iid,
        sample_weight=batch.weight,
        ignore_index=config.ignore_index,
        validate_args=False,  # done before
    )
    return PAUCTerms(loss, per_class, valid, band.degenerate, band.ref_count, stats, new_queue)


def _totals(pool: Pool, batch: Batch, config: PAUCConfig, ranks: Ranks) -> _Totals:
    num_classes = pool.scores.shape[0]
    negatives = _iid_negatives(pool).sum(dim=-1)
    reference = _reference(pool, config).sum(dim=-1)
    weight, label = pool.numerator_weight(config.pos_numerator), pool.own_class()
    live_weight = pool.numerator_weight("live")
    own = _Totals(
        negatives=negatives,
        reference=reference,
        weight=class_sum(weight.double(), label, num_classes),
        live_weight=class_sum(live_weight.double(), label, num_classes),
        poisoned=(~batch.logits.detach().isfinite()).sum(dim=0),
        rows=batch.present_rows().expand(num_classes),
    )
    return _Totals(*ranks.sum(torch.stack([part.double() for part in own])).unbind())


def _iid_negatives(pool: Pool) -> Tensor:
    return pool.present & pool.iid & pool.negatives()


def _reference(pool: Pool, config: PAUCConfig) -> Tensor:
    """Return ``[C, M]`` bool: this rank's part of the reference set."""
    if config.budget_basis == "population":
        return (pool.present & pool.iid).expand_as(pool.scores)
    return _iid_negatives(pool)


def _band(pool: Pool, totals: _Totals, config: PAUCConfig, ranks: Ranks) -> Band:
    """Return the band of the pools of all ranks; ``reference`` is this rank's part."""
    reference, count = _reference(pool, config), totals.reference.long()
    n_knots = config.n_knots if config.surrogate == "trapezoid" else 2
    levels = list(map(float, knot_levels(config.alpha, config.beta, n_knots)))
    quartiles = [0.25, 0.75] if config.tau_scale == "iqr" else []
    scores = pool.scores.detach()
    found = quantiles_of_all(
        scores, reference, count, [levels, quartiles], config.quantile_interpolation, ranks
    )
    knots = found[:, :n_knots]
    edges = spread = BandEdges(knots[:, 0], knots[:, -1], knots)
    if quartiles:
        spread = BandEdges(found[:, -2], found[:, -1], found[:, -2:])
    kind = config.tau_scale if config.tau_scale == "unit" else "band"
    scale = robust_scale(scores, reference, kind, edges=spread)
    return assemble_band(reference, count, totals.negatives, edges, config.temperature * scale)


def _positives(pool: Pool, totals: _Totals, config: PAUCConfig, read_values: bool) -> Positives:
    """Return this rank's numerator positives."""
    weight = pool.numerator_weight(config.pos_numerator)
    places = torch.arange(len(weight), device=weight.device)
    if read_values:
        places = weight.nonzero().squeeze(-1)
    positives = pool.positives(places, weight[places])
    if config.gradient_scale == "pool":
        return positives
    factor = live_factor(totals.weight, totals.live_weight)[positives.class_index]
    return positives._replace(scores=scale_gradient(positives.scores, factor.to(weight.dtype)))


def _edges(pool: Pool, band: Band, config: PAUCConfig) -> _Edges:
    knots = torch.where(band.defined.unsqueeze(-1), band.edges.knots, 0.0)
    shares = pool.scores.new_zeros(knots.shape[0], 0, 0)
    if config.edge_gradient == "implicit":
        # No shift before the exponential: a knot is a score or lies between two.
        shares = torch.stack([s.double().exp() for s in knot_shares(pool, band, config)], dim=1)
        knots = knots.requires_grad_(torch.is_grad_enabled())
    return _Edges(leaf=knots, shares=shares, to_add=shares.sum(dim=-1))


def _band_negatives(pool: Pool, band: Band, config: PAUCConfig, ranks: Ranks) -> _Negatives:
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
    return _Negatives(
        leaf=scores.requires_grad_(torch.is_grad_enabled()),
        counts=is_row.reshape(own.shape[0], -1).to(own.dtype),
        total=total,
        columns=columns,
        factor=real * factor.unsqueeze(-1),
        to_add=own[:, :0],
    )


def _pair_contributions(
    positives: Positives, negatives: _Negatives, band: Band, config: PAUCConfig
) -> Tensor:
    return mean_link(
        positives.scores,
        positives.class_index,
        negatives.leaf,
        negatives.counts,
        negatives.total.clamp(min=1).to(band.tau.dtype),
        band.tau,
        config.link,
    )


def _add_up(
    leaf: Tensor,
    pool: Pool,
    band: Band,
    positives: Positives,
    contribution: Tensor,
    opposite: _Negatives | _Edges,
    entropy: Tensor,
    ranks: Ranks,
) -> _Sums:
    """Exchange the sums over positives with their gradient by what they are compared with."""
    index, num_classes = positives.class_index, leaf.shape[1]
    summed = class_sum(contribution * positives.weight, index, num_classes)
    wanted = [part for part in (leaf, opposite.leaf) if part.requires_grad]
    gradients = torch.autograd.grad(summed.sum(), wanted, materialize_grads=True) if wanted else ()
    square = class_sum(contribution.detach() ** 2 * positives.weight, index, num_classes)
    in_band = (_iid_negatives(pool) & band.contains(pool.scores)).sum(dim=-1)
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
    return _Sums(summed, square, entropy, in_band, gradient.T)


def _attach(gradient: Tensor, logits: Tensor) -> Tensor:
    """Return ``[C]`` zeros whose derivative by ``logits`` ``[n, C]`` is ``gradient``."""
    moving = torch.where(logits.detach().isfinite(), logits - logits.detach(), 0.0)
    return (moving * gradient.to(logits.dtype)).sum(dim=0)


def _diagnose(
    pool: Pool, band: Band, variance: Tensor, band_negatives: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    measured = {
        "t_alpha": band.edges.t_alpha,
        "t_beta": band.edges.t_beta,
        "tau_eff": band.tau,
        "pauc_var": variance.to(band.tau.dtype),
        "pauc": torch.full_like(band.tau, math.nan),
        "band_neg_count": band_negatives.long(),
        "grad_pos_count": count_live_positives(pool),
    }
    nowhere = torch.full_like(band.tau, math.nan)
    always = {"ref_count": band.ref_count, "realised_fpr": nowhere}
    return {**where_valid(measured, valid), **always}
