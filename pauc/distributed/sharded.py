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
from pauc.core.explained import explained_weight
from pauc.core.outcome import Outcome
from pauc.core.pool import Pool, make_pool
from pauc.core.queue import QueueState
from pauc.core.step import (
    Weights,
    blend,
    has_entropy,
    losses_of_classes,
    numerator_positives,
    reduce_classes,
    scale_positives,
)
from pauc.core.surrogates import trapezoid_contributions
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
from pauc.distributed.sums import (
    Sums,
    Totals,
    add_up_entropies,
    add_up_positives,
    add_up_rows,
)
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
    totals = add_up_rows(pool, batch, config, ranks)
    band = _band(pool, totals, config, ranks)
    entropy = batch.cross_entropy(totals.present_weight)
    sums, valid = _exchange(leaf, pool, totals, band, entropy, config, ranks, read_values)
    per_class, valid = _losses(sums, totals, valid, batch)
    loss = _reduced(per_class, valid, sums, entropy, pool, config, ranks)
    stats = _stats(sums, totals, band, batch, valid) if diagnostics else {}
    entry = BatchEntry(batch, pool)
    return Outcome(loss, per_class, valid, band.degenerate, band.ref_count, stats, entry)


def _exchange(
    leaf: Tensor,
    pool: Pool,
    totals: Totals,
    band: Band,
    entropy: Tensor,
    config: PAUCConfig,
    ranks: Ranks,
    read_values: bool,
) -> tuple[Sums, Tensor]:
    """Return the sums over the positives of all ranks, and which classes ``[C]`` have a loss."""
    weight = pool.numerator_weight(config.pos_numerator)
    positives, _ = numerator_positives(pool, weight, None, read_values)
    if config.gradient_scale == "live":
        positives = scale_positives(positives, Weights(totals.weight, totals.live_weight))
    valid = (totals.weight > 0) & band.defined
    opposite: BandNegatives | MovingEdges
    if config.surrogate == "trapezoid":
        opposite = moving_edges(pool, band, config)
        contribution = trapezoid_contributions(positives, opposite.leaf, band.tau)
    else:
        opposite = exchange_band_negatives(pool, band, config, ranks)
        valid = valid & (opposite.total > 0)
        contribution = pair_contributions(positives, opposite, band, config)
    return add_up_positives(
        leaf, pool, band, positives, contribution, opposite, entropy, ranks
    ), valid


def _losses(sums: Sums, totals: Totals, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of each class with its gradient, nan where there is none, and which count."""
    divisor = _divisor(totals)
    pauc = sums.contribution / divisor + _with_gradient(sums.gradient / divisor, batch.logits)
    poisoned = totals.poisoned > 0
    pauc = torch.where(poisoned, math.nan, pauc).to(batch.logits.dtype)
    return losses_of_classes(pauc, valid | poisoned, batch)


def _reduced(
    per_class: Tensor,
    valid: Tensor,
    sums: Sums,
    entropy: Tensor,
    pool: Pool,
    config: PAUCConfig,
    ranks: Ranks,
) -> Tensor:
    """Return the reduced loss, with the cross-entropy of all ranks' batches if it counts."""
    explained = None
    if config.weight_scale == "explained":
        explained = explained_weight(add_up_entropies(pool, ranks))
    loss = reduce_classes(per_class, valid, explained, config)
    # The value of all ranks, with the gradient of this rank's rows.
    attached = (sums.entropy + (entropy - entropy.detach())).to(loss.dtype)
    return blend(loss, attached if has_entropy(config) else None, config)


def _stats(
    sums: Sums, totals: Totals, band: Band, batch: Batch, valid: Tensor
) -> dict[str, Tensor]:
    """Return the diagnostics; nan where one would take the order of all ranks' rows."""
    divisor = _divisor(totals)
    nowhere = torch.full_like(band.tau, math.nan)
    variance = (sums.square / divisor - (sums.contribution / divisor) ** 2).clamp(min=0)
    measured = {
        **edge_stats(band, sums.band_negatives.long()),
        "pauc": nowhere,
        "pauc_var": variance.to(band.tau.dtype),
        "grad_pos_count": batch.count_positives(),
    }
    always = {"ref_count": band.ref_count, "realised_fpr": nowhere}
    return {**where_valid(measured, valid), **always}


def _divisor(totals: Totals) -> Tensor:
    return torch.where(totals.weight > 0, totals.weight, 1.0)


def _band(pool: Pool, totals: Totals, config: PAUCConfig, ranks: Ranks) -> Band:
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


def _with_gradient(gradient: Tensor, logits: Tensor) -> Tensor:
    """Return ``[C]`` zeros whose derivative by ``logits`` ``[n, C]`` is ``gradient``."""
    moving = torch.where(logits.detach().isfinite(), logits - logits.detach(), 0.0)
    return (moving * gradient.to(logits.dtype)).sum(dim=0)
