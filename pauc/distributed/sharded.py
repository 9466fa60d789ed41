"""The loss over a queue in parts: every rank keeps its own rows, no rank sees the whole pool.

A rank works on its own batch and its own part of the queue. What it needs of the others are sums
by class, order statistics of all rows, found by counting digits, and the negatives in the band.
Each positive then has its contribution on its own rank, and the sums over positives are added up.
Their gradient is taken inside the forward pass, because a negative's gradient is a sum over the
positives of all ranks: so it travels with the sums, and the backward pass has no exchange.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pauc.config import LossConfig, PAUCConfig
from pauc.core import partial_auc
from pauc.core.band import (
    Band,
    BandEdges,
    assemble_band,
    knot_levels,
    reference_rows,
    robust_scale,
)
from pauc.core.batch import Batch, Rows
from pauc.core.diagnostics import edge_stats, where_valid
from pauc.core.enqueue import BatchEntry
from pauc.core.explained import Entropies, entropies_of, explained_weight
from pauc.core.outcome import Outcome
from pauc.core.pool import Pool, make_pool
from pauc.core.queue import QueueState
from pauc.core.step import (
    Weights,
    blend,
    class_weight,
    has_entropy,
    losses_of_classes,
    numerator_positives,
    reduce_classes,
    scale_positives,
)
from pauc.core.surrogates import Positives, class_sum, trapezoid_contributions
from pauc.distributed.agreement import agree, common_dtype
from pauc.distributed.gather import attach_for_average
from pauc.distributed.opposite import (
    BandNegatives,
    MovingEdges,
    exchange_band_negatives,
    moving_edges,
    pair_contributions,
)
from pauc.distributed.quantiles import quantiles_of_all
from pauc.distributed.ranks import Ranks
from pauc.support import Support

_AT_DEFAULT = ("max_pool_size", "max_beta", "precision", "base_rate")
SUPPORT = Support(
    "a sharded queue",
    PAUCConfig(),
    values={
        **{
            name: known
            for name, known in partial_auc.SUPPORT.values.items()
            if name not in _AT_DEFAULT
        },
        "budget_basis": ("fpr", "population"),
    },
    at_default=_AT_DEFAULT,
)


class _Totals(NamedTuple):
    """Sums over the pools of all ranks, ``[C]`` float64 each."""

    negatives: Tensor  # iid negatives
    reference: Tensor
    weight: Tensor  # of the numerator positives
    live_weight: Tensor
    poisoned: Tensor  # rows of the batches with a non-finite logit
    present_weight: Tensor  # what the present rows of the batches weigh


class _Sums(NamedTuple):
    """Sums over the pools of all ranks, ``[C]`` float64 each, and the gradient of one of them."""

    contribution: Tensor  # of the numerator positives
    square: Tensor
    entropy: Tensor
    band_negatives: Tensor  # iid negatives in the band
    gradient: Tensor  # [n, C], of `contribution` by this rank's batch


def check_shardable(config: LossConfig, gather_distributed: bool | None) -> None:
    """Raise unless a queue may be sharded for such a loss.

    Raises:
        TypeError: a loss other than the partial AUC.
        ValueError: an option that the sharded step does not support, or no gathering.
    """
    if not isinstance(config, PAUCConfig):
        raise TypeError(f"shard_queue=True needs a PAUCConfig, got {type(config).__name__}")
    refusal = SUPPORT.refusal(config)
    if refusal is not None:
        raise ValueError(f"shard_queue=True cannot be used here: {refusal}")
    if gather_distributed is False:
        raise ValueError("shard_queue=True needs gathering, got gather_distributed=False")


# A graph break, not an error, where the loss is compiled. The gradient is known when the forward
# pass ends, so that none is exchanged later.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def sharded_step(
    rows: Rows,
    queue: QueueState,
    config: PAUCConfig,
    validate_args: bool,
    diagnostics: bool,
    *,
    settings: Mapping[str, object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Outcome, int]:
    """Return the outcome over the rows and the queues of all ranks, and how many rows they brought.

    Args, Raises: as for :func:`pauc.distributed.gather_rows`. ``queue`` is this rank's part of the
    whole, and this rank's rows are what is to enter it. Of the diagnostics, ``pauc`` and
    ``realised_fpr`` are nan, since they would take the order of all ranks' rows and of all parts of
    the queue; ``grad_pos_count`` is this rank's.
    """
    # Ranks that disagree on whether there is a gradient would go on with different collectives.
    also = {"gradient": torch.is_grad_enabled(), **(settings or {})}
    batch, headers = agree(rows, queue, config, validate_args, also, ("step",), group)
    ranks = Ranks(dist.get_rank(group), len(headers), group)
    own = batch.logits.to(common_dtype(headers))
    batch = batch._replace(
        logits=attach_for_average(own, ranks.size), weight=batch.weight.to(own.dtype)
    )
    outcome = _loss_of_shards(batch, queue, config, ranks, validate_args, diagnostics)
    return outcome, sum(header.rows for header in headers)


def _loss_of_shards(
    batch: Batch,
    queue: QueueState,
    config: PAUCConfig,
    ranks: Ranks,
    read_values: bool,
    diagnostics: bool,
) -> Outcome:
    """Return the loss over the pools of all ranks, the same on each, from this rank's batch."""
    leaf = batch.logits.detach().requires_grad_(torch.is_grad_enabled())
    pool = make_pool(batch._replace(logits=leaf), queue)
    totals = _totals(pool, batch, config, ranks)
    band = _band(pool, totals, config, ranks)
    weight = pool.numerator_weight(config.pos_numerator)
    positives, _ = numerator_positives(pool, weight, None, read_values)
    if config.gradient_scale == "live":
        positives = scale_positives(positives, Weights(totals.weight, totals.live_weight))
    entropy = batch.cross_entropy(totals.present_weight)
    valid = (totals.weight > 0) & band.defined
    opposite: BandNegatives | MovingEdges
    if config.surrogate == "trapezoid":
        opposite = moving_edges(pool, band, config)
        contribution = trapezoid_contributions(positives, opposite.leaf, band.tau)
    else:
        opposite = exchange_band_negatives(pool, band, config, ranks)
        valid = valid & (opposite.total > 0)
        contribution = pair_contributions(positives, opposite, band, config)
    sums = _add_up(leaf, pool, band, positives, contribution, opposite, entropy, ranks)

    divisor = torch.where(totals.weight > 0, totals.weight, 1.0)
    value = sums.contribution / divisor
    pauc = value + _with_gradient(sums.gradient / divisor, batch.logits)
    poisoned = totals.poisoned > 0
    pauc = torch.where(poisoned, math.nan, pauc).to(leaf.dtype)
    per_class, valid = losses_of_classes(pauc, valid | poisoned, batch)
    explained = None
    if config.weight_scale == "explained":
        explained = explained_weight(_summed_entropies(pool, ranks))
    loss = reduce_classes(per_class, valid, explained, config)
    attached = (sums.entropy + (entropy - entropy.detach())).to(loss.dtype)
    loss = blend(loss, attached if has_entropy(config) else None, config)

    stats = {}
    if diagnostics:
        nowhere = torch.full_like(band.tau, math.nan)
        variance = (sums.square / divisor - value**2).clamp(min=0)
        measured = {
            **edge_stats(band, sums.band_negatives.long()),
            "pauc": nowhere,
            "pauc_var": variance.to(band.tau.dtype),
            "grad_pos_count": batch.count_positives(),
        }
        always = {"ref_count": band.ref_count, "realised_fpr": nowhere}
        stats = {**where_valid(measured, valid), **always}
    entry = BatchEntry(batch, pool)
    return Outcome(loss, per_class, valid, band.degenerate, band.ref_count, stats, entry)


def _totals(pool: Pool, batch: Batch, config: PAUCConfig, ranks: Ranks) -> _Totals:
    iid_negatives = pool.iid_negatives()
    reference = reference_rows(pool, iid_negatives, config)
    weight = pool.numerator_weight(config.pos_numerator).double()
    live_weight = pool.numerator_weight("live").double()
    own = _Totals(
        negatives=iid_negatives.sum(dim=-1),
        reference=reference.sum(dim=-1),
        weight=class_weight(pool, weight),
        live_weight=class_weight(pool, live_weight),
        poisoned=(~batch.logits.detach().isfinite()).sum(dim=0),
        present_weight=batch.present_weight(),
    )
    return _Totals(*ranks.sum(torch.stack([part.double() for part in own])).unbind())


def _summed_entropies(pool: Pool, ranks: Ranks) -> Entropies:
    return Entropies(*ranks.sum(torch.stack(entropies_of(pool))).unbind())


def _band(pool: Pool, totals: _Totals, config: PAUCConfig, ranks: Ranks) -> Band:
    """Return the band of the pools of all ranks; ``reference`` is this rank's part."""
    reference = reference_rows(pool, pool.iid_negatives(), config)
    count = totals.reference.long()
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
    return assemble_band(
        reference, count, totals.negatives, edges, config.temperature * scale, config.beta
    )


def _add_up(
    leaf: Tensor,
    pool: Pool,
    band: Band,
    positives: Positives,
    contribution: Tensor,
    opposite: BandNegatives | MovingEdges,
    entropy: Tensor,
    ranks: Ranks,
) -> _Sums:
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
    return _Sums(summed, square, entropy, in_band, gradient.T)


def _with_gradient(gradient: Tensor, logits: Tensor) -> Tensor:
    """Return ``[C]`` zeros whose derivative by ``logits`` ``[n, C]`` is ``gradient``."""
    moving = torch.where(logits.detach().isfinite(), logits - logits.detach(), 0.0)
    return (moving * gradient.to(logits.dtype)).sum(dim=0)
