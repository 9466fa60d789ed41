"""What a person can watch while training: where the band is, and what the pool really scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.band import Band
from pauc.config import PAUCConfig
from pauc.pairs import count_not_above
from pauc.pool import Pool
from pauc.selection import masked_top, top_depth
from pauc.surrogates import Positives, class_mean


def empirical_pauc(
    positives: Positives, scores: Tensor, mask: Tensor, alpha: float, beta: float
) -> Tensor:
    """Return ``[C]``: the exact partial AUC over ``[alpha, beta]`` divided by its width.

    The area under the empirical ROC curve of the positives against the masked reference scores
    ``[C, M]``, tied blocks joined by straight lines, so that a tie counts half. Only the
    references that the band reaches are ordered. nan for a class without positives.
    """
    columns = scores.shape[-1]
    depth = top_depth(beta, columns)
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
    # A positive counts nothing before `left`, fully after `left + width`, linearly in between.
    area = _ramp_area(beta, left, width) - _ramp_area(alpha, left, width)
    exact = positives._replace(weight=positives.weight.double())
    return (class_mean(area / (beta - alpha), exact, scores.shape[0])).to(scores.dtype)


def diagnose(pool: Pool, band: Band, positives: Positives, config: PAUCConfig) -> dict[str, Tensor]:
    """Return what :func:`pauc.pauc_loss_terms` measures; ``positives`` are the whole numerator.

    nan where a class is invalid: ``t_alpha``, ``t_beta`` (the thresholds at the band's edges),
    ``tau_eff`` (width of the link in logit units), ``pauc`` (the exact partial AUC of the pool over
    the band, divided by its width), and ``pauc_var`` (variance over the numerator positives'
    contributions). 0 where invalid: ``band_neg_count`` (iid negatives in the band) and
    ``grad_pos_count`` (live positives). Always: ``ref_count`` (size of the reference set).
    """
    in_band = pool.negatives() & pool.iid & band.contains(pool.scores)
    return {
        "t_alpha": band.edges.t_alpha,
        "t_beta": band.edges.t_beta,
        "tau_eff": band.tau,
        "pauc": empirical_pauc(positives, pool.scores, band.reference, config.alpha, config.beta),
        "band_neg_count": in_band.sum(dim=-1),
    }


def count_live_positives(pool: Pool) -> Tensor:
    """Return ``[C]`` int64: how many rows of the batch are positives of each class."""
    return (pool.present & pool.live & ~pool.negatives()).sum(dim=-1)


def where_valid(measured: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """Return the ``[C]`` tensors detached, numbers nan and counts 0 where a class is invalid."""
    return {
        name: torch.where(valid, value.detach(), math.nan if value.is_floating_point() else 0)
        for name, value in measured.items()
    }


def _ramp_area(end: float, left: Tensor, width: Tensor) -> Tensor:
    """Return the integral up to ``end`` of a ramp from 0 at ``left`` to 1 at ``left + width``."""
    along = (end - left).clamp(min=0)
    on_ramp = torch.minimum(along, width)
    return on_ramp**2 / (2 * torch.where(width > 0, width, 1.0)) + (along - on_ramp)
