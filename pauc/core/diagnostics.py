"""What a person can watch while training: where the band is, and what the pool really scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.config import Number, PAUCConfig
from pauc.core.band import Band, edges_between
from pauc.core.pool import Pool
from pauc.core.precision import end_bound
from pauc.core.quantiles import masked_top, static_depth
from pauc.core.surrogates import Positives, class_mean
from pauc.metrics.curve import ramp_area
from pauc.pairs.blocks import count_not_above


def empirical_pauc(
    positives: Positives,
    scores: Tensor,
    mask: Tensor,
    alpha: Number,
    beta: Number,
    max_beta: float | None = None,
) -> Tensor:
    """Return ``[C]``: the exact partial AUC over ``[alpha, beta]`` divided by its width.

    The area under the empirical ROC curve of the positives against the masked reference scores
    ``[C, M]``, tied blocks joined by straight lines, so that a tie counts half. Only the
    references that the band reaches are ordered. nan for a class without positives. ``beta`` may be
    ``[C, 1]``, below ``max_beta``.
    """
    columns = scores.shape[-1]
    depth = static_depth(beta, columns, max_beta)
    top = masked_top(scores, mask, depth)
    ascending = top.flip(-1)
    own, index = positives.scores.detach(), positives.class_index
    not_above = count_not_above(ascending, own, index)
    below = depth - count_not_above(-top, -own, index)
    # A tied block may go on behind the references at hand.
    last = top[:, -1]
    tied_last = (mask & (scores.detach() == last.unsqueeze(-1))).sum(dim=-1)
    tied = torch.where(own == last[index], tied_last[index], not_above - below)

    count = mask.sum(dim=-1).clamp(min=1)[index].double()
    left = (depth - not_above).double() / count  # FPR at which this positive begins to count
    width = tied.double() / count
    if isinstance(beta, Tensor) and beta.ndim > 0:
        beta = beta[index, 0]
    # A positive counts nothing before `left`, fully after `left + width`, linearly in between.
    area = ramp_area(beta, left, width) - ramp_area(alpha, left, width)
    exact = positives._replace(weight=positives.weight.double())
    return (class_mean(area / (beta - alpha), exact, scores.shape[0])).to(scores.dtype)


def realised_fpr(pool: Pool, band: Band, config: PAUCConfig) -> Tensor:
    """Return ``[C]``: the share of the batch's references above the edge of the queue's alone.

    What the edge at FPR ``beta`` of past rows really lets through (at the FPR where the pool's
    band ends, if that is found by a precision). The batch's rows did not take
    part in it, so that with ``n`` of the queue's and scores that do not drift, the expected share
    of untied scores is ``(floor(beta (n - 1)) + 1) / (n + 1)`` under ``"higher"``, near ``beta``.
    nan where the queue or the batch has no reference rows.
    """
    held, fresh = band.reference & ~pool.live, band.reference & pool.live
    edges = edges_between(
        pool.scores,
        held,
        config.alpha,
        band.beta,
        interpolation=config.quantile_interpolation,
        max_beta=end_bound(config),
    )
    above = fresh & (pool.scores.detach() > edges.t_beta.unsqueeze(-1))
    share = above.sum(dim=-1).double() / fresh.sum(dim=-1)  # 0 / 0 is nan
    return torch.where(held.any(dim=-1), share, math.nan).to(pool.scores.dtype)


def diagnose(pool: Pool, band: Band, positives: Positives, config: PAUCConfig) -> dict[str, Tensor]:
    """Return the stats of :func:`pauc.pauc_loss_terms` that rest on band and pool alone.

    ``positives`` are those of the whole numerator, whatever has been subsampled.
    """
    in_band = pool.iid_negatives() & band.contains(pool.scores)
    exact = empirical_pauc(
        positives, pool.scores, band.reference, config.alpha, band.beta, end_bound(config)
    )
    return {**edge_stats(band, in_band.sum(dim=-1)), "pauc": exact}


def edge_stats(band: Band, in_band: Tensor) -> dict[str, Tensor]:
    """Return what says where the band is, and how many ``[C]`` iid negatives lie in it."""
    return {
        "t_alpha": band.edges.t_alpha,
        "t_beta": band.edges.t_beta,
        "tau_eff": band.tau,
        "band_neg_count": in_band,
    }


def where_valid(measured: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """Return the ``[C]`` tensors detached, numbers nan and counts 0 where a class is invalid."""
    return {
        name: torch.where(valid, value.detach(), math.nan if value.is_floating_point() else 0)
        for name, value in measured.items()
    }
