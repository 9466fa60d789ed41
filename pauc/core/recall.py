"""Recall at one threshold, an alert rate: the partial AUC's trapezoid with a single knot."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pauc.config import PAUCConfig, RecallAtQuantileConfig, options_of
from pauc.core import partial_auc
from pauc.core.band import Band, make_band
from pauc.core.batch import Batch
from pauc.core.edge_gradient import attach_knots
from pauc.core.outcome import Outcome
from pauc.core.pool import Pool
from pauc.core.queue import QueueState
from pauc.core.step import Scored, ScoreInput, take_step
from pauc.core.surrogates import Positives, class_mean
from pauc.support import ANY, Support

SUPPORT = Support(
    "core",
    RecallAtQuantileConfig(),
    values={
        "quantile": ANY,
        **{
            name: known
            for name, known in partial_auc.SUPPORT.values.items()
            if name in RecallAtQuantileConfig._fields
        },
    },
    tensors=True,
)


def recall_step(
    batch: Batch,
    queue: QueueState,
    config: RecallAtQuantileConfig,
    *,
    read_values: bool,
    diagnostics: bool,
) -> Outcome:
    """Return one minus the soft recall, and what comes with it; see :func:`take_step`."""
    return take_step(
        "recall",
        partial(_score, config=config),
        batch,
        queue,
        config,
        max_pool_size=config.max_pool_size,
        read_values=read_values,
        diagnostics=diagnostics,
    )


def _score(rows: ScoreInput, config: RecallAtQuantileConfig) -> Scored:
    """Return the soft recall of the rows; the threshold is the lower edge of [0, quantile]."""
    band_config = _as_band(config)
    band = make_band(rows.pool, band_config, rows.read_values)
    threshold = band.edges.t_beta
    if config.edge_gradient == "implicit":
        threshold = attach_knots(rows.pool, band, band_config)[:, -1]
    threshold = torch.where(band.defined, threshold, 0.0)
    index = rows.positives.class_index
    contribution = torch.sigmoid((rows.positives.scores - threshold[index]) / band.tau[index])
    measured = {}
    if rows.diagnostics:
        measured = _diagnose(rows.pool, band, rows.all_positives(config.pos_numerator))
    return Scored(contribution, band.defined, band.degenerate, band.ref_count, measured)


def _as_band(config: RecallAtQuantileConfig) -> PAUCConfig:
    """Return the options of the band ``[0, quantile]`` with two knots."""
    shared = {k: v for k, v in options_of(config).items() if k in PAUCConfig._fields}
    return PAUCConfig(alpha=0.0, beta=config.quantile, surrogate="trapezoid", n_knots=2, **shared)


def _diagnose(pool: Pool, band: Band, positives: Positives) -> dict[str, Tensor]:
    threshold, scores = band.edges.t_beta, pool.scores.detach()
    above = (positives.scores.detach() > threshold[positives.class_index]).to(threshold.dtype)
    false_alerts = pool.iid_negatives() & (scores > threshold.unsqueeze(-1))
    return {
        "threshold": threshold,
        "tau_eff": band.tau,
        "recall": class_mean(above, positives, scores.shape[0]),
        "false_alert_count": false_alerts.sum(dim=-1),
    }
