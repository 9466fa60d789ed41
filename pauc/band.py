"""What the reference rows fix before any gradient is taken: the band and the temperature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import PAUCConfig
from pauc.pool import Pool
from pauc.selection import BandEdges, band_edges, count_mask, robust_scale


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
    )
    scale = robust_scale(
        pool.scores,
        reference,
        config.tau_scale,
        edges=edges,
        interpolation=config.quantile_interpolation,
        count=count,
    )
    tau = config.temperature * scale
    present, spread = negative_count.per_class > 0, tau > torch.finfo(tau.dtype).tiny
    return Band(
        reference=reference,
        ref_count=count.per_class,
        edges=edges,
        tau=torch.where(present & spread, tau, 1.0),
        defined=present & spread,
        # nan (a non-finite score among the quartiles) is no lack of dispersion: the loss says so.
        degenerate=present & ~spread & ~tau.isnan(),
    )
