"""Recall at one threshold, an alert rate: the partial AUC's trapezoid with a single knot."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pauc.config import (
    PAUCConfig,
    RecallAtQuantileConfig,
    RecallAtQuantileOptions,
    make_recall_config,
    options_of,
)
from pauc.core.band import Band, attach_knots, make_band
from pauc.core.pool import Pool
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms, Rows, Scored, take_step
from pauc.core.surrogates import Positives, class_mean
from pauc.modules.base import QueuedLoss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack


def recall_at_quantile_loss_fn(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    **options: Unpack[RecallAtQuantileOptions],
) -> tuple[Tensor, QueueState]:
    """Return one minus the soft recall above a quantile, and the queue with the batch in it.

    The threshold ``t`` is the score that a share ``quantile`` of the reference rows exceeds: of all
    iid rows, positives included, unless ``budget_basis="fpr"``. Soft recall is
    ``mean_i sigmoid((s_i - t) / tau)`` over the positives. With ``budget_basis="fpr"`` it is the
    value at ``beta = quantile`` of the curve that :func:`pauc.trapezoid_pauc` integrates. As there,
    gradient reaches positives only, unless ``edge_gradient="implicit"``.

    Pure, as :func:`pauc.pauc_loss_fn` is.

    Args:
        logits, targets, queue, iid_mask, sample_weight, validate_args: see
            :func:`pauc.pauc_loss_fn`.
        **options: fields of :class:`pauc.RecallAtQuantileConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        iid negatives, or no dispersion among its reference scores.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    terms = recall_at_quantile_terms(
        logits,
        targets,
        queue,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        **options,
    )
    return terms.loss, terms.queue


def recall_at_quantile_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    **options: Unpack[RecallAtQuantileOptions],
) -> PAUCTerms:
    """Return the loss of :func:`recall_at_quantile_loss_fn` with its per-class parts.

    Args, Raises: as for :func:`recall_at_quantile_loss_fn`, and
        diagnostics: also compute ``stats``, ``[C]`` each. nan where a class is invalid:
            ``threshold``, ``tau_eff`` (width of the sigmoid in logit units), ``recall`` (weight of
            the positives above the threshold, as a share) and ``recall_var`` (variance over the
            positives' contributions). 0 where invalid: ``false_alert_count`` (iid negatives above
            the threshold) and ``grad_pos_count`` (live positives). Always: ``ref_count``.
    """
    config = make_recall_config(options)
    return take_step(
        "recall",
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


def _score(rows: Rows, config: RecallAtQuantileConfig) -> Scored:
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
    false_alerts = pool.negatives() & pool.iid & (scores > threshold.unsqueeze(-1))
    return {
        "threshold": threshold,
        "tau_eff": band.tau,
        "recall": class_mean(above, positives, scores.shape[0]),
        "false_alert_count": false_alerts.sum(dim=-1),
    }


class RecallAtQuantileLoss(QueuedLoss):
    """One minus the soft recall above a quantile of all scores, with a memory of past rows.

    A thin holder of the queue around :func:`pauc.recall_at_quantile_loss_fn`, where the arithmetic
    is described.

    Args:
        num_classes, multilabel, queue_size, update_queue_in_eval, gather_distributed,
            process_group, validate_args: as for :class:`pauc.PAUCAtBudgetLoss`.
        **options: fields of :class:`pauc.RecallAtQuantileConfig`.

    Attributes:
        config: the :class:`pauc.RecallAtQuantileConfig`.

    Calls, return forms, errors, warnings and training on many ranks are those of
    :class:`pauc.PAUCAtBudgetLoss`; ``stats`` are those of :func:`pauc.recall_at_quantile_terms`.
    """

    config: RecallAtQuantileConfig

    def __init__(
        self,
        num_classes: int,
        *,
        multilabel: bool = False,
        queue_size: int = 1024,
        update_queue_in_eval: bool = False,
        gather_distributed: bool | None = None,
        process_group: ProcessGroup | None = None,
        validate_args: bool = True,
        **options: Unpack[RecallAtQuantileOptions],
    ) -> None:
        super().__init__(
            make_recall_config(options),
            num_classes,
            multilabel=multilabel,
            queue_size=queue_size,
            update_queue_in_eval=update_queue_in_eval,
            gather_distributed=gather_distributed,
            process_group=process_group,
            validate_args=validate_args,
        )

    def _budget(self) -> tuple[float, str]:
        return self.config.quantile, f"the top {self.config.quantile}"

    def _terms(self, logits: Tensor, targets: Tensor, diagnostics: bool, **side: Any) -> PAUCTerms:
        return recall_at_quantile_terms(
            logits,
            targets,
            self.queue,
            diagnostics=diagnostics,
            **side,
            **options_of(self._step_config()),
        )
