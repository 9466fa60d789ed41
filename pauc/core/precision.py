"""Where the band ends if its budget is a precision: the pool's, at the base rate of rows to come.

At a threshold with true- and false-positive rate TPR and FPR, rows of which a share ``base_rate``
is positive have the precision

    ``base_rate * TPR / (base_rate * TPR + (1 - base_rate) * FPR)``.

It need not fall with the threshold: a single negative on top of the pool fails it, and a block of
positives below restores it. The *last* threshold counts that has it, as in
:func:`pauc.budgets.fpr_at_precision`, since that one would be shipped: it catches most. The band
never ends before ``beta``. A model without the precision anywhere, as at a cold start, is trained
over ``[alpha, beta]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.checks import widest_fpr
from pauc.config import Number, PAUCConfig
from pauc.core.pool import Pool
from pauc.core.quantiles import MaskCount, masked_top, top_depth
from pauc.pairs.blocks import count_not_above


def band_end(
    pool: Pool, iid_negatives: Tensor, count: MaskCount, config: PAUCConfig, read_values: bool
) -> Number:
    """Return the FPR at which the band ends, ``[C, 1]`` float64 where it is found by class.

    Args:
        pool: whose positives give the TPR, by weight; those of the queue count whatever
            ``pos_numerator`` is.
        iid_negatives: ``[C, M]`` bool, those that give the FPR, one like the other.
        count: of those.
        config: any basis.
        read_values: leave out the places that hold no positive, which makes the host wait.
    """
    if config.budget_basis != "precision":
        return config.beta
    found = _fpr_at_precision(pool, iid_negatives, count, config, read_values).unsqueeze(-1)
    if isinstance(config.beta, Tensor):
        return torch.maximum(found, config.beta.to(found))
    return found.clamp(min=config.beta)


def end_bound(config: PAUCConfig) -> float | None:
    """Return what :func:`band_end` cannot exceed, where it is a tensor; None: 1."""
    if config.budget_basis != "precision":
        return config.max_beta
    least = config.max_beta
    if least is None:
        least = 1.0 if isinstance(config.beta, Tensor) else config.beta
    return max(least, widest_fpr(*_target(config)))


def _fpr_at_precision(
    pool: Pool, iid_negatives: Tensor, count: MaskCount, config: PAUCConfig, read_values: bool
) -> Tensor:
    """Return ``[C]`` float64: the highest FPR of a threshold that has the precision, or 0."""
    precision, base_rate = _target(config)
    depth = top_depth(widest_fpr(precision, base_rate), count.most)
    top = masked_top(pool.scores, iid_negatives, depth)
    # A threshold just above the negative of a rank alerts on as many negatives as its rank says.
    rank = torch.arange(depth, device=top.device)
    fpr = rank.double() / count.per_class.unsqueeze(-1).clamp(min=1)
    caught = base_rate * _tpr_above(top, pool, read_values)
    asked = precision * (caught + (1 - base_rate) * fpr)
    # For products that should be equal and differ by rounding.
    fits = caught >= asked * (1 - 8 * torch.finfo(torch.float64).eps)
    # No threshold lies between tied negatives, nor among what fills up the ranks behind them; and
    # above all negatives of a class the precision is the base rate, which is below the target.
    upper = torch.cat([torch.full_like(top[:, :1], math.inf), top[:, :-1]], dim=-1)
    return torch.where(fits & (top < upper), fpr, 0.0).amax(dim=-1)


def _tpr_above(top: Tensor, pool: Pool, read_values: bool) -> Tensor:
    """Return ``[C, D]`` float64: the weight, as a share, of the positives above each of ``top``."""
    weight = pool.numerator_weight("pool")
    if read_values:
        places = weight.nonzero().squeeze(-1)
    else:
        places = torch.arange(weight.shape[0], device=weight.device)
    scores, index, weight = pool.positives(places, weight[places])
    # The first rank whose negative a positive lies above; beyond the last one: `depth`.
    first = count_not_above(-top, -scores.detach(), index)
    ranks = top.shape[-1] + 1
    at_rank = weight.new_zeros(top.shape[0] * ranks, dtype=torch.float64)
    at_rank = at_rank.index_add(0, index * ranks + first, weight.double())
    above = at_rank.reshape(-1, ranks).cumsum(dim=-1)
    everything = above[:, -1:]
    return above[:, :-1] / torch.where(everything > 0, everything, 1.0)


def _target(config: PAUCConfig) -> tuple[float, float]:
    """Return precision and base rate, which the checks of a config have found there."""
    assert config.precision is not None
    assert config.base_rate is not None
    return config.precision, config.base_rate
