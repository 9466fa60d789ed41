"""The partial AUC composed of torch's operators: any device, any transform, any derivative.

It supports every option, and is what the other backends are checked against.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from pauc.config import PAUCConfig
from pauc.core.band import Band, make_band
from pauc.core.batch import Batch
from pauc.core.diagnostics import diagnose, realised_fpr
from pauc.core.edge_gradient import attach_knots
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState
from pauc.core.step import Scored, ScoreInput, live_factor, take_step
from pauc.core.surrogates import scale_gradient, trapezoid_contributions
from pauc.devices import may_look
from pauc.pairs.links import LINKS
from pauc.pairs.operator import sum_link
from pauc.support import ANY, Support

SUPPORT = Support(
    "core",
    PAUCConfig(),
    values={
        "alpha": ANY,
        "beta": ANY,
        "surrogate": ("trapezoid", "pairwise"),
        "n_knots": ANY,
        "tau_scale": ("iqr", "band", "unit"),
        "pos_numerator": ("pool", "live"),
        "budget_basis": ("fpr", "population", "precision"),
        "temperature": ANY,
        "reduction": ("mean", "sum", "none"),
        "ignore_index": ANY,
        "quantile_interpolation": ("linear", "lower", "higher", "nearest", "midpoint"),
        "max_pool_size": ANY,
        "link": tuple(LINKS),
        "gradient_scale": ("pool", "live"),
        "edge_gradient": ("detached", "implicit"),
        "bce_weight": ANY,
        "pauc_weight": ANY,
        "weight_scale": ("unit", "explained"),
        "max_beta": ANY,
        "precision": ANY,
        "base_rate": ANY,
    },
    tensors=True,
)


def partial_auc_step(
    batch: Batch, queue: QueueState, config: PAUCConfig, *, read_values: bool, diagnostics: bool
) -> Outcome:
    """Return one minus the partial AUC, and what comes with it; see :func:`take_step`."""
    return take_step(
        "pauc",
        partial(_score, config=config),
        batch,
        queue,
        config,
        max_pool_size=config.max_pool_size,
        read_values=read_values,
        diagnostics=diagnostics,
    )


def _score(rows: ScoreInput, config: PAUCConfig) -> Scored:
    """Return the partial AUC of the rows."""
    band = make_band(rows.pool, config, rows.read_values)
    if config.surrogate == "trapezoid":
        defined = band.defined
        knots = band.edges.knots
        if config.edge_gradient == "implicit":
            knots = attach_knots(rows.pool, band, config)
        contribution = trapezoid_contributions(rows.positives, knots, band.tau)
    else:
        contribution, count = _pairwise(rows, band, config)
        defined = band.defined.logical_and(count)
    scored = Scored(contribution, defined, band.degenerate, band.ref_count, measured={})
    if not rows.diagnostics:
        return scored
    return scored._replace(
        measured=diagnose(rows.pool, band, rows.all_positives(config.pos_numerator), config),
        unmasked={"realised_fpr": realised_fpr(rows.pool, band, config)},
    )


def _pairwise(rows: ScoreInput, band: Band, config: PAUCConfig) -> tuple[Tensor, Tensor]:
    """Return each positive's mean link over its band negatives, and how many each class has."""
    pool, positives, sample = rows.pool, rows.positives, rows.sample
    members = pool.negatives() & band.contains(pool.scores)
    count = members.sum(dim=-1)
    factor = None
    if config.gradient_scale == "live":
        factor = live_factor(count, (members & pool.live).sum(dim=-1)).unsqueeze(-1)
    scores = pool.scores
    if sample is None:
        counts = members
    else:
        scores, members = scores[:, sample.columns], members[:, sample.columns]
        counts = members * sample.multiplicity
    if factor is not None:
        scores = scale_gradient(scores, factor.to(scores.dtype))
    total, of_class = count.clamp(min=1), positives.class_index
    if len(total) > 1:  # broadcasting does for one class
        total = total[of_class]
    summed = sum_link(
        positives.scores,
        of_class,
        scores,
        counts,
        band.tau,
        config.link,
        counted=positives.weight > 0 if may_look(scores.device) else None,
    )
    return summed / total, count
