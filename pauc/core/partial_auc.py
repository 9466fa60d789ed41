"""The partial AUC composed of torch's operators: any device, any transform, any derivative."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pauc.config import PAUCConfig
from pauc.core.band import Band, attach_knots, make_band
from pauc.core.diagnostics import diagnose, realised_fpr
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms, Rows, Scored, live_factor, take_step
from pauc.core.surrogates import scale_gradient, trapezoid_contributions
from pauc.pairs.operator import sum_link


def composed_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: PAUCConfig,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
) -> PAUCTerms:
    """Return what :func:`pauc.pauc_loss_terms` does, of a checked config."""
    return take_step(
        "pauc",
        partial(_score, config=config),
        logits,
        targets,
        queue,
        config,
        max_pool_size=config.max_pool_size,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        diagnostics=diagnostics,
    )


def _score(rows: Rows, config: PAUCConfig) -> Scored:
    """Return the partial AUC of the rows."""
    band = make_band(rows.pool, config, rows.read_values)
    if config.surrogate == "trapezoid":
        defined = band.defined
        knots = band.edges.knots
        if config.edge_gradient == "implicit":
            knots = attach_knots(rows.pool, band, config)
        knots = torch.where(defined.unsqueeze(-1), knots, 0.0)
        contribution = trapezoid_contributions(rows.positives, knots, band.tau)
    else:
        contribution, has_negatives = _pairwise(rows, band, config)
        defined = band.defined & has_negatives
    scored = Scored(contribution, defined, band.degenerate, band.ref_count, measured={})
    if not rows.diagnostics:
        return scored
    return scored._replace(
        measured=diagnose(rows.pool, band, rows.all_positives(config.pos_numerator), config),
        unmasked={"realised_fpr": realised_fpr(rows.pool, band.reference, config)},
    )


def _pairwise(rows: Rows, band: Band, config: PAUCConfig) -> tuple[Tensor, Tensor]:
    """Return each positive's mean link over its band negatives, and which classes have any."""
    pool, positives, sample = rows.pool, rows.positives, rows.sample
    members = pool.negatives() & band.contains(pool.scores)
    count = members.sum(dim=-1)
    factor = None
    if config.gradient_scale == "live":
        factor = live_factor(count, (members & pool.live).sum(dim=-1)).unsqueeze(-1)
    scores = pool.scores
    if sample is None:
        counts = members.to(scores.dtype)
    else:
        scores, members = scores[:, sample.columns], members[:, sample.columns]
        counts = members * sample.multiplicity
    scores = torch.where(counts > 0, scores, 0.0)
    if factor is not None:
        scores = scale_gradient(scores, factor.to(scores.dtype))
    total = count.clamp(min=1).to(scores.dtype)
    of_class = positives.class_index
    summed = sum_link(
        positives.scores,
        of_class,
        scores,
        counts,
        band.tau,
        config.link,
        counted=positives.weight > 0,
    )
    return summed / total[of_class], count > 0
