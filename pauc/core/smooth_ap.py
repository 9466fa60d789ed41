"""Smooth average precision: the whole ranking, weighted to its top, from sums over pairs."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from pauc.config import SmoothAPConfig
from pauc.core.band import robust_scale, safe_width
from pauc.core.batch import Batch
from pauc.core.outcome import Outcome
from pauc.core.pool import Pool
from pauc.core.quantiles import count_mask
from pauc.core.queue import QueueState
from pauc.core.step import Scored, ScoreInput, columns_of, live_factor, take_step
from pauc.core.surrogates import Positives, class_mean, scale_gradient
from pauc.pairs.blocks import count_not_above
from pauc.pairs.operator import mean_link
from pauc.support import ANY, Support

SUPPORT = Support(
    "core",
    SmoothAPConfig(),
    values={
        "tau_scale": ("iqr", "unit"),
        "temperature": ANY,
        "pos_numerator": ("pool", "live"),
        "reduction": ("mean", "sum", "none"),
        "ignore_index": ANY,
        "quantile_interpolation": ("linear", "lower", "higher", "nearest", "midpoint"),
        "gradient_scale": ("pool", "live"),
        "bce_weight": ANY,
        "pauc_weight": ANY,
        "weight_scale": ("unit", "explained"),
    },
    tensors=True,
)


def smooth_ap_step(
    batch: Batch,
    queue: QueueState,
    config: SmoothAPConfig,
    *,
    read_values: bool,
    diagnostics: bool,
) -> Outcome:
    """Return one minus the Smooth-AP, and what comes with it; see :func:`take_step`."""
    return take_step(
        "ap",
        partial(_score, config=config),
        batch,
        queue,
        config,
        read_values=read_values,
        diagnostics=diagnostics,
    )


def _score(rows: ScoreInput, config: SmoothAPConfig) -> Scored:
    """Return the soft precision at each positive."""
    pool, positives = rows.pool, rows.positives
    negative = pool.negatives()
    positive = pool.present & ~negative
    reference = negative & pool.iid if config.tau_scale == "iqr" else negative
    count = count_mask(reference, read_values=rows.read_values)
    scale = robust_scale(
        pool.scores,
        reference,
        config.tau_scale,
        interpolation=config.quantile_interpolation,
        count=count,
    )
    width = safe_width(count.per_class, config.temperature * scale)

    negatives = _side(pool, negative, config)
    peers = _side(pool, positive, config)
    among_negatives = _count_above(positives, negatives, negative, width.tau)
    # The sum over positives includes the pair of a positive with itself. It is taken out as it went
    # in, with its gradient, which vanishes only where both sides are scaled alike.
    itself = pool._replace(scores=peers).positives(rows.places, positives.weight).scores
    own_pair = torch.sigmoid((itself - positives.scores) / width.tau[positives.class_index])
    if rows.read_values:
        columns, positive = columns_of(positive, positive.sum(dim=-1))
        peers = torch.where(positive, peers.gather(1, columns), 0.0)
    rank = 1 + _count_above(positives, peers, positive, width.tau) - own_pair
    measured = {}
    if rows.diagnostics:
        measured = {"tau_eff": width.tau, "ap": _average_precision(pool, positives)}
    precision = rank / (rank + among_negatives)
    return Scored(precision, width.defined, width.degenerate, count.per_class, measured)


def _side(pool: Pool, members: Tensor, config: SmoothAPConfig) -> Tensor:
    """Return the scores ``[C, M]`` of a side, 0 elsewhere, with their gradient scaled if asked."""
    scores = torch.where(members, pool.scores, 0.0)
    if config.gradient_scale == "pool":
        return scores
    factor = live_factor(members.sum(dim=-1), (members & pool.live).sum(dim=-1))
    return scale_gradient(scores, factor.unsqueeze(-1).to(scores.dtype))


def _count_above(positives: Positives, scores: Tensor, members: Tensor, tau: Tensor) -> Tensor:
    """Return ``[P]``: softly, how many of the members ``[C, B]`` score above each positive."""
    return mean_link(
        -positives.scores,
        positives.class_index,
        -scores,
        members.to(scores.dtype),
        torch.ones_like(tau),
        tau,
        "sigmoid",
    )


def _average_precision(pool: Pool, positives: Positives) -> Tensor:
    """Return ``[C]``: the weighted mean of the exact precision at each positive."""
    negative = pool.negatives()
    own, index = -positives.scores.detach(), positives.class_index

    def at_least(members: Tensor) -> Tensor:
        scores = torch.where(members, -pool.scores.detach(), math.inf)
        return count_not_above(scores.sort(dim=-1).values, own, index).double()

    true, false = at_least(pool.present & ~negative), at_least(negative)
    exact = positives._replace(weight=positives.weight.double())
    precision = true / (true + false).clamp(min=1)
    return class_mean(precision, exact, pool.scores.shape[0]).to(pool.scores.dtype)
