"""Thresholds that move with the scores near them, for ``edge_gradient="implicit"``."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pauc.config import Number, PAUCConfig
from pauc.core.band import Band
from pauc.core.pool import Pool


def attach_knots(pool: Pool, band: Band, config: PAUCConfig) -> Tensor:
    """Return the knots ``[C, K]`` of a defined band, unchanged, with a gradient to the batch.

    A knot moves with the rows of :func:`knot_shares`, each by its share of them all.
    """
    moving = pool.scores - pool.scores.detach()
    knots = []
    for knot, log_share in zip(
        band.edges.knots.unbind(-1), knot_shares(pool, band, config), strict=True
    ):
        share = log_share.softmax(dim=-1)
        # No reference row among those that share: the knot stands still.
        none = (log_share == -math.inf).all(dim=-1, keepdim=True)
        knots.append(knot + (torch.where(none, 0.0, share) * moving).sum(dim=-1))
    return torch.stack(knots, dim=-1)


def knot_shares(pool: Pool, band: Band, config: PAUCConfig) -> Iterator[Tensor]:
    """Yield for each knot the logarithm ``[C, M]`` of how much a row moves it, up to a constant.

    The smooth quantile ``t`` of FPR ``q`` solves ``mean_j sigmoid((s_j - t) / tau) = q``. By the
    implicit function theorem it moves with row ``j`` in proportion to the logistic density at
    ``(s_j - t) / tau``, and with all rows together by as much as they do. That equation has no root
    at FPR 0 and 1. There the knot is an extreme, whose smooth form is the log-sum-exp, and its rows
    share the movement by softmax.

    With ``gradient_scale="live"`` only the batch's rows share it, otherwise all of the pool do.
    """
    mask = band.reference & pool.live if config.gradient_scale == "live" else band.reference
    for k, knot in enumerate(band.edges.knots.unbind(-1)):
        u = (pool.scores.detach() - knot.unsqueeze(-1)) / band.tau.unsqueeze(-1)
        log_share = logsigmoid(u) + logsigmoid(-u)
        if k == 0:
            log_share = _choose(config.alpha, 0, u, log_share)
        elif k == config.n_knots - 1:
            log_share = _choose(band.beta, 1, -u, log_share)
        yield torch.where(mask, log_share, -math.inf)


def _choose(level: Number, extreme: int, at_extreme: Tensor, otherwise: Tensor) -> Tensor:
    if isinstance(level, Tensor):
        return torch.where(level == extreme, at_extreme, otherwise)
    return at_extreme if level == extreme else otherwise
