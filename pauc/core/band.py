"""What the reference rows fix before any gradient is taken: the band and the temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pauc.config import Number, PAUCConfig
from pauc.core.pool import Pool
from pauc.core.quantiles import BandEdges, band_edges, count_mask, robust_scale


class Band(NamedTuple):
    """The band of every class in a pool, and the width of its link; all detached."""

    reference: Tensor  # [C, M] bool, the rows whose quantiles are the edges
    ref_count: Tensor  # [C] int64, how many they are
    edges: BandEdges
    tau: Tensor  # [C], 1 where not defined
    defined: Tensor  # [C] bool, there are iid negatives, and they have dispersion
    degenerate: Tensor  # [C] bool, there are iid negatives, but without dispersion

    def contains(self, scores: Tensor) -> Tensor:
        """Return ``[C, M]`` bool: which scores lie between the edges, edges included."""
        scores, edges = scores.detach(), self.edges
        return (scores >= edges.t_beta.unsqueeze(-1)) & (scores <= edges.t_alpha.unsqueeze(-1))


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
            log_share = _choose(config.beta, 1, -u, log_share)
        yield torch.where(mask, log_share, -math.inf)


def _choose(level: Number, extreme: int, at_extreme: Tensor, otherwise: Tensor) -> Tensor:
    if isinstance(level, Tensor):
        return torch.where(level == extreme, at_extreme, otherwise)
    return at_extreme if level == extreme else otherwise


def make_band(pool: Pool, config: PAUCConfig, read_values: bool) -> Band:
    """Return the band that ``config`` asks for; ``read_values`` as in :func:`count_mask`."""
    iid = (pool.present & pool.iid).expand_as(pool.scores)
    iid_negatives = iid & pool.negatives()
    negative_count = count_mask(iid_negatives, read_values=read_values)
    reference, count = iid_negatives, negative_count
    if config.budget_basis == "population":
        reference, count = iid, count_mask(iid, read_values=read_values)
    edges = band_edges(
        pool.scores,
        reference,
        config.alpha,
        config.beta,
        n_knots=config.n_knots if config.surrogate == "trapezoid" else 2,
        interpolation=config.quantile_interpolation,
        count=count,
        max_beta=config.max_beta,
    )
    scale = robust_scale(
        pool.scores,
        reference,
        config.tau_scale,
        edges=edges,
        interpolation=config.quantile_interpolation,
        count=count,
    )
    return assemble_band(
        reference, count.per_class, negative_count.per_class, edges, config.temperature * scale
    )


def assemble_band(
    reference: Tensor, ref_count: Tensor, negative_count: Tensor, edges: BandEdges, tau: Tensor
) -> Band:
    """Return the band of these parts, for counts of iid negatives and a ``tau`` of each class."""
    return Band(reference, ref_count, edges, *safe_width(negative_count, tau))


class Width(NamedTuple):
    """The width of a link, where it can be used; ``[C]`` each."""

    tau: Tensor  # 1 where not defined
    defined: Tensor  # bool
    degenerate: Tensor  # bool


def safe_width(negative_count: Tensor, tau: Tensor) -> Width:
    """Return ``tau`` where there are negatives and dispersion, and where the latter lacks."""
    present, tiny = negative_count > 0, torch.finfo(tau.dtype).tiny
    defined = present & (tau > tiny)
    return Width(
        tau=tau.masked_fill(~defined, 1.0),
        defined=defined,
        # nan (a non-finite score among the quartiles) is no lack of dispersion: the loss says so.
        degenerate=present & (tau <= tiny),
    )
